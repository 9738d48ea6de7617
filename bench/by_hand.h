/* SPDX-License-Identifier: MIT */
/*
 * Caches in an afternoon: memory within a budget, by hand, in the SIGBUS handler. What zipf-quarter, uniform-quarter
 * and cold-random-inline are held against.
 *
 * Owns its area, its userfaultfd, and its place in the chain of handlers of SIGBUS. One thread opens and closes, one
 * reads. None of it calls minnow.
 */
#ifndef MNW_BENCH_BY_HAND_H
#define MNW_BENCH_BY_HAND_H

#include "area.h"
#include "reads.h"

#define BY_HAND_EXTENT (64 << 10) /* the default of shmem */

struct by_hand {
    /* The oldest page is punched, the new one read through the alias, and continued. */
    bool least; /* or: the cheapest calls known. Extents are punched whole, oldest first; pwrite gives a page its memory
                   with its bytes */
    struct area area;
    const struct scratch *scratch;
    int uffd;
    uint32_t room, resident; /* pages; room 0 when opened: a quarter of the file */
    uint32_t *ring;          /* pages, or extents, in the order they came; plus one */
    uint32_t first, next;
    uint16_t *held; /* pages of each extent */
    struct reads reads;
    uint64_t misses;
};

/* `like` is read, from the area instead. 0, or a negative errno. At most two are open, the last is closed first. */
int by_hand_open(struct by_hand *by_hand, const struct scratch *scratch, const struct reads *like, uint64_t seed);
void by_hand_close(struct by_hand *by_hand);
/* Gives every page up, and counts none of that; of one that is `least`. For struct touches. */
void by_hand_reset(void *by_hand);
/* Of a bench_arm: reads a second. Counts the misses of the turns that count. */
double by_hand_turn(void *by_hand, struct bench_turn *turn);

#endif
