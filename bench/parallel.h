/* SPDX-License-Identifier: MIT */
/*
 * Many threads that touch pages at once, each its own share of one shuffle; where there are fewer pages than touches
 * the pages are unmapped and touched again, where there are fewer than threads several touch the same one at once. Owns
 * nothing between turns.
 */
#ifndef MNW_BENCH_PARALLEL_H
#define MNW_BENCH_PARALLEL_H

#include "touches.h"

struct parallel {
    struct touches touches; /* what is touched and how often in all; `cpu` does not count */
    unsigned threads;
};
/* Touches a second. */
double parallel_turn(void *parallel, struct bench_turn *turn);

#endif
