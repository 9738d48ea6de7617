/* SPDX-License-Identifier: MIT */
/*
 * Fault threads: read events, decide from the page word alone, resolve.
 *
 * Owns: the views attached to a thread, its fill slots, its jobs' progress. Everything but the answers of reads, and
 * what threads do whose faults are resolved inline (inline.h), happens on the thread itself, under its lock, which
 * others take only to attach or detach a view.
 * Never allocates once started, never touches a view, never waits for anything but its poller and leaf locks.
 */
#ifndef MNW_ENGINE_FAULT_H
#define MNW_ENGINE_FAULT_H

#include "base/histogram.h"
#include "engine/fill.h"
#include "engine/follow.h"
#include "engine/place.h"
#include "engine/view.h"
#include "sys/thread.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mnw_pool;
struct mnw__io;
struct mnw__poller;

/* Starved faults and stalled jobs look again at least this often. */
#define MNW__SCARCE_TICK_NS 50000000ull
/* So many read deadlines without memory or a read slot, and a fault or a job is refused: every fault ends. */
#define MNW__STARVED_DEADLINES 4

/* A member for each kind of writer: what the fault thread alone writes costs it no locked instruction. */
struct mnw__latency {
    /* Of faults that it resolved. Those first in their batch queued for nothing, and mapping was all: one for three. */
    struct mnw__histogram first, queue, map, total;
    struct mnw__histogram fill, filled_map, filled_total; /* of fills: any thread */
};

struct mnw__fault_thread {
    struct mnw_pool *pool;
    int node;
    bool started;
    struct mnw__thread thread;
    struct mnw__poller *poller;
    struct mnw__io *io;
    struct mnw__mutex lock;
    struct mnw_view *views;        /* lock */
    _Atomic uint64_t detached;     /* views detached so far */
    _Atomic uint32_t jobs_waiting; /* jobs given to this thread */
    bool starving;                 /* lock */
    uint64_t starved_progress;     /* lock: pool->progress before the batch whose fault starved */
    uint64_t starved_ns;           /* lock: when starved faults look again, whatever was given back */
    bool soon;                     /* lock: there is more to do at once */
    uint64_t batch_progress;       /* lock: pool->progress when the batch under way was read */
    uint64_t batch_ns;             /* lock: when the batch under way was read */
    _Atomic uint64_t timer_ns;     /* when timers are due next: mnw__fault_due() */
    uint64_t watch_ns;             /* lock: when the watchdog is due next */
    _Atomic bool asked;            /* inline.h: a view of this thread has something to ask */
    struct mnw__fill *fills;       /* fill.h */
    unsigned fill_count;
    char *pages; /* one for each fill, where it comes whole */
    _Atomic uint64_t free_fills[MNW__FILL_SLOTS_MAX / 64];
    _Atomic uint64_t attention[MNW__FILL_SLOTS_MAX / 64];
    struct mnw__follow follow;    /* lock */
    struct mnw__place place;      /* lock */
    struct mnw__latency *latency; /* of this thread's node */
};

int mnw__fault_thread_start(struct mnw__fault_thread *thread, struct mnw_pool *pool, unsigned index, int node,
                            const struct mnw_pool_options *options);
/* It runs no more, but may still be kicked, until it is ended: by the others, and by the reclaimer. */
void mnw__fault_thread_stop(struct mnw__fault_thread *thread);
void mnw__fault_thread_end(struct mnw__fault_thread *thread);
void mnw__fault_thread_kick(struct mnw__fault_thread *thread);
/*
 * Its timers are looked at by then, once it is awake: it sleeps no longer from its next wait on. Any thread. True: it
 * was to sleep longer, and who is another thread has to kick it.
 */
static inline bool mnw__fault_due(struct mnw__fault_thread *thread, uint64_t ns) {
    uint64_t due_ns = atomic_load(&thread->timer_ns);
    while (ns < due_ns)
        if (atomic_compare_exchange_weak(&thread->timer_ns, &due_ns, ns))
            return true;
    return false;
}

int mnw__fault_attach(struct mnw__fault_thread *thread, struct mnw_view *view);
/* On the thread, under its lock: the view is one of its own from now on; the caller has it polled. */
void mnw__fault_adopt(struct mnw__fault_thread *thread, struct mnw_view *view);
/* On return, no event of the view is or will be handled. */
void mnw__fault_detach(struct mnw_view *view);

enum mnw__outcome {
    MNW__OUTCOME_MAPPED,  /* mapped without waking: the caller wakes */
    MNW__OUTCOME_ENDED,   /* its waiters were woken, with the page, SIGBUS, or to fault again */
    MNW__OUTCOME_PENDING, /* somebody else will end it */
};
/*
 * The decision: one fault of `view` on `page`, from the words alone. On the fault thread, under its lock.
 * What is left of `*plan` is for mnw__fault_read_ahead() and mnw__fault_map_lead(), when the faulter has what it waits
 * for.
 */
enum mnw__outcome mnw__fault_serve(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t page, bool wake,
                                   struct mnw__readahead_plan *plan);
/* Begins to read what the view will want next; gives up at the first sign of scarcity. True: some of it was absent. */
bool mnw__fault_read_ahead(struct mnw__fault_thread *thread, struct mnw_view *view,
                           const struct mnw__readahead_plan *plan);

/* ---- what inline faults do as well; any thread that knows the view to be open ---- */

/* Maps the page, which is PRESENT, and those of its resident neighbours that are worth it. */
enum mnw__map mnw__fault_map_around(struct mnw_view *view, uint64_t page, uint64_t around, bool wake);
/* Maps what is resident of the pages from `page` on, up to the first that is not: nobody is known to wait for them. */
void mnw__fault_map_lead(struct mnw_view *view, uint64_t page, uint64_t count);
/* Maps what is resident of [first, end) on both sides of the page, in its extent. */
void mnw__fault_map_block(struct mnw_view *view, uint64_t page, uint64_t first, uint64_t end);
/* A fault found its page resident, and it is mapped. `place` NULL: in the calling thread. In the page's extent. */
void mnw__fault_note_resolved(const struct mnw__place *place, struct mnw_cache *cache, uint64_t page);
/*
 * What the word of a PRESENT page says is no longer true. LOST: the backing has no such page, and it is ABSENT again.
 * BROKEN: its memory has failed; it is given back, and the page is FAILED until it is invalidated. In its entered
 * extent; then look again. False: another visitor is there, who may be about to map what it saw, or the memory could
 * not be given back just now.
 */
bool mnw__fault_lose_page(struct mnw_view *view, uint64_t page, enum mnw__map how);
/*
 * The same where many come at once, and none would be alone: lets nobody in, and waits until only the caller's `visits`
 * are left. Not on a fault thread. False: being evicted, or as above.
 */
bool mnw__fault_lose_page_waiting(struct mnw_view *view, uint64_t page, unsigned visits, enum mnw__map how);
/* mnw__readahead_fault() and _missed() of the view. */
void mnw__fault_plan(struct mnw_view *view, uint64_t page, struct mnw__readahead_plan *plan);
void mnw__fault_plan_missed(struct mnw_view *view, uint64_t page, struct mnw__readahead_plan *plan);

/* The watchdog: whoever waits is woken to fault again, in case an event was read and lost. */
void mnw__fault_watch(struct mnw__fault_thread *thread);
/* On the view's thread: who waits in it is woken to fault again in 2 ms: another process has changed its mapping by
 * then. */
void mnw__fault_send_round(struct mnw_view *view);
/* The same, for want of memory for the consumer's page tables: later, and it counts for his limit. */
enum mnw__outcome mnw__fault_back_off(struct mnw_view *view);
/* Faults that starved look again, if anything was given back since. */
void mnw__fault_retry_starved(struct mnw__fault_thread *thread, bool always);

#endif
