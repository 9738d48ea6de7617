/* SPDX-License-Identifier: MIT */
/* Extent words. The diagram is in page.h; each arrow of it is one function here. */
#include "page/page.h"

#include "base/point.h"

#include <assert.h>
#include <errno.h>

/* The packed form: state 2 bits, flags, then the counts. */
#define STATE_MASK  3ull
#define AWAITED     (1ull << 2)
#define REFERENCED  (1ull << 3)
#define CHARGED     (1ull << 4)
#define UNFIT       (1ull << 5)
#define AHEAD       (1ull << 6)
#define PRESENT_ONE (1ull << 8)
#define PRESENT_MAX ((uint64_t)MNW__EXTENT_PAGES_MAX)
#define USER_ONE    (1ull << 22)
#define USER_MAX    0xffffull
#define FILL_ONE    (1ull << 38)
#define FILL_MAX    0x3fffull
#define VISITOR_ONE (1ull << 52)
#define VISITOR_MAX 0xfffull

static unsigned present_of(uint64_t word) {
    return (unsigned)(word / PRESENT_ONE & PRESENT_MAX);
}

static unsigned user_pins_of(uint64_t word) {
    return (unsigned)(word / USER_ONE & USER_MAX);
}

static unsigned fills_of(uint64_t word) {
    return (unsigned)(word / FILL_ONE & FILL_MAX);
}

static unsigned visitors_of(uint64_t word) {
    return (unsigned)(word / VISITOR_ONE & VISITOR_MAX);
}

static enum mnw__extent_state state_of(uint64_t word) {
    return (enum mnw__extent_state)(word & STATE_MASK);
}

static uint64_t with_state(uint64_t word, enum mnw__extent_state state) {
    return (word & ~STATE_MASK) | (uint64_t)state;
}

static uint64_t load(const struct mnw__pages *pages, uint64_t extent) {
    assert(extent < pages->extent_count);
    return atomic_load_explicit(&pages->extents[extent], memory_order_acquire);
}

/* Acquire-release: leaving publishes what was done inside, claiming an eviction sees all of it. */
static bool change(struct mnw__pages *pages, uint64_t extent, uint64_t *seen, uint64_t next) {
    return atomic_compare_exchange_weak_explicit(&pages->extents[extent], seen, next, memory_order_acq_rel,
                                                 memory_order_acquire);
}

struct mnw__extent mnw__extent_load(const struct mnw__pages *pages, uint64_t extent) {
    uint64_t word = load(pages, extent);
    return (struct mnw__extent){
        .state = state_of(word),
        .awaited = word & AWAITED,
        .referenced = word & REFERENCED,
        .ahead = word & AHEAD,
        .charged = word & CHARGED,
        .unfit = word & UNFIT,
        .present = (uint16_t)present_of(word),
        .user_pins = (uint16_t)user_pins_of(word),
        .fills = (uint16_t)fills_of(word),
        .visitors = (uint16_t)visitors_of(word),
    };
}

enum mnw__enter mnw__extent_enter(struct mnw__pages *pages, uint64_t extent, bool fault) {
    mnw__point("enter");
    uint64_t seen = load(pages, extent), next;
    do {
        if (state_of(seen) == MNW__EXTENT_EVICTING) {
            next = fault ? seen | AWAITED : seen;
        } else {
            if (visitors_of(seen) == VISITOR_MAX)
                return MNW__ENTER_FULL;
            next = with_state(seen, MNW__EXTENT_RESIDENT) + VISITOR_ONE;
            if (fault)
                next |= REFERENCED;
        }
    } while (!change(pages, extent, &seen, next));
    if (state_of(seen) == MNW__EXTENT_EVICTING)
        return MNW__ENTER_BUSY;
    return state_of(seen) == MNW__EXTENT_ABSENT ? MNW__ENTER_FRESH : MNW__ENTER_HELD;
}

bool mnw__extent_visit(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("visit");
    uint64_t seen = load(pages, extent);
    do {
        if (state_of(seen) != MNW__EXTENT_RESIDENT || visitors_of(seen) == VISITOR_MAX)
            return false;
    } while (!change(pages, extent, &seen, seen + VISITOR_ONE));
    return true;
}

/* Adds to the counts of an extent that cannot go meanwhile; the word before. */
static uint64_t add(struct mnw__pages *pages, uint64_t extent, uint64_t more) {
    return atomic_fetch_add_explicit(&pages->extents[extent], more, memory_order_acq_rel);
}

void mnw__extent_leave(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("leave");
    uint64_t before = add(pages, extent, -VISITOR_ONE);
    assert(visitors_of(before) > 0);
    (void)before;
}

void mnw__extent_settle(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("settle");
    uint64_t before = add(pages, extent, FILL_ONE - VISITOR_ONE);
    assert(visitors_of(before) > 0 && fills_of(before) < FILL_MAX);
    (void)before;
}

void mnw__extent_revisit(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("revisit");
    uint64_t seen = load(pages, extent);
    assert(fills_of(seen) > 0);
    while (visitors_of(seen) == VISITOR_MAX || !change(pages, extent, &seen, seen + VISITOR_ONE))
        if (visitors_of(seen) == VISITOR_MAX) {
            mnw__point("revisit, full");
            seen = load(pages, extent);
        }
}

void mnw__extent_release(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("release");
    uint64_t before = add(pages, extent, -FILL_ONE);
    assert(fills_of(before) > 0);
    (void)before;
}

unsigned mnw__extent_add_present(struct mnw__pages *pages, uint64_t extent, int pages_more) {
    uint64_t more = (uint64_t)(int64_t)pages_more * PRESENT_ONE;
    uint64_t before = add(pages, extent, more);
    assert(visitors_of(before) > 0 && (int)present_of(before) + pages_more >= 0);
    return present_of(before + more);
}

bool mnw__extent_charge(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("charge");
    uint64_t before = atomic_fetch_or_explicit(&pages->extents[extent], CHARGED, memory_order_acq_rel);
    assert(visitors_of(before) > 0);
    return !(before & CHARGED);
}

void mnw__extent_set_unfit(struct mnw__pages *pages, uint64_t extent) {
    atomic_fetch_or_explicit(&pages->extents[extent], UNFIT, memory_order_acq_rel);
}

void mnw__extent_set_ahead(struct mnw__pages *pages, uint64_t extent) {
    uint64_t word = load(pages, extent);
    assert(visitors_of(word) > 0);
    if (!(word & AHEAD))
        atomic_fetch_or_explicit(&pages->extents[extent], AHEAD, memory_order_acq_rel);
}

void mnw__extent_note_passed(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("note_passed");
    uint64_t seen = load(pages, extent);
    do {
        if (state_of(seen) != MNW__EXTENT_RESIDENT || seen & REFERENCED)
            return;
    } while (!change(pages, extent, &seen, seen | REFERENCED));
}

enum mnw__use mnw__extent_take_use(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("take_use");
    if (!(load(pages, extent) & (REFERENCED | AHEAD)))
        return MNW__USE_NONE;
    uint64_t before = atomic_fetch_and_explicit(&pages->extents[extent], ~(REFERENCED | AHEAD), memory_order_acq_rel);
    if (before & REFERENCED)
        return MNW__USE_SEEN;
    return before & AHEAD ? MNW__USE_UNKNOWN : MNW__USE_NONE;
}

static bool claim(struct mnw__pages *pages, uint64_t extent, bool (*may)(uint64_t word)) {
    uint64_t seen = load(pages, extent);
    do {
        if (state_of(seen) != MNW__EXTENT_RESIDENT || !may(seen))
            return false;
    } while (!change(pages, extent, &seen, with_state(seen, MNW__EXTENT_EVICTING)));
    return true;
}

static bool is_unused(uint64_t word) {
    return !visitors_of(word) && !fills_of(word) && !user_pins_of(word);
}

static bool has_one_visitor(uint64_t word) {
    return visitors_of(word) == 1;
}

static bool has_one_visitor_alone(uint64_t word) {
    return visitors_of(word) == 1 && !fills_of(word);
}

bool mnw__extent_claim_eviction(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("claim_eviction");
    return claim(pages, extent, is_unused);
}

bool mnw__extent_claim_repair(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("claim_repair");
    return claim(pages, extent, has_one_visitor);
}

bool mnw__extent_claim_heal(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("claim_heal");
    return claim(pages, extent, has_one_visitor_alone);
}

static int drain(struct mnw__pages *pages, uint64_t extent, bool even_pinned) {
    mnw__point("drain");
    uint64_t seen = load(pages, extent);
    do {
        if (state_of(seen) == MNW__EXTENT_EVICTING)
            return -EAGAIN;
        if (user_pins_of(seen) && !even_pinned)
            return -EBUSY;
    } while (!change(pages, extent, &seen, with_state(seen, MNW__EXTENT_EVICTING)));
    return 0;
}

int mnw__extent_drain(struct mnw__pages *pages, uint64_t extent) {
    return drain(pages, extent, false);
}

int mnw__extent_drain_pinned(struct mnw__pages *pages, uint64_t extent) {
    return drain(pages, extent, true);
}

bool mnw__extent_evicted(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("evicted");
    uint64_t before = atomic_exchange_explicit(&pages->extents[extent], 0, memory_order_acq_rel);
    assert(state_of(before) == MNW__EXTENT_EVICTING && is_unused(before));
    return before & AWAITED;
}

bool mnw__extent_keep(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("keep");
    uint64_t seen = load(pages, extent);
    do
        assert(state_of(seen) == MNW__EXTENT_EVICTING);
    while (!change(pages, extent, &seen, with_state(seen, MNW__EXTENT_RESIDENT) & ~AWAITED));
    return seen & AWAITED;
}

int mnw__extent_pin(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("pin");
    uint64_t seen = load(pages, extent);
    do {
        if (state_of(seen) == MNW__EXTENT_EVICTING)
            return -EAGAIN;
        if (user_pins_of(seen) == USER_MAX)
            return -EOVERFLOW;
    } while (!change(pages, extent, &seen, with_state(seen, MNW__EXTENT_RESIDENT) + USER_ONE));
    return user_pins_of(seen) == 0;
}

int mnw__extent_unpin(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("unpin");
    uint64_t seen = load(pages, extent);
    do {
        if (!user_pins_of(seen))
            return -EINVAL;
    } while (!change(pages, extent, &seen, seen - USER_ONE));
    return user_pins_of(seen) == 1;
}

void mnw__extent_rebuild(struct mnw__pages *pages, uint64_t extent, unsigned present, bool charged) {
    uint64_t seen = load(pages, extent), next = 0;
    assert(present <= PRESENT_MAX);
    if (present || charged)
        next = with_state(present * PRESENT_ONE | (seen & REFERENCED) | (charged ? CHARGED : 0), MNW__EXTENT_RESIDENT);
    if (next == seen)
        return;
    mnw__point("rebuild");
    atomic_store_explicit(&pages->extents[extent], next, memory_order_release);
}

bool mnw__extent_is_untouched(const struct mnw__pages *pages, uint64_t extent) {
    uint64_t end = mnw__extent_end(pages, extent);
    if (atomic_load_explicit(&pages->extents[extent], memory_order_acquire))
        return false;
    for (uint64_t page = mnw__extent_first(pages, extent); page < end; page++)
        if (mnw__page_load(pages, page))
            return false;
    return true;
}
