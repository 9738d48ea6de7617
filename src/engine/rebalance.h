/* SPDX-License-Identifier: MIT */
/*
 * Rebalancing: memory follows those who use it to their NUMA node. Off unless the pool's options ask for it.
 *
 * A mapped page says nothing of who touches it. So a few extents at a time are sampled: unmapped from the views, so
 * that the next touches are faults, each of which votes for the node of its faulter. Where two samples in a row say
 * that an extent is used from another node than it lies on, the kernel moves it (move_pages), within a budget of bytes
 * per second. Bytes stay as they are, and who touches a page on its way waits in the kernel; so nothing here can make a
 * byte wrong, and the words know nothing of it.
 *
 * Owns: the rebalancer thread and, for each cache, a table of samples. Fault threads and inline faulters vote; all else
 * is the rebalancer's alone. It holds a cache open while it looks at it, and never waits with a lock held.
 */
#ifndef MNW_ENGINE_REBALANCE_H
#define MNW_ENGINE_REBALANCE_H

#include "engine/cache.h"
#include "policy/readahead.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mnw__rebalance;

/* Extents of a cache that are sampled at a time; each has its place in the table. */
#define MNW__SAMPLES 256

struct mnw__sample {
    _Atomic uint16_t votes[MNW_NODES_MAX];
    /* the rebalancer's alone */
    uint32_t votes_before; /* when it was unmapped the second time */
    uint8_t zaps, rounds;  /* times it was unmapped; rounds since the last one */
};

struct mnw__samples {
    _Atomic uint64_t sampled[MNW__SAMPLES]; /* the extent plus one; 0: none */
    struct mnw__sample samples[MNW__SAMPLES];
    uint64_t cursor, pass_ns; /* the rebalancer's alone: the next extent; when the first was */
};

/* The pool's thread. With `bytes_per_second` 0: none. */
int mnw__rebalance_start(struct mnw_pool *pool, uint64_t bytes_per_second);
/* The pool is stopping. */
void mnw__rebalance_stop(struct mnw_pool *pool);

/* A cache's table; NULL where the pool does not rebalance. -ENOMEM with a message. */
int mnw__samples_open(struct mnw_cache *cache);
void mnw__samples_close(struct mnw_cache *cache);

/*
 * A fault on a page that was there was resolved by its plan. What is mapped ahead of a reader, around the fault and as
 * the lead, is used by him: most of it raises no fault of its own. Should he vote? Any thread; async-signal-safe.
 */
bool mnw__rebalance_asks_of(const struct mnw_cache *cache, uint64_t page, const struct mnw__readahead_plan *plan);
static inline bool mnw__rebalance_asks(const struct mnw_cache *cache, uint64_t page,
                                       const struct mnw__readahead_plan *plan) {
    return cache->samples && mnw__rebalance_asks_of(cache, page, plan);
}
/* Then he does, for his node; -1: nobody knows which. */
void mnw__rebalance_vote(struct mnw_cache *cache, uint64_t page, const struct mnw__readahead_plan *plan, int node);

#endif
