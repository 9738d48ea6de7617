/* SPDX-License-Identifier: MIT */
/*
 * Notices: what the embedder is told (prefetch ended, page failed, view changed).
 *
 * Owns: a ring of events, a list of changed views, and the eventfd that shows they are not empty. Any thread may
 * enter; a leaf lock inside. Never allocates after init. Prefetch notices always find room (their number is bounded by
 * the job table); page failures beyond their share are counted and dropped; what changes of a view before it is told is
 * told at once.
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
    struct mnw_view *changed, **changed_end;                              /* lock: by remote->next_changed */
};

int mnw__notices_init(struct mnw__notices *notices);
void mnw__notices_deinit(struct mnw__notices *notices);
void mnw__notices_add(struct mnw__notices *notices, const struct mnw_event *event);
/* A remote view is not what it was: MNW_VIEW_CHANGED_*. */
void mnw__notices_add_view(struct mnw__notices *notices, struct mnw_view *view, unsigned changes);
/* The view is closed: no event of it from now on. */
void mnw__notices_forget(struct mnw__notices *notices, struct mnw_view *view);
/* Takes the oldest; false when there is none. */
bool mnw__notices_take(struct mnw__notices *notices, struct mnw_event *event);
uint64_t mnw__notices_dropped(struct mnw__notices *notices);

#endif
