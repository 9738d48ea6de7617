/* SPDX-License-Identifier: MIT */
#include "engine/pin.h"

#include "base/bits.h"
#include "base/error.h"
#include "engine/cache.h"
#include "engine/job.h"
#include "engine/pool.h"
#include "sys/backing.h"

#include <errno.h>

/*
 * The words count the pins, the pool the bytes of extents with at least one. The pool's lock keeps the two
 * together: first and last pins come one at a time.
 */
static bool has_room(const struct mnw_pool *pool) {
    uint64_t kept = mnw__pool_budget_min(pool); /* an extent for each fault thread is never pinned */
    return mnw__pool_bound_bytes(pool) + pool->extent_bytes + kept <= atomic_load(&pool->budget);
}

static int unpin_locked(struct mnw_cache *cache, uint64_t extent) {
    int left = mnw__extent_unpin(&cache->pages, extent);
    if (left == 1) {
        atomic_fetch_sub(&cache->pinned_extents, 1);
        atomic_fetch_sub(&cache->pool->pinned, cache->pool->extent_bytes);
    }
    return left;
}

static int pin_locked(struct mnw_cache *cache, uint64_t extent, bool always) {
    int pinned = mnw__extent_pin(&cache->pages, extent);
    if (pinned != 1)
        return pinned;
    if (!always && !has_room(cache->pool)) {
        mnw__extent_unpin(&cache->pages, extent);
        return -ENOSPC;
    }
    atomic_fetch_add(&cache->pinned_extents, 1);
    atomic_fetch_add(&cache->pool->pinned, cache->pool->extent_bytes);
    return 0;
}

/* `always`: whatever the pool has room for. */
static int pin_extent(struct mnw_cache *cache, uint64_t extent, bool always) {
    struct mnw_pool *pool = cache->pool;
    for (uint64_t pause_ns = 20000;; pause_ns = mnw__min(2 * pause_ns, 1000000)) {
        mnw__mutex_lock(&pool->lock);
        int error = pin_locked(cache, extent, always);
        mnw__mutex_unlock(&pool->lock);
        mnw__cache_sync_policy(cache, extent, false);
        if (error != -EAGAIN)
            return error;
        mnw__sleep_ns(pause_ns); /* it is being evicted, or invalidated */
    }
}

void mnw__unpin_extent(struct mnw_cache *cache, uint64_t extent) {
    mnw__mutex_lock(&cache->pool->lock);
    unpin_locked(cache, extent);
    mnw__mutex_unlock(&cache->pool->lock);
    mnw__cache_sync_policy(cache, extent, false);
    mnw__pool_progress(cache->pool);
}

void mnw__pin_extent(struct mnw_cache *cache, uint64_t extent) {
    pin_extent(cache, extent, true);
}

/* For want of memory: whose, where that can be told. */
static int fail_without_memory(const struct mnw_cache *cache, uint64_t count) {
    const struct mnw_pool *pool = cache->pool;
    uint64_t bytes = count * cache->backing.page_bytes;
    int error = 0;
    if (pool->numa == MNW_NUMA_BIND)
        error = mnw__backing_check_nodes(pool->backing, bytes, mnw__nodes_now(pool));
    else if (mnw__backing_is_hugetlb(pool->backing))
        error = mnw__backing_check(pool->backing, bytes);
    return error ? error : mnw__fail(-ENOMEM, "pin: no memory for %llu bytes could be had", (unsigned long long)bytes);
}

int mnw__pin_pages(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    uint64_t first = mnw__extent_of(&cache->pages, page), last = mnw__extent_of(&cache->pages, page + count - 1);
    uint64_t extent = first;
    int error = 0;
    for (; extent <= last && !error; extent++)
        error = pin_extent(cache, extent, false);
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
        if (error == -ENOMEM)
            error = fail_without_memory(cache, count);
        else if (error)
            mnw__fail(error, "pin: a page of the range could not be read from the store");
    }
    if (error)
        for (extent = first; extent < pinned_end; extent++)
            mnw__unpin_extent(cache, extent);
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
        mnw__unpin_extent(cache, extent);
    return 0;
}
