/* SPDX-License-Identifier: MIT */
/*
 * Whom a fault thread follows, how often it looks, when it stays away, and when it lets its faulter run before it
 * sleeps. Looking, moving, time and what others do meanwhile are played here.
 */
#include "engine/follow.h"
#include "sys/thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define MS 1000000ull

static struct {
    unsigned looks, moves;
    uint32_t looked_for;
    int cpu, moved_to;
    bool may_not_move;
    unsigned yields, kept_each; /* one yield in so many is kept; 0: each */
    uint64_t now_ns, kept_ns;   /* for so long the CPU is another's when it is given away */
} played;

int mnw__thread_cpu_of(uint32_t thread_id) {
    played.looks++;
    played.looked_for = thread_id;
    return played.cpu;
}

bool mnw__thread_move_to(int cpu) {
    played.moves++;
    played.moved_to = cpu;
    return !played.may_not_move;
}

void mnw__thread_yield(void) {
    played.yields++;
    if (!played.kept_each || played.yields % played.kept_each == 0)
        played.now_ns += played.kept_ns;
}

uint64_t mnw__clock_ns(void) {
    return played.now_ns;
}

static int begin(void **state) {
    (void)state;
    memset(&played, 0, sizeof(played));
    played.cpu = 3;
    played.now_ns = MS;
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

/* Faults that are served one by one, and before each next one the thread would sleep. */
static unsigned serve(struct mnw__follow *follow, unsigned times) {
    unsigned before = played.yields;
    for (unsigned i = 0; i < times; i++) {
        mnw__follow_note(follow, 7, played.now_ns);
        mnw__follow_give_way(follow);
        mnw__follow_give_way(follow); /* woken for something else */
        played.now_ns += MS / 200;
    }
    return played.yields - before;
}

static void test_lets_a_lone_faulter_run(void **state) {
    struct mnw__follow follow = {0};
    (void)state;
    mnw__follow_give_way(&follow);
    assert_int_equal(serve(&follow, 4), 0);
    assert_int_equal(serve(&follow, 1000), 1000);
    mnw__follow_note(&follow, 8, played.now_ns);
    mnw__follow_give_way(&follow);
    assert_int_equal(played.yields, 1000);
    assert_int_equal(serve(&follow, 4), 0);
}

static void test_sleeps_where_the_faulter_is_not(void **state) {
    struct mnw__follow away = {0}, unseen = {0}, reading = {0};
    (void)state;
    played.may_not_move = true;
    assert_int_equal(serve(&away, 1000), 0);
    played.may_not_move = false;
    played.cpu = -1;
    assert_int_equal(serve(&unseen, 1000), 0);
    played.cpu = 3;
    for (unsigned i = 0; i < 100; i++) {
        mnw__follow_defer(&reading, played.now_ns);
        assert_int_equal(serve(&reading, 30), 0);
    }
}

/* Where each time costs a slice of another's, it is hardly ever done; once he is gone, it is done again. */
static void test_sleeps_where_another_computes(void **state) {
    struct mnw__follow follow = {0};
    (void)state;
    serve(&follow, 100);
    played.kept_ns = 3 * MS;
    uint64_t begin_ns = played.now_ns, yields = 0;
    while (played.now_ns < begin_ns + 20000 * MS)
        yields += serve(&follow, 100);
    assert_in_range(yields * played.kept_ns, 1, 200 * MS);
    played.kept_ns = 0;
    begin_ns = played.now_ns;
    while (played.now_ns < begin_ns + 4000 * MS)
        serve(&follow, 100);
    assert_int_equal(serve(&follow, 1000), 1000);
    played.kept_ns = 3 * MS;
    serve(&follow, 1);
    played.kept_ns = 0;
    assert_int_equal(serve(&follow, 1000), 0); /* 5 ms */
    begin_ns = played.now_ns;
    while (played.now_ns < begin_ns + 100 * MS)
        serve(&follow, 1);
    assert_int_equal(serve(&follow, 1000), 1000); /* it was forgotten that it had been worse */
}

/* It is not always his turn who computes here: that it went well a few times says little. */
static void test_sleeps_where_another_computes_at_times(void **state) {
    struct mnw__follow follow = {0};
    (void)state;
    played.kept_ns = 3 * MS;
    played.kept_each = 10;
    while (played.now_ns < 20000 * MS)
        serve(&follow, 100);
    assert_in_range(played.yields / 10 * played.kept_ns, 1, 200 * MS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_lone_faulter, begin),
        cmocka_unit_test_setup(test_looks_are_rare, begin),
        cmocka_unit_test_setup(test_several, begin),
        cmocka_unit_test_setup(test_stays_away_while_reading_ahead, begin),
        cmocka_unit_test_setup(test_unseen, begin),
        cmocka_unit_test_setup(test_lets_a_lone_faulter_run, begin),
        cmocka_unit_test_setup(test_sleeps_where_the_faulter_is_not, begin),
        cmocka_unit_test_setup(test_sleeps_where_another_computes, begin),
        cmocka_unit_test_setup(test_sleeps_where_another_computes_at_times, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
