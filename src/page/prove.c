/* SPDX-License-Identifier: MIT */
/* What a process that died has left in the words, and what of it can be believed. See prove.h. */
#include "page/prove.h"

#include "base/point.h"

#include <assert.h>

static bool has(const struct mnw__proof *proof, uint64_t index) {
    return proof->memory[index / 64] >> (index % 64) & 1;
}

static void forget(struct mnw__proof *proof, uint64_t index) {
    proof->memory[index / 64] &= ~(1ull << (index % 64));
}

static unsigned count_memory(const struct mnw__proof *proof, uint64_t count) {
    unsigned with = 0;
    for (uint64_t index = 0; index < count; index++)
        with += has(proof, index);
    return with;
}

/* One page; whether it stays PRESENT. */
static bool prove_page(struct mnw__pages *pages, uint64_t page, bool believable, struct mnw__proof *proof) {
    uint32_t word = mnw__page_load(pages, page), next = word & MNW__PAGE_SCARRED;
    uint32_t state = word & MNW__PAGE_STATE_MASK;
    bool stays = state == MNW__PAGE_PRESENT && believable;
    if (stays)
        next |= MNW__PAGE_PRESENT;
    else if (state == MNW__PAGE_FAILED)
        next = MNW__PAGE_FAILED | MNW__PAGE_SCARRED;
    proof->scarred |= next & MNW__PAGE_SCARRED;
    proof->dropped += state == MNW__PAGE_PRESENT && !stays;
    if (word != next) {
        mnw__point("prove");
        atomic_store_explicit(&pages->words[page], next, memory_order_release);
    }
    return stays;
}

void mnw__extent_prove(struct mnw__pages *pages, uint64_t extent, enum mnw__proof_kind kind, struct mnw__proof *proof) {
    uint64_t first = mnw__extent_first(pages, extent), count = mnw__extent_end(pages, extent) - first;
    assert(count <= MNW__EXTENT_PAGES_MAX);
    bool by_pages = kind == MNW__PROOF_PAGES;
    unsigned with = count_memory(proof, count);
    enum mnw__extent_state state = mnw__extent_load(pages, extent).state;
    /* Where memory comes whole, a part of it was lost to somebody else: the rest is not believed either. */
    bool believed = state == MNW__EXTENT_RESIDENT && (by_pages || with == count);
    proof->present = proof->dropped = 0;
    proof->scarred = false;
    for (uint64_t index = 0; index < count; index++) {
        if (!prove_page(pages, first + index, believed && has(proof, index), proof))
            continue;
        proof->present++;
        if (by_pages)
            forget(proof, index);
    }
    bool in_place = kind == MNW__PROOF_IN_PLACE && with;
    proof->charged = !by_pages && (proof->present || in_place);
    proof->punch = with > (by_pages ? proof->present : proof->charged ? with : 0);
    mnw__extent_rebuild(pages, extent, proof->present, proof->charged);
}
