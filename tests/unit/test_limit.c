/* SPDX-License-Identifier: MIT */
/* A limit that views share: nobody starves beside another, nobody waits for those who are gone, and the rate holds. */
#include "engine/limit.h"

#include "unit.h"

#define US 1000ull
#define MS 1000000ull
#define S  1000000000ull

/* A view that always has faults, on a thread that leaves it alone for a millisecond at least when it has no turn. */
struct asker {
    int wanted; /* each time */
    uint64_t resume_ns, served, longest_ns, last_ns;
    bool has_turn;
};

/* One visit: who wants many has more of them at once, and is visited until there is nothing for him. */
static void visit(struct mnw_limit *limit, struct asker *asker, uint64_t now_ns) {
    uint64_t wait_ns;
    int count = 1;
    while (count && now_ns >= asker->resume_ns) {
        count = mnw__limit_ask(limit, now_ns, asker->wanted, asker->has_turn, &wait_ns);
        asker->has_turn = !count;
        if (!count) {
            asker->resume_ns = now_ns + (wait_ns > MS ? wait_ns : MS);
            return;
        }
        mnw__limit_pay(limit, count);
        asker->served += (uint64_t)count;
        if (now_ns - asker->last_ns > asker->longest_ns)
            asker->longest_ns = now_ns - asker->last_ns;
        asker->last_ns = now_ns;
        if (asker->wanted == 1)
            return;
    }
}

/* They ask one shortly after the other, in this order, for so long. */
static void run(struct mnw_limit *limit, struct asker *askers, unsigned count, uint64_t from_ns, uint64_t to_ns) {
    for (unsigned i = 0; i < count; i++)
        askers[i].last_ns = from_ns;
    for (uint64_t now_ns = from_ns; now_ns < to_ns; now_ns += 10 * US)
        for (unsigned i = 0; i < count; i++)
            visit(limit, &askers[i], now_ns + i * US);
}

static struct mnw_limit *new_limit(uint32_t per_second, unsigned views) {
    struct mnw_limit *limit = mnw__limit_new(per_second);
    assert_non_null(limit);
    for (unsigned i = 0; i < views; i++)
        mnw__limit_ref(limit);
    return limit;
}

static void drop(struct mnw_limit *limit, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        mnw__limit_unref(limit);
}

static void test_a_view_is_served_beside_one_that_never_ceases(void **state) {
    (void)state;
    for (uint32_t per_second = 100; per_second <= 1000000; per_second *= 10) {
        struct mnw_limit *limit = new_limit(per_second, 2);
        struct asker askers[2] = {{.wanted = 64}, {.wanted = 1}};
        uint64_t fair_ns = 4 * S / per_second, most_ns = fair_ns > 3 * MS ? fair_ns : 3 * MS;
        run(limit, askers, 2, S, 6 * S);
        if (!askers[1].served || askers[1].longest_ns > most_ns)
            fail_msg("at %u/s: %llu faults served, %llu us without one", per_second,
                     (unsigned long long)askers[1].served, (unsigned long long)askers[1].longest_ns / 1000);
        drop(limit, 3);
    }
}

/* A turn is a fault on credit, which is paid back: all of them have no more than their limit. */
static void test_turns_cost_what_faults_cost(void **state) {
    (void)state;
    for (unsigned count = 1; count <= 20; count += count < 3 ? 1 : 6) {
        for (uint32_t per_second = 100; per_second <= 100000; per_second *= 10) {
            struct mnw_limit *limit = new_limit(per_second, count);
            struct asker askers[20] = {0};
            uint64_t served = 0;
            for (unsigned i = 0; i < count; i++)
                askers[i].wanted = i % 2 ? 64 : 1;
            run(limit, askers, count, S, 3 * S);
            for (unsigned i = 0; i < count; i++)
                served += askers[i].served;
            /* Two seconds of them, a tenth saved up, and a turn for each. */
            uint64_t most = per_second * 21ull / 10 + count + 1;
            if (served > most || served < per_second)
                fail_msg("%u views at %u/s had %llu faults in 2 s", count, per_second, (unsigned long long)served);
            drop(limit, count + 1);
        }
    }
}

static void test_turns_of_who_is_gone_are_nobodys(void **state) {
    (void)state;
    enum { VIEWS = 1000 };
    struct mnw_limit *limit = new_limit(100, VIEWS);
    uint64_t now_ns = 100 * S, wait_ns;
    mnw__limit_pay(limit, mnw__limit_ask(limit, now_ns, 64, false, &wait_ns));
    for (unsigned i = 0; i < VIEWS; i++) {
        assert_int_equal(mnw__limit_ask(limit, now_ns, 64, false, &wait_ns), 0);
        assert_true(wait_ns <= (i + 1) * 10 * MS);
    }
    assert_true(wait_ns > 9900 * MS);
    drop(limit, VIEWS - 1);
    now_ns += 50 * MS;
    int count = mnw__limit_ask(limit, now_ns, 64, false, &wait_ns);
    assert_int_equal(count, 5);
    mnw__limit_pay(limit, count);
    assert_int_equal(mnw__limit_ask(limit, now_ns, 64, false, &wait_ns), 0);
    assert_true(wait_ns <= 20 * MS); /* whoever opened the limit may be another */
    drop(limit, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_view_is_served_beside_one_that_never_ceases),
        cmocka_unit_test(test_turns_cost_what_faults_cost),
        cmocka_unit_test(test_turns_of_who_is_gone_are_nobodys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
