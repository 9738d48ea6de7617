/* SPDX-License-Identifier: MIT */
/*
 * Lanes: threads that do for the loop what may block. The loop hands a task over, and gets it back when it is done.
 *
 * Owns: its threads, and tasks while they are in it. The loop starts and drains; tasks run one at a time for each
 * owner, so that a peer whose requests take long takes one thread of the lane and no more. A lane without threads runs
 * tasks at once.
 */
#ifndef MNW_DAEMON_LANE_H
#define MNW_DAEMON_LANE_H

#include "sys/thread.h"

#include <stdbool.h>

#define MNW__LANE_THREADS_MAX 8

struct mnw__task {
    struct mnw__task *next;
    void (*run)(struct mnw__task *task); /* on a thread of the lane */
    const void *owner;                   /* a session, an image that is saved: one at a time of each; NULL: no matter */
};

/* What lanes have done, until the loop fetches it. */
struct mnw__finished {
    struct mnw__mutex lock;
    struct mnw__task *first, **last; /* lock */
    int event_fd;                    /* readable while there is something */
};

struct mnw__lane {
    struct mnw__mutex lock;
    struct mnw__condition changed;
    struct mnw__task *waiting, **last;         /* lock */
    const void *owners[MNW__LANE_THREADS_MAX]; /* lock: whose task each thread runs */
    struct mnw__thread threads[MNW__LANE_THREADS_MAX];
    unsigned thread_count, started;
    bool stopping; /* lock */
    struct mnw__finished *finished;
};

int mnw__finished_open(struct mnw__finished *finished);
void mnw__finished_close(struct mnw__finished *finished);
/* Everything that is done, oldest first, linked by `next`; NULL. */
struct mnw__task *mnw__finished_take(struct mnw__finished *finished);

int mnw__lane_open(struct mnw__lane *lane, const char *name, unsigned threads, struct mnw__finished *finished);
/* Waits for what runs, and for what waits. */
void mnw__lane_close(struct mnw__lane *lane);
void mnw__lane_add(struct mnw__lane *lane, struct mnw__task *task);

#endif
