/* SPDX-License-Identifier: MIT */
/*
 * Scenarios of working sets: what a view records, and lists of runs that are brought in while pages are evicted,
 * invalidated, read and fail. The file between them is not here: it needs a file system.
 */
#include "engine/job.h"
#include "engine/record.h"
#include "engine/view.h"
#include "high.h"
#include "policy/working_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* At least 6 pages on every backing, with gaps. */
static const struct mnw__run some_runs[] = {{0, 1}, {2, 2}, {5, 1}};
enum { SOME_EXTENTS = 6 };

static int64_t replay(struct high *high, const struct mnw__run *runs, size_t count, uint64_t cookie) {
    struct mnw__run *copy = malloc(count * sizeof(*copy));
    if (!copy)
        return -ENOMEM;
    memcpy(copy, runs, count * sizeof(*copy));
    return mnw__job_prefetch_runs(high->cache, copy, count, cookie);
}

static void runs_alone_come(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = SOME_EXTENTS});
    expect(replay(&high, some_runs, COUNT(some_runs), 7) > 0, "replay");
    high_event(&high, MNW_EVENT_PREFETCH, 0, 7);
    for (size_t page = 0; page < 6; page++)
        high_expect_flags(&high, page, page == 1 || page == 4 ? 0 : MNW_RESIDENT);
    expect(high.reads == 4, "each page of the runs was read once");
    for (size_t page = 0; page < 6; page++)
        high_read(&high, high.view, page, WORLD_OK, 0);
    expect(high.reads == 6, "and only the others are read later");
    high_close(&high);
}

/* A replay of all there is, twice as much as the budget, with readers in between. */
static void replay_against_eviction(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = SOME_EXTENTS, .budget_extents = 3});
    struct mnw__run runs[SOME_EXTENTS] = {{0, high.pages}};
    size_t count =
        high.extent_pages > 1 ? SOME_EXTENTS : 1; /* a page less of each extent, where it has more than one */
    for (size_t i = 0; i < SOME_EXTENTS && count > 1; i++)
        runs[i] = (struct mnw__run){i * high.extent_pages, high.extent_pages - 1};
    for (uint64_t round = 0; round < 3; round++) {
        expect(replay(&high, runs, count, round) > 0, "replay");
        high_read_all(&high, high.view, 0);
        high_event(&high, MNW_EVENT_PREFETCH, 0, round);
    }
    struct mnw_stats stats = high_stats(&high);
    expect(stats.resident_bytes_max <= stats.budget_bytes, "the budget was kept");
    expect(stats.evictions > 0, "extents were evicted");
    high_close(&high);
}

struct invalidation {
    struct mnw__thread thread;
    struct high *high;
    int result;
};

static void invalidate_first(void *argument) {
    struct invalidation *invalidation = argument;
    invalidation->result = mnw_invalidate(invalidation->high->cache, 0, invalidation->high->page);
}

static bool is_gone(void *context) {
    uint8_t flags = 0;
    struct high *high = context;
    return mnw_residency(high->cache, 0, &flags, 1) == 0 && !flags;
}

/* What the replay was reading is forgotten all the same; the rest of it comes. */
static void replay_against_invalidation(enum mnw_backing kind) {
    struct high high;
    struct invalidation invalidation = {.high = &high};
    high_open(&high, kind, &(struct high_options){.extents = SOME_EXTENTS});
    high_hold(&high, 0);
    expect(replay(&high, some_runs, COUNT(some_runs), 8) > 0, "replay");
    high_wait_asked(&high, 5, 1);
    mnw__mutex_lock(&high.lock);
    high.version = 1;
    mnw__mutex_unlock(&high.lock);
    mnw__thread_start(&invalidation.thread, "invalidator", -1, invalidate_first, &invalidation);
    mnw__sleep_ns(5000000);
    expect_result("the late answer", high_release(&high, 0), 0);
    mnw__thread_join(&invalidation.thread);
    expect_result("invalidate", invalidation.result, 0);
    high_event(&high, MNW_EVENT_PREFETCH, 0, 8);
    expect(is_gone(&high), "the old bytes are gone");
    high_read(&high, high.view, 0, WORLD_OK, 1);
    expect_result("invalidate all", mnw_invalidate(high.cache, 0, high.pages * high.page), 0);
    expect(replay(&high, some_runs, COUNT(some_runs), 9) > 0, "replay");
    high_event(&high, MNW_EVENT_PREFETCH, 0, 9);
    high_read(&high, high.view, 5, WORLD_OK, 1);
    high_close(&high);
}

static void replay_cancelled(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = SOME_EXTENTS});
    high_hold(&high, 2);
    int64_t id = replay(&high, some_runs, COUNT(some_runs), 5);
    expect(id > 0, "replay");
    high_wait_asked(&high, 2, 1);
    expect_result("cancel", mnw_prefetch_cancel(high.pool, id), 0);
    expect_result("the answer", high_release(&high, 2), 0);
    high_event(&high, MNW_EVENT_PREFETCH, -ECANCELED, 5);
    expect_result("cancel again", mnw_prefetch_cancel(high.pool, id), -ENOENT);
    high_read(&high, high.view, 2, WORLD_OK, 0);
    high_close(&high);
}

/* A bad page fails alone: the others of its run come, and those of the runs behind it. */
static void replay_of_a_bad_page(enum mnw_backing kind) {
    struct high high;
    struct mnw_event event;
    high_open(&high, kind, &(struct high_options){.extents = SOME_EXTENTS});
    high.page_of[3].error = -EIO;
    high.page_of[3].error_times = -1;
    expect(replay(&high, some_runs, COUNT(some_runs), 6) > 0, "replay");
    high_event(&high, MNW_EVENT_PREFETCH, -EIO, 6);
    expect(!mnw_pool_next_event(high.pool, &event), "there is one event");
    high_expect_flags(&high, 2, MNW_RESIDENT);
    high_expect_flags(&high, 3, 0);
    high_expect_flags(&high, 5, MNW_RESIDENT);
    high_expect_flags(&high, 4, 0);
    high.page_of[3].error = 0;
    high_read(&high, high.view, 3, WORLD_OK, 0);
    high_close(&high);
}

/* ---- recording --------------------------------------------------------------------------------------------- */

static void expect_recorded(struct mnw_view *view, const uint64_t *pages, size_t count) {
    struct mnw__working_set set;
    void *bytes;
    size_t size, at = 0;
    bool right = true;
    expect_result("what was recorded", mnw__record_encode(view, &bytes, &size), 0);
    expect_result("decodes", mnw__working_set_decode(&set, bytes, size), 0);
    for (uint64_t i = 0; i < set.entry_count; i++) {
        struct mnw__run run = mnw__working_set_entry(&set, i);
        for (uint64_t page = run.first; page < run.first + run.count; page++, at++)
            right &= at < count && pages[at] == page;
    }
    expect(right && at == count, "%zu pages, in order of touch", count);
    free(bytes);
}

static void what_is_touched_is_recorded(enum mnw_backing kind) {
    static const uint64_t touched[] = {4, 1, 2, 0};
    struct high high;
    struct mnw_view *other;
    high_open(&high, kind, &(struct high_options){.extents = SOME_EXTENTS, .readahead = true});
    high_open_view(&high, &other, 0, high.pages, 0);
    for (size_t page = 0; page < 6; page++)
        high_read(&high, other, page, WORLD_OK, 0);
    expect_result("record", mnw__record_start(high.view), 0);
    for (size_t i = 0; i < COUNT(touched); i++) {
        high_read(&high, high.view, touched[i], WORLD_OK, 0);
        high_read(&high, high.view, touched[i / 2], WORLD_OK, 0);
    }
    expect_recorded(high.view, touched, COUNT(touched));
    expect_result("invalidate", mnw_invalidate(high.cache, 0, high.pages * high.page), 0);
    high_read(&high, high.view, 4, WORLD_OK, 0);
    expect_recorded(high.view, touched, COUNT(touched));
    expect_result("record anew", mnw__record_start(high.view), 0);
    high_read(&high, high.view, 5, WORLD_OK, 0);
    expect_recorded(high.view, (const uint64_t[]){5}, 1);
    mnw__record_stop(high.view);
    expect(!mnw__record_is_on(&high.view->record), "and no more");
    expect_result("close", mnw_view_close(other), 0);
    high_close(&high);
}

/* One waits for a page of a run that is read: the page before it is not mapped along, and is seen when it is touched.
 */
static void recording_of_joined_pages(enum mnw_backing kind) {
    struct high high;
    struct reader reader;
    high_open(&high, kind, &(struct high_options){.extents = SOME_EXTENTS});
    expect_result("record", mnw__record_start(high.view), 0);
    high_hold(&high, 2);
    expect(replay(&high, some_runs, COUNT(some_runs), 3) > 0, "replay");
    high_wait_asked(&high, 2, 1);
    reader_start(&reader, high_at(high.view, &high, 3), 64);
    high_wait_faults(&high, 1);
    expect_result("the answer", high_release(&high, 2), 0);
    high_join(&high, &reader, 3, WORLD_OK, 0);
    high_event(&high, MNW_EVENT_PREFETCH, 0, 3);
    expect_recorded(high.view, (const uint64_t[]){3}, 1);
    high_read(&high, high.view, 2, WORLD_OK, 0);
    expect_recorded(high.view, (const uint64_t[]){3, 2}, 2);
    high_close(&high);
}

/* What is read around a page is not mapped while the view records: it is seen when it is touched. */
static void recording_of_blocks(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = SOME_EXTENTS, .budget_extents = 16, .around_pages = 4});
    expect_result("record", mnw__record_start(high.view), 0);
    high_read(&high, high.view, 1, WORLD_OK, 0);
    high_expect_count(&high, offsetof(struct mnw_stats, readahead_pages), 3, "pages read around");
    high_read(&high, high.view, 3, WORLD_OK, 0);
    high_read(&high, high.view, 1, WORLD_OK, 0);
    high_read(&high, high.view, 0, WORLD_OK, 0);
    expect_recorded(high.view, (const uint64_t[]){1, 3, 0}, 3);
    high_close(&high);
}

const struct scenario scenarios_replay[] = {
    {"replay-runs-alone", ON_ALL, runs_alone_come},
    {"replay-against-eviction", ON_ALL, replay_against_eviction},
    {"replay-against-invalidation", ON_ALL, replay_against_invalidation},
    {"replay-cancelled", ON_ALL, replay_cancelled},
    {"replay-of-a-bad-page", ON_ALL, replay_of_a_bad_page},
    {"record-what-is-touched", ON_ALL, what_is_touched_is_recorded},
    {"record-joined-pages", ON_ALL, recording_of_joined_pages},
    {"record-blocks", ON_BASE, recording_of_blocks},
    {0},
};
