/* SPDX-License-Identifier: MIT */
/*
 * Prints what the daemon would say in a state that is always the same: "metrics_sample json" or "prometheus", and
 * "empty-json", "empty-prometheus" with nothing open. Names are as bad as peers can make them.
 */
#include "base/histogram.h"
#include "daemon/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POOLS = 2, IMAGES = 3, VIEWS = 3 };

/* Every member another number, each larger than 32 bits. */
static void fill_stats(struct mnw_stats *stats, uint64_t seed) {
    memset(stats, 0, sizeof(*stats));
    stats->version = MNW_STATS_VERSION;
    stats->node_count = 1;
    for (size_t i = 0; i < mnw__metrics_field_count; i++)
        *(uint64_t *)((char *)stats + mnw__metrics_fields[i].offset) = (seed << 33) + 1000 * seed + i;
}

static void fill_histogram(struct mnw_histogram *to, uint64_t count, uint64_t first, uint64_t step) {
    static struct mnw__histogram from;
    memset(&from, 0, sizeof(from));
    memset(to, 0, sizeof(*to));
    for (uint64_t i = 0; i < count; i++)
        mnw__histogram_add(&from, first + i * step);
    mnw__histogram_merge(to, &from);
}

static void fill_node(struct mnw__metrics_node *node, unsigned number) {
    node->node = number;
    node->stats = (struct mnw_node_stats){.resident_bytes = 1000000000000 + number,
                                          .pages_elsewhere = 7 * number,
                                          .huge_pages = 12,
                                          .huge_pages_free = number,
                                          .memory_bytes = 2000000000000,
                                          .memory_free_bytes = 1000000,
                                          .fault_threads = number == 3 ? 0 : 2,
                                          .is_outside = number == 3};
    fill_histogram(&node->latency.queue, 100, 100, 37);
    fill_histogram(&node->latency.fill, 1000, 50000, 7919);
    fill_histogram(&node->latency.map, 0, 0, 0);
    fill_histogram(&node->latency.total, 7, 1023, 1); /* both sides of a bound */
    if (number)
        fill_histogram(&node->latency.total, 2, 100000000000, UINT64_MAX / 4); /* past the last bound */
}

static void fill(struct mnw__metrics *metrics) {
    static struct mnw__metrics_node nodes[4];
    static struct mnw__metrics_pool pools[POOLS] = {{.name = "main", .backing = MNW_BACKING_SHMEM},
                                                    {.name = "huge \"one\"\\", .backing = MNW_BACKING_HUGETLB_2M}};
    static struct mnw__metrics_image images[IMAGES] = {
        {.name = "guest",
         .pool = "main",
         .size_bytes = 536870912,
         .page_bytes = 4096,
         .extent_bytes = 65536,
         .views = 2},
        {.name = "line\nbreak", .pool = "huge \"one\"\\", .size_bytes = 1, .page_bytes = 2097152, .views = 0},
        {.name = "\xff\xfe not text \xc3\xa4", .pool = "main", .size_bytes = 77, .page_bytes = 4096, .views = 1}};
    static struct mnw__metrics_view views[VIEWS] = {
        {.image = "guest",
         .peer = "qemu",
         .session = 3,
         .pid = 4711,
         .id = 1,
         .address = 0x7f0012345000,
         .length = 4096},
        {.image = "guest",
         .peer = "\x80",
         .session = 4,
         .pid = 0,
         .id = 9,
         .writable = true,
         .recording = true,
         .address = 0xffffffffff000,
         .offset = 8192,
         .length = 536862720},
        {.image = "\xff\xfe not text \xc3\xa4", .peer = "", .session = 5, .pid = 1, .id = 1, .length = 77}};
    for (unsigned i = 0; i < 4; i++)
        fill_node(&nodes[i], i);
    for (unsigned i = 0; i < POOLS; i++)
        fill_stats(&pools[i].stats, i + 1);
    for (unsigned i = 0; i < IMAGES; i++)
        fill_stats(&images[i].stats, 10 + i);
    pools[0].nodes = nodes;
    pools[0].node_count = 2;
    pools[1].nodes = nodes + 2;
    pools[1].node_count = 2; /* the last one has pages, and no thread */
    *metrics = (struct mnw__metrics){.uptime_ns = 12000000345,
                                     .epoch = 4,
                                     .pid = 99,
                                     .sessions = 3,
                                     .messages = 1000,
                                     .messages_refused = 17,
                                     .sessions_dropped = 2,
                                     .pools = pools,
                                     .images = images,
                                     .views = views,
                                     .pool_count = POOLS,
                                     .image_count = IMAGES,
                                     .view_count = VIEWS};
}

int main(int argc, char **argv) {
    struct mnw__metrics metrics = {0};
    const char *what = argc == 2 ? argv[1] : "";
    if (strncmp(what, "empty-", 6))
        fill(&metrics);
    else
        what += 6;
    char *text = !strcmp(what, "json")         ? mnw__metrics_json(&metrics)
                 : !strcmp(what, "prometheus") ? mnw__metrics_prometheus(&metrics)
                                               : NULL;
    if (!text)
        return 2;
    fputs(text, stdout);
    free(text);
    return 0;
}
