/* SPDX-License-Identifier: MIT */
#include "engine/pool.h"

#include "base/bits.h"
#include "base/error.h"
#include "engine/cache.h"
#include "engine/fault.h"
#include "engine/inline.h"
#include "engine/rebalance.h"
#include "engine/reclaim.h"
#include "sys/backing.h"
#include "sys/memory.h"
#include "sys/numa.h"
#include "sys/poller.h"
#include "sys/uffd.h"

#include <errno.h>
#include <stdlib.h>

#define EXTENT_BYTES_DEFAULT (64u << 10)
/* The 16 bytes kept per extent are 2 per page then, and with the page words all is below 8. */
#define EXTENT_PAGES_MIN 8
#define EXTENT_BYTES_MAX (2u << 20)
#define RECENCY_DEFAULT  20000
/* The reclaimer keeps this share of the budget free; of few large extents, a whole one would be too much. */
#define LOW_SHARE    64
#define HIGH_SHARE   32
#define MANY_EXTENTS 32

/* ---- the budget ---- */

uint64_t mnw__pool_budget_min(const struct mnw_pool *pool) {
    return (uint64_t)pool->thread_count * pool->extent_bytes;
}

/* A share of the budget in whole extents; of a budget of many, at least `least` of them. */
static uint64_t keep_free(const struct mnw_pool *pool, uint64_t share, uint64_t least) {
    uint64_t budget = atomic_load_explicit(&pool->budget, memory_order_relaxed);
    uint64_t bytes = mnw__align_down(budget / share, pool->extent_bytes);
    return budget / pool->extent_bytes < MANY_EXTENTS ? bytes : mnw__max(bytes, least * pool->extent_bytes);
}

uint64_t mnw__pool_bound_bytes(const struct mnw_pool *pool) {
    uint64_t bytes = atomic_load(&pool->pinned);
    for (const struct mnw_cache *cache = pool->caches; cache; cache = cache->next)
        if (mnw__cache_is_copied(cache))
            bytes += cache->backing.size_bytes;
    return bytes;
}

uint64_t mnw__pool_low_bytes(const struct mnw_pool *pool) {
    return keep_free(pool, LOW_SHARE, 2);
}

uint64_t mnw__pool_high_bytes(const struct mnw_pool *pool) {
    return keep_free(pool, HIGH_SHARE, 3);
}

static void want_reclaim(struct mnw_pool *pool) {
    if (!atomic_exchange_explicit(&pool->reclaim_wanted, true, memory_order_acq_rel))
        mnw__poller_kick(pool->reclaimer_poller);
}

static void note_most(struct mnw_pool *pool, uint64_t charged) {
    uint64_t most = atomic_load_explicit(&pool->charged_max, memory_order_relaxed);
    while (most < charged && !atomic_compare_exchange_weak(&pool->charged_max, &most, charged))
        ;
}

bool mnw__pool_charge(struct mnw_pool *pool, uint64_t bytes) {
    uint64_t budget = atomic_load(&pool->budget), charged = atomic_load(&pool->charged);
    do {
        if (charged + bytes > budget)
            return false;
    } while (!atomic_compare_exchange_weak(&pool->charged, &charged, charged + bytes));
    charged += bytes;
    if (charged > atomic_load(&pool->budget)) { /* it shrank meanwhile */
        mnw__pool_uncharge(pool, bytes);
        return false;
    }
    note_most(pool, charged);
    if (budget - charged < mnw__pool_low_bytes(pool) &&
        !atomic_load_explicit(&pool->reclaim_wanted, memory_order_relaxed))
        want_reclaim(pool);
    return true;
}

void mnw__pool_uncharge(struct mnw_pool *pool, uint64_t bytes) {
    atomic_fetch_sub(&pool->charged, bytes);
}

void mnw__pool_progress(struct mnw_pool *pool) {
    atomic_fetch_add(&pool->progress, 1);
    if (!atomic_load(&pool->starving))
        return;
    for (unsigned i = 0; i < pool->thread_count; i++)
        mnw__fault_thread_kick(&pool->threads[i]);
}

/* One change of the budget at a time. It waits for memory, so it is no lock: signals stay as they are. */
static void begin_turn(struct mnw_pool *pool) {
    mnw__mutex_lock(&pool->lock);
    while (pool->is_changing_budget)
        mnw__condition_wait(&pool->changed, &pool->lock, INT64_MAX);
    pool->is_changing_budget = true;
    mnw__mutex_unlock(&pool->lock);
}

static void end_turn(struct mnw_pool *pool) {
    mnw__mutex_lock(&pool->lock);
    pool->is_changing_budget = false;
    mnw__condition_wake_all(&pool->changed);
    mnw__mutex_unlock(&pool->lock);
}

/* Evicts, and waits for fills to end, until the budget holds. */
static int shrink_to_budget(struct mnw_pool *pool) {
    uint64_t waited_ns = 0, pause_ns = 100000;
    for (;;) {
        uint64_t charged = atomic_load(&pool->charged), budget = atomic_load(&pool->budget);
        if (charged <= budget)
            return 0;
        if (mnw__reclaim(pool, charged - budget, false))
            continue;
        if (waited_ns > 2000000000ull)
            return -EBUSY;
        mnw__sleep_ns(pause_ns);
        waited_ns += pause_ns;
    }
}

int mnw__pool_take_over(struct mnw_pool *pool, uint64_t bytes, bool may_evict) {
    begin_turn(pool);
    uint64_t charged = atomic_fetch_add(&pool->charged, bytes) + bytes, budget = atomic_load(&pool->budget);
    int error = 0;
    if (charged > budget)
        error = may_evict ? shrink_to_budget(pool) : -ENOSPC;
    if (!error)
        note_most(pool, mnw__min(charged, budget));
    end_turn(pool);
    if (!error)
        return 0;
    return mnw__fail(-ENOSPC,
                     "cache: %llu bytes are kept, which with what the pool holds already are more than its budget of "
                     "%llu; raise it, or open the cache afresh",
                     (unsigned long long)bytes, (unsigned long long)budget);
}

/* In its turn: the next one sees what this one left. */
static int change_budget(struct mnw_pool *pool, uint64_t budget_bytes, uint64_t least) {
    /* Pins look at the budget and add to what is pinned under the same lock: none slips through. */
    mnw__mutex_lock(&pool->lock);
    uint64_t before = atomic_exchange(&pool->budget, budget_bytes);
    bool shrinks = budget_bytes < before, fits = mnw__pool_bound_bytes(pool) + least <= budget_bytes;
    mnw__mutex_unlock(&pool->lock);
    int error = 0;
    if (shrinks)
        error = fits ? shrink_to_budget(pool) : -EBUSY;
    if (error) {
        atomic_store(&pool->budget, before);
        return mnw__fail(
            error, "budget: pins, caches with writers and reads in flight hold more than %llu bytes; it stays %llu",
            (unsigned long long)budget_bytes, (unsigned long long)before);
    }
    mnw__pool_progress(pool);
    return 0;
}

/* Of huge pages only those that we do not have yet must be free. */
static int check_growth(const struct mnw_pool *pool, uint64_t budget_bytes) {
    if (pool->numa != MNW_NUMA_BIND || budget_bytes <= atomic_load(&pool->budget))
        return 0;
    uint64_t have = mnw__backing_is_hugetlb(pool->backing) ? mnw__min(atomic_load(&pool->charged), budget_bytes) : 0;
    return mnw__backing_check_nodes(pool->backing, budget_bytes - have, mnw__nodes_now(pool));
}

int mnw__pool_set_budget(struct mnw_pool *pool, uint64_t budget_bytes) {
    uint64_t least = mnw__pool_budget_min(pool), pinned = atomic_load(&pool->pinned);
    if (budget_bytes < least)
        return mnw__fail(-EINVAL,
                         "budget: %llu bytes are below one extent of %zu bytes for each of %u fault threads; "
                         "at least %llu are needed",
                         (unsigned long long)budget_bytes, pool->extent_bytes, pool->thread_count,
                         (unsigned long long)least);
    if (budget_bytes < atomic_load(&pool->budget) && pinned + least > budget_bytes)
        return mnw__fail(-EBUSY,
                         "budget: %llu bytes are pinned, which with one extent for each fault thread is more "
                         "than %llu; unpin first",
                         (unsigned long long)pinned, (unsigned long long)budget_bytes);
    begin_turn(pool);
    int error = check_growth(pool, budget_bytes);
    if (!error)
        error = change_budget(pool, budget_bytes, least);
    end_turn(pool);
    return error;
}

/* ---- opening ---- */

static int choose_extent(struct mnw_pool *pool, uint64_t wanted) {
    pool->page_bytes = mnw__backing_page_bytes(pool->backing);
    size_t forced = mnw__backing_extent_bytes(pool->backing);
    pool->whole_extents = forced != 0;
    if (forced / pool->page_bytes > MNW__EXTENT_PAGES_MAX)
        return mnw__fail(-EOPNOTSUPP, "pool: this machine's huge pages of %zu bytes have more than %d base pages",
                         forced, MNW__EXTENT_PAGES_MAX);
    if (forced) {
        if (wanted && wanted != forced)
            return mnw__fail(-EINVAL, "pool: extents of this backing are %zu bytes; extent_bytes must be 0 or that",
                             forced);
        pool->extent_bytes = forced;
        return 0;
    }
    uint64_t least = EXTENT_PAGES_MIN * pool->page_bytes;
    uint64_t most = mnw__max(least, EXTENT_BYTES_MAX);
    if (wanted && (!mnw__is_power_of_two(wanted) || wanted < least || wanted > most))
        return mnw__fail(-EINVAL, "pool: extent_bytes %llu must be a power of two from %llu to %llu",
                         (unsigned long long)wanted, (unsigned long long)least, (unsigned long long)most);
    pool->extent_bytes = wanted ? wanted : mnw__max(least, EXTENT_BYTES_DEFAULT);
    return 0;
}

static int check_uffd(struct mnw_pool *pool, const struct mnw_pool_options *options) {
    struct mnw__uffd_probe probe;
    int error = mnw__uffd_probe(&probe);
    if (error)
        return error;
    if (probe.door == MNW__UFFD_DOOR_USER_ONLY && !options->user_faults_only)
        return mnw__fail(-EPERM, "pool: this process may only watch faults of user code, and system calls given an "
                                 "untouched pointer would fail with EFAULT; sysctl vm.unprivileged_userfaultfd=1, or "
                                 "access to /dev/userfaultfd, or accept it by the option user_faults_only");
    bool huge = mnw__backing_is_hugetlb(pool->backing);
    uint64_t needed = huge ? MNW__UFFD_MINOR_HUGETLBFS | MNW__UFFD_MISSING_HUGETLBFS
                           : MNW__UFFD_MINOR_SHMEM | MNW__UFFD_MISSING_SHMEM;
    if ((probe.features & needed) != needed)
        return mnw__fail(-ENOSYS, "pool: this kernel's userfaultfd has no minor faults for %s; Linux %s is needed",
                         huge ? "hugetlbfs" : "shmem", huge ? "5.13" : "5.14");
    pool->has_poison = probe.features & MNW__UFFD_POISON;
    return 0;
}

static int check_memory(const struct mnw_pool *pool, uint64_t bytes) {
    int error = mnw__backing_check(pool->backing, bytes);
    if (!error && pool->numa == MNW_NUMA_BIND)
        error = mnw__backing_check_nodes(pool->backing, bytes, pool->nodes);
    return error;
}

/*
 * Under interleave minnow chooses the node itself, extent by extent, where nodes have weights, and where memory comes
 * by extents: a turn of the kernel's belongs to a thread there, not to an offset.
 */
static int choose_nodes(struct mnw_pool *pool, const struct mnw_pool_options *options) {
    uint8_t weights[MNW_NODES_MAX];
    bool is_weighted = false;
    int error = mnw__numa_parse(options->nodes, &pool->nodes, weights);
    if (error)
        return error;
    for (uint64_t left = pool->nodes; left; left &= left - 1)
        is_weighted |= weights[__builtin_ctzll(left)] != weights[__builtin_ctzll(pool->nodes)];
    if (is_weighted && pool->numa != MNW_NUMA_INTERLEAVE)
        return mnw__fail(-EINVAL, "pool: NUMA nodes \"%s\": only the policy interleave has weights", options->nodes);
    mnw__nodes_open(pool, options->nodes != NULL);
    mnw__numa_of_cpus(pool->node_of_cpu, MNW__PLACE_CPUS);
    if (pool->numa == MNW_NUMA_INTERLEAVE && (is_weighted || pool->whole_extents))
        error = mnw__turns_init(&pool->turns, pool->nodes, weights);
    return error ? mnw__fail(error, "pool: out of memory") : 0;
}

static int check_options(struct mnw_pool *pool, const struct mnw_pool_options *options) {
    if ((unsigned)options->backing > MNW_BACKING_HUGETLB_1G)
        return mnw__fail(-EINVAL, "pool: unknown backing %u", (unsigned)options->backing);
    if ((unsigned)options->numa > MNW_NUMA_PREFERRED)
        return mnw__fail(-EINVAL, "pool: unknown NUMA policy %u", (unsigned)options->numa);
    if ((unsigned)options->policy > MNW_POLICY_CLOCK)
        return mnw__fail(-EINVAL, "pool: unknown eviction policy %u", (unsigned)options->policy);
    if ((unsigned)options->io_mode > MNW_IO_THREADS)
        return mnw__fail(-EINVAL, "pool: unknown I/O mode %u", (unsigned)options->io_mode);
    if (options->reads_in_flight > MNW__FILL_SLOTS_MAX)
        return mnw__fail(-EINVAL, "pool: reads_in_flight %u is more than %u", options->reads_in_flight,
                         MNW__FILL_SLOTS_MAX);
    if (options->fault_threads_per_node > 64)
        return mnw__fail(-EINVAL, "pool: %u fault threads per node are more than 64", options->fault_threads_per_node);
    if (options->rebalance_bytes_per_second && options->numa != MNW_NUMA_LOCAL)
        return mnw__fail(-EINVAL, "pool: rebalancing moves memory to those who use it, and the NUMA policy puts it "
                                  "elsewhere; use MNW_NUMA_LOCAL, or rebalance_bytes_per_second 0");
    pool->backing = options->backing;
    pool->numa = options->numa;
    pool->policy = options->policy == MNW_POLICY_CLOCK ? &mnw__policy_clock : &mnw__policy_s3fifo;
    pool->recency_faults_per_second =
        options->recency_faults_per_second ? options->recency_faults_per_second : RECENCY_DEFAULT;
    int error = choose_extent(pool, options->extent_bytes);
    if (!error)
        error = choose_nodes(pool, options);
    if (error)
        return error;
    unsigned per_node = options->fault_threads_per_node ? options->fault_threads_per_node : 1;
    pool->thread_count = per_node * (unsigned)__builtin_popcountll(pool->nodes);
    if (options->budget_bytes < mnw__pool_budget_min(pool))
        return mnw__fail(-EINVAL,
                         "pool: a budget of %llu bytes is below one extent of %zu bytes for each of %u fault "
                         "threads; at least %llu are needed",
                         (unsigned long long)options->budget_bytes, pool->extent_bytes, pool->thread_count,
                         (unsigned long long)mnw__pool_budget_min(pool));
    atomic_store(&pool->budget, options->budget_bytes);
    error = check_uffd(pool, options);
    return error ? error
                 : check_memory(pool, options->budget_bytes - mnw__min(options->kept_bytes, options->budget_bytes));
}

static void stop_threads(struct mnw_pool *pool) {
    atomic_store_explicit(&pool->stopping, true, memory_order_release);
    for (unsigned i = 0; i < pool->thread_count; i++)
        mnw__fault_thread_stop(&pool->threads[i]);
}

static void end_threads(struct mnw_pool *pool) {
    for (unsigned i = 0; i < pool->thread_count; i++)
        mnw__fault_thread_end(&pool->threads[i]);
}

static int start_fault_threads(struct mnw_pool *pool, const struct mnw_pool_options *options) {
    unsigned per_node = pool->thread_count / (unsigned)__builtin_popcountll(pool->nodes), index = 0;
    for (uint64_t nodes = pool->nodes; nodes; nodes &= nodes - 1) {
        for (unsigned i = 0; i < per_node; i++, index++) {
            int node = __builtin_ctzll(nodes);
            int error = mnw__fault_thread_start(&pool->threads[index], pool, index, node, options);
            if (error) {
                stop_threads(pool);
                end_threads(pool);
                return error;
            }
        }
    }
    return 0;
}

static int start(struct mnw_pool *pool, const struct mnw_pool_options *options) {
    int error = mnw__notices_init(&pool->notices);
    if (error)
        return error;
    error = mnw__poller_open(&pool->reclaimer_poller);
    if (error)
        goto close_notices;
    error = start_fault_threads(pool, options);
    if (error)
        goto close_poller;
    error = mnw__rebalance_start(pool, options->rebalance_bytes_per_second);
    if (!error)
        error = mnw__thread_start(&pool->reclaimer, "mnw-reclaim", -1, mnw__reclaim_run, pool);
    if (!error)
        return 0;
    stop_threads(pool);
    mnw__rebalance_stop(pool);
    end_threads(pool);
close_poller:
    mnw__poller_close(pool->reclaimer_poller);
close_notices:
    mnw__notices_deinit(&pool->notices);
    return error;
}

int mnw__pool_open(struct mnw_pool **out, const struct mnw_pool_options *options) {
    struct mnw_pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return mnw__fail(-ENOMEM, "pool: out of memory");
    int error = check_options(pool, options);
    if (error)
        goto free_pool;
    pool->threads = calloc(pool->thread_count, sizeof(*pool->threads));
    if (!pool->threads) {
        error = mnw__fail(-ENOMEM, "pool: out of memory");
        goto free_pool;
    }
    mnw__mutex_init(&pool->lock);
    mnw__condition_init(&pool->changed);
    mnw__survey_init(&pool->surveyor);
    error = start(pool, options);
    if (!error) {
        *out = pool;
        return 0;
    }
    mnw__survey_destroy(&pool->surveyor);
    mnw__condition_destroy(&pool->changed);
    mnw__mutex_destroy(&pool->lock);
    free(pool->threads);
free_pool:
    mnw__turns_destroy(&pool->turns);
    free(pool);
    return error;
}

int mnw__pool_close(struct mnw_pool *pool) {
    mnw__mutex_lock(&pool->lock);
    bool busy = pool->caches != NULL;
    mnw__mutex_unlock(&pool->lock);
    if (busy)
        return mnw__fail(-EBUSY, "pool: a cache is still open in it; close it first");
    stop_threads(pool);
    mnw__rebalance_stop(pool);
    mnw__poller_kick(pool->reclaimer_poller);
    mnw__thread_join(&pool->reclaimer);
    end_threads(pool);
    mnw__inline_pool_closed(pool);
    mnw__job_sweep(pool);
    mnw__poller_close(pool->reclaimer_poller);
    mnw__notices_deinit(&pool->notices);
    mnw__survey_destroy(&pool->surveyor);
    mnw__condition_destroy(&pool->changed);
    mnw__mutex_destroy(&pool->lock);
    free(pool->threads);
    mnw__turns_destroy(&pool->turns);
    free(pool);
    return 0;
}
