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

#include "engine/limit.h"
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
    struct mnw_limit *limit; /* on faults a second; a reference; NULL: none */

    bool is_listed;        /* remotes.lock */
    struct mnw_view *next; /* remotes.lock */
    _Atomic bool dead;     /* the consumer's address space is gone */
    _Atomic bool sealed;   /* closed, and its consumer lives: remote_sealed.c; set under thread->lock */
    bool forked;           /* nobody but us has the userfaultfd */
    bool keeps_all;        /* counted in cache->copied */

    /* The next child of the consumer, made before it is needed; with EVENT_FORK no event is read while there is none.
     * cache->views_lock */
    struct mnw_view *spare;

    /* thread->lock */
    bool parked; /* not among those that the thread waits for, until resume_ns */
    uint64_t resume_ns;
    bool has_turn;     /* by its limit: a fault for it, once it is not parked */
    bool in_motion;    /* the events read last said that the mapping changed */
    bool refused;      /* a fault could not be ended: mnw__remote_refused() */
    unsigned vain;     /* visits without an event, in a row */
    uint64_t retry_ns; /* a kernel without poison: when failed pages may be read again */

    /* notices->lock */
    struct mnw_view *next_changed;
    struct mnw_view *parent; /* a name only */
    unsigned changes;        /* MNW_VIEW_CHANGED_*; 0: not in the list of changed views */
};

int mnw__view_attach(struct mnw_view **view, struct mnw_cache *cache, const struct mnw_attach_options *options);
int mnw__view_ranges(struct mnw_view *view, struct mnw_view_range *ranges, size_t count);
/* What mnw__view_close does for a remote view. */
void mnw__view_detach(struct mnw_view *view);

/* What attaching and forking share. */
struct mnw_view *mnw__remote_new(struct mnw_cache *cache);
void mnw__remote_free(struct mnw_view *view);
/* [start, start + length) is no longer the view's. Under thread->lock. */
void mnw__remote_drop(struct mnw_view *view, uintptr_t start, size_t length);

/* The end of a view that was not sealed, or of a sealed one whose process is gone, or whose cache closes. */
void mnw__remote_end(struct mnw_view *view);
void mnw__remote_enlist_sealed(struct mnw_view *view);
void mnw__remote_drop_unwatched(struct mnw_view *view);
/* What the mapping has grown by in place, of which no event tells, becomes the view's. -EAGAIN: ask again. */
int mnw__remote_take_growth(struct mnw_view *view);

/*
 * Each keeps a descriptor. So many in a pool, and the events of those are read no more who fork on: they wait until
 * others have ended.
 */
#define MNW__SEALED_MAX 1024
bool mnw__remote_may_fork(const struct mnw_view *view);
/* Of a child that lives: from here on the view is nobody's but its fault thread's. */
void mnw__remote_seal(struct mnw_view *view);
static inline bool mnw__remote_is_sealed(const struct mnw_view *view) {
    return view->remote && atomic_load(&view->remote->sealed);
}
/* On the reclaimer: ends sealed views whose process is gone. */
void mnw__remote_bury(struct mnw_pool *pool);
/* Of a cache from which nothing is evicted any more. */
void mnw__remote_end_sealed(struct mnw_cache *cache);

/* The rest is for the view's fault thread, under its lock, but for died(). */

/*
 * A fault could not be ended, most likely since the mapping changes, and goes round again. The kernel hands out faults
 * before the event that tells of the change, so whoever is sent round too soon is before it again: the view is read on,
 * whatever its limit, until that event was read, or nothing is left; only then do those who were refused fault again.
 */
void mnw__remote_refused(struct mnw_view *view);
static inline bool mnw__remote_is_refused(const struct mnw_view *view) {
    return view->remote && view->remote->refused && !view->remote->parked;
}
/* The next events; faults are left for the caller, all others are done with. */
int mnw__remote_read(struct mnw_view *view, struct mnw__uffd_event *events, int count);
/* The thread visited the view, and there was no event. */
void mnw__remote_in_vain(struct mnw_view *view);
/* Puts the view back among those that the thread waits for, if it is time; when to ask next. */
uint64_t mnw__remote_resume(struct mnw_view *view, uint64_t now_ns);
/* A kernel without poison: may failed pages be read again? Once a second. */
bool mnw__remote_may_retry(struct mnw_view *view, uint64_t now_ns);
/* A fault where the view has no page: its mapping has grown, or it ends in SIGBUS. True: serve it after all. */
bool mnw__remote_stray(struct mnw_view *view, uintptr_t address);
/* The kernel says that the consumer's address space is gone. Any thread. */
void mnw__remote_died(struct mnw_view *view);
/* Asks the kernel whether it is. */
void mnw__remote_watch(struct mnw_view *view);

/* On the reclaimer: makes the spare views that are wanting. */
void mnw__remote_make_spares(struct mnw_pool *pool);
/* One for a view of the cache that wants one, if any. The cache stays open meanwhile. False: no memory. */
bool mnw__remote_make_spare(struct mnw_cache *cache);

#ifdef MNW_SIMULATED
/* In the simulator all processes have the same statics: a new one begins without views. */
void mnw__remote_forget_all(void);
#endif

#endif
