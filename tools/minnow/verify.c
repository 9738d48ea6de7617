/* SPDX-License-Identifier: MIT */
/*
 * minnow verify: reads the command line and hands over. Nothing is opened before every option is understood.
 */
#include "verify.h"

#include "command.h"
#include "output.h"

#include <popt.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const backing_names[] = {"shmem", "graded", "hugetlb-2M", "hugetlb-1G", NULL};
const char *const numa_names[] = {"local", "interleave", "bind", "preferred", NULL};
const char *const policy_names[] = {"s3fifo", "clock", NULL};
const char *const io_names[] = {"auto", "uring", "threads", NULL};

#define BUDGET_LEAST (UINT64_C(4) << 20)

/* The options as text, before they are understood. */
struct words {
    char *backing, *budget, *readers, *pattern, *operations, *numa, *nodes, *policy, *seed, *threads, *io, *extent;
    int direct, is_inline, has_replicas, json;
};

static int take_name(const char *option, const char *text, const char *const *names, int *value) {
    if (!text)
        return 0;
    int found = parse_name(names, text);
    if (found >= 0) {
        *value = found;
        return 0;
    }
    char known[128] = "";
    for (int i = 0; names[i]; i++) {
        strncat(known, i ? ", " : "", sizeof(known) - strlen(known) - 1);
        strncat(known, names[i], sizeof(known) - strlen(known) - 1);
    }
    return usage_error("%s: unknown kind '%s'; there are %s", option, text, known);
}

static int take_size(const char *option, const char *text, uint64_t *value) {
    if (text && (parse_size(text, value) || !*value || *value > INT64_MAX))
        return usage_error("%s: '%s' is no size; write bytes, or a number with K, M, G or T", option, text);
    return 0;
}

static int take_number(const char *option, const char *text, uint64_t least, uint64_t most, uint64_t *value) {
    if (!text)
        return 0;
    if (parse_number(text, value) || *value < least || *value > most)
        return usage_error("%s: '%s' is no whole number from %llu to %llu", option, text, (unsigned long long)least,
                           (unsigned long long)most);
    return 0;
}

static int understand(const struct words *words, struct verify_options *options) {
    int backing = MNW_BACKING_SHMEM, numa = MNW_NUMA_LOCAL, policy = MNW_POLICY_S3FIFO, io = MNW_IO_AUTO;
    int pattern = PATTERN_SEQUENTIAL;
    uint64_t threads = 0;
    *options = (struct verify_options){.readers = 4, .seed = 1};
    options->direct = words->direct;
    options->is_inline = words->is_inline;
    options->has_replicas = words->has_replicas;
    options->json = words->json;

    int code = take_name("--backing", words->backing, backing_names, &backing);
    if (!code)
        code = take_name("--numa", words->numa, numa_names, &numa);
    if (!code)
        code = take_name("--policy", words->policy, policy_names, &policy);
    if (!code)
        code = take_name("--io", words->io, io_names, &io);
    if (!code)
        code = take_name("--pattern", words->pattern, pattern_names, &pattern);
    if (!code)
        code = take_size("--budget", words->budget, &options->pool.budget_bytes);
    if (!code)
        code = take_size("--extent", words->extent, &options->pool.extent_bytes);
    if (!code)
        code = take_number("--readers", words->readers, 1, 1024, &options->readers);
    if (!code)
        code = take_number("--ops", words->operations, 1, UINT64_MAX / 2, &options->operations);
    if (!code)
        code = take_number("--seed", words->seed, 0, UINT64_MAX, &options->seed);
    if (!code)
        code = take_number("--threads", words->threads, 1, 256, &threads);
    if (code)
        return code;

    options->pattern = (enum pattern_kind)pattern;
    options->pool.size = sizeof(options->pool);
    options->pool.backing = (enum mnw_backing)backing;
    options->pool.user_faults_only = 1; /* it reads by pointer alone */
    options->pool.numa = (enum mnw_numa)numa;
    options->pool.nodes = words->nodes;
    options->pool.policy = (enum mnw_policy)policy;
    options->pool.io_mode = (enum mnw_io_mode)io;
    options->pool.fault_threads_per_node = (unsigned)threads;
    return 0;
}

/* A quarter of the file makes the cache evict; a tiny file gets what a pool needs at least. */
static uint64_t default_budget(const char *file, enum mnw_backing backing) {
    static const uint64_t least[] = {BUDGET_LEAST, UINT64_C(16) << 20, UINT64_C(16) << 20, UINT64_C(1) << 30};
    struct stat status;
    uint64_t quarter = stat(file, &status) ? 0 : (uint64_t)status.st_size / 4;
    return quarter > least[backing] ? quarter : least[backing];
}

static void free_words(const struct words *words) {
    char *const texts[] = {words->backing,    words->budget,  words->readers, words->pattern,
                           words->operations, words->numa,    words->nodes,   words->policy,
                           words->seed,       words->threads, words->io,      words->extent};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        free(texts[i]);
}

static int run(const struct words *words, const char *file) {
    struct verify_options options;
    int code = understand(words, &options);
    if (code)
        return code;
    options.file = file;
    if (!words->budget)
        options.pool.budget_bytes = default_budget(file, options.pool.backing);

    struct verify_result *result = calloc(1, sizeof(*result));
    if (!result)
        return usage_error("verify: out of memory");
    code = verify_run(&options, result);
    if (code != EXIT_USAGE)
        (options.json ? verify_print_json : verify_print_words)(&options, result);
    if (code != EXIT_USAGE && result->signal)
        code = 128 + result->signal;
    if (result->waiting)
        output_leave(code);
    free(result);
    return code;
}

int command_verify(int argc, const char **argv) {
    struct words words = {0};
    const struct poptOption table[] = {
        {"backing", 0, POPT_ARG_STRING, &words.backing, 0, "shmem, graded, hugetlb-2M or hugetlb-1G", "KIND"},
        {"budget", 0, POPT_ARG_STRING, &words.budget, 0, "memory to spend (a quarter of the file)", "SIZE"},
        {"readers", 0, POPT_ARG_STRING, &words.readers, 0, "reading threads (4)", "N"},
        {"pattern", 0, POPT_ARG_STRING, &words.pattern, 0, "sequential, uniform or zipf", "NAME"},
        {"ops", 0, POPT_ARG_STRING, &words.operations, 0, "pages to read in all (the file once)", "N"},
        {"seed", 0, POPT_ARG_STRING, &words.seed, 0, "of the random patterns (1)", "N"},
        {"numa", 0, POPT_ARG_STRING, &words.numa, 0, "local, interleave, bind or preferred", "POLICY"},
        {"nodes", 0, POPT_ARG_STRING, &words.nodes, 0, "such as 0-1,3, or with weights 0:3,1 (every node allowed)",
         "LIST"},
        {"policy", 0, POPT_ARG_STRING, &words.policy, 0, "eviction: s3fifo or clock", "NAME"},
        {"threads", 0, POPT_ARG_STRING, &words.threads, 0, "fault threads per node (1)", "N"},
        {"io", 0, POPT_ARG_STRING, &words.io, 0, "auto, uring or threads", "MODE"},
        {"extent", 0, POPT_ARG_STRING, &words.extent, 0, "unit of eviction on shmem (64K)", "SIZE"},
        {"direct", 0, POPT_ARG_NONE, &words.direct, 0, "read the file past the kernel's page cache", NULL},
        {"inline", 0, POPT_ARG_NONE, &words.is_inline, 0, "resolve faults in the thread that faults", NULL},
        {"replicas", 0, POPT_ARG_NONE, &words.has_replicas, 0, "a copy on each node, read by readers there", NULL},
        {"json", 0, POPT_ARG_NONE, &words.json, 0, "print one JSON object", NULL},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow verify", argc, argv, table, 0);
    poptSetOtherOptionHelp(context, "FILE [OPTION...]");

    int code, parsed = poptGetNextOpt(context);
    const char *file = parsed < -1 ? NULL : poptGetArg(context);
    if (parsed < -1)
        code = usage_error("verify: %s: %s (minnow verify --help)", poptBadOption(context, POPT_BADOPTION_NOALIAS),
                           poptStrerror(parsed));
    else if (!file)
        code = usage_error("verify: which file? (minnow verify --help)");
    else if (poptPeekArg(context))
        code = usage_error("verify: one file at a time; '%s' is one too many", poptPeekArg(context));
    else
        code = run(&words, file);
    free_words(&words);
    poptFreeContext(context);
    return code;
}
