/* SPDX-License-Identifier: MIT */
/* Plays a trace through the engine: a store of zeros, one view, one thread. Public API only. */
#ifndef MNW_BENCH_LIVE_H
#define MNW_BENCH_LIVE_H

#include "trace.h"

#include <stdbool.h>

struct live {
    uint64_t misses;     /* reads that waited for the store */
    uint64_t minors;     /* faults of pages in memory: what seeing use costs */
    uint64_t pages_read; /* from the store, ahead of need too */
    bool in_line;        /* the faults were resolved in the thread that read */
};

/*
 * Reads the trace's pages under that budget, evicted by that unit, on shmem. `ends`: how each read ended, or NULL.
 * 0, or a negative errno that the standard error explains.
 */
int live_play(const struct trace *trace, uint32_t budget_pages, uint32_t unit_pages, const char *directory,
              struct live *live, uint8_t *ends);

#endif
