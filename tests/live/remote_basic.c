/* SPDX-License-Identifier: MIT */
/*
 * Views of other processes: every byte right on every backing, SIGBUS at the very byte of a page that cannot be read,
 * healing from outside, consumers that are killed, and the rules of fork.
 */
#include "bed.h"
#include "engine/pool.h"
#include "machine.h"
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUGE  ((size_t)2 << 20)
#define PEERS 3

struct world {
    struct bed_source source;
    struct bed bed;
    struct peer peers[PEERS];
    size_t page;
    uint64_t length;
};

static void open_world(struct world *world, enum mnw_backing backing, uint64_t budget) {
    bool huge = backing == MNW_BACKING_HUGETLB_2M;
    memset(world, 0, sizeof(*world));
    bed_hurry(60);
    if (huge && !machine_free_hugepages(HUGE, 6)) {
        print_message("cannot free 6 huge pages\n");
        skip();
    }
    if (backing == MNW_BACKING_GRADED && !machine_set(SHMEM_ENABLED, "advise")) {
        print_message("cannot set shmem_enabled\n");
        skip();
    }
    for (unsigned i = 0; i < PEERS; i++)
        peer_start(&world->peers[i]);
    world->length = huge ? 5 * HUGE : 6 * BED_MIB;
    world->page = huge ? HUGE : BED_PAGE;
    bed_source_open(&world->source, world->length);
    world->source.page_bytes = world->page;
    struct mnw_pool_options options = {.backing = backing, .budget_bytes = budget};
    struct mnw_cache_options cache_options = {.size = sizeof(cache_options), .read_retries = UINT32_MAX};
    bed_open(&world->bed, world->source.store, options, &cache_options);
}

static void close_world(struct world *world) {
    for (unsigned i = 0; i < PEERS; i++)
        if (world->peers[i].pid)
            peer_stop(&world->peers[i]);
    bed_close(&world->bed);
    bed_source_close(&world->source);
}

/* ---- every byte ---- */

/* Three processes and ourselves, twice over, with less memory than the store has. */
static void read_everything(enum mnw_backing backing, uint64_t budget) {
    struct world world;
    struct mnw_view *views[PEERS];
    open_world(&world, backing, budget);
    for (unsigned i = 0; i < PEERS; i++)
        views[i] = peer_attach(&world.peers[i], world.bed.cache,
                               &(struct peer_mapping){.align = HUGE, .length = world.length});
    for (unsigned round = 0; round < 2; round++) {
        struct peer_read all = {0, 0, world.length, 1};
        for (unsigned i = 0; i < PEERS; i++)
            peer_ask(&world.peers[i], peer_compare, &all, sizeof(all));
        assert_int_equal(bed_compare(world.bed.data, 0, world.length, 1, NULL), BED_RIGHT);
        for (unsigned i = 0; i < PEERS; i++)
            assert_int_equal(peer_answer(&world.peers[i]), BED_RIGHT);
    }
    assert_true(bed_stats(world.bed.pool).resident_bytes_max <= budget);
    for (unsigned i = 0; i < PEERS; i++) {
        assert_null(mnw_view_data(views[i]));
        assert_int_equal(mnw_view_length(views[i]), world.length);
        assert_int_equal(mnw_view_close(views[i]), 0);
    }
    close_world(&world);
}

static void test_bytes_shmem(void **state) {
    (void)state;
    read_everything(MNW_BACKING_SHMEM, 2 * BED_MIB);
}
static void test_bytes_graded(void **state) {
    (void)state;
    read_everything(MNW_BACKING_GRADED, 4 * BED_MIB);
}
static void test_bytes_hugetlb(void **state) {
    (void)state;
    read_everything(MNW_BACKING_HUGETLB_2M, 3 * HUGE);
}

/* A part of the store, at an offset, in a process that has another part too. */
static void test_parts(void **state) {
    (void)state;
    struct world world;
    open_world(&world, MNW_BACKING_SHMEM, 2 * BED_MIB);
    struct peer_mapping low = {.slot = 0, .offset = 3 * BED_PAGE, .length = 100 * BED_PAGE};
    struct peer_mapping high = {.slot = 1, .offset = 4 * BED_MIB, .length = 2 * BED_MIB};
    struct mnw_view *a = peer_attach(&world.peers[0], world.bed.cache, &low);
    struct mnw_view *b = peer_attach(&world.peers[0], world.bed.cache, &high);
    peer_assert_right(&world.peers[0], 1, 0, high.length, 1);
    peer_assert_right(&world.peers[0], 0, 0, low.length, 1);
    struct mnw_view_range range;
    assert_int_equal(mnw_view_ranges(a, &range, 1), 1);
    assert_int_equal(range.offset_bytes, low.offset);
    assert_int_equal(range.length_bytes, low.length);
    assert_int_equal(mnw_view_close(a), 0);
    assert_int_equal(mnw_view_close(b), 0);
    close_world(&world);
}

/* ---- writes ---- */

static int64_t write_and_check(struct peer_side *side, const void *argument) {
    uint64_t salt = *(const uint64_t *)argument;
    struct peer_map *map = &side->maps[0];
    for (uint64_t at = 0; at < map->length; at += 3 * BED_PAGE)
        memset(map->data + at, (int)salt, 100);
    for (uint64_t at = 0; at < map->length; at += 3 * BED_PAGE) {
        for (unsigned i = 0; i < 100; i++)
            if (map->data[at + i] != (char)salt)
                return 1;
        if (bed_compare(map->data + at + 100, at + 100, BED_PAGE - 100, 1, NULL))
            return 2;
    }
    return 0;
}

/* Clones write, and neither each other nor the cache see it. */
static void test_clones(void **state) {
    (void)state;
    struct world world;
    struct mnw_view *views[PEERS];
    open_world(&world, MNW_BACKING_SHMEM, 2 * BED_MIB);
    for (unsigned i = 0; i < PEERS; i++)
        views[i] = peer_attach(&world.peers[i], world.bed.cache,
                               &(struct peer_mapping){.length = world.length, .flags = MNW_VIEW_WRITE});
    for (unsigned i = 0; i < PEERS; i++)
        peer_ask(&world.peers[i], write_and_check, &(uint64_t){'a' + i}, sizeof(uint64_t));
    assert_int_equal(bed_compare(world.bed.data, 0, world.length, 1, NULL), BED_RIGHT);
    for (unsigned i = 0; i < PEERS; i++)
        assert_int_equal(peer_answer(&world.peers[i]), 0);
    assert_int_equal(bed_compare(world.bed.data, 0, world.length, 1, NULL), BED_RIGHT);
    for (unsigned i = 0; i < PEERS; i++)
        assert_int_equal(mnw_view_close(views[i]), 0);
    close_world(&world);
}

/* ---- failures ---- */

static int64_t fail_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? -EIO : (int64_t)read->length;
}

/* SIGBUS at the byte, in every consumer that touches it; and the page itself after it was invalidated. */
static void fail_and_heal(enum mnw_backing backing, uint64_t budget) {
    peer_need_poison();
    struct world world;
    struct mnw_view *views[PEERS];
    open_world(&world, backing, budget);
    const uint64_t bad = 2, at = bad * world.page;
    world.source.answer = fail_bad_page;
    atomic_store(&world.source.bad_page, bad);
    for (unsigned i = 0; i < PEERS; i++)
        views[i] = peer_attach(&world.peers[i], world.bed.cache, &(struct peer_mapping){.length = world.length});
    /* The last one never touches it. */
    for (unsigned i = 0; i + 1 < PEERS; i++)
        peer_assert_bus(&world.peers[i], 0, at + world.page / 2 + 5);
    bed_assert_bus(world.bed.view, bad);
    peer_assert_right(&world.peers[0], 0, 0, at, 1);
    peer_assert_right(&world.peers[1], 0, at + world.page, world.page, 1);

    /* Still bad: what was SIGBUS stays so. */
    assert_int_equal(mnw_invalidate(world.bed.cache, at, world.page), -EIO);
    peer_assert_bus(&world.peers[0], 0, at);
    peer_assert_bus(&world.peers[1], 0, at + world.page - 1);

    atomic_store(&world.source.bad_page, UINT64_MAX);
    assert_int_equal(mnw_invalidate(world.bed.cache, at, world.page), 0);
    for (unsigned i = 0; i < PEERS; i++)
        peer_assert_right(&world.peers[i], 0, 0, world.length, 1);
    assert_int_equal(bed_compare(world.bed.data, 0, world.length, 1, NULL), BED_RIGHT);

    /* And newer bytes are seen by all after the next. */
    atomic_store(&world.source.salt, 2);
    assert_int_equal(mnw_invalidate(world.bed.cache, 0, world.length), 0);
    for (unsigned i = 0; i < PEERS; i++)
        peer_assert_right(&world.peers[i], 0, 0, world.length, 2);
    for (unsigned i = 0; i < PEERS; i++)
        assert_int_equal(mnw_view_close(views[i]), 0);
    close_world(&world);
}

static void test_failure_shmem(void **state) {
    (void)state;
    fail_and_heal(MNW_BACKING_SHMEM, 2 * BED_MIB);
}
static void test_failure_graded(void **state) {
    (void)state;
    fail_and_heal(MNW_BACKING_GRADED, 4 * BED_MIB);
}
static void test_failure_hugetlb(void **state) {
    (void)state;
    fail_and_heal(MNW_BACKING_HUGETLB_2M, 4 * HUGE);
}

/* ---- death ---- */

static int64_t hold_one(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? BED_HOLD : (int64_t)read->length;
}

static int64_t touch_nothing(struct peer_side *side, const void *argument) {
    (void)side;
    (void)argument;
    return *(volatile char *)mmap(NULL, BED_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* Of these tests themselves: whoever waits for a peer that has died learns of it, at once. */
static void test_a_fault_ends_a_peer(void **state) {
    (void)state;
    struct peer peer;
    int status = 0;
    bed_hurry(60);
    peer_start(&peer);
    peer_ask(&peer, touch_nothing, NULL, 0);
    assert_int_equal(waitpid(peer.pid, &status, 0), peer.pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    close(peer.socket);
}

/* Killed while it waits; another waits for the same page, and is served as if nothing had been. */
static void test_killed_while_waiting(void **state) {
    (void)state;
    struct world world;
    struct mnw_view *views[2];
    open_world(&world, MNW_BACKING_SHMEM, 2 * BED_MIB);
    world.source.answer = hold_one;
    atomic_store(&world.source.bad_page, 40);
    struct peer_read read = {0, 40 * BED_PAGE, BED_PAGE, 1};
    for (unsigned i = 0; i < 2; i++) {
        views[i] = peer_attach(&world.peers[i], world.bed.cache, &(struct peer_mapping){.length = world.length});
        peer_ask(&world.peers[i], peer_compare, &read, sizeof(read));
        assert_true(bed_eventually(bed_is_held, &world.source));
    }
    peer_kill(&world.peers[0]);
    atomic_store(&world.source.bad_page, UINT64_MAX);
    bed_release(&world.source);
    assert_int_equal(peer_answer(&world.peers[1]), BED_RIGHT);
    peer_assert_right(&world.peers[1], 0, 0, world.length, 1);

    struct mnw_event event;
    assert_true(bed_event(world.bed.pool, &event, 5000));
    assert_int_equal(event.kind, MNW_EVENT_VIEW_CHANGED);
    assert_ptr_equal(event.view, views[0]);
    assert_ptr_equal(event.cache, world.bed.cache);
    assert_int_equal(event.changes, MNW_VIEW_CHANGED_DEAD);
    assert_int_equal(mnw_pool_next_event(world.bed.pool, &event), 0);
    assert_int_equal(mnw_view_close(views[0]), 0);
    assert_int_equal(mnw_view_close(views[1]), 0);
    close_world(&world);
}

/* Closed while a thread of the consumer waits: it goes on waiting, and the next to attach serves it. */
static void test_closed_while_waiting(void **state) {
    (void)state;
    struct world world;
    struct mnw_view *view;
    open_world(&world, MNW_BACKING_SHMEM, 2 * BED_MIB);
    struct mnw_attach_options options = {.size = sizeof(options), .pid = world.peers[0].pid};
    options.uffd = peer_map(&world.peers[0], world.bed.cache, &(struct peer_mapping){.slot = 0}, &options.address);
    assert_int_equal(mnw_view_attach(&view, world.bed.cache, &options), 0);
    world.source.answer = hold_one;
    atomic_store(&world.source.bad_page, 7);
    struct peer_read read = {0, 0, world.length, 1};
    peer_ask(&world.peers[0], peer_compare, &read, sizeof(read));
    assert_true(bed_eventually(bed_is_held, &world.source));
    assert_int_equal(mnw_view_close(view), 0);
    atomic_store(&world.source.bad_page, UINT64_MAX);
    bed_release(&world.source);
    assert_false(peer_has_answered(&world.peers[0], 100));
    assert_int_equal(mnw_view_attach(&view, world.bed.cache, &options), 0);
    assert_int_equal(peer_answer(&world.peers[0]), BED_RIGHT);
    assert_int_equal(mnw_view_close(view), 0);
    close(options.uffd);
    close_world(&world);
}

/* ---- the descriptor, and fork ---- */

/* What a consumer is given cannot be written, punched or resized; not even by opening it anew, as another user. */
static bool may_lack_seals(enum mnw_backing backing) {
    char setting[128] = "";
    FILE *file = fopen(SHMEM_ENABLED, "r");
    bool never = file && fgets(setting, sizeof(setting), file) && strstr(setting, "[never]");
    if (file)
        fclose(file);
    return backing == MNW_BACKING_GRADED && never; /* then it lies on a tmpfs, which knows none */
}

static int misuse_fd(void *argument) {
    int fd = *(const int *)argument;
    char path[64];
    bed_check(fcntl(fd, F_GETFD) >= 0);
    bed_become_nobody();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    bed_check(open(path, O_RDWR | O_CLOEXEC) < 0);
    bed_check(write(fd, "x", 1) < 0);
    bed_check(ftruncate(fd, 0) < 0);
    bed_check(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BED_PAGE) < 0);
    bed_check(fchmod(fd, 0666) < 0);
    bed_check(mmap(NULL, BED_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    void *shared = mmap(NULL, BED_PAGE, PROT_READ, MAP_SHARED, fd, 0);
    bed_check(shared != MAP_FAILED && mprotect(shared, BED_PAGE, PROT_READ | PROT_WRITE) < 0);
    return 0;
}

static void check_descriptor(enum mnw_backing backing, uint64_t length) {
    const int size_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    struct world world;
    open_world(&world, backing, length);
    int fd = mnw_cache_fd(world.bed.cache);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    assert_int_equal(status.st_mode & 0177, 0);
    if (!may_lack_seals(backing)) {
        int seals = fcntl(fd, F_GET_SEALS);
        assert_true(seals >= 0);
        assert_int_equal(seals & size_seals, size_seals);
    }
    assert_int_equal(bed_child(misuse_fd, &fd), 0);
    bed_refused(mnw_cache_fd(NULL), -EINVAL, "cache", "NULL");
    close_world(&world);
}

static void test_descriptor(void **state) {
    (void)state;
    check_descriptor(MNW_BACKING_SHMEM, 2 * BED_MIB);
    check_descriptor(MNW_BACKING_GRADED, 4 * BED_MIB);
}
static void test_descriptor_hugetlb(void **state) {
    (void)state;
    check_descriptor(MNW_BACKING_HUGETLB_2M, 3 * HUGE);
}

struct attached {
    struct world *world;
    struct mnw_view *view;
    struct mnw_attach_options options;
};

static int use_in_child(void *argument) {
    struct attached *attached = argument;
    struct mnw_view *view = NULL;
    struct mnw_view_range range;
    bed_check(mnw_cache_fd(attached->world->bed.cache) == -EOWNERDEAD);
    bed_check(mnw_view_attach(&view, attached->world->bed.cache, &attached->options) == -EOWNERDEAD && !view);
    bed_check(mnw_view_ranges(attached->view, &range, 1) == -EOWNERDEAD);
    bed_check(mnw_view_close(attached->view) == -EOWNERDEAD);
    return 0;
}

/* A child of the manager may not use its handles, and disturbs nobody. */
static void test_fork_of_the_manager(void **state) {
    (void)state;
    struct world world;
    open_world(&world, MNW_BACKING_SHMEM, 2 * BED_MIB);
    struct attached attached = {.world = &world, .options = {.size = sizeof(attached.options)}};
    attached.options.uffd =
        peer_map(&world.peers[0], world.bed.cache, &(struct peer_mapping){.slot = 0}, &attached.options.address);
    assert_int_equal(mnw_view_attach(&attached.view, world.bed.cache, &attached.options), 0);
    peer_assert_right(&world.peers[0], 0, 0, world.length / 2, 1);
    assert_int_equal(bed_child(use_in_child, &attached), 0);
    peer_assert_right(&world.peers[0], 0, 0, world.length, 1);
    assert_int_equal(mnw_view_close(attached.view), 0);
    close(attached.options.uffd);
    close_world(&world);
}

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_shmem),
        cmocka_unit_test(test_bytes_graded),
        cmocka_unit_test(test_bytes_hugetlb),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_clones),
        cmocka_unit_test(test_failure_shmem),
        cmocka_unit_test(test_failure_graded),
        cmocka_unit_test(test_failure_hugetlb),
        cmocka_unit_test(test_a_fault_ends_a_peer),
        cmocka_unit_test(test_killed_while_waiting),
        cmocka_unit_test(test_closed_while_waiting),
        cmocka_unit_test(test_descriptor),
        cmocka_unit_test(test_descriptor_hugetlb),
        cmocka_unit_test(test_fork_of_the_manager),
    };
    return cmocka_run_group_tests_name("remote_basic", tests, NULL, NULL);
}
