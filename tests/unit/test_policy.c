/* SPDX-License-Identifier: MIT */
/* Eviction policies: what every one of them promises, and what is S3-FIFO's own. */
#include "unit.h"

#include "policy/policy.h"

#include <string.h>

enum { EXTENTS = 1000 };

static struct mnw__policy_node nodes[EXTENTS];
static struct mnw__policy policy;

/* What the extents did, and what was asked about them. */
static struct {
    bool used[EXTENTS]; /* answered, and cleared, when asked */
    bool always;        /* every answer is yes */
    unsigned asks;
    unsigned asked[EXTENTS];
} world;

static bool recent(void *context, uint32_t extent) {
    assert_ptr_equal(context, &world);
    assert_true(extent < EXTENTS);
    bool answer = world.always || world.used[extent];
    world.used[extent] = false;
    world.asks++;
    world.asked[extent]++;
    return answer;
}

static void begin(const struct mnw__policy_ops *ops) {
    memset(nodes, 0, sizeof(nodes));
    memset(&world, 0, sizeof(world));
    mnw__policy_init(&policy, ops, nodes, EXTENTS);
}

static void insert_range(uint32_t from, uint32_t to) {
    for (uint32_t extent = from; extent < to; extent++)
        mnw__policy_insert(&policy, extent);
}

static uint32_t pick(void) {
    uint32_t extent = UINT32_MAX;
    assert_true(mnw__policy_pick(&policy, recent, &world, &extent));
    assert_true(extent < EXTENTS);
    assert_true(mnw__policy_is_valid(&policy));
    return extent;
}

static const struct mnw__policy_ops *const both[] = {&mnw__policy_clock, &mnw__policy_s3fifo};
#define for_both(ops) for (unsigned which = 0; which < 2 && (begin((ops) = both[which]), 1); which++)

static void test_empty_gives_nothing(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        uint32_t extent = 7;
        assert_false(mnw__policy_pick(&policy, recent, &world, &extent));
        mnw__policy_remove(&policy, 5);
        assert_int_equal(policy.count, 0);
        assert_true(mnw__policy_is_valid(&policy));
    }
}

static void test_each_extent_comes_out_once(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        bool out[EXTENTS] = {false};
        insert_range(0, EXTENTS);
        assert_int_equal(policy.count, EXTENTS);
        for (unsigned i = 0; i < EXTENTS; i++) {
            uint32_t extent = pick();
            assert_false(out[extent]);
            out[extent] = true;
        }
        assert_int_equal(policy.count, 0);
    }
}

static void test_first_and_last_extent_are_named(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        mnw__policy_insert(&policy, 0);
        mnw__policy_insert(&policy, EXTENTS - 1);
        assert_true(mnw__policy_is_valid(&policy));
        uint32_t first = pick(), second = pick();
        assert_int_equal(first + second, EXTENTS - 1);
    }
}

static void test_remove_is_idempotent(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        insert_range(0, 5);
        static const uint32_t order[] = {2, 2, 0, 4, 0, 1, 3, 3};
        for (unsigned i = 0; i < 8; i++) {
            mnw__policy_remove(&policy, order[i]);
            assert_true(mnw__policy_is_valid(&policy));
        }
        assert_int_equal(policy.count, 0);
        insert_range(0, 5);
        assert_int_equal(policy.count, 5);
    }
}

static void test_first_answer_does_not_judge(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        insert_range(0, 40);
        for (unsigned i = 0; i < 20; i++) {
            uint32_t extent = pick();
            assert_true(world.asked[extent] >= 2);
        }
    }
}

/* An extent that is used whenever it was asked about stays while others go. */
static void test_used_extents_stay(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        insert_range(0, 500);
        for (unsigned i = 0; i < 400; i++) {
            for (uint32_t hot = 100; hot < 150; hot++)
                world.used[hot] = world.asked[hot] > 0;
            uint32_t extent = pick();
            assert_false(extent >= 100 && extent < 150 && world.asked[extent]);
        }
    }
}

static void test_pick_ends_when_all_is_hot(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        insert_range(0, EXTENTS);
        world.always = true;
        for (unsigned left = EXTENTS; left; left--) {
            world.asks = 0;
            pick();
            assert_true(world.asks <= MNW__POLICY_ASKS_MAX);
            assert_true(world.asks <= left * 2);
        }
    }
}

static void test_put_back_is_not_the_next_pick(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        for (unsigned hot = 0; hot < 2; hot++) {
            begin(ops);
            world.always = hot;
            insert_range(0, 4);
            for (unsigned i = 0; i < 100; i++) {
                uint32_t a = pick(), b = pick();
                mnw__policy_put_back(&policy, a);
                mnw__policy_put_back(&policy, b);
                assert_int_equal(policy.count, 4);
                uint32_t next = pick();
                assert_true(next != a && next != b);
                mnw__policy_put_back(&policy, next);
            }
        }
    }
}

static void test_put_back_alone_is_picked(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        mnw__policy_insert(&policy, 3);
        for (unsigned i = 0; i < 5; i++) {
            assert_int_equal(pick(), 3);
            mnw__policy_put_back(&policy, 3);
            assert_true(mnw__policy_is_valid(&policy));
        }
        mnw__policy_remove(&policy, 3);
        assert_int_equal(policy.count, 0);
    }
}

/* A sparse store must not pay for extents that never came. */
static void test_other_nodes_stay_untouched(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        static const struct mnw__policy_node zero;
        insert_range(10, 20);
        for (unsigned i = 0; i < 10; i++)
            pick();
        for (uint32_t extent = 0; extent < EXTENTS; extent++)
            if (extent < 10 || extent >= 20)
                assert_memory_equal(&nodes[extent], &zero, sizeof(zero));
    }
}

static void test_validity_check_sees_damage(void **state) {
    (void)state;
    const struct mnw__policy_ops *ops;
    for_both(ops) {
        insert_range(0, 10);
        assert_true(mnw__policy_is_valid(&policy));
        for (unsigned side = 0; side < 2; side++) {
            struct mnw__policy_node was = nodes[5];
            nodes[5].link[side] ^= 1;
            assert_false(mnw__policy_is_valid(&policy));
            nodes[5] = was;
            nodes[5].link[0] ^= 1u << (30 + side); /* says another queue */
            assert_false(mnw__policy_is_valid(&policy));
            nodes[5] = was;
        }
        policy.count++;
        assert_false(mnw__policy_is_valid(&policy));
        policy.count--;
        for (unsigned queue = 0; queue < 3; queue++) {
            policy.length[queue]++;
            assert_false(mnw__policy_is_valid(&policy));
            policy.length[queue]--;
            policy.tail[queue]++;
            assert_false(mnw__policy_is_valid(&policy));
            policy.tail[queue]--;
        }
        assert_true(mnw__policy_is_valid(&policy));
    }
}

/* Fills the policy to 100 and evicts the coldest; returns what went. */
static uint32_t evict_one_of_hundred(void) {
    begin(&mnw__policy_s3fifo);
    insert_range(0, 100);
    return pick();
}

static void test_ghost_returns_past_the_trial(void **state) {
    (void)state;
    uint32_t ghost = evict_one_of_hundred();
    mnw__policy_insert(&policy, ghost);
    mnw__policy_insert(&policy, 500); /* never seen: on trial, and younger */
    for (unsigned i = 0; i < 99; i++)
        assert_int_not_equal(pick(), ghost); /* main is within its share until little else is left */
    pick();
}

static void test_ghosts_are_forgotten(void **state) {
    (void)state;
    uint32_t ghost = evict_one_of_hundred();
    for (uint32_t next = 100; next < 190; next++) {
        mnw__policy_insert(&policy, next);
        pick();
    }
    mnw__policy_insert(&policy, ghost);
    uint32_t small = policy.length[1];
    mnw__policy_remove(&policy, ghost);
    assert_int_equal(policy.length[1], small - 1); /* it had come to the small queue, like a stranger */
}

/* A newcomer that is alone on trial is not judged by the pick that armed it: it had no time to be used. */
static void test_trial_outlasts_one_pick(void **state) {
    (void)state;
    begin(&mnw__policy_s3fifo);
    for (uint32_t extent = 0; extent < 8; extent++)
        mnw__policy_put_back(&policy, extent); /* the way into main */
    mnw__policy_insert(&policy, 500);
    assert_int_equal(pick(), 500);
    mnw__policy_insert(&policy, 900);
    assert_int_not_equal(pick(), 900);
    assert_int_equal(world.asked[900], 1);
    assert_int_equal(pick(), 900);
    assert_int_equal(world.asked[900], 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_gives_nothing),
        cmocka_unit_test(test_each_extent_comes_out_once),
        cmocka_unit_test(test_first_and_last_extent_are_named),
        cmocka_unit_test(test_remove_is_idempotent),
        cmocka_unit_test(test_first_answer_does_not_judge),
        cmocka_unit_test(test_used_extents_stay),
        cmocka_unit_test(test_pick_ends_when_all_is_hot),
        cmocka_unit_test(test_put_back_is_not_the_next_pick),
        cmocka_unit_test(test_put_back_alone_is_picked),
        cmocka_unit_test(test_other_nodes_stay_untouched),
        cmocka_unit_test(test_validity_check_sees_damage),
        cmocka_unit_test(test_ghost_returns_past_the_trial),
        cmocka_unit_test(test_ghosts_are_forgotten),
        cmocka_unit_test(test_trial_outlasts_one_pick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
