/* SPDX-License-Identifier: MIT */
/* Shared between fill.c (beginning) and fill_end.c (ending) and nobody else. See fill.h. */
#ifndef MNW_ENGINE_FILL_PRIVATE_H
#define MNW_ENGINE_FILL_PRIVATE_H

#include <stdint.h>

struct mnw_cache;
struct mnw__fill;
struct mnw__pages;

/* Starts, or goes on with, the read of a fill. The fill may have ended when this returns. */
void mnw__fill_read(struct mnw__fill *fill);
/* The fill owns its buffer again; its read is started anew at `retry_ns`. */
void mnw__fill_pause(struct mnw__fill *fill, uint64_t retry_ns);
void mnw__fill_give_slot(struct mnw__fill *fill);
/* Calls `change` (leave, release, revisit) for every extent of a run. */
void mnw__fill_each_extent(struct mnw_cache *cache, uint64_t page, uint32_t count,
                           void (*change)(struct mnw__pages *pages, uint64_t extent));
/* Takes back memory and charge of pages that are FILLING and ours. */
void mnw__fill_free_memory(struct mnw_cache *cache, uint64_t page, uint32_t count);
/* FILLING -> ABSENT for a run, memory freed, joiners woken. */
void mnw__fill_unclaim(struct mnw_cache *cache, uint64_t page, uint32_t count);

#endif
