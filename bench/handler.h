/* SPDX-License-Identifier: MIT */
/*
 * Fault handlers as textbooks have them: what minnow is compared with. One userfaultfd, one page at a time.
 *
 * Owns its userfaultfd and thread. One thread opens, rests, wakes and closes; any may fault. None of it calls minnow.
 */
#ifndef MNW_BENCH_HANDLER_H
#define MNW_BENCH_HANDLER_H

#include "area.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/types.h>

enum handler_kind {
    HANDLER_BLOCKING, /* a thread that sleeps in read() */
    HANDLER_SPINNING, /* a thread that asks for events without sleeping */
    HANDLER_SIGBUS,   /* the faulting thread itself, in its SIGBUS handler */
};

enum handler_answer {
    ANSWER_CONTINUE, /* the page is in the file: maps it */
    ANSWER_FILL,     /* it is not: copies it there through the alias, maps it */
    ANSWER_COPY,     /* anonymous memory: UFFDIO_COPY */
};

struct handler {
    enum handler_kind kind;
    enum handler_answer answer;
    struct area *area;
    volatile const unsigned char *data; /* where the faults are */
    size_t length, page_bytes;
    int uffd;
    unsigned char *source; /* of the bytes, for ANSWER_FILL and ANSWER_COPY */
    size_t source_length;
    pthread_t thread;
    _Atomic(pid_t) thread_id; /* 0: there is none */
    unsigned around; /* ANSWER_CONTINUE: so many pages from the fault on in one call; 0: one. Set before any faults */
    sem_t go;
    atomic_bool resting, stop;
    _Atomic uint64_t faults;
};

/*
 * Over the area's view, or for ANSWER_COPY over anonymous memory of the same kind of pages. A spinning handler begins
 * at rest. 0, or a negative errno.
 */
int handler_open(struct handler *handler, struct area *area, enum handler_kind kind, enum handler_answer answer,
                 const struct scratch *contents);
void handler_close(struct handler *handler);

/* Spinning burns a CPU: only while it is wanted. Nothing faults while it rests. */
void handler_wake(struct handler *handler);
void handler_rest(struct handler *handler);

/* Makes every page fault again: unmaps, and for ANSWER_FILL and ANSWER_COPY gives the pages up. */
void handler_reset(const struct handler *handler);

#endif
