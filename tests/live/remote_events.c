/* SPDX-License-Identifier: MIT */
/*
 * Consumers that tear, move, discard and overlay their mappings: what is left of them has the right bytes.
 */
#include "bed.h"
#include "engine/remote.h"
#include "machine.h"
#include "sys/uffd.h"
#include "torn.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* Where the view lies is what is said: pairs of (unit of the store, units), sorted; addresses relative to `base`. */
static void assert_ranges(struct torn *world, unsigned which, unsigned count, const unsigned (*wanted)[2]) {
    struct mnw_view_range ranges[MNW__PIECES_MAX];
    int all = mnw_view_ranges(world->views[which], ranges, MNW__PIECES_MAX);
    assert_int_equal(all, count);
    for (unsigned i = 0; i < count; i++) {
        bool found = false;
        for (unsigned j = 0; j < count; j++)
            found |= ranges[j].offset_bytes == wanted[i][0] * world->unit &&
                     ranges[j].length_bytes == wanted[i][1] * world->unit;
        if (!found)
            fail_msg("no range of units [%u, +%u)", wanted[i][0], wanted[i][1]);
    }
}

static void assert_changed(struct torn *world, unsigned which, unsigned changes) {
    struct mnw_event event;
    assert_true(bed_event(world->bed.pool, &event, 5000));
    assert_int_equal(event.kind, MNW_EVENT_VIEW_CHANGED);
    assert_ptr_equal(event.view, world->views[which]);
    assert_int_equal(event.changes, changes);
}

/* ---- what peers do; all take a size_t: the unit ---- */

/* Other memory in the middle; it must never be ours. */
static int64_t overlay(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    char *middle =
        mmap(map->data + 3 * unit, 2 * unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(middle == map->data + 3 * unit);
    CHECK(bed_zeros(middle, 2 * unit) == BED_RIGHT);
    memset(middle, 'm', 2 * unit);
    CHECK(!torn_right(map->data, unit, 0, 3));
    CHECK(!torn_right(map->data + 5 * unit, unit, 5, TORN_UNITS - 5));
    for (size_t i = 0; i < 2 * unit; i++)
        CHECK(middle[i] == 'm');
    return 0;
}

static int64_t move_parts(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    struct peer_map *map = &side->maps[0];
    char *room = torn_room(map->data, unit, 2 * TORN_UNITS);
    CHECK(room);
    /* Three units out of the middle, one of them touched. */
    CHECK(!torn_right(map->data + 5 * unit, unit, 5, 1));
    CHECK(mremap(map->data + 4 * unit, 3 * unit, 3 * unit, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
    CHECK(torn_is_gone(map->data + 5 * unit));
    CHECK(!torn_right(room, unit, 4, 3));
    CHECK(!torn_right(map->data, unit, 0, 4));
    CHECK(!torn_right(map->data + 7 * unit, unit, 7, TORN_UNITS - 7));
    /* And back: one piece again. */
    CHECK(mremap(room, 3 * unit, 3 * unit, MREMAP_MAYMOVE | MREMAP_FIXED, map->data + 4 * unit) ==
          map->data + 4 * unit);
    CHECK(!torn_right(map->data, unit, 0, TORN_UNITS));
    /* All of it. */
    CHECK(torn_move_units(map->data, room, unit, TORN_UNITS));
    CHECK(!torn_right(room, unit, 0, TORN_UNITS));
    map->data = room;
    return 0;
}

static int64_t shrink_and_grow(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    struct peer_map *map = &side->maps[0];
    CHECK(mremap(map->data, TORN_UNITS * unit, 4 * unit, 0) == map->data);
    CHECK(torn_is_gone(map->data + 4 * unit));
    CHECK(!torn_right(map->data, unit, 0, 4));
    /* In place: no event tells. Past what was ever attached, to the end of the store. */
    char *grown = mremap(map->data, 4 * unit, (TORN_UNITS + 2) * unit, 0);
    if (grown == MAP_FAILED) { /* something lies behind: make room elsewhere first */
        char *room = torn_room(map->data, unit, TORN_UNITS + 3);
        CHECK(room && mremap(map->data, 4 * unit, 4 * unit, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
        munmap(room + 4 * unit, (TORN_UNITS - 1) * unit);
        map->data = room;
        grown = mremap(map->data, 4 * unit, (TORN_UNITS + 2) * unit, 0);
    }
    CHECK(grown == map->data);
    CHECK(!torn_right(map->data + (TORN_UNITS + 1) * unit, unit, TORN_UNITS + 1, 1));
    CHECK(!torn_right(map->data, unit, 0, TORN_UNITS + 2));
    /* And as it moves. */
    CHECK(mremap(map->data, (TORN_UNITS + 2) * unit, 2 * unit, 0) == map->data);
    char *room = torn_room(map->data, unit, TORN_UNITS + 3);
    CHECK(room && mremap(map->data, 2 * unit, TORN_UNITS * unit, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
    CHECK(!torn_right(room, unit, 0, TORN_UNITS));
    map->data = room;
    return 0;
}

/* The old place stays mapped, empty, and watched. */
static int64_t move_and_stay(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    struct peer_map *map = &side->maps[0];
    char *room = torn_room(map->data, unit, TORN_UNITS);
    CHECK(room && !torn_right(map->data, unit, 0, 4));
    char *at =
        mremap(map->data, TORN_UNITS * unit, TORN_UNITS * unit, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, room);
    if (at == MAP_FAILED)
        return -errno;
    CHECK(at == room);
    CHECK(!torn_right(room, unit, 0, TORN_UNITS));
    CHECK(!torn_right(map->data, unit, 0, TORN_UNITS));
    return 0;
}

static int64_t discard(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    CHECK(!torn_right(map->data, unit, 0, TORN_UNITS));
    CHECK(!madvise(map->data + unit, 3 * unit, MADV_DONTNEED));
    CHECK(madvise(map->data + unit, unit, MADV_REMOVE) && (errno == EACCES || errno == EINVAL));
    CHECK(madvise(map->data + unit, unit, MADV_FREE) && errno == EINVAL);
    CHECK(!torn_right(map->data, unit, 0, TORN_UNITS));
    return 0;
}

/* A writer's copies go, and the store's bytes are back. */
static int64_t discard_copies(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    memset(map->data + 2 * unit, 'w', unit);
    CHECK(bed_compare(map->data + 2 * unit, 2 * unit, unit, 1, NULL) == BED_WRONG);
    CHECK(!madvise(map->data + 2 * unit, unit, MADV_DONTNEED));
    CHECK(!torn_right(map->data, unit, 0, TORN_UNITS));
    return 0;
}

/* ---- one after the other ---- */

struct step {
    peer_body *body;
    unsigned ranges;
    unsigned wanted[3][2];
};

static void run_step(enum mnw_backing backing, unsigned flags, uint64_t features, const struct step *step) {
    struct torn world;
    torn_open(&world, backing, flags, features);
    int64_t line = peer_do(&world.peers[0], step->body, &world.unit, sizeof(world.unit));
    if (line == -EINVAL && step->body == move_and_stay) {
        print_message("no MREMAP_DONTUNMAP of files here\n");
        torn_close(&world);
        skip();
    }
    if (line)
        fail_msg("in the peer, line %lld", (long long)line);
    if (step->ranges) {
        assert_changed(&world, 0, MNW_VIEW_CHANGED_RANGES);
        assert_ranges(&world, 0, step->ranges, step->wanted);
    }
    /* The other one saw nothing of it. */
    peer_assert_right(&world.peers[1], 0, 0, TORN_UNITS * world.unit, 1);
    torn_close(&world);
}

static void run_on_all(unsigned flags, uint64_t features, const struct step *step) {
    run_step(MNW_BACKING_SHMEM, flags, features, step);
    run_step(MNW_BACKING_GRADED, flags, features, step);
    if (!(flags & MNW_VIEW_WRITE))
        run_step(MNW_BACKING_HUGETLB_2M, flags, features, step);
}

static void test_unmap(void **state) {
    (void)state;
    run_on_all(0, 0, &(struct step){torn_unmap_parts, 2, {{1, 2}, {7, TORN_UNITS - 8}}});
}
static void test_overlay(void **state) {
    (void)state;
    run_on_all(0, 0, &(struct step){overlay, 2, {{0, 3}, {5, TORN_UNITS - 5}}});
}
static void test_move(void **state) {
    (void)state;
    run_on_all(0, 0, &(struct step){move_parts, 1, {{0, TORN_UNITS}}});
}
static void test_shrink_and_grow(void **state) {
    (void)state;
    /* mremap(2) does not make hugetlb mappings larger. */
    run_step(MNW_BACKING_SHMEM, 0, 0, &(struct step){shrink_and_grow, 1, {{0, TORN_UNITS}}});
    run_step(MNW_BACKING_GRADED, 0, 0, &(struct step){shrink_and_grow, 1, {{0, TORN_UNITS}}});
}
static void test_move_and_stay(void **state) {
    (void)state;
    run_step(MNW_BACKING_SHMEM, 0, 0, &(struct step){move_and_stay, 2, {{0, TORN_UNITS}, {0, TORN_UNITS}}});
}
static void test_discard(void **state) {
    (void)state;
    run_on_all(0, 0, &(struct step){.body = discard});
    run_on_all(0, UFFD_FEATURE_EVENT_REMOVE, &(struct step){.body = discard});
    run_on_all(MNW_VIEW_WRITE, UFFD_FEATURE_EVENT_REMOVE, &(struct step){.body = discard_copies});
}

/* ---- torn to shreds ---- */

static int64_t shred(struct peer_side *side, const void *argument) {
    size_t pages = *(const size_t *)argument, lost = 0;
    const struct peer_map *map = &side->maps[0];
    for (size_t page = 1; page < pages; page += 2)
        CHECK(!munmap(map->data + page * BED_PAGE, BED_PAGE));
    for (size_t page = 0; page < pages; page += 2) {
        int how = bed_compare(map->data + page * BED_PAGE, page * BED_PAGE, BED_PAGE, 1, NULL);
        CHECK(how == BED_RIGHT || how == SIGBUS);
        lost += how == SIGBUS;
    }
    return (int64_t)lost + 1000000;
}

/* More pieces than are kept: what has no piece is SIGBUS, all else is right. */
static void test_shreds(void **state) {
    (void)state;
    struct torn world;
    struct mnw__uffd_probe probe;
    size_t pages = 2 * MNW__PIECES_MAX + 100;
    if (!mnw__uffd_probe(&probe) && !(probe.features & MNW__UFFD_POISON)) {
        print_message("this kernel has no UFFDIO_POISON: whoever reads a page without a piece waits\n");
        skip();
    }
    torn_open(&world, MNW_BACKING_SHMEM, 0, 0);
    struct bed_source source;
    bed_source_open(&source, pages * BED_PAGE);
    struct mnw_cache *cache;
    assert_int_equal(mnw_cache_open(&cache, world.bed.pool, source.store, NULL), 0);
    assert_int_equal(mnw_view_close(world.views[0]), 0);
    world.views[0] = peer_attach(&world.peers[0], cache, &(struct peer_mapping){.length = pages * BED_PAGE});
    int64_t lost = peer_do(&world.peers[0], shred, &pages, sizeof(pages)) - 1000000;
    assert_int_equal(lost, pages / 2 - MNW__PIECES_MAX);
    assert_int_equal(mnw_view_ranges(world.views[0], NULL, 0), MNW__PIECES_MAX);
    assert_int_equal(mnw_view_close(world.views[0]), 0);
    assert_int_equal(mnw_cache_close(cache), 0);
    bed_source_close(&source);
    world.views[0] = peer_attach(&world.peers[0], world.bed.cache,
                                 &(struct peer_mapping){.slot = 1, .length = TORN_UNITS * world.unit});
    peer_assert_right(&world.peers[0], 1, 0, TORN_UNITS * world.unit, 1);
    torn_close(&world);
}

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unmap),           cmocka_unit_test(test_overlay),       cmocka_unit_test(test_move),
        cmocka_unit_test(test_shrink_and_grow), cmocka_unit_test(test_move_and_stay), cmocka_unit_test(test_discard),
        cmocka_unit_test(test_shreds),
    };
    return cmocka_run_group_tests_name("remote_events", tests, NULL, NULL);
}
