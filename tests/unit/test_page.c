/* SPDX-License-Identifier: MIT */
/* Page words and extent words: every arrow of the diagrams in page.h, and every refusal. One thread only. */
#include "unit.h"

#include "page/page.h"

#include <errno.h>

/* Three extents; the last is short, as a store's last one may be. */
enum { SHIFT = 2, PAGES = 10, EXTENTS = 3 };
/* What the packed word has room for. */
enum { PRESENT_MAX = 0x3fff, PINS_MAX = 0xffff, FILLS_MAX = 0x3fff, VISITORS_MAX = 0xfff };

static _Atomic uint32_t words[PAGES];
static _Atomic uint64_t extents[EXTENTS];
static struct mnw__pages pages = {words, extents, PAGES, EXTENTS, SHIFT};

static int begin(void **state) {
    (void)state;
    for (unsigned i = 0; i < PAGES; i++)
        atomic_store(&words[i], 0);
    for (unsigned i = 0; i < EXTENTS; i++)
        atomic_store(&extents[i], 0);
    return 0;
}

static void put_page(uint64_t page, enum mnw__page_state state) {
    atomic_store(&words[page], (uint32_t)state);
}

#define for_states(state) for (enum mnw__page_state state = MNW__PAGE_ABSENT; state <= MNW__PAGE_FAILED; state++)

static void expect_extent(uint64_t extent, struct mnw__extent wanted) {
    struct mnw__extent word = mnw__extent_load(&pages, extent);
    assert_int_equal(word.state, wanted.state);
    assert_int_equal(word.awaited, wanted.awaited);
    assert_int_equal(word.referenced, wanted.referenced);
    assert_int_equal(word.charged, wanted.charged);
    assert_int_equal(word.unfit, wanted.unfit);
    assert_int_equal(word.present, wanted.present);
    assert_int_equal(word.user_pins, wanted.user_pins);
    assert_int_equal(word.fills, wanted.fills);
    assert_int_equal(word.visitors, wanted.visitors);
}
#define expect(extent, ...) expect_extent(extent, (struct mnw__extent){__VA_ARGS__})

/* ---- arithmetic -------------------------------------------------------------------------------------------- */

static void test_extents_hold_their_pages(void **state) {
    (void)state;
    assert_int_equal(mnw__extent_of(&pages, 3), 0);
    assert_int_equal(mnw__extent_of(&pages, 4), 1);
    assert_int_equal(mnw__extent_of(&pages, PAGES - 1), 2);
    assert_int_equal(mnw__extent_first(&pages, 1), 4);
    assert_int_equal(mnw__extent_end(&pages, 1), 8);
    assert_int_equal(mnw__extent_end(&pages, 2), PAGES);
}

/* ---- page words -------------------------------------------------------------------------------------------- */

static void test_claim_takes_absent_only(void **state) {
    (void)state;
    for_states(from) {
        put_page(5, from);
        assert_int_equal(mnw__page_claim(&pages, 5), from == MNW__PAGE_ABSENT);
        assert_int_equal(mnw__page_load(&pages, 5), from == MNW__PAGE_ABSENT ? MNW__PAGE_FILLING : from);
    }
}

static void test_join_takes_filling_only(void **state) {
    (void)state;
    for_states(from) {
        put_page(5, from);
        assert_int_equal(mnw__page_join(&pages, 5), from == MNW__PAGE_FILLING);
        assert_int_equal(mnw__page_load(&pages, 5),
                         from == MNW__PAGE_FILLING ? (uint32_t)MNW__PAGE_FILLING | MNW__PAGE_JOINED : from);
    }
}

static void test_joining_twice_is_joining(void **state) {
    (void)state;
    put_page(5, MNW__PAGE_FILLING);
    assert_true(mnw__page_join(&pages, 5));
    assert_true(mnw__page_join(&pages, 5));
    assert_int_equal(mnw__page_load(&pages, 5), MNW__PAGE_FILLING | MNW__PAGE_JOINED);
}

static void test_a_joined_page_is_not_claimed(void **state) {
    (void)state;
    put_page(5, MNW__PAGE_FILLING);
    mnw__page_join(&pages, 5);
    assert_false(mnw__page_claim(&pages, 5));
    assert_int_equal(mnw__page_load(&pages, 5), MNW__PAGE_FILLING | MNW__PAGE_JOINED);
}

static void expect_end(uint32_t (*end)(struct mnw__pages *, uint64_t), uint32_t after) {
    put_page(5, MNW__PAGE_FILLING);
    assert_int_equal(end(&pages, 5), MNW__PAGE_FILLING);
    assert_int_equal(mnw__page_load(&pages, 5), after);

    put_page(5, MNW__PAGE_FILLING);
    assert_true(mnw__page_join(&pages, 5));
    assert_int_equal(end(&pages, 5), MNW__PAGE_FILLING | MNW__PAGE_JOINED);
    assert_int_equal(mnw__page_load(&pages, 5), after); /* JOINED went with FILLING */

    put_page(5, MNW__PAGE_FILLING | MNW__PAGE_SCARRED);
    end(&pages, 5);
    assert_int_equal(mnw__page_load(&pages, 5), after | MNW__PAGE_SCARRED);
}

static void test_ends_of_filling_tell_who_joined(void **state) {
    (void)state;
    expect_end(mnw__page_fill, MNW__PAGE_PRESENT);
    expect_end(mnw__page_unclaim, MNW__PAGE_ABSENT);
    expect_end(mnw__page_fail, MNW__PAGE_FAILED | MNW__PAGE_SCARRED);
}

static void test_drop_takes_present_only(void **state) {
    (void)state;
    for_states(from) {
        put_page(5, from);
        assert_int_equal(mnw__page_drop(&pages, 5), from == MNW__PAGE_PRESENT);
        assert_int_equal(mnw__page_load(&pages, 5), from == MNW__PAGE_PRESENT ? MNW__PAGE_ABSENT : from);
    }
}

static void test_heal_takes_failed_only(void **state) {
    (void)state;
    for_states(from) {
        put_page(5, from);
        assert_int_equal(mnw__page_heal(&pages, 5), from == MNW__PAGE_FAILED);
        assert_int_equal(mnw__page_load(&pages, 5), from == MNW__PAGE_FAILED ? MNW__PAGE_ABSENT : from);
    }
}

static void test_neighbours_stay_as_they_are(void **state) {
    (void)state;
    for (uint64_t page = 0; page < PAGES; page++)
        put_page(page, MNW__PAGE_FAILED);
    put_page(5, MNW__PAGE_ABSENT);
    assert_true(mnw__page_claim(&pages, 5));
    mnw__page_fill(&pages, 5);
    assert_true(mnw__page_drop(&pages, 5));
    for (uint64_t page = 0; page < PAGES; page++)
        assert_int_equal(mnw__page_load(&pages, page), page == 5 ? MNW__PAGE_ABSENT : MNW__PAGE_FAILED);
}

/* ---- entering ---------------------------------------------------------------------------------------------- */

static void test_the_first_to_enter_makes_it_resident(void **state) {
    (void)state;
    assert_int_equal(mnw__extent_enter(&pages, 1, false), MNW__ENTER_FRESH);
    expect(1, .state = MNW__EXTENT_RESIDENT, .visitors = 1);
    assert_int_equal(mnw__extent_enter(&pages, 1, false), MNW__ENTER_HELD);
    expect(1, .state = MNW__EXTENT_RESIDENT, .visitors = 2);
    mnw__extent_leave(&pages, 1);
    mnw__extent_leave(&pages, 1);
    expect(1, .state = MNW__EXTENT_RESIDENT);
    assert_int_equal(mnw__extent_enter(&pages, 1, false), MNW__ENTER_HELD);
    expect(0, 0);
    expect(2, 0);
}

static void test_only_a_fault_marks(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, true);
    expect(0, .state = MNW__EXTENT_RESIDENT, .visitors = 1, .referenced = true);
    mnw__extent_enter(&pages, 1, false);
    expect(1, .state = MNW__EXTENT_RESIDENT, .visitors = 1);
}

static void test_nobody_enters_what_is_evicted(void **state) {
    (void)state;
    assert_int_equal(mnw__extent_drain(&pages, 0), 0);
    assert_int_equal(mnw__extent_enter(&pages, 0, false), MNW__ENTER_BUSY);
    expect(0, .state = MNW__EXTENT_EVICTING);
    assert_int_equal(mnw__extent_enter(&pages, 0, true), MNW__ENTER_BUSY);
    expect(0, .state = MNW__EXTENT_EVICTING, .awaited = true);
    assert_int_equal(mnw__extent_enter(&pages, 0, false), MNW__ENTER_BUSY);
    expect(0, .state = MNW__EXTENT_EVICTING, .awaited = true);
}

static void test_a_fill_takes_the_place_of_its_visitor(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, false);
    mnw__extent_settle(&pages, 0);
    expect(0, .state = MNW__EXTENT_RESIDENT, .fills = 1);
    mnw__extent_revisit(&pages, 0);
    expect(0, .state = MNW__EXTENT_RESIDENT, .fills = 1, .visitors = 1);
    mnw__extent_leave(&pages, 0);
    mnw__extent_release(&pages, 0);
    expect(0, .state = MNW__EXTENT_RESIDENT);
}

/* Nobody new may enter a drained extent, but a fill in flight must still show what it brought. */
static void test_a_fill_revisits_while_it_is_drained(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, false);
    mnw__extent_settle(&pages, 0);
    assert_int_equal(mnw__extent_drain(&pages, 0), 0);
    mnw__extent_revisit(&pages, 0);
    expect(0, .state = MNW__EXTENT_EVICTING, .fills = 1, .visitors = 1);
    mnw__extent_leave(&pages, 0);
    mnw__extent_release(&pages, 0);
    expect(0, .state = MNW__EXTENT_EVICTING);
}

static void test_present_is_counted_both_ways(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, false);
    assert_int_equal(mnw__extent_add_present(&pages, 0, 3), 3);
    assert_int_equal(mnw__extent_add_present(&pages, 0, 1), 4);
    assert_int_equal(mnw__extent_add_present(&pages, 0, -2), 2);
    assert_int_equal(mnw__extent_add_present(&pages, 0, -2), 0);
    expect(0, .state = MNW__EXTENT_RESIDENT, .visitors = 1);
}

static void test_charge_is_set_once(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, false);
    assert_true(mnw__extent_charge(&pages, 0));
    assert_false(mnw__extent_charge(&pages, 0));
    mnw__extent_set_unfit(&pages, 0);
    mnw__extent_set_unfit(&pages, 0);
    expect(0, .state = MNW__EXTENT_RESIDENT, .visitors = 1, .charged = true, .unfit = true);
}

static void test_referenced_is_taken_once(void **state) {
    (void)state;
    assert_int_equal(mnw__extent_take_use(&pages, 0), MNW__USE_NONE);
    mnw__extent_enter(&pages, 0, true);
    assert_int_equal(mnw__extent_take_use(&pages, 0), MNW__USE_SEEN);
    assert_int_equal(mnw__extent_take_use(&pages, 0), MNW__USE_NONE);
    expect(0, .state = MNW__EXTENT_RESIDENT, .visitors = 1);
}

static void test_mapped_ahead_is_no_use(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, false);
    mnw__extent_set_ahead(&pages, 0);
    mnw__extent_set_ahead(&pages, 0);
    expect(0, .state = MNW__EXTENT_RESIDENT, .visitors = 1, .ahead = true);
    assert_int_equal(mnw__extent_take_use(&pages, 0), MNW__USE_UNKNOWN);
    assert_int_equal(mnw__extent_take_use(&pages, 0), MNW__USE_NONE);
    mnw__extent_set_ahead(&pages, 0);
    mnw__extent_note_passed(&pages, 0);
    assert_int_equal(mnw__extent_take_use(&pages, 0), MNW__USE_SEEN);
    expect(0, .state = MNW__EXTENT_RESIDENT, .visitors = 1);
    mnw__extent_leave(&pages, 0);
    assert_true(mnw__extent_claim_eviction(&pages, 0));
    mnw__extent_note_passed(&pages, 0);
    mnw__extent_evicted(&pages, 0);
    mnw__extent_note_passed(&pages, 0);
    assert_true(mnw__extent_is_untouched(&pages, 0));
}

static void test_visit_leaves_no_trace(void **state) {
    (void)state;
    assert_false(mnw__extent_visit(&pages, 0));
    mnw__extent_enter(&pages, 0, false);
    assert_true(mnw__extent_visit(&pages, 0));
    expect(0, .state = MNW__EXTENT_RESIDENT, .visitors = 2);
    assert_false(mnw__extent_drain(&pages, 0) || mnw__extent_visit(&pages, 0));
}

/* ---- evicting ---------------------------------------------------------------------------------------------- */

static void test_eviction_is_claimed_of_resident_extents(void **state) {
    (void)state;
    assert_false(mnw__extent_claim_eviction(&pages, 0));
    expect(0, 0);
    mnw__extent_enter(&pages, 0, true);
    mnw__extent_leave(&pages, 0);
    assert_true(mnw__extent_claim_eviction(&pages, 0));
    expect(0, .state = MNW__EXTENT_EVICTING, .referenced = true);
    assert_false(mnw__extent_claim_eviction(&pages, 0));
}

static void test_eviction_respects_everybody_inside(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, false);
    assert_false(mnw__extent_claim_eviction(&pages, 0)); /* a visitor */
    mnw__extent_settle(&pages, 0);
    assert_false(mnw__extent_claim_eviction(&pages, 0)); /* a fill */
    mnw__extent_release(&pages, 0);
    assert_int_equal(mnw__extent_pin(&pages, 0), 1);
    assert_false(mnw__extent_claim_eviction(&pages, 0)); /* a pin */
    assert_int_equal(mnw__extent_unpin(&pages, 0), 1);
    expect(0, .state = MNW__EXTENT_RESIDENT);
    assert_true(mnw__extent_claim_eviction(&pages, 0));
}

static void test_repair_needs_its_one_visitor(void **state) {
    (void)state;
    assert_false(mnw__extent_claim_repair(&pages, 0)); /* ABSENT */
    mnw__extent_enter(&pages, 0, false);
    mnw__extent_leave(&pages, 0);
    assert_false(mnw__extent_claim_repair(&pages, 0)); /* nobody */
    mnw__extent_enter(&pages, 0, false);
    mnw__extent_enter(&pages, 0, false);
    assert_false(mnw__extent_claim_repair(&pages, 0)); /* two */
    mnw__extent_leave(&pages, 0);
    assert_true(mnw__extent_claim_repair(&pages, 0));
    expect(0, .state = MNW__EXTENT_EVICTING, .visitors = 1);
    assert_false(mnw__extent_claim_repair(&pages, 0)); /* EVICTING */
}

/* A lost page has to go even where another page of its extent is pinned, or is being read. */
static void test_repair_passes_over_pins_and_fills(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, false);
    mnw__extent_settle(&pages, 0);
    mnw__extent_pin(&pages, 0);
    mnw__extent_enter(&pages, 0, false);
    assert_true(mnw__extent_claim_repair(&pages, 0));
    expect(0, .state = MNW__EXTENT_EVICTING, .visitors = 1, .fills = 1, .user_pins = 1);
    assert_false(mnw__extent_keep(&pages, 0));
    expect(0, .state = MNW__EXTENT_RESIDENT, .visitors = 1, .fills = 1, .user_pins = 1);
}

/* The memory of a page that failed may be another's still: of a read that was given up and has not been answered. */
static void test_healing_waits_for_fills(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, false);
    mnw__extent_settle(&pages, 0);
    mnw__extent_enter(&pages, 0, false);
    assert_false(mnw__extent_claim_heal(&pages, 0)); /* a fill */
    mnw__extent_release(&pages, 0);
    mnw__extent_enter(&pages, 0, false);
    assert_false(mnw__extent_claim_heal(&pages, 0)); /* two visitors */
    mnw__extent_leave(&pages, 0);
    mnw__extent_pin(&pages, 0);
    assert_true(mnw__extent_claim_heal(&pages, 0));
    expect(0, .state = MNW__EXTENT_EVICTING, .visitors = 1, .user_pins = 1);
}

static void test_drain_takes_all_but_pinned_extents(void **state) {
    (void)state;
    assert_int_equal(mnw__extent_drain(&pages, 0), 0); /* ABSENT */
    assert_int_equal(mnw__extent_drain(&pages, 0), -EAGAIN);
    mnw__extent_enter(&pages, 1, false);
    mnw__extent_settle(&pages, 1);
    mnw__extent_enter(&pages, 1, false);
    assert_int_equal(mnw__extent_pin(&pages, 1), 1);
    assert_int_equal(mnw__extent_drain(&pages, 1), -EBUSY);
    expect(1, .state = MNW__EXTENT_RESIDENT, .visitors = 1, .fills = 1, .user_pins = 1);
    mnw__extent_unpin(&pages, 1);
    assert_int_equal(mnw__extent_drain(&pages, 1), 0);
    expect(1, .state = MNW__EXTENT_EVICTING, .visitors = 1, .fills = 1);
}

static void test_evicted_forgets_everything(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, true);
    mnw__extent_add_present(&pages, 0, 4);
    mnw__extent_charge(&pages, 0);
    mnw__extent_set_unfit(&pages, 0);
    mnw__extent_leave(&pages, 0);
    assert_true(mnw__extent_claim_eviction(&pages, 0));
    assert_false(mnw__extent_evicted(&pages, 0));
    expect(0, 0);
    assert_int_equal(mnw__extent_enter(&pages, 0, false), MNW__ENTER_FRESH);
}

static void test_kept_forgets_only_who_waited(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, true);
    mnw__extent_add_present(&pages, 0, 4);
    mnw__extent_charge(&pages, 0);
    mnw__extent_leave(&pages, 0);
    assert_true(mnw__extent_claim_eviction(&pages, 0));
    assert_int_equal(mnw__extent_enter(&pages, 0, true), MNW__ENTER_BUSY);
    assert_true(mnw__extent_keep(&pages, 0));
    expect(0, .state = MNW__EXTENT_RESIDENT, .present = 4, .referenced = true, .charged = true);
}

static void test_the_end_of_evicting_tells_who_waited(void **state) {
    (void)state;
    for (unsigned kept = 0; kept < 2; kept++)
        for (unsigned awaited = 0; awaited < 2; awaited++) {
            begin(NULL);
            assert_int_equal(mnw__extent_drain(&pages, 0), 0);
            assert_int_equal(mnw__extent_enter(&pages, 0, awaited), MNW__ENTER_BUSY);
            assert_int_equal(kept ? mnw__extent_keep(&pages, 0) : mnw__extent_evicted(&pages, 0), awaited);
            expect(0, .state = kept ? MNW__EXTENT_RESIDENT : MNW__EXTENT_ABSENT);
        }
}

/* ---- pins -------------------------------------------------------------------------------------------------- */

static void test_first_and_last_pin_are_told(void **state) {
    (void)state;
    assert_int_equal(mnw__extent_unpin(&pages, 0), -EINVAL);
    assert_int_equal(mnw__extent_pin(&pages, 0), 1);
    expect(0, .state = MNW__EXTENT_RESIDENT, .user_pins = 1);
    assert_int_equal(mnw__extent_pin(&pages, 0), 0);
    assert_int_equal(mnw__extent_unpin(&pages, 0), 0);
    assert_int_equal(mnw__extent_unpin(&pages, 0), 1);
    assert_int_equal(mnw__extent_unpin(&pages, 0), -EINVAL);
    expect(0, .state = MNW__EXTENT_RESIDENT);
}

static void test_what_is_evicted_is_not_pinned(void **state) {
    (void)state;
    assert_int_equal(mnw__extent_drain(&pages, 0), 0);
    assert_int_equal(mnw__extent_pin(&pages, 0), -EAGAIN);
    expect(0, .state = MNW__EXTENT_EVICTING);
}

/* ---- the packed form --------------------------------------------------------------------------------------- */

/* Every count at its most, all at once: none runs into another. */
static void test_counts_fit_side_by_side(void **state) {
    (void)state;
    for (unsigned i = 0; i < FILLS_MAX; i++) {
        mnw__extent_enter(&pages, 1, false);
        mnw__extent_settle(&pages, 1);
    }
    expect(1, .state = MNW__EXTENT_RESIDENT, .fills = FILLS_MAX);
    for (unsigned i = 0; i < VISITORS_MAX; i++)
        mnw__extent_enter(&pages, 1, true);
    assert_int_equal(mnw__extent_add_present(&pages, 1, PRESENT_MAX), PRESENT_MAX);
    for (unsigned i = 0; i < PINS_MAX; i++)
        assert_int_equal(mnw__extent_pin(&pages, 1), i == 0);
    assert_int_equal(mnw__extent_pin(&pages, 1), -EOVERFLOW);
    mnw__extent_charge(&pages, 1);
    mnw__extent_set_unfit(&pages, 1);
    expect(1, .state = MNW__EXTENT_RESIDENT, .referenced = true, .charged = true, .unfit = true, .present = PRESENT_MAX,
           .user_pins = PINS_MAX, .fills = FILLS_MAX, .visitors = VISITORS_MAX);

    assert_int_equal(mnw__extent_enter(&pages, 1, true), MNW__ENTER_FULL);
    expect(1, .state = MNW__EXTENT_RESIDENT, .referenced = true, .charged = true, .unfit = true, .present = PRESENT_MAX,
           .user_pins = PINS_MAX, .fills = FILLS_MAX, .visitors = VISITORS_MAX);

    for (unsigned i = 0; i < VISITORS_MAX; i++)
        mnw__extent_leave(&pages, 1);
    mnw__extent_revisit(&pages, 1);
    assert_int_equal(mnw__extent_add_present(&pages, 1, -PRESENT_MAX), 0);
    mnw__extent_leave(&pages, 1);
    for (unsigned i = PINS_MAX; i > 0; i--)
        assert_int_equal(mnw__extent_unpin(&pages, 1), i == 1);
    for (unsigned i = 0; i < FILLS_MAX; i++)
        mnw__extent_release(&pages, 1);
    expect(1, .state = MNW__EXTENT_RESIDENT, .referenced = true, .charged = true, .unfit = true);
    expect(0, 0);
    expect(2, 0);
}

/* ---- the check of a cache at rest -------------------------------------------------------------------------- */

static void expect_wrong(const char *wanted, uint64_t where) {
    uint64_t found = UINT64_MAX;
    const char *wrong = mnw__pages_check(&pages, &found);
    assert_non_null(wrong);
    assert_string_equal(wrong, wanted);
    assert_int_equal(found, where);
}

static void expect_right(void) {
    uint64_t found;
    assert_null(mnw__pages_check(&pages, &found));
}

/* Brings a page to PRESENT by the book. */
static void bring(uint64_t page) {
    uint64_t extent = mnw__extent_of(&pages, page);
    mnw__extent_enter(&pages, extent, true);
    assert_true(mnw__page_claim(&pages, page));
    mnw__extent_settle(&pages, extent);
    mnw__extent_revisit(&pages, extent);
    mnw__page_fill(&pages, page);
    mnw__extent_add_present(&pages, extent, 1);
    mnw__extent_leave(&pages, extent);
    mnw__extent_release(&pages, extent);
}

static void test_what_is_right_is_not_called_wrong(void **state) {
    (void)state;
    expect_right();
    for (uint64_t page = 0; page < PAGES; page++)
        if (page != 5)
            bring(page);
    put_page(5, MNW__PAGE_FAILED); /* whatever its extent: FAILED outlives eviction */
    mnw__extent_pin(&pages, 2);
    expect_right();
    assert_true(mnw__extent_claim_eviction(&pages, 1));
    for (uint64_t page = 4; page < 8; page++)
        assert_int_equal(mnw__page_drop(&pages, page), page != 5);
    mnw__extent_evicted(&pages, 1);
    expect_right();
}

static void test_check_finds_who_is_still_inside(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 2, false);
    expect_wrong("extent still entered", 2);
    mnw__extent_settle(&pages, 2);
    expect_wrong("extent still entered", 2);
    mnw__extent_release(&pages, 2);
    expect_right();
}

static void test_check_finds_evicting(void **state) {
    (void)state;
    mnw__extent_drain(&pages, 1);
    expect_wrong("extent still EVICTING", 1);
    mnw__extent_keep(&pages, 1);
    expect_right();
}

static void test_check_finds_filling(void **state) {
    (void)state;
    put_page(PAGES - 1, MNW__PAGE_FILLING);
    expect_wrong("page still FILLING", PAGES - 1);
    mnw__page_join(&pages, PAGES - 1);
    expect_wrong("page still FILLING", PAGES - 1);
}

static void test_check_finds_unknown_states(void **state) {
    (void)state;
    for (uint32_t unknown = MNW__PAGE_FAILED + 1; unknown <= MNW__PAGE_STATE_MASK; unknown++) {
        atomic_store(&words[6], unknown);
        expect_wrong("page in no known state", 6);
    }
}

static void test_check_finds_present_out_of_place(void **state) {
    (void)state;
    put_page(6, MNW__PAGE_PRESENT);
    expect_wrong("PRESENT page in an extent that is not RESIDENT", 1);
}

static void test_check_finds_wrong_counts(void **state) {
    (void)state;
    bring(6);
    mnw__extent_enter(&pages, 1, false);
    mnw__extent_add_present(&pages, 1, 1);
    mnw__extent_leave(&pages, 1);
    expect_wrong("count of PRESENT pages is wrong", 1); /* more are counted than there are */
    put_page(4, MNW__PAGE_PRESENT);
    expect_right();
    put_page(5, MNW__PAGE_PRESENT);
    expect_wrong("count of PRESENT pages is wrong", 1); /* fewer */
}

static void test_check_counts_absent_extents_too(void **state) {
    (void)state;
    mnw__extent_enter(&pages, 0, false);
    mnw__extent_add_present(&pages, 0, 2);
    mnw__extent_leave(&pages, 0);
    atomic_fetch_and(&extents[0], ~(uint64_t)3); /* ABSENT, and still counting */
    expect_wrong("count of PRESENT pages is wrong", 0);
}

#define TEST(name) cmocka_unit_test_setup(name, begin)

int main(void) {
    static const struct CMUnitTest tests[] = {
        TEST(test_extents_hold_their_pages),
        TEST(test_claim_takes_absent_only),
        TEST(test_join_takes_filling_only),
        TEST(test_joining_twice_is_joining),
        TEST(test_a_joined_page_is_not_claimed),
        TEST(test_ends_of_filling_tell_who_joined),
        TEST(test_drop_takes_present_only),
        TEST(test_heal_takes_failed_only),
        TEST(test_neighbours_stay_as_they_are),
        TEST(test_the_first_to_enter_makes_it_resident),
        TEST(test_only_a_fault_marks),
        TEST(test_nobody_enters_what_is_evicted),
        TEST(test_a_fill_takes_the_place_of_its_visitor),
        TEST(test_a_fill_revisits_while_it_is_drained),
        TEST(test_present_is_counted_both_ways),
        TEST(test_charge_is_set_once),
        TEST(test_referenced_is_taken_once),
        TEST(test_mapped_ahead_is_no_use),
        TEST(test_visit_leaves_no_trace),
        TEST(test_eviction_is_claimed_of_resident_extents),
        TEST(test_eviction_respects_everybody_inside),
        TEST(test_repair_needs_its_one_visitor),
        TEST(test_repair_passes_over_pins_and_fills),
        TEST(test_healing_waits_for_fills),
        TEST(test_drain_takes_all_but_pinned_extents),
        TEST(test_evicted_forgets_everything),
        TEST(test_kept_forgets_only_who_waited),
        TEST(test_the_end_of_evicting_tells_who_waited),
        TEST(test_first_and_last_pin_are_told),
        TEST(test_what_is_evicted_is_not_pinned),
        TEST(test_counts_fit_side_by_side),
        TEST(test_what_is_right_is_not_called_wrong),
        TEST(test_check_finds_who_is_still_inside),
        TEST(test_check_finds_evicting),
        TEST(test_check_finds_filling),
        TEST(test_check_finds_unknown_states),
        TEST(test_check_finds_present_out_of_place),
        TEST(test_check_finds_wrong_counts),
        TEST(test_check_counts_absent_extents_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
