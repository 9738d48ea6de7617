/* SPDX-License-Identifier: MIT */
/*
 * Reading around: how much of its surroundings to bring with a page that faulted and belongs to no stream.
 *
 * Pure: no system calls, no locks; one caller at a time per struct (the view's fault thread). A guess, and treated as
 * one: each fault says whether it came near one of the last ones. While that is so for more than one in four, the
 * aligned block is brought whole; where faults are scattered the blocks shrink, after some thirty of them to the page
 * alone, and grow again once faults are near each other again.
 */
#ifndef MNW_POLICY_AROUND_H
#define MNW_POLICY_AROUND_H

#include <stdint.h>

#define MNW__AROUND_AREAS 64

struct mnw__around {
    uint64_t areas[MNW__AROUND_AREAS]; /* where faults were, plus one; 0: none. A place for each hash */
    uint32_t pages_max;                /* of a block: a power of two; 1: never more than the page */
    int score;                         /* 0: scattered */
};

/* `pages_max` is rounded down to a power of two; 0 counts as 1. */
void mnw__around_init(struct mnw__around *around, uint32_t pages_max);
/* Notes a fault, and says how many pages the aligned block has that is worth having with it: a power of two. */
uint32_t mnw__around_fault(struct mnw__around *around, uint64_t page);

#endif
