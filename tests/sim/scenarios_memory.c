/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on memory: punching, zapping, private copies, huge mappings, barred ranges.
 */
#include "low.h"

#include <errno.h>
#include <string.h>

static void write_page(struct low *low, size_t page, unsigned char value) {
    struct reader writer;
    writer_start(&writer, low_at(low, page), low->page, value);
    if (!reader_ends(&writer))
        expect(false, "the writer of page %zu sleeps", page);
    expect(reader_join(&writer) == WORLD_OK, "page %zu is written", page);
    reader_free(&writer);
}

static void punch_means_missing(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    low_continue(&low, 0, LOW_PAGES, 0, 0, LOW_PAGES);
    low_punch(&low, 2, 2);
    low_read_served(&low, 2);
    if (kind != MNW_BACKING_GRADED)
        low_read(&low, 1, WORLD_OK, low_byte(1));
    low_close(&low);
}

static void zap_keeps_the_page(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    low_continue(&low, 0, LOW_PAGES, 0, 0, LOW_PAGES);
    expect_result("zap", mnw__view_zap(low_at(&low, 1), 2 * low.page), 0);
    struct reader reader;
    reader_start(&reader, low_at(&low, 1), low.page);
    low_event(&low);
    low_continue(&low, 1, 2, 0, 0, 2);
    expect(reader_join(&reader) == WORLD_OK && reader.bytes[0] == low_byte(1), "its bytes were kept");
    reader_free(&reader);
    low_read(&low, 3, WORLD_OK, low_byte(3));
    low_close(&low);
}

static void read_only_views(enum mnw_backing kind) {
    struct low low;
    struct reader writer;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, 1);
    low_continue(&low, 0, 1, 0, 0, 1);
    writer_start(&writer, low.address, 1, 9);
    reader_join(&writer);
    expect(writer.outcome == WORLD_SIGSEGV, "a write is %s", outcome_name(writer.outcome));
    reader_free(&writer);
    low_close(&low);
}

static void alias_shows_until_copied(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, true);
    low_fill(&low, 0, LOW_PAGES);
    low_continue(&low, 0, 2, 0, 0, 2);
    memset(low.backing.alias, 0x33, 2 * low.page);
    low_read(&low, 0, WORLD_OK, 0x33);
    write_page(&low, 0, 0x44);
    memset(low.backing.alias, 0x55, 2 * low.page);
    low_read(&low, 0, WORLD_OK, 0x44);
    low_read(&low, 1, WORLD_OK, 0x55);
    low_close(&low);
}

static void first_touch_by_write(enum mnw_backing kind) {
    struct low low;
    struct reader writer;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, true);
    low_fill(&low, 0, LOW_PAGES);
    writer_start(&writer, low_at(&low, 2), low.page, 0x66);
    low_event(&low);
    low_continue(&low, 2, 1, 0, 0, 1);
    expect(reader_join(&writer) == WORLD_OK, "one event, one CONTINUE, then the copy");
    reader_free(&writer);
    low_read(&low, 2, WORLD_OK, 0x66);
    say("the file keeps its byte: %d", ((unsigned char *)low.backing.alias)[2 * low.page] == low_byte(2));
    low_continue(&low, 2, 1, 0, -EEXIST, -EEXIST);
    low_close(&low);
}

/* Trap 8. */
static void copies_and_punch(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, true);
    low_fill(&low, 0, LOW_PAGES);
    low_continue(&low, 0, 2, 0, 0, 2);
    write_page(&low, 0, 0x44);
    low_punch(&low, 0, 2);
    if (kind == MNW_BACKING_HUGETLB_2M)
        low_read_served(&low, 0); /* the copy was destroyed */
    else
        low_read(&low, 0, WORLD_OK, 0x44);
    low_read_served(&low, 1);
    low_close(&low);
}

static void zap_drops_copies(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, true);
    low_fill(&low, 0, LOW_PAGES);
    low_continue(&low, 0, 2, 0, 0, 2);
    write_page(&low, 0, 0x44);
    expect_result("zap", mnw__view_zap(low.address, low.page), 0);
    low_read_served(&low, 0);
    low_close(&low);
}

static void punched_twice(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    for (int round = 0; round < 3; round++) {
        low_read_served(&low, 4);
        low_punch(&low, 4, 1);
        low_punch(&low, 4, 1);
    }
    low_allocate(&low, 4, 1);
    low_allocate(&low, 4, 1);
    say("allocated anew it is zeros: %d", ((unsigned char *)low.backing.alias)[4 * low.page]);
    ((unsigned char *)low.backing.alias)[4 * low.page] = 5;
    low_allocate(&low, 4, 1);
    say("allocated again it stays: %d", ((unsigned char *)low.backing.alias)[4 * low.page]);
    low_close(&low);
}

/* ---- graded ------------------------------------------------------------------------------------------------ */

static void collapse(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, low.pages);
    low_continue(&low, 0, 3, 0, 0, 3);
    expect_result("collapse", mnw__view_collapse(low.address, low.pages * low.page), 0);
    low_continue(&low, 0, 1, 0, -EEXIST, -EEXIST);
    low_continue(&low, 5, 1, 0, -EEXIST, -EEXIST);
    low_read(&low, 6, WORLD_OK, low_byte(6));
    low_read(&low, 7, WORLD_OK, low_byte(7));
    say("zapping one page drops the whole mapping");
    expect_result("zap", mnw__view_zap(low_at(&low, 1), low.page), 0);
    low_read_served(&low, 5);
    expect_result("collapse again", mnw__view_collapse(low.address, low.pages * low.page), 0);
    low_read(&low, 1, WORLD_OK, low_byte(1));
    low_close(&low);
}

static void collapse_and_write(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, true);
    low_fill(&low, 0, low.pages);
    expect_result("collapse", mnw__view_collapse(low.address, low.pages * low.page), 0);
    /* The write drops the huge mapping, faults, and copies. */
    struct reader writer;
    writer_start(&writer, low_at(&low, 1), low.page, 0x22);
    low_event(&low);
    low_continue(&low, 1, 1, 0, 0, 1);
    expect(reader_join(&writer) == WORLD_OK, "page 1 is written");
    reader_free(&writer);
    low_read(&low, 1, WORLD_OK, 0x22);
    low_read_served(&low, 2);
    int result = mnw__view_collapse(low.address, low.pages * low.page);
    expect(result < 0, "collapse with a copied page is refused: %s", result_name(result));
    low_read(&low, 1, WORLD_OK, 0x22);
    low_close(&low);
}

static void collapse_refused(enum mnw_backing kind) {
    struct low low;
    int64_t done = 0;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR | MNW__UFFD_MODE_WP, true);
    low_fill(&low, 0, low.pages);
    int result = mnw__view_collapse(low.address, low.pages * low.page);
    expect(result == -EINVAL, "registered for WP: %s", result_name(result));
    mnw__uffd_unregister(low.uffd, low.address, low.pages * low.page);
    mnw__uffd_register(low.uffd, low.address, low.pages * low.page, LOW_MISSING_MINOR, NULL);
    result = mnw__uffd_poison(low.uffd, low_at(&low, 3), low.page, 0, &done);
    low_expect("POISON", result, done, 0, 1, low.page);
    result = mnw__view_collapse(low.address, low.pages * low.page);
    expect(result < 0, "with a poisoned page: %s", result_name(result));
    low_read(&low, 3, WORLD_SIGBUS, -1);
    low_close(&low);
}

static void collapse_and_punch(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, low.pages);
    expect_result("collapse", mnw__view_collapse(low.address, low.pages * low.page), 0);
    low_punch(&low, 0, 1);
    low_read_served(&low, 5);
    low_close(&low);
}

/* ---- kernels without poison -------------------------------------------------------------------------------- */

static void barred(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    low_continue(&low, 1, 1, 0, 0, 1);
    expect_result("bar", mnw__view_bar(low_at(&low, 3), low.page), 0);
    low_read(&low, 3, WORLD_SIGBUS, -1);
    low_read(&low, 1, WORLD_OK, low_byte(1));
    low_continue(&low, 3, 1, 0, -ENOENT, -ENOENT);
    low_continue(&low, 2, 2, 0, -ENOENT, -ENOENT);
    low_continue(&low, 2, 1, 0, 0, 1);
    expect_result("unbar", mnw__view_unbar(&low.backing, 3 * low.page, low_at(&low, 3), low.page, false), 0);
    expect_result("REGISTER", mnw__uffd_register(low.uffd, low_at(&low, 3), low.page, LOW_MISSING_MINOR, NULL), 0);
    low_read_served(&low, 3);
    low_continue(&low, 4, 4, 0, 0, 4);
    low_close(&low);
}

static void bar_wakes_nobody(enum mnw_backing kind) {
    struct low low;
    struct reader reader;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    reader_start(&reader, low_at(&low, 3), low.page);
    low_event(&low);
    expect_result("bar", mnw__view_bar(low_at(&low, 3), low.page), 0);
    expect(reader_sleeps(&reader), "the waiter sleeps on");
    expect_result("WAKE", mnw__uffd_wake(low.uffd, low_at(&low, 3), low.page), 0);
    expect(reader_join(&reader) == WORLD_SIGBUS && reader.stopped == low_at(&low, 3), "then it gets SIGBUS");
    reader_free(&reader);
    low_close(&low);
}

const struct scenario scenarios_memory[] = {
    {"punch-means-missing", ON_ALL, punch_means_missing},
    {"zap-keeps-the-page", ON_ALL, zap_keeps_the_page},
    {"read-only-views", ON_ALL, read_only_views},
    {"alias-shows-until-copied", ON_ALL, alias_shows_until_copied},
    {"first-touch-by-write", ON_ALL, first_touch_by_write},
    {"copies-and-punch", ON_ALL, copies_and_punch},
    {"zap-drops-copies", ON_ALL, zap_drops_copies},
    {"punched-twice", ON_ALL, punched_twice},
    {"collapse", ON_GRADED, collapse},
    {"collapse-and-write", ON_GRADED, collapse_and_write},
    {"collapse-refused", ON_GRADED | NEEDS_POISON, collapse_refused},
    {"collapse-and-punch", ON_GRADED, collapse_and_punch},
    {"barred", ON_ALL, barred},
    {"bar-wakes-nobody", ON_ALL, bar_wakes_nobody},
    {0},
};
