/* SPDX-License-Identifier: MIT */
/*
 * Memory follows those who use it to their NUMA node, and nodes come and go: a working set that was filled on one node
 * is used from another, every byte of it looked at all the while, and the kernel is asked where its pages lie.
 */
#include "machine.h"
#include "placement_bed.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <numa.h>
#include <numaif.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* How long it may take to notice that a working set has moved, where its budgeted time is short. */
#define NOTICE_NS 3000000000ull
#define USERS     2

static const struct working_set {
    enum mnw_backing kind;
    const char *name;
    uint64_t pages; /* of the working set */
    uint64_t rate;  /* bytes per second */
} sets[] = {
    {MNW_BACKING_SHMEM, "shmem", 1024, 4 * BED_MIB},
    {MNW_BACKING_GRADED, "graded", 2048, 8 * BED_MIB},
    {MNW_BACKING_HUGETLB_2M, "hugetlb-2M", 2048, 8 * BED_MIB},
};
#define EACH_SET(set)                                                                                                  \
    for (const struct working_set *set = sets; set < sets + 3; set++)                                                  \
        if (set->kind != MNW_BACKING_HUGETLB_2M || has_huge)

static void pause_ms(unsigned ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* ---- users: threads on a node that read some of every page, and look at it ---- */

struct user {
    pthread_t thread;
    const char *data;
    uint64_t pages;
    unsigned node, step; /* coprime to the pages */
    _Atomic bool stop;
    _Atomic uint64_t reads;
    uint64_t wrong_at;
    int result;
};

static void *use(void *argument) {
    struct user *user = argument;
    numa_run_on_node((int)user->node);
    for (uint64_t i = 0; !atomic_load(&user->stop); i++) {
        uint64_t offset = i * user->step % user->pages * BED_PAGE;
        user->result = bed_compare(user->data + offset, offset, 64, 1, NULL);
        if (user->result != BED_RIGHT) {
            user->wrong_at = offset;
            return NULL;
        }
        atomic_fetch_add(&user->reads, 1);
    }
    return NULL;
}

static void users_start(struct user users[USERS], const struct bed *bed, uint64_t pages, unsigned node) {
    static const unsigned steps[USERS] = {1, 613};
    for (unsigned i = 0; i < USERS; i++) {
        users[i] = (struct user){.data = bed->data, .pages = pages, .node = node, .step = steps[i]};
        assert_int_equal(pthread_create(&users[i].thread, NULL, use, &users[i]), 0);
    }
}

static void users_stop(struct user users[USERS]) {
    for (unsigned i = 0; i < USERS; i++) {
        atomic_store(&users[i].stop, true);
        assert_int_equal(pthread_join(users[i].thread, NULL), 0);
        if (users[i].result != BED_RIGHT)
            fail_msg("a user of node %u ended with %d at %llu", users[i].node, users[i].result,
                     (unsigned long long)users[i].wrong_at);
        assert_true(atomic_load(&users[i].reads) > 0);
    }
}

/* ---- where it lies ---- */

/* How many of these pages of the view, of those that are mapped just now, lie there; and how many are mapped. */
static uint64_t count_on(const struct bed *bed, unsigned node, uint64_t first, uint64_t pages, uint64_t *mapped) {
    uint64_t count = 0;
    *mapped = 0;
    for (uint64_t done = 0; done < pages; done += 64) {
        void *at[64];
        int found[64];
        for (uint64_t i = 0; i < 64; i++)
            at[i] = (void *)(uintptr_t)(bed->data + (first + done + i) * BED_PAGE);
        assert_int_equal(move_pages(0, 64, at, NULL, found, 0), 0);
        for (uint64_t i = 0; i < 64; i++) {
            count += found[i] == (int)node;
            *mapped += found[i] >= 0;
        }
    }
    return count;
}

/* Of the working set. */
static uint64_t percent_on(const struct bed *bed, const struct working_set *set, unsigned node) {
    uint64_t mapped, count = count_on(bed, node, 0, set->pages, &mapped);
    return mapped > set->pages / 8 ? count * 100 / mapped : 0;
}

/* Within the budgeted time and a little to notice; how long it took. */
static double wait_local(const struct bed *bed, const struct working_set *set, unsigned node, const char *what) {
    uint64_t begin = bed_now_ns(), budgeted = set->pages * BED_PAGE * 1000000000ull / set->rate;
    uint64_t most = budgeted + NOTICE_NS * (uint64_t)machine_slowness(), percent;
    while ((percent = percent_on(bed, set, node)) < 90 && bed_now_ns() - begin < most)
        pause_ms(20);
    double took = (double)(bed_now_ns() - begin) / 1e9;
    struct mnw_stats now = bed_stats(bed->pool);
    print_message(
        "%s, %s: %llu %% local after %.2f s, budgeted %.2f s; %llu extents sampled, %llu pages moved, %llu not "
        "(%llu scarce, %llu shared)\n",
        set->name, what, (unsigned long long)percent, took, (double)budgeted / 1e9,
        (unsigned long long)now.extents_sampled, (unsigned long long)now.pages_moved,
        (unsigned long long)now.pages_unmoved, (unsigned long long)now.unmoved_scarce,
        (unsigned long long)now.unmoved_shared);
    if (percent < 90)
        fail_msg("%s, %s: %llu %% of the working set are local after %.2f s", set->name, what,
                 (unsigned long long)percent, took);
    return took;
}

static void read_all(const struct bed *bed, uint64_t pages) {
    for (uint64_t at = 0; at < pages * BED_PAGE; at += BED_PAGE)
        assert_int_equal(bed_compare(bed->data + at, at, 64, 1, NULL), BED_RIGHT);
}

static void open_set(struct bed *bed, struct bed_source *source, const struct working_set *set, uint64_t store_pages,
                     enum mnw_numa numa, uint64_t rate) {
    struct mnw_cache_options cache = {.size = sizeof(cache), .readahead_bytes = UINT64_MAX};
    struct mnw_pool_options options = {.backing = set->kind, .numa = numa, .rebalance_bytes_per_second = rate};
    options.budget_bytes = set->pages * BED_PAGE + node_count * HUGE;
    bed_source_open(source, store_pages * BED_PAGE);
    bed_open(bed, source->store, options, &cache);
}

static void close_set(struct bed *bed, struct bed_source *source) {
    struct mnw_stats now = bed_stats(bed->pool);
    assert_int_equal(now.faults_failed, 0);
    assert_int_equal(now.pages_lost, 0);
    bed_close(bed);
    bed_source_close(source);
}

static void fill_on(unsigned node, const struct bed *bed, const struct working_set *set) {
    assert_int_equal(numa_run_on_node((int)node), 0);
    read_all(bed, set->pages);
    struct mnw_placement now;
    assert_int_equal(mnw_cache_placement(bed->cache, 0, &now, sizeof(now)), 0);
    assert_in_range(now.node_bytes[node] * 100, now.asked_bytes * 99, set->pages * BED_PAGE * 100);
}

/* ---- tests ---- */

static void begin_on_first(struct bed *bed, struct bed_source *source, const struct working_set *set) {
    bed_hurry(100);
    open_set(bed, source, set, set->pages, MNW_NUMA_LOCAL, set->rate);
    fill_on(0, bed, set);
}

static void test_follows_its_users(void **state) {
    (void)state;
    EACH_SET(set) {
        struct bed bed = {0};
        struct bed_source source;
        struct user users[USERS];
        begin_on_first(&bed, &source, set);
        users_start(users, &bed, set->pages, node_count - 1);
        wait_local(&bed, set, node_count - 1, "there");
        users_stop(users);
        uint64_t moved = bed_stats(bed.pool).pages_moved;
        assert_true(moved > 0);
        /* Most of it was moved, and not read again. */
        assert_int_equal(bed_stats(bed.pool).fill_bytes, set->pages * BED_PAGE);
        if (set == sets) {
            users_start(users, &bed, set->pages, 0);
            wait_local(&bed, set, 0, "and back");
            users_stop(users);
        }
        assert_int_equal(bed_stats(bed.pool).fill_bytes, set->pages * BED_PAGE);
        read_all(&bed, set->pages);
        close_set(&bed, &source);
    }
}

static uint64_t percent_of_all(const struct bed *bed, unsigned node) {
    struct mnw_placement now;
    assert_int_equal(mnw_cache_placement(bed->cache, 0, &now, sizeof(now)), 0);
    return now.node_bytes[node] * 100 / now.asked_bytes;
}

/*
 * Long enough that it is the budget which limits, and not the machine: to notice takes a second, which is what the last
 * tenth is for. Each has been left alone before, so that nothing is known of it.
 */
static void test_is_local_after_its_budgeted_time(void **state) {
    static const struct working_set long_sets[] = {{MNW_BACKING_SHMEM, "shmem", 2560, BED_MIB},
                                                   {MNW_BACKING_GRADED, "graded", 5120, 2 * BED_MIB},
                                                   {MNW_BACKING_HUGETLB_2M, "hugetlb-2M", 5120, 2 * BED_MIB}};
    (void)state;
    for (unsigned i = 0; i < (has_huge ? 3 : 2); i++) {
        const struct working_set *set = &long_sets[i];
        struct bed bed = {0};
        struct bed_source source;
        struct user users[USERS];
        begin_on_first(&bed, &source, set);
        pause_ms(2000);
        uint64_t begin_ns = bed_now_ns(), budgeted_ns = set->pages * BED_PAGE * 1000000000 / set->rate;
        users_start(users, &bed, set->pages, node_count - 1);
        uint64_t took_ns = 0, there;
        while ((there = percent_of_all(&bed, node_count - 1)) < 90 && took_ns < 3 * budgeted_ns) {
            pause_ms(100);
            took_ns = bed_now_ns() - begin_ns;
        }
        users_stop(users);
        print_message("%s: %llu %% local after %.2f s, budgeted %.2f s\n", set->name, (unsigned long long)there,
                      (double)took_ns / 1e9, (double)budgeted_ns / 1e9);
        if (took_ns > budgeted_ns)
            fail_msg("%s: nine tenths are local after %.2f s", set->name, (double)took_ns / 1e9);
        read_all(&bed, set->pages);
        close_set(&bed, &source);
    }
}

/* A writer's stamps are its own; they stay, whatever moves beneath. */
struct writer {
    pthread_t thread;
    struct mnw_view *view;
    uint64_t pages;
    _Atomic bool stop;
    uint64_t writes, wrong;
};

static void *write_stamps(void *argument) {
    struct writer *writer = argument;
    char *data = mnw_view_data(writer->view);
    numa_run_on_node((int)node_count - 1);
    while (!atomic_load(&writer->stop)) {
        uint64_t *stamp = (uint64_t *)(data + writer->writes * 7 % writer->pages * BED_PAGE + 1024);
        if (writer->writes >= writer->pages)
            writer->wrong += *stamp != writer->writes - writer->pages;
        *stamp = writer->writes++;
    }
    return NULL;
}

static void writer_start(struct writer *writer, struct bed *bed, const struct working_set *set) {
    struct mnw_view_options options = {.size = sizeof(options), .length_bytes = 61 * BED_PAGE, .flags = MNW_VIEW_WRITE};
    *writer = (struct writer){.pages = 61};
    if (set->kind == MNW_BACKING_HUGETLB_2M)
        return;
    assert_int_equal(mnw_view_open(&writer->view, bed->cache, &options), 0);
    assert_int_equal(pthread_create(&writer->thread, NULL, write_stamps, writer), 0);
}

static void writer_stop(struct writer *writer) {
    if (!writer->view)
        return;
    atomic_store(&writer->stop, true);
    assert_int_equal(pthread_join(writer->thread, NULL), 0);
    assert_true(writer->writes > writer->pages);
    assert_int_equal(writer->wrong, 0);
    assert_int_equal(mnw_view_close(writer->view), 0);
}

/* Until it is local, what does not fit is read, so that extents are evicted, and some are forgotten and pinned. */
static void disturb(struct bed *bed, const struct working_set *set, unsigned node) {
    uint64_t end_ns = bed_now_ns() + 2 * NOTICE_NS * (uint64_t)machine_slowness(),
             extent = set->kind == MNW_BACKING_SHMEM ? 16 * BED_PAGE : HUGE;
    uint64_t extents = set->pages * BED_PAGE / extent, disturbed = extents / 8 + 1, round = 0;
    assert_int_equal(numa_run_on_node((int)node), 0); /* what is pinned is read for this node */
    for (; round < 20 || percent_on(bed, set, node) < 90; round++) {
        assert_true(bed_now_ns() < end_ns);
        uint64_t at = round % disturbed * extent;
        assert_int_equal(mnw_invalidate(bed->cache, at, extent), 0);
        if (!mnw_pin(bed->cache, at, extent))
            assert_int_equal(mnw_unpin(bed->cache, at, extent), 0);
        uint64_t cold = (set->pages + round * 31 % set->pages) * BED_PAGE;
        assert_int_equal(bed_compare(bed->data + cold, cold, 64, 1, NULL), BED_RIGHT);
        pause_ms(20);
    }
}

static void test_bytes_stay_right_among_changes(void **state) {
    (void)state;
    EACH_SET(set) {
        struct bed bed = {0};
        struct bed_source source;
        struct user users[USERS];
        struct writer writer;
        bed_hurry(100);
        open_set(&bed, &source, set, 2 * set->pages, MNW_NUMA_LOCAL, 16 * set->rate);
        fill_on(0, &bed, set);
        writer_start(&writer, &bed, set);
        users_start(users, &bed, set->pages, node_count - 1);
        disturb(&bed, set, node_count - 1);
        wait_local(&bed, set, node_count - 1, "among changes");
        users_stop(users);
        writer_stop(&writer);
        assert_true(bed_stats(bed.pool).pages_moved > 0);
        read_all(&bed, 2 * set->pages);
        close_set(&bed, &source);
    }
}

static void set_nice_right(bool on) {
    assert_int_equal(capng_get_caps_process(), 0);
    assert_int_equal(capng_update(on ? CAPNG_ADD : CAPNG_DROP, CAPNG_EFFECTIVE, CAP_SYS_NICE), 0);
    assert_int_equal(capng_apply(CAPNG_SELECT_CAPS), 0);
}

/*
 * Then only what is mapped once moves: views of this process are unmapped first, and who touches a page in between
 * wins. So it takes longer, and what did not move counts against the budget.
 */
static void test_without_the_right_to_move_all(void **state) {
    struct working_set set = sets[0];
    struct bed bed = {0};
    struct bed_source source;
    struct user users[USERS];
    (void)state;
    bed_hurry(100);
    set_nice_right(false);
    open_set(&bed, &source, &set, set.pages, MNW_NUMA_LOCAL, set.rate);
    set_nice_right(true);
    fill_on(0, &bed, &set);
    users_start(users, &bed, set.pages, node_count - 1);
    set.rate /= 4;
    wait_local(&bed, &set, node_count - 1, "without CAP_SYS_NICE");
    users_stop(users);
    close_set(&bed, &source);
}

/* ---- nodes that come and go ---- */

static char group[96]; /* this process's cgroup, or "" */

static bool put(const char *name, const char *text) {
    char path[160];
    snprintf(path, sizeof(path), "%s/%s", group, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return done;
}

/* In a mount namespace of our own: nobody else sees the mount. False: no cpusets here. */
static bool enter_group(void) {
    char base[] = "/tmp/minnow-cgroup-XXXXXX", all[32], process[16];
    if (!mkdtemp(base) || unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("cgroup2", base, "cgroup2", 0, NULL))
        return false;
    snprintf(group, sizeof(group), "%s", base);
    if (!put("cgroup.subtree_control", "+cpuset"))
        return false;
    snprintf(group, sizeof(group), "%s/minnow-test-%d", base, (int)getpid());
    snprintf(all, sizeof(all), "0-%u", node_count - 1);
    snprintf(process, sizeof(process), "%d", (int)getpid());
    return !mkdir(group, 0700) && put("cpuset.mems", all) && put("cgroup.procs", process);
}

static bool have_nodes_changed(void *argument) {
    const struct bed *bed = argument;
    static uint64_t seen;
    uint64_t now = bed_stats(bed->pool).nodes_changed;
    bool changed = now != seen;
    seen = now;
    return changed;
}

/* The pool is told by nobody: it looks, a second apart. */
static void allow_nodes(struct bed *bed, const char *nodes) {
    have_nodes_changed(bed);
    assert_true(put("cpuset.mems", nodes));
    uint64_t end_ns = bed_now_ns() + 15000000000ull;
    while (!have_nodes_changed(bed) && bed_now_ns() < end_ns)
        pause_ms(20);
    assert_true(bed_now_ns() < end_ns);
}

static void touch_on(unsigned node, const struct bed *bed, uint64_t first, uint64_t pages) {
    assert_int_equal(numa_run_on_node((int)node), 0);
    for (uint64_t at = first * BED_PAGE; at < (first + pages) * BED_PAGE; at += BED_PAGE)
        assert_int_equal(bed_compare(bed->data + at, at, 64, 1, NULL), BED_RIGHT);
}

static void come_and_go(enum mnw_numa numa) {
    const struct working_set *set = &sets[0];
    struct bed bed = {0};
    struct bed_source source;
    char all[32];
    unsigned last = node_count - 1;
    snprintf(all, sizeof(all), "0-%u", last);
    bed_hurry(100);
    open_set(&bed, &source, set, set->pages, numa, 0);
    touch_on(last, &bed, 0, 256);
    uint64_t expected = numa == MNW_NUMA_LOCAL ? 256 : 256 / node_count, mapped;
    assert_int_equal(count_on(&bed, last, 0, 256, &mapped), expected);

    allow_nodes(&bed, "0");
    uint64_t elsewhere = bed_stats(bed.pool).pages_elsewhere;
    touch_on(last, &bed, 256, 256);
    assert_int_equal(count_on(&bed, 0, 256, 256, &mapped), 256);
    assert_int_equal(bed_stats(bed.pool).pages_elsewhere, elsewhere); /* it is where it should be now */

    allow_nodes(&bed, all);
    touch_on(last, &bed, 512, 256);
    assert_int_equal(count_on(&bed, last, 512, 256, &mapped), expected);
    assert_int_equal(bed_stats(bed.pool).policies_foreign, 0);
    assert_true(bed_stats(bed.pool).nodes_changed >= 2);
    touch_on(0, &bed, 0, set->pages);
    close_set(&bed, &source);
}

static void test_follows_the_nodes_it_may_use(void **state) {
    (void)state;
    if (!*group && !enter_group()) {
        print_message("skipped in part: no cgroup with cpusets to be had here (%s)\n", strerror(errno));
        skip();
    }
    come_and_go(MNW_NUMA_LOCAL);
    come_and_go(MNW_NUMA_INTERLEAVE);
}

/* rebalance [TEST]: all, or those whose names match the pattern. */
int main(int count, char **arguments) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_follows_its_users),
        cmocka_unit_test(test_is_local_after_its_budgeted_time),
        cmocka_unit_test(test_bytes_stay_right_among_changes),
        cmocka_unit_test(test_without_the_right_to_move_all),
        cmocka_unit_test(test_follows_the_nodes_it_may_use),
    };
    return RUN_ON_NODES(tests, count, arguments);
}
