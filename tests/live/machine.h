/* SPDX-License-Identifier: MIT */
/*
 * The machine under the tests: settings that a test changes, and touching memory that may raise a signal.
 *
 * A test's main begins with machine_guard(): the tests then run in a child, and the parent puts back what
 * machine_set() changed, however the child ends.
 */
#ifndef MNW_TESTS_LIVE_MACHINE_H
#define MNW_TESTS_LIVE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MACHINE_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MACHINE_SANITIZED 1
#endif
#endif
#ifndef MACHINE_SANITIZED
#define MACHINE_SANITIZED 0
#endif

/* It runs asynchronous handlers with every signal blocked, and lets no child of several threads start one. */
#if defined(__SANITIZE_THREAD__)
#define MACHINE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MACHINE_TSAN 1
#endif
#endif
#ifndef MACHINE_TSAN
#define MACHINE_TSAN 0
#endif

#define SHMEM_ENABLED "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/* -1: this is the child, go on; otherwise the exit status for main to return. */
int machine_guard(char **argv);
/* Writes a setting of the kernel and remembers what it was. False: not permitted, or there is none. */
bool machine_set(const char *path, const char *value);
/* Makes `count` huge pages free, by raising the pool if need be. False: the machine could not. */
bool machine_free_hugepages(size_t page_bytes, uint64_t count);

/* Reads (or writes) one byte there: 0, or the signal it raised and the address that came with it. */
int machine_touch(volatile char *at, uintptr_t *fault_address);
int machine_poke(volatile char *at, char value, uintptr_t *fault_address);

/*
 * In a child of a test: a fault that nobody expects ends it. cmocka's handlers would have it go on with the next test,
 * as a second run of all that are left, while its parent waits.
 */
void machine_be_a_child(void);

/* How many times longer than on ordinary hardware things may take: MINNOW_TEST_SLOWNESS, 1 by default. */
int64_t machine_slowness(void);

/* This process's open descriptors, of the first 1024. */
int machine_open_descriptors(void);

#endif
