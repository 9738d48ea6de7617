/* SPDX-License-Identifier: MIT */
#include "fills.h"

#include "measure.h"

#include <errno.h>
#include <liburing.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

#define CHUNK     ((size_t)2 << 20)
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

/* `depth` reads at once, and on to the next chunk when all have ended. */
static int ring_chunk(struct io_uring *ring, const struct fill *fill, unsigned char *to, size_t at, size_t length) {
    size_t piece = length / fill->depth;
    for (unsigned i = 0; i < fill->depth; i++) {
        struct io_uring_sqe *entry = io_uring_get_sqe(ring);
        if (!entry)
            return -EBUSY;
        io_uring_prep_read(entry, fill->scratch->fd, to + at + i * piece, (unsigned)piece, at + i * piece);
    }
    int error = io_uring_submit_and_wait(ring, fill->depth);
    for (unsigned i = 0; i < fill->depth && error >= 0; i++) {
        struct io_uring_cqe *entry;
        error = io_uring_wait_cqe(ring, &entry);
        if (error)
            break;
        if (entry->res != (int)piece)
            error = entry->res < 0 ? entry->res : -ENODATA;
        io_uring_cqe_seen(ring, entry);
    }
    return error < 0 ? error : 0;
}

static int bring_chunk(const struct fill *fill, const struct area *area, struct io_uring *ring, size_t at) {
    switch (fill->way) {
    case FILL_SENDFILE:
        return send_chunk(fill->scratch, area, at, CHUNK);
    case FILL_URING:
        return ring_chunk(ring, fill, area->alias, at, CHUNK);
    case FILL_POPULATE:
        if (madvise(area->alias + at, CHUNK, MADV_POPULATE_WRITE))
            return -errno;
        return read_chunk(fill->scratch, area->alias, at, CHUNK);
    case FILL_PREAD:
    case FILL_MINNOW:
        break;
    }
    return read_chunk(fill->scratch, area->alias, at, CHUNK);
}

static int64_t fill_area(const struct fill *fill, const struct area *area, struct io_uring *ring, uint64_t *sum) {
    volatile const unsigned char *bytes = area->alias;
    uint64_t begin_ns = clock_ns();
    for (size_t at = 0; at < area->length; at += CHUNK) {
        int error = bring_chunk(fill, area, ring, at);
        if (error)
            return error;
        size_t step = area->page_bytes < CHUNK ? area->page_bytes : CHUNK;
        for (size_t page = 0; page < CHUNK; page += step)
            *sum += bytes[at + page];
    }
    return (int64_t)(clock_ns() - begin_ns);
}

static int64_t fill_by_hand(const struct fill *fill, uint64_t *sum) {
    struct area area;
    struct io_uring ring;
    int64_t result = area_open(&area, fill->kind, fill->scratch->size_bytes, NULL);
    if (result)
        return result;
    if (fill->way == FILL_URING)
        result = io_uring_queue_init(DEPTH_MAX, &ring, 0);
    if (!result)
        result = fill_area(fill, &area, &ring, sum);
    if (fill->way == FILL_URING && result != -ENOSYS && result != -EPERM)
        io_uring_queue_exit(&ring);
    area_close(&area);
    return result;
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
    int best = -1;
    double best_rate = 0;
    for (unsigned i = 0; i < count; i++) {
        double rates[TRIES];
        unsigned done = 0;
        /* The first does not count. */
        for (unsigned try = 0; try <= TRIES; try++) {
            struct bench_turn turn = {.bench = bench};
            double rate = fill_turn((void *)(uintptr_t)&fills[i], &turn);
            if (isfinite(rate) && try)
                rates[done++] = rate;
        }
        double rate = done == TRIES ? median_of(rates, TRIES) : 0;
        if (rate > best_rate) {
            best = (int)i;
            best_rate = rate;
        }
    }
    return best;
}
