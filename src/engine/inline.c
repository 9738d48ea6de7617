/* SPDX-License-Identifier: MIT */
/* One fault, from the signal to the repeated instruction; and what of it the fault thread does. */
#include "engine/inline.h"

#include "base/bits.h"
#include "base/error.h"
#include "base/point.h"
#include "engine/fault.h"
#include "engine/pool.h"
#include "engine/rebalance.h"
#include "store/store.h"
#include "sys/memory.h"
#include "sys/numa.h"

#include <errno.h>

/* Words move under us; so often they are looked at again before the instruction is repeated: signals get their turn. */
#define LOOKS_MAX 16
/* As the watchdog: a wait that is over by then is looked into. */
#define WAIT_NS 1000000000
/* A view is being unmapped: so long its threads sleep before they touch it again. */
#define CLOSING_NS 50000
/* A page that is evicted so often before it could be mapped will not be. */
#define POPULATE_TRIES 1000

/* ---- the table of views ------------------------------------------------------------------------------------ */

enum { SLOTS_MAX = 4096 };

enum slot_state { SLOT_FREE, SLOT_TAKEN, SLOT_OPEN, SLOT_CLOSING };

struct slot {
    _Alignas(64) _Atomic uint32_t state;
    _Atomic uint32_t guests; /* threads that look at the view: it is not freed */
    _Atomic uint32_t serial; /* moves when another view comes */
    struct mnw_view *view;   /* fixed while OPEN or CLOSING */
    /* Where the word of its first page lies, and log2 of its page size: a hint, which may be of a view that has gone.
     */
    _Atomic uintptr_t words;
    _Atomic uint32_t page_shift;
};

/* Apart from the slots, so that a search goes through few cache lines. */
static struct range { _Atomic uintptr_t start, length; } ranges[SLOTS_MAX];
static struct slot slots[SLOTS_MAX];
static _Atomic uint32_t slots_used;       /* none above has ever been taken */
static _Atomic uint32_t table_generation; /* the process whose views these are */
static _Atomic uint32_t wipe_generation;  /* the process that is making the table its own, or has */

/* A thread mostly stays in one view. initial-exec: other thread-local memory may be allocated at its first touch. */
static _Thread_local __attribute__((tls_model("initial-exec"))) uint32_t last_slot;

static bool is_in(uint32_t index, uintptr_t address) {
    uintptr_t start = atomic_load_explicit(&ranges[index].start, memory_order_relaxed);
    return address - start < atomic_load_explicit(&ranges[index].length, memory_order_relaxed);
}

static uint32_t find(uintptr_t address) {
    uint32_t used = atomic_load_explicit(&slots_used, memory_order_acquire), index = last_slot;
    if (index < used && is_in(index, address))
        return index;
    for (index = 0; index < used; index++)
        if (is_in(index, address))
            return last_slot = index;
    return SLOTS_MAX;
}

/*
 * Among many pages the word of one at random is in no near cache, and the first look at it would be a third of what we
 * spend outside the kernel. It is fetched while the view is held and all else is looked up; fetching what is no memory
 * any more does no harm.
 */
static void expect_word(const struct slot *slot, uintptr_t address) {
    uintptr_t start = atomic_load_explicit(&ranges[slot - slots].start, memory_order_relaxed);
    uintptr_t index = (address - start) >> atomic_load_explicit(&slot->page_shift, memory_order_relaxed);
    uintptr_t words = atomic_load_explicit(&slot->words, memory_order_relaxed);
    __builtin_prefetch((const void *)(words + index * sizeof(uint32_t)));
}

/* One guest more, if the slot's view is open. Sequentially consistent against mnw__inline_stop(). */
static bool enter_slot(struct slot *slot) {
    mnw__point("inline hold");
    atomic_fetch_add(&slot->guests, 1);
    if (atomic_load(&slot->state) == SLOT_OPEN)
        return true;
    atomic_fetch_sub(&slot->guests, 1);
    return false;
}

static void leave_slot(struct slot *slot) {
    mnw__point("inline let go");
    atomic_fetch_sub(&slot->guests, 1);
}

/* In a child nobody is in the handler but who forked, and all views are the parent's. The table is whole on return. */
static void forget_parent(void) {
    uint32_t now = mnw__memory_generation(), then = atomic_load(&wipe_generation);
    if (now == then || !atomic_compare_exchange_strong(&wipe_generation, &then, now)) {
        while (atomic_load(&table_generation) != now)
            mnw__sleep_ns(CLOSING_NS);
        return;
    }
    for (uint32_t i = 0; i < atomic_load(&slots_used); i++) {
        atomic_store(&ranges[i].length, 0);
        atomic_store(&slots[i].guests, 0);
        atomic_store(&slots[i].state, SLOT_FREE);
    }
    atomic_store(&table_generation, now);
}

static struct slot *take_slot(uint32_t *index) {
    for (*index = 0; *index < SLOTS_MAX; ++*index) {
        uint32_t seen = SLOT_FREE, used = atomic_load(&slots_used);
        if (!atomic_compare_exchange_strong(&slots[*index].state, &seen, SLOT_TAKEN))
            continue;
        while (used <= *index && !atomic_compare_exchange_weak(&slots_used, &used, *index + 1))
            ;
        return &slots[*index];
    }
    return NULL;
}

int mnw__inline_start(struct mnw_view *view) {
    uint32_t index;
    int error = mnw__sigbus_acquire(mnw__inline_serve);
    if (error)
        return error;
    atomic_fetch_add(&view->cache->pool->sigbus_taken, 1);
    forget_parent();
    struct slot *slot = take_slot(&index);
    if (!slot)
        return mnw__fail(-ENOSPC,
                         "view: %d inline views are open in this process already; close some, or open it "
                         "without MNW_VIEW_INLINE",
                         SLOTS_MAX);
    view->asks.slot = index;
    slot->view = view;
    atomic_store(&slot->words, (uintptr_t)&view->cache->pages.words[view->first_page]);
    atomic_store(&slot->page_shift, mnw__log2(view->cache->backing.page_bytes));
    atomic_fetch_add(&slot->serial, 1);
    atomic_store(&ranges[index].start, view->address);
    atomic_store(&slot->state, SLOT_OPEN);
    atomic_store(&ranges[index].length, view->length);
    return 0;
}

void mnw__inline_stop(struct mnw_view *view) {
    struct slot *slot = &slots[view->asks.slot];
    atomic_store(&slot->state, SLOT_CLOSING);
    mnw__point("inline closing");
    while (atomic_load(&slot->guests))
        mnw__sleep_ns(CLOSING_NS);
}

/* ---- waiting ----------------------------------------------------------------------------------------------- */

enum { BUCKETS = 256 };

/* Where threads wait for the pages of some extents, whatever their cache. Never freed. */
static struct bucket {
    _Alignas(64) _Atomic uint32_t wakes;
    _Atomic uint32_t waiters;
} buckets[BUCKETS];

/*
 * A waiter counts itself and reads `wakes` before it looks at the words; a waker changes the words before it counts a
 * wake and looks for waiters. So either the waiter sees the words that the waker has left, or the waker sees the
 * waiter.
 */
static void wake_bucket(struct bucket *bucket) {
    atomic_fetch_add(&bucket->wakes, 1);
    if (atomic_load(&bucket->waiters))
        mnw__word_wake(&bucket->wakes);
}

static void wake_all(void) {
    for (unsigned i = 0; i < BUCKETS; i++)
        wake_bucket(&buckets[i]);
}

void mnw__inline_wake(const struct mnw_cache *cache, uint64_t page, uint64_t count) {
    uint64_t first = mnw__extent_of(&cache->pages, page), last = mnw__extent_of(&cache->pages, page + count - 1);
    mnw__point("inline wake");
    if (last - first >= BUCKETS) {
        wake_all();
        return;
    }
    for (uint64_t extent = first; extent <= last; extent++)
        wake_bucket(&buckets[extent % BUCKETS]);
}

void mnw__inline_end(struct mnw_view *view) {
    struct slot *slot = &slots[view->asks.slot];
    atomic_store(&ranges[view->asks.slot].length, 0);
    atomic_store(&slot->state, SLOT_FREE);
    wake_all();
}

void mnw__inline_pool_closed(struct mnw_pool *pool) {
    for (uint32_t i = 0; i < atomic_load(&pool->sigbus_taken); i++)
        mnw__sigbus_release();
}

/* ---- one fault --------------------------------------------------------------------------------------------- */

/* What one look at the page came to. */
enum step {
    STEP_MAPPED,
    STEP_READ,    /* its fill is ours to read */
    STEP_AGAIN,   /* the words have moved */
    STEP_TICKET,  /* it is to be waited for: look again with a ticket */
    STEP_WAIT,    /* whoever ends this wait will wake us */
    STEP_FAILED,  /* it cannot be had */
    STEP_FOREIGN, /* what lies there is no page of a view */
};

struct fault {
    struct mnw_view *view; /* while it is held */
    struct slot *slot;     /* NULL: the caller keeps the view open */
    uint32_t serial;
    uint64_t page;
    unsigned visits; /* of ours, in the page's extent */
    bool is_known;
    bool is_starved; /* its own fill found no memory */
    struct mnw__readahead_plan plan;
    struct bucket *ticket; /* we are counted there */
    uint32_t seen;
    int64_t wait_ns;
    struct mnw__fill *fill;
};

static void take_ticket(struct fault *fault, struct mnw_cache *cache) {
    fault->ticket = &buckets[mnw__extent_of(&cache->pages, fault->page) % BUCKETS];
    atomic_fetch_add(&fault->ticket->waiters, 1);
    fault->seen = atomic_load(&fault->ticket->wakes);
    mnw__point("inline ticket");
}

static void drop_ticket(struct fault *fault) {
    if (fault->ticket)
        atomic_fetch_sub(&fault->ticket->waiters, 1);
    fault->ticket = NULL;
}

static enum step wait_for(struct fault *fault, int64_t wait_ns) {
    fault->wait_ns = wait_ns;
    return fault->ticket ? STEP_WAIT : STEP_TICKET;
}

static void call_thread(struct mnw_view *view) {
    atomic_store(&view->thread->asked, true);
    mnw__fault_thread_kick(view->thread);
}

/* The fault thread does it as if it had read an event. */
static enum step ask(struct fault *fault) {
    struct mnw_view *view = fault->view;
    if (!fault->ticket)
        return wait_for(fault, WAIT_NS);
    for (unsigned i = 0; i < MNW__ASKS; i++) {
        uint64_t seen = 0;
        if (!atomic_compare_exchange_strong(&view->asks.pages[i], &seen, fault->page + 1) && seen != fault->page + 1)
            continue;
        mnw__point("inline asked");
        call_thread(view);
        return wait_for(fault, WAIT_NS);
    }
    return wait_for(fault, (int64_t)MNW__SCARCE_TICK_NS / 50); /* others ask for more than it has places for */
}

/* What is left of the plan, when the page itself is under way or there. Lost when somebody else is planning just now.
 */
static void tell_ahead(struct mnw_view *view, struct mnw__readahead_plan *plan) {
    if (!plan->count || atomic_exchange_explicit(&view->asks.planning, true, memory_order_acquire))
        return;
    view->asks.ahead = *plan;
    view->asks.has_ahead = true;
    atomic_store_explicit(&view->asks.planning, false, memory_order_release);
    call_thread(view);
    plan->count = 0;
}

/*
 * Huge pages take the policy of whoever allocates them: where that is one of the kernel's, it must be the fault thread.
 */
static bool may_read_here(const struct mnw_cache *cache) {
    const struct mnw_pool *pool = cache->pool;
    bool is_huge = mnw__backing_is_hugetlb(cache->backing.kind);
    return cache->store->ops->read_now && (!is_huge || pool->numa == MNW_NUMA_LOCAL || pool->turns.count);
}

static enum step begin(struct fault *fault) {
    struct mnw_view *view = fault->view;
    struct mnw_cache *cache = view->cache;
    struct mnw__readahead_plan *plan = &fault->plan;
    uint32_t run = 1;
    if (fault->is_starved || !may_read_here(cache))
        return ask(fault);
    mnw__fault_plan_missed(view, fault->page, plan);
    bool follows = plan->count && plan->stride == 1 && plan->start == fault->page + 1;
    if (follows)
        run += (uint32_t)mnw__min(plan->count, cache->demand_pages_max - 1);
    switch (mnw__fill_begin_inline(view, fault->page, run, &fault->fill)) {
    case MNW__BEGIN_STARTED:
        if (!fault->fill->comes_whole) /* there is memory for it: it no longer starves */
            mnw__view_note_begun(view);
        break;
    case MNW__BEGIN_STARVED:
        return ask(fault);
    case MNW__BEGIN_TAKEN:
        return STEP_AGAIN;
    }
    if (follows && fault->fill->page_count > 1) {
        plan->start += fault->fill->page_count - 1;
        plan->count -= mnw__min(plan->count, fault->fill->page_count - 1);
    }
    return STEP_READ;
}

static enum step map(struct fault *fault) {
    struct mnw_cache *cache = fault->view->cache;
    enum mnw__map how = mnw__fault_map_around(fault->view, fault->page, fault->plan.around, false);
    switch (how) {
    case MNW__MAP_LOST:
    case MNW__MAP_BROKEN:
        if (mnw__fault_lose_page(fault->view, fault->page, how) ||
            mnw__fault_lose_page_waiting(fault->view, fault->page, fault->visits, how))
            return STEP_AGAIN;
        return ask(fault);
    case MNW__MAP_AGAIN:
    case MNW__MAP_SCARCE:
        return wait_for(fault, (int64_t)MNW__SCARCE_TICK_NS);
    case MNW__MAP_GONE:
        return STEP_FOREIGN;
    case MNW__MAP_DONE:
        break;
    }
    mnw__fault_map_lead(fault->view, fault->plan.lead, fault->plan.lead_count);
    if (fault->plan.block_pages)
        mnw__fault_map_block(fault->view, fault->page, fault->plan.block, fault->plan.block + fault->plan.block_pages);
    if (mnw__rebalance_asks(cache, fault->page, &fault->plan))
        mnw__rebalance_vote(cache, fault->page, &fault->plan, mnw__numa_here());
    mnw__fault_note_resolved(NULL, cache, fault->page);
    return STEP_MAPPED;
}

/* In the entered extent. */
static enum step look_inside(struct fault *fault) {
    struct mnw_cache *cache = fault->view->cache;
    switch (mnw__page_state(mnw__page_load(&cache->pages, fault->page))) {
    case MNW__PAGE_PRESENT:
        return map(fault);
    case MNW__PAGE_ABSENT:
        return begin(fault);
    case MNW__PAGE_FAILED:
        mnw__count(&cache->counters, MNW__FAULTS_FAILED, 1);
        return STEP_FAILED;
    case MNW__PAGE_FILLING:
        break;
    }
    if (!fault->ticket)
        return wait_for(fault, WAIT_NS);
    if (!mnw__page_join(&cache->pages, fault->page))
        return STEP_AGAIN;
    mnw__count(&cache->counters, MNW__FAULTS_JOINED, 1);
    return wait_for(fault, WAIT_NS);
}

static enum step look(struct fault *fault) {
    struct mnw_cache *cache = fault->view->cache;
    uint64_t extent = mnw__extent_of(&cache->pages, fault->page);
    enum step step;
    if (mnw__cache_enter(cache, extent, true)) {
        fault->visits++;
        step = look_inside(fault);
        fault->visits--;
        mnw__extent_leave(&cache->pages, extent);
    } else {
        step = wait_for(fault, WAIT_NS); /* its evictor wakes us */
    }
    if (step == STEP_TICKET)
        take_ticket(fault, cache);
    else if (step == STEP_READ || step == STEP_MAPPED)
        tell_ahead(fault->view, &fault->plan);
    return step;
}

/* Once for each fault: what it is, for those who count and learn. */
static void know(struct fault *fault) {
    struct mnw_view *view = fault->view;
    struct mnw_cache *cache = view->cache;
    fault->is_known = true;
    mnw__fault_plan(view, fault->page, &fault->plan); /* first: the page's word is still on its way */
    bool minor = mnw__page_state(mnw__page_load(&cache->pages, fault->page)) == MNW__PAGE_PRESENT;
    mnw__count(&cache->counters, minor ? MNW__FAULTS_MINOR : MNW__FAULTS_MISSING, 1);
    if (mnw__record_is_on(&view->record)) {
        mnw__mutex_lock(&cache->views_lock);
        mnw__record_note(&view->record, fault->page);
        mnw__mutex_unlock(&cache->views_lock);
    }
}

/* Is the view still the one that faulted? Then it is held. */
static bool hold_again(struct fault *fault) {
    if (!fault->slot)
        return true;
    if (!enter_slot(fault->slot))
        return false;
    if (atomic_load(&fault->slot->serial) == fault->serial)
        return true;
    leave_slot(fault->slot);
    return false;
}

static void let_go(struct fault *fault) {
    if (fault->slot)
        leave_slot(fault->slot);
}

/*
 * Without the view: it may be closed meanwhile, its cache not. Then as a visitor until the page is mapped, or it might
 * be evicted before its reader has had it.
 */
static enum step read_page(struct fault *fault) {
    struct mnw__fill *fill = fault->fill;
    struct mnw__fault_thread *thread = fill->thread;
    struct mnw__pages *pages = &fill->cache->pages;
    uint64_t token, extent = mnw__extent_of(pages, fault->page);
    int64_t result;
    fault->is_starved = !mnw__fill_read_inline(fill, &token, &result);
    mnw__point("inline read");
    bool held = hold_again(fault);
    bool entered = held && mnw__cache_enter(fill->cache, extent, false);
    fault->visits += entered;
    if (held && !fault->is_starved)
        mnw__view_note_begun(fault->view);
    if (fault->is_starved)
        mnw__fill_starve(thread, token);
    else
        mnw__fill_answer(thread, token, result);
    enum step step = held ? look(fault) : STEP_AGAIN;
    fault->visits -= entered;
    if (entered)
        mnw__extent_leave(pages, extent);
    if (held)
        let_go(fault);
    return step;
}

/* The page of the address, and its view held. False: `*step` is how the fault ends. */
static bool hold(struct fault *fault, uintptr_t address, enum step *step) {
    uint32_t index =
        mnw__memory_is_of(atomic_load_explicit(&table_generation, memory_order_relaxed)) ? find(address) : SLOTS_MAX;
    *step = STEP_FOREIGN;
    if (index == SLOTS_MAX)
        return false;
    struct slot *slot = &slots[index];
    expect_word(slot, address);
    if (!enter_slot(slot)) {
        if (atomic_load(&slot->state) == SLOT_CLOSING)
            mnw__sleep_ns(CLOSING_NS);
        *step = STEP_AGAIN;
        return false;
    }
    uint32_t serial = atomic_load(&slot->serial);
    if (fault->slot != slot || fault->serial != serial) /* what we may have had a ticket for is gone */
        drop_ticket(fault);
    fault->view = slot->view;
    fault->slot = slot;
    fault->serial = serial;
    *step = STEP_AGAIN;
    if (mnw__view_page_at(fault->view, address, &fault->page))
        return true;
    leave_slot(slot); /* another view has come to this slot since we searched */
    return false;
}

/* One look, and the read that it may call for. The view is held on entry, and no more on return. */
static enum step go(struct fault *fault) {
    if (!fault->is_known)
        know(fault);
    enum step step = look(fault);
    let_go(fault);
    while (step == STEP_READ)
        step = read_page(fault);
    return step;
}

static void wait_here(struct fault *fault) {
    mnw__word_wait(&fault->ticket->wakes, fault->seen, fault->wait_ns);
    drop_ticket(fault);
}

enum mnw__sigbus mnw__inline_serve(uintptr_t address) {
    struct fault fault = {.is_known = false};
    enum step step = STEP_AGAIN;
    for (unsigned looks = 0; looks < LOOKS_MAX && (step == STEP_AGAIN || step == STEP_TICKET); looks++) {
        if (hold(&fault, address, &step))
            step = go(&fault);
        if (step != STEP_TICKET && step != STEP_WAIT)
            drop_ticket(&fault);
        if (step == STEP_WAIT)
            wait_here(&fault);
    }
    drop_ticket(&fault);
    if (step == STEP_FAILED)
        return MNW__SIGBUS_FAILED;
    return step == STEP_FOREIGN ? MNW__SIGBUS_FOREIGN : MNW__SIGBUS_RESOLVED;
}

/* ---- in advance -------------------------------------------------------------------------------------------- */

static enum step populate_page(struct mnw_view *view, uint64_t page) {
    struct fault fault = {.view = view, .page = page};
    enum step step = STEP_AGAIN;
    for (unsigned tries = 0; tries < POPULATE_TRIES && step != STEP_MAPPED && step != STEP_FAILED; tries++) {
        mnw__signals_block();
        step = go(&fault);
        mnw__signals_restore();
        if (step == STEP_WAIT)
            wait_here(&fault);
        else if (step != STEP_TICKET)
            drop_ticket(&fault);
    }
    drop_ticket(&fault);
    return step;
}

int mnw__inline_populate(struct mnw_view *view, uint64_t page, uint64_t count, uint64_t *failed) {
    for (uint64_t end = page + count; page < end; page++) {
        enum step step = populate_page(view, page);
        *failed = page;
        if (step != STEP_MAPPED)
            return step == STEP_FAILED ? -EIO : -EAGAIN;
    }
    return 0;
}

/* ---- on the fault thread ----------------------------------------------------------------------------------- */

static void serve_asked(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t page) {
    struct mnw__readahead_plan plan;
    mnw__place_for_thread(&thread->place, 0); /* whose fault it is is not told */
    mnw__fault_serve(thread, view, page, true, &plan);
    if (plan.count)
        mnw__fault_read_ahead(thread, view, &plan);
    mnw__fault_map_lead(view, plan.lead, plan.lead_count);
}

static void begin_ahead(struct mnw__fault_thread *thread, struct mnw_view *view) {
    if (atomic_exchange_explicit(&view->asks.planning, true, memory_order_acquire)) {
        atomic_store(&thread->asked, true); /* a faulter has it for a few instructions */
        mnw__fault_due(thread, thread->batch_ns + MNW__SCARCE_TICK_NS);
        return;
    }
    struct mnw__readahead_plan plan = view->asks.ahead;
    bool wanted = view->asks.has_ahead;
    view->asks.has_ahead = false;
    atomic_store_explicit(&view->asks.planning, false, memory_order_release);
    if (wanted)
        mnw__fault_read_ahead(thread, view, &plan);
}

void mnw__inline_attend(struct mnw__fault_thread *thread) {
    thread->batch_ns = mnw__clock_ns();
    thread->batch_progress = atomic_load(&thread->pool->progress);
    for (struct mnw_view *view = thread->views; view; view = view->next_of_thread) {
        if (!view->is_inline)
            continue;
        for (unsigned i = 0; i < MNW__ASKS; i++) {
            uint64_t asked = atomic_exchange(&view->asks.pages[i], 0);
            if (asked)
                serve_asked(thread, view, asked - 1);
        }
        begin_ahead(thread, view);
    }
}
