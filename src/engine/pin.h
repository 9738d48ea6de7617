/* SPDX-License-Identifier: MIT */
/* Pins of the user's: ranges that stay resident. Owns nothing; the counts live in the extent words. */
#ifndef MNW_ENGINE_PIN_H
#define MNW_ENGINE_PIN_H

#include <stdint.h>

struct mnw_cache;

/* Pins the extents of a run of pages and brings the pages in. All or nothing: -EIO, -ENOSPC, -EOVERFLOW. */
int mnw__pin_pages(struct mnw_cache *cache, uint64_t page, uint64_t count);
/* -EINVAL, and nothing is unpinned, when an extent of the run is not pinned. */
int mnw__unpin_pages(struct mnw_cache *cache, uint64_t page, uint64_t count);

/* One extent, for the engine's own use: not refused for want of room, and nothing is read. */
void mnw__pin_extent(struct mnw_cache *cache, uint64_t extent);
void mnw__unpin_extent(struct mnw_cache *cache, uint64_t extent);

#endif
