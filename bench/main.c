/* SPDX-License-Identifier: MIT */
/*
 * minnow-bench: what faults cost on this machine, bare and through minnow. See minnow-bench(1).
 * Exit status: see enum bench_status. Settings of the machine that it changes (huge pages) are put back, however
 * it ends.
 */
#include "commands.h"
#include "compare.h"
#include "fingerprint.h"
#include "interrupt.h"
#include "machine.h"
#include "measure.h"
#include "minnow/output.h"
#include "registry.h"
#include "report.h"

#include <inttypes.h>
#include <minnow/minnow.h>
#include <popt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define REPEAT_DEFAULT 15
#define REPEAT_SMOKE   3
#define SEED_DEFAULT   1
#define NAMES_MAX      64

int command_usage(const char *what, const char *why) {
    fprintf(stderr, "minnow-bench: %s: %s (see minnow-bench --help)\n", what, why);
    return BENCH_USAGE;
}

static int help(FILE *to, int status) {
    fprintf(to, "usage: minnow-bench list [--json]\n"
                "       minnow-bench run NAME... [--json] [--repeat N] [--compare FILE] [--seed N] [--smoke]\n"
                "                                [--directory DIRECTORY]\n"
                "       minnow-bench report [RUN.json...] [--output FILE] [--smoke]\n"
                "       minnow-bench trace --output FILE [--workload NAME] [--pages N] [--reads N] [--budget PAGES]\n"
                "                          [--unit PAGES] [--seed N] [--directory DIRECTORY]\n"
                "       minnow-bench policies TRACE [--budget PAGES] [--unit PAGES] [--live] [--repeat N] [--json]\n"
                "                             [--directory DIRECTORY]\n"
                "       minnow-bench --version\n"
                "A NAME is of a benchmark, of a group, or \"all\". The manual: minnow-bench(1)\n");
    return status;
}

/* ---- list ---- */

static void list_words(void) {
    for (unsigned g = 0; g < benchmark_group_count; g++) {
        printf("%s%s: %s\n", g ? "\n" : "", benchmark_groups[g].name, benchmark_groups[g].summary);
        for (unsigned i = 0; i < benchmark_count; i++)
            if (!strcmp(benchmarks[i].group, benchmark_groups[g].name))
                printf("    %-20s %s\n", benchmarks[i].name, benchmarks[i].summary);
    }
}

static void list_json(void) {
    json_t *all = json_array();
    for (unsigned i = 0; i < benchmark_count; i++)
        json_array_append_new(all, json_pack("{s:s, s:s, s:s}", "name", benchmarks[i].name, "group",
                                             benchmarks[i].group, "summary", benchmarks[i].summary));
    json_dumpf(all, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(all);
}

static int list(int argc, const char **argv) {
    int json = 0;
    struct poptOption options[] = {{"json", 0, POPT_ARG_NONE, &json, 0, "one JSON array", NULL},
                                   POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow-bench list", argc, argv, options, 0);
    int left = poptGetNextOpt(context), result = BENCH_HELD;
    if (left < -1)
        result = command_usage(poptBadOption(context, 0), poptStrerror(left));
    else if (poptPeekArg(context))
        result = command_usage(poptPeekArg(context), "list takes no argument");
    else if (json)
        list_json();
    else
        list_words();
    poptFreeContext(context);
    return result;
}

/* ---- run ---- */

static bool is_known(const char *name) {
    for (unsigned i = 0; i < benchmark_count; i++)
        if (benchmark_answers_to(&benchmarks[i], name))
            return true;
    return false;
}

static bool is_wanted(const struct benchmark *benchmark, const char *const *names) {
    for (; *names; names++)
        if (benchmark_answers_to(benchmark, *names))
            return true;
    return false;
}

static void print_head(const struct bench *bench, const json_t *fingerprint) {
    fingerprint_print(fingerprint);
    printf("medians of %u rounds, seed %" PRIu64 "%s\n\n", bench->repeat, bench->seed,
           bench->smoke ? "; smoke: numbers are checked for sense, not against targets" : "");
    printf("%-36s %11s %-9s %4s %11s %11s %11s %11s %8s\n", "name", "value", "unit", "n", "min", "median", "max",
           "baseline", "ratio");
}

static int status_of(const struct bench *bench, const struct comparison *comparison) {
    if (bench->partial)
        return 128 + interrupted();
    if (bench->broken)
        return BENCH_BROKEN;
    if ((bench->missed && !bench->smoke) || (comparison && comparison->worse))
        return BENCH_MISSED;
    return bench->skipped ? BENCH_SKIPPED : BENCH_HELD;
}

static json_t *measure_all(struct bench *bench, const char *const *names) {
    json_t *fingerprint = fingerprint_take(), *which = json_array(), *unfinished = json_array();
    char checksum[20];
    uint64_t begin_ns = clock_ns();
    interrupt_prepare();
    if (!bench->json)
        print_head(bench, fingerprint);
    for (unsigned i = 0; i < benchmark_count; i++) {
        if (!is_wanted(&benchmarks[i], names))
            continue;
        bench->benchmark = benchmarks[i].name;
        if (!interrupted()) {
            json_array_append_new(which, json_string(bench->benchmark));
            benchmarks[i].run(bench);
        }
        if (interrupted())
            json_array_append_new(unfinished, json_string(bench->benchmark));
    }
    bench->partial = json_array_size(unfinished);
    snprintf(checksum, sizeof(checksum), "%016" PRIx64, bench->checksum);
    json_object_set_new(fingerprint, "seed", json_integer((json_int_t)bench->seed));
    json_object_set_new(fingerprint, "checksum", json_string(checksum));
    json_t *run = json_pack("{s:s, s:o, s:b, s:b, s:i, s:I, s:f, s:o, s:o}", "program", "minnow-bench", "fingerprint",
                            fingerprint, "smoke", bench->smoke, "partial", bench->partial, "repeat", (int)bench->repeat,
                            "seed", (json_int_t)bench->seed, "seconds", (double)(clock_ns() - begin_ns) / 1e9,
                            "benchmarks", which, "results", bench->results);
    if (bench->partial)
        json_object_set(run, "unfinished", unfinished);
    json_decref(unfinished);
    return run;
}

static int run_and_tell(struct bench *bench, const char *const *names, const char *compare_path) {
    struct comparison comparison;
    json_t *before = compare_path ? compare_load(compare_path) : NULL;
    if (compare_path && !before)
        return BENCH_USAGE;
    bench->results = json_array();
    json_t *run = measure_all(bench, names);
    if (before) {
        comparison = compare_runs(before, run);
        json_object_set_new(run, "compare", compare_json(&comparison));
    }
    if (bench->json) {
        json_dumpf(run, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(8));
        printf("\n");
    } else {
        char missed[32] = "targets not looked at";
        if (!bench->smoke)
            snprintf(missed, sizeof(missed), "%u target%s missed", bench->missed, bench->missed == 1 ? "" : "s");
        printf("\n%s%s, %u results broken, %u skipped; %.1f s, checksum %016" PRIx64 "\n",
               bench->partial ? "interrupted: this is a part; " : "", missed, bench->broken, bench->skipped,
               json_number_value(json_object_get(run, "seconds")), bench->checksum);
        if (before)
            compare_print(&comparison);
    }
    int status = status_of(bench, before ? &comparison : NULL);
    if (before)
        compare_free(&comparison);
    json_decref(before);
    json_decref(run);
    return status;
}

static const char *take_names(poptContext context, const char **names) {
    unsigned count = 0;
    const char *name;
    while ((name = poptGetArg(context))) {
        if (!is_known(name) || count == NAMES_MAX)
            return name;
        names[count++] = name;
    }
    return NULL;
}

static int run(int argc, const char **argv) {
    struct bench bench = {.directory = "/var/tmp"};
    int json = 0, smoke = 0, repeat = -1;
    long long seed = SEED_DEFAULT;
    char *directory = NULL, *compare = NULL;
    const char *names[NAMES_MAX + 1] = {NULL}, *unknown = NULL;
    struct poptOption options[] = {
        {"json", 0, POPT_ARG_NONE, &json, 0, "one JSON object instead of a table", NULL},
        {"repeat", 0, POPT_ARG_INT, &repeat, 0, "rounds behind each median, 1 to 1000 (default 15)", "N"},
        {"compare", 0, POPT_ARG_STRING, &compare, 0, "tell what changed since this run, saved with --json", "FILE"},
        {"seed", 0, POPT_ARG_LONGLONG, &seed, 0, "of all random orders (default 1)", "N"},
        {"smoke", 0, POPT_ARG_NONE, &smoke, 0, "seconds instead of minutes; checks for sense, not for targets", NULL},
        {"directory", 0, POPT_ARG_STRING, &directory, 0, "where scratch files go (default /var/tmp)", "DIRECTORY"},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow-bench run", argc, argv, options, 0);
    poptSetOtherOptionHelp(context, "NAME...");
    int left = poptGetNextOpt(context), result;
    bench.json = json;
    bench.smoke = smoke;
    bench.seed = (uint64_t)seed;
    bench.repeat = repeat > 0 ? (unsigned)repeat : smoke ? REPEAT_SMOKE : REPEAT_DEFAULT;
    if (directory)
        bench.directory = directory;
    if (left < -1)
        result = command_usage(poptBadOption(context, 0), poptStrerror(left));
    else if (seed < 0)
        result = command_usage("--seed", "a whole number from 0 on");
    else if (repeat == 0 || repeat < -1 || repeat > BENCH_REPEAT_MAX)
        result = command_usage("--repeat", "from 1 to 1000");
    else if ((unknown = take_names(context, names)))
        result = command_usage(unknown, "there is no such benchmark; minnow-bench list");
    else if (!names[0])
        result = command_usage("run", "which? minnow-bench list");
    else
        result = run_and_tell(&bench, names, compare);
    poptFreeContext(context);
    free(directory);
    free(compare);
    return result;
}

/* ---- report ---- */

/* Of no file: everything is measured now. */
static json_t *load_runs(poptContext context, struct bench *bench) {
    static const char *const all[] = {"all", NULL};
    json_t *runs = json_array();
    const char *path;
    while ((path = poptGetArg(context))) {
        json_t *run = compare_load(path);
        if (!run) {
            json_decref(runs);
            return NULL;
        }
        json_array_append_new(runs, run);
    }
    if (!json_array_size(runs)) {
        bench->results = json_array();
        json_array_append_new(runs, measure_all(bench, all));
    }
    return runs;
}

static int write_report(const char *path, const json_t *runs) {
    FILE *to = fopen(path, "we");
    if (!to) {
        perror(path);
        return BENCH_BROKEN;
    }
    bool good = report_write(to, runs);
    good = !fclose(to) && good;
    if (good)
        printf("%s\n", path);
    return good ? BENCH_HELD : BENCH_BROKEN;
}

static int report(int argc, const char **argv) {
    struct bench bench = {.directory = "/var/tmp", .repeat = REPEAT_DEFAULT, .seed = SEED_DEFAULT};
    int smoke = 0, result;
    char *output = NULL;
    struct poptOption options[] = {
        {"output", 'o', POPT_ARG_STRING, &output, 0, "the page to write (default minnow-bench.html)", "FILE"},
        {"smoke", 0, POPT_ARG_NONE, &smoke, 0, "where no run is given: measure in seconds, for its looks only", NULL},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow-bench report", argc, argv, options, 0);
    poptSetOtherOptionHelp(context, "[RUN.json...]");
    int left = poptGetNextOpt(context);
    bench.smoke = smoke;
    if (smoke)
        bench.repeat = REPEAT_SMOKE;
    if (left < -1) {
        result = command_usage(poptBadOption(context, 0), poptStrerror(left));
    } else {
        json_t *runs = load_runs(context, &bench);
        result = runs ? write_report(output ? output : "minnow-bench.html", runs) : BENCH_USAGE;
        if (!result && bench.partial)
            result = 128 + interrupted();
        json_decref(runs);
    }
    poptFreeContext(context);
    free(output);
    return result;
}

/* ---- the command ---- */

static int command(int argc, const char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "--help") || !strcmp(name, "-?"))
        return help(stdout, BENCH_HELD);
    if (!strcmp(name, "--version")) {
        printf("minnow-bench %s\n", mnw_version());
        return BENCH_HELD;
    }
    if (!strcmp(name, "list"))
        return list(argc - 1, argv + 1);
    if (!strcmp(name, "run"))
        return run(argc - 1, argv + 1);
    if (!strcmp(name, "report"))
        return report(argc - 1, argv + 1);
    if (!strcmp(name, "trace"))
        return command_trace(argc - 1, argv + 1);
    if (!strcmp(name, "policies"))
        return command_policies(argc - 1, argv + 1);
    if (name[0])
        fprintf(stderr, "minnow-bench: %s: there is no such command\n", name);
    return help(stderr, BENCH_USAGE);
}

/* Of 1,024 views each has a userfaultfd: more descriptors than a login commonly lets a program have at first. */
static void allow_descriptors(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv) {
    output_begin("minnow-bench", BENCH_BROKEN);
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    /* popt wants an array of const strings, which char ** does not convert to. */
    const char **arguments = calloc((size_t)argc + 1, sizeof(*arguments));
    if (!arguments)
        return BENCH_BROKEN;
    for (int i = 0; i < argc; i++)
        arguments[i] = argv[i];
    allow_descriptors();
    cpu_count(); /* remembers the CPUs before anything is pinned */
    status = command(argc, arguments);
    free(arguments);
    return status;
}
