/* SPDX-License-Identifier: MIT */
/*
 * What the daemon tells about itself, as one JSON object or as Prometheus text.
 *
 * Owns nothing: whoever asks fills plain structs, which are only read. Any thread may enter. Makes no system call and
 * waits for nothing; allocates the text, which the caller frees.
 */
#ifndef MNW_DAEMON_METRICS_H
#define MNW_DAEMON_METRICS_H

#include <minnow/minnow.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MNW__METRICS_VERSION 1

struct mnw__metrics_node {
    unsigned node;
    struct mnw_node_stats stats;     /* mnw_pool_node_stats() */
    struct mnw_node_latency latency; /* mnw_pool_latency(); all 0 without fault threads */
};

struct mnw__metrics_pool {
    const char *name;
    enum mnw_backing backing;
    struct mnw_stats stats; /* mnw_pool_stats() */
    const struct mnw__metrics_node *nodes;
    unsigned node_count;
};

struct mnw__metrics_image {
    const char *name, *pool;
    uint64_t size_bytes;
    uint32_t page_bytes, extent_bytes;
    uint32_t views;
    struct mnw_stats stats; /* mnw_cache_stats() */
};

struct mnw__metrics_view {
    const char *image, *peer; /* peer: the name that came with HELLO */
    uint64_t session;
    int64_t pid; /* of the peer; 0: unknown */
    uint32_t id; /* the peer's number for it */
    bool writable, recording;
    uint64_t address, offset, length;
};

struct mnw__metrics {
    uint64_t uptime_ns; /* of this worker */
    uint64_t epoch;     /* how often the daemon was restarted */
    int64_t pid;
    uint32_t sessions;
    uint64_t messages, messages_refused; /* answered at all; answered with an error */
    uint64_t sessions_dropped;           /* for breaking the protocol */
    const struct mnw__metrics_pool *pools;
    const struct mnw__metrics_image *images;
    const struct mnw__metrics_view *views;
    size_t pool_count, image_count, view_count;
};

/* NULL: out of memory. Names may hold any bytes: what is not UTF-8 comes out as '?'. */
char *mnw__metrics_json(const struct mnw__metrics *metrics);
/* The text exposition format, version 0.0.4. */
char *mnw__metrics_prometheus(const struct mnw__metrics *metrics);

/* ---- between metrics.c and prometheus.c ---- */

/* "shmem", "graded", "hugetlb-2M", "hugetlb-1G". */
const char *mnw__metrics_backing(enum mnw_backing backing);

/* A counter or a gauge of 64 bits, in struct mnw_stats. */
struct mnw__metrics_field {
    const char *name; /* of the member, and in JSON */
    const char *help;
    size_t offset;
    bool is_counter;
    bool is_of_pool; /* says nothing about one image */
};
extern const struct mnw__metrics_field mnw__metrics_fields[];
extern const size_t mnw__metrics_field_count;

/* Those of struct mnw_node_stats. */
extern const struct mnw__metrics_field mnw__metrics_node_fields[];
extern const size_t mnw__metrics_node_field_count;

/* `stats` is the struct that the field is of. */
static inline uint64_t mnw__metrics_value(const void *stats, const struct mnw__metrics_field *field) {
    return *(const uint64_t *)((const char *)stats + field->offset);
}

#endif
