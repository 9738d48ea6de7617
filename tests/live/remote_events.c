/* SPDX-License-Identifier: MIT */
/*
 * Consumers that tear, move, discard, overlay and fork their mappings: what is left of them has the right bytes, also
 * while other threads of theirs read it, memory is short, and other consumers fault on the same pages.
 */
#include "bed.h"
#include "engine/remote.h"
#include "machine.h"
#include "peer.h"

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

#define HUGE  ((size_t)2 << 20)
#define PEERS 2
/* The peers' mappings are of so many units: base pages taken sixteen at a time, or huge pages. */
#define UNITS 12

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

struct world {
    struct bed_source source;
    struct bed bed;
    struct peer peers[PEERS];
    struct mnw_view *views[PEERS];
    size_t unit;
    uint64_t length; /* of the store: two units more than is mapped */
    enum mnw_backing backing;
};

static void open_world(struct world *world, enum mnw_backing backing, unsigned flags, uint64_t features) {
    bool huge = backing == MNW_BACKING_HUGETLB_2M;
    memset(world, 0, sizeof(*world));
    bed_hurry(60);
    if (huge && !machine_free_hugepages(HUGE, 8)) {
        print_message("cannot free 8 huge pages\n");
        skip();
    }
    if (backing == MNW_BACKING_GRADED && !machine_set(SHMEM_ENABLED, "advise")) {
        print_message("cannot set shmem_enabled\n");
        skip();
    }
    for (unsigned i = 0; i < PEERS; i++)
        peer_start(&world->peers[i]);
    world->backing = backing;
    world->unit = huge ? HUGE : 16 * BED_PAGE;
    world->length = (UNITS + 2) * world->unit;
    bed_source_open(&world->source, world->length);
    world->source.page_bytes = huge ? HUGE : BED_PAGE;
    struct mnw_pool_options options = {.backing = backing,
                                       .budget_bytes = huge                            ? 6 * HUGE
                                                       : backing == MNW_BACKING_GRADED ? 2 * HUGE
                                                                                       : 512 << 10};
    struct mnw_cache_options cache_options = {.size = sizeof(cache_options), .read_retries = UINT32_MAX};
    bed_open(&world->bed, world->source.store, options, &cache_options);
    for (unsigned i = 0; i < PEERS; i++)
        world->views[i] = peer_attach(
            &world->peers[i], world->bed.cache,
            &(struct peer_mapping){.length = UNITS * world->unit, .flags = flags, .features = features, .align = HUGE});
}

static void close_world(struct world *world) {
    for (unsigned i = 0; i < PEERS; i++) {
        assert_int_equal(mnw_view_close(world->views[i]), 0);
        if (world->peers[i].pid)
            peer_stop(&world->peers[i]);
    }
    bed_close(&world->bed);
    bed_source_close(&world->source);
}

/* Where the view lies is what is said: pairs of (unit of the store, units), sorted; addresses relative to `base`. */
static void assert_ranges(struct world *world, unsigned which, unsigned count, const unsigned (*wanted)[2]) {
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

static void assert_changed(struct world *world, unsigned which, unsigned changes) {
    struct mnw_event event;
    assert_true(bed_event(world->bed.pool, &event, 5000));
    assert_int_equal(event.kind, MNW_EVENT_VIEW_CHANGED);
    assert_ptr_equal(event.view, world->views[which]);
    assert_int_equal(event.changes, changes);
}

/* The kernel moves what one mapping holds, and need not have put together again what was moved back: unit by unit. */
static bool move_units(char *from, char *to, size_t unit, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        if (mremap(from + i * unit, unit, unit, MREMAP_MAYMOVE | MREMAP_FIXED, to + i * unit) != to + i * unit)
            return false;
    return true;
}

/* ---- what peers do; all take a size_t: the unit ---- */

static int64_t right(const struct peer_map *map, const char *at, size_t unit, unsigned first, unsigned count) {
    (void)map;
    return bed_compare(at, first * unit, count * unit, 1, NULL);
}

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return __LINE__;                                                                                           \
    } while (0)

static bool is_gone(const char *at) {
    return bed_touch(at, NULL) == SIGSEGV;
}

static int64_t unmap_parts(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    CHECK(!munmap(map->data + 4 * unit, 2 * unit)); /* out of the middle, untouched */
    CHECK(!right(map, map->data, unit, 0, 4));
    CHECK(is_gone(map->data + 4 * unit) && is_gone(map->data + 5 * unit));
    CHECK(!right(map, map->data + 6 * unit, unit, 6, UNITS - 6));
    CHECK(!munmap(map->data, unit));                      /* from the start, touched */
    CHECK(!munmap(map->data + (UNITS - 1) * unit, unit)); /* from the end */
    CHECK(!munmap(map->data + 3 * unit, 4 * unit));       /* across the hole */
    CHECK(is_gone(map->data) && is_gone(map->data + 6 * unit) && is_gone(map->data + (UNITS - 1) * unit));
    CHECK(!right(map, map->data + unit, unit, 1, 2));
    CHECK(!right(map, map->data + 7 * unit, unit, 7, UNITS - 8));
    return 0;
}

/* Other memory in the middle; it must never be ours. */
static int64_t overlay(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    char *middle =
        mmap(map->data + 3 * unit, 2 * unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(middle == map->data + 3 * unit);
    CHECK(bed_zeros(middle, 2 * unit) == BED_RIGHT);
    memset(middle, 'm', 2 * unit);
    CHECK(!right(map, map->data, unit, 0, 3));
    CHECK(!right(map, map->data + 5 * unit, unit, 5, UNITS - 5));
    for (size_t i = 0; i < 2 * unit; i++)
        CHECK(middle[i] == 'm');
    return 0;
}

/* Room for `units`, congruent to `like`. */
static char *room_for(const char *like, size_t unit, unsigned units) {
    char *room = mmap(NULL, units * unit + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return room == MAP_FAILED ? NULL : room + (((uintptr_t)like - (uintptr_t)room) & (HUGE - 1));
}

static int64_t move_parts(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    struct peer_map *map = &side->maps[0];
    char *room = room_for(map->data, unit, 2 * UNITS);
    CHECK(room);
    /* Three units out of the middle, one of them touched. */
    CHECK(!right(map, map->data + 5 * unit, unit, 5, 1));
    CHECK(mremap(map->data + 4 * unit, 3 * unit, 3 * unit, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
    CHECK(is_gone(map->data + 5 * unit));
    CHECK(!right(map, room, unit, 4, 3));
    CHECK(!right(map, map->data, unit, 0, 4));
    CHECK(!right(map, map->data + 7 * unit, unit, 7, UNITS - 7));
    /* And back: one piece again. */
    CHECK(mremap(room, 3 * unit, 3 * unit, MREMAP_MAYMOVE | MREMAP_FIXED, map->data + 4 * unit) ==
          map->data + 4 * unit);
    CHECK(!right(map, map->data, unit, 0, UNITS));
    /* All of it. */
    CHECK(move_units(map->data, room, unit, UNITS));
    CHECK(!right(map, room, unit, 0, UNITS));
    map->data = room;
    return 0;
}

static int64_t shrink_and_grow(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    struct peer_map *map = &side->maps[0];
    CHECK(mremap(map->data, UNITS * unit, 4 * unit, 0) == map->data);
    CHECK(is_gone(map->data + 4 * unit));
    CHECK(!right(map, map->data, unit, 0, 4));
    /* In place: no event tells. Past what was ever attached, to the end of the store. */
    char *grown = mremap(map->data, 4 * unit, (UNITS + 2) * unit, 0);
    if (grown == MAP_FAILED) { /* something lies behind: make room elsewhere first */
        char *room = room_for(map->data, unit, UNITS + 3);
        CHECK(room && mremap(map->data, 4 * unit, 4 * unit, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
        munmap(room + 4 * unit, (UNITS - 1) * unit);
        map->data = room;
        grown = mremap(map->data, 4 * unit, (UNITS + 2) * unit, 0);
    }
    CHECK(grown == map->data);
    CHECK(!right(map, map->data + (UNITS + 1) * unit, unit, UNITS + 1, 1));
    CHECK(!right(map, map->data, unit, 0, UNITS + 2));
    /* And as it moves. */
    CHECK(mremap(map->data, (UNITS + 2) * unit, 2 * unit, 0) == map->data);
    char *room = room_for(map->data, unit, UNITS + 3);
    CHECK(room && mremap(map->data, 2 * unit, UNITS * unit, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
    CHECK(!right(map, room, unit, 0, UNITS));
    map->data = room;
    return 0;
}

/* The old place stays mapped, empty, and watched. */
static int64_t move_and_stay(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    struct peer_map *map = &side->maps[0];
    char *room = room_for(map->data, unit, UNITS);
    CHECK(room && !right(map, map->data, unit, 0, 4));
    char *at = mremap(map->data, UNITS * unit, UNITS * unit, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, room);
    if (at == MAP_FAILED)
        return -errno;
    CHECK(at == room);
    CHECK(!right(map, room, unit, 0, UNITS));
    CHECK(!right(map, map->data, unit, 0, UNITS));
    return 0;
}

static int64_t discard(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    CHECK(!right(map, map->data, unit, 0, UNITS));
    CHECK(!madvise(map->data + unit, 3 * unit, MADV_DONTNEED));
    CHECK(madvise(map->data + unit, unit, MADV_REMOVE) && (errno == EACCES || errno == EINVAL));
    CHECK(madvise(map->data + unit, unit, MADV_FREE) && errno == EINVAL);
    CHECK(!right(map, map->data, unit, 0, UNITS));
    return 0;
}

/* A writer's copies go, and the store's bytes are back. */
static int64_t discard_copies(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    memset(map->data + 2 * unit, 'w', unit);
    CHECK(bed_compare(map->data + 2 * unit, 2 * unit, unit, 1, NULL) == BED_WRONG);
    CHECK(!madvise(map->data + 2 * unit, unit, MADV_DONTNEED));
    CHECK(!right(map, map->data, unit, 0, UNITS));
    return 0;
}

/* ---- one after the other ---- */

struct step {
    peer_body *body;
    unsigned ranges;
    unsigned wanted[3][2];
};

static void run_step(enum mnw_backing backing, unsigned flags, uint64_t features, const struct step *step) {
    struct world world;
    open_world(&world, backing, flags, features);
    int64_t line = peer_do(&world.peers[0], step->body, &world.unit, sizeof(world.unit));
    if (line == -EINVAL && step->body == move_and_stay) {
        print_message("no MREMAP_DONTUNMAP of files here\n");
        close_world(&world);
        skip();
    }
    if (line)
        fail_msg("in the peer, line %lld", (long long)line);
    if (step->ranges) {
        assert_changed(&world, 0, MNW_VIEW_CHANGED_RANGES);
        assert_ranges(&world, 0, step->ranges, step->wanted);
    }
    /* The other one saw nothing of it. */
    peer_assert_right(&world.peers[1], 0, 0, UNITS * world.unit, 1);
    close_world(&world);
}

static void run_on_all(unsigned flags, uint64_t features, const struct step *step) {
    run_step(MNW_BACKING_SHMEM, flags, features, step);
    run_step(MNW_BACKING_GRADED, flags, features, step);
    if (!(flags & MNW_VIEW_WRITE))
        run_step(MNW_BACKING_HUGETLB_2M, flags, features, step);
}

static void test_unmap(void **state) {
    (void)state;
    run_on_all(0, 0, &(struct step){unmap_parts, 2, {{1, 2}, {7, UNITS - 8}}});
}
static void test_overlay(void **state) {
    (void)state;
    run_on_all(0, 0, &(struct step){overlay, 2, {{0, 3}, {5, UNITS - 5}}});
}
static void test_move(void **state) {
    (void)state;
    run_on_all(0, 0, &(struct step){move_parts, 1, {{0, UNITS}}});
}
static void test_shrink_and_grow(void **state) {
    (void)state;
    /* mremap(2) does not make hugetlb mappings larger. */
    run_step(MNW_BACKING_SHMEM, 0, 0, &(struct step){shrink_and_grow, 1, {{0, UNITS}}});
    run_step(MNW_BACKING_GRADED, 0, 0, &(struct step){shrink_and_grow, 1, {{0, UNITS}}});
}
static void test_move_and_stay(void **state) {
    (void)state;
    run_step(MNW_BACKING_SHMEM, 0, 0, &(struct step){move_and_stay, 2, {{0, UNITS}, {0, UNITS}}});
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
    struct world world;
    size_t pages = 2 * MNW__PIECES_MAX + 100;
    open_world(&world, MNW_BACKING_SHMEM, 0, 0);
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
    world.views[0] =
        peer_attach(&world.peers[0], world.bed.cache, &(struct peer_mapping){.slot = 1, .length = UNITS * world.unit});
    peer_assert_right(&world.peers[0], 1, 0, UNITS * world.unit, 1);
    close_world(&world);
}

/* ---- fork ---- */

static int wait_for(pid_t child) {
    int status;
    if (waitpid(child, &status, 0) != child)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Child and grandchild read all, while the parent does. */
static int64_t fork_and_read(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    CHECK(!right(map, map->data, unit, 2, 0) && !right(map, map->data + 2 * unit, unit, 2, 1));
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pid_t grandchild = fork();
        int64_t bad = right(map, map->data, unit, 0, UNITS);
        _exit(!grandchild ? (int)(bad & 127) : bad ? 99 : wait_for(grandchild));
    }
    int64_t bad = right(map, map->data, unit, 0, UNITS);
    int childs = wait_for(child);
    return bad ? bad : childs;
}

/* The child tears what it has inherited; the parent's stays. */
static int64_t fork_and_tear(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit((int)unmap_parts(side, argument) & 127);
    }
    int childs = wait_for(child);
    int64_t bad = right(map, map->data, unit, 0, UNITS);
    return bad ? bad : childs;
}

/* Copies made before are the child's too, later ones are not. */
static int64_t fork_and_write(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    map->data[unit] = 'b';
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bool good = map->data[unit] == 'b';
        map->data[2 * unit] = 'c';
        good &= map->data[2 * unit] == 'c' && !right(map, map->data + 3 * unit, unit, 3, UNITS - 3);
        good &= !bed_compare(map->data + unit + 1, unit + 1, unit - 1, 1, NULL);
        _exit(good ? 0 : 9);
    }
    int childs = wait_for(child);
    CHECK(map->data[unit] == 'b' && !bed_compare(map->data + unit + 1, unit + 1, (UNITS - 1) * unit - 1, 1, NULL));
    return childs;
}

/* Forked views that are open. */
static struct mnw_view *forked_views[4096];
static unsigned child_count;

/* Takes an event, if there is one, and notes a forked view; true when there was one. */
static bool note_child(struct world *world, unsigned timeout_ms) {
    struct mnw_event event;
    if (!bed_event(world->bed.pool, &event, timeout_ms))
        return false;
    if (event.kind == MNW_EVENT_VIEW_CHANGED && event.changes & MNW_VIEW_CHANGED_FORKED) {
        assert_non_null(event.parent);
        assert_ptr_not_equal(event.view, world->views[0]);
        assert_true(mnw_view_fd(event.view) >= 0);
        assert_true(child_count < sizeof(forked_views) / sizeof(forked_views[0]));
        forked_views[child_count++] = event.view;
    }
    return true;
}

/* Closes all forked views, of which there must be so many; how many there were. */
static unsigned close_children(struct world *world, unsigned least) {
    while (note_child(world, child_count < least ? 5000 : 50))
        ;
    unsigned count = child_count;
    while (child_count)
        assert_int_equal(mnw_view_close(forked_views[--child_count]), 0);
    return count;
}

static void run_fork(enum mnw_backing backing, unsigned flags, peer_body *body, unsigned children) {
    struct world world;
    open_world(&world, backing, flags, UFFD_FEATURE_EVENT_FORK);
    int64_t bad = peer_do(&world.peers[0], body, &world.unit, sizeof(world.unit));
    if (bad)
        fail_msg("in the peer: %lld", (long long)bad);
    assert_int_equal(close_children(&world, children), children);
    close_world(&world);
}

static void test_fork(void **state) {
    (void)state;
    run_fork(MNW_BACKING_SHMEM, 0, fork_and_read, 2);
    run_fork(MNW_BACKING_GRADED, 0, fork_and_read, 2);
    run_fork(MNW_BACKING_HUGETLB_2M, 0, fork_and_read, 2);
    run_fork(MNW_BACKING_SHMEM, MNW_VIEW_WRITE, fork_and_write, 1);
    run_fork(MNW_BACKING_SHMEM, 0, fork_and_tear, 1);
}

/* A child whose view is closed gets SIGBUS where it has not been, never zeros; its parent notices nothing. */
static int64_t fork_and_wait(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    int gate[2];
    CHECK(!pipe(gate));
    pid_t child = fork();
    if (!child) {
        char byte;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(gate[1]);
        int64_t bad = right(map, map->data + unit, unit, 1, 1);
        kill(getppid(), 0);
        if (read(gate[0], &byte, 1) != 0) /* until the parent closes it */
            _exit(8);
        bad |= right(map, map->data + unit, unit, 1, 1);
        _exit(bad ? 7 : bed_touch(map->data + 5 * unit, NULL) == SIGBUS ? 0 : 6);
    }
    close(gate[0]);
    side->maps[1].uffd = gate[1];
    side->maps[1].length = (size_t)child;
    return 0;
}

static int64_t let_go_on(struct peer_side *side, const void *argument) {
    (void)argument;
    close(side->maps[1].uffd);
    return wait_for((pid_t)side->maps[1].length);
}

static void test_closed_child(void **state) {
    (void)state;
    struct world world;
    open_world(&world, MNW_BACKING_SHMEM, 0, UFFD_FEATURE_EVENT_FORK);
    assert_int_equal(peer_do(&world.peers[0], fork_and_wait, &world.unit, sizeof(world.unit)), 0);
    usleep(100000); /* the child has read its unit by then; if not, it fails */
    assert_int_equal(close_children(&world, 1), 1);
    assert_int_equal(peer_do(&world.peers[0], let_go_on, &world.unit, sizeof(world.unit)), 0);
    peer_assert_right(&world.peers[0], 0, 0, UNITS * world.unit, 1);
    close_world(&world);
}

/* SIGBUS is inherited, and taken off in all. */
static int64_t fail_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? -EIO : (int64_t)read->length;
}

static int64_t fork_with_sigbus(struct peer_side *side, const void *argument) {
    const struct peer_map *map = &side->maps[0];
    int gate[2];
    (void)argument;
    CHECK(bed_touch(map->data + 3 * BED_PAGE, NULL) == SIGBUS);
    CHECK(!pipe(gate));
    pid_t child = fork();
    if (!child) {
        char byte;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(gate[1]);
        if (bed_touch(map->data + 3 * BED_PAGE, NULL) != SIGBUS)
            _exit(5);
        if (read(gate[0], &byte, 1) != 0)
            _exit(8);
        _exit(bed_compare(map->data, 0, 8 * BED_PAGE, 1, NULL) ? 6 : 0);
    }
    close(gate[0]);
    side->maps[1].uffd = gate[1];
    side->maps[1].length = (size_t)child;
    return 0;
}

static void test_fork_with_sigbus(void **state) {
    (void)state;
    struct world world;
    open_world(&world, MNW_BACKING_SHMEM, 0, UFFD_FEATURE_EVENT_FORK);
    world.source.answer = fail_bad_page;
    atomic_store(&world.source.bad_page, 3);
    assert_int_equal(peer_do(&world.peers[0], fork_with_sigbus, &world.unit, sizeof(world.unit)), 0);
    atomic_store(&world.source.bad_page, UINT64_MAX);
    assert_int_equal(mnw_invalidate(world.bed.cache, 0, 16 * BED_PAGE), 0);
    assert_int_equal(peer_do(&world.peers[0], let_go_on, &world.unit, sizeof(world.unit)), 0);
    peer_assert_right(&world.peers[0], 0, 0, 8 * BED_PAGE, 1);
    assert_int_equal(close_children(&world, 1), 1);
    close_world(&world);
}

/* ---- all at once ---- */

struct storm {
    size_t unit;
    unsigned ms;
    bool forks;
};

struct storm_reader {
    const struct peer_map *map;
    size_t unit;
    _Atomic bool *stop;
    int64_t bad;
};

/* The first third of the mapping is let alone by the others. */
static void *read_on(void *argument) {
    struct storm_reader *reader = argument;
    unsigned turn = 0;
    while (!atomic_load(reader->stop) && !reader->bad) {
        unsigned first = turn++ * 7 % (UNITS / 3);
        reader->bad = right(reader->map, reader->map->data + first * reader->unit, reader->unit, first, 1);
        madvise(reader->map->data + first * reader->unit, reader->unit, MADV_DONTNEED);
    }
    return NULL;
}

/* What follows is torn, moved there and back, and read. */
static int64_t move_about(const struct peer_map *map, char *room, size_t unit, unsigned turn) {
    unsigned first = UNITS / 3 + turn % 4, count = 1 + turn % 3;
    char *home = map->data + first * unit;
    CHECK(move_units(home, room, unit, count));
    CHECK(!right(map, room, unit, first, count));
    CHECK(move_units(room, home, unit, count));
    CHECK(!madvise(home, count * unit, MADV_DONTNEED));
    CHECK(!right(map, home, unit, first, count));
    return 0;
}

static int64_t storm(struct peer_side *side, const void *argument) {
    const struct storm *order = argument;
    const struct peer_map *map = &side->maps[0];
    _Atomic bool stop = false;
    struct storm_reader readers[2];
    pthread_t threads[2];
    char *room = room_for(map->data, order->unit, 4);
    CHECK(room);
    for (unsigned i = 0; i < 2; i++) {
        readers[i] = (struct storm_reader){map, order->unit, &stop, 0};
        CHECK(!pthread_create(&threads[i], NULL, read_on, &readers[i]));
    }
    int64_t bad = 0;
    struct timespec began, now;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (unsigned turn = 0; !bad; turn++) {
        bad = move_about(map, room, order->unit, turn);
        if (!bad && order->forks && turn % 8 == 0) {
            pid_t child = fork();
            if (!child)
                _exit(right(map, map->data + 4 * order->unit, order->unit, 4, 4) ? 1 : 0);
            bad = wait_for(child);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000 > order->ms)
            break;
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        bad = bad ? bad : readers[i].bad;
    }
    return bad;
}

static void run_storm(enum mnw_backing backing, bool forks) {
    struct world world;
    open_world(&world, backing, 0, forks ? UFFD_FEATURE_EVENT_FORK : 0);
    struct storm order = {world.unit, 700, forks};
    for (unsigned i = 0; i < PEERS; i++)
        peer_ask(&world.peers[i], storm, &order, sizeof(order));
    for (unsigned i = 0; i < PEERS; i++) {
        while (!peer_has_answered(&world.peers[i], 1))
            note_child(&world, 1);
        int64_t bad = peer_answer(&world.peers[i]);
        if (bad)
            fail_msg("in peer %u: %lld", i, (long long)bad);
    }
    assert_true(close_children(&world, forks) >= forks);
    close_world(&world);
}

static void test_storm_shmem(void **state) {
    (void)state;
    run_storm(MNW_BACKING_SHMEM, false);
    run_storm(MNW_BACKING_SHMEM, true);
}
static void test_storm_graded(void **state) {
    (void)state;
    run_storm(MNW_BACKING_GRADED, true);
}
static void test_storm_hugetlb(void **state) {
    (void)state;
    run_storm(MNW_BACKING_HUGETLB_2M, false);
}

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unmap),         cmocka_unit_test(test_overlay),
        cmocka_unit_test(test_move),          cmocka_unit_test(test_shrink_and_grow),
        cmocka_unit_test(test_move_and_stay), cmocka_unit_test(test_discard),
        cmocka_unit_test(test_shreds),        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_closed_child),  cmocka_unit_test(test_fork_with_sigbus),
        cmocka_unit_test(test_storm_shmem),   cmocka_unit_test(test_storm_graded),
        cmocka_unit_test(test_storm_hugetlb),
    };
    return cmocka_run_group_tests_name("remote_events", tests, NULL, NULL);
}
