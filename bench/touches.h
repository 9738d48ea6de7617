/* SPDX-License-Identifier: MIT */
/*
 * Touching pages one by one, each touch timed: the arm of every benchmark of single faults.
 *
 * Owns nothing. One thread takes turns.
 */
#ifndef MNW_BENCH_TOUCHES_H
#define MNW_BENCH_TOUCHES_H

#include "handler.h"
#include "harness.h"

enum touch_order { TOUCH_RANDOM, TOUCH_SEQUENTIAL };

struct touches {
    volatile const unsigned char *data;
    size_t length, page_bytes;
    unsigned count; /* in one turn; where there are fewer pages they are unmapped and touched again */
    enum touch_order order;
    struct handler *handler;   /* of the mapping, or NULL */
    const struct rig *rig;     /* of the mapping, or NULL */
    pid_t thread;              /* who handles: 0, nobody */
    int cpu, thread_cpu;       /* ranks of CPUs of the toucher and of the thread; -1: any */
    void (*reset)(void *data); /* makes every page fault again; NULL: the handler's, or MADV_DONTNEED */
    void *reset_data;
    bool stay;        /* the toucher runs where it is: `cpu` does not count */
    bool write;       /* fresh memory: a read would get the zero page */
    bool give_up;     /* a turn ends as it begins, so that others can have the pages */
    bool any_faults;  /* not every touch need fault: neighbours may come along */
    double per_touch; /* out: faults for each touch, of the last turn */
};

/* The median of its touches in ns; every one of them is a latency. Breaks when touches did not fault. */
double touches_turn(void *touches, struct bench_turn *turn);
/* The parts of a turn, for those who take it otherwise: every page faults again; the index-th page from `first`. */
void touches_reset(const struct touches *touches);
uint64_t touches_first(const struct touches *touches, const struct bench_turn *turn);
uint64_t touches_page(const struct touches *touches, uint64_t first, uint64_t index);
/* For struct bench_arm: "faults_per_touch". */
json_t *touches_detail(void *touches, struct bench *bench);

#endif
