/* SPDX-License-Identifier: MIT */
/*
 * Latency histograms: four buckets to each power of two, from 1 ns to hours.
 * One thread records (relaxed stores); any thread reads a copy that may lag. Never allocates.
 */
#ifndef MNW_BASE_HISTOGRAM_H
#define MNW_BASE_HISTOGRAM_H

#include "minnow/minnow.h"

#include <stdatomic.h>

struct mnw__histogram {
    _Atomic uint64_t sum_ns, max_ns;
    _Atomic uint64_t buckets[MNW_HISTOGRAM_BUCKETS];
};

/* The bucket that counts `value`; values past the last floor count in the last bucket. */
unsigned mnw__histogram_bucket(uint64_t value);
/* One writer at a time per histogram; completions on other threads use the _shared form. */
void mnw__histogram_add(struct mnw__histogram *histogram, uint64_t ns);
void mnw__histogram_add_shared(struct mnw__histogram *histogram, uint64_t ns);
/* Adds a snapshot of `from` into `to`. */
void mnw__histogram_merge(struct mnw_histogram *to, const struct mnw__histogram *from);

#endif
