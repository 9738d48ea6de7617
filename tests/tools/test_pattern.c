/* SPDX-License-Identifier: MIT */
/* The access patterns: shares, permutations, and the zipf law against its definition. */
#include "pattern.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void sequential_shares_cover_each_piece_once(void **state) {
    (void)state;
    for (unsigned readers = 1; readers < 7; readers++) {
        enum { PIECES = 101 };
        unsigned seen[PIECES] = {0};
        for (unsigned reader = 0; reader < readers; reader++) {
            struct pattern pattern;
            pattern_init(&pattern, PATTERN_SEQUENTIAL, PIECES, 1, reader, readers, 1);
            uint64_t first = pattern_next(&pattern), share = PIECES / readers + (reader < PIECES % readers);
            seen[first]++;
            for (uint64_t i = 1; i < share; i++) {
                uint64_t piece = pattern_next(&pattern);
                assert_true(piece == first + i);
                seen[piece]++;
            }
            assert_true(pattern_next(&pattern) == first); /* and wraps */
        }
        for (unsigned i = 0; i < PIECES; i++)
            assert_int_equal(seen[i], 1);
    }
}

static void more_readers_than_pieces_still_read(void **state) {
    (void)state;
    for (unsigned reader = 0; reader < 8; reader++) {
        struct pattern pattern;
        pattern_init(&pattern, PATTERN_SEQUENTIAL, 3, 1, reader, 8, 1);
        for (int i = 0; i < 20; i++)
            assert_true(pattern_next(&pattern) < 3);
    }
}

static void scatter_is_a_permutation(void **state) {
    (void)state;
    static const uint64_t counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 100, 511, 512, 513, 4096, 10007};
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        unsigned char *seen = calloc(counts[c], 1);
        assert_non_null(seen);
        for (uint64_t i = 0; i < counts[c]; i++) {
            uint64_t to = pattern_scatter(i, counts[c]);
            assert_true(to < counts[c]);
            assert_int_equal(seen[to]++, 0);
        }
        free(seen);
    }
}

static void scatter_parts_hot_neighbours(void **state) {
    (void)state;
    unsigned near = 0;
    for (uint64_t i = 0; i + 1 < 1000; i++) {
        uint64_t a = pattern_scatter(i, 100000), b = pattern_scatter(i + 1, 100000);
        near += (a > b ? a - b : b - a) < 16;
    }
    assert_true(near < 10);
}

/* The share of rank r is r^-s over the sum of all: a million draws must meet it within five deviations. */
static void zipf_meets_its_law(void **state) {
    (void)state;
    static const uint64_t counts[] = {1, 2, 10, 1000, 200000};
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        enum { DRAWS = 1000000, RANKS = 10 };
        uint64_t count = counts[c], hits[RANKS] = {0}, first_half = 0;
        double sum = 0, half = 0;
        for (uint64_t rank = 1; rank <= count; rank++) {
            sum += pow((double)rank, -0.99);
            if (rank <= count / 2)
                half = sum;
        }
        struct pattern pattern;
        pattern_init(&pattern, PATTERN_ZIPF, count, 1, 0, 1, 42);
        for (unsigned i = 0; i < DRAWS; i++) {
            uint64_t rank = pattern_zipf_rank(&pattern);
            assert_true(rank < count);
            if (rank < RANKS)
                hits[rank]++;
            first_half += rank < count / 2;
        }
        for (uint64_t rank = 0; rank < RANKS && rank < count; rank++) {
            double share = pow((double)rank + 1, -0.99) / sum, deviation = sqrt(DRAWS * share * (1 - share));
            assert_true(fabs((double)hits[rank] - DRAWS * share) <= 5 * deviation + 1);
        }
        double share = half / sum;
        assert_true(fabs((double)first_half - DRAWS * share) <= 5 * sqrt(DRAWS * share * (1 - share)) + 1);
    }
}

static void pieces_stay_inside(void **state) {
    (void)state;
    /* 512 pieces to a page, the last page with one piece only. */
    enum { PIECES = 512 * 3 + 1 };
    for (int kind = PATTERN_SEQUENTIAL; kind <= PATTERN_ZIPF; kind++) {
        struct pattern pattern;
        unsigned last_page = 0;
        pattern_init(&pattern, (enum pattern_kind)kind, PIECES, 512, 1, 2, 9);
        for (unsigned i = 0; i < 100000; i++) {
            uint64_t piece = pattern_next(&pattern);
            assert_true(piece < PIECES);
            last_page += piece == PIECES - 1;
        }
        assert_true(last_page > 0);
    }
}

static void seeds_repeat_and_differ(void **state) {
    (void)state;
    struct pattern a, b, other_seed, other_reader;
    pattern_init(&a, PATTERN_ZIPF, 1000000, 1, 0, 2, 5);
    pattern_init(&b, PATTERN_ZIPF, 1000000, 1, 0, 2, 5);
    pattern_init(&other_seed, PATTERN_ZIPF, 1000000, 1, 0, 2, 6);
    pattern_init(&other_reader, PATTERN_ZIPF, 1000000, 1, 1, 2, 5);
    unsigned same_seed = 0, same_reader = 0;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t piece = pattern_next(&a);
        assert_true(piece == pattern_next(&b));
        same_seed += piece == pattern_next(&other_seed);
        same_reader += piece == pattern_next(&other_reader);
    }
    assert_true(same_seed < 100 && same_reader < 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequential_shares_cover_each_piece_once),
        cmocka_unit_test(more_readers_than_pieces_still_read),
        cmocka_unit_test(scatter_is_a_permutation),
        cmocka_unit_test(scatter_parts_hot_neighbours),
        cmocka_unit_test(zipf_meets_its_law),
        cmocka_unit_test(pieces_stay_inside),
        cmocka_unit_test(seeds_repeat_and_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
