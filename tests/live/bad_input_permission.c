/* SPDX-License-Identifier: MIT */
/*
 * A machine that forbids: userfaultfd, io_uring, huge limits; by user, by seccomp filter, by resource limit.
 * Each in a child of its own. Where there is another way, it works and the bytes are right; where there is
 * none, the message says what to allow. Never a hang.
 */
#include "bed.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define REFUSALS     16
#define PAGES        64ull
#define UNPRIVILEGED "/proc/sys/vm/unprivileged_userfaultfd"

static struct bed_file file;

static int make_file(void **state) {
    (void)state;
    bed_file(&file, PAGES * BED_PAGE, 1);
    return fchmod(file.fd, 0644);
}

static int remove_file(void **state) {
    (void)state;
    bed_file_remove(&file);
    return 0;
}

/* ---- in the children ---- */

struct opened {
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view;
};

static bool user_faults_only;

static int open_pool(struct mnw_pool **pool, enum mnw_io_mode io_mode) {
    struct mnw_pool_options options = {
        .size = sizeof(options), .budget_bytes = BED_MIB, .io_mode = io_mode, .user_faults_only = user_faults_only};
    return mnw_pool_open(pool, &options);
}

static void open_all(struct opened *opened, enum mnw_io_mode io_mode, uint32_t deadline_ms) {
    struct mnw_cache_options options = {
        .size = sizeof(options), .read_deadline_ms = deadline_ms, .readahead_bytes = UINT64_MAX};
    bed_check(mnw_store_open(&opened->store, file.uri, NULL) == 0);
    bed_check(open_pool(&opened->pool, io_mode) == 0);
    bed_check(mnw_cache_open(&opened->cache, opened->pool, opened->store, &options) == 0);
    bed_check(mnw_view_open(&opened->view, opened->cache, NULL) == 0);
}

static void close_all(struct opened *opened) {
    bed_check(mnw_view_close(opened->view) == 0);
    bed_check(mnw_cache_close(opened->cache) == 0);
    bed_check(mnw_pool_close(opened->pool) == 0);
    bed_check(mnw_store_close(opened->store) == 0);
}

static const char *page_at(const struct opened *opened, uint64_t page) {
    return (const char *)mnw_view_data(opened->view) + page * BED_PAGE;
}

static void check_pages(const struct opened *opened) {
    for (uint64_t page = 0; page < PAGES; page++)
        bed_check(bed_compare(page_at(opened, page), page * BED_PAGE, BED_PAGE, 1, NULL) == BED_RIGHT);
}

/* write(2) from a page that nobody touched yet: its result and errno. */
static ssize_t write_from(const char *at) {
    int pipes[2];
    bed_check(pipe2(pipes, O_NONBLOCK | O_CLOEXEC) == 0);
    errno = 0;
    ssize_t bytes = write(pipes[1], at, 100);
    int error = errno;
    close(pipes[0]);
    close(pipes[1]);
    errno = error;
    return bytes;
}

static bool message_has(const char *a, const char *b) {
    return strstr(mnw_error(), a) && strstr(mnw_error(), b);
}

/* ---- userfaultfd ---- */

static void set_unprivileged(const char *value) {
    if (!machine_set(UNPRIVILEGED, value)) {
        print_message("cannot set %s\n", UNPRIVILEGED);
        skip();
    }
}

/* The kernel opens a door to anybody that serves faults of user code only. Who wants it has to say so. */
static int as_nobody(void *argument) {
    struct opened opened;
    struct mnw_pool *pool = NULL;
    (void)argument;
    bed_become_nobody();
    struct bed_holdings before = bed_holdings();
    bed_check(open_pool(&pool, MNW_IO_AUTO) == -EPERM && !pool);
    bed_check(message_has("EFAULT", "vm.unprivileged_userfaultfd=1") && message_has("EFAULT", "user_faults_only"));
    struct bed_holdings after = bed_settled(&before);
    bed_check(before.threads == after.threads && before.descriptors == after.descriptors);
    user_faults_only = true;
    open_all(&opened, MNW_IO_AUTO, 0);
    bed_check(write_from(page_at(&opened, 3)) == -1 && errno == EFAULT);
    check_pages(&opened);
    bed_check(write_from(page_at(&opened, 3)) == 100); /* once it is there, the kernel reads it too */
    close_all(&opened);
    return 0;
}

static void test_nobody(void **state) {
    (void)state;
    set_unprivileged("0");
    assert_int_equal(bed_child(as_nobody, NULL), 0);
}

static int as_nobody_allowed(void *argument) {
    struct opened opened;
    (void)argument;
    bed_become_nobody();
    open_all(&opened, MNW_IO_AUTO, 0);
    bed_check(write_from(page_at(&opened, 3)) == 100);
    check_pages(&opened);
    close_all(&opened);
    return 0;
}

static void test_nobody_allowed(void **state) {
    (void)state;
    set_unprivileged("1");
    assert_int_equal(bed_child(as_nobody_allowed, NULL), 0);
    set_unprivileged("0");
}

static int as_nobody_forbidden(void *argument) {
    struct mnw_pool *pool = NULL;
    struct bed_holdings before, after;
    bed_become_nobody();
    bed_forbid((const long[]){SYS_userfaultfd}, 1, *(const int *)argument);
    before = bed_holdings();
    int expected = -*(const int *)argument;
    bed_check(open_pool(&pool, MNW_IO_AUTO) == expected && !pool);
    bed_check(message_has("userfaultfd", expected == -ENOSYS ? "seccomp filter" : "vm.unprivileged_userfaultfd=1"));
    after = bed_holdings();
    bed_check(before.threads == after.threads && before.descriptors == after.descriptors);
    return 0;
}

static void test_nobody_forbidden(void **state) {
    (void)state;
    int refused = EPERM, hidden = ENOSYS;
    assert_int_equal(bed_child(as_nobody_forbidden, &refused), 0);
    assert_int_equal(bed_child(as_nobody_forbidden, &hidden), 0);
}

static int by_device(void *argument) {
    struct opened opened;
    bed_forbid((const long[]){SYS_userfaultfd}, 1, *(const int *)argument);
    open_all(&opened, MNW_IO_AUTO, 0);
    bed_check(write_from(page_at(&opened, 3)) == 100); /* the device's descriptors serve the kernel too */
    check_pages(&opened);
    close_all(&opened);
    return 0;
}

static void test_device(void **state) {
    (void)state;
    int refused = EPERM, hidden = ENOSYS;
    if (geteuid() || access("/dev/userfaultfd", R_OK | W_OK)) {
        print_message("/dev/userfaultfd is not to be opened here\n");
        skip();
    }
    assert_int_equal(bed_child(by_device, &refused), 0);
    assert_int_equal(bed_child(by_device, &hidden), 0);
}

static int no_door(void *argument) {
    struct mnw_pool *pool = NULL;
    int error = *(const int *)argument;
    bed_forbid((const long[]){SYS_userfaultfd}, 1, error);
    bed_forbid_argument(SYS_ioctl, 1, USERFAULTFD_IOC_NEW, error);
    bed_check(open_pool(&pool, MNW_IO_AUTO) == -error && !pool);
    bed_check(message_has("userfaultfd", error == ENOSYS ? "seccomp" : "sysctl"));
    return 0;
}

static void test_no_door(void **state) {
    (void)state;
    int refused = EPERM, hidden = ENOSYS;
    assert_int_equal(bed_child(no_door, &refused), 0);
    assert_int_equal(bed_child(no_door, &hidden), 0);
}

/* ---- io_uring ---- */

static int without_uring(void *argument) {
    struct mnw_pool *pool = NULL;
    struct opened opened;
    int error = *(const int *)argument;
    bed_forbid((const long[]){SYS_io_uring_setup}, 1, error);
    struct bed_holdings before = bed_holdings();
    bed_check(open_pool(&pool, MNW_IO_URING) == -error && !pool);
    bed_check(message_has("io_uring", "doctor") || message_has("io_uring", "kernel.io_uring_disabled"));
    struct bed_holdings after = bed_settled(&before);
    bed_check(before.threads == after.threads && before.descriptors == after.descriptors);
    open_all(&opened, MNW_IO_AUTO, 0);
    check_pages(&opened);
    close_all(&opened);
    return 0;
}

/* The ring opens, and then may not be entered. */
static int without_entering(void *argument) {
    struct opened opened;
    bed_forbid((const long[]){SYS_io_uring_enter}, 1, *(const int *)argument);
    open_all(&opened, MNW_IO_AUTO, 0);
    check_pages(&opened);
    close_all(&opened);
    return 0;
}

static void test_io_uring(void **state) {
    static const int errors[] = {EPERM, ENOSYS, EACCES};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(bed_child(without_uring, (void *)(uintptr_t)&errors[i]), 0);
        assert_int_equal(bed_child(without_entering, (void *)(uintptr_t)&errors[i]), 0);
    }
}

/* ---- what else a filter may forbid ---- */

static int without_memfd(void *argument) {
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache = NULL;
    (void)argument;
    bed_forbid((const long[]){SYS_memfd_create}, 1, EPERM);
    bed_check(mnw_store_open(&store, file.uri, NULL) == 0);
    bed_check(open_pool(&pool, MNW_IO_AUTO) == 0);
    bed_check(mnw_cache_open(&cache, pool, store, NULL) == -EPERM && !cache);
    bed_check(message_has("memfd_create", "Operation not permitted"));
    bed_check(mnw_pool_close(pool) == 0);
    bed_check(mnw_store_close(store) == 0);
    return 0;
}

/* No memory for any page: each fault ends in SIGBUS once there is no hope, and everything closes. */
static int without_memory(void *argument) {
    struct opened opened;
    struct mnw_event event;
    int failed = 0;
    bed_forbid_argument(SYS_madvise, 2, MADV_POPULATE_WRITE, *(const int *)argument);
    open_all(&opened, MNW_IO_AUTO, 200);
    for (uint64_t page = 0; page < 2; page++)
        bed_check(bed_touch(page_at(&opened, page), NULL) == SIGBUS);
    while (bed_event(opened.pool, &event, 0)) {
        bed_check(event.kind == MNW_EVENT_PAGE_FAILED && event.result == -ENOMEM);
        failed++;
    }
    bed_check(failed == 2);
    bed_check(mnw_pin(opened.cache, 8 * BED_PAGE, BED_PAGE) == -ENOMEM);
    close_all(&opened);
    return 0;
}

/* Nothing can be given back: what is in memory stays, and right; the rest ends in SIGBUS. */
static int without_punching(void *argument) {
    struct opened opened;
    unsigned right = 0, bus = 0;
    bed_forbid((const long[]){SYS_fallocate}, 1, *(const int *)argument);
    open_all(&opened, MNW_IO_AUTO, 200);
    bed_check(mnw_pool_set_budget(opened.pool, 128 << 10) == 0);
    for (uint64_t page = 0; page < 34; page++) {
        int how = bed_compare(page_at(&opened, page), page * BED_PAGE, BED_PAGE, 1, NULL);
        right += how == BED_RIGHT;
        bus += how == SIGBUS;
    }
    bed_check(right == 32 && bus == 2);
    close_all(&opened);
    return 0;
}

static int without_madvise(void *argument) {
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view = NULL;
    (void)argument;
    bed_check(mnw_store_open(&store, file.uri, NULL) == 0);
    bed_check(open_pool(&pool, MNW_IO_AUTO) == 0);
    bed_check(mnw_cache_open(&cache, pool, store, NULL) == 0);
    bed_forbid((const long[]){SYS_madvise}, 1, EPERM);
    struct bed_holdings before = bed_holdings();
    /* The allocator, or a sanitizer, may map something of its own meanwhile: what we lost would be lost each time. */
    for (unsigned i = 0; i < REFUSALS; i++) {
        bed_check(mnw_view_open(&view, cache, NULL) == -EPERM && !view);
        bed_check(message_has("view", "madvise") || message_has("view", "mmap"));
    }
    struct bed_holdings after = bed_holdings();
    bed_check(after.mappings < before.mappings + REFUSALS && before.descriptors == after.descriptors);
    bed_check(mnw_cache_close(cache) == 0);
    bed_check(mnw_pool_close(pool) == 0);
    bed_check(mnw_store_close(store) == 0);
    return 0;
}

static void test_other_calls(void **state) {
    static const int errors[] = {EPERM, ENOMEM};
    (void)state;
    assert_int_equal(bed_child(without_memfd, NULL), 0);
    assert_int_equal(bed_child(without_madvise, NULL), 0);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(bed_child(without_punching, (void *)(uintptr_t)&errors[i]), 0);
        assert_int_equal(bed_child(without_memory, (void *)(uintptr_t)&errors[i]), 0);
    }
}

/* ---- limits ---- */

/* So few descriptors: every constructor fails in turn, says so, and leaves nothing behind. */
static int few_descriptors(void *argument) {
    struct mnw_store *store = NULL;
    struct mnw_pool *pool = NULL;
    struct mnw_cache *cache = NULL;
    struct mnw_view *view = NULL;
    struct bed_holdings before = bed_holdings();
    struct rlimit limit = {.rlim_cur = 0, .rlim_max = 4096};
    int last = dup(0);
    close(last);
    limit.rlim_cur = (rlim_t)last + *(const unsigned *)argument;
    bed_check(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int error = mnw_store_open(&store, file.uri, NULL);
    if (!error)
        error = open_pool(&pool, MNW_IO_AUTO);
    if (!error)
        error = mnw_cache_open(&cache, pool, store, NULL);
    if (!error)
        error = mnw_view_open(&view, cache, NULL);
    if (!error)
        bed_check(bed_compare(mnw_view_data(view), 0, PAGES * BED_PAGE, 1, NULL) == BED_RIGHT);
    bed_check(!error || error == -EMFILE);
    bed_check(!error || strstr(mnw_error(), "open files"));
    bed_check(!view || mnw_view_close(view) == 0);
    bed_check(!cache || mnw_cache_close(cache) == 0);
    bed_check(!pool || mnw_pool_close(pool) == 0);
    bed_check(!store || mnw_store_close(store) == 0);
    limit.rlim_cur = 1024;
    bed_check(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    struct bed_holdings after = bed_settled(&before);
    bed_check(before.threads == after.threads && before.descriptors == after.descriptors);
    return error ? 9 : 0;
}

static void test_few_descriptors(void **state) {
    unsigned count = 0;
    (void)state;
    for (; count < 40; count++) {
        int status = bed_child(few_descriptors, &count);
        if (!status)
            break;
        if (status != 9)
            fail_msg("%u descriptors more: status %d", count, status);
    }
    assert_true(count > 3 && count < 40);
}

static int little_address_space(void *argument) {
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache = NULL;
    struct bed_file huge;
    (void)argument;
    bed_file(&huge, 0, 0);
    bed_check(ftruncate(huge.fd, 1ll << 40) == 0);
    bed_check(mnw_store_open(&store, huge.uri, NULL) == 0);
    bed_check(open_pool(&pool, MNW_IO_AUTO) == 0);
    struct rlimit limit = {.rlim_cur = 2ull << 30, .rlim_max = RLIM_INFINITY};
    bed_check(setrlimit(RLIMIT_AS, &limit) == 0);
    struct bed_holdings before = bed_holdings();
    int error = mnw_cache_open(&cache, pool, store, NULL);
    bed_check((error == -ENOMEM || error == -ENOSPC) && !cache);
    bed_check(message_has("bytes", "ulimit -v") || message_has("mapping a backing", "bytes"));
    struct bed_holdings after = bed_holdings();
    bed_check(before.mappings == after.mappings && before.descriptors == after.descriptors);
    bed_check(mnw_pool_close(pool) == 0);
    bed_check(mnw_store_close(store) == 0);
    bed_file_remove(&huge);
    return 0;
}

static void test_little_address_space(void **state) {
    (void)state;
    if (MACHINE_SANITIZED) {
        print_message("a sanitizer's shadow is larger than the limit\n");
        skip();
    }
    assert_int_equal(bed_child(little_address_space, NULL), 0);
}

int main(int argc, char **argv) {
    int status = machine_guard(argv);
    (void)argc;
    if (status >= 0)
        return status;
    if (geteuid()) {
        fprintf(stderr, "skipped: only root can become another user\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_nobody_allowed),
        cmocka_unit_test(test_nobody_forbidden),
        cmocka_unit_test(test_device),
        cmocka_unit_test(test_no_door),
        cmocka_unit_test(test_io_uring),
        cmocka_unit_test(test_other_calls),
        cmocka_unit_test(test_few_descriptors),
        cmocka_unit_test(test_little_address_space),
    };
    return cmocka_run_group_tests_name("permissions", tests, make_file, remove_file);
}
