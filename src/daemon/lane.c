/* SPDX-License-Identifier: MIT */
/* Threads for what may block. The loop adds and takes; lane threads run. Never touches a view. */
#include "daemon/lane.h"

#include "base/bits.h"
#include "sys/poller.h"

#include <stddef.h>
#include <stdint.h>

int mnw__finished_open(struct mnw__finished *finished) {
    *finished = (struct mnw__finished){.event_fd = mnw__eventfd_open()};
    finished->last = &finished->first;
    mnw__mutex_init(&finished->lock);
    return finished->event_fd < 0 ? finished->event_fd : 0;
}

void mnw__finished_close(struct mnw__finished *finished) {
    mnw__eventfd_close(finished->event_fd);
    mnw__mutex_destroy(&finished->lock);
}

static void finish(struct mnw__finished *finished, struct mnw__task *task) {
    task->next = NULL;
    mnw__mutex_lock(&finished->lock);
    *finished->last = task;
    finished->last = &task->next;
    mnw__mutex_unlock(&finished->lock);
    mnw__eventfd_raise(finished->event_fd);
}

struct mnw__task *mnw__finished_take(struct mnw__finished *finished) {
    mnw__eventfd_lower(finished->event_fd);
    mnw__mutex_lock(&finished->lock);
    struct mnw__task *first = finished->first;
    finished->first = NULL;
    finished->last = &finished->first;
    mnw__mutex_unlock(&finished->lock);
    return first;
}

static bool is_busy(const struct mnw__lane *lane, const void *owner) {
    for (unsigned i = 0; owner && i < MNW__LANE_THREADS_MAX; i++)
        if (lane->owners[i] == owner)
            return true;
    return false;
}

/* The oldest task whose owner has none running. */
static struct mnw__task *pick(struct mnw__lane *lane) {
    for (struct mnw__task **link = &lane->waiting; *link; link = &(*link)->next) {
        struct mnw__task *task = *link;
        if (is_busy(lane, task->owner))
            continue;
        *link = task->next;
        if (lane->last == &task->next)
            lane->last = link;
        return task;
    }
    return NULL;
}

/* A task whose owner is busy is picked when that one ends: hence the wake after each. */
static void work(void *argument) {
    struct mnw__lane *lane = argument;
    mnw__mutex_lock(&lane->lock);
    unsigned me = lane->started++;
    for (;;) {
        struct mnw__task *task = pick(lane);
        if (!task && lane->stopping && !lane->waiting)
            break;
        if (!task) {
            mnw__condition_wait(&lane->changed, &lane->lock, INT64_MAX);
            continue;
        }
        lane->owners[me] = task->owner;
        mnw__mutex_unlock(&lane->lock);
        task->run(task);
        finish(lane->finished, task);
        mnw__mutex_lock(&lane->lock);
        lane->owners[me] = NULL;
        mnw__condition_wake_all(&lane->changed);
    }
    mnw__mutex_unlock(&lane->lock);
}

int mnw__lane_open(struct mnw__lane *lane, const char *name, unsigned threads, struct mnw__finished *finished) {
    *lane = (struct mnw__lane){.finished = finished};
    lane->last = &lane->waiting;
    mnw__mutex_init(&lane->lock);
    mnw__condition_init(&lane->changed);
    for (unsigned i = 0; i < threads; i++) {
        int error = mnw__thread_start(&lane->threads[i], name, -1, work, lane);
        if (error) {
            mnw__lane_close(lane);
            return error;
        }
        mnw__mutex_lock(&lane->lock);
        lane->thread_count++;
        mnw__mutex_unlock(&lane->lock);
    }
    return 0;
}

void mnw__lane_close(struct mnw__lane *lane) {
    mnw__mutex_lock(&lane->lock);
    lane->stopping = true;
    mnw__condition_wake_all(&lane->changed);
    mnw__mutex_unlock(&lane->lock);
    for (unsigned i = 0; i < lane->thread_count; i++)
        mnw__thread_join(&lane->threads[i]);
    mnw__condition_destroy(&lane->changed);
    mnw__mutex_destroy(&lane->lock);
}

void mnw__lane_add(struct mnw__lane *lane, struct mnw__task *task) {
    task->next = NULL;
    if (!lane->thread_count) {
        task->run(task);
        finish(lane->finished, task);
        return;
    }
    mnw__mutex_lock(&lane->lock);
    *lane->last = task;
    lane->last = &task->next;
    mnw__condition_wake_all(&lane->changed);
    mnw__mutex_unlock(&lane->lock);
}
