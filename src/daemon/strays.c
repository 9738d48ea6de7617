/* SPDX-License-Identifier: MIT */
/*
 * Strays: children of consumers of which there is no record, or no image, any more.
 *
 * The loop's. A stray's userfaultfd is the last one: closed, the child would read zeros. So it stays with the holder,
 * under a name that no record will ever have, for as long as the process lives, and here: who touches what was not
 * mapped gets SIGBUS. Its own children become strays, too: STRAYS_MAX of them, then who forks waits, with those it has
 * forked, and nobody else. Those that were left to us do not count, as the holder has them anyway. Whoever does not
 * wait yet may fork once more, so that there are at most twice as many as when it became full.
 */
#include "daemon/daemon.h"

#include "sys/thread.h"
#include "sys/uffd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* One stray's events at a time; how often it is asked whether its process is gone; so many are forked here. */
enum { BATCHES = 8, WATCH_MS = 1000, STRAYS_MAX = 1024 };
/* Below every mapping; the kernel wants no lower one. Whole pages, whatever the kernel's are. */
#define LOW_ADDRESS 0x10000
#define LOW_BYTES   0x10000

struct mnw__stray {
    struct mnw__source source;
    struct mnw__stray *next;
    int fd;
    bool is_born; /* forked by a stray; it was not left to us */
    bool waits;   /* there were too many when it forked, or was forked: its events are not read */
    char name[MNW__STATE_FDNAME_BYTES];
};

static bool is_full(const struct mnw__daemon *daemon) {
    return daemon->strays_born >= STRAYS_MAX;
}

static void end(struct mnw__daemon *daemon, struct mnw__stray *stray) {
    for (struct mnw__stray **link = &daemon->strays; *link; link = &(*link)->next)
        if (*link == stray) {
            *link = stray->next;
            break;
        }
    daemon->strays_born -= stray->is_born;
    mnw__daemon_unwatch(daemon, stray->fd);
    mnw__holding_remove(&daemon->holding, stray->name);
    mnw__uffd_close(stray->fd);
    free(stray);
}

static void take_event(struct mnw__daemon *daemon, struct mnw__stray *stray, const struct mnw__uffd_event *event) {
    switch (event->kind) {
    case MNW__UFFD_EV_FAULT:
        mnw__uffd_bar_fault(stray->fd, event->address);
        break;
    case MNW__UFFD_EV_FORK:
        stray->waits |= is_full(daemon);
        if (!mnw__strays_add(daemon, event->fd, NULL))
            mnw__uffd_close(event->fd);
        break;
    case MNW__UFFD_EV_UNMAP:
    case MNW__UFFD_EV_REMAP:
        mnw__uffd_wake(stray->fd, event->address, event->length);
        break;
    case MNW__UFFD_EV_REMOVE:
        break;
    }
}

/* What comes while it is read raises no edge: then it is armed again. */
static void stray_ready(struct mnw__daemon *daemon, struct mnw__source *source, uint32_t unused) {
    struct mnw__stray *stray = (struct mnw__stray *)source;
    struct mnw__uffd_event events[MNW__UFFD_BATCH];
    int count = 1;
    (void)unused;
    for (unsigned i = 0; i < BATCHES && count > 0 && !stray->waits; i++) {
        /* Its threads may fork at once: one more is let in, not one of each. */
        count = mnw__uffd_read_nowait(stray->fd, events, is_full(daemon) ? 1 : MNW__UFFD_BATCH);
        for (int at = 0; at < count; at++)
            take_event(daemon, stray, &events[at]);
    }
    if (count > 0 && !stray->waits)
        mnw__daemon_rewatch(daemon, stray->fd, EPOLLIN | EPOLLET, &stray->source);
}

_Static_assert(offsetof(struct mnw__stray, source) == 0, "stray_ready counts on it");

static bool is_gone(int fd) {
    return mnw__uffd_is_one_mapping(fd, LOW_ADDRESS, LOW_BYTES) == -ESRCH;
}

/*
 * The new name comes before the old one goes, and must be certain then; there is no hurry at a start. A fork is not
 * kept waiting for an answer. Whoever has an old name and gets no new one keeps it, so that it can be removed in the
 * end.
 */
static int keep(struct mnw__daemon *daemon, struct mnw__stray *stray, const char *name) {
    if (name && !strcmp(name, stray->name))
        return 0;
    bool certain = name != NULL;
    int error = mnw__holding_store(&daemon->holding, stray->name, stray->fd, certain);
    if (!name)
        return error;
    mnw__holding_remove(&daemon->holding, error ? stray->name : name); /* of an error it may have heard late */
    if (error)
        snprintf(stray->name, sizeof(stray->name), "%s", name);
    return error;
}

bool mnw__strays_add(struct mnw__daemon *daemon, int fd, const char *name) {
    struct mnw__uffd_description description;
    struct mnw__stray *stray = NULL;
    bool is_stray = !mnw__uffd_describe(fd, &description) && !is_gone(fd);
    if (is_stray)
        stray = calloc(1, sizeof(*stray));
    if (!stray) {
        if (is_stray) /* left open, so that it reads no zeros */
            mnw__daemon_log("out of memory: a child of a consumer waits where it touches what it has not touched");
        return is_stray;
    }
    bool is_born = !name;
    *stray = (struct mnw__stray){.source.ready = stray_ready,
                                 .next = daemon->strays,
                                 .fd = fd,
                                 .is_born = is_born,
                                 .waits = is_born && is_full(daemon)};
    snprintf(stray->name, sizeof(stray->name), MNW__STRAY "%llx", (unsigned long long)description.identity);
    daemon->strays = stray;
    daemon->strays_born += is_born;
    mnw__uffd_tame(fd);
    int kept = keep(daemon, stray, name), watched = mnw__daemon_watch(daemon, fd, EPOLLIN | EPOLLET, &stray->source);
    if (kept || watched)
        mnw__daemon_log("a child of a consumer is not %s: %s", watched ? "watched" : "kept",
                        strerror(watched ? -watched : -kept));
    /* Who waits already has faulted for an owner that is gone, which may have read of it. */
    mnw__uffd_wake_all(fd);
    return true;
}

static void let_go_on(struct mnw__daemon *daemon) {
    for (struct mnw__stray *stray = daemon->strays; stray; stray = stray->next)
        if (stray->waits) {
            stray->waits = false;
            mnw__daemon_rewatch(daemon, stray->fd, EPOLLIN | EPOLLET, &stray->source);
        }
}

int mnw__strays_tick(struct mnw__daemon *daemon) {
    uint64_t now_ns = mnw__clock_ns();
    if (!daemon->strays)
        return -1;
    if (now_ns - daemon->strays_ns < WATCH_MS * UINT64_C(1000000))
        return WATCH_MS;
    daemon->strays_ns = now_ns;
    bool was_full = is_full(daemon);
    for (struct mnw__stray *next, *stray = daemon->strays; stray; stray = next) {
        next = stray->next;
        if (is_gone(stray->fd))
            end(daemon, stray);
    }
    if (was_full && !is_full(daemon))
        let_go_on(daemon);
    return WATCH_MS;
}
