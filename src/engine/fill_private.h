/* SPDX-License-Identifier: MIT */
/* Shared between fill.c (beginning) and fill_end.c (ending) and nobody else. See fill.h. */
#ifndef MNW_ENGINE_FILL_PRIVATE_H
#define MNW_ENGINE_FILL_PRIVATE_H

#include "engine/fill.h"

struct mnw__pages;

static inline enum mnw__fill_state mnw__fill_state_of(uint64_t word) {
    return (enum mnw__fill_state)(uint32_t)word;
}

static inline uint64_t mnw__fill_word(uint32_t generation, enum mnw__fill_state state) {
    return (uint64_t)generation << 32 | state;
}

/* By whoever has the fill. */
static inline void mnw__fill_set_state(struct mnw__fill *fill, enum mnw__fill_state state) {
    atomic_store(&fill->word, mnw__fill_word(fill->generation, state));
}

/* Starts, or goes on with, the read of a fill. The fill may have ended when this returns. */
void mnw__fill_read(struct mnw__fill *fill);
/* What could not be sent gets memory, and is read; false: there is none. */
bool mnw__fill_read_after_all(struct mnw__fill *fill);
/* The fill owns its buffer again; its read is started anew at `retry_ns`. */
void mnw__fill_pause(struct mnw__fill *fill, uint64_t retry_ns);
void mnw__fill_give_slot(struct mnw__fill *fill);
/* Calls `change` (leave, release, revisit) for every extent of a run. */
void mnw__fill_each_extent(struct mnw_cache *cache, uint64_t page, uint32_t count,
                           void (*change)(struct mnw__pages *pages, uint64_t extent));
/* The run is [page, page + count) from now on, and nothing of it is read yet. */
void mnw__fill_set_run(struct mnw__fill *fill, uint64_t page, uint32_t count);
/* The same for a part of the run (of no pages: none is left): extents that it has left are released. */
void mnw__fill_shrink_run(struct mnw__fill *fill, uint64_t page, uint32_t count);
/*
 * Pages of the run as if they had never been claimed: memory and charge go back, those that are FILLING become
 * ABSENT, whoever joined them faults again. False, and nothing has changed: the memory could not be punched.
 */
bool mnw__fill_unclaim(struct mnw__fill *fill, uint64_t page, uint32_t count);
/* There is no memory for it: as if it had never begun. The caller keeps its cache from closing. */
void mnw__fill_call_off(struct mnw__fill *fill);
/* The whole run is unclaimed and its extents are released. False: the fill is OWING, which its thread's timer ends. */
bool mnw__fill_take_back(struct mnw__fill *fill);

#endif
