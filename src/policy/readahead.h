/* SPDX-License-Identifier: MIT */
/*
 * Readahead: from the pages that fault in one view, what will be wanted next.
 *
 * Pure: no system calls, no locks; one caller at a time per struct (the view's fault thread). Recognises up to
 * MNW__READAHEAD_STREAMS interleaved streams, each sequential (forward) or strided (any constant stride, also
 * backward), by at least three faults that fit. Windows double with each confirmation and are halved, then
 * dropped, when evidence fails.
 */
#ifndef MNW_POLICY_READAHEAD_H
#define MNW_POLICY_READAHEAD_H

#include <stdint.h>

#define MNW__READAHEAD_STREAMS 4

struct mnw__readahead_stream {
    uint64_t last;   /* page of the last fault */
    uint64_t ahead;  /* first page not yet asked for */
    int64_t stride;  /* pages; 1: sequential; 0: one fault seen */
    uint32_t window; /* pages (sequential) or strides to keep ahead */
    uint32_t hits;   /* confirmations */
    uint32_t used;   /* clock of the last fit, for replacement */
};

struct mnw__readahead {
    struct mnw__readahead_stream streams[MNW__READAHEAD_STREAMS];
    uint64_t page_count; /* of the store */
    uint32_t window_max; /* pages; 0: off */
    uint32_t clock;
};

/* What to do at one fault. */
struct mnw__readahead_plan {
    uint32_t around; /* pages from the faulting one on, itself included, worth mapping if resident (at least 1) */
    uint64_t start;  /* first page to read ahead */
    int64_t stride;  /* between them; 1: a contiguous run */
    uint32_t count;  /* pages to read ahead; 0: none */
};

void mnw__readahead_init(struct mnw__readahead *readahead, uint64_t page_count, uint32_t window_max);
/*
 * Notes a fault on `page` and says what to do. A sequential consumer of resident pages that are mapped
 * `around` at a time still counts as sequential: a fault that lands anywhere from last to last + around + 1
 * fits. Never plans a page at or beyond page_count, nor the faulting page itself.
 */
void mnw__readahead_fault(struct mnw__readahead *readahead, uint64_t page, struct mnw__readahead_plan *plan);

#endif
