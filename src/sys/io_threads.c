/* SPDX-License-Identifier: MIT */
/*
 * Reads by a pool of threads, for where io_uring is refused; and sends, which io_uring would have threads for too.
 *
 * Owns its threads and `depth` requests. The owner's thread queues and submits; a worker takes, reads or sends, and
 * calls `done`. Never allocates after open, but for the pipe that a worker sends through, by its first send.
 */
#include "base/error.h"
#include "sys/backing.h"
#include "sys/io_internal.h"
#include "sys/memory.h"
#include "sys/thread.h"

#include <errno.h>
#include <stdbool.h>

struct mnw__io_pool {
    mnw__io_done *done;
    void *context;
    unsigned depth, thread_count;
    struct mnw__thread threads[MNW__IO_READERS];

    struct mnw__mutex mutex; /* guards all below; held for a few instructions, never over a read or `done` */
    struct mnw__condition work;
    struct mnw__io_request *free;
    struct mnw__io_request *queued_first, *queued_last; /* not submitted */
    struct mnw__io_request *ready_first, *ready_last;   /* submitted, not taken */
    unsigned idle;                                      /* threads that wait for work */
    bool stop;

    struct mnw__io_request requests[];
};

static struct mnw__io_request *take(struct mnw__io_pool *pool) {
    mnw__mutex_lock(&pool->mutex);
    while (!pool->ready_first && !pool->stop) {
        pool->idle++;
        mnw__condition_wait(&pool->work, &pool->mutex, INT64_MAX);
        pool->idle--;
    }
    struct mnw__io_request *request = pool->ready_first;
    if (request) {
        pool->ready_first = request->next;
    }
    mnw__mutex_unlock(&pool->mutex);
    return request;
}

static void put_back(struct mnw__io_pool *pool, struct mnw__io_request *request) {
    mnw__mutex_lock(&pool->mutex);
    request->next = pool->free;
    pool->free = request;
    mnw__mutex_unlock(&pool->mutex);
}

static int64_t carry_out(const struct mnw__io_request *request, struct mnw__pipe *pipe) {
    if (!request->backing)
        return mnw__io_answer(request, mnw__io_pread(request));
    return mnw__backing_send(request->backing, request->offset, request->length, request->fd, pipe);
}

static void work(void *argument) {
    struct mnw__io_pool *pool = argument;
    struct mnw__pipe pipe = MNW__PIPE_CLOSED;
    for (struct mnw__io_request *request; (request = take(pool));) {
        int64_t result = carry_out(request, &pipe);
        uint64_t token = request->token;
        /* Before `done`: whoever it tells may queue the next read at once. */
        put_back(pool, request);
        pool->done(pool->context, token, result);
    }
    mnw__pipe_close(&pipe);
}

/* Whole pages of its own: what malloc() gives may lie on any node. */
static size_t pool_bytes(unsigned depth) {
    return sizeof(struct mnw__io_pool) + depth * sizeof(struct mnw__io_request);
}

int mnw__io_pool_open(struct mnw__io_pool **result, unsigned threads, unsigned depth, int node, mnw__io_done *done,
                      void *context) {
    struct mnw__io_pool *pool = mnw__memory_reserve(pool_bytes(depth));
    if (!pool) {
        return mnw__fail(-ENOMEM, "no memory for %u reads in flight", depth);
    }
    pool->depth = depth;
    pool->done = done;
    pool->context = context;
    mnw__mutex_init(&pool->mutex);
    mnw__condition_init(&pool->work);
    for (unsigned i = 0; i < depth; i++) {
        pool->requests[i].next = pool->free;
        pool->free = &pool->requests[i];
    }
    unsigned wanted = depth < threads ? depth : threads;
    for (; pool->thread_count < wanted; pool->thread_count++) {
        int error = mnw__thread_start(&pool->threads[pool->thread_count], "mnw-read", node, work, pool);
        if (error) {
            mnw__io_pool_close(pool);
            return error;
        }
    }
    *result = pool;
    return 0;
}

void mnw__io_pool_close(struct mnw__io_pool *pool) {
    mnw__mutex_lock(&pool->mutex);
    pool->stop = true;
    mnw__condition_wake_all(&pool->work);
    mnw__mutex_unlock(&pool->mutex);
    for (unsigned i = 0; i < pool->thread_count; i++) {
        mnw__thread_join(&pool->threads[i]);
    }
    mnw__condition_destroy(&pool->work);
    mnw__mutex_destroy(&pool->mutex);
    mnw__memory_release(pool, pool_bytes(pool->depth));
}

int mnw__io_pool_read(struct mnw__io_pool *pool, const struct mnw__io_request *wanted) {
    mnw__mutex_lock(&pool->mutex);
    struct mnw__io_request *request = pool->free;
    if (request) {
        pool->free = request->next;
        *request = *wanted;
        request->next = NULL;
        if (pool->queued_first) {
            pool->queued_last->next = request;
        } else {
            pool->queued_first = request;
        }
        pool->queued_last = request;
    }
    mnw__mutex_unlock(&pool->mutex);
    return request ? 0 : -EAGAIN;
}

void mnw__io_pool_submit(struct mnw__io_pool *pool) {
    mnw__mutex_lock(&pool->mutex);
    if (pool->queued_first) {
        if (pool->ready_first) {
            pool->ready_last->next = pool->queued_first;
        } else {
            pool->ready_first = pool->queued_first;
        }
        pool->ready_last = pool->queued_last;
        pool->queued_first = NULL;
        if (pool->idle) /* a wake is a system call, whoever waits */
            mnw__condition_wake_all(&pool->work);
    }
    mnw__mutex_unlock(&pool->mutex);
}
