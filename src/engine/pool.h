/* SPDX-License-Identifier: MIT */
/*
 * Pools: a budget, the threads that serve it, and the caches that share it.
 *
 * Owns: the fault threads, the reclaimer, the job table, the notices. Charging is lock-free and may be done
 * by any thread; `lock` guards lists, jobs and pins, and is never held over a system call on a view.
 */
#ifndef MNW_ENGINE_POOL_H
#define MNW_ENGINE_POOL_H

#include "engine/counters.h"
#include "engine/job.h"
#include "engine/nodes.h"
#include "engine/notice.h"
#include "engine/place.h"
#include "engine/survey.h"
#include "minnow/minnow.h"
#include "policy/policy.h"
#include "policy/turns.h"
#include "sys/thread.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mnw__fault_thread;
struct mnw__poller;
struct mnw__rebalance;

struct mnw_pool {
    /* fixed at open */
    uint32_t generation; /* the process it belongs to: mnw__memory_generation() */
    enum mnw_backing backing;
    enum mnw_numa numa;
    uint64_t nodes;                      /* those it has threads for; memory comes from nodes_now */
    struct mnw__turns turns;             /* interleave by our own choice; not built: the kernel's */
    int8_t node_of_cpu[MNW__PLACE_CPUS]; /* -1: none that we know */
    size_t page_bytes;
    size_t extent_bytes;
    bool whole_extents; /* memory comes and goes by extents, not by pages */
    bool has_poison;
    const struct mnw__policy_ops *policy;
    uint32_t recency_faults_per_second;
    struct mnw__fault_thread *threads;
    unsigned thread_count;

    /* the budget; charged <= budget at all times, but while set_budget shrinks it or a kept cache is taken over */
    _Atomic uint64_t budget, charged, charged_max, pinned;
    /* moves whenever memory or a read slot is given back: starved faults look again */
    _Atomic uint64_t progress;
    _Atomic uint32_t starving;        /* fault threads that have starved faults */
    _Atomic uint64_t spared_until_ns; /* reclaim.h: when an extent passed over may be evicted; 0: none was */
    _Atomic int64_t recency_credit;
    _Atomic uint64_t recency_refilled_ns;
    _Atomic uint64_t turns_given; /* extents of caches so far: the next one goes on from there */
    _Atomic uint32_t sealed;      /* children whose views are closed, and that live: remote_sealed.c */
    _Atomic uint32_t view_turn;   /* spreads views over fault threads */
    struct mnw__nodes nodes_now;

    struct mnw__thread reclaimer;
    struct mnw__poller *reclaimer_poller;
    _Atomic bool reclaim_wanted;
    _Atomic bool sweep_wanted; /* the reclaimer looks for memory that nobody was charged for */
    _Atomic bool stopping;
    _Atomic uint32_t sigbus_taken; /* inline.h: how often */

    struct mnw__mutex lock;
    struct mnw__condition changed;        /* with lock: a job ended, or a change of the budget */
    bool is_changing_budget;              /* lock: somebody evicts and waits for it */
    struct mnw_cache *caches;             /* lock */
    struct mnw__job jobs[MNW__JOB_COUNT]; /* lock, but see job.h */
    int64_t job_sequence;                 /* lock */
    unsigned prefetches;                  /* lock: running, or their event unread */
    struct mnw__counters retired;         /* lock: of closed caches */
    struct mnw__notices notices;
    struct mnw__surveyor surveyor;
    _Atomic uint64_t elsewhere[MNW_NODES_MAX]; /* pages that belonged to a node, and lie on another: it had no memory */
    struct mnw__rebalance *rebalance;          /* fixed at open; NULL: none */
};

/* The nodes that memory may come from now. */
static inline uint64_t mnw__nodes_now(const struct mnw_pool *pool) {
    return atomic_load_explicit(&pool->nodes_now.now, memory_order_relaxed);
}
/* False: memory lies where it must. */
static inline bool mnw__nodes_are_several(const struct mnw_pool *pool) {
    return atomic_load_explicit(&pool->nodes_now.are_several, memory_order_relaxed);
}

int mnw__pool_open(struct mnw_pool **pool, const struct mnw_pool_options *options);
int mnw__pool_close(struct mnw_pool *pool);
int mnw__pool_set_budget(struct mnw_pool *pool, uint64_t budget_bytes);
/* The least budget the pool can work with. */
uint64_t mnw__pool_budget_min(const struct mnw_pool *pool);

/* Takes bytes out of the budget; false when they are not there. Wakes the reclaimer when few remain. */
bool mnw__pool_charge(struct mnw_pool *pool, uint64_t bytes);
/*
 * Charges what a cache brings along, though it be more than is left; then evicts until the budget holds. -ENOSPC: it
 * does not fit, and nothing may be evicted for it; the caller gives the charge back.
 */
int mnw__pool_take_over(struct mnw_pool *pool, uint64_t bytes, bool may_evict);
void mnw__pool_uncharge(struct mnw_pool *pool, uint64_t bytes);
/* Memory or a read slot was given back: whoever starves looks again. */
void mnw__pool_progress(struct mnw_pool *pool);
/*
 * Bytes that no eviction gives back: pins, and caches whose writers' copies would be lost, as if they were whole. What
 * a pinned cache of that kind has counts twice. Under the pool's lock.
 */
uint64_t mnw__pool_bound_bytes(const struct mnw_pool *pool);
/* Bytes that the reclaimer keeps free: it starts below low and stops at high. */
uint64_t mnw__pool_low_bytes(const struct mnw_pool *pool);
uint64_t mnw__pool_high_bytes(const struct mnw_pool *pool);

#endif
