/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on the public API: memory. Budgets, pins, invalidation, views, closing.
 */
#include "engine/cache.h"
#include "high.h"
#include "sys/backing.h"

#include <errno.h>
#include <string.h>

static bool all_counted(void *context) {
    struct high *high = context;
    return high_stats(high).fills == high->pages;
}

static void read_everything(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    high_read_all(&high, high.view, 0);
    expect(high.reads == (int)high.pages, "each page was read from the store once");
    wait_until(all_counted, &high, "all fills to be counted");
    struct mnw_stats stats = high_stats(&high);
    expect(stats.fill_bytes == high.size_bytes && !stats.fills_failed, "and counted");
    expect(stats.resident_bytes == high.size_bytes, "all are resident");
    high_read_all(&high, high.view, 0);
    expect(high.reads == (int)high.pages, "a second look reads nothing");
    high_close(&high);
}

static void end_inside_a_page(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.cut_bytes = 100});
    expect(mnw_view_length(high.view) == high.pages * high.page, "the view covers the last page whole");
    high_read_all(&high, high.view, 0);
    high_close(&high);
}

static void evicting(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = 6, .budget_extents = 3});
    for (int round = 0; round < 3; round++)
        high_read_all(&high, high.view, 0);
    struct mnw_stats stats = high_stats(&high);
    expect(stats.resident_bytes_max <= stats.budget_bytes, "the budget was kept");
    expect(stats.evictions >= 3 && stats.evicted_bytes, "extents were evicted");
    high_close(&high);
}

static void two_caches(enum mnw_backing kind) {
    struct high high;
    struct mnw_cache *second;
    struct mnw_view *view;
    high_open(&high, kind, &(struct high_options){.extents = 3, .budget_extents = 3});
    expect_result("a second cache of the store", mnw_cache_open(&second, high.pool, high.store, NULL), 0);
    expect_result("and its view", mnw_view_open(&view, second, NULL), 0);
    for (int round = 0; round < 2; round++) {
        high_read_all(&high, high.view, 0);
        high_read_all(&high, view, 0);
    }
    struct mnw_stats stats = high_stats(&high);
    expect(stats.resident_bytes_max <= stats.budget_bytes, "both share one budget");
    expect_result("close", mnw_view_close(view), 0);
    expect_result("close", mnw_cache_close(second), 0);
    high_read_all(&high, high.view, 0);
    high_close(&high);
}

/* ---- pins -------------------------------------------------------------------------------------------------- */

static void pinned_stays(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = 6, .budget_extents = 4});
    expect_result("pin", mnw_pin(high.cache, 0, high.page), 0);
    high_expect_flags(&high, 0, MNW_RESIDENT | MNW_PINNED);
    expect(high_reads_of(&high, 0) == 1, "the pin has read it");
    for (int round = 0; round < 3; round++)
        high_read_all(&high, high.view, 0);
    expect(high_reads_of(&high, 0) == 1, "it was never read again");
    expect(high_stats(&high).pinned_bytes == high.extent, "one extent is pinned");
    expect_result("unpin", mnw_unpin(high.cache, 0, high.page), 0);
    expect_result("unpin again", mnw_unpin(high.cache, 0, high.page), -EINVAL);
    expect(!high_stats(&high).pinned_bytes, "nothing is pinned");
    high_close(&high);
}

static void pins_are_counted(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    expect_result("pin", mnw_pin(high.cache, 0, high.page), 0);
    expect_result("pin again", mnw_pin(high.cache, 0, high.page), 0);
    expect_result("unpin", mnw_unpin(high.cache, 0, high.page), 0);
    expect_result("invalidate", mnw_invalidate(high.cache, 0, high.page), -EBUSY);
    high_expect_flags(&high, 0, MNW_RESIDENT | MNW_PINNED);
    expect_result("view close", mnw_view_close(high.view), 0);
    high.view = NULL;
    expect_result("cache close", mnw_cache_close(high.cache), -EBUSY);
    expect_result("unpin", mnw_unpin(high.cache, 0, high.page), 0);
    high_close(&high);
}

static void pin_too_much(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = 6, .budget_extents = 3});
    expect_result("pin of all", mnw_pin(high.cache, 0, high.pages * high.page), -ENOSPC);
    high_expect_flags(&high, 0, 0);
    expect(!high_stats(&high).pinned_bytes, "nothing is pinned");
    high_read_all(&high, high.view, 0);
    high_close(&high);
}

static void pin_of_a_bad_page(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    high.page_of[1].error = -EIO;
    high.page_of[1].error_times = -1;
    size_t count = high.extent_pages > 1 ? high.extent_pages : 2;
    expect_result("pin", mnw_pin(high.cache, 0, count * high.page), -EIO);
    expect(!high_stats(&high).pinned_bytes, "nothing is pinned");
    high_read(&high, high.view, 0, WORLD_OK, 0);
    high.page_of[1].error = 0;
    expect_result("invalidate", mnw_invalidate(high.cache, 0, count * high.page), 0);
    expect_result("pin", mnw_pin(high.cache, 0, count * high.page), 0);
    expect_result("unpin", mnw_unpin(high.cache, 0, count * high.page), 0);
    high_close(&high);
}

static void bad_ranges(enum mnw_backing kind) {
    struct high high;
    uint8_t flags;
    high_open(&high, kind, NULL);
    uint64_t end = high.pages * high.page;
    expect_result("pin from inside a page", mnw_pin(high.cache, 1, high.page), -EINVAL);
    expect_result("pin of half a page", mnw_pin(high.cache, 0, high.page / 2), -EINVAL);
    expect_result("pin of nothing", mnw_pin(high.cache, 0, 0), -EINVAL);
    expect_result("pin past the end", mnw_pin(high.cache, end, high.page), -EINVAL);
    expect_result("invalidate past the end", mnw_invalidate(high.cache, 0, end + high.page), -EINVAL);
    expect_result("prefetch from inside a page", mnw_prefetch(high.cache, 7, high.page, 0), -EINVAL);
    expect_result("unpin of what is not pinned", mnw_unpin(high.cache, 0, high.page), -EINVAL);
    expect_result("residency past the end", mnw_residency(high.cache, end, &flags, 1), -EINVAL);
    expect_result("cancel of nothing", mnw_prefetch_cancel(high.pool, 12345), -ENOENT);
    high_close(&high);
}

/* ---- the budget -------------------------------------------------------------------------------------------- */

static void budget_moves(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = 6, .budget_extents = 8});
    high_read_all(&high, high.view, 0);
    expect_result("down", mnw_pool_set_budget(high.pool, 2 * high.extent), 0);
    struct mnw_stats stats = high_stats(&high);
    expect(stats.budget_bytes == 2 * high.extent && stats.resident_bytes <= stats.budget_bytes, "it holds at once");
    high_read_all(&high, high.view, 0);
    expect(high_stats(&high).resident_bytes <= 2 * high.extent, "and later");
    expect_result("up", mnw_pool_set_budget(high.pool, 8 * high.extent), 0);
    high_read_all(&high, high.view, 0);
    expect_result("below one extent for each thread", mnw_pool_set_budget(high.pool, high.extent - 1), -EINVAL);
    high_close(&high);
}

static void budget_and_pins(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = 6, .budget_extents = 6});
    expect_result("pin of 3 extents", mnw_pin(high.cache, 0, 3 * high.extent), 0);
    expect_result("down to 3", mnw_pool_set_budget(high.pool, 3 * high.extent), -EBUSY);
    expect(high_stats(&high).budget_bytes == 6 * high.extent, "the budget is what it was");
    expect_result("unpin", mnw_unpin(high.cache, 0, 3 * high.extent), 0);
    expect_result("down to 3", mnw_pool_set_budget(high.pool, 3 * high.extent), 0);
    high_close(&high);
}

/* ---- invalidation ------------------------------------------------------------------------------------------ */

static void invalidate_shows_new_bytes(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *second;
    high_open(&high, kind, NULL);
    high_open_view(&high, &second, 0, high.pages, 0);
    high_read_all(&high, high.view, 0);
    high_read(&high, second, 0, WORLD_OK, 0);
    high.version = 1;
    high_read(&high, high.view, 0, WORLD_OK, 0);
    expect_result("invalidate", mnw_invalidate(high.cache, 0, high.extent), 0);
    high_expect_flags(&high, 0, 0);
    high_read(&high, high.view, 0, WORLD_OK, 1);
    high_read(&high, second, 0, WORLD_OK, 1);
    high_read(&high, high.view, high.extent_pages, WORLD_OK, 0);
    expect_result("close", mnw_view_close(second), 0);
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

/* The read in flight brings the old bytes: no touch that begins after the invalidation may see them. */
static void invalidate_during_a_read(enum mnw_backing kind) {
    struct high high;
    struct reader reader;
    struct invalidation invalidation = {.high = &high};
    high_open(&high, kind, NULL);
    high_hold(&high, 0);
    reader_start(&reader, high_at(high.view, &high, 0), 64);
    high_wait_asked(&high, 0, 1);
    high_expect_flags(&high, 0, MNW_FILLING);
    mnw__mutex_lock(&high.lock);
    high.version = 1;
    mnw__mutex_unlock(&high.lock);
    mnw__thread_start(&invalidation.thread, "invalidator", -1, invalidate_first, &invalidation);
    expect(reader_sleeps(&reader), "the reader waits");
    expect_result("the late answer", high_release(&high, 0), 0);
    mnw__thread_join(&invalidation.thread);
    expect_result("invalidate", invalidation.result, 0);
    expect(reader_join(&reader) == WORLD_OK, "a touch that began before may see old bytes or new ones");
    reader_free(&reader);
    high_read(&high, high.view, 0, WORLD_OK, 1);
    high_close(&high);
}

/* ---- views ------------------------------------------------------------------------------------------------- */

static void close_with_waiters(enum mnw_backing kind) {
    struct high high;
    struct reader readers[2];
    high_open(&high, kind, NULL);
    high_hold(&high, 1);
    for (int i = 0; i < 2; i++)
        reader_start(&readers[i], high_at(high.view, &high, 1), 64);
    high_wait_faults(&high, 2);
    expect_result("close", mnw_view_close(high.view), 0);
    high.view = NULL;
    for (int i = 0; i < 2; i++)
        high_join(&high, &readers[i], 1, WORLD_SIGSEGV, 0);
    expect_result("the answer", high_release(&high, 1), 0);
    struct mnw_view *again;
    high_open_view(&high, &again, 0, high.pages, 0);
    high_read(&high, again, 1, WORLD_OK, 0);
    high.view = again;
    high_close(&high);
}

static void closing_in_use(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    high_read(&high, high.view, 0, WORLD_OK, 0);
    expect_result("the pool, with a cache", mnw_pool_close(high.pool), -EBUSY);
    expect_result("the cache, with a view", mnw_cache_close(high.cache), -EBUSY);
    expect_result("the store, with a cache", mnw_store_close(high.store), -EBUSY);
    high_read_all(&high, high.view, 0);
    high_close(&high);
}

static void view_of_a_range(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *view;
    high_open(&high, kind, NULL);
    struct mnw_view_options options = {.size = sizeof(options), .offset_bytes = 1};
    expect_result("from inside a page", mnw_view_open(&view, high.cache, &options), -EINVAL);
    options.offset_bytes = high.pages * high.page;
    expect_result("from the end", mnw_view_open(&view, high.cache, &options), -EINVAL);
    options.offset_bytes = high.page;
    options.length_bytes = high.pages * high.page;
    expect_result("past the end", mnw_view_open(&view, high.cache, &options), -EINVAL);
    options.length_bytes = high.page + 1;
    options.flags = 0x80;
    expect_result("flags that do not exist", mnw_view_open(&view, high.cache, &options), -EINVAL);
    options.flags = 0;
    expect_result("one page and a byte", mnw_view_open(&view, high.cache, &options), 0);
    expect(mnw_view_length(view) == 2 * high.page, "it has two pages");
    struct reader reader;
    reader_start(&reader, (uintptr_t)mnw_view_data(view), 64);
    high_join(&high, &reader, 1, WORLD_OK, 0);
    expect_result("close", mnw_view_close(view), 0);
    high_close(&high);
}

static void write_first(struct high *high, const struct mnw_view *view, size_t page, unsigned char value) {
    struct reader writer;
    writer_start(&writer, high_at(view, high, page), high->page, value);
    expect(reader_join(&writer) == WORLD_OK, "page %zu is written", page);
    reader_free(&writer);
}

static void read_value(struct high *high, const struct mnw_view *view, size_t page, unsigned char value) {
    struct reader reader;
    reader_start(&reader, high_at(view, high, page), high->page);
    reader_join(&reader);
    bool right = reader.outcome == WORLD_OK && reader.bytes[0] == value && reader.bytes[high->page - 1] == value;
    expect(right, "page %zu reads what was written", page);
    reader_free(&reader);
}

static void copies_are_kept(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *writable;
    high_open(&high, kind, &(struct high_options){.extents = 6, .budget_extents = 3});
    high_open_view(&high, &writable, 0, high.pages, MNW_VIEW_WRITE);
    write_first(&high, writable, 0, 0xff);
    high_read(&high, high.view, 0, WORLD_OK, 0);
    for (int round = 0; round < 2; round++)
        high_read_all(&high, high.view, 0);
    say("after evictions");
    read_value(&high, writable, 0, 0xff);
    high_read(&high, writable, 1, WORLD_OK, 0);
    high.version = 1;
    expect_result("invalidate", mnw_invalidate(high.cache, 0, high.pages * high.page), 0);
    read_value(&high, writable, 0, 0xff);
    high_read(&high, writable, 1, WORLD_OK, 1);
    high_read(&high, high.view, 0, WORLD_OK, 1);
    struct reader writer;
    writer_start(&writer, high_at(high.view, &high, 0), 1, 1);
    reader_join(&writer);
    expect(writer.outcome == WORLD_SIGSEGV, "the other view is read-only");
    reader_free(&writer);
    expect_result("close", mnw_view_close(writable), 0);
    high_close(&high);
}

static void no_copies_on_hugetlb(enum mnw_backing kind) {
    struct high high;
    struct mnw_view *view;
    high_open(&high, kind, NULL);
    struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_WRITE};
    expect_result("a writable view", mnw_view_open(&view, high.cache, &options), -EOPNOTSUPP);
    high_close(&high);
}

static void promoted(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    high_read_all(&high, high.view, 0);
    high_read_all(&high, high.view, 0);
    expect(high_stats(&high).pages_promoted >= 1, "a complete extent became one huge mapping");
    high_read(&high, high.view, 3, WORLD_OK, 0);
    high.version = 1;
    expect_result("invalidate", mnw_invalidate(high.cache, 0, high.pages * high.page), 0);
    high_read_all(&high, high.view, 1);
    high_close(&high);
}

/* Somebody punches the backing: the page word says PRESENT, the file has a hole. */
static void lost_page(enum mnw_backing kind) {
    struct high high;
    high_open(&high, kind, NULL);
    high_read_all(&high, high.view, 0);
    expect_result("punch", mnw__backing_punch(&high.cache->backing, high_offset(&high, 1), high.page), 0);
    high_read(&high, high.view, 1, WORLD_OK, 0);
    expect(high_reads_of(&high, 1) == 2, "it was read again");
    high_expect_count(&high, offsetof(struct mnw_stats, pages_lost), 1, "lost pages");
    high_close(&high);
}

/* Neighbours are evicted by one call, but not what is pinned between them. */
static void neighbours_go_together(enum mnw_backing kind) {
    enum { EXTENTS = 24, PINNED = 9 };
    struct high high;
    high_open(&high, kind, &(struct high_options){.extents = EXTENTS});
    expect(mnw_prefetch(high.cache, 0, high.size_bytes, 1) > 0, "prefetch");
    high_event(&high, MNW_EVENT_PREFETCH, 0, 1);
    uint64_t pinned = high_offset(&high, PINNED * high.extent_pages);
    expect_result("pin", mnw_pin(high.cache, pinned, high.extent), 0);
    expect_result("down", mnw_pool_set_budget(high.pool, 4 * high.extent), 0);
    expect(high_stats(&high).evictions >= EXTENTS - 4, "the others go");
    for (size_t i = 0; i < high.extent_pages; i++) /* stays */
        high_expect_flags(&high, PINNED * high.extent_pages + i, MNW_RESIDENT | MNW_PINNED);
    high_read_all(&high, high.view, 0);
    for (size_t i = 0; i < high.extent_pages; i++)
        expect(high_reads_of(&high, PINNED * high.extent_pages + i) <= 1, "and is not read again");
    expect_result("unpin", mnw_unpin(high.cache, pinned, high.extent), 0);
    high_close(&high);
}

enum { TIMED_READERS = 4 };

static void add_histogram(struct mnw_histogram *to, const struct mnw_histogram *from) {
    to->count += from->count;
    to->sum_ns += from->sum_ns;
}

/* On whatever nodes the fault threads are. */
static bool all_timed(void *context) {
    struct high *high = context;
    struct mnw_stats stats = high_stats(high);
    struct mnw_node_latency all = {0}, latency;
    uint64_t faults = stats.faults_minor + stats.faults_missing;
    for (int node = 0; node < MNW_NODES_MAX; node++) {
        if (mnw_pool_latency(high->pool, node, &latency, sizeof(latency)))
            continue;
        add_histogram(&all.queue, &latency.queue);
        add_histogram(&all.fill, &latency.fill);
        add_histogram(&all.map, &latency.map);
        add_histogram(&all.total, &latency.total);
    }
    return all.queue.count == faults && all.map.count == faults && all.total.count == faults &&
           all.fill.count == stats.fills && all.total.sum_ns == all.queue.sum_ns + all.fill.sum_ns + all.map.sum_ns;
}

/* Whoever resolves them, and whether they come alone or several at once: no fault is missing, nor counted twice. */
static void each_fault_is_timed(enum mnw_backing kind) {
    struct high high;
    struct reader readers[TIMED_READERS];
    struct mnw_view *view;
    high_open(&high, kind, NULL);
    high_read_all(&high, high.view, 0);
    wait_until(all_timed, &high, "each fault that was filled to be timed");
    high_open_view(&high, &view, 0, high.pages, 0);
    for (size_t i = 0; i < TIMED_READERS; i++)
        reader_start(&readers[i], high_at(view, &high, i * high.pages / TIMED_READERS),
                     high.size_bytes / TIMED_READERS);
    for (size_t i = 0; i < TIMED_READERS; i++) {
        expect(reader_join(&readers[i]) == WORLD_OK, "a reader of resident pages goes on");
        reader_free(&readers[i]);
    }
    wait_until(all_timed, &high, "each resident fault to be timed");
    expect_result("close", mnw_view_close(view), 0);
    high_close(&high);
}

const struct scenario scenarios_cache[] = {
    {"each-fault-is-timed", ON_SHMEM, each_fault_is_timed},
    {"read-everything", ON_ALL, read_everything},
    {"end-inside-a-page", ON_ALL, end_inside_a_page},
    {"evicting", ON_ALL, evicting},
    {"two-caches", ON_ALL, two_caches},
    {"pinned-stays", ON_ALL, pinned_stays},
    {"neighbours-go-together", ON_SHMEM, neighbours_go_together},
    {"pins-are-counted", ON_ALL, pins_are_counted},
    {"pin-too-much", ON_ALL, pin_too_much},
    {"pin-of-a-bad-page", ON_ALL, pin_of_a_bad_page},
    {"bad-ranges", ON_ALL, bad_ranges},
    {"budget-moves", ON_ALL, budget_moves},
    {"budget-and-pins", ON_ALL, budget_and_pins},
    {"invalidate-shows-new-bytes", ON_ALL, invalidate_shows_new_bytes},
    {"invalidate-during-a-read", ON_ALL, invalidate_during_a_read},
    {"close-with-waiters", ON_ALL, close_with_waiters},
    {"closing-in-use", ON_ALL, closing_in_use},
    {"view-of-a-range", ON_ALL, view_of_a_range},
    {"copies-are-kept", ON_BASE, copies_are_kept},
    {"no-copies-on-hugetlb", ON_HUGETLB, no_copies_on_hugetlb},
    {"promoted", ON_GRADED, promoted},
    {"lost-page", ON_SHMEM | ON_HUGETLB, lost_page},
    {0},
};
