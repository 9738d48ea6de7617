/* SPDX-License-Identifier: MIT */
/*
 * Numbers that were measured, and what can be said of them: median, its interval, quantiles. Owns its arrays.
 * One thread enters. Pure but for the heap.
 */
#ifndef MNW_BENCH_SAMPLES_H
#define MNW_BENCH_SAMPLES_H

#include <stddef.h>

struct samples {
    double *values;
    size_t count, room;
};
/* Without memory the process ends: there is nothing to report then. */
void samples_add(struct samples *samples, double value);
void samples_append(struct samples *samples, const double *values, size_t count);
void samples_free(struct samples *samples);

struct summary {
    double least, median, greatest;
    double low, high; /* where the true median lies, with 95 % confidence: two of the values; all of them up to 5 */
};
/* Does not change the values. All NAN when there are none. */
struct summary summarize(const double *values, size_t count);

/* Sorts the values. NAN when there are none. */
double median_of(double *values, size_t count);
/* `fraction` (0..1) of the sorted values lie at or below it. */
double quantile_of(const double *sorted, size_t count, double fraction);
void sort_values(double *values, size_t count);

#endif
