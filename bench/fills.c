/* SPDX-License-Identifier: MIT */
#include "fills.h"

#include "measure.h"

#include <errno.h>
#include <liburing.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

#define CHUNK     ((size_t)2 << 20)
#define PIECE     ((size_t)256 << 10)
#define DEPTH_MAX 64
#define TRIES     3

enum mnw_backing fill_backing(enum area_kind kind) {
    static const enum mnw_backing backings[AREA_KINDS] = {MNW_BACKING_SHMEM, MNW_BACKING_GRADED, MNW_BACKING_HUGETLB_2M,
                                                          MNW_BACKING_HUGETLB_1G};
    return backings[kind];
}

uint64_t fill_budget(uint64_t size_bytes) {
    return size_bytes + size_bytes / 16 + 8 * MIB;
}

/* ---- by hand ---- */

static int read_chunk(const struct scratch *scratch, unsigned char *to, size_t at, size_t length) {
    ssize_t got = pread(scratch->fd, to + at, length, (off_t)at);
    return got == (ssize_t)length ? 0 : got < 0 ? -errno : -ENODATA;
}

static int send_chunk(const struct scratch *scratch, const struct area *area, size_t at, size_t length) {
    off_t from = (off_t)at;
    if (lseek(area->fd, from, SEEK_SET) != from)
        return -errno;
    while (length) {
        ssize_t sent = sendfile(area->fd, scratch->fd, &from, length);
        if (sent <= 0)
            return sent < 0 ? -errno : -ENODATA;
        length -= (size_t)sent;
    }
    return 0;
}

/* By way of a buffer that the CPU's caches hold: a write that covers a huge folio spares its zeroing. */
static int copy_chunk(const struct scratch *scratch, const struct area *area, unsigned char *buffer, size_t at) {
    ssize_t got = pread(scratch->fd, buffer, CHUNK, (off_t)at);
    if (got == (ssize_t)CHUNK)
        got = pwrite(area->fd, buffer, CHUNK, (off_t)at);
    return got == (ssize_t)CHUNK ? 0 : got < 0 ? -errno : -ENODATA;
}

static int populate_chunk(const struct area *area, size_t at) {
    return madvise(area->alias + at, CHUNK, MADV_POPULATE_WRITE) ? -errno : 0;
}

/* The threads of one loop: each takes the next chunk, and brings and touches it. */
struct crew {
    const struct fill *fill;
    const struct area *area;
    _Atomic size_t next, populated;
    _Atomic int error;
    _Atomic uint64_t sum;
};

static int bring_chunk(struct crew *crew, unsigned char *buffer, size_t at) {
    const struct fill *fill = crew->fill;
    const struct area *area = crew->area;
    int error = 0;
    switch (fill->way) {
    case FILL_SENDFILE:
        return send_chunk(fill->scratch, area, at, CHUNK);
    case FILL_COPY:
        return copy_chunk(fill->scratch, area, buffer, at);
    case FILL_POPULATE:
        error = populate_chunk(area, at);
        break;
    case FILL_BESIDE:
        while (atomic_load(&crew->populated) <= at && !(error = atomic_load(&crew->error)))
            sched_yield();
        break;
    case FILL_PREAD:
    case FILL_URING:
    case FILL_MINNOW:
        break;
    }
    return error ? error : read_chunk(fill->scratch, area->alias, at, CHUNK);
}

static uint64_t touch(const struct area *area, size_t at, size_t length) {
    volatile const unsigned char *bytes = area->alias;
    size_t step = area->page_bytes < CHUNK ? area->page_bytes : CHUNK;
    uint64_t sum = 0;
    for (size_t page = (at + step - 1) / step * step; page < at + length; page += step)
        sum += bytes[page];
    return sum;
}

static void *work(void *argument) {
    struct crew *crew = argument;
    unsigned char *buffer = crew->fill->way == FILL_COPY ? malloc(CHUNK) : NULL;
    int error = crew->fill->way == FILL_COPY && !buffer ? -ENOMEM : 0;
    for (size_t at; !error && (at = atomic_fetch_add(&crew->next, CHUNK)) < crew->area->length;) {
        error = bring_chunk(crew, buffer, at);
        if (!error)
            atomic_fetch_add(&crew->sum, touch(crew->area, at, CHUNK));
    }
    if (error)
        atomic_store(&crew->error, error);
    free(buffer);
    return NULL;
}

/* As far ahead as it gets. */
static void *populate(void *argument) {
    struct crew *crew = argument;
    for (size_t at = 0; at < crew->area->length && !atomic_load(&crew->error); at += CHUNK) {
        int error = populate_chunk(crew->area, at);
        if (error)
            atomic_store(&crew->error, error);
        atomic_store(&crew->populated, at + CHUNK);
    }
    return NULL;
}

static int fill_by_crew(const struct fill *fill, const struct area *area, uint64_t *sum) {
    struct crew crew = {.fill = fill, .area = area};
    pthread_t other;
    bool is_pair = fill->threads == 2;
    int error = is_pair ? -pthread_create(&other, NULL, fill->way == FILL_BESIDE ? populate : work, &crew) : 0;
    if (error)
        return error;
    work(&crew);
    if (is_pair)
        pthread_join(other, NULL);
    *sum += atomic_load(&crew.sum);
    return atomic_load(&crew.error);
}

static int submit_piece(struct io_uring *ring, const struct fill *fill, const struct area *area, size_t at) {
    struct io_uring_sqe *entry = io_uring_get_sqe(ring);
    if (!entry)
        return -EBUSY;
    io_uring_prep_read(entry, fill->scratch->fd, area->alias + at, (unsigned)PIECE, at);
    io_uring_sqe_set_flags(entry, IOSQE_ASYNC); /* or the submission would copy what is in the page cache */
    io_uring_sqe_set_data64(entry, at);
    return 0;
}

/* `depth` reads in flight, the next one as soon as one has ended. */
static int roll(struct io_uring *ring, const struct fill *fill, const struct area *area, uint64_t *sum) {
    size_t next = 0, ended = 0;
    int error = 0;
    while (!error && ended < area->length) {
        for (; !error && next < area->length && next < ended + fill->depth * PIECE; next += PIECE)
            error = submit_piece(ring, fill, area, next);
        int got = error ? error : io_uring_submit_and_wait(ring, 1);
        error = got < 0 && got != -EINTR ? got : 0;
        for (struct io_uring_cqe *entry; !error && !io_uring_peek_cqe(ring, &entry); ended += PIECE) {
            size_t at = io_uring_cqe_get_data64(entry);
            if (entry->res != (int)PIECE)
                error = entry->res < 0 ? entry->res : -ENODATA;
            else
                *sum += touch(area, at, PIECE);
            io_uring_cqe_seen(ring, entry);
        }
    }
    return error;
}

static int fill_by_ring(const struct fill *fill, const struct area *area, uint64_t *sum) {
    struct io_uring ring;
    int error = io_uring_queue_init(DEPTH_MAX, &ring, 0);
    if (error)
        return error;
    error = roll(&ring, fill, area, sum);
    io_uring_queue_exit(&ring);
    return error;
}

static int64_t fill_by_hand(const struct fill *fill, uint64_t *sum) {
    struct area area;
    int error = area_open(&area, fill->kind, fill->scratch->size_bytes, NULL);
    if (error)
        return error;
    uint64_t begin_ns = clock_ns();
    error = fill->way == FILL_URING ? fill_by_ring(fill, &area, sum) : fill_by_crew(fill, &area, sum);
    int64_t ns = (int64_t)(clock_ns() - begin_ns);
    area_close(&area);
    return error ? error : ns;
}

/* ---- by minnow ---- */

static int64_t fill_by_minnow(const struct fill *fill, uint64_t *sum) {
    struct rig rig;
    int error = rig_open(&rig, fill->scratch, fill_backing(fill->kind), fill_budget(fill->scratch->size_bytes));
    if (error)
        return error;
    size_t step = rig.page_bytes < CHUNK ? rig.page_bytes : CHUNK;
    uint64_t begin_ns = clock_ns();
    for (size_t at = 0; at < rig.length; at += step)
        *sum += rig.data[at];
    int64_t ns = (int64_t)(clock_ns() - begin_ns);
    rig_close(&rig);
    return ns;
}

double fill_turn(void *context, struct bench_turn *turn) {
    const struct fill *fill = context;
    int64_t ns = fill->way == FILL_MINNOW ? fill_by_minnow(fill, &turn->sum) : fill_by_hand(fill, &turn->sum);
    if (ns > 0)
        return (double)fill->scratch->size_bytes / (double)MIB / ((double)ns / 1e9);
    snprintf(turn->why, sizeof(turn->why), "%s", strerror((int)-ns));
    return NAN;
}

int fill_best_by_hand(struct bench *bench, const struct fill *fills, unsigned count) {
    double rates[FILL_WAYS_MAX][TRIES];
    int best = -1;
    double best_rate = 0;
    /* In turns, as whatever else the machine does then falls on every way. The first does not count. */
    for (unsigned try = 0; try <= TRIES; try++)
        for (unsigned i = 0; i < count; i++) {
            struct bench_turn turn = {.bench = bench};
            double rate = fill_turn((void *)(uintptr_t)&fills[i], &turn);
            if (try)
                rates[i][try - 1] = isfinite(rate) ? rate : 0;
        }
    for (unsigned i = 0; i < count; i++) {
        double rate = median_of(rates[i], TRIES);
        if (rate > best_rate) {
            best = (int)i;
            best_rate = rate;
        }
    }
    return best;
}
