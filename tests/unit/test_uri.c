/* SPDX-License-Identifier: MIT */
/* URIs of stores: what is accepted, and how each mistake is refused. */
#include "unit.h"

#include "base/error.h"
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void test_accepted(void **state) {
    (void)state;
    static const struct {
        const char *text, *path;
        int direct;
    } cases[] = {
        {"file:///data/set.bin", "/data/set.bin", -1},
        {"FILE:///x", "/x", -1},
        {"file://localhost/x", "/x", -1},
        {"file:///", "/", -1},
        {"file:////double", "//double", -1},
        {"file:///a?direct=1", "/a", 1},
        {"file:///a?direct=0", "/a", 0},
        {"file:///with%20space%25%3f%23.bin", "/with space%?#.bin", -1},
        {"file:///%e2%82%AC", "/\xe2\x82\xac", -1},
        {"file:///a+b;c=d&e", "/a+b;c=d&e", -1},
        {"file:///with space", "/with space", -1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct mnw__uri uri;
        assert_int_equal(mnw__uri_parse(cases[i].text, &uri), 0);
        assert_string_equal(uri.scheme, "file");
        assert_string_equal(uri.path, cases[i].path);
        assert_int_equal(uri.direct, cases[i].direct);
    }
}

static void test_refused_with_words(void **state) {
    (void)state;
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"", "no scheme"},
        {"/data/set.bin", "no scheme"},
        {"data", "no scheme"},
        {"://x", "no scheme"},
        {"1file:///x", "no scheme"},
        {"fi le:///x", "no scheme"},
        {"file:", "absolute"},
        {"file:x", "absolute"},
        {"file:/x", "absolute"},
        {"file://host/x", "absolute"},
        {"file://localhostx/x", "absolute"},
        {"file://localhost", "absolute"},
        {"file:///a%", "hexadecimal"},
        {"file:///a%4", "hexadecimal"},
        {"file:///a%g0", "hexadecimal"},
        {"file:///a%0g", "hexadecimal"},
        {"file:///a%00b", "hexadecimal"},
        {"file:///a#b", "%23"},
        {"file:///a?", "unknown parameter"},
        {"file:///a?direct", "unknown parameter"},
        {"file:///a?direct=2", "unknown parameter"},
        {"file:///a?direct=1x", "unknown parameter"},
        {"file:///a?Direct=1", "unknown parameter"},
        {"file:///a?direct=1&", "unknown parameter"},
        {"file:///a?direct=1&x=y", "x=y"},
        {"file:///a?direct=1&direct=1", "twice"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct mnw__uri uri;
        assert_int_equal(mnw__uri_parse(cases[i].text, &uri), -EINVAL);
        if (!strstr(mnw__fail_message(), cases[i].word))
            fail_msg("\"%s\" gave: %s", cases[i].text, mnw__fail_message());
    }
}

static void test_other_schemes_keep_their_grammar(void **state) {
    (void)state;
    struct mnw__uri uri;
    assert_int_equal(mnw__uri_parse("nbd://host:10809/export#%", &uri), 0);
    assert_string_equal(uri.scheme, "nbd");
    assert_string_equal(uri.path, "");
    assert_int_equal(uri.direct, -1);
}

static void test_lengths(void **state) {
    (void)state;
    struct mnw__uri uri;
    char text[4096 + 100];
    for (int length = 4090; length <= 4100; length++) {
        snprintf(text, sizeof(text), "file:///%0*d", length - 1, 7);
        int result = mnw__uri_parse(text, &uri);
        assert_int_equal(result, length <= 4095 ? 0 : -ENAMETOOLONG);
        if (!result)
            assert_int_equal(strlen(uri.path), length);
    }
    assert_int_equal(mnw__uri_parse("abcdefghijklmno:", &uri), 0);
    assert_int_equal(mnw__uri_parse("abcdefghijklmnop:", &uri), -ENAMETOOLONG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_refused_with_words),
        cmocka_unit_test(test_other_schemes_keep_their_grammar),
        cmocka_unit_test(test_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
