/* SPDX-License-Identifier: MIT */
/*
 * Where the words of a cache lie. Owns nothing beyond its calls.
 *
 * Kept words are one file: a page with the header, the page words, the extent words, each from a whole base page on.
 * The header is never parsed. It says all that the words depend on, so whoever takes them over writes down the one
 * that they should have, and compares.
 */
#include "engine/adopt.h"

#include "base/bits.h"
#include "base/error.h"
#include "engine/cache.h"
#include "engine/pool.h"
#include "store/store.h"
#include "sys/memory.h"

#include <errno.h>
#include <string.h>

#define MAGIC          "mnwwords"
#define VERSION        1
#define NAME_MAX_BYTES 64

/* Every byte is written, padding and all. */
struct header {
    char magic[8];
    uint32_t version;
    uint32_t backing;
    uint64_t base_page_bytes, page_bytes, extent_bytes, page_count, extent_count;
    struct mnw__backing_name file;
    char store_kind[16];
    uint64_t store_bytes;
    struct mnw__store_identity store;
    char name[NAME_MAX_BYTES];
};

/* What changes while a cache is open; behind the header, in its page. */
struct notes {
    _Atomic uint32_t copies; /* there are views whose writers' copies would be lost with their pages */
};

#define NOTES_AT 1024
_Static_assert(sizeof(struct header) <= NOTES_AT, "the notes lie behind the header");

struct layout {
    uint64_t words, extents, length;
};

static uint64_t words_bytes(const struct mnw_cache *cache) {
    return cache->pages.page_count * sizeof(*cache->pages.words);
}

static uint64_t extents_bytes(const struct mnw_cache *cache) {
    return cache->pages.extent_count * sizeof(*cache->pages.extents);
}

uint64_t mnw__words_bytes(const struct mnw_cache *cache) {
    return words_bytes(cache) + extents_bytes(cache);
}

static struct layout lay_out(const struct mnw_cache *cache) {
    uint64_t unit = mnw__memory_page_bytes();
    struct layout layout = {.words = mnw__align_up(NOTES_AT + sizeof(struct notes), unit)};
    layout.extents = layout.words + mnw__align_up(words_bytes(cache), unit);
    layout.length = layout.extents + mnw__align_up(extents_bytes(cache), unit);
    return layout;
}

static int write_header(const struct mnw_cache *cache, const char *name, struct header *header) {
    const struct mnw_pool *pool = cache->pool;
    const struct mnw_store *store = cache->store;
    memset(header, 0, sizeof(*header));
    memcpy(header->magic, MAGIC, sizeof(header->magic));
    header->version = VERSION;
    header->backing = (uint32_t)pool->backing;
    header->base_page_bytes = mnw__memory_page_bytes();
    header->page_bytes = pool->page_bytes;
    header->extent_bytes = pool->extent_bytes;
    header->page_count = cache->pages.page_count;
    header->extent_count = cache->pages.extent_count;
    strncpy(header->store_kind, store->ops->name, sizeof(header->store_kind) - 1);
    header->store_bytes = store->size_bytes;
    header->store = store->identity;
    strncpy(header->name, name ? name : "", sizeof(header->name) - 1);
    return mnw__backing_name(&cache->backing, &header->file);
}

/* What differs, in words; NULL: nothing. */
static const char *compare(const struct header *is, const struct header *should) {
    if (memcmp(is->magic, should->magic, sizeof(is->magic)))
        return "no words of a cache at all";
    if (is->version != should->version)
        return "words of another version of minnow";
    if (memcmp(is->name, should->name, sizeof(is->name)))
        return "words of a cache opened under another name";
    if (memcmp(is->store_kind, should->store_kind, sizeof(is->store_kind)) || is->store_bytes != should->store_bytes)
        return "words of another store";
    if (memcmp(&is->store, &should->store, sizeof(is->store)))
        return "words of a store that was another file, or has been changed since";
    if (memcmp(&is->file, &should->file, sizeof(is->file)))
        return "words of another backing than the one that came with them";
    return memcmp(is, should, sizeof(*is)) ? "words of another kind of pool, or of other pages and extents" : NULL;
}

static struct notes *notes_of(const struct mnw_cache *cache) {
    return (struct notes *)(void *)((char *)cache->kept.memory + NOTES_AT);
}

void mnw__words_note_copies(struct mnw_cache *cache, bool exist) {
    if (cache->kept.memory)
        atomic_store(&notes_of(cache)->copies, exist);
}

bool mnw__words_tell_copies(const struct mnw_cache *cache) {
    return cache->kept.memory && atomic_load(&notes_of(cache)->copies);
}

static void use_shared(struct mnw_cache *cache, const struct layout *layout) {
    char *memory = cache->kept.memory;
    cache->pages.words = (_Atomic uint32_t *)(void *)(memory + layout->words);
    cache->pages.extents = (_Atomic uint64_t *)(void *)(memory + layout->extents);
}

static int create_kept(struct mnw_cache *cache, const struct layout *layout, const struct header *header) {
    int error = mnw__shared_create(&cache->kept, layout->length);
    if (error)
        return error;
    memcpy(cache->kept.memory, header, sizeof(*header));
    use_shared(cache, layout);
    return 0;
}

static int adopt_kept(struct mnw_cache *cache, int fd, const struct layout *layout, const struct header *header) {
    int error = mnw__shared_adopt(&cache->kept, fd, layout->length);
    if (error)
        return error;
    const char *wrong = compare(cache->kept.memory, header);
    if (wrong) {
        mnw__shared_destroy(&cache->kept);
        return mnw__fail(-ESTALE, "cache: what was kept is %s; open the cache afresh", wrong);
    }
    use_shared(cache, layout);
    return 0;
}

static int reserve_own(struct mnw_cache *cache) {
    cache->pages.words = mnw__memory_reserve(words_bytes(cache));
    cache->pages.extents = mnw__memory_reserve(extents_bytes(cache));
    if (cache->pages.words && cache->pages.extents)
        return 0;
    mnw__words_close(cache);
    return mnw__fail(-ENOMEM,
                     "cache: no address space for %llu bytes of metadata; ulimit -v, or "
                     "vm.overcommit_memory, may forbid it",
                     (unsigned long long)mnw__words_bytes(cache));
}

int mnw__words_open(struct mnw_cache *cache, const struct mnw_cache_options *options) {
    struct layout layout = lay_out(cache);
    struct header header;
    bool adopts = options->kept && options->kept->words_fd >= 0;
    if (!adopts && !options->keep)
        return reserve_own(cache);
    int error = write_header(cache, options->name, &header);
    if (error)
        return error;
    return adopts ? adopt_kept(cache, options->kept->words_fd, &layout, &header) : create_kept(cache, &layout, &header);
}

/* The first of `count` words from `first` on whose part of the file was ever written; `bytes` each, from `from` on. */
static uint64_t next_written(const struct mnw_cache *cache, uint64_t from, uint64_t bytes, uint64_t first,
                             uint64_t count) {
    uint64_t start, end, at = from + first * bytes;
    int found = mnw__shared_next_data(&cache->kept, at, &start, &end);
    if (found < 0 || (found && start <= at))
        return first;
    return found ? mnw__min((start - from) / bytes, count) : count;
}

uint64_t mnw__words_next_extent(const struct mnw_cache *cache, uint64_t extent, uint64_t end) {
    if (!cache->kept.memory || extent >= end)
        return extent;
    const struct mnw__pages *pages = &cache->pages;
    struct layout layout = lay_out(cache);
    uint64_t by_extent = next_written(cache, layout.extents, sizeof(*pages->extents), extent, end);
    uint64_t page = next_written(cache, layout.words, sizeof(*pages->words), mnw__extent_first(pages, extent),
                                 mnw__extent_end(pages, end - 1));
    uint64_t by_page = page >= mnw__extent_end(pages, end - 1) ? end : mnw__extent_of(pages, page);
    return mnw__min(by_extent, mnw__max(by_page, extent));
}

void mnw__words_close(struct mnw_cache *cache) {
    if (cache->kept.memory) {
        mnw__shared_destroy(&cache->kept);
    } else {
        mnw__memory_release(cache->pages.words, words_bytes(cache));
        mnw__memory_release(cache->pages.extents, extents_bytes(cache));
    }
    cache->pages.words = NULL;
    cache->pages.extents = NULL;
}
