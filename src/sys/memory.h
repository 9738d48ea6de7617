/* SPDX-License-Identifier: MIT */
/*
 * Metadata memory: large zeroed arrays that cost nothing until touched. Owns nothing. Any thread may enter.
 */
#ifndef MNW_SYS_MEMORY_H
#define MNW_SYS_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed, not reserved in memory or swap. NULL: no address space. */
void *mnw__memory_reserve(size_t length);
void mnw__memory_release(void *memory, size_t length);

/* The base page of this machine. */
size_t mnw__memory_page_bytes(void);

/*
 * Which process this is, counted in forks since the library was loaded: a handle made under another number
 * belongs to a parent. Async-signal-safe, no system call (MADV_WIPEONFORK).
 */
uint32_t mnw__memory_generation(void);
/* Is this still the process of that number? Writes nothing: for whoever asks often. Async-signal-safe. */
bool mnw__memory_is_of(uint32_t generation);

#endif
