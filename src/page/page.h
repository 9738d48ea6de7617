/* SPDX-License-Identifier: MIT */
/*
 * Page words and extent words: the truth about every page of a cache.
 *
 * Owns: the two arrays of a struct mnw__pages. Any thread may enter, at any time; every transition is one
 * compare-and-swap, and each is one function here. Makes no system call and takes no lock.
 *
 * A page word is 32 bits, and all that is kept per page:
 *
 *     ABSENT --claim--> FILLING --fill--> PRESENT --drop--> ABSENT
 *                          |--unclaim--> ABSENT
 *                          |--fail--> FAILED --heal--> ABSENT
 *
 * FILLING carries JOINED: a fault waits for it besides the one that began it. Whoever claimed a page is the
 * only one to take it out of FILLING.
 *
 * A page that failed is SCARRED from then on, in whatever state, until it is known that no view bars it any more: a
 * mapping that another process made keeps its markers when we die, and who attaches it next must know.
 *
 * An extent word is 64 bits per extent, the unit of eviction:
 *
 *     ABSENT --enter--> RESIDENT --claim_eviction, drain--> EVICTING --evicted--> ABSENT
 *                                                              |--keep--> RESIDENT
 *
 * It counts the visitors (a fault or a finished fill that looks at pages, claims or maps them), the fills in
 * flight (until the store answers), the user's pins, and its PRESENT pages. The rules that make stale maps impossible:
 * a page is claimed and mapped only by visitors; an extent with visitors or fills is never punched; and a page
 * leaves PRESENT only while its extent is EVICTING, when no visitor can be about to map what it saw PRESENT.
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
    MNW__PAGE_SCARRED = 1 << 4,
};

/* What an extent word can count. */
#define MNW__EXTENT_PAGES_MAX 0x3fff

enum mnw__extent_state {
    MNW__EXTENT_ABSENT = 0,
    MNW__EXTENT_RESIDENT = 1,
    MNW__EXTENT_EVICTING = 2,
};

/* An extent word, taken apart. */
struct mnw__extent {
    enum mnw__extent_state state;
    bool awaited;    /* a fault met it EVICTING: wake the extent when that ends */
    bool referenced; /* used since the policy last asked: it faulted, or its reader ran through it */
    bool ahead;      /* mapped ahead of a reader since then; whether he has come is not known */
    bool charged;    /* whole-extent backings: its bytes are in the budget */
    bool unfit;      /* promotion was tried and refused */
    uint16_t present;
    uint16_t user_pins;
    uint16_t fills;
    uint16_t visitors;
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

/* The page's words will be looked at: they are on their way meanwhile. */
static inline void mnw__page_expect(const struct mnw__pages *pages, uint64_t page) {
    __builtin_prefetch((const void *)(uintptr_t)&pages->words[page]);
    __builtin_prefetch((const void *)(uintptr_t)&pages->extents[mnw__extent_of(pages, page)], 1);
}

/* ---- page words; between enter and leave of the extent, but for load ---- */

uint32_t mnw__page_load(const struct mnw__pages *pages, uint64_t page);
static inline enum mnw__page_state mnw__page_state(uint32_t word) {
    return (enum mnw__page_state)(word & MNW__PAGE_STATE_MASK);
}
/* ABSENT -> FILLING. False: it was not ABSENT. */
bool mnw__page_claim(struct mnw__pages *pages, uint64_t page);
/* FILLING -> FILLING|JOINED. False: no longer FILLING; look again. */
bool mnw__page_join(struct mnw__pages *pages, uint64_t page);
/* FILLING -> PRESENT. Returns the word before. By the claimer. */
uint32_t mnw__page_fill(struct mnw__pages *pages, uint64_t page);
/* FILLING -> ABSENT. Returns the word before. By the claimer. */
uint32_t mnw__page_unclaim(struct mnw__pages *pages, uint64_t page);
/* FILLING -> FAILED. Returns the word before. By the claimer. */
uint32_t mnw__page_fail(struct mnw__pages *pages, uint64_t page);
/* PRESENT -> ABSENT. False: it was not PRESENT. In an EVICTING extent. */
bool mnw__page_drop(struct mnw__pages *pages, uint64_t page);
/* FAILED -> ABSENT. False: it was not FAILED. In an EVICTING extent. */
bool mnw__page_heal(struct mnw__pages *pages, uint64_t page);
/* No view bars the page any more. Nothing happens when it is FAILED, or not SCARRED. */
void mnw__page_unscar(struct mnw__pages *pages, uint64_t page);

/* ---- extent words ---- */

struct mnw__extent mnw__extent_load(const struct mnw__pages *pages, uint64_t extent);
/* Nothing in it, nobody in it: most of a sparse store. */
bool mnw__extent_is_untouched(const struct mnw__pages *pages, uint64_t extent);

enum mnw__enter {
    MNW__ENTER_BUSY = 0,  /* EVICTING: nothing held; the evictor will wake the extent's waiters */
    MNW__ENTER_HELD = 1,  /* one visitor more */
    MNW__ENTER_FRESH = 2, /* the same, and ABSENT -> RESIDENT: the caller gives it to the policy */
    MNW__ENTER_FULL = 3,  /* as many visitors as can be counted; visits are short: try again */
};
/* One visitor more, unless EVICTING. `fault`: also marks it referenced, and awaited when busy. */
enum mnw__enter mnw__extent_enter(struct mnw__pages *pages, uint64_t extent, bool fault);
/*
 * One visitor more if it is RESIDENT, to read what is PRESENT in it and no more: no use of it, and it stays what it is.
 * False: it is not, or has as many visitors as can be counted; nothing is waited for.
 */
bool mnw__extent_visit(struct mnw__pages *pages, uint64_t extent);
/* One visitor less. */
void mnw__extent_leave(struct mnw__pages *pages, uint64_t extent);
/* One visitor less, one fill more: the visitor has claimed pages. */
void mnw__extent_settle(struct mnw__pages *pages, uint64_t extent);
/* One visitor more, whatever the state: by a fill in flight, to map what it has filled. Spins while there is no room.
 */
void mnw__extent_revisit(struct mnw__pages *pages, uint64_t extent);
/* One fill less. */
void mnw__extent_release(struct mnw__pages *pages, uint64_t extent);
/* Adds to the count of PRESENT pages; returns the new count. While entered. */
unsigned mnw__extent_add_present(struct mnw__pages *pages, uint64_t extent, int pages_more);
/* Sets charged; false when it was set already. While entered. */
bool mnw__extent_charge(struct mnw__pages *pages, uint64_t extent);
/* Sets unfit. While entered. */
void mnw__extent_set_unfit(struct mnw__pages *pages, uint64_t extent);
/* Sets ahead. While entered. */
void mnw__extent_set_ahead(struct mnw__pages *pages, uint64_t extent);
/* A reader has run through pages that were mapped ahead of him: sets referenced, if the extent is still RESIDENT. */
void mnw__extent_note_passed(struct mnw__pages *pages, uint64_t extent);

enum mnw__use {
    MNW__USE_NONE,    /* not since this was last asked; nor was it mapped */
    MNW__USE_UNKNOWN, /* mapped ahead of somebody who is not known to have come */
    MNW__USE_SEEN,
};
/* What is known of its use since this was last asked; clears it. */
enum mnw__use mnw__extent_take_use(struct mnw__pages *pages, uint64_t extent);

/* RESIDENT without visitors, fills and pins -> EVICTING. */
bool mnw__extent_claim_eviction(struct mnw__pages *pages, uint64_t extent);
/* RESIDENT with one visitor, who asks -> EVICTING: to drop a page whose memory was lost. Then keep. */
bool mnw__extent_claim_repair(struct mnw__pages *pages, uint64_t extent);
/*
 * The same, but without fills: to heal a page that failed. A read that missed its deadline has failed its pages and
 * still owns their memory, until the store answers. Then keep.
 */
bool mnw__extent_claim_heal(struct mnw__pages *pages, uint64_t extent);
/*
 * RESIDENT or ABSENT, without user pins -> EVICTING, whatever visitors and fills: nobody enters from now on; wait
 * for them to leave. 0, -EBUSY (user pins), or -EAGAIN (already EVICTING).
 */
int mnw__extent_drain(struct mnw__pages *pages, uint64_t extent);
/* The same with pins, to repair what even they could not keep: -EAGAIN when it is EVICTING already. */
int mnw__extent_drain_pinned(struct mnw__pages *pages, uint64_t extent);
/* EVICTING -> ABSENT; everything cleared. True: awaited. */
bool mnw__extent_evicted(struct mnw__pages *pages, uint64_t extent);
/* EVICTING -> RESIDENT: it could not be evicted. True: awaited. */
bool mnw__extent_keep(struct mnw__pages *pages, uint64_t extent);

/* Counts a user pin; ABSENT -> RESIDENT. 1: the first one; 0: a further one; -EAGAIN: EVICTING; -EOVERFLOW. */
int mnw__extent_pin(struct mnw__pages *pages, uint64_t extent);
/* 1: that was the last; 0: others remain; -EINVAL: there was none. */
int mnw__extent_unpin(struct mnw__pages *pages, uint64_t extent);

/*
 * Whatever the word said: RESIDENT with so many PRESENT pages, or ABSENT when there are none and it is not charged.
 * Nobody is inside, nothing is pinned; whether it was referenced stays. Before anybody else knows the pages.
 */
void mnw__extent_rebuild(struct mnw__pages *pages, uint64_t extent, unsigned present, bool charged);

/*
 * For a cache at rest: no page FILLING, no extent EVICTING or entered, PRESENT only in RESIDENT extents and
 * as often as counted. Returns NULL, or what is wrong with `*where`.
 */
const char *mnw__pages_check(const struct mnw__pages *pages, uint64_t *where);

#endif
