/* SPDX-License-Identifier: MIT */
/*
 * Reading a mapping in a pattern by one or more threads: the arm of every benchmark of throughput.
 *
 * Owns the streams of pages, which go on from turn to turn; two arms with the same numbers read the same pages. They
 * are drawn before the clock runs. One thread takes turns.
 */
#ifndef MNW_BENCH_READS_H
#define MNW_BENCH_READS_H

#include "harness.h"
#include "minnow/pattern.h"
#include "rig.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define READS_THREADS_MAX 64

enum reads_kind { READS_SEQUENTIAL, READS_STRIDED, READS_UNIFORM, READS_ZIPF, READS_SCAN_ZIPF };
extern const char *const reads_names[]; /* by reads_kind; NULL after the last */

struct reads {
    volatile const unsigned char *data;
    size_t length, page_bytes; /* one byte of a page is read at a time, or all */
    enum reads_kind kind;
    unsigned threads;
    unsigned count; /* of all threads in one turn */
    bool latencies; /* each read is timed too, which costs some 40 ns */
    bool whole;     /* every byte of the page: what a program does with a block */
    bool per_read;  /* the value is ns for each read, not reads a second */
    size_t within;  /* nonzero: another byte of the page every time, spread over so much: past caches of the CPU */
    void (*reset)(void *data); /* before each turn; or NULL */
    void *reset_data;
    struct reads_stream {
        struct pattern pattern, scan;
        uint64_t drawn;
    } streams[READS_THREADS_MAX];
};

void reads_begin(struct reads *reads, uint64_t seed);
double reads_turn(void *reads, struct bench_turn *turn);
/* The next page of a stream: what the threads read, for those who want to know in advance. */
uint64_t reads_next(const struct reads *reads, struct reads_stream *stream);

#endif
