/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on the public API: what is mapped ahead of a sequential reader of resident pages, over many extents by one
 * call. Never a page that is not there, never beyond the view, and never so that it looks used.
 */
#include "engine/cache.h"
#include "high.h"

#include <errno.h>

enum { EXTENTS = 64 };

static void open_resident(struct high *high, enum mnw_backing kind, bool readahead) {
    high_open(high, kind, &(struct high_options){.extents = EXTENTS, .readahead = readahead});
    expect(mnw_prefetch(high->cache, 0, high->size_bytes, 1) > 0, "prefetch");
    high_event(high, MNW_EVENT_PREFETCH, 0, 1);
}

static uint64_t faults_of(struct high *high) {
    struct mnw_stats stats = high_stats(high);
    return stats.faults_minor + stats.faults_missing;
}

static void expect_few_faults(struct high *high, uint64_t before) {
    expect(faults_of(high) - before <= 24, "a fault maps many extents");
}

static void whole_scan(enum mnw_backing kind, bool readahead) {
    struct high high;
    open_resident(&high, kind, readahead);
    high_read_all(&high, high.view, 0);
    expect_few_faults(&high, 0);
    high_close(&high);
}

static void scan_without_readahead(enum mnw_backing kind) {
    whole_scan(kind, false);
}

static void scan_with_readahead(enum mnw_backing kind) {
    whole_scan(kind, true);
}

/* Both ends of the view lie within extents that go on. */
static void part_of_a_store(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *part;
    open_resident(&high, kind, false);
    size_t first = high.extent_pages + 3, pages = 40 * high.extent_pages + 1;
    high_open_view(&high, &part, first, pages, 0);
    struct reader reader;
    reader_start(&reader, (uintptr_t)mnw_view_data(part), pages * high.page);
    expect(reader_join(&reader) == WORLD_OK, "a view of a part is read");
    size_t wrong = 0;
    for (size_t i = 0; i < pages * high.page; i++)
        wrong += reader.bytes[i] != high_byte(first + i / high.page, 0);
    expect(!wrong, "every byte right");
    reader_free(&reader);
    expect_few_faults(&high, 0);
    expect(high_stats(&high).pages_mapped == pages, "and nothing is mapped beyond it");
    expect_result("close", mnw_view_close(part), 0);
    high_close(&high);
}

/* Extents in the middle are forgotten, with a page held back: its reader waits for it, and sees no zeros before. */
static void hole_on_the_way(enum mnw_backing kind) {
    struct high high;
    struct reader reader;
    open_resident(&high, kind, false);
    size_t hole = 30 * high.extent_pages;
    expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, hole), 2 * high.extent), 0);
    high.version = 0;
    high_hold(&high, hole);
    reader_start(&reader, (uintptr_t)mnw_view_data(high.view), high.size_bytes);
    high_wait_asked(&high, hole, 2);
    expect(reader_sleeps(&reader), "the reader waits at the hole");
    expect_result("the answer", high_release(&high, hole), 0);
    expect(reader_join(&reader) == WORLD_OK, "and goes on");
    size_t wrong = 0;
    for (size_t i = 0; i < high.size_bytes; i++)
        wrong += reader.bytes[i] != high_byte(i / high.page, 0);
    expect(!wrong, "every byte right");
    reader_free(&reader);
    high_close(&high);
}

/*
 * The window behind the next begins with a page that somebody else has under way: it has memory and no bytes yet. The
 * fourth fault maps up to 22; the fault on 23 tells that the reader is there, and 88 is where the next window begins.
 */
static void window_that_is_filling(enum mnw_backing kind) {
    enum { BEGINS = 88 };
    struct high high;
    struct reader other, reader;
    open_resident(&high, kind, false);
    size_t hole = BEGINS / high.extent_pages * high.extent_pages;
    expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, hole), high.extent), 0);
    high.version = 0;
    high_hold(&high, BEGINS);
    reader_start(&other, (uintptr_t)mnw_view_data(high.view) + high_offset(&high, BEGINS), high.page);
    high_wait_asked(&high, BEGINS, 2);
    reader_start(&reader, (uintptr_t)mnw_view_data(high.view), high.size_bytes);
    expect(reader_sleeps(&reader) && reader_sleeps(&other), "both wait for it");
    expect_result("the answer", high_release(&high, BEGINS), 0);
    expect(reader_join(&reader) == WORLD_OK && reader_join(&other) == WORLD_OK, "and go on");
    size_t wrong = 0;
    for (size_t i = 0; i < high.size_bytes; i++)
        wrong += reader.bytes[i] != high_byte(i / high.page, 0);
    for (size_t i = 0; i < high.page; i++)
        wrong += other.bytes[i] != high_byte(BEGINS, 0);
    expect(!wrong, "every byte right");
    reader_free(&reader);
    reader_free(&other);
    high_close(&high);
}

/* The window behind the next, which begins at 88 as above, is not in memory: its extents stay what they are. */
static void window_that_is_absent(enum mnw_backing kind) {
    enum { PRESENT = 88 };
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = EXTENTS});
    expect(mnw_prefetch(high.cache, 0, high_offset(&high, PRESENT), 1) > 0, "prefetch");
    high_event(&high, MNW_EVENT_PREFETCH, 0, 1);
    for (size_t page = 0; page < PRESENT; page++)
        high_read(&high, high.view, page, WORLD_OK, 0);
    unsigned empty = 0;
    for (uint64_t extent = PRESENT / high.extent_pages; extent < EXTENTS; extent++)
        empty += mnw__extent_load(&high.cache->pages, extent).state != MNW__EXTENT_ABSENT;
    expect(!empty, "no extent is resident with nothing in it");
    high_close(&high);
}

/* What is read ahead is sent into the file: whole, in part, or in vain; and what was evicted is sent anew. */
static void read_twice(enum mnw_backing kind, unsigned trouble, size_t budget_extents) {
    struct high high;
    high_open(
        &high, kind,
        &(struct high_options){
            .extents = EXTENTS, .cut_bytes = 100, .budget_extents = budget_extents, .readahead = true, .sends = true});
    high.send_trouble = trouble;
    high_read_all(&high, high.view, 0);
    expect(high.sends > 4, "the store sends");
    expect_result("invalidate", mnw_invalidate(high.cache, 0, high.pages * high.page), 0);
    high.version = 1;
    high_read_all(&high, high.view, 1);
    struct mnw_stats stats = high_stats(&high);
    expect(!stats.fills_failed && !stats.read_retries, "what cannot be sent has not failed");
    expect(!high.reads_inside, "and is read from the beginning of its page, which may get other memory");
    expect(!budget_extents || stats.evictions, "evictions");
    high_close(&high);
}

static void sent(enum mnw_backing kind) {
    read_twice(kind, 0, 0);
}

static void sent_in_vain(enum mnw_backing kind) {
    for (unsigned trouble = 1; trouble < 4; trouble++)
        read_twice(kind, trouble, 0);
}

static void sent_and_evicted(enum mnw_backing kind) {
    read_twice(kind, 2, EXTENTS / 4);
}

const struct scenario scenarios_ahead[] = {
    {"ahead-over-extents", ON_SHMEM, scan_without_readahead},
    {"ahead-beside-readahead", ON_SHMEM, scan_with_readahead},
    {"ahead-within-the-view", ON_SHMEM, part_of_a_store},
    {"ahead-up-to-a-hole", ON_SHMEM, hole_on_the_way},
    {"ahead-of-what-is-filling", ON_SHMEM, window_that_is_filling},
    {"ahead-of-what-is-absent", ON_SHMEM, window_that_is_absent},
    {"ahead-sent", ON_SHMEM, sent},
    {"ahead-sent-in-vain", ON_SHMEM, sent_in_vain},
    {"ahead-sent-and-evicted", ON_SHMEM, sent_and_evicted},
    {0},
};
