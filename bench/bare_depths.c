/* SPDX-License-Identifier: MIT */
/*
 * Bringing a file that is on the disk, with 1 to 256 reads in flight: by hand, and by minnow, whose default depth rests
 * on this. Direct reads, or by way of the page cache, which was told to forget the file. Single pages, read at random,
 * need the most; runs are what is read ahead.
 */
#include "fills.h"
#include "measure.h"
#include "registry.h"
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEPTHS 5
#define WAYS   3
#define ARMS   (WAYS * DEPTHS)
#define PAGE   ((size_t)4096)
#define RUN    ((size_t)256 << 10) /* the longest read of minnow's on shmem */
#define READS  4096

static const unsigned depths[DEPTHS] = {1, 8, 32, 128, 256};

struct depth {
    const struct scratch *scratch;
    unsigned depth;
    size_t unit; /* of a read */
    bool direct, by_minnow;
};

/* ---- by hand ---- */

static int submit_one(struct io_uring *ring, int fd, char *to, size_t unit, uint64_t at) {
    struct io_uring_sqe *entry = io_uring_get_sqe(ring);
    if (!entry)
        return -EBUSY;
    io_uring_prep_read(entry, fd, to, (unsigned)unit, at);
    io_uring_sqe_set_data(entry, to);
    return 0;
}

/* Units of the file in an order that a stride far from both neighbours makes; each once. */
static uint64_t unit_at(const struct depth *depth, uint64_t index, uint64_t units) {
    return (depth->unit == PAGE ? index * 40503 % units : index) * depth->unit;
}

static int roll(const struct depth *depth, struct io_uring *ring, int fd, char *buffers, uint64_t count) {
    uint64_t units = depth->scratch->size_bytes / depth->unit, begun = 0, ended = 0;
    int error = 0;
    for (; begun < depth->depth && begun < count && !error; begun++)
        error = submit_one(ring, fd, buffers + begun * depth->unit, depth->unit, unit_at(depth, begun, units));
    while (!error && ended < count) {
        int got = io_uring_submit_and_wait(ring, 1);
        error = got < 0 && got != -EINTR ? got : 0;
        for (struct io_uring_cqe *entry; !error && !io_uring_peek_cqe(ring, &entry); ended++) {
            char *buffer = io_uring_cqe_get_data(entry);
            if (entry->res != (int)depth->unit)
                error = entry->res < 0 ? entry->res : -ENODATA;
            io_uring_cqe_seen(ring, entry);
            if (!error && begun < count)
                error = submit_one(ring, fd, buffer, depth->unit, unit_at(depth, begun++, units));
        }
    }
    return error;
}

static int open_again(const struct depth *depth) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", depth->scratch->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC | (depth->direct ? O_DIRECT : 0));
    return fd < 0 ? -errno : fd;
}

static uint64_t reads_of(const struct depth *depth) {
    uint64_t units = depth->scratch->size_bytes / depth->unit;
    return depth->unit == PAGE && units > READS ? READS : units;
}

static int64_t read_by_hand(const struct depth *depth) {
    struct io_uring ring;
    char *buffers = aligned_alloc(PAGE, depth->depth * depth->unit);
    int fd = open_again(depth), error = buffers ? io_uring_queue_init(depth->depth, &ring, 0) : -ENOMEM;
    uint64_t begin_ns = clock_ns();
    if (!error) {
        error = fd < 0 ? fd : roll(depth, &ring, fd, buffers, reads_of(depth));
        io_uring_queue_exit(&ring);
    }
    int64_t ns = (int64_t)(clock_ns() - begin_ns);
    free(buffers);
    if (fd >= 0)
        close(fd);
    return error ? error : ns;
}

/* ---- by minnow: one prefetch of all of it ---- */

static int wait_for_prefetch(struct mnw_pool *pool) {
    struct pollfd waited = {.fd = mnw_pool_event_fd(pool), .events = POLLIN};
    struct mnw_event event;
    while (mnw_pool_next_event(pool, &event) != 1 || event.kind != MNW_EVENT_PREFETCH)
        if (poll(&waited, 1, -1) < 0 && errno != EINTR)
            return -errno;
    return event.result;
}

static int64_t read_by_minnow(const struct depth *depth) {
    struct rig rig;
    struct scratch scratch = *depth->scratch;
    struct mnw_pool_options options = {
        .size = sizeof(options), .budget_bytes = fill_budget(scratch.size_bytes), .reads_in_flight = depth->depth};
    snprintf(scratch.uri, sizeof(scratch.uri), "file:///proc/self/fd/%d?direct=%d", scratch.fd, depth->direct);
    int error = rig_open_pool(&rig, &scratch, &options);
    if (error)
        return error;
    uint64_t begin_ns = clock_ns();
    int64_t begun = mnw_prefetch(rig.cache, 0, rig.length, 0);
    error = begun < 0 ? (int)begun : wait_for_prefetch(rig.pool);
    int64_t ns = (int64_t)(clock_ns() - begin_ns);
    rig_close(&rig);
    return error ? error : ns;
}

/* ---- arms ---- */

static double depth_turn(void *context, struct bench_turn *turn) {
    const struct depth *depth = context;
    int64_t ns = depth->direct ? 0 : scratch_forget(depth->scratch);
    if (!ns)
        ns = depth->by_minnow ? read_by_minnow(depth) : read_by_hand(depth);
    uint64_t bytes = depth->by_minnow ? depth->scratch->size_bytes : reads_of(depth) * depth->unit;
    if (ns > 0)
        return (double)bytes / (double)MIB / ((double)ns / 1e9);
    snprintf(turn->why, sizeof(turn->why), "%s", strerror((int)-ns));
    return NAN;
}

static void measure(struct bench *bench, const struct scratch *scratch, bool direct) {
    static const char *const ways[] = {"pages", "runs", "minnow"};
    struct depth contexts[ARMS];
    struct bench_arm arms[ARMS];
    char names[ARMS][32], series[WAYS][24];
    for (unsigned way = 0; way < WAYS; way++)
        snprintf(series[way], sizeof(series[way]), "%s-%s", direct ? "direct" : "cold", ways[way]);
    for (unsigned i = 0; i < ARMS; i++) {
        unsigned way = i / DEPTHS, depth = depths[i % DEPTHS];
        contexts[i] = (struct depth){scratch, depth, way ? RUN : PAGE, direct, way == 2};
        snprintf(names[i], sizeof(names[i]), "%s-%u", series[way], depth);
        arms[i] = (struct bench_arm){.name = names[i],
                                     .unit = "MiB/s",
                                     .turn = depth_turn,
                                     .context = &contexts[i],
                                     .by = "depth",
                                     .at = depth,
                                     .series = series[way],
                                     .against = {way == 2 ? names[i - DEPTHS] : NULL}};
    }
    bench_take_turns(bench, arms, ARMS);
}

void bench_depths(struct bench *bench) {
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, (bench->smoke ? 8 : 128) * MIB)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    int fd = open_again(&(struct depth){.scratch = &scratch, .direct = true});
    if (fd >= 0) {
        close(fd);
        measure(bench, &scratch, true);
    } else {
        bench_skip(bench, "direct", "the file system of %s has no direct reads", bench->directory);
    }
    measure(bench, &scratch, false);
    scratch_close(&scratch);
}
