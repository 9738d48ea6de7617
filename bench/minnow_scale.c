/* SPDX-License-Identifier: MIT */
/*
 * Cost as a function of size: the same work at 1, 2, 4, ... times the views of a cache and the size of the store; and
 * what a cache that outlives its process saves. scale-views, scale-store, restart.
 */
#include "fills.h"
#include "measure.h"
#include "minnow/pattern.h"
#include "registry.h"
#include "touches.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE    4096
#define LENGTH  (16 * MIB)
#define TOUCHES 500
#ifdef BENCH_HAS_INLINE
#define VIEW_INLINE MNW_VIEW_INLINE
#else
#define VIEW_INLINE (1u << 31) /* refused */
#endif

/* ---- scale-views ---- */

#define VIEWS_MAX   1024
#define VIEW_POINTS 6 /* 1, 4, 16, ... views */

/* Who maps the pages of the cache, and answers for faults. */
enum mapper { BY_THREAD, BY_INLINE, BY_KERNEL, MAPPERS };
static const char *const mapper_names[MAPPERS] = {"fault", "inline", "kernel"};
static const char *const mapper_series[MAPPERS] = {"resident fault", "resident fault, inline",
                                                   "plain mappings of the same file"};

/* As many as an arm wants are open in its turn, and none of the others'; the work is in each in turn. */
struct views {
    enum mapper mapper;
    struct mnw_cache *cache;
    struct mnw_view *views[VIEWS_MAX];
    void *mappings[VIEWS_MAX];
    int quiet[VIEWS_MAX]; /* keeps the kernel's fault-around off */
    unsigned open;
};

struct views_arm {
    struct views *all; /* of every mapper */
    enum mapper mapper;
    unsigned many;
    bool opening; /* what opening one more takes; else what a resident fault takes */
    unsigned touches;
};

static bool map_plain(struct views *views, unsigned which) {
    void *at = mmap(NULL, LENGTH, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, mnw_cache_fd(views->cache), 0);
    if (at == MAP_FAILED)
        return false;
    views->quiet[which] = fault_around_off(at, LENGTH);
    views->mappings[which] = at;
    if (views->quiet[which] >= 0)
        return true;
    munmap(at, LENGTH);
    return false;
}

static bool open_one(struct views *views, unsigned which) {
    if (views->mapper == BY_KERNEL)
        return map_plain(views, which);
    struct mnw_view_options options = {.size = sizeof(options), .flags = views->mapper == BY_INLINE ? VIEW_INLINE : 0};
    if (mnw_view_open(&views->views[which], views->cache, &options))
        return false;
    views->mappings[which] = mnw_view_data(views->views[which]);
    return true;
}

static bool close_one(struct views *views, unsigned which) {
    if (views->mapper != BY_KERNEL)
        return !mnw_view_close(views->views[which]);
    munmap(views->mappings[which], LENGTH);
    return !close(views->quiet[which]);
}

static bool open_until(struct views *views, unsigned many) {
    while (views->open < many)
        if (!open_one(views, views->open))
            return false;
        else
            views->open++;
    while (views->open > many)
        if (!close_one(views, --views->open))
            return false;
    return true;
}

static double touch_views(struct views *views, const struct views_arm *arm, struct bench_turn *turn) {
    double ns[TOUCHES];
    /* On one CPU: a wake-up of the other takes ten times what is measured. */
    pin_thread(0, 0);
    pin_thread(find_thread("mnw-fault-0"), 0);
    for (unsigned i = 0; i < views->open; i++)
        madvise(views->mappings[i], LENGTH, MADV_DONTNEED);
    for (unsigned i = 0; i < arm->touches; i++) {
        volatile const unsigned char *data = views->mappings[i % views->open];
        size_t at = pattern_scatter((turn->seed + i) % (LENGTH / PAGE), LENGTH / PAGE) * PAGE;
        uint64_t begin_ns = clock_ns();
        turn->sum += data[at];
        ns[i] = (double)(clock_ns() - begin_ns);
    }
    pin_thread(0, -1);
    samples_append(turn->latencies, ns, arm->touches);
    return median_of(ns, arm->touches);
}

static bool close_others(struct views *all, int but) {
    bool good = true;
    for (int i = 0; i < MAPPERS; i++)
        good &= i == but || open_until(&all[i], 0);
    return good;
}

static double views_turn(void *context, struct bench_turn *turn) {
    struct views_arm *arm = context;
    struct views *views = &arm->all[arm->mapper];
    if (!close_others(arm->all, (int)arm->mapper) || !open_until(views, arm->many)) {
        snprintf(turn->why, sizeof(turn->why), "view %u: %s", views->open, mnw_error());
        return NAN;
    }
    if (!arm->opening)
        return touch_views(views, arm, turn);
    uint64_t begin_ns = clock_ns();
    if (!open_until(views, arm->many + 1))
        return NAN;
    return (double)(clock_ns() - begin_ns);
}

/* The last series opens views, and faults in none. */
#define VIEW_SERIES (MAPPERS + 1)

static bool has_mapper(struct bench *bench, struct views *views) {
    if (open_until(views, 1))
        return open_until(views, 0);
    bench_skip(bench, mapper_names[views->mapper], "not to be had by this library or kernel");
    return false;
}

static void measure_views(struct bench *bench, struct mnw_cache *cache) {
    static struct views all[MAPPERS];
    static struct views_arm contexts[VIEW_SERIES * VIEW_POINTS];
    static char names[VIEW_SERIES * VIEW_POINTS][32];
    struct bench_arm arms[VIEW_SERIES * VIEW_POINTS];
    unsigned count = 0, points = bench->smoke ? VIEW_POINTS - 2 : VIEW_POINTS;
    bool has[MAPPERS];
    for (unsigned i = 0; i < MAPPERS; i++) {
        all[i] = (struct views){.mapper = (enum mapper)i, .cache = cache};
        has[i] = has_mapper(bench, &all[i]);
    }
    for (unsigned series = 0; series < VIEW_SERIES; series++)
        for (unsigned i = 0; i < points; i++) {
            bool opening = series == MAPPERS;
            enum mapper mapper = opening ? BY_THREAD : (enum mapper)series;
            unsigned many = (1u << 2 * i) - (opening && i == VIEW_POINTS - 1);
            if (!has[mapper])
                continue;
            contexts[count] = (struct views_arm){all, mapper, many, opening, bench->smoke ? TOUCHES / 5 : TOUCHES};
            snprintf(names[count], sizeof(names[0]), "%s-%u", opening ? "open" : mapper_names[mapper], 1u << 2 * i);
            arms[count] = (struct bench_arm){.name = names[count],
                                             .unit = "ns",
                                             .turn = views_turn,
                                             .context = &contexts[count],
                                             .by = "views",
                                             .at = 1u << 2 * i,
                                             .series = opening ? "opening one more" : mapper_series[mapper],
                                             .same_work = !opening};
            if (!opening && mapper != BY_KERNEL && has[BY_KERNEL])
                arms[count].against[0] = names[count + (BY_KERNEL - mapper - (has[BY_INLINE] ? 0 : 1)) * points];
            count++;
        }
    /* Names of later arms are not there yet when they are first pointed at, but their places are. */
    bench_take_turns(bench, arms, count);
    if (!close_others(all, -1))
        bench_break(bench, NULL, "a view would not close: %s", mnw_error());
}

void bench_scale_views(struct bench *bench) {
    struct scratch scratch;
    struct rig rig;
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    if (rig_open(&rig, &scratch, MNW_BACKING_SHMEM, fill_budget(LENGTH))) {
        bench_break(bench, NULL, "could not be opened: %s", mnw_error());
    } else {
        for (size_t at = 0; at < LENGTH; at += PAGE)
            (void)rig.data[at];
        measure_views(bench, rig.cache);
        rig_close(&rig);
    }
    scratch_close(&scratch);
}

/* ---- scale-store ---- */

#define STORE_POINTS 6 /* 256 MiB, 1 GiB, ... 256 GiB, holes */

struct store {
    struct scratch scratch;
    struct rig rig;
    unsigned touches;
    bool opening;
    struct mnw_pool_options options;
};

/* Reads as many pages of whatever size the store has, beyond the budget; or opens it and reads one. */
static double store_turn(void *context, struct bench_turn *turn) {
    struct store *store = context;
    struct rig rig = store->rig;
    uint64_t pages = store->scratch.size_bytes / PAGE, begin_ns = clock_ns();
    if (store->opening && rig_open_pool(&rig, &store->scratch, &store->options))
        return NAN;
    unsigned touches = store->opening ? 1 : store->touches;
    for (unsigned i = 0; i < touches; i++)
        turn->sum += rig.data[pattern_scatter((turn->seed + i) % pages, pages) * PAGE];
    uint64_t ns = clock_ns() - begin_ns;
    if (store->opening)
        rig_close(&rig);
    return (double)ns / touches;
}

void bench_scale_store(struct bench *bench) {
    static struct store stores[2 * STORE_POINTS];
    static char names[2 * STORE_POINTS][32];
    struct bench_arm arms[2 * STORE_POINTS];
    unsigned count = 0, points = bench->smoke ? 3 : STORE_POINTS;
    memset(stores, 0, sizeof(stores));
    for (unsigned opening = 0; opening < 2; opening++)
        for (unsigned i = 0; i < points; i++) {
            struct store *store = &stores[count];
            unsigned mib = 256u << 2 * i;
            *store = (struct store){
                .opening = opening,
                .touches = bench->smoke ? TOUCHES : 10 * TOUCHES,
                .options = {.size = sizeof(store->options), .backing = MNW_BACKING_SHMEM, .budget_bytes = 32 * MIB}};
            snprintf(names[count], sizeof(names[0]), "%s-%uM", opening ? "open" : "fault", mib);
            if (scratch_sparse(&store->scratch, bench->directory, mib * MIB)) {
                bench_skip(bench, names[count], "%s is on a file system without files so large", bench->directory);
                continue;
            }
            if (!opening && rig_open_pool(&store->rig, &store->scratch, &store->options)) {
                bench_break(bench, names[count], "could not be opened: %s", mnw_error());
                scratch_close(&store->scratch);
                continue;
            }
            arms[count] = (struct bench_arm){.name = names[count],
                                             .unit = "ns",
                                             .turn = store_turn,
                                             .context = store,
                                             .by = "store MiB",
                                             .at = mib,
                                             .series = opening ? "open to first byte" : "cold fault, reclaiming"};
            count++;
        }
    bench_take_turns(bench, arms, count);
    for (unsigned i = 0; i < count; i++) {
        rig_close(&stores[i].rig);
        scratch_close(&stores[i].scratch);
    }
}

/* ---- restart ---- */

/* A pool and cache that take over what an earlier one kept, or begin empty; the whole store is then read. */
struct restart {
    const struct scratch *scratch;
    bool warm;
    int backing_fd, words_fd; /* what was kept; -1: nothing */
};

static int open_keeping(struct rig *rig, const struct restart *restart, const struct mnw_kept *kept) {
    struct mnw_pool_options pool = {
        .size = sizeof(pool), .backing = MNW_BACKING_SHMEM, .budget_bytes = fill_budget(restart->scratch->size_bytes)};
    struct mnw_cache_options cache = {.size = sizeof(cache), .keep = 1, .kept = kept};
    *rig = (struct rig){0};
    int error = mnw_store_open(&rig->store, restart->scratch->uri, NULL);
    if (!error)
        error = mnw_pool_open(&rig->pool, &pool);
    if (!error)
        error = mnw_cache_open(&rig->cache, rig->pool, rig->store, &cache);
    if (!error)
        error = mnw_view_open(&rig->view, rig->cache, NULL);
    if (error)
        return error;
    rig->data = mnw_view_data(rig->view);
    rig->length = mnw_view_length(rig->view);
    return 0;
}

static void let_go(struct restart *restart) {
    if (restart->backing_fd >= 0)
        close(restart->backing_fd);
    if (restart->words_fd >= 0)
        close(restart->words_fd);
    restart->backing_fd = restart->words_fd = -1;
}

static double restart_turn(void *context, struct bench_turn *turn) {
    struct restart *restart = context;
    struct mnw_kept kept = {.size = sizeof(kept), .backing_fd = restart->backing_fd, .words_fd = restart->words_fd},
                    next = {.size = sizeof(next)};
    struct rig rig;
    uint64_t begin_ns = clock_ns();
    int error = open_keeping(&rig, restart, restart->backing_fd >= 0 ? &kept : NULL);
    if (error) {
        snprintf(turn->why, sizeof(turn->why), "%s", mnw_error());
        rig_close(&rig);
        return NAN;
    }
    for (size_t at = 0; at < rig.length; at += PAGE)
        turn->sum += rig.data[at];
    double ms = (double)(clock_ns() - begin_ns) / 1e6;
    let_go(restart);
    if (restart->warm && !mnw_cache_kept(rig.cache, &next)) {
        restart->backing_fd = fcntl(next.backing_fd, F_DUPFD_CLOEXEC, 3);
        restart->words_fd = fcntl(next.words_fd, F_DUPFD_CLOEXEC, 3);
    }
    rig_close(&rig);
    return ms;
}

/* What every program has that restarts: the file, warm, mapped anew. */
static double mmap_turn(void *context, struct bench_turn *turn) {
    const struct scratch *scratch = context;
    uint64_t begin_ns = clock_ns();
    void *at = mmap(NULL, scratch->size_bytes, PROT_READ, MAP_SHARED, scratch->fd, 0);
    if (at == MAP_FAILED)
        return NAN;
    volatile const unsigned char *data = at;
    for (size_t page = 0; page < scratch->size_bytes; page += PAGE)
        turn->sum += data[page];
    double ms = (double)(clock_ns() - begin_ns) / 1e6;
    munmap(at, scratch->size_bytes);
    return ms;
}

void bench_restart(struct bench *bench) {
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, (bench->smoke ? 32 : 256) * MIB)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    struct restart cold = {&scratch, false, -1, -1}, warm = {&scratch, true, -1, -1};
    struct bench_arm arms[] = {
        {.name = "cold",
         .unit = "ms",
         .turn = restart_turn,
         .context = &cold,
         .same_work = true,
         .against = {"plain-mmap"}},
        {.name = "taken-over",
         .unit = "ms",
         .turn = restart_turn,
         .context = &warm,
         .same_work = true,
         .against = {"cold", "plain-mmap"}},
        {.name = "plain-mmap", .unit = "ms", .turn = mmap_turn, .context = &scratch, .same_work = true},
    };
    bench_take_turns(bench, arms, 3);
    let_go(&warm);
    scratch_close(&scratch);
}
