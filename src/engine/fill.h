/* SPDX-License-Identifier: MIT */
/*
 * Fills: bringing pages from the store into the backing, each page by one fill at a time.
 *
 * Owns: the fill slots of a fault thread, from the claim of the pages to their end. Slots are taken by their
 * fault thread, and by threads whose faults are resolved inline; they are ended by whoever has the last answer. A slot
 * is counted in the extents of its run throughout.
 *
 *     FREE --begin--> READING --answer--> ANSWERED --> finish / read on --> READING
 *                        |                    |--error--> PAUSED --retry--> READING
 *                        |--deadline--> ABANDONED --answer--> LATE --> FREE
 *                        |<--nobody waits, and it is read inline--|
 *     given up, but its memory cannot be punched just now: OWING --punched--> FREE
 *
 * An answer of all the bytes is finished on the thread that brings it; everything else (short answers,
 * errors, late ones) is left to the fault thread, so that no store ever recurses.
 * An ABANDONED fill keeps its memory and its place in its extents until the store answers: the store still owns the
 * buffer. An OWING one keeps them until the memory is given back, so that nothing is charged twice.
 * What is only read ahead may have no memory either: a store that has it in the kernel's page cache sends it into the
 * backing's file. The bytes are in the file before anybody has looked at them, as they are where a read puts them into
 * memory; only the words say what is there. Where sending fails, the run gets memory and is read.
 * The run of a job that goes on failing is read one page at a time, so that a bad page does not take others along.
 */
#ifndef MNW_ENGINE_FILL_H
#define MNW_ENGINE_FILL_H

#include "minnow/minnow.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mnw_cache;
struct mnw_view;
struct mnw__fault_thread;
struct mnw__job;

enum mnw__fill_state {
    MNW__FILL_FREE,
    MNW__FILL_READING,
    MNW__FILL_ANSWERED,
    MNW__FILL_PAUSED,
    MNW__FILL_ABANDONED,
    MNW__FILL_LATE,
    MNW__FILL_OWING,
};

struct mnw__fill {
    _Atomic uint64_t word; /* state and generation: a fill that began in the slot meanwhile has another word */
    uint32_t generation;   /* of the slot; part of the token. Moves while the slot is its fill's */
    struct mnw__fault_thread *thread;
    struct mnw_cache *cache;
    struct mnw_view *view;  /* whose fault began it; a name only: it may be closed. NULL: read ahead */
    struct mnw_view *along; /* read around a fault of this one, to be mapped there too; a name only. NULL: none */
    struct mnw__job *job;   /* NULL: none */
    uint64_t first_page;    /* with a view, this is the page it waits for */
    uint32_t page_count;
    uint32_t attempts;
    uint32_t pages_failed; /* of the run so far */
    bool one_by_one;       /* one page is asked for at a time */
    bool is_inline;        /* begun by a thread that reads its page itself, and looks for it itself */
    bool comes_whole;      /* its page has no memory yet: mnw__fill_read_inline() writes it */
    bool is_sent;          /* the same of a run: the store sends its bytes into the backing's file */
    bool is_copied;        /* the last answer was not the store's, but another member's (member.h) */
    bool asks_store;       /* what another member had was not what the store holds: it is asked itself */
    uint64_t wanted_bytes, done_bytes;
    uint64_t began_ns, retry_ns, retry_delay_ns;
    _Atomic uint64_t deadline_ns; /* looked at by the fault thread while another takes the slot anew */
    int64_t result;               /* of the last answer */
};

#define MNW__FILL_SLOTS_MAX 1024

enum mnw__begin {
    MNW__BEGIN_STARTED,
    MNW__BEGIN_TAKEN,   /* the first page is not ABSENT, or its extent is being evicted */
    MNW__BEGIN_STARVED, /* no free read slot, or no memory; nothing was changed */
};
/*
 * Claims the run [page, page + count), as far as it is ABSENT, gives it memory and starts its read. `view`
 * for a demand fill. On the fault thread, under its lock. The number of pages claimed comes back in `*begun`.
 */
enum mnw__begin mnw__fill_begin(struct mnw__fault_thread *thread, struct mnw_cache *cache, struct mnw_view *view,
                                struct mnw__job *job, uint64_t page, uint32_t count, uint32_t *begun);

/* The same for the surroundings of a page that `view` faulted on: nobody waits for them, but they are mapped there. */
enum mnw__begin mnw__fill_begin_along(struct mnw__fault_thread *thread, struct mnw_view *view, uint64_t page,
                                      uint32_t count, uint32_t *begun);

/*
 * The same for the page that an inline thread wants, on that thread, without the lock: READING, and the read is the
 * caller's to do (mnw__fill_read_inline) and to answer (mnw__fill_answer, with the token). Nobody else but who joined
 * is told of the end: the caller looks for itself. While it reads, nothing of the view is used, and the cache stays.
 * The read is false when it finds no memory: then mnw__fill_starve() takes the place of the answer, and the fill has
 * never been.
 */
enum mnw__begin mnw__fill_begin_inline(struct mnw_view *view, uint64_t page, uint32_t count, struct mnw__fill **begun);
bool mnw__fill_read_inline(struct mnw__fill *fill, uint64_t *token, int64_t *result);
void mnw__fill_starve(struct mnw__fault_thread *thread, uint64_t token);

/* mnw__io_done: an answer, on any thread. `context` is the fault thread. */
void mnw__fill_answer(void *context, uint64_t token, int64_t result);

/* On the fault thread, under its lock: goes on with fills that were answered short, in error, or late. */
void mnw__fill_attend(struct mnw__fault_thread *thread);
/* The same: starts retries that are due, ends fills past their deadline. Returns when to call again. */
uint64_t mnw__fill_timers(struct mnw__fault_thread *thread, uint64_t now_ns);

/* Ends a page that no memory could be had for: FAILED, until it is invalidated. In an entered extent. */
void mnw__fill_refuse(struct mnw_view *view, uint64_t page, int error);

/* Are there slots for more than faults? Readahead and jobs leave a share of them free. */
bool mnw__fill_has_spare_slots(const struct mnw__fault_thread *thread);

#endif
