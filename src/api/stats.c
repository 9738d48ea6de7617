/* SPDX-License-Identifier: MIT */
/* Statistics: sums of what the engine counts, as a struct and as JSON. Owns nothing. */
#include "api/handle.h"
#include "base/error.h"
#include "base/histogram.h"
#include "engine/cache.h"
#include "engine/fault.h"
#include "engine/member.h"
#include "engine/pool.h"
#include "engine/survey.h"
#include "minnow/minnow.h"
#include "sys/backing.h"
#include "sys/numa.h"
#include "sys/thread.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Where each counter goes in the public struct, and what JSON calls it. */
#define FIELDS(X)                                                                                                      \
    X(FAULTS_MINOR, faults_minor)                                                                                      \
    X(FAULTS_MISSING, faults_missing)                                                                                  \
    X(FAULTS_RESOLVED, faults_resolved)                                                                                \
    X(FAULTS_JOINED, faults_joined)                                                                                    \
    X(FAULTS_FAILED, faults_failed)                                                                                    \
    X(FAULTS_STARVED, faults_starved)                                                                                  \
    X(PAGES_MAPPED, pages_mapped)                                                                                      \
    X(PAGES_PROMOTED, pages_promoted)                                                                                  \
    X(FILLS, fills)                                                                                                    \
    X(FILL_BYTES, fill_bytes)                                                                                          \
    X(FILLS_FAILED, fills_failed)                                                                                      \
    X(FILLS_LATE, fills_late)                                                                                          \
    X(READ_RETRIES, read_retries)                                                                                      \
    X(READAHEAD_PAGES, readahead_pages)                                                                                \
    X(EVICTIONS, evictions)                                                                                            \
    X(EVICTED_BYTES, evicted_bytes)                                                                                    \
    X(EVICTIONS_DIRECT, evictions_direct)                                                                              \
    X(ZAPS, zaps)                                                                                                      \
    X(PAGES_LOST, pages_lost)                                                                                          \
    X(REDELIVERIES, redeliveries)                                                                                      \
    X(PAGES_FOREIGN, pages_foreign)                                                                                    \
    X(PAGES_ELSEWHERE, pages_elsewhere)                                                                                \
    X(POLICIES_FOREIGN, policies_foreign)                                                                              \
    X(PAGES_COPIED, pages_copied)                                                                                      \
    X(FAULTS_PLACED, faults_placed)                                                                                    \
    X(FAULTS_REMOTE, faults_remote)                                                                                    \
    X(EXTENTS_SAMPLED, extents_sampled)                                                                                \
    X(PAGES_MOVED, pages_moved)                                                                                        \
    X(PAGES_UNMOVED, pages_unmoved)                                                                                    \
    X(UNMOVED_SCARCE, unmoved_scarce)                                                                                  \
    X(UNMOVED_SHARED, unmoved_shared)

static void add_counters(struct mnw_stats *stats, const struct mnw__counters *counters) {
#define ADD(counter, field)                                                                                            \
    stats->field += atomic_load_explicit(&counters->values[MNW__##counter], memory_order_relaxed);
    FIELDS(ADD)
#undef ADD
}

static void add_pool(struct mnw_stats *stats, struct mnw_pool *pool) {
    stats->version = MNW_STATS_VERSION;
    stats->node_count = (uint32_t)__builtin_popcountll(pool->nodes);
    stats->budget_bytes = atomic_load(&pool->budget);
    stats->resident_bytes_max = atomic_load(&pool->charged_max);
    stats->nodes_changed = atomic_load(&pool->nodes_now.changes);
    stats->events_dropped = mnw__notices_dropped(&pool->notices);
}

static int copy_out(struct mnw_stats *to, size_t size, const struct mnw_stats *from, const char *call) {
    if (!to || size < offsetof(struct mnw_stats, budget_bytes))
        return mnw__fail(-EINVAL, "%s: `stats` must not be NULL and `size` must be sizeof(struct mnw_stats)", call);
    memset(to, 0, size);
    memcpy(to, from, size < sizeof(*from) ? size : sizeof(*from));
    return 0;
}

static void collect(struct mnw_pool *pool, struct mnw_stats *stats) {
    memset(stats, 0, sizeof(*stats));
    add_pool(stats, pool);
    stats->resident_bytes = atomic_load(&pool->charged);
    /* The most is raised a moment after the sum that raises it. */
    if (stats->resident_bytes_max < stats->resident_bytes)
        stats->resident_bytes_max = stats->resident_bytes;
    stats->pinned_bytes = atomic_load(&pool->pinned);
    stats->numa_balancing = mnw__survey_balancing(pool);
    mnw__mutex_lock(&pool->lock);
    add_counters(stats, &pool->retired);
    for (struct mnw_cache *cache = pool->caches; cache; cache = cache->next) {
        add_counters(stats, &cache->counters);
        stats->metadata_bytes += mnw__cache_metadata_bytes(cache);
    }
    mnw__mutex_unlock(&pool->lock);
}

int mnw_pool_stats(struct mnw_pool *pool, struct mnw_stats *stats, size_t size) {
    MNW__WHOLE_CALL;
    struct mnw_stats now;
    int error = mnw__check_pool(pool, "mnw_pool_stats");
    if (error)
        return error;
    collect(pool, &now);
    return copy_out(stats, size, &now, "mnw_pool_stats");
}

int mnw_cache_stats(struct mnw_cache *cache, struct mnw_stats *stats, size_t size) {
    MNW__WHOLE_CALL;
    struct mnw_stats now = {0};
    int error = mnw__check_cache(cache, "mnw_cache_stats");
    if (error)
        return error;
    add_pool(&now, cache->pool);
    for (unsigned i = 0; i < mnw__member_count(cache); i++) {
        const struct mnw_cache *member = mnw__member(cache, i);
        add_counters(&now, &member->counters);
        now.resident_bytes += atomic_load(&member->charged);
        now.pinned_bytes += atomic_load(&member->pinned_extents) * member->pool->extent_bytes;
        now.metadata_bytes += mnw__cache_metadata_bytes(member);
    }
    return copy_out(stats, size, &now, "mnw_cache_stats");
}

static void add_latency(struct mnw_node_latency *latency, const struct mnw__latency *from) {
    uint64_t before = latency->map.count;
    mnw__histogram_merge(&latency->map, &from->first);
    latency->queue.buckets[mnw__histogram_bucket(0)] += latency->map.count - before;
    latency->queue.count += latency->map.count - before;
    mnw__histogram_merge(&latency->total, &from->first);
    mnw__histogram_merge(&latency->queue, &from->queue);
    mnw__histogram_merge(&latency->map, &from->map);
    mnw__histogram_merge(&latency->total, &from->total);
    mnw__histogram_merge(&latency->fill, &from->fill);
    mnw__histogram_merge(&latency->map, &from->filled_map);
    mnw__histogram_merge(&latency->total, &from->filled_total);
}

static bool collect_latency(struct mnw_pool *pool, int node, struct mnw_node_latency *latency) {
    bool any = false;
    memset(latency, 0, sizeof(*latency));
    for (unsigned i = 0; i < pool->thread_count; i++) {
        if (pool->threads[i].node != node)
            continue;
        add_latency(latency, pool->threads[i].latency);
        any = true;
    }
    return any;
}

int mnw_pool_latency(struct mnw_pool *pool, unsigned node, struct mnw_node_latency *latency, size_t size) {
    MNW__WHOLE_CALL;
    struct mnw_node_latency now;
    int error = mnw__check_pool(pool, "mnw_pool_latency");
    if (error)
        return error;
    if (!latency || !size)
        return mnw__fail(-EINVAL, "mnw_pool_latency: `latency` must not be NULL and `size` must be its size");
    if (!collect_latency(pool, (int)node, &now))
        return mnw__fail(-ENOENT, "mnw_pool_latency: the pool has no fault thread on node %u", node);
    memset(latency, 0, size);
    memcpy(latency, &now, size < sizeof(now) ? size : sizeof(now));
    return 0;
}

/* False: the pool has nothing to do with that node. */
static bool collect_node(const struct mnw_pool *pool, unsigned node, const struct mnw__survey *survey,
                         struct mnw_node_stats *stats) {
    struct mnw__hugepages pages;
    bool is_outside = !(mnw__nodes_now(pool) >> node & 1);
    *stats = (struct mnw_node_stats){.resident_bytes = survey->resident_bytes[node],
                                     .pages_elsewhere = atomic_load(&pool->elsewhere[node]),
                                     .is_outside = is_outside};
    if (is_outside && !stats->resident_bytes)
        return false;
    for (unsigned i = 0; i < pool->thread_count; i++)
        stats->fault_threads += pool->threads[i].node == (int)node;
    if (mnw__backing_is_hugetlb(pool->backing) && !mnw__hugepages(pool->page_bytes, (int)node, &pages)) {
        stats->huge_pages = pages.total;
        stats->huge_pages_free = pages.free;
    }
    mnw__numa_node_memory((int)node, &stats->memory_bytes, &stats->memory_free_bytes);
    return true;
}

int mnw_pool_node_stats(struct mnw_pool *pool, unsigned node, struct mnw_node_stats *stats, size_t size) {
    MNW__WHOLE_CALL;
    struct mnw__survey survey;
    struct mnw_node_stats now;
    int error = mnw__check_pool(pool, "mnw_pool_node_stats");
    if (error)
        return error;
    if (!stats || !size)
        return mnw__fail(-EINVAL, "mnw_pool_node_stats: `stats` must not be NULL and `size` must be its size");
    if (node < MNW_NODES_MAX)
        mnw__survey_get(pool, &survey);
    if (node >= MNW_NODES_MAX || !collect_node(pool, node, &survey, &now))
        return mnw__fail(-ENOENT, "mnw_pool_node_stats: node %u is none of the pool's, and has nothing of it", node);
    memset(stats, 0, size);
    memcpy(stats, &now, size < sizeof(now) ? size : sizeof(now));
    return 0;
}

int mnw_cache_placement(struct mnw_cache *cache, uint64_t pages_max, struct mnw_placement *placement, size_t size) {
    MNW__WHOLE_CALL;
    struct mnw_placement now = {0};
    int error = mnw__check_cache(cache, "mnw_cache_placement");
    if (error)
        return error;
    if (!placement || !size)
        return mnw__fail(-EINVAL, "mnw_cache_placement: `placement` must not be NULL and `size` must be its size");
    unsigned count = mnw__member_count(cache);
    for (unsigned i = 0; i < count; i++)
        mnw__place_survey(mnw__member(cache, i), pages_max ? (pages_max - 1) / count + 1 : 0, &now);
    memset(placement, 0, size);
    memcpy(placement, &now, size < sizeof(now) ? size : sizeof(now));
    return 0;
}

/* ---- JSON ---- */

static json_t *number(uint64_t value) {
    return json_integer((json_int_t)value);
}

static json_t *histogram_json(const struct mnw_histogram *histogram) {
    json_t *object = json_object(), *buckets = json_array();
    for (unsigned i = 0; i < MNW_HISTOGRAM_BUCKETS; i++)
        if (histogram->buckets[i])
            json_array_append_new(
                buckets, json_pack("[I,I]", (json_int_t)mnw_histogram_floor(i), (json_int_t)histogram->buckets[i]));
    json_object_set_new(object, "count", number(histogram->count));
    json_object_set_new(object, "sum_ns", number(histogram->sum_ns));
    json_object_set_new(object, "mean_ns", number(histogram->count ? histogram->sum_ns / histogram->count : 0));
    json_object_set_new(object, "p50_ns", number(mnw_histogram_quantile(histogram, 0.5)));
    json_object_set_new(object, "p90_ns", number(mnw_histogram_quantile(histogram, 0.9)));
    json_object_set_new(object, "p99_ns", number(mnw_histogram_quantile(histogram, 0.99)));
    json_object_set_new(object, "p999_ns", number(mnw_histogram_quantile(histogram, 0.999)));
    json_object_set_new(object, "max_ns", number(histogram->max_ns));
    json_object_set_new(object, "buckets", buckets); /* pairs: least value, count */
    return object;
}

static void set_latency(json_t *object, const struct mnw_node_latency *latency) {
    json_object_set_new(object, "queue", histogram_json(&latency->queue));
    json_object_set_new(object, "fill", histogram_json(&latency->fill));
    json_object_set_new(object, "map", histogram_json(&latency->map));
    json_object_set_new(object, "total", histogram_json(&latency->total));
}

static json_t *nodes_json(struct mnw_pool *pool, const struct mnw__survey *survey) {
    json_t *nodes = json_array();
    for (unsigned node = 0; node < MNW_NODES_MAX; node++) {
        struct mnw_node_latency latency;
        struct mnw_node_stats now;
        if (!collect_node(pool, node, survey, &now))
            continue;
        json_t *object = json_object();
        json_object_set_new(object, "node", json_integer(node));
#define SET(field) json_object_set_new(object, #field, number(now.field));
        SET(resident_bytes)
        SET(pages_elsewhere)
        SET(huge_pages)
        SET(huge_pages_free)
        SET(memory_bytes)
        SET(memory_free_bytes)
        SET(fault_threads)
        SET(is_outside)
#undef SET
        if (collect_latency(pool, (int)node, &latency))
            set_latency(object, &latency);
        json_array_append_new(nodes, object);
    }
    return nodes;
}

/* The sample itself, of all caches. */
static json_t *placement_json(struct mnw_pool *pool, const struct mnw_placement *sample) {
    json_t *object = json_object(), *nodes = json_array();
    json_object_set_new(object, "asked_bytes", number(sample->asked_bytes));
    json_object_set_new(object, "unknown_bytes", number(sample->unknown_bytes));
    json_object_set_new(object, "outside_bytes", number(sample->outside_bytes));
    json_object_set_new(object, "copied_bytes", number(sample->copied_bytes));
    for (unsigned node = 0; node < MNW_NODES_MAX; node++)
        if (sample->node_bytes[node] || pool->nodes >> node & 1)
            json_array_append_new(
                nodes, json_pack("{s:i, s:I}", "node", (int)node, "bytes", (json_int_t)sample->node_bytes[node]));
    json_object_set_new(object, "nodes", nodes);
    return object;
}

char *mnw_pool_stats_json(struct mnw_pool *pool) {
    MNW__WHOLE_CALL;
    struct mnw_stats stats;
    struct mnw__survey survey;
    if (mnw__check_pool(pool, "mnw_pool_stats_json"))
        return NULL;
    collect(pool, &stats);
    json_t *object = json_object();
    json_object_set_new(object, "version", json_integer(stats.version));
    json_object_set_new(object, "node_count", json_integer(stats.node_count));
#define SET(field)                  json_object_set_new(object, #field, number(stats.field));
#define SET_COUNTER(counter, field) SET(field)
    SET(budget_bytes)
    SET(resident_bytes)
    SET(resident_bytes_max)
    SET(pinned_bytes)
    SET(metadata_bytes)
    FIELDS(SET_COUNTER)
    SET(nodes_changed)
    SET(events_dropped)
    SET(numa_balancing)
#undef SET
#undef SET_COUNTER
    mnw__survey_get(pool, &survey);
    json_object_set_new(object, "nodes", nodes_json(pool, &survey));
    json_object_set_new(object, "placement", placement_json(pool, &survey.sample));
    char *text = json_dumps(object, JSON_INDENT(2));
    json_decref(object);
    return text;
}
