/* SPDX-License-Identifier: MIT */
/*
 * The kernel seam when the Nth system call fails: each of its constructors gives back a negative errno with a
 * message, or goes on by another way, and leaves no descriptor and no mapping behind.
 */
#include "base/error.h"
#include "machine.h"
#include "sys/backing.h"
#include "sys/io.h"
#include "sys/poller.h"
#include "sys/thread.h"
#include "sys/uffd.h"
#include "syscall_fail.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)

static const struct fail_watch watched[] = {
    {SYS_memfd_create, -1, 0},
    {SYS_ftruncate, -1, 0},
    {SYS_fcntl, -1, 0},
    {SYS_openat, -1, 0},
    {SYS_mmap, -1, 0},
    {SYS_madvise, -1, 0},
    {SYS_fallocate, -1, 0},
    {SYS_epoll_create1, -1, 0},
    {SYS_epoll_ctl, -1, 0},
    {SYS_eventfd2, -1, 0},
    {SYS_io_uring_setup, -1, 0},
    {SYS_clone, -1, 0},
    {SYS_clone3, -1, 0},
    {SYS_userfaultfd, -1, 0},
    {SYS_ioctl, -1, 0},
    {SYS_fsopen, -1, 0},
    {SYS_fsconfig, -1, 0},
    {SYS_fsmount, -1, 0},
    {SYS_io_uring_register, -1, 0},
    {SYS_io_uring_enter, -1, 0},
};
#define WATCHED (sizeof(watched) / sizeof(watched[0]))

/* Statuses of a run. */
enum { CLEAN = 0, NO_MESSAGE = 1, POSITIVE = 2, LEAK = 3, WRONG_BYTES = 4 };

/* How a constructor's refusal has to look. */
static int judge(int result) {
    if (result > 0) {
        return POSITIVE;
    }
    return result && !*mnw__fail_message() ? NO_MESSAGE : CLEAN;
}

static int no_leak(int before, int verdict) {
    return verdict == CLEAN && machine_open_descriptors() != before ? LEAK : verdict;
}

static int run_backing(enum mnw_backing kind) {
    int before = machine_open_descriptors(), verdict = CLEAN;
    struct mnw__backing backing;
    int result = mnw__backing_check(kind, 2 * MIB);
    if (!result) {
        result = mnw__backing_create(&backing, kind, 4 * MIB);
    }
    verdict = judge(result);
    if (!result) {
        /* These two answer by number alone, and may be refused. */
        result = mnw__backing_allocate(&backing, 0, 2 * MIB);
        if (!result) {
            *(char *)backing.alias = 'a';
            uintptr_t address;
            result = mnw__view_map(&backing, 0, 2 * MIB, false, &address);
            verdict = judge(result);
            if (!result) {
                verdict = *(volatile char *)address == 'a' ? CLEAN : WRONG_BYTES;
                mnw__view_unmap(address, 2 * MIB);
            }
            if (mnw__backing_punch(&backing, 0, 2 * MIB) > 0) {
                verdict = POSITIVE;
            }
        }
        mnw__backing_destroy(&backing);
    }
    return no_leak(before, verdict);
}

static int run_shmem(void) {
    return run_backing(MNW_BACKING_SHMEM);
}

static int run_graded(void) {
    return run_backing(MNW_BACKING_GRADED);
}

static int run_hugetlb(void) {
    return run_backing(MNW_BACKING_HUGETLB_2M);
}

static int run_poller(void) {
    int before = machine_open_descriptors();
    struct mnw__poller *poller;
    int result = mnw__poller_open(&poller);
    if (!result) {
        mnw__poller_close(poller);
    }
    return no_leak(before, judge(result));
}

static int run_uffd(void) {
    int before = machine_open_descriptors();
    int fd = mnw__uffd_open(MNW__UFFD_MINOR_SHMEM);
    if (fd >= 0) {
        mnw__uffd_close(fd);
    }
    return no_leak(before, judge(fd < 0 ? fd : 0));
}

/* Another process has a duplicate, and does with it as it likes. */
static int run_blocking_uffd(void) {
    struct mnw__uffd_event event;
    int fd = mnw__uffd_open(MNW__UFFD_MINOR_SHMEM);
    if (fd < 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK)) {
        return 1;
    }
    int events = mnw__uffd_read_nowait(fd, &event, 1);
    mnw__uffd_close(fd);
    return events ? 2 : CLEAN;
}

static _Atomic int64_t bytes_read;

static void read_done(void *context, uint64_t token, int64_t result) {
    (void)token;
    bytes_read = result;
    mnw__poller_kick(context);
}

/* Whatever fails, a read that was taken is answered. */
static int run_io(enum mnw_io_mode mode) {
    int before = machine_open_descriptors();
    char buffer[16] = {0};
    struct mnw__poller *poller;
    struct mnw__io *io = NULL;
    FILE *file = tmpfile();
    if (!file || fputs("0123456789", file) < 0 || fflush(file)) {
        return CLEAN; /* the failure hit the test's own preparations */
    }
    int result = mnw__poller_open(&poller);
    if (!result) {
        result = mnw__io_open(&io, mode, 4, -1, read_done, poller);
        if (!result && mnw__io_fd(io) >= 0 && mnw__poller_add(poller, mnw__io_fd(io), io)) {
            mnw__io_close(io);
            io = NULL;
        }
        if (!result && io) {
            bytes_read = 0;
            mnw__io_read(io, fileno(file), buffer, 10, 0, 1, 0, 0);
            mnw__io_submit(io);
            void *tag;
            for (int i = 0; i < 200 && !mnw__io_reap(io) && !bytes_read; i++) {
                mnw__poller_wait(poller, &tag, 1, 10000000);
            }
            mnw__io_close(io);
        }
        mnw__poller_close(poller);
    }
    int verdict = judge(result);
    if (io && memcmp(buffer, "0123456789", 10)) {
        verdict = WRONG_BYTES;
    }
    fclose(file);
    return no_leak(before, verdict);
}

static int run_io_auto(void) {
    return run_io(MNW_IO_AUTO);
}

static int run_io_threads(void) {
    return run_io(MNW_IO_THREADS);
}

static const struct fail_case cases[] = {
    {"shmem", run_shmem},     {"graded", run_graded},         {"graded, mounted", run_graded},
    {"hugetlb", run_hugetlb}, {"poller", run_poller},         {"uffd", run_uffd},
    {"io auto", run_io_auto}, {"io threads", run_io_threads}, {"uffd that blocks", run_blocking_uffd}};
#define CASES (sizeof(cases) / sizeof(cases[0]))

static void test_every_call(void **state) {
    const struct fail_case *tested = *state;
    static const int errors[] = {ENOMEM, EMFILE, EPERM};
    struct fail_result result;
    if (tested->run == run_hugetlb && !machine_free_hugepages(2 * MIB, 2)) {
        print_message("cannot free two huge pages\n");
        skip();
    }
    if (tested->run == run_graded && !machine_set(SHMEM_ENABLED, strcmp(tested->name, "graded") ? "never" : "advise")) {
        print_message("cannot set shmem_enabled\n");
        skip();
    }
    if (!fail_run(tested->name, watched, WATCHED, 0, 0, &result)) {
        print_message("no seccomp notifications here\n");
        skip();
    }
    assert_int_equal(result.status, CLEAN);
    assert_true(result.seen > 0);
    unsigned calls = result.seen;
    for (size_t e = 0; e < sizeof(errors) / sizeof(errors[0]); e++) {
        unsigned nth = 1, step = (unsigned)machine_slowness();
        for (; fail_run(tested->name, watched, WATCHED, nth, errors[e], &result) && result.failed; nth += step) {
            if (result.status) {
                fail_msg("call %u (number %ld) failing with %s: status %d", nth, result.number, strerror(errors[e]),
                         result.status);
            }
        }
        assert_true(nth > 1 && nth + 4 > calls);
    }
}

/* What Linux says before 6.10. */
static void test_read_without_nowait(void **state) {
    const struct fail_case *tested = *state;
    static const struct fail_watch nowait = {SYS_preadv2, -1, 0};
    struct fail_result result;
    if (!fail_run(tested->name, &nowait, 1, 1, EOPNOTSUPP, &result)) {
        print_message("no seccomp notifications here\n");
        skip();
    }
    assert_true(result.failed);
    assert_int_equal(result.status, CLEAN);
}

int main(int argc, char **argv) {
    int status = fail_enter(argc, argv, cases, CASES);
    if (status < 0 && MACHINE_SANITIZED) {
        fprintf(stderr, "skipped: a sanitizer's own system calls would be made to fail\n");
        return 77;
    }
    if (status < 0) {
        status = machine_guard(argv);
    }
    if (status >= 0) {
        return status;
    }
    struct CMUnitTest tests[CASES];
    for (size_t i = 0; i < CASES; i++) {
        tests[i] = (struct CMUnitTest){
            .name = cases[i].name, .test_func = test_every_call, .initial_state = (void *)(uintptr_t)&cases[i]};
    }
    tests[CASES - 1].test_func = test_read_without_nowait;
    return cmocka_run_group_tests_name("system call failures", tests, NULL, NULL);
}
