/* SPDX-License-Identifier: MIT */
/*
 * Patterns: sequential shares, uniform, and zipf with exponent 0.99.
 *
 * Zipf ranks are drawn by rejection-inversion (Hörmann and Derflinger, 1996): invert the integral of x^-s, round
 * to a rank, and reject with just the probability that makes the discrete law exact. It needs no table, so a
 * store of a billion pages starts as fast as one of ten. A draw takes about 1.1 tries.
 */
#include "pattern.h"

#include <math.h>
#include <stddef.h>

#define ZIPF_EXPONENT 0.99

const char *const pattern_names[] = {"sequential", "uniform", "zipf", NULL};

/* splitmix64: any seed is a good one, and seeds next to each other give unrelated streams. */
static uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static uint64_t random_next(struct pattern *pattern) {
    pattern->state += 0x9e3779b97f4a7c15u;
    return mix(pattern->state);
}

static uint64_t random_below(struct pattern *pattern, uint64_t bound) {
    return (uint64_t)(((unsigned __int128)random_next(pattern) * bound) >> 64);
}

static double random_unit(struct pattern *pattern) {
    return (double)(random_next(pattern) >> 11) * 0x1p-53;
}

/* The integral of x^-s from 1, its inverse, and the function itself. */
static double integral(double x) {
    return expm1(log(x) * (1 - ZIPF_EXPONENT)) / (1 - ZIPF_EXPONENT);
}

static double integral_inverse(double y) {
    return exp(log1p(y * (1 - ZIPF_EXPONENT)) / (1 - ZIPF_EXPONENT));
}

static double weight(double x) {
    return exp(-ZIPF_EXPONENT * log(x));
}

uint64_t pattern_zipf_rank(struct pattern *pattern) {
    for (;;) {
        double y = pattern->integral_end + random_unit(pattern) * (pattern->integral_first - pattern->integral_end);
        double x = integral_inverse(y);
        double rank = floor(x + 0.5);
        if (rank < 1)
            rank = 1;
        if (rank > (double)pattern->page_count)
            rank = (double)pattern->page_count;
        if (rank - x <= pattern->shortcut || y >= integral(rank + 0.5) - weight(rank))
            return (uint64_t)rank - 1;
    }
}

uint64_t pattern_scatter(uint64_t index, uint64_t count) {
    if (count < 3)
        return index;
    unsigned bits = 64u - (unsigned)__builtin_clzll(count - 1);
    uint64_t mask = bits == 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1;
    unsigned half = bits / 2 ? bits / 2 : 1;
    /* Each step is a bijection of `bits` bits; walking until the value is in range makes it one of 0..count-1. */
    do {
        for (int round = 0; round < 3; round++) {
            index = (index * 0x9e3779b97f4a7c15u + 0x7f4a7c15u) & mask;
            index ^= index >> half;
        }
    } while (index >= count);
    return index;
}

void pattern_init(struct pattern *pattern, enum pattern_kind kind, uint64_t piece_count, uint64_t pieces_per_page,
                  unsigned reader, unsigned readers, uint64_t seed) {
    uint64_t share = piece_count / readers, larger = piece_count % readers;
    *pattern = (struct pattern){.kind = kind, .piece_count = piece_count, .pieces_per_page = pieces_per_page};
    pattern->page_count = (piece_count + pieces_per_page - 1) / pieces_per_page;
    pattern->state = mix(seed) ^ mix(reader + 1);
    pattern->first = reader * share + (reader < larger ? reader : larger);
    pattern->end = pattern->first + share + (reader < larger ? 1 : 0);
    if (pattern->first == pattern->end) { /* more readers than pieces */
        pattern->first = 0;
        pattern->end = piece_count;
    }
    pattern->next = kind == PATTERN_SEQUENTIAL ? pattern->first : pattern->end; /* the others choose at once */
    pattern->integral_first = integral(1.5) - 1;
    pattern->integral_end = integral((double)pattern->page_count + 0.5);
    pattern->shortcut = 2 - integral_inverse(integral(2.5) - weight(2));
}

static uint64_t choose_page(struct pattern *pattern) {
    if (pattern->kind == PATTERN_UNIFORM)
        return random_below(pattern, pattern->page_count);
    return pattern_scatter(pattern_zipf_rank(pattern), pattern->page_count);
}

/*
 * Sequential readers walk their share again and again. The others choose a page and read all of it: of a huge page
 * that had to be read from the store for one piece of it, the other pieces would never be looked at.
 */
uint64_t pattern_next(struct pattern *pattern) {
    if (pattern->next == pattern->end) {
        if (pattern->kind != PATTERN_SEQUENTIAL) {
            pattern->first = choose_page(pattern) * pattern->pieces_per_page;
            uint64_t left = pattern->piece_count - pattern->first;
            pattern->end = pattern->first + (left < pattern->pieces_per_page ? left : pattern->pieces_per_page);
        }
        pattern->next = pattern->first;
    }
    return pattern->next++;
}
