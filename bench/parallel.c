/* SPDX-License-Identifier: MIT */
#include "parallel.h"

#include "measure.h"

#include <math.h>
#include <stdio.h>

#define THREADS_MAX 256

struct toucher {
    const struct parallel *parallel;
    pthread_barrier_t *barrier;
    unsigned rank;
    uint64_t first, sum, end_ns;
    unsigned count; /* of all threads */
};

static void *touch_share(void *argument) {
    struct toucher *toucher = argument;
    const struct touches *touches = &toucher->parallel->touches;
    pthread_barrier_wait(toucher->barrier); /* all are there */
    pthread_barrier_wait(toucher->barrier); /* the clock runs */
    for (unsigned i = toucher->rank; i < toucher->count; i += toucher->parallel->threads)
        toucher->sum += touches->data[touches_page(touches, toucher->first, i) * touches->page_bytes];
    toucher->end_ns = clock_ns();
    return NULL;
}

static uint64_t run_threads(const struct parallel *parallel, struct bench_turn *turn, unsigned count) {
    pthread_t threads[THREADS_MAX];
    struct toucher touchers[THREADS_MAX];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, parallel->threads + 1);
    for (unsigned i = 0; i < parallel->threads; i++) {
        touchers[i] = (struct toucher){.parallel = parallel,
                                       .barrier = &barrier,
                                       .rank = i,
                                       .first = touches_first(&parallel->touches, turn),
                                       .count = count};
        pthread_create(&threads[i], NULL, touch_share, &touchers[i]);
    }
    pthread_barrier_wait(&barrier);
    uint64_t begin_ns = clock_ns(), end_ns = begin_ns;
    pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < parallel->threads; i++) {
        pthread_join(threads[i], NULL);
        turn->sum += touchers[i].sum;
        end_ns = touchers[i].end_ns > end_ns ? touchers[i].end_ns : end_ns;
    }
    pthread_barrier_destroy(&barrier);
    return end_ns - begin_ns;
}

double parallel_turn(void *context, struct bench_turn *turn) {
    struct parallel *parallel = context;
    struct touches *touches = &parallel->touches;
    unsigned pages = (unsigned)(touches->length / touches->page_bytes);
    unsigned most = pages < parallel->threads ? parallel->threads : pages;
    uint64_t ns = 0;
    if (parallel->threads > THREADS_MAX || (touches->count > most && touches->count % most)) {
        snprintf(turn->why, sizeof(turn->why), "more threads than there is room for, or touches that do not come out");
        return NAN;
    }
    if (touches->thread)
        pin_thread(touches->thread, -1);
    if (touches->handler)
        handler_wake(touches->handler);
    for (unsigned done = 0; done < touches->count; done += most) {
        touches_reset(touches);
        ns += run_threads(parallel, turn, touches->count < most ? touches->count : most);
    }
    if (touches->handler)
        handler_rest(touches->handler);
    return touches->count / ((double)ns / 1e9);
}
