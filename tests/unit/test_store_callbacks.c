/* SPDX-License-Identifier: MIT */
/* The callback store: answers from anywhere, once each; bad answers; the table's end; threads. */
#include "unit.h"

#include "base/error.h"
#include "model/random.h"
#include "store/store.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

enum { TABLE = 4096 };

static struct mnw_store *store;
static struct mnw_read asked[TABLE];
static unsigned asked_count;
static uint64_t done_token;
static int64_t done_result;
static unsigned done_count, closed_count;
static bool answer_at_once;
static int check_result;

static void note_done(void *context, uint64_t token, int64_t result) {
    assert_ptr_equal(context, &done_count);
    done_token = token;
    done_result = result;
    done_count++;
}

static void note_read(void *context, const struct mnw_read *read) {
    assert_ptr_equal(context, &asked_count);
    asked[asked_count++ % TABLE] = *read;
    if (answer_at_once)
        assert_int_equal(mnw_read_done(store, read->token, (int64_t)read->length), 0);
}

static int note_check(void *context, uint64_t offset, const void *bytes, size_t length) {
    assert_ptr_equal(context, &asked_count);
    assert_int_equal(offset, 4096);
    assert_memory_equal(bytes, "abc", 3);
    assert_int_equal(length, 3);
    return check_result;
}

static void note_close(void *context) {
    assert_ptr_equal(context, &asked_count);
    closed_count++;
}

static int open_store(void **state) {
    (void)state;
    struct mnw_store_callbacks callbacks = {sizeof(callbacks), 1 << 20, .read = note_read, .check = note_check,
                                            .close = note_close};
    asked_count = done_count = closed_count = 0;
    answer_at_once = false;
    return mnw_store_open_callbacks(&store, &callbacks, &asked_count);
}

static int close_store(void **state) {
    (void)state;
    return mnw_store_close(store) || closed_count != 1;
}

static int start(uint64_t token, uint64_t offset, size_t length) {
    struct mnw_read read = {.token = token, .offset = offset, .buffer = &asked, .length = length};
    return store->ops->read(store, NULL, &read, note_done, &done_count);
}

static void test_one_read(void **state) {
    (void)state;
    assert_int_equal(start(0xfedcba9876543210u, 8192, 4096), 0);
    assert_int_equal(asked_count, 1);
    assert_int_equal(asked[0].offset, 8192);
    assert_int_equal(asked[0].length, 4096);
    assert_ptr_equal(asked[0].buffer, &asked);
    assert_int_equal(done_count, 0);
    assert_int_equal(mnw_read_done(store, asked[0].token, 100), 0);
    assert_int_equal(done_count, 1);
    assert_true(done_token == 0xfedcba9876543210u);
    assert_int_equal(done_result, 100);
}

static void test_answer_before_read_returns(void **state) {
    (void)state;
    answer_at_once = true;
    for (unsigned i = 0; i < 3 * TABLE; i++) {
        assert_int_equal(start(i, 0, 512), 0);
        assert_int_equal(done_count, i + 1);
        assert_int_equal(done_token, i);
        assert_int_equal(done_result, 512);
    }
}

static void expect_stale(uint64_t token) {
    unsigned before = done_count;
    assert_int_equal(mnw_read_done(store, token, 1), -ESTALE);
    assert_int_equal(done_count, before);
}

static void test_answered_twice(void **state) {
    (void)state;
    start(1, 0, 4096);
    uint64_t first = asked[0].token;
    assert_int_equal(mnw_read_done(store, first, 4096), 0);
    expect_stale(first);
    expect_stale(first + (1ull << 32)); /* the entry's next generation, before anybody asked */
    start(2, 0, 4096);                  /* the same entry again */
    assert_true(asked[1].token != first);
    assert_int_equal((uint32_t)asked[1].token, (uint32_t)first);
    expect_stale(first);
    assert_int_equal(mnw_read_done(store, asked[1].token, 4096), 0);
    assert_int_equal(done_token, 2);
}

static void test_tokens_never_asked(void **state) {
    (void)state;
    struct random random = {3};
    static const uint64_t bogus[] = {0, 1, UINT64_MAX, TABLE, 1ull << 32 | TABLE, 1ull << 32, 1ull << 32 | 4095};
    for (unsigned i = 0; i < 7; i++)
        expect_stale(bogus[i]);
    start(1, 0, 4096);
    for (unsigned i = 0; i < 10000; i++) {
        uint64_t token = random_next(&random) & 0x3ffff0fffu;
        if (token != asked[0].token)
            expect_stale(token);
    }
    assert_int_equal(mnw_read_done(store, asked[0].token, 0), 0);
    assert_int_equal(done_result, 0);
}

static void test_results_are_checked(void **state) {
    (void)state;
    static const struct {
        int64_t told, result;
        int returned;
    } cases[] = {{4096, 4096, 0},
                 {1, 1, 0},
                 {0, 0, 0},
                 {-EIO, -EIO, 0},
                 {-4095, -4095, 0},
                 {4097, -EIO, -EINVAL},
                 {-4096, -EIO, -EINVAL},
                 {INT64_MAX, -EIO, -EINVAL},
                 {INT64_MIN, -EIO, -EINVAL}};
    for (unsigned i = 0; i < 9; i++) {
        start(i, 0, 4096);
        assert_int_equal(mnw_read_done(store, asked[i].token, cases[i].told), cases[i].returned);
        assert_int_equal(done_count, i + 1); /* answered all the same: no fault may wait for ever */
        assert_int_equal(done_result, cases[i].result);
        expect_stale(asked[i].token);
    }
}

static void test_full_table(void **state) {
    (void)state;
    for (unsigned i = 0; i < TABLE; i++)
        assert_int_equal(start(i, 0, 4096), 0);
    assert_int_equal(start(TABLE, 0, 4096), -EAGAIN);
    assert_int_equal(asked_count, TABLE);
    assert_int_equal(mnw_read_done(store, asked[1000].token, 1), 0);
    assert_int_equal(done_token, 1000);
    uint64_t last = asked[TABLE - 1].token;
    assert_int_equal(start(TABLE, 0, 4096), 0);
    assert_int_equal(start(TABLE, 0, 4096), -EAGAIN);
    uint64_t again = asked[0].token; /* the ring of the test has wrapped */
    assert_int_equal(mnw_read_done(store, again, 1), 0);
    assert_int_equal(done_token, TABLE);
    for (unsigned i = 1; i < TABLE - 1; i++)
        assert_int_equal(mnw_read_done(store, asked[i].token, 1), i == 1000 ? -ESTALE : 0);
    assert_int_equal(mnw_read_done(store, last, 1), 0);
}

static void test_check_is_passed_on(void **state) {
    (void)state;
    static const int results[][2] = {{0, 0}, {-EILSEQ, -EILSEQ}, {1, -EIO}, {-5000, -EIO}};
    for (unsigned i = 0; i < 4; i++) {
        check_result = results[i][0];
        assert_int_equal(store->ops->check(store, 4096, "abc", 3), results[i][1]);
    }
}

/* ---- threads: askers, and answerers who answer each read twice ------------------------------------------------ */

enum { THREADS = 3, READS = 20000 };

static pthread_mutex_t box_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t box[TABLE];
static unsigned box_count;
static _Atomic unsigned answered[THREADS * READS];
static _Atomic unsigned accepted, stale;

static void box_read(void *context, const struct mnw_read *read) {
    (void)context;
    pthread_mutex_lock(&box_lock);
    box[box_count++] = read->token;
    pthread_mutex_unlock(&box_lock);
}

static void count_done(void *context, uint64_t token, int64_t result) {
    (void)context;
    (void)result;
    atomic_fetch_add(&answered[token], 1);
}

static void *ask_many(void *first) {
    for (uint64_t i = 0; i < READS; i++) {
        struct mnw_read read = {.token = (uintptr_t)first + i, .length = 1};
        while (store->ops->read(store, NULL, &read, count_done, NULL) == -EAGAIN)
            ;
    }
    return NULL;
}

static void answer(uint64_t token) {
    int result = mnw_read_done(store, token, 1);
    atomic_fetch_add(result ? &stale : &accepted, 1);
}

static void *answer_many(void *unused) {
    while (atomic_load(&accepted) < THREADS * READS) {
        pthread_mutex_lock(&box_lock);
        uint64_t token = box_count ? box[--box_count] : 0;
        pthread_mutex_unlock(&box_lock);
        if (token) {
            answer(token);
            answer(token);
        }
    }
    return unused;
}

static void test_threads(void **state) {
    (void)state;
    pthread_t askers[THREADS], answerers[THREADS];
    struct mnw_store_callbacks callbacks = {sizeof(callbacks), 1 << 20, .read = box_read};
    assert_int_equal(mnw_store_open_callbacks(&store, &callbacks, NULL), 0);
    for (uintptr_t i = 0; i < THREADS; i++) {
        pthread_create(&askers[i], NULL, ask_many, (void *)(i * READS));
        pthread_create(&answerers[i], NULL, answer_many, NULL);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(askers[i], NULL);
        pthread_join(answerers[i], NULL);
    }
    for (unsigned i = 0; i < THREADS * READS; i++)
        assert_int_equal(answered[i], 1);
    assert_int_equal(accepted, THREADS * READS);
    assert_int_equal(stale, THREADS * READS);
    assert_int_equal(mnw_store_close(store), 0);
}

#define with_store(test) cmocka_unit_test_setup_teardown(test, open_store, close_store)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_store(test_one_read),
        with_store(test_answer_before_read_returns),
        with_store(test_answered_twice),
        with_store(test_tokens_never_asked),
        with_store(test_results_are_checked),
        with_store(test_full_table),
        with_store(test_check_is_passed_on),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
