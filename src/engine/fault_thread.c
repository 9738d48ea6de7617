/* SPDX-License-Identifier: MIT */
/* The fault thread: waiting, reading events in batches, timers, attaching and detaching views. */
#include "base/bits.h"
#include "base/error.h"
#include "engine/cache.h"
#include "engine/fault.h"
#include "engine/inline.h"
#include "engine/job.h"
#include "engine/pool.h"
#include "engine/remote.h"
#include "sys/io.h"
#include "sys/memory.h"
#include "sys/numa.h"
#include "sys/poller.h"
#include "sys/uffd.h"

#include <errno.h>
#include <stdio.h>

/* A disk gains that far from single pages asked for at once (minnow-bench depths). */
#define READS_IN_FLIGHT_DEFAULT 128

#define TAGS_MAX 64
/* Batches of all the views that have events, before the thread looks who else has; each gets one at least. */
#define BATCHES_MAX 16
/* The watchdog: while there are events, and while there are none. */
#define WATCH_BUSY_NS 1000000000ull
#define WATCH_IDLE_NS 10000000000ull

/* ---- one batch of one view ---- */

struct batch {
    unsigned pending, mapped;
    uint64_t pages[MNW__UFFD_BATCH];
    bool is_mapped[MNW__UFFD_BATCH];
    int count;
    uint32_t faulter; /* of the last fault */
    struct lead {
        uint64_t page, count;
    } leads[MNW__UFFD_BATCH]; /* of each fault */
    bool works_ahead;         /* for a faulter, beside him */
};

/*
 * A wake walks every waiter of the descriptor, so a batch that was resolved whole is woken by one call. With
 * others still waiting in between, a wide wake would only send them round again: then page by page.
 */
static void wake_batch(struct mnw_view *view, const struct batch *batch) {
    if (!batch->mapped)
        return;
    if (!batch->pending) {
        uint64_t low = UINT64_MAX, high = 0;
        for (int i = 0; i < batch->count; i++) {
            low = mnw__min(low, batch->pages[i]);
            high = mnw__max(high, batch->pages[i]);
        }
        mnw__view_wake(view, low, high - low + 1);
        return;
    }
    for (int i = 0; i < batch->count; i++)
        if (batch->is_mapped[i])
            mnw__view_wake(view, batch->pages[i], 1);
}

/* The first of a batch is begun as soon as it is read. */
static void note_latency(struct mnw__fault_thread *thread, uint64_t begin_ns, bool is_first, bool ended) {
    struct mnw__latency *latency = thread->latency;
    uint64_t end_ns = ended ? mnw__clock_ns() : 0;
    if (is_first && ended) {
        mnw__histogram_add(&latency->first, end_ns - begin_ns);
        return;
    }
    mnw__histogram_add(&latency->queue, begin_ns - thread->batch_ns);
    if (!ended)
        return;
    mnw__histogram_add(&latency->map, end_ns - begin_ns);
    mnw__histogram_add(&latency->total, end_ns - thread->batch_ns);
}

static void serve_event(struct mnw__fault_thread *thread, struct mnw_view *view, const struct mnw__uffd_event *event,
                        bool wake, struct batch *batch) {
    uint64_t page;
    if (event->kind != MNW__UFFD_EV_FAULT)
        return;
    if (mnw__remote_is_sealed(view) || !mnw__view_page_at(view, event->address, &page)) {
        if (!view->remote || !mnw__remote_stray(view, event->address) ||
            !mnw__view_page_at(view, event->address, &page))
            return;
    }
    mnw__page_expect(&view->cache->pages, page);
    bool minor = event->flags & MNW__UFFD_FAULT_MINOR;
    mnw__count(&view->cache->counters, minor ? MNW__FAULTS_MINOR : MNW__FAULTS_MISSING, 1);
    mnw__record_note(&view->record, page);

    mnw__place_for_thread(&thread->place, event->thread_id);
    bool is_first = !batch->count;
    uint64_t begin_ns = is_first ? thread->batch_ns : mnw__clock_ns();
    struct mnw__readahead_plan plan;
    enum mnw__outcome outcome = mnw__fault_serve(thread, view, page, wake, &plan);
    note_latency(thread, begin_ns, is_first, outcome != MNW__OUTCOME_PENDING);
    if (plan.count)
        batch->works_ahead |= mnw__fault_read_ahead(thread, view, &plan);
    batch->works_ahead |= plan.lead_count > 0;
    batch->leads[batch->count] = (struct lead){plan.lead, plan.lead_count};
    batch->faulter = event->thread_id;
    batch->pages[batch->count] = page;
    batch->is_mapped[batch->count++] = outcome == MNW__OUTCOME_MAPPED;
    batch->mapped += outcome == MNW__OUTCOME_MAPPED;
    batch->pending += outcome == MNW__OUTCOME_PENDING;
}

/* One batch of events; false when there was none. */
static bool serve_batch(struct mnw__fault_thread *thread, struct mnw_view *view) {
    struct mnw__uffd_event events[MNW__UFFD_BATCH];
    int count = view->remote ? mnw__remote_read(view, events, MNW__UFFD_BATCH)
                             : mnw__uffd_read(view->uffd, events, MNW__UFFD_BATCH);
    if (count <= 0)
        return false;
    struct batch batch;
    batch.pending = batch.mapped = 0;
    batch.count = 0;
    batch.faulter = 0;
    batch.works_ahead = false;
    view->active = true;
    thread->batch_ns = mnw__clock_ns();
    thread->batch_progress = atomic_load(&thread->pool->progress);
    for (int i = 0; i < count; i++)
        serve_event(thread, view, &events[i], count == 1, &batch);
    if (count > 1)
        wake_batch(view, &batch);
    for (int i = 0; i < batch.count; i++)
        mnw__fault_map_lead(view, batch.leads[i].page, batch.leads[i].count);
    if (batch.works_ahead)
        mnw__follow_defer(&thread->follow, thread->batch_ns);
    else
        mnw__follow_note(&thread->follow, count == 1 ? batch.faulter : 0, thread->batch_ns);
    return true;
}

/* Starts the reads that were queued, and ends those that are done at once: their bytes were in memory. */
static void push_reads(struct mnw__fault_thread *thread) {
    if (!thread->io)
        return;
    do
        mnw__io_submit(thread->io);
    while (mnw__io_reap(thread->io) > 0);
}

/*
 * A consumer that faults again and again has its next event ready by the time the last one is resolved, at least
 * when it shares our CPU: looking again is cheaper than going round by epoll. The more others wait, the sooner they get
 * their turn.
 */
static void serve_view(struct mnw__fault_thread *thread, struct mnw_view *view, unsigned most) {
    unsigned batches = 0;
    for (; batches < most && serve_batch(thread, view); batches++)
        push_reads(thread);
    if (!batches && view->remote)
        mnw__remote_in_vain(view);
}

/* Whether or not the kernel has more of them: what was refused goes round only when that is known. */
static void serve_refused(struct mnw__fault_thread *thread, unsigned most) {
    for (struct mnw_view *view = thread->views; view; view = view->next_of_thread)
        if (mnw__remote_is_refused(view))
            serve_view(thread, view, most);
}

/* ---- the loop ---- */

static bool owns(const struct mnw__fault_thread *thread, const void *tag) {
    const struct mnw_view *view = thread->views;
    while (view && view != tag)
        view = view->next_of_thread;
    return view != NULL;
}

static void run_timers(struct mnw__fault_thread *thread, enum mnw__job_more more_jobs) {
    uint64_t now_ns = mnw__clock_ns();
    if (now_ns >= thread->timer_ns) {
        atomic_store(&thread->timer_ns, UINT64_MAX); /* retries begun below may set it sooner */
        mnw__fault_due(thread, mnw__fill_timers(thread, now_ns));
    }
    mnw__fault_retry_starved(thread, now_ns >= thread->starved_ns);
    thread->soon = more_jobs == MNW__JOB_MORE_SOON;
    if (more_jobs == MNW__JOB_MORE_LATER)
        mnw__fault_due(thread, now_ns + MNW__SCARCE_TICK_NS);
    bool active = false;
    for (struct mnw_view *view = thread->views; view; view = view->next_of_thread) {
        active |= view->active;
        if (view->remote && view->remote->parked)
            mnw__fault_due(thread, mnw__remote_resume(view, now_ns));
        thread->soon |= mnw__remote_is_refused(view);
    }
    if (active)
        thread->watch_ns = mnw__min(thread->watch_ns, now_ns + WATCH_BUSY_NS);
    if (now_ns >= thread->watch_ns) {
        thread->watch_ns = now_ns + WATCH_IDLE_NS;
        for (struct mnw_view *view = thread->views; view; view = view->next_of_thread)
            view->active = false;
        mnw__fault_watch(thread);
    }
}

static int64_t time_to_wait(const struct mnw__fault_thread *thread) {
    uint64_t due_ns = mnw__min(atomic_load(&thread->timer_ns), thread->watch_ns), now_ns = mnw__clock_ns();
    if (thread->soon)
        return 0;
    if (thread->starving)
        due_ns = mnw__min(due_ns, thread->starved_ns);
    return due_ns <= now_ns ? 0 : (int64_t)mnw__min(due_ns - now_ns, INT64_MAX - 1);
}

static void run(void *argument) {
    struct mnw__fault_thread *thread = argument;
    void *tags[TAGS_MAX];
    mnw__place_begin(thread);
    while (!atomic_load_explicit(&thread->pool->stopping, memory_order_acquire)) {
        if (!thread->soon)
            mnw__follow_give_way(&thread->follow);
        uint64_t detached = atomic_load(&thread->detached);
        int count = mnw__poller_wait(thread->poller, tags, TAGS_MAX, time_to_wait(thread));
        mnw__mutex_lock(&thread->lock);
        /* A view detached during the wait may still be among the tags. */
        unsigned most = (unsigned)mnw__max(count > 0 ? BATCHES_MAX / (unsigned)count : 0, 1);
        bool stale = detached != atomic_load(&thread->detached);
        for (int i = 0; i < count; i++)
            if (tags[i] != thread->io && (!stale || owns(thread, tags[i])))
                serve_view(thread, tags[i], most);
        serve_refused(thread, most);
        if (atomic_load(&thread->asked) && atomic_exchange(&thread->asked, false))
            mnw__inline_attend(thread);
        push_reads(thread);
        mnw__fill_attend(thread);
        enum mnw__job_more more_jobs = MNW__JOB_MORE_NONE;
        if (atomic_load(&thread->jobs_waiting))
            more_jobs = mnw__job_advance(thread);
        run_timers(thread, more_jobs);
        push_reads(thread);
        mnw__mutex_unlock(&thread->lock);
    }
}

/* ---- from other threads ---- */

void mnw__fault_thread_kick(struct mnw__fault_thread *thread) {
    mnw__poller_kick(thread->poller);
}

void mnw__fault_adopt(struct mnw__fault_thread *thread, struct mnw_view *view) {
    view->next_of_thread = thread->views;
    thread->views = view;
    view->active = true;
}

int mnw__fault_attach(struct mnw__fault_thread *thread, struct mnw_view *view) {
    mnw__mutex_lock(&thread->lock);
    mnw__fault_adopt(thread, view);
    mnw__mutex_unlock(&thread->lock);
    int error = mnw__poller_add(thread->poller, view->uffd, view);
    if (error)
        mnw__fault_detach(view);
    return error;
}

void mnw__fault_detach(struct mnw_view *view) {
    struct mnw__fault_thread *thread = view->thread;
    mnw__mutex_lock(&thread->lock);
    struct mnw_view **link = &thread->views;
    while (*link != view)
        link = &(*link)->next_of_thread;
    *link = view->next_of_thread;
    /* In the lock: a view that is parked could be given back to the poller before it is off the list. First the one,
     * then the other: who counts this detachment before he waits is not told of the view any more. */
    mnw__poller_remove(thread->poller, view->uffd);
    atomic_fetch_add(&thread->detached, 1);
    mnw__mutex_unlock(&thread->lock);
}

static size_t pages_bytes(const struct mnw__fault_thread *thread) {
    return thread->fill_count * mnw__memory_page_bytes();
}

static size_t fills_bytes(const struct mnw__fault_thread *thread) {
    return thread->fill_count * sizeof(*thread->fills);
}

static void release_memory(struct mnw__fault_thread *thread) {
    mnw__memory_release(thread->pages, pages_bytes(thread));
    mnw__memory_release(thread->latency, sizeof(*thread->latency));
    mnw__memory_release(thread->fills, fills_bytes(thread));
}

static void init_fills(struct mnw__fault_thread *thread) {
    for (unsigned i = 0; i < thread->fill_count; i++) {
        thread->fills[i].thread = thread;
        thread->free_fills[i / 64] |= 1ull << (i % 64);
    }
}

static int open_reads(struct mnw__fault_thread *thread, enum mnw_io_mode mode) {
    int error = mnw__io_open(&thread->io, mode, thread->fill_count, thread->node, mnw__fill_answer, thread);
    if (error)
        return error;
    /* Memory of nodes, or of huge pages, comes before its bytes. */
    if (thread->pool->backing == MNW_BACKING_SHMEM && !mnw__nodes_are_several(thread->pool))
        error = mnw__io_open_senders(thread->io, thread->fill_count, thread->node, mnw__fill_answer, thread);
    if (!error && mnw__io_fd(thread->io) >= 0)
        error = mnw__poller_add(thread->poller, mnw__io_fd(thread->io), thread->io);
    if (error)
        mnw__io_close(thread->io);
    return error;
}

static int start(struct mnw__fault_thread *thread, unsigned index, const struct mnw_pool_options *options) {
    char name[16];
    thread->timer_ns = UINT64_MAX;
    thread->watch_ns = mnw__clock_ns() + WATCH_IDLE_NS;
    thread->fill_count = options->reads_in_flight ? options->reads_in_flight : READS_IN_FLIGHT_DEFAULT;
    /* Whole pages of their own: what malloc() gives may lie on any node. */
    thread->fills = mnw__memory_reserve(fills_bytes(thread));
    thread->latency = mnw__memory_reserve(sizeof(*thread->latency));
    thread->pages = mnw__memory_reserve(pages_bytes(thread));
    int error = -ENOMEM;
    if (!thread->fills || !thread->latency || !thread->pages) {
        mnw__fail(error, "pool: out of memory for %u reads in flight", thread->fill_count);
        goto free_memory;
    }
    init_fills(thread);
    error = mnw__poller_open(&thread->poller);
    if (error)
        goto free_memory;
    error = open_reads(thread, options->io_mode);
    if (error)
        goto close_poller;
    mnw__mutex_init(&thread->lock);
    snprintf(name, sizeof(name), "mnw-fault-%u", index);
    error = mnw__thread_start(&thread->thread, name, thread->node, run, thread);
    if (error)
        goto close_reads;
    thread->started = true;
    return 0;

close_reads:
    mnw__mutex_destroy(&thread->lock);
    mnw__io_close(thread->io);
close_poller:
    mnw__poller_close(thread->poller);
free_memory:
    release_memory(thread);
    return error;
}

/* What the thread works with, the kernel's part of it too, comes from its node, wherever the opener runs. */
int mnw__fault_thread_start(struct mnw__fault_thread *thread, struct mnw_pool *pool, unsigned index, int node,
                            const struct mnw_pool_options *options) {
    struct mnw__numa_own own;
    thread->pool = pool;
    thread->node = node;
    bool is_lent = mnw__nodes_are_several(pool) && mnw__numa_lend(node, &own);
    int error = start(thread, index, options);
    if (is_lent)
        mnw__numa_take_back(&own);
    return error;
}

void mnw__fault_thread_stop(struct mnw__fault_thread *thread) {
    if (!thread->started)
        return;
    mnw__fault_thread_kick(thread);
    mnw__thread_join(&thread->thread);
}

void mnw__fault_thread_end(struct mnw__fault_thread *thread) {
    if (!thread->started)
        return;
    mnw__io_close(thread->io);
    mnw__poller_close(thread->poller);
    mnw__mutex_destroy(&thread->lock);
    release_memory(thread);
}
