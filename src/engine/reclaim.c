/* SPDX-License-Identifier: MIT */
/* Choosing victims, evicting them, learning recency. Forgetting a range on request is in invalidate.c. */
#include "engine/reclaim.h"

#include "base/bits.h"
#include "engine/cache.h"
#include "engine/pool.h"
#include "engine/remote.h"
#include "engine/sweep.h"
#include "engine/view.h"
#include "sys/poller.h"

#include <errno.h>

/* Extents taken from one cache together, and before the pool looks which cache is due next. */
#define BATCH 16
/* The reclaimer looks after its other work when it has evicted so many. */
#define ROUND_EXTENTS 64u
/* What a fault thread frees when it must: some more than it needs, so that the next faults find room. */
#define DIRECT_EXTENTS 8u
#define DIRECT_SHARE   16
/* Extents in use that a fault thread passes over before it does something else. */
#define DIRECT_TRIES 256u

/* Pools of fewer extents spare what was just filled; in others much else is older. */
#define FEW_EXTENTS 32
#define GRACE_NS    1000000u

/* ---- grace ---- */

/* A slot of cache->spared: the extent plus one, and when, in units of 2^16 ns that wrap after days. */
#define SPARED_SHIFT 34
#define SPARED_UNIT  16

static bool has_few_extents(const struct mnw_pool *pool) {
    return atomic_load_explicit(&pool->budget, memory_order_relaxed) < FEW_EXTENTS * (uint64_t)pool->extent_bytes;
}

static _Atomic uint64_t *slot_of(struct mnw_cache *cache, uint64_t extent) {
    return &cache->spared[extent % MNW__SPARED_MAX];
}

static bool is_of(uint64_t slot, uint64_t extent) {
    return slot >> SPARED_SHIFT == extent + 1;
}

void mnw__reclaim_spare(struct mnw_cache *cache, uint64_t extent, uint64_t now_ns) {
    if (!has_few_extents(cache->pool) ||
        is_of(atomic_load_explicit(slot_of(cache, extent), memory_order_relaxed), extent))
        return;
    uint64_t when = now_ns >> SPARED_UNIT & ((1ull << SPARED_SHIFT) - 1);
    atomic_store_explicit(slot_of(cache, extent), (extent + 1) << SPARED_SHIFT | when, memory_order_relaxed);
}

/* How long the extent is spared yet; 0: it is not. */
static uint64_t grace_left(struct mnw_cache *cache, uint64_t extent, uint64_t now_ns) {
    if (!has_few_extents(cache->pool))
        return 0;
    uint64_t slot = atomic_load_explicit(slot_of(cache, extent), memory_order_relaxed);
    if (!is_of(slot, extent))
        return 0;
    uint64_t passed = ((now_ns >> SPARED_UNIT) - slot) & ((1ull << SPARED_SHIFT) - 1);
    return passed < GRACE_NS >> SPARED_UNIT ? GRACE_NS - (passed << SPARED_UNIT) : 0;
}

/* It is gone: should it come again, it is spared again. */
static void forget_grace(struct mnw_cache *cache, uint64_t extent) {
    uint64_t slot = atomic_load_explicit(slot_of(cache, extent), memory_order_relaxed);
    if (is_of(slot, extent))
        atomic_compare_exchange_strong(slot_of(cache, extent), &slot, 0);
}

/* Whoever starves for want of it looks again when its time is over. */
static bool pass_over(struct mnw_cache *cache, uint64_t extent) {
    uint64_t now_ns = mnw__clock_ns(), left_ns = grace_left(cache, extent, now_ns);
    if (!left_ns)
        return false;
    uint64_t until_ns = now_ns + left_ns, before_ns = atomic_load(&cache->pool->spared_until_ns);
    while ((!before_ns || before_ns > until_ns) &&
           !atomic_compare_exchange_weak(&cache->pool->spared_until_ns, &before_ns, until_ns))
        ;
    return true;
}

/* ---- recency ---- */

static void refill_credit(struct mnw_pool *pool) {
    uint64_t now_ns = mnw__clock_ns(), last_ns = atomic_load(&pool->recency_refilled_ns);
    uint64_t passed_ns = mnw__min(now_ns - last_ns, 1000000000);
    if (passed_ns < 1000000 || !atomic_compare_exchange_strong(&pool->recency_refilled_ns, &last_ns, now_ns))
        return;
    int64_t most = pool->recency_faults_per_second;
    int64_t more = most * (int64_t)passed_ns / 1000000000;
    if (atomic_load(&pool->recency_credit) < most)
        atomic_fetch_add(&pool->recency_credit, more);
}

static bool take_credit(struct mnw_pool *pool, int64_t faults) {
    refill_credit(pool);
    if (atomic_load(&pool->recency_credit) < faults)
        return false;
    atomic_fetch_sub(&pool->recency_credit, faults);
    return true;
}

/* Pages to be unmapped, so that their next use is a fault: neighbours by one call, which interrupts readers once. */
struct watching {
    struct mnw_cache *cache;
    uint64_t first, end;
};

static uint64_t end_of(const struct mnw_cache *cache, uint64_t page) {
    return mnw__extent_end(&cache->pages, mnw__extent_of(&cache->pages, page));
}

static bool is_in_policy(struct mnw_cache *cache, uint64_t page) {
    return mnw__policy_holds(&cache->policy, (uint32_t)mnw__extent_of(&cache->pages, page));
}

/*
 * Under policy_lock, and only what the policy holds: since it was watched it may have been pinned, and whoever has
 * pinned and populated it counts on its being mapped.
 */
static void zap_watched(struct watching *watching) {
    struct mnw_cache *cache = watching->cache;
    for (uint64_t first = watching->first, end; first < watching->end; first = end_of(cache, end)) {
        for (end = first; end < watching->end && is_in_policy(cache, end);)
            end = end_of(cache, end);
        if (end > first)
            mnw__views_zap(cache, first, end - first);
    }
    watching->first = watching->end = 0;
}

static void watch(struct watching *watching, uint32_t extent) {
    struct mnw_cache *cache = watching->cache;
    unsigned present = mnw__extent_load(&cache->pages, extent).present;
    bool huge = cache->backing.kind == MNW_BACKING_GRADED && mnw__cache_is_promotable(cache, extent);
    if (!present || !take_credit(cache->pool, huge ? 1 : present))
        return;
    uint64_t first = mnw__extent_first(&cache->pages, extent);
    if (first != watching->end) {
        zap_watched(watching);
        watching->first = first;
    }
    watching->end = mnw__extent_end(&cache->pages, extent);
    mnw__count(&cache->counters, MNW__ZAPS, 1);
}

/*
 * mnw__policy_recent. An extent that is mapped has been faulted since the last asking, or was mapped ahead of a
 * reader: that alone is no use of it, but what use was made of it since is hidden. One that is neither is not mapped.
 */
static bool recent(void *context, uint32_t extent) {
    struct watching *watching = context;
    struct mnw_cache *cache = watching->cache;
    if (grace_left(cache, extent, mnw__clock_ns()))
        return true;
    enum mnw__use use = mnw__extent_take_use(&cache->pages, extent);
    if (use != MNW__USE_NONE)
        watch(watching, extent);
    return use == MNW__USE_SEEN;
}

/* ---- one extent ---- */

static uint64_t drop_words(struct mnw_cache *cache, uint64_t extent) {
    uint64_t dropped = 0;
    uint64_t end = mnw__extent_end(&cache->pages, extent);
    for (uint64_t page = mnw__extent_first(&cache->pages, extent); page < end; page++)
        if (mnw__page_state(mnw__page_load(&cache->pages, page)) == MNW__PAGE_PRESENT)
            dropped += mnw__page_drop(&cache->pages, page);
    return dropped;
}

void mnw__reclaim_keep(struct mnw_cache *cache, uint64_t extent) {
    uint64_t first = mnw__extent_first(&cache->pages, extent);
    bool awaited = mnw__extent_keep(&cache->pages, extent);
    mnw__cache_sync_policy(cache, extent, false);
    if (awaited)
        mnw__views_wake(cache, first, mnw__extent_end(&cache->pages, extent) - first);
}

/* Has it memory, or may it have? */
static bool is_empty(const struct mnw_cache *cache, uint64_t extent) {
    struct mnw__extent now = mnw__extent_load(&cache->pages, extent);
    return !now.charged && !now.present;
}

static int punch(struct mnw_cache *cache, uint64_t extent, uint64_t last) {
    uint64_t offset = mnw__cache_page_offset(cache, mnw__extent_first(&cache->pages, extent));
    return mnw__backing_punch(&cache->backing, offset,
                              mnw__cache_page_offset(cache, mnw__extent_end(&cache->pages, last)) - offset);
}

/* Its memory is gone: EVICTING -> ABSENT. The bytes given back. */
static uint64_t forget(struct mnw_cache *cache, uint64_t extent) {
    bool charged = mnw__extent_load(&cache->pages, extent).charged;
    uint64_t first = mnw__extent_first(&cache->pages, extent), bytes;
    uint64_t dropped = drop_words(cache, extent);
    forget_grace(cache, extent);
    mnw__cache_sync_policy(cache, extent, false); /* out, before anybody can make it RESIDENT anew */
    if (cache->pool->whole_extents)
        bytes = charged ? cache->pool->extent_bytes : 0;
    else
        bytes = dropped * cache->backing.page_bytes;
    if (mnw__extent_evicted(&cache->pages, extent))
        mnw__views_wake(cache, first, mnw__extent_end(&cache->pages, extent) - first);
    mnw__cache_uncharge(cache, bytes);
    if (bytes)
        mnw__pool_progress(cache->pool);
    return bytes;
}

int mnw__reclaim_extent(struct mnw_cache *cache, uint64_t extent, uint64_t *bytes) {
    int error = is_empty(cache, extent) ? 0 : punch(cache, extent, extent);
    *bytes = 0;
    if (error)
        mnw__reclaim_keep(cache, extent);
    else
        *bytes = forget(cache, extent);
    return error;
}

/* ---- victims ---- */

/* Extents that are EVICTING, all by us, in the order of the store. */
struct victims {
    uint32_t extents[BATCH];
    unsigned count;
    uint64_t bytes; /* that they will give back */
};

static bool pick(struct mnw_cache *cache, struct watching *watching, uint32_t *extent) {
    mnw__mutex_lock(&cache->policy_lock);
    bool any = mnw__policy_pick(&cache->policy, recent, watching, extent);
    mnw__mutex_unlock(&cache->policy_lock);
    return any;
}

static void count_evicted(struct mnw_cache *cache, uint64_t bytes, bool direct) {
    if (!bytes)
        return;
    mnw__count(&cache->counters, MNW__EVICTIONS, 1);
    mnw__count(&cache->counters, MNW__EVICTED_BYTES, bytes);
    if (direct)
        mnw__count(&cache->counters, MNW__EVICTIONS_DIRECT, 1);
}

static void add_victim(struct mnw_cache *cache, struct victims *victims, uint32_t extent) {
    unsigned at = victims->count++;
    for (; at && victims->extents[at - 1] > extent; at--)
        victims->extents[at] = victims->extents[at - 1];
    victims->extents[at] = extent;
    victims->bytes += cache->pool->whole_extents
                          ? cache->pool->extent_bytes
                          : mnw__extent_load(&cache->pages, extent).present * (uint64_t)cache->backing.page_bytes;
}

/* Up to a batch, worth `bytes`; passes over extents in use, each at most once. */
static void gather(struct mnw_cache *cache, uint64_t bytes, bool direct, struct victims *victims) {
    struct watching watching = {.cache = cache};
    mnw__mutex_lock(&cache->policy_lock);
    uint32_t tries = direct && cache->policy.count > DIRECT_TRIES ? DIRECT_TRIES : cache->policy.count, extent;
    mnw__mutex_unlock(&cache->policy_lock);
    for (; victims->count < BATCH && victims->bytes < bytes && tries && pick(cache, &watching, &extent); tries--) {
        if (pass_over(cache, extent) || !mnw__extent_claim_eviction(&cache->pages, extent))
            mnw__cache_sync_policy(cache, extent, true);
        else if (is_empty(cache, extent))
            forget(cache, extent);
        else
            add_victim(cache, victims, extent);
    }
    mnw__mutex_lock(&cache->policy_lock);
    zap_watched(&watching);
    mnw__mutex_unlock(&cache->policy_lock);
}

/* Neighbours are punched by one call. Where that fails, one of them may be to blame: each by itself. */
static uint64_t evict_run(struct mnw_cache *cache, const uint32_t *extents, unsigned count, bool direct) {
    uint64_t given = 0;
    bool punched = count > 1 && !punch(cache, extents[0], extents[count - 1]);
    for (unsigned i = 0; i < count; i++) {
        uint64_t bytes = 0;
        if (punched)
            bytes = forget(cache, extents[i]);
        else
            mnw__reclaim_extent(cache, extents[i], &bytes);
        count_evicted(cache, bytes, direct);
        given += bytes;
    }
    return given;
}

/* Who wants a page of a victim waits for the runs before its own: no handler of the program's may come in between. */
static uint64_t evict_batch(struct mnw_cache *cache, uint64_t bytes, bool direct) {
    struct victims victims = {.count = 0};
    uint64_t given = 0;
    mnw__signals_block();
    gather(cache, bytes, direct, &victims);
    for (unsigned at = 0, count; at < victims.count; at += count) {
        for (count = 1; at + count < victims.count && victims.extents[at + count] == victims.extents[at] + count;)
            count++;
        given += evict_run(cache, &victims.extents[at], count, direct);
    }
    mnw__signals_restore();
    return given;
}

/*
 * The cache whose turn it is: each gains by what it holds, the chosen one pays for all, so that over time
 * each is chosen in proportion. Holds it open until `evicting` goes down again.
 */
static struct mnw_cache *choose_cache(struct mnw_pool *pool, unsigned *count) {
    struct mnw_cache *chosen = NULL;
    int64_t total = 0;
    *count = 0;
    mnw__mutex_lock(&pool->lock);
    for (struct mnw_cache *cache = pool->caches; cache; cache = cache->next) {
        int64_t held = (int64_t)(atomic_load_explicit(&cache->charged, memory_order_relaxed) / pool->page_bytes);
        if (!held || mnw__cache_is_copied(cache))
            continue;
        ++*count;
        total += held;
        cache->turn += held;
        if (!chosen || cache->turn > chosen->turn)
            chosen = cache;
    }
    if (chosen) {
        chosen->turn -= total;
        atomic_fetch_add(&chosen->evicting, 1);
    }
    mnw__mutex_unlock(&pool->lock);
    return chosen;
}

static uint64_t reclaim(struct mnw_pool *pool, uint64_t bytes, bool direct) {
    uint64_t given = 0;
    unsigned in_vain = 0, count;
    while (given < bytes) {
        struct mnw_cache *cache = choose_cache(pool, &count);
        if (!cache)
            break;
        uint64_t some = evict_batch(cache, bytes - given, direct);
        mnw__cache_let_go(cache);
        given += some;
        in_vain = some ? 0 : in_vain + 1;
        if (in_vain > 2 * count || (direct && in_vain && given))
            break;
    }
    return given;
}

uint64_t mnw__reclaim(struct mnw_pool *pool, uint64_t bytes, bool direct) {
    uint64_t batch = mnw__min(DIRECT_EXTENTS * pool->extent_bytes, atomic_load(&pool->budget) / DIRECT_SHARE);
    return reclaim(pool, direct ? mnw__max(bytes, batch) : bytes, direct);
}

void mnw__reclaim_here(struct mnw_pool *pool) {
    uint64_t budget = atomic_load(&pool->budget), charged = atomic_load(&pool->charged);
    uint64_t left = budget > charged ? budget - charged : 0;
    if (left < (mnw__pool_low_bytes(pool) + mnw__pool_high_bytes(pool)) / 2)
        reclaim(pool, pool->extent_bytes, true);
}

/* Keeps some of the budget free: one round of that, so that nothing else waits long. True: there is more to do. */
static bool keep_watermark(struct mnw_pool *pool) {
    atomic_store_explicit(&pool->reclaim_wanted, false, memory_order_release);
    uint64_t high = mnw__pool_high_bytes(pool);
    uint64_t budget = atomic_load(&pool->budget), charged = atomic_load(&pool->charged);
    uint64_t left = budget > charged ? budget - charged : 0;
    return left < high && reclaim(pool, mnw__min(high - left, ROUND_EXTENTS * pool->extent_bytes), false);
}

void mnw__reclaim_run(void *argument) {
    struct mnw_pool *pool = argument;
    bool more = false;
    while (!atomic_load_explicit(&pool->stopping, memory_order_acquire)) {
        void *tag;
        mnw__poller_wait(pool->reclaimer_poller, &tag, 1, more ? 0 : INT64_MAX);
        mnw__remote_make_spares(pool);
        mnw__remote_bury(pool);
        if (atomic_exchange(&pool->sweep_wanted, false)) {
            mnw__nodes_look(pool);
            mnw__sweep(pool);
        }
        more = keep_watermark(pool);
    }
}
