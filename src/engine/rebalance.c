/* SPDX-License-Identifier: MIT */
#include "engine/rebalance.h"

#include "base/bits.h"
#include "base/error.h"
#include "engine/adopt.h"
#include "engine/pool.h"
#include "engine/view.h"
#include "sys/numa.h"
#include "sys/poller.h"

#include <errno.h>
#include <stdlib.h>

/* While samples are under way, and the most between rounds when there was nothing to move. */
#define ROUND_NS 25000000ull
#define IDLE_NS  1000000000ull
/* Once through a cache takes as long at least: what was just judged is left alone for a while. */
#define PASS_NS 500000000ull
/* Extents of a cache that are sampled in a round when nothing was found of late, spread over all of it. */
#define IDLE_SAMPLES 16
/* Rounds that everything is sampled for after an extent was found to be elsewhere. */
#define EAGER_ROUNDS 40
/* Rounds without a vote, and an extent is not used enough to be worth a move; the first of them are hurried, and then
 * its place may be another's. */
#define PATIENCE 64
#define FRESH    8
/* Votes that are counted: far from where the counter wraps, however many threads vote at once. */
#define VOTES_MAX 0x7fff
/* Pages of each run mapped by one fault that are looked at for whether they are sampled. */
#define AROUND_MAX 1024
/* Pages asked for, or moved, by one system call: before it moves any, the kernel waits for every CPU to give up what it
 * keeps of pages, however few they are. */
#define BATCH 256

/* Extents of a cache that are moved to a node together. */
struct load {
    int target;
    unsigned count;
    uint64_t extents[MNW__SAMPLES];
    uint64_t there, misplaced; /* of their pages, before */
};

struct mnw__rebalance {
    struct mnw__thread thread;
    struct mnw__poller *poller;
    uint64_t bytes_per_second;
    /* of the thread alone */
    bool everywhere;   /* we may move what is mapped more than once */
    double bytes_left; /* of the budget */
    double zaps_left;  /* pages that may be unmapped, and fault again */
    uint64_t refilled_ns, pause_ns;
    unsigned eager;            /* rounds yet */
    bool is_active, is_behind; /* in this round: samples are under way; some wait for the budget */
    struct load load;
};

/* ---- votes ---- */

static bool is_sampled(const struct mnw_cache *cache, uint64_t extent) {
    const _Atomic uint64_t *place = &cache->samples->sampled[extent % MNW__SAMPLES];
    return atomic_load_explicit(place, memory_order_relaxed) == extent + 1;
}

static uint64_t last_extent(const struct mnw_cache *cache, uint64_t page, uint64_t count) {
    uint64_t last = page + mnw__min(count, AROUND_MAX) - 1;
    return mnw__extent_of(&cache->pages, mnw__min(last, cache->pages.page_count - 1));
}

static bool has_sampled(const struct mnw_cache *cache, uint64_t page, uint64_t count) {
    if (!count)
        return false;
    uint64_t extent = mnw__extent_of(&cache->pages, page), last = last_extent(cache, page, count);
    while (extent < last && !is_sampled(cache, extent))
        extent++;
    return is_sampled(cache, extent);
}

bool mnw__rebalance_asks_of(const struct mnw_cache *cache, uint64_t page, const struct mnw__readahead_plan *plan) {
    return has_sampled(cache, page, plan->around) || has_sampled(cache, plan->lead, plan->lead_count);
}

/* Should the place in the table be another extent's by now, that one gets a vote too many. */
static void vote(struct mnw_cache *cache, uint64_t page, uint64_t count, int node) {
    if (!count)
        return;
    uint64_t extent = mnw__extent_of(&cache->pages, page), last = last_extent(cache, page, count);
    for (; extent <= last; extent++) {
        _Atomic uint16_t *votes = &cache->samples->samples[extent % MNW__SAMPLES].votes[node];
        if (is_sampled(cache, extent) && atomic_load_explicit(votes, memory_order_relaxed) < VOTES_MAX)
            atomic_fetch_add_explicit(votes, 1, memory_order_relaxed);
    }
}

void mnw__rebalance_vote(struct mnw_cache *cache, uint64_t page, const struct mnw__readahead_plan *plan, int node) {
    if (node < 0 || node >= MNW_NODES_MAX)
        return;
    vote(cache, page, plan->around, node);
    vote(cache, plan->lead, plan->lead_count, node);
}

static uint32_t count_votes(struct mnw__sample *sample, int *best) {
    uint32_t total = 0, most = 0;
    for (int node = 0; node < MNW_NODES_MAX; node++) {
        uint32_t votes = atomic_load_explicit(&sample->votes[node], memory_order_relaxed);
        total += votes;
        if (votes > most) {
            most = votes;
            *best = node;
        }
    }
    if (most * 3 < total * 2)
        *best = -1; /* it is shared, and where it lies is as good as anywhere */
    return total;
}

static void forget(struct mnw__samples *samples, uint64_t extent) {
    atomic_store_explicit(&samples->sampled[extent % MNW__SAMPLES], 0, memory_order_relaxed);
}

/* ---- unmapping ---- */

/* Credit for the faults that unmapping any extent may bring. */
static bool may_zap(const struct mnw__rebalance *own, const struct mnw_cache *cache) {
    return own->zaps_left >= (double)(1ull << cache->pages.extent_shift);
}

/*
 * Unmaps the extent from the views that may be. Not when it is pinned: whoever has populated an inline view counts on
 * it. Pins take it out of the policy, whose lock is held therefore, as it is for recency. False: nothing was unmapped.
 */
static bool zap(struct mnw__rebalance *own, struct mnw_cache *cache, uint64_t extent) {
    uint64_t first = mnw__extent_first(&cache->pages, extent);
    unsigned present = mnw__extent_load(&cache->pages, extent).present;
    mnw__mutex_lock(&cache->policy_lock);
    bool zapped = mnw__policy_holds(&cache->policy, (uint32_t)extent) &&
                  mnw__views_zap(cache, first, mnw__extent_end(&cache->pages, extent) - first);
    mnw__mutex_unlock(&cache->policy_lock);
    if (zapped)
        own->zaps_left -= mnw__cache_is_promotable(cache, extent) ? 1 : present;
    return zapped;
}

/* ---- moving ---- */

/* Of an extent's pages, those that are on the target and those that are not; of the latter, why they did not move. */
struct survey {
    uint64_t there, misplaced, scarce, shared;
};

struct batch {
    int target;
    bool moves; /* or it only looks */
    void *addresses[BATCH];
    size_t count;
};

/* Keeps of the batch those that lie elsewhere; none when the kernel does not tell. */
static void find_misplaced(struct batch *batch, struct survey *survey) {
    int nodes[BATCH];
    size_t misplaced = 0;
    bool told = batch->count && !mnw__numa_where(batch->addresses, nodes, batch->count);
    for (size_t i = 0; told && i < batch->count; i++) {
        survey->there += nodes[i] == batch->target;
        if (nodes[i] >= 0 && nodes[i] != batch->target)
            batch->addresses[misplaced++] = batch->addresses[i];
    }
    survey->misplaced += misplaced;
    batch->count = misplaced;
}

/* Asks where the batch's pages are, and moves those that are to be. It is empty then. */
static void carry(const struct mnw__rebalance *own, struct batch *batch, struct survey *survey) {
    int status[BATCH], error = 0;
    find_misplaced(batch, survey);
    if (batch->moves && batch->count)
        error = mnw__numa_move(batch->addresses, status, batch->count, batch->target, own->everywhere);
    for (size_t i = 0; batch->moves && !error && i < batch->count; i++) {
        survey->scarce += status[i] == -ENOMEM;
        survey->shared += status[i] == -EACCES;
    }
    if (error == -EPERM)
        survey->shared += batch->count;
    batch->count = 0;
}

/* The extent's pages that are in memory. The last of them stay in the batch. */
static void gather(const struct mnw__rebalance *own, struct mnw_cache *cache, uint64_t extent, struct batch *batch,
                   struct survey *survey) {
    uint64_t end = mnw__extent_end(&cache->pages, extent);
    for (uint64_t page = mnw__extent_first(&cache->pages, extent); page < end; page++) {
        if (mnw__page_state(mnw__page_load(&cache->pages, page)) != MNW__PAGE_PRESENT)
            continue;
        batch->addresses[batch->count++] = (char *)cache->backing.alias + mnw__cache_page_offset(cache, page);
        if (batch->count == BATCH)
            carry(own, batch, survey);
    }
}

static struct survey go_through(const struct mnw__rebalance *own, struct mnw_cache *cache, const uint64_t *extents,
                                unsigned count, int target, bool moves) {
    struct batch batch = {.target = target, .moves = moves};
    struct survey survey = {0};
    for (unsigned i = 0; i < count; i++)
        gather(own, cache, extents[i], &batch, &survey);
    carry(own, &batch, &survey);
    return survey;
}

/* Not what the kernel says of each page counts (a folio moves with its first one), but where it lies afterwards. */
static void unload(struct mnw__rebalance *own, struct mnw_cache *cache) {
    struct load *load = &own->load;
    if (!load->count)
        return;
    struct survey moving = go_through(own, cache, load->extents, load->count, load->target, true);
    struct survey after = go_through(own, cache, load->extents, load->count, load->target, false);
    uint64_t more = after.there > load->there ? after.there - load->there : 0;
    mnw__count(&cache->counters, MNW__PAGES_MOVED, mnw__min(more, load->misplaced));
    mnw__count(&cache->counters, MNW__PAGES_UNMOVED, after.misplaced);
    mnw__count(&cache->counters, MNW__UNMOVED_SCARCE, mnw__min(moving.scarce, after.misplaced));
    mnw__count(&cache->counters, MNW__UNMOVED_SHARED, mnw__min(moving.shared, after.misplaced));
    *load = (struct load){0};
}

/*
 * To be moved with the next ones for that node. Without the right to move what is mapped twice it must not be, and goes
 * alone, at once: the alias maps it, and the views are unmapped.
 */
static void move(struct mnw__rebalance *own, struct mnw_cache *cache, uint64_t extent, int target,
                 const struct survey *before) {
    struct load *load = &own->load;
    if (load->target != target)
        unload(own, cache);
    load->target = target;
    load->extents[load->count++] = extent;
    load->there += before->there;
    load->misplaced += before->misplaced;
    own->bytes_left -= (double)(before->misplaced * cache->backing.page_bytes);
    if (own->everywhere)
        return;
    zap(own, cache, extent);
    unload(own, cache);
}

/* ---- a round ---- */

/* Two samples agree on a node. True: the extent need not be looked at any more. */
static bool settle(struct mnw__rebalance *own, struct mnw_cache *cache, uint64_t extent, int target) {
    if (target < 0 || !(mnw__nodes_now(cache->pool) >> target & 1))
        return true;
    if (own->is_behind) /* nor is this one asked for, round after round */
        return false;
    struct survey before = go_through(own, cache, &extent, 1, target, false);
    if (!before.misplaced)
        return true;
    own->eager = EAGER_ROUNDS;
    if ((double)(before.misplaced * cache->backing.page_bytes) > own->bytes_left) {
        own->is_behind = true;
        return false;
    }
    move(own, cache, extent, target, &before);
    return true;
}

/* True: the sample is over. */
static bool look_at(struct mnw__rebalance *own, struct mnw_cache *cache, struct mnw__sample *sample, uint64_t extent) {
    int target = -1;
    uint32_t votes = count_votes(sample, &target);
    if (votes == sample->votes_before)
        return ++sample->rounds == PATIENCE;
    sample->rounds = 0;
    if (sample->zaps == 2)
        return settle(own, cache, extent, target);
    if (!may_zap(own, cache))
        return false;
    sample->votes_before = votes;
    sample->zaps = 2;
    return !zap(own, cache, extent);
}

static void look_at_samples(struct mnw__rebalance *own, struct mnw_cache *cache) {
    struct mnw__samples *samples = cache->samples;
    for (unsigned i = 0; i < MNW__SAMPLES; i++) {
        uint64_t extent = atomic_load_explicit(&samples->sampled[i], memory_order_relaxed);
        if (!extent--)
            continue;
        if (look_at(own, cache, &samples->samples[i], extent))
            forget(samples, extent);
        else
            own->is_active |= samples->samples[i].rounds < FRESH;
    }
    unload(own, cache);
}

/* The place in the table is the extent's, and its votes count from now on, before anybody can fault. */
static bool begin(struct mnw__rebalance *own, struct mnw_cache *cache, uint64_t extent) {
    struct mnw__samples *samples = cache->samples;
    struct mnw__sample *sample = &samples->samples[extent % MNW__SAMPLES];
    forget(samples, extent); /* whoever had it */
    for (int node = 0; node < MNW_NODES_MAX; node++)
        atomic_store_explicit(&sample->votes[node], 0, memory_order_relaxed);
    sample->zaps = 1;
    sample->rounds = 0;
    sample->votes_before = 0;
    atomic_store_explicit(&samples->sampled[extent % MNW__SAMPLES], extent + 1, memory_order_release);
    if (zap(own, cache, extent)) {
        mnw__count(&cache->counters, MNW__EXTENTS_SAMPLED, 1);
        return true;
    }
    forget(samples, extent);
    return false;
}

/* The place is free, or has waited for long enough. */
static bool has_place(const struct mnw__samples *samples, uint64_t extent) {
    return !atomic_load_explicit(&samples->sampled[extent % MNW__SAMPLES], memory_order_relaxed) ||
           samples->samples[extent % MNW__SAMPLES].rounds >= FRESH;
}

/* From where the last round ended, to the end of the cache; then from its beginning, but not at once. */
static void begin_samples(struct mnw__rebalance *own, struct mnw_cache *cache) {
    struct mnw__samples *samples = cache->samples;
    uint64_t count = cache->pages.extent_count, resident = atomic_load(&cache->charged) / cache->pool->extent_bytes;
    uint64_t step = own->eager ? 1 : resident / IDLE_SAMPLES + 1, seen = 0, extent = samples->cursor;
    if (!extent && own->refilled_ns - samples->pass_ns < PASS_NS)
        return;
    if (!extent)
        samples->pass_ns = own->refilled_ns;
    for (unsigned tries = own->eager ? MNW__SAMPLES : IDLE_SAMPLES; tries && may_zap(own, cache); extent++) {
        extent = mnw__words_next_extent(cache, extent, count);
        if (extent >= count)
            break;
        if (!mnw__extent_load(&cache->pages, extent).present || is_sampled(cache, extent) || ++seen % step)
            continue;
        if (!has_place(samples, extent)) /* it is next: passed over, it might be so by each round that comes here */
            break;
        tries--;
        own->is_active |= begin(own, cache, extent);
    }
    samples->cursor = extent < count ? extent : 0;
}

/* At this rate, and never more than can be spent at once. */
static void earn(double *left, uint64_t per_second, double seconds, uint64_t most) {
    *left += (double)per_second * seconds;
    if (*left > (double)most)
        *left = (double)most;
}

static void refill(struct mnw__rebalance *own, const struct mnw_pool *pool) {
    uint64_t now_ns = mnw__clock_ns(), passed_ns = mnw__min(now_ns - own->refilled_ns, IDLE_NS);
    uint64_t faults = pool->recency_faults_per_second;
    double seconds = (double)passed_ns / 1e9;
    own->refilled_ns = now_ns;
    /* What a second was not enough to notice, or a round took too long for, is made up for in the next one. */
    earn(&own->bytes_left, own->bytes_per_second, seconds, own->bytes_per_second + pool->extent_bytes);
    earn(&own->zaps_left, faults, seconds, mnw__max(faults, pool->extent_bytes / pool->page_bytes));
}

static void go_round(struct mnw__rebalance *own, struct mnw_pool *pool) {
    struct mnw_cache *cache;
    own->is_active = own->is_behind = false;
    for (unsigned i = 0; (cache = mnw__cache_hold_nth(pool, i)); i++) {
        if (cache->samples)
            look_at_samples(own, cache);
        if (cache->samples && !own->is_behind)
            begin_samples(own, cache);
        mnw__cache_let_go(cache);
    }
    own->pause_ns = own->is_active || own->eager ? ROUND_NS : mnw__min(2 * own->pause_ns, IDLE_NS);
    own->eager -= own->eager > 0;
}

static void run(void *argument) {
    struct mnw_pool *pool = argument;
    struct mnw__rebalance *own = pool->rebalance;
    own->everywhere = mnw__numa_may_move_all();
    own->refilled_ns = mnw__clock_ns();
    while (!atomic_load_explicit(&pool->stopping, memory_order_acquire)) {
        void *tag;
        mnw__poller_wait(own->poller, &tag, 1, (int64_t)own->pause_ns);
        mnw__nodes_look(pool);
        refill(own, pool);
        if (mnw__nodes_are_several(pool))
            go_round(own, pool);
    }
}

/* ---- beginning and end ---- */

int mnw__rebalance_start(struct mnw_pool *pool, uint64_t bytes_per_second) {
    if (!bytes_per_second)
        return 0;
    struct mnw__rebalance *own = calloc(1, sizeof(*own));
    if (!own)
        return mnw__fail(-ENOMEM, "pool: out of memory");
    own->bytes_per_second = bytes_per_second;
    own->pause_ns = ROUND_NS;
    int error = mnw__poller_open(&own->poller);
    if (error)
        goto release;
    pool->rebalance = own;
    error = mnw__thread_start(&own->thread, "mnw-rebalance", -1, run, pool);
    if (!error)
        return 0;
    pool->rebalance = NULL;
    mnw__poller_close(own->poller);
release:
    free(own);
    return error;
}

void mnw__rebalance_stop(struct mnw_pool *pool) {
    struct mnw__rebalance *own = pool->rebalance;
    if (!own)
        return;
    mnw__poller_kick(own->poller);
    mnw__thread_join(&own->thread);
    mnw__poller_close(own->poller);
    free(own);
    pool->rebalance = NULL;
}

int mnw__samples_open(struct mnw_cache *cache) {
    if (!cache->pool->rebalance || cache->node >= 0) /* a replica stays on its node */
        return 0;
    cache->samples = calloc(1, sizeof(*cache->samples));
    return cache->samples ? 0 : mnw__fail(-ENOMEM, "cache: out of memory for the samples of rebalancing");
}

void mnw__samples_close(struct mnw_cache *cache) {
    free(cache->samples);
    cache->samples = NULL;
}
