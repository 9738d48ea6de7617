/* SPDX-License-Identifier: MIT */
#include "engine/cache.h"

#include "base/bits.h"
#include "base/error.h"
#include "engine/adopt.h"
#include "engine/member.h"
#include "engine/place.h"
#include "engine/pool.h"
#include "engine/rebalance.h"
#include "engine/remote.h"
#include "store/store.h"
#include "sys/memory.h"

#include <errno.h>
#include <stdlib.h>

#define RETRIES_DEFAULT         2
#define RETRY_DELAY_MS_DEFAULT  10
#define DEADLINE_MS_DEFAULT     30000
#define READAHEAD_BYTES_DEFAULT (4 << 20)
/* Where memory comes by whole extents, some are zeroed while others are read: that needs several of either. */
#define READAHEAD_GRADED_DEFAULT (32u << 20)
#define READAHEAD_HUGE_DEFAULT   (16u << 20)
#define READAHEAD_HUGE_PAGES     4
/* One read of the store at most; the same into extents, which have their memory already; and one that a fault waits
 * for. */
#define FILL_BYTES_MAX         (256u << 10)
#define FILL_EXTENTS_BYTES_MAX (512u << 10)
#define DEMAND_BYTES_MAX       (64u << 10)
/* How long an extent that has as many visitors as it can count is left alone. */
#define CROWD_NS 20000

bool mnw__cache_charge(struct mnw_cache *cache, uint64_t bytes) {
    if (!mnw__pool_charge(cache->pool, bytes))
        return false;
    atomic_fetch_add_explicit(&cache->charged, bytes, memory_order_relaxed);
    return true;
}

void mnw__cache_uncharge(struct mnw_cache *cache, uint64_t bytes) {
    atomic_fetch_sub_explicit(&cache->charged, bytes, memory_order_relaxed);
    mnw__pool_uncharge(cache->pool, bytes);
}

void mnw__cache_sync_policy(struct mnw_cache *cache, uint64_t extent, bool put_back) {
    struct mnw__policy *policy = &cache->policy;
    mnw__mutex_lock(&cache->policy_lock);
    struct mnw__extent word = mnw__extent_load(&cache->pages, extent);
    if (word.state != MNW__EXTENT_RESIDENT || word.user_pins)
        mnw__policy_remove(policy, (uint32_t)extent);
    else if (!mnw__policy_holds(policy, (uint32_t)extent))
        (put_back ? mnw__policy_put_back : mnw__policy_insert)(policy, (uint32_t)extent);
    mnw__mutex_unlock(&cache->policy_lock);
}

struct mnw_cache *mnw__cache_hold_nth(struct mnw_pool *pool, unsigned index) {
    mnw__mutex_lock(&pool->lock);
    struct mnw_cache *cache = pool->caches;
    while (cache && index--)
        cache = cache->next;
    if (cache)
        atomic_fetch_add(&cache->evicting, 1);
    mnw__mutex_unlock(&pool->lock);
    return cache;
}

void mnw__cache_let_go(struct mnw_cache *cache) {
    atomic_fetch_sub_explicit(&cache->evicting, 1, memory_order_release);
}

bool mnw__cache_enter(struct mnw_cache *cache, uint64_t extent, bool fault) {
    enum mnw__enter entered;
    while ((entered = mnw__extent_enter(&cache->pages, extent, fault)) == MNW__ENTER_FULL)
        mnw__sleep_ns(CROWD_NS);
    if (entered == MNW__ENTER_FRESH)
        mnw__cache_sync_policy(cache, extent, false);
    return entered != MNW__ENTER_BUSY;
}

bool mnw__cache_is_promotable(const struct mnw_cache *cache, uint64_t extent) {
    if (cache->backing.kind != MNW_BACKING_GRADED)
        return false;
    struct mnw__extent word = mnw__extent_load(&cache->pages, extent);
    return word.present == 1u << cache->pages.extent_shift && !word.unfit;
}

/* ---- copies ---- */

/*
 * Counted first, noted afterwards: whoever takes the last one off looks at the count again behind his note, so that the
 * last note is never "none" while there is one. Nobody writes before his view is attached.
 */
void mnw__cache_add_copied(struct mnw_cache *cache) {
    atomic_fetch_add(&cache->copied, 1);
    mnw__words_note_copies(cache, true);
}

void mnw__cache_drop_copied(struct mnw_cache *cache) {
    if (atomic_fetch_sub(&cache->copied, 1) == 1 && mnw__clock_ns() >= cache->copied_until_ns)
        mnw__words_note_copies(cache, false);
    if (atomic_load(&cache->copied)) /* another came meanwhile */
        mnw__words_note_copies(cache, true);
}

bool mnw__cache_is_copied(const struct mnw_cache *cache) {
    return atomic_load(&cache->copied) || (cache->copied_until_ns && mnw__clock_ns() < cache->copied_until_ns);
}

/* ---- metadata ---- */

static size_t nodes_bytes(const struct mnw_cache *cache) {
    return cache->pages.extent_count * sizeof(*cache->nodes);
}

uint64_t mnw__cache_metadata_bytes(const struct mnw_cache *cache) {
    return mnw__words_bytes(cache) + nodes_bytes(cache);
}

static int reserve_nodes(struct mnw_cache *cache) {
    struct mnw_pool *pool = cache->pool;
    struct mnw__pages *pages = &cache->pages;
    pages->extent_shift = mnw__log2(pool->extent_bytes / pool->page_bytes);
    pages->page_count = (cache->store->size_bytes - 1) / pool->page_bytes + 1;
    pages->extent_count = ((pages->page_count - 1) >> pages->extent_shift) + 1;
    if (pages->extent_count > MNW__POLICY_EXTENTS_MAX)
        return mnw__fail(-ENOSPC,
                         "cache: a store of %llu bytes has more than %u extents of %zu bytes; use a pool with "
                         "larger extents",
                         (unsigned long long)cache->store->size_bytes, MNW__POLICY_EXTENTS_MAX, pool->extent_bytes);
    cache->nodes = mnw__memory_reserve(nodes_bytes(cache));
    if (!cache->nodes)
        return mnw__fail(-ENOMEM,
                         "cache: no address space for %llu bytes of metadata; ulimit -v, or "
                         "vm.overcommit_memory, may forbid it",
                         (unsigned long long)mnw__cache_metadata_bytes(cache));
    mnw__policy_init(&cache->policy, pool->policy, cache->nodes, (uint32_t)pages->extent_count);
    return 0;
}

/* ---- opening ---- */

static uint64_t default_readahead(const struct mnw_pool *pool) {
    if (!pool->whole_extents)
        return READAHEAD_BYTES_DEFAULT;
    if (pool->backing == MNW_BACKING_GRADED)
        return READAHEAD_GRADED_DEFAULT;
    return mnw__max(READAHEAD_HUGE_DEFAULT, READAHEAD_HUGE_PAGES * (uint64_t)pool->page_bytes);
}

static void set_options(struct mnw_cache *cache, const struct mnw_cache_options *given) {
    uint64_t page_bytes = cache->pool->page_bytes;
    uint64_t fill_bytes = cache->pool->whole_extents ? FILL_EXTENTS_BYTES_MAX : FILL_BYTES_MAX;

    cache->read_retries = given->read_retries == UINT32_MAX ? 0 : given->read_retries;
    if (!given->read_retries)
        cache->read_retries = RETRIES_DEFAULT;
    cache->retry_delay_ns =
        (given->retry_delay_ms ? given->retry_delay_ms : RETRY_DELAY_MS_DEFAULT) * (uint64_t)1000000;
    cache->deadline_ns = (given->read_deadline_ms ? given->read_deadline_ms : DEADLINE_MS_DEFAULT) * (uint64_t)1000000;
    uint64_t readahead = given->readahead_bytes;
    if (!readahead)
        readahead = default_readahead(cache->pool);
    if (given->readahead_bytes == UINT64_MAX)
        readahead = 0;
    /* A window of more than a quarter of the budget would evict itself. */
    readahead = mnw__min(readahead, atomic_load(&cache->pool->budget) / 4);
    cache->readahead_pages = (uint32_t)mnw__min(readahead / page_bytes, UINT32_MAX);
    cache->around_pages = (uint32_t)(given->read_around_bytes / page_bytes);
    cache->fill_pages_max = (uint32_t)mnw__max(fill_bytes / page_bytes, 1);
    cache->demand_pages_max = (uint32_t)mnw__max(DEMAND_BYTES_MAX / page_bytes, 1);
}

static int open_backing(struct mnw_cache *cache, const struct mnw_kept *kept) {
    struct mnw_pool *pool = cache->pool;
    uint64_t size_bytes = cache->store->size_bytes;
    int error = kept ? mnw__backing_adopt(&cache->backing, pool->backing, size_bytes, kept->backing_fd)
                     : mnw__backing_create(&cache->backing, pool->backing, size_bytes);
    if (error)
        return error;
    atomic_store(&cache->policy_changes, atomic_load(&pool->nodes_now.changes));
    /* A shmem file's own policy counts more than the allocating thread's; one that was kept may have another. */
    if (pool->numa != MNW_NUMA_LOCAL || kept)
        error = mnw__place_set_policy(cache);
    if (error) {
        mnw__backing_destroy(&cache->backing);
        return mnw__fail(error, "cache: the NUMA policy could not be set on its backing (error %d)", -error);
    }
    return 0;
}

static void link_cache(struct mnw_cache *cache) {
    struct mnw_pool *pool = cache->pool;
    mnw__mutex_lock(&pool->lock);
    cache->next = pool->caches;
    pool->caches = cache;
    mnw__mutex_unlock(&pool->lock);
}

static void unlink_cache(struct mnw_cache *cache) {
    struct mnw_pool *pool = cache->pool;
    mnw__mutex_lock(&pool->lock);
    struct mnw_cache **link = &pool->caches;
    while (*link != cache)
        link = &(*link)->next;
    *link = cache->next;
    for (unsigned i = 0; i < MNW__COUNTER_COUNT; i++)
        mnw__count(&pool->retired, (enum mnw__counter)i, atomic_load(&cache->counters.values[i]));
    mnw__mutex_unlock(&pool->lock);
}

/* From here on the pool knows the cache, and nobody else does. */
static void leave_pool(struct mnw_cache *cache) {
    unlink_cache(cache);
    while (atomic_load_explicit(&cache->evicting, memory_order_acquire))
        mnw__sleep_ns(100000);
}

static void give_charge_back(struct mnw_pool *pool, uint64_t bytes) {
    mnw__pool_uncharge(pool, bytes);
    mnw__pool_progress(pool);
}

/* What it holds already becomes the pool's; where that is over the budget, something has to go. */
static int join_pool(struct mnw_cache *cache) {
    bool may_evict = !mnw__cache_is_copied(cache);
    uint64_t held = atomic_load(&cache->charged);
    link_cache(cache);
    int error = held ? mnw__pool_take_over(cache->pool, held, may_evict) : 0;
    if (error) {
        leave_pool(cache);
        give_charge_back(cache->pool, atomic_load(&cache->charged));
    }
    return error;
}

/* Everything that begins without memory and threads. */
static int open_parts(struct mnw_cache *cache, const struct mnw_cache_options *options) {
    int error = reserve_nodes(cache);
    if (error)
        return error;
    error = open_backing(cache, options->kept);
    if (error)
        goto release;
    error = mnw__words_open(cache, options);
    if (error)
        goto destroy;
    error = mnw__samples_open(cache);
    if (!error)
        return 0;
    mnw__words_close(cache);
destroy:
    mnw__backing_destroy(&cache->backing);
release:
    mnw__memory_release(cache->nodes, nodes_bytes(cache));
    return error;
}

static void close_parts(struct mnw_cache *cache) {
    mnw__backing_destroy(&cache->backing);
    /* The words last: their lock tells others that we are done with both. */
    mnw__words_close(cache);
    mnw__samples_close(cache);
    mnw__memory_release(cache->nodes, nodes_bytes(cache));
    mnw__mutex_destroy(&cache->policy_lock);
    mnw__mutex_destroy(&cache->views_lock);
    free(cache);
}

int mnw__cache_open(struct mnw_cache **out, struct mnw_pool *pool, struct mnw_store *store,
                    const struct mnw_cache_options *options, struct mnw__members *members, int node) {
    struct mnw_cache *cache = calloc(1, sizeof(*cache));
    if (!cache)
        return mnw__fail(-ENOMEM, "cache: out of memory");
    cache->pool = pool;
    cache->store = store;
    cache->members = members;
    cache->member_index = members ? members->count : 0;
    cache->node = node;
    set_options(cache, options);
    int error = open_parts(cache, options);
    if (error) {
        free(cache);
        return error;
    }
    cache->first_turn = atomic_fetch_add(&pool->turns_given, cache->pages.extent_count);
    mnw__mutex_init(&cache->policy_lock);
    mnw__mutex_init(&cache->views_lock);
    error = options->kept ? mnw__adopt(cache, options->kept->words_fd >= 0) : 0;
    if (!error)
        error = join_pool(cache);
    if (error) {
        close_parts(cache);
        return error;
    }
    atomic_fetch_add(&store->users, 1);
    *out = cache;
    return 0;
}

void mnw__cache_kept(const struct mnw_cache *cache, struct mnw_kept *kept) {
    kept->backing_fd = cache->backing.fd;
    kept->words_fd = cache->kept.memory ? cache->kept.fd : -1;
}

/* ---- closing ---- */

static int refuse_if_used(struct mnw_cache *cache) {
    mnw__mutex_lock(&cache->views_lock);
    bool viewed = false;
    for (const struct mnw_view *view = cache->views; view; view = view->next)
        viewed |= !mnw__remote_is_sealed(view);
    mnw__mutex_unlock(&cache->views_lock);
    if (viewed)
        return mnw__fail(-EBUSY, "cache: a view of it is still open; close it first");
    if (atomic_load(&cache->jobs_active))
        return mnw__fail(-EBUSY, "cache: a prefetch or a pin is still running in it; cancel it, or wait");
    if (atomic_load(&cache->pinned_extents))
        return mnw__fail(-EBUSY, "cache: %llu extents are still pinned; unpin them first",
                         (unsigned long long)atomic_load(&cache->pinned_extents));
    return 0;
}

/* Reads in flight write into the backing: they must end before it goes. */
static int wait_for_fills(struct mnw_cache *cache) {
    uint64_t pause_ns = 200000, end_ns = mnw__clock_ns() + cache->deadline_ns + cache->deadline_ns / 4;
    while (atomic_load_explicit(&cache->fills_active, memory_order_acquire)) {
        if (mnw__clock_ns() > end_ns)
            return mnw__fail(-EBUSY,
                             "cache: the store has not answered %u reads within their deadline; it must answer "
                             "them before the cache can close",
                             atomic_load(&cache->fills_active));
        mnw__sleep_ns(pause_ns);
    }
    return 0;
}

int mnw__cache_is_closable(struct mnw_cache *cache) {
    int error = refuse_if_used(cache);
    return error ? error : wait_for_fills(cache);
}

void mnw__cache_close(struct mnw_cache *cache) {
    leave_pool(cache);
    mnw__remote_end_sealed(cache);
    struct mnw_pool *pool = cache->pool;
    uint64_t charged = atomic_load(&cache->charged);
    atomic_fetch_sub(&cache->store->users, 1);
    close_parts(cache);
    give_charge_back(pool, charged); /* last: whoever is charged next takes memory that is free */
}
