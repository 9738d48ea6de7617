/* SPDX-License-Identifier: MIT */
/*
 * The simulator's only source of chance: one stream per seed (xoshiro256++ seeded by splitmix64).
 * Owns nothing but the struct it is given. Never asks a clock, an address or the system.
 */
#ifndef MNW_SIM_RANDOM_H
#define MNW_SIM_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct random {
    uint64_t state[4];
};

static inline uint64_t random_mix(uint64_t value) {
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static inline void random_seed(struct random *random, uint64_t seed) {
    for (int i = 0; i < 4; i++)
        random->state[i] = seed = random_mix(seed + (uint64_t)i);
}

static inline uint64_t random_next(struct random *random) {
    uint64_t *s = random->state, sum = s[0] + s[3], shifted = s[1] << 17;
    uint64_t result = ((sum << 23) | (sum >> 41)) + s[0];
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = (s[3] << 45) | (s[3] >> 19);
    return result;
}

/* 0..bound-1; bound at least 1. */
static inline uint64_t random_below(struct random *random, uint64_t bound) {
    return random_next(random) % bound;
}

/* low..high, both included. */
static inline uint64_t random_between(struct random *random, uint64_t low, uint64_t high) {
    return low + random_below(random, high - low + 1);
}

/* True `per_1024` times in 1024. */
static inline bool random_chance(struct random *random, unsigned per_1024) {
    return per_1024 && random_below(random, 1024) < per_1024;
}

#endif
