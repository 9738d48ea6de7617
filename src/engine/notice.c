/* SPDX-License-Identifier: MIT */
#include "engine/notice.h"

#include "base/bits.h"
#include "engine/remote.h"
#include "sys/poller.h"

int mnw__notices_init(struct mnw__notices *notices) {
    int fd = mnw__eventfd_open();
    if (fd < 0)
        return fd;
    notices->event_fd = fd;
    notices->first = notices->count = notices->failures = 0;
    notices->dropped = 0;
    notices->changed = NULL;
    notices->changed_end = &notices->changed;
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
        if (notices->count == 1 && !notices->changed)
            mnw__eventfd_raise(notices->event_fd);
    }
    mnw__mutex_unlock(&notices->lock);
}

void mnw__notices_add_view(struct mnw__notices *notices, struct mnw_view *view, unsigned changes) {
    struct mnw__remote *remote = view->remote;
    mnw__mutex_lock(&notices->lock);
    if (mnw__remote_is_sealed(view)) { /* it is closed */
        mnw__mutex_unlock(&notices->lock);
        return;
    }
    if (!remote->changes) {
        if (!notices->count && !notices->changed)
            mnw__eventfd_raise(notices->event_fd);
        remote->next_changed = NULL;
        *notices->changed_end = view;
        notices->changed_end = &remote->next_changed;
    }
    remote->changes |= changes;
    mnw__mutex_unlock(&notices->lock);
}

static void lower_if_empty(struct mnw__notices *notices) {
    if (!notices->count && !notices->changed)
        mnw__eventfd_lower(notices->event_fd);
}

/* Takes one view out of the list. */
static void unlink_changed(struct mnw__notices *notices, struct mnw_view **link) {
    struct mnw__remote *remote = (*link)->remote;
    if (notices->changed_end == &remote->next_changed)
        notices->changed_end = link;
    *link = remote->next_changed;
    remote->changes = 0;
}

void mnw__notices_forget(struct mnw__notices *notices, struct mnw_view *view) {
    mnw__mutex_lock(&notices->lock);
    if (view->remote->changes) {
        struct mnw_view **link = &notices->changed;
        while (*link != view)
            link = &(*link)->remote->next_changed;
        unlink_changed(notices, link);
        lower_if_empty(notices);
    }
    mnw__mutex_unlock(&notices->lock);
}

static void take_view(struct mnw__notices *notices, struct mnw_event *event) {
    struct mnw_view *view = notices->changed;
    *event = (struct mnw_event){
        .kind = MNW_EVENT_VIEW_CHANGED,
        .cache = view->cache,
        .cookie = view->remote->cookie,
        .view = view,
        .parent = view->remote->parent,
        .changes = view->remote->changes,
    };
    unlink_changed(notices, &notices->changed);
}

bool mnw__notices_take(struct mnw__notices *notices, struct mnw_event *event) {
    struct mnw_event oldest;
    mnw__mutex_lock(&notices->lock);
    bool any = notices->count || notices->changed;
    if (notices->count) {
        oldest = notices->ring[notices->first];
        notices->first = (notices->first + 1) % (unsigned)mnw__array_count(notices->ring);
        notices->count--;
        notices->failures -= oldest.kind == MNW_EVENT_PAGE_FAILED;
    } else if (any) {
        take_view(notices, &oldest);
    }
    if (any)
        lower_if_empty(notices);
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
