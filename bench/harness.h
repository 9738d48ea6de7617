/* SPDX-License-Identifier: MIT */
/*
 * The harness: options, rows and how they are told, medians.
 *
 * Owns the result of a run. One thread enters. A row is a number with a unit, what it should be, and what it
 * must be to be believed: a number outside `sane_*` was mismeasured, whatever the target says.
 */
#ifndef MNW_BENCH_HARNESS_H
#define MNW_BENCH_HARNESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define BENCH_REPEAT_MAX 1000

enum bench_status {
    BENCH_HELD = 0,
    BENCH_MISSED = 1, /* a target; never with --smoke */
    BENCH_BROKEN = 2, /* something could not be measured, or came out insane */
    BENCH_USAGE = 3,
    BENCH_SKIPPED = 77, /* the machine lacks what a row needs; the others are fine */
};

struct bench {
    bool json, smoke;
    unsigned repeat;       /* measurements behind each median */
    const char *directory; /* of scratch files */
    json_t *rows;
    unsigned missed, broken, skipped;
};

enum bench_target { BENCH_INFORMATION, BENCH_AT_MOST, BENCH_AT_LEAST };

struct bench_row {
    const char *name, *variant;
    double value;
    const char *unit;
    enum bench_target target;
    double limit;
    double sane_low, sane_high;
    json_t *detail; /* may be NULL; taken over */
};

void bench_begin(struct bench *bench);
void bench_report(struct bench *bench, const struct bench_row *row);
void bench_skip(struct bench *bench, const char *name, const char *variant, const char *why, ...)
    __attribute__((format(printf, 4, 5)));
void bench_break(struct bench *bench, const char *name, const char *variant, const char *why, ...)
    __attribute__((format(printf, 4, 5)));
enum bench_status bench_end(struct bench *bench);

/* Sorts the values. */
double bench_median(double *values, unsigned count);

/* The rows; one file each, or two that share their load. */
void row_metadata(struct bench *bench);
void row_budget(struct bench *bench);
void row_idle(struct bench *bench);
void row_open(struct bench *bench);
void row_resident_fault(struct bench *bench);
void row_fill(struct bench *bench);
void row_consumers(struct bench *bench);

#endif
