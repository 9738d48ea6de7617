/* SPDX-License-Identifier: MIT */
/*
 * fork(2): a child never sees zeros in place of data, nor may it use its parent's handles; it may open its
 * own; and nothing it does or holds disturbs the parent.
 */
#include "bed.h"
#include "engine/pool.h"
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 256ull
#define HUGE  ((size_t)2 << 20)

struct world {
    struct bed_source source;
    struct bed bed;
    enum mnw_backing backing;
};

static void open_world(struct world *world, enum mnw_backing backing, bool writable) {
    bool huge = backing == MNW_BACKING_HUGETLB_2M;
    memset(world, 0, sizeof(*world));
    bed_hurry(40);
    if (huge && !machine_free_hugepages(HUGE, 6)) {
        print_message("cannot free 6 huge pages\n");
        skip();
    }
    if (backing == MNW_BACKING_GRADED && !machine_set(SHMEM_ENABLED, "advise")) {
        print_message("cannot set shmem_enabled\n");
        skip();
    }
    world->backing = backing;
    bed_source_open(&world->source, huge ? 4 * HUGE : PAGES * BED_PAGE);
    struct mnw_pool_options options = {.backing = backing,
                                       .budget_bytes = huge                            ? 6 * HUGE
                                                       : backing == MNW_BACKING_GRADED ? 2 * HUGE
                                                                                       : 512 << 10};
    bed_open(&world->bed, world->source.store, options, NULL);
    if (writable) {
        struct mnw_view_options view_options = {.size = sizeof(view_options), .flags = MNW_VIEW_WRITE};
        assert_int_equal(mnw_view_close(world->bed.view), 0);
        assert_int_equal(mnw_view_open(&world->bed.view, world->bed.cache, &view_options), 0);
        world->bed.data = mnw_view_data(world->bed.view);
        memset(world->bed.data, 'x', 10);
    }
}

static void close_world(struct world *world) {
    bed_close(&world->bed);
    bed_source_close(&world->source);
}

static void assert_half(struct world *world, size_t first) {
    size_t length = mnw_view_length(world->bed.view) / 2;
    assert_int_equal(bed_compare(world->bed.data + first, first, length, 1, NULL), BED_RIGHT);
}

/* ---- what the child sees ---- */

static int touch_all(void *argument) {
    struct world *world = argument;
    size_t length = mnw_view_length(world->bed.view);
    for (size_t at = 0; at < length; at += BED_PAGE) {
        uintptr_t fault = 0;
        bed_check(bed_touch(world->bed.data + at, &fault) == SIGSEGV);
        bed_check(fault == (uintptr_t)world->bed.data + at);
    }
    int pipes[2];
    bed_check(pipe(pipes) == 0);
    bed_check(write(pipes[1], world->bed.data, 10) == -1 && errno == EFAULT);
    return 0;
}

static void sees(enum mnw_backing backing, bool writable) {
    struct world world;
    open_world(&world, backing, writable);
    size_t half = mnw_view_length(world.bed.view) / 2;
    assert_half(&world, half); /* half of it is mapped, half was never touched */
    assert_int_equal(bed_child(touch_all, &world), 0);
    assert_half(&world, half);
    assert_int_equal(bed_compare(world.bed.data + BED_PAGE, BED_PAGE, half, 1, NULL), BED_RIGHT);
    if (writable)
        assert_memory_equal(world.bed.data, "xxxxxxxxxx", 10);
    close_world(&world);
}

static void test_sees_shmem(void **state) {
    (void)state;
    sees(MNW_BACKING_SHMEM, false);
}

static void test_sees_writable(void **state) {
    (void)state;
    sees(MNW_BACKING_SHMEM, true);
}

static void test_sees_graded(void **state) {
    (void)state;
    sees(MNW_BACKING_GRADED, false);
}

static void test_sees_hugetlb(void **state) {
    (void)state;
    sees(MNW_BACKING_HUGETLB_2M, false);
}

/* Pages that failed lie behind another mapping on a kernel without poison: that one is not the child's either. */
static int64_t fail_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? -EIO : (int64_t)read->length;
}

static void sees_failed(bool no_poison) {
    struct world world;
    open_world(&world, MNW_BACKING_SHMEM, false);
    world.bed.pool->has_poison &= !no_poison;
    world.source.answer = fail_bad_page;
    atomic_store(&world.source.bad_page, 5);
    bed_assert_bus(world.bed.view, 5);
    bed_assert_page(world.bed.view, 4, 1);
    assert_int_equal(bed_child(touch_all, &world), 0);
    atomic_store(&world.source.bad_page, UINT64_MAX);
    assert_int_equal(mnw_invalidate(world.bed.cache, 5 * BED_PAGE, BED_PAGE), 0);
    bed_assert_page(world.bed.view, 5, 1);
    assert_int_equal(bed_child(touch_all, &world), 0); /* healing maps anew */
    close_world(&world);
}

static void test_sees_failed(void **state) {
    (void)state;
    sees_failed(false);
}

static void test_sees_failed_without_poison(void **state) {
    (void)state;
    sees_failed(true);
}

/* ---- the parent's handles ---- */

#define check_heir(call)                                                                                               \
    do {                                                                                                               \
        bed_check((call) == -EOWNERDEAD);                                                                              \
        bed_check(strstr(mnw_error(), "fork") != NULL);                                                                \
    } while (0)

static void open_own(struct mnw_store **store, struct mnw_pool **pool, const void *bytes, size_t length) {
    struct mnw_pool_options options = {.size = sizeof(options), .budget_bytes = BED_MIB};
    bed_check(mnw_store_open_memory(store, bytes, length) == 0);
    bed_check(mnw_pool_open(pool, &options) == 0);
}

static int use_handles(void *argument) {
    struct world *world = argument;
    struct bed *bed = &world->bed;
    struct mnw_event event;
    struct mnw_stats stats;
    struct mnw_node_latency latency;
    struct mnw_node_stats node;
    struct mnw_cache *cache = NULL;
    struct mnw_view *view = NULL;
    struct mnw_store *store;
    struct mnw_pool *pool;
    uint8_t flags;
    check_heir(mnw_pool_set_budget(bed->pool, BED_MIB));
    check_heir(mnw_pool_event_fd(bed->pool));
    check_heir(mnw_pool_next_event(bed->pool, &event));
    check_heir(mnw_pool_stats(bed->pool, &stats, sizeof(stats)));
    check_heir(mnw_pool_latency(bed->pool, 0, &latency, sizeof(latency)));
    check_heir(mnw_pool_node_stats(bed->pool, 0, &node, sizeof(node)));
    bed_check(mnw_pool_stats_json(bed->pool) == NULL);
    check_heir(mnw_cache_open(&cache, bed->pool, world->source.store, NULL));
    check_heir(mnw_cache_stats(bed->cache, &stats, sizeof(stats)));
    check_heir(mnw_view_open(&view, bed->cache, NULL));
    check_heir(mnw_pin(bed->cache, 0, BED_PAGE));
    check_heir(mnw_unpin(bed->cache, 0, BED_PAGE));
    check_heir(mnw_prefetch(bed->cache, 0, BED_PAGE, 0));
    check_heir(mnw_prefetch_cancel(bed->pool, 1));
    check_heir(mnw_invalidate(bed->cache, 0, BED_PAGE));
    check_heir(mnw_residency(bed->cache, 0, &flags, 1));
    check_heir(mnw_read_done(world->source.store, 1, 1));
    check_heir(mnw_view_close(bed->view));
    check_heir(mnw_cache_close(bed->cache));
    check_heir(mnw_pool_close(bed->pool));
    check_heir(mnw_store_close(world->source.store));
    /* Nor do they mix with its own. */
    open_own(&store, &pool, "abc", 3);
    check_heir(mnw_cache_open(&cache, pool, world->source.store, NULL));
    check_heir(mnw_cache_open(&cache, bed->pool, store, NULL));
    bed_check(!cache && !view);
    bed_check(mnw_pool_close(pool) == 0);
    bed_check(mnw_store_close(store) == 0);
    return 0;
}

/* By the system call: the C library does not see it. */
static int raw_child(int (*body)(void *argument), void *argument) {
    fflush(NULL);
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (!child) {
        int status = body(argument);
        _exit(status);
    }
    int status = 0;
    assert_true(child > 0);
    while (waitpid(child, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void test_handles(void **state) {
    struct world world;
    (void)state;
    open_world(&world, MNW_BACKING_SHMEM, false);
    assert_half(&world, 0);
    assert_int_equal(mnw_pin(world.bed.cache, 0, BED_PAGE), 0);
    assert_int_equal(bed_child(use_handles, &world), 0);
    assert_int_equal(raw_child(use_handles, &world), 0);
    assert_int_equal(mnw_unpin(world.bed.cache, 0, BED_PAGE), 0);
    assert_half(&world, 0);
    close_world(&world);
}

/* ---- the child's own ---- */

static int read_own(void *argument) {
    struct world *world = argument;
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view;
    static char bytes[64 * BED_PAGE];
    bed_bytes(bytes, 0, sizeof(bytes), 7);
    if (world) /* before its own mappings may take the place */
        bed_check(touch_all(world) == 0);
    open_own(&store, &pool, bytes, sizeof(bytes));
    bed_check(mnw_cache_open(&cache, pool, store, NULL) == 0);
    bed_check(mnw_view_open(&view, cache, NULL) == 0);
    bed_check(bed_compare(mnw_view_data(view), 0, sizeof(bytes), 7, NULL) == BED_RIGHT);
    if (world) {
        /* A grandchild's view of the child's pool. */
        struct world heirs = {.bed = {.view = view, .data = mnw_view_data(view)}};
        bed_check(bed_child(touch_all, &heirs) == 0);
        bed_check(bed_child(read_own, NULL) == 0);
    }
    bed_check(mnw_view_close(view) == 0);
    bed_check(mnw_cache_close(cache) == 0);
    bed_check(mnw_pool_close(pool) == 0);
    bed_check(mnw_store_close(store) == 0);
    return 0;
}

static void test_own(void **state) {
    struct world world;
    (void)state;
    open_world(&world, MNW_BACKING_SHMEM, false);
    assert_half(&world, 0);
    assert_int_equal(bed_child(read_own, &world), 0);
    assert_int_equal(raw_child(read_own, NULL), 0);
    assert_half(&world, 0);
    close_world(&world);
}

/* ---- the parent under load ---- */

static atomic_bool stopping;
static _Atomic uint64_t pages_read, pages_wrong;

static void *read_on(void *argument) {
    struct world *world = argument;
    uint64_t random = (uintptr_t)pthread_self() | 1;
    while (!stopping) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t at = (random >> 33) % PAGES * BED_PAGE;
        pages_wrong += bed_compare(world->bed.data + at, at, BED_PAGE, 1, NULL) != BED_RIGHT;
        pages_read++;
    }
    return NULL;
}

static int touch_some(void *argument) {
    struct world *world = argument;
    for (size_t at = 0; at < PAGES * BED_PAGE; at += 16 * BED_PAGE)
        bed_check(bed_touch(world->bed.data + at, NULL) == SIGSEGV);
    return 0;
}

static void test_load(void **state) {
    struct world world;
    pthread_t readers[3];
    (void)state;
    open_world(&world, MNW_BACKING_SHMEM, false); /* half of it fits: evictions go on */
    stopping = false;
    pages_read = pages_wrong = 0;
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_on, &world), 0);
    int children = getenv("MINNOW_TEST_ALL") ? 1000 : 60;
    for (int i = 0; i < children; i++) {
        char *const arguments[] = {(char *)(uintptr_t) "true", NULL};
        pid_t spawned;
        assert_int_equal(i % 8 == 3 ? bed_child(read_own, NULL) : bed_child(touch_some, &world), 0);
        if (i % 8 == 5 && !posix_spawn(&spawned, "/bin/true", NULL, NULL, arguments, NULL))
            waitpid(spawned, NULL, 0);
    }
    uint64_t before = pages_read;
    for (int tries = 0; tries < 1000 && pages_read < before + 1000; tries++)
        usleep(10000);
    stopping = true;
    for (int i = 0; i < 3; i++)
        pthread_join(readers[i], NULL);
    assert_true(pages_read >= before + 1000);
    assert_int_equal(pages_wrong, 0);
    assert_true(bed_stats(world.bed.pool).evictions > 0);
    close_world(&world);
}

/* ---- a child that keeps what it inherited ---- */

static int64_t hold_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? BED_HOLD : (int64_t)read->length;
}

static void *wait_in_view(void *argument) {
    return (void *)(intptr_t)bed_touch(argument, NULL);
}

/* The child has the view's userfaultfd open: the parent's close must not wait for its end. */
static void test_holder(void **state) {
    struct world world;
    pthread_t waiter;
    void *signal_number = NULL;
    int status;
    (void)state;
    open_world(&world, MNW_BACKING_SHMEM, false);
    world.source.answer = hold_bad_page;
    atomic_store(&world.source.bad_page, 200);
    bed_assert_page(world.bed.view, 0, 1);
    assert_int_equal(pthread_create(&waiter, NULL, wait_in_view, world.bed.data + 200 * BED_PAGE), 0);
    assert_true(bed_eventually(bed_is_held, &world.source));
    fflush(NULL);
    pid_t holder = fork();
    if (!holder) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(120);
        for (;;)
            pause();
    }
    assert_true(holder > 0);
    assert_int_equal(mnw_view_close(world.bed.view), 0);
    assert_int_equal(pthread_join(waiter, &signal_number), 0);
    assert_int_equal((intptr_t)signal_number, SIGSEGV);
    bed_release(&world.source);
    assert_int_equal(mnw_cache_close(world.bed.cache), 0);
    assert_int_equal(mnw_pool_close(world.bed.pool), 0);
    bed_source_close(&world.source);
    /* And everything anew, while it still holds the old. */
    open_world(&world, MNW_BACKING_SHMEM, false);
    assert_half(&world, 0);
    kill(holder, SIGKILL);
    assert_int_equal(waitpid(holder, &status, 0), holder);
    assert_half(&world, BED_PAGE);
    close_world(&world);
}

int main(int argc, char **argv) {
    int status = machine_guard(argv);
    (void)argc;
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sees_shmem),  cmocka_unit_test(test_sees_writable),
        cmocka_unit_test(test_sees_graded), cmocka_unit_test(test_sees_hugetlb),
        cmocka_unit_test(test_sees_failed), cmocka_unit_test(test_sees_failed_without_poison),
        cmocka_unit_test(test_handles),     cmocka_unit_test(test_own),
        cmocka_unit_test(test_load),        cmocka_unit_test(test_holder),
    };
    return cmocka_run_group_tests_name("fork", tests, NULL, NULL);
}
