/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on inline views: who reads, who joins, what a deadline ends and what it does not, and that mild want of
 * read slots fails nobody.
 */
#include "high.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

static struct mnw_view *open_inline(struct high *high, enum mnw_backing kind, struct high_options options) {
    struct mnw_view *view;
    options.reads_now = true;
    high_open(high, kind, &options);
    high_open_view(high, &view, 0, high->pages, MNW_VIEW_INLINE);
    return view;
}

static void close_inline(struct high *high, struct mnw_view *view) {
    expect_result("the inline view closes", mnw_view_close(view), 0);
    high_close(high);
}

static void let_go(struct high *high, size_t page) {
    mnw__mutex_lock(&high->lock);
    high->page_of[page].held = false;
    mnw__mutex_unlock(&high->lock);
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static void reads_all(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *view = open_inline(&high, kind, (struct high_options){.cut_bytes = 100});
    high_read_all(&high, view, 0);
    expect(high_stats(&high).fills == high.pages, "each page was read once");
    expect_result("invalidate", mnw_invalidate(high.cache, 0, high.pages * high.page), 0);
    high.version = 1;
    high_read_all(&high, view, 1);
    high_read_all(&high, high.view, 1);
    expect(high_stats(&high).fills == 2 * high.pages, "and once more");
    close_inline(&high, view);
}

static void evicts(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *view = open_inline(&high, kind, (struct high_options){.extents = 6, .budget_extents = 2});
    for (int round = 0; round < 3; round++)
        high_read_all(&high, view, 0);
    expect(high_stats(&high).evictions > 0 && high_stats(&high).fills_failed == 0, "evicted, and nothing failed");
    close_inline(&high, view);
}

/* Three of the view and one of another for one page: one read. */
static void joins(enum mnw_backing kind) {
    struct high high;
    struct reader readers[4];
    struct mnw_view *view = open_inline(&high, kind, (struct high_options){0});
    high_hold(&high, 1);
    for (int i = 0; i < 4; i++) {
        reader_start(&readers[i], high_at(i == 3 ? high.view : view, &high, 1), 64);
        high_wait_asked(&high, 1, 1);
    }
    high_wait_faults(&high, 4);
    expect(reader_sleeps(&readers[3]), "they wait");
    let_go(&high, 1);
    for (int i = 0; i < 4; i++)
        high_join(&high, &readers[i], 1, WORLD_OK, 0);
    expect(high_reads_of(&high, 1) == 1, "one read");
    close_inline(&high, view);
}

static void fails(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *view = open_inline(&high, kind, (struct high_options){.retries = 1});
    high.page_of[1].error = -EIO;
    high.page_of[1].error_times = -1;
    high_read(&high, view, 1, WORLD_SIGBUS, 0);
    high_event(&high, MNW_EVENT_PAGE_FAILED, -EIO, 0);
    high_read(&high, view, 1, WORLD_SIGBUS, 0);
    high_read(&high, view, 2, WORLD_OK, 0);
    high.page_of[1].error = 0;
    expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, 1), high.page), 0);
    high_read(&high, view, 1, WORLD_OK, 0);
    close_inline(&high, view);
}

/* ---- deadlines ---------------------------------------------------------------------------------------------- */

enum { DEADLINE_MS = 400 };

/* Nobody else waits: what it brings is as good as ever. */
static void reader_has_no_deadline(enum mnw_backing kind) {
    struct high high;
    struct reader reader;
    struct mnw_view *view = open_inline(&high, kind, (struct high_options){.deadline_ms = DEADLINE_MS});
    high_hold(&high, 1);
    reader_start(&reader, high_at(view, &high, 1), 64);
    high_wait_asked(&high, 1, 1);
    mnw__sleep_ns(3 * DEADLINE_MS * 1000000ull);
    let_go(&high, 1);
    high_join(&high, &reader, 1, WORLD_OK, 0);
    expect(high_reads_of(&high, 1) == 1, "one read");
    close_inline(&high, view);
}

/* Who waits for another's read is told at the deadline, whatever views the two are of: not at the next look round. */
static void joiner_has(enum mnw_backing kind, bool is_inline) {
    struct high high;
    struct reader reader, joiner;
    struct mnw_view *view = open_inline(&high, kind, (struct high_options){.deadline_ms = DEADLINE_MS});
    high_hold(&high, 1);
    mnw__sleep_ns(50000000); /* the fault thread has nothing to do, and sleeps */
    reader_start(&reader, high_at(view, &high, 1), 64);
    high_wait_asked(&high, 1, 1);
    uint64_t began_ns = mnw__clock_ns();
    reader_start(&joiner, high_at(is_inline ? view : high.view, &high, 1), 64);
    high_join(&high, &joiner, 1, WORLD_SIGBUS, 0);
    uint64_t passed_ms = (mnw__clock_ns() - began_ns) / 1000000;
    expect(passed_ms < DEADLINE_MS + 350, "at its deadline");
    high_event(&high, MNW_EVENT_PAGE_FAILED, -ETIMEDOUT, 0);
    let_go(&high, 1);
    high_join(&high, &reader, 1, WORLD_SIGBUS, 0);
    expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, 1), high.page), 0);
    high_read(&high, view, 1, WORLD_OK, 0);
    close_inline(&high, view);
}

static void inline_joiner_has_one(enum mnw_backing kind) {
    joiner_has(kind, true);
}

static void other_joiner_has_one(enum mnw_backing kind) {
    joiner_has(kind, false);
}

/* ---- want of slots ------------------------------------------------------------------------------------------ */

enum { SLOT_DEADLINE_MS = 500, SLOT_READ_MS = 60, SLOT_PAGES = 24 };

/*
 * Two readers share one slot: each starves now and then, and gets on. In all that takes longer than a fault that cannot
 * be served may starve, and yet none of theirs is such.
 */
static void shared_slot(enum mnw_backing kind) {
    struct high high;
    struct reader readers[2];
    struct mnw_view *view =
        open_inline(&high, kind, (struct high_options){.extents = 6, .slots = 1, .deadline_ms = SLOT_DEADLINE_MS});
    high.delay_ns = SLOT_READ_MS * 1000000ull;
    for (size_t i = 0; i < 2; i++)
        reader_start(&readers[i], high_at(view, &high, i * SLOT_PAGES), SLOT_PAGES * high.page);
    for (size_t i = 0; i < 2; i++) {
        expect(reader_join(&readers[i]) == WORLD_OK, "reader %d gets all its pages", (int)i);
        reader_free(&readers[i]);
    }
    expect(high_stats(&high).faults_starved > 0, "though they starved");
    close_inline(&high, view);
}

/* ---- pins --------------------------------------------------------------------------------------------------- */

enum { PIN_EXTENTS = 8, PIN_ROUNDS = 2000 };

/* Takes from the budget and gives it back, again and again: extents are evicted, and asked for their use. */
struct evictor {
    struct high *high;
    struct mnw__thread thread;
    _Atomic bool stop;
};

static void evict_on(void *argument) {
    struct evictor *evictor = argument;
    struct high *high = evictor->high;
    while (!atomic_load(&evictor->stop)) {
        mnw_pool_set_budget(high->pool, PIN_EXTENTS / 2 * (uint64_t)high->extent);
        mnw_pool_set_budget(high->pool, (PIN_EXTENTS + 2) * (uint64_t)high->extent);
        mnw__sleep_ns(20000);
    }
}

/* On the script's own thread: a byte of each page. */
static bool is_read(struct high *high, const struct mnw_view *view, size_t first, size_t pages) {
    unsigned char byte;
    uintptr_t stopped;
    for (size_t page = first; page < first + pages; page++)
        if (world_read(high_at(view, high, page), &byte, 1, &stopped) != WORLD_OK || byte != high_byte(page, 0))
            return false;
    return true;
}

static uint64_t faults_of(struct high *high) {
    struct mnw_stats stats = high_stats(high);
    return stats.faults_minor + stats.faults_missing;
}

/* Pinned and populated, an extent stays mapped, whatever an evictor had in mind for it. */
static void pinned_stays_mapped(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *view =
        open_inline(&high, kind, (struct high_options){.extents = PIN_EXTENTS, .budget_extents = PIN_EXTENTS + 2});
    struct evictor evictor = {.high = &high};
    bool is_ok = true, is_pinned = true;
    uint64_t faults = 0;
    expect_result("an evictor", mnw__thread_start(&evictor.thread, "evictor", -1, evict_on, &evictor), 0);
    for (unsigned round = 0; round < PIN_ROUNDS; round++) {
        size_t page = round % PIN_EXTENTS * high.extent_pages;
        uint64_t offset = high_offset(&high, page);
        is_ok &= is_read(&high, view, 0, high.pages);
        is_pinned &= !mnw_pin(high.cache, offset, high.extent) && !mnw_view_populate(view, offset, high.page);
        uint64_t before = faults_of(&high);
        mnw__sleep_ns(30000);
        is_ok &= is_read(&high, view, page, 1);
        faults += faults_of(&high) - before;
        is_pinned &= !mnw_unpin(high.cache, offset, high.extent);
    }
    atomic_store(&evictor.stop, true);
    mnw__thread_join(&evictor.thread);
    expect(is_ok && is_pinned, "all is read, pinned and populated");
    expect(!faults, "and nothing of what is pinned faults");
    close_inline(&high, view);
}

const struct scenario scenarios_inline[] = {
    {"inline-pinned-stays-mapped", ON_SHMEM, pinned_stays_mapped},
    {"inline-reads-all", ON_ALL, reads_all},
    {"inline-evicts", ON_ALL, evicts},
    {"inline-joins", ON_ALL, joins},
    {"inline-fails", ON_ALL, fails},
    {"inline-reader-has-no-deadline", ON_SHMEM | NEEDS_SPEED, reader_has_no_deadline},
    {"inline-joiner-has-a-deadline", ON_SHMEM | NEEDS_SPEED, inline_joiner_has_one},
    {"inline-other-joiner-has-a-deadline", ON_SHMEM | NEEDS_SPEED, other_joiner_has_one},
    {"inline-shared-slot", ON_SHMEM | NEEDS_SPEED, shared_slot},
    {0},
};
