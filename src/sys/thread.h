/* SPDX-License-Identifier: MIT */
/*
 * Threads, locks, waiting and time. On Linux these are pthreads and futexes; in the simulator, fibers and
 * virtual time. The structs are opaque storage, so that neither shows here.
 */
#ifndef MNW_SYS_THREAD_H
#define MNW_SYS_THREAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mnw__thread {
    uint64_t storage[4];
};
/*
 * Starts a thread with every signal blocked, on the CPUs of `node` (-1: anywhere). `name` shows in ps
 * (15 characters).
 */
int mnw__thread_start(struct mnw__thread *thread, const char *name, int node, void (*run)(void *), void *argument);
void mnw__thread_join(struct mnw__thread *thread);

/*
 * The CPU that a thread of any process runs on, or ran on last; -1: not to be seen. Reads /proc: some microseconds.
 * Never allocates.
 */
int mnw__thread_cpu_of(uint32_t thread_id);
/*
 * Moves the calling thread to the CPU, if it may run there; where it runs from then on is up to the scheduler again.
 * A change of its affinity by others in the same instant is lost. True: it is there now.
 */
bool mnw__thread_move_to(int cpu);
/* Whoever else is to run on this CPU goes first. */
void mnw__thread_yield(void);

/*
 * In between, signals are blocked in this thread. Pairs nest; the outermost restores what was. For whoever holds what a
 * fault may wait for (a lock, an extent that is EVICTING or visited, a page that is FILLING): a handler of the
 * program's that ran in between, and touched a view, would wait for its own thread. Signals that an instruction raises
 * (SIGSEGV, SIGSYS, SIGTRAP, SIGILL, SIGFPE) are not blocked: they would end the process, past their handlers. Nothing
 * in the library's own threads. Async-signal-safe.
 */
void mnw__signals_block(void);
void mnw__signals_restore(void);

/*
 * From here to the end of the block the thread is not cancelled: what a call of the program's holds, a cancelled thread
 * would hold for ever. The first line of every public function that does more than look.
 */
#define MNW__WHOLE_CALL int whole_call __attribute__((cleanup(mnw__cancel_restore), unused)) = mnw__cancel_disable()
int mnw__cancel_disable(void);
void mnw__cancel_restore(const int *before);

/* Who holds one has signals blocked until the last is given back. */
struct mnw__mutex {
    uint64_t storage[6];
};
void mnw__mutex_init(struct mnw__mutex *mutex);
void mnw__mutex_destroy(struct mnw__mutex *mutex);
void mnw__mutex_lock(struct mnw__mutex *mutex);
void mnw__mutex_unlock(struct mnw__mutex *mutex);

struct mnw__condition {
    uint64_t storage[8];
};
void mnw__condition_init(struct mnw__condition *condition);
void mnw__condition_destroy(struct mnw__condition *condition);
/* Returns after a wake, a spurious one, or `timeout_ns` (INT64_MAX: never). */
void mnw__condition_wait(struct mnw__condition *condition, struct mnw__mutex *mutex, int64_t timeout_ns);
void mnw__condition_wake_all(struct mnw__condition *condition);

/*
 * Waiting without a lock: returns at once unless the word is `seen`, and then after a wake, a spurious one, a signal,
 * or `timeout_ns` (INT64_MAX: never). Async-signal-safe, and no place to be cancelled.
 */
void mnw__word_wait(_Atomic uint32_t *word, uint32_t seen, int64_t timeout_ns);
/* Everybody who waits. */
void mnw__word_wake(_Atomic uint32_t *word);

/* CLOCK_MONOTONIC. Async-signal-safe. */
uint64_t mnw__clock_ns(void);
void mnw__sleep_ns(uint64_t ns);

#endif
