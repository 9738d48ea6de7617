/* SPDX-License-Identifier: MIT */
/*
 * Stores that misbehave while they are mapped: files that shrink, grow or are replaced, and embedders that
 * answer late, never, twice, or nonsense. Wrong bytes never; SIGBUS for the pages concerned; no hang.
 */
#include "bed.h"
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGES 40ull

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- files ---- */

static const struct mnw_cache_options exact = {
    .size = sizeof(exact), .read_retries = UINT32_MAX, .readahead_bytes = UINT64_MAX};
static const struct mnw_cache_options ahead = {.size = sizeof(ahead), .read_retries = 1, .retry_delay_ms = 1};

struct way {
    enum mnw_io_mode io_mode;
    int direct;
    const struct mnw_cache_options *options;
};
static const struct way uring = {MNW_IO_AUTO, 0, &exact}, pool_of_threads = {MNW_IO_THREADS, 0, &exact},
                        direct = {MNW_IO_AUTO, 1, &exact}, with_readahead = {MNW_IO_AUTO, 0, &ahead};

static void open_file(const struct way *way, const struct bed_file *file, struct mnw_store **store, struct bed *bed) {
    struct mnw_store_options options = {.size = sizeof(options), .direct = way->direct};
    bed_hurry(30);
    if (mnw_store_open(store, file->uri, &options) == -ENOTSUP && way->direct) {
        print_message("no direct reads: %s\n", mnw_error());
        skip();
    }
    *bed = (struct bed){0};
    bed_open(bed, *store, (struct mnw_pool_options){.io_mode = way->io_mode}, way->options);
}

static void assert_old_or_bus(struct bed *bed, uint64_t page, bool must_be_bus) {
    const char *at = bed->data + page * BED_PAGE;
    if (bed_compare(at, page * BED_PAGE, BED_PAGE, 1, NULL) == BED_RIGHT && !must_be_bus)
        return;
    bed_assert_bus(bed->view, page);
}

static void test_shrinks(void **state) {
    const struct way *way = *state;
    bool is_exact = way->options == &exact;
    struct bed_file file;
    struct mnw_store *store;
    struct mnw_event event;
    struct bed bed;
    bed_file(&file, PAGES * BED_PAGE, 1);
    open_file(way, &file, &store, &bed);
    for (uint64_t page = 0; page < 10; page++)
        bed_assert_page(bed.view, page, 1);
    bed_assert_page(bed.view, 30, 1);
    /* Page 20 keeps its first 100 bytes, those behind it nothing. */
    assert_int_equal(ftruncate(file.fd, 20 * BED_PAGE + 100), 0);
    for (int round = 0; round < 2; round++) {
        for (uint64_t page = 0; page < 20; page++)
            bed_assert_page(bed.view, page, 1);
        for (uint64_t page = 20; page < PAGES; page++) {
            if (page == 30 && is_exact)
                bed_assert_page(bed.view, page, 1); /* in memory since before */
            else
                assert_old_or_bus(&bed, page, is_exact);
        }
    }
    uint64_t told = 0;
    while (bed_event(bed.pool, &event, 0)) {
        assert_int_equal(event.kind, MNW_EVENT_PAGE_FAILED);
        assert_int_equal(event.result, -ENODATA);
        assert_true(event.offset >= 20 * BED_PAGE && event.offset < PAGES * BED_PAGE);
        told++;
    }
    if (is_exact)
        assert_int_equal(told, PAGES - 21);

    /* The file comes back, with other bytes. */
    char bytes[BED_PAGE];
    for (uint64_t page = 0; page < PAGES; page++) {
        bed_bytes(bytes, page * BED_PAGE, BED_PAGE, 2);
        assert_int_equal(pwrite(file.fd, bytes, BED_PAGE, (off_t)(page * BED_PAGE)), BED_PAGE);
    }
    assert_int_equal(mnw_invalidate(bed.cache, 0, PAGES * BED_PAGE), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        bed_assert_page(bed.view, page, 2);
    bed_close(&bed);
    assert_int_equal(mnw_store_close(store), 0);
    bed_file_remove(&file);
}

/* The store keeps the size it had: what comes later is neither seen nor does it disturb the last page. */
static void test_grows(void **state) {
    struct bed_file file;
    struct mnw_store *store;
    struct bed bed;
    char bytes[2 * BED_PAGE];
    uint64_t size = 5 * BED_PAGE + 100;
    bed_file(&file, size, 1);
    open_file(*state, &file, &store, &bed);
    bed_bytes(bytes, size, sizeof(bytes), 1);
    assert_int_equal(pwrite(file.fd, bytes, sizeof(bytes), (off_t)size), sizeof(bytes));
    assert_int_equal(mnw_view_length(bed.view), 6 * BED_PAGE);
    assert_int_equal(mnw_store_size(store), size);
    assert_int_equal(bed_compare(bed.data, 0, size, 1, NULL), BED_RIGHT);
    assert_int_equal(bed_zeros(bed.data + size, BED_PAGE - 100), BED_RIGHT);
    bed_close(&bed);
    assert_int_equal(mnw_store_close(store), 0);
    bed_file_remove(&file);
}

static void test_replaced(void **state) {
    struct bed_file file, other;
    struct mnw_store *store;
    struct bed bed;
    bed_file(&file, PAGES * BED_PAGE, 1);
    bed_file(&other, PAGES * BED_PAGE, 2);
    open_file(*state, &file, &store, &bed);
    bed_assert_page(bed.view, 0, 1);
    assert_int_equal(rename(other.path, file.path), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        bed_assert_page(bed.view, page, 1);
    assert_int_equal(mnw_invalidate(bed.cache, 0, PAGES * BED_PAGE), 0);
    bed_assert_page(bed.view, 7, 1); /* it is the file that was opened, not its name */
    bed_close(&bed);
    assert_int_equal(mnw_store_close(store), 0);
    bed_file_remove(&file);
    close(other.fd);
}

/* ---- embedders that do not answer ---- */

#define DEADLINE_MS 200

static int64_t hold_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? BED_HOLD : (int64_t)read->length;
}

struct toucher {
    pthread_t thread;
    const char *at;
    int signal_number;
    uintptr_t fault;
    uint64_t took_ms;
};

static void *touch(void *argument) {
    struct toucher *toucher = argument;
    uint64_t began_ms = now_ms();
    toucher->signal_number = bed_touch(toucher->at, &toucher->fault);
    toucher->took_ms = now_ms() - began_ms;
    return NULL;
}

static void start_toucher(struct toucher *toucher, const char *at) {
    *toucher = (struct toucher){.at = at};
    assert_int_equal(pthread_create(&toucher->thread, NULL, touch, toucher), 0);
}

static void open_silent(struct bed_source *source, struct bed *bed, uint64_t readahead_bytes) {
    struct mnw_cache_options options = {.size = sizeof(options),
                                        .read_retries = UINT32_MAX,
                                        .read_deadline_ms = DEADLINE_MS,
                                        .readahead_bytes = readahead_bytes};
    bed_hurry(30);
    bed_source_open(source, PAGES * BED_PAGE);
    source->answer = hold_bad_page;
    *bed = (struct bed){0};
    bed_open(bed, source->store, (struct mnw_pool_options){0}, &options);
}

static void test_never_answers(void **state) {
    struct bed_source source;
    struct mnw_event event;
    struct bed bed;
    struct toucher first, second;
    uint64_t bad = 17, began_ms;
    (void)state;
    open_silent(&source, &bed, UINT64_MAX);
    atomic_store(&source.bad_page, bad);
    start_toucher(&first, bed.data + bad * BED_PAGE + 8);
    assert_true(bed_eventually(bed_is_held, &source));
    start_toucher(&second, bed.data + bad * BED_PAGE + 800); /* joins the read */
    began_ms = now_ms();
    for (uint64_t page = 0; page < PAGES; page++)
        if (page != bad)
            bed_assert_page(bed.view, page, 1); /* others go on */
    assert_true(MACHINE_SANITIZED || now_ms() - began_ms < DEADLINE_MS * 5);
    pthread_join(first.thread, NULL);
    pthread_join(second.thread, NULL);
    assert_int_equal(first.signal_number, SIGBUS);
    assert_int_equal(second.signal_number, SIGBUS);
    assert_int_equal(first.fault, first.at);
    assert_true(first.took_ms >= DEADLINE_MS - 20 && first.took_ms < DEADLINE_MS * 20);
    assert_true(bed_event(bed.pool, &event, 5000));
    assert_int_equal(event.kind, MNW_EVENT_PAGE_FAILED);
    assert_int_equal(event.result, -ETIMEDOUT);
    assert_int_equal(event.offset, bad * BED_PAGE);
    assert_false(bed_event(bed.pool, &event, 0));
    assert_true(bed_stats(bed.pool).fills_late == 1);
    bed_assert_bus(bed.view, bad);

    /* Its page cannot be forgotten, and says so, in bounded time. */
    began_ms = now_ms();
    char offset[32];
    snprintf(offset, sizeof(offset), "offset %llu", 16ull * BED_PAGE); /* of the extent */
    bed_refused(mnw_invalidate(bed.cache, bad * BED_PAGE, BED_PAGE), -EBUSY, offset, "has not answered");
    assert_true(now_ms() - began_ms < DEADLINE_MS * 20);
    for (uint64_t page = 0; page < PAGES; page++)
        page == bad ? bed_assert_bus(bed.view, page) : bed_assert_page(bed.view, page, 1);
    assert_int_equal(mnw_invalidate(bed.cache, 0, 16 * BED_PAGE), 0);

    /* Nor can the cache close: the store has its memory. */
    assert_int_equal(mnw_view_close(bed.view), 0);
    began_ms = now_ms();
    bed_refused(mnw_cache_close(bed.cache), -EBUSY, "1 reads", "must answer");
    assert_true(now_ms() - began_ms < DEADLINE_MS * 20);
    assert_int_equal(mnw_view_open(&bed.view, bed.cache, NULL), 0);
    bed.data = mnw_view_data(bed.view);
    bed_assert_bus(bed.view, bad);
    bed_assert_page(bed.view, bad + 1, 1);

    /* The answer, late: it is not trusted, but all is well again. */
    atomic_store(&source.bad_page, UINT64_MAX);
    atomic_store(&source.salt, 2);
    assert_int_equal(bed_release(&source), 1);
    assert_int_equal(mnw_invalidate(bed.cache, 0, PAGES * BED_PAGE), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        bed_assert_page(bed.view, page, 2);
    bed_close(&bed);
    bed_source_close(&source);
}

/* A whole run of readahead is never answered: whoever wants one of its pages gets an end. */
static void test_never_answers_readahead(void **state) {
    struct bed_source source;
    struct bed bed;
    (void)state;
    open_silent(&source, &bed, 16 * BED_PAGE);
    atomic_store(&source.bad_page, 12);
    unsigned bus = 0;
    for (uint64_t page = 0; page < PAGES; page++) {
        int how = bed_compare(bed.data + page * BED_PAGE, page * BED_PAGE, BED_PAGE, 1, NULL);
        assert_true(how == BED_RIGHT || how == SIGBUS);
        assert_true(page != 12 || how == SIGBUS);
        bus += how == SIGBUS;
    }
    assert_true(bus <= 20);
    atomic_store(&source.bad_page, UINT64_MAX);
    bed_release(&source);
    assert_int_equal(mnw_invalidate(bed.cache, 0, PAGES * BED_PAGE), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        bed_assert_page(bed.view, page, 1);
    bed_close(&bed);
    bed_source_close(&source);
}

/* A late answer must not write into what the page became meanwhile: it cannot become anything. */
static void test_pin_of_silent_page(void **state) {
    struct bed_source source;
    struct bed bed;
    struct mnw_event event;
    (void)state;
    open_silent(&source, &bed, UINT64_MAX);
    atomic_store(&source.bad_page, 3);
    uint64_t began_ms = now_ms();
    bed_refused(mnw_pin(bed.cache, 0, 8 * BED_PAGE), -EIO, "pin", "could not be read");
    assert_true(now_ms() - began_ms < DEADLINE_MS * 20);
    assert_int_equal(bed_stats(bed.pool).pinned_bytes, 0);
    assert_true(mnw_prefetch(bed.cache, 0, PAGES * BED_PAGE, 9) > 0);
    do
        assert_true(bed_event(bed.pool, &event, 10000));
    while (event.kind != MNW_EVENT_PREFETCH);
    assert_int_equal(event.cookie, 9);
    atomic_store(&source.bad_page, UINT64_MAX);
    assert_true(bed_release(&source) > 0);
    assert_int_equal(mnw_invalidate(bed.cache, 0, PAGES * BED_PAGE), 0);
    assert_int_equal(mnw_pin(bed.cache, 0, 8 * BED_PAGE), 0);
    assert_int_equal(mnw_unpin(bed.cache, 0, 8 * BED_PAGE), 0);
    bed_close(&bed);
    bed_source_close(&source);
}

/* ---- embedders that answer wrongly ---- */

static _Atomic int second_answer, odd_answer;
static _Atomic uint64_t last_token;

static int64_t answer_twice(struct bed_source *source, const struct mnw_read *read) {
    /* The read before had the same place in the table, most likely: it must not be taken for this one. */
    uint64_t before = atomic_exchange(&last_token, read->token);
    second_answer += mnw_read_done(source->store, before, 1) == -ESTALE;
    if (mnw_read_done(source->store, read->token, (int64_t)read->length))
        abort();
    /* From now on the buffer is not ours. */
    second_answer += mnw_read_done(source->store, read->token, -EIO) == -ESTALE && strstr(mnw_error(), "twice");
    return (int64_t)read->length; /* a third time */
}

static void test_answers_twice(void **state) {
    struct bed_source source;
    struct bed bed = {0};
    struct mnw_event event;
    (void)state;
    bed_hurry(30);
    bed_source_open(&source, PAGES * BED_PAGE);
    source.answer = answer_twice;
    last_token = UINT64_MAX;
    second_answer = 0;
    bed_open(&bed, source.store, (struct mnw_pool_options){0}, &exact);
    for (int round = 0; round < 3; round++) {
        for (uint64_t page = 0; page < PAGES; page++)
            bed_assert_page(bed.view, page, 1);
        assert_int_equal(mnw_invalidate(bed.cache, 0, PAGES * BED_PAGE), 0);
    }
    assert_int_equal(second_answer, 2 * source.reads);
    assert_false(bed_event(bed.pool, &event, 0));
    bed_refused(mnw_read_done(source.store, 12345, 10), -ESTALE, "0x3039", "no unanswered read");
    bed_refused(mnw_read_done(source.store, last_token, 10), -ESTALE, "token", "answered twice?");
    bed_close(&bed);
    bed_source_close(&source);
}

static _Atomic int64_t nonsense;

static int64_t answer_nonsense(struct bed_source *source, const struct mnw_read *read) {
    if (!bed_read_has(source, read, atomic_load(&source->bad_page)))
        return (int64_t)read->length;
    int64_t result = nonsense == INT64_MAX ? (int64_t)read->length + 1 : nonsense;
    int said = mnw_read_done(source->store, read->token, result);
    odd_answer += said == -EINVAL && strstr(mnw_error(), "EIO");
    return (int64_t)read->length;
}

static int check_nonsense(struct bed_source *source, uint64_t offset, const void *bytes, size_t length) {
    uint64_t bad = atomic_load(&source->bad_page) * BED_PAGE;
    (void)bytes;
    return nonsense == 77 && bad >= offset && bad < offset + length ? 77 : 0;
}

static void test_nonsense(void **state) {
    static const struct {
        int64_t result;
        int expected;
        int refused;
    } answers[] = {{INT64_MAX, -EIO, 1}, {-99999, -EIO, 1},   {INT64_MIN + 1, -EIO, 1},
                   {0, -ENODATA, 0},     {-EPERM, -EPERM, 0}, {77, -EIO, 0}};
    struct bed_source source;
    struct bed bed = {0};
    struct mnw_event event;
    (void)state;
    bed_hurry(30);
    bed_source_open(&source, PAGES * BED_PAGE);
    source.answer = answer_nonsense;
    source.check = check_nonsense;
    bed_open(&bed, source.store, (struct mnw_pool_options){0}, &exact);
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        uint64_t bad = 5 * i + 1;
        nonsense = answers[i].result == 77 ? 77 : answers[i].result;
        if (nonsense == 77)
            source.answer = NULL; /* right bytes, but the check says 77 of them */
        odd_answer = 0;
        atomic_store(&source.bad_page, bad);
        for (uint64_t page = 0; page < PAGES; page++)
            page == bad ? bed_assert_bus(bed.view, page) : bed_assert_page(bed.view, page, 1);
        assert_true(bed_event(bed.pool, &event, 5000));
        assert_int_equal(event.result, answers[i].expected);
        assert_int_equal(event.offset, bad * BED_PAGE);
        assert_int_equal(odd_answer, answers[i].refused);
        atomic_store(&source.bad_page, UINT64_MAX);
        assert_int_equal(mnw_invalidate(bed.cache, 0, PAGES * BED_PAGE), 0);
        bed_assert_page(bed.view, bad, 1);
    }
    bed_refused(mnw_store_close(source.store), -EBUSY, "callback store", "close them first");
    bed_close(&bed);
    bed_source_close(&source);
}

static void test_read_done_of_a_file(void **state) {
    struct bed_file file;
    struct mnw_store *store;
    (void)state;
    bed_file(&file, 10, 1);
    assert_int_equal(mnw_store_open(&store, file.uri, NULL), 0);
    bed_refused(mnw_read_done(store, 1, 1), -EINVAL, "file store", "callback store");
    assert_int_equal(mnw_store_close(store), 0);
    bed_file_remove(&file);
}

#define WITH(test, way)                                                                                                \
    { #test ", " #way, test, NULL, NULL, (void *)(uintptr_t)&way }

int main(int argc, char **argv) {
    int status = machine_guard(argv);
    (void)argc;
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        WITH(test_shrinks, uring),
        WITH(test_shrinks, pool_of_threads),
        WITH(test_shrinks, direct),
        WITH(test_shrinks, with_readahead),
        WITH(test_grows, uring),
        WITH(test_grows, pool_of_threads),
        WITH(test_grows, direct),
        WITH(test_replaced, uring),
        WITH(test_replaced, with_readahead),
        cmocka_unit_test(test_never_answers),
        cmocka_unit_test(test_never_answers_readahead),
        cmocka_unit_test(test_pin_of_silent_page),
        cmocka_unit_test(test_answers_twice),
        cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_read_done_of_a_file),
    };
    return cmocka_run_group_tests_name("stores that misbehave", tests, NULL, NULL);
}
