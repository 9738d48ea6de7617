/* SPDX-License-Identifier: MIT */
#include "reads.h"

#include "measure.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define STRIDE 5 /* pages: within what a readahead may notice, and not all of it */

const char *const reads_names[] = {"sequential", "strided", "uniform", "zipf", "scan-zipf", NULL};

void reads_begin(struct reads *reads, uint64_t seed) {
    uint64_t pages = reads->length / reads->page_bytes;
    enum pattern_kind kind = reads->kind == READS_UNIFORM  ? PATTERN_UNIFORM
                             : reads->kind < READS_UNIFORM ? PATTERN_SEQUENTIAL
                                                           : PATTERN_ZIPF;
    for (unsigned i = 0; i < reads->threads; i++) {
        pattern_init(&reads->streams[i].pattern, kind, pages, 1, i, reads->threads, seed);
        pattern_init(&reads->streams[i].scan, PATTERN_SEQUENTIAL, pages, 1, i, reads->threads, seed);
        reads->streams[i].drawn = 0;
    }
}

uint64_t reads_next(const struct reads *reads, struct reads_stream *stream) {
    uint64_t pages = reads->length / reads->page_bytes, drawn = stream->drawn++;
    if (reads->kind == READS_STRIDED)
        return pattern_next(&stream->pattern) * STRIDE % pages;
    if (reads->kind == READS_SCAN_ZIPF && drawn % 2)
        return pattern_next(&stream->scan);
    return pattern_next(&stream->pattern);
}

struct reader {
    struct reads *reads;
    struct reads_stream *stream;
    pthread_barrier_t *barrier;
    size_t *offsets;
    double *ns;
    unsigned count;
    uint64_t sum, end_ns;
};

static uint64_t read_one(const struct reads *reads, size_t offset) {
    const volatile uint64_t *words = (const volatile uint64_t *)(uintptr_t)(reads->data + offset);
    uint64_t sum = 0;
    if (!reads->whole)
        return reads->data[offset];
    for (size_t i = 0; i < reads->page_bytes / sizeof(*words); i += 8)
        sum += words[i] + words[i + 1] + words[i + 2] + words[i + 3] + words[i + 4] + words[i + 5] + words[i + 6] +
               words[i + 7];
    return sum;
}

static void read_timed(struct reader *reader) {
    for (unsigned i = 0; i < reader->count; i++) {
        uint64_t begin_ns = clock_ns();
        reader->sum += read_one(reader->reads, reader->offsets[i]);
        reader->ns[i] = (double)(clock_ns() - begin_ns);
    }
}

static void read_untimed(struct reader *reader) {
    uint64_t sum = 0;
    for (unsigned i = 0; i < reader->count; i++)
        sum += read_one(reader->reads, reader->offsets[i]);
    reader->sum = sum;
}

static void *read_share(void *argument) {
    struct reader *reader = argument;
    pthread_barrier_wait(reader->barrier); /* all are there */
    pthread_barrier_wait(reader->barrier); /* the clock runs */
    if (reader->ns)
        read_timed(reader);
    else
        read_untimed(reader);
    reader->end_ns = clock_ns();
    return NULL;
}

static bool draw(struct reader *reader) {
    const struct reads *reads = reader->reads;
    reader->offsets = calloc(reader->count, sizeof(size_t));
    if (reads->latencies)
        reader->ns = calloc(reader->count, sizeof(double));
    if (!reader->offsets || (reads->latencies && !reader->ns))
        return false;
    for (unsigned i = 0; i < reader->count; i++) {
        reader->offsets[i] = reads_next(reads, reader->stream) * reads->page_bytes;
        if (reads->within)
            reader->offsets[i] += pattern_scatter(reader->stream->drawn % 509, 509) * 64 % reads->within;
    }
    return true;
}

static uint64_t run_readers(struct reader *readers, unsigned threads) {
    pthread_t ids[READS_THREADS_MAX];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, threads + 1);
    for (unsigned i = 0; i < threads; i++) {
        readers[i].barrier = &barrier;
        pthread_create(&ids[i], NULL, read_share, &readers[i]);
    }
    pthread_barrier_wait(&barrier);
    uint64_t begin_ns = clock_ns(), end_ns = begin_ns;
    pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        end_ns = readers[i].end_ns > end_ns ? readers[i].end_ns : end_ns;
    }
    pthread_barrier_destroy(&barrier);
    return end_ns - begin_ns;
}

double reads_turn(void *context, struct bench_turn *turn) {
    struct reads *reads = context;
    struct reader readers[READS_THREADS_MAX] = {0};
    bool ready = true;
    if (reads->reset)
        reads->reset(reads->reset_data);
    for (unsigned i = 0; i < reads->threads; i++) {
        readers[i] =
            (struct reader){.reads = reads, .stream = &reads->streams[i], .count = reads->count / reads->threads};
        ready &= draw(&readers[i]);
    }
    uint64_t ns = ready ? run_readers(readers, reads->threads) : 0;
    for (unsigned i = 0; i < reads->threads; i++) {
        turn->sum += readers[i].sum;
        if (readers[i].ns)
            samples_append(turn->latencies, readers[i].ns, readers[i].count);
        free(readers[i].offsets);
        free(readers[i].ns);
    }
    if (!ns)
        return NAN;
    double count = (double)(reads->count / reads->threads * reads->threads);
    return reads->per_read ? (double)ns / count : count / ((double)ns / 1e9);
}
