/* SPDX-License-Identifier: MIT */
#include "low.h"

#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int result, const char *what) {
    if (result >= 0)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, result_name(result), mnw__fail_message());
    exit(1);
}

uint64_t low_features(void) {
    return MNW__UFFD_MISSING_SHMEM | MNW__UFFD_MINOR_SHMEM | MNW__UFFD_MISSING_HUGETLBFS | MNW__UFFD_MINOR_HUGETLBFS |
           MNW__UFFD_THREAD_ID | (world_protects() ? MNW__UFFD_PAGEFAULT_WP | MNW__UFFD_WP_HUGETLBFS_SHMEM : 0) |
           (world_has_poison() ? MNW__UFFD_POISON : 0);
}

static void open_view(struct low *low, uint64_t features, unsigned modes, bool writable) {
    must(mnw__view_map(&low->backing, 0, low->pages * low->page, writable, &low->address), "mapping a view");
    low->uffd = mnw__uffd_open(features);
    must(low->uffd, "opening a userfaultfd");
    if (modes)
        must(mnw__uffd_register(low->uffd, low->address, low->pages * low->page, modes, NULL), "registering");
}

void low_open(struct low *low, enum mnw_backing kind, uint64_t features, unsigned modes, bool writable) {
    low->page = mnw__backing_page_bytes(kind);
    low->pages = kind == MNW_BACKING_GRADED ? mnw__backing_extent_bytes(kind) / low->page : LOW_PAGES;
    must(mnw__backing_create(&low->backing, kind, low->pages * low->page), "making a backing");
    open_view(low, features, modes, writable);
}

void low_open_view(struct low *low, const struct low *of, unsigned modes, bool writable) {
    *low = *of;
    open_view(low, low_features(), modes, writable);
}

void low_close_view(struct low *low) {
    must(mnw__view_unmap(low->address, low->pages * low->page), "unmapping a view");
    mnw__uffd_close(low->uffd);
}

void low_close(struct low *low) {
    low_close_view(low);
    mnw__backing_destroy(&low->backing);
}

unsigned char low_byte(size_t page) {
    return (unsigned char)(1 + page % 250);
}

uintptr_t low_at(const struct low *low, size_t page) {
    return low->address + page * low->page;
}

/* Memory comes and goes by extents on graded. */
static void whole(const struct low *low, size_t *first, size_t *count) {
    if (low->backing.kind == MNW_BACKING_GRADED) {
        *first = 0;
        *count = low->pages;
    }
}

void low_allocate(struct low *low, size_t first, size_t count) {
    whole(low, &first, &count);
    must(mnw__backing_allocate(&low->backing, first * low->page, count * low->page), "allocating");
}

void low_fill(struct low *low, size_t first, size_t count) {
    low_allocate(low, first, count);
    for (size_t page = first; page < first + count; page++)
        memset((char *)low->backing.alias + page * low->page, low_byte(page), low->page);
}

void low_punch(struct low *low, size_t first, size_t count) {
    whole(low, &first, &count);
    must(mnw__backing_punch(&low->backing, first * low->page, count * low->page), "punching");
}

/* ---- events ------------------------------------------------------------------------------------------------ */

struct pending {
    int uffd;
    uint64_t count;
};

static bool is_pending(void *context) {
    struct pending *wanted = context;
    uint64_t pending = 0, total = 0;
    must(mnw__uffd_waiting(wanted->uffd, &pending, &total), "asking who waits");
    return pending >= wanted->count;
}

void low_wait_pending(struct low *low, uint64_t count) {
    wait_until(is_pending, &(struct pending){low->uffd, count}, "threads to wait on the descriptor");
}

struct reading {
    int uffd, count;
    struct mnw__uffd_event event;
};

static bool has_read(void *context) {
    struct reading *reading = context;
    reading->count = mnw__uffd_read(reading->uffd, &reading->event, 1);
    must(reading->count, "reading events");
    return reading->count == 1;
}

int low_event(struct low *low) {
    struct reading reading = {.uffd = low->uffd};
    wait_until(has_read, &reading, "an event");
    const struct mnw__uffd_event *event = &reading.event;
    int page = (int)((event->address - low->address) / low->page);
    if (event->kind == MNW__UFFD_EV_FAULT) {
        say("event: fault on page %d%s%s%s%s", page, event->flags & MNW__UFFD_FAULT_MINOR ? " minor" : "",
            event->flags & MNW__UFFD_FAULT_WP ? " wp" : "", event->flags & MNW__UFFD_FAULT_WRITE ? " write" : "",
            event->address == low_at(low, (size_t)page) ? "" : ", inside the page");
        return page;
    }
    bool whole_view = event->length == low->pages * low->page;
    say("event: %s of %zu pages from page %d", event->kind == MNW__UFFD_EV_REMOVE ? "remove" : "unmap",
        whole_view ? LOW_PAGES : event->length / low->page, page);
    return -1;
}

/* ---- results ----------------------------------------------------------------------------------------------- */

void low_expect(const char *what, int result, int64_t done, int wanted, int64_t wanted_done, size_t page) {
    int64_t pages = done > 0 ? done / (int64_t)page : done;
    expect(result == wanted && pages == wanted_done && (done <= 0 || done % (int64_t)page == 0),
           "%s: %s, result field %s", what, result_name(result), pages ? result_name(pages) : "0");
}

void low_continue(struct low *low, size_t first, size_t count, unsigned flags, int wanted, int64_t wanted_done) {
    char what[64];
    int64_t done = 0;
    int result = mnw__uffd_continue(low->uffd, low_at(low, first), count * low->page, flags, &done);
    snprintf(what, sizeof(what), "CONTINUE of pages %zu to %zu", first, first + count - 1);
    low_expect(what, result, done, wanted, wanted_done, low->page);
}

/* All bytes of a page alike: that byte, or -1. */
static int one_byte(const unsigned char *bytes, size_t length) {
    return memcmp(bytes, bytes + 1, length - 1) ? -1 : bytes[0];
}

static void say_read(struct reader *reader, size_t page, size_t length, enum world_outcome wanted, int byte) {
    int found = reader->outcome == WORLD_OK ? one_byte(reader->bytes, length) : byte;
    bool exact = reader->outcome == WORLD_OK || reader->stopped == reader->address;
    expect(reader->outcome == wanted && found == byte && exact, "page %zu reads %s, byte %d%s", page,
           outcome_name(reader->outcome), found, exact ? "" : ", signalled elsewhere");
}

void low_read(struct low *low, size_t page, enum world_outcome wanted, int byte) {
    struct reader reader;
    reader_start(&reader, low_at(low, page), low->page);
    if (!reader_ends(&reader)) {
        expect(false, "page %zu: its reader sleeps, and nobody was to", page);
        mnw__uffd_close(low->uffd); /* it must end for the program to end */
    }
    reader_join(&reader);
    say_read(&reader, page, low->page, wanted, byte);
    reader_free(&reader);
}

void low_read_served(struct low *low, size_t page) {
    struct reader reader;
    int64_t done = 0;
    reader_start(&reader, low_at(low, page), low->page);
    low_wait_pending(low, 1);
    low_event(low);
    low_fill(low, page, 1);
    must(mnw__uffd_continue(low->uffd, low_at(low, page), low->page, 0, &done), "CONTINUE");
    reader_join(&reader);
    say_read(&reader, page, low->page, WORLD_OK, low_byte(page));
    reader_free(&reader);
}
