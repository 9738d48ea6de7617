/* SPDX-License-Identifier: MIT */
/*
 * The NUMA nodes a pool takes memory from, which may change while it runs: a cpuset takes a node from a process, or
 * gives it one, at any time.
 *
 * Owns: the pool's set as of now. Any thread reads it; the reclaimer and the rebalancer look it up anew. A node that
 * leaves is not allocated on from then on, and what lies there stays until it is evicted or moved. One that comes is
 * used when the pool was to use all nodes, or named it. Threads stay those of the nodes the pool was opened with.
 */
#ifndef MNW_ENGINE_NODES_H
#define MNW_ENGINE_NODES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mnw_pool;

struct mnw__nodes {
    uint64_t wanted;          /* fixed at open: of all there might ever be */
    _Atomic uint64_t now;     /* of these, those that we may use; never 0 */
    _Atomic uint32_t changes; /* moves with `now` */
    _Atomic bool are_several; /* there is more than one that we may use, or was once */
};

/* At open, when pool->nodes is known. `are_named`: not just all there are. */
void mnw__nodes_open(struct mnw_pool *pool, bool are_named);
/* What may be used is asked of the kernel again: one system call. Any thread. */
void mnw__nodes_look(struct mnw_pool *pool);

#endif
