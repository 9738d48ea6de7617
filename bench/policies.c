/* SPDX-License-Identifier: MIT */
/* minnow-bench trace, policies: reads recorded, and what each eviction policy would have missed of them. */
#include "commands.h"
#include "live.h"
#include "offline.h"
#include "reads.h"
#include "trace.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <minnow/minnow.h>
#include <popt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIRECTORY     "/var/tmp"
#define REPEAT_MAX    99
#define UNIT_DEFAULT  16 /* pages: 64 KiB, as shmem has it */
#define READS_DEFAULT 200000
#define PAGES_DEFAULT 65536
#define NOT_GIVEN     LLONG_MIN

/* ---- trace ---- */

static int find_workload(const char *name) {
    for (int i = 0; reads_names[i]; i++)
        if (!strcmp(reads_names[i], name))
            return i;
    return -1;
}

static void draw(struct trace *trace, enum reads_kind kind, uint64_t seed) {
    static struct reads reads; /* has streams for many threads */
    reads = (struct reads){.length = (size_t)trace->store_pages * trace->page_bytes,
                           .page_bytes = trace->page_bytes,
                           .kind = kind,
                           .threads = 1};
    reads_begin(&reads, seed);
    for (uint32_t i = 0; i < trace->count; i++)
        trace->pages[i] = (uint32_t)reads_next(&reads, &reads.streams[0]);
}

static int record(struct trace *trace, enum reads_kind kind, uint64_t seed, const char *directory, const char *path) {
    struct live live;
    uint32_t count = trace->count;
    if (trace_reserve(trace, count)) {
        fprintf(stderr, "minnow-bench: no memory for %u reads\n", count);
        return BENCH_BROKEN;
    }
    draw(trace, kind, seed);
    int error = live_play(trace, trace->budget_pages, trace->unit_pages, directory, &live, trace->ends);
    if (!error)
        error = trace_save(trace, path);
    trace_free(trace);
    if (error)
        return BENCH_BROKEN;
    printf("%s: %u reads, of which %" PRIu64 " missed and %" PRIu64 " were faults of pages in memory\n", path, count,
           live.misses, live.minors);
    return BENCH_HELD;
}

static bool is_between(long long value, long long least, long long most) {
    return value >= least && value <= most;
}

int command_trace(int argc, const char **argv) {
    long long pages = PAGES_DEFAULT, reads = READS_DEFAULT, budget = NOT_GIVEN, unit = UNIT_DEFAULT, seed = 1;
    char *workload = NULL, *output = NULL, *directory = NULL;
    struct poptOption options[] = {
        {"workload", 0, POPT_ARG_STRING, &workload, 0, "sequential, strided, uniform, zipf (default), scan-zipf",
         "NAME"},
        {"output", 'o', POPT_ARG_STRING, &output, 0, "the trace to write", "FILE"},
        {"pages", 0, POPT_ARG_LONGLONG, &pages, 0, "of the store (default 65536)", "N"},
        {"reads", 0, POPT_ARG_LONGLONG, &reads, 0, "how many (default 200000)", "N"},
        {"budget", 0, POPT_ARG_LONGLONG, &budget, 0, "of the cache (default a quarter of the store)", "PAGES"},
        {"unit", 0, POPT_ARG_LONGLONG, &unit, 0, "pages evicted at a time (default 16)", "PAGES"},
        {"seed", 0, POPT_ARG_LONGLONG, &seed, 0, "of the order (default 1)", "N"},
        {"directory", 0, POPT_ARG_STRING, &directory, 0, "where the scratch file goes (default /var/tmp)", "DIRECTORY"},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow-bench trace", argc, argv, options, 0);
    int left = poptGetNextOpt(context), kind = find_workload(workload ? workload : "zipf"), result;
    if (left < -1)
        result = command_usage(poptBadOption(context, 0), poptStrerror(left));
    else if (poptPeekArg(context))
        result = command_usage(poptPeekArg(context), "trace takes no argument");
    else if (!output)
        result = command_usage("trace", "where to? --output FILE");
    else if (kind < 0)
        result = command_usage("--workload", "sequential, strided, uniform, zipf or scan-zipf");
    else if (!is_between(pages, 1, TRACE_STORE_MAX))
        result = command_usage("--pages", "from 1 to 2^30");
    else if (!is_between(reads, 1, TRACE_READS_MAX))
        result = command_usage("--reads", "from 1 to 2^31 - 1");
    else if (budget != NOT_GIVEN && !is_between(budget, 1, TRACE_STORE_MAX))
        result = command_usage("--budget", "from 1 to 2^30 pages");
    else if (!is_between(unit, 1, pages))
        result = command_usage("--unit", "from 1 to the pages of the store");
    else if (seed < 0)
        result = command_usage("--seed", "a whole number from 0 on");
    else {
        struct trace trace = {.page_bytes = (uint32_t)sysconf(_SC_PAGESIZE),
                              .store_pages = (uint32_t)pages,
                              .budget_pages = (uint32_t)(budget != NOT_GIVEN ? budget : (pages + 3) / 4),
                              .unit_pages = (uint32_t)unit,
                              .count = (uint32_t)reads};
        result = record(&trace, (enum reads_kind)kind, (uint64_t)seed, directory ? directory : DIRECTORY, output);
    }
    poptFreeContext(context);
    free(workload);
    free(output);
    free(directory);
    return result;
}

/* ---- policies ---- */

struct comparison_of {
    const struct trace *trace;
    uint32_t room, unit;
    unsigned plays; /* of the engine; 0: none */
    const char *directory;
    uint64_t best, least; /* misses: of the published policies; of the optimum */
    const char *best_name;
    json_t *rows;
};

static void add_row(struct comparison_of *of, const char *name, uint64_t misses, json_t *more) {
    json_t *row = json_pack("{s:s, s:I, s:f, s:f, s:f}", "name", name, "misses", (json_int_t)misses, "miss_ratio",
                            (double)misses / of->trace->count, "to_best", (double)misses / (double)of->best,
                            "to_optimum", (double)misses / (double)of->least);
    if (more)
        json_object_update_new(row, more);
    json_array_append_new(of->rows, row);
}

static uint64_t replay(const struct comparison_of *of, const struct offline_ops *ops, uint32_t unit) {
    const struct trace *trace = of->trace;
    return offline_misses(ops, trace->pages, trace->count, trace->store_pages, of->room, unit);
}

static bool add_offline(struct comparison_of *of) {
    static const struct offline_ops *const all[] = {&offline_clock, &offline_lru,          &offline_s3fifo,
                                                    &offline_sieve, &offline_minnow_clock, &offline_minnow_s3fifo};
    enum { COUNT = sizeof(all) / sizeof(all[0]), PUBLISHED = 4 };
    uint64_t misses[COUNT];
    /* By single pages, whatever the unit of the others: what they keep and lose, one who evicts pages could. */
    of->least = replay(of, &offline_optimum, 1);
    bool good = of->least != UINT64_MAX;
    of->best = UINT64_MAX;
    for (unsigned i = 0; i < COUNT; i++) {
        misses[i] = replay(of, all[i], of->unit);
        good &= misses[i] != UINT64_MAX;
        if (i < PUBLISHED && misses[i] < of->best) {
            of->best = misses[i];
            of->best_name = offline_name(all[i]);
        }
    }
    if (!good) {
        fprintf(stderr, "minnow-bench: no memory to replay %u reads of %u pages\n", of->trace->count,
                of->trace->store_pages);
        return false;
    }
    add_row(of, "optimum", of->least, NULL);
    for (unsigned i = 0; i < COUNT; i++)
        add_row(of, offline_name(all[i]), misses[i], NULL);
    return true;
}

static void add_recorded(struct comparison_of *of) {
    const struct trace *trace = of->trace;
    uint64_t misses = 0, minors = 0;
    if (trace->budget_pages != of->room || trace->unit_pages != of->unit)
        return;
    for (uint32_t i = 0; i < trace->count; i++) {
        misses += trace->ends[i] == TRACE_MISSING;
        minors += trace->ends[i] == TRACE_MINOR;
    }
    add_row(of, "as recorded", misses, json_pack("{s:I}", "minor_faults", (json_int_t)minors));
}

static int compare_plays(const void *left, const void *right) {
    const struct live *a = left, *b = right;
    return (a->misses > b->misses) - (a->misses < b->misses);
}

/* The median play, by misses, and all that is told is that one's; of an even number the better in the middle. */
static bool add_live(struct comparison_of *of) {
    struct live plays[REPEAT_MAX];
    for (unsigned i = 0; i < of->plays; i++)
        if (live_play(of->trace, of->room, of->unit, of->directory, &plays[i], NULL))
            return false;
    if (!of->plays)
        return true;
    qsort(plays, of->plays, sizeof(plays[0]), compare_plays);
    const struct live *median = &plays[(of->plays - 1) / 2];
    add_row(of, "minnow, live", median->misses,
            json_pack("{s:i, s:I, s:I, s:I, s:I, s:s}", "n", (int)of->plays, "min", (json_int_t)plays[0].misses, "max",
                      (json_int_t)plays[of->plays - 1].misses, "minor_faults", (json_int_t)median->minors, "pages_read",
                      (json_int_t)median->pages_read, "faults_resolved",
                      median->in_line ? "inline" : "by a fault thread"));
    return true;
}

static void print_words(const struct comparison_of *of) {
    const struct trace *trace = of->trace;
    size_t index;
    json_t *row;
    printf("%u reads of %u pages; room for %u, evicted by %u\n\n%-18s %12s %11s %9s %11s\n", trace->count,
           trace->store_pages, of->room, of->unit, "policy", "misses", "miss ratio", "to best", "to optimum");
    json_array_foreach(of->rows, index, row) {
        const json_t *minors = json_object_get(row, "minor_faults"), *read = json_object_get(row, "pages_read");
        printf("%-18s %12" JSON_INTEGER_FORMAT " %11.4f %9.3f %11.3f", json_string_value(json_object_get(row, "name")),
               json_integer_value(json_object_get(row, "misses")), json_real_value(json_object_get(row, "miss_ratio")),
               json_real_value(json_object_get(row, "to_best")), json_real_value(json_object_get(row, "to_optimum")));
        if (minors)
            printf("  %" JSON_INTEGER_FORMAT " minor faults", json_integer_value(minors));
        if (read)
            printf(", %" JSON_INTEGER_FORMAT " pages read", json_integer_value(read));
        printf("\n");
    }
    printf("\nbest of those that were published: %s\n", of->best_name);
}

static void print_json(const struct comparison_of *of) {
    const struct trace *trace = of->trace;
    json_t *all = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:O}", "program", "minnow-bench policies",
                            "page_bytes", (json_int_t)trace->page_bytes, "store_pages", (json_int_t)trace->store_pages,
                            "reads", (json_int_t)trace->count, "budget_pages", (json_int_t)of->room, "unit_pages",
                            (json_int_t)of->unit, "best", of->best_name, "policies", of->rows);
    json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(8));
    printf("\n");
    json_decref(all);
}

static int compare(struct comparison_of *of, bool json) {
    of->rows = json_array();
    bool good = add_offline(of);
    if (good)
        add_recorded(of);
    good = good && add_live(of);
    if (good && json)
        print_json(of);
    else if (good)
        print_words(of);
    json_decref(of->rows);
    return good ? BENCH_HELD : BENCH_BROKEN;
}

static int load_and_compare(const char *path, struct comparison_of *of, long long budget, long long unit, bool json) {
    struct trace trace;
    int result;
    if (trace_load(&trace, path))
        return BENCH_USAGE;
    of->trace = &trace;
    of->room = budget != NOT_GIVEN ? (uint32_t)budget : trace.budget_pages;
    of->unit = unit != NOT_GIVEN ? (uint32_t)unit : trace.unit_pages;
    if (of->unit > trace.store_pages)
        result = command_usage("--unit", "more than the store has pages");
    else
        result = compare(of, json);
    trace_free(&trace);
    return result;
}

int command_policies(int argc, const char **argv) {
    struct comparison_of of = {0};
    long long budget = NOT_GIVEN, unit = NOT_GIVEN;
    int live = 0, repeat = 3, json = 0;
    char *directory = NULL;
    struct poptOption options[] = {
        {"budget", 0, POPT_ARG_LONGLONG, &budget, 0, "room for so many (default as recorded)", "PAGES"},
        {"unit", 0, POPT_ARG_LONGLONG, &unit, 0, "evicted at a time (default as recorded)", "PAGES"},
        {"live", 0, POPT_ARG_NONE, &live, 0, "play it through minnow too", NULL},
        {"repeat", 0, POPT_ARG_INT, &repeat, 0, "so many times, 1 to 99 (default 3); the median is told", "N"},
        {"json", 0, POPT_ARG_NONE, &json, 0, "one JSON object instead of a table", NULL},
        {"directory", 0, POPT_ARG_STRING, &directory, 0, "where the scratch file goes (default /var/tmp)", "DIRECTORY"},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow-bench policies", argc, argv, options, 0);
    poptSetOtherOptionHelp(context, "TRACE");
    int left = poptGetNextOpt(context), result;
    const char *path = left < -1 ? NULL : poptGetArg(context);
    of.directory = directory ? directory : DIRECTORY;
    of.plays = live ? (unsigned)repeat : 0;
    if (left < -1)
        result = command_usage(poptBadOption(context, 0), poptStrerror(left));
    else if (!path || poptPeekArg(context))
        result = command_usage("policies", "of one trace, that minnow-bench trace wrote");
    else if (budget != NOT_GIVEN && !is_between(budget, 1, TRACE_STORE_MAX))
        result = command_usage("--budget", "from 1 to 2^30 pages");
    else if (unit != NOT_GIVEN && !is_between(unit, 1, TRACE_STORE_MAX))
        result = command_usage("--unit", "from 1 to 2^30 pages");
    else if (!is_between(repeat, 1, REPEAT_MAX))
        result = command_usage("--repeat", "from 1 to 99");
    else
        result = load_and_compare(path, &of, budget, unit, json);
    poptFreeContext(context);
    free(directory);
    return result;
}
