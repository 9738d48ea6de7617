/* SPDX-License-Identifier: MIT */
/* Mappings whose huge extents are huge pages of the address space too. Owns nothing; any thread may enter. */
#ifndef MNW_SYS_MAPPING_H
#define MNW_SYS_MAPPING_H

#include <stddef.h>
#include <stdint.h>

/* As mmap(2), at an address that is congruent with `offset` modulo `unit` (a power of two). */
void *mnw__map_congruent(int fd, uint64_t offset, size_t length, int protection, int flags, size_t unit);

#endif
