/* SPDX-License-Identifier: MIT */
/*
 * The harness: what a run is, results and how they are told, and arms that take turns.
 *
 * Owns the results of a run. One thread enters. A benchmark is a function that is given the run; it reports results,
 * most of them through arms. What it cannot measure it skips (the machine lacks something) or breaks (it went wrong),
 * with the reason; it never passes over it.
 */
#ifndef MNW_BENCH_HARNESS_H
#define MNW_BENCH_HARNESS_H

#include "samples.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define BENCH_REPEAT_MAX 1000
#define BENCH_ARMS_MAX   64
#define BENCH_NAME_MAX   96

enum bench_status {
    BENCH_HELD = 0,
    BENCH_MISSED = 1, /* a target (never with --smoke), or something is worse than what it was compared with */
    BENCH_BROKEN = 2, /* something could not be measured, or came out insane */
    BENCH_USAGE = 3,
    BENCH_SKIPPED = 77, /* the machine lacks what a result needs; the others are fine */
};

struct bench {
    bool json, smoke;
    unsigned repeat;       /* rounds behind each median */
    const char *directory; /* of scratch files */
    uint64_t seed;
    const char *benchmark; /* the one that runs */
    json_t *results;
    unsigned missed, broken, skipped;
    bool partial;      /* interrupted before all was measured */
    uint64_t checksum; /* of the bytes that were read, result by result */
};

/* ---- results ---- */

enum bench_target { BENCH_INFORMATION, BENCH_AT_MOST, BENCH_AT_LEAST };

/* What a result is held against: another way of doing the same, measured in turn with it. */
struct bench_against {
    const char *name;     /* NULL: nothing */
    double baseline;      /* its median, in the result's unit */
    const double *ratios; /* result / baseline, one of each round; as many as samples */
    enum bench_target target;
    double limit; /* of the median ratio */
};

struct bench_result {
    const char *name;      /* without "benchmark/": of a benchmark with one result the same as its name, or NULL */
    const char *unit;      /* where it ends in "/s" more is better, else less is */
    const double *samples; /* one of each round */
    unsigned count;
    double value; /* what was measured once, where there are no samples; else the median is the value */
    enum bench_target target;
    double limit; /* of the value */
    struct bench_against against[2];
    double sane_low, sane_high; /* of the ratio where there is one, else of the value: outside, it was mismeasured */
    const char *by;             /* "threads": one point of a series, or NULL */
    double at;
    const char *series;
    const struct samples *latencies; /* every single one, in ns, or NULL; sorted here */
    json_t *detail;                  /* may be NULL; taken over */
};
void bench_report(struct bench *bench, const struct bench_result *result);
void bench_skip(struct bench *bench, const char *name, const char *why, ...) __attribute__((format(printf, 3, 4)));
void bench_break(struct bench *bench, const char *name, const char *why, ...) __attribute__((format(printf, 3, 4)));

/* What the bytes added up to that a result's work read; the same work must give the same. */
void bench_checksum(struct bench *bench, const char *name, uint64_t sum);

/* ---- arms ---- */

/* One turn of one arm. */
struct bench_turn {
    struct bench *bench;
    unsigned round; /* 0: warming up */
    uint64_t seed;  /* the same for every arm in one round, another in the next */
    struct samples *latencies;
    uint64_t sum;  /* out: of the bytes read */
    char why[160]; /* out: why it returned NAN */
};

struct bench_arm {
    const char *name, *unit;
    double (*turn)(void *context, struct bench_turn *turn); /* the value, or NAN */
    void *context;
    const char *against[2]; /* names of other arms, or NULL */
    enum bench_target target[2];
    double limit[2];
    bool hidden;    /* a baseline that is told in the results held against it only */
    bool same_work; /* its sum must be that of every other arm that says so */
    const char *by, *series;
    double at;
    double sane_low, sane_high;                            /* 0, 0: 1e-3 to 1e15, and ratios 1e-4 to 1e4 */
    json_t *(*detail)(void *context, struct bench *bench); /* after the last turn; may be NULL */
};

/*
 * A round that does not count, then as many as `repeat` says, in which each arm has its turn; who begins changes from
 * round to round. Then every arm's result is reported, in the order of the array.
 */
void bench_take_turns(struct bench *bench, const struct bench_arm *arms, unsigned count);

#endif
