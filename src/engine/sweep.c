/* SPDX-License-Identifier: MIT */
#include "engine/sweep.h"

#include "base/bits.h"
#include "engine/cache.h"
#include "engine/pool.h"
#include "engine/reclaim.h"
#include "engine/view.h"
#include "sys/data.h"

/* Nobody filled it: what memory there is came from elsewhere. */
static bool is_foreign(const struct mnw_cache *cache, uint64_t page) {
    enum mnw__page_state state = mnw__page_state(mnw__page_load(&cache->pages, page));
    return state == MNW__PAGE_ABSENT || state == MNW__PAGE_FAILED;
}

/* Pages [*first, *end) of the range, the first run that nobody filled. */
static bool foreign_run(const struct mnw_cache *cache, uint64_t *first, uint64_t *end, uint64_t limit) {
    while (*first < limit && !is_foreign(cache, *first))
        ++*first;
    *end = *first;
    while (*end < limit && is_foreign(cache, *end))
        ++*end;
    return *first < *end;
}

/* Where memory comes by whole extents, a charged one has all of it by right. */
static bool may_be_foreign(const struct mnw_cache *cache, uint64_t extent, uint64_t first, uint64_t limit) {
    uint64_t end;
    if (cache->pool->whole_extents)
        return !mnw__extent_load(&cache->pages, extent).charged;
    return foreign_run(cache, &first, &end, limit);
}

static void punch_foreign(struct mnw_cache *cache, uint64_t first, uint64_t limit) {
    uint64_t end;
    for (; foreign_run(cache, &first, &end, limit); first = end) {
        uint64_t length = (end - first) * cache->backing.page_bytes;
        if (mnw__backing_punch(&cache->backing, mnw__cache_page_offset(cache, first), length) == 0)
            mnw__count(&cache->counters, MNW__PAGES_FOREIGN, end - first);
    }
}

/* EVICTING by us, with nobody inside; false: it is in use, and may be looked at the next time. */
static bool claim(struct mnw_cache *cache, uint64_t extent) {
    if (mnw__extent_load(&cache->pages, extent).state != MNW__EXTENT_ABSENT)
        return mnw__extent_claim_eviction(&cache->pages, extent);
    if (mnw__extent_drain(&cache->pages, extent))
        return false;
    struct mnw__extent word = mnw__extent_load(&cache->pages, extent);
    if (!word.visitors && !word.fills)
        return true;
    mnw__reclaim_keep(cache, extent);
    return false;
}

/* Memory at pages [first, limit) of the extent. */
static void sweep_extent(struct mnw_cache *cache, uint64_t extent, uint64_t first, uint64_t limit) {
    if (!may_be_foreign(cache, extent, first, limit) || !claim(cache, extent))
        return;
    if (may_be_foreign(cache, extent, first, limit))
        punch_foreign(cache, first, limit);
    mnw__reclaim_keep(cache, extent);
}

static void sweep_run(struct mnw_cache *cache, uint64_t start, uint64_t end) {
    uint64_t page = start / cache->backing.page_bytes;
    uint64_t last = mnw__min(end / cache->backing.page_bytes, cache->pages.page_count);
    while (page < last) {
        uint64_t extent = mnw__extent_of(&cache->pages, page);
        uint64_t limit = mnw__min(mnw__extent_end(&cache->pages, extent), last);
        sweep_extent(cache, extent, page, limit);
        page = limit;
    }
}

static bool has_excess(struct mnw_cache *cache) {
    uint64_t resident;
    /* In this order: what is taken in between is no excess. What is given back may look like some, and costs a walk. */
    if (mnw__backing_resident(&cache->backing, &resident))
        return false;
    return resident > atomic_load(&cache->charged);
}

static void sweep_cache(struct mnw_cache *cache) {
    struct mnw__probe probe;
    uint64_t start, end;
    mnw__backing_look_up(&cache->backing);
    /* On hugetlb a punch destroys writers' copies. */
    if (mnw__cache_is_copied(cache) || !has_excess(cache) || mnw__probe_open(&probe, &cache->backing))
        return;
    for (uint64_t at = 0; mnw__probe_next(&probe, at, UINT64_MAX, &start, &end) > 0; at = end) {
        if (atomic_load_explicit(&cache->pool->stopping, memory_order_acquire))
            break;
        sweep_run(cache, start, end);
    }
    mnw__probe_close(&probe);
}

void mnw__sweep(struct mnw_pool *pool) {
    struct mnw_cache *cache;
    for (unsigned i = 0; (cache = mnw__cache_hold_nth(pool, i)); i++) {
        sweep_cache(cache);
        mnw__cache_let_go(cache);
    }
}
