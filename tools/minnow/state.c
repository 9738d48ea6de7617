/* SPDX-License-Identifier: MIT */
/* Reading a daemon's JSON, and comparing two states. */
#include "state.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ---- */

static uint64_t number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? (uint64_t)json_integer_value(value) : 0;
}

static bool is_true(const json_t *object, const char *key) {
    return json_is_true(json_object_get(object, key));
}

/* Nothing in a name may move a terminal's cursor. */
static void text(const json_t *object, const char *key, char *to, size_t size) {
    const char *from = json_string_value(json_object_get(object, key));
    snprintf(to, size, "%s", from ? from : "");
    for (char *byte = to; *byte; byte++)
        if ((unsigned char)*byte < ' ' || *byte == 0x7f)
            *byte = '?';
    /* A cut may have left a part of a character. */
    size_t length = strlen(to);
    if (length != size - 1)
        return;
    while (length && ((unsigned char)to[length - 1] & 0xc0) == 0x80)
        to[--length] = '\0';
    if (length && (unsigned char)to[length - 1] >= 0xc0)
        to[length - 1] = '\0';
}

static void read_counts(struct state_counts *counts, const json_t *from) {
    counts->faults_minor = number(from, "faults_minor");
    counts->faults_missing = number(from, "faults_missing");
    counts->faults_failed = number(from, "faults_failed");
    counts->faults_starved = number(from, "faults_starved");
    counts->fills = number(from, "fills");
    counts->fill_bytes = number(from, "fill_bytes");
    counts->fills_failed = number(from, "fills_failed");
    counts->evictions = number(from, "evictions");
    counts->evicted_bytes = number(from, "evicted_bytes");
    counts->pages_mapped = number(from, "pages_mapped");
    counts->readahead_pages = number(from, "readahead_pages");
}

/* The bucket that begins at `least`; the last one when none does. */
static unsigned bucket_of(uint64_t least) {
    unsigned bucket = 0;
    while (bucket + 1 < MNW_HISTOGRAM_BUCKETS && mnw_histogram_floor(bucket + 1) <= least)
        bucket++;
    return bucket;
}

static void read_histogram(struct mnw_histogram *histogram, const json_t *from) {
    size_t index;
    const json_t *pair;
    histogram->sum_ns = number(from, "sum_ns");
    histogram->max_ns = number(from, "max_ns");
    json_array_foreach(json_object_get(from, "buckets"), index, pair) {
        uint64_t count = (uint64_t)json_integer_value(json_array_get(pair, 1));
        histogram->buckets[bucket_of((uint64_t)json_integer_value(json_array_get(pair, 0)))] += count;
        histogram->count += count;
    }
}

static void read_node(struct state_node *node, const json_t *from) {
    node->node = (unsigned)number(from, "node");
    node->resident_bytes = number(from, "resident_bytes");
    node->pages_elsewhere = number(from, "pages_elsewhere");
    node->huge_pages = number(from, "huge_pages");
    node->huge_pages_free = number(from, "huge_pages_free");
    node->memory_bytes = number(from, "memory_bytes");
    node->memory_free_bytes = number(from, "memory_free_bytes");
    node->fault_threads = number(from, "fault_threads");
    node->is_outside = number(from, "is_outside");
    read_histogram(&node->queue, json_object_get(from, "queue"));
    read_histogram(&node->fill, json_object_get(from, "fill"));
    read_histogram(&node->map, json_object_get(from, "map"));
    read_histogram(&node->total, json_object_get(from, "total"));
}

/* An array of as many zeroed structs as the JSON array has elements; NULL with `*count` 0: none. */
static void *make_array(const json_t *from, size_t element, size_t *count) {
    *count = json_array_size(from);
    void *array = *count ? calloc(*count, element) : NULL;
    if (!array)
        *count = 0;
    return array;
}

static void read_pool(struct state_pool *pool, const json_t *from) {
    const json_t *nodes = json_object_get(from, "nodes");
    text(from, "name", pool->name, sizeof(pool->name));
    text(from, "backing", pool->backing, sizeof(pool->backing));
    pool->budget_bytes = number(from, "budget_bytes");
    pool->resident_bytes = number(from, "resident_bytes");
    pool->pinned_bytes = number(from, "pinned_bytes");
    pool->policies_foreign = number(from, "policies_foreign");
    pool->numa_balancing = number(from, "numa_balancing");
    read_counts(&pool->counts, from);
    pool->nodes = make_array(nodes, sizeof(*pool->nodes), &pool->node_count);
    for (size_t i = 0; i < pool->node_count; i++)
        read_node(&pool->nodes[i], json_array_get(nodes, i));
}

static void read_image(struct state_image *image, const json_t *from) {
    text(from, "name", image->name, sizeof(image->name));
    text(from, "pool", image->pool, sizeof(image->pool));
    image->size_bytes = number(from, "size_bytes");
    image->page_bytes = number(from, "page_bytes");
    image->resident_bytes = number(from, "resident_bytes");
    image->pinned_bytes = number(from, "pinned_bytes");
    image->views = number(from, "views");
    read_counts(&image->counts, from);
}

static void read_view(struct state_view *view, const json_t *from) {
    text(from, "image", view->image, sizeof(view->image));
    text(from, "peer", view->peer, sizeof(view->peer));
    view->pid = (int64_t)number(from, "pid");
    view->session = number(from, "session");
    view->id = number(from, "id");
    view->address = number(from, "address");
    view->offset = number(from, "offset");
    view->length = number(from, "length");
    view->writable = is_true(from, "writable");
    view->recording = is_true(from, "recording");
}

int state_read(struct state *state, const char *from, char *why, size_t why_size) {
    json_error_t error;
    json_t *root = json_loads(from, 0, &error);
    memset(state, 0, sizeof(*state));
    if (!json_is_object(root)) {
        snprintf(why, why_size, "what the daemon said is no JSON object (line %d: %s)", root ? 1 : error.line,
                 root ? "another value" : error.text);
        json_decref(root);
        return -1;
    }
    const json_t *pools = json_object_get(root, "pools"), *images = json_object_get(root, "images"),
                 *views = json_object_get(root, "views");
    state->metrics_version = number(root, "metrics_version");
    text(root, "version", state->version, sizeof(state->version));
    state->pid = (int64_t)number(root, "pid");
    state->uptime_ns = number(root, "uptime_ns");
    state->epoch = number(root, "epoch");
    state->sessions = number(root, "sessions");
    state->messages = number(root, "messages");
    state->messages_refused = number(root, "messages_refused");
    state->pools = make_array(pools, sizeof(*state->pools), &state->pool_count);
    for (size_t i = 0; i < state->pool_count; i++)
        read_pool(&state->pools[i], json_array_get(pools, i));
    state->images = make_array(images, sizeof(*state->images), &state->image_count);
    for (size_t i = 0; i < state->image_count; i++)
        read_image(&state->images[i], json_array_get(images, i));
    state->views = make_array(views, sizeof(*state->views), &state->view_count);
    for (size_t i = 0; i < state->view_count; i++)
        read_view(&state->views[i], json_array_get(views, i));
    json_decref(root);
    return 0;
}

void state_free(struct state *state) {
    for (size_t i = 0; i < state->pool_count; i++)
        free(state->pools[i].nodes);
    free(state->pools);
    free(state->images);
    free(state->views);
    memset(state, 0, sizeof(*state));
}

/* ---- comparing ---- */

const struct state_pool *state_find_pool(const struct state *state, const char *name) {
    for (size_t i = 0; state && i < state->pool_count; i++)
        if (!strcmp(state->pools[i].name, name))
            return &state->pools[i];
    return NULL;
}

const struct state_image *state_find_image(const struct state *state, const char *name) {
    for (size_t i = 0; state && i < state->image_count; i++)
        if (!strcmp(state->images[i].name, name))
            return &state->images[i];
    return NULL;
}

double state_rate(uint64_t before, uint64_t now, double seconds) {
    return seconds > 0 && now > before ? (double)(now - before) / seconds : 0;
}

double state_seconds(const struct state *before, const struct state *now) {
    if (!before || before->pid != now->pid || before->epoch != now->epoch || now->uptime_ns <= before->uptime_ns)
        return 0;
    return (double)(now->uptime_ns - before->uptime_ns) / 1e9;
}

void state_histogram_since(struct mnw_histogram *to, const struct mnw_histogram *before,
                           const struct mnw_histogram *now) {
    *to = *now;
    for (unsigned i = 0; before && i < MNW_HISTOGRAM_BUCKETS; i++)
        if (before->buckets[i] > now->buckets[i])
            return;
    if (!before)
        return;
    to->count = 0;
    to->sum_ns = now->sum_ns - before->sum_ns;
    to->max_ns = 0;
    for (unsigned i = 0; i < MNW_HISTOGRAM_BUCKETS; i++) {
        to->buckets[i] = now->buckets[i] - before->buckets[i];
        to->count += to->buckets[i];
        if (to->buckets[i]) /* the largest since then is not told: the top of its bucket */
            to->max_ns = i + 1 < MNW_HISTOGRAM_BUCKETS ? mnw_histogram_floor(i + 1) - 1 : now->max_ns;
    }
    if (to->max_ns > now->max_ns)
        to->max_ns = now->max_ns;
}

/* ---- numbers ---- */

char *format_count(double count, char text[32]) {
    static const char units[] = " kMGTPE";
    unsigned unit = 0;
    while (count >= 999.5 && units[unit + 1]) {
        count /= 1000;
        unit++;
    }
    if (!unit)
        snprintf(text, 32, count > 0 && count < 9.95 && count != (double)(int)count ? "%.1f" : "%.0f", count);
    else
        snprintf(text, 32, "%.*f%c", count < 9.95 ? 1 : 0, count, units[unit]);
    return text;
}

char *format_ns(uint64_t ns, char text[32]) {
    static const struct {
        const char *unit;
        double ns;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
    unsigned unit = 0;
    while (unit < 3 && (double)ns >= 999.5 * units[unit].ns)
        unit++;
    double value = (double)ns / units[unit].ns;
    snprintf(text, 32, "%.*f %s", unit && value < 99.95 ? 1 : 0, value, units[unit].unit);
    return text;
}

char *format_uptime(uint64_t ns, char text[32]) {
    unsigned long long seconds = ns / 1000000000, minutes = seconds / 60, hours = minutes / 60, days = hours / 24;
    if (!minutes)
        snprintf(text, 32, "%llu s", seconds);
    else if (!hours)
        snprintf(text, 32, "%llu min %llu s", minutes, seconds % 60);
    else if (!days)
        snprintf(text, 32, "%llu h %llu min", hours, minutes % 60);
    else
        snprintf(text, 32, "%llu d %llu h", days, hours % 24);
    return text;
}
