/* SPDX-License-Identifier: MIT */
/*
 * What taking an extent away costs when 1 to 1,024 views of one cache have it mapped: minnow's eviction, and beside it
 * what it is made of, on plain mappings of one file: a punch, which unmaps everywhere by the kernel's reverse map, and
 * a zap in each. scale-eviction.
 */
#include "area.h"
#include "harness.h"
#include "measure.h"
#include "registry.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define EXTENT    (64 << 10) /* minnow's, of small pages */
#define LENGTH    (2 * MIB)
#define LEFT      (LENGTH / 4) /* what the lower budget holds */
#define BUDGET    (2 * LENGTH) /* with room beside the store, so that the reclaimer has nothing to do */
#define VIEWS_MAX 1024
#define POINTS    6 /* 1, 4, 16, ... views */
#define WAYS      3

enum evict_way { BY_MINNOW, BY_PUNCH, BY_ZAP };
static const char *const names[WAYS] = {"minnow", "punch", "zap"};
static const char *const series[WAYS] = {"minnow evicts", "punch", "zap in each view"};

struct evict_arm {
    struct eviction *eviction;
    enum evict_way way;
    unsigned many;
};

struct eviction {
    struct scratch scratch;
    struct rig rig;   /* minnow's; its own view counts */
    struct area area; /* of the other two */
    struct mnw_view *views[VIEWS_MAX];
    void *mappings[VIEWS_MAX];
    struct evict_arm arms[WAYS * POINTS];
    char names[WAYS * POINTS][32];
};

/* ---- minnow ---- */

static bool open_views(struct eviction *eviction, unsigned many) {
    struct mnw_view *view;
    for (unsigned i = 0; i < many; i++) {
        if (i && mnw_view_open(&eviction->views[i], eviction->rig.cache, NULL))
            return false;
        view = i ? eviction->views[i] : eviction->rig.view;
        if (mnw_view_populate(view, 0, LENGTH))
            return false;
    }
    return true;
}

static bool close_views(struct eviction *eviction, unsigned many) {
    bool good = true;
    for (unsigned i = 1; i < many; i++) {
        good &= !eviction->views[i] || !mnw_view_close(eviction->views[i]);
        eviction->views[i] = NULL;
    }
    return good;
}

static uint64_t evicted_so_far(const struct eviction *eviction) {
    struct mnw_stats stats;
    mnw_pool_stats(eviction->rig.pool, &stats, sizeof(stats));
    return stats.evictions;
}

/* Until a lower budget holds: all that eviction is, with its choice of victims and its questions for recency. */
static double evict_by_minnow(struct eviction *eviction, unsigned many, struct bench_turn *turn) {
    double ns = NAN;
    if (open_views(eviction, many)) {
        uint64_t before = evicted_so_far(eviction), begin_ns = clock_ns();
        int error = mnw_pool_set_budget(eviction->rig.pool, LEFT);
        uint64_t took_ns = clock_ns() - begin_ns, extents = evicted_so_far(eviction) - before;
        if (!error && extents >= (LENGTH - LEFT) / EXTENT)
            ns = (double)took_ns / (double)extents;
        else if (!error)
            snprintf(turn->why, sizeof(turn->why), "%" PRIu64 " extents were evicted", extents);
    }
    if (isnan(ns) && !turn->why[0])
        snprintf(turn->why, sizeof(turn->why), "%s", mnw_error());
    bool good = close_views(eviction, many) && !mnw_pool_set_budget(eviction->rig.pool, BUDGET);
    return good ? ns : NAN;
}

/* ---- by hand ---- */

static bool map_views(struct eviction *eviction, unsigned many) {
    for (unsigned i = 0; i < many; i++) {
        void *at =
            mmap(NULL, LENGTH, PROT_READ, MAP_PRIVATE | MAP_NORESERVE | MAP_POPULATE, eviction->area.readonly_fd, 0);
        if (at == MAP_FAILED)
            return false;
        eviction->mappings[i] = at;
    }
    return true;
}

static void unmap_views(struct eviction *eviction, unsigned many) {
    for (unsigned i = 0; i < many; i++) {
        if (eviction->mappings[i])
            munmap(eviction->mappings[i], LENGTH);
        eviction->mappings[i] = NULL;
    }
}

static bool take_away(const struct eviction *eviction, const struct evict_arm *arm, size_t at) {
    bool good = true;
    if (arm->way == BY_PUNCH)
        return area_punch(&eviction->area, at, EXTENT);
    for (unsigned i = 0; i < arm->many; i++)
        good &= !madvise((char *)eviction->mappings[i] + at, EXTENT, MADV_DONTNEED);
    return good;
}

static double evict_by_hand(struct eviction *eviction, const struct evict_arm *arm) {
    double ns[LENGTH / EXTENT];
    unsigned count = 0;
    bool good = !area_fill(&eviction->area, &eviction->scratch) && map_views(eviction, arm->many);
    for (size_t at = 0; good && at < LENGTH; at += EXTENT) {
        uint64_t begin_ns = clock_ns();
        good = take_away(eviction, arm, at);
        ns[count++] = (double)(clock_ns() - begin_ns);
    }
    unmap_views(eviction, arm->many);
    return good ? median_of(ns, count) : NAN;
}

/* ---- turns ---- */

static double evict_turn(void *context, struct bench_turn *turn) {
    const struct evict_arm *arm = context;
    return arm->way == BY_MINNOW ? evict_by_minnow(arm->eviction, arm->many, turn) : evict_by_hand(arm->eviction, arm);
}

static void measure(struct bench *bench, struct eviction *eviction) {
    struct bench_arm arms[WAYS * POINTS];
    unsigned count = 0, points = bench->smoke ? POINTS - 3 : POINTS;
    for (unsigned way = 0; way < WAYS; way++)
        for (unsigned i = 0; i < points; i++, count++) {
            eviction->arms[count] = (struct evict_arm){eviction, (enum evict_way)way, 1u << 2 * i};
            snprintf(eviction->names[count], sizeof(eviction->names[0]), "%s-%u", names[way], 1u << 2 * i);
            arms[count] = (struct bench_arm){.name = eviction->names[count],
                                             .unit = "ns",
                                             .turn = evict_turn,
                                             .context = &eviction->arms[count],
                                             .by = "views",
                                             .at = 1u << 2 * i,
                                             .series = series[way]};
            if (way == BY_MINNOW) /* the names of later arms are not there yet, but their places are */
                arms[count].against[0] = eviction->names[count + points];
        }
    bench_take_turns(bench, arms, count);
}

void bench_scale_eviction(struct bench *bench) {
    static struct eviction eviction;
    memset(&eviction, 0, sizeof(eviction));
    if (scratch_warm(&eviction.scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    if (rig_open(&eviction.rig, &eviction.scratch, MNW_BACKING_SHMEM, BUDGET))
        bench_break(bench, NULL, "could not be opened: %s", mnw_error());
    else if (area_open(&eviction.area, AREA_4K, LENGTH, &eviction.scratch))
        bench_break(bench, NULL, "no memory file of %" PRIu64 " bytes", (uint64_t)LENGTH);
    else
        measure(bench, &eviction);
    if (eviction.area.alias)
        area_close(&eviction.area);
    rig_close(&eviction.rig);
    scratch_close(&eviction.scratch);
}
