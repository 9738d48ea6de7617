/* SPDX-License-Identifier: MIT */
/* The public face of ranges: pin, prefetch, invalidate, residency. Owns nothing. */
#include "api/handle.h"
#include "base/bits.h"
#include "base/error.h"
#include "engine/adopt.h"
#include "engine/cache.h"
#include "engine/job.h"
#include "engine/member.h"
#include "minnow/minnow.h"
#include "sys/thread.h"

#include <errno.h>
#include <string.h>

int mnw_pin(struct mnw_cache *cache, uint64_t offset, uint64_t length) {
    MNW__WHOLE_CALL;
    uint64_t page, count;
    int error =
        cache ? mnw__check_range(cache, offset, length, "mnw_pin", &page, &count) : mnw__check_cache(NULL, "mnw_pin");
    return error ? error : mnw__members_pin(cache, page, count);
}

int mnw_unpin(struct mnw_cache *cache, uint64_t offset, uint64_t length) {
    MNW__WHOLE_CALL;
    uint64_t page, count;
    int error = cache ? mnw__check_range(cache, offset, length, "mnw_unpin", &page, &count)
                      : mnw__check_cache(NULL, "mnw_unpin");
    return error ? error : mnw__members_unpin(cache, page, count);
}

int64_t mnw_prefetch(struct mnw_cache *cache, uint64_t offset, uint64_t length, uint64_t cookie) {
    MNW__WHOLE_CALL;
    uint64_t page, count;
    int error = cache ? mnw__check_range(cache, offset, length, "mnw_prefetch", &page, &count)
                      : mnw__check_cache(NULL, "mnw_prefetch");
    if (error)
        return error;
    int64_t id = mnw__job_prefetch(mnw__member_here(cache), page, count, cookie);
    if (id == -EAGAIN)
        return mnw__fail(-EAGAIN,
                         "mnw_prefetch: %d prefetches are running or have their event unread; take events "
                         "with mnw_pool_next_event()",
                         MNW__JOB_PREFETCHES);
    return id;
}

int mnw_prefetch_cancel(struct mnw_pool *pool, int64_t id) {
    MNW__WHOLE_CALL;
    int error = mnw__check_pool(pool, "mnw_prefetch_cancel");
    if (!error)
        error = mnw__job_cancel(pool, id);
    if (error == -ENOENT)
        return mnw__fail(error, "mnw_prefetch_cancel: no prefetch %lld is running", (long long)id);
    return error;
}

int mnw_invalidate(struct mnw_cache *cache, uint64_t offset, uint64_t length) {
    MNW__WHOLE_CALL;
    uint64_t page, count, stuck;
    int error = cache ? mnw__check_range(cache, offset, length, "mnw_invalidate", &page, &count)
                      : mnw__check_cache(NULL, "mnw_invalidate");
    if (error)
        return error;
    error = mnw__members_reclaim(cache, page, count, &stuck);
    if (error && stuck == UINT64_MAX)
        return mnw__cache_is_copied(cache)
                   ? mnw__fail(error, "mnw_invalidate: the copies that writable views of other processes made of these "
                                      "huge pages would be lost; close those views first")
                   : mnw__fail(error, "mnw_invalidate: part of the range is pinned; unpin it first");
    if (error == -EIO)
        return mnw__fail(
            error,
            "mnw_invalidate: the range is forgotten, but a page that had failed, at offset %llu or behind it, "
            "could not be read again and stays SIGBUS; mend the store, and invalidate it once more",
            (unsigned long long)mnw__cache_page_offset(cache, stuck));
    if (error)
        return mnw__fail(error,
                         "mnw_invalidate: stopped at offset %llu (error %d): pinned meanwhile, or the store has "
                         "not answered a read there within its deadline",
                         (unsigned long long)mnw__cache_page_offset(cache, stuck), -error);
    return 0;
}

static uint8_t residency_of(const struct mnw_cache *cache, uint64_t page) {
    uint8_t flags = 0;
    switch (mnw__page_state(mnw__page_load(&cache->pages, page))) {
    case MNW__PAGE_ABSENT:
        break;
    case MNW__PAGE_FILLING:
        flags = MNW_FILLING;
        break;
    case MNW__PAGE_PRESENT:
        flags = MNW_RESIDENT;
        break;
    case MNW__PAGE_FAILED:
        flags = MNW_FAILED;
        break;
    }
    if (mnw__extent_load(&cache->pages, mnw__extent_of(&cache->pages, page)).user_pins)
        flags |= MNW_PINNED;
    return flags;
}

/* Of several members': pinned in one, and the best state that it has in any. */
static uint8_t best_of(uint8_t one, uint8_t other) {
    static const uint8_t states[] = {MNW_RESIDENT, MNW_FILLING, MNW_FAILED};
    uint8_t both = one | other, flags = both & MNW_PINNED;
    for (size_t i = 0; i < mnw__array_count(states); i++)
        if (both & states[i])
            return flags | states[i];
    return flags;
}

static void add_residency(const struct mnw_cache *cache, uint64_t page, uint8_t *pages, size_t count) {
    uint64_t end = count ? mnw__extent_of(&cache->pages, page + count - 1) + 1 : 0;
    uint64_t extent = mnw__extent_of(&cache->pages, page);
    for (; (extent = mnw__words_next_extent(cache, extent, end)) < end; extent++) {
        uint64_t first = mnw__max(mnw__extent_first(&cache->pages, extent), page);
        uint64_t stop = mnw__min(mnw__extent_end(&cache->pages, extent), page + count);
        for (uint64_t at = first; at < stop; at++)
            pages[at - page] = best_of(pages[at - page], residency_of(cache, at));
    }
}

int mnw_residency(struct mnw_cache *cache, uint64_t offset, uint8_t *pages, size_t count) {
    MNW__WHOLE_CALL;
    uint64_t page, all;
    int error = mnw__check_cache(cache, "mnw_residency");
    if (!error && !pages)
        error = mnw__fail(-EINVAL, "mnw_residency: `pages` must not be NULL");
    if (!error && count > cache->pages.page_count)
        error = mnw__fail(-EINVAL, "mnw_residency: %zu pages are more than the cache has", count);
    if (!error)
        error =
            mnw__check_range(cache, offset, count * (uint64_t)cache->backing.page_bytes, "mnw_residency", &page, &all);
    if (error)
        return error;
    memset(pages, 0, count);
    for (unsigned i = 0; i < mnw__member_count(cache); i++)
        add_residency(mnw__member(cache, i), page, pages, count);
    return 0;
}
