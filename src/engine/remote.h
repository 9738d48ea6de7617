/* SPDX-License-Identifier: MIT */
/*
 * Remote views: mappings and userfaultfds that other processes made.
 *
 * Owns: a duplicate of the descriptor, and what is known of where the pages lie in the consumer's address space. The
 * consumer may change that at any time (munmap, mremap, fork); the kernel then queues an event and refuses CONTINUE
 * until the event was read. So: the event is read, and the pieces are changed, while the view is held; whoever
 * else maps into the view holds it too. No page is ever mapped by an idea of the address space that is out of date.
 *
 * Everything a consumer says or does may be a lie. A lie may cost its own process wrong bytes, SIGBUS or time,
 * and nobody else anything.
 */
#ifndef MNW_ENGINE_REMOTE_H
#define MNW_ENGINE_REMOTE_H

#include "engine/view.h"
#include "minnow/minnow.h"
#include "sys/thread.h"
#include "sys/uffd.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A mapping torn into more pieces than this loses the last: touching those is SIGBUS. */
#define MNW__PIECES_MAX 256

struct mnw__remote {
    struct mnw__mutex hold; /* a leaf */
    /* Changed under thread->lock and hold together, so that either is enough to look. */
    struct mnw__piece pieces[MNW__PIECES_MAX];
    unsigned piece_count;

    /* fixed at attach */
    uint64_t features; /* of the userfaultfd */
    uint64_t identity; /* of the userfaultfd: no other has this number */
    pid_t pid;         /* 0: unknown */
    uint64_t cookie;
    uint32_t faults_per_second; /* 0: no limit */

    struct mnw_view *next; /* all remote views of this process; remotes.lock */
    _Atomic bool dead;     /* the consumer's address space is gone */

    /* notices->lock */
    struct mnw_view *next_changed;
    struct mnw_view *parent; /* a name only */
    unsigned changes;        /* MNW_VIEW_CHANGED_*; 0: not in the list of changed views */
};

int mnw__view_attach(struct mnw_view **view, struct mnw_cache *cache, const struct mnw_attach_options *options);
int mnw__view_ranges(struct mnw_view *view, struct mnw_view_range *ranges, size_t count);
/* What mnw__view_close does for a remote view. */
void mnw__view_detach(struct mnw_view *view);

/* The next events; faults are left for the caller, all others are done with. On the view's fault thread, under its
 * lock. */
int mnw__remote_read(struct mnw_view *view, struct mnw__uffd_event *events, int count);
/* A fault where the view has no page. On the view's fault thread, under its lock. */
void mnw__remote_stray(struct mnw_view *view, uintptr_t address);
/* The kernel says that the consumer's address space is gone. Any thread. */
void mnw__remote_died(struct mnw_view *view);

#ifdef MNW_SIMULATED
/* In the simulator all processes have the same statics: a new one begins without views. */
void mnw__remote_forget_all(void);
#endif

#endif
