/* SPDX-License-Identifier: MIT */
/*
 * The public API when the Nth system call fails. Opening: a negative errno with a message and nothing left
 * behind, or success; and a second attempt works. Reading: right bytes or SIGBUS, an end in any case.
 */
#include "bed.h"
#include "machine.h"
#include "syscall_fail.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HUGE     ((size_t)2 << 20)
#define PAGES    64ull
#define FILE_ENV "MNW_TEST_FILE" /* the file that runs read; made once */

/* Statuses of a run. */
enum {
    CLEAN = 0,
    FAILED_CLEANLY = 10,
    NO_MESSAGE,
    POSITIVE,
    LEAKED_DESCRIPTOR,
    LEAKED_THREAD,
    LEAKED_MAPPING,
    SECOND_FAILED,
    WRONG_BYTES,
    CLOSE_FAILED,
    LOST_PAGE,
};

static const char *const verdicts[] = {"failed cleanly",         "no message",    "positive result",
                                       "leaked descriptor",      "leaked thread", "leaked mapping",
                                       "second attempt failed",  "wrong bytes",   "close failed",
                                       "a page is lost for good"};

static const struct fail_watch opening[] = {
    {SYS_openat, -1, 0},
    {SYS_fstat, -1, 0},
    {SYS_newfstatat, -1, 0},
    {SYS_statx, -1, 0},
    {SYS_fcntl, -1, 0},
    {SYS_memfd_create, -1, 0},
    {SYS_ftruncate, -1, 0},
    {SYS_mmap, -1, 0},
    {SYS_madvise, -1, 0},
    {SYS_mbind, -1, 0},
    {SYS_set_mempolicy, -1, 0},
    {SYS_epoll_create1, -1, 0},
    {SYS_epoll_ctl, -1, 0},
    {SYS_eventfd2, -1, 0},
    {SYS_io_uring_setup, -1, 0},
    {SYS_io_uring_register, -1, 0},
    {SYS_clone, -1, 0},
    {SYS_clone3, -1, 0},
    {SYS_userfaultfd, -1, 0},
    {SYS_ioctl, -1, 0},
    {SYS_sched_setaffinity, -1, 0},
    {SYS_fsopen, -1, 0},
    {SYS_fsconfig, -1, 0},
    {SYS_fsmount, -1, 0},
};
#define OPENING (sizeof(opening) / sizeof(opening[0]))

static const struct fail_watch mapping[] = {
    {SYS_ioctl, 1, (uint32_t)UFFDIO_CONTINUE},
    {SYS_ioctl, 1, (uint32_t)UFFDIO_WAKE},
    {SYS_ioctl, 1, 0xc020aa08},
    {SYS_madvise, -1, 0},
    {SYS_fallocate, -1, 0},
};
#define MAPPING (sizeof(mapping) / sizeof(mapping[0]))

static const struct fail_watch transport[] = {
    {SYS_pread64, -1, 0},    {SYS_io_uring_enter, -1, 0}, {SYS_epoll_pwait, -1, 0}, {SYS_epoll_pwait2, -1, 0},
#ifdef SYS_epoll_wait /* arm64 has none */
    {SYS_epoll_wait, -1, 0},
#endif
};
#define TRANSPORT (sizeof(transport) / sizeof(transport[0]))

/* ---- in the run ---- */

struct stack {
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view;
};

/* What a run looks at. */
struct setting {
    enum mnw_backing backing;
    enum mnw_io_mode io_mode;
    uint64_t budget_bytes;
    uint32_t deadline_ms;
    unsigned threads;
};

static const char *uri(void) {
    static char text[128];
    snprintf(text, sizeof(text), "file://%s", getenv(FILE_ENV));
    return text;
}

static int open_stack(struct stack *stack, const struct setting *setting) {
    struct mnw_pool_options options = {.size = sizeof(options),
                                       .backing = setting->backing,
                                       .io_mode = setting->io_mode,
                                       .fault_threads_per_node = setting->threads,
                                       .numa = setting->threads > 1 ? MNW_NUMA_INTERLEAVE : MNW_NUMA_LOCAL,
                                       .budget_bytes = setting->budget_bytes};
    struct mnw_cache_options cache_options = {.size = sizeof(cache_options),
                                              .read_retries = UINT32_MAX,
                                              .read_deadline_ms = setting->deadline_ms,
                                              .readahead_bytes = 8 * BED_PAGE};
    *stack = (struct stack){0};
    int error = mnw_store_open(&stack->store, uri(), NULL);
    if (!error)
        error = mnw_pool_open(&stack->pool, &options);
    if (!error)
        error = mnw_cache_open(&stack->cache, stack->pool, stack->store, &cache_options);
    if (!error)
        error = mnw_view_open(&stack->view, stack->cache, NULL);
    return error;
}

static bool close_stack(struct stack *stack) {
    return !(stack->view && mnw_view_close(stack->view)) && !(stack->cache && mnw_cache_close(stack->cache)) &&
           !(stack->pool && mnw_pool_close(stack->pool)) && !(stack->store && mnw_store_close(stack->store));
}

static int page_how(const struct stack *stack, uint64_t page) {
    const char *at = (const char *)mnw_view_data(stack->view) + page * BED_PAGE;
    return bed_compare(at, page * BED_PAGE, BED_PAGE, 1, NULL);
}

/*
 * `warm`: what is made once and kept was made before, the C library's stacks of ended threads included. A
 * thread that was joined, or one of the kernel's for a ring, may be seen for some moments yet.
 */
static int compare_holdings(const struct bed_holdings *before, bool warm) {
    struct bed_holdings after = bed_holdings();
    for (int tries = 0; tries < 1000 && after.threads > before->threads; tries++) {
        usleep(1000);
        after = bed_holdings();
    }
    if (after.descriptors != before->descriptors)
        return LEAKED_DESCRIPTOR;
    if (after.threads > before->threads) /* fewer: one of before was still seen when it was counted */
        return LEAKED_THREAD;
    return warm && after.mapped_kib > before->mapped_kib ? LEAKED_MAPPING : CLEAN;
}

/* As many threads as io_uring's stand-in would need. */
static bool warm_up(const struct setting *setting) {
    struct setting other = *setting;
    struct stack stack;
    other.io_mode = MNW_IO_THREADS;
    bool opened = open_stack(&stack, &other) == 0;
    bool closed = close_stack(&stack);
    return opened && closed;
}

/* Right bytes; SIGBUS only if that is the failure. */
static int read_some(const struct stack *stack, bool *failed) {
    for (uint64_t page = 0; page < PAGES; page += 5) {
        int how = page_how(stack, page);
        if (how == BED_WRONG || (how && *failed))
            return WRONG_BYTES;
        *failed |= how != 0;
    }
    return CLEAN;
}

/* Opens, reads and closes until it went well after it had failed; twice, when it does not fail. */
static int run_open(const struct setting *setting) {
    struct stack stack;
    bool failed = !warm_up(setting), warm = !failed;
    bed_hurry(20);
    for (int attempt = 0; attempt < 1 || (attempt == 1 && failed); attempt++) {
        bool failed_before = failed;
        struct bed_holdings before = bed_holdings();
        int error = open_stack(&stack, setting), verdict = CLEAN;
        if (error > 0)
            return POSITIVE;
        if (error && !*mnw_error())
            return NO_MESSAGE;
        if (error && failed_before)
            return SECOND_FAILED; /* only one call fails */
        failed |= error != 0;
        if (!error)
            verdict = read_some(&stack, &failed);
        if (!close_stack(&stack))
            return CLOSE_FAILED;
        if (!verdict)
            verdict = compare_holdings(&before, warm);
        if (verdict)
            return verdict;
        warm |= !error;
    }
    return failed ? FAILED_CLEANLY : CLEAN;
}

static const struct setting shmem = {MNW_BACKING_SHMEM, MNW_IO_AUTO, 128 << 10, 2000, 1},
                            two_threads = {MNW_BACKING_SHMEM, MNW_IO_THREADS, 256 << 10, 2000, 2},
                            graded = {MNW_BACKING_GRADED, MNW_IO_AUTO, 4 << 20, 2000, 1},
                            hugetlb = {MNW_BACKING_HUGETLB_2M, MNW_IO_AUTO, 4 << 20, 2000, 1};

static int open_shmem(void) {
    return run_open(&shmem);
}

static int open_two_threads(void) {
    return run_open(&two_threads);
}

static int open_graded(void) {
    return run_open(&graded);
}

static int open_hugetlb(void) {
    return run_open(&hugetlb);
}

/* Reads all pages twice, with evictions in between; in the end every page can be had. */
static int run_read(const struct setting *setting) {
    struct stack stack;
    unsigned bus = 0;
    bed_hurry(20);
    if (open_stack(&stack, setting))
        return FAILED_CLEANLY; /* the call was one of the opening's */
    for (uint64_t i = 0; i < 2 * PAGES; i++) {
        int how = page_how(&stack, i * 7 % PAGES);
        if (how == BED_WRONG)
            return WRONG_BYTES;
        if (how && how != SIGBUS)
            return how;
        bus += how == SIGBUS;
    }
    int error = mnw_invalidate(stack.cache, 0, mnw_view_length(stack.view));
    if (error && (error > 0 || !*mnw_error()))
        return NO_MESSAGE;
    mnw_invalidate(stack.cache, 0, mnw_view_length(stack.view));
    for (uint64_t page = 0; page < PAGES; page++) {
        int how = page_how(&stack, page);
        /* One call fails in a run; had it not yet, it may be one of these. */
        if (how == BED_WRONG)
            return WRONG_BYTES;
        if (how && bus)
            return LOST_PAGE;
        bus += how == SIGBUS;
    }
    if (!close_stack(&stack))
        return CLOSE_FAILED;
    return bus ? FAILED_CLEANLY : CLEAN;
}

static int read_shmem(void) {
    return run_read(&shmem);
}

static int read_by_threads(void) {
    return run_read(&two_threads);
}

static int read_graded(void) {
    return run_read(&graded);
}

static int read_hugetlb(void) {
    return run_read(&hugetlb);
}

static const struct fail_case cases[] = {
    {"open shmem", open_shmem},   {"open two threads", open_two_threads},
    {"open graded", open_graded}, {"open hugetlb", open_hugetlb},
    {"read shmem", read_shmem},   {"read by threads", read_by_threads},
    {"read graded", read_graded}, {"read hugetlb", read_hugetlb},
};
#define CASES (sizeof(cases) / sizeof(cases[0]))

/* ---- the tests ---- */

struct plan {
    const char *name;
    const struct fail_watch *watched;
    size_t count;
    int errors[5];
    unsigned step; /* every so many-th call when not thorough; fewer on slow machines */
};

static const struct plan plans[] = {
    {"open shmem", opening, OPENING, {ENOMEM, EMFILE, EPERM}, 3},
    {"open two threads", opening, OPENING, {EAGAIN}, 5},
    {"open graded", opening, OPENING, {ENOMEM, EACCES}, 5},
    {"open hugetlb", opening, OPENING, {ENOMEM, ENOSPC}, 5},
    {"read shmem", mapping, MAPPING, {EAGAIN, ENOMEM, ENOSPC, EINTR}, 9},
    {"read graded", mapping, MAPPING, {EAGAIN, ENOMEM, EINVAL}, 11},
    {"read hugetlb", mapping, MAPPING, {EAGAIN, ENOSPC, ENOMEM}, 3},
    {"read shmem", transport, TRANSPORT, {EAGAIN, EINTR, ENOMEM, EBUSY}, 17},
    {"read by threads", transport, TRANSPORT, {EAGAIN, EINTR, EIO, ENOMEM}, 17},
};
#define PLANS (sizeof(plans) / sizeof(plans[0]))

static const char *verdict_of(int status) {
    if (status >= FAILED_CLEANLY && status <= LOST_PAGE)
        return verdicts[status - FAILED_CLEANLY];
    return status == 255 ? "it hung" : status > 128 ? strsignal(status - 128) : "?";
}

static void prepare(const char *name) {
    if (strstr(name, "hugetlb") && !machine_free_hugepages(HUGE, 4)) {
        print_message("cannot free huge pages\n");
        skip();
    }
    if (strstr(name, "graded") && !machine_set(SHMEM_ENABLED, "advise")) {
        print_message("cannot set shmem_enabled\n");
        skip();
    }
}

static void test_every_call(void **state) {
    const struct plan *plan = *state;
    struct fail_result result;
    unsigned step = getenv("MINNOW_TEST_ALL") ? 1 : plan->step * (unsigned)machine_slowness(), failures = 0, runs = 0,
             refusals = 0;
    bed_hurry(0);
    prepare(plan->name);
    if (!fail_run(plan->name, plan->watched, plan->count, 0, 0, &result)) {
        print_message("no seccomp notifications here\n");
        skip();
    }
    assert_int_equal(result.status, CLEAN);
    assert_true(result.seen > 5);
    for (size_t e = 0; e < 5 && plan->errors[e]; e++) {
        for (unsigned nth = 1 + (unsigned)e % step;; nth += step) {
            assert_true(fail_run(plan->name, plan->watched, plan->count, nth, plan->errors[e], &result));
            if (!result.failed)
                break;
            runs++;
            refusals += result.status == FAILED_CLEANLY;
            if (result.status == CLEAN || result.status == FAILED_CLEANLY)
                continue;
            print_message("call %u (number %ld) failing with %s: status %d, %s\n", nth, result.number,
                          strerror(plan->errors[e]), result.status, verdict_of(result.status));
            failures++;
        }
    }
    print_message("%u runs, %u of them refused or SIGBUS\n", runs, refusals);
    assert_true(runs > 0);
    assert_int_equal(failures, 0);
}

int main(int argc, char **argv) {
    int status = fail_enter(argc, argv, cases, CASES);
    if (status < 0 && MACHINE_SANITIZED) {
        fprintf(stderr, "skipped: a sanitizer's own system calls would be made to fail\n");
        return 77;
    }
    if (status < 0)
        status = machine_guard(argv);
    if (status >= 0)
        return status;
    struct bed_file file;
    /* Small stacks, for the runs: the C library keeps stacks of ended threads, up to 40 MiB of them. */
    struct rlimit stacks = {.rlim_cur = 1 << 20, .rlim_max = RLIM_INFINITY};
    setrlimit(RLIMIT_STACK, &stacks);
    bed_file(&file, PAGES * BED_PAGE, 1);
    setenv(FILE_ENV, file.path, 1);
    struct CMUnitTest tests[PLANS];
    for (size_t i = 0; i < PLANS; i++)
        tests[i] = (struct CMUnitTest){
            .name = plans[i].name, .test_func = test_every_call, .initial_state = (void *)(uintptr_t)&plans[i]};
    status = cmocka_run_group_tests_name("system call failures under the API", tests, NULL, NULL);
    bed_file_remove(&file);
    return status;
}
