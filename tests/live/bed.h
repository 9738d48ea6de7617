/* SPDX-License-Identifier: MIT */
/*
 * What the live tests of the public API stand on: bytes that tell their place, a store that fails as told, a
 * pool with a cache and a view, reads that survive a signal, and children of which nothing is left.
 *
 * Any thread may read and compare; opening and closing is the test's own thread's. A test that hangs is
 * killed: bed_hurry().
 */
#ifndef MNW_TESTS_LIVE_BED_H
#define MNW_TESTS_LIVE_BED_H

#include <minnow/minnow.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define BED_PAGE 4096ull
#define BED_MIB  (1ull << 20)

/* ---- bytes ---- */

/* The bytes of a store at an offset. Never zero; `salt` names the store, or its newer contents. */
void bed_bytes(void *to, uint64_t offset, size_t length, uint64_t salt);

/* A file of such bytes, in /tmp. A test that fails leaves it there to be looked at. */
struct bed_file {
    char path[64], uri[96];
    int fd;
};
void bed_file(struct bed_file *file, uint64_t size_bytes, uint64_t salt);
void bed_file_remove(struct bed_file *file);

/* ---- reading ---- */

enum { BED_RIGHT = 0, BED_WRONG = -1 };
/* Compares memory with the bytes of `offset`: BED_RIGHT, BED_WRONG, or the signal; `*fault` is its address. */
int bed_compare(const void *at, uint64_t offset, size_t length, uint64_t salt, uintptr_t *fault);
/* Reads one byte: 0 or the signal. */
int bed_touch(const void *at, uintptr_t *fault);
/* Is this memory all zeros? BED_RIGHT, BED_WRONG or the signal. */
int bed_zeros(const void *at, size_t length);
/* Is `page` right in the view, and how does it end if not? Fails the test when it is neither. */
void bed_assert_page(struct mnw_view *view, uint64_t page, uint64_t salt);
/* SIGBUS, at an address in exactly that page. */
void bed_assert_bus(struct mnw_view *view, uint64_t page);

/* ---- a store that fails as told ---- */

#define BED_HOLD INT64_MIN /* do not answer now */

struct bed_source {
    struct mnw_store *store;
    uint64_t size_bytes, page_bytes;
    _Atomic uint64_t salt;
    /* What to say to a read whose bytes are in place; NULL: all of them. Called on minnow's threads. */
    int64_t (*answer)(struct bed_source *source, const struct mnw_read *read);
    int (*check)(struct bed_source *source, uint64_t offset, const void *bytes, size_t length);
    _Atomic uint64_t reads;
    _Atomic uint64_t bad_page; /* for `answer`; UINT64_MAX: none */
    _Atomic int64_t count;     /* for `answer` */
    pthread_mutex_t lock;
    struct mnw_read held[1024]; /* lock */
    unsigned held_count;        /* lock */
};
void bed_source_open(struct bed_source *source, uint64_t size_bytes);
void bed_source_close(struct bed_source *source);
/* Answers the reads that were held, with the store's bytes; how many. */
unsigned bed_release(struct bed_source *source);
unsigned bed_held(struct bed_source *source);
/* Is any? For bed_eventually(). */
bool bed_is_held(void *source);
/* For `answer`: holds every read. */
int64_t bed_hold_all(struct bed_source *source, const struct mnw_read *read);
bool bed_read_has(const struct bed_source *source, const struct mnw_read *read, uint64_t page);

/* ---- a pool, a cache, a view ---- */

struct bed {
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view;
    char *data;
    size_t page_bytes;
    bool no_poison; /* set before bed_open: as on a kernel without UFFDIO_POISON */
};
/* Fields left 0 in the options get a small default; `cache_options` may be NULL. */
void bed_open(struct bed *bed, struct mnw_store *store, struct mnw_pool_options pool_options,
              const struct mnw_cache_options *cache_options);
void bed_close(struct bed *bed);
/* The next event, waited for: true when it came in time. */
bool bed_event(struct mnw_pool *pool, struct mnw_event *event, unsigned timeout_ms);
struct mnw_stats bed_stats(struct mnw_pool *pool);
/* The monotonic clock. */
uint64_t bed_now_ns(void);
/* Waits for a condition up to 10 s. */
bool bed_eventually(bool (*holds)(void *argument), void *argument);

/* The result of a call that must be refused, and whose message must name the thing and the remedy. */
#define bed_refused(call, expected, thing, remedy) bed_refused_at(call, expected, thing, remedy, __FILE__, __LINE__)
void bed_refused_at(int64_t result, int expected, const char *thing, const char *remedy, const char *file, int line);

/* ---- processes ---- */

/* Ends the process with SIGALRM when the test is not done in so many seconds. */
void bed_hurry(unsigned seconds);
/* Runs `body` in a child; its exit status, 128 + signal. Inside, use bed_check() and no assertion of cmocka. */
int bed_child(int (*body)(void *argument), void *argument);
/* Without cmocka's handlers of SIGBUS and SIGSEGV; fails the test unless the child ends so. */
void bed_assert_child(int (*body)(void *argument), void *argument, int expected);
/* The test of a body that needs no argument and ends with 0. */
#define BED_CHILD_TEST(name)                                                                                           \
    static void test_##name(void **state) {                                                                            \
        (void)state;                                                                                                   \
        bed_assert_child(name, NULL, 0);                                                                               \
    }
#define bed_check(condition) bed_check_at(condition, #condition, __FILE__, __LINE__)
void bed_check_at(bool holds, const char *text, const char *file, int line);
/* From now on this process is user nobody's. */
void bed_become_nobody(void);
/* From now on these system calls fail with `error`. */
void bed_forbid(const long *numbers, size_t count, int error);
/* The same for one call where its argument 0..5 has this value (32 bits of it). */
void bed_forbid_argument(long number, unsigned argument, uint32_t value, int error);

/* What a process holds: threads, mappings and descriptors. */
struct bed_holdings {
    uint64_t mapped_kib;
    unsigned threads, mappings, descriptors;
};
struct bed_holdings bed_holdings(void);
/* The same, once there are as many threads as before: the kernel counts one for a moment after it was joined. */
struct bed_holdings bed_settled(const struct bed_holdings *before);

#endif
