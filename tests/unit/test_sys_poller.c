/* SPDX-License-Identifier: MIT */
#include "sys/poller.h"
#include "sys/thread.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 1000000ull

static int open_poller(void **state) {
    return mnw__poller_open((struct mnw__poller **)state);
}

static int close_poller(void **state) {
    mnw__poller_close(*state);
    return 0;
}

static void test_timeouts(void **state) {
    void *tag;
    uint64_t start = mnw__clock_ns();
    assert_int_equal(mnw__poller_wait(*state, &tag, 1, 0), 0);
    assert_int_equal(mnw__poller_wait(*state, &tag, 1, -5), 0);
    assert_true(mnw__clock_ns() - start < 5 * MS);
    start = mnw__clock_ns();
    assert_int_equal(mnw__poller_wait(*state, &tag, 1, 300000), 0);
    assert_true(mnw__clock_ns() - start >= 300000);
}

static void test_readable_until_lowered(void **state) {
    int fd = mnw__eventfd_open(), name;
    void *tags[4] = {NULL};
    assert_int_equal(mnw__poller_add(*state, fd, &name), 0);
    assert_int_equal(mnw__poller_add(*state, fd, &name), -EEXIST);
    assert_int_equal(mnw__poller_wait(*state, tags, 4, 0), 0);
    mnw__eventfd_raise(fd);
    for (int i = 0; i < 3; i++) {
        tags[0] = NULL;
        assert_int_equal(mnw__poller_wait(*state, tags, 4, INT64_MAX), 1);
        assert_ptr_equal(tags[0], &name);
    }
    mnw__eventfd_lower(fd);
    assert_int_equal(mnw__poller_wait(*state, tags, 4, 0), 0);
    mnw__eventfd_lower(fd); /* lowering what is low does not block */
    mnw__eventfd_raise(fd);
    assert_int_equal(mnw__poller_remove(*state, fd), 0);
    assert_int_equal(mnw__poller_wait(*state, tags, 4, 0), 0);
    assert_int_equal(mnw__poller_remove(*state, fd), -ENOENT);
    mnw__eventfd_close(fd);
}

static void test_no_more_than_asked_for(void **state) {
    int fds[3];
    void *tags[3];
    for (int i = 0; i < 3; i++) {
        fds[i] = mnw__eventfd_open();
        assert_int_equal(mnw__poller_add(*state, fds[i], &fds[i]), 0);
        mnw__eventfd_raise(fds[i]);
    }
    assert_int_equal(mnw__poller_wait(*state, tags, 2, 0), 2);
    assert_int_equal(mnw__poller_wait(*state, tags, 3, 0), 3);
    for (int i = 0; i < 3; i++) {
        mnw__eventfd_close(fds[i]);
    }
}

/* A kick before the wait ends it; several are one; then it waits again. */
static void test_kick_is_kept(void **state) {
    void *tag;
    mnw__poller_kick(*state);
    mnw__poller_kick(*state);
    uint64_t start = mnw__clock_ns();
    assert_int_equal(mnw__poller_wait(*state, &tag, 1, INT64_MAX), 0);
    assert_int_equal(mnw__poller_wait(*state, &tag, 1, (int64_t)(20 * MS)), 0);
    assert_true(mnw__clock_ns() - start >= 20 * MS);
    mnw__poller_kick(*state);
    assert_int_equal(mnw__poller_wait(*state, &tag, 1, INT64_MAX), 0);
}

/* A kick beside a descriptor that stays readable: the wait that returns 0 for it comes, and at once. */
static void test_kick_beside_a_readable_descriptor(void **state) {
    int fd = mnw__eventfd_open();
    void *tags[8];
    assert_int_equal(mnw__poller_add(*state, fd, tags), 0);
    mnw__eventfd_raise(fd);
    for (int count = 1; count <= 8; count += 7) {
        mnw__poller_kick(*state);
        int zeros = 0;
        for (int i = 0; i < 4; i++) {
            zeros += mnw__poller_wait(*state, tags, count, INT64_MAX) == 0;
        }
        assert_int_equal(zeros, 1);
    }
    mnw__eventfd_close(fd);
}

struct kicker {
    struct mnw__poller *poller;
    _Atomic unsigned asked, seen;
};

static void kick_and_wait(void *argument) {
    struct kicker *kicker = argument;
    for (unsigned i = 1; i <= 20000; i++) {
        atomic_store(&kicker->asked, i);
        mnw__poller_kick(kicker->poller);
        while (atomic_load(&kicker->seen) < i) {
            mnw__sleep_ns(0);
        }
    }
}

/* If one were lost, neither side would go on. */
static void test_no_kick_is_lost(void **state) {
    struct kicker kicker = {.poller = *state};
    struct mnw__thread thread;
    void *tag;
    assert_int_equal(mnw__thread_start(&thread, "kicker", -1, kick_and_wait, &kicker), 0);
    while (atomic_load(&kicker.seen) < 20000) {
        assert_int_equal(mnw__poller_wait(*state, &tag, 1, INT64_MAX), 0);
        atomic_store(&kicker.seen, atomic_load(&kicker.asked));
    }
    mnw__thread_join(&thread);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_poller, close_poller)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_timeouts),
        TEST(test_readable_until_lowered),
        TEST(test_no_more_than_asked_for),
        TEST(test_kick_is_kept),
        TEST(test_kick_beside_a_readable_descriptor),
        TEST(test_no_kick_is_lost),
    };
    return cmocka_run_group_tests_name("poller", tests, NULL, NULL);
}
