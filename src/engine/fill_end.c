/* SPDX-License-Identifier: MIT */
/* Ending a fill: answers, success, retries, failure, deadlines. See fill.h for the states. */
#include "base/bits.h"
#include "base/point.h"
#include "engine/cache.h"
#include "engine/fault.h"
#include "engine/fill.h"
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

/* An abandoned fill's pages may be joined at any time; this often they are looked at. */
#define ABANDONED_TICK_NS 100000000ull

static void end_slot(struct mnw__fill *fill) {
    struct mnw_cache *cache = fill->cache;
    struct mnw__job *job = fill->job;
    uint64_t pages_failed = fill->pages_failed;
    mnw__fill_give_slot(fill);
    mnw__pool_progress(cache->pool);
    if (job)
        mnw__job_fill_ended(job, pages_failed);
    atomic_fetch_sub_explicit(&cache->fills_active, 1, memory_order_release); /* last: the cache may close now */
}

/* ---- success: on the thread of the answer ---- */

static void zero_tail(struct mnw__fill *fill) {
    struct mnw_cache *cache = fill->cache;
    uint64_t start = mnw__cache_page_offset(cache, fill->first_page);
    uint64_t length = fill->page_count * (uint64_t)cache->backing.page_bytes;
    if (fill->wanted_bytes < length)
        memset((char *)cache->backing.alias + start + fill->wanted_bytes, 0, length - fill->wanted_bytes);
}

/* Are these first bytes of the run the store's? 0 or a negative errno. */
static int check_bytes(const struct mnw__fill *fill, uint64_t length) {
    struct mnw_store *store = fill->cache->store;
    uint64_t offset = mnw__cache_page_offset(fill->cache, fill->first_page);
    if (!store->ops->check)
        return 0;
    int error = store->ops->check(store, offset, (const char *)fill->cache->backing.alias + offset, length);
    return error > 0 ? -EILSEQ : error;
}

/* Makes the first pages of the run PRESENT; true when somebody joined one of them. */
static bool fill_words(struct mnw__fill *fill, uint32_t count) {
    struct mnw_cache *cache = fill->cache;
    bool joined = false;
    for (uint64_t page = fill->first_page; page < fill->first_page + count; page++) {
        joined |= !!(mnw__page_fill(&cache->pages, page) & MNW__PAGE_JOINED);
        mnw__extent_add_present(&cache->pages, mnw__extent_of(&cache->pages, page), 1);
    }
    return joined;
}

static bool promote_run(struct mnw_view *view, uint64_t page) {
    struct mnw_cache *cache = view->cache;
    uint64_t extent = mnw__extent_of(&cache->pages, page);
    return mnw__cache_is_promotable(cache, extent) && mnw__view_promote(view, extent);
}

/* The first `wanted` pages of the run are needed, if the view holds them. */
static void map_run(struct mnw_view *view, uint64_t page, uint64_t count, uint64_t wanted) {
    uint64_t end = page + count, view_end = view->first_page + view->page_count;
    if (end <= view->first_page || page >= view_end || promote_run(view, page))
        return;
    if (page < view->first_page)
        page = view->first_page;
    if (mnw__view_map_pages(view, page, end - page, mnw__min(wanted, end - page), true) != MNW__MAP_DONE)
        mnw__view_wake(view, page, end - page);
}

/* The view that began the fill, or whose fault it lies around, if it is still open, and all views where others joined.
 */
static void resolve_run(struct mnw__fill *fill, uint32_t count, bool joined) {
    struct mnw_cache *cache = fill->cache;
    if (!joined && !fill->along && (!fill->view || fill->is_inline))
        return;
    mnw__mutex_lock(&cache->views_lock);
    for (struct mnw_view *view = cache->views; view; view = view->next) {
        if (!joined && view != fill->view && view != fill->along)
            continue;
        mnw__view_hold(view);
        map_run(view, fill->first_page, count, joined ? count : view == fill->view);
        mnw__view_let_go(view);
    }
    mnw__mutex_unlock(&cache->views_lock);
}

/* The first pages of the run are in place: whoever waits for them goes on. */
static void finish_pages(struct mnw__fill *fill, uint32_t count) {
    struct mnw_cache *cache = fill->cache;
    struct mnw__latency *latency = fill->thread->latency;
    uint64_t filled_ns = mnw__clock_ns();

    if (fill->view)
        mnw__reclaim_spare(cache, mnw__extent_of(&cache->pages, fill->first_page), filled_ns);
    /* As visitors: nobody may take a page back between its word and its mapping. */
    mnw__fill_each_extent(cache, fill->first_page, count, mnw__extent_revisit);
    resolve_run(fill, count, fill_words(fill, count));
    mnw__fill_each_extent(cache, fill->first_page, count, mnw__extent_leave);

    mnw__histogram_add_shared(&latency->fill, filled_ns - fill->began_ns);
    if (fill->view) {
        uint64_t mapped_ns = mnw__clock_ns();
        mnw__histogram_add_shared(&latency->filled_map, mapped_ns - filled_ns);
        mnw__histogram_add_shared(&latency->filled_total, mapped_ns - fill->began_ns);
    } else {
        mnw__count(&cache->counters, MNW__READAHEAD_PAGES, count);
    }
}

/* Copies begin with a page, so what ends with one is copied from there on. */
static void count_bytes(struct mnw__fill *fill, uint32_t pages, uint64_t bytes) {
    struct mnw__counters *counters = &fill->cache->counters;
    if (fill->is_copied)
        mnw__count(counters, MNW__PAGES_COPIED, pages);
    else
        mnw__count(counters, MNW__FILL_BYTES, bytes);
}

static void finish(struct mnw__fill *fill) {
    struct mnw_cache *cache = fill->cache;
    zero_tail(fill);
    finish_pages(fill, fill->page_count);
    if (!fill->is_copied)
        mnw__count(&cache->counters, MNW__FILLS, 1);
    count_bytes(fill, fill->page_count, fill->wanted_bytes);
    mnw__fill_shrink_run(fill, fill->first_page, 0);
    end_slot(fill);
}

/*
 * A short answer may bring whole pages: they need not wait for the others, nor share their fate. What is left
 * is a run that nobody began by a fault of its own.
 */
static void finish_first(struct mnw__fill *fill, uint32_t count) {
    uint64_t bytes = count * (uint64_t)fill->cache->backing.page_bytes, done_bytes = fill->done_bytes - bytes;
    finish_pages(fill, count);
    count_bytes(fill, count, bytes);
    mnw__fill_shrink_run(fill, fill->first_page + count, fill->page_count - count);
    fill->done_bytes = done_bytes;
    fill->view = NULL;
}

/* The fault thread may end the fill as soon as the bit is set; the cache's count keeps both until the kick is done. */
static void attend_later(struct mnw__fill *fill) {
    struct mnw__fault_thread *thread = fill->thread;
    struct mnw_cache *cache = fill->cache;
    unsigned slot = (unsigned)(fill - thread->fills);
    atomic_fetch_add_explicit(&cache->fills_active, 1, memory_order_relaxed);
    atomic_fetch_or_explicit(&thread->attention[slot / 64], 1ull << (slot % 64), memory_order_release);
    mnw__fault_thread_kick(thread);
    atomic_fetch_sub_explicit(&cache->fills_active, 1, memory_order_release);
}

/* The fill is the caller's from now on; NULL: it is given up, and ends without him. */
static struct mnw__fill *claim_answered(struct mnw__fault_thread *thread, uint64_t token) {
    struct mnw__fill *fill = &thread->fills[token & 0xffff];
    /* Stores answer exactly once (the callback store sees to it for its embedder), so the slot is ours. */
    assert((token & 0xffff) < thread->fill_count && fill->generation == (uint32_t)(token >> 16));
    uint64_t seen = mnw__fill_word(fill->generation, MNW__FILL_READING);
    uint64_t answered = mnw__fill_word(fill->generation, MNW__FILL_ANSWERED);
    if (!atomic_compare_exchange_strong(&fill->word, &seen, answered)) {
        assert(mnw__fill_state_of(seen) == MNW__FILL_ABANDONED);
        mnw__fill_set_state(fill, MNW__FILL_LATE);
        attend_later(fill);
        return NULL;
    }
    return fill;
}

static void take_answer(struct mnw__fault_thread *thread, uint64_t token, int64_t result) {
    struct mnw__fill *fill = claim_answered(thread, token);
    if (!fill)
        return;
    fill->result = result;
    if (result > 0 && fill->done_bytes + (uint64_t)result >= fill->wanted_bytes) {
        int error = check_bytes(fill, fill->wanted_bytes);
        if (!error) {
            finish(fill);
            return;
        }
        fill->result = error;
        fill->done_bytes = 0;
    }
    attend_later(fill);
}

/* Its pages are FILLING: no handler of the program's may wait for them on top of us. */
void mnw__fill_answer(void *context, uint64_t token, int64_t result) {
    mnw__signals_block();
    take_answer(context, token, result);
    mnw__signals_restore();
}

void mnw__fill_starve(struct mnw__fault_thread *thread, uint64_t token) {
    mnw__signals_block();
    struct mnw__fill *fill = claim_answered(thread, token);
    if (fill) {
        struct mnw_cache *cache = fill->cache;
        atomic_fetch_add_explicit(&cache->fills_active, 1, memory_order_relaxed);
        mnw__fill_call_off(fill);
        atomic_fetch_sub_explicit(&cache->fills_active, 1, memory_order_release);
    }
    mnw__signals_restore();
}

/* ---- failure: on the fault thread ---- */

static void tell_failure(struct mnw_cache *cache, uint64_t page, int error) {
    mnw__notices_add(&cache->pool->notices, &(struct mnw_event){
                                                .kind = MNW_EVENT_PAGE_FAILED,
                                                .result = error,
                                                .cache = mnw__member_first(cache),
                                                .offset = mnw__cache_page_offset(cache, page),
                                                .length = cache->backing.page_bytes,
                                            });
}

/* FILLING -> FAILED: whoever waits faults again, finds FAILED, and gets its SIGBUS then. */
static void fail_page(struct mnw_cache *cache, uint64_t page, int error) {
    mnw__page_fail(&cache->pages, page);
    mnw__views_wake(cache, page, 1);
    tell_failure(cache, page, error);
}

static void give_up(struct mnw__fill *fill) {
    if (mnw__fill_take_back(fill))
        end_slot(fill);
}

/* What is left of the run has failed. Only a page that a fault waits for is FAILED by that. */
static void fail(struct mnw__fill *fill, int error) {
    mnw__count(&fill->cache->counters, MNW__FILLS_FAILED, 1);
    fill->pages_failed += fill->page_count;
    if (fill->view)
        fail_page(fill->cache, fill->first_page, error);
    give_up(fill);
}

/* The first page of a run that is read one by one has all its retries, and its deadline, to itself. */
static void begin_page(struct mnw__fill *fill, uint64_t now_ns) {
    struct mnw_cache *cache = fill->cache;
    if (atomic_load(&fill->job->cancelled)) {
        give_up(fill);
        return;
    }
    fill->attempts = 0;
    fill->retry_delay_ns = cache->retry_delay_ns;
    atomic_store_explicit(&fill->deadline_ns, now_ns + cache->deadline_ns, memory_order_relaxed);
    mnw__fault_due(fill->thread, now_ns + cache->deadline_ns);
    mnw__fill_read(fill);
}

/* One page of a job's run is bad for good; on to the next, if there is one. */
static void fail_first(struct mnw__fill *fill, int error, uint64_t now_ns) {
    if (fill->page_count == 1 || !mnw__fill_unclaim(fill, fill->first_page, 1)) {
        fail(fill, error);
        return;
    }
    mnw__count(&fill->cache->counters, MNW__FILLS_FAILED, 1);
    fill->pages_failed++;
    mnw__fill_shrink_run(fill, fill->first_page + 1, fill->page_count - 1);
    begin_page(fill, now_ns);
}

void mnw__fill_pause(struct mnw__fill *fill, uint64_t retry_ns) {
    fill->retry_ns = retry_ns;
    mnw__fault_due(fill->thread, retry_ns);
    mnw__fill_set_state(fill, MNW__FILL_PAUSED);
}

/*
 * A run failed, which may be the fault of a page nobody asked for: only the first page goes on alone. The
 * others are ABSENT again; whoever joined them asks for them by itself. Where their memory cannot be given back just
 * now, the run is read again as it is: as long as it is not alone, the first page has not failed.
 */
static void read_first_alone(struct mnw__fill *fill, int error, uint64_t now_ns) {
    if (mnw__fill_unclaim(fill, fill->first_page + 1, fill->page_count - 1)) {
        mnw__fill_shrink_run(fill, fill->first_page, 1);
        mnw__fill_read(fill);
    } else {
        fill->result = error;
        mnw__fill_pause(fill, now_ns + MNW__SCARCE_TICK_NS);
    }
}

static void retry_or_fail(struct mnw__fill *fill, int error, uint64_t now_ns) {
    struct mnw_cache *cache = fill->cache;
    if (fill->is_copied) { /* its check has refused it: that says nothing of the store */
        fill->asks_store = true;
        mnw__fill_read(fill);
        return;
    }
    if (fill->view && fill->page_count > 1) {
        read_first_alone(fill, error, now_ns);
    } else if (fill->attempts < cache->read_retries) {
        fill->attempts++;
        mnw__fill_pause(fill, now_ns + fill->retry_delay_ns);
        fill->retry_delay_ns *= 2;
        mnw__count(&cache->counters, MNW__READ_RETRIES, 1);
    } else if (fill->one_by_one) {
        fail_first(fill, error, now_ns);
    } else if (fill->job && fill->page_count > 1) {
        fill->one_by_one = true;
        begin_page(fill, now_ns);
    } else {
        fail(fill, error);
    }
}

/* More of the run has come, but not all. */
static void take_part(struct mnw__fill *fill, uint64_t now_ns) {
    fill->done_bytes += (uint64_t)fill->result;
    uint32_t whole = (uint32_t)(fill->done_bytes / fill->cache->backing.page_bytes);
    if (whole) {
        int error = check_bytes(fill, whole * (uint64_t)fill->cache->backing.page_bytes);
        if (error) {
            fill->done_bytes = 0;
            retry_or_fail(fill, error, now_ns);
            return;
        }
        finish_first(fill, whole);
        if (fill->one_by_one) {
            begin_page(fill, now_ns);
            return;
        }
    }
    mnw__fill_read(fill);
}

static void go_on(struct mnw__fill *fill, uint64_t now_ns) {
    if (fill->result > 0)
        take_part(fill, now_ns);
    else if (fill->is_sent) {
        if (!mnw__fill_read_after_all(fill))
            give_up(fill);
    } else /* 0: the store ended before the size it had when it was opened */
        retry_or_fail(fill, fill->result ? (int)fill->result : -ENODATA, now_ns);
}

/* ---- deadlines ---- */

/* Past the deadline, waiting for these pages ends in SIGBUS. Pages nobody waits for stay FILLING. */
static void fail_joined(struct mnw__fill *fill, int error) {
    struct mnw_cache *cache = fill->cache;
    for (uint64_t page = fill->first_page; page < fill->first_page + fill->page_count; page++) {
        uint32_t word = mnw__page_load(&cache->pages, page);
        if (mnw__page_state(word) == MNW__PAGE_FILLING && (word & MNW__PAGE_JOINED))
            fail_page(cache, page, error);
    }
}

static bool is_joined(const struct mnw__fill *fill) {
    const struct mnw__pages *pages = &fill->cache->pages;
    for (uint64_t page = fill->first_page; page < fill->first_page + fill->page_count; page++)
        if (mnw__page_load(pages, page) & MNW__PAGE_JOINED)
            return true;
    return false;
}

/*
 * A thread that reads for itself has no deadline, and what it reads is good at any time, as long as nobody waits for
 * it. True: the read goes on, unless it was answered just now; then its thread reads anew.
 */
static bool goes_on(struct mnw__fill *fill, uint64_t reading, uint64_t abandoned) {
    if (!fill->is_inline || is_joined(fill))
        return false;
    mnw__point("go on");
    if (!atomic_compare_exchange_strong(&fill->word, &abandoned, reading))
        atomic_fetch_add(&fill->cache->fills_overdue, 1); /* LATE already: end_late() takes it off, on this thread */
    return true;
}

/* `word` is that of the fill whose deadline has passed: once it is answered, the slot may be another's. */
static void abandon(struct mnw__fill *fill, uint64_t word) {
    uint64_t abandoned = mnw__fill_word((uint32_t)(word >> 32), MNW__FILL_ABANDONED);
    mnw__point("abandon");
    if (!atomic_compare_exchange_strong(&fill->word, &word, abandoned))
        return; /* answered just now */
    if (goes_on(fill, word, abandoned))
        return;
    struct mnw_cache *cache = fill->cache;
    atomic_fetch_add(&cache->fills_overdue, 1);
    mnw__count(&cache->counters, MNW__FILLS_LATE, 1);
    mnw__count(&cache->counters, MNW__FILLS_FAILED, 1);
    if (fill->view && !fill->is_inline)
        fail_page(cache, fill->first_page, -ETIMEDOUT);
    fail_joined(fill, -ETIMEDOUT);
    if (fill->job) {
        mnw__job_fill_ended(fill->job, fill->pages_failed + fill->page_count);
        fill->job = NULL;
    }
}

/* The store has let go of the buffer at last; what it brought is not trusted. */
static void end_late(struct mnw__fill *fill) {
    atomic_fetch_sub(&fill->cache->fills_overdue, 1);
    give_up(fill);
}

/* ---- the fault thread's visits ---- */

static void attend(struct mnw__fill *fill) {
    enum mnw__fill_state state = mnw__fill_state_of(atomic_load_explicit(&fill->word, memory_order_acquire));
    if (state == MNW__FILL_ANSWERED)
        go_on(fill, mnw__clock_ns());
    else if (state == MNW__FILL_LATE)
        end_late(fill);
}

void mnw__fill_attend(struct mnw__fault_thread *thread) {
    for (unsigned i = 0; i < mnw__array_count(thread->attention); i++) {
        if (!atomic_load_explicit(&thread->attention[i], memory_order_relaxed))
            continue;
        uint64_t bits = atomic_exchange_explicit(&thread->attention[i], 0, memory_order_acquire);
        for (; bits; bits &= bits - 1)
            attend(&thread->fills[i * 64 + (unsigned)__builtin_ctzll(bits)]);
    }
}

/* A page that could not be told from its neighbours, for want of memory to let go of them, has not failed by itself. */
static int error_at_deadline(const struct mnw__fill *fill) {
    if (fill->result >= 0)
        return -ETIMEDOUT;
    return fill->view && fill->page_count > 1 ? -ENOMEM : (int)fill->result;
}

/* What is due for one fill; returns when it is due next. */
static uint64_t check_timers(struct mnw__fill *fill, uint64_t now_ns) {
    /* Sequentially consistent against who begins inline: either its deadline comes after the timer's, or we see it. */
    uint64_t word = atomic_load(&fill->word);
    uint64_t deadline_ns = atomic_load_explicit(&fill->deadline_ns, memory_order_relaxed);
    enum mnw__fill_state state = mnw__fill_state_of(word);
    if (state == MNW__FILL_READING) {
        if (now_ns < deadline_ns)
            return deadline_ns;
        abandon(fill, word);
        return now_ns + ABANDONED_TICK_NS;
    }
    if (state == MNW__FILL_ABANDONED) {
        fail_joined(fill, -ETIMEDOUT);
        return now_ns + ABANDONED_TICK_NS;
    }
    if (state == MNW__FILL_OWING) {
        if (now_ns >= deadline_ns)
            fail_joined(fill, -ENOMEM);
        give_up(fill);
        return now_ns + MNW__SCARCE_TICK_NS;
    }
    if (state == MNW__FILL_PAUSED) {
        if (now_ns >= deadline_ns)
            fail(fill, error_at_deadline(fill));
        else if (now_ns >= fill->retry_ns)
            mnw__fill_read(fill);
        else
            return mnw__min(fill->retry_ns, deadline_ns);
        return deadline_ns;
    }
    return UINT64_MAX;
}

/* What was spared may be evicted now: that is as good as memory given back. */
static uint64_t check_spared(struct mnw_pool *pool, uint64_t now_ns) {
    uint64_t until_ns = atomic_load(&pool->spared_until_ns);
    if (!until_ns)
        return UINT64_MAX;
    if (now_ns < until_ns)
        return until_ns;
    if (atomic_compare_exchange_strong(&pool->spared_until_ns, &until_ns, 0))
        mnw__pool_progress(pool);
    return UINT64_MAX;
}

uint64_t mnw__fill_timers(struct mnw__fault_thread *thread, uint64_t now_ns) {
    uint64_t next_ns = check_spared(thread->pool, now_ns);
    for (unsigned slot = 0; slot < thread->fill_count; slot++) {
        struct mnw__fill *fill = &thread->fills[slot];
        next_ns = mnw__min(next_ns, check_timers(fill, now_ns));
    }
    return next_ns;
}

void mnw__fill_refuse(struct mnw_view *view, uint64_t page, int error) {
    struct mnw_cache *cache = view->cache;
    if (!mnw__page_claim(&cache->pages, page)) {
        mnw__view_wake(view, page, 1);
        return;
    }
    mnw__count(&cache->counters, MNW__FILLS_FAILED, 1);
    fail_page(cache, page, error);
}
