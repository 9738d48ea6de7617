/* SPDX-License-Identifier: MIT */
/*
 * Notices: what the embedder is told (prefetch ended, page failed).
 *
 * Owns: a ring of events and the eventfd that shows it is not empty. Any thread may enter; a leaf lock
 * inside. Never allocates after init. Prefetch notices always find room (their number is bounded by the job
 * table); page failures beyond their share are counted and dropped.
 */
#ifndef MNW_ENGINE_NOTICE_H
#define MNW_ENGINE_NOTICE_H

#include "minnow/minnow.h"
#include "sys/thread.h"

#include <stdbool.h>

enum { MNW__NOTICE_FAILURES = 256, MNW__NOTICE_PREFETCHES = 64 };

struct mnw__notices {
    struct mnw__mutex lock;
    int event_fd;
    struct mnw_event ring[MNW__NOTICE_FAILURES + MNW__NOTICE_PREFETCHES]; /* lock */
    unsigned first, count, failures;                                      /* lock */
    uint64_t dropped;                                                     /* lock */
};

int mnw__notices_init(struct mnw__notices *notices);
void mnw__notices_deinit(struct mnw__notices *notices);
void mnw__notices_add(struct mnw__notices *notices, const struct mnw_event *event);
/* Takes the oldest; false when there is none. */
bool mnw__notices_take(struct mnw__notices *notices, struct mnw_event *event);
uint64_t mnw__notices_dropped(struct mnw__notices *notices);

#endif
