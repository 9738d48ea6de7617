/* SPDX-License-Identifier: MIT */
/* Forgetting a range on request: nobody enters its extents, those inside leave, then it goes whole. */
#include "engine/reclaim.h"

#include "base/bits.h"
#include "engine/adopt.h"
#include "engine/cache.h"
#include "engine/job.h"
#include "engine/pin.h"
#include "engine/pool.h"
#include "engine/view.h"

#include <errno.h>

static bool is_pinned(const struct mnw_cache *cache, uint64_t first, uint64_t last) {
    for (uint64_t extent = first; (extent = mnw__words_next_extent(cache, extent, last + 1)) <= last; extent++)
        if (mnw__extent_load(&cache->pages, extent).user_pins)
            return true;
    return false;
}

/* So long visitors, and fills that began just now, are waited for while nobody may enter; each time twice as long. */
#define LEAVE_NS 1000000
/* By then every fill has ended that is not overdue. */
#define LATE_NS(cache) ((cache)->deadline_ns + (cache)->deadline_ns / 4)

/* Waits from 20 us at a time to 1 ms. False: they are still there at `end_ns`. */
static bool wait_until_left(struct mnw_cache *cache, uint64_t extent, bool by_visitors, uint64_t end_ns) {
    for (uint64_t pause_ns = 20000;; pause_ns = mnw__min(2 * pause_ns, 1000000)) {
        struct mnw__extent word = mnw__extent_load(&cache->pages, extent);
        if (!word.fills && !(by_visitors && word.visitors))
            return true;
        if (mnw__clock_ns() > end_ns)
            return false;
        mnw__sleep_ns(pause_ns);
    }
}

static void heal(struct mnw_cache *cache, uint64_t extent) {
    uint64_t first = mnw__extent_first(&cache->pages, extent), end = mnw__extent_end(&cache->pages, extent);
    for (uint64_t page = first; page < end; page++)
        mnw__page_heal(&cache->pages, page);
    if (cache->pool->has_poison)
        mnw__views_heal(cache, first, end - first);
}

/* Is some page of the extent SIGBUS in some view, whatever its word says? */
static bool has_poison(struct mnw_cache *cache, uint64_t extent) {
    uint64_t first = mnw__extent_first(&cache->pages, extent);
    return mnw__views_have_poison(cache, first, mnw__extent_end(&cache->pages, extent) - first);
}

/* How often a page is tried in the views of other processes that change their mappings just then; a millisecond each.
 */
#define REOPEN_TRIES 1000

/* Reads a page that is SIGBUS somewhere, and puts it there instead. False: it stays SIGBUS. */
static bool reopen_page(struct mnw_cache *cache, uint64_t page) {
    if (mnw__job_read(cache, page, 1))
        return false;
    for (unsigned tries = 0; tries < REOPEN_TRIES; tries++) {
        mnw__views_heal(cache, page, 1);
        if (!mnw__views_have_poison(cache, page, 1))
            return true;
        mnw__sleep_ns(1000000);
    }
    return false;
}

/*
 * Without the kernel's poison, mapping a failed page again leaves a moment in which it is not registered; and in
 * another process nothing can be unmapped, the page can only take the marker's place. So the page is read first; what
 * cannot be read stays SIGBUS until it is invalidated again: -EIO.
 */
static int reopen(struct mnw_cache *cache, uint64_t extent) {
    uint64_t end = mnw__extent_end(&cache->pages, extent);
    int error = 0;
    if (!has_poison(cache, extent))
        return 0;
    mnw__pin_extent(cache, extent);
    for (uint64_t page = mnw__extent_first(&cache->pages, extent); page < end; page++)
        if (mnw__views_have_poison(cache, page, 1) && !reopen_page(cache, page))
            error = -EIO;
    mnw__unpin_extent(cache, extent);
    return error;
}

static void reopen_forgotten(struct mnw_cache *cache, uint64_t extent) {
    uint64_t end = mnw__extent_end(&cache->pages, extent);
    mnw__pin_extent(cache, extent);
    for (uint64_t page = mnw__extent_first(&cache->pages, extent); page < end; page++)
        if (mnw__views_have_poison(cache, page, 1) && !(mnw__page_load(&cache->pages, page) & MNW__PAGE_SCARRED))
            reopen_page(cache, page);
    mnw__unpin_extent(cache, extent);
}

void mnw__reclaim_reopen(struct mnw_cache *cache) {
    for (uint64_t extent = 0; extent < cache->pages.extent_count; extent++)
        if (has_poison(cache, extent))
            reopen_forgotten(cache, extent);
}

/* What is barred in no view any more need not be remembered. */
static void unscar(struct mnw_cache *cache, uint64_t extent) {
    uint64_t end = mnw__extent_end(&cache->pages, extent);
    for (uint64_t page = mnw__extent_first(&cache->pages, extent); page < end; page++)
        if ((mnw__page_load(&cache->pages, page) & MNW__PAGE_SCARRED) && !mnw__views_have_poison(cache, page, 1))
            mnw__page_unscar(&cache->pages, page);
}

/* From EVICTING to gone. -EAGAIN: somebody else has it, or it was not left in time; then nothing has changed. */
static int drain_and_reclaim(struct mnw_cache *cache, uint64_t extent, uint64_t leave_ns) {
    uint64_t bytes;
    int error = mnw__extent_drain(&cache->pages, extent);
    if (error)
        return error;
    if (!wait_until_left(cache, extent, true, mnw__clock_ns() + leave_ns)) {
        mnw__reclaim_keep(cache, extent);
        return -EAGAIN;
    }
    heal(cache, extent);
    error = mnw__reclaim_extent(cache, extent, &bytes);
    return error == -EAGAIN ? -EBUSY : error;
}

static int try_to_reclaim(struct mnw_cache *cache, uint64_t extent, uint64_t leave_ns) {
    mnw__signals_block();
    int error = drain_and_reclaim(cache, extent, leave_ns);
    mnw__signals_restore();
    return error;
}

/*
 * A fill takes as long as the store does: it is waited for with the extent as it was, and signals open. What began
 * between that and EVICTING is waited for with signals blocked, for an ever longer while. An extent that is never
 * without fills, though the store answers each in time, is drained at last however long that takes them.
 */
static int drain(struct mnw_cache *cache, uint64_t extent) {
    uint64_t end_ns = mnw__clock_ns() + LATE_NS(cache), leave_ns = LEAVE_NS;
    for (uint64_t pause_ns = 20000; wait_until_left(cache, extent, false, end_ns);
         pause_ns = mnw__min(2 * pause_ns, 1000000)) {
        int error = try_to_reclaim(cache, extent, leave_ns);
        if (error != -EAGAIN)
            return error;
        if (mnw__clock_ns() > end_ns)
            break;
        leave_ns = mnw__min(2 * leave_ns, mnw__max(cache->deadline_ns / 4, LEAVE_NS));
        mnw__sleep_ns(pause_ns);
    }
    int error = atomic_load(&cache->fills_overdue) ? -EAGAIN : try_to_reclaim(cache, extent, LATE_NS(cache));
    return error == -EAGAIN ? -EBUSY : error;
}

/* -EIO: it is forgotten, and yet a page of it is still SIGBUS. */
static int forget_extent(struct mnw_cache *cache, uint64_t extent) {
    if (mnw__extent_is_untouched(&cache->pages, extent) && !has_poison(cache, extent))
        return 0;
    int error = drain(cache, extent);
    if (error)
        return error;
    error = reopen(cache, extent);
    unscar(cache, extent);
    return error;
}

int mnw__reclaim_range(struct mnw_cache *cache, uint64_t page, uint64_t count, uint64_t *stuck) {
    uint64_t first = mnw__extent_of(&cache->pages, page), last = mnw__extent_of(&cache->pages, page + count - 1);
    *stuck = UINT64_MAX;
    if (is_pinned(cache, first, last))
        return -EBUSY;
    atomic_fetch_add(&cache->evicting, 1);
    if (mnw__cache_is_copied(cache)) { /* looked at after `evicting`: who sets it waits for that */
        mnw__cache_let_go(cache);
        return -EBUSY;
    }
    int error = 0, unread = 0;
    for (uint64_t extent = first; !error && (extent = mnw__words_next_extent(cache, extent, last + 1)) <= last;
         extent++) {
        error = forget_extent(cache, extent);
        if (error && !(unread && error == -EIO))
            *stuck = mnw__extent_first(&cache->pages, extent);
        if (error == -EIO) { /* the rest is to be forgotten all the same */
            unread = error;
            error = 0;
        }
    }
    mnw__cache_let_go(cache);
    return error ? error : unread;
}
