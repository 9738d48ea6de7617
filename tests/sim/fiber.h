/* SPDX-License-Identifier: MIT */
/*
 * Fibers: the simulator's threads. One runs at a time; which one goes next is drawn from the seed.
 *
 * Owns: the fibers, virtual time, the seed's random stream, the trace, and the way a run fails. Everything in
 * the simulator runs on one system thread. Time moves a little at each switch, and jumps to the earliest
 * timeout when no fiber can run; when there is no timeout either, that is a deadlock and the run fails.
 * Never asks the real clock, never orders anything by address: a seed replays exactly.
 */
#ifndef MNW_SIM_FIBER_H
#define MNW_SIM_FIBER_H

#include "random.h"

#include <stdbool.h>
#include <stdint.h>

#define FIBER_FOREVER UINT64_MAX
#define FIBER_NONE    (-1)

enum { FIBERS_MAX = 512 }; /* of one run */

/* Starts a run; the last one's fibers are forgotten. `switch_per_1024`: how often a point switches. */
void fiber_begin(uint64_t seed, unsigned switch_per_1024, bool trace);
/* Runs until every fiber has ended. */
void fiber_loop(void);

/* The run's random stream. */
struct random *fiber_random(void);
/* A number made of every switch so far: equal for equal runs. */
uint64_t fiber_digest(void);
uint64_t fiber_switches(void);

/* A new fiber of the same process, ready to run. The name is copied. Returns its id. */
int fiber_start(const char *name, int node, void (*run)(void *), void *argument);
void fiber_join(int id);
/* FIBER_NONE outside fiber_loop(). */
int fiber_self(void);
const char *fiber_name(int id);
int fiber_node(int id);

/*
 * Processes: groups of fibers that die together. Number 0 is the run itself, in which everything begins.
 */
enum { FIBER_PROCESSES = 64 };
int fiber_process(void);
int fiber_process_of(int id);
/* A fiber of another process. */
int fiber_start_in(int process, const char *name, int node, void (*run)(void *), void *argument);
/* All of its fibers stop where they are, for ever; the caller too, after `died` was called. */
void fiber_kill(int process);
bool fiber_is_dead(int id);
bool fiber_has_ended(int id);
/* Called when a process has died, on whatever fiber; must not switch. */
void fiber_on_death(void (*died)(int process));
/*
 * The process dies at its `points`th point from now on, counting only those called `label` unless that is NULL. 0: it
 * does not.
 */
void fiber_doom(int process, const char *label, uint64_t points);
/* In `died`: the label at which it was to die, and does. NULL: it dies of something else. */
const char *fiber_doomed_at(void);

/* May switch. Does nothing outside fiber_loop(). */
void fiber_point(const char *what);
/*
 * Blocks until woken (true) or until `timeout_ns` has passed (false). `channel` is only compared; `what`,
 * which must stay valid, is shown in failures.
 */
bool fiber_wait(const void *channel, const char *what, uint64_t timeout_ns);
/* Makes all fibers that wait on the channel ready; does not switch. */
void fiber_wake(const void *channel);

uint64_t fiber_now(void);
void fiber_sleep(uint64_t ns, const char *what);
/* Lets virtual time pass without a switch. */
void fiber_spend(uint64_t ns);

/* Ends the process with status 1 after saying the seed, the reason, and who waits for what. */
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool sim_is_tracing(void);
void sim_trace_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define sim_trace(...)                                                                                                 \
    do {                                                                                                               \
        if (sim_is_tracing())                                                                                          \
            sim_trace_line(__VA_ARGS__);                                                                               \
    } while (0)
/* More to say when a run fails (the workload's own state). */
void sim_on_failure(void (*describe)(void));
uint64_t sim_seed(void);

#endif
