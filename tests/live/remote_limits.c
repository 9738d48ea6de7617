/* SPDX-License-Identifier: MIT */
/*
 * What keeps consumers apart: limits of faults, memory that writers may not lose, memory taken behind our back, and
 * kernels that cannot end a fault in SIGBUS.
 */
#include "engine/cache.h"
#include "machine.h"
#include "peer.h"
#include "sys/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HUGE ((size_t)2 << 20)
#define MIB  BED_MIB

static uint64_t cpu_ns(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
}

/* ---- limits ---- */

static int64_t touch_backwards(struct peer_side *side, const void *argument) {
    size_t pages = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    uint64_t began = bed_now_ns();
    for (size_t i = 0; i < pages; i++) { /* in no order that is read ahead, and each page its own fault */
        size_t page = i * 37 % pages;
        if (bed_compare(map->data + page * BED_PAGE, page * BED_PAGE, BED_PAGE, 1, NULL))
            return -1;
    }
    return (int64_t)(bed_now_ns() - began);
}

/* 100 faults at once, as saved up, and the other 500 at a thousand a second. */
static void assert_at_limit(int64_t ns) {
    if (ns < 450000000 || ns > 3000000000 * machine_slowness())
        fail_msg("600 faults at 1000 a second took %lld ms", (long long)ns / 1000000);
}

/* One view is held to its limit, the other is not; and nobody spins meanwhile. */
static void test_limit(void **state) {
    (void)state;
    struct pair world;
    struct mnw_view *views[2];
    pair_open(&world, MNW_BACKING_SHMEM, 8 * MIB, 16 * MIB);
    assert_int_equal(bed_compare(world.bed.data, 0, world.length, 1, NULL), BED_RIGHT);
    for (unsigned i = 0; i < 2; i++) {
        struct mnw_attach_options options = {
            .size = sizeof(options), .pid = world.peers[i].pid, .faults_per_second = i ? 0 : 1000};
        options.uffd = peer_map(&world.peers[i], world.bed.cache, &(struct peer_mapping){.slot = 0}, &options.address);
        assert_int_equal(mnw_view_attach(&views[i], world.bed.cache, &options), 0);
        close(options.uffd);
    }
    const size_t pages = 600;
    uint64_t cpu = cpu_ns();
    peer_ask(&world.peers[0], touch_backwards, &pages, sizeof(pages));
    int64_t free_ns = peer_do(&world.peers[1], touch_backwards, &pages, sizeof(pages));
    /* In a guest the faults alone may take longer than the limit. */
    assert_true(free_ns > 0 && (free_ns < 400000000 || machine_slowness() > 1));
    int64_t limited_ns = peer_answer(&world.peers[0]);
    cpu = cpu_ns() - cpu;
    assert_at_limit(limited_ns);
    if (cpu > (uint64_t)(limited_ns / 2 * machine_slowness()))
        fail_msg("%llu ms of CPU time", (unsigned long long)cpu / 1000000);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(mnw_view_close(views[i]), 0);
    pair_close(&world);
}

/* The child touches what its parent has not: half of the pages each. */
static int64_t touch_with_child(struct peer_side *side, const void *argument) {
    size_t pages = *(const size_t *)argument;
    uint64_t began = bed_now_ns();
    pid_t child = fork();
    size_t first = child ? 0 : pages / 2;
    for (size_t i = 0; i < pages / 2; i++) {
        size_t page = first + i * 37 % (pages / 2);
        if (bed_compare(side->maps[0].data + page * BED_PAGE, page * BED_PAGE, BED_PAGE, 1, NULL))
            return child ? -1 : (_exit(1), 0);
    }
    if (!child)
        _exit(0);
    int status;
    return waitpid(child, &status, 0) == child && !status ? (int64_t)(bed_now_ns() - began) : -2;
}

/* Two views of two processes have one limit together. */
static void test_shared_limit(void **state) {
    (void)state;
    struct pair world;
    struct mnw_view *views[2];
    struct mnw_limit *limit;
    pair_open(&world, MNW_BACKING_SHMEM, 8 * MIB, 16 * MIB);
    assert_int_equal(bed_compare(world.bed.data, 0, world.length, 1, NULL), BED_RIGHT);
    bed_refused(mnw_limit_open(&limit, 0), -EINVAL, "faults_per_second", "0");
    assert_int_equal(mnw_limit_open(&limit, 1000), 0);
    for (unsigned i = 0; i < 2; i++) {
        struct mnw_attach_options options = {
            .size = sizeof(options), .pid = world.peers[i].pid, .limit = limit, .faults_per_second = 1};
        options.uffd = peer_map(&world.peers[i], world.bed.cache, &(struct peer_mapping){.slot = 0}, &options.address);
        bed_refused(mnw_view_attach(&views[i], world.bed.cache, &options), -EINVAL, "faults_per_second", "limit");
        options.faults_per_second = 0;
        assert_int_equal(mnw_view_attach(&views[i], world.bed.cache, &options), 0);
        close(options.uffd);
    }
    assert_int_equal(mnw_limit_close(limit), 0); /* the views have it */
    const size_t pages = 300;
    int64_t longest = 0;
    for (unsigned i = 0; i < 2; i++)
        peer_ask(&world.peers[i], touch_backwards, &pages, sizeof(pages));
    for (unsigned i = 0; i < 2; i++) {
        int64_t ns = peer_answer(&world.peers[i]);
        assert_true(ns > 0);
        longest = ns > longest ? ns : longest;
    }
    assert_at_limit(longest);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(mnw_view_close(views[i]), 0);
    pair_close(&world);
}

/* Whoever forks has no more than before. */
static void test_limit_of_child(void **state) {
    (void)state;
    struct pair world;
    struct mnw_view *view;
    struct mnw_event event;
    peer_need_poison();
    pair_open(&world, MNW_BACKING_SHMEM, 8 * MIB, 16 * MIB);
    assert_int_equal(bed_compare(world.bed.data, 0, world.length, 1, NULL), BED_RIGHT);
    struct mnw_attach_options options = {.size = sizeof(options), .pid = world.peers[0].pid, .faults_per_second = 1000};
    options.uffd = peer_map(&world.peers[0], world.bed.cache, &(struct peer_mapping){.features = MNW__UFFD_EVENT_FORK},
                            &options.address);
    assert_int_equal(mnw_view_attach(&view, world.bed.cache, &options), 0);
    close(options.uffd);
    const size_t pages = 600;
    assert_at_limit(peer_do(&world.peers[0], touch_with_child, &pages, sizeof(pages)));
    while (mnw_pool_next_event(world.bed.pool, &event) > 0)
        if (event.kind == MNW_EVENT_VIEW_CHANGED && event.changes & MNW_VIEW_CHANGED_FORKED)
            assert_int_equal(mnw_view_close(event.view), 0);
    assert_int_equal(mnw_view_close(view), 0);
    pair_close(&world);
}

/* ---- writable, on hugetlb ---- */

static int64_t write_units(struct peer_side *side, const void *argument) {
    size_t units = *(const size_t *)argument;
    for (size_t i = 0; i < units; i++)
        memset(side->maps[0].data + i * HUGE, 'w', BED_PAGE);
    return 0;
}

static int64_t check_units(struct peer_side *side, const void *argument) {
    size_t units = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    for (size_t i = 0; i < units; i++) {
        for (size_t at = 0; at < BED_PAGE; at++)
            if (map->data[i * HUGE + at] != 'w')
                return 1;
        if (bed_compare(map->data + i * HUGE + BED_PAGE, i * HUGE + BED_PAGE, HUGE - BED_PAGE, 1, NULL))
            return 2;
    }
    return 0;
}

/* What was written stays, whatever other caches of the pool need; what cannot be kept is refused. */
static void test_hugetlb_copies(void **state) {
    (void)state;
    struct pair world;
    const size_t units = 3;
    struct bed_source other;
    struct mnw_cache *cache;
    struct mnw_view *view, *reader;
    /* Should others take the pages away, it fails by SIGBUS, after four deadlines: before bed_hurry() loses patience.
     */
    pair_open_with(&world, MNW_BACKING_HUGETLB_2M, units * HUGE, 8 * HUGE, 10000);
    if (!machine_free_hugepages(HUGE, 8 + 2 + units)) {
        pair_close(&world);
        skip();
    }
    bed_source_open(&other, 6 * HUGE);
    assert_int_equal(mnw_cache_open(&cache, world.bed.pool, other.store, NULL), 0);
    view = peer_attach(&world.peers[0], world.bed.cache,
                       &(struct peer_mapping){.length = units * HUGE, .flags = MNW_VIEW_WRITE});
    assert_int_equal(peer_do(&world.peers[0], write_units, &units, sizeof(units)), 0);
    reader = peer_attach(&world.peers[1], cache, &(struct peer_mapping){.length = 6 * HUGE});
    peer_assert_right(&world.peers[1], 0, 0, 6 * HUGE, 1);
    peer_assert_right(&world.peers[1], 0, 0, 6 * HUGE, 1);
    assert_int_equal(peer_do(&world.peers[0], check_units, &units, sizeof(units)), 0);
    bed_refused(mnw_invalidate(world.bed.cache, 0, HUGE), -EBUSY, "writable", "close");
    /* The other one, written too, would not fit. */
    struct mnw_attach_options options = {.size = sizeof(options), .pid = world.peers[0].pid, .flags = MNW_VIEW_WRITE};
    options.uffd =
        peer_map(&world.peers[0], cache, &(struct peer_mapping){.slot = 1, .length = 6 * HUGE, .flags = MNW_VIEW_WRITE},
                 &options.address);
    struct mnw_view *refused_view;
    assert_int_equal(mnw_view_attach(&refused_view, cache, &options), -ENOSPC);
    assert_non_null(strstr(mnw_error(), "budget"));
    /* A mapping that can be written and is said not to be. */
    options.flags = 0;
    assert_int_equal(mnw_view_attach(&refused_view, cache, &options), -EINVAL);
    close(options.uffd);
    assert_int_equal(mnw_view_close(view), 0);
    assert_int_equal(mnw_invalidate(world.bed.cache, 0, HUGE), 0);
    assert_int_equal(mnw_view_close(reader), 0);
    assert_int_equal(mnw_cache_close(cache), 0);
    bed_source_close(&other);
    pair_close(&world);
}

/* ---- no huge page left ---- */

/* Takes what is free, and counts it; others may give some back at any moment. */
static void take_free_pages(int fd, uint64_t *taken) {
    while (!fallocate(fd, 0, (off_t)(*taken * HUGE), HUGE))
        ++*taken;
}

/* Whoever waits for a huge page that does not come gets SIGBUS in the end; when there are some again, the page heals.
 */
static void test_no_hugepage_left(void **state) {
    (void)state;
    struct pair world;
    const uint32_t deadline_ms = 150;
    peer_need_poison();
    pair_open_with(&world, MNW_BACKING_HUGETLB_2M, 2 * HUGE, 4 * HUGE, deadline_ms);
    struct mnw_view *view = peer_attach(&world.peers[0], world.bed.cache, &(struct peer_mapping){.length = 2 * HUGE});
    int hoard = memfd_create("hoard", MFD_CLOEXEC | MFD_HUGETLB | 21 << MFD_HUGE_SHIFT);
    uint64_t taken = 0, began = bed_now_ns();
    struct peer_read read = {.offset = HUGE};
    take_free_pages(hoard, &taken);
    assert_true(taken > 0);
    peer_ask(&world.peers[0], peer_touch, &read, sizeof(read));
    while (!peer_has_answered(&world.peers[0], 1))
        take_free_pages(hoard, &taken);
    int64_t how = peer_answer(&world.peers[0]);
    assert_int_equal(how & 255, SIGBUS);
    assert_int_equal(how >> 8, HUGE);
    assert_true(bed_now_ns() - began >= 4 * deadline_ms * 1000000ull);
    close(hoard);
    assert_int_equal(mnw_invalidate(world.bed.cache, HUGE, HUGE), 0);
    peer_assert_right(&world.peers[0], 0, 0, 2 * HUGE, 1);
    assert_int_equal(mnw_view_close(view), 0);
    pair_close(&world);
}

/* ---- memory behind our back ---- */

static int64_t touch_unattached(struct peer_side *side, const void *argument) {
    const struct peer_map *map = &side->maps[0];
    (void)argument;
    close(map->uffd);
    for (size_t at = 0; at < map->length; at += BED_PAGE)
        if (bed_touch(map->data + at, NULL))
            return 1;
    return 0;
}

static uint64_t blocks_of(struct mnw_cache *cache) {
    struct stat status;
    assert_int_equal(fstat(mnw_cache_fd(cache), &status), 0);
    return (uint64_t)status.st_blocks * 512;
}

static bool is_swept(void *argument) {
    struct pair *world = argument;
    return blocks_of(world->bed.cache) <= atomic_load(&world->bed.cache->charged);
}

/* Zeros that a consumer put into the file are nobody's bytes, and do not stay. */
static void sweep(enum mnw_backing backing, uint64_t length, uint64_t budget) {
    struct pair world;
    pair_open(&world, backing, length, budget);
    /* Some of it is ours, and stays. */
    assert_int_equal(bed_compare(world.bed.data, 0, length / 4, 1, NULL), BED_RIGHT);
    uint64_t charged = atomic_load(&world.bed.cache->charged);
    uint64_t address;
    close(
        peer_map(&world.peers[0], world.bed.cache, &(struct peer_mapping){.length = length, .shared = true}, &address));
    assert_int_equal(peer_do(&world.peers[0], touch_unattached, "", 1), 0);
    assert_true(blocks_of(world.bed.cache) > charged);
    /* Read while it is swept. */
    struct mnw_view *view = peer_attach(&world.peers[1], world.bed.cache, &(struct peer_mapping){.length = length});
    peer_assert_right(&world.peers[1], 0, 0, length / 2, 1);
    if (!bed_eventually(is_swept, &world))
        fail_msg("%llu bytes in the file, %llu charged", (unsigned long long)blocks_of(world.bed.cache),
                 (unsigned long long)atomic_load(&world.bed.cache->charged));
    assert_true(bed_stats(world.bed.pool).pages_foreign > 0);
    assert_int_equal(bed_compare(world.bed.data, 0, length, 1, NULL), BED_RIGHT);
    peer_assert_right(&world.peers[1], 0, 0, length, 1);
    assert_true(bed_stats(world.bed.pool).resident_bytes_max <= budget);
    assert_int_equal(mnw_view_close(view), 0);
    pair_close(&world);
}

static void test_sweep_shmem(void **state) {
    (void)state;
    sweep(MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
}
static void test_sweep_hugetlb(void **state) {
    (void)state;
    sweep(MNW_BACKING_HUGETLB_2M, 4 * HUGE, 6 * HUGE);
}

/* ---- a kernel without poison ---- */

static int64_t fail_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? -EIO : (int64_t)read->length;
}

/* The fault waits, is not forgotten, and ends when the page can be read. */
static void test_no_poison(void **state) {
    (void)state;
    struct pair world;
    memset(&world, 0, sizeof(world));
    bed_hurry(60);
    for (unsigned i = 0; i < 2; i++)
        peer_start(&world.peers[i]);
    world.length = 4 * MIB;
    bed_source_open(&world.source, world.length);
    world.source.answer = fail_bad_page;
    atomic_store(&world.source.bad_page, 9);
    world.bed.no_poison = true;
    struct mnw_pool_options options = {.budget_bytes = 2 * MIB};
    struct mnw_cache_options cache_options = {.size = sizeof(cache_options), .read_retries = UINT32_MAX};
    bed_open(&world.bed, world.source.store, options, &cache_options);
    struct mnw_view *view = peer_attach(&world.peers[0], world.bed.cache, &(struct peer_mapping){.length = MIB});
    struct peer_read read = {0, 0, MIB, 1};
    peer_ask(&world.peers[0], peer_compare, &read, sizeof(read));
    assert_false(peer_has_answered(&world.peers[0], 1300));
    uint64_t reads = atomic_load(&world.source.reads);
    assert_true(reads < 300); /* once a second, and no oftener */
    atomic_store(&world.source.bad_page, UINT64_MAX);
    assert_true(peer_has_answered(&world.peers[0], 3000));
    assert_int_equal(peer_answer(&world.peers[0]), BED_RIGHT);
    assert_int_equal(mnw_view_close(view), 0);
    pair_close(&world);
}

/* Its children could not be kept from zeros, so it is not taken; without following forks it is. */
static void test_no_poison_no_children(void **state) {
    (void)state;
    struct pair world;
    memset(&world, 0, sizeof(world));
    bed_hurry(60);
    for (unsigned i = 0; i < 2; i++)
        peer_start(&world.peers[i]);
    bed_source_open(&world.source, 4 * MIB);
    world.bed.no_poison = true;
    bed_open(&world.bed, world.source.store, (struct mnw_pool_options){.budget_bytes = 2 * MIB}, NULL);
    struct peer_mapping mapping = {.length = MIB, .features = MNW__UFFD_EVENT_FORK};
    struct mnw_attach_options options = {.size = sizeof(options), .length_bytes = MIB, .pid = world.peers[0].pid};
    struct mnw_view *view = NULL;
    options.uffd = peer_map(&world.peers[0], world.bed.cache, &mapping, &options.address);
    bed_refused(mnw_view_attach(&view, world.bed.cache, &options), -EOPNOTSUPP, "EVENT_FORK", "MADV_DONTFORK");
    close(options.uffd);
    view = peer_attach(&world.peers[1], world.bed.cache, &(struct peer_mapping){.length = MIB});
    peer_assert_right(&world.peers[1], 0, 0, MIB, 1);
    assert_int_equal(mnw_view_close(view), 0);
    pair_close(&world);
}

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_shared_limit),
        cmocka_unit_test(test_limit_of_child),
        cmocka_unit_test(test_hugetlb_copies),
        cmocka_unit_test(test_no_hugepage_left),
        cmocka_unit_test(test_sweep_shmem),
        cmocka_unit_test(test_sweep_hugetlb),
        cmocka_unit_test(test_no_poison),
        cmocka_unit_test(test_no_poison_no_children),
    };
    return cmocka_run_group_tests_name("remote_limits", tests, NULL, NULL);
}
