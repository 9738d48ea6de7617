/* SPDX-License-Identifier: MIT */
/*
 * The operations on ranges: CONTINUE, COPY, ZEROPAGE, POISON, WRITEPROTECT and WAKE. For each, what it does,
 * and every refusal with its errno and what the kernel leaves in the result field.
 */
#include "uffd_area.h"

#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MISSING  MNW__UFFD_MODE_MISSING
#define MINOR    MNW__UFFD_MODE_MINOR
#define WP       MNW__UFFD_MODE_WP
#define DONTWAKE MNW__UFFD_DONTWAKE

/* What the descriptors of the tests ask for: of poison and write protection of files, what this kernel has. */
static uint64_t wanted = MNW__UFFD_POISON | MNW__UFFD_PAGEFAULT_WP | MNW__UFFD_WP_HUGETLBFS_SHMEM;

/* UFFDIO_CONTINUE_MODE_WP, which no feature tells. */
static bool has_continue_wp(void) {
    struct utsname name;
    int major = 0, minor = 0;
    return !uname(&name) && sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 4));
}

static void need(uint64_t feature, const char *what) {
    if (!(wanted & feature)) {
        print_message("this kernel has no %s\n", what);
        skip();
    }
}

/* One signature for all, so that refusals common to all are tested once. */
typedef int operation(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done);

static char source[4 << 20] __attribute__((aligned(2 << 20)));

static int copy(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    return mnw__uffd_copy(fd, start, source, length, flags, done);
}

static int protect(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    *done = 0; /* this one has no result field */
    return mnw__uffd_writeprotect(fd, start, length, true, flags);
}

#define assert_answer(call, expected, expected_done)                                                                   \
    do {                                                                                                               \
        int64_t done = 12345;                                                                                          \
        assert_int_equal((call), (expected));                                                                          \
        assert_int_equal(done, (expected_done));                                                                       \
    } while (0)

/* ---- refusals that all operations share ---- */

static void refuse_bad_ranges(const struct area *area, operation *run, bool has_result) {
    uintptr_t at = area_at(area, 0);
    size_t page = area->page;
    int64_t enoent = has_result ? -ENOENT : 0;
    assert_answer(run(area->uffd, at + 1, page, 0, &done), -EINVAL, 0);
    assert_answer(run(area->uffd, at, page + 1, 0, &done), -EINVAL, 0);
    assert_answer(run(area->uffd, at, 0, 0, &done), -EINVAL, 0);
    /* Leaves the mapping; and no mapping at all. */
    assert_answer(run(area->uffd, at + area->length, page, 0, &done), -ENOENT, enoent);
    assert_answer(run(area->uffd, at, area->length + page, 0, &done), -ENOENT, enoent);
    if (area->kind == AREA_HUGETLB && run != protect) {
        assert_answer(run(area->uffd, at + 4096, page, 0, &done), -EINVAL, -EINVAL);
        assert_answer(run(area->uffd, at, 4096, 0, &done), -EINVAL, -EINVAL);
    }
    assert_int_equal(mnw__uffd_unregister(area->uffd, at, area->length), 0);
    assert_answer(run(area->uffd, at, page, 0, &done), -ENOENT, enoent);
}

static void refuse_the_dead(operation *run) {
    uintptr_t start;
    int uffd = uffd_of_the_dead(&start, 16384);
    assert_answer(run(uffd, start, 4096, 0, &done), -ESRCH, 0);
    mnw__uffd_close(uffd);
}

struct remover {
    pthread_t thread;
    char *at;
    size_t length;
};

static void *remove_range(void *argument) {
    struct remover *remover = argument;
    madvise(remover->at, remover->length, MADV_DONTNEED);
    return NULL;
}

/* A page-table change whose event nobody has read yet: everything that fills answers EAGAIN. */
static void refuse_while_changing(enum area_kind kind, operation *run, bool has_result) {
    struct area area;
    area_open(&area, kind, wanted | MNW__UFFD_EVENT_REMOVE, kind == AREA_ANON ? MISSING | WP : MISSING | MINOR | WP);
    struct remover remover = {.at = area.view, .length = area.page};
    if (run == mnw__uffd_continue) {
        area_fill(&area, 1, 'a');
    }
    assert_int_equal(pthread_create(&remover.thread, NULL, remove_range, &remover), 0);
    int result = 0;
    int64_t done = 0;
    /* Until the other thread is in it, the call succeeds, and then finds its own page. */
    for (int i = 0; i < 5000 && result != -EAGAIN; i++) {
        result = run(area.uffd, area_at(&area, 1), area.page, 0, &done);
        usleep(1000);
    }
    assert_int_equal(result, -EAGAIN);
    /* Older kernels leave the field alone. */
    assert_true(!done || (has_result && done == -EAGAIN));
    assert_int_equal(event_next(area.uffd).kind, MNW__UFFD_EV_REMOVE);
    pthread_join(remover.thread, NULL);
    result = run(area.uffd, area_at(&area, 2), area.page, 0, &done);
    assert_int_not_equal(result, -EAGAIN);
    area_close(&area);
}

/* ---- CONTINUE ---- */

static void test_continue(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, wanted, MISSING | MINOR);
    area_fill(&area, 0, 'a');
    touch_start(&toucher, area_at(&area, 0) + 5, false);
    struct mnw__uffd_event event = event_next(area.uffd);
    assert_int_equal(event.kind, MNW__UFFD_EV_FAULT);
    assert_int_equal(event.flags, MNW__UFFD_FAULT_MINOR);
    assert_int_equal(event.address, area_at(&area, 0));
    assert_answer(mnw__uffd_continue(area.uffd, area_at(&area, 0), area.page, 0, &done), 0, (int64_t)area.page);
    touch_join(&toucher);
    assert_int_equal(toucher.seen, 'a');
    /* A missing page, filled through the alias, is continued too. The event says that the touch was a write. */
    touch_start(&toucher, area_at(&area, 1), true);
    event = event_next(area.uffd);
    assert_int_equal(event.flags, MNW__UFFD_FAULT_WRITE);
    area_fill(&area, 1, 'b');
    assert_answer(mnw__uffd_continue(area.uffd, area_at(&area, 1), area.page, 0, &done), 0, (int64_t)area.page);
    touch_join(&toucher);
    assert_int_equal(area.alias[area.page], 'w');
    /* A range at once. */
    area_fill(&area, 2, 'c');
    area_fill(&area, 3, 'd');
    assert_answer(mnw__uffd_continue(area.uffd, area_at(&area, 2), 2 * area.page, 0, &done), 0, 2 * (int64_t)area.page);
    assert_int_equal(area.view[2 * area.page], 'c');
    event_none(area.uffd);
    area_close(&area);
}

static void test_continue_refusals(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    area_open(&area, *kind, wanted, MISSING | MINOR);
    int64_t page = (int64_t)area.page;
    int beyond = *kind == AREA_HUGETLB ? -EFAULT : -EINVAL;
    area_fill(&area, 0, 'a');
    area_fill(&area, 2, 'c');
    uintptr_t at = area_at(&area, 0);
    assert_answer(mnw__uffd_continue(area.uffd, at, area.page, 1 << 5, &done), -EINVAL, 0);
    int64_t known = has_continue_wp() ? -EINVAL : 0;
    assert_answer(mnw__uffd_continue(area.uffd, at, area.page, MNW__UFFD_KEEP_WP, &done), -EINVAL, known);
    assert_answer(mnw__uffd_continue(area.uffd, area_at(&area, 1), area.page, 0, &done), -EFAULT, -EFAULT);
    assert_answer(mnw__uffd_continue(area.uffd, area_at(&area, 4), area.page, 0, &done), beyond, beyond);
    /* Stops before the hole, then before what is mapped already; skips neither. */
    assert_answer(mnw__uffd_continue(area.uffd, at, 3 * area.page, 0, &done), -EAGAIN, page);
    assert_answer(mnw__uffd_continue(area.uffd, at, area.page, 0, &done), -EEXIST, -EEXIST);
    area_fill(&area, 1, 'b');
    assert_answer(mnw__uffd_continue(area.uffd, area_at(&area, 2), area.page, 0, &done), 0, page);
    assert_answer(mnw__uffd_continue(area.uffd, area_at(&area, 1), 2 * area.page, 0, &done), -EAGAIN, page);
    refuse_bad_ranges(&area, mnw__uffd_continue, true);
    area_close(&area);
    refuse_while_changing(*kind, mnw__uffd_continue, true);
    refuse_the_dead(mnw__uffd_continue);
}

/* A private view of a read-only descriptor: what the library's consumers have. */
static void test_continue_private_readonly(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, wanted, 0);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", area.fd);
    int readonly = open(path, O_RDONLY | O_CLOEXEC);
    char *view = mmap(NULL, area.page, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, readonly, 0);
    assert_int_equal(mnw__uffd_register(area.uffd, (uintptr_t)view, area.page, MISSING | MINOR, NULL), 0);
    touch_start(&toucher, (uintptr_t)view, false);
    assert_int_equal(event_next(area.uffd).flags, 0);
    area_fill(&area, 0, 'a');
    assert_answer(mnw__uffd_continue(area.uffd, (uintptr_t)view, area.page, 0, &done), 0, (int64_t)area.page);
    touch_join(&toucher);
    assert_int_equal(toucher.seen, 'a');
    munmap(view, area.page);
    close(readonly);
    area_close(&area);
}

/* ---- who is woken ---- */

static void test_wake(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, wanted, MISSING | MINOR);
    uintptr_t at = area_at(&area, 0);
    area_fill(&area, 0, 'a');
    touch_start(&toucher, at, false);
    event_next(area.uffd);
    /* An early wake only makes it ask again. */
    assert_int_equal(mnw__uffd_wake(area.uffd, at, area.page), 0);
    assert_int_equal(event_next(area.uffd).address, at);
    /* Mapped, and not told; an EEXIST tells nobody either; a wake elsewhere does not. */
    assert_answer(mnw__uffd_continue(area.uffd, at, area.page, DONTWAKE, &done), 0, (int64_t)area.page);
    assert_answer(mnw__uffd_continue(area.uffd, at, area.page, 0, &done), -EEXIST, -EEXIST);
    assert_int_equal(mnw__uffd_wake(area.uffd, at + area.page, area.page), 0);
    usleep(20000);
    assert_false(atomic_load(&toucher.ended));
    assert_int_equal(mnw__uffd_wake(area.uffd, at, area.page), 0);
    touch_join(&toucher);
    assert_int_equal(toucher.seen, 'a');

    assert_int_equal(mnw__uffd_wake(area.uffd, at + 1, area.page), -EINVAL);
    assert_int_equal(mnw__uffd_wake(area.uffd, at, area.page - 1), -EINVAL);
    assert_int_equal(mnw__uffd_wake(area.uffd, at, 0), -EINVAL);
    area_close(&area);
}

/* UNREGISTER of a view that is only MINOR leaves its waiters asleep. */
static void test_unregister_minor_wakes_nobody(void **state) {
    (void)state;
    struct area area;
    struct toucher toucher;
    area_open(&area, AREA_SHMEM, wanted, MINOR);
    area_fill(&area, 0, 'a');
    touch_start(&toucher, area_at(&area, 0), false);
    event_next(area.uffd);
    assert_int_equal(mnw__uffd_unregister(area.uffd, area_at(&area, 0), area.length), 0);
    usleep(20000);
    assert_false(atomic_load(&toucher.ended));
    assert_int_equal(mnw__uffd_wake(area.uffd, area_at(&area, 0), area.page), 0);
    touch_join(&toucher);
    assert_int_equal(toucher.seen, 'a');
    area_close(&area);
}

/* ---- COPY ---- */

static void test_copy(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, wanted, MISSING | WP);
    int64_t page = (int64_t)area.page;
    uintptr_t at = area_at(&area, 0);
    memset(source, 'k', sizeof(source));
    touch_start(&toucher, at + 3, false);
    event_next(area.uffd);
    assert_answer(copy(area.uffd, at, area.page, 0, &done), 0, page);
    touch_join(&toucher);
    assert_int_equal(toucher.seen, 'k');
    assert_answer(copy(area.uffd, at, area.page, 0, &done), -EEXIST, -EEXIST);
    bool protects = area_protects();
    assert_answer(copy(area.uffd, area_at(&area, 1), area.page, protects ? MNW__UFFD_KEEP_WP : 0, &done), 0, page);
    assert_answer(copy(area.uffd, at, area.page, 1 << 5, &done), -EINVAL, 0);
    /* A source that cannot be read. */
    void *nothing = mmap(NULL, area.page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_answer(mnw__uffd_copy(area.uffd, area_at(&area, 2), nothing, area.page, 0, &done), -EFAULT, -EFAULT);
    munmap(nothing, area.page);
    /* Page 3 is there, page 2 is not. */
    if (*kind != AREA_HUGETLB) {
        assert_answer(copy(area.uffd, area_at(&area, 3), area.page, DONTWAKE, &done), 0, page);
        assert_answer(copy(area.uffd, area_at(&area, 2), 2 * area.page, 0, &done), -EAGAIN, page);
    }
    if (*kind == AREA_SHMEM) {
        assert_answer(copy(area.uffd, area_at(&area, 4), area.page, 0, &done), -EFAULT, -EFAULT);
    }
    refuse_bad_ranges(&area, copy, true);
    area_close(&area);
    refuse_while_changing(*kind, copy, true);
    refuse_the_dead(copy);
}

/*
 * The pool is empty: the copy has no page to go to. The kernel's answer is EEXIST, as if the page were there:
 * an EEXIST of COPY on hugetlb proves nothing.
 */
static void test_copy_without_hugepages(void **state) {
    (void)state;
    struct area area;
    area_open(&area, AREA_HUGETLB, wanted, MISSING);
    size_t length = (size_t)1 << 40;
    int hog = memfd_create("hog", MFD_CLOEXEC | MFD_HUGETLB | 21u << 26);
    assert_int_equal(ftruncate(hog, (off_t)length), 0);
    for (size_t offset = 0; !fallocate(hog, 0, (off_t)offset, (off_t)area.page); offset += area.page) {
        assert_true(offset < length);
    }
    int64_t field = 0;
    int result = copy(area.uffd, area_at(&area, 0), area.page, 0, &field);
    assert_true(result == -EEXIST || result == -ENOMEM); /* which of them depends on the kernel */
    assert_int_equal(field, result);
    close(hog);
    assert_answer(copy(area.uffd, area_at(&area, 0), area.page, 0, &done), 0, (int64_t)area.page);
    area_close(&area);
}

/* A file of a tmpfs that holds one page. */
static int open_small_tmpfs(void) {
    int context = fsopen("tmpfs", FSOPEN_CLOEXEC), mount = -1, fd = -1;
    if (context >= 0 && !fsconfig(context, FSCONFIG_SET_STRING, "size", "4096", 0) &&
        !fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0)) {
        mount = fsmount(context, FSMOUNT_CLOEXEC, 0);
        fd = openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    }
    close(mount);
    close(context);
    return fd;
}

static void test_no_memory(void **state) {
    (void)state;
    int fd = open_small_tmpfs();
    if (fd < 0) {
        print_message("cannot mount a tmpfs: %s\n", strerror(errno));
        skip();
    }
    assert_int_equal(ftruncate(fd, 3 * 4096), 0);
    void *view = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int uffd = mnw__uffd_open(0);
    uintptr_t at = (uintptr_t)view;
    assert_int_equal(mnw__uffd_register(uffd, at, 3 * 4096, MISSING, NULL), 0);
    assert_answer(copy(uffd, at, 4096, 0, &done), 0, 4096);
    assert_answer(copy(uffd, at + 4096, 4096, 0, &done), -ENOMEM, -ENOMEM);
    assert_answer(mnw__uffd_zeropage(uffd, at + 4096, 4096, 0, &done), -ENOMEM, -ENOMEM);
    mnw__uffd_close(uffd);
    munmap(view, 3 * 4096);
    close(fd);
}

/* ---- ZEROPAGE ---- */

static void test_zeropage(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, wanted, MISSING | WP);
    int64_t page = (int64_t)area.page;
    uintptr_t at = area_at(&area, 0);
    if (*kind == AREA_HUGETLB) {
        assert_answer(mnw__uffd_zeropage(area.uffd, at, area.page, 0, &done), -EINVAL, -EINVAL);
        area_close(&area);
        return;
    }
    touch_start(&toucher, at + 3, false);
    event_next(area.uffd);
    assert_answer(mnw__uffd_zeropage(area.uffd, at, area.page, 0, &done), 0, page);
    touch_join(&toucher);
    assert_int_equal(toucher.seen, 0);
    assert_answer(mnw__uffd_zeropage(area.uffd, at, area.page, 0, &done), -EEXIST, -EEXIST);
    assert_answer(mnw__uffd_zeropage(area.uffd, at, area.page, MNW__UFFD_KEEP_WP, &done), -EINVAL, 0);
    assert_answer(mnw__uffd_zeropage(area.uffd, area_at(&area, 2), area.page, DONTWAKE, &done), 0, page);
    assert_answer(mnw__uffd_zeropage(area.uffd, area_at(&area, 1), 2 * area.page, 0, &done), -EAGAIN, page);
    refuse_bad_ranges(&area, mnw__uffd_zeropage, true);
    area_close(&area);
    refuse_while_changing(*kind, mnw__uffd_zeropage, true);
    refuse_the_dead(mnw__uffd_zeropage);
}

/* ---- POISON ---- */

static void test_poison(void **state) {
    need(MNW__UFFD_POISON, "UFFDIO_POISON");
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, wanted, *kind == AREA_ANON ? MISSING | WP : MISSING | MINOR | WP);
    int64_t page = (int64_t)area.page;
    uintptr_t at = area_at(&area, 0);
    memset(source, 'k', sizeof(source));
    touch_start(&toucher, at + 7, false);
    event_next(area.uffd);
    assert_answer(mnw__uffd_poison(area.uffd, at, area.page, 0, &done), 0, page);
    touch_join(&toucher);
    assert_int_equal(toucher.signal_number, SIGBUS);
    assert_int_equal(toucher.fault_address, at + 7);
    event_none(area.uffd);
    assert_answer(mnw__uffd_poison(area.uffd, at, area.page, 0, &done), -EEXIST, -EEXIST);
    assert_answer(mnw__uffd_poison(area.uffd, at, area.page, MNW__UFFD_KEEP_WP, &done), -EINVAL, 0);
    assert_answer(mnw__uffd_poison(area.uffd, area_at(&area, 2), area.page, DONTWAKE, &done), 0, page);
    assert_answer(mnw__uffd_poison(area.uffd, area_at(&area, 1), 2 * area.page, 0, &done), -EAGAIN, page);
    /* Over a page that is there: no. */
    assert_answer(copy(area.uffd, area_at(&area, 3), area.page, 0, &done), 0, page);
    assert_answer(mnw__uffd_poison(area.uffd, area_at(&area, 3), area.page, 0, &done), -EEXIST, -EEXIST);
    /* Healed by a copy, and by dropping the page-table entry. */
    assert_answer(copy(area.uffd, area_at(&area, 1), area.page, 0, &done), 0, page);
    assert_int_equal(machine_touch(area.view + area.page, NULL), 0);
    assert_int_equal(madvise(area.view + 2 * area.page, area.page, MADV_DONTNEED), 0);
    touch_start(&toucher, area_at(&area, 2), false);
    assert_int_equal(event_next(area.uffd).flags, 0);
    assert_answer(copy(area.uffd, area_at(&area, 2), area.page, 0, &done), 0, page);
    touch_join(&toucher);
    if (*kind != AREA_ANON) { /* by CONTINUE */
        area_fill(&area, 0, 'z');
        assert_answer(mnw__uffd_continue(area.uffd, at, area.page, 0, &done), 0, page);
        assert_int_equal(area.view[0], 'z');
    }
    refuse_bad_ranges(&area, mnw__uffd_poison, true);
    area_close(&area);
    refuse_while_changing(*kind, mnw__uffd_poison, true);
    refuse_the_dead(mnw__uffd_poison);
}

/* Who outlives a hole: poison does on shmem, not on hugetlb. */
/* However much lies between them that is not watched. */
static void test_bar_finds_all_that_is_watched(void **state) {
    (void)state;
    const size_t page = 4096, watched = 16 * page, length = ((1ul << 20) + 64) * page;
    need(MNW__UFFD_POISON, "UFFDIO_POISON");
    int fd = memfd_create("bar", MFD_CLOEXEC), uffd = mnw__uffd_open(MNW__UFFD_MISSING_SHMEM | MNW__UFFD_POISON);
    assert_true(fd >= 0 && uffd >= 0 && !ftruncate(fd, (off_t)length));
    char *at = mmap(NULL, length, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
    assert_true(at != MAP_FAILED);
    uintptr_t first = (uintptr_t)at, last = first + length - watched;
    assert_int_equal(mnw__uffd_register(uffd, first, watched, MISSING, NULL), 0);
    assert_int_equal(mnw__uffd_register(uffd, last, watched, MISSING, NULL), 0);
    assert_int_equal(munmap(at + length / 2, 16 * page), 0);
    assert_int_equal(mnw__uffd_bar(uffd, first, length, page), -ENOENT);
    for (size_t offset = 0; offset < watched; offset += page) {
        assert_int_equal(machine_touch(at + offset, NULL), SIGBUS);
        int64_t done; /* touching it would wait for ever if it were not */
        assert_int_equal(mnw__uffd_poison(uffd, last + offset, page, 0, &done), -EEXIST);
    }
    assert_int_equal(mnw__uffd_bar(uffd, last, watched, page), 0);
    mnw__uffd_close(uffd);
    close(fd);
    munmap(at, length);
}

static void test_poison_and_punch(void **state) {
    need(MNW__UFFD_POISON, "UFFDIO_POISON");
    const enum area_kind *kind = *state;
    struct area area;
    area_open(&area, *kind, wanted, MISSING | MINOR);
    area_fill(&area, 0, 'a');
    assert_answer(mnw__uffd_poison(area.uffd, area_at(&area, 0), area.page, 0, &done), 0, (int64_t)area.page);
    assert_int_equal(area.alias[0], 'a');
    area_punch(&area, 0);
    int64_t done;
    int expected = *kind == AREA_SHMEM ? -EEXIST : 0;
    assert_int_equal(mnw__uffd_poison(area.uffd, area_at(&area, 0), area.page, 0, &done), expected);
    assert_int_equal(mnw__uffd_unregister(area.uffd, area_at(&area, 0), area.length), 0);
    assert_int_equal(machine_touch(area.view, NULL), SIGBUS);
    area_close(&area);
}

/* ---- WRITEPROTECT ---- */

static void test_writeprotect(void **state) {
    need(MNW__UFFD_PAGEFAULT_WP, "write protection");
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, wanted, MISSING | WP);
    uintptr_t at = area_at(&area, 0);
    memset(source, 'k', sizeof(source));
    assert_answer(copy(area.uffd, at, area.page, 0, &done), 0, (int64_t)area.page);
    assert_int_equal(mnw__uffd_writeprotect(area.uffd, at, area.page, true, 0), 0);
    assert_int_equal(area.view[0], 'k');
    touch_start(&toucher, at, true);
    struct mnw__uffd_event event = event_next(area.uffd);
    assert_int_equal(event.flags, MNW__UFFD_FAULT_WP | MNW__UFFD_FAULT_WRITE);
    assert_int_equal(event.address, at);
    assert_int_equal(area.view[1], 'k');
    assert_int_equal(mnw__uffd_writeprotect(area.uffd, at, area.page, false, DONTWAKE), 0);
    usleep(20000);
    assert_false(atomic_load(&toucher.ended));
    assert_int_equal(mnw__uffd_wake(area.uffd, at, area.page), 0);
    touch_join(&toucher);
    assert_int_equal(area.view[0], 'w');
    /* Copied as protected from the start. */
    uintptr_t second = area_at(&area, 1);
    assert_answer(copy(area.uffd, second, area.page, MNW__UFFD_KEEP_WP, &done), 0, (int64_t)area.page);
    touch_start(&toucher, second, true);
    assert_int_equal(event_next(area.uffd).flags & MNW__UFFD_FAULT_WP, MNW__UFFD_FAULT_WP);
    assert_int_equal(mnw__uffd_writeprotect(area.uffd, second, area.page, false, 0), 0);
    touch_join(&toucher);
    /* To protect and not to wake together means nothing. */
    assert_int_equal(mnw__uffd_writeprotect(area.uffd, at, area.page, true, DONTWAKE), -EINVAL);
    refuse_bad_ranges(&area, protect, false);
    /* Watched, but not for writes. */
    assert_int_equal(mnw__uffd_register(area.uffd, at, area.length, MISSING, NULL), 0);
    assert_int_equal(mnw__uffd_writeprotect(area.uffd, at, area.page, true, 0), -ENOENT);
    area_close(&area);
    refuse_while_changing(*kind, protect, false);
    refuse_the_dead(protect);
}

/* CONTINUE maps a page as protected when asked, and drops the protection when not. */
static void test_continue_keeps_protection(void **state) {
    need(MNW__UFFD_PAGEFAULT_WP, "write protection");
    if (!has_continue_wp()) {
        print_message("before Linux 6.4 there is no UFFDIO_CONTINUE_MODE_WP\n");
        skip();
    }
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, wanted, MISSING | MINOR | WP);
    uintptr_t at = area_at(&area, 0);
    area_fill(&area, 0, 'a');
    assert_answer(mnw__uffd_continue(area.uffd, at, area.page, MNW__UFFD_KEEP_WP, &done), 0, (int64_t)area.page);
    touch_start(&toucher, at, true);
    assert_int_equal(event_next(area.uffd).flags & MNW__UFFD_FAULT_WP, MNW__UFFD_FAULT_WP);
    assert_answer(mnw__uffd_continue(area.uffd, at, area.page, 0, &done), -EEXIST, -EEXIST);
    assert_int_equal(mnw__uffd_writeprotect(area.uffd, at, area.page, false, 0), 0);
    touch_join(&toucher);
    area_fill(&area, 1, 'b');
    assert_int_equal(mnw__uffd_writeprotect(area.uffd, at + area.page, area.page, true, 0), 0);
    assert_answer(mnw__uffd_continue(area.uffd, at + area.page, area.page, 0, &done), 0, (int64_t)area.page);
    assert_int_equal(machine_poke(area.view + area.page, 'w', NULL), 0);
    area_close(&area);
}

static enum area_kind shmem = AREA_SHMEM, hugetlb = AREA_HUGETLB, anon = AREA_ANON;

#define SHMEM(name)                                                                                                    \
    { "shmem: " #name, name, NULL, NULL, &shmem }
#define HUGETLB(name)                                                                                                  \
    { "hugetlb: " #name, name, NULL, NULL, &hugetlb }
#define ANON(name)                                                                                                     \
    { "anon: " #name, name, NULL, NULL, &anon }

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0) {
        return status;
    }
    struct mnw__uffd_probe probe;
    if (mnw__uffd_probe(&probe)) {
        fprintf(stderr, "skipped: userfaultfd is not to be had here\n");
        return 77;
    }
    wanted &= probe.features;
    const struct CMUnitTest tests[] = {
        SHMEM(test_continue),
        HUGETLB(test_continue),
        SHMEM(test_continue_refusals),
        HUGETLB(test_continue_refusals),
        SHMEM(test_continue_private_readonly),
        HUGETLB(test_continue_private_readonly),
        SHMEM(test_wake),
        HUGETLB(test_wake),
        cmocka_unit_test(test_unregister_minor_wakes_nobody),
        SHMEM(test_copy),
        HUGETLB(test_copy),
        ANON(test_copy),
        cmocka_unit_test(test_copy_without_hugepages),
        cmocka_unit_test(test_no_memory),
        SHMEM(test_zeropage),
        HUGETLB(test_zeropage),
        ANON(test_zeropage),
        SHMEM(test_poison),
        HUGETLB(test_poison),
        ANON(test_poison),
        cmocka_unit_test(test_bar_finds_all_that_is_watched),
        SHMEM(test_poison_and_punch),
        HUGETLB(test_poison_and_punch),
        SHMEM(test_writeprotect),
        HUGETLB(test_writeprotect),
        ANON(test_writeprotect),
        SHMEM(test_continue_keeps_protection),
        HUGETLB(test_continue_keeps_protection),
    };
    return cmocka_run_group_tests_name("uffd ranges", tests, NULL, NULL);
}
