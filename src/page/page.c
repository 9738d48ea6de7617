/* SPDX-License-Identifier: MIT */
/* Page words. The diagram is in page.h; each arrow of it is one function here. */
#include "page/page.h"

#include "base/point.h"

#include <assert.h>

/*
 * Orders: a word is read with acquire and changed with acquire-release, so that whoever sees PRESENT also
 * sees the bytes that were stored before it, and whoever takes a page out of FILLING sees every JOINED.
 */
static bool change(_Atomic uint32_t *word, uint32_t *seen, uint32_t next) {
    return atomic_compare_exchange_weak_explicit(word, seen, next, memory_order_acq_rel, memory_order_acquire);
}

uint32_t mnw__page_load(const struct mnw__pages *pages, uint64_t page) {
    assert(page < pages->page_count);
    return atomic_load_explicit(&pages->words[page], memory_order_acquire);
}

bool mnw__page_claim(struct mnw__pages *pages, uint64_t page) {
    mnw__point("claim");
    uint32_t seen = mnw__page_load(pages, page);
    while (mnw__page_state(seen) == MNW__PAGE_ABSENT)
        if (change(&pages->words[page], &seen, MNW__PAGE_FILLING | (seen & MNW__PAGE_SCARRED)))
            return true;
    return false;
}

bool mnw__page_join(struct mnw__pages *pages, uint64_t page) {
    mnw__point("join");
    uint32_t seen = mnw__page_load(pages, page);
    while (mnw__page_state(seen) == MNW__PAGE_FILLING)
        if (change(&pages->words[page], &seen, seen | MNW__PAGE_JOINED))
            return true;
    return false;
}

static uint32_t end_filling(struct mnw__pages *pages, uint64_t page, uint32_t next) {
    uint32_t seen = mnw__page_load(pages, page);
    do
        assert(mnw__page_state(seen) == MNW__PAGE_FILLING);
    while (!change(&pages->words[page], &seen, next | (seen & MNW__PAGE_SCARRED)));
    return seen;
}

uint32_t mnw__page_fill(struct mnw__pages *pages, uint64_t page) {
    mnw__point("fill");
    return end_filling(pages, page, MNW__PAGE_PRESENT);
}

uint32_t mnw__page_unclaim(struct mnw__pages *pages, uint64_t page) {
    mnw__point("unclaim");
    return end_filling(pages, page, MNW__PAGE_ABSENT);
}

uint32_t mnw__page_fail(struct mnw__pages *pages, uint64_t page) {
    mnw__point("fail");
    return end_filling(pages, page, MNW__PAGE_FAILED | MNW__PAGE_SCARRED);
}

static bool leave_state(struct mnw__pages *pages, uint64_t page, enum mnw__page_state from) {
    uint32_t seen = mnw__page_load(pages, page);
    while (mnw__page_state(seen) == from)
        if (change(&pages->words[page], &seen, MNW__PAGE_ABSENT | (seen & MNW__PAGE_SCARRED)))
            return true;
    return false;
}

void mnw__page_unscar(struct mnw__pages *pages, uint64_t page) {
    mnw__point("unscar");
    uint32_t seen = mnw__page_load(pages, page);
    while ((seen & MNW__PAGE_SCARRED) && mnw__page_state(seen) != MNW__PAGE_FAILED)
        if (change(&pages->words[page], &seen, seen & ~(uint32_t)MNW__PAGE_SCARRED))
            return;
}

bool mnw__page_drop(struct mnw__pages *pages, uint64_t page) {
    mnw__point("drop");
    return leave_state(pages, page, MNW__PAGE_PRESENT);
}

bool mnw__page_heal(struct mnw__pages *pages, uint64_t page) {
    mnw__point("heal");
    return leave_state(pages, page, MNW__PAGE_FAILED);
}

static const char *check_extent(const struct mnw__pages *pages, uint64_t extent, uint64_t *where) {
    struct mnw__extent word = mnw__extent_load(pages, extent);
    unsigned present = 0;
    *where = extent;
    if (word.state == MNW__EXTENT_EVICTING)
        return "extent still EVICTING";
    if (word.visitors || word.fills)
        return "extent still entered";
    for (uint64_t page = mnw__extent_first(pages, extent); page < mnw__extent_end(pages, extent); page++) {
        uint32_t state = mnw__page_load(pages, page) & MNW__PAGE_STATE_MASK;
        *where = page;
        if (state > MNW__PAGE_FAILED)
            return "page in no known state";
        if (state == MNW__PAGE_FILLING)
            return "page still FILLING";
        present += state == MNW__PAGE_PRESENT;
    }
    *where = extent;
    if (present && word.state != MNW__EXTENT_RESIDENT)
        return "PRESENT page in an extent that is not RESIDENT";
    if (present != word.present)
        return "count of PRESENT pages is wrong";
    return NULL;
}

const char *mnw__pages_check(const struct mnw__pages *pages, uint64_t *where) {
    for (uint64_t extent = 0; extent < pages->extent_count; extent++) {
        const char *wrong = check_extent(pages, extent, where);
        if (wrong)
            return wrong;
    }
    return NULL;
}
