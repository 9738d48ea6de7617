/* SPDX-License-Identifier: MIT */
#include "engine/job.h"

#include "engine/cache.h"
#include "engine/fault.h"
#include "engine/fill.h"
#include "engine/member.h"
#include "engine/pool.h"
#include "sys/numa.h"

#include <errno.h>
#include <stdlib.h>

/* What one visit may do before faults come first again. */
#define FILLS_PER_VISIT 16
#define PAGES_PER_VISIT 65536

/* ---- starting and ending ---- */

static struct mnw__job *find_free(struct mnw_pool *pool) {
    for (unsigned i = 0; i < MNW__JOB_COUNT; i++)
        if (atomic_load(&pool->jobs[i].state) == MNW__JOB_FREE)
            return &pool->jobs[i];
    return NULL;
}

/*
 * Under the pool's lock; what the slot held before is in `*stale`, to be freed when that lock is not held: a handler
 * that interrupted the allocator may be waiting for a fault, and the fault for the lock.
 */
static struct mnw__job *start(struct mnw_cache *cache, uint64_t page, uint64_t count, struct mnw__run *runs,
                              uint64_t run_count, bool is_prefetch, uint64_t cookie, struct mnw__run **stale) {
    struct mnw_pool *pool = cache->pool;
    struct mnw__job *job = find_free(pool);
    if (!job)
        return NULL;
    job->is_prefetch = is_prefetch;
    job->id = ++pool->job_sequence;
    job->cookie = cookie;
    job->cache = cache;
    job->thread = &pool->threads[(uint64_t)job->id % pool->thread_count];
    job->first_page = job->next_page = page;
    job->end_page = page + count;
    *stale = job->runs;
    job->runs = runs;
    job->run_count = run_count;
    job->node = mnw__numa_here();
    job->is_begun = false;
    job->stalled_ns = 0;
    job->is_starved = false;
    atomic_store(&job->running, 1);
    atomic_store(&job->pages_failed, 0);
    atomic_store(&job->cancelled, false);
    atomic_fetch_add(&cache->jobs_active, 1);
    atomic_store_explicit(&job->state, MNW__JOB_RUNNING, memory_order_release);
    atomic_fetch_add(&job->thread->jobs_waiting, 1);
    mnw__fault_thread_kick(job->thread);
    return job;
}

static struct mnw_event event_of(const struct mnw__job *job) {
    const struct mnw_cache *cache = job->cache;
    uint64_t failed = atomic_load(&job->pages_failed);
    return (struct mnw_event){
        .kind = MNW_EVENT_PREFETCH,
        .result = atomic_load(&job->cancelled) ? -ECANCELED
                  : failed                     ? -EIO
                                               : 0,
        .cache = mnw__member_first(job->cache),
        .offset = mnw__cache_page_offset(cache, job->first_page),
        .length = mnw__cache_page_offset(cache, job->end_page - job->first_page),
        .cookie = job->cookie,
        .pages_failed = failed,
    };
}

/*
 * One part less is running; the last one ends the job. It has ended when the event comes: the cache may then be
 * closed at once. (Pool and cache stay: the caller is a fault thread, or holds a fill of the cache.)
 */
static void part_ended(struct mnw__job *job) {
    struct mnw_cache *cache = job->cache;
    struct mnw_pool *pool = cache->pool;
    if (atomic_fetch_sub(&job->running, 1) != 1)
        return;
    mnw__mutex_lock(&pool->lock);
    bool is_prefetch = job->is_prefetch;
    struct mnw_event event = event_of(job);
    atomic_store(&job->state, is_prefetch ? MNW__JOB_FREE : MNW__JOB_ENDED);
    atomic_fetch_sub(&cache->jobs_active, 1);
    mnw__condition_wake_all(&pool->changed);
    mnw__mutex_unlock(&pool->lock);
    if (is_prefetch)
        mnw__notices_add(&pool->notices, &event);
}

void mnw__job_fill_ended(struct mnw__job *job, uint64_t pages_failed) {
    struct mnw__fault_thread *thread = job->thread;
    atomic_fetch_add(&job->pages_failed, pages_failed);
    part_ended(job);
    if (atomic_load(&thread->jobs_waiting))
        mnw__fault_thread_kick(thread);
}

/* ---- on the fault thread ---- */

/* The first run of the job that ends behind `page`. */
static const struct mnw__run *run_at(const struct mnw__job *job, uint64_t page) {
    uint64_t low = 0, high = job->run_count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (job->runs[middle].first + job->runs[middle].count <= page)
            low = middle + 1;
        else
            high = middle;
    }
    return &job->runs[low];
}

/* Passes over what is not wanted; the end of what is wanted from there on. The job is not at its end. */
static uint64_t find_wanted(struct mnw__job *job) {
    if (!job->runs)
        return job->end_page;
    const struct mnw__run *run = run_at(job, job->next_page);
    if (job->next_page < run->first)
        job->next_page = run->first;
    return run->first + run->count;
}

static uint64_t count_left(struct mnw__job *job) {
    uint64_t count = 0;
    while (job->next_page < job->end_page) {
        uint64_t end = find_wanted(job);
        count += end - job->next_page;
        job->next_page = end;
    }
    return count;
}

/* Nothing could be begun, `starved`: for want of memory. After some deadlines' worth of that the job is hopeless. */
static enum mnw__job_more stall(struct mnw__job *job, bool starved) {
    uint64_t now_ns = mnw__clock_ns();
    if (!job->stalled_ns)
        job->stalled_ns = now_ns;
    if (atomic_load(&job->running) > 1 || now_ns - job->stalled_ns < MNW__STARVED_DEADLINES * job->cache->deadline_ns)
        return MNW__JOB_MORE_LATER;
    job->is_starved = starved;
    atomic_fetch_add(&job->pages_failed, count_left(job));
    return MNW__JOB_MORE_NONE;
}

static enum mnw__job_more advance(struct mnw__fault_thread *thread, struct mnw__job *job) {
    struct mnw_cache *cache = job->cache;
    unsigned fills = 0, pages = 0;
    mnw__place_for_node(&thread->place, job->node);
    while (job->next_page < job->end_page && !atomic_load(&job->cancelled)) {
        uint32_t begun = 1;
        uint64_t end = find_wanted(job);
        if (fills == FILLS_PER_VISIT || pages++ == PAGES_PER_VISIT)
            return MNW__JOB_MORE_SOON;
        switch (mnw__page_state(mnw__page_load(&cache->pages, job->next_page))) {
        case MNW__PAGE_FAILED:
            atomic_fetch_add(&job->pages_failed, 1);
            break;
        case MNW__PAGE_PRESENT:
        case MNW__PAGE_FILLING:
            break; /* others have brought it, or will */
        case MNW__PAGE_ABSENT:
            if (!mnw__fill_has_spare_slots(thread))
                return stall(job, false);
            uint64_t left = end - job->next_page;
            enum mnw__begin result = mnw__fill_begin(thread, cache, NULL, job, job->next_page,
                                                     left < UINT32_MAX ? (uint32_t)left : UINT32_MAX, &begun);
            if (result != MNW__BEGIN_STARTED)
                return stall(job, result == MNW__BEGIN_STARVED);
            fills++;
            break;
        }
        job->stalled_ns = 0;
        job->next_page += begun;
    }
    return MNW__JOB_MORE_NONE;
}

/* The jobs of this thread that are not begun to their end. Only the thread itself can change that. */
static unsigned list_jobs(struct mnw__fault_thread *thread, struct mnw__job **jobs) {
    struct mnw_pool *pool = thread->pool;
    unsigned count = 0;
    mnw__mutex_lock(&pool->lock);
    for (unsigned i = 0; i < MNW__JOB_COUNT; i++) {
        struct mnw__job *job = &pool->jobs[i];
        if (atomic_load(&job->state) == MNW__JOB_RUNNING && job->thread == thread && !job->is_begun)
            jobs[count++] = job;
    }
    mnw__mutex_unlock(&pool->lock);
    return count;
}

enum mnw__job_more mnw__job_advance(struct mnw__fault_thread *thread) {
    struct mnw__job *jobs[MNW__JOB_COUNT];
    enum mnw__job_more more = MNW__JOB_MORE_NONE;
    unsigned count = list_jobs(thread, jobs);
    for (unsigned i = 0; i < count; i++) {
        struct mnw__job *job = jobs[i];
        enum mnw__job_more now = advance(thread, job);
        if (now > more)
            more = now;
        if (job->next_page == job->end_page || atomic_load(&job->cancelled)) {
            job->is_begun = true;
            atomic_fetch_sub(&thread->jobs_waiting, 1);
            part_ended(job);
        }
    }
    return more;
}

/* ---- for the api ---- */

static int64_t prefetch(struct mnw_cache *cache, uint64_t page, uint64_t count, struct mnw__run *runs,
                        uint64_t run_count, uint64_t cookie) {
    struct mnw_pool *pool = cache->pool;
    struct mnw__run *stale = NULL;
    int64_t id = -EAGAIN;
    mnw__mutex_lock(&pool->lock);
    if (pool->prefetches < MNW__JOB_PREFETCHES) {
        struct mnw__job *job = start(cache, page, count, runs, run_count, true, cookie, &stale);
        if (job) {
            pool->prefetches++;
            id = job->id;
        }
    }
    mnw__mutex_unlock(&pool->lock);
    free(stale);
    return id;
}

int64_t mnw__job_prefetch(struct mnw_cache *cache, uint64_t page, uint64_t count, uint64_t cookie) {
    return prefetch(cache, page, count, NULL, 0, cookie);
}

int64_t mnw__job_prefetch_runs(struct mnw_cache *cache, struct mnw__run *runs, uint64_t run_count, uint64_t cookie) {
    uint64_t end = runs[run_count - 1].first + runs[run_count - 1].count;
    return prefetch(cache, runs[0].first, end - runs[0].first, runs, run_count, cookie);
}

void mnw__job_event_taken(struct mnw_pool *pool) {
    mnw__mutex_lock(&pool->lock);
    pool->prefetches--;
    mnw__mutex_unlock(&pool->lock);
    mnw__job_sweep(pool);
}

void mnw__job_sweep(struct mnw_pool *pool) {
    struct mnw__run *stale[MNW__JOB_COUNT];
    unsigned count = 0;
    mnw__mutex_lock(&pool->lock);
    for (unsigned i = 0; i < MNW__JOB_COUNT; i++) {
        struct mnw__job *job = &pool->jobs[i];
        if (atomic_load(&job->state) != MNW__JOB_FREE || !job->runs)
            continue;
        stale[count++] = job->runs;
        job->runs = NULL;
    }
    mnw__mutex_unlock(&pool->lock);
    while (count)
        free(stale[--count]);
}

int mnw__job_cancel(struct mnw_pool *pool, int64_t id) {
    int error = -ENOENT;
    mnw__mutex_lock(&pool->lock);
    for (unsigned i = 0; i < MNW__JOB_COUNT; i++) {
        struct mnw__job *job = &pool->jobs[i];
        if (atomic_load(&job->state) != MNW__JOB_RUNNING || job->id != id || !job->is_prefetch)
            continue;
        atomic_store(&job->cancelled, true);
        mnw__fault_thread_kick(job->thread);
        error = 0;
    }
    mnw__mutex_unlock(&pool->lock);
    return error;
}

/* The first page from `page` on that is not PRESENT, or `end`. */
static uint64_t first_missing(const struct mnw_cache *cache, uint64_t page, uint64_t end) {
    while (page < end && mnw__page_state(mnw__page_load(&cache->pages, page)) == MNW__PAGE_PRESENT)
        page++;
    return page;
}

/* One job from start to end. -EIO: some pages it could not bring; -ENOMEM: for want of memory. */
static int run_job(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    struct mnw_pool *pool = cache->pool;
    struct mnw__job *job;
    struct mnw__run *stale = NULL;
    mnw__mutex_lock(&pool->lock);
    while (!(job = start(cache, page, count, NULL, 0, false, 0, &stale)))
        mnw__condition_wait(&pool->changed, &pool->lock, 10000000);
    while (atomic_load(&job->state) != MNW__JOB_ENDED)
        mnw__condition_wait(&pool->changed, &pool->lock, INT64_MAX);
    int error = job->is_starved ? -ENOMEM : atomic_load(&job->pages_failed) ? -EIO : 0;
    atomic_store(&job->state, MNW__JOB_FREE);
    mnw__mutex_unlock(&pool->lock);
    free(stale);
    return error;
}

/*
 * A job passes over pages that others are filling, so what is missing is looked for again. A page that stays
 * FILLING for longer than a read may take belongs to a read that the store does not answer.
 */
int mnw__job_read(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    uint64_t end = page + count, missing = page, stuck = UINT64_MAX, stuck_ns = 0;
    while ((missing = first_missing(cache, missing, end)) < end) {
        uint64_t now_ns = mnw__clock_ns();
        if (missing != stuck) {
            stuck = missing;
            stuck_ns = now_ns;
        } else if (now_ns - stuck_ns > cache->deadline_ns + cache->deadline_ns / 4) {
            return -EIO;
        }
        int error = run_job(cache, missing, end - missing);
        if (error)
            return error;
        if (mnw__page_state(mnw__page_load(&cache->pages, missing)) != MNW__PAGE_PRESENT)
            mnw__sleep_ns(200000);
    }
    return 0;
}
