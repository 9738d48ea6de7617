/* SPDX-License-Identifier: MIT */
/*
 * Latency histograms.
 *
 * Owns nothing: the counters belong to whoever declares them. Any thread may read; writers are as the header
 * says. Never allocates, never blocks, makes no system call.
 *
 * Values 0..7 have a bucket each (below 8 four buckets to a power of two are no coarser than one value). From
 * there on a bucket is named by the value's highest bit and the two bits below it.
 */
#include "base/histogram.h"

#include "base/bits.h"

enum {
    QUARTER_BITS = 2,
    QUARTERS = 1 << QUARTER_BITS,
    EXACT = QUARTERS * 2, /* the first EXACT values are their own buckets */
    BUCKETS_USED = EXACT + (64 - QUARTER_BITS - 1) * QUARTERS,
};

_Static_assert(BUCKETS_USED <= MNW_HISTOGRAM_BUCKETS, "every 64-bit value needs a bucket");

unsigned mnw__histogram_bucket(uint64_t value) {
    if (value < EXACT)
        return (unsigned)value;
    unsigned shift = mnw__log2(value) - QUARTER_BITS;
    return shift * QUARTERS + (unsigned)(value >> shift);
}

uint64_t mnw_histogram_floor(unsigned index) {
    if (index < EXACT)
        return index;
    if (index >= BUCKETS_USED)
        return UINT64_MAX;
    unsigned shift = index / QUARTERS - 1;
    return (uint64_t)(QUARTERS + index % QUARTERS) << shift;
}

static void raise_max(_Atomic uint64_t *max, uint64_t value) {
    uint64_t seen = atomic_load_explicit(max, memory_order_relaxed);
    while (seen < value &&
           !atomic_compare_exchange_weak_explicit(max, &seen, value, memory_order_relaxed, memory_order_relaxed))
        ;
}

/* A load and a store: with one writer nothing is lost, and no locked instruction is paid for. */
static void add_alone(_Atomic uint64_t *counter, uint64_t amount) {
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + amount, memory_order_relaxed);
}

void mnw__histogram_add(struct mnw__histogram *histogram, uint64_t ns) {
    add_alone(&histogram->buckets[mnw__histogram_bucket(ns)], 1);
    add_alone(&histogram->sum_ns, ns);
    if (atomic_load_explicit(&histogram->max_ns, memory_order_relaxed) < ns)
        atomic_store_explicit(&histogram->max_ns, ns, memory_order_relaxed);
}

void mnw__histogram_add_shared(struct mnw__histogram *histogram, uint64_t ns) {
    atomic_fetch_add_explicit(&histogram->buckets[mnw__histogram_bucket(ns)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_ns, ns, memory_order_relaxed);
    raise_max(&histogram->max_ns, ns);
}

/* The count is that of the buckets read: of a counter beside them a reader might find what they do not hold. */
void mnw__histogram_merge(struct mnw_histogram *to, const struct mnw__histogram *from) {
    for (unsigned i = 0; i < MNW_HISTOGRAM_BUCKETS; i++) {
        uint64_t counted = atomic_load_explicit(&from->buckets[i], memory_order_relaxed);
        to->buckets[i] += counted;
        to->count += counted;
    }
    to->sum_ns += atomic_load_explicit(&from->sum_ns, memory_order_relaxed);
    to->max_ns = mnw__max(to->max_ns, atomic_load_explicit(&from->max_ns, memory_order_relaxed));
}

/* The rank is 1-based and at least 1, so that a quantile of 0 is the smallest value counted. */
static uint64_t rank_of(uint64_t count, double fraction) {
    if (!(fraction > 0))
        return 1;
    if (fraction >= 1)
        return count;
    uint64_t rank = (uint64_t)(fraction * (double)count);
    if ((double)rank < fraction * (double)count)
        rank++;
    return mnw__min(mnw__max(rank, 1), count);
}

/* The top of the bucket, never above the largest value seen: a latency is not to look better than it was. */
uint64_t mnw_histogram_quantile(const struct mnw_histogram *histogram, double fraction) {
    uint64_t rank = rank_of(histogram->count, fraction), below = 0;
    for (unsigned i = 0; i < BUCKETS_USED; i++) {
        below += histogram->buckets[i];
        if (below >= rank)
            return i + 1 < BUCKETS_USED ? mnw__min(mnw_histogram_floor(i + 1) - 1, histogram->max_ns)
                                        : histogram->max_ns;
    }
    return histogram->max_ns;
}
