/* SPDX-License-Identifier: MIT */
/* The two ways to read: each opens, queues and closes by itself; io.c chooses. Entered by the owner's thread. */
#ifndef MNW_SYS_IO_INTERNAL_H
#define MNW_SYS_IO_INTERNAL_H

#include "sys/io.h"

#include <sys/types.h>

/* One read, margins included. Both ways keep `depth` of these, allocated at open. */
struct mnw__io_request {
    struct mnw__io_request *next; /* in the free list, or among the queued */
    void *buffer;
    size_t length;
    uint64_t offset;
    uint64_t token;
    size_t before; /* of the bytes read, those ahead of what was asked for */
    size_t wanted; /* of those behind that, how many were asked for */
    int fd;
    struct mnw__backing *backing; /* sent there; NULL: read into the buffer */
};

/* Linux moves at most this much in one call, in whole blocks; a shorter answer is within the contract. */
#define MNW__IO_BYTES_MAX ((size_t)0x7fff0000)

/* pread(2), past EINTR: bytes, margins included, or a negative errno. */
int64_t mnw__io_pread(const struct mnw__io_request *request);
#define MNW__IO_READERS 8
/* Writers of one file take turns: while one writes, the other maps what it has written. */
#define MNW__IO_SENDERS 2

/* What `done` is told when the kernel's answer is `result`. */
int64_t mnw__io_answer(const struct mnw__io_request *request, int64_t result);

struct mnw__io_ring;
int mnw__io_ring_open(struct mnw__io_ring **ring, unsigned depth, mnw__io_done *done, void *context);
void mnw__io_ring_close(struct mnw__io_ring *ring);
int mnw__io_ring_read(struct mnw__io_ring *ring, const struct mnw__io_request *wanted);
void mnw__io_ring_submit(struct mnw__io_ring *ring);
int mnw__io_ring_reap(struct mnw__io_ring *ring);
int mnw__io_ring_fd(const struct mnw__io_ring *ring);

struct mnw__io_pool;
/* Of `threads` threads, or as many as `depth`. */
int mnw__io_pool_open(struct mnw__io_pool **pool, unsigned threads, unsigned depth, int node, mnw__io_done *done,
                      void *context);
void mnw__io_pool_close(struct mnw__io_pool *pool);
int mnw__io_pool_read(struct mnw__io_pool *pool, const struct mnw__io_request *wanted);
void mnw__io_pool_submit(struct mnw__io_pool *pool);

#endif
