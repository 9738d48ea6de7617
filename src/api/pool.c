/* SPDX-License-Identifier: MIT */
/* The public face of pools, caches and views: checks arguments, calls the engine. Owns nothing. */
#include "engine/pool.h"
#include "api/handle.h"
#include "base/error.h"
#include "base/options.h"
#include "engine/member.h"
#include "minnow/minnow.h"
#include "store/store.h"
#include "sys/memory.h"
#include "sys/thread.h"

#include <errno.h>
#include <string.h>

/* Of a cache's name: what is kept of it. */
#define NAME_MAX_BYTES        63
#define READ_AROUND_MAX_BYTES (2u << 20)

/* ---- pools ---- */

int mnw_pool_open(struct mnw_pool **pool, const struct mnw_pool_options *options) {
    MNW__WHOLE_CALL;
    struct mnw_pool_options known;
    if (!pool || !options)
        return mnw__fail(-EINVAL, "mnw_pool_open: `pool` and `options` must not be NULL");
    int error = mnw__options_copy(&known, sizeof(known), options, "mnw_pool_options");
    if (!error)
        error = mnw__pool_open(pool, &known);
    if (!error)
        (*pool)->generation = mnw__memory_generation();
    return error;
}

int mnw_pool_set_budget(struct mnw_pool *pool, uint64_t budget_bytes) {
    MNW__WHOLE_CALL;
    int error = mnw__check_pool(pool, "mnw_pool_set_budget");
    return error ? error : mnw__pool_set_budget(pool, budget_bytes);
}

int mnw_pool_close(struct mnw_pool *pool) {
    MNW__WHOLE_CALL;
    int error = mnw__check_pool(pool, "mnw_pool_close");
    return error ? error : mnw__pool_close(pool);
}

int mnw_pool_event_fd(const struct mnw_pool *pool) {
    int error = mnw__check_pool(pool, "mnw_pool_event_fd");
    return error ? error : pool->notices.event_fd;
}

int mnw_pool_next_event(struct mnw_pool *pool, struct mnw_event *event) {
    MNW__WHOLE_CALL;
    int error = mnw__check_pool(pool, "mnw_pool_next_event");
    if (!error && !event)
        error = mnw__fail(-EINVAL, "mnw_pool_next_event: `event` must not be NULL");
    if (error)
        return error;
    if (!mnw__notices_take(&pool->notices, event))
        return 0;
    if (event->kind == MNW_EVENT_PREFETCH)
        mnw__job_event_taken(pool);
    return 1;
}

/* ---- caches ---- */

int mnw_cache_open(struct mnw_cache **cache, struct mnw_pool *pool, struct mnw_store *store,
                   const struct mnw_cache_options *options) {
    MNW__WHOLE_CALL;
    struct mnw_cache_options known;
    if (!cache || !store)
        return mnw__fail(-EINVAL, "mnw_cache_open: `cache` and `store` must not be NULL");
    int error = mnw__check_pool(pool, "mnw_cache_open");
    if (!error && store->generation != pool->generation)
        error = mnw__fail(-EOWNERDEAD, "mnw_cache_open: the store was opened before this process was forked");
    if (!error)
        error = mnw__options_copy(&known, sizeof(known), options, "mnw_cache_options");
    if (!error && known.name && strlen(known.name) > NAME_MAX_BYTES)
        error = mnw__fail(-EINVAL, "mnw_cache_open: a `name` of %zu bytes is longer than %d", strlen(known.name),
                          NAME_MAX_BYTES);
    if (!error && known.read_around_bytes > READ_AROUND_MAX_BYTES)
        error = mnw__fail(-EINVAL, "mnw_cache_open: `read_around_bytes` of %llu is more than %u",
                          (unsigned long long)known.read_around_bytes, READ_AROUND_MAX_BYTES);
    struct mnw_kept kept;
    if (!error && known.kept) {
        error = mnw__options_copy(&kept, sizeof(kept), known.kept, "mnw_kept");
        known.kept = &kept;
    }
    return error ? error : mnw__members_open(cache, pool, store, &known);
}

int mnw_cache_kept(const struct mnw_cache *cache, struct mnw_kept *kept) {
    int error = mnw__check_cache(cache, "mnw_cache_kept");
    if (!error && (!kept || kept->size < sizeof(*kept)))
        error = mnw__fail(-EINVAL, "mnw_cache_kept: set `kept->size` to sizeof(struct mnw_kept)");
    if (!error)
        mnw__cache_kept(cache, kept);
    return error;
}

size_t mnw_cache_page_size(const struct mnw_cache *cache) {
    return cache ? cache->backing.page_bytes : 0;
}

int mnw_cache_close(struct mnw_cache *cache) {
    MNW__WHOLE_CALL;
    int error = mnw__check_cache(cache, "mnw_cache_close");
    return error ? error : mnw__members_close(cache);
}

/* ---- views ---- */

/* Which member the view is to be of. */
static int choose_member(struct mnw_cache **cache, const struct mnw_view_options *options) {
    const struct mnw_pool *pool = (*cache)->pool;
    if (!(options->flags & MNW_VIEW_ON_NODE)) {
        *cache = mnw__member_here(*cache);
        return 0;
    }
    if (!(*cache)->members)
        return mnw__fail(-EINVAL, "mnw_view_open: MNW_VIEW_ON_NODE names a copy of a cache that has but one; open the "
                                  "cache with `replicas`");
    if (options->node >= MNW_NODES_MAX || !(pool->nodes >> options->node & 1))
        return mnw__fail(-EINVAL, "mnw_view_open: node %u is none of the pool's", options->node);
    *cache = mnw__member_of_node(*cache, (int)options->node);
    return 0;
}

int mnw_view_open(struct mnw_view **view, struct mnw_cache *cache, const struct mnw_view_options *options) {
    MNW__WHOLE_CALL;
    struct mnw_view_options known;
    if (!view)
        return mnw__fail(-EINVAL, "mnw_view_open: `view` must not be NULL");
    int error = mnw__check_cache(cache, "mnw_view_open");
    if (!error)
        error = mnw__options_copy(&known, sizeof(known), options, "mnw_view_options");
    if (!error)
        error = choose_member(&cache, &known);
    return error ? error : mnw__view_open(view, cache, &known);
}

void *mnw_view_data(const struct mnw_view *view) {
    return view ? (void *)view->address : NULL;
}

size_t mnw_view_length(const struct mnw_view *view) {
    return view ? view->length : 0;
}

int mnw_view_close(struct mnw_view *view) {
    MNW__WHOLE_CALL;
    int error = mnw__check_view(view, "mnw_view_close");
    return error ? error : mnw__view_close(view);
}
