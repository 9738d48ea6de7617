/* SPDX-License-Identifier: MIT */
/*
 * Threads of the fake kernel: src/sys/thread.h on fibers. Misuse of a lock fails the run.
 */
#include "base/error.h"
#include "fake_kernel.h"
#include "sys/thread.h"

#include <errno.h>
#include <string.h>

#define MUTEX_ALIVE     0x6d75746578206f6bu
#define CONDITION_ALIVE 0x636f6e64206f6b20u

struct mutex {
    uint64_t alive;
    int64_t owner; /* fiber + 1 */
};

struct condition {
    uint64_t alive;
    uint64_t wakes;
};

static int threads[FIBER_PROCESSES];
static unsigned held[FIBERS_MAX + 1]; /* mutexes: by fiber, and by who is none */

int mnw__thread_start(struct mnw__thread *thread, const char *name, int node, void (*run)(void *), void *argument) {
    fake_call("clone");
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-EAGAIN, "no thread to be had for %s", name);
    thread->storage[0] = (uint64_t)fiber_start(name, node < 0 ? 0 : node, run, argument);
    threads[fiber_process()]++;
    fake_call("clone done");
    return 0;
}

void mnw__thread_join(struct mnw__thread *thread) {
    fiber_join((int)thread->storage[0]);
    threads[fiber_process_of((int)thread->storage[0])]--;
}

/* A node has one CPU, of its number. Whatever is said here must not matter to the bytes of any page: now and then a
 * lie. */
int mnw__thread_cpu_of(uint32_t thread_id) {
    fake_call("stat of a thread");
    if (fake_strikes(FAKE_SPURIOUS))
        return (int)random_below(fiber_random(), 3) - 1;
    return fiber_node((int)thread_id - 1);
}

bool mnw__thread_move_to(int cpu) {
    fake_call("sched_setaffinity");
    return cpu == fiber_node(fiber_self());
}

/* Whoever it lets run may want any lock of its own. */
void mnw__thread_yield(void) {
    if (fake_locks_held())
        sim_fail("a thread gives way with a lock held");
    fake_call("sched_yield");
}

/* No fiber is ever interrupted, nor cancelled. */
void mnw__signals_block(void) {
}

void mnw__signals_restore(void) {
}

int mnw__cancel_disable(void) {
    return 0;
}

void mnw__cancel_restore(const int *before) {
    (void)before;
}

/* ---- mutexes ------------------------------------------------------------------------------------------- */

static struct mutex *mutex_of(struct mnw__mutex *mutex) {
    struct mutex *this = (struct mutex *)mutex->storage;
    if (this->alive != MUTEX_ALIVE)
        sim_fail("a mutex is used that is not initialised");
    return this;
}

void mnw__mutex_init(struct mnw__mutex *mutex) {
    memset(mutex, 0, sizeof(*mutex));
    ((struct mutex *)mutex->storage)->alive = MUTEX_ALIVE;
}

void mnw__mutex_destroy(struct mnw__mutex *mutex) {
    struct mutex *this = mutex_of(mutex);
    if (this->owner)
        sim_fail("a mutex is destroyed while %s holds it", fiber_name((int)this->owner - 1));
    this->alive = 0;
}

unsigned fake_locks_held(void) {
    return held[fiber_self() + 1];
}

static void take(struct mutex *this) {
    if (this->owner == fiber_self() + 1)
        sim_fail("a mutex is locked twice by one thread");
    while (this->owner)
        fiber_wait(this, "a mutex", FIBER_FOREVER);
    this->owner = fiber_self() + 1;
    held[this->owner]++;
}

static void give(struct mutex *this) {
    if (this->owner != fiber_self() + 1)
        sim_fail("a mutex is unlocked by a thread that does not hold it");
    held[this->owner]--;
    this->owner = 0;
    fiber_wake(this);
}

void mnw__mutex_lock(struct mnw__mutex *mutex) {
    fiber_point("lock");
    take(mutex_of(mutex));
    fiber_point("locked");
}

void mnw__mutex_unlock(struct mnw__mutex *mutex) {
    give(mutex_of(mutex));
    fiber_point("unlocked");
}

/* ---- conditions ---------------------------------------------------------------------------------------- */

static struct condition *condition_of(struct mnw__condition *condition) {
    struct condition *this = (struct condition *)condition->storage;
    if (this->alive != CONDITION_ALIVE)
        sim_fail("a condition is used that is not initialised");
    return this;
}

void mnw__condition_init(struct mnw__condition *condition) {
    memset(condition, 0, sizeof(*condition));
    ((struct condition *)condition->storage)->alive = CONDITION_ALIVE;
}

void mnw__condition_destroy(struct mnw__condition *condition) {
    condition_of(condition)->alive = 0;
}

void mnw__condition_wait(struct mnw__condition *condition, struct mnw__mutex *mutex, int64_t timeout_ns) {
    struct condition *this = condition_of(condition);
    uint64_t wait_ns = timeout_ns == INT64_MAX ? FIBER_FOREVER : (uint64_t)(timeout_ns < 0 ? 0 : timeout_ns);
    bool spurious = fake_strikes(FAKE_SPURIOUS);
    give(mutex_of(mutex));
    fiber_wait(this, spurious ? "a condition (spurious)" : "a condition", spurious ? 1000 : wait_ns);
    take(mutex_of(mutex));
}

void mnw__condition_wake_all(struct mnw__condition *condition) {
    fiber_wake(condition_of(condition));
    fiber_point("woke");
}

/* ---- words --------------------------------------------------------------------------------------------- */

void mnw__word_wait(_Atomic uint32_t *word, uint32_t seen, int64_t timeout_ns) {
    fake_call("futex");
    bool spurious = fake_strikes(FAKE_SPURIOUS);
    if (timeout_ns <= 0 || atomic_load(word) != seen)
        return;
    uint64_t wait_ns = timeout_ns == INT64_MAX ? FIBER_FOREVER : (uint64_t)timeout_ns;
    fiber_wait(word, spurious ? "a word (spurious)" : "a word", spurious ? 1000 : wait_ns);
    fiber_point("futex done");
}

void mnw__word_wake(_Atomic uint32_t *word) {
    fake_call("futex wake");
    fiber_wake(word);
    fiber_point("woke");
}

/* ---- time ---------------------------------------------------------------------------------------------- */

uint64_t mnw__clock_ns(void) {
    fiber_spend(random_below(fiber_random(), 100)); /* so that loops that watch the clock end */
    return fiber_now();
}

void mnw__sleep_ns(uint64_t ns) {
    fiber_sleep(ns, "sleep");
}

void fake_threads_begin(void) {
    memset(threads, 0, sizeof(threads));
    memset(held, 0, sizeof(held));
}

void fake_threads_died(int process) {
    threads[process] = 0;
}

void fake_threads_end(void) {
    for (int process = 0; process < FIBER_PROCESSES; process++)
        if (threads[process])
            sim_fail("%d threads were never joined", threads[process]);
}
