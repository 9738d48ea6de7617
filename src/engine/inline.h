/* SPDX-License-Identifier: MIT */
/*
 * Inline views: faults are resolved in the thread that faulted, inside its handler of SIGBUS.
 *
 * Owns: the table of this process's inline views, by address, and the places where threads wait for pages. What the
 * handler does it does with signals blocked, so it may take the engine's locks: no thread can be interrupted while
 * it holds one (sys/thread.h). It never allocates, never keeps a view or a lock while it reads the store or waits.
 * What it cannot do itself (a store that answers by callback, no memory, no read slot, errors) it asks of the view's
 * fault thread, and waits. It waits on words that are never freed, so whatever it waits for may go meanwhile.
 */
#ifndef MNW_ENGINE_INLINE_H
#define MNW_ENGINE_INLINE_H

#include "policy/readahead.h"
#include "sys/sigbus.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mnw_view;
struct mnw_cache;
struct mnw_pool;
struct mnw__fault_thread;

enum { MNW__ASKS = 16 };

/* What an inline view wants of its fault thread, and what its faulters share. Part of the view. */
struct mnw__asks {
    unsigned slot;                     /* in the table */
    _Atomic uint64_t pages[MNW__ASKS]; /* a page to be brought, plus one; 0: free */
    _Atomic bool planning;             /* somebody has the view's readahead, or `ahead`: nobody waits for it */
    bool has_ahead;                    /* planning */
    struct mnw__readahead_plan ahead;  /* planning: the last one, not yet begun */
};

/* One fault of this process, in the thread that faulted: what the handler of SIGBUS asks. */
enum mnw__sigbus mnw__inline_serve(uintptr_t address);

/* From here on the view's faults are resolved. 0, or a negative errno with a message. */
int mnw__inline_start(struct mnw_view *view);
/* On return nobody looks at the view, nor will; its threads go round until it is unmapped. */
void mnw__inline_stop(struct mnw_view *view);
/* It is unmapped: whoever waits in it goes on, into SIGSEGV. */
void mnw__inline_end(struct mnw_view *view);

/*
 * SIGBUS is taken over when a view starts, and given back when its pool closes: a signal that is under way
 * when a view is closed still finds us.
 */
void mnw__inline_pool_closed(struct mnw_pool *pool);

/* Threads that wait for these pages of the cache, in any inline view of it, look again. The words have changed. */
void mnw__inline_wake(const struct mnw_cache *cache, uint64_t page, uint64_t count);

/* On the fault thread, under its lock: does what its inline views have asked. */
void mnw__inline_attend(struct mnw__fault_thread *thread);

/*
 * Brings pages of an inline view and maps them, in the calling thread. 0, or -EIO and `*failed`: that page cannot be
 * had; -EAGAIN: it is evicted again and again before it is mapped.
 */
int mnw__inline_populate(struct mnw_view *view, uint64_t page, uint64_t count, uint64_t *failed);

#endif
