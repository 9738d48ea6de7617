/* SPDX-License-Identifier: MIT */
/*
 * Reclaim: giving memory back, in extents and batches, ahead of need.
 *
 * Owns: the reclaimer thread's loop and every eviction. Any thread may evict, also a consumer whose fault is resolved
 * inline; an extent is evicted by whoever claims its word. Never waits for a fill: an extent in use is passed over.
 */
#ifndef MNW_ENGINE_RECLAIM_H
#define MNW_ENGINE_RECLAIM_H

#include <stdbool.h>
#include <stdint.h>

struct mnw_pool;
struct mnw_cache;

/* Evicts until `bytes` were given back, or nothing evictable was found; the bytes given back. */
uint64_t mnw__reclaim(struct mnw_pool *pool, uint64_t bytes, bool direct);
/*
 * A little of it on this thread, before the reclaimer would be called: for a faulter who fills his page himself. Taking
 * memory away on another CPU interrupts him at every extent, and costs him more than doing it.
 */
void mnw__reclaim_here(struct mnw_pool *pool);
/*
 * Grace. Where a few extents are fought over, an extent would be evicted for the next waiter before its faulter has
 * run. So an extent that a fault was filled in is spared for a moment, once for each time it becomes resident: every
 * eviction then serves a fault at least. Faults that find everything spared starve until `pool->spared_until_ns`.
 */
#define MNW__SPARED_MAX 32
/* A fault has its page in this extent, which is entered. */
void mnw__reclaim_spare(struct mnw_cache *cache, uint64_t extent, uint64_t now_ns);

/* The reclaimer thread: keeps the pool's low watermark. */
void mnw__reclaim_run(void *pool);
/* Takes an EVICTING extent that nobody is in to ABSENT: punches, drops words, wakes. 0 or a negative errno. */
int mnw__reclaim_extent(struct mnw_cache *cache, uint64_t extent, uint64_t *bytes);

/* EVICTING -> RESIDENT: it could not be evicted. */
void mnw__reclaim_keep(struct mnw_cache *cache, uint64_t extent);

/*
 * Forgets [page, page + count), by whole extents: waits for fills in flight, heals failed pages. -EBUSY:
 * pinned, or a read unanswered past its deadline (`*stuck` is its page). -EIO: all is forgotten, but a failed page
 * (from
 * `*stuck` on) could not be read again where that comes first, and stays SIGBUS.
 */
int mnw__reclaim_range(struct mnw_cache *cache, uint64_t page, uint64_t count, uint64_t *stuck);
/*
 * For a view that was being attached while pages were forgotten: what it was presumed to bar, and is known to be healed
 * in all others, is read and healed in it too. What cannot be read stays SIGBUS.
 */
void mnw__reclaim_reopen(struct mnw_cache *cache);

#endif
