/* SPDX-License-Identifier: MIT */
/*
 * What NUMA nodes have of a pool, as the kernel says now and again: a sample of its pages, kept for a second, so that
 * it costs the same however often somebody asks.
 *
 * Owns the last sample of a pool. Any thread may enter; the lock is a leaf, held to copy the sample only.
 */
#ifndef MNW_ENGINE_SURVEY_H
#define MNW_ENGINE_SURVEY_H

#include "minnow/minnow.h"
#include "sys/thread.h"

#include <stdint.h>

struct mnw_pool;

struct mnw__survey {
    struct mnw_placement sample;
    uint64_t resident_bytes[MNW_NODES_MAX]; /* each cache's sample, raised to all that it has */
};

struct mnw__surveyor {
    struct mnw__mutex lock;
    uint64_t taken_ns; /* lock; 0: never */
    struct mnw__survey last;
    uint64_t balancing_ns, balancing; /* lock: the same of kernel.numa_balancing */
};

void mnw__survey_init(struct mnw__surveyor *surveyor);
void mnw__survey_destroy(struct mnw__surveyor *surveyor);
/* Where the pool's pages lie; at most a second old. */
void mnw__survey_get(struct mnw_pool *pool, struct mnw__survey *survey);
/* mnw__numa_balancing(), as old at most. */
uint64_t mnw__survey_balancing(struct mnw_pool *pool);

#endif
