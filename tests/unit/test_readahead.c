/* SPDX-License-Identifier: MIT */
/* Reading ahead: streams, windows, strides, blocks. */
#include "readahead_trace.h"

static void test_sequential_is_read_ahead(void **state) {
    (void)state;
    begin(WINDOW);
    for (uint64_t page = 100; page < 20100; page++)
        touch(page);
    assert_true(world.stalls <= 3); /* the three that made it known */
    assert_true(world.faults < 20000 / 16);
    assert_int_equal(world.planned_twice, 0);
    assert_true(world.planned_count >= 20000 - 3);
    assert_true(world.planned_count <= 20000 + 2 * WINDOW);
    assert_int_equal(world.plan.around, WINDOW / 4);
}

/* Where memory ends, the reads are begun before the consumer comes there. */
static void test_absent_pages_behind_resident_ones_are_read_ahead(void **state) {
    (void)state;
    begin_resident(WINDOW);
    memset(world.resident + 20000, 0, PAGES - 20000);
    for (uint64_t page = 0; page < 30000; page++)
        touch(page);
    assert_true(world.stalls <= 1);
    assert_int_equal(world.plan.around, WINDOW / 4);
}

static void test_windows_double_up_to_the_largest(void **state) {
    (void)state;
    static const uint32_t largest[] = {1, 2, 3, 4, 100, 256, 1000};
    for (unsigned i = 0; i < 7; i++) {
        begin(largest[i]);
        uint32_t expected = largest[i] < 4 ? largest[i] : 4;
        for (uint64_t page = 0; page < 8000; page++) {
            if (world.mapped[page])
                continue;
            touch(page);
            if (!world.plan.count)
                continue;
            assert_int_equal(world.plan.count, expected);
            expected = expected * 2 < largest[i] ? expected * 2 : largest[i];
        }
        assert_int_equal(expected, largest[i]);
        assert_true(world.stalls <= 3);
        assert_int_equal(world.planned_twice, 0);
    }
}

/* When the next window is planned, a part of the last one is still ahead of the consumer. */
static void test_reads_stay_ahead(void **state) {
    (void)state;
    begin(WINDOW);
    for (uint64_t page = 0; page < 20000; page++) {
        if (world.mapped[page])
            continue;
        touch(page);
        if (page > 1000 && world.plan.count) {
            assert_true(world.plan.start >= page + WINDOW / 4);
            assert_true(world.plan.start + world.plan.count <= page + WINDOW / 2 + WINDOW);
        }
    }
}

static void test_no_readahead_when_off(void **state) {
    (void)state;
    begin(0);
    memset(world.resident, 1, sizeof(world.resident));
    for (uint64_t page = 0; page < 5000; page++)
        touch(page);
    assert_int_equal(world.planned_count, 0);
    assert_true(world.faults < 5000 / 32); /* resident neighbours are still mapped ahead */
}

static void test_a_fault_that_repeats_is_no_news(void **state) {
    (void)state;
    begin(WINDOW);
    for (unsigned i = 0; i < 100; i++) {
        fault(50);
        assert_int_equal(world.plan.count, 0);
        assert_int_equal(world.plan.around, 1);
    }
    fault(51);
    fault(51);
    assert_int_equal(world.planned_count, 0);
    fault(52);
    uint64_t planned = world.planned_count;
    assert_int_equal(planned, 4);
    for (unsigned i = 0; i < 100; i++)
        fault(52);
    assert_int_equal(world.planned_count, planned);
}

static void test_strides_are_read_ahead(void **state) {
    (void)state;
    static const int64_t strides[] = {2, 3, 7, 16, 100, 509, -1, -2, -5, -64, -333};
    for (unsigned i = 0; i < 11; i++) {
        begin(WINDOW);
        int64_t page = strides[i] > 0 ? 5 : PAGES - 6;
        unsigned touched = 0;
        for (; page >= 0 && page < PAGES && touched < 2000; page += strides[i], touched++)
            touch((uint64_t)page);
        assert_true(touched > 100);
        assert_true(world.stalls <= 4);
        assert_true(world.planned_count >= touched - 4);
        assert_true(world.planned_count <= touched + 64);
        assert_int_equal(world.planned_twice, 0);
    }
}

/* A page of the stride that was mapped already raises no fault. */
static void test_strides_survive_a_skip(void **state) {
    (void)state;
    begin(WINDOW);
    for (uint64_t page = 0; page < 40 * 50; page += 40)
        touch(page);
    unsigned stalls = world.stalls;
    for (uint64_t page = 40 * 52; page < 40 * 100; page += 40)
        touch(page);
    assert_int_equal(world.stalls, stalls);
    assert_int_equal(world.planned_twice, 0); /* still the stream that it was */
}

static void expect_no_plan(const uint64_t *pages, unsigned count) {
    begin(WINDOW);
    for (unsigned i = 0; i < count; i++) {
        fault(pages[i]);
        assert_int_equal(world.plan.count, 0);
    }
}

static void test_too_little_is_no_stream(void **state) {
    (void)state;
    static const uint64_t two[] = {0, 1}, three[] = {500, 510, 520}, skipped[] = {500, 510, 520, 540};
    static const uint64_t repeated[] = {500, 510, 520, 520, 520};
    expect_no_plan(two, 2);
    expect_no_plan(three, 3);
    expect_no_plan(skipped, 4);
    expect_no_plan(repeated, 5);
}

static void test_of_two_strides_the_smaller_wins(void **state) {
    (void)state;
    static const uint64_t pages[] = {1000, 1050, 1090, 1095, 1100};
    expect_no_plan(pages, 5);
    fault(1105);
    assert_int_equal(world.plan.count, 4);
    assert_int_equal(world.plan.start, 1110);
    assert_int_equal(world.plan.stride, 5);
}

/* The rest of an extent may have been mapped at once: the next fault is further on, where we had expected it. */
static void test_a_jump_within_what_was_planned_fits(void **state) {
    (void)state;
    begin(WINDOW);
    for (uint64_t page = 0; page < 2000; page++)
        touch(page);
    for (unsigned i = 0; i < 50; i++) {
        uint64_t next = (uint64_t)world.readahead.streams[0].ahead;
        fault(next);
        assert_int_equal(world.plan.count, WINDOW);
        assert_int_equal(world.plan.start, next + 1);
    }
}

static void test_a_fault_goes_to_the_nearest_stream(void **state) {
    (void)state;
    begin(WINDOW);
    for (uint64_t page = 1000; page < 1003; page++)
        fault(page);
    for (uint64_t page = 0; page < 900; page++)
        touch(page);
    uint64_t behind = world.readahead.streams[1].last;
    assert_true(behind < 900 && world.readahead.streams[1].ahead > 1003);
    fault(1003); /* within what the second stream has planned */
    assert_int_equal(world.readahead.streams[0].last, 1003);
    assert_int_equal(world.readahead.streams[1].last, behind);
    begin(WINDOW);
    for (uint64_t page = 0; page < 900; page++)
        touch(page);
    for (uint64_t page = 2000; page > 1997; page--) /* a stream the other way makes no difference */
        fault(page);
    fault((uint64_t)world.readahead.streams[0].ahead);
    assert_true(world.readahead.streams[0].last > 900);
}

static void test_a_fifth_stream_replaces_the_idle_one(void **state) {
    (void)state;
    uint64_t at[] = {0, 9001, 20011, 31513, 41117}; /* no progression among them */
    begin(WINDOW);
    for (unsigned stream = 0; stream < 4; stream++)
        for (unsigned i = 0; i < 100; i++)
            touch(at[stream]++);
    static const unsigned busy[] = {0, 2, 3, 4};
    unsigned stalls = world.stalls;
    for (unsigned i = 0; i < 2000; i++)
        for (unsigned k = 0; k < (i < 200 ? 3 : 4); k++)
            touch(at[busy[k]]++);
    assert_int_equal(world.stalls, stalls + 3);
    assert_int_equal(world.planned_twice, 0);
}

/* Memory was short: what had been read ahead was evicted before the consumer came, or was never read. */
static void test_a_lost_window_is_planned_again(void **state) {
    (void)state;
    static const int64_t strides[] = {1, 7, -2};
    for (unsigned i = 0; i < 3; i++) {
        begin(WINDOW);
        uint64_t page = PAGES / 2;
        for (unsigned touched = 0; touched < 900; touched++, page += (uint64_t)strides[i])
            touch(page);
        const struct mnw__readahead_stream *stream = &world.readahead.streams[0];
        for (unsigned times = 0; times < 3; times++) {
            uint32_t window = stream->window;
            unsigned stalls = world.stalls;
            while (world.mapped[page])
                page += (uint64_t)strides[i];
            memset(world.resident, 0, sizeof(world.resident));
            touch(page);
            assert_int_equal(world.stalls, stalls + 1);
            assert_int_equal(world.plan.count, window / 2);
            assert_int_equal(world.plan.start, page + (uint64_t)strides[i]);
            assert_int_equal(stream->window, window / 2);
            for (unsigned touched = 0; touched < 900; touched++, page += (uint64_t)strides[i])
                touch(page);
            assert_int_equal(world.stalls, stalls + 1);
            assert_int_equal(stream->window, window); /* and grows again */
        }
    }
}

static void test_a_miss_that_was_not_planned_changes_nothing(void **state) {
    (void)state;
    struct mnw__readahead_plan was;
    struct mnw__readahead before;
    begin(WINDOW);
    for (uint64_t page = 10; page < 20; page++) {
        mnw__readahead_fault(&world.readahead, page * page, &world.plan);
        before = world.readahead;
        was = world.plan;
        mnw__readahead_missed(&world.readahead, page * page, &world.plan);
        assert_memory_equal(&before, &world.readahead, sizeof(before));
        assert_memory_equal(&was, &world.plan, sizeof(was));
    }
    begin(WINDOW); /* each fault overtakes: nothing of it had been planned */
    for (uint64_t page = 1000, i = 0; i < 30;
         page = i < 5 ? page + 1 : (uint64_t)world.readahead.streams[0].ahead, i++) {
        mnw__readahead_fault(&world.readahead, page, &world.plan);
        if (i >= 3 && i <= 5) /* these had been */
            continue;
        before = world.readahead;
        mnw__readahead_missed(&world.readahead, page, &world.plan);
        assert_memory_equal(&before, &world.readahead, sizeof(before));
    }
}

/* A thread that waits is interrupted again and again; another runs through the store meanwhile. */
static void test_repeats_do_not_displace_history(void **state) {
    (void)state;
    begin(WINDOW);
    for (uint64_t page = 10; page < 13; page++) {
        fault(page);
        for (unsigned i = 0; page < 12 && i < 20; i++)
            fault(50000);
    }
    assert_int_equal(world.plan.count, 4);
}

static void test_interleaved_streams_do_not_disturb(void **state) {
    (void)state;
    static const int64_t strides[] = {1, 1, -3, 11};
    uint64_t at[] = {0, 20000, 50000, 52000};
    begin(WINDOW);
    for (unsigned round = 0; round < 1000; round++)
        for (unsigned i = 0; i < 4; i++, at[i - 1] += (uint64_t)strides[i - 1])
            touch(at[i]);
    assert_true(world.stalls <= 3 + 3 + 4 + 4);
    assert_true(world.planned_count <= 4000 + 4 * 2 * WINDOW);
}

static void test_randomly_interleaved_streams_are_known(void **state) {
    (void)state;
    unsigned stalls = 0;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        struct random random = {seed};
        uint64_t at[] = {100, 20000, 40000};
        begin(WINDOW);
        for (unsigned i = 0; i < 3000; i++)
            touch(at[random_below(&random, 3)]++);
        stalls += world.stalls;
    }
    assert_true(stalls < 50 * 3 * 8); /* of 150000 touches */
}

static void test_random_reads_nothing_ahead(void **state) {
    (void)state;
    struct mnw__readahead readahead;
    struct mnw__readahead_plan plan;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct random random = {seed};
        mnw__readahead_init(&readahead, 1u << 24, WINDOW, 1);
        for (unsigned i = 0; i < 50000; i++) {
            mnw__readahead_fault(&readahead, random_below(&random, 1u << 24), &plan);
            assert_int_equal(plan.count, 0);
            assert_int_equal(plan.around, 1);
        }
    }
}

static void test_a_stream_survives_random_faults(void **state) {
    (void)state;
    struct random random = {1};
    begin(WINDOW);
    unsigned stalls = 0;
    for (uint64_t page = 0; page < 5000; page++) {
        fault(30000 + random_below(&random, 30000));
        unsigned before = world.stalls;
        touch(page);
        stalls += world.stalls - before;
    }
    assert_true(stalls <= 3);
}

static void test_an_idle_stream_is_halved_then_forgotten(void **state) {
    (void)state;
    struct random random = {7};
    begin(WINDOW);
    for (uint64_t page = 0; page < 5000; page++)
        touch(page);
    const struct mnw__readahead_stream *stream = &world.readahead.streams[0];
    assert_int_equal(stream->window, WINDOW);
    uint32_t window = WINDOW;
    bool halved = false;
    unsigned faults = 0;
    for (; faults < 10000 && stream->stride == 1; faults++) {
        fault(30000 + random_below(&random, 30000));
        assert_true(stream->window == window || stream->window == window / 2);
        halved |= stream->window < window;
        window = stream->window;
    }
    assert_true(halved);
    assert_int_not_equal(stream->stride, 1);
    assert_true(faults > 1000); /* patiently */
}

static void test_an_idle_stream_maps_less(void **state) {
    (void)state;
    struct random random = {7};
    begin_resident(WINDOW);
    for (uint64_t page = 0; page < 20000; page++)
        touch(page);
    for (unsigned faults = 0; faults < 600; faults++)
        fault(30000 + random_below(&random, 30000));
    assert_int_equal(world.readahead.streams[0].around, MNW__READAHEAD_AROUND_MAX / 4);
}

static void test_the_end_of_the_store_is_kept(void **state) {
    (void)state;
    begin(WINDOW);
    for (uint64_t page = PAGES - 500; page < PAGES; page++)
        touch(page);
    assert_true(world.stalls <= 3);
    assert_int_equal(world.planned_count, 500 - 3);
    mnw__readahead_fault(&world.readahead, PAGES, &world.plan);
    assert_int_equal(world.plan.count, 0);
    assert_int_equal(world.plan.around, 1);
    begin(WINDOW);
    for (int64_t page = 600; page >= 0; page -= 3)
        touch((uint64_t)page);
    assert_int_equal(world.planned_count, 201 - 4);
}

/* The consumer's side of a block: all of it is resident and mapped. */
static void touch_with_blocks(uint64_t page) {
    if (world.mapped[page])
        return;
    touch(page);
    for (uint64_t i = 0; i < world.plan.block_pages; i++)
        world.resident[world.plan.block + i] = world.mapped[world.plan.block + i] = true;
}

static void test_blocks_are_for_faults_at_random(void **state) {
    (void)state;
    begin(WINDOW);
    mnw__readahead_init(&world.readahead, PAGES, WINDOW, 16);
    touch_with_blocks(1000);
    assert_int_equal(world.plan.block, 992);
    assert_int_equal(world.plan.block_pages, 16);
    touch_with_blocks(1000 + 16 * 5);
    assert_int_equal(world.plan.block_pages, 16);
    mnw__readahead_fault(&world.readahead, 1000 + 16 * 5, &world.plan); /* delivered again */
    assert_int_equal(world.plan.block_pages, 0);
    touch_with_blocks(PAGES - 1);
    assert_int_equal(world.plan.block, PAGES - 16);
    for (uint64_t page = 40000; page < 50000; page++)
        touch_with_blocks(page);
    assert_int_equal(world.plan.block_pages, 0);
    assert_int_equal(world.plan.stride, 1);
    assert_true(world.faults < 10000 / 16);
    assert_true(world.stalls <= 3 + 2); /* one block made the reader known */
}

static void test_any_trace_keeps_the_contract(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct random random = {seed};
        struct mnw__readahead_plan plan;
        struct mnw__readahead readahead;
        uint64_t count = 1 + random_below(&random, 200);
        uint32_t block_max = (uint32_t)random_below(&random, 40);
        mnw__readahead_init(&readahead, count, (uint32_t)random_below(&random, 40), block_max);
        uint64_t page = 0;
        for (unsigned i = 0; i < 500; i++) {
            page = random_below(&random, 3) ? (page + random_below(&random, 4)) % count : random_below(&random, count);
            mnw__readahead_fault(&readahead, page, &plan);
            if (random_below(&random, 4) == 0)
                mnw__readahead_missed(&readahead, page, &plan);
            if (random_below(&random, 2) && plan.count)
                mnw__readahead_planned(&readahead, &plan, random_below(&random, 3));
            assert_true(plan.around >= 1 && page + plan.around <= count);
            assert_true(!plan.passed_count || plan.passed + plan.passed_count <= page);
            assert_true(plan.count <= readahead.window_max);
            assert_true(!plan.block_pages || !plan.count); /* of a stream, or at random */
            if (plan.block_pages) {
                assert_true(plan.block <= page && page < plan.block + plan.block_pages);
                assert_true(plan.block + plan.block_pages <= count && plan.block_pages <= block_max);
            }
            for (uint32_t k = 0; k < plan.count; k++) {
                uint64_t ahead = plan.start + (uint64_t)((int64_t)k * plan.stride);
                assert_true(ahead < count && ahead != page);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sequential_is_read_ahead),
        cmocka_unit_test(test_absent_pages_behind_resident_ones_are_read_ahead),
        cmocka_unit_test(test_windows_double_up_to_the_largest),
        cmocka_unit_test(test_reads_stay_ahead),
        cmocka_unit_test(test_no_readahead_when_off),
        cmocka_unit_test(test_a_fault_that_repeats_is_no_news),
        cmocka_unit_test(test_strides_are_read_ahead),
        cmocka_unit_test(test_strides_survive_a_skip),
        cmocka_unit_test(test_too_little_is_no_stream),
        cmocka_unit_test(test_of_two_strides_the_smaller_wins),
        cmocka_unit_test(test_a_jump_within_what_was_planned_fits),
        cmocka_unit_test(test_a_fault_goes_to_the_nearest_stream),
        cmocka_unit_test(test_a_fifth_stream_replaces_the_idle_one),
        cmocka_unit_test(test_a_lost_window_is_planned_again),
        cmocka_unit_test(test_a_miss_that_was_not_planned_changes_nothing),
        cmocka_unit_test(test_repeats_do_not_displace_history),
        cmocka_unit_test(test_interleaved_streams_do_not_disturb),
        cmocka_unit_test(test_randomly_interleaved_streams_are_known),
        cmocka_unit_test(test_random_reads_nothing_ahead),
        cmocka_unit_test(test_a_stream_survives_random_faults),
        cmocka_unit_test(test_an_idle_stream_is_halved_then_forgotten),
        cmocka_unit_test(test_an_idle_stream_maps_less),
        cmocka_unit_test(test_the_end_of_the_store_is_kept),
        cmocka_unit_test(test_blocks_are_for_faults_at_random),
        cmocka_unit_test(test_any_trace_keeps_the_contract),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
