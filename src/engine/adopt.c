/* SPDX-License-Identifier: MIT */
/*
 * Taking over what a process left behind: proves its words, extent by extent, against the memory that is there.
 *
 * What a death may leave, and why what is believed can be believed, is argued in docs/concurrency.md. The walk goes
 * over the parts that have memory, of the words or of the backing, so that a large and empty store costs nothing.
 */
#include "engine/adopt.h"

#include "base/bits.h"
#include "base/error.h"
#include "engine/cache.h"
#include "engine/pool.h"
#include "page/prove.h"
#include "sys/data.h"

#include <string.h>

/* So long nothing is taken away from views that wrote for the last owner, and are not attached again yet. */
#define COPIES_NS 30000000000ull

struct walk;

/* One of the things that may have data for an extent, and the last run of it that was found; empty at first. */
struct source {
    int (*find)(struct walk *walk, uint64_t from, uint64_t *start, uint64_t *end);
    uint64_t offset, unit; /* where extent 0 begins in it, and how much of it is an extent's */
    uint64_t start, end;
    bool is_over; /* nothing is left */
};

struct walk {
    struct mnw_cache *cache;
    enum mnw__proof_kind kind;
    struct mnw__probe probe;
    struct source words, extents, memory;
    uint64_t charged; /* bytes that stay */
    uint64_t found;   /* bytes that were there */
};

/* ---- what has data ---- */

static int find_words(struct walk *walk, uint64_t from, uint64_t *start, uint64_t *end) {
    return mnw__shared_next_data(&walk->cache->kept, from, start, end);
}

static int find_memory(struct walk *walk, uint64_t from, uint64_t *start, uint64_t *end) {
    return mnw__probe_next(&walk->probe, from, UINT64_MAX, start, end);
}

/* Makes the run of a source the first that ends behind `at`. Places only ever grow. */
static int advance(struct walk *walk, struct source *source, uint64_t at) {
    if (at < source->end || source->is_over)
        return 0;
    int found = source->find(walk, at, &source->start, &source->end);
    source->is_over = found == 0;
    return found < 0 ? found : 0;
}

/* Lowers `*next` to the first extent from `extent` on that has data in this source. */
static int lower(struct walk *walk, struct source *source, uint64_t extent, uint64_t *next) {
    uint64_t at = source->offset + extent * source->unit;
    int error = advance(walk, source, at);
    if (!error && !source->is_over)
        *next = mnw__min(*next, at >= source->start ? extent : (source->start - source->offset) / source->unit);
    return error;
}

/* The first run of memory in [at, end): 1; 0: none. Asked about only what is looked at, where each page is a call. */
static int next_memory(struct walk *walk, uint64_t at, uint64_t end, uint64_t *start, uint64_t *stop) {
    if (mnw__probe_is_slow(&walk->probe))
        return mnw__probe_next(&walk->probe, at, end, start, stop);
    int error = advance(walk, &walk->memory, at);
    if (error)
        return error;
    *start = mnw__max(walk->memory.start, at);
    *stop = mnw__min(walk->memory.end, end);
    return !walk->memory.is_over && *start < end;
}

/* Bit per page of the extent. */
static int look_at_memory(struct walk *walk, uint64_t extent, struct mnw__proof *proof) {
    const struct mnw_cache *cache = walk->cache;
    uint64_t first = mnw__extent_first(&cache->pages, extent), page_bytes = cache->backing.page_bytes;
    uint64_t from = mnw__cache_page_offset(cache, first), start, stop;
    uint64_t end = mnw__cache_page_offset(cache, mnw__extent_end(&cache->pages, extent));
    memset(proof->memory, 0, sizeof(proof->memory));
    for (uint64_t at = from; at < end; at = stop) {
        int found = next_memory(walk, at, end, &start, &stop);
        if (found <= 0)
            return found;
        for (uint64_t index = (start - from) / page_bytes; index < (stop - from) / page_bytes; index++)
            proof->memory[index / 64] |= 1ull << (index % 64);
        walk->found += stop - start;
    }
    return 0;
}

/* ---- one extent ---- */

static int punch_pages(struct mnw_cache *cache, uint64_t extent, const struct mnw__proof *proof) {
    uint64_t first = mnw__extent_first(&cache->pages, extent), page_bytes = cache->backing.page_bytes;
    uint64_t count = mnw__extent_end(&cache->pages, extent) - first;
    for (uint64_t index = 0; index < count;) {
        uint64_t end = index;
        while (end < count && (proof->memory[end / 64] >> (end % 64) & 1))
            end++;
        if (end > index) {
            int error = mnw__backing_punch(&cache->backing, mnw__cache_page_offset(cache, first + index),
                                           (size_t)((end - index) * page_bytes));
            if (error)
                return error;
        }
        index = end + 1;
    }
    return 0;
}

static int punch(struct walk *walk, uint64_t extent, const struct mnw__proof *proof) {
    struct mnw_cache *cache = walk->cache;
    if (walk->kind == MNW__PROOF_PAGES)
        return punch_pages(cache, extent, proof);
    uint64_t offset = mnw__cache_page_offset(cache, mnw__extent_first(&cache->pages, extent));
    uint64_t end = mnw__cache_page_offset(cache, mnw__extent_end(&cache->pages, extent));
    return mnw__backing_punch(&cache->backing, offset, (size_t)(end - offset));
}

static uint64_t charge_of(const struct walk *walk, const struct mnw__proof *proof) {
    if (walk->kind == MNW__PROOF_PAGES)
        return proof->present * (uint64_t)walk->cache->backing.page_bytes;
    return proof->charged ? walk->cache->pool->extent_bytes : 0;
}

static int prove(struct walk *walk, uint64_t extent) {
    struct mnw_cache *cache = walk->cache;
    struct mnw__proof proof;
    int error = look_at_memory(walk, extent, &proof);
    if (error)
        return mnw__fail(error, "cache: looking for memory at extent %llu (error %d)", (unsigned long long)extent,
                         -error);
    mnw__extent_prove(&cache->pages, extent, walk->kind, &proof);
    if (proof.punch)
        error = punch(walk, extent, &proof);
    if (error)
        return mnw__fail(error, "cache: taking away memory that is not proven, at extent %llu (error %d)",
                         (unsigned long long)extent, -error);
    walk->charged += charge_of(walk, &proof);
    cache->inherits_scars |= proof.scarred;
    mnw__count(&cache->counters, MNW__PAGES_LOST, proof.dropped);
    if (mnw__extent_load(&cache->pages, extent).state == MNW__EXTENT_RESIDENT)
        mnw__cache_sync_policy(cache, extent, false);
    return 0;
}

/* ---- the walk ---- */

/* Extents that have words; and, where one call finds much memory, those that have any. */
static int prove_known(struct walk *walk) {
    struct mnw_cache *cache = walk->cache;
    bool slow = mnw__probe_is_slow(&walk->probe);
    for (uint64_t extent = 0; extent < cache->pages.extent_count; extent++) {
        uint64_t next = UINT64_MAX;
        int error = lower(walk, &walk->words, extent, &next);
        if (!error)
            error = lower(walk, &walk->extents, extent, &next);
        if (!error && !slow)
            error = lower(walk, &walk->memory, extent, &next);
        if (error)
            return mnw__fail(error, "cache: looking for what was kept (error %d)", -error);
        extent = next;
        if (extent >= cache->pages.extent_count)
            break;
        /* A page of the words' file holds the words of many extents: most may be zeros. */
        if (!slow || !mnw__extent_is_untouched(&cache->pages, extent))
            error = prove(walk, extent);
        if (error)
            return error;
    }
    return 0;
}

/* Memory that no word speaks of, which should not be there: found by asking for every page. */
static int prove_strays(struct walk *walk) {
    struct mnw_cache *cache = walk->cache;
    for (uint64_t extent = 0; extent < cache->pages.extent_count; extent++) {
        uint64_t next = UINT64_MAX;
        int error = lower(walk, &walk->memory, extent, &next);
        if (error)
            return mnw__fail(error, "cache: looking for what was kept (error %d)", -error);
        extent = next;
        if (extent >= cache->pages.extent_count)
            break;
        if (mnw__extent_is_untouched(&cache->pages, extent))
            error = prove(walk, extent);
        if (error)
            return error;
    }
    return 0;
}

static int prove_all(struct walk *walk) {
    uint64_t resident;
    int error = mnw__backing_resident(&walk->cache->backing, &resident);
    if (!error)
        error = prove_known(walk);
    if (!error && mnw__probe_is_slow(&walk->probe) && walk->found < resident)
        error = prove_strays(walk);
    return error;
}

static enum mnw__proof_kind kind_of(const struct mnw_cache *cache) {
    switch (cache->backing.kind) {
    case MNW_BACKING_SHMEM:
        return MNW__PROOF_PAGES;
    case MNW_BACKING_GRADED:
        return MNW__PROOF_EXTENTS;
    case MNW_BACKING_HUGETLB_2M:
    case MNW_BACKING_HUGETLB_1G:
        break;
    }
    return mnw__cache_is_copied(cache) ? MNW__PROOF_IN_PLACE : MNW__PROOF_EXTENTS;
}

static void set_sources(struct walk *walk) {
    const struct mnw_cache *cache = walk->cache;
    const struct mnw__pages *pages = &cache->pages;
    const void *memory = cache->kept.memory;
    bool kept = memory != NULL;
    walk->words = walk->extents = (struct source){.find = find_words, .is_over = !kept};
    walk->memory = (struct source){.find = find_memory, .unit = cache->pool->extent_bytes};
    walk->words.unit = sizeof(*pages->words) << pages->extent_shift;
    walk->extents.unit = sizeof(*pages->extents);
    if (!kept)
        return;
    walk->words.offset = (uintptr_t)pages->words - (uintptr_t)memory;
    walk->extents.offset = (uintptr_t)pages->extents - (uintptr_t)memory;
}

/* What nobody knows of may have been written to. */
static bool may_be_copied(const struct mnw_cache *cache, bool is_known) {
    return mnw__backing_is_hugetlb(cache->backing.kind) && (!is_known || mnw__words_tell_copies(cache));
}

int mnw__adopt(struct mnw_cache *cache, bool is_known) {
    if (may_be_copied(cache, is_known))
        cache->copied_until_ns = mnw__clock_ns() + COPIES_NS;
    struct walk walk = {.cache = cache, .kind = kind_of(cache)};
    set_sources(&walk);
    int error = mnw__probe_open(&walk.probe, &cache->backing);
    if (error)
        return error;
    error = prove_all(&walk);
    mnw__probe_close(&walk.probe);
    if (!error)
        atomic_store(&cache->charged, walk.charged);
    return error;
}

/* ---- scars ---- */

static void visit_scars(const struct mnw__pages *pages, uint64_t page, uint64_t end,
                        void (*each)(void *context, uint64_t page), void *context) {
    for (; page < end; page++)
        if (mnw__page_load(pages, page) & MNW__PAGE_SCARRED)
            each(context, page);
}

/* Where words are kept, only what was ever written is looked at: reading a hole of their file would fill it. */
int mnw__each_scar(struct mnw_cache *cache, void (*each)(void *context, uint64_t page), void *context) {
    const struct mnw__pages *pages = &cache->pages;
    bool any = cache->inherits_scars || atomic_load(&cache->counters.values[MNW__FILLS_FAILED]);
    if (any && !cache->kept.memory)
        visit_scars(pages, 0, pages->page_count, each, context);
    if (!any || !cache->kept.memory)
        return 0;
    uint64_t offset = (uintptr_t)pages->words - (uintptr_t)cache->kept.memory, at = offset, start, end;
    uint64_t limit = offset + pages->page_count * sizeof(*pages->words);
    int found = 0;
    while (at < limit && (found = mnw__shared_next_data(&cache->kept, at, &start, &end)) > 0 && start < limit) {
        visit_scars(pages, (start - offset) / sizeof(*pages->words),
                    (mnw__min(end, limit) - offset) / sizeof(*pages->words), each, context);
        at = end;
    }
    return found < 0 ? mnw__fail(found, "cache: looking for pages that failed (error %d)", -found) : 0;
}
