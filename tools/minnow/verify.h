/* SPDX-License-Identifier: MIT */
/*
 * verify: what it was asked, what it saw. The options belong to verify.c, the run to verify_run.c, and the
 * words to verify_report.c.
 */
#ifndef MINNOW_VERIFY_H
#define MINNOW_VERIFY_H

#include "pattern.h"

#include <minnow/minnow.h>
#include <stdbool.h>
#include <stdint.h>

#define EXAMPLES_MAX 8

struct verify_options {
    const char *file;
    struct mnw_pool_options pool;
    int direct;
    enum pattern_kind pattern;
    uint64_t readers, operations, seed;
    bool is_inline, has_replicas, json;
};

/* The first few of what went wrong. */
struct verify_example {
    uint64_t offset; /* in the file */
    bool unreadable; /* SIGBUS, or the ordinary read failed; else a byte differed */
    unsigned char expected, found;
};

struct verify_result {
    uint64_t file_bytes;
    uint64_t page_bytes, piece_bytes; /* of the cache; of one comparison */
    uint64_t pages_checked, mismatches, io_errors;
    double seconds;
    uint64_t waiting; /* readers that were left in their faults when it was stopped: they, and all that is open, stay */
    int signal;       /* that stopped the run early, or 0 */
    bool file_changed; /* size or modification time are not what they were */
    unsigned example_count;
    struct verify_example examples[EXAMPLES_MAX];
    struct mnw_stats stats;
    struct mnw_placement placement; /* of what is resident at the end */
    struct mnw_histogram faults;    /* event read to resolved, every node */
};

extern const char *const backing_names[], *const numa_names[], *const policy_names[], *const io_names[];

/* Opens everything, reads, compares, closes everything. An exit code; messages go to stderr. */
int verify_run(const struct verify_options *options, struct verify_result *result);

/* Print the result on stdout. */
void verify_print_words(const struct verify_options *options, const struct verify_result *result);
void verify_print_json(const struct verify_options *options, const struct verify_result *result);

#endif
