/* SPDX-License-Identifier: MIT */
/* The same faults by 1 to 64 threads: the kernel's, a textbook thread's, textbook signal handlers', minnow's by its
 * thread and inline. */
#include "measure.h"
#include "parallel.h"
#include "registry.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LENGTH  (64 * MIB)
#define PAGE    4096
#define TOUCHES 4096
#define MOST    64
#define POINTS  7
#define SERIES  5

struct threads {
    struct area areas[3];
    struct handler handlers[3];
    struct rig rig, in_line;
    int quiet; /* keeps the kernel's fault-around off */
    struct parallel parallel[SERIES * POINTS];
    struct bench_arm arms[SERIES * POINTS];
    char names[SERIES * POINTS][32];
    unsigned count;
};

static void add_series(struct threads *threads, const struct bench *bench, const char *series,
                       const struct touches *touches) {
    for (unsigned many = 1; many <= MOST; many *= 2) {
        unsigned i = threads->count++;
        snprintf(threads->names[i], sizeof(threads->names[i]), "%s-%u", series, many);
        threads->parallel[i] = (struct parallel){.touches = *touches, .threads = many};
        threads->parallel[i].touches.count = bench->smoke ? TOUCHES / 8 : TOUCHES;
        threads->parallel[i].touches.length = LENGTH;
        threads->parallel[i].touches.page_bytes = PAGE;
        threads->arms[i] = (struct bench_arm){.name = threads->names[i],
                                              .unit = "faults/s",
                                              .turn = parallel_turn,
                                              .context = &threads->parallel[i],
                                              .by = "threads",
                                              .series = series,
                                              .at = many,
                                              .same_work = true};
    }
}

/* 0: the kernel alone, 1: a thread, 2: signal handlers. */
static int add_bare(struct threads *threads, const struct bench *bench, unsigned which, const struct scratch *scratch) {
    static const char *const names[] = {"kernel", "thread", "sigbus"};
    struct area *area = &threads->areas[which];
    struct handler *handler = &threads->handlers[which];
    int error = area_open(area, AREA_4K, LENGTH, scratch);
    if (error)
        return error;
    if (!which)
        error = threads->quiet = fault_around_off(area->view, LENGTH);
    else
        error = handler_open(handler, area, which == 1 ? HANDLER_BLOCKING : HANDLER_SIGBUS, ANSWER_CONTINUE, NULL);
    if (error >= 0)
        add_series(threads, bench, names[which],
                   &(struct touches){.data = area->view, .handler = which ? handler : NULL});
    return error < 0 ? error : 0;
}

static void add_inline(struct threads *threads, struct bench *bench, const struct scratch *scratch) {
    struct rig *rig = &threads->in_line;
    if (rig_open_inline(rig, scratch, MNW_BACKING_SHMEM, 2 * LENGTH)) {
        bench_skip(bench, "minnow-inline", "%s", mnw_error());
        return;
    }
    for (size_t at = 0; at < rig->length; at += PAGE)
        (void)rig->data[at];
    add_series(threads, bench, "minnow-inline", &(struct touches){.data = rig->data, .rig = rig});
}

static void measure(struct bench *bench, struct threads *threads, const struct scratch *scratch) {
    for (unsigned i = 0; i < 3; i++) {
        int error = add_bare(threads, bench, i, scratch);
        if (error) {
            bench_break(bench, NULL, "%s", strerror(-error));
            return;
        }
    }
    if (rig_open(&threads->rig, scratch, MNW_BACKING_SHMEM, 2 * LENGTH)) {
        bench_break(bench, NULL, "could not be opened");
        return;
    }
    for (size_t at = 0; at < threads->rig.length; at += PAGE)
        (void)threads->rig.data[at];
    add_series(
        threads, bench, "minnow",
        &(struct touches){.data = threads->rig.data, .rig = &threads->rig, .thread = find_thread("mnw-fault-0")});
    add_inline(threads, bench, scratch);
    bench_take_turns(bench, threads->arms, threads->count);
}

void bench_threads(struct bench *bench) {
    static struct threads threads;
    struct scratch scratch;
    memset(&threads, 0, sizeof(threads));
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    measure(bench, &threads, &scratch);
    for (unsigned i = 0; i < 3; i++) {
        handler_close(&threads.handlers[i]);
        if (threads.areas[i].alias)
            area_close(&threads.areas[i]);
    }
    if (threads.quiet > 0)
        close(threads.quiet);
    rig_close(&threads.rig);
    rig_close(&threads.in_line);
    scratch_close(&scratch);
}
