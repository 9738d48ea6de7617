/* SPDX-License-Identifier: MIT */
/* What a cache counts. Any thread adds, any thread reads; sums may lag each other. */
#ifndef MNW_ENGINE_COUNTERS_H
#define MNW_ENGINE_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

enum mnw__counter {
    MNW__FAULTS_MINOR,
    MNW__FAULTS_MISSING,
    MNW__FAULTS_RESOLVED,
    MNW__FAULTS_JOINED,
    MNW__FAULTS_FAILED,
    MNW__FAULTS_STARVED,
    MNW__PAGES_MAPPED,
    MNW__PAGES_PROMOTED,
    MNW__FILLS,
    MNW__FILL_BYTES,
    MNW__FILLS_FAILED,
    MNW__FILLS_LATE,
    MNW__READ_RETRIES,
    MNW__READAHEAD_PAGES,
    MNW__EVICTIONS,
    MNW__EVICTED_BYTES,
    MNW__EVICTIONS_DIRECT,
    MNW__ZAPS,
    MNW__PAGES_LOST,
    MNW__REDELIVERIES,
    MNW__PAGES_FOREIGN,
    MNW__PAGES_ELSEWHERE,
    MNW__POLICIES_FOREIGN,
    MNW__PAGES_COPIED,
    MNW__FAULTS_PLACED,
    MNW__FAULTS_REMOTE,
    MNW__EXTENTS_SAMPLED,
    MNW__PAGES_MOVED,
    MNW__PAGES_UNMOVED,
    MNW__UNMOVED_SCARCE,
    MNW__UNMOVED_SHARED,
    MNW__COUNTER_COUNT,
};

struct mnw__counters {
    _Atomic uint64_t values[MNW__COUNTER_COUNT];
};

static inline void mnw__count(struct mnw__counters *counters, enum mnw__counter counter, uint64_t more) {
    atomic_fetch_add_explicit(&counters->values[counter], more, memory_order_relaxed);
}

#endif
