/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on the public API: what is read around a fault at random. The page itself never waits for it.
 */
#include "high.h"

#include <errno.h>

/* Blocks of four pages; page 1 is in the first. */
static const struct high_options blocks = {.extents = 8, .budget_extents = 16, .around_pages = 4};

static void expect_faults(struct high *high, uint64_t wanted) {
    struct mnw_stats stats = high_stats(high);
    uint64_t faults = stats.faults_minor + stats.faults_missing;
    expect(faults == wanted, "%d faults", (int)faults);
}

static void expect_guessed(struct high *high, uint64_t pages) {
    high_expect_count(high, offsetof(struct mnw_stats, readahead_pages), pages, "pages read around");
}

static void block_is_read_and_mapped(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *second;
    high_open(&high, kind, &blocks);
    high_read(&high, high.view, 1, WORLD_OK, 0);
    expect_guessed(&high, 3);
    for (size_t page = 0; page < 4; page++)
        high_read(&high, high.view, page, WORLD_OK, 0);
    expect_faults(&high, 1);
    high_expect_flags(&high, 4, 0);
    high_open_view(&high, &second, 0, high.pages, 0);
    high_read(&high, second, 2, WORLD_OK, 0);
    high_read(&high, high.view, 5, WORLD_OK, 0); /* served after it, and all that belongs to it */
    for (size_t page = 0; page < 4; page++)
        high_read(&high, second, page, WORLD_OK, 0);
    expect_faults(&high, 3);
    expect_result("close", mnw_view_close(second), 0);
    high_close(&high);
}

static void resident_page_reads_nothing(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &blocks);
    expect(mnw_prefetch(high.cache, 0, 2 * high.page, 1) > 0, "prefetch");
    high_event(&high, MNW_EVENT_PREFETCH, 0, 1);
    high_read(&high, high.view, 0, WORLD_OK, 0);
    high_read(&high, high.view, 5, WORLD_OK, 0); /* served after it, and all that belongs to it */
    high_expect_flags(&high, 2, 0);
    high_read(&high, high.view, 1, WORLD_OK, 0);
    expect_faults(&high, 2);
    high_close(&high);
}

static void page_does_not_wait(enum mnw_backing kind) {
    struct high high;
    struct reader reader;
    high_open(&high, kind, &blocks);
    high_hold(&high, 0);
    high_hold(&high, 2);
    high_read(&high, high.view, 1, WORLD_OK, 0);
    high_wait_asked(&high, 0, 1);
    high_wait_asked(&high, 2, 1);
    reader_start(&reader, high_at(high.view, &high, 2), 64);
    high_wait_faults(&high, 2);
    expect(reader_sleeps(&reader), "who wants a page that is being read waits for it");
    expect_result("the answer", high_release(&high, 2), 0);
    high_join(&high, &reader, 2, WORLD_OK, 0);
    expect(high_reads_of(&high, 2) == 1, "which is read once");
    expect_result("the other answer", high_release(&high, 0), 0);
    high_read(&high, high.view, 0, WORLD_OK, 0);
    high_close(&high);
}

static void bad_page_in_the_block(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &blocks);
    high.page_of[3].error = -EIO;
    high.page_of[3].error_times = -1;
    high_read(&high, high.view, 1, WORLD_OK, 0);
    high_expect_count(&high, offsetof(struct mnw_stats, fills_failed), 1, "reads failed");
    high_read(&high, high.view, 0, WORLD_OK, 0);
    high_read(&high, high.view, 2, WORLD_OK, 0);
    high_read(&high, high.view, 3, WORLD_SIGBUS, 0);
    high_event(&high, MNW_EVENT_PAGE_FAILED, -EIO, 0);
    high.page_of[3].error = 0;
    expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, 3), high.page), 0);
    high_read(&high, high.view, 3, WORLD_OK, 0);
    high_close(&high);
}

/* 16 extents of budget, of which guesses leave two free; 13 are taken, and a block is two. */
static void nothing_is_evicted_for_a_guess(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = 32, .budget_extents = 16, .around_pages = 16});
    expect(mnw_prefetch(high.cache, 0, 13 * high.extent, 1) > 0, "prefetch");
    high_event(&high, MNW_EVENT_PREFETCH, 0, 1);
    uint64_t before = high_stats(&high).readahead_pages;
    high_read(&high, high.view, 20 * high.extent_pages, WORLD_OK, 0);
    high_read(&high, high.view, 26 * high.extent_pages, WORLD_OK, 0);
    expect(high_stats(&high).readahead_pages == before, "no page is read around");
    high_expect_flags(&high, 20 * high.extent_pages + 1, 0);
    expect(high_stats(&high).evictions == 0, "and none evicted");
    expect_result("invalidate", mnw_invalidate(high.cache, 0, 13 * high.extent), 0);
    high_read(&high, high.view, 24 * high.extent_pages, WORLD_OK, 0);
    high_expect_count(&high, offsetof(struct mnw_stats, readahead_pages), before + 15, "with room, a block");
    high_close(&high);
}

static void end_of_the_store(enum mnw_backing kind) {
    struct high high;
    struct high_options options = blocks;
    struct reader readers[2];
    options.cut_bytes = 5000; /* a page and a part of one */
    high_open(&high, kind, &options);
    for (size_t i = 0; i < 2; i++) {
        size_t page = high.pages - 4 + i;
        reader_start(&readers[i], high_at(high.view, &high, page), 64);
        expect(reader_join(&readers[i]) == WORLD_OK && readers[i].bytes[0] == high_byte(page, 0),
               "the page that is fourth to last, or the next");
        reader_free(&readers[i]);
        expect_guessed(&high, 2);
    }
    expect_faults(&high, 1);
    high_close(&high);
}

static void sequential_reader(enum mnw_backing kind) {
    struct high high;
    struct high_options options = blocks;
    options.readahead = true;
    high_open(&high, kind, &options);
    high_read_all(&high, high.view, 0);
    struct mnw_stats stats = high_stats(&high);
    expect(stats.faults_minor + stats.faults_missing <= high.pages / 2, "a sequential reader is known by its blocks");
    high_close(&high);
}

const struct scenario scenarios_around[] = {
    {"around-is-read-and-mapped", ON_BASE, block_is_read_and_mapped},
    {"around-a-resident-page", ON_BASE, resident_page_reads_nothing},
    {"around-is-not-waited-for", ON_BASE, page_does_not_wait},
    {"around-a-bad-page", ON_BASE, bad_page_in_the_block},
    {"around-evicts-nothing", ON_SHMEM, nothing_is_evicted_for_a_guess},
    {"around-at-the-end", ON_BASE, end_of_the_store},
    {"around-for-a-sequential-reader", ON_BASE, sequential_reader},
    {0},
};
