/* SPDX-License-Identifier: MIT */
/* The public face of views of other processes: checks arguments, calls the engine. Owns nothing. */
#include "api/handle.h"
#include "base/error.h"
#include "base/options.h"
#include "engine/cache.h"
#include "engine/inline.h"
#include "engine/limit.h"
#include "engine/remote.h"
#include "minnow/minnow.h"
#include "sys/backing.h"
#include "sys/thread.h"

#include <errno.h>

int mnw_cache_fd(const struct mnw_cache *cache) {
    int error = mnw__check_cache(cache, "mnw_cache_fd");
    return error ? error : cache->backing.readonly_fd;
}

int mnw_view_attach(struct mnw_view **view, struct mnw_cache *cache, const struct mnw_attach_options *options) {
    MNW__WHOLE_CALL;
    struct mnw_attach_options known;
    if (!view || !options)
        return mnw__fail(-EINVAL, "mnw_view_attach: `view` and `options` must not be NULL");
    int error = mnw__check_cache(cache, "mnw_view_attach");
    if (!error)
        error = mnw__options_copy(&known, sizeof(known), options, "mnw_attach_options");
    if (!error && cache->members && known.flags & MNW_VIEW_WRITE)
        error = mnw__fail(-EINVAL, "mnw_view_attach: a cache with `replicas` is for reading: MNW_VIEW_WRITE needs one "
                                   "without");
    return error ? error : mnw__view_attach(view, cache, &known);
}

int mnw_limit_open(struct mnw_limit **limit, uint32_t faults_per_second) {
    MNW__WHOLE_CALL;
    if (!limit || !faults_per_second)
        return mnw__fail(-EINVAL, "mnw_limit_open: `limit` must not be NULL, and faults_per_second not 0");
    *limit = mnw__limit_new(faults_per_second);
    return *limit ? 0 : mnw__fail(-ENOMEM, "mnw_limit_open: out of memory");
}

int mnw_limit_close(struct mnw_limit *limit) {
    MNW__WHOLE_CALL;
    if (!limit)
        return mnw__fail(-EINVAL, "mnw_limit_close: `limit` must not be NULL");
    mnw__limit_unref(limit);
    return 0;
}

int mnw_view_fd(const struct mnw_view *view) {
    int error = mnw__check_view(view, "mnw_view_fd");
    if (!error && !view->remote)
        error = mnw__fail(-EINVAL, "mnw_view_fd: the view is this process's own, and so is its userfaultfd");
    return error ? error : view->uffd;
}

static int populate(struct mnw_view *view, uint64_t page, uint64_t count, uint64_t *failed) {
    if (view->is_inline)
        return mnw__inline_populate(view, page, count, failed);
    *failed = page;
    return mnw__view_populate(mnw__view_address_of(view, page), count * view->cache->backing.page_bytes);
}

int mnw_view_populate(struct mnw_view *view, uint64_t offset, uint64_t length) {
    MNW__WHOLE_CALL;
    uint64_t failed;
    int error = mnw__check_view(view, "mnw_view_populate");
    if (error)
        return error;
    if (view->remote)
        return mnw__fail(-EINVAL, "mnw_view_populate: the view is another process's; only that can touch it");
    if (!length || offset >= view->length || length > view->length - offset)
        return mnw__fail(-EINVAL, "mnw_view_populate: %llu bytes at offset %llu are not inside the view's %zu",
                         (unsigned long long)length, (unsigned long long)offset, view->length);
    uint64_t page_bytes = view->cache->backing.page_bytes, first = offset / page_bytes;
    error = populate(view, view->first_page + first, (offset + length - 1) / page_bytes - first + 1, &failed);
    if (error == -EAGAIN)
        return mnw__fail(error,
                         "mnw_view_populate: the page at offset %llu of the cache is evicted again before it is "
                         "mapped; raise the pool's budget, or pin the range first",
                         (unsigned long long)mnw__cache_page_offset(view->cache, failed));
    if (error)
        return mnw__fail(error,
                         "mnw_view_populate: a page at offset %llu of the cache, or behind it, cannot be had "
                         "(error %d); touching it is SIGBUS until it is invalidated",
                         (unsigned long long)mnw__cache_page_offset(view->cache, failed), -error);
    return 0;
}

int mnw_view_ranges(struct mnw_view *view, struct mnw_view_range *ranges, size_t count) {
    MNW__WHOLE_CALL;
    int error = mnw__check_view(view, "mnw_view_ranges");
    if (!error && count && !ranges)
        error = mnw__fail(-EINVAL, "mnw_view_ranges: `ranges` must not be NULL with a count of %zu", count);
    return error ? error : mnw__view_ranges(view, ranges, count);
}
