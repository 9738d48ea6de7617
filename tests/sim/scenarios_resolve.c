/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on the range operations: CONTINUE, POISON, COPY, ZEROPAGE, WRITEPROTECT, and whom they wake.
 */
#include "low.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void continue_whole(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    low_continue(&low, 0, LOW_PAGES, 0, 0, LOW_PAGES);
    low_continue(&low, 0, LOW_PAGES, 0, -EEXIST, -EEXIST);
    low_continue(&low, 7, 1, 0, -EEXIST, -EEXIST);
    for (size_t page = 0; page < LOW_PAGES; page += 3)
        low_read(&low, page, WORLD_OK, low_byte(page));
    low_close(&low);
}

static void continue_holes(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 1, 3);
    low_fill(&low, 5, 1);
    low_continue(&low, 0, 1, 0, -EFAULT, -EFAULT);
    low_continue(&low, 0, 4, 0, -EFAULT, -EFAULT);
    low_continue(&low, 1, 6, 0, -EAGAIN, 3);
    low_continue(&low, 4, 3, 0, -EFAULT, -EFAULT);
    low_continue(&low, 5, 3, 0, -EAGAIN, 1);
    low_close(&low);
}

/* It never skips: an obstacle in the middle hides what is behind it. */
static void continue_mapped(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    low_continue(&low, 1, 1, 0, 0, 1);
    low_continue(&low, 1, 3, 0, -EEXIST, -EEXIST);
    low_continue(&low, 0, 3, 0, -EAGAIN, 1);
    low_continue(&low, 2, 1, 0, 0, 1);
    low_continue(&low, 2, 3, 0, -EEXIST, -EEXIST);
    low_continue(&low, 3, 5, 0, 0, 5);
    low_close(&low);
}

static void continue_bounds(enum mnw_backing kind) {
    struct low low;
    int64_t done = 0;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    int result = mnw__uffd_continue(low.uffd, low.address + 1, low.page, 0, &done);
    low_expect("from inside a page", result, done, -EINVAL, 0, low.page);
    result = mnw__uffd_continue(low.uffd, low.address, 0, 0, &done);
    low_expect("length 0", result, done, -EINVAL, 0, low.page);
    result = mnw__uffd_continue(low.uffd, low.address, 100, 0, &done);
    low_expect("length 100", result, done, -EINVAL, 0, low.page);
    result = mnw__uffd_continue(low.uffd, low_at(&low, low.pages - 1), 2 * low.page, 0, &done);
    low_expect("past the end of the view", result, done, -ENOENT, -ENOENT, low.page);
    if (world_has_poison()) /* an older kernel does not know the mode at all */
        low_continue(&low, 0, 1, MNW__UFFD_KEEP_WP, -EINVAL, -EINVAL);
    mnw__uffd_unregister(low.uffd, low_at(&low, 4), 2 * low.page);
    low_continue(&low, 4, 1, 0, -ENOENT, -ENOENT);
    low_continue(&low, 3, 2, 0, -ENOENT, -ENOENT);
    low_continue(&low, 3, 1, 0, 0, 1);
    low_continue(&low, 6, 2, 0, 0, 2);
    low_close(&low);
}

/* ---- waking ------------------------------------------------------------------------------------------------ */

static void eexist_wakes_nobody(enum mnw_backing kind) {
    struct low low;
    struct reader reader;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    reader_start(&reader, low_at(&low, 2), low.page);
    low_event(&low);
    low_continue(&low, 2, 1, MNW__UFFD_DONTWAKE, 0, 1);
    expect(reader_sleeps(&reader), "DONTWAKE: the waiter sleeps on");
    low_continue(&low, 2, 1, 0, -EEXIST, -EEXIST);
    expect(reader_sleeps(&reader), "EEXIST: the waiter sleeps on");
    expect_result("WAKE", mnw__uffd_wake(low.uffd, low_at(&low, 2), low.page), 0);
    expect(reader_join(&reader) == WORLD_OK && reader.bytes[0] == low_byte(2), "the waiter reads the page");
    reader_free(&reader);
    low_close(&low);
}

static void partial_wakes_the_mapped(enum mnw_backing kind) {
    struct low low;
    struct reader first, second;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, 2);
    reader_start(&first, low_at(&low, 1), low.page);
    low_event(&low);
    reader_start(&second, low_at(&low, 2), low.page);
    low_event(&low);
    low_continue(&low, 0, 4, 0, -EAGAIN, 2);
    expect(reader_join(&first) == WORLD_OK, "the waiter on a mapped page goes on");
    expect(reader_sleeps(&second), "the waiter on the hole sleeps on");
    low_continue(&low, 2, 2, 0, -EFAULT, -EFAULT);
    expect(reader_sleeps(&second), "EFAULT wakes nobody");
    low_fill(&low, 2, 1);
    low_continue(&low, 2, 1, 0, 0, 1);
    expect(reader_join(&second) == WORLD_OK && second.bytes[0] == low_byte(2), "filled and mapped, it goes on");
    reader_free(&first);
    reader_free(&second);
    low_close(&low);
}

static void two_wait_for_one_page(enum mnw_backing kind) {
    struct low low;
    struct reader readers[2];
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    for (int i = 0; i < 2; i++) {
        reader_start(&readers[i], low_at(&low, 3) + (size_t)i, low.page - 8);
        low_event(&low);
    }
    low_fill(&low, 3, 1);
    low_continue(&low, 3, 1, 0, 0, 1);
    for (int i = 0; i < 2; i++) {
        expect(reader_join(&readers[i]) == WORLD_OK && readers[i].bytes[0] == low_byte(3), "reader %d goes on", i);
        reader_free(&readers[i]);
    }
    low_close(&low);
}

/* ---- POISON ------------------------------------------------------------------------------------------------ */

static void poison(struct low *low, size_t page, size_t count, int wanted, int64_t wanted_done) {
    int64_t done = 0;
    int result = mnw__uffd_poison(low->uffd, low_at(low, page), count * low->page, 0, &done);
    low_expect("POISON", result, done, wanted, wanted_done, low->page);
}

static void poison_table(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    say("a hole, twice");
    poison(&low, 7, 1, 0, 1);
    poison(&low, 7, 1, -EEXIST, -EEXIST);
    low_fill(&low, 0, 4);
    say("a page in the cache, a mapped one");
    poison(&low, 0, 1, 0, 1);
    low_continue(&low, 1, 1, 0, 0, 1);
    poison(&low, 1, 1, -EEXIST, -EEXIST);
    say("a range that ends at a mapped page");
    low_continue(&low, 3, 1, 0, 0, 1);
    poison(&low, 2, 2, -EAGAIN, 1);
    say("the alias reads on: %d", *((unsigned char *)low.backing.alias) == low_byte(0));
    low_read(&low, 0, WORLD_SIGBUS, -1);
    low_read(&low, 1, WORLD_OK, low_byte(1));
    low_read(&low, 7, WORLD_SIGBUS, -1);
    low_close(&low);
}

static void poison_even_pages(enum mnw_backing kind) {
    struct low low;
    unsigned signals = 0;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    for (size_t page = 0; page < LOW_PAGES; page++) {
        if (page % 2)
            low_continue(&low, page, 1, 0, 0, 1);
        else
            poison(&low, page, 1, 0, 1);
    }
    struct reader reader;
    for (size_t page = 0; page < LOW_PAGES; page++) {
        reader_start(&reader, low_at(&low, page) + 77, 8);
        reader_join(&reader);
        signals += reader.outcome == WORLD_SIGBUS && reader.stopped == low_at(&low, page) + 77;
        reader_free(&reader);
    }
    expect(signals == LOW_PAGES / 2, "%u SIGBUS, each at its exact address", signals);
    reader_start(&reader, low_at(&low, 1), 3 * low.page);
    reader_join(&reader);
    expect(reader.outcome == WORLD_SIGBUS && reader.stopped == low_at(&low, 2), "a read across: SIGBUS on page %zu",
           (size_t)(reader.stopped - low.address) / low.page);
    reader_free(&reader);
    low_close(&low);
}

static void poison_wakes(enum mnw_backing kind) {
    struct low low;
    struct reader reader;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    reader_start(&reader, low_at(&low, 6), low.page);
    low_event(&low);
    poison(&low, 6, 1, 0, 1);
    expect(reader_join(&reader) == WORLD_SIGBUS && reader.stopped == low_at(&low, 6), "the waiter gets SIGBUS");
    reader_free(&reader);
    low_close(&low);
}

static void poison_is_cleared(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    poison(&low, 0, 4, 0, 4);
    say("by CONTINUE");
    low_continue(&low, 0, 1, 0, 0, 1);
    low_read(&low, 0, WORLD_OK, low_byte(0));
    say("by MADV_DONTNEED");
    expect_result("zap", mnw__view_zap(low_at(&low, 1), low.page), 0);
    low_read_served(&low, 1);
    say("not by UNREGISTER");
    mnw__uffd_unregister(low.uffd, low.address, low.pages * low.page);
    low_read(&low, 2, WORLD_SIGBUS, -1);
    low_close(&low);
}

static void poison_and_punch(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    poison(&low, 3, 1, 0, 1);
    low_punch(&low, 3, 1);
    if (kind == MNW_BACKING_HUGETLB_2M)
        low_read_served(&low, 3); /* gone with the page */
    else
        low_read(&low, 3, WORLD_SIGBUS, -1);
    low_close(&low);
}

/* ---- COPY and ZEROPAGE ------------------------------------------------------------------------------------- */

static void copy_is_private(enum mnw_backing kind) {
    struct low low, second;
    int64_t done = 0;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_open_view(&second, &low, LOW_MISSING_MINOR, false);
    unsigned char *source = malloc(2 * low.page);
    memset(source, 0x77, 2 * low.page);
    int result = mnw__uffd_copy(low.uffd, low_at(&low, 1), source, 2 * low.page, 0, &done);
    low_expect("COPY", result, done, 0, 2, low.page);
    result = mnw__uffd_copy(low.uffd, low_at(&low, 2), source, low.page, 0, &done);
    low_expect("COPY again", result, done, -EEXIST, -EEXIST, low.page);
    result = mnw__uffd_copy(low.uffd, low_at(&low, 0), source, 2 * low.page, 0, &done);
    low_expect("COPY up to it", result, done, -EAGAIN, 1, low.page);
    low_read(&low, 1, WORLD_OK, 0x77);
    low_continue(&low, 1, 1, 0, kind == MNW_BACKING_GRADED ? -EFAULT : -EFAULT, -EFAULT);
    say("the file has no such page");
    low_read_served(&second, 1);
    free(source);
    low_close_view(&second);
    low_close(&low);
}

static void zeropage(enum mnw_backing kind) {
    struct low low;
    int64_t done = 0;
    bool huge = kind == MNW_BACKING_HUGETLB_2M;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    int result = mnw__uffd_zeropage(low.uffd, low_at(&low, 1), low.page, 0, &done);
    low_expect("ZEROPAGE", result, done, huge ? -EINVAL : 0, huge ? -EINVAL : 1, low.page);
    result = mnw__uffd_zeropage(low.uffd, low_at(&low, 1), low.page, 0, &done);
    low_expect("ZEROPAGE again", result, done, huge ? -EINVAL : -EEXIST, huge ? -EINVAL : -EEXIST, low.page);
    if (!huge)
        low_read(&low, 1, WORLD_OK, 0);
    low_close(&low);
}

/* ---- WRITEPROTECT ------------------------------------------------------------------------------------------ */

static const unsigned all_modes = LOW_MISSING_MINOR | MNW__UFFD_MODE_WP;

static void wp_faults(enum mnw_backing kind) {
    struct low low;
    struct reader writer;
    low_open(&low, kind, low_features(), all_modes, true);
    low_fill(&low, 0, LOW_PAGES);
    low_continue(&low, 0, 2, MNW__UFFD_KEEP_WP, 0, 2);
    low_read(&low, 0, WORLD_OK, low_byte(0));
    writer_start(&writer, low_at(&low, 0), low.page, 0x99);
    low_event(&low);
    low_continue(&low, 0, 1, 0, -EEXIST, -EEXIST);
    expect(reader_sleeps(&writer), "the writer sleeps");
    expect_result("unprotect", mnw__uffd_writeprotect(low.uffd, low.address, low.page, false, 0), 0);
    expect(reader_join(&writer) == WORLD_OK, "the writer goes on");
    low_read(&low, 0, WORLD_OK, 0x99);
    say("the file keeps its byte: %d", *((unsigned char *)low.backing.alias) == low_byte(0));
    reader_free(&writer);
    low_close(&low);
}

static void wp_errors(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, true);
    expect_result("without WP registration", mnw__uffd_writeprotect(low.uffd, low.address, low.page, true, 0), -ENOENT);
    mnw__uffd_unregister(low.uffd, low.address, low.pages * low.page);
    mnw__uffd_register(low.uffd, low.address, low.pages * low.page, all_modes, NULL);
    expect_result("length 0", mnw__uffd_writeprotect(low.uffd, low.address, 0, true, 0), -EINVAL);
    expect_result("protect and DONTWAKE",
                  mnw__uffd_writeprotect(low.uffd, low.address, low.page, true, MNW__UFFD_DONTWAKE), -EINVAL);
    expect_result("holes", mnw__uffd_writeprotect(low.uffd, low.address, 4 * low.page, true, 0), 0);
    int64_t done = 0;
    int result = mnw__uffd_poison(low.uffd, low_at(&low, 1), low.page, 0, &done);
    low_expect("POISON over the marker", result, done, -EEXIST, -EEXIST, low.page);
    low_close(&low);
}

/* Trap 10: CONTINUE without MODE_WP over a marker drops the protection; with it, the write is seen. */
static void wp_marker(enum mnw_backing kind) {
    struct low low;
    struct reader writer;
    low_open(&low, kind, low_features(), all_modes, true);
    low_fill(&low, 0, LOW_PAGES);
    expect_result("protect", mnw__uffd_writeprotect(low.uffd, low.address, 4 * low.page, true, 0), 0);
    low_continue(&low, 0, 1, 0, 0, 1);
    writer_start(&writer, low_at(&low, 0), low.page, 0x99);
    expect(reader_ends(&writer), "mapped without MODE_WP: the write passes");
    reader_join(&writer);
    reader_free(&writer);
    low_continue(&low, 1, 1, MNW__UFFD_KEEP_WP, 0, 1);
    writer_start(&writer, low_at(&low, 1), low.page, 0x99);
    low_event(&low);
    mnw__uffd_writeprotect(low.uffd, low_at(&low, 1), low.page, false, 0);
    reader_join(&writer);
    reader_free(&writer);
    say("a write to a marked page that is not mapped: first the page, then the protection");
    writer_start(&writer, low_at(&low, 2), low.page, 0x99);
    low_event(&low);
    low_continue(&low, 2, 1, MNW__UFFD_KEEP_WP, 0, 1);
    low_event(&low);
    mnw__uffd_writeprotect(low.uffd, low_at(&low, 2), low.page, false, 0);
    expect(reader_join(&writer) == WORLD_OK, "then it passes");
    reader_free(&writer);
    low_close(&low);
}

const struct scenario scenarios_resolve[] = {
    {"continue-whole", ON_ALL, continue_whole},
    {"continue-holes", ON_SHMEM | ON_HUGETLB, continue_holes},
    {"continue-mapped", ON_ALL, continue_mapped},
    {"continue-bounds", ON_ALL, continue_bounds},
    {"eexist-wakes-nobody", ON_ALL, eexist_wakes_nobody},
    {"partial-wakes-the-mapped", ON_SHMEM | ON_HUGETLB, partial_wakes_the_mapped},
    {"two-wait-for-one-page", ON_ALL, two_wait_for_one_page},
    {"poison-table", ON_ALL | NEEDS_POISON, poison_table},
    {"poison-even-pages", ON_ALL | NEEDS_POISON, poison_even_pages},
    {"poison-wakes", ON_ALL | NEEDS_POISON, poison_wakes},
    {"poison-is-cleared", ON_ALL | NEEDS_POISON, poison_is_cleared},
    {"poison-and-punch", ON_ALL | NEEDS_POISON, poison_and_punch},
    {"copy-is-private", ON_ALL, copy_is_private},
    {"zeropage", ON_ALL, zeropage},
    {"wp-faults", ON_ALL | NEEDS_POISON, wp_faults},
    {"wp-errors", ON_ALL | NEEDS_POISON, wp_errors},
    {"wp-marker", ON_ALL | NEEDS_POISON, wp_marker},
    {0},
};
