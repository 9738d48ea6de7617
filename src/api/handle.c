/* SPDX-License-Identifier: MIT */
#include "api/handle.h"

#include "base/bits.h"
#include "base/error.h"
#include "minnow/minnow.h"
#include "sys/memory.h"

#include <errno.h>

static int check(bool is_null, const struct mnw_pool *pool, const char *what, const char *call) {
    if (is_null)
        return mnw__fail(-EINVAL, "%s: `%s` must not be NULL", call, what);
    if (pool->generation != mnw__memory_generation())
        return mnw__fail(-EOWNERDEAD, "%s: the %s was opened before this process was forked, and stays its parent's",
                         call, what);
    return 0;
}

int mnw__check_pool(const struct mnw_pool *pool, const char *call) {
    return check(!pool, pool, "pool", call);
}

int mnw__check_cache(const struct mnw_cache *cache, const char *call) {
    return check(!cache, cache ? cache->pool : NULL, "cache", call);
}

int mnw__check_view(const struct mnw_view *view, const char *call) {
    return check(!view, view ? view->cache->pool : NULL, "view", call);
}

int mnw__check_range(const struct mnw_cache *cache, uint64_t offset, uint64_t length, const char *call, uint64_t *page,
                     uint64_t *count) {
    uint64_t page_bytes = cache->backing.page_bytes, end = cache->pages.page_count * page_bytes;
    int error = mnw__check_cache(cache, call);
    if (error)
        return error;
    if (!mnw__is_aligned(offset, page_bytes) || !mnw__is_aligned(length, page_bytes))
        return mnw__fail(-EINVAL, "%s: offset %llu and length %llu must be multiples of the page size, %llu", call,
                         (unsigned long long)offset, (unsigned long long)length, (unsigned long long)page_bytes);
    if (!length || offset >= end || length > end - offset)
        return mnw__fail(-EINVAL, "%s: %llu bytes at offset %llu are not inside the cache's %llu", call,
                         (unsigned long long)length, (unsigned long long)offset, (unsigned long long)end);
    *page = offset / page_bytes;
    *count = length / page_bytes;
    return 0;
}
