/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on the public API: a cache with a copy on each NUMA node. Where there is but one node, both views of the
 * script have the same copy, and the story is the same.
 */
#include "high.h"

#include "sys/numa.h"

#include <errno.h>

enum { EXTENTS = 3 };

struct copies {
    struct high high;
    unsigned nodes;
    struct mnw_view *near, *far; /* of the first node, and of the last */
};

static void open_copy(struct copies *copies, struct mnw_view **view, unsigned node, unsigned flags) {
    struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_ON_NODE | flags, .node = node};
    expect_result("a view of a node", mnw_view_open(view, copies->high.cache, &options), 0);
}

static void open_copies(struct copies *copies, enum mnw_backing kind, bool checked, unsigned flags) {
    copies->nodes = world_nodes(2);
    high_open(&copies->high, kind,
              &(struct high_options){.extents = EXTENTS,
                                     .budget_extents = 2 * EXTENTS + 2,
                                     .replicas = true,
                                     .checked = checked,
                                     .reads_now = flags});
    open_copy(copies, &copies->near, 0, flags);
    open_copy(copies, &copies->far, copies->nodes - 1, flags);
}

static void close_copies(struct copies *copies) {
    expect_result("close", mnw_view_close(copies->near), 0);
    expect_result("close", mnw_view_close(copies->far), 0);
    high_close(&copies->high);
}

/* The first page of an extent. */
static size_t first_of(const struct copies *copies, size_t extent) {
    return extent * copies->high.extent_pages;
}

static void expect_node(struct copies *copies, const struct mnw_view *view, size_t page, unsigned wanted) {
    void *address = (void *)high_at(view, &copies->high, page);
    int node = -1;
    expect_result("where", mnw__numa_where(&address, &node, 1), 0);
    expect(node == (int)wanted, "the page is on its view's node");
}

static void expect_reads(struct copies *copies, size_t page, int wanted) {
    int reads = high_reads_of(&copies->high, page);
    expect(reads == wanted, "the store was asked %d times", reads);
}

/* ---- what each view has ---- */

static void read_both(struct copies *copies, size_t page) {
    high_read(&copies->high, copies->near, page, WORLD_OK, 0);
    high_read(&copies->high, copies->far, page, WORLD_OK, 0);
    expect_node(copies, copies->near, page, 0);
    expect_node(copies, copies->far, page, copies->nodes - 1);
    expect_reads(copies, page, 1);
}

static void each_reads_its_own(enum mnw_backing kind) {
    struct copies copies;
    open_copies(&copies, kind, false, 0);
    for (size_t extent = 0; extent < EXTENTS; extent++)
        read_both(&copies, first_of(&copies, extent));
    high_expect_count(&copies.high, offsetof(struct mnw_stats, fills), EXTENTS, "reads of the store");
    close_copies(&copies);
}

static void each_reads_its_own_inline(enum mnw_backing kind) {
    struct copies copies;
    open_copies(&copies, kind, false, MNW_VIEW_INLINE);
    for (size_t extent = 0; extent < EXTENTS; extent++)
        read_both(&copies, first_of(&copies, extent));
    close_copies(&copies);
}

static void pins_are_of_all_copies(enum mnw_backing kind) {
    struct copies copies;
    open_copies(&copies, kind, false, 0);
    expect_result("pin", mnw_pin(copies.high.cache, 0, copies.high.extent), 0);
    read_both(&copies, 0);
    high_expect_flags(&copies.high, 0, MNW_RESIDENT | MNW_PINNED);
    expect_result("unpin", mnw_unpin(copies.high.cache, 0, copies.high.extent), 0);
    expect_result("unpin again", mnw_unpin(copies.high.cache, 0, copies.high.extent), -EINVAL);
    high_expect_flags(&copies.high, 0, MNW_RESIDENT);
    close_copies(&copies);
}

/* A copy that the store's check refuses says nothing of the store, which then is asked itself. */
static void store_is_asked_instead(enum mnw_backing kind) {
    struct copies copies;
    unsigned char byte = 0;
    uintptr_t stopped;
    open_copies(&copies, kind, true, 0);
    high_read(&copies.high, copies.near, 0, WORLD_OK, 0);
    copies.high.version = 1; /* and the cache is not told */
    enum world_outcome outcome = world_read(high_at(copies.far, &copies.high, 0), &byte, 1, &stopped);
    expect(outcome == WORLD_OK && byte == high_byte(0, copies.nodes > 1), "the other node has what the store has");
    close_copies(&copies);
}

/* ---- invalidation ---- */

struct invalidation {
    struct mnw__thread thread;
    struct high *high;
    int result;
};

static void invalidate(void *argument) {
    struct invalidation *invalidation = argument;
    struct high *high = invalidation->high;
    invalidation->result = mnw_invalidate(high->cache, 0, high->pages * high->page);
}

/*
 * All is read by both, and becomes another version. While it is invalidated, it is held up by a read of extent 1
 * through one of the views; meanwhile a page is touched through the first, which may have it from the other one's old
 * copy.
 */
static void touch_meanwhile(struct copies *copies, struct mnw_view *holding, size_t touched) {
    struct high *high = &copies->high;
    struct invalidation invalidation = {.high = high};
    struct reader reader;
    size_t held = first_of(copies, 1);
    unsigned char byte;
    uintptr_t stopped;
    for (size_t extent = 0; extent < EXTENTS; extent += 2) {
        high_read(high, copies->near, first_of(copies, extent), WORLD_OK, 0);
        high_read(high, copies->far, first_of(copies, extent), WORLD_OK, 0);
    }
    high->version = 1;
    high_hold(high, held);
    reader_start(&reader, high_at(holding, high, held), 64);
    high_wait_asked(high, held, 1);
    expect_result("a thread", mnw__thread_start(&invalidation.thread, "invalidates", -1, invalidate, &invalidation), 0);
    mnw__sleep_ns(20000000);
    expect(world_read(high_at(copies->near, high, touched), &byte, 1, &stopped) == WORLD_OK, "touched meanwhile");
    expect_result("the held read", high_release(high, held), 0);
    high_join(high, &reader, held, WORLD_OK, 1);
    mnw__thread_join(&invalidation.thread);
    expect_result("invalidate", invalidation.result, 0);
    for (size_t extent = 0; extent < EXTENTS; extent++) {
        high_read(high, copies->near, first_of(copies, extent), WORLD_OK, 1);
        high_read(high, copies->far, first_of(copies, extent), WORLD_OK, 1);
    }
}

/* The last node is held up: it still has what the first one has forgotten. */
static void nothing_old_comes_back(enum mnw_backing kind) {
    struct copies copies;
    open_copies(&copies, kind, false, 0);
    touch_meanwhile(&copies, copies.far, first_of(&copies, 2));
    close_copies(&copies);
}

/* The first node is held up, in the middle: the last one still has all. */
static void nothing_old_comes_early(enum mnw_backing kind) {
    struct copies copies;
    open_copies(&copies, kind, false, 0);
    touch_meanwhile(&copies, copies.near, first_of(&copies, 0));
    close_copies(&copies);
}

static void waits_for_nobody(enum mnw_backing kind) {
    struct copies copies;
    struct reader near, far;
    open_copies(&copies, kind, false, 0);
    high_hold(&copies.high, 0);
    reader_start(&near, high_at(copies.near, &copies.high, 0), 64);
    high_wait_asked(&copies.high, 0, 1);
    reader_start(&far, high_at(copies.far, &copies.high, 0), 64);
    if (copies.nodes > 1)
        high_wait_asked(&copies.high, 0, 2); /* it asks itself */
    expect_result("the held reads", high_release(&copies.high, 0), 0);
    high_join(&copies.high, &near, 0, WORLD_OK, 0);
    high_join(&copies.high, &far, 0, WORLD_OK, 0);
    close_copies(&copies);
}

/* ---- what is refused ---- */

static void expect_refused(struct copies *copies, const char *what, unsigned flags, unsigned node) {
    struct mnw_view *view;
    struct mnw_view_options options = {.size = sizeof(options), .flags = flags, .node = node};
    expect_result(what, mnw_view_open(&view, copies->high.cache, &options), -EINVAL);
}

static void refuses_writers(enum mnw_backing kind) {
    struct copies copies;
    struct mnw_cache *cache;
    struct mnw_cache_options kept = {.size = sizeof(kept), .replicas = 1, .keep = 1};
    open_copies(&copies, kind, false, 0);
    expect_refused(&copies, "a writer", MNW_VIEW_WRITE, 0);
    expect_refused(&copies, "no such node", MNW_VIEW_ON_NODE, 63);
    expect_refused(&copies, "a node past all", MNW_VIEW_ON_NODE, MNW_NODES_MAX);
    expect_result("kept", mnw_cache_open(&cache, copies.high.pool, copies.high.store, &kept), -EINVAL);
    expect_result("with views", mnw_cache_close(copies.high.cache), -EBUSY);
    close_copies(&copies);
}

const struct scenario scenarios_replicas[] = {
    {"replicas-are-each-views-own", ON_ALL, each_reads_its_own},
    {"replicas-are-each-inline-views-own", ON_ALL, each_reads_its_own_inline},
    {"replicas-are-pinned-together", ON_ALL, pins_are_of_all_copies},
    {"replicas-that-are-refused", ON_ALL, store_is_asked_instead},
    {"replicas-of-old-bytes-never-return", ON_ALL, nothing_old_comes_back},
    {"replicas-of-old-bytes-never-come", ON_ALL, nothing_old_comes_early},
    {"replicas-wait-for-nobody", ON_ALL, waits_for_nobody},
    {"replicas-are-read-only", ON_SHMEM, refuses_writers},
    {0},
};
