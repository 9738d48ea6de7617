/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on the public API: on which NUMA node pages lie. Where there is but one, all nodes of the script are it.
 */
#include "high.h"

#include "sys/numa.h"

enum { READERS = 4 };

struct visit {
    uintptr_t address;
    enum world_outcome outcome;
};

static void touch(void *argument) {
    struct visit *visit = argument;
    unsigned char byte;
    uintptr_t stopped;
    visit->outcome = world_read(visit->address, &byte, 1, &stopped);
}

/* A thread on this node reads the first page of the extent. */
static void read_on(struct high *high, size_t extent, unsigned node) {
    struct mnw__thread thread;
    struct visit visit = {.address = high_at(high->view, high, extent * high->extent_pages)};
    expect_result("a reader", mnw__thread_start(&thread, "reader", (int)node, touch, &visit), 0);
    mnw__thread_join(&thread);
    expect(visit.outcome == WORLD_OK, "extent %zu is read", extent);
}

static void expect_node(struct high *high, size_t extent, unsigned wanted, const char *where) {
    void *address = (void *)high_at(high->view, high, extent * high->extent_pages);
    int node = -1;
    expect_result("where", mnw__numa_where(&address, &node, 1), 0);
    expect(node == (int)wanted, "extent %zu is %s", extent, where);
}

/* One reader after another, each in an extent of its own. */
static void read_each_on_its_own(struct high *high, unsigned nodes) {
    for (unsigned reader = 0; reader < READERS; reader++)
        read_on(high, reader, reader % nodes);
    for (unsigned reader = 0; reader < READERS; reader++)
        expect_node(high, reader, reader % nodes, "where its reader was");
}

static void follows_the_faulter(enum mnw_backing kind) {
    struct high high;
    unsigned nodes = world_nodes(2);
    high_open(&high, kind, &(struct high_options){.extents = READERS});
    read_each_on_its_own(&high, nodes);
    high_close(&high);
}

static void no_consumer_redirects(enum mnw_backing kind) {
    struct high high;
    unsigned nodes = world_nodes(2);
    high_open(&high, kind, &(struct high_options){.extents = READERS});
    world_mbind(high_at(high.view, &high, 0), high.pages * high.page, nodes - 1);
    read_each_on_its_own(&high, nodes);
    high_close(&high);
}

/* Extents of nodes with weights, each read by a thread of whatever node, in a view of either kind. */
static void nodes_take_turns(enum mnw_backing kind) {
    static const unsigned turn_of[] = {0, 0, 1, 0};
    struct high high;
    unsigned nodes = world_nodes(2);
    high_open(&high, kind,
              &(struct high_options){
                  .extents = 8, .numa = MNW_NUMA_INTERLEAVE, .nodes = nodes > 1 ? "0:3,1" : "0:3", .reads_now = true});
    struct mnw_view *served = high.view, *is_inline;
    high_open_view(&high, &is_inline, 0, high.pages, MNW_VIEW_INLINE);
    for (unsigned extent = 0; extent < 8; extent++) {
        high.view = extent % 3 ? is_inline : served;
        read_on(&high, extent, extent / 2 % nodes);
    }
    high.view = served;
    for (unsigned extent = 0; extent < 8; extent++) {
        read_on(&high, extent, 0);
        expect_node(&high, extent, nodes > 1 ? turn_of[extent % 4] : 0, "in its turn");
    }
    expect_result("the inline view closes", mnw_view_close(is_inline), 0);
    high_close(&high);
}

const struct scenario scenarios_place[] = {
    {"place-follows-the-faulter", ON_ALL, follows_the_faulter},
    {"place-is-not-the-consumers", ON_ALL, no_consumer_redirects},
    {"place-by-turns", ON_ALL, nodes_take_turns},
    {0},
};
