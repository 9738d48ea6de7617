/* SPDX-License-Identifier: MIT */
/*
 * Threads, locks, waiting and time, as pthreads and futexes. Owns nothing beyond the callers' storage.
 *
 * Who holds a lock has signals blocked, so that a lock may be taken in a handler of SIGBUS: nobody it waits for
 * can be the thread that it interrupted. A condition is a word that counts its wakes: pthread_cond_wait() would hold
 * the lock again before the signals are blocked again.
 *
 * An error of a lock or a condition is a defect of the caller, and no caller could go on: it aborts.
 */
#include "sys/thread.h"

#include "base/error.h"
#include "sys/signal_mask.h"
#include "sys/sysfs.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <numa.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ll

struct thread {
    pthread_t id;
    void (*run)(void *);
    void *argument;
};

_Static_assert(sizeof(struct thread) <= sizeof(struct mnw__thread), "storage");
_Static_assert(sizeof(pthread_mutex_t) <= sizeof(struct mnw__mutex), "storage");
_Static_assert(_Alignof(pthread_mutex_t) <= _Alignof(struct mnw__mutex), "storage");

static void must(int error) {
    if (error) {
        abort();
    }
}

static void *enter(void *argument) {
    struct thread *thread = argument;
    mnw__signals_note_blocked();
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

bool mnw__thread_move_to(int cpu) {
    cpu_set_t allowed, there;
    if (cpu == sched_getcpu())
        return true;
    if (cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof(allowed), &allowed) || !CPU_ISSET(cpu, &allowed))
        return false;
    CPU_ZERO(&there);
    CPU_SET(cpu, &there);
    if (sched_setaffinity(0, sizeof(there), &there))
        return false;
    sched_setaffinity(0, sizeof(allowed), &allowed);
    return true;
}

void mnw__thread_yield(void) {
    sched_yield();
}

void mnw__mutex_init(struct mnw__mutex *mutex) {
    must(pthread_mutex_init((pthread_mutex_t *)mutex, NULL));
}

void mnw__mutex_destroy(struct mnw__mutex *mutex) {
    must(pthread_mutex_destroy((pthread_mutex_t *)mutex));
}

void mnw__mutex_lock(struct mnw__mutex *mutex) {
    mnw__signals_block();
    must(pthread_mutex_lock((pthread_mutex_t *)mutex));
}

void mnw__mutex_unlock(struct mnw__mutex *mutex) {
    must(pthread_mutex_unlock((pthread_mutex_t *)mutex));
    mnw__signals_restore();
}

/* ---- words ------------------------------------------------------------------------------------------------- */

void mnw__word_wait(_Atomic uint32_t *word, uint32_t seen, int64_t timeout_ns) {
    struct timespec left = {.tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};
    if (timeout_ns > 0) {
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, timeout_ns == INT64_MAX ? NULL : &left, NULL, 0);
    }
}

void mnw__word_wake(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* ---- conditions -------------------------------------------------------------------------------------------- */

static _Atomic uint32_t *wakes_of(struct mnw__condition *condition) {
    return (_Atomic uint32_t *)condition->storage;
}

void mnw__condition_init(struct mnw__condition *condition) {
    atomic_init(wakes_of(condition), 0);
}

void mnw__condition_destroy(struct mnw__condition *condition) {
    (void)condition;
}

/* Whoever wakes after the lock was given back has changed the word, and the kernel sees it. */
void mnw__condition_wait(struct mnw__condition *condition, struct mnw__mutex *mutex, int64_t timeout_ns) {
    uint32_t seen = atomic_load(wakes_of(condition));
    mnw__mutex_unlock(mutex);
    mnw__word_wait(wakes_of(condition), seen, timeout_ns);
    mnw__mutex_lock(mutex);
}

void mnw__condition_wake_all(struct mnw__condition *condition) {
    atomic_fetch_add(wakes_of(condition), 1);
    mnw__word_wake(wakes_of(condition));
}

/* ---- time -------------------------------------------------------------------------------------------------- */

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
