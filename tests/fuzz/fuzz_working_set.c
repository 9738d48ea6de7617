/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: files of working sets. Whatever is decoded lies inside its store, comes out of a union with itself as
 * the same pages, and gives runs in order that hold just those; whatever is refused must say why.
 */
#include "fuzz/fuzz.h"
#include "fuzz/sealed.h"

#include "base/error.h"
#include "policy/working_set.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A bit per page of the store is what unions and runs take: a real caller has checked that it is its own store. */
#define PAGES_MAX ((uint64_t)1 << 18)

static void demand(int condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "fuzz_working_set: %s\n", what);
        abort();
    }
}

static uint64_t store_pages(const struct mnw__working_set *set, uint32_t page_bytes) {
    return (set->of.store_bytes - 1) / page_bytes + 1;
}

static uint64_t distinct_pages(const struct mnw__working_set *set) {
    struct mnw__working_set_plan plan = {
        .page_bytes = set->of.page_bytes, .unit_bytes = set->of.page_bytes, .bytes_max = UINT64_MAX};
    struct mnw__run *runs;
    uint64_t count, pages = 0, end = 0;
    demand(!mnw__working_set_runs(set, &plan, &runs, &count), "runs");
    for (uint64_t i = 0; i < count; i++) {
        demand(runs[i].count > 0 && (!i || runs[i].first > end), "runs out of order");
        end = runs[i].first + runs[i].count;
        pages += runs[i].count;
    }
    demand(end <= store_pages(set, set->of.page_bytes), "a run past the end of the store");
    free(runs);
    return pages;
}

static void check_runs(const struct mnw__working_set *set) {
    static const uint32_t sizes[] = {4096, 65536, 2u << 20, 1u << 30};
    for (unsigned i = 0; i < 4; i++) {
        struct mnw__working_set_plan plan = {
            .page_bytes = sizes[i], .unit_bytes = i ? sizes[i] : 65536, .bytes_max = i ? 10ull * sizes[i] : UINT64_MAX};
        struct mnw__run *runs;
        uint64_t count, bytes = 0;
        if (store_pages(set, sizes[i]) > PAGES_MAX)
            continue;
        demand(!mnw__working_set_runs(set, &plan, &runs, &count), "runs");
        for (uint64_t at = 0; at < count; at++)
            bytes += runs[at].count * sizes[i];
        demand(bytes <= plan.bytes_max, "runs of more than was allowed");
        demand(!count || runs[count - 1].first + runs[count - 1].count <= store_pages(set, sizes[i]),
               "a run past the end");
        free(runs);
    }
}

static void check_union(const struct mnw__working_set *set) {
    struct mnw__working_set both;
    void *bytes;
    size_t size;
    demand(!mnw__working_set_union(set, set, &bytes, &size), "union");
    demand(!mnw__working_set_decode(&both, bytes, size), "a union is refused");
    uint64_t pages = distinct_pages(set);
    demand(both.page_count == pages && distinct_pages(&both) == pages, "a union with itself has other pages");
    free(bytes);
}

static void try_bytes(const uint8_t *data, size_t size) {
    struct mnw__working_set set;
    int result = mnw__working_set_decode(&set, data, size);
    demand(result == 0 || result == -EBADMSG || result == -ENOTSUP, "an unknown error");
    demand(!result || strstr(mnw__fail_message(), "working set: "), "refused without a word");
    if (result)
        return;
    for (uint64_t i = 0; i < set.entry_count; i++) {
        struct mnw__run run = mnw__working_set_entry(&set, i);
        demand(run.count && run.first + run.count <= store_pages(&set, set.of.page_bytes), "an entry past the end");
    }
    if (store_pages(&set, set.of.page_bytes) > PAGES_MAX)
        return;
    check_runs(&set);
    check_union(&set);
}

/* A header that fits the entries, whatever they are; the store is what the input says, within what is tried here. */
static void mend(uint8_t *bytes, size_t size) {
    uint64_t entries = (size - MNW__WORKING_SET_HEADER) / 8, pages = 0, page_bytes = 4096ull << bytes[12] % 19;
    for (uint64_t i = 0; i < entries; i++) {
        const uint8_t *entry = bytes + MNW__WORKING_SET_HEADER + i * 8;
        pages += 1 + ((uint64_t)entry[5] | (uint64_t)entry[6] << 8 | (uint64_t)entry[7] << 16);
    }
    uint64_t store_pages = 1 + (bytes[16] | (uint64_t)bytes[17] << 8) % 4096;
    memcpy(bytes, "MINNOWWS\1\0\0\0", 12);
    fuzz_put(bytes + 12, page_bytes, 4);
    fuzz_put(bytes + 16, store_pages * page_bytes - bytes[18], 8);
    fuzz_put(bytes + 32, entries, 8);
    fuzz_put(bytes + 40, pages, 8);
    fuzz_put(bytes + 48, 0, 8);
}

_Static_assert(MNW__WORKING_SET_HEADER == FUZZ_HEADER, "the header is another");

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_sealed(data, size, try_bytes, mend);
    return 0;
}
