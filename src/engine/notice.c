/* SPDX-License-Identifier: MIT */
#include "engine/notice.h"

#include "base/bits.h"
#include "sys/poller.h"

int mnw__notices_init(struct mnw__notices *notices) {
    int fd = mnw__eventfd_open();
    if (fd < 0)
        return fd;
    notices->event_fd = fd;
    notices->first = notices->count = notices->failures = 0;
    notices->dropped = 0;
    mnw__mutex_init(&notices->lock);
    return 0;
}

void mnw__notices_deinit(struct mnw__notices *notices) {
    mnw__mutex_destroy(&notices->lock);
    mnw__eventfd_close(notices->event_fd);
}

void mnw__notices_add(struct mnw__notices *notices, const struct mnw_event *event) {
    bool is_failure = event->kind == MNW_EVENT_PAGE_FAILED;
    mnw__mutex_lock(&notices->lock);
    if (is_failure && notices->failures == MNW__NOTICE_FAILURES) {
        notices->dropped++;
    } else {
        unsigned slot = (notices->first + notices->count) % (unsigned)mnw__array_count(notices->ring);
        notices->ring[slot] = *event;
        notices->count++;
        notices->failures += is_failure;
        if (notices->count == 1)
            mnw__eventfd_raise(notices->event_fd);
    }
    mnw__mutex_unlock(&notices->lock);
}

bool mnw__notices_take(struct mnw__notices *notices, struct mnw_event *event) {
    struct mnw_event oldest;
    mnw__mutex_lock(&notices->lock);
    bool any = notices->count > 0;
    if (any) {
        oldest = notices->ring[notices->first];
        notices->first = (notices->first + 1) % (unsigned)mnw__array_count(notices->ring);
        notices->count--;
        notices->failures -= oldest.kind == MNW_EVENT_PAGE_FAILED;
        if (!notices->count)
            mnw__eventfd_lower(notices->event_fd);
    }
    mnw__mutex_unlock(&notices->lock);
    /* Not under the lock: the caller's struct may lie in a view, and the fault thread that serves it needs us. */
    if (any)
        *event = oldest;
    return any;
}

uint64_t mnw__notices_dropped(struct mnw__notices *notices) {
    mnw__mutex_lock(&notices->lock);
    uint64_t dropped = notices->dropped;
    mnw__mutex_unlock(&notices->lock);
    return dropped;
}
