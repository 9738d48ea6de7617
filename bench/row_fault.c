/* SPDX-License-Identifier: MIT */
/* A resident fault through the fault thread against a bare loop of read and CONTINUE, by placement of the threads. */
#include "measure.h"
#include "registry.h"
#include "touches.h"

#include <string.h>

#define PAGE    4096
#define LENGTH  (64 * MIB)
#define TOUCHES 1000 /* long enough to settle, short enough to share the noise */

static const struct placement {
    const char *name, *bare;
    int toucher, handler; /* ranks of CPUs; -1: any */
} placements[] = {
    {"same-cpu", "bare-same-cpu", 0, 0}, {"two-cpus", "bare-two-cpus", 0, 1}, {"unpinned", "bare-unpinned", -1, -1}};

static void measure(struct bench *bench, const struct placement *placement, struct touches minnow,
                    struct touches bare) {
    if (placement->handler >= cpu_count()) {
        bench_skip(bench, placement->name, "there is one CPU");
        return;
    }
    minnow.count = bare.count = bench->smoke ? TOUCHES / 4 : TOUCHES;
    minnow.cpu = bare.cpu = placement->toucher;
    minnow.thread_cpu = bare.thread_cpu = placement->handler;
    struct bench_arm arms[] = {
        {.name = placement->bare, .unit = "ns", .turn = touches_turn, .context = &bare, .same_work = true},
        {.name = placement->name,
         .unit = "ns",
         .turn = touches_turn,
         .context = &minnow,
         .against = {placement->bare},
         .target = {BENCH_AT_MOST},
         .limit = {1.25},
         .same_work = true,
         .detail = touches_detail,
         .sane_low = 0.01, /* a bare loop that is left on the other CPU */
         .sane_high = 100},
    };
    bench_take_turns(bench, arms, 2);
}

static void measure_all(struct bench *bench, const struct rig *rig, struct handler *handler) {
    struct touches minnow = {
        .data = rig->data, .length = LENGTH, .page_bytes = PAGE, .rig = rig, .thread = find_thread("mnw-fault-0")};
    struct touches bare = {
        .data = handler->data, .length = LENGTH, .page_bytes = PAGE, .handler = handler, .thread = handler->thread_id};
    if (minnow.thread < 0) {
        bench_break(bench, NULL, "no thread mnw-fault-0 found in /proc/self/task");
        return;
    }
    for (unsigned i = 0; i < sizeof(placements) / sizeof(placements[0]); i++)
        measure(bench, &placements[i], minnow, bare);
}

static void with_minnow(struct bench *bench, const struct scratch *scratch, struct handler *handler) {
    struct rig rig;
    if (rig_open(&rig, scratch, MNW_BACKING_SHMEM, 2 * LENGTH)) {
        bench_break(bench, NULL, "could not be opened: %s", mnw_error());
        return;
    }
    for (size_t at = 0; at < rig.length; at += PAGE)
        (void)rig.data[at];
    measure_all(bench, &rig, handler);
    rig_close(&rig);
}

void row_resident_fault(struct bench *bench) {
    struct scratch scratch;
    struct area area;
    struct handler handler;
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    int error = area_open(&area, AREA_4K, LENGTH, &scratch);
    if (!error) {
        error = handler_open(&handler, &area, HANDLER_BLOCKING, ANSWER_CONTINUE, NULL);
        if (!error) {
            with_minnow(bench, &scratch, &handler);
            handler_close(&handler);
        }
        area_close(&area);
    }
    if (error)
        bench_break(bench, NULL, "the bare loop: %s", strerror(-error));
    scratch_close(&scratch);
}
