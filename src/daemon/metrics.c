/* SPDX-License-Identifier: MIT */
/* What is counted, in words; and the daemon's state as JSON. */
#include "daemon/metrics.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define COUNTER(member, text)                                                                                          \
    { #member, text, offsetof(struct mnw_stats, member), true, false }
#define GAUGE(member, text)                                                                                            \
    { #member, text, offsetof(struct mnw_stats, member), false, false }
#define POOL_GAUGE(member, text)                                                                                       \
    { #member, text, offsetof(struct mnw_stats, member), false, true }
#define POOL_COUNTER(member, text)                                                                                     \
    { #member, text, offsetof(struct mnw_stats, member), true, true }

const struct mnw__metrics_field mnw__metrics_fields[] = {
    POOL_GAUGE(budget_bytes, "Bytes that may be resident."),
    GAUGE(resident_bytes, "Bytes charged against the budget now."),
    POOL_GAUGE(resident_bytes_max, "The most bytes that ever were resident."),
    GAUGE(pinned_bytes, "Bytes that cannot be evicted."),
    GAUGE(metadata_bytes, "Bytes reserved for page words and extents."),
    COUNTER(faults_minor, "Events read of faults on pages that were in memory."),
    COUNTER(faults_missing, "Events read of faults on pages that were not."),
    COUNTER(faults_resolved, "Faults ended at once by mapping a resident page."),
    COUNTER(faults_joined, "Faults that found their page being read already."),
    COUNTER(faults_failed, "Faults ended by SIGBUS."),
    COUNTER(faults_starved, "Faults that had to wait for memory or for a free read."),
    COUNTER(pages_mapped, "Pages mapped, neighbours included."),
    COUNTER(pages_promoted, "Extents made one huge mapping."),
    COUNTER(fills, "Reads of the store that ended well."),
    COUNTER(fill_bytes, "Bytes brought in from the store."),
    COUNTER(fills_failed, "Reads of the store given up."),
    COUNTER(fills_late, "Reads of the store past their deadline."),
    COUNTER(read_retries, "Reads of the store tried again."),
    COUNTER(readahead_pages, "Pages read before anybody asked."),
    COUNTER(evictions, "Extents evicted."),
    COUNTER(evicted_bytes, "Bytes given back by evictions."),
    COUNTER(evictions_direct, "Extents evicted by a fault that found little memory free, or none."),
    COUNTER(zaps, "Extents unmapped to learn whether they are used."),
    COUNTER(pages_lost, "Pages gone from the backing and read again."),
    COUNTER(redeliveries, "Waiters woken to fault again."),
    COUNTER(pages_foreign, "Pages put into memory by processes that are not attached; taken out."),
    COUNTER(pages_elsewhere, "Pages given memory on another NUMA node than the policy wanted."),
    COUNTER(policies_foreign, "Times that a consumer's own memory policy had redirected a cache; undone."),
    COUNTER(pages_copied, "Pages brought from another NUMA node's copy of a cache."),
    COUNTER(faults_placed, "Faults on resident pages that were asked on which NUMA node they happen; one in 16."),
    COUNTER(faults_remote, "Of these, the ones whose page lies on another node."),
    COUNTER(extents_sampled, "Extents unmapped to learn from which NUMA node they are used."),
    COUNTER(pages_moved, "Pages moved to the NUMA node that they are used from."),
    COUNTER(pages_unmoved, "Pages that were to be moved, and stayed."),
    COUNTER(unmoved_scarce, "Of these, those for which the node had no memory."),
    COUNTER(unmoved_shared, "Of these, those that are mapped more than once."),
    POOL_COUNTER(nodes_changed, "Times that the NUMA nodes which a pool may use were others than before."),
    POOL_COUNTER(events_dropped, "Notices of failed pages that nobody took."),
    POOL_GAUGE(numa_balancing, "What kernel.numa_balancing says; not 0: the kernel moves threads between nodes."),
};
const size_t mnw__metrics_field_count = sizeof(mnw__metrics_fields) / sizeof(mnw__metrics_fields[0]);

#define NODE(member, text, is_counter)                                                                                 \
    { #member, text, offsetof(struct mnw_node_stats, member), is_counter, true }

const struct mnw__metrics_field mnw__metrics_node_fields[] = {
    NODE(resident_bytes, "Bytes of the pool on the node, by a sample.", false),
    NODE(pages_elsewhere, "Pages that belonged to the node and were given memory on another one.", true),
    NODE(huge_pages, "Huge pages of the pool's size that the node has.", false),
    NODE(huge_pages_free, "Huge pages of the pool's size that the node has free.", false),
    NODE(memory_bytes, "Bytes of memory that the node has.", false),
    NODE(memory_free_bytes, "Bytes of memory that the node has free.", false),
};
const size_t mnw__metrics_node_field_count = sizeof(mnw__metrics_node_fields) / sizeof(mnw__metrics_node_fields[0]);

/* ---- JSON ---- */

static void set_number(json_t *object, const char *key, uint64_t value) {
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

/* Peers name themselves: any bytes may come. */
static json_t *string(const char *text) {
    json_t *string = json_string(text ? text : "");
    if (string)
        return string;
    char *copy = strdup(text);
    for (char *byte = copy; byte && *byte; byte++)
        if (*byte & 0x80)
            *byte = '?';
    string = copy ? json_string(copy) : NULL;
    free(copy);
    return string;
}

static json_t *histogram(const struct mnw_histogram *from) {
    static const struct {
        const char *name;
        double fraction;
    } quantiles[] = {{"p50_ns", 0.5}, {"p90_ns", 0.9}, {"p99_ns", 0.99}, {"p999_ns", 0.999}};
    json_t *object = json_object(), *buckets = json_array();
    for (unsigned i = 0; i < MNW_HISTOGRAM_BUCKETS; i++)
        if (from->buckets[i])
            json_array_append_new(buckets,
                                  json_pack("[I,I]", (json_int_t)mnw_histogram_floor(i), (json_int_t)from->buckets[i]));
    set_number(object, "count", from->count);
    set_number(object, "sum_ns", from->sum_ns);
    set_number(object, "mean_ns", from->count ? from->sum_ns / from->count : 0);
    for (unsigned i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++)
        set_number(object, quantiles[i].name, mnw_histogram_quantile(from, quantiles[i].fraction));
    set_number(object, "max_ns", from->max_ns);
    json_object_set_new(object, "buckets", buckets); /* pairs: least value, count */
    return object;
}

static void set_stats(json_t *object, const struct mnw_stats *stats, bool of_pool) {
    for (size_t i = 0; i < mnw__metrics_field_count; i++)
        if (of_pool || !mnw__metrics_fields[i].is_of_pool)
            set_number(object, mnw__metrics_fields[i].name, mnw__metrics_value(stats, &mnw__metrics_fields[i]));
}

const char *mnw__metrics_backing(enum mnw_backing backing) {
    static const char *const names[] = {"shmem", "graded", "hugetlb-2M", "hugetlb-1G"};
    return (unsigned)backing < sizeof(names) / sizeof(names[0]) ? names[backing] : "unknown";
}

static json_t *node_json(const struct mnw__metrics_node *from) {
    json_t *node = json_object();
    set_number(node, "node", from->node);
    for (size_t i = 0; i < mnw__metrics_node_field_count; i++)
        set_number(node, mnw__metrics_node_fields[i].name,
                   mnw__metrics_value(&from->stats, &mnw__metrics_node_fields[i]));
    set_number(node, "fault_threads", from->stats.fault_threads);
    set_number(node, "is_outside", from->stats.is_outside);
    if (!from->stats.fault_threads)
        return node;
    json_object_set_new(node, "queue", histogram(&from->latency.queue));
    json_object_set_new(node, "fill", histogram(&from->latency.fill));
    json_object_set_new(node, "map", histogram(&from->latency.map));
    json_object_set_new(node, "total", histogram(&from->latency.total));
    return node;
}

static json_t *pool_json(const struct mnw__metrics_pool *pool) {
    json_t *object = json_object(), *nodes = json_array();
    json_object_set_new(object, "name", string(pool->name));
    json_object_set_new(object, "backing", json_string(mnw__metrics_backing(pool->backing)));
    set_stats(object, &pool->stats, true);
    for (unsigned i = 0; i < pool->node_count; i++)
        json_array_append_new(nodes, node_json(&pool->nodes[i]));
    json_object_set_new(object, "nodes", nodes);
    return object;
}

static json_t *image_json(const struct mnw__metrics_image *image) {
    json_t *object = json_object();
    json_object_set_new(object, "name", string(image->name));
    json_object_set_new(object, "pool", string(image->pool));
    set_number(object, "size_bytes", image->size_bytes);
    set_number(object, "page_bytes", image->page_bytes);
    set_number(object, "extent_bytes", image->extent_bytes);
    set_number(object, "views", image->views);
    set_stats(object, &image->stats, false);
    return object;
}

static json_t *view_json(const struct mnw__metrics_view *view) {
    json_t *object = json_object();
    json_object_set_new(object, "image", string(view->image));
    json_object_set_new(object, "peer", string(view->peer));
    set_number(object, "session", view->session);
    json_object_set_new(object, "pid", json_integer(view->pid));
    set_number(object, "id", view->id);
    json_object_set_new(object, "writable", json_boolean(view->writable));
    json_object_set_new(object, "recording", json_boolean(view->recording));
    set_number(object, "address", view->address);
    set_number(object, "offset", view->offset);
    set_number(object, "length", view->length);
    return object;
}

char *mnw__metrics_json(const struct mnw__metrics *metrics) {
    json_t *object = json_object(), *pools = json_array(), *images = json_array(), *views = json_array();
    set_number(object, "metrics_version", MNW__METRICS_VERSION);
    json_object_set_new(object, "version", json_string(mnw_version()));
    json_object_set_new(object, "pid", json_integer(metrics->pid));
    set_number(object, "uptime_ns", metrics->uptime_ns);
    set_number(object, "epoch", metrics->epoch);
    set_number(object, "sessions", metrics->sessions);
    set_number(object, "messages", metrics->messages);
    set_number(object, "messages_refused", metrics->messages_refused);
    set_number(object, "sessions_dropped", metrics->sessions_dropped);
    for (size_t i = 0; i < metrics->pool_count; i++)
        json_array_append_new(pools, pool_json(&metrics->pools[i]));
    for (size_t i = 0; i < metrics->image_count; i++)
        json_array_append_new(images, image_json(&metrics->images[i]));
    for (size_t i = 0; i < metrics->view_count; i++)
        json_array_append_new(views, view_json(&metrics->views[i]));
    json_object_set_new(object, "pools", pools);
    json_object_set_new(object, "images", images);
    json_object_set_new(object, "views", views);
    char *text = json_dumps(object, JSON_INDENT(2));
    json_decref(object);
    return text;
}
