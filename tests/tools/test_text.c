/* SPDX-License-Identifier: MIT */
/* Sizes, numbers and names as the command reads them. */
#include "command.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void sizes_take_suffixes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"64K", UINT64_C(64) << 10},
                {"64k", UINT64_C(64) << 10},
                {"64KiB", UINT64_C(64) << 10},
                {"1M", UINT64_C(1) << 20},
                {"3G", UINT64_C(3) << 30},
                {"2T", UINT64_C(2) << 40},
                {"2TB", UINT64_C(2) << 40},
                {"18446744073709551615", UINT64_MAX},
                {"16777215T", UINT64_C(16777215) << 40}};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        uint64_t bytes = 1;
        assert_int_equal(parse_size(good[i].text, &bytes), 0);
        assert_true(bytes == good[i].bytes);
    }
}

static void nonsense_is_no_size(void **state) {
    (void)state;
    static const char *const bad[] = {"",
                                      "K",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 K",
                                      "1.5G",
                                      "1KK",
                                      "1Ki",
                                      "12X",
                                      "0x9",
                                      "1e6",
                                      "16777216T",
                                      "18446744073709551616",
                                      "99999999999999999999G"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint64_t bytes = 77;
        assert_int_equal(parse_size(bad[i], &bytes), -1);
        assert_true(bytes == 77);
    }
    assert_int_equal(parse_size(NULL, &(uint64_t){0}), -1);
}

static void numbers_are_whole(void **state) {
    (void)state;
    uint64_t number = 77;
    assert_int_equal(parse_number("10", &number), 0);
    assert_true(number == 10);
    static const char *const bad[] = {"", "1K", "-1", "1.0", "ten", "18446744073709551616"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(parse_number(bad[i], &number), -1);
    assert_true(number == 10);
}

static void names_are_exact(void **state) {
    (void)state;
    static const char *const names[] = {"shmem", "graded", NULL};
    assert_int_equal(parse_name(names, "shmem"), 0);
    assert_int_equal(parse_name(names, "graded"), 1);
    assert_int_equal(parse_name(names, "grade"), -1);
    assert_int_equal(parse_name(names, "Shmem"), -1);
    assert_int_equal(parse_name(names, ""), -1);
}

static void sizes_read_well(void **state) {
    (void)state;
    char text[32];
    assert_string_equal(format_size(0, text), "0 bytes");
    assert_string_equal(format_size(1023, text), "1023 bytes");
    assert_string_equal(format_size(1536, text), "1.5 KiB");
    assert_string_equal(format_size(UINT64_C(3) << 30, text), "3.0 GiB");
    assert_string_equal(format_size(UINT64_MAX, text), "16.0 EiB");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_take_suffixes), cmocka_unit_test(nonsense_is_no_size),
        cmocka_unit_test(numbers_are_whole),   cmocka_unit_test(names_are_exact),
        cmocka_unit_test(sizes_read_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
