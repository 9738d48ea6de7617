/* SPDX-License-Identifier: MIT */
/* The decision: what one fault needs, from the page word alone. The thread around it is in fault_thread.c. */
#include "engine/fault.h"

#include "base/bits.h"
#include "engine/cache.h"
#include "engine/pool.h"
#include "engine/rebalance.h"
#include "engine/reclaim.h"
#include "engine/remote.h"
#include "sys/io.h"
#include "sys/poller.h"
#include "sys/uffd.h"

#include <errno.h>

/* Words move under us; so often they are looked at again before the fault is sent round through the kernel. */
#define LOOKS_MAX 8
/* What a fault maps at most, beyond its own extent: two page tables' worth, which takes some 100 us. */
#define AHEAD_BYTES_MAX (4ull << 20)
/* Of the budget: what guesses leave free. */
#define FREE_SHARE 8
/* Another process changes its mappings, and will have done so by then. */
#define CHANGING_TICK_NS 2000000ull
/* Visitors leave soon: so long those who wait for it sleep. */
#define VISIT_NS 20000
/* A starved fault is back with every tick, or, its event lost, with the watchdog; after a longer gap it is another. */
#define STARVED_GAP_NS 2000000000ull

/* Of the faults that find their page resident, one in so many is asked where it is, and where the page. */
#define PLACED_SHARE 16

/* ---- mapping ahead ---- */

/* Resident neighbours from `page` on, within its extent. */
static uint64_t count_present(const struct mnw_cache *cache, uint64_t page, uint64_t most) {
    uint64_t end = mnw__min(page + most, mnw__extent_end(&cache->pages, mnw__extent_of(&cache->pages, page)));
    uint64_t at = page + 1;
    while (at < end && mnw__page_state(mnw__page_load(&cache->pages, at)) == MNW__PAGE_PRESENT)
        at++;
    return at - page;
}

/* One past the last page that a fault on `page` may map. */
static uint64_t reach(const struct mnw_view *view, uint64_t page, uint64_t around) {
    uint64_t most = mnw__max(AHEAD_BYTES_MAX / view->cache->backing.page_bytes, 1);
    uint64_t view_end = view->first_page + view->page_count;
    return mnw__min(page + mnw__min(around, most), mnw__max(view_end, page + 1));
}

/*
 * From the entered extent of `page` on, enters those that hold the resident pages behind it, up to `end`; returns one
 * past the last such page. Nobody evicts what is entered, so all of it may be mapped by one call. `*last`: the last
 * extent entered. Not as a fault: whether the reader comes is not known yet. Where memory comes by extents, each is
 * left to its own fault, which may map it as one huge page.
 */
static uint64_t enter_ahead(struct mnw_cache *cache, uint64_t page, uint64_t end, uint64_t *last) {
    struct mnw__pages *pages = &cache->pages;
    uint64_t at = page + count_present(cache, page, end - page);
    while (at < end && at == mnw__extent_end(pages, *last) && !cache->pool->whole_extents) {
        if (mnw__page_state(mnw__page_load(pages, at)) != MNW__PAGE_PRESENT ||
            !mnw__cache_enter(cache, *last + 1, false))
            break;
        ++*last;
        if (mnw__page_state(mnw__page_load(pages, at)) != MNW__PAGE_PRESENT)
            break;
        mnw__extent_set_ahead(pages, *last);
        at += count_present(cache, at, end - at);
    }
    return at;
}

enum mnw__map mnw__fault_map_around(struct mnw_view *view, uint64_t page, uint64_t around, bool wake) {
    struct mnw_cache *cache = view->cache;
    uint64_t extent = mnw__extent_of(&cache->pages, page);
    if (mnw__cache_is_promotable(cache, extent) && mnw__view_promote(view, extent))
        return MNW__MAP_DONE;
    uint64_t end = reach(view, page, around), last = extent;
    uint64_t count = enter_ahead(cache, page, end, &last) - page;
    enum mnw__map result = mnw__view_map_pages(view, page, count, 1, wake);
    for (; last > extent; last--)
        mnw__extent_leave(&cache->pages, last);
    return result;
}

void mnw__fault_map_lead(struct mnw_view *view, uint64_t page, uint64_t count) {
    struct mnw_cache *cache = view->cache;
    uint64_t extent = mnw__extent_of(&cache->pages, page), last = extent;
    if (!count || cache->pool->whole_extents || !mnw__view_holds(view, page))
        return;
    /* Looked at first: what is not there is not entered, or it would be RESIDENT with nothing in it. */
    if (mnw__page_state(mnw__page_load(&cache->pages, page)) != MNW__PAGE_PRESENT ||
        !mnw__cache_enter(cache, extent, false))
        return;
    if (mnw__page_state(mnw__page_load(&cache->pages, page)) == MNW__PAGE_PRESENT) {
        mnw__extent_set_ahead(&cache->pages, extent);
        mnw__view_map_pages(view, page, enter_ahead(cache, page, reach(view, page, count), &last) - page, 0, true);
    }
    for (; last > extent; last--)
        mnw__extent_leave(&cache->pages, last);
    mnw__extent_leave(&cache->pages, extent);
}

/* ---- planning ---- */

/* The threads of an inline view share its readahead; who comes while another is planning does without. */
static bool may_plan(struct mnw_view *view) {
    return !view->is_inline || !atomic_exchange_explicit(&view->asks.planning, true, memory_order_acquire);
}

static void has_planned(struct mnw_view *view) {
    if (view->is_inline)
        atomic_store_explicit(&view->asks.planning, false, memory_order_release);
}

/* What was mapped ahead was used, as if each extent had faulted. */
static void note_passed(struct mnw_cache *cache, uint64_t page, uint64_t end) {
    for (; page < end; page = mnw__extent_end(&cache->pages, mnw__extent_of(&cache->pages, page)))
        mnw__extent_note_passed(&cache->pages, mnw__extent_of(&cache->pages, page));
}

void mnw__fault_plan(struct mnw_view *view, uint64_t page, struct mnw__readahead_plan *plan) {
    *plan = (struct mnw__readahead_plan){.around = 1, .stride = 1};
    if (!may_plan(view))
        return;
    mnw__readahead_fault(&view->readahead, page, plan);
    has_planned(view);
    if (plan->passed_count)
        note_passed(view->cache, plan->passed, plan->passed + plan->passed_count);
}

void mnw__fault_plan_missed(struct mnw_view *view, uint64_t page, struct mnw__readahead_plan *plan) {
    if (!may_plan(view))
        return;
    mnw__readahead_missed(&view->readahead, page, plan);
    has_planned(view);
}

/* The kernel keeps the waiter; we remember to send it round. */
static enum mnw__outcome wait_for_tick(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t tick_ns) {
    view->starved = true;
    if (!thread->starving) {
        thread->starving = true;
        thread->starved_progress = thread->batch_progress;
        thread->starved_ns = UINT64_MAX;
        atomic_fetch_add(&thread->pool->starving, 1);
    }
    thread->starved_ns = mnw__min(thread->starved_ns, thread->batch_ns + tick_ns);
    return MNW__OUTCOME_PENDING;
}

enum mnw__outcome mnw__fault_back_off(struct mnw_view *view) {
    return wait_for_tick(view->thread, view, MNW__SCARCE_TICK_NS);
}

void mnw__fault_send_round(struct mnw_view *view) {
    wait_for_tick(view->thread, view, CHANGING_TICK_NS);
}

/* The kernel could not end the fault just now; `changes`: while the consumer's address space changes. */
static enum mnw__outcome refused(struct mnw_view *view, bool changes) {
    if (!view->remote || !changes)
        return mnw__fault_back_off(view);
    mnw__remote_refused(view);
    return MNW__OUTCOME_PENDING;
}

/* No memory or no read slot just now. A fault that goes on starving is back with every tick, until it is refused. */
static enum mnw__outcome starve(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t page) {
    struct mnw_cache *cache = view->cache;
    mnw__count(&cache->counters, MNW__FAULTS_STARVED, 1);
    uint64_t hopeless_ns = MNW__STARVED_DEADLINES * cache->deadline_ns;
    uint64_t gap_ns = mnw__max(mnw__min(STARVED_GAP_NS, hopeless_ns), 4 * MNW__SCARCE_TICK_NS);
    uint64_t since_ns = atomic_load(&view->starved_since_ns);
    if (!since_ns || thread->batch_ns - view->starved_last_ns > gap_ns) {
        since_ns = thread->batch_ns;
        atomic_store(&view->starved_since_ns, since_ns);
    }
    view->starved_last_ns = thread->batch_ns;
    if (thread->batch_ns - since_ns > hopeless_ns) {
        mnw__fill_refuse(view, page, -ENOMEM);
        return MNW__OUTCOME_ENDED;
    }
    return wait_for_tick(thread, view, MNW__SCARCE_TICK_NS);
}

/* The extent is EVICTING by us. Memory that comes by extents goes with its extent: it stays charged until then. */
static bool drop_page(struct mnw_view *view, uint64_t extent, uint64_t page, enum mnw__map how) {
    struct mnw_cache *cache = view->cache;
    uint64_t page_bytes = cache->backing.page_bytes;
    bool by_pages = !cache->pool->whole_extents;
    bool kept = how == MNW__MAP_BROKEN && by_pages &&
                mnw__backing_punch(&cache->backing, mnw__cache_page_offset(cache, page), page_bytes);
    if (!kept && mnw__page_drop(&cache->pages, page)) {
        mnw__extent_add_present(&cache->pages, extent, -1);
        if (by_pages)
            mnw__cache_uncharge(cache, page_bytes);
        if (how == MNW__MAP_BROKEN)
            mnw__fill_refuse(view, page, -EHWPOISON);
        else
            mnw__count(&cache->counters, MNW__PAGES_LOST, 1);
    }
    mnw__reclaim_keep(cache, extent);
    return !kept;
}

/* While another visitor is in the extent, it may be about to map what it saw PRESENT: then look again. */
bool mnw__fault_lose_page(struct mnw_view *view, uint64_t page, enum mnw__map how) {
    struct mnw__pages *pages = &view->cache->pages;
    uint64_t extent = mnw__extent_of(pages, page);
    return mnw__extent_claim_repair(pages, extent) && drop_page(view, extent, page, how);
}

bool mnw__fault_lose_page_waiting(struct mnw_view *view, uint64_t page, unsigned visits, enum mnw__map how) {
    struct mnw__pages *pages = &view->cache->pages;
    uint64_t extent = mnw__extent_of(pages, page);
    if (mnw__extent_drain_pinned(pages, extent))
        return false;
    while (mnw__extent_load(pages, extent).visitors > visits)
        mnw__sleep_ns(VISIT_NS);
    return drop_page(view, extent, page, how);
}

/* Whether some of it was absent; `*resident`: all of it was there. Neither is sure when slots or memory run out. */
static bool carry_out(struct mnw__fault_thread *thread, struct mnw_cache *cache, const struct mnw__readahead_plan *plan,
                      bool *resident) {
    bool reads = false;
    uint64_t page = plan->start, count = plan->count;
    int64_t stride = plan->stride;
    *resident = true;
    while (count && page < cache->pages.page_count) {
        uint32_t run = stride == 1 ? (uint32_t)mnw__min(count, cache->fill_pages_max) : 1, begun = 0;
        enum mnw__page_state state = mnw__page_state(mnw__page_load(&cache->pages, page));
        bool absent = state == MNW__PAGE_ABSENT;
        *resident &= state == MNW__PAGE_PRESENT;
        if (absent && !mnw__fill_has_spare_slots(thread))
            return reads;
        /* Giving huge pages memory takes long: what was asked for before goes on meanwhile. */
        if (absent && cache->pool->whole_extents && thread->io)
            mnw__io_submit(thread->io);
        if (absent && mnw__fill_begin(thread, cache, NULL, NULL, page, run, &begun) == MNW__BEGIN_STARVED)
            return reads;
        reads |= begun > 0;
        uint64_t step = begun ? begun : 1;
        count -= mnw__min(count, step);
        page += stride == 1 ? step : (uint64_t)stride;
    }
    return reads;
}

bool mnw__fault_read_ahead(struct mnw__fault_thread *thread, struct mnw_view *view,
                           const struct mnw__readahead_plan *plan) {
    bool resident, reads = carry_out(thread, view->cache, plan, &resident);
    if (may_plan(view)) {
        mnw__readahead_planned(&view->readahead, plan, resident);
        has_planned(view);
    }
    return reads;
}

/* The page's own read, and with it the first neighbours that a sequential reader will want at once. */
static enum mnw__begin fill_page(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t page,
                                 struct mnw__readahead_plan *plan) {
    struct mnw_cache *cache = view->cache;
    bool follows = plan->count && plan->stride == 1 && plan->start == page + 1;
    uint32_t run = 1, begun = 0;
    if (follows)
        run += (uint32_t)mnw__min(plan->count, cache->demand_pages_max - 1);
    enum mnw__begin result = mnw__fill_begin(thread, cache, view, NULL, page, run, &begun);
    if (begun > 1 && follows) {
        plan->start += begun - 1;
        plan->count -= mnw__min(plan->count, begun - 1);
    }
    if (result == MNW__BEGIN_STARTED)
        mnw__view_note_begun(view);
    return result;
}

/*
 * A kernel without poison cannot end a fault of another process in SIGBUS. It waits, and the page is read again once a
 * second. False: look again.
 */
static bool look_at_unbarred(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t page,
                             enum mnw__outcome *outcome) {
    struct mnw_cache *cache = view->cache;
    uint64_t extent = mnw__extent_of(&cache->pages, page);
    if (!mnw__remote_may_retry(view, thread->batch_ns) || !mnw__extent_claim_heal(&cache->pages, extent)) {
        *outcome = wait_for_tick(thread, view, MNW__SCARCE_TICK_NS);
        return true;
    }
    mnw__page_heal(&cache->pages, page);
    mnw__reclaim_keep(cache, extent);
    return false;
}

void mnw__fault_note_resolved(const struct mnw__place *place, struct mnw_cache *cache, uint64_t page) {
    _Atomic uint64_t *resolved = &cache->counters.values[MNW__FAULTS_RESOLVED];
    uint64_t before = atomic_fetch_add_explicit(resolved, 1, memory_order_relaxed);
    if (mnw__nodes_are_several(cache->pool) && before % PLACED_SHARE == 0)
        mnw__place_note_access(place, cache, page);
}

/* When its faulter runs on: where he was is looked up in /proc. */
static void vote(const struct mnw__fault_thread *thread, struct mnw_cache *cache, uint64_t page,
                 const struct mnw__readahead_plan *plan) {
    if (mnw__rebalance_asks(cache, page, plan))
        mnw__rebalance_vote(cache, page, plan, mnw__place_faulter_node(&thread->place, cache->pool));
}

/* One look at an extent that is entered. True: `*outcome` is how it ended. */
static bool look(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t page, bool wake,
                 struct mnw__readahead_plan *plan, enum mnw__outcome *outcome) {
    struct mnw_cache *cache = view->cache;
    enum mnw__map how;
    int error;
    switch (mnw__page_state(mnw__page_load(&cache->pages, page))) {
    case MNW__PAGE_PRESENT:
        *outcome = wake ? MNW__OUTCOME_ENDED : MNW__OUTCOME_MAPPED;
        how = mnw__fault_map_around(view, page, plan->around, wake);
        switch (how) {
        case MNW__MAP_LOST:
            mnw__fault_lose_page(view, page, MNW__MAP_LOST);
            return false;
        case MNW__MAP_BROKEN:
            if (mnw__fault_lose_page(view, page, MNW__MAP_BROKEN))
                return false;
            *outcome = wait_for_tick(thread, view, MNW__SCARCE_TICK_NS);
            return true;
        case MNW__MAP_AGAIN:
        case MNW__MAP_SCARCE:
            *outcome = refused(view, how == MNW__MAP_AGAIN);
            return true;
        case MNW__MAP_GONE:
            *outcome = MNW__OUTCOME_ENDED;
            break;
        case MNW__MAP_DONE:
            break;
        }
        vote(thread, cache, page, plan);
        mnw__fault_note_resolved(&thread->place, cache, page);
        return true;
    case MNW__PAGE_FILLING:
        if (!mnw__page_join(&cache->pages, page))
            return false;
        mnw__count(&cache->counters, MNW__FAULTS_JOINED, 1);
        *outcome = MNW__OUTCOME_PENDING;
        return true;
    case MNW__PAGE_ABSENT:
        mnw__fault_plan_missed(view, page, plan);
        switch (fill_page(thread, view, page, plan)) {
        case MNW__BEGIN_STARTED:
            *outcome = MNW__OUTCOME_PENDING;
            return true;
        case MNW__BEGIN_STARVED:
            *outcome = starve(thread, view, page);
            return true;
        case MNW__BEGIN_TAKEN:
            return false;
        }
        return false;
    case MNW__PAGE_FAILED:
        if (view->remote && !cache->pool->has_poison)
            return look_at_unbarred(thread, view, page, outcome);
        error = mnw__view_poison_page(view, page);
        *outcome = error ? refused(view, error == -EAGAIN) : MNW__OUTCOME_ENDED;
        return true;
    }
    return false;
}

/* ---- around a fault at random ---- */

void mnw__fault_map_block(struct mnw_view *view, uint64_t page, uint64_t first, uint64_t end) {
    struct mnw_cache *cache = view->cache;
    uint64_t extent = mnw__extent_of(&cache->pages, page), low = page;
    first = mnw__max(first, mnw__extent_first(&cache->pages, extent));
    if (!mnw__cache_enter(cache, extent, false))
        return;
    while (low > first && mnw__page_state(mnw__page_load(&cache->pages, low - 1)) == MNW__PAGE_PRESENT)
        low--;
    if (low < page)
        mnw__view_map_pages(view, low, page - low, 0, true);
    uint64_t present = count_present(cache, page, end - page);
    if (present > 1)
        mnw__view_map_pages(view, page + 1, present - 1, 0, true);
    mnw__extent_leave(&cache->pages, extent);
}

static uint32_t count_absent(const struct mnw_cache *cache, uint64_t page, uint64_t end) {
    uint64_t at = page;
    while (at < end && mnw__page_state(mnw__page_load(&cache->pages, at)) == MNW__PAGE_ABSENT)
        at++;
    return (uint32_t)(at - page);
}

/* Nothing is evicted for a guess: it is made only while an eighth of the budget stays free, and what the reclaimer
 * keeps. */
static bool has_room(const struct mnw_cache *cache, uint64_t page, uint64_t count) {
    const struct mnw_pool *pool = cache->pool;
    if (pool->whole_extents)
        return mnw__extent_load(&cache->pages, mnw__extent_of(&cache->pages, page)).charged;
    uint64_t bytes = count * cache->backing.page_bytes, budget = atomic_load(&pool->budget);
    return atomic_load(&pool->charged) + bytes + mnw__max(budget / FREE_SHARE, mnw__pool_high_bytes(pool)) <= budget;
}

static void read_around(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t first, uint64_t end) {
    struct mnw_cache *cache = view->cache;
    bool begins = true;
    for (uint64_t at = first; at < end;) {
        uint32_t absent = count_absent(cache, at, end), begun = 0;
        if (!absent) {
            at++;
            continue;
        }
        if (!has_room(cache, at, absent) || !mnw__fill_has_spare_slots(thread))
            return;
        /* Whoever faulted goes on before we give memory to pages that nobody has asked for. */
        if (begins && thread->io) {
            mnw__io_submit(thread->io);
            mnw__io_reap(thread->io);
        }
        begins = false;
        if (mnw__fill_begin_along(thread, view, at, absent, &begun) == MNW__BEGIN_STARVED)
            return;
        at += begun ? begun : 1;
    }
}

/* Whoever finds his page in memory has neighbours mapped that are there too; nothing is read that was left out so far.
 */
static void bring_around(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t page,
                         const struct mnw__readahead_plan *plan, bool resident) {
    uint64_t end = plan->block + plan->block_pages;
    mnw__fault_map_block(view, page, plan->block, end);
    if (!resident)
        read_around(thread, view, plan->block, end);
}

enum mnw__outcome mnw__fault_serve(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t page, bool wake,
                                   struct mnw__readahead_plan *plan) {
    struct mnw_cache *cache = view->cache;
    uint64_t extent = mnw__extent_of(&cache->pages, page);
    enum mnw__outcome outcome = MNW__OUTCOME_PENDING;
    mnw__fault_plan(view, page, plan);
    for (unsigned looks = 0; looks < LOOKS_MAX; looks++) {
        if (!mnw__cache_enter(cache, extent, true))
            return MNW__OUTCOME_PENDING; /* its evictor wakes the waiters */
        bool final = look(thread, view, page, wake, plan, &outcome);
        mnw__extent_leave(&cache->pages, extent);
        if (!final)
            continue;
        if (plan->block_pages)
            bring_around(thread, view, page, plan, outcome != MNW__OUTCOME_PENDING);
        return outcome;
    }
    mnw__view_wake(view, page, 1);
    return MNW__OUTCOME_ENDED;
}

void mnw__fault_retry_starved(struct mnw__fault_thread *thread, bool always) {
    if (!thread->starving)
        return;
    if (!always && atomic_load(&thread->pool->progress) == thread->starved_progress)
        return;
    thread->starving = false;
    atomic_fetch_sub(&thread->pool->starving, 1);
    for (struct mnw_view *view = thread->views; view; view = view->next_of_thread) {
        if (!view->starved || (view->remote && view->remote->refused)) /* it is sent round when it has been read */
            continue;
        view->starved = false;
        mnw__view_wake_all(view);
    }
}

void mnw__fault_watch(struct mnw__fault_thread *thread) {
    for (struct mnw_view *view = thread->views; view; view = view->next_of_thread) {
        uint64_t pending = 0, total = 0;
        if (view->remote)
            mnw__remote_watch(view);
        if (mnw__uffd_waiting(view->uffd, &pending, &total) || !total)
            continue;
        mnw__count(&view->cache->counters, MNW__REDELIVERIES, total);
        mnw__view_wake_all(view);
    }
    if (thread == thread->pool->threads) {
        atomic_store(&thread->pool->sweep_wanted, true);
        mnw__poller_kick(thread->pool->reclaimer_poller);
    }
}
