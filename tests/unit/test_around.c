/* SPDX-License-Identifier: MIT */
/* Reading around: blocks stay whole where faults are near each other, and shrink where they are scattered. */
#include "unit.h"

#include "guest_trace.h"
#include "model/random.h"
#include "policy/around.h"

#include <stdbool.h>
#include <string.h>

enum { BLOCK = 16, PAGES = 1 << 18 };

static struct {
    struct mnw__around around;
    bool brought[PAGES];
    uint64_t faults, guessed;
} world;

static void begin(uint32_t pages_max) {
    memset(&world, 0, sizeof(world));
    mnw__around_init(&world.around, pages_max);
}

/* A page is touched: a fault, unless it was brought before. The size of the block that came. */
static uint32_t touch(uint64_t page) {
    if (world.brought[page])
        return 0;
    uint32_t pages = mnw__around_fault(&world.around, page);
    uint64_t first = page / pages * pages;
    world.faults++;
    for (uint64_t i = first; i < first + pages; i++) {
        world.guessed += i != page && !world.brought[i];
        world.brought[i] = true;
    }
    return pages;
}

static uint64_t faults_of_guest(uint32_t pages_max) {
    begin(pages_max);
    for (size_t i = 0; i < sizeof(guest_trace) / sizeof(*guest_trace); i++)
        touch(guest_trace[i]);
    return world.faults;
}

static void test_a_guest_faults_once_per_block(void **state) {
    (void)state;
    assert_int_equal(faults_of_guest(1), sizeof(guest_trace) / sizeof(*guest_trace));
    assert_int_equal(faults_of_guest(BLOCK), 135); /* as many as there are blocks: none of them was cut */
    assert_int_equal(faults_of_guest(8), 172);
}

static void test_scattered_faults_bring_their_page_alone(void **state) {
    struct random random = {1};
    (void)state;
    begin(BLOCK);
    for (int i = 0; i < 10000; i++)
        touch(random_below(&random, PAGES));
    assert_true(world.faults > 9000);
    assert_true(world.guessed < 60 * BLOCK); /* the first thirty, and chance */
    begin(BLOCK);
    uint64_t whole = 0;
    for (int i = 0; i < 60; i++)
        whole += touch((uint64_t)i * 1000) > 1;
    assert_true(whole >= 16 && whole <= 32);
}

static void test_blocks_shrink_step_by_step_and_grow_again(void **state) {
    (void)state;
    begin(BLOCK);
    uint32_t last = BLOCK;
    bool seen[BLOCK + 1] = {false};
    for (int i = 0; i < 60; i++) {
        uint32_t now = touch((uint64_t)i * 1000);
        assert_true(now == last || now == last / 2 || now == 1);
        seen[last = now] = true;
    }
    assert_true(seen[BLOCK] && seen[8] && seen[4] && seen[1]);
    assert_int_equal(last, 1);
    for (uint64_t page = 200000; page < 200064 && last < BLOCK; page++)
        last = touch(page) ?: last;
    assert_int_equal(last, BLOCK);
}

static void test_sizes_are_powers_of_two(void **state) {
    static const uint32_t given[] = {0, 1, 2, 3, 15, 16, 17, 512}, wanted[] = {1, 1, 2, 2, 8, 16, 16, 512};
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        mnw__around_init(&world.around, given[i]);
        assert_int_equal(mnw__around_fault(&world.around, 12345), wanted[i]);
    }
}

static void test_the_last_page_there_is(void **state) {
    (void)state;
    begin(BLOCK);
    assert_int_equal(mnw__around_fault(&world.around, UINT64_MAX - 1), BLOCK);
    assert_int_equal(mnw__around_fault(&world.around, 0), BLOCK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_guest_faults_once_per_block),
        cmocka_unit_test(test_scattered_faults_bring_their_page_alone),
        cmocka_unit_test(test_blocks_shrink_step_by_step_and_grow_again),
        cmocka_unit_test(test_sizes_are_powers_of_two),
        cmocka_unit_test(test_the_last_page_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
