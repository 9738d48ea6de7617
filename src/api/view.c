/* SPDX-License-Identifier: MIT */
/* The public face of views of other processes: checks arguments, calls the engine. Owns nothing. */
#include "api/handle.h"
#include "base/error.h"
#include "base/options.h"
#include "engine/cache.h"
#include "engine/remote.h"
#include "minnow/minnow.h"

#include <errno.h>

int mnw_cache_fd(const struct mnw_cache *cache) {
    int error = mnw__check_cache(cache, "mnw_cache_fd");
    return error ? error : cache->backing.readonly_fd;
}

int mnw_view_attach(struct mnw_view **view, struct mnw_cache *cache, const struct mnw_attach_options *options) {
    struct mnw_attach_options known;
    if (!view || !options)
        return mnw__fail(-EINVAL, "mnw_view_attach: `view` and `options` must not be NULL");
    int error = mnw__check_cache(cache, "mnw_view_attach");
    if (!error)
        error = mnw__options_copy(&known, sizeof(known), options, "mnw_attach_options");
    return error ? error : mnw__view_attach(view, cache, &known);
}

int mnw_view_fd(const struct mnw_view *view) {
    int error = mnw__check_view(view, "mnw_view_fd");
    if (!error && !view->remote)
        error = mnw__fail(-EINVAL, "mnw_view_fd: the view is this process's own, and so is its userfaultfd");
    return error ? error : view->uffd;
}

int mnw_view_ranges(struct mnw_view *view, struct mnw_view_range *ranges, size_t count) {
    int error = mnw__check_view(view, "mnw_view_ranges");
    if (!error && count && !ranges)
        error = mnw__fail(-EINVAL, "mnw_view_ranges: `ranges` must not be NULL with a count of %zu", count);
    return error ? error : mnw__view_ranges(view, ranges, count);
}
