/* SPDX-License-Identifier: MIT */
/* Working sets: recording, the file's bytes and each way they can be broken, unions, runs to read. */
#include "unit.h"

#include "base/error.h"
#include "policy/working_set.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { PAGES = 1000, PAGE = 4096 };

static const struct mnw__working_set_of of_small = {.store_bytes = PAGES * PAGE - 5, .identity = 7, .page_bytes = PAGE};

/* A recorder of pages [100, 100 + count), with its memory. */
static void begin(struct mnw__recorder *recorder, void **memory, uint64_t first, uint64_t count) {
    *memory = calloc(1, mnw__recorder_bytes(count));
    assert_non_null(*memory);
    mnw__recorder_init(recorder, *memory, first, count);
}

/* A file's bytes of these pages in this order. */
static void make(const struct mnw__working_set_of *of, const uint64_t *pages, size_t count, void **bytes,
                 size_t *size) {
    struct mnw__recorder recorder;
    void *memory;
    begin(&recorder, &memory, 0, (of->store_bytes - 1) / of->page_bytes + 1);
    for (size_t i = 0; i < count; i++)
        mnw__recorder_note(&recorder, pages[i]);
    assert_int_equal(mnw__working_set_encode(&recorder, of, bytes, size), 0);
    free(memory);
}

static void assert_entries(const struct mnw__working_set *set, const struct mnw__run *runs, size_t count) {
    assert_int_equal(set->entry_count, count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(mnw__working_set_entry(set, i).first, runs[i].first);
        assert_int_equal(mnw__working_set_entry(set, i).count, runs[i].count);
    }
}

/* ---- recording ---- */

static void test_first_touch_order(void **state) {
    (void)state;
    struct mnw__recorder recorder;
    struct mnw__working_set set;
    void *memory, *bytes;
    size_t size;
    static const uint64_t touched[] = {105, 106, 105, 300, 107, 99, 1100, 100, 106, 1099, 101};
    static const struct mnw__run expected[] = {{105, 2}, {300, 1}, {107, 1}, {100, 1}, {1099, 1}, {101, 1}};
    begin(&recorder, &memory, 100, PAGES);
    for (size_t i = 0; i < sizeof(touched) / sizeof(touched[0]); i++)
        mnw__recorder_note(&recorder, touched[i]);
    struct mnw__working_set_of of = {.store_bytes = 2000 * PAGE, .page_bytes = PAGE};
    assert_int_equal(mnw__working_set_encode(&recorder, &of, &bytes, &size), 0);
    assert_int_equal(mnw__working_set_decode(&set, bytes, size), 0);
    assert_entries(&set, expected, 6);
    assert_int_equal(set.page_count, 7);
    free(bytes);
    free(memory);
}

static struct mnw__recorder shared;

static void *note_all(void *argument) {
    uint64_t step = (uint64_t)(uintptr_t)argument;
    for (uint64_t i = 0; i < PAGES; i++)
        mnw__recorder_note(&shared, i * step % PAGES);
    return NULL;
}

static void test_many_threads(void **state) {
    (void)state;
    static const uintptr_t steps[] = {1, 3, 7, 999};
    pthread_t threads[4];
    struct mnw__working_set set;
    void *memory, *bytes;
    size_t size;
    for (int round = 0; round < 20; round++) {
        bool seen[PAGES] = {false};
        begin(&shared, &memory, 0, PAGES);
        for (int i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, note_all, (void *)steps[i]), 0);
        /* What is saved meanwhile is whole too. */
        assert_int_equal(mnw__working_set_encode(&shared, &of_small, &bytes, &size), 0);
        assert_int_equal(mnw__working_set_decode(&set, bytes, size), 0);
        free(bytes);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(mnw__working_set_encode(&shared, &of_small, &bytes, &size), 0);
        assert_int_equal(mnw__working_set_decode(&set, bytes, size), 0);
        assert_int_equal(set.page_count, PAGES);
        for (uint64_t i = 0; i < set.entry_count; i++) {
            struct mnw__run run = mnw__working_set_entry(&set, i);
            for (uint64_t page = run.first; page < run.first + run.count; page++) {
                assert_false(seen[page]);
                seen[page] = true;
            }
        }
        free(bytes);
        free(memory);
    }
}

static _Atomic uint64_t arrived;

/* Two threads meet before each page, and note it in the same moment. */
static void *note_together(void *argument) {
    (void)argument;
    for (uint64_t i = 0; i < 60000; i++) {
        atomic_fetch_add(&arrived, 1);
        for (unsigned spins = 0; atomic_load(&arrived) < 2 * (i + 1); spins++)
            if (spins % 1000 == 999)
                sched_yield();
        mnw__recorder_note(&shared, i);
    }
    return NULL;
}

static void test_one_page_by_two(void **state) {
    (void)state;
    pthread_t thread;
    void *memory;
    begin(&shared, &memory, 0, 60001);
    atomic_store(&arrived, 0);
    assert_int_equal(pthread_create(&thread, NULL, note_together, NULL), 0);
    note_together(NULL);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&shared.count), 60000);
    free(memory);
}

/* ---- the file ---- */

static void test_documented_bytes(void **state) {
    (void)state;
    static const uint64_t pages[] = {3, 4, 5, 1, 999};
    static const unsigned char header[] = {
        'M',  'I',  'N',  'N', 'O', 'W', 'W', 'S', 1, 0, 0, 0, 0, 16, 0, 0, /* version, page size */
        0xfb, 0x7f, 0x3e, 0,   0,   0,   0,   0,   7, 0, 0, 0, 0, 0,  0, 0, /* store size, identity */
        3,    0,    0,    0,   0,   0,   0,   0,   5, 0, 0, 0, 0, 0,  0, 0, /* entries, pages */
        0,    0,    0,    0,   0,   0,   0,   0};
    static const unsigned char entries[] = {3, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xe7, 3, 0, 0, 0, 0, 0, 0};
    void *bytes;
    size_t size;
    make(&of_small, pages, 5, &bytes, &size);
    assert_int_equal(size, 64 + 24);
    assert_memory_equal(bytes, header, 56);
    assert_memory_equal((char *)bytes + 64, entries, 24);
    uint64_t sum = XXH64(entries, 24, XXH64(header, 56, 0));
    for (int i = 0; i < 8; i++)
        assert_int_equal(((unsigned char *)bytes)[56 + i], sum >> (8 * i) & 0xff);
    free(bytes);
}

static void test_empty(void **state) {
    (void)state;
    struct mnw__working_set set;
    struct mnw__working_set_plan plan = {.page_bytes = PAGE, .unit_bytes = PAGE, .bytes_max = UINT64_MAX};
    struct mnw__run *runs;
    uint64_t count;
    void *bytes;
    size_t size;
    make(&of_small, NULL, 0, &bytes, &size);
    assert_int_equal(size, 64);
    assert_int_equal(mnw__working_set_decode(&set, bytes, size), 0);
    assert_int_equal(set.entry_count, 0);
    assert_int_equal(mnw__working_set_runs(&set, &plan, &runs, &count), 0);
    assert_int_equal(count, 0);
    free(runs);
    free(bytes);
}

/* Puts the checksum right, so that what is behind it is looked at. */
static void seal(unsigned char *bytes, size_t size) {
    uint64_t sum = XXH64(bytes + 64, size - 64, XXH64(bytes, 56, 0));
    for (int i = 0; i < 8; i++)
        bytes[56 + i] = (unsigned char)(sum >> (8 * i));
}

static void test_broken(void **state) {
    (void)state;
    static const struct {
        const char *what;
        size_t at;
        unsigned char value;
        int error;
        const char *says;
    } cases[] = {
        {"magic", 0, 'X', -EBADMSG, "none"},
        {"version 2", 8, 2, -ENOTSUP, "version 2"},
        {"page size 0", 13, 0, -EBADMSG, "pages of 0"},
        {"page size no power", 12, 1, -EBADMSG, "pages of 4097"},
        {"page size 2 GiB", 15, 0x80, -EBADMSG, "cannot be"},
        {"store shorter", 18, 0x10, -EBADMSG, "past the end"},
        {"store beyond everything", 23, 0x80, -EBADMSG, "a store of"},
        {"store too many pages", 22, 0x20, -EBADMSG, "a store of"},
        {"fewer entries", 32, 2, -EBADMSG, "entries"},
        {"more entries", 32, 4, -EBADMSG, "entries"},
        {"entries that overflow", 39, 0x20, -EBADMSG, "entries"},
        {"other pages", 40, 6, -EBADMSG, "holds 5 pages, and says 6"},
        {"reserved", 50, 1, -EBADMSG, "reserved"},
        {"entry past the end", 64 + 17, 0xff, -EBADMSG, "entry 2"},
        {"entry that grows", 64 + 23, 0xff, -EBADMSG, "entry 2"},
    };
    static const uint64_t pages[] = {3, 4, 5, 1, 999};
    struct mnw__working_set set;
    unsigned char *bytes;
    size_t size;
    make(&of_small, pages, 5, (void **)&bytes, &size);
    assert_int_equal(mnw__working_set_decode(&set, bytes, size), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        unsigned char *copy = malloc(size);
        assert_non_null(copy);
        memcpy(copy, bytes, size);
        copy[cases[i].at] = cases[i].value;
        seal(copy, size);
        if (mnw__working_set_decode(&set, copy, size) != cases[i].error || !strstr(mnw__fail_message(), cases[i].says))
            fail_msg("%s: %s", cases[i].what, mnw__fail_message());
        free(copy);
    }
    /* 2^33 pages of 1 GiB are few enough, and yet too many bytes to count. */
    unsigned char *copy = malloc(size);
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    memset(copy + 12, 0, 12);
    copy[15] = 0x40;
    copy[23] = 0x80;
    seal(copy, size);
    assert_int_equal(mnw__working_set_decode(&set, copy, size), -EBADMSG);
    copy[23] = 0x40;
    seal(copy, size);
    assert_int_equal(mnw__working_set_decode(&set, copy, size), 0);
    free(copy);
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(mnw__working_set_decode(&set, bytes, cut), -EBADMSG);
    for (size_t bit = 0; bit < size * 8; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        assert_true(mnw__working_set_decode(&set, bytes, size) < 0);
        bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }
    free(bytes);
}

static void test_fits(void **state) {
    (void)state;
    struct mnw__working_set set = {.of = of_small};
    assert_int_equal(mnw__working_set_fits(&set, of_small.store_bytes, 7), 0);
    assert_int_equal(mnw__working_set_fits(&set, of_small.store_bytes, 0), 0);
    assert_int_equal(mnw__working_set_fits(&set, of_small.store_bytes, 8), -ESTALE);
    assert_int_equal(mnw__working_set_fits(&set, of_small.store_bytes + 1, 7), -ESTALE);
    set.of.identity = 0;
    assert_int_equal(mnw__working_set_fits(&set, of_small.store_bytes, 8), 0);
}

/* An entry holds 2^24 pages: a longer run is several. */
static void test_long_runs(void **state) {
    (void)state;
    static const struct mnw__run expected[] = {{0, 1 << 24}, {1 << 24, 1 << 10}};
    struct mnw__working_set_of of = {.store_bytes = ((1ull << 24) + 1024) * PAGE, .page_bytes = PAGE};
    struct mnw__working_set_of of_huge = of;
    struct mnw__working_set small, large, both;
    void *bytes, *huge_bytes, *joined;
    size_t size;
    of_huge.page_bytes = 1u << 30;
    make(&of, NULL, 0, &bytes, &size);
    assert_int_equal(mnw__working_set_decode(&small, bytes, size), 0);
    uint64_t all[65];
    for (uint64_t i = 0; i < 65; i++)
        all[i] = i;
    make(&of_huge, all, 65, &huge_bytes, &size);
    assert_int_equal(mnw__working_set_decode(&large, huge_bytes, size), 0);
    assert_entries(&large, &(struct mnw__run){0, 65}, 1);
    assert_int_equal(mnw__working_set_union(&small, &large, &joined, &size), 0);
    assert_int_equal(mnw__working_set_decode(&both, joined, size), 0);
    assert_int_equal(both.of.page_bytes, PAGE);
    assert_entries(&both, expected, 2);
    free(bytes);
    free(huge_bytes);
    free(joined);
}

/* ---- union ---- */

static void test_union(void **state) {
    (void)state;
    static const uint64_t first[] = {10, 11, 12, 50, 30}, second[] = {500, 11, 12, 13, 600, 30, 700};
    /* first: ranks 0 (10-12), 3 (50), 4 (30); second: 0 (500), 1 (11-13), 4 (600), 5 (30), 6 (700). */
    static const struct mnw__run expected[] = {{10, 3}, {500, 1}, {13, 1}, {50, 1}, {30, 1}, {600, 1}, {700, 1}};
    struct mnw__working_set a, b, both;
    void *a_bytes, *b_bytes, *bytes;
    size_t size;
    struct mnw__working_set_of unknown = of_small;
    unknown.identity = 0;
    make(&unknown, first, 5, &a_bytes, &size);
    assert_int_equal(mnw__working_set_decode(&a, a_bytes, size), 0);
    make(&of_small, second, 7, &b_bytes, &size);
    assert_int_equal(mnw__working_set_decode(&b, b_bytes, size), 0);
    assert_int_equal(mnw__working_set_union(&a, &b, &bytes, &size), 0);
    assert_int_equal(mnw__working_set_decode(&both, bytes, size), 0);
    assert_entries(&both, expected, 7);
    assert_int_equal(both.of.identity, 7);
    assert_int_equal(both.of.store_bytes, of_small.store_bytes);
    free(bytes);
    free(a_bytes);
    free(b_bytes);
}

/* ---- runs ---- */

static void assert_runs(const struct mnw__working_set *set, struct mnw__working_set_plan plan,
                        const struct mnw__run *expected, size_t count) {
    struct mnw__run *runs;
    uint64_t found;
    assert_int_equal(mnw__working_set_runs(set, &plan, &runs, &found), 0);
    assert_int_equal(found, count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(runs[i].first, expected[i].first);
        assert_int_equal(runs[i].count, expected[i].count);
    }
    free(runs);
}

static void test_runs(void **state) {
    (void)state;
    static const uint64_t touched[] = {999, 70, 5, 6, 63, 64, 65, 0, 7, 100};
    static const struct mnw__run whole[] = {{0, 1}, {5, 3}, {63, 3}, {70, 1}, {100, 1}, {999, 1}};
    static const struct mnw__run early[] = {{5, 1}, {70, 1}, {999, 1}};
    struct mnw__working_set set;
    void *bytes;
    size_t size;
    make(&of_small, touched, 10, &bytes, &size);
    assert_int_equal(mnw__working_set_decode(&set, bytes, size), 0);
    struct mnw__working_set_plan plan = {.page_bytes = PAGE, .unit_bytes = PAGE, .bytes_max = UINT64_MAX};
    assert_runs(&set, plan, whole, 6);
    plan.bytes_max = 3 * PAGE;
    assert_runs(&set, plan, early, 3);
    plan.bytes_max = PAGE - 1;
    assert_runs(&set, plan, NULL, 0);
    /* Units of 16 pages: 999, 70, 5-6 and 63 take four, and 64 lies with 70; the fifth is 100's. */
    plan.unit_bytes = 16 * PAGE;
    plan.bytes_max = 4 * 16 * PAGE;
    static const struct mnw__run with_units[] = {{0, 1}, {5, 3}, {63, 3}, {70, 1}, {999, 1}};
    assert_runs(&set, plan, with_units, 5);
    plan.bytes_max = 3 * 16 * PAGE;
    static const struct mnw__run three_units[] = {{5, 2}, {70, 1}, {999, 1}};
    assert_runs(&set, plan, three_units, 3);
    /* Pages of 64 KiB. */
    plan = (struct mnw__working_set_plan){.page_bytes = 16 * PAGE, .unit_bytes = 16 * PAGE, .bytes_max = UINT64_MAX};
    static const struct mnw__run coarse[] = {{0, 1}, {3, 2}, {6, 1}, {62, 1}};
    assert_runs(&set, plan, coarse, 4);
    free(bytes);
}

/* A set of huge pages for a cache of small ones: the last one ends with the store. */
static void test_runs_of_smaller_pages(void **state) {
    (void)state;
    static const uint64_t touched[] = {3, 0};
    static const struct mnw__run expected[] = {{0, 256}, {768, 232}};
    struct mnw__working_set_of of = {.store_bytes = of_small.store_bytes, .page_bytes = 256 * PAGE};
    struct mnw__working_set set;
    void *bytes;
    size_t size;
    make(&of, touched, 2, &bytes, &size);
    assert_int_equal(mnw__working_set_decode(&set, bytes, size), 0);
    assert_runs(&set, (struct mnw__working_set_plan){PAGE, PAGE, UINT64_MAX}, expected, 2);
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_touch_order),
        cmocka_unit_test(test_many_threads),
        cmocka_unit_test(test_one_page_by_two),
        cmocka_unit_test(test_documented_bytes),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_fits),
        cmocka_unit_test(test_long_runs),
        cmocka_unit_test(test_union),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_runs_of_smaller_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
