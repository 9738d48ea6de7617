/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: words that another process left behind. Whatever they say, afterwards they are those of a cache at
 * rest, and nothing is PRESENT that did not say so, in a resident extent, with memory.
 */
#include "fuzz/fuzz.h"

#include "page/prove.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES_MAX = 200, EXTENTS_MAX = 100 };

static void demand(int condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "fuzz_words: %s\n", what);
        abort();
    }
}

static size_t take(void *to, size_t wanted, const uint8_t *data, size_t size, size_t at) {
    size_t some = at < size ? size - at : 0;
    if (some > wanted)
        some = wanted;
    if (some)
        memcpy(to, data + at, some);
    return at + some;
}

static int has(const uint64_t *bits, uint64_t index) {
    return bits[index / 64] >> (index % 64) & 1;
}

static void check(const struct mnw__pages *pages, const uint32_t *before, uint64_t extent_before, uint64_t extent,
                  const uint64_t *memory, enum mnw__proof_kind kind, const struct mnw__proof *proof) {
    uint64_t first = mnw__extent_first(pages, extent), end = mnw__extent_end(pages, extent);
    unsigned present = 0;
    for (uint64_t page = first; page < end; page++) {
        uint32_t was = before[page] & MNW__PAGE_STATE_MASK, is = mnw__page_load(pages, page) & MNW__PAGE_STATE_MASK;
        demand((is == MNW__PAGE_FAILED) == (was == MNW__PAGE_FAILED), "FAILED came or went");
        demand(is != MNW__PAGE_PRESENT || (was == MNW__PAGE_PRESENT && has(memory, page - first) &&
                                           (extent_before & 3) == MNW__EXTENT_RESIDENT),
               "PRESENT without proof");
        present += is == MNW__PAGE_PRESENT;
        if (kind == MNW__PROOF_PAGES && has(memory, page - first))
            demand((is == MNW__PAGE_PRESENT) != has(proof->memory, page - first), "memory neither kept nor taken");
    }
    demand(present == proof->present, "another count");
    demand(kind == MNW__PROOF_PAGES ? !proof->charged : !(proof->charged && proof->punch), "charged and punched");
    demand(kind == MNW__PROOF_PAGES || !present || proof->charged, "pages without a charge");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static _Atomic uint32_t words[PAGES_MAX];
    static _Atomic uint64_t extents[EXTENTS_MAX];
    uint32_t before[PAGES_MAX];
    uint64_t where;
    uint8_t shape[3] = {0};
    size_t at = take(shape, sizeof(shape), data, size, 0);
    struct mnw__pages pages = {.words = words, .extents = extents, .page_count = 1 + shape[0] % PAGES_MAX};
    pages.extent_shift = 1 + shape[1] % 6;
    pages.extent_count = ((pages.page_count - 1) >> pages.extent_shift) + 1;
    enum mnw__proof_kind kind = (enum mnw__proof_kind)(shape[2] % 3);
    memset(words, 0, sizeof(words));
    memset(extents, 0, sizeof(extents));
    at = take(words, pages.page_count * sizeof(words[0]), data, size, at);
    at = take(extents, pages.extent_count * sizeof(extents[0]), data, size, at);
    memcpy(before, words, sizeof(before));
    for (uint64_t extent = 0; extent < pages.extent_count; extent++) {
        struct mnw__proof proof;
        uint64_t memory = 0, extent_before = extents[extent];
        memset(&proof, 0, sizeof(proof));
        at = take(&memory, sizeof(memory), data, size, at);
        uint64_t count = mnw__extent_end(&pages, extent) - mnw__extent_first(&pages, extent);
        if (count < 64)
            memory &= (1ull << count) - 1;
        proof.memory[0] = memory;
        mnw__extent_prove(&pages, extent, kind, &proof);
        check(&pages, before, extent_before, extent, &memory, kind, &proof);
    }
    demand(!mnw__pages_check(&pages, &where), "not at rest");
    return 0;
}
