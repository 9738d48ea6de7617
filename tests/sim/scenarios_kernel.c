/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on descriptors: the handshake, registration, who waits, who is woken, what events say.
 */
#include "low.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void handshake(enum mnw_backing kind) {
    (void)kind;
    uint64_t features = 0, ioctls = 0;
    int64_t done = 0;
    int fd = mnw__uffd_open_raw(MNW__UFFD_DOOR_SYSCALL);
    expect(fd >= 0, "userfaultfd opens");
    expect_result("REGISTER before the handshake", mnw__uffd_register(fd, 4096, 4096, MNW__UFFD_MODE_MISSING, NULL),
                  -EINVAL);
    expect_result("CONTINUE before the handshake", mnw__uffd_continue(fd, 4096, 4096, 0, &done), -EINVAL);
    expect_result("a version that does not exist", mnw__uffd_api(fd, 0xAB, 0, &features, &ioctls), -EINVAL);
    expect_result("features that do not exist", mnw__uffd_api(fd, 0xAA, (uint64_t)1 << 60, &features, &ioctls),
                  -EINVAL);
    expect_result("the handshake", mnw__uffd_api(fd, 0xAA, 0, &features, &ioctls), 0);
    expect((features & low_features()) == low_features(), "it offers all that we use");
    expect_result("a second handshake", mnw__uffd_api(fd, 0xAA, 0, &features, &ioctls), -EINVAL);
    mnw__uffd_close(fd);
}

static void register_ioctls(enum mnw_backing kind) {
    static const unsigned modes[] = {1, 2, 4, 5, 7};
    struct low low;
    low_open(&low, kind, low_features(), 0, false);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        uint64_t ioctls = 0;
        expect_result("REGISTER", mnw__uffd_register(low.uffd, low.address, low.pages * low.page, modes[i], &ioctls),
                      0);
        say("modes %u: ioctls %#llx", modes[i], (unsigned long long)ioctls);
        expect_result("UNREGISTER", mnw__uffd_unregister(low.uffd, low.address, low.pages * low.page), 0);
    }
    low_close(&low);
}

static void register_errors(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    size_t length = low.pages * low.page;
    int other = mnw__uffd_open(low_features());
    expect_result("no modes", mnw__uffd_register(low.uffd, low.address, length, 0, NULL), -EINVAL);
    expect_result("modes that do not exist", mnw__uffd_register(low.uffd, low.address, length, 16, NULL), -EINVAL);
    expect_result("length 0", mnw__uffd_register(low.uffd, low.address, 0, LOW_MISSING_MINOR, NULL), -EINVAL);
    expect_result("half a page", mnw__uffd_register(low.uffd, low.address, low.page / 2 + 1, 1, NULL), -EINVAL);
    expect_result("from inside a page", mnw__uffd_register(low.uffd, low.address + 1, low.page, 1, NULL), -EINVAL);
    expect_result("by another descriptor", mnw__uffd_register(other, low.address, length, LOW_MISSING_MINOR, NULL),
                  -EBUSY);
    expect_result("a subset of the modes", mnw__uffd_register(low.uffd, low.address, length, 1, NULL), 0);
    low_fill(&low, 0, 1);
    say("the subset changed nothing: the page is still minor");
    low_read_served(&low, 0);
    expect_result("UNREGISTER", mnw__uffd_unregister(low.uffd, low.address, length), 0);
    expect_result("UNREGISTER again", mnw__uffd_unregister(low.uffd, low.address, length), 0);
    mnw__uffd_close(other);
    low_close(&low);
}

static void small_page_of_huge(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, 1);
    int64_t done = 0;
    int result = mnw__uffd_continue(low.uffd, low.address, 4096, 0, &done);
    expect(result == -EINVAL && done == -EINVAL, "CONTINUE of 4 KiB: %s, result field %s", result_name(result),
           result_name(done));
    expect_result("REGISTER of 4 KiB", mnw__uffd_register(low.uffd, low.address, 4096, 1, NULL), -EINVAL);
    low_close(&low);
}

/* ---- events and waiters ------------------------------------------------------------------------------------ */

static void minor_for_prefilled(enum mnw_backing kind) {
    struct low low;
    struct reader reader;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    reader_start(&reader, low.address, LOW_PAGES * low.page);
    for (int page = 0; page < LOW_PAGES; page++) {
        expect(low_event(&low) == page, "the next page faults");
        low_continue(&low, (size_t)page, 1, 0, 0, 1);
    }
    expect(reader_join(&reader) == WORLD_OK, "all are read");
    for (int page = 0; page < LOW_PAGES; page++)
        if (reader.bytes[(size_t)page * low.page] != low_byte((size_t)page))
            expect(false, "page %d is wrong", page);
    reader_free(&reader);
    uint64_t pending = 1, total = 1;
    mnw__uffd_waiting(low.uffd, &pending, &total);
    expect(!pending && !total, "nobody waits");
    low_close(&low);
}

static void missing_for_holes(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_read_served(&low, 3);
    low_read(&low, 3, WORLD_OK, low_byte(3));
    low_close(&low);
}

static void minor_for_unwritten(enum mnw_backing kind) {
    struct low low;
    struct reader reader;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_allocate(&low, 0, 2);
    reader_start(&reader, low_at(&low, 1), low.page);
    low_event(&low);
    low_continue(&low, 1, 1, 0, 0, 1);
    reader_join(&reader);
    say("allocated, never written: it reads %d", reader.bytes[0]);
    reader_free(&reader);
    low_close(&low);
}

static void two_views(enum mnw_backing kind) {
    struct low low, second;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_open_view(&second, &low, LOW_MISSING_MINOR, false);
    low_read_served(&low, 2);
    say("what one view brought in is minor in the other");
    low_read_served(&second, 2);
    int64_t done = 0;
    int result = mnw__uffd_poison(second.uffd, low_at(&second, 1), low.page, 0, &done);
    low_expect("POISON in one view", result, done, 0, 1, low.page);
    low_read(&second, 1, WORLD_SIGBUS, -1);
    low_read_served(&low, 1);
    low_close_view(&second);
    low_close(&low);
}

static void oldest_first(enum mnw_backing kind) {
    struct low low;
    struct reader readers[3];
    static const size_t pages[] = {5, 1, 3};
    struct mnw__uffd_event events[8];
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    for (size_t i = 0; i < 3; i++) {
        reader_start(&readers[i], low_at(&low, pages[i]), low.page);
        low_wait_pending(&low, i + 1);
    }
    int count = mnw__uffd_read(low.uffd, events, 8);
    expect(count == 3, "one read gives %d events", count);
    for (int i = 0; i < count; i++)
        expect(events[i].address == low_at(&low, pages[i]) && events[i].thread_id, "event %d is of page %zu", i,
               (size_t)(events[i].address - low.address) / low.page);
    expect_result("a further read", mnw__uffd_read(low.uffd, events, 8), 0);
    low_continue(&low, 1, 5, 0, 0, 5);
    for (int i = 0; i < 3; i++) {
        expect(reader_join(&readers[i]) == WORLD_OK, "one CONTINUE lets reader %d go", i);
        reader_free(&readers[i]);
    }
    low_close(&low);
}

static void wake_alone(enum mnw_backing kind) {
    struct low low;
    struct reader reader;
    uint64_t pending, total;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    reader_start(&reader, low_at(&low, 4), low.page);
    low_event(&low);
    mnw__uffd_waiting(low.uffd, &pending, &total);
    expect(pending == 0 && total == 1, "read, not resolved: %d pending, %d in all", (int)pending, (int)total);
    expect_result("WAKE of another page", mnw__uffd_wake(low.uffd, low_at(&low, 5), low.page), 0);
    expect(reader_sleeps(&reader), "it sleeps on");
    expect_result("WAKE of all", mnw__uffd_wake(low.uffd, low.address, low.pages * low.page), 0);
    low_wait_pending(&low, 1);
    say("woken without a page it faults again");
    low_event(&low);
    expect_result("WAKE of length 0", mnw__uffd_wake(low.uffd, low.address, 0), -EINVAL);
    expect_result("WAKE from inside a page", mnw__uffd_wake(low.uffd, low.address + 1, low.page), -EINVAL);
    low_continue(&low, 4, 1, 0, 0, 1);
    reader_join(&reader);
    reader_free(&reader);
    low_close(&low);
}

static void unmap_wakes_nobody(enum mnw_backing kind) {
    struct low low;
    struct reader reader;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    reader_start(&reader, low_at(&low, 2), 1);
    low_event(&low);
    expect_result("munmap", mnw__view_unmap(low.address, low.pages * low.page), 0);
    expect(reader_sleeps(&reader), "the waiter sleeps on");
    int64_t done = 0;
    int result = mnw__uffd_continue(low.uffd, low_at(&low, 2), low.page, 0, &done);
    low_expect("CONTINUE of what is gone", result, done, -ENOENT, -ENOENT, low.page);
    expect_result("WAKE of what is gone", mnw__uffd_wake(low.uffd, low.address, low.pages * low.page), 0);
    reader_join(&reader);
    expect(reader.outcome == WORLD_SIGSEGV, "the waiter gets %s", outcome_name(reader.outcome));
    reader_free(&reader);
    mnw__uffd_close(low.uffd);
    mnw__backing_destroy(&low.backing);
}

/* A waiter, then UNREGISTER: does it go on by itself? */
static void unregister(struct low *low, bool has_missing) {
    struct reader reader;
    reader_start(&reader, low_at(low, 1), low->page);
    low_event(low);
    expect_result("UNREGISTER", mnw__uffd_unregister(low->uffd, low->address, low->pages * low->page), 0);
    if (has_missing) {
        expect(reader_ends(&reader), "the waiter goes on");
    } else {
        expect(reader_sleeps(&reader), "the waiter sleeps on");
        expect_result("WAKE", mnw__uffd_wake(low->uffd, low->address, low->pages * low->page), 0);
    }
    reader_join(&reader);
    expect(reader.bytes[0] == low_byte(1), "it reads the page, which the kernel served");
    reader_free(&reader);
}

static void unregister_missing_wakes(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    low_fill(&low, 0, 2);
    unregister(&low, true);
    low_close(&low);
}

static void unregister_minor_wakes_nobody(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), MNW__UFFD_MODE_MINOR, false);
    low_fill(&low, 0, 2);
    unregister(&low, false);
    low_close(&low);
}

static void close_gives_zeros(enum mnw_backing kind) {
    struct low low;
    struct reader reader;
    low_open(&low, kind, low_features(), LOW_MISSING_MINOR, false);
    reader_start(&reader, low_at(&low, 1), low.page);
    low_event(&low);
    mnw__uffd_close(low.uffd);
    reader_join(&reader);
    expect(reader.outcome == WORLD_OK && !reader.bytes[0], "close with a waiter on a hole: it reads zeros");
    reader_free(&reader);
    low.uffd = mnw__uffd_open(low_features());
    mnw__uffd_register(low.uffd, low.address, low.pages * low.page, LOW_MISSING_MINOR, NULL);
    low_read(&low, 1, WORLD_OK, 0);
    low_close(&low);
}

static void minor_only_hole(enum mnw_backing kind) {
    struct low low, second;
    low_open(&low, kind, low_features(), MNW__UFFD_MODE_MINOR, false);
    low_open_view(&second, &low, LOW_MISSING_MINOR, false);
    low_read(&low, 1, WORLD_OK, 0);
    say("a hole without MISSING reads as zeros; on shmem they have entered the page cache:");
    low_read_served(&second, 1);
    low_close_view(&second);
    low_close(&low);
}

static void missing_only_present(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features(), MNW__UFFD_MODE_MISSING, false);
    low_fill(&low, 0, 2);
    low_read(&low, 1, WORLD_OK, low_byte(1));
    low_close(&low);
}

static void sigbus_feature(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features() | MNW__UFFD_SIGBUS, LOW_MISSING_MINOR, false);
    struct mnw__uffd_event event;
    low_read(&low, 2, WORLD_SIGBUS, -1);
    low_fill(&low, 2, 1);
    low_read(&low, 2, WORLD_SIGBUS, -1);
    expect_result("events", mnw__uffd_read(low.uffd, &event, 1), 0);
    low_continue(&low, 2, 1, 0, 0, 1);
    low_read(&low, 2, WORLD_OK, low_byte(2));
    low_close(&low);
}

struct zapper {
    struct mnw__thread thread;
    struct low *low;
    size_t first, count;
    bool unmaps;
    _Atomic bool ended;
};

static void zap(void *argument) {
    struct zapper *zapper = argument;
    struct low *low = zapper->low;
    if (zapper->unmaps)
        mnw__view_unmap(low->address, low->pages * low->page);
    else
        mnw__view_zap(low_at(low, zapper->first), zapper->count * low->page);
    atomic_store(&zapper->ended, true);
}

/* The address space changes, and nobody has read of it: every filling operation is refused. */
static void mmap_changing(enum mnw_backing kind) {
    struct low low;
    static unsigned char source[4096];
    low_open(&low, kind, low_features() | MNW__UFFD_EVENT_REMOVE, LOW_MISSING_MINOR, false);
    low_fill(&low, 0, LOW_PAGES);
    low_continue(&low, 0, 4, 0, 0, 4);
    struct zapper zapper = {.low = &low, .first = 0, .count = 2};
    mnw__thread_start(&zapper.thread, "zapper", -1, zap, &zapper);
    int64_t done = 0;
    int result = 0;
    for (int tries = 0; tries < 2000 && result != -EAGAIN; tries++) {
        result = mnw__uffd_continue(low.uffd, low_at(&low, 5), low.page, 0, &done);
        mnw__sleep_ns(1000000);
    }
    low_expect("CONTINUE", result, done, -EAGAIN, -EAGAIN, low.page);
    result = mnw__uffd_poison(low.uffd, low_at(&low, 6), low.page, 0, &done);
    low_expect("POISON", result, done, -EAGAIN, -EAGAIN, low.page);
    result = mnw__uffd_copy(low.uffd, low_at(&low, 6), source, low.page, 0, &done);
    low_expect("COPY", result, done, -EAGAIN, -EAGAIN, low.page);
    result = mnw__uffd_zeropage(low.uffd, low_at(&low, 6), low.page, 0, &done);
    low_expect("ZEROPAGE", result, done, -EAGAIN, -EAGAIN, low.page);
    expect_result("WRITEPROTECT", mnw__uffd_writeprotect(low.uffd, low.address, low.page, true, 0), -EAGAIN);
    expect(!atomic_load(&zapper.ended), "madvise waits for the event to be read");
    low_event(&low);
    mnw__thread_join(&zapper.thread);
    low_continue(&low, 6, 1, 0, 0, 1);
    low_read_served(&low, 0);
    low_close(&low);
}

static void unmap_event(enum mnw_backing kind) {
    struct low low;
    low_open(&low, kind, low_features() | MNW__UFFD_EVENT_UNMAP, LOW_MISSING_MINOR, false);
    struct zapper zapper = {.low = &low, .unmaps = true};
    mnw__thread_start(&zapper.thread, "unmapper", -1, zap, &zapper);
    low_event(&low);
    mnw__thread_join(&zapper.thread);
    mnw__uffd_close(low.uffd);
    mnw__backing_destroy(&low.backing);
}

const struct scenario scenarios_kernel[] = {
    {"handshake", ON_SHMEM, handshake},
    {"register-ioctls", ON_ALL, register_ioctls},
    {"register-errors", ON_ALL, register_errors},
    {"small-page-of-huge", ON_HUGETLB, small_page_of_huge},
    {"minor-for-prefilled", ON_ALL, minor_for_prefilled},
    {"missing-for-holes", ON_ALL, missing_for_holes},
    {"minor-for-unwritten", ON_ALL, minor_for_unwritten},
    {"two-views", ON_ALL | NEEDS_POISON, two_views},
    {"oldest-first", ON_ALL, oldest_first},
    {"wake-alone", ON_ALL, wake_alone},
    {"unmap-wakes-nobody", ON_ALL, unmap_wakes_nobody},
    {"unregister-missing-wakes", ON_ALL, unregister_missing_wakes},
    {"unregister-minor-wakes-nobody", ON_ALL, unregister_minor_wakes_nobody},
    {"close-gives-zeros", ON_ALL, close_gives_zeros},
    {"minor-only-hole", ON_SHMEM | ON_HUGETLB, minor_only_hole},
    {"missing-only-present", ON_ALL, missing_only_present},
    {"sigbus-feature", ON_ALL, sigbus_feature},
    {"mmap-changing", ON_ALL | NEEDS_POISON, mmap_changing},
    {"unmap-event", ON_ALL, unmap_event},
    {0},
};
