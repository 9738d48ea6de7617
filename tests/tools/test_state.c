/* SPDX-License-Identifier: MIT */
/* What stat and top make of a daemon's JSON: reading, rates, percentiles of an interval, numbers, the map. */
#include "map.h"
#include "state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char text[] =
    "{\"version\":\"1.2.3\",\"pid\":42,\"epoch\":3,\"uptime_ns\":5000000000,\"sessions\":2,\"messages\":10,"
    "\"messages_refused\":1,\"something\":{\"new\":[1,2]},"
    "\"pools\":[{\"name\":\"p\",\"backing\":\"graded\",\"budget_bytes\":100,\"resident_bytes\":50,\"fills\":7,"
    "\"faults_minor\":3,\"numa_balancing\":1,\"nodes\":[{\"node\":1,\"resident_bytes\":40,\"huge_pages\":9,"
    "\"huge_pages_free\":8,\"pages_elsewhere\":6,\"memory_bytes\":77,\"memory_free_bytes\":66,\"fault_threads\":2,"
    "\"is_outside\":1,\"total\":{\"count\":3,\"sum_ns\":3000,\"max_ns\":1100,"
    "\"buckets\":[[896,1],[1024,2]]}}]}],"
    "\"images\":[{\"name\":\"i\",\"pool\":\"p\",\"size_bytes\":8192,\"page_bytes\":4096,\"views\":2,\"fill_bytes\":99}]"
    ","
    "\"views\":[{\"image\":\"i\",\"peer\":\"a\\u001b[31m\\nb\",\"pid\":7,\"address\":4096,\"writable\":true}]}";

static void reading(void **unused) {
    struct state state;
    char why[256];
    (void)unused;
    assert_int_equal(state_read(&state, text, why, sizeof(why)), 0);
    assert_string_equal(state.version, "1.2.3");
    assert_int_equal(state.pid, 42);
    assert_int_equal(state.pool_count, 1);
    assert_string_equal(state.pools[0].backing, "graded");
    assert_int_equal(state.pools[0].counts.fills, 7);
    assert_int_equal(state.pools[0].counts.faults_minor, 3);
    assert_int_equal(state.pools[0].counts.evictions, 0);
    assert_int_equal(state.pools[0].node_count, 1);
    assert_int_equal(state.pools[0].nodes[0].node, 1);
    assert_int_equal(state.pools[0].numa_balancing, 1);
    assert_int_equal(state.pools[0].nodes[0].resident_bytes, 40);
    assert_int_equal(state.pools[0].nodes[0].huge_pages, 9);
    assert_int_equal(state.pools[0].nodes[0].huge_pages_free, 8);
    assert_int_equal(state.pools[0].nodes[0].pages_elsewhere, 6);
    assert_int_equal(state.pools[0].nodes[0].memory_bytes, 77);
    assert_int_equal(state.pools[0].nodes[0].memory_free_bytes, 66);
    assert_int_equal(state.pools[0].nodes[0].fault_threads, 2);
    assert_true(state.pools[0].nodes[0].is_outside);
    assert_int_equal(state.pools[0].nodes[0].total.count, 3);
    assert_int_equal(state.pools[0].nodes[0].fill.count, 0);
    assert_true(mnw_histogram_quantile(&state.pools[0].nodes[0].total, 0.1) < 1024);
    assert_int_equal(mnw_histogram_quantile(&state.pools[0].nodes[0].total, 1.0), 1100);
    assert_int_equal(state.images[0].views, 2);
    assert_int_equal(state.images[0].counts.fill_bytes, 99);
    assert_string_equal(state.views[0].peer, "a?[31m?b"); /* nothing that moves a cursor */
    assert_true(state.views[0].writable);
    assert_false(state.views[0].recording);
    assert_ptr_equal(state_find_pool(&state, "p"), &state.pools[0]);
    assert_null(state_find_pool(&state, "q"));
    assert_null(state_find_pool(NULL, "p"));
    assert_ptr_equal(state_find_image(&state, "i"), &state.images[0]);
    state_free(&state);
}

static void what_is_no_state(void **unused) {
    static const char *const bad[] = {"", "{", "[]", "7", "{\"pools\":", "nonsense", "{\"pools\":[}"};
    struct state state;
    char why[256];
    (void)unused;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        why[0] = '\0';
        assert_int_equal(state_read(&state, bad[i], why, sizeof(why)), -1);
        assert_non_null(strstr(why, "no JSON object"));
    }
}

/* Members of another kind than expected, and odd names. */
static void what_is_odd(void **unused) {
    struct state state;
    char why[256], odd[2000], name[400] = "";
    (void)unused;
    for (int i = 0; i < 62; i++)
        strcat(name, "x");
    strcat(name, "\u00e4\u00e4"); /* cut within a character */
    snprintf(odd, sizeof(odd),
             "{\"pid\":\"x\",\"pools\":{\"a\":1},\"images\":[7,null,{\"name\":3,\"size_bytes\":-1},{\"name\":\"%s\"}],"
             "\"views\":\"none\"}",
             name);
    assert_int_equal(state_read(&state, odd, why, sizeof(why)), 0);
    assert_int_equal(state.pid, 0);
    assert_int_equal(state.pool_count, 0);
    assert_int_equal(state.view_count, 0);
    assert_int_equal(state.image_count, 4);
    assert_string_equal(state.images[2].name, "");
    assert_int_equal(strlen(state.images[3].name), 62);
    state_free(&state);
    assert_int_equal(state_read(&state, "{\"pools\":[{\"nodes\":[{\"map\":{\"buckets\":[[-1,2],[5],7,\"x\"]}}]}]}", why,
                                sizeof(why)),
                     0);
    assert_int_equal(state.pools[0].nodes[0].map.count, 2);
    state_free(&state);
}

static void rates(void **unused) {
    struct state before = {.pid = 1, .uptime_ns = 1000000000}, now = {.pid = 1, .uptime_ns = 3500000000};
    (void)unused;
    assert_true(state_seconds(&before, &now) == 2.5);
    assert_true(state_seconds(NULL, &now) == 0);
    assert_true(state_seconds(&now, &before) == 0);
    now.epoch = 1;
    assert_true(state_seconds(&before, &now) == 0); /* restarted */
    assert_true(state_rate(10, 30, 2.5) == 8);
    assert_true(state_rate(30, 10, 2.5) == 0);
    assert_true(state_rate(10, 30, 0) == 0);
}

static void percentiles_of_an_interval(void **unused) {
    static struct mnw_histogram before, now, since;
    (void)unused;
    before.buckets[4] = now.buckets[4] = 1000;
    now.buckets[20] = 10;
    now.count = 1010;
    before.count = 1000;
    now.max_ns = before.max_ns = 1000000;
    state_histogram_since(&since, &before, &now);
    assert_int_equal(since.count, 10);
    assert_int_equal(since.buckets[4], 0);
    assert_true(mnw_histogram_quantile(&since, 0.5) >= mnw_histogram_floor(20));
    assert_true(mnw_histogram_quantile(&since, 1) < mnw_histogram_floor(21));
    state_histogram_since(&since, NULL, &now);
    assert_int_equal(since.count, 1010);
    before.buckets[20] = 11; /* of another worker */
    state_histogram_since(&since, &before, &now);
    assert_int_equal(since.count, 1010);
}

static void numbers(void **unused) {
    static const struct {
        double count;
        const char *text;
    } counts[] = {{0, "0"},        {1, "1"},       {1.5, "1.5"},   {12.3, "12"},     {999, "999"},
                  {999.6, "1.0k"}, {1234, "1.2k"}, {12345, "12k"}, {999600, "1.0M"}, {5e9, "5.0G"}};
    static const struct {
        uint64_t ns;
        const char *text;
    } times[] = {{0, "0 ns"},        {999, "999 ns"},     {1000, "1.0 us"},     {12345, "12.3 us"},
                 {123456, "123 us"}, {1500000, "1.5 ms"}, {999999999, "1.0 s"}, {90000000000, "90.0 s"}};
    static const struct {
        uint64_t seconds;
        const char *text;
    } uptimes[] = {{0, "0 s"}, {59, "59 s"}, {60, "1 min 0 s"}, {3700, "1 h 1 min"}, {200000, "2 d 7 h"}};
    char to[32];
    (void)unused;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        assert_string_equal(format_count(counts[i].count, to), counts[i].text);
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
        assert_string_equal(format_ns(times[i].ns, to), times[i].text);
    for (size_t i = 0; i < sizeof(uptimes) / sizeof(uptimes[0]); i++)
        assert_string_equal(format_uptime(uptimes[i].seconds * 1000000000, to), uptimes[i].text);
}

/* ---- the map ---- */

static void scales(void **unused) {
    (void)unused;
    assert_int_equal(map_scale(100, 100), 1);
    assert_int_equal(map_scale(101, 100), 2);
    assert_int_equal(map_scale(131072, 640), 224);
    assert_int_equal(map_scale(131072, 512), 256);
    assert_int_equal(map_scale(131072, 511), 320);
    assert_int_equal(map_scale(UINT64_MAX / 2, 1000) > 0, 1);
    assert_int_equal(map_scale(0, 10), 1);
    for (uint64_t pages = 1; pages < 3000; pages += 7)
        for (size_t cells = 1; cells < 100; cells += 13) {
            uint64_t scale = map_scale(pages, cells);
            assert_true((pages + scale - 1) / scale <= cells);
            uint64_t less = scale * 4 / 5 - (scale * 4 / 5 ? 0 : 1); /* the step before is at least so much */
            assert_true(scale == 1 || (pages + less - 1) / less > cells || scale - less <= 1);
        }
}

static void cells(void **unused) {
    struct map_cell found[3] = {{0}};
    uint8_t flags[10] = {MNW_RESIDENT,
                         MNW_RESIDENT | MNW_PINNED,
                         0,
                         MNW_FILLING,
                         MNW_RESIDENT,
                         MNW_RESIDENT,
                         MNW_RESIDENT,
                         MNW_RESIDENT,
                         MNW_FAILED,
                         0};
    (void)unused;
    map_add(found, 3, 4, 0, flags, 6);
    map_add(found, 3, 4, 6, flags + 6, 4);
    map_add(found, 3, 4, 12, flags, 10); /* behind the last cell */
    assert_int_equal(found[0].pages, 4);
    assert_int_equal(found[0].resident, 2);
    assert_int_equal(found[0].filling, 1);
    assert_int_equal(found[0].pinned, 1);
    assert_int_equal(found[1].resident, 4);
    assert_int_equal(found[2].pages, 2);
    assert_int_equal(found[2].failed, 1);
    assert_int_equal(map_level(&found[0]), 2);
    assert_int_equal(map_level(&found[1]), 4);
    assert_int_equal(map_level(&found[2]), 0);
    assert_int_equal(map_level(&(struct map_cell){.pages = 1000, .resident = 1}), 1);
    assert_int_equal(map_level(&(struct map_cell){.pages = 1000, .resident = 999}), 3);
    assert_string_equal(map_sign(4, false), "#");
    assert_string_equal(map_sign(4, true), "\u2588");
    assert_string_equal(map_sign(0, false), ".");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reading),
        cmocka_unit_test(what_is_no_state),
        cmocka_unit_test(what_is_odd),
        cmocka_unit_test(rates),
        cmocka_unit_test(percentiles_of_an_interval),
        cmocka_unit_test(numbers),
        cmocka_unit_test(scales),
        cmocka_unit_test(cells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
