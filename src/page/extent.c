/* SPDX-License-Identifier: MIT */
/* Extent words. The diagram is in page.h; each arrow of it is one function here. */
#include "page/page.h"

#include "base/point.h"

#include <assert.h>
#include <errno.h>

/* The packed form: state 2 bits, flags, then three counts of 16 bits. */
#define STATE_MASK  3ull
#define AWAITED     (1ull << 2)
#define REFERENCED  (1ull << 3)
#define CHARGED     (1ull << 4)
#define UNFIT       (1ull << 5)
#define PRESENT_ONE (1ull << 16)
#define USER_ONE    (1ull << 32)
#define ENGINE_ONE  (1ull << 48)
#define COUNT_MASK  0xffffull

static unsigned present_of(uint64_t word) {
    return (unsigned)(word >> 16 & COUNT_MASK);
}

static unsigned user_pins_of(uint64_t word) {
    return (unsigned)(word >> 32 & COUNT_MASK);
}

static unsigned engine_pins_of(uint64_t word) {
    return (unsigned)(word >> 48 & COUNT_MASK);
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
        .charged = word & CHARGED,
        .unfit = word & UNFIT,
        .present = (uint16_t)present_of(word),
        .user_pins = (uint16_t)user_pins_of(word),
        .engine_pins = (uint16_t)engine_pins_of(word),
    };
}

enum mnw__enter mnw__extent_enter(struct mnw__pages *pages, uint64_t extent, bool fault) {
    mnw__point("enter");
    uint64_t seen = load(pages, extent), next;
    do {
        if (state_of(seen) == MNW__EXTENT_EVICTING) {
            next = fault ? seen | AWAITED : seen;
        } else {
            assert(engine_pins_of(seen) < COUNT_MASK);
            next = with_state(seen, MNW__EXTENT_RESIDENT) + ENGINE_ONE;
            if (fault)
                next |= REFERENCED;
        }
    } while (!change(pages, extent, &seen, next));
    if (state_of(seen) == MNW__EXTENT_EVICTING)
        return MNW__ENTER_BUSY;
    return state_of(seen) == MNW__EXTENT_ABSENT ? MNW__ENTER_FRESH : MNW__ENTER_HELD;
}

void mnw__extent_leave(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("leave");
    uint64_t before = atomic_fetch_sub_explicit(&pages->extents[extent], ENGINE_ONE, memory_order_acq_rel);
    assert(engine_pins_of(before) > 0);
    (void)before;
}

unsigned mnw__extent_add_present(struct mnw__pages *pages, uint64_t extent, int pages_more) {
    uint64_t more = (uint64_t)(int64_t)pages_more * PRESENT_ONE;
    uint64_t before = atomic_fetch_add_explicit(&pages->extents[extent], more, memory_order_acq_rel);
    assert(engine_pins_of(before) > 0 && (int)present_of(before) + pages_more >= 0);
    return present_of(before + more);
}

bool mnw__extent_charge(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("charge");
    uint64_t before = atomic_fetch_or_explicit(&pages->extents[extent], CHARGED, memory_order_acq_rel);
    assert(engine_pins_of(before) > 0);
    return !(before & CHARGED);
}

void mnw__extent_set_unfit(struct mnw__pages *pages, uint64_t extent) {
    atomic_fetch_or_explicit(&pages->extents[extent], UNFIT, memory_order_acq_rel);
}

bool mnw__extent_take_referenced(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("take_referenced");
    if (!(load(pages, extent) & REFERENCED))
        return false;
    return atomic_fetch_and_explicit(&pages->extents[extent], ~REFERENCED, memory_order_acq_rel) & REFERENCED;
}

bool mnw__extent_claim_eviction(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("claim_eviction");
    uint64_t seen = load(pages, extent);
    do {
        if (state_of(seen) != MNW__EXTENT_RESIDENT || engine_pins_of(seen) || user_pins_of(seen))
            return false;
    } while (!change(pages, extent, &seen, with_state(seen, MNW__EXTENT_EVICTING)));
    return true;
}

int mnw__extent_drain(struct mnw__pages *pages, uint64_t extent, struct mnw__extent *before) {
    mnw__point("drain");
    uint64_t seen = load(pages, extent);
    do {
        if (state_of(seen) == MNW__EXTENT_EVICTING)
            return -EAGAIN;
        if (user_pins_of(seen))
            return -EBUSY;
    } while (!change(pages, extent, &seen, with_state(seen, MNW__EXTENT_EVICTING)));
    before->state = state_of(seen);
    before->charged = seen & CHARGED;
    return 0;
}

bool mnw__extent_evicted(struct mnw__pages *pages, uint64_t extent) {
    mnw__point("evicted");
    uint64_t before = atomic_exchange_explicit(&pages->extents[extent], 0, memory_order_acq_rel);
    assert(state_of(before) == MNW__EXTENT_EVICTING && !engine_pins_of(before) && !user_pins_of(before));
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

int mnw__extent_pin(struct mnw__pages *pages, uint64_t extent, bool *fresh) {
    mnw__point("pin");
    uint64_t seen = load(pages, extent);
    do {
        if (state_of(seen) == MNW__EXTENT_EVICTING)
            return -EAGAIN;
        if (user_pins_of(seen) == COUNT_MASK)
            return -EOVERFLOW;
    } while (!change(pages, extent, &seen, with_state(seen, MNW__EXTENT_RESIDENT) + USER_ONE));
    *fresh = state_of(seen) == MNW__EXTENT_ABSENT;
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
