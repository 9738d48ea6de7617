/* SPDX-License-Identifier: MIT */
/*
 * Jobs: ranges being brought in on request (prefetch, and the reads of a pin).
 *
 * Owns: the pool's job table. A job is taken and cancelled under the pool's lock, advanced by one fault
 * thread, and ended by whoever brings `running` to zero: that count is one for the job not being begun to
 * the end, and one for each fill in flight.
 */
#ifndef MNW_ENGINE_JOB_H
#define MNW_ENGINE_JOB_H

#include "minnow/minnow.h"
#include "policy/working_set.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mnw_pool;
struct mnw_cache;
struct mnw__fault_thread;

enum { MNW__JOB_COUNT = 128, MNW__JOB_PREFETCHES = 64 };

enum mnw__job_state {
    MNW__JOB_FREE,
    MNW__JOB_RUNNING,
    MNW__JOB_ENDED, /* somebody waits, and frees it */
};

struct mnw__job {
    _Atomic uint32_t state;
    bool is_prefetch; /* it has an event; otherwise somebody waits for it */
    int64_t id;
    uint64_t cookie;
    struct mnw_cache *cache;
    struct mnw__fault_thread *thread;
    uint64_t first_page, end_page;
    struct mnw__run *runs; /* what of it is wanted, in order; NULL: all. Stays until the slot is used anew or swept */
    uint64_t run_count;
    uint64_t next_page;  /* the fault thread's */
    int node;            /* of whoever asked for it: where its memory belongs under MNW_NUMA_LOCAL */
    bool is_begun;       /* the fault thread's: every part of it has been begun */
    uint64_t stalled_ns; /* the fault thread's: since when nothing could be begun; 0: it could */
    bool is_starved;     /* the fault thread's, until it has ended: given up for want of memory */
    _Atomic uint32_t running;
    _Atomic uint64_t pages_failed;
    _Atomic bool cancelled;
};

/* Starts a prefetch: its id, or -EAGAIN. */
int64_t mnw__job_prefetch(struct mnw_cache *cache, uint64_t page, uint64_t count, uint64_t cookie);
/*
 * The same for the runs alone, in order and apart from each other, at least one. Takes the array over (from malloc),
 * unless it fails.
 */
int64_t mnw__job_prefetch_runs(struct mnw_cache *cache, struct mnw__run *runs, uint64_t run_count, uint64_t cookie);
int mnw__job_cancel(struct mnw_pool *pool, int64_t id);
/* Brings a range in and waits: 0, -EIO when a page failed, -ENOMEM when none could be had for long. Not on a thread of
 * the pool. */
int mnw__job_read(struct mnw_cache *cache, uint64_t page, uint64_t count);

enum mnw__job_more {
    MNW__JOB_MORE_NONE,  /* nothing to do until a fill ends or a job comes */
    MNW__JOB_MORE_LATER, /* something stands in the way: look again after a while */
    MNW__JOB_MORE_SOON,  /* enough for one visit; faults first */
};
/* On the fault thread, under its lock: begins what it can of the jobs given to it. */
enum mnw__job_more mnw__job_advance(struct mnw__fault_thread *thread);
/* One of its fills ended. Any thread. */
void mnw__job_fill_ended(struct mnw__job *job, uint64_t pages_failed);
/* An event of a prefetch was taken by the embedder: another one may start. */
void mnw__job_event_taken(struct mnw_pool *pool);
/* Frees the runs of jobs that have ended. Not on a thread of the pool: those never call the allocator. */
void mnw__job_sweep(struct mnw_pool *pool);

#endif
