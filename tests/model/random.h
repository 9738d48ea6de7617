/* SPDX-License-Identifier: MIT */
/* Seeded numbers for model tests and mutations (splitmix64): the same seed, the same run, on any machine. */
#ifndef MNW_TESTS_MODEL_RANDOM_H
#define MNW_TESTS_MODEL_RANDOM_H

#include <stdint.h>

struct random {
    uint64_t state;
};

static inline uint64_t random_next(struct random *random) {
    uint64_t z = (random->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* 0 .. bound - 1. The bias of a 64-bit remainder does not matter to a test. */
static inline uint64_t random_below(struct random *random, uint64_t bound) {
    return random_next(random) % bound;
}

/* 0 .. 1 */
static inline double random_unit(struct random *random) {
    return (double)(random_next(random) >> 11) * 0x1p-53;
}

#endif
