/* SPDX-License-Identifier: MIT */
/* Whom a fault thread follows, how often it looks, and when it stays away. Looking and moving are played here. */
#include "engine/follow.h"
#include "sys/thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MS 1000000ull

static struct {
    unsigned looks, moves;
    uint32_t looked_for;
    int cpu, moved_to;
} played;

int mnw__thread_cpu_of(uint32_t thread_id) {
    played.looks++;
    played.looked_for = thread_id;
    return played.cpu;
}

void mnw__thread_move_to(int cpu) {
    played.moves++;
    played.moved_to = cpu;
}

static int begin(void **state) {
    (void)state;
    played.looks = played.moves = 0;
    played.cpu = 3;
    return 0;
}

static void fault(struct mnw__follow *follow, uint32_t thread_id, unsigned times, uint64_t now_ns) {
    while (times--)
        mnw__follow_note(follow, thread_id, now_ns);
}

static void test_lone_faulter(void **state) {
    struct mnw__follow follow = {0};
    (void)state;
    fault(&follow, 7, 4, MS);
    assert_int_equal(played.looks, 0);
    fault(&follow, 7, 1, MS);
    assert_int_equal(played.looks, 1);
    assert_int_equal(played.looked_for, 7);
    assert_int_equal(played.moves, 1);
    assert_int_equal(played.moved_to, 3);
}

/* However fast it faults, and wherever it goes. */
static void test_looks_are_rare(void **state) {
    struct mnw__follow follow = {0};
    (void)state;
    for (uint64_t now_ns = MS; now_ns < 101 * MS; now_ns += MS / 100) {
        played.cpu ^= 1;
        fault(&follow, 7, 1, now_ns);
    }
    assert_in_range(played.looks, 45, 51);
    assert_int_equal(played.moves, played.looks);
}

static void test_several(void **state) {
    struct mnw__follow follow = {0};
    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        fault(&follow, 7, 2, i * MS);
        fault(&follow, 8, 2, i * MS);
    }
    for (unsigned i = 0; i < 1000; i++) {
        fault(&follow, 7, 4, i * MS);
        fault(&follow, 0, 1, i * MS); /* a batch of several, or a kernel that does not say */
    }
    fault(&follow, 0, 1000, 5000 * MS);
    assert_int_equal(played.looks, 0);
}

static void test_stays_away_while_reading_ahead(void **state) {
    struct mnw__follow follow = {0};
    (void)state;
    fault(&follow, 7, 10, MS);
    assert_int_equal(played.looks, 1);
    for (unsigned i = 0; i < 100; i++) {
        mnw__follow_defer(&follow, (10 + 10 * i) * MS);
        fault(&follow, 7, 30, (11 + 10 * i) * MS);
    }
    assert_int_equal(played.looks, 1);
    fault(&follow, 7, 10, 1100 * MS);
    assert_int_equal(played.looks, 2);
}

static void test_unseen(void **state) {
    struct mnw__follow follow = {0};
    (void)state;
    played.cpu = -1;
    fault(&follow, 7, 10, MS);
    assert_int_equal(played.looks, 1);
    assert_int_equal(played.moves, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_lone_faulter, begin),
        cmocka_unit_test_setup(test_looks_are_rare, begin),
        cmocka_unit_test_setup(test_several, begin),
        cmocka_unit_test_setup(test_stays_away_while_reading_ahead, begin),
        cmocka_unit_test_setup(test_unseen, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
