/* SPDX-License-Identifier: MIT */
/* Mappings that stay empty until used, and lie where huge pages can. Owns nothing; any thread may enter. */
#ifndef MNW_SYS_MAPPING_H
#define MNW_SYS_MAPPING_H

#include <stddef.h>
#include <stdint.h>

/* As mmap(2), but never populated or locked, whatever mlockall(2) says. */
void *mnw__map_quiet(void *address, size_t length, int protection, int flags, int fd, uint64_t offset);

/* The same, at an address that is congruent with `offset` modulo `unit` (a power of two). */
void *mnw__map_congruent(int fd, uint64_t offset, size_t length, int protection, int flags, size_t unit);

#endif
