/* SPDX-License-Identifier: MIT */
/* Small arithmetic on sizes. Pure. */
#ifndef MNW_BASE_BITS_H
#define MNW_BASE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool mnw__is_power_of_two(uint64_t value) {
    return value && !(value & (value - 1));
}

/* `unit` is a power of two. */
static inline uint64_t mnw__align_up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) & ~(unit - 1);
}

static inline uint64_t mnw__align_down(uint64_t value, uint64_t unit) {
    return value & ~(unit - 1);
}

static inline bool mnw__is_aligned(uint64_t value, uint64_t unit) {
    return !(value & (unit - 1));
}

static inline unsigned mnw__log2(uint64_t value) {
    return 63u - (unsigned)__builtin_clzll(value);
}

static inline uint64_t mnw__min(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static inline uint64_t mnw__max(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

#define mnw__container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))
#define mnw__array_count(array)                  (sizeof(array) / sizeof((array)[0]))

#endif
