/* SPDX-License-Identifier: MIT */
/*
 * One page of HTML for one or more saved runs: plots drawn by gnuplot and put in as SVG, and every number in a table.
 * Nothing in it is loaded from elsewhere. Owns nothing; one thread enters.
 */
#ifndef MNW_BENCH_REPORT_H
#define MNW_BENCH_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* `runs`: an array of what `run --json` printed. False, with the reason on the standard error. */
bool report_write(FILE *to, const json_t *runs);

/* ---- its plots ---- */

/* Results of one benchmark over `by`: a line for each series, with the exponent of its growth; ns as MiB/s if wanted.
 */
#define PLOT_BY_NODE "node of the CPU"
bool plot_series(FILE *to, const json_t *results, const char *benchmark, const char *by, bool throughput);
/*
 * Latencies of one benchmark's results: which fraction took longer than so long. Those of no series (`by` is ""), or
 * the points of all series at one place. At most PLOT_LATENCIES of them, from `first` on.
 */
#define PLOT_LATENCIES 8
bool plot_latencies(FILE *to, const json_t *results, const char *benchmark, const char *by, double at, unsigned first);
/* Ratios of results to what they are held against, on one line each. */
bool plot_ratios(FILE *to, const json_t *results, const char *benchmark);

/* The exponent b of the best fit of value ~ at^b; NAN with fewer than 3 points. */
double exponent_of(const double *at, const double *values, unsigned count);

#endif
