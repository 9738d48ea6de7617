/* SPDX-License-Identifier: MIT */
/*
 * Asynchronous reads of files: io_uring through liburing, or a pool of threads where that is refused.
 *
 * One struct mnw__io belongs to one fault thread: only that thread queues, submits and reaps. Answers come
 * through `done`: from reap (io_uring) or on a thread of the pool. Never allocates after open.
 */
#ifndef MNW_SYS_IO_H
#define MNW_SYS_IO_H

#include "minnow/minnow.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mnw__io;
struct mnw__backing;

/* `result`: bytes read, 0 at the end of the file, or a negative errno. */
typedef void mnw__io_done(void *context, uint64_t token, int64_t result);

/*
 * `depth` reads at most in flight. MNW_IO_AUTO falls back to threads. Our threads that read run on the node (-1:
 * anywhere), the kernel's where the submitting thread may; memory is the opening thread's affair.
 */
int mnw__io_open(struct mnw__io **io, enum mnw_io_mode mode, unsigned depth, int node, mnw__io_done *done,
                 void *context);
/* The caller has seen every read answered. */
void mnw__io_close(struct mnw__io *io);
/*
 * Queues a read; 0, or -EAGAIN when `depth` are in flight. Direct reads need whole blocks: `before` bytes ahead
 * of the range and `after` bytes behind it are read too, into the buffer's surroundings (which the caller
 * vouches for), and are not counted: an answer of n bytes from the kernel is delivered as
 * min(length, n - before), and as 0 when n is at most `before`. Errors pass as they are.
 */
int mnw__io_read(struct mnw__io *io, int fd, void *buffer, size_t length, uint64_t offset, uint64_t token,
                 size_t before, size_t after);
/* The same in the calling thread, which waits; the answer. Needs no mnw__io. Async-signal-safe. */
int64_t mnw__io_read_now(int fd, void *buffer, size_t length, uint64_t offset, size_t before, size_t after);
/*
 * From now on it sends too: has threads for it, unless its reads are done by threads anyway. 0, or a negative errno
 * with a message; as `depth`, `node`, `done` and `context` those of mnw__io_open().
 */
int mnw__io_open_senders(struct mnw__io *io, unsigned depth, int node, mnw__io_done *done, void *context);
bool mnw__io_sends(const struct mnw__io *io);
/*
 * Like a read of the file at `offset`, into the file of the backing at the same offset (mnw__backing_send()). What is
 * waited for is waited for by another thread. Short answers as of a read; after an error the whole range may have
 * memory.
 */
int mnw__io_send(struct mnw__io *io, int fd, struct mnw__backing *backing, size_t length, uint64_t offset,
                 uint64_t token);
/* Is all of the range in the kernel's page cache? False too where the kernel does not tell: before 6.5, to some users.
 */
bool mnw__io_is_cached(int fd, uint64_t offset, uint64_t length);
/* Starts what was queued. */
void mnw__io_submit(struct mnw__io *io);
/* Delivers what has ended; the number delivered. */
int mnw__io_reap(struct mnw__io *io);
/* Polls readable while there is something to reap; -1: nothing ever needs reaping. */
int mnw__io_fd(const struct mnw__io *io);
/* What it is now: MNW_IO_URING or MNW_IO_THREADS. */
enum mnw_io_mode mnw__io_mode(const struct mnw__io *io);

#endif
