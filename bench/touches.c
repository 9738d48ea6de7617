/* SPDX-License-Identifier: MIT */
#include "touches.h"

#include "measure.h"
#include "minnow/pattern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define FAULTS_LEAST 0.9

static uint64_t faults_so_far(const struct touches *touches) {
    struct mnw_stats stats;
    struct rusage usage;
    if (touches->handler)
        return atomic_load(&touches->handler->faults);
    if (touches->rig) {
        mnw_pool_stats(touches->rig->pool, &stats, sizeof(stats));
        return stats.faults_minor + stats.faults_missing;
    }
    getrusage(RUSAGE_THREAD, &usage);
    return (uint64_t)(usage.ru_minflt + usage.ru_majflt);
}

void touches_reset(const struct touches *touches) {
    if (touches->reset)
        touches->reset(touches->reset_data);
    else if (touches->handler)
        handler_reset(touches->handler);
    else
        madvise((void *)(uintptr_t)touches->data, touches->length, MADV_DONTNEED);
}

uint64_t touches_first(const struct touches *touches, const struct bench_turn *turn) {
    return turn->seed % (touches->length / touches->page_bytes);
}

/* Another stretch of one fixed shuffle in every round, so that no two rounds touch the same pages in a row. */
uint64_t touches_page(const struct touches *touches, uint64_t first, uint64_t index) {
    uint64_t pages = touches->length / touches->page_bytes;
    return touches->order == TOUCH_RANDOM ? pattern_scatter((first + index) % pages, pages) : (first + index) % pages;
}

static void touch_all(struct touches *touches, struct bench_turn *turn, double *ns) {
    uint64_t pages = touches->length / touches->page_bytes, first = touches_first(touches, turn);
    for (unsigned i = 0; i < touches->count; i++) {
        if (i % pages == 0)
            touches_reset(touches);
        size_t at = touches_page(touches, first, i) * touches->page_bytes;
        uint64_t begin_ns = clock_ns();
        unsigned char byte = 0;
        if (touches->write)
            ((volatile unsigned char *)(uintptr_t)touches->data)[at] = byte;
        else
            byte = touches->data[at];
        ns[i] = (double)(clock_ns() - begin_ns);
        turn->sum += byte;
    }
}

double touches_turn(void *context, struct bench_turn *turn) {
    struct touches *touches = context;
    double *ns = calloc(touches->count, sizeof(double));
    if (!ns)
        return NAN;
    if (!touches->stay)
        pin_thread(0, touches->cpu);
    if (touches->thread)
        pin_thread(touches->thread, touches->thread_cpu);
    if (touches->handler)
        handler_wake(touches->handler);
    uint64_t before = faults_so_far(touches);
    touch_all(touches, turn, ns);
    touches->per_touch = (double)(faults_so_far(touches) - before) / touches->count;
    if (touches->handler)
        handler_rest(touches->handler);
    if (touches->give_up)
        touches_reset(touches);
    if (!touches->stay)
        pin_thread(0, -1);
    samples_append(turn->latencies, ns, touches->count);
    double median = median_of(ns, touches->count);
    free(ns);
    if (touches->any_faults || touches->per_touch >= FAULTS_LEAST)
        return median;
    snprintf(turn->why, sizeof(turn->why), "only %.3f faults for each touch", touches->per_touch);
    return NAN;
}

json_t *touches_detail(void *context, struct bench *bench) {
    const struct touches *touches = context;
    (void)bench;
    return json_pack("{s:f}", "faults_per_touch", touches->per_touch);
}
