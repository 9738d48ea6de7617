/* SPDX-License-Identifier: MIT */
/*
 * Threads, locks, waiting and time, as pthreads. Owns nothing beyond the callers' storage.
 *
 * An error of a lock or a condition is a defect of the caller, and no caller could go on: it aborts.
 */
#include "sys/thread.h"

#include "base/error.h"
#include "sys/sysfs.h"

#include <errno.h>
#include <numa.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS_PER_S 1000000000ll

struct thread {
    pthread_t id;
    void (*run)(void *);
    void *argument;
};

_Static_assert(sizeof(struct thread) <= sizeof(struct mnw__thread), "storage");
_Static_assert(sizeof(pthread_mutex_t) <= sizeof(struct mnw__mutex), "storage");
_Static_assert(sizeof(pthread_cond_t) <= sizeof(struct mnw__condition), "storage");
_Static_assert(_Alignof(pthread_mutex_t) <= _Alignof(struct mnw__mutex), "storage");
_Static_assert(_Alignof(pthread_cond_t) <= _Alignof(struct mnw__condition), "storage");

static void must(int error) {
    if (error) {
        abort();
    }
}

static void *enter(void *argument) {
    struct thread *thread = argument;
    thread->run(thread->argument);
    return NULL;
}

/* False: the thread may run anywhere. */
static bool cpus_of_node(int node, cpu_set_t *cpus) {
    if (node < 0 || numa_available() < 0 || numa_max_node() == 0) {
        return false;
    }
    struct bitmask *mask = numa_allocate_cpumask();
    bool found = !numa_node_to_cpus(node, mask);
    int count = 0;
    CPU_ZERO(cpus);
    for (unsigned cpu = 0; found && cpu < mask->size && cpu < CPU_SETSIZE; cpu++) {
        if (numa_bitmask_isbitset(mask, cpu)) {
            CPU_SET(cpu, cpus);
            count++;
        }
    }
    numa_free_cpumask(mask);
    return count > 0;
}

static int create(struct thread *thread, const cpu_set_t *cpus) {
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error) {
        return error;
    }
    if (cpus) {
        error = pthread_attr_setaffinity_np(&attributes, sizeof(*cpus), cpus);
    }
    if (!error) {
        error = pthread_create(&thread->id, &attributes, enter, thread);
    }
    pthread_attr_destroy(&attributes);
    return error;
}

int mnw__thread_start(struct mnw__thread *storage, const char *name, int node, void (*run)(void *), void *argument) {
    struct thread *thread = (struct thread *)storage;
    thread->run = run;
    thread->argument = argument;
    /* Blocked before it starts: a signal of the embedder's must never find one of our threads, not even early. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    cpu_set_t cpus;
    int error = EINVAL;
    if (cpus_of_node(node, &cpus)) {
        error = create(thread, &cpus);
    }
    if (error == EINVAL) { /* one node, or a cpuset without CPUs of this node: anywhere is better than nothing */
        error = create(thread, NULL);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error) {
        return mnw__fail(-error, "starting the thread %s: %s; raise the limit on processes (ulimit -u)", name,
                         strerror(error));
    }
    char short_name[16];
    strncpy(short_name, name, sizeof(short_name) - 1);
    short_name[sizeof(short_name) - 1] = 0;
    pthread_setname_np(thread->id, short_name);
    return 0;
}

void mnw__thread_join(struct mnw__thread *storage) {
    must(pthread_join(((struct thread *)storage)->id, NULL));
}

/* The 39th field of /proc/PID/stat; the name before the third may hold anything, parentheses too. */
int mnw__thread_cpu_of(uint32_t thread_id) {
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%u/task/%u/stat", thread_id, thread_id);
    if (mnw__sysfs_text(path, text, sizeof(text)) < 0)
        return -1;
    const char *at = strrchr(text, ')');
    for (unsigned field = 2; at && field < 39; field++)
        at = strchr(at + 1, ' ');
    return at ? atoi(at) : -1;
}

void mnw__thread_move_to(int cpu) {
    cpu_set_t allowed, there;
    if (cpu == sched_getcpu() || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof(allowed), &allowed) ||
        !CPU_ISSET(cpu, &allowed))
        return;
    CPU_ZERO(&there);
    CPU_SET(cpu, &there);
    if (!sched_setaffinity(0, sizeof(there), &there))
        sched_setaffinity(0, sizeof(allowed), &allowed);
}

void mnw__mutex_init(struct mnw__mutex *mutex) {
    must(pthread_mutex_init((pthread_mutex_t *)mutex, NULL));
}

void mnw__mutex_destroy(struct mnw__mutex *mutex) {
    must(pthread_mutex_destroy((pthread_mutex_t *)mutex));
}

void mnw__mutex_lock(struct mnw__mutex *mutex) {
    must(pthread_mutex_lock((pthread_mutex_t *)mutex));
}

void mnw__mutex_unlock(struct mnw__mutex *mutex) {
    must(pthread_mutex_unlock((pthread_mutex_t *)mutex));
}

void mnw__condition_init(struct mnw__condition *condition) {
    pthread_condattr_t attributes;
    must(pthread_condattr_init(&attributes));
    must(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC));
    must(pthread_cond_init((pthread_cond_t *)condition, &attributes));
    pthread_condattr_destroy(&attributes);
}

void mnw__condition_destroy(struct mnw__condition *condition) {
    must(pthread_cond_destroy((pthread_cond_t *)condition));
}

static struct timespec after(int64_t ns) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    if (ns > 0) {
        at.tv_sec += ns / NS_PER_S;
        at.tv_nsec += ns % NS_PER_S;
        if (at.tv_nsec >= NS_PER_S) {
            at.tv_sec++;
            at.tv_nsec -= NS_PER_S;
        }
    }
    return at;
}

void mnw__condition_wait(struct mnw__condition *condition, struct mnw__mutex *mutex, int64_t timeout_ns) {
    pthread_cond_t *cond = (pthread_cond_t *)condition;
    pthread_mutex_t *lock = (pthread_mutex_t *)mutex;
    if (timeout_ns == INT64_MAX) {
        must(pthread_cond_wait(cond, lock));
        return;
    }
    struct timespec deadline = after(timeout_ns);
    int error = pthread_cond_timedwait(cond, lock, &deadline);
    must(error == ETIMEDOUT ? 0 : error);
}

void mnw__condition_wake_all(struct mnw__condition *condition) {
    must(pthread_cond_broadcast((pthread_cond_t *)condition));
}

uint64_t mnw__clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * (uint64_t)NS_PER_S + (uint64_t)now.tv_nsec;
}

void mnw__sleep_ns(uint64_t ns) {
    struct timespec until = after(ns > INT64_MAX ? INT64_MAX : (int64_t)ns);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}
