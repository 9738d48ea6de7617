/* SPDX-License-Identifier: MIT */
/*
 * The daemon's state in Prometheus' text format: one family after the other, each with its HELP and TYPE before its
 * samples. Counters end in _total, times are seconds, and a histogram's buckets are cumulative.
 */
#include "daemon/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bounds of buckets: powers of two, since those fall between two of ours; from a microsecond to half a minute. */
enum { BOUND_FIRST = 10, BOUND_LAST = 35 };

static void begin_family(FILE *out, const char *name, const char *type, const char *help) {
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* As the format wants it; what could not be text at all becomes '?'. */
static void write_label(FILE *out, const char *name, const char *value, bool first) {
    fprintf(out, "%s%s=\"", first ? "" : ",", name);
    for (const unsigned char *byte = (const unsigned char *)(value ? value : ""); *byte; byte++) {
        if (*byte == '\n')
            fputs("\\n", out);
        else if (*byte == '"' || *byte == '\\')
            fprintf(out, "\\%c", *byte);
        else
            fputc(*byte < 0x80 && *byte >= ' ' ? *byte : '?', out);
    }
    fputc('"', out);
}

static void write_seconds(FILE *out, uint64_t ns) {
    fprintf(out, "%" PRIu64 ".%09" PRIu64, ns / 1000000000, ns % 1000000000);
}

/* ---- the daemon ---- */

static void write_one(FILE *out, const char *name, const char *type, const char *help, uint64_t value) {
    begin_family(out, name, type, help);
    fprintf(out, "%s %" PRIu64 "\n", name, value);
}

static void write_daemon(FILE *out, const struct mnw__metrics *metrics) {
    begin_family(out, "mnw_info", "gauge", "The version that runs.");
    fprintf(out, "mnw_info{version=\"%s\"} 1\n", mnw_version());
    begin_family(out, "mnw_uptime_seconds", "gauge", "How long this worker has run.");
    fprintf(out, "mnw_uptime_seconds ");
    write_seconds(out, metrics->uptime_ns);
    fputc('\n', out);
    write_one(out, "mnw_restarts_total", "counter", "How often the daemon was restarted.", metrics->epoch);
    write_one(out, "mnw_sessions", "gauge", "Peers connected.", metrics->sessions);
    write_one(out, "mnw_sessions_dropped_total", "counter", "Peers dropped for breaking the protocol.",
              metrics->sessions_dropped);
    write_one(out, "mnw_messages_total", "counter", "Messages answered.", metrics->messages);
    write_one(out, "mnw_messages_refused_total", "counter", "Messages answered with an error.",
              metrics->messages_refused);
}

/* ---- pools ---- */

static void write_pools(FILE *out, const struct mnw__metrics *metrics, const struct mnw__metrics_field *field) {
    char name[96];
    snprintf(name, sizeof(name), "mnw_pool_%s%s", field->name, field->is_counter ? "_total" : "");
    begin_family(out, name, field->is_counter ? "counter" : "gauge", field->help);
    for (size_t i = 0; i < metrics->pool_count; i++) {
        fprintf(out, "%s{", name);
        write_label(out, "pool", metrics->pools[i].name, true);
        fprintf(out, "} %" PRIu64 "\n", mnw__metrics_value(&metrics->pools[i].stats, field));
    }
}

static void write_node(FILE *out, const char *name, const struct mnw__metrics_pool *pool, unsigned node,
                       uint64_t value) {
    fprintf(out, "%s{", name);
    write_label(out, "pool", pool->name, true);
    fprintf(out, ",node=\"%u\"} %" PRIu64 "\n", node, value);
}

static void write_nodes(FILE *out, const struct mnw__metrics *metrics, const struct mnw__metrics_field *field) {
    char name[96];
    snprintf(name, sizeof(name), "mnw_node_%s%s", field->name, field->is_counter ? "_total" : "");
    begin_family(out, name, field->is_counter ? "counter" : "gauge", field->help);
    for (size_t i = 0; i < metrics->pool_count; i++)
        for (unsigned j = 0; j < metrics->pools[i].node_count; j++)
            write_node(out, name, &metrics->pools[i], metrics->pools[i].nodes[j].node,
                       mnw__metrics_value(&metrics->pools[i].nodes[j].stats, field));
}

static void write_node_threads(FILE *out, const struct mnw__metrics *metrics) {
    begin_family(out, "mnw_node_fault_threads", "gauge", "Fault threads of the pool on the node.");
    for (size_t i = 0; i < metrics->pool_count; i++)
        for (unsigned j = 0; j < metrics->pools[i].node_count; j++)
            write_node(out, "mnw_node_fault_threads", &metrics->pools[i], metrics->pools[i].nodes[j].node,
                       metrics->pools[i].nodes[j].stats.fault_threads);
}

static void write_stage(FILE *out, const char *pool, unsigned node, const char *stage,
                        const struct mnw_histogram *from) {
    char number[16];
    uint64_t below = 0;
    unsigned bucket = 0;
    snprintf(number, sizeof(number), "%u", node);
    for (unsigned power = BOUND_FIRST; power <= BOUND_LAST + 1; power++) {
        bool is_last = power > BOUND_LAST;
        uint64_t bound = (uint64_t)1 << power;
        for (; bucket < MNW_HISTOGRAM_BUCKETS && (is_last || mnw_histogram_floor(bucket) < bound); bucket++)
            below += from->buckets[bucket];
        fputs("mnw_fault_latency_seconds_bucket{", out);
        write_label(out, "pool", pool, true);
        write_label(out, "node", number, false);
        write_label(out, "stage", stage, false);
        fputs(",le=\"", out);
        if (is_last) /* the values are whole nanoseconds: at most one less than the bound */
            fputs("+Inf", out);
        else
            write_seconds(out, bound - 1);
        fprintf(out, "\"} %" PRIu64 "\n", below);
    }
    for (unsigned part = 0; part < 2; part++) {
        fprintf(out, "mnw_fault_latency_seconds_%s{", part ? "count" : "sum");
        write_label(out, "pool", pool, true);
        write_label(out, "node", number, false);
        write_label(out, "stage", stage, false);
        fputs("} ", out);
        if (part)
            fprintf(out, "%" PRIu64, below);
        else
            write_seconds(out, from->sum_ns);
        fputc('\n', out);
    }
}

static void write_latencies(FILE *out, const struct mnw__metrics *metrics) {
    begin_family(out, "mnw_fault_latency_seconds", "histogram",
                 "Faults: event read to handling begun (queue), read of the store (fill), resolving system call (map), "
                 "event read to resolved (total).");
    for (size_t i = 0; i < metrics->pool_count; i++) {
        const struct mnw__metrics_pool *pool = &metrics->pools[i];
        for (unsigned j = 0; j < pool->node_count; j++) {
            if (!pool->nodes[j].stats.fault_threads)
                continue;
            write_stage(out, pool->name, pool->nodes[j].node, "queue", &pool->nodes[j].latency.queue);
            write_stage(out, pool->name, pool->nodes[j].node, "fill", &pool->nodes[j].latency.fill);
            write_stage(out, pool->name, pool->nodes[j].node, "map", &pool->nodes[j].latency.map);
            write_stage(out, pool->name, pool->nodes[j].node, "total", &pool->nodes[j].latency.total);
        }
    }
}

/* ---- images ---- */

static void write_image(FILE *out, const char *name, const struct mnw__metrics_image *image, uint64_t value) {
    fprintf(out, "%s{", name);
    write_label(out, "image", image->name, true);
    write_label(out, "pool", image->pool, false);
    fprintf(out, "} %" PRIu64 "\n", value);
}

static void write_images(FILE *out, const struct mnw__metrics *metrics, const struct mnw__metrics_field *field) {
    char name[96];
    snprintf(name, sizeof(name), "mnw_image_%s%s", field->name, field->is_counter ? "_total" : "");
    begin_family(out, name, field->is_counter ? "counter" : "gauge", field->help);
    for (size_t i = 0; i < metrics->image_count; i++)
        write_image(out, name, &metrics->images[i], mnw__metrics_value(&metrics->images[i].stats, field));
}

static void write_image_sizes(FILE *out, const struct mnw__metrics *metrics) {
    begin_family(out, "mnw_image_size_bytes", "gauge", "Bytes of the image.");
    for (size_t i = 0; i < metrics->image_count; i++)
        write_image(out, "mnw_image_size_bytes", &metrics->images[i], metrics->images[i].size_bytes);
    begin_family(out, "mnw_image_views", "gauge", "Views of the image that are open.");
    for (size_t i = 0; i < metrics->image_count; i++)
        write_image(out, "mnw_image_views", &metrics->images[i], metrics->images[i].views);
}

char *mnw__metrics_prometheus(const struct mnw__metrics *metrics) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    write_daemon(out, metrics);
    for (size_t i = 0; i < mnw__metrics_field_count; i++)
        write_pools(out, metrics, &mnw__metrics_fields[i]);
    for (size_t i = 0; i < mnw__metrics_node_field_count; i++)
        write_nodes(out, metrics, &mnw__metrics_node_fields[i]);
    write_node_threads(out, metrics);
    write_latencies(out, metrics);
    write_image_sizes(out, metrics);
    for (size_t i = 0; i < mnw__metrics_field_count; i++)
        if (!mnw__metrics_fields[i].is_of_pool)
            write_images(out, metrics, &mnw__metrics_fields[i]);
    bool failed = ferror(out);
    if (fclose(out) || failed) {
        free(text);
        return NULL;
    }
    return text;
}
