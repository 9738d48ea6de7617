/* SPDX-License-Identifier: MIT */
/*
 * Views: one consumer's mapping and its userfaultfd, and everything that is done to its page table.
 *
 * Owns: the mapping, the descriptor, the set of poisoned pages. Mapping calls may come from any thread that
 * knows the view to be open: its fault thread, or a holder of the cache's views_lock who holds the view too
 * (mnw__view_hold). Never touches the view's bytes.
 *
 * A remote view is a mapping of another process: that process may tear it into pieces and move them (remote.h).
 */
#ifndef MNW_ENGINE_VIEW_H
#define MNW_ENGINE_VIEW_H

#include "engine/cache.h"
#include "engine/inline.h"
#include "engine/record.h"
#include "minnow/minnow.h"
#include "policy/readahead.h"

#include <stdbool.h>
#include <stdint.h>

struct mnw__fault_thread;
struct mnw__remote;

/* Pages that lie side by side in a consumer's address space. */
struct mnw__piece {
    uintptr_t address;
    uint64_t first_page, page_count; /* of the cache */
};

struct mnw_view {
    struct mnw_cache *cache;
    struct mnw_view *next;           /* cache->views_lock */
    struct mnw_view *next_of_thread; /* thread->lock */
    struct mnw__fault_thread *thread;
    struct mnw__remote *remote; /* NULL: a mapping of this process, in one piece */
    uintptr_t address;          /* 0: remote */
    size_t length;
    uint64_t first_page, page_count; /* of the cache; remote: all of it */
    int uffd;
    bool writable, is_inline;
    struct mnw__asks asks;           /* of an inline view */
    struct mnw__readahead readahead; /* thread->lock; of an inline view asks.planning */
    bool active;                     /* thread->lock: had events since the watchdog looked */
    bool starved;                    /* thread->lock: a fault of ours waits for memory or a read slot */
    /* Since when no fault of ours could begin a read; 0: one could. Set under thread->lock, cleared by any thread. */
    _Atomic uint64_t starved_since_ns;
    uint64_t starved_last_ns; /* thread->lock */
    uint64_t *poisoned;       /* cache->views_lock: bit per page of the view */
    uint64_t poisoned_count;  /* cache->views_lock */
    struct mnw__record record;
};

int mnw__view_open(struct mnw_view **view, struct mnw_cache *cache, const struct mnw_view_options *options);
int mnw__view_close(struct mnw_view *view);

/*
 * Between these nobody else changes where a remote view's pieces lie, nor reads the event that says they were
 * changed. For whoever is not the view's fault thread: that one alone changes them, and needs no lock to look.
 */
void mnw__view_hold(struct mnw_view *view);
void mnw__view_let_go(struct mnw_view *view);

unsigned mnw__view_piece_count(const struct mnw_view *view);
/* The part of [page, page + count) that piece `index` holds; false when there is none. */
bool mnw__view_clip(const struct mnw_view *view, unsigned index, uint64_t page, uint64_t count,
                    struct mnw__piece *part);
/* The page at an address of the consumer; false when the view has none there. */
bool mnw__view_page_at(const struct mnw_view *view, uintptr_t address, uint64_t *page);

/* What opening (local, in view.c) and attaching (remote.c) share. */
struct mnw_view *mnw__view_new(struct mnw_cache *cache);
/* A range of bytes as pages of a cache; length 0: to the end. */
int mnw__cache_range(const struct mnw_cache *cache, uint64_t offset, uint64_t length, uint64_t *page, uint64_t *count);
int mnw__view_reserve(struct mnw_view *view);
/* Before start: the mapping may have been attached before, to us or to another process, and bar pages that failed then.
 */
int mnw__view_presume_poison(struct mnw_view *view);
int mnw__view_start(struct mnw_view *view);
void mnw__view_stop(struct mnw_view *view);
/* In views_lock: a child of the process of `parent`; what is SIGBUS there is SIGBUS here. */
void mnw__view_link_child(struct mnw_view *child, struct mnw_view *parent);
void mnw__view_free(struct mnw_view *view);

/* Of a local view. */
static inline uintptr_t mnw__view_address_of(const struct mnw_view *view, uint64_t page) {
    return view->address + (page - view->first_page) * view->cache->backing.page_bytes;
}
/* A read of some fault of the view could begin: it starves no more. */
static inline void mnw__view_note_begun(struct mnw_view *view) {
    if (atomic_load_explicit(&view->starved_since_ns, memory_order_relaxed))
        atomic_store(&view->starved_since_ns, 0);
}
static inline bool mnw__view_holds(const struct mnw_view *view, uint64_t page) {
    return page >= view->first_page && page - view->first_page < view->page_count;
}

enum mnw__map {
    MNW__MAP_DONE,   /* every wanted page is mapped */
    MNW__MAP_LOST,   /* the first wanted page is a hole in the backing: its word lied */
    MNW__MAP_BROKEN, /* its memory has failed: the kernel maps it nowhere any more */
    MNW__MAP_AGAIN,  /* the kernel could not just now; who waits for what is left still waits */
    MNW__MAP_SCARCE, /* the same, for want of memory for the consumer's page tables */
    MNW__MAP_GONE,   /* the consumer has unmapped it; the waiters were woken */
};
/*
 * Maps [page, page + count), clipped to the view, every page of it PRESENT in an extent the caller has
 * entered. The first `wanted` are needed; the rest is tried until the first obstacle. With `wake`, waiters
 * on the mapped pages go on; without, the caller wakes them. With `wanted` 0 it is a favour that may be refused.
 */
enum mnw__map mnw__view_map_pages(struct mnw_view *view, uint64_t page, uint64_t count, uint64_t wanted, bool wake);
/*
 * Maps a complete extent as one huge page, and wakes its waiters. False: it cannot be; map pages instead.
 * Never in a writable view: a write drops the whole huge mapping, and its fault would promote it again.
 */
bool mnw__view_promote(struct mnw_view *view, uint64_t extent);
/* Waiters on these pages fault again. */
void mnw__view_wake(struct mnw_view *view, uint64_t page, uint64_t count);
void mnw__view_wake_all(struct mnw_view *view);

/*
 * SIGBUS is taken off a page of a remote view, whose page must be PRESENT in an extent that cannot be evicted: the
 * page takes the marker's place. False: not yet; ask again.
 */
bool mnw__view_replace_poison(struct mnw_view *view, uint64_t page);

/*
 * If the page is FAILED, touching it in this view is SIGBUS from now on; its waiters go on in any case. An error: the
 * kernel could not, and they still wait; -EAGAIN while the consumer's address space changes, others for want of memory
 * or mappings.
 */
int mnw__view_poison_page(struct mnw_view *view, uint64_t page);

/* The rest is done to every view of a cache that holds the pages; these take views_lock. */

/* Waiters on these pages fault again. */
void mnw__views_wake(struct mnw_cache *cache, uint64_t page, uint64_t count);
/* Unmaps pages from read-only views, so that the next touch faults. False: no view of that kind has them. */
bool mnw__views_zap(struct mnw_cache *cache, uint64_t page, uint64_t count);
/* Is touching one of these pages SIGBUS in some view? */
bool mnw__views_have_poison(struct mnw_cache *cache, uint64_t page, uint64_t count);
/*
 * Takes SIGBUS off these pages. With the kernel's poison, local views are healed while the extent is EVICTING.
 * Without it the range is mapped before it can be registered, and a touch in between goes past us; and in a remote
 * view only the page itself can take the marker's place: these are healed while their extent is pinned, and only
 * pages that are PRESENT.
 */
void mnw__views_heal(struct mnw_cache *cache, uint64_t page, uint64_t count);

#endif
