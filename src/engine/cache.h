/* SPDX-License-Identifier: MIT */
/*
 * Caches: one store's pages in one pool.
 *
 * Owns: the backing with its alias, the page and extent words, the eviction policy's nodes, the list of
 * views. Locks, in this order: policy_lock, then views_lock, under which views are held and events are left for the
 * embedder. Neither is ever held while the store is called, and no holder touches a view's bytes.
 */
#ifndef MNW_ENGINE_CACHE_H
#define MNW_ENGINE_CACHE_H

#include "engine/counters.h"
#include "engine/reclaim.h"
#include "minnow/minnow.h"
#include "page/page.h"
#include "policy/policy.h"
#include "sys/backing.h"
#include "sys/shared.h"
#include "sys/thread.h"

#include <stdatomic.h>
#include <stdint.h>

struct mnw__members;

struct mnw_cache {
    struct mnw_pool *pool;
    struct mnw_store *store;
    struct mnw_cache *next; /* pool->lock */
    struct mnw__members
        *members; /* member.h: which this is one of; NULL: it is the only one. Fixed, like the next two */
    unsigned member_index;
    int node; /* where its memory comes from; -1: the pool's policy decides */
    struct mnw__backing backing;
    struct mnw__pages pages;
    struct mnw__policy_node *nodes;
    struct mnw__shared kept; /* where the words lie, if they are to outlive us */
    bool inherits_scars;     /* fixed at open: pages had failed before we took it over */
    /* Fixed at open: until then, views that wrote for the last owner may still be attached again. 0: none did. */
    uint64_t copied_until_ns;

    uint64_t first_turn; /* of its first extent: pool->turns */
    uint32_t read_retries;
    uint64_t retry_delay_ns;
    uint64_t deadline_ns;
    uint32_t readahead_pages;  /* window; 0: none */
    uint32_t around_pages;     /* block around a fault at random; at most 1: none */
    uint32_t fill_pages_max;   /* one read of the store */
    uint32_t demand_pages_max; /* one read that somebody waits for */

    struct mnw__mutex policy_lock;
    struct mnw__policy policy; /* policy_lock */
    struct mnw__mutex views_lock;
    struct mnw_view *views; /* views_lock */

    _Atomic uint64_t charged;        /* bytes of the pool's budget that are ours */
    _Atomic uint32_t fills_active;   /* fill slots that name this cache */
    _Atomic uint32_t fills_overdue;  /* of those, the ones whose store has not answered by their deadline */
    _Atomic uint32_t jobs_active;    /* jobs that name this cache */
    _Atomic uint32_t policy_changes; /* of the pool's nodes, that the backing's policy takes into account */
    _Atomic uint64_t pinned_extents;
    _Atomic uint64_t evicting;                /* evictions, drains, rounds of others under way: close waits */
    _Atomic uint32_t copied;                  /* views whose writers' copies eviction would destroy: none is made */
    _Atomic uint64_t spared[MNW__SPARED_MAX]; /* reclaim.h: extents just filled for a fault, and when */
    int64_t turn;                             /* pool->lock: weighs this cache against others in reclaim */
    struct mnw__samples *samples;             /* rebalance.h; NULL: extents stay on the node they came to */
    struct mnw__counters counters;
};

/*
 * `members` (or NULL): whose next one it becomes. `node`: where its memory comes from as long as there is any; -1: as
 * the pool's policy has it.
 */
int mnw__cache_open(struct mnw_cache **cache, struct mnw_pool *pool, struct mnw_store *store,
                    const struct mnw_cache_options *options, struct mnw__members *members, int node);
/* Nobody uses it, and no read of it is under way: 0, and it may be closed. Waits for reads up to their deadline. */
int mnw__cache_is_closable(struct mnw_cache *cache);
void mnw__cache_close(struct mnw_cache *cache);
void mnw__cache_kept(const struct mnw_cache *cache, struct mnw_kept *kept);

bool mnw__cache_charge(struct mnw_cache *cache, uint64_t bytes);
void mnw__cache_uncharge(struct mnw_cache *cache, uint64_t bytes);

/*
 * One of the pool's caches after the other, held open until let go, for what takes too long under the pool's lock; NULL
 * when there are no more. One that closes meanwhile may make the next one be passed over.
 */
struct mnw_cache *mnw__cache_hold_nth(struct mnw_pool *pool, unsigned index);
void mnw__cache_let_go(struct mnw_cache *cache);

/* Enters an extent, and gives a fresh one to the policy. False: it is being evicted. */
bool mnw__cache_enter(struct mnw_cache *cache, uint64_t extent, bool fault);

/*
 * In the policy are the extents that are RESIDENT and not pinned by the user. Whoever changes either calls
 * this afterwards (or, taking an extent to ABSENT, while it is EVICTING); the state that counts is the one
 * seen under the lock. `put_back`: it was picked and could not be evicted.
 */
void mnw__cache_sync_policy(struct mnw_cache *cache, uint64_t extent, bool put_back);

/* May the extent be mapped as one huge page? Every page of it PRESENT, and not refused before. While entered. */
bool mnw__cache_is_promotable(const struct mnw_cache *cache, uint64_t extent);

/* One more, or one less, of `copied`. The words remember it for whoever takes the cache over. */
void mnw__cache_add_copied(struct mnw_cache *cache);
void mnw__cache_drop_copied(struct mnw_cache *cache);
/* Would taking memory away destroy what a writer wrote? */
bool mnw__cache_is_copied(const struct mnw_cache *cache);

/* Metadata reserved for a cache, in bytes. */
uint64_t mnw__cache_metadata_bytes(const struct mnw_cache *cache);

static inline uint64_t mnw__cache_page_offset(const struct mnw_cache *cache, uint64_t page) {
    return page * cache->backing.page_bytes;
}

#endif
