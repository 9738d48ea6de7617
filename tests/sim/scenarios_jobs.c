/* SPDX-License-Identifier: MIT */
/* Scenarios on the public API: ranges brought in on request, of which pages cannot be read. */
#include "high.h"

#include <errno.h>
#include <stddef.h>

enum { RUN = 64 /* pages of 4 KiB that one read asks for at most */ };

/*
 * Two runs: the later one has a page that is bad for ever, and fails first; then the earlier one fails once. Neither
 * is a reason to read the bad page again.
 */
static void bad_page_counts_once(enum mnw_backing kind) {
    struct high high;
    const size_t bad = RUN + 6, shaky = 10;
    high_open(&high, kind, &(struct high_options){.extents = 2 * RUN / 8});
    high.page_of[bad].error = high.page_of[shaky].error = -EIO;
    high.page_of[bad].error_times = -1;
    high.page_of[shaky].error_times = 1;
    high_hold(&high, 0);
    int64_t id = mnw_prefetch(high.cache, 0, 2 * RUN * high.page, 7);
    expect(id > 0, "a prefetch of two runs begins");
    /* As part of the run, as the first page of what a short answer left, and alone. */
    high_wait_asked(&high, bad, 3);
    high_wait_asked(&high, 2 * RUN - 1, 3);
    expect_result("the first run is answered", high_release(&high, 0), 0);
    high_event(&high, MNW_EVENT_PREFETCH, -EIO, 7);
    expect(high_reads_of(&high, bad) == 3, "the bad page was asked for %d times", high_reads_of(&high, bad));
    high_expect_flags(&high, shaky, MNW_RESIDENT);
    high_expect_flags(&high, 2 * RUN - 1, MNW_RESIDENT);
    high_expect_flags(&high, bad, 0);
    high_close(&high);
}

/* Pages behind a bad one are read, each by itself, and a prefetch that is cancelled meanwhile ends. */
static void cancelled_one_by_one(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = RUN / 8});
    high.page_of[0].error = -EIO;
    high.page_of[0].error_times = -1;
    high_hold(&high, 0);
    high_hold(&high, 5);
    int64_t id = mnw_prefetch(high.cache, 0, RUN * high.page, 8);
    high_wait_asked(&high, 0, 1);
    expect_result("the run is answered", high_release(&high, 0), 0);
    high_wait_asked(&high, 5, 2);
    expect_result("cancel", mnw_prefetch_cancel(high.pool, id), 0);
    expect_result("page 5 is answered", high_release(&high, 5), 0);
    high_event(&high, MNW_EVENT_PREFETCH, -ECANCELED, 8);
    expect(high_reads_of(&high, 7) == 1, "nothing more was asked for");
    high_close(&high);
}

/* Whoever has the event of a prefetch may close its cache at once: nothing of it runs any more. */
static void close_at_the_event(enum mnw_backing kind) {
    enum { ROUNDS = 40 };
    struct high high;
    unsigned closed = 0;
    high_open(&high, kind, NULL);
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct mnw_cache *cache;
        struct mnw_event event;
        if (mnw_cache_open(&cache, high.pool, high.store, NULL) || mnw_prefetch(cache, 0, high.page, round) < 0)
            break;
        while (mnw_pool_next_event(high.pool, &event) != 1)
            ;
        closed += !mnw_cache_close(cache);
    }
    expect(closed == ROUNDS, "%u caches close at the event", closed);
    high_close(&high);
}

const struct scenario scenarios_jobs[] = {
    {"a-bad-page-counts-once", ON_SHMEM, bad_page_counts_once},
    {"cancelled-one-by-one", ON_SHMEM, cancelled_one_by_one},
    {"close-at-the-event", ON_ALL, close_at_the_event},
    {0},
};
