/* SPDX-License-Identifier: MIT */
#include "engine/nodes.h"

#include "engine/pool.h"
#include "sys/numa.h"

void mnw__nodes_open(struct mnw_pool *pool, bool are_named) {
    pool->nodes_now.wanted = are_named ? pool->nodes : UINT64_MAX;
    atomic_store(&pool->nodes_now.now, pool->nodes);
    atomic_store(&pool->nodes_now.are_several, __builtin_popcountll(mnw__numa_allowed()) > 1);
}

void mnw__nodes_look(struct mnw_pool *pool) {
    struct mnw__nodes *nodes = &pool->nodes_now;
    uint64_t before = atomic_load(&nodes->now), now = nodes->wanted & mnw__numa_allowed();
    if (!now)
        now = pool->nodes; /* none is left: the kernel takes what there is, and it counts as elsewhere */
    if (now == before || !atomic_compare_exchange_strong(&nodes->now, &before, now))
        return;
    atomic_store(&nodes->are_several, true);
    atomic_fetch_add(&nodes->changes, 1);
}
