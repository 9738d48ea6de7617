/* SPDX-License-Identifier: MIT */
/*
 * Metadata memory: large zeroed arrays that cost nothing until touched. Owns nothing. Any thread may enter.
 */
#ifndef MNW_SYS_MEMORY_H
#define MNW_SYS_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* Zeroed, not reserved in memory or swap. NULL: no address space. */
void *mnw__memory_reserve(size_t length);
void mnw__memory_release(void *memory, size_t length);

/* The base page of this machine. */
size_t mnw__memory_page_bytes(void);

/* Has this process been forked since the library was loaded? Async-signal-safe, no system call (MADV_WIPEONFORK). */
bool mnw__memory_is_forked(void);

#endif
