/* SPDX-License-Identifier: MIT */
/*
 * Two circumstances that the library does not choose: a process that locks all its memory, and a store that takes
 * no more reads. Links the internal library, for a store of its own behind the ops.
 */
#include "machine.h"
#include "store/store.h"
#include "sys/memory.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE   4096u
#define PAGES  4096u
#define BUDGET (4u << 20)

static unsigned char byte_of(uint64_t offset) {
    return (unsigned char)(offset / PAGE * 31 + offset % 251 + 1);
}

/* ---- a store that may be crowded ---- */

static _Atomic bool crowded;

static int read_or_refuse(struct mnw_store *store, struct mnw__io *io, const struct mnw_read *read, mnw__io_done *done,
                          void *context) {
    (void)store, (void)io;
    if (atomic_load(&crowded))
        return -EAGAIN;
    for (size_t i = 0; i < read->length; i++)
        ((unsigned char *)read->buffer)[i] = byte_of(read->offset + i);
    done(context, read->token, (int64_t)read->length);
    return 0;
}

static void close_nothing(struct mnw_store *store) {
    (void)store;
}

static const struct mnw__store_ops ops = {.name = "crowded", .read = read_or_refuse, .close = close_nothing};

struct world {
    struct mnw_store store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view;
    volatile char *data;
};

static void open_world(struct world *world, uint32_t deadline_ms) {
    world->store = (struct mnw_store){.ops = &ops, .size_bytes = PAGES * (uint64_t)PAGE};
    world->store.generation = mnw__memory_generation();
    struct mnw_pool_options pool = {.size = sizeof(pool), .budget_bytes = BUDGET};
    struct mnw_cache_options cache = {.size = sizeof(cache), .read_deadline_ms = deadline_ms};
    assert_int_equal(mnw_pool_open(&world->pool, &pool), 0);
    assert_int_equal(mnw_cache_open(&world->cache, world->pool, &world->store, &cache), 0);
    assert_int_equal(mnw_view_open(&world->view, world->cache, NULL), 0);
    world->data = mnw_view_data(world->view);
}

static void close_world(struct world *world) {
    assert_int_equal(mnw_view_close(world->view), 0);
    assert_int_equal(mnw_cache_close(world->cache), 0);
    assert_int_equal(mnw_pool_close(world->pool), 0);
}

static void expect_page(const struct world *world, uint64_t page) {
    for (uint64_t offset = page * PAGE; offset < (page + 1) * PAGE; offset += 61)
        assert_int_equal((unsigned char)world->data[offset], byte_of(offset));
}

static bool no_page_is_filling(const struct world *world) {
    static uint8_t flags[PAGES];
    assert_int_equal(mnw_residency(world->cache, 0, flags, PAGES), 0);
    return !memchr(flags, MNW_FILLING, PAGES);
}

/* A sequential reader's run of several pages meets a store that refuses it for longer than the deadline. */
static void test_crowded_past_the_deadline(void **state) {
    (void)state;
    struct world world;
    uint64_t page = 0;
    uintptr_t where = 0;
    if (sysconf(_SC_PAGESIZE) != PAGE)
        skip();
    open_world(&world, 200);
    for (; page < 200; page++)
        expect_page(&world, page);
    atomic_store(&crowded, true);
    while (machine_touch(world.data + page * PAGE, &where) == 0)
        page++;
    assert_int_equal(where, (uintptr_t)(world.data + page * PAGE));
    for (int tenths = 0; !no_page_is_filling(&world) && tenths < 50; tenths++)
        usleep(100000);
    assert_true(no_page_is_filling(&world));
    atomic_store(&crowded, false);
    for (uint64_t next = page + 1; next < page + 64; next++)
        expect_page(&world, next);
    assert_int_equal(mnw_invalidate(world.cache, page * PAGE, PAGE), 0);
    expect_page(&world, page);
    close_world(&world);
}

/* mlockall() populates what is mapped later: a view must not be full of zeros before it is registered. */
static void test_all_memory_is_locked(void **state) {
    (void)state;
    struct world world;
    struct mnw_stats stats;
    if (MACHINE_SANITIZED) {
        print_message("a sanitizer's shadow cannot be locked\n");
        skip();
    }
    if (sysconf(_SC_PAGESIZE) != PAGE || mlockall(MCL_CURRENT | MCL_FUTURE)) {
        print_message("memory cannot be locked here\n");
        skip();
    }
    open_world(&world, 0);
    for (uint64_t page = 0; page < PAGES; page++)
        expect_page(&world, page);
    assert_int_equal(mnw_pool_stats(world.pool, &stats, sizeof(stats)), 0);
    assert_true(stats.faults_missing > 0 && stats.resident_bytes_max <= BUDGET);
    close_world(&world);
    assert_int_equal(munlockall(), 0);
}

int main(int count, char **arguments) {
    (void)count;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crowded_past_the_deadline),
        cmocka_unit_test(test_all_memory_is_locked),
    };
    int status = machine_guard(arguments);
    return status >= 0 ? status : cmocka_run_group_tests(tests, NULL, NULL);
}
