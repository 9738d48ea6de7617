/* SPDX-License-Identifier: MIT */
/*
 * Errors of the store reach the faulter alone: what passes is tried again, what stays is SIGBUS for exactly
 * the page it concerns, every other page is right, and invalidating heals. On every backing, and as on a
 * kernel without UFFDIO_POISON.
 */
#include "bed.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE ((size_t)2 << 20)

static const struct kind {
    const char *name;
    enum mnw_backing backing;
    bool no_poison;
    uint64_t pages, budget_pages;
} kinds[] = {
    {"shmem", MNW_BACKING_SHMEM, false, 160, 512},    {"shmem without poison", MNW_BACKING_SHMEM, true, 160, 512},
    {"graded", MNW_BACKING_GRADED, false, 600, 2048}, {"graded without poison", MNW_BACKING_GRADED, true, 600, 2048},
    {"hugetlb", MNW_BACKING_HUGETLB_2M, false, 6, 8}, {"hugetlb without poison", MNW_BACKING_HUGETLB_2M, true, 6, 8},
};

/* Tries again, and soon. */
static const struct mnw_cache_options hasty = {.size = sizeof(hasty), .read_retries = 2, .retry_delay_ms = 1};

static void prepare(const struct kind *kind) {
    bed_hurry(30);
    if (kind->backing == MNW_BACKING_HUGETLB_2M && !machine_free_hugepages(HUGE, kind->budget_pages)) {
        print_message("cannot free %llu huge pages\n", (unsigned long long)kind->budget_pages);
        skip();
    }
    if (kind->backing == MNW_BACKING_GRADED && !machine_set(SHMEM_ENABLED, "advise")) {
        print_message("cannot set shmem_enabled\n");
        skip();
    }
}

static void open_with(const struct kind *kind, struct bed_source *source, struct bed *bed,
                      const struct mnw_cache_options *cache_options) {
    uint64_t page_bytes = kind->backing == MNW_BACKING_HUGETLB_2M ? HUGE : BED_PAGE;
    prepare(kind);
    bed_source_open(source, kind->pages * page_bytes - 1000);
    source->page_bytes = page_bytes;
    *bed = (struct bed){.no_poison = kind->no_poison};
    struct mnw_pool_options options = {.backing = kind->backing, .budget_bytes = kind->budget_pages * page_bytes};
    bed_open(bed, source->store, options, cache_options);
}

static void open_kind(const struct kind *kind, struct bed_source *source, struct bed *bed) {
    open_with(kind, source, bed, &hasty);
}

static void close_kind(struct bed_source *source, struct bed *bed) {
    bed_close(bed);
    bed_source_close(source);
}

static void assert_pages(struct mnw_view *view, const struct bed_source *source, uint64_t bad) {
    uint64_t pages = mnw_view_length(view) / source->page_bytes;
    for (uint64_t page = 0; page < pages; page++) {
        size_t at = page * source->page_bytes, left = source->size_bytes - at;
        size_t length = left < source->page_bytes ? left : source->page_bytes;
        if (page == bad)
            bed_assert_bus(view, page);
        else if (bed_compare((char *)mnw_view_data(view) + at, at, length, source->salt, NULL) != BED_RIGHT)
            fail_msg("page %llu is not right while page %lld is bad", (unsigned long long)page, (long long)bad);
    }
}

static int64_t fail_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? -EIO : (int64_t)read->length;
}

/* ---- errors that pass ---- */

static _Atomic unsigned tries[2000];

/* The first two reads that begin at a page fail; there are two retries. */
static int64_t fail_at_first(struct bed_source *source, const struct mnw_read *read) {
    return atomic_fetch_add(&tries[read->offset / source->page_bytes], 1) < 2 ? -EIO : (int64_t)read->length;
}

static void test_passing_error(void **state) {
    struct bed_source source;
    struct bed bed;
    struct mnw_event event;
    open_kind(*state, &source, &bed);
    memset(tries, 0, sizeof(tries));
    source.answer = fail_at_first;
    assert_pages(bed.view, &source, UINT64_MAX);
    struct mnw_stats stats = bed_stats(bed.pool);
    assert_true(stats.read_retries > 0);
    assert_int_equal(stats.faults_failed, 0);
    assert_false(bed_event(bed.pool, &event, 0));
    close_kind(&source, &bed);
}

/* ---- errors that stay ---- */

static void assert_failed_event(struct bed *bed, uint64_t page, int error) {
    struct mnw_event event;
    assert_true(bed_event(bed->pool, &event, 5000));
    assert_int_equal(event.kind, MNW_EVENT_PAGE_FAILED);
    assert_int_equal(event.result, error);
    assert_int_equal(event.offset, page * bed->page_bytes);
    assert_int_equal(event.length, bed->page_bytes);
    assert_ptr_equal(event.cache, bed->cache);
    assert_false(bed_event(bed->pool, &event, 0));
}

static void assert_efault(struct bed *bed, uint64_t page) {
    int pipes[2];
    assert_int_equal(pipe2(pipes, O_NONBLOCK | O_CLOEXEC), 0);
    assert_int_equal(write(pipes[1], bed->data + page * bed->page_bytes, 16), -1);
    assert_int_equal(errno, EFAULT);
    close(pipes[0]);
    close(pipes[1]);
}

static uint8_t residency(struct bed *bed, uint64_t page) {
    uint8_t flags = 0;
    assert_int_equal(mnw_residency(bed->cache, page * bed->page_bytes, &flags, 1), 0);
    return flags;
}

/* In the middle of what one readahead run brings, and of an extent. */
static void test_lasting_error(void **state) {
    const struct kind *kind = *state;
    struct bed_source source;
    struct bed bed;
    uint64_t bad = kind->pages / 2 + 1;
    open_kind(kind, &source, &bed);
    source.answer = fail_bad_page;
    for (int round = 0; round < 3; round++) { /* it fails and is healed, more than once */
        atomic_store(&source.bad_page, bad);
        assert_pages(bed.view, &source, bad);
        assert_failed_event(&bed, bad, -EIO);
        assert_int_equal(residency(&bed, bad), MNW_FAILED);
        assert_efault(&bed, bad);
        assert_pages(bed.view, &source, bad); /* and it stays so */

        /* Invalidating while the store is still ill changes nothing for the faulter. */
        mnw_invalidate(bed.cache, bad * bed.page_bytes, bed.page_bytes);
        assert_pages(bed.view, &source, bad);
        struct mnw_event event;
        while (bed_event(bed.pool, &event, 0))
            assert_int_equal(event.offset, bad * bed.page_bytes);

        atomic_store(&source.bad_page, UINT64_MAX);
        bed_assert_bus(bed.view, bad); /* not by itself */
        assert_int_equal(mnw_invalidate(bed.cache, bad * bed.page_bytes, bed.page_bytes), 0);
        assert_pages(bed.view, &source, UINT64_MAX);
        assert_false(residency(&bed, bad) & MNW_FAILED);
        assert_int_equal(mnw_invalidate(bed.cache, 0, mnw_view_length(bed.view)), 0);
        atomic_fetch_add(&source.salt, 1);
    }
    close_kind(&source, &bed);
}

/* The page is touched first, alone: nothing of its extent is resident yet. */
static void test_cold_page(void **state) {
    const struct kind *kind = *state;
    struct bed_source source;
    struct bed bed;
    open_kind(kind, &source, &bed);
    source.answer = fail_bad_page;
    for (uint64_t bad = 0; bad < kind->pages - 1; bad += kind->pages / 3) {
        atomic_store(&source.bad_page, bad);
        bed_assert_bus(bed.view, bad);
        assert_failed_event(&bed, bad, -EIO);
        assert_pages(bed.view, &source, bad);
        atomic_store(&source.bad_page, UINT64_MAX);
        assert_int_equal(mnw_invalidate(bed.cache, bad * bed.page_bytes, bed.page_bytes), 0);
        bed_assert_page(bed.view, bad, source.salt);
        assert_int_equal(mnw_invalidate(bed.cache, 0, mnw_view_length(bed.view)), 0);
    }
    close_kind(&source, &bed);
}

static void test_two_views(void **state) {
    const struct kind *kind = *state;
    struct bed_source source;
    struct bed bed;
    struct mnw_view *other, *part;
    uint64_t bad = 2;
    open_kind(kind, &source, &bed);
    struct mnw_view_options options = {
        .size = sizeof(options), .offset_bytes = bed.page_bytes, .length_bytes = 3 * bed.page_bytes};
    assert_int_equal(mnw_view_open(&other, bed.cache, NULL), 0);
    assert_int_equal(mnw_view_open(&part, bed.cache, &options), 0);
    source.answer = fail_bad_page;
    for (int round = 0; round < 2; round++) {
        atomic_store(&source.bad_page, bad);
        assert_pages(bed.view, &source, bad);
        assert_pages(other, &source, bad);
        bed_assert_bus(part, bad - 1); /* its page 1 is the cache's 2 */
        atomic_store(&source.bad_page, UINT64_MAX);
        assert_int_equal(mnw_invalidate(bed.cache, bad * bed.page_bytes, bed.page_bytes), 0);
        const char *at = (const char *)mnw_view_data(part) + bed.page_bytes;
        assert_int_equal(bed_compare(at, bad * bed.page_bytes, bed.page_bytes, source.salt, NULL), BED_RIGHT);
        assert_pages(other, &source, UINT64_MAX);
        assert_pages(bed.view, &source, UINT64_MAX);
        assert_int_equal(mnw_invalidate(bed.cache, 0, mnw_view_length(bed.view)), 0);
    }
    /* A view that opens afterwards starts well. */
    atomic_store(&source.bad_page, bad);
    bed_assert_bus(bed.view, bad);
    struct mnw_view *late;
    assert_int_equal(mnw_view_open(&late, bed.cache, NULL), 0);
    assert_pages(late, &source, bad);
    assert_int_equal(mnw_view_close(late), 0);
    assert_int_equal(mnw_view_close(part), 0);
    assert_int_equal(mnw_view_close(other), 0);
    close_kind(&source, &bed);
}

/* ---- bytes that are not the store's ---- */

static int64_t flip_bad_page(struct bed_source *source, const struct mnw_read *read) {
    uint64_t offset = atomic_load(&source->bad_page) * source->page_bytes + 77;
    if (offset >= read->offset && offset < read->offset + read->length && atomic_fetch_sub(&source->count, 1) > 0)
        ((char *)read->buffer)[offset - read->offset] ^= 1;
    return (int64_t)read->length;
}

static int compare_all(struct bed_source *source, uint64_t offset, const void *bytes, size_t length) {
    char expected[512];
    for (size_t at = 0; at < length; at += sizeof(expected)) {
        size_t some = length - at < sizeof(expected) ? length - at : sizeof(expected);
        bed_bytes(expected, offset + at, some, atomic_load(&source->salt));
        if (memcmp(expected, (const char *)bytes + at, some))
            return -EILSEQ;
    }
    return 0;
}

static void test_checksum(void **state) {
    const struct kind *kind = *state;
    struct bed_source source;
    struct bed bed;
    uint64_t bad = kind->pages / 3;
    open_kind(kind, &source, &bed);
    source.answer = flip_bad_page;
    source.check = compare_all;
    atomic_store(&source.bad_page, bad);
    atomic_store(&source.count, 2); /* wrong twice, then right */
    assert_pages(bed.view, &source, UINT64_MAX);
    assert_true(atomic_load(&source.count) <= 0);
    assert_true(bed_stats(bed.pool).faults_failed == 0);
    assert_int_equal(mnw_invalidate(bed.cache, 0, mnw_view_length(bed.view)), 0);

    atomic_store(&source.count, INT32_MAX); /* wrong for good */
    assert_pages(bed.view, &source, bad);
    assert_failed_event(&bed, bad, -EILSEQ);
    atomic_store(&source.bad_page, UINT64_MAX);
    assert_int_equal(mnw_invalidate(bed.cache, bad * bed.page_bytes, bed.page_bytes), 0);
    assert_pages(bed.view, &source, UINT64_MAX);
    close_kind(&source, &bed);
}

/* ---- many ---- */

static int64_t fail_odd(struct bed_source *source, const struct mnw_read *read) {
    uint64_t first = read->offset / source->page_bytes, last = (read->offset + read->length - 1) / source->page_bytes;
    bool any_odd = first % 2 || last > first;
    return any_odd && atomic_load(&source->bad_page) != UINT64_MAX ? -EIO : (int64_t)read->length;
}

/* The last one is counted when its reader has had its signal already. */
static bool are_counted(void *argument) {
    const struct bed *at = argument;
    return bed_stats(at->pool).faults_failed >= 1000;
}

static void thousand(bool no_poison) {
    struct kind kind = {"", MNW_BACKING_SHMEM, no_poison, 2000, 4000};
    struct bed_source source;
    struct bed bed;
    const struct mnw_cache_options at_once = {.size = sizeof(at_once), .read_retries = UINT32_MAX};
    open_with(&kind, &source, &bed, &at_once);
    source.answer = fail_odd;
    atomic_store(&source.bad_page, 0);
    for (int round = 0; round < 2; round++)
        for (uint64_t page = 0; page < kind.pages - 1; page++)
            page % 2 ? bed_assert_bus(bed.view, page) : bed_assert_page(bed.view, page, source.salt);
    bed_assert_bus(bed.view, kind.pages - 1);
    struct mnw_event event;
    unsigned events = 0;
    for (; bed_event(bed.pool, &event, 0); events++)
        assert_int_equal(event.offset / BED_PAGE % 2, 1);
    struct mnw_stats stats = bed_stats(bed.pool);
    assert_int_equal(events + stats.events_dropped, kind.pages / 2);
    assert_true(events >= 256);
    assert_true(bed_eventually(are_counted, &bed));
    atomic_store(&source.bad_page, UINT64_MAX);
    assert_int_equal(mnw_invalidate(bed.cache, 0, mnw_view_length(bed.view)), 0);
    assert_pages(bed.view, &source, UINT64_MAX);
    close_kind(&source, &bed);
}

static void test_thousand(void **state) {
    (void)state;
    thousand(false);
}

static void test_thousand_without_poison(void **state) {
    (void)state;
    thousand(true);
}

/* ---- pins and prefetches of a bad page ---- */

static void test_pin_and_prefetch(void **state) {
    const struct kind *kind = *state;
    struct bed_source source;
    struct bed bed;
    struct mnw_event event;
    open_kind(kind, &source, &bed);
    source.answer = fail_bad_page;
    atomic_store(&source.bad_page, 1);
    bed_refused(mnw_pin(bed.cache, 0, 3 * bed.page_bytes), -EIO, "pin", "could not be read");
    assert_int_equal(bed_stats(bed.pool).pinned_bytes, 0);
    assert_true(mnw_prefetch(bed.cache, 0, 3 * bed.page_bytes, 42) > 0);
    do
        assert_true(bed_event(bed.pool, &event, 5000));
    while (event.kind != MNW_EVENT_PREFETCH);
    assert_int_equal(event.result, -EIO);
    assert_int_equal(event.cookie, 42);
    assert_true(event.pages_failed >= 1);
    assert_pages(bed.view, &source, 1);
    close_kind(&source, &bed);
}

#define EACH(test)                                                                                                     \
    {#test ", shmem", test, NULL, NULL, (void *)(uintptr_t)&kinds[0]},                                                 \
        {#test ", shmem without poison", test, NULL, NULL, (void *)(uintptr_t)&kinds[1]},                              \
        {#test ", graded", test, NULL, NULL, (void *)(uintptr_t)&kinds[2]},                                            \
        {#test ", graded without poison", test, NULL, NULL, (void *)(uintptr_t)&kinds[3]},                             \
        {#test ", hugetlb", test, NULL, NULL, (void *)(uintptr_t)&kinds[4]}, {                                         \
#test ", hugetlb without poison", test, NULL, NULL, (void *)(uintptr_t)&kinds[5]                               \
    }

int main(int argc, char **argv) {
    int status = machine_guard(argv);
    (void)argc;
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        EACH(test_passing_error),
        EACH(test_lasting_error),
        EACH(test_cold_page),
        EACH(test_two_views),
        EACH(test_checksum),
        EACH(test_pin_and_prefetch),
        cmocka_unit_test(test_thousand),
        cmocka_unit_test(test_thousand_without_poison),
    };
    return cmocka_run_group_tests_name("errors", tests, NULL, NULL);
}
