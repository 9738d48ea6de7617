/* SPDX-License-Identifier: MIT */
#include "engine/pin.h"

#include "base/error.h"
#include "engine/cache.h"
#include "engine/job.h"
#include "engine/pool.h"

#include <errno.h>

/* Takes an extent's bytes out of what may be pinned; one extent for each fault thread stays free. */
static bool reserve(struct mnw_pool *pool) {
    uint64_t before = atomic_fetch_add(&pool->pinned, pool->extent_bytes);
    if (before + pool->extent_bytes + mnw__pool_budget_min(pool) <= atomic_load(&pool->budget))
        return true;
    atomic_fetch_sub(&pool->pinned, pool->extent_bytes);
    return false;
}

static void unpin_extent(struct mnw_cache *cache, uint64_t extent) {
    if (mnw__extent_unpin(&cache->pages, extent) != 1)
        return;
    atomic_fetch_sub(&cache->pinned_extents, 1);
    atomic_fetch_sub(&cache->pool->pinned, cache->pool->extent_bytes);
    mnw__pool_progress(cache->pool);
}

static int pin_extent(struct mnw_cache *cache, uint64_t extent) {
    bool fresh = false;
    int pinned;
    while ((pinned = mnw__extent_pin(&cache->pages, extent, &fresh)) == -EAGAIN)
        mnw__sleep_ns(20000); /* it is being evicted; that ends soon */
    if (fresh) {
        mnw__mutex_lock(&cache->policy_lock);
        cache->policy.ops->insert(&cache->policy, (uint32_t)extent);
        mnw__mutex_unlock(&cache->policy_lock);
    }
    if (pinned != 1)
        return pinned;
    if (!reserve(cache->pool)) {
        mnw__extent_unpin(&cache->pages, extent);
        return -ENOSPC;
    }
    atomic_fetch_add(&cache->pinned_extents, 1);
    return 0;
}

int mnw__pin_pages(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    uint64_t first = mnw__extent_of(&cache->pages, page), last = mnw__extent_of(&cache->pages, page + count - 1);
    uint64_t extent = first;
    int error = 0;
    for (; extent <= last && !error; extent++)
        error = pin_extent(cache, extent);
    uint64_t pinned_end = error ? extent - 1 : extent;
    if (error == -ENOSPC)
        mnw__fail(error,
                  "pin: %llu bytes more would leave a budget of %llu, of which %llu are pinned, less than one "
                  "extent for each fault thread",
                  (unsigned long long)((last - first + 1) * cache->pool->extent_bytes),
                  (unsigned long long)atomic_load(&cache->pool->budget),
                  (unsigned long long)atomic_load(&cache->pool->pinned));
    else if (error)
        mnw__fail(error, "pin: extent %llu is pinned too often", (unsigned long long)(extent - 1));
    if (!error) {
        error = mnw__job_read(cache, page, count);
        if (error)
            mnw__fail(error, "pin: a page of the range could not be read from the store");
    }
    if (error)
        for (extent = first; extent < pinned_end; extent++)
            unpin_extent(cache, extent);
    return error;
}

int mnw__unpin_pages(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    uint64_t first = mnw__extent_of(&cache->pages, page), last = mnw__extent_of(&cache->pages, page + count - 1);
    for (uint64_t extent = first; extent <= last; extent++)
        if (!mnw__extent_load(&cache->pages, extent).user_pins)
            return mnw__fail(
                -EINVAL, "unpin: the extent at offset %llu is not pinned",
                (unsigned long long)mnw__cache_page_offset(cache, mnw__extent_first(&cache->pages, extent)));
    for (uint64_t extent = first; extent <= last; extent++)
        unpin_extent(cache, extent);
    return 0;
}
