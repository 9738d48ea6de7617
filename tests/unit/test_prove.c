/* SPDX-License-Identifier: MIT */
/* What is believed of words that were left behind: each state a death can leave, on each kind of memory. */
#include "page/prove.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 14, SHIFT = 3, EXTENT_PAGES = 1 << SHIFT };

static _Atomic uint32_t words[PAGES];
static _Atomic uint64_t extents[2];
static struct mnw__pages pages = {
    .words = words, .extents = extents, .page_count = PAGES, .extent_count = 2, .extent_shift = SHIFT};
static struct mnw__proof proof;

static int begin(void **state) {
    (void)state;
    memset(words, 0, sizeof(words));
    memset(extents, 0, sizeof(extents));
    memset(&proof, 0, sizeof(proof));
    return 0;
}

/* Makes extent 0 RESIDENT with so many pages PRESENT, as the transitions do it; and its memory. */
static void fill(uint64_t extent, unsigned count) {
    mnw__extent_enter(&pages, extent, true);
    for (unsigned i = 0; i < count; i++) {
        assert_true(mnw__page_claim(&pages, mnw__extent_first(&pages, extent) + i));
        mnw__page_fill(&pages, mnw__extent_first(&pages, extent) + i);
        mnw__extent_add_present(&pages, extent, 1);
    }
    mnw__extent_leave(&pages, extent);
    proof.memory[0] = (1ull << count) - 1;
}

static uint32_t state_of(uint64_t page) {
    return mnw__page_load(&pages, page) & MNW__PAGE_STATE_MASK;
}

static void at_rest(void) {
    uint64_t where;
    assert_null(mnw__pages_check(&pages, &where));
}

static void whole_pages_stay(void **state) {
    (void)state;
    fill(0, 5);
    mnw__extent_prove(&pages, 0, MNW__PROOF_PAGES, &proof);
    assert_int_equal(proof.present, 5);
    assert_false(proof.punch);
    assert_int_equal(mnw__extent_load(&pages, 0).present, 5);
    assert_true(mnw__extent_load(&pages, 0).referenced);
    at_rest();
}

static void what_was_being_filled_goes(void **state) {
    (void)state;
    fill(0, 2);
    mnw__extent_enter(&pages, 0, false);
    assert_true(mnw__page_claim(&pages, 2));
    assert_true(mnw__page_join(&pages, 2));
    mnw__extent_settle(&pages, 0);
    proof.memory[0] |= 1 << 2;
    mnw__extent_prove(&pages, 0, MNW__PROOF_PAGES, &proof);
    assert_int_equal(state_of(2), MNW__PAGE_ABSENT);
    assert_true(proof.punch);
    assert_int_equal(proof.memory[0], 1 << 2);
    assert_int_equal(proof.present, 2);
    at_rest();
}

static void what_was_being_evicted_goes(void **state) {
    (void)state;
    fill(0, 4);
    assert_true(mnw__extent_claim_eviction(&pages, 0));
    mnw__extent_prove(&pages, 0, MNW__PROOF_PAGES, &proof);
    assert_int_equal(proof.present, 0);
    assert_int_equal(proof.dropped, 4);
    assert_int_equal(proof.memory[0], 15);
    assert_int_equal(mnw__extent_load(&pages, 0).state, MNW__EXTENT_ABSENT);
    at_rest();
}

static void a_word_without_memory_is_not_believed(void **state) {
    (void)state;
    fill(0, 4);
    proof.memory[0] = 1 | 1 << 2 | 1 << 6;
    mnw__extent_prove(&pages, 0, MNW__PROOF_PAGES, &proof);
    assert_int_equal(state_of(0), MNW__PAGE_PRESENT);
    assert_int_equal(state_of(1), MNW__PAGE_ABSENT);
    assert_int_equal(state_of(2), MNW__PAGE_PRESENT);
    assert_int_equal(proof.present, 2);
    assert_int_equal(proof.memory[0], 1 << 6); /* memory without a word */
    at_rest();
}

static void failed_pages_stay_failed(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 1, true);
    assert_true(mnw__page_claim(&pages, 9));
    mnw__page_fail(&pages, 9);
    proof.memory[0] = 1 << 1;
    mnw__extent_prove(&pages, 1, MNW__PROOF_PAGES, &proof);
    assert_int_equal(mnw__page_load(&pages, 9), MNW__PAGE_FAILED | MNW__PAGE_SCARRED);
    assert_true(proof.scarred);
    assert_int_equal(proof.memory[0], 1 << 1);
    at_rest();
}

static void pins_do_not_stay(void **state) {
    (void)state;
    fill(0, 1);
    assert_int_equal(mnw__extent_pin(&pages, 0), 1);
    mnw__extent_prove(&pages, 0, MNW__PROOF_PAGES, &proof);
    assert_int_equal(mnw__extent_load(&pages, 0).user_pins, 0);
    at_rest();
}

static void whole_extents_stand_or_fall_as_one(void **state) {
    (void)state;
    fill(0, 3);
    proof.memory[0] = 0xff;
    mnw__extent_prove(&pages, 0, MNW__PROOF_EXTENTS, &proof);
    assert_int_equal(proof.present, 3);
    assert_true(proof.charged && !proof.punch);
    assert_true(mnw__extent_load(&pages, 0).charged);
    proof.memory[0] = 0x7f; /* somebody took a page: collapsing the extent would map zeros there */
    mnw__extent_prove(&pages, 0, MNW__PROOF_EXTENTS, &proof);
    assert_int_equal(proof.present, 0);
    assert_true(proof.punch && !proof.charged);
    assert_int_equal(mnw__extent_load(&pages, 0).state, MNW__EXTENT_ABSENT);
    at_rest();
}

static void a_short_last_extent_is_whole(void **state) {
    (void)state;
    fill(1, 2);
    proof.memory[0] = 0x3f;
    mnw__extent_prove(&pages, 1, MNW__PROOF_EXTENTS, &proof);
    assert_int_equal(proof.present, 2);
    assert_true(proof.charged);
    at_rest();
}

static void in_place_memory_stays(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, true);
    assert_true(mnw__page_claim(&pages, 0));
    proof.memory[0] = 0xff;
    mnw__extent_prove(&pages, 0, MNW__PROOF_IN_PLACE, &proof);
    assert_int_equal(proof.present, 0);
    assert_true(proof.charged && !proof.punch);
    assert_int_equal(state_of(0), MNW__PAGE_ABSENT);
    assert_int_equal(mnw__extent_load(&pages, 0).state, MNW__EXTENT_RESIDENT);
    at_rest();
    proof.memory[0] = 0;
    mnw__extent_prove(&pages, 0, MNW__PROOF_IN_PLACE, &proof);
    assert_true(!proof.punch && !proof.charged);
    assert_int_equal(mnw__extent_load(&pages, 0).state, MNW__EXTENT_ABSENT);
    at_rest();
}

static void unknown_states_are_absent(void **state) {
    (void)state;
    fill(0, 3);
    words[1] = 0xfffffff6;
    words[2] = 5;
    mnw__extent_prove(&pages, 0, MNW__PROOF_PAGES, &proof);
    assert_int_equal(state_of(1), MNW__PAGE_ABSENT);
    assert_int_equal(state_of(2), MNW__PAGE_ABSENT);
    assert_int_equal(proof.present, 1);
    at_rest();
    extents[0] = UINT64_MAX; /* a state there is none of */
    proof.memory[0] = 1;
    mnw__extent_prove(&pages, 0, MNW__PROOF_PAGES, &proof);
    assert_int_equal(proof.present, 0);
    at_rest();
}

static void scars_go_when_healed(void **state) {
    (void)state;
    words[3] = MNW__PAGE_SCARRED | MNW__PAGE_PRESENT;
    mnw__page_unscar(&pages, 3);
    assert_int_equal(mnw__page_load(&pages, 3), MNW__PAGE_PRESENT);
    words[3] = MNW__PAGE_SCARRED | MNW__PAGE_FAILED;
    mnw__page_unscar(&pages, 3);
    assert_int_equal(mnw__page_load(&pages, 3), MNW__PAGE_SCARRED | MNW__PAGE_FAILED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(whole_pages_stay, begin),
        cmocka_unit_test_setup(what_was_being_filled_goes, begin),
        cmocka_unit_test_setup(what_was_being_evicted_goes, begin),
        cmocka_unit_test_setup(a_word_without_memory_is_not_believed, begin),
        cmocka_unit_test_setup(failed_pages_stay_failed, begin),
        cmocka_unit_test_setup(pins_do_not_stay, begin),
        cmocka_unit_test_setup(whole_extents_stand_or_fall_as_one, begin),
        cmocka_unit_test_setup(a_short_last_extent_is_whole, begin),
        cmocka_unit_test_setup(in_place_memory_stays, begin),
        cmocka_unit_test_setup(unknown_states_are_absent, begin),
        cmocka_unit_test_setup(scars_go_when_healed, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
