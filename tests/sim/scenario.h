/* SPDX-License-Identifier: MIT */
/*
 * Scenarios: scripts that run on the fake kernel and on the real one, and must tell the same story.
 *
 * A scenario is written once, against the public API and src/sys. What differs between the worlds is here: how
 * a consumer touches memory. Threads, locks and time are those of src/sys/thread.h, which both worlds have.
 * Lines said are compared between the worlds: they speak of pages and counts, never of addresses or times.
 */
#ifndef MNW_SIM_SCENARIO_H
#define MNW_SIM_SCENARIO_H

#include "minnow/minnow.h"
#include "sys/thread.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- what a world gives (scenario_world_fake.c, tests/live/scenario_world.c) ------------------------------ */

enum world_outcome { WORLD_OK, WORLD_SIGBUS, WORLD_SIGSEGV };

/* Loads and stores of a consumer. `*stopped` is the address that raised the signal. */
enum world_outcome world_read(uintptr_t address, void *bytes, size_t length, uintptr_t *stopped);
enum world_outcome world_write(uintptr_t address, const void *bytes, size_t length, uintptr_t *stopped);
/* A consumer's own mapping of a cache's descriptor, like every remote one; where it has room for it twice. */
uintptr_t world_map(int fd, uint64_t offset, size_t length, size_t page_bytes);
void world_unmap(uintptr_t address, size_t length);
void world_move(uintptr_t from, size_t length, uintptr_t to);
/* How many NUMA nodes there are: as many as are wanted, or fewer. Before the pool opens. */
unsigned world_nodes(unsigned wanted);
/* Pages that the kernel was asked for where they lie, so far; 0: this world does not count. */
uint64_t world_asked_where(void);
/* Each call that moves pages takes so long from now on. False: this world takes the time it takes. */
bool world_move_slowly(uint64_t ns);
/* mbind(MPOL_BIND) by a consumer, of a mapping of its own. */
void world_mbind(uintptr_t address, size_t length, unsigned node);
/* Can this backing be had here? If not, says why. */
bool world_has(enum mnw_backing kind, const char **why);
/* Runs one script from beginning to end; everything it made must be gone after it. */
void world_run(void (*script)(enum mnw_backing kind), enum mnw_backing kind);
void world_begin(void);
void world_end(void);
/* Does this world's kernel have UFFDIO_POISON? */
bool world_has_poison(void);
/* Write protection? On arm64 it came with Linux 6.10: later than poison. */
bool world_protects(void);
/* From now on the kernel has none; false: this world's kernel is what it is. */
bool world_lose_poison(void);
/* Can memory be made to fail in this world? Then the page of a cache at this address of its alias does. */
bool world_has_breaks(void);
void world_break(const void *alias);

struct mnw__backing;
/* Bytes come into the file of a backing of shmem, as a store sends them there. */
void world_put(struct mnw__backing *backing, uint64_t offset, const void *bytes, size_t length);

/* ---- what a scenario says ---------------------------------------------------------------------------------- */

/* A line of the story. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says the line, and fails the scenario unless the condition holds. */
void expect(bool condition, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The story so far, when it has to end early. */
void tell_story(void);
/* The name of a result: "ok", "EEXIST", "3". */
const char *result_name(int64_t result);
const char *outcome_name(enum world_outcome outcome);
/* Fails the scenario unless `result` is `wanted`; says both. */
void expect_result(const char *what, int64_t result, int64_t wanted);

/* ---- readers in the background ----------------------------------------------------------------------------- */

struct reader {
    struct mnw__thread thread;
    uintptr_t address, stopped;
    size_t length;
    bool writes;
    unsigned char *bytes;
    enum world_outcome outcome;
    _Atomic bool ended;
};

/* Reads (writes) `length` bytes at the address on a thread of its own. */
void reader_start(struct reader *reader, uintptr_t address, size_t length);
void writer_start(struct reader *reader, uintptr_t address, size_t length, unsigned char value);
/* The outcome; the bytes read stay until reader_free(). */
enum world_outcome reader_join(struct reader *reader);
void reader_free(struct reader *reader);
/* Has it ended within a while that is long enough? */
bool reader_ends(struct reader *reader);
/* Is it still not done after a while that would have been long enough? */
bool reader_sleeps(struct reader *reader);
/* Waits until the condition holds; fails the scenario after 20 s. */
void wait_until(bool (*condition)(void *), void *context, const char *what);

/* ---- the scripts ------------------------------------------------------------------------------------------- */

enum {
    ON_SHMEM = 1 << MNW_BACKING_SHMEM,
    ON_GRADED = 1 << MNW_BACKING_GRADED,
    ON_HUGETLB = 1 << MNW_BACKING_HUGETLB_2M,
    ON_BASE = ON_SHMEM | ON_GRADED,
    ON_ALL = ON_BASE | ON_HUGETLB,
    NEEDS_POISON = 1 << 16, /* or what older kernels do not have either: CONTINUE_MODE_WP */
    NEEDS_SPEED = 1 << 17,  /* speaks of milliseconds, which an emulated machine does not keep */
    NEEDS_BREAKS = 1 << 18, /* memory that fails on request */
};

struct scenario {
    const char *name;
    unsigned kinds; /* ON_ and NEEDS_ */
    void (*run)(enum mnw_backing kind);
};

extern const struct scenario scenarios_kernel[];    /* descriptors and registration */
extern const struct scenario scenarios_resolve[];   /* CONTINUE, POISON, COPY, WP */
extern const struct scenario scenarios_memory[];    /* punch, zap, collapse, bar */
extern const struct scenario scenarios_cache[];     /* the public API: memory */
extern const struct scenario scenarios_thrash[];    /* the public API: many readers, little memory */
extern const struct scenario scenarios_jobs[];      /* the public API: ranges with bad pages */
extern const struct scenario scenarios_store[];     /* the public API: the store */
extern const struct scenario scenarios_replay[];    /* working sets */
extern const struct scenario scenarios_around[];    /* what is read around a fault at random */
extern const struct scenario scenarios_ahead[];     /* what is mapped ahead of a sequential reader */
extern const struct scenario scenarios_place[];     /* NUMA nodes */
extern const struct scenario scenarios_rebalance[]; /* memory follows who uses it */
extern const struct scenario scenarios_replicas[];  /* a copy on each NUMA node */
extern const struct scenario scenarios_remote[];    /* views of other processes */
extern const struct scenario scenarios_inline[];    /* views whose faults are resolved in the thread that faulted */
extern const struct scenario scenarios_broken[];    /* memory that fails */

#endif
