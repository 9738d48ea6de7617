/* SPDX-License-Identifier: MIT */
/* Nodes with weights take turns: everybody's share of any stretch is right to a turn. */
#include "policy/turns.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void expect_shares(uint64_t nodes, const uint8_t weights[64]) {
    struct mnw__turns turns;
    uint64_t had[64] = {0};
    double whole = 0;
    for (unsigned node = 0; node < 64; node++)
        whole += nodes >> node & 1 ? weights[node] : 0;
    assert_int_equal(mnw__turns_init(&turns, nodes, weights), 0);
    for (uint64_t turn = 0; turn < 2000; turn++) {
        had[mnw__turns_node(&turns, turn)]++;
        for (unsigned node = 0; node < 64; node++) {
            double share = nodes >> node & 1 ? (double)(turn + 1) * weights[node] / whole : 0;
            if (fabs((double)had[node] - share) > (double)__builtin_popcountll(nodes) / 2 + 1e-9)
                fail_msg("node %u has had %llu turns of %llu, and not %.1f", node, (unsigned long long)had[node],
                         (unsigned long long)turn + 1, share);
        }
    }
    mnw__turns_destroy(&turns);
    assert_int_equal(turns.count, 0);
}

static void test_shares_are_right_at_any_time(void **state) {
    (void)state;
    expect_shares(3, (const uint8_t[64]){3, 1});
    expect_shares(3, (const uint8_t[64]){255, 254});
    expect_shares(3, (const uint8_t[64]){1, 255});
    expect_shares(1ull << 63 | 4 | 1, (const uint8_t[64]){[0] = 5, [2] = 2, [63] = 4});
    expect_shares(15, (const uint8_t[64]){7, 7, 255, 1});
    uint8_t all[64];
    memset(all, 9, sizeof(all));
    expect_shares(UINT64_MAX, all);
}

static void test_a_round_is_as_short_as_can_be(void **state) {
    struct mnw__turns turns;
    (void)state;
    assert_int_equal(mnw__turns_init(&turns, 5, (const uint8_t[64]){[0] = 60, [1] = 7, [2] = 20}), 0);
    assert_int_equal(turns.count, 4);
    assert_memory_equal(turns.round, ((const uint8_t[]){0, 0, 2, 0}), 4);
    mnw__turns_destroy(&turns);
    assert_int_equal(mnw__turns_init(&turns, 2, (const uint8_t[64]){[1] = 255}), 0);
    assert_int_equal(turns.count, 1);
    mnw__turns_destroy(&turns);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares_are_right_at_any_time),
        cmocka_unit_test(test_a_round_is_as_short_as_can_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
