/* SPDX-License-Identifier: MIT */
/* Threads, metadata memory and NUMA: the small parts of the kernel seam. */
#include "base/error.h"
#include "sys/memory.h"
#include "sys/numa.h"
#include "sys/thread.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 1000000ull

struct seen {
    char name[16];
    sigset_t mask;
};

static void look_around(void *argument) {
    struct seen *seen = argument;
    mnw__sleep_ns(5 * MS); /* the name comes from outside, just after the start */
    pthread_getname_np(pthread_self(), seen->name, sizeof(seen->name));
    pthread_sigmask(SIG_SETMASK, NULL, &seen->mask);
}

static void test_thread(void **state) {
    (void)state;
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    for (int node = -1; node <= 0; node++) {
        struct seen seen = {{0}};
        struct mnw__thread thread;
        assert_int_equal(mnw__thread_start(&thread, "a-name-of-more-than-fifteen", node, look_around, &seen), 0);
        mnw__thread_join(&thread);
        assert_string_equal(seen.name, "a-name-of-more-");
        assert_true(sigismember(&seen.mask, SIGTERM) && sigismember(&seen.mask, SIGUSR1));
        assert_true(sigismember(&seen.mask, SIGINT) && sigismember(&seen.mask, SIGRTMAX));
    }
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int i = 1; i <= SIGRTMAX; i++) {
        assert_int_equal(sigismember(&after, i), sigismember(&before, i));
    }
}

struct shared {
    struct mnw__mutex mutex;
    struct mnw__condition condition;
    int turn;
    int count;
};

static void add_many(void *argument) {
    struct shared *shared = argument;
    for (int i = 0; i < 20000; i++) {
        mnw__mutex_lock(&shared->mutex);
        shared->count++;
        mnw__mutex_unlock(&shared->mutex);
    }
}

static void answer(void *argument) {
    struct shared *shared = argument;
    mnw__mutex_lock(&shared->mutex);
    for (int i = 0; i < 500; i++) {
        while (shared->turn != 1) {
            mnw__condition_wait(&shared->condition, &shared->mutex, INT64_MAX);
        }
        shared->turn = 0;
        mnw__condition_wake_all(&shared->condition);
    }
    mnw__mutex_unlock(&shared->mutex);
}

static void test_locks(void **state) {
    (void)state;
    struct shared shared = {.count = 0};
    struct mnw__thread threads[2];
    mnw__mutex_init(&shared.mutex);
    mnw__condition_init(&shared.condition);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mnw__thread_start(&threads[i], "adder", -1, add_many, &shared), 0);
    }
    for (int i = 0; i < 2; i++) {
        mnw__thread_join(&threads[i]);
    }
    assert_int_equal(shared.count, 40000);

    assert_int_equal(mnw__thread_start(&threads[0], "answer", -1, answer, &shared), 0);
    mnw__mutex_lock(&shared.mutex);
    for (int i = 0; i < 500; i++) {
        shared.turn = 1;
        mnw__condition_wake_all(&shared.condition);
        while (shared.turn) {
            mnw__condition_wait(&shared.condition, &shared.mutex, INT64_MAX);
        }
    }
    /* Nobody will wake this one. */
    uint64_t start = mnw__clock_ns();
    mnw__condition_wait(&shared.condition, &shared.mutex, (int64_t)(10 * MS));
    assert_true(mnw__clock_ns() - start >= 10 * MS);
    mnw__condition_wait(&shared.condition, &shared.mutex, -1);
    mnw__mutex_unlock(&shared.mutex);
    mnw__thread_join(&threads[0]);
    mnw__condition_destroy(&shared.condition);
    mnw__mutex_destroy(&shared.mutex);
}

static void test_clock(void **state) {
    (void)state;
    uint64_t start = mnw__clock_ns();
    mnw__sleep_ns(3 * MS);
    uint64_t slept = mnw__clock_ns() - start;
    assert_true(slept >= 3 * MS && slept < 3000 * MS);
}

static void test_memory(void **state) {
    (void)state;
    assert_int_equal(mnw__memory_page_bytes(), (size_t)sysconf(_SC_PAGESIZE));
    size_t length = (size_t)1 << 36;
    char *memory = mnw__memory_reserve(length);
    assert_non_null(memory);
    assert_int_equal(memory[0] | memory[length / 2] | memory[length - 1], 0);
    memory[length - 1] = 1;
    mnw__memory_release(memory, length);
    mnw__memory_release(NULL, 0);
    assert_null(mnw__memory_reserve((size_t)1 << 62));
}

static int forked_says(void) {
    pid_t child = fork();
    if (!child) {
        bool counted = mnw__memory_generation() == 1 && mnw__memory_generation() == 1;
        pid_t grandchild = fork();
        if (!grandchild) {
            _exit(mnw__memory_generation() == 2 ? 0 : 1);
        }
        int status = 1;
        waitpid(grandchild, &status, 0);
        _exit(counted && !status ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    return status;
}

static void test_fork_canary(void **state) {
    (void)state;
    assert_int_equal(mnw__memory_generation(), 0);
    assert_int_equal(forked_says(), 0);
    assert_int_equal(mnw__memory_generation(), 0);
}

static void test_numa_parse(void **state) {
    (void)state;
    uint64_t nodes = 0, allowed = mnw__numa_allowed();
    uint8_t weights[64];
    assert_true(allowed & 1);
    assert_int_equal(mnw__numa_parse(NULL, &nodes, weights), 0);
    assert_int_equal(nodes, allowed);
    assert_int_equal(mnw__numa_parse("0", &nodes, weights), 0);
    assert_int_equal(nodes, 1);
    assert_int_equal(mnw__numa_parse("0-0,0", &nodes, weights), 0);
    assert_int_equal(nodes, 1);
    assert_int_equal(weights[0], 1);
    assert_int_equal(mnw__numa_parse("0:3", &nodes, weights), 0);
    assert_int_equal(weights[0], 3);
    assert_int_equal(mnw__numa_parse("0-0:255,0:255", &nodes, weights), 0);
    assert_int_equal(weights[0], 255);
    static const char *const bad[] = {"",        " ",     "a",   "0,",    ",0",   "0-",    "-0",          "1-0",
                                      "0 1",     "0x",    "all", "0,,0",  "64",   "0-64",  "99999999999", "+0",
                                      "0:",      ":1",    "0:0", "0:256", "0:-1", "0:1:1", "0:1-2",       "0:x",
                                      "0:3,0:2", "0:2,0", "0:1,"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(mnw__numa_parse(bad[i], &nodes, weights), -EINVAL);
        assert_non_null(strstr(mnw__fail_message(), "NUMA nodes \""));
    }
    if (!(allowed >> 63)) {
        assert_int_equal(mnw__numa_parse("0-63", &nodes, weights), -EINVAL);
        assert_non_null(strstr(mnw__fail_message(), "not one this process may use"));
    }
}

static void test_numa_policies(void **state) {
    (void)state;
    static const enum mnw_numa policies[] = {MNW_NUMA_INTERLEAVE, MNW_NUMA_BIND, MNW_NUMA_PREFERRED, MNW_NUMA_LOCAL};
    uint64_t allowed = mnw__numa_allowed();
    size_t length = 16 * mnw__memory_page_bytes();
    assert_true(allowed >> mnw__numa_here() & 1);
    for (size_t i = 0; i < 4; i++) {
        char *memory = mnw__memory_reserve(length);
        assert_int_equal(mnw__numa_set_thread_policy(policies[i], allowed), 0);
        assert_int_equal(mnw__numa_set_range_policy(memory, length, policies[i], allowed), 0);
        memory[0] = 1;
        void *addresses[2] = {memory, memory + length / 2};
        int nodes[2] = {-1, -1};
        assert_int_equal(mnw__numa_where(addresses, nodes, 2), 0);
        assert_true(nodes[0] >= 0 && allowed >> nodes[0] & 1);
        assert_true(nodes[1] == -ENOENT || nodes[1] == -EFAULT);
        mnw__memory_release(memory, length);
    }
    assert_int_equal(mnw__numa_set_thread_policy((enum mnw_numa)9, allowed), -EINVAL);
}

static void test_hugepages(void **state) {
    (void)state;
    size_t sizes[8] = {0};
    int count = mnw__hugepage_sizes(sizes, 8);
    struct mnw__hugepages pages;
    for (int i = 0; i < count; i++) {
        assert_int_equal(mnw__hugepages(sizes[i], -1, &pages), 0);
        assert_true(pages.free <= pages.total);
        assert_int_equal(mnw__hugepages(sizes[i], 0, &pages), 0);
        assert_true(!i || sizes[i] > sizes[i - 1]);
        const char *mount = mnw__hugetlbfs_mount(sizes[i]);
        assert_true(!mount || mount[0] == '/');
    }
    assert_int_equal(mnw__hugepages(12345 * 1024, -1, &pages), -ENOENT);
    assert_true(mnw__hugepage_sizes(sizes, 1) <= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_thread),        cmocka_unit_test(test_locks),       cmocka_unit_test(test_clock),
        cmocka_unit_test(test_memory),        cmocka_unit_test(test_fork_canary), cmocka_unit_test(test_numa_parse),
        cmocka_unit_test(test_numa_policies), cmocka_unit_test(test_hugepages),
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
