/* SPDX-License-Identifier: MIT */
/*
 * The bare mechanisms that minnow is compared with, written as one would write them in an afternoon.
 * Owns what its structs hold. One thread enters; none of it calls minnow.
 */
#ifndef MNW_BENCH_BARE_H
#define MNW_BENCH_BARE_H

#include <minnow/minnow.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * A resident memfd of 4 KiB pages, a private view of a read-only descriptor of it, and a thread that blocks in
 * read() on the view's userfaultfd and continues one page at a time.
 */
struct bare_loop {
    int fd, readonly_fd, uffd;
    unsigned char *alias;
    volatile const unsigned char *data;
    size_t length;
    pthread_t thread;
    _Atomic(pid_t) thread_id;
    uint64_t faults;
};
/* 0, or a negative errno. */
int bare_loop_open(struct bare_loop *loop, size_t length);
void bare_loop_close(struct bare_loop *loop);

/*
 * Reads the file in pieces of 2 MiB into fresh memory of that kind, and touches a byte per page. Returns the
 * nanoseconds it took, or a negative errno; the bytes touched are added up in `*sum`.
 */
int64_t bare_fill(int fd, uint64_t size_bytes, enum mnw_backing backing, uint64_t *sum);

#endif
