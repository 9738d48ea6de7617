/* SPDX-License-Identifier: MIT */
/*
 * Hit ratios: a skewed trace with scans through it, both policies, seen as the engine sees it: a mapped extent
 * is used unseen, an unmapped one shows its next use by a fault. S3-FIFO must nowhere lose more than a hundredth
 * of the accesses to CLOCK, and must win three where scans run through a cache of ordinary size.
 */
#include "model/random.h"
#include "policy/policy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXTENTS = 20000, ACCESSES = 400000, SCAN = 3000 };

static double cumulative[EXTENTS];

struct cache {
    struct mnw__policy_node nodes[EXTENTS];
    struct mnw__policy policy;
    bool resident[EXTENTS], watched[EXTENTS], used[EXTENTS];
    uint32_t capacity, hits, faults; /* faults: extra ones, that taught recency */
};

static bool recent(void *context, uint32_t extent) {
    struct cache *cache = context;
    bool used = cache->used[extent];
    cache->used[extent] = false;
    cache->watched[extent] = true;
    return used;
}

static void fill(struct cache *cache, uint32_t extent) {
    if (cache->policy.count == cache->capacity) {
        uint32_t victim;
        if (!mnw__policy_pick(&cache->policy, recent, cache, &victim))
            abort();
        cache->resident[victim] = false;
    }
    mnw__policy_insert(&cache->policy, extent);
    cache->resident[extent] = true;
    cache->watched[extent] = cache->used[extent] = false;
}

static void touch(struct cache *cache, uint32_t extent) {
    cache->hits += cache->resident[extent];
    if (!cache->resident[extent]) {
        fill(cache, extent);
    } else if (cache->watched[extent]) {
        cache->watched[extent] = false;
        cache->used[extent] = true;
        cache->faults++;
    }
}

static void prepare_zipf(double skew) {
    double sum = 0;
    for (unsigned i = 0; i < EXTENTS; i++)
        cumulative[i] = sum += 1 / pow(i + 1, skew);
    for (unsigned i = 0; i < EXTENTS; i++)
        cumulative[i] /= sum;
}

/* Ranks are spread over the store, so that a scan meets hot and cold alike. */
static uint32_t draw_zipf(struct random *random) {
    double unit = random_unit(random);
    uint32_t low = 0, high = EXTENTS - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (cumulative[middle] < unit)
            low = middle + 1;
        else
            high = middle;
    }
    return (uint32_t)((uint64_t)low * 7919 % EXTENTS);
}

/* Of 100 accesses, `scans` belong to scans. The ratio of hits. */
static double play(const struct mnw__policy_ops *ops, uint32_t capacity, unsigned scans) {
    static struct cache cache;
    struct random random = {42};
    memset(&cache, 0, sizeof(cache));
    cache.capacity = capacity;
    mnw__policy_init(&cache.policy, ops, cache.nodes, EXTENTS);
    uint32_t scan_at = 0, scan_left = 0;
    for (unsigned i = 0; i < ACCESSES; i++) {
        if (random_below(&random, 100) >= scans) {
            touch(&cache, draw_zipf(&random));
            continue;
        }
        if (!scan_left--) {
            scan_at = (uint32_t)random_below(&random, EXTENTS);
            scan_left = SCAN;
        }
        touch(&cache, scan_at++ % EXTENTS);
    }
    if (!mnw__policy_is_valid(&cache.policy))
        abort();
    return (double)cache.hits / ACCESSES;
}

/* The margin is what S3-FIFO may lose against CLOCK; negative: what it must win. */
static int compare(uint32_t capacity, unsigned scans, double margin) {
    double clock = play(&mnw__policy_clock, capacity, scans);
    double s3fifo = play(&mnw__policy_s3fifo, capacity, scans);
    bool good = s3fifo >= clock - margin;
    printf("%5u of %d extents, %2u%% scans: clock %.4f, s3fifo %.4f%s\n", capacity, EXTENTS, scans, clock, s3fifo,
           good ? "" : "  TOO LOW");
    return good ? 0 : 1;
}

int main(void) {
    prepare_zipf(0.99);
    int failed = 0;
    static const uint32_t capacities[] = {20, 100, 500, 2000, 5000};
    for (unsigned i = 0; i < 5; i++)
        for (unsigned scans = 0; scans <= 60; scans += 20)
            failed += compare(capacities[i], scans, scans && i >= 1 && i <= 3 ? -0.03 : 0.01);
    return failed ? 1 : 0;
}
