/* SPDX-License-Identifier: MIT */
/*
 * Closing at the worst moment: views with waiters in them, caches in use, in the wrong order, and mappings
 * that the consumer takes away itself. Who waits gets SIGSEGV, what is in use says -EBUSY and goes on.
 */
#include "bed.h"
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES   256ull
#define READERS 4

static int64_t hold_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? BED_HOLD : (int64_t)read->length;
}

static const struct mnw_cache_options exact = {.size = sizeof(exact), .readahead_bytes = UINT64_MAX};

static void open_held(struct bed_source *source, struct bed *bed) {
    bed_hurry(40);
    bed_source_open(source, PAGES * BED_PAGE);
    source->answer = hold_bad_page;
    *bed = (struct bed){0};
    bed_open(bed, source->store, (struct mnw_pool_options){.budget_bytes = 512 << 10}, &exact);
}

/* ---- views with waiters ---- */

static void *touch(void *argument) {
    return (void *)(intptr_t)bed_touch(argument, NULL);
}

static void test_waiters(void **state) {
    struct bed_source source;
    struct bed bed;
    struct mnw_view *other;
    pthread_t waiters[READERS], stays;
    void *signal_number = NULL;
    (void)state;
    open_held(&source, &bed);
    atomic_store(&source.bad_page, 7);
    assert_int_equal(mnw_view_open(&other, bed.cache, NULL), 0);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&waiters[i], NULL, touch, bed.data + 7 * BED_PAGE + i), 0);
    assert_int_equal(pthread_create(&stays, NULL, touch, (char *)mnw_view_data(other) + 7 * BED_PAGE), 0);
    assert_true(bed_eventually(bed_is_held, &source));
    usleep(20000);
    assert_int_equal(mnw_view_close(bed.view), 0);
    for (int i = 0; i < READERS; i++) {
        pthread_join(waiters[i], &signal_number);
        assert_int_equal((intptr_t)signal_number, SIGSEGV);
    }
    /* Who waits in the other view is not concerned. */
    bed_assert_page(other, 8, 1);
    atomic_store(&source.bad_page, UINT64_MAX);
    assert_int_equal(bed_release(&source), 1);
    pthread_join(stays, &signal_number);
    assert_int_equal((intptr_t)signal_number, 0);
    bed_assert_page(other, 7, 1);
    bed.view = other;
    bed_close(&bed);
    bed_source_close(&source);
}

struct reader {
    pthread_t thread;
    const char *data;
    uint64_t random, right, end;
    int how;
};

/* Reads here and there until the view is gone. */
static void *read_until_gone(void *argument) {
    struct reader *reader = argument;
    while (reader->right < reader->end) {
        reader->random = reader->random * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t at = (reader->random >> 33) % PAGES * BED_PAGE;
        reader->how = bed_compare(reader->data + at, at, BED_PAGE, 1, NULL);
        if (reader->how != BED_RIGHT)
            break;
        reader->right++;
    }
    return NULL;
}

static void start_reader(struct reader *reader, const char *data, uint64_t seed, uint64_t end) {
    *reader = (struct reader){.data = data, .random = seed, .end = end};
    assert_int_equal(pthread_create(&reader->thread, NULL, read_until_gone, reader), 0);
}

/* While they fault, while pages come and while they are evicted. */
static void test_close_under_readers(void **state) {
    struct bed_source source;
    struct bed bed;
    struct reader readers[READERS], stays;
    (void)state;
    open_held(&source, &bed);
    start_reader(&stays, bed.data, 99, UINT64_MAX);
    int rounds = getenv("MINNOW_TEST_ALL") ? 500 : 40;
    for (int round = 0; round < rounds; round++) {
        struct mnw_view *view;
        assert_int_equal(mnw_view_open(&view, bed.cache, NULL), 0);
        for (uint64_t i = 0; i < READERS; i++)
            start_reader(&readers[i], mnw_view_data(view), (uint64_t)round * 17 + i, UINT64_MAX);
        usleep((useconds_t)(round % 5) * 2000);
        assert_int_equal(mnw_view_close(view), 0);
        for (int i = 0; i < READERS; i++) {
            pthread_join(readers[i].thread, NULL);
            assert_int_equal(readers[i].how, SIGSEGV);
        }
    }
    uint64_t before = *(volatile uint64_t *)&stays.right;
    for (int tries = 0; tries < 1000 && *(volatile uint64_t *)&stays.right < before + 100; tries++)
        usleep(1000);
    assert_int_equal(mnw_view_close(bed.view), 0);
    pthread_join(stays.thread, NULL);
    assert_int_equal(stays.how, SIGSEGV);
    assert_true(stays.right >= before + 100);
    assert_int_equal(mnw_cache_close(bed.cache), 0);
    assert_int_equal(mnw_pool_close(bed.pool), 0);
    bed_source_close(&source);
}

/* ---- in the wrong order ---- */

static void test_order(void **state) {
    struct bed_source source;
    struct bed bed;
    struct mnw_event event;
    pthread_t waiter;
    void *signal_number = NULL;
    (void)state;
    open_held(&source, &bed);
    atomic_store(&source.bad_page, 40);
    bed_refused(mnw_store_close(source.store), -EBUSY, "callback store", "close them first");
    bed_refused(mnw_pool_close(bed.pool), -EBUSY, "a cache is still open", "close it first");
    bed_refused(mnw_cache_close(bed.cache), -EBUSY, "a view", "close it first");
    for (uint64_t page = 0; page < 30; page++)
        bed_assert_page(bed.view, page, 1);

    assert_int_equal(pthread_create(&waiter, NULL, touch, bed.data + 40 * BED_PAGE), 0);
    assert_true(bed_eventually(bed_is_held, &source));
    bed_refused(mnw_cache_close(bed.cache), -EBUSY, "a view", "close it first");
    assert_int_equal(mnw_view_close(bed.view), 0);
    pthread_join(waiter, &signal_number);
    assert_int_equal((intptr_t)signal_number, SIGSEGV);
    assert_int_equal(bed_release(&source), 1);

    atomic_store(&source.bad_page, 45);
    assert_true(mnw_prefetch(bed.cache, 32 * BED_PAGE, 16 * BED_PAGE, 5) > 0);
    assert_true(bed_eventually(bed_is_held, &source));
    bed_refused(mnw_cache_close(bed.cache), -EBUSY, "a prefetch", "cancel it, or wait");
    bed_refused(mnw_pool_close(bed.pool), -EBUSY, "a cache is still open", "close it first");
    atomic_store(&source.bad_page, UINT64_MAX);
    bed_release(&source);
    assert_true(bed_event(bed.pool, &event, 5000));
    assert_int_equal(event.kind, MNW_EVENT_PREFETCH);
    assert_int_equal(event.result, 0);

    assert_int_equal(mnw_pin(bed.cache, 0, 20 * BED_PAGE), 0); /* two extents */
    bed_refused(mnw_cache_close(bed.cache), -EBUSY, "2 extents", "unpin them first");
    /* Nothing has changed: it all works on. */
    assert_int_equal(mnw_view_open(&bed.view, bed.cache, NULL), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        bed_assert_page(bed.view, page, 1);
    assert_int_equal(mnw_unpin(bed.cache, 0, 20 * BED_PAGE), 0);
    bed_close(&bed);
    bed_source_close(&source);
}

static void *release_later(void *argument) {
    usleep(100000);
    return (void *)(uintptr_t)bed_release(argument);
}

/* A read that is in flight has its buffer in the cache: closing waits for it. */
static void test_read_in_flight(void **state) {
    struct bed_source source;
    struct bed bed;
    pthread_t waiter, releaser;
    void *result = NULL;
    (void)state;
    open_held(&source, &bed);
    atomic_store(&source.bad_page, 3);
    assert_int_equal(pthread_create(&waiter, NULL, touch, bed.data + 3 * BED_PAGE), 0);
    assert_true(bed_eventually(bed_is_held, &source));
    assert_int_equal(mnw_view_close(bed.view), 0);
    pthread_join(waiter, &result); /* before there is another thread, whose stack might lie where the view was */
    assert_int_equal((intptr_t)result, SIGSEGV);
    assert_int_equal(pthread_create(&releaser, NULL, release_later, &source), 0);
    assert_int_equal(mnw_cache_close(bed.cache), 0);
    assert_int_equal(bed_held(&source), 0); /* it did wait */
    pthread_join(releaser, &result);
    assert_int_equal((uintptr_t)result, 1);
    assert_int_equal(bed_stats(bed.pool).resident_bytes, 0);
    assert_int_equal(mnw_pool_close(bed.pool), 0);
    bed_source_close(&source);
}

static void *release_it(void *argument) {
    bed_release(argument);
    return NULL;
}

/* The answer, from the embedder's thread, and the close, at the same time. */
static void test_close_against_answer(void **state) {
    struct bed_source source;
    struct bed bed;
    (void)state;
    open_held(&source, &bed);
    int rounds = getenv("MINNOW_TEST_ALL") ? 2000 : 150;
    for (int round = 0; round < rounds; round++) {
        pthread_t waiter, releaser;
        void *how = NULL;
        uint64_t bad = (uint64_t)round % PAGES;
        atomic_store(&source.bad_page, bad);
        assert_int_equal(pthread_create(&waiter, NULL, touch, bed.data + bad * BED_PAGE), 0);
        assert_true(bed_eventually(bed_is_held, &source));
        assert_int_equal(pthread_create(&releaser, NULL, release_it, &source), 0);
        if (round % 2)
            usleep(1 + (useconds_t)round % 50);
        assert_int_equal(mnw_view_close(bed.view), 0);
        pthread_join(waiter, &how);
        pthread_join(releaser, NULL);
        assert_true((intptr_t)how == 0 || (intptr_t)how == SIGSEGV);
        assert_int_equal(mnw_cache_close(bed.cache), 0);
        assert_int_equal(mnw_cache_open(&bed.cache, bed.pool, source.store, &exact), 0);
        assert_int_equal(mnw_view_open(&bed.view, bed.cache, NULL), 0);
        bed.data = mnw_view_data(bed.view);
    }
    bed_close(&bed);
    bed_source_close(&source);
}

/* ---- the consumer's own munmap ---- */

static void test_part_unmapped(void **state) {
    struct bed_source source;
    struct bed bed;
    struct mnw_view *other;
    struct reader readers[READERS];
    struct mnw_event event;
    (void)state;
    open_held(&source, &bed);
    assert_int_equal(mnw_view_open(&other, bed.cache, NULL), 0);
    for (uint64_t i = 0; i < READERS; i++)
        start_reader(&readers[i], mnw_view_data(other), i, 4000);
    const uint64_t first = 100, count = 20;
    bed_assert_page(bed.view, first, 1);
    assert_int_equal(munmap(bed.data + first * BED_PAGE, count * BED_PAGE), 0);
    for (int round = 0; round < 3; round++) {
        for (uint64_t page = 0; page < PAGES; page++) {
            bool gone = page >= first && page < first + count;
            if (gone)
                assert_int_equal(bed_touch(bed.data + page * BED_PAGE, NULL), SIGSEGV);
            else
                bed_assert_page(bed.view, page, 1);
        }
        /* What is done to every view does not stumble over the gap. */
        assert_int_equal(mnw_invalidate(bed.cache, 90 * BED_PAGE, 40 * BED_PAGE), 0);
        assert_int_equal(mnw_pin(bed.cache, 95 * BED_PAGE, 30 * BED_PAGE), 0);
        assert_int_equal(mnw_unpin(bed.cache, 95 * BED_PAGE, 30 * BED_PAGE), 0);
        assert_true(mnw_prefetch(bed.cache, 90 * BED_PAGE, 40 * BED_PAGE, 0) > 0);
        assert_true(bed_event(bed.pool, &event, 5000));
        assert_int_equal(event.result, 0);
    }
    /* All of it, while a thread waits there. */
    pthread_t waiter;
    void *how = NULL;
    assert_int_equal(mnw_invalidate(bed.cache, 0, PAGES * BED_PAGE), 0);
    for (int i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        assert_int_equal(readers[i].how, BED_RIGHT);
    }
    assert_int_equal(mnw_invalidate(bed.cache, 0, PAGES * BED_PAGE), 0);
    atomic_store(&source.bad_page, 200);
    assert_int_equal(pthread_create(&waiter, NULL, touch, bed.data + 200 * BED_PAGE), 0);
    assert_true(bed_eventually(bed_is_held, &source));
    assert_int_equal(munmap(bed.data, PAGES * BED_PAGE), 0);
    atomic_store(&source.bad_page, UINT64_MAX);
    bed_release(&source);
    pthread_join(waiter, &how);
    assert_int_equal((intptr_t)how, SIGSEGV);
    bed_assert_page(other, 200, 1);
    assert_int_equal(mnw_view_close(bed.view), 0);
    bed.view = other;
    bed_close(&bed);
    bed_source_close(&source);
}

/* Advice that consumers give to their mappings costs faults, never bytes. */
static void test_advice(void **state) {
    static const int advice[] = {MADV_DONTNEED, MADV_WILLNEED, MADV_RANDOM, MADV_SEQUENTIAL,
                                 MADV_COLD,     MADV_PAGEOUT,  MADV_FREE,   MADV_REMOVE};
    struct bed_source source;
    struct bed bed;
    struct reader readers[READERS];
    (void)state;
    open_held(&source, &bed);
    for (uint64_t i = 0; i < READERS; i++)
        start_reader(&readers[i], bed.data, i, 2000);
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < sizeof(advice) / sizeof(advice[0]); i++)
            madvise(bed.data + (uint64_t)round * 8 * BED_PAGE, 64 * BED_PAGE, advice[i]); /* some are refused */
        mprotect(bed.data, PAGES * BED_PAGE, PROT_READ);
    }
    for (int i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        assert_int_equal(readers[i].how, BED_RIGHT);
    }
    bed_close(&bed);
    bed_source_close(&source);
}

/* A locked view keeps what it has mapped; what fails in it can be healed all the same. */
static int64_t fail_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? -EIO : (int64_t)read->length;
}

static void test_locked(void **state) {
    struct bed_source source;
    struct bed bed;
    (void)state;
    open_held(&source, &bed);
    source.answer = fail_bad_page;
    if (mlock2(bed.data, 16 * BED_PAGE, MLOCK_ONFAULT)) {
        print_message("cannot lock memory\n");
        skip();
    }
    atomic_store(&source.bad_page, 5);
    bed_assert_bus(bed.view, 5);
    bed_assert_page(bed.view, 6, 1);
    atomic_store(&source.bad_page, UINT64_MAX);
    assert_int_equal(mnw_invalidate(bed.cache, 0, 16 * BED_PAGE), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        bed_assert_page(bed.view, page, 1);
    bed_close(&bed);
    bed_source_close(&source);
}

/* ---- everything comes and goes ---- */

static atomic_bool stopping;

static void *change_budget(void *argument) {
    struct bed *bed = argument;
    for (unsigned i = 0; !stopping; i++)
        mnw_pool_set_budget(bed->pool, (i % 2 ? 512u : 128u) << 10);
    return NULL;
}

static void test_nothing_left(void **state) {
    struct bed_source source;
    struct bed bed;
    pthread_t changer;
    (void)state;
    for (int round = 0; round < 2; round++) { /* the first warms up what is made once */
        struct bed_holdings before = bed_holdings(), after;
        open_held(&source, &bed);
        stopping = false;
        assert_int_equal(pthread_create(&changer, NULL, change_budget, &bed), 0);
        for (int again = 0; again < 20; again++) {
            struct mnw_cache *cache;
            struct mnw_view *views[3];
            assert_int_equal(mnw_cache_open(&cache, bed.pool, source.store, NULL), 0);
            for (int i = 0; i < 3; i++)
                assert_int_equal(mnw_view_open(&views[i], cache, NULL), 0);
            for (uint64_t page = 0; page < 100; page++)
                bed_assert_page(views[page % 3], page, 1);
            for (int i = 0; i < 3; i++)
                assert_int_equal(mnw_view_close(views[i]), 0);
            assert_int_equal(mnw_cache_close(cache), 0);
        }
        stopping = true;
        pthread_join(changer, NULL);
        assert_int_equal(bed_stats(bed.pool).resident_bytes, 0);
        bed_close(&bed);
        bed_source_close(&source);
        after = bed_settled(&before);
        assert_int_equal(before.descriptors, after.descriptors);
        assert_int_equal(before.threads, after.threads);
        if (round && !MACHINE_SANITIZED)
            assert_in_range(after.mappings, 0, before.mappings + 2); /* malloc may have grown */
    }
}

int main(int argc, char **argv) {
    int status = machine_guard(argv);
    (void)argc;
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_waiters),
        cmocka_unit_test(test_close_under_readers),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_read_in_flight),
        cmocka_unit_test(test_close_against_answer),
        cmocka_unit_test(test_part_unmapped),
        cmocka_unit_test(test_advice),

        cmocka_unit_test(test_locked),
        cmocka_unit_test(test_nothing_left),
    };
    return cmocka_run_group_tests_name("closing", tests, NULL, NULL);
}
