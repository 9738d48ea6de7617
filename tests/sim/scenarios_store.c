/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on the public API: the store. Single flight, failures, retries, deadlines, answers, prefetches.
 */
#include "high.h"

#include <errno.h>
#include <string.h>

static void single_flight(enum mnw_backing kind) {
    struct high high;
    struct reader readers[4];
    high_open(&high, kind, NULL);
    high_hold(&high, 2);
    for (int i = 0; i < 4; i++)
        reader_start(&readers[i], high_at(high.view, &high, 2), 64);
    high_wait_faults(&high, 4);
    expect(high_reads_of(&high, 2) == 1, "four wait, the store is asked once");
    expect_result("the answer, from another thread", high_release(&high, 2), 0);
    for (int i = 0; i < 4; i++)
        high_join(&high, &readers[i], 2, WORLD_OK, 0);
    expect(high_reads_of(&high, 2) == 1, "and never again");
    high_close(&high);
}

static void joined_by_another_view(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *second;
    struct reader readers[2];
    high_open(&high, kind, NULL);
    high_open_view(&high, &second, 0, high.pages, 0);
    high_hold(&high, 2);
    reader_start(&readers[0], high_at(high.view, &high, 2), 64);
    high_wait_faults(&high, 1);
    reader_start(&readers[1], high_at(second, &high, 2), 64);
    high_wait_faults(&high, 2);
    expect_result("the answer", high_release(&high, 2), 0);
    for (int i = 0; i < 2; i++)
        high_join(&high, &readers[i], 2, WORLD_OK, 0);
    expect(high_reads_of(&high, 2) == 1, "two views, one read");
    high_expect_count(&high, offsetof(struct mnw_stats, faults_joined), 1, "joined");
    expect_result("close", mnw_view_close(second), 0);
    high_close(&high);
}

static void out_of_order(enum mnw_backing kind) {
    struct high high;
    struct reader readers[3];
    high_open(&high, kind, NULL);
    for (size_t page = 0; page < 3; page++) {
        high_hold(&high, page);
        reader_start(&readers[page], high_at(high.view, &high, page), 64);
        high_wait_asked(&high, page, 1);
    }
    for (size_t page = 3; page-- > 0;) {
        expect_result("an answer", high_release(&high, page), 0);
        high_join(&high, &readers[page], page, WORLD_OK, 0);
    }
    high_close(&high);
}

/* ---- failures ---------------------------------------------------------------------------------------------- */

static void fail_always(struct high *high, size_t page, int error) {
    high->page_of[page].error = error;
    high->page_of[page].error_times = -1;
}

static void failed_page_alone(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    fail_always(&high, 1, -EIO);
    high_read(&high, high.view, 0, WORLD_OK, 0);
    high_read(&high, high.view, 1, WORLD_SIGBUS, 0);
    high_read(&high, high.view, 2, WORLD_OK, 0);
    high_event(&high, MNW_EVENT_PAGE_FAILED, -EIO, 0);
    high_expect_flags(&high, 1, MNW_FAILED);
    struct reader reader;
    reader_start(&reader, high_at(high.view, &high, 0), 2 * high.page);
    reader_join(&reader);
    expect(reader.outcome == WORLD_SIGBUS && reader.stopped == high_at(high.view, &high, 1),
           "reading across it: SIGBUS at its first byte");
    reader_free(&reader);
    high_read(&high, high.view, 1, WORLD_SIGBUS, 0);
    expect(high_reads_of(&high, 1) == 1, "the store is not asked again");
    high_close(&high);
}

static void invalidate_heals(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *second;
    high_open(&high, kind, NULL);
    high_open_view(&high, &second, 0, high.pages, 0);
    fail_always(&high, 1, -EIO);
    high_read(&high, high.view, 1, WORLD_SIGBUS, 0);
    high_read(&high, second, 1, WORLD_SIGBUS, 0);
    high.page_of[1].error = 0;
    high_read(&high, high.view, 1, WORLD_SIGBUS, 0);
    expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, 1), high.page), 0);
    high_read(&high, high.view, 1, WORLD_OK, 0);
    high_read(&high, second, 1, WORLD_OK, 0);
    expect_result("close", mnw_view_close(second), 0);
    high_close(&high);
}

/* Without the kernel's poison a page is healed by reading it first. */
static void fails_again_after_healing(enum mnw_backing kind) {
    struct high high;
    bool poison = world_has_poison();
    high_open(&high, kind, NULL);
    fail_always(&high, 1, -EIO);
    for (int round = 0; round < 3; round++) {
        high_read(&high, high.view, 1, WORLD_SIGBUS, 0);
        expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, 1), high.page), poison ? 0 : -EIO);
        high_expect_flags(&high, 1, 0);
    }
    expect(high_reads_of(&high, 1) == (poison ? 3 : 4), "it was read once, and once more to heal it each time");
    high_close(&high);
}

static void retry_succeeds(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.retries = 2});
    high.page_of[1].error = -EIO;
    high.page_of[1].error_times = 2;
    high_read(&high, high.view, 1, WORLD_OK, 0);
    expect(high_reads_of(&high, 1) == 3, "three reads");
    high_expect_count(&high, offsetof(struct mnw_stats, read_retries), 2, "retries");
    high_expect_count(&high, offsetof(struct mnw_stats, fills_failed), 0, "failures");
    high_close(&high);
}

static void retries_end(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.retries = 2});
    fail_always(&high, 1, -ENOMEM);
    high_read(&high, high.view, 1, WORLD_SIGBUS, 0);
    expect(high_reads_of(&high, 1) == 3, "three reads");
    high_event(&high, MNW_EVENT_PAGE_FAILED, -ENOMEM, 0);
    high_expect_count(&high, offsetof(struct mnw_stats, fills_failed), 1, "failures");
    high_close(&high);
}

static void store_ends_early(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    high.page_of[1].halves = true; /* half a page... */
    high_hold(&high, 1);
    struct reader reader;
    reader_start(&reader, high_at(high.view, &high, 1), 64);
    high_wait_asked(&high, 1, 1);
    struct mnw_read read = high.held[0];
    high.held_count = 0;
    expect_result("an answer of 0 bytes", mnw_read_done(high.store, read.token, 0), 0);
    high_join(&high, &reader, 1, WORLD_SIGBUS, 0);
    high_event(&high, MNW_EVENT_PAGE_FAILED, -ENODATA, 0);
    high_close(&high);
}

static void short_answers(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    high.page_of[1].halves = true;
    struct reader reader;
    reader_start(&reader, high_at(high.view, &high, 1), high.page);
    high_join(&high, &reader, 1, WORLD_OK, 0);
    expect(high_reads_of(&high, 1) > 10, "read on, half by half");
    high_expect_count(&high, offsetof(struct mnw_stats, fills), 1, "fills");
    high_close(&high);
}

static void flipped_bit(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.retries = 1, .checked = true});
    high.page_of[1].flips = 1;
    high_read(&high, high.view, 1, WORLD_OK, 0);
    expect(high_reads_of(&high, 1) == 2, "the wrong bytes were read anew");
    high.page_of[2].flips = 2;
    high_read(&high, high.view, 2, WORLD_SIGBUS, 0);
    high_event(&high, MNW_EVENT_PAGE_FAILED, -EILSEQ, 0);
    high_close(&high);
}

/* ---- deadlines and answers --------------------------------------------------------------------------------- */

static void never_answered(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.deadline_ms = 150});
    high_hold(&high, 1);
    high_read(&high, high.view, 1, WORLD_SIGBUS, 0);
    high_event(&high, MNW_EVENT_PAGE_FAILED, -ETIMEDOUT, 0);
    high_expect_count(&high, offsetof(struct mnw_stats, fills_late), 1, "late fills");
    high_read(&high, high.view, 2 * high.extent_pages, WORLD_OK, 0);
    expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, 1), high.page), -EBUSY);
    expect_result("view close", mnw_view_close(high.view), 0);
    high.view = NULL;
    expect_result("cache close", mnw_cache_close(high.cache), -EBUSY);
    expect_result("the late answer", high_release(&high, 1), 0);
    high_open_view(&high, &high.view, 0, high.pages, 0);
    expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, 1), high.page), 0);
    high_read(&high, high.view, 1, WORLD_OK, 0);
    high_close(&high);
}

static void answered_twice(enum mnw_backing kind) {
    struct high high;
    struct reader reader;
    high_open(&high, kind, NULL);
    high_hold(&high, 1);
    reader_start(&reader, high_at(high.view, &high, 1), 64);
    high_wait_asked(&high, 1, 1);
    uint64_t token = high.held[0].token;
    expect_result("a token never given", mnw_read_done(high.store, token + 12345, 1), -ESTALE);
    expect_result("the answer", high_release(&high, 1), 0);
    expect_result("the answer again", mnw_read_done(high.store, token, 1), -ESTALE);
    high_join(&high, &reader, 1, WORLD_OK, 0);
    high_close(&high);
}

static void answered_too_long(enum mnw_backing kind) {
    struct high high;
    struct reader reader;
    high_open(&high, kind, NULL);
    high_hold(&high, 1);
    reader_start(&reader, high_at(high.view, &high, 1), 64);
    high_wait_asked(&high, 1, 1);
    struct mnw_read read = high.held[0];
    high.held_count = 0;
    expect_result("more bytes than were asked for", mnw_read_done(high.store, read.token, (int64_t)read.length + 1),
                  -EINVAL);
    high_join(&high, &reader, 1, WORLD_SIGBUS, 0);
    high_event(&high, MNW_EVENT_PAGE_FAILED, -EIO, 0);
    high_close(&high);
}

/* ---- prefetch and residency -------------------------------------------------------------------------------- */

static void prefetched(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    expect(mnw_prefetch(high.cache, 0, high.extent, 77) > 0, "prefetch");
    high_event(&high, MNW_EVENT_PREFETCH, 0, 77);
    high_expect_flags(&high, 0, MNW_RESIDENT);
    high_expect_flags(&high, high.extent_pages - 1, MNW_RESIDENT);
    int reads = high.reads;
    high_read(&high, high.view, 0, WORLD_OK, 0);
    expect(high.reads == reads, "no further read");
    high_read_all(&high, high.view, 0);
    high_close(&high);
}

static void prefetch_cancelled(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    high_hold(&high, 0);
    int64_t id = mnw_prefetch(high.cache, 0, high.page, 5);
    expect(id > 0, "prefetch");
    high_wait_asked(&high, 0, 1);
    expect_result("cancel", mnw_prefetch_cancel(high.pool, id), 0);
    expect_result("the answer", high_release(&high, 0), 0);
    high_event(&high, MNW_EVENT_PREFETCH, -ECANCELED, 5);
    expect_result("cancel again", mnw_prefetch_cancel(high.pool, id), -ENOENT);
    high_read(&high, high.view, 0, WORLD_OK, 0);
    high_close(&high);
}

static void prefetch_of_a_bad_page(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    fail_always(&high, 1, -EIO);
    expect(mnw_prefetch(high.cache, high_offset(&high, 1), high.page, 6) > 0, "prefetch");
    high_event(&high, MNW_EVENT_PREFETCH, -EIO, 6);
    high.page_of[1].error = 0;
    high_read(&high, high.view, 1, WORLD_OK, 0);
    high_close(&high);
}

static void prefetch_is_joined(enum mnw_backing kind) {
    struct high high;
    struct reader reader;
    high_open(&high, kind, NULL);
    high_hold(&high, 1);
    expect(mnw_prefetch(high.cache, high_offset(&high, 1), high.page, 8) > 0, "prefetch");
    high_wait_asked(&high, 1, 1);
    high_expect_flags(&high, 1, MNW_FILLING);
    reader_start(&reader, high_at(high.view, &high, 1), 64);
    high_wait_faults(&high, 1);
    expect(reader_sleeps(&reader), "a reader waits for it");
    expect_result("the answer", high_release(&high, 1), 0);
    high_join(&high, &reader, 1, WORLD_OK, 0);
    high_event(&high, MNW_EVENT_PREFETCH, 0, 8);
    expect(high_reads_of(&high, 1) == 1, "one read");
    high_close(&high);
}

static void too_many_prefetches(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    int started = 0;
    for (int i = 0; i < 64; i++)
        started += mnw_prefetch(high.cache, 0, high.page, (uint64_t)i) > 0;
    expect(started == 64, "64 prefetches");
    expect_result("one more", mnw_prefetch(high.cache, 0, high.page, 64), -EAGAIN);
    for (int i = 0; i < 64; i++) {
        struct mnw_event event;
        for (int tries = 0; tries < 20000 && mnw_pool_next_event(high.pool, &event) != 1; tries++)
            mnw__sleep_ns(1000000);
        started -= event.kind == MNW_EVENT_PREFETCH && event.result == 0;
    }
    expect(started == 0, "64 events");
    expect(mnw_prefetch(high.cache, 0, high.page, 65) > 0, "and one more");
    high_event(&high, MNW_EVENT_PREFETCH, 0, 65);
    high_close(&high);
}

static void readahead(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = 8, .readahead = true});
    high_read_all(&high, high.view, 0);
    struct mnw_stats stats = high_stats(&high);
    expect(stats.readahead_pages > 0 || stats.fills < high.pages, "a sequential reader is read ahead for");
    expect(stats.faults_minor + stats.faults_missing <= high.pages, "and does not fault more than it must");
    high_close(&high);
}

const struct scenario scenarios_store[] = {
    {"single-flight", ON_ALL, single_flight},
    {"joined-by-another-view", ON_ALL, joined_by_another_view},
    {"out-of-order", ON_ALL, out_of_order},
    {"failed-page-alone", ON_ALL, failed_page_alone},
    {"invalidate-heals", ON_ALL, invalidate_heals},
    {"fails-again-after-healing", ON_ALL, fails_again_after_healing},
    {"retry-succeeds", ON_ALL, retry_succeeds},
    {"retries-end", ON_ALL, retries_end},
    {"store-ends-early", ON_ALL, store_ends_early},
    {"short-answers", ON_ALL, short_answers},
    {"flipped-bit", ON_ALL, flipped_bit},
    {"never-answered", ON_ALL, never_answered},
    {"answered-twice", ON_ALL, answered_twice},
    {"answered-too-long", ON_ALL, answered_too_long},
    {"prefetched", ON_ALL, prefetched},
    {"prefetch-cancelled", ON_ALL, prefetch_cancelled},
    {"prefetch-of-a-bad-page", ON_ALL, prefetch_of_a_bad_page},
    {"prefetch-is-joined", ON_ALL, prefetch_is_joined},
    {"too-many-prefetches", ON_ALL, too_many_prefetches},
    {"readahead", ON_ALL, readahead},
    {0},
};
