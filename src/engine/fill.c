/* SPDX-License-Identifier: MIT */
/* Beginning a fill: slot, budget, claim, memory, first read. Answers and ends are in fill_end.c. */
#include "engine/fill.h"

#include "base/bits.h"
#include "engine/cache.h"
#include "engine/fault.h"
#include "engine/fill_private.h"
#include "engine/job.h"
#include "engine/member.h"
#include "engine/pool.h"
#include "engine/reclaim.h"
#include "engine/view.h"
#include "store/store.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* How often memory that the budget allows but the machine refuses is asked for again after an eviction. */
#define ALLOCATE_TRIES 4
/* Readahead and jobs leave this share of the slots to faults. */
#define RESERVED_SHARE 4
/* How long a store that takes no more reads is left alone. */
#define CROWDED_PAUSE_NS 1000000

/* ---- slots ---- */

static struct mnw__fill *take_slot(struct mnw__fault_thread *thread) {
    for (unsigned i = 0; i < mnw__array_count(thread->free_fills); i++) {
        uint64_t bits = atomic_load_explicit(&thread->free_fills[i], memory_order_acquire);
        while (bits) {
            uint64_t bit = bits & -bits;
            bits = atomic_fetch_and_explicit(&thread->free_fills[i], ~bit, memory_order_acq_rel);
            if (!(bits & bit)) /* somebody was faster */
                continue;
            struct mnw__fill *fill = &thread->fills[i * 64 + (unsigned)__builtin_ctzll(bit)];
            assert(mnw__fill_state_of(atomic_load(&fill->word)) == MNW__FILL_FREE);
            return fill;
        }
    }
    return NULL;
}

void mnw__fill_give_slot(struct mnw__fill *fill) {
    struct mnw__fault_thread *thread = fill->thread;
    unsigned slot = (unsigned)(fill - thread->fills);
    fill->generation++;
    mnw__fill_set_state(fill, MNW__FILL_FREE);
    atomic_fetch_or_explicit(&thread->free_fills[slot / 64], 1ull << (slot % 64), memory_order_acq_rel);
}

bool mnw__fill_has_spare_slots(const struct mnw__fault_thread *thread) {
    unsigned count = 0;
    for (unsigned i = 0; i < mnw__array_count(thread->free_fills); i++)
        count += (unsigned)__builtin_popcountll(atomic_load_explicit(&thread->free_fills[i], memory_order_relaxed));
    return count > thread->fill_count / RESERVED_SHARE;
}

/* ---- budget and claim ---- */

/* Room for `bytes`; a run that somebody waits for may evict for it. */
static bool charge(struct mnw_cache *cache, uint64_t bytes, bool may_evict) {
    if (mnw__cache_charge(cache, bytes))
        return true;
    return may_evict && mnw__reclaim(cache->pool, bytes, true) > 0 && mnw__cache_charge(cache, bytes);
}

/* Charges a run of base pages; it may come out shorter. 0: no room. */
static uint32_t charge_pages(struct mnw_cache *cache, uint32_t count, bool may_evict) {
    uint64_t page_bytes = cache->backing.page_bytes;
    if (charge(cache, count * page_bytes, may_evict))
        return count;
    return count > 1 && charge(cache, page_bytes, may_evict) ? 1 : 0;
}

/* Charges an extent that is entered, once for all its pages. `*fresh`: it has no memory yet. */
static bool charge_extent(struct mnw_cache *cache, uint64_t extent, bool may_evict, bool *fresh) {
    *fresh = false;
    if (mnw__extent_load(&cache->pages, extent).charged)
        return true;
    if (!charge(cache, cache->pool->extent_bytes, may_evict))
        return false;
    *fresh = mnw__extent_charge(&cache->pages, extent);
    if (!*fresh)
        mnw__cache_uncharge(cache, cache->pool->extent_bytes);
    return true;
}

void mnw__fill_each_extent(struct mnw_cache *cache, uint64_t page, uint32_t count,
                           void (*change)(struct mnw__pages *pages, uint64_t extent)) {
    uint64_t last = mnw__extent_of(&cache->pages, page + count - 1);
    for (uint64_t extent = mnw__extent_of(&cache->pages, page); extent <= last; extent++)
        change(&cache->pages, extent);
}

/* Claims ABSENT pages from `page` on, and settles in each extent of the run; the number claimed. */
static uint32_t claim_pages(struct mnw_cache *cache, uint64_t page, uint32_t count, bool demand) {
    uint32_t claimed = 0;
    uint64_t settled = UINT64_MAX;
    while (claimed < count) {
        uint64_t extent = mnw__extent_of(&cache->pages, page + claimed);
        if (!mnw__cache_enter(cache, extent, demand && !claimed))
            break;
        bool ours = mnw__page_claim(&cache->pages, page + claimed);
        if (ours && extent != settled)
            mnw__extent_settle(&cache->pages, extent);
        else
            mnw__extent_leave(&cache->pages, extent);
        if (!ours)
            break;
        settled = extent;
        claimed++;
    }
    return claimed;
}

/* Claims and charges base pages, one by one. */
static enum mnw__begin claim_run(struct mnw_cache *cache, uint64_t page, uint32_t *count, bool demand, bool may_evict) {
    uint32_t charged = charge_pages(cache, *count, may_evict);
    if (!charged)
        return MNW__BEGIN_STARVED;
    *count = claim_pages(cache, page, charged, demand);
    if (*count < charged)
        mnw__cache_uncharge(cache, (charged - *count) * (uint64_t)cache->backing.page_bytes);
    return *count ? MNW__BEGIN_STARTED : MNW__BEGIN_TAKEN;
}

/* Claims pages of one extent whose memory comes whole. */
static enum mnw__begin claim_in_extent(struct mnw_cache *cache, uint64_t page, uint32_t *count, bool demand,
                                       bool may_evict, bool *fresh) {
    uint64_t extent = mnw__extent_of(&cache->pages, page);
    if (!mnw__cache_enter(cache, extent, demand))
        return MNW__BEGIN_TAKEN;
    enum mnw__begin result = MNW__BEGIN_STARVED;
    if (charge_extent(cache, extent, may_evict, fresh)) {
        uint64_t left = mnw__extent_end(&cache->pages, extent) - page;
        *count = claim_pages(cache, page, (uint32_t)mnw__min(*count, left), demand);
        result = *count ? MNW__BEGIN_STARTED : MNW__BEGIN_TAKEN;
    }
    mnw__extent_leave(&cache->pages, extent);
    return result;
}

/* ---- memory ---- */

static bool allocate_run(struct mnw__place *place, struct mnw_cache *cache, uint64_t page, uint32_t count, bool fresh,
                         bool may_evict) {
    uint64_t offset = mnw__cache_page_offset(cache, page);
    uint64_t length = count * (uint64_t)cache->backing.page_bytes;
    if (cache->pool->whole_extents) {
        uint64_t extent = mnw__extent_of(&cache->pages, page);
        offset = mnw__cache_page_offset(cache, mnw__extent_first(&cache->pages, extent));
        length = mnw__cache_page_offset(cache, mnw__extent_end(&cache->pages, extent)) - offset;
    }
    for (unsigned tries = 0;; tries++) {
        int error = mnw__place_allocate(place, cache, offset, length, fresh);
        if (!error)
            return true;
        if (tries == ALLOCATE_TRIES || !may_evict || !mnw__reclaim(cache->pool, length, true))
            return false;
    }
}

/*
 * Before the words leave FILLING: afterwards the pages may be claimed anew, and punching would take the new
 * owner's memory. Where memory comes by extents, it stays for the extent's other pages.
 */
static bool free_memory(struct mnw_cache *cache, uint64_t page, uint32_t count) {
    if (cache->pool->whole_extents)
        return true;
    uint64_t length = count * (uint64_t)cache->backing.page_bytes;
    if (mnw__backing_punch(&cache->backing, mnw__cache_page_offset(cache, page), length))
        return false;
    mnw__cache_uncharge(cache, length);
    return true;
}

bool mnw__fill_unclaim(struct mnw__fill *fill, uint64_t page, uint32_t count) {
    struct mnw_cache *cache = fill->cache;
    if (!free_memory(cache, page, count))
        return false;
    for (uint64_t end = page + count; page < end; page++)
        if (mnw__page_state(mnw__page_load(&cache->pages, page)) == MNW__PAGE_FILLING &&
            (mnw__page_unclaim(&cache->pages, page) & MNW__PAGE_JOINED))
            mnw__views_wake(cache, page, 1);
    return true;
}

void mnw__fill_set_run(struct mnw__fill *fill, uint64_t page, uint32_t count) {
    struct mnw_cache *cache = fill->cache;
    uint64_t end = mnw__min(mnw__cache_page_offset(cache, page + count), cache->store->size_bytes);
    fill->first_page = page;
    fill->page_count = count;
    fill->wanted_bytes = count ? end - mnw__cache_page_offset(cache, page) : 0;
    fill->done_bytes = 0;
}

void mnw__fill_shrink_run(struct mnw__fill *fill, uint64_t page, uint32_t count) {
    struct mnw__pages *pages = &fill->cache->pages;
    uint64_t extent = mnw__extent_of(pages, fill->first_page);
    uint64_t last = mnw__extent_of(pages, fill->first_page + fill->page_count - 1);
    for (; extent <= last; extent++)
        if (!count || extent < mnw__extent_of(pages, page) || extent > mnw__extent_of(pages, page + count - 1))
            mnw__extent_release(pages, extent);
    mnw__fill_set_run(fill, page, count);
}

bool mnw__fill_take_back(struct mnw__fill *fill) {
    struct mnw__fault_thread *thread = fill->thread;
    if (!mnw__fill_unclaim(fill, fill->first_page, fill->page_count)) {
        mnw__fill_set_state(fill, MNW__FILL_OWING);
        mnw__fault_due(thread, mnw__clock_ns() + MNW__SCARCE_TICK_NS);
        return false;
    }
    mnw__fill_shrink_run(fill, fill->first_page, 0);
    return true;
}

/* ---- reading ---- */

static struct mnw_read read_of(const struct mnw__fill *fill) {
    const struct mnw_cache *cache = fill->cache;
    uint64_t offset = mnw__cache_page_offset(cache, fill->first_page) + fill->done_bytes;
    return (struct mnw_read){
        .token = (uint64_t)fill->generation << 16 | (uint64_t)(fill - fill->thread->fills),
        .offset = offset,
        .buffer = (char *)cache->backing.alias + offset,
        .length = fill->wanted_bytes - fill->done_bytes,
    };
}

/* What another member has of whole pages; 0: the store is to be asked, perhaps for less. */
static int64_t copy(struct mnw__fill *fill, struct mnw_read *read) {
    int64_t copied = 0;
    if (!fill->done_bytes && !fill->asks_store)
        copied = mnw__member_copy(fill->cache, read);
    fill->is_copied = copied > 0;
    return copied;
}

void mnw__fill_read(struct mnw__fill *fill) {
    struct mnw__fault_thread *thread = fill->thread;
    struct mnw_cache *cache = fill->cache;
    struct mnw_read read = read_of(fill);
    if (fill->one_by_one)
        read.length = mnw__min(read.length, cache->backing.page_bytes - fill->done_bytes);
    mnw__fill_set_state(fill, MNW__FILL_READING);
    const struct mnw__store_ops *ops = cache->store->ops;
    int64_t copied = fill->is_sent ? 0 : copy(fill, &read);
    if (copied) {
        mnw__fill_answer(thread, read.token, copied);
        return;
    }
    int error = fill->is_sent ? ops->send(cache->store, thread->io, &read, &cache->backing, mnw__fill_answer, thread)
                              : ops->read(cache->store, thread->io, &read, mnw__fill_answer, thread);
    if (error == -EAGAIN) /* too many reads in flight: not a failure, ask again soon */
        mnw__fill_pause(fill, mnw__clock_ns() + CROWDED_PAUSE_NS);
    else if (error)
        mnw__fill_answer(thread, read.token, error);
}

/* The run is claimed: from here on the cache knows of the fill. */
static void set_up(struct mnw__fill *fill, struct mnw_cache *cache, uint64_t page, uint32_t count) {
    fill->cache = cache;
    fill->view = NULL;
    fill->along = NULL;
    fill->job = NULL;
    fill->is_inline = fill->comes_whole = fill->is_sent = fill->is_copied = fill->asks_store = false;
    mnw__fill_set_run(fill, page, count);
    fill->attempts = fill->pages_failed = 0;
    fill->one_by_one = false;
    fill->began_ns = mnw__clock_ns();
    atomic_store_explicit(&fill->deadline_ns, fill->began_ns + cache->deadline_ns, memory_order_relaxed);
    fill->retry_delay_ns = cache->retry_delay_ns;
    fill->result = 0;
    atomic_fetch_add_explicit(&cache->fills_active, 1, memory_order_relaxed);
}

void mnw__fill_call_off(struct mnw__fill *fill) {
    struct mnw_cache *cache = fill->cache;
    struct mnw__fault_thread *thread = fill->thread;
    if (!mnw__fill_take_back(fill)) {
        mnw__fault_thread_kick(thread); /* who calls may be another thread */
        return;
    }
    mnw__fill_give_slot(fill);
    atomic_fetch_sub_explicit(&cache->fills_active, 1, memory_order_release);
}

/*
 * May pages get their memory when their bytes are here? Where nodes are to be chosen and verified, memory comes first;
 * a check wants to see the bytes in place.
 */
static bool may_come_late(const struct mnw_cache *cache) {
    return atomic_load_explicit(&cache->backing.takes_pages, memory_order_relaxed) &&
           !mnw__nodes_are_several(cache->pool) && !cache->store->ops->check;
}

static bool may_be_sent(const struct mnw__fill *fill) {
    const struct mnw_cache *cache = fill->cache;
    const struct mnw__store_ops *ops = cache->store->ops;
    return ops->may_send && may_come_late(cache) &&
           ops->may_send(cache->store, fill->thread->io, mnw__cache_page_offset(cache, fill->first_page),
                         fill->wanted_bytes);
}

/* A fill with its run claimed, and memory for it; NULL, and why not. */
static struct mnw__fill *prepare(struct mnw__fault_thread *thread, struct mnw__place *place, struct mnw_cache *cache,
                                 uint64_t page, uint32_t count, bool demand, bool may_evict, enum mnw__begin *result) {
    struct mnw__fill *fill = take_slot(thread);
    bool fresh = true;
    *result = MNW__BEGIN_STARVED;
    if (!fill)
        return NULL;
    count = (uint32_t)mnw__min(mnw__min(count, cache->fill_pages_max), cache->pages.page_count - page);
    *result = cache->pool->whole_extents ? claim_in_extent(cache, page, &count, demand, may_evict, &fresh)
                                         : claim_run(cache, page, &count, demand, may_evict);
    if (*result != MNW__BEGIN_STARTED) {
        mnw__fill_give_slot(fill);
        return NULL;
    }
    set_up(fill, cache, page, count);
    fill->comes_whole = !place && count == 1 && may_come_late(cache); /* no place: an inline thread */
    fill->is_sent = !demand && !may_evict && may_be_sent(fill);       /* if that fails, nobody waits for it */
    if (fill->comes_whole || fill->is_sent || allocate_run(place, cache, page, count, fresh, may_evict))
        return fill;
    mnw__fill_call_off(fill);
    *result = MNW__BEGIN_STARVED;
    return NULL;
}

bool mnw__fill_read_after_all(struct mnw__fill *fill) {
    if (!allocate_run(&fill->thread->place, fill->cache, fill->first_page, fill->page_count, true, false))
        return false;
    fill->is_sent = false;
    fill->done_bytes = 0; /* where nodes are several the memory may be another now, without what was sent */
    mnw__fill_read(fill);
    return true;
}

enum mnw__begin mnw__fill_begin(struct mnw__fault_thread *thread, struct mnw_cache *cache, struct mnw_view *view,
                                struct mnw__job *job, uint64_t page, uint32_t count, uint32_t *begun) {
    enum mnw__begin result;
    struct mnw__fill *fill = prepare(thread, &thread->place, cache, page, count, view != NULL, view || job, &result);
    *begun = fill ? fill->page_count : 0;
    if (fill) {
        fill->view = view;
        fill->job = job;
        mnw__fault_due(thread, fill->deadline_ns);
        if (job)
            atomic_fetch_add_explicit(&job->running, 1, memory_order_relaxed);
        mnw__fill_read(fill);
        return result;
    }
    uint64_t spared_until_ns = atomic_load(&thread->pool->spared_until_ns);
    if (result == MNW__BEGIN_STARVED && spared_until_ns)
        mnw__fault_due(thread, spared_until_ns);
    return result;
}

enum mnw__begin mnw__fill_begin_along(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t page,
                                      uint32_t count, uint32_t *begun) {
    enum mnw__begin result;
    struct mnw__fill *fill = prepare(thread, &thread->place, view->cache, page, count, false, false, &result);
    *begun = fill ? fill->page_count : 0;
    if (fill) {
        fill->along = view;
        mnw__fault_due(thread, fill->deadline_ns);
        mnw__fill_read(fill);
    }
    return result;
}

enum mnw__begin mnw__fill_begin_inline(struct mnw_view *view, uint64_t page, uint32_t count, struct mnw__fill **begun) {
    enum mnw__begin result;
    mnw__reclaim_here(view->cache->pool);
    *begun = prepare(view->thread, NULL, view->cache, page, count, true, true, &result);
    if (*begun) {
        (*begun)->view = view;
        (*begun)->is_inline = true;
        /* From here on the fault thread's timers look at it. */
        mnw__fill_set_state(*begun, MNW__FILL_READING);
        if (mnw__fault_due(view->thread, (*begun)->deadline_ns))
            mnw__fault_thread_kick(view->thread);
    }
    return result;
}

/*
 * The page's bytes are `result` of its store's, or none. It gets its memory with them; where that cannot be, as any
 * other page does, so that whatever else becomes of the fill finds it there.
 */
static bool put_page(struct mnw__fill *fill, char *page, int64_t result) {
    struct mnw_cache *cache = fill->cache;
    uint64_t offset = mnw__cache_page_offset(cache, fill->first_page);
    if (result == (int64_t)fill->wanted_bytes) {
        memset(page + result, 0, cache->backing.page_bytes - (size_t)result);
        if (!mnw__backing_write_page(&cache->backing, offset, page))
            return true;
    }
    if (!allocate_run(NULL, cache, fill->first_page, 1, true, true))
        return false;
    if (result > 0)
        memcpy((char *)cache->backing.alias + offset, page, (size_t)result);
    return true;
}

bool mnw__fill_read_inline(struct mnw__fill *fill, uint64_t *token, int64_t *result) {
    struct mnw_store *store = fill->cache->store;
    struct mnw_read read = read_of(fill);
    *token = read.token;
    if (fill->comes_whole)
        read.buffer = fill->thread->pages + (size_t)(fill - fill->thread->fills) * fill->cache->backing.page_bytes;
    *result = copy(fill, &read);
    if (!*result)
        *result = store->ops->read_now(store, &read);
    return !fill->comes_whole || put_page(fill, read.buffer, *result);
}
