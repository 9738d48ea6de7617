/* SPDX-License-Identifier: MIT */
/*
 * Page words and extent words: the truth about every page of a cache.
 *
 * Owns: the two arrays of a struct mnw__pages. Any thread may enter, at any time; every transition is one
 * compare-and-swap, and each is one function here. Makes no system call, takes no lock, never waits.
 *
 * A page word is 32 bits, and all that is kept per page:
 *
 *     ABSENT --claim--> FILLING --fill--> PRESENT --drop--> ABSENT
 *                          |--fill, spoiled, or unclaim--> ABSENT
 *                          |--fail--> FAILED --heal--> ABSENT
 *
 * FILLING carries JOINED (a fault waits for it besides the one that began it) and SPOILED (an invalidate
 * came: the bytes must not be shown). Whoever claimed a page is the only one to take it out of FILLING.
 *
 * An extent word is 64 bits per extent, the unit of eviction:
 *
 *     ABSENT --enter--> RESIDENT --claim_eviction, drain--> EVICTING --evicted--> ABSENT
 *                                                              |--keep--> RESIDENT
 *
 * It counts the engine's pins (a fault being resolved, a fill in flight), the user's pins, and its PRESENT
 * pages. The rule that makes stale maps impossible: a page is looked at, filled and mapped only between
 * enter and leave of its extent, and an extent with engine pins is never punched.
 */
#ifndef MNW_PAGE_PAGE_H
#define MNW_PAGE_PAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mnw__page_state {
    MNW__PAGE_ABSENT = 0,
    MNW__PAGE_FILLING = 1,
    MNW__PAGE_PRESENT = 2,
    MNW__PAGE_FAILED = 3,
};

enum {
    MNW__PAGE_STATE_MASK = 7,
    MNW__PAGE_JOINED = 1 << 3,
    MNW__PAGE_SPOILED = 1 << 4,
    MNW__PAGE_AHEAD = 1 << 5, /* read ahead, not faulted yet */
};

enum mnw__extent_state {
    MNW__EXTENT_ABSENT = 0,
    MNW__EXTENT_RESIDENT = 1,
    MNW__EXTENT_EVICTING = 2,
};

/* An extent word, taken apart. */
struct mnw__extent {
    enum mnw__extent_state state;
    bool awaited;    /* a fault met it EVICTING: wake the extent when that ends */
    bool referenced; /* faulted since the policy last asked */
    bool charged;    /* whole-extent backings: its bytes are in the budget */
    bool unfit;      /* promotion was tried and refused */
    uint16_t present;
    uint16_t user_pins;
    uint16_t engine_pins;
};

struct mnw__pages {
    _Atomic uint32_t *words;
    _Atomic uint64_t *extents;
    uint64_t page_count;
    uint64_t extent_count;
    unsigned extent_shift; /* log2 of pages per extent */
};

static inline uint64_t mnw__extent_of(const struct mnw__pages *pages, uint64_t page) {
    return page >> pages->extent_shift;
}
static inline uint64_t mnw__extent_first(const struct mnw__pages *pages, uint64_t extent) {
    return extent << pages->extent_shift;
}
/* One past the last page of the extent; the store's last extent may be short. */
static inline uint64_t mnw__extent_end(const struct mnw__pages *pages, uint64_t extent) {
    uint64_t end = (extent + 1) << pages->extent_shift;
    return end < pages->page_count ? end : pages->page_count;
}

/* ---- page words; between enter and leave of the extent, but for load ---- */

uint32_t mnw__page_load(const struct mnw__pages *pages, uint64_t page);
static inline enum mnw__page_state mnw__page_state(uint32_t word) {
    return (enum mnw__page_state)(word & MNW__PAGE_STATE_MASK);
}
/* ABSENT -> FILLING (AHEAD when `ahead`). False: it was not ABSENT. */
bool mnw__page_claim(struct mnw__pages *pages, uint64_t page, bool ahead);
/* FILLING -> FILLING|JOINED. False: no longer FILLING; look again. */
bool mnw__page_join(struct mnw__pages *pages, uint64_t page);
/* FILLING -> FILLING|SPOILED. False: not FILLING. Any thread, without entering. */
bool mnw__page_spoil(struct mnw__pages *pages, uint64_t page);
/* FILLING -> PRESENT, or ABSENT when spoiled. Returns the word before. By the claimer. */
uint32_t mnw__page_fill(struct mnw__pages *pages, uint64_t page);
/* FILLING -> ABSENT. Returns the word before. By the claimer. */
uint32_t mnw__page_unclaim(struct mnw__pages *pages, uint64_t page);
/* FILLING -> FAILED. Returns the word before. By the claimer. */
uint32_t mnw__page_fail(struct mnw__pages *pages, uint64_t page);
/* PRESENT -> ABSENT: evicted, or lost from the backing. False: it was not PRESENT. */
bool mnw__page_drop(struct mnw__pages *pages, uint64_t page);
/* FAILED -> ABSENT. False: it was not FAILED. In an EVICTING extent. */
bool mnw__page_heal(struct mnw__pages *pages, uint64_t page);
/* Clears AHEAD of a PRESENT page; true when it was set. */
bool mnw__page_arrive(struct mnw__pages *pages, uint64_t page);

/* ---- extent words ---- */

struct mnw__extent mnw__extent_load(const struct mnw__pages *pages, uint64_t extent);

enum mnw__enter {
    MNW__ENTER_BUSY = 0,  /* EVICTING: nothing held; the evictor will wake the extent's waiters */
    MNW__ENTER_HELD = 1,  /* one engine pin more */
    MNW__ENTER_FRESH = 2, /* the same, and ABSENT -> RESIDENT: the caller gives it to the policy */
};
/* Takes an engine pin. `fault`: also marks it referenced, and awaited when busy. */
enum mnw__enter mnw__extent_enter(struct mnw__pages *pages, uint64_t extent, bool fault);
void mnw__extent_leave(struct mnw__pages *pages, uint64_t extent);
/* Adds to the count of PRESENT pages; returns the new count. While entered. */
unsigned mnw__extent_add_present(struct mnw__pages *pages, uint64_t extent, int pages_more);
/* Sets charged; false when it was set already. While entered. */
bool mnw__extent_charge(struct mnw__pages *pages, uint64_t extent);
/* Sets unfit. While entered. */
void mnw__extent_set_unfit(struct mnw__pages *pages, uint64_t extent);
/* Tests and clears referenced. */
bool mnw__extent_take_referenced(struct mnw__pages *pages, uint64_t extent);

/* RESIDENT without any pin -> EVICTING. */
bool mnw__extent_claim_eviction(struct mnw__pages *pages, uint64_t extent);
/*
 * RESIDENT or ABSENT, without user pins -> EVICTING, whatever the engine's pins: nobody enters from now on;
 * wait for them to leave. 0, -EBUSY (user pins), or -EAGAIN (already EVICTING).
 */
int mnw__extent_drain(struct mnw__pages *pages, uint64_t extent, struct mnw__extent *before);
/* EVICTING -> ABSENT; everything cleared. True: awaited. */
bool mnw__extent_evicted(struct mnw__pages *pages, uint64_t extent);
/* EVICTING -> RESIDENT: it could not be evicted. True: awaited. */
bool mnw__extent_keep(struct mnw__pages *pages, uint64_t extent);

/*
 * Counts a user pin. 1: the first one; 0: a further one; -EAGAIN: EVICTING; -EOVERFLOW. An ABSENT extent
 * becomes RESIDENT, and `*fresh` says so.
 */
int mnw__extent_pin(struct mnw__pages *pages, uint64_t extent, bool *fresh);
/* 1: that was the last; 0: others remain; -EINVAL: there was none. */
int mnw__extent_unpin(struct mnw__pages *pages, uint64_t extent);

/*
 * For a cache at rest: no page FILLING, no extent EVICTING or entered, PRESENT only in RESIDENT extents and
 * as often as counted. Returns NULL, or what is wrong with `*where`.
 */
const char *mnw__pages_check(const struct mnw__pages *pages, uint64_t *where);

#endif
