/* SPDX-License-Identifier: MIT */
/* Mapping ahead of those who read what is resident. */
#include "readahead_trace.h"

static void test_resident_pages_are_mapped_ahead(void **state) {
    (void)state;
    static const uint32_t windows[] = {0, 1, 4, WINDOW, 4096};
    for (unsigned i = 0; i < 5; i++) {
        begin_resident(windows[i]);
        for (uint64_t page = 100; page < 100 + 32 * MNW__READAHEAD_AROUND_MAX; page++)
            touch(page);
        assert_int_equal(world.plan.lead_count, MNW__READAHEAD_AROUND_MAX - 1);
        assert_true(world.faults <= 32 + 12);
        assert_true(world.faults >= 32); /* not before it was known to be worth it */
    }
}

/* Reads in order until the lead is as long as it gets; the next page. */
static uint64_t read_until_led(void) {
    begin_resident(WINDOW);
    uint64_t page = 0;
    while (world.plan.lead_count < MNW__READAHEAD_AROUND_MAX - 1) {
        assert_true(page < PAGES / 2);
        touch(page++);
    }
    return page;
}

/* Of a stream of resident pages, each fault but the first few maps the window after the next. */
static void test_the_window_behind_the_next_is_mapped(void **state) {
    (void)state;
    uint64_t page = read_until_led();
    for (unsigned windows = 0; windows < 8; windows++) {
        while (world.mapped[page])
            page++;
        for (uint64_t ahead = page + 1; ahead < page + MNW__READAHEAD_AROUND_MAX; ahead++)
            assert_true(world.mapped[ahead]); /* before he came */
        assert_false(world.mapped[page + MNW__READAHEAD_AROUND_MAX]);
        touch(page);
        assert_int_equal(world.plan.around, 1);
        assert_int_equal(world.plan.lead, page + MNW__READAHEAD_AROUND_MAX + 1);
        assert_int_equal(world.plan.lead_count, MNW__READAHEAD_AROUND_MAX - 1);
    }
}

/* A reader who leaves out every sign finds no more mapped behind the window that he has, and is not taken for lost. */
static void test_a_reader_may_pass_the_sign(void **state) {
    (void)state;
    uint64_t page = read_until_led();
    unsigned faults = world.faults;
    for (unsigned windows = 0; windows < 8; windows++) {
        uint64_t sign = world.plan.lead - 1;
        for (; page < sign + MNW__READAHEAD_AROUND_MAX; page++)
            if (page != sign)
                touch(page);
        touch(page++);
        assert_int_equal(world.plan.around, MNW__READAHEAD_AROUND_MAX);
        assert_int_equal(world.plan.lead_count, MNW__READAHEAD_AROUND_MAX - 1);
    }
    assert_int_equal(world.faults - faults, 8);
}

/* What was mapped ahead is unmapped again before the consumer comes. */
static void test_mapping_ahead_that_does_not_last_shrinks(void **state) {
    (void)state;
    static const uint32_t windows[] = {0, WINDOW};
    for (unsigned i = 0; i < 2; i++) {
        begin_resident(windows[i]);
        uint64_t page = 0;
        for (; page < 20000; page++)
            touch(page);
        while (world.mapped[page])
            page++;
        uint32_t mapped = UINT32_MAX;
        for (unsigned k = 0; mapped > 1; page++, k++) {
            touch(page);
            assert_true(world.plan.around + world.plan.lead_count <= mapped);
            mapped = world.plan.around + world.plan.lead_count;
            memset(world.mapped, 0, sizeof(world.mapped));
            assert_true(k < 16);
        }
        for (unsigned k = 0; k < 10; k++, page++) {
            memset(world.mapped, 0, sizeof(world.mapped));
            touch(page);
            assert_true(world.plan.around + world.plan.lead_count <= 4);
        }
    }
}

/* Each page that was mapped ahead and run through is said to be, once; none that was not. */
static void test_what_was_run_through_is_told(void **state) {
    (void)state;
    static unsigned char passed[PAGES];
    memset(passed, 0, sizeof(passed));
    begin_resident(WINDOW);
    uint64_t last = 0;
    for (uint64_t page = 0; page < 20000; page++) {
        if (world.mapped[page])
            continue;
        touch(page);
        last = page;
        for (uint32_t i = 0; i < world.plan.passed_count; i++) {
            assert_true(world.plan.passed + i < page);
            assert_true(world.mapped[world.plan.passed + i]);
            passed[world.plan.passed + i]++;
        }
    }
    unsigned told = 0;
    for (uint64_t page = 0; page < PAGES; page++) {
        assert_true(passed[page] <= (page < last));
        told += passed[page];
    }
    assert_int_equal(told + world.faults, last + 1); /* a page faulted, or was run through */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resident_pages_are_mapped_ahead),
        cmocka_unit_test(test_the_window_behind_the_next_is_mapped),
        cmocka_unit_test(test_a_reader_may_pass_the_sign),
        cmocka_unit_test(test_mapping_ahead_that_does_not_last_shrinks),
        cmocka_unit_test(test_what_was_run_through_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
