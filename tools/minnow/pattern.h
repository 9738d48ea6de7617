/* SPDX-License-Identifier: MIT */
/*
 * Patterns: which page a reader reads next. Pure; one struct belongs to one thread; the same seed gives the
 * same pages on every machine with the same libm.
 */
#ifndef MINNOW_PATTERN_H
#define MINNOW_PATTERN_H

#include <stdint.h>

enum pattern_kind { PATTERN_SEQUENTIAL, PATTERN_UNIFORM, PATTERN_ZIPF };

/* Named as on the command line, in the order above; ends with NULL. */
extern const char *const pattern_names[];

struct pattern {
    enum pattern_kind kind;
    uint64_t piece_count;     /* pieces are what one read compares */
    uint64_t pieces_per_page; /* 1, or the 4 KiB pieces of a huge page */
    uint64_t page_count;
    uint64_t state;                                /* of the random numbers */
    uint64_t first, end, next;                     /* sequential: this reader's share; others: the page they are in */
    double integral_first, integral_end, shortcut; /* zipf: see pattern.c */
};

/* Reader `reader` of `readers`. `piece_count` is at least 1. */
void pattern_init(struct pattern *pattern, enum pattern_kind kind, uint64_t piece_count, uint64_t pieces_per_page,
                  unsigned reader, unsigned readers, uint64_t seed);
/* The index of the next piece to read, below piece_count. */
uint64_t pattern_next(struct pattern *pattern);

/* The zipf rank of the next draw, from 0 (the hottest); for tests. */
uint64_t pattern_zipf_rank(struct pattern *pattern);
/* A fixed permutation of 0..count-1, so that hot ranks are not neighbours. */
uint64_t pattern_scatter(uint64_t index, uint64_t count);

#endif
