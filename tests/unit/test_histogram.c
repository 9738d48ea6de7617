/* SPDX-License-Identifier: MIT */
/* Histograms: bucket borders, recording from one thread and several, quantiles against sorted values. */
#include "unit.h"

#include "base/histogram.h"
#include "model/random.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { USED = 252 };

static void test_buckets_tile_all_values(void **state) {
    (void)state;
    assert_int_equal(mnw_histogram_floor(0), 0);
    for (unsigned i = 0; i < USED; i++) {
        uint64_t low = mnw_histogram_floor(i), next = mnw_histogram_floor(i + 1);
        assert_true(next > low);
        assert_int_equal(mnw__histogram_bucket(low), i);
        assert_int_equal(mnw__histogram_bucket(next - 1), i);
    }
    assert_int_equal(mnw__histogram_bucket(UINT64_MAX), USED - 1);
    assert_true(mnw_histogram_floor(MNW_HISTOGRAM_BUCKETS) == UINT64_MAX);
    assert_true(mnw_histogram_floor(UINT32_MAX) == UINT64_MAX);
}

static void test_four_buckets_to_a_power_of_two(void **state) {
    (void)state;
    for (unsigned bit = 2; bit < 64; bit++) {
        unsigned first = mnw__histogram_bucket(1ull << bit);
        for (unsigned quarter = 0; quarter < 4; quarter++)
            assert_true(mnw_histogram_floor(first + quarter) == (4ull + quarter) << (bit - 2));
    }
}

static void test_add_and_merge(void **state) {
    (void)state;
    static struct mnw__histogram from, other;
    struct mnw_histogram to = {0};
    mnw__histogram_add(&from, 5);
    mnw__histogram_add(&from, 1000);
    mnw__histogram_add(&from, 5);
    mnw__histogram_add_shared(&other, 7000);
    mnw__histogram_add_shared(&other, 6000);
    mnw__histogram_merge(&to, &from);
    assert_int_equal(to.count, 3);
    assert_int_equal(to.sum_ns, 1010);
    assert_int_equal(to.max_ns, 1000);
    assert_int_equal(to.buckets[mnw__histogram_bucket(5)], 2);
    mnw__histogram_merge(&to, &other);
    assert_int_equal(to.count, 5);
    assert_int_equal(to.sum_ns, 14010);
    assert_int_equal(to.max_ns, 7000);
}

enum { ADDERS = 4, ADDS = 200000 };

static pthread_barrier_t together;

static void *add_many(void *histogram) {
    pthread_barrier_wait(&together);
    for (uint64_t i = 1; i <= ADDS; i++)
        mnw__histogram_add_shared(histogram, i);
    return NULL;
}

static void test_shared_adds_lose_nothing(void **state) {
    (void)state;
    static struct mnw__histogram histogram;
    struct mnw_histogram sum = {0};
    pthread_t threads[ADDERS];
    assert_int_equal(pthread_barrier_init(&together, NULL, ADDERS), 0);
    for (unsigned i = 0; i < ADDERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_many, &histogram), 0);
    for (unsigned i = 0; i < ADDERS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&together);
    mnw__histogram_merge(&sum, &histogram);
    assert_int_equal(sum.count, ADDERS * ADDS);
    assert_true(sum.sum_ns == (uint64_t)ADDERS * ADDS * (ADDS + 1) / 2);
    assert_int_equal(sum.max_ns, ADDS);
}

static void test_quantile_of_nothing_and_of_one(void **state) {
    (void)state;
    struct mnw_histogram empty = {0}, one = {0};
    static struct mnw__histogram single;
    assert_int_equal(mnw_histogram_quantile(&empty, 0.5), 0);
    mnw__histogram_add(&single, 12345);
    mnw__histogram_merge(&one, &single);
    double fractions[] = {-1, 0, 0.5, 1, 2, __builtin_nan("")};
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(mnw_histogram_quantile(&one, fractions[i]), 12345);
}

/* Half of three values is the second, not the first. */
static void test_quantile_ranks_round_up(void **state) {
    (void)state;
    static struct mnw__histogram histogram;
    struct mnw_histogram sum = {0};
    for (uint64_t value = 1; value <= 3; value++)
        mnw__histogram_add(&histogram, value);
    mnw__histogram_merge(&sum, &histogram);
    static const double fractions[] = {0, 0.33, 0.34, 0.5, 0.66, 0.67, 1};
    static const uint64_t values[] = {1, 1, 2, 2, 2, 3, 3};
    for (unsigned i = 0; i < 7; i++)
        assert_int_equal(mnw_histogram_quantile(&sum, fractions[i]), values[i]);
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void check_quantile(const struct mnw_histogram *histogram, const uint64_t *sorted, size_t count,
                           double fraction) {
    size_t rank = (size_t)(fraction * (double)count);
    rank += (double)rank < fraction * (double)count;
    uint64_t exact = sorted[rank ? rank - 1 : 0], told = mnw_histogram_quantile(histogram, fraction);
    assert_true(told >= exact);
    assert_int_equal(mnw__histogram_bucket(told), mnw__histogram_bucket(exact));
}

static void test_quantiles_agree_with_sorted_values(void **state) {
    (void)state;
    enum { COUNT = 5000 };
    static uint64_t values[COUNT];
    static const double fractions[] = {0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1};
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct random random = {seed};
        static struct mnw__histogram histogram;
        struct mnw_histogram sum = {0};
        memset(&histogram, 0, sizeof(histogram));
        for (unsigned i = 0; i < COUNT; i++) {
            values[i] = random_next(&random) >> random_below(&random, 64);
            mnw__histogram_add(&histogram, values[i]);
        }
        mnw__histogram_merge(&sum, &histogram);
        qsort(values, COUNT, sizeof(values[0]), compare);
        for (unsigned i = 0; i < 8; i++)
            check_quantile(&sum, values, COUNT, fractions[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets_tile_all_values),
        cmocka_unit_test(test_four_buckets_to_a_power_of_two),
        cmocka_unit_test(test_add_and_merge),
        cmocka_unit_test(test_shared_adds_lose_nothing),
        cmocka_unit_test(test_quantile_of_nothing_and_of_one),
        cmocka_unit_test(test_quantile_ranks_round_up),
        cmocka_unit_test(test_quantiles_agree_with_sorted_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
