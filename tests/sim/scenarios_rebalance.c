/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on the public API: memory that follows those who use it to their NUMA node. Where there is but one node,
 * all nodes of the script are it, and nothing moves.
 */
#include "high.h"

#include <errno.h>

enum { EXTENTS = 4, EXTENTS_PER_SECOND = 16 };

static unsigned nodes; /* of the machine */

/* A thread that reads some of each page of the view, again and again, and looks at every byte. */
struct user {
    struct high *high;
    struct mnw__thread thread;
    uint64_t rest_ns; /* between two turns; 0: a millisecond */
    _Atomic bool stop;
    _Atomic unsigned turns, wrong;
};

static bool is_right(const struct high *high, size_t page) {
    unsigned char bytes[16];
    uintptr_t stopped;
    if (world_read(high_at(high->view, high, page), bytes, sizeof(bytes), &stopped) != WORLD_OK)
        return false;
    for (size_t i = 0; i < sizeof(bytes); i++)
        if (bytes[i] != high_byte(page, 0))
            return false;
    return true;
}

static void use(void *argument) {
    struct user *user = argument;
    while (!atomic_load(&user->stop)) {
        for (size_t page = 0; page < user->high->pages; page++)
            atomic_fetch_add(&user->wrong, !is_right(user->high, page));
        atomic_fetch_add(&user->turns, 1);
        mnw__sleep_ns(user->rest_ns ? user->rest_ns : 1000000);
    }
}

static void slow_user_start(struct user *user, struct high *high, unsigned node, uint64_t rest_ns) {
    *user = (struct user){.high = high, .rest_ns = rest_ns};
    expect_result("a user", mnw__thread_start(&user->thread, "user", (int)node, use, user), 0);
}

static void user_start(struct user *user, struct high *high, unsigned node) {
    slow_user_start(user, high, node, 0);
}

static void user_stop(struct user *user) {
    atomic_store(&user->stop, true);
    mnw__thread_join(&user->thread);
    expect(!atomic_load(&user->wrong), "every byte is right");
}

struct place {
    struct high *high;
    unsigned node;
};

static bool is_all_on(void *argument) {
    const struct place *place = argument;
    struct mnw_placement now;
    return !mnw_cache_placement(place->high->cache, 0, &now, sizeof(now)) &&
           now.asked_bytes == place->high->size_bytes && now.node_bytes[place->node] == now.asked_bytes;
}

static void wait_all_on(struct high *high, unsigned node, const char *what) {
    struct place place = {high, node};
    wait_until(is_all_on, &place, what);
    say("%s", what);
}

static bool has_turned(void *argument) {
    return atomic_load(&((struct user *)argument)->turns) >= 2;
}

/* Everything is read by a thread on this node alone, and lies there. */
static void settle_on(struct high *high, unsigned node) {
    struct user user;
    user_start(&user, high, node);
    wait_until(has_turned, &user, "all is read");
    wait_all_on(high, node, "all lies where it was first used");
    user_stop(&user);
}

static void open_high(struct high *high, enum mnw_backing kind, uint64_t extents_per_second, unsigned flags) {
    nodes = world_nodes(2);
    high_open(high, kind,
              &(struct high_options){
                  .extents = EXTENTS, .rebalance_extents = extents_per_second, .reads_now = flags & MNW_VIEW_INLINE});
    if (flags) {
        expect_result("closing a view", mnw_view_close(high->view), 0);
        high_open_view(high, &high->view, 0, high->pages, flags);
    }
}

static void expect_moved(struct high *high) {
    struct mnw_stats now = high_stats(high);
    expect(nodes == 1 ? !now.pages_moved : now.pages_moved >= high->pages, "all has moved, where it can");
}

static void follow(enum mnw_backing kind, unsigned flags) {
    struct high high;
    struct user user;
    open_high(&high, kind, 1000, flags);
    settle_on(&high, 0);
    user_start(&user, &high, nodes - 1);
    wait_all_on(&high, nodes - 1, "all has followed its user");
    user_stop(&user);
    expect_moved(&high);
    high_close(&high);
}

static void follows_its_users(enum mnw_backing kind) {
    follow(kind, 0);
}

static void follows_inline_users(enum mnw_backing kind) {
    follow(kind, MNW_VIEW_INLINE);
}

/* Who comes to each page but once in a second, or is not let run for as long, uses it all the same. */
static void follows_slow_users(enum mnw_backing kind) {
    struct high high;
    struct user user;
    open_high(&high, kind, 1000, 0);
    settle_on(&high, 0);
    uint64_t begin_ns = mnw__clock_ns();
    slow_user_start(&user, &high, nodes - 1, 1150000000);
    wait_all_on(&high, nodes - 1, "all has followed its user");
    expect(mnw__clock_ns() - begin_ns < 12000000000, "it has followed in some turns");
    user_stop(&user);
    high_close(&high);
}

/* Among everything else that may become of an extent meanwhile. */
static void follows_among_changes(enum mnw_backing kind) {
    struct high high;
    struct user users[2];
    open_high(&high, kind, 1000, 0);
    settle_on(&high, 0);
    user_start(&users[0], &high, nodes - 1);
    user_start(&users[1], &high, nodes - 1);
    for (unsigned round = 0; round < 60; round++) {
        size_t extent = round % 2; /* the others come to the node by moving alone */
        uint64_t at = extent * high.extent;
        if (round % 3 == 0)
            mnw_invalidate(high.cache, at, high.extent);
        if (round % 3 == 1 && !mnw_pin(high.cache, at, high.extent))
            mnw_unpin(high.cache, at, high.extent);
        if (round % 3 == 2)
            mnw_pool_set_budget(high.pool, (EXTENTS - round % 2) * (uint64_t)high.extent);
        mnw__sleep_ns(10000000);
    }
    expect_result("the budget", mnw_pool_set_budget(high.pool, (EXTENTS + 2) * (uint64_t)high.extent), 0);
    wait_all_on(&high, nodes - 1, "all has followed its users");
    user_stop(&users[0]);
    user_stop(&users[1]);
    high_close(&high);
}

static void stays_where_it_is_used(enum mnw_backing kind) {
    struct high high;
    struct user user;
    open_high(&high, kind, 1000, 0);
    settle_on(&high, 0);
    user_start(&user, &high, 0);
    mnw__sleep_ns(3000000000);
    expect(!high_stats(&high).pages_moved, "what is used where it lies stays");
    user_stop(&user);
    high_close(&high);
}

static void is_bounded(enum mnw_backing kind) {
    struct high high;
    struct user user;
    open_high(&high, kind, EXTENTS_PER_SECOND, 0);
    settle_on(&high, 0);
    uint64_t begin_ns = mnw__clock_ns(), rate = (uint64_t)EXTENTS_PER_SECOND * high.extent;
    bool within = true;
    for (unsigned turn = 0; turn < 8; turn++) {
        unsigned node = turn % 2 ? 0 : nodes - 1;
        user_start(&user, &high, node);
        wait_all_on(&high, node, "all has followed its user");
        user_stop(&user);
        uint64_t moved = high_stats(&high).pages_moved * high.page;
        double seconds = (double)(mnw__clock_ns() - begin_ns) / 1e9;
        within &= (double)moved <= (double)rate * (seconds + 1) + (double)high.extent;
    }
    expect(within, "never more is moved than the budget of the time, and of a second before");
    high_close(&high);
}

/* However long the kernel takes for a move, as much is moved as was budgeted for the time. */
static void keeps_its_rate(enum mnw_backing kind) {
    enum { SECONDS = 4, PER_SECOND = 32 };
    struct high high;
    struct user user;
    nodes = world_nodes(2);
    bool is_slow = world_move_slowly(300000000);
    high_open(&high, kind, &(struct high_options){.extents = SECONDS * PER_SECOND, .rebalance_extents = PER_SECOND});
    settle_on(&high, 0);
    uint64_t begin_ns = mnw__clock_ns();
    user_start(&user, &high, nodes - 1);
    wait_all_on(&high, nodes - 1, "all has followed its user");
    user_stop(&user);
    uint64_t took_ns = mnw__clock_ns() - begin_ns, notice_ns = 1500000000;
    expect(!is_slow || took_ns < SECONDS * 1000000000ull + notice_ns, "it is there in the budgeted time");
    expect(!is_slow || took_ns > (SECONDS - 1) * 900000000ull, "and no more than a second sooner");
    high_close(&high);
}

/* Who reads in order has most of it mapped before he comes, and it is used by him all the same. More than is sampled at
 * a time. */
static void follows_who_reads_in_order(enum mnw_backing kind) {
    struct high high;
    struct user user;
    nodes = world_nodes(2);
    high_open(&high, kind,
              &(struct high_options){.extents = 1024, .budget_extents = 1280, .rebalance_extents = 100000});
    settle_on(&high, 0);
    user_start(&user, &high, nodes - 1);
    mnw__sleep_ns(2000000000);
    user_stop(&user);
    expect_moved(&high);
    high_close(&high);
}

/* Beyond the budget the next that is to move is asked for in each round, and not all that wait behind it. */
static void waits_without_asking(enum mnw_backing kind) {
    struct high high;
    struct user user;
    nodes = world_nodes(2);
    high_open(&high, kind, &(struct high_options){.extents = 16, .rebalance_extents = 1});
    settle_on(&high, 0);
    user_start(&user, &high, nodes - 1);
    mnw__sleep_ns(500000000);
    uint64_t before = world_asked_where();
    mnw__sleep_ns(1000000000);
    expect(world_asked_where() - before < 100 * high.extent_pages, "an extent is asked for in a round");
    user_stop(&user);
    high_close(&high);
}

/* Whoever populates a pinned range counts on its being mapped. */
static void leaves_pins_alone(enum mnw_backing kind) {
    struct high high;
    struct user user;
    open_high(&high, kind, 1000, MNW_VIEW_INLINE);
    settle_on(&high, 0);
    expect_result("a pin", mnw_pin(high.cache, 0, high.size_bytes), 0);
    expect_result("populating", mnw_view_populate(high.view, 0, high.size_bytes), 0);
    struct mnw_stats before = high_stats(&high);
    user_start(&user, &high, nodes - 1);
    mnw__sleep_ns(3000000000);
    user_stop(&user);
    struct mnw_stats after = high_stats(&high);
    expect(after.faults_minor == before.faults_minor && after.faults_missing == before.faults_missing,
           "nothing of what is pinned faults");
    expect_result("unpinning", mnw_unpin(high.cache, 0, high.size_bytes), 0);
    user_start(&user, &high, nodes - 1);
    wait_all_on(&high, nodes - 1, "unpinned it follows its user");
    user_stop(&user);
    high_close(&high);
}

static void is_refused_beside_other_policies(enum mnw_backing kind) {
    struct mnw_pool *pool;
    struct mnw_pool_options options = {
        .size = sizeof(options), .backing = kind, .budget_bytes = 64 << 20, .rebalance_bytes_per_second = 1};
    for (enum mnw_numa numa = MNW_NUMA_INTERLEAVE; numa <= MNW_NUMA_PREFERRED; numa++) {
        options.numa = numa;
        expect_result("a pool of another policy", mnw_pool_open(&pool, &options), -EINVAL);
    }
}

const struct scenario scenarios_rebalance[] = {
    {"rebalance-follows-its-users", ON_ALL, follows_its_users},
    {"rebalance-follows-inline-users", ON_ALL, follows_inline_users},
    {"rebalance-follows-slow-users", ON_SHMEM | NEEDS_SPEED, follows_slow_users},
    {"rebalance-among-changes", ON_ALL | NEEDS_SPEED, follows_among_changes},
    {"rebalance-stays-where-it-is-used", ON_ALL | NEEDS_SPEED, stays_where_it_is_used},
    {"rebalance-is-bounded", ON_ALL | NEEDS_SPEED, is_bounded},
    {"rebalance-keeps-its-rate", ON_SHMEM | NEEDS_SPEED, keeps_its_rate},
    {"rebalance-follows-who-reads-in-order", ON_SHMEM | NEEDS_SPEED, follows_who_reads_in_order},
    {"rebalance-waits-without-asking", ON_SHMEM | NEEDS_SPEED, waits_without_asking},
    {"rebalance-leaves-pins-alone", ON_ALL | NEEDS_SPEED, leaves_pins_alone},
    {"rebalance-of-local-only", ON_SHMEM, is_refused_beside_other_policies},
    {0},
};
