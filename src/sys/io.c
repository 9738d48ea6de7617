/* SPDX-License-Identifier: MIT */
/* Chooses how reads are done, once, at open. Owns the choice; the owner's thread enters. */
#include "sys/io.h"

#include "base/bits.h"
#include "base/error.h"
#include "sys/backing.h"
#include "sys/io_internal.h"
#include "sys/memory.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* the same everywhere */
#endif

struct mnw__io {
    enum mnw_io_mode mode;
    struct mnw__io_ring *ring;
    struct mnw__io_pool *pool;
    struct mnw__io_pool *senders; /* beside a ring */
};

/* What a kernel, a sysctl, a seccomp filter or a memory limit answers when it will not have io_uring. */
static bool is_refusal(int error) {
    return error == -ENOSYS || error == -EPERM || error == -EACCES || error == -ENOMEM;
}

static int open_way(struct mnw__io *io, enum mnw_io_mode mode, unsigned depth, int node, mnw__io_done *done,
                    void *context) {
    if (mode != MNW_IO_THREADS) {
        int result = mnw__io_ring_open(&io->ring, depth, done, context);
        if (!result) {
            io->mode = MNW_IO_URING;
            return 0;
        }
        if (mode == MNW_IO_URING || !is_refusal(result)) {
            return mnw__fail(result,
                             "io_uring with %u entries: %s; check kernel.io_uring_disabled, the seccomp filter and the "
                             "limits on open files and locked memory (ulimit -n, -l), or use the thread pool",
                             depth, strerror(-result));
        }
    }
    io->mode = MNW_IO_THREADS;
    return mnw__io_pool_open(&io->pool, MNW__IO_READERS, depth, node, done, context);
}

int mnw__io_open(struct mnw__io **result, enum mnw_io_mode mode, unsigned depth, int node, mnw__io_done *done,
                 void *context) {
    struct mnw__io *io = calloc(1, sizeof(*io));
    if (!io) {
        return mnw__fail(-ENOMEM, "no memory for file reads");
    }
    int error = open_way(io, mode, depth, node, done, context);
    if (error) {
        free(io);
        return error;
    }
    *result = io;
    return 0;
}

int mnw__io_open_senders(struct mnw__io *io, unsigned depth, int node, mnw__io_done *done, void *context) {
    return io->pool ? 0 : mnw__io_pool_open(&io->senders, MNW__IO_SENDERS, depth, node, done, context);
}

void mnw__io_close(struct mnw__io *io) {
    if (!io) {
        return;
    }
    if (io->senders) {
        mnw__io_pool_close(io->senders);
    }
    if (io->ring) {
        mnw__io_ring_close(io->ring);
    }
    if (io->pool) {
        mnw__io_pool_close(io->pool);
    }
    free(io);
}

static struct mnw__io_request request_of(int fd, void *buffer, size_t length, uint64_t offset, size_t before,
                                         size_t after) {
    return (struct mnw__io_request){.buffer = (char *)buffer - before,
                                    .length = mnw__min(before + length + after, MNW__IO_BYTES_MAX),
                                    .offset = offset - before,
                                    .before = before,
                                    .wanted = length,
                                    .fd = fd};
}

int64_t mnw__io_read_now(int fd, void *buffer, size_t length, uint64_t offset, size_t before, size_t after) {
    struct mnw__io_request wanted = request_of(fd, buffer, length, offset, before, after);
    return mnw__io_answer(&wanted, mnw__io_pread(&wanted));
}

int mnw__io_read(struct mnw__io *io, int fd, void *buffer, size_t length, uint64_t offset, uint64_t token,
                 size_t before, size_t after) {
    struct mnw__io_request wanted = request_of(fd, buffer, length, offset, before, after);
    wanted.token = token;
    return io->ring ? mnw__io_ring_read(io->ring, &wanted) : mnw__io_pool_read(io->pool, &wanted);
}

bool mnw__io_sends(const struct mnw__io *io) {
    return io->pool || io->senders;
}

int mnw__io_send(struct mnw__io *io, int fd, struct mnw__backing *backing, size_t length, uint64_t offset,
                 uint64_t token) {
    struct mnw__io_request wanted = request_of(fd, NULL, length, offset, 0, 0);
    wanted.token = token;
    wanted.backing = backing;
    struct mnw__io_pool *pool = io->senders ? io->senders : io->pool;
    int error = mnw__io_pool_read(pool, &wanted);
    if (!error && io->senders) { /* what is submitted later is the ring's */
        mnw__io_pool_submit(pool);
    }
    return error;
}

bool mnw__io_is_cached(int fd, uint64_t offset, uint64_t length) {
    struct {
        uint64_t offset, length;
    } range = {offset, length};
    struct {
        uint64_t pages, dirty, writeback, evicted, recently_evicted;
    } found = {0};
    uint64_t page_bytes = mnw__memory_page_bytes();
    return !syscall(SYS_cachestat, fd, &range, &found, 0) &&
           found.pages * page_bytes >= mnw__align_up(offset + length, page_bytes) - mnw__align_down(offset, page_bytes);
}

void mnw__io_submit(struct mnw__io *io) {
    if (io->ring) {
        mnw__io_ring_submit(io->ring);
    } else {
        mnw__io_pool_submit(io->pool);
    }
}

int mnw__io_reap(struct mnw__io *io) {
    return io->ring ? mnw__io_ring_reap(io->ring) : 0;
}

int mnw__io_fd(const struct mnw__io *io) {
    return io->ring ? mnw__io_ring_fd(io->ring) : -1;
}

enum mnw_io_mode mnw__io_mode(const struct mnw__io *io) {
    return io->mode;
}

int64_t mnw__io_pread(const struct mnw__io_request *request) {
    ssize_t bytes;
    do {
        bytes = pread(request->fd, request->buffer, request->length, (off_t)request->offset);
    } while (bytes < 0 && errno == EINTR);
    return bytes < 0 ? -errno : bytes;
}

int64_t mnw__io_answer(const struct mnw__io_request *request, int64_t result) {
    if (result < 0) {
        return result;
    }
    uint64_t bytes = (uint64_t)result;
    return bytes > request->before ? (int64_t)mnw__min(request->wanted, bytes - request->before) : 0;
}
