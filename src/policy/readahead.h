/* SPDX-License-Identifier: MIT */
/*
 * Readahead: from the pages that fault in one view, what will be wanted next.
 *
 * Pure: no system calls, no locks; one caller at a time per struct (the view's fault thread). Recognises up to
 * MNW__READAHEAD_STREAMS interleaved streams, each sequential (forward) or strided (any constant stride, also
 * backward). Three faults in a row of a stream make it known; a sequential one reads ahead from then on, any
 * other from the fourth on, since three numbers are in progression by chance more easily. Windows double with
 * each plan; a stream that the view no longer follows has its window halved, then is forgotten.
 *
 * Mapping ahead has a window of its own, `around`. It grows when a fault shows that all of it was run through,
 * and is halved when one lands inside: what was mapped did not last until its reader came. While pages are being
 * read ahead it is at most a quarter of that window; where a plan found nothing to read, memory holds
 * what the reader wants, and it may grow to MNW__READAHEAD_AROUND_MAX. Then, too, the window behind it is mapped
 * while the reader is in it.
 */
#ifndef MNW_POLICY_READAHEAD_H
#define MNW_POLICY_READAHEAD_H

#include "policy/around.h"

#include <stdbool.h>
#include <stdint.h>

#define MNW__READAHEAD_STREAMS    4
#define MNW__READAHEAD_HISTORY    8
#define MNW__READAHEAD_AROUND_MAX 1024

struct mnw__readahead_stream {
    uint64_t last;   /* page of the last fault */
    int64_t ahead;   /* first page not yet asked for; with a negative stride it may be below 0 */
    int64_t stride;  /* pages; 1: sequential; 0: no stream here */
    uint32_t window; /* pages (sequential) or strides to keep ahead */
    uint32_t around; /* pages from `last` on that were to be mapped */
    uint32_t lead;   /* behind them, one page left out, so many less one */
    uint32_t hits;   /* confirmations */
    uint32_t unread; /* plans in a row of which nothing had to be read */
    uint32_t used;   /* clock of the last fit, for replacement */
};

struct mnw__readahead {
    struct mnw__readahead_stream streams[MNW__READAHEAD_STREAMS];
    uint64_t history[MNW__READAHEAD_HISTORY]; /* the last faults that fitted no stream, plus one; 0: none */
    uint64_t ends[MNW__READAHEAD_HISTORY];    /* where the blocks around them end; 0: there was none */
    struct mnw__around block;
    uint64_t page_count; /* of the store */
    uint32_t window_max; /* pages; 0: off */
    uint32_t clock;
    uint32_t history_next;
};

/* What to do at one fault. */
struct mnw__readahead_plan {
    uint32_t around; /* pages from the faulting one on, itself included, worth mapping if resident (at least 1) */
    /* Pages worth mapping, if resident, once the faulter is on his way; 0: none. Those between are mapped, but for the
     * one before, whose fault is the sign for more. */
    uint64_t lead;
    uint32_t lead_count;
    /* Pages that were to be mapped ahead at the stream's last fault, and that this one shows to have been run through.
     */
    uint64_t passed;
    uint32_t passed_count;
    uint64_t start; /* first page to read ahead */
    int64_t stride; /* between them; 1: a contiguous run */
    uint32_t count; /* pages to read ahead; 0: none */
    /* Around a fault that fits no stream: an aligned block, the page in it. 0: none. */
    uint64_t block;
    uint32_t block_pages;
};

/*
 * With `window_max` 0 no page is ever planned; `around` still grows for a sequential stream. `block_max`: pages of the
 * largest block around a fault at random, at most 1: none.
 */
void mnw__readahead_init(struct mnw__readahead *readahead, uint64_t page_count, uint32_t window_max,
                         uint32_t block_max);
/*
 * Notes a fault on `page` and says what to do. A sequential consumer of resident pages that are mapped
 * `around` at a time still counts as sequential: a fault that lands anywhere from last to last + around + 1,
 * or on a page already asked for, fits. Never plans a page at or beyond page_count, nor the faulting page
 * itself, nor the same page twice for a stream that goes on.
 */
void mnw__readahead_fault(struct mnw__readahead *readahead, uint64_t page, struct mnw__readahead_plan *plan);
/*
 * The page of the fault just noted turned out absent. Where it had been planned before (and the plan was not
 * carried out, or its pages were evicted unread), the plan is replaced by one that begins right behind the page,
 * with half the window: without it nothing would be read ahead until the consumer had passed what was lost.
 * Otherwise nothing changes, so that every fault on an absent page may call it.
 */
void mnw__readahead_missed(struct mnw__readahead *readahead, uint64_t page, struct mnw__readahead_plan *plan);
/* The plan was carried out; `resident`: every page of it was in memory already. */
void mnw__readahead_planned(struct mnw__readahead *readahead, const struct mnw__readahead_plan *plan, bool resident);

#endif
