/* SPDX-License-Identifier: MIT */
/*
 * Two runs beside each other: which results changed by more than the noise of both.
 *
 * A result changed when the intervals in which its two medians lie (95 % each) do not touch. Where it has a ratio to a
 * baseline that was measured in turn with it, the ratios are compared, because they forgive another machine state.
 * Owns nothing; one thread enters.
 */
#ifndef MNW_BENCH_COMPARE_H
#define MNW_BENCH_COMPARE_H

#include <jansson.h>
#include <stdbool.h>

struct comparison {
    json_t *changes;  /* of each result that is in both: name, of, before, now, change, verdict */
    json_t *machines; /* fields of the fingerprint that differ: name, before, now */
    unsigned better, worse, within, only_now, only_before;
};

/* A run that was saved with --json; NULL with the reason on the standard error. */
json_t *compare_load(const char *path);
struct comparison compare_runs(const json_t *before, const json_t *now);
void compare_print(const struct comparison *comparison);
/* A new object for the run's JSON, which shares the arrays. */
json_t *compare_json(struct comparison *comparison);
void compare_free(struct comparison *comparison);

#endif
