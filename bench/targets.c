/* SPDX-License-Identifier: MIT */
/*
 * minnow-targets: the numbers that the engine must reach, each measured in one run against the bare mechanism.
 * Exit status: see enum bench_status. Settings of the machine that it changes (huge pages) are put back, however
 * it ends.
 */
#include "harness.h"
#include "machine.h"
#include "measure.h"

#include <popt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPEAT_DEFAULT 15
#define REPEAT_SMOKE   3

static const struct row {
    const char *name;
    void (*measure)(struct bench *bench);
} rows[] = {
    {"metadata", row_metadata},    {"budget", row_budget}, {"idle", row_idle},           {"open", row_open},
    {"fault", row_resident_fault}, {"fill", row_fill},     {"consumers", row_consumers},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static bool has_row(const char *name) {
    for (size_t i = 0; i < ROWS; i++)
        if (!strcmp(rows[i].name, name))
            return true;
    return false;
}

static int usage(const char *what, const char *why) {
    fprintf(stderr, "minnow-targets: %s: %s (see --help)\n", what, why);
    return BENCH_USAGE;
}

static int run(struct bench *bench, const char *only) {
    bench_begin(bench);
    for (size_t i = 0; i < ROWS; i++)
        if (!only || !strcmp(rows[i].name, only))
            rows[i].measure(bench);
    return bench_end(bench);
}

static int run_with_options(int argc, const char **argv) {
    struct bench bench = {.directory = "/var/tmp"};
    int json = 0, smoke = 0, repeat = -1;
    char *only = NULL, *directory = NULL;
    struct poptOption options[] = {
        {"json", 0, POPT_ARG_NONE, &json, 0, "one JSON object instead of a table", NULL},
        {"smoke", 0, POPT_ARG_NONE, &smoke, 0, "seconds instead of minutes; checks for sense, not for targets", NULL},
        {"repeat", 0, POPT_ARG_INT, &repeat, 0, "measurements behind each median, 1 to 1000", "N"},
        {"row", 0, POPT_ARG_STRING, &only, 0, "metadata, budget, idle, open, fault, fill or consumers alone", "NAME"},
        {"directory", 0, POPT_ARG_STRING, &directory, 0, "where scratch files go (default /var/tmp)", "DIRECTORY"},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow-targets", argc, argv, options, 0);
    int left = poptGetNextOpt(context), result;
    bench.json = json;
    bench.smoke = smoke;
    bench.repeat = repeat > 0 ? (unsigned)repeat : smoke ? REPEAT_SMOKE : REPEAT_DEFAULT;
    if (directory)
        bench.directory = directory;
    if (left < -1)
        result = usage(poptBadOption(context, 0), poptStrerror(left));
    else if (poptPeekArg(context))
        result = usage(poptPeekArg(context), "no argument is taken");
    else if (repeat == 0 || repeat < -1 || repeat > BENCH_REPEAT_MAX)
        result = usage("--repeat", "from 1 to 1000");
    else if (only && !has_row(only))
        result = usage(only, "there is no such row");
    else
        result = run(&bench, only);
    poptFreeContext(context);
    free(only);
    free(directory);
    return result;
}

int main(int argc, char **argv) {
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    /* popt wants an array of const strings, which char ** does not convert to. */
    const char **arguments = calloc((size_t)argc + 1, sizeof(*arguments));
    if (!arguments)
        return BENCH_BROKEN;
    for (int i = 0; i < argc; i++)
        arguments[i] = argv[i];
    status = run_with_options(argc, arguments);
    free(arguments);
    return status;
}
