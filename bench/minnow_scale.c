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

/* ---- scale-views ---- */

#define VIEWS_MAX   1024
#define VIEW_POINTS 6 /* 1, 4, 16, ... views */

/* All views are open the whole time of their arm's turn; the work is in one of them, or in each in turn. */
struct views {
    struct rig rig;
    struct mnw_view *views[VIEWS_MAX];
    unsigned open;
};

struct views_arm {
    struct views *views;
    unsigned many;
    bool opening; /* what opening one more takes; else what a resident fault takes */
    unsigned touches;
};

static bool open_until(struct views *views, unsigned many) {
    while (views->open < many)
        if (mnw_view_open(&views->views[views->open], views->rig.cache, NULL))
            return false;
        else
            views->open++;
    while (views->open > many)
        if (mnw_view_close(views->views[--views->open]))
            return false;
    return true;
}

static double touch_views(struct views *views, const struct views_arm *arm, struct bench_turn *turn) {
    double ns[TOUCHES];
    for (unsigned i = 0; i < views->open; i++)
        madvise(mnw_view_data(views->views[i]), LENGTH, MADV_DONTNEED);
    for (unsigned i = 0; i < arm->touches; i++) {
        volatile const unsigned char *data = mnw_view_data(views->views[i % views->open]);
        size_t at = pattern_scatter((turn->seed + i) % (LENGTH / PAGE), LENGTH / PAGE) * PAGE;
        uint64_t begin_ns = clock_ns();
        turn->sum += data[at];
        ns[i] = (double)(clock_ns() - begin_ns);
    }
    samples_append(turn->latencies, ns, arm->touches);
    return median_of(ns, arm->touches);
}

static double views_turn(void *context, struct bench_turn *turn) {
    struct views_arm *arm = context;
    if (!open_until(arm->views, arm->many)) {
        snprintf(turn->why, sizeof(turn->why), "view %u: %s", arm->views->open, mnw_error());
        return NAN;
    }
    if (!arm->opening)
        return touch_views(arm->views, arm, turn);
    uint64_t begin_ns = clock_ns();
    if (!open_until(arm->views, arm->many + 1))
        return NAN;
    return (double)(clock_ns() - begin_ns);
}

void bench_scale_views(struct bench *bench) {
    static struct views views;
    static struct views_arm contexts[2 * VIEW_POINTS];
    static char names[2 * VIEW_POINTS][32];
    struct bench_arm arms[2 * VIEW_POINTS];
    struct scratch scratch;
    unsigned count = 0, points = bench->smoke ? VIEW_POINTS - 2 : VIEW_POINTS;
    memset(&views, 0, sizeof(views));
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    if (rig_open(&views.rig, &scratch, MNW_BACKING_SHMEM, fill_budget(LENGTH))) {
        bench_break(bench, NULL, "could not be opened: %s", mnw_error());
        scratch_close(&scratch);
        return;
    }
    for (size_t at = 0; at < LENGTH; at += PAGE)
        (void)views.rig.data[at];
    for (unsigned opening = 0; opening < 2; opening++)
        for (unsigned i = 0; i < points; i++, count++) {
            unsigned many = (1u << 2 * i) - (opening && i == VIEW_POINTS - 1);
            contexts[count] = (struct views_arm){&views, many, opening, bench->smoke ? TOUCHES / 5 : TOUCHES};
            snprintf(names[count], sizeof(names[0]), "%s-%u", opening ? "open" : "fault", 1u << 2 * i);
            arms[count] = (struct bench_arm){.name = names[count],
                                             .unit = "ns",
                                             .turn = views_turn,
                                             .context = &contexts[count],
                                             .by = "views",
                                             .at = 1u << 2 * i,
                                             .series = opening ? "opening one more" : "resident fault",
                                             .same_work = !opening};
        }
    bench_take_turns(bench, arms, count);
    if (!open_until(&views, 0))
        bench_break(bench, NULL, "a view would not close: %s", mnw_error());
    rig_close(&views.rig);
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

void bench_restart(struct bench *bench) {
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, (bench->smoke ? 32 : 256) * MIB)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    struct restart cold = {&scratch, false, -1, -1}, warm = {&scratch, true, -1, -1};
    struct bench_arm arms[] = {
        {.name = "cold", .unit = "ms", .turn = restart_turn, .context = &cold, .same_work = true},
        {.name = "taken-over",
         .unit = "ms",
         .turn = restart_turn,
         .context = &warm,
         .same_work = true,
         .against = {"cold"}},
    };
    bench_take_turns(bench, arms, 2);
    let_go(&warm);
    scratch_close(&scratch);
}
