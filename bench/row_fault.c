/* SPDX-License-Identifier: MIT */
/* A resident fault through the fault thread against a bare loop of read and CONTINUE, by placement of the threads. */
#include "bare.h"
#include "harness.h"
#include "measure.h"
#include "rig.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE    4096
#define LENGTH  (64 * MIB)
#define PAGES   (LENGTH / PAGE)
#define TOUCHES 3000 /* in one repeat */
#define TURN    500  /* divides it: long enough to settle, short enough to share the noise */

struct side {
    volatile const unsigned char *data;
    pid_t handler;
    double medians[BENCH_REPEAT_MAX];
};

static const struct placement {
    const char *name;
    int consumer, handler; /* ranks of CPUs; -1: any */
} placements[] = {{"same CPU", 0, 0}, {"two CPUs", 0, 1}, {"unpinned", -1, -1}};

static uint32_t order[PAGES];

/* Random, so that neighbours mapped ahead help nobody. */
static void shuffle(void) {
    uint64_t random = 88172645463325252u;
    for (uint32_t i = 0; i < PAGES; i++)
        order[i] = i;
    for (uint32_t i = PAGES - 1; i > 0; i--) {
        uint32_t other = (uint32_t)(next_random(&random) % (i + 1)), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

/* The pages are resident before and after; only the view forgets them. */
static void touch_some(volatile const unsigned char *data, unsigned touches, unsigned first, double *ns) {
    madvise((void *)(uintptr_t)data, LENGTH, MADV_DONTNEED);
    for (unsigned i = 0; i < touches; i++) {
        size_t at = (size_t)order[(first + i) % PAGES] * PAGE;
        uint64_t begin_ns = clock_ns();
        (void)data[at];
        ns[i] = (double)(clock_ns() - begin_ns);
    }
}

/*
 * One repeat: the two take turns every 5 to 50 ms, so that whatever else the machine does falls on both,
 * and each gets the median of its touches.
 */
static void take_turns(struct side *bare, struct side *minnow, unsigned touches, unsigned repeat) {
    static double bare_ns[TOUCHES], minnow_ns[TOUCHES];
    for (unsigned done = 0; done < touches; done += TURN) {
        unsigned first = repeat * touches + done;
        touch_some(bare->data, TURN, first, bare_ns + done);
        touch_some(minnow->data, TURN, first, minnow_ns + done);
    }
    bare->medians[repeat] = bench_median(bare_ns, touches);
    minnow->medians[repeat] = bench_median(minnow_ns, touches);
}

static uint64_t faults_resolved(const struct rig *rig) {
    struct mnw_stats stats;
    mnw_pool_stats(rig->pool, &stats, sizeof(stats));
    return stats.faults_resolved;
}

static void report(struct bench *bench, const char *placement, struct side *minnow, struct side *bare,
                   double faults_per_touch) {
    double ratios[BENCH_REPEAT_MAX];
    for (unsigned i = 0; i < bench->repeat; i++)
        ratios[i] = minnow->medians[i] / bare->medians[i];
    /* A touch that raised no fault was not measured. */
    bool all_faulted = faults_per_touch > 0.95;
    double ratio = bench_median(ratios, bench->repeat); /* sorts them */
    bench_report(bench, &(struct bench_row){
                            .name = "resident-fault",
                            .variant = placement,
                            .value = ratio,
                            .unit = "x bare loop",
                            .target = BENCH_AT_MOST,
                            .limit = 1.25,
                            .sane_low = all_faulted ? 0.1 : 1e9,
                            .sane_high = 100,
                            .detail = json_pack(
                                "{s:f, s:f, s:f, s:f, s:f}", "minnow_ns", bench_median(minnow->medians, bench->repeat),
                                "bare_ns", bench_median(bare->medians, bench->repeat), "least", ratios[0], "greatest",
                                ratios[bench->repeat - 1], "faults_per_touch", faults_per_touch),
                        });
}

/* The first repeat does not count. */
static void measure(struct bench *bench, const struct placement *placement, struct rig *rig, struct side *minnow,
                    struct side *bare) {
    if (placement->handler >= cpu_count()) {
        bench_skip(bench, "resident-fault", placement->name, "there is one CPU");
        return;
    }
    unsigned touches = bench->smoke ? TURN : TOUCHES;
    pin_thread(0, placement->consumer);
    pin_thread(minnow->handler, placement->handler);
    pin_thread(bare->handler, placement->handler);
    take_turns(bare, minnow, touches, 0);
    uint64_t before = faults_resolved(rig);
    for (unsigned i = 0; i < bench->repeat; i++)
        take_turns(bare, minnow, touches, i);
    double faults = (double)(faults_resolved(rig) - before);
    pin_thread(0, -1);
    report(bench, placement->name, minnow, bare, faults / touches / bench->repeat);
}

static void measure_all(struct bench *bench, struct rig *rig, const struct bare_loop *loop) {
    static struct side minnow, bare;
    minnow.data = rig->data;
    minnow.handler = find_thread("mnw-fault-0");
    bare.data = loop->data;
    bare.handler = loop->thread_id;
    if (minnow.handler < 0) {
        bench_break(bench, "resident-fault", "all", "no thread mnw-fault-0 found in /proc/self/task");
        return;
    }
    for (unsigned i = 0; i < sizeof(placements) / sizeof(placements[0]); i++)
        measure(bench, &placements[i], rig, &minnow, &bare);
}

static void with_both(struct bench *bench, const struct scratch *scratch) {
    struct rig rig;
    struct bare_loop loop;
    int error = bare_loop_open(&loop, LENGTH);
    if (error) {
        bench_break(bench, "resident-fault", "all", "the bare loop: %s", strerror(-error));
        return;
    }
    if (rig_open(&rig, scratch, MNW_BACKING_SHMEM, 2 * LENGTH)) {
        bench_break(bench, "resident-fault", "all", "could not be opened");
    } else {
        for (size_t at = 0; at < rig.length; at += PAGE)
            (void)rig.data[at];
        measure_all(bench, &rig, &loop);
        rig_close(&rig);
    }
    bare_loop_close(&loop);
}

void row_resident_fault(struct bench *bench) {
    struct scratch scratch;
    cpu_count(); /* remembers the CPUs before anything is pinned */
    shuffle();
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, "resident-fault", "all", "no scratch file in %s", bench->directory);
        return;
    }
    with_both(bench, &scratch);
    scratch_close(&scratch);
}
