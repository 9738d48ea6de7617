/* SPDX-License-Identifier: MIT */
/*
 * What the tests of takeover share: a process that keeps a cache, and whoever inherits its descriptors.
 */
#ifndef MNW_TESTS_LIVE_ADOPT_H
#define MNW_TESTS_LIVE_ADOPT_H

#include <minnow/minnow.h>

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The bytes of a store, at an offset. Never zero within a word. */
void adopt_bytes(void *to, uint64_t offset, size_t length);
/* How many words of 8 bytes differ from the store's; past its end they must be zero. `offset` is a word's. */
uint64_t adopt_wrong(const void *at, uint64_t offset, size_t length, uint64_t store_bytes);
/* A file of such bytes in /tmp, for the caller to remove. `path` has room for 64, `uri` for 96. */
void adopt_file(char *path, char *uri, uint64_t size_bytes);

/* Descriptors through a socket. The received ones are the caller's. */
void adopt_send(int socket, const struct mnw_kept *kept);
bool adopt_receive(int socket, struct mnw_kept *kept);
void adopt_close(struct mnw_kept *kept);

/* Memory behind a descriptor, in bytes. */
uint64_t adopt_memory(int fd);

/* Can this machine have a pool of this backing and budget? Frees huge pages; false: no, and why was said. */
bool adopt_can(enum mnw_backing backing, uint64_t budget_bytes);
extern const char *const adopt_kinds[4];

/* Says what went wrong and ends the process with status 1. */
_Noreturn void adopt_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Fails unless the result is 0 or more. */
int64_t adopt_must(int64_t result, const char *what);

#endif
