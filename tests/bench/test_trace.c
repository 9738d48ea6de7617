/* SPDX-License-Identifier: MIT */
/* Files of traces: what is written is read again, what is damaged or impossible is refused with a word. */
#include "unit/unit.h"

#include "trace.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <xxhash.h>

static void make(struct trace *trace) {
    static const uint32_t pages[] = {0, 99, 7, 7};
    static const uint8_t ends[] = {TRACE_MISSING, TRACE_MISSING, TRACE_MINOR, TRACE_UNSEEN};
    *trace = (struct trace){.page_bytes = 4096, .store_pages = 100, .budget_pages = 25, .unit_pages = 16};
    assert_int_equal(trace_reserve(trace, 4), 0);
    memcpy(trace->pages, pages, sizeof(pages));
    memcpy(trace->ends, ends, sizeof(ends));
}

static unsigned char *encoded(size_t *size) {
    struct trace trace;
    make(&trace);
    unsigned char *bytes = trace_encode(&trace, size);
    trace_free(&trace);
    assert_non_null(bytes);
    assert_int_equal(*size, 64 + 4 * 8);
    return bytes;
}

static void test_comes_back(void **state) {
    (void)state;
    struct trace before, after;
    const char *why = NULL;
    size_t size;
    unsigned char *bytes = encoded(&size);
    make(&before);
    assert_int_equal(trace_decode(&after, bytes, size, &why), 0);
    assert_null(why);
    assert_int_equal(after.count, 4);
    assert_int_equal(after.page_bytes, 4096);
    assert_int_equal(after.store_pages, 100);
    assert_int_equal(after.budget_pages, 25);
    assert_int_equal(after.unit_pages, 16);
    assert_memory_equal(before.pages, after.pages, 4 * sizeof(uint32_t));
    assert_memory_equal(before.ends, after.ends, 4);
    trace_free(&before);
    trace_free(&after);
    free(bytes);
}

/* The bytes as docs/traces.md has them. */
static void test_as_documented(void **state) {
    (void)state;
    size_t size;
    unsigned char *bytes = encoded(&size);
    static const unsigned char head[56] = {'M', 'I', 'N', 'N', 'O', 'W', 'T', 'R', 1, 0, 0, 0, 0, 16,
                                           0,   0,   100, 0,   0,   0,   0,   0,   0, 0, 4, 0, 0, 0,
                                           0,   0,   0,   0,   25,  0,   0,   0,   0, 0, 0, 0, 16};
    static const unsigned char second[8] = {99, 0, 0, 0, 0, TRACE_MISSING};
    assert_memory_equal(bytes, head, 56);
    assert_memory_equal(bytes + 64 + 8, second, 8);
    free(bytes);
}

static void seal(unsigned char *bytes, size_t size) {
    uint64_t sum = XXH64(bytes + 64, size - 64, XXH64(bytes, 56, 0));
    for (unsigned i = 0; i < 8; i++)
        bytes[56 + i] = (unsigned char)(sum >> (8 * i));
}

static void refused(const unsigned char *bytes, size_t size, int error, const char *word) {
    struct trace trace;
    const char *why = "";
    assert_int_equal(trace_decode(&trace, bytes, size, &why), error);
    if (!strstr(why, word))
        fail_msg("\"%s\" does not speak of %s", why, word);
    assert_null(trace.pages);
    assert_null(trace.ends);
}

static void test_every_flipped_bit_is_noticed(void **state) {
    (void)state;
    size_t size;
    unsigned char *bytes = encoded(&size);
    for (size_t bit = 0; bit < size * 8; bit++) {
        struct trace trace;
        const char *why;
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        assert_true(trace_decode(&trace, bytes, size, &why) < 0);
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    for (size_t length = 0; length < size; length++)
        refused(bytes, length, -EBADMSG, "it is no");
    free(bytes);
}

/* With a checksum that is right. */
static void test_impossible(void **state) {
    static const struct {
        size_t at;
        unsigned char byte;
        int error;
        const char *word;
    } wrongs[] = {
        {0, 'm', -EBADMSG, "no trace"},  {8, 2, -ENOTSUP, "version"},       {13, 15, -EBADMSG, "page size"},
        {16, 0, -EBADMSG, "no pages"},   {20, 1, -EBADMSG, "more than"},    {24, 3, -EBADMSG, "number of reads"},
        {31, 1, -EBADMSG, "number of"},  {32, 0, -EBADMSG, "budget"},       {36, 1, -EBADMSG, "budget"},
        {40, 0, -EBADMSG, "unit"},       {40, 101, -EBADMSG, "unit"},       {44, 1, -EBADMSG, "reserved"},
        {48, 1, -EBADMSG, "reserved"},   {72, 100, -EBADMSG, "behind its"}, {69, 3, -EBADMSG, "no known way"},
        {68, 1, -EBADMSG, "behind its"}, {71, 1, -EBADMSG, "known way"},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        size_t size;
        unsigned char *bytes = encoded(&size);
        bytes[wrongs[i].at] = wrongs[i].byte;
        seal(bytes, size);
        refused(bytes, size, wrongs[i].error, wrongs[i].word);
        free(bytes);
    }
}

/* A disk that is full: nothing is left that looks like a trace. */
static void test_saved_whole_or_not_at_all(void **state) {
    (void)state;
    struct trace trace, after;
    struct rlimit before, little = {70, 70};
    char path[] = "/tmp/minnow-trace-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    make(&trace);
    assert_int_equal(trace_save(&trace, path), 0);
    assert_int_equal(trace_load(&after, path), 0);
    trace_free(&after);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    little.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    int error = trace_save(&trace, path);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(error, -EFBIG);
    assert_int_equal(access(path, F_OK), -1);
    /* What is no file stays. By a link, lest a mistake take the device. */
    assert_int_equal(symlink("/dev/full", path), 0);
    assert_int_equal(trace_save(&trace, path), -ENOSPC);
    assert_int_equal(unlink(path), 0);
    trace_free(&trace);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comes_back),
        cmocka_unit_test(test_as_documented),
        cmocka_unit_test(test_every_flipped_bit_is_noticed),
        cmocka_unit_test(test_impossible),
        cmocka_unit_test(test_saved_whole_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
