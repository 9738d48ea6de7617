/* SPDX-License-Identifier: MIT */
#include "samples.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NORMAL_95 1.96

static void *or_die(void *memory) {
    if (memory)
        return memory;
    fprintf(stderr, "minnow-bench: no memory for the samples\n");
    exit(EXIT_FAILURE);
}

static void make_room(struct samples *samples, size_t more) {
    if (samples->count + more <= samples->room)
        return;
    samples->room = 2 * (samples->count + more);
    samples->values = or_die(realloc(samples->values, samples->room * sizeof(double)));
}

void samples_add(struct samples *samples, double value) {
    make_room(samples, 1);
    samples->values[samples->count++] = value;
}

void samples_append(struct samples *samples, const double *values, size_t count) {
    if (!count)
        return;
    make_room(samples, count);
    memcpy(samples->values + samples->count, values, count * sizeof(double));
    samples->count += count;
}

void samples_free(struct samples *samples) {
    free(samples->values);
    *samples = (struct samples){0};
}

static int order(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

void sort_values(double *values, size_t count) {
    if (count)
        qsort(values, count, sizeof(values[0]), order);
}

static double middle(const double *sorted, size_t count) {
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

double median_of(double *values, size_t count) {
    if (!count)
        return NAN;
    sort_values(values, count);
    return middle(values, count);
}

double quantile_of(const double *sorted, size_t count, double fraction) {
    if (!count)
        return NAN;
    size_t rank = (size_t)ceil(fraction * (double)count);
    return sorted[rank ? (rank > count ? count : rank) - 1 : 0];
}

/*
 * How many values lie below the true median is binomial: the interval leaves out as many at each end as are
 * rarely all on the wrong side. It asks nothing of the distribution.
 */
static size_t left_out(size_t count) {
    double ranks = ((double)count - NORMAL_95 * sqrt((double)count)) / 2;
    return ranks >= 1 ? (size_t)ranks : 0;
}

struct summary summarize(const double *values, size_t count) {
    if (!count)
        return (struct summary){NAN, NAN, NAN, NAN, NAN};
    double *sorted = or_die(malloc(count * sizeof(double)));
    memcpy(sorted, values, count * sizeof(double));
    sort_values(sorted, count);
    size_t out = left_out(count);
    struct summary summary = {
        .least = sorted[0],
        .median = middle(sorted, count),
        .greatest = sorted[count - 1],
        .low = sorted[out],
        .high = sorted[count - 1 - out],
    };
    free(sorted);
    return summary;
}
