/* SPDX-License-Identifier: MIT */
/*
 * Bringing a file into fresh memory and touching every page of it: by hand in several ways, and by minnow. Arms whose
 * value is MiB/s. Owns nothing between turns. One thread takes turns.
 */
#ifndef MNW_BENCH_FILLS_H
#define MNW_BENCH_FILLS_H

#include "area.h"
#include "harness.h"

enum fill_way {
    FILL_PREAD,    /* pread() into the hole: each page is allocated, zeroed and mapped by a fault of the copy */
    FILL_POPULATE, /* pages are made before (MADV_POPULATE_WRITE), 2 MiB at a time */
    FILL_SENDFILE, /* into the file; not for hugetlb, which cannot be written to */
    FILL_COPY,     /* read into a buffer that stays in the CPU's caches, and written into the file; as sendfile */
    FILL_BESIDE,   /* as FILL_POPULATE, but a second thread makes the pages */
    FILL_URING,    /* reads of 256 KiB, `depth` of them in flight, by the kernel's threads */
    FILL_MINNOW,   /* the view is read, and minnow does the rest; opening it does not count */
};

struct fill {
    const struct scratch *scratch;
    enum area_kind kind;
    enum fill_way way;
    unsigned depth;
    unsigned threads; /* 2: two that share the chunks; else one. Of FILL_BESIDE 2 */
};
double fill_turn(void *fill, struct bench_turn *turn);

/* What minnow calls that kind of pages. */
enum mnw_backing fill_backing(enum area_kind kind);
/* The budget, with room beside the file, so that the reclaimer, which keeps a share free, has nothing to do. */
uint64_t fill_budget(uint64_t size_bytes);

#define FILL_WAYS_MAX 16
/* Of a few tries of every way by hand (FILL_WAYS_MAX at most), the one with the best median; -1: none works here. */
int fill_best_by_hand(struct bench *bench, const struct fill *fills, unsigned count);

#endif
