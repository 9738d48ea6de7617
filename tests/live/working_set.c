/* SPDX-License-Identifier: MIT */
/*
 * Working sets through the public API: a run is recorded, saved, joined with another, and replayed into a fresh cache,
 * where the same touches then read nothing; and each way it is refused.
 */
#include "bed.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGES = 2048, TOUCHES = 600 };

static const struct mnw_cache_options no_readahead = {.size = sizeof(no_readahead), .readahead_bytes = UINT64_MAX};

static char directory[] = "/tmp/minnow-working-set-XXXXXX", path[64];

static int make_directory(void **state) {
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/image.mws", directory);
    return 0;
}

/* Nothing but the set is left there. */
static int remove_directory(void **state) {
    (void)state;
    unlink(path);
    return rmdir(directory);
}

/* Pages here and there, with a few runs; the same ones for the same seed. Not the last: it is not whole. */
static void choose(uint64_t *pages, uint64_t seed) {
    uint64_t random = seed;
    for (int i = 0; i < TOUCHES; i++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        pages[i] = i % 5 && i ? (pages[i - 1] + 1) % (PAGES - 1) : (random >> 33) % (PAGES - 1);
    }
}

static void touch(const char *data, const uint64_t *pages) {
    for (int i = 0; i < TOUCHES; i++)
        assert_int_equal(bed_compare(data + pages[i] * BED_PAGE, pages[i] * BED_PAGE, BED_PAGE, 1, NULL), BED_RIGHT);
}

static unsigned distinct(const uint64_t *pages, const uint64_t *more) {
    static bool seen[PAGES];
    unsigned count = 0;
    memset(seen, 0, sizeof(seen));
    for (int i = 0; i < TOUCHES; i++) {
        count += !seen[pages[i]];
        seen[pages[i]] = true;
    }
    for (int i = 0; more && i < TOUCHES; i++) {
        count += !seen[more[i]];
        seen[more[i]] = true;
    }
    return count;
}

static void await_replay(struct bed *bed, int64_t id, uint64_t cookie, int result) {
    struct mnw_event event;
    if (id <= 0)
        fail_msg("replay: %lld (%s)", (long long)id, mnw_error());
    assert_true(bed_event(bed->pool, &event, 20000));
    assert_int_equal(event.kind, MNW_EVENT_PREFETCH);
    assert_int_equal(event.cookie, cookie);
    assert_int_equal(event.result, result);
    assert_ptr_equal(event.cache, bed->cache);
}

static void open_bed(struct bed *bed, struct bed_source *source, struct mnw_pool_options options,
                     const struct mnw_cache_options *cache_options) {
    *bed = (struct bed){0};
    bed_source_open(source, PAGES * BED_PAGE - 100);
    if (!options.budget_bytes)
        options.budget_bytes = 16 * BED_MIB;
    bed_open(bed, source->store, options, cache_options);
}

/* Records a run of these pages, and saves it. */
static void record_run(const uint64_t *pages, const struct mnw_cache_options *cache_options, unsigned flags,
                       unsigned expected) {
    struct bed_source source;
    struct bed bed;
    open_bed(&bed, &source, (struct mnw_pool_options){0}, cache_options);
    assert_int_equal(mnw_view_record(bed.view, 1), 0);
    touch(bed.data, pages);
    assert_int_equal(mnw_view_save_working_set(bed.view, path, flags), expected);
    bed_close(&bed);
    bed_source_close(&source);
}

/* ---- the use of it ---- */

static void check_replayed(struct mnw_pool_options options, const uint64_t *pages, unsigned resident) {
    struct bed_source source;
    struct bed bed;
    uint8_t flags[PAGES];
    unsigned found = 0;
    open_bed(&bed, &source, options, &no_readahead);
    await_replay(&bed, mnw_cache_replay(bed.cache, path, 77), 77, 0);
    size_t count = PAGES * BED_PAGE / bed.page_bytes;
    assert_int_equal(mnw_residency(bed.cache, 0, flags, count), 0);
    for (size_t i = 0; i < count; i++)
        found += flags[i] == MNW_RESIDENT;
    if (resident)
        assert_int_equal(found, resident);
    uint64_t reads = atomic_load(&source.reads);
    touch(bed.data, pages);
    assert_int_equal(atomic_load(&source.reads), reads);
    struct mnw_stats stats = bed_stats(bed.pool);
    assert_int_equal(stats.faults_missing, 0);
    assert_true(stats.faults_minor > 0);
    bed_close(&bed);
    bed_source_close(&source);
}

static void test_replayed_run_reads_nothing(void **state) {
    (void)state;
    uint64_t pages[TOUCHES];
    choose(pages, 1);
    record_run(pages, &no_readahead, 0, distinct(pages, NULL));
    check_replayed((struct mnw_pool_options){0}, pages, distinct(pages, NULL));
}

/* Pages read ahead, or mapped along with others, are in the set when they were touched, and only then. */
static void test_readahead_is_not_recorded(void **state) {
    (void)state;
    uint64_t pages[TOUCHES];
    for (int i = 0; i < TOUCHES; i++)
        pages[i] = 300 + (uint64_t)i;
    record_run(pages, NULL, 0, TOUCHES);
    check_replayed((struct mnw_pool_options){0}, pages, TOUCHES);
}

static void test_union_of_two_runs(void **state) {
    (void)state;
    uint64_t first[TOUCHES], second[TOUCHES];
    choose(first, 2);
    choose(second, 3);
    unsigned both = distinct(first, second);
    record_run(first, &no_readahead, 0, distinct(first, NULL));
    record_run(second, &no_readahead, MNW_WORKING_SET_UNION, both);
    check_replayed((struct mnw_pool_options){0}, first, both);
    check_replayed((struct mnw_pool_options){0}, second, both);
    record_run(second, &no_readahead, 0, distinct(second, NULL)); /* without it, the old set is gone */
    check_replayed((struct mnw_pool_options){0}, second, distinct(second, NULL));
}

static void test_on_huge_pages(void **state) {
    (void)state;
    uint64_t pages[TOUCHES];
    choose(pages, 4);
    if (!machine_free_hugepages(2 * BED_MIB, 8)) {
        print_message("no huge pages here\n");
        skip();
    }
    record_run(pages, &no_readahead, 0, distinct(pages, NULL));
    check_replayed((struct mnw_pool_options){.backing = MNW_BACKING_HUGETLB_2M}, pages, 0);
}

/* ---- how much faster it is ---- */

/* A store with 2 ms to each read: answers come from a thread, in the order of the questions. */
struct slow {
    struct bed_source source;
    pthread_t thread;
    _Atomic bool ended;
    struct {
        struct mnw_read read;
        struct timespec due;
    } asked[4096];
    _Atomic unsigned count;
};

static int64_t ask_later(struct bed_source *source, const struct mnw_read *read) {
    struct slow *slow = (struct slow *)source;
    unsigned index = atomic_load(&slow->count); /* one fault thread */
    slow->asked[index].read = *read;
    clock_gettime(CLOCK_MONOTONIC, &slow->asked[index].due);
    slow->asked[index].due.tv_nsec += 2000000;
    if (slow->asked[index].due.tv_nsec >= 1000000000) {
        slow->asked[index].due.tv_nsec -= 1000000000;
        slow->asked[index].due.tv_sec++;
    }
    atomic_store(&slow->count, index + 1);
    return BED_HOLD;
}

static void *answer_late(void *argument) {
    struct slow *slow = argument;
    for (unsigned next = 0; !atomic_load(&slow->ended);) {
        if (next == atomic_load(&slow->count)) {
            usleep(100);
            continue;
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &slow->asked[next].due, NULL);
        const struct mnw_read *read = &slow->asked[next++].read;
        mnw_read_done(slow->source.store, read->token, (int64_t)read->length);
    }
    return NULL;
}

static void slow_ask(void *context, const struct mnw_read *read) {
    struct slow *slow = context;
    bed_bytes(read->buffer, read->offset, read->length, 1);
    ask_later(&slow->source, read);
}

/* Milliseconds that the run takes, the replay before it included. */
static double time_run(const uint64_t *pages, bool with_replay) {
    struct slow *slow = calloc(1, sizeof(*slow));
    struct mnw_store_callbacks callbacks = {
        .size = sizeof(callbacks), .size_bytes = PAGES * BED_PAGE - 100, .read = slow_ask};
    struct bed bed = {0};
    struct timespec start, end;
    assert_non_null(slow);
    assert_int_equal(mnw_store_open_callbacks(&slow->source.store, &callbacks, slow), 0);
    assert_int_equal(pthread_create(&slow->thread, NULL, answer_late, slow), 0);
    bed_open(&bed, slow->source.store, (struct mnw_pool_options){.budget_bytes = 16 * BED_MIB}, NULL);
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (with_replay)
        await_replay(&bed, mnw_cache_replay(bed.cache, path, 5), 5, 0);
    touch(bed.data, pages);
    clock_gettime(CLOCK_MONOTONIC, &end);
    bed_close(&bed);
    atomic_store(&slow->ended, true);
    pthread_join(slow->thread, NULL);
    assert_int_equal(mnw_store_close(slow->source.store), 0);
    free(slow);
    return (double)(end.tv_sec - start.tv_sec) * 1e3 + (double)(end.tv_nsec - start.tv_nsec) / 1e6;
}

static void test_faster_on_a_slow_store(void **state) {
    (void)state;
    uint64_t pages[TOUCHES];
    choose(pages, 5);
    record_run(pages, &no_readahead, 0, distinct(pages, NULL));
    double without = time_run(pages, false), with = time_run(pages, true);
    print_message("2 ms to each read: %.0f ms without replay, %.0f ms with\n", without, with);
    assert_true(with < without / 2);
}

/* ---- more than fits ---- */

static void test_the_earliest_that_fit(void **state) {
    (void)state;
    uint64_t pages[TOUCHES];
    struct bed_source source;
    struct bed bed;
    uint8_t flags[PAGES];
    choose(pages, 6);
    record_run(pages, &no_readahead, 0, distinct(pages, NULL));
    open_bed(&bed, &source, (struct mnw_pool_options){.budget_bytes = 1 * BED_MIB}, &no_readahead);
    await_replay(&bed, mnw_cache_replay(bed.cache, path, 1), 1, 0);
    struct mnw_stats stats = bed_stats(bed.pool);
    assert_int_equal(stats.evictions, 0);
    assert_true(stats.resident_bytes > stats.budget_bytes / 2);
    assert_int_equal(mnw_residency(bed.cache, 0, flags, PAGES), 0);
    bool missing = false; /* what is resident is a prefix of the run */
    for (int i = 0; i < TOUCHES; i++) {
        missing |= flags[pages[i]] != MNW_RESIDENT;
        if (missing && flags[pages[i]] == MNW_RESIDENT) { /* touched before too */
            bool before = false;
            for (int j = 0; j < i; j++)
                before |= pages[j] == pages[i];
            assert_true(before);
        }
    }
    assert_true(missing);
    touch(bed.data, pages);
    bed_close(&bed);
    bed_source_close(&source);
}

/* ---- cancelling, failing ---- */

static bool some_held(void *argument) {
    return bed_held(argument) > 0;
}

static void test_cancel(void **state) {
    (void)state;
    uint64_t pages[TOUCHES];
    struct bed_source source;
    struct bed bed;
    choose(pages, 7);
    record_run(pages, &no_readahead, 0, distinct(pages, NULL));
    open_bed(&bed, &source, (struct mnw_pool_options){.reads_in_flight = 8}, &no_readahead);
    source.answer = bed_hold_all;
    int64_t id = mnw_cache_replay(bed.cache, path, 9);
    assert_true(id > 0);
    assert_true(bed_eventually(some_held, &source));
    assert_int_equal(mnw_cache_close(bed.cache), -EBUSY);
    assert_int_equal(mnw_prefetch_cancel(bed.pool, id), 0);
    source.answer = NULL;
    bed_release(&source);
    await_replay(&bed, id, 9, -ECANCELED);
    assert_int_equal(mnw_prefetch_cancel(bed.pool, id), -ENOENT);
    assert_true(atomic_load(&source.reads) < 20);
    touch(bed.data, pages);
    bed_close(&bed);
    bed_source_close(&source);
}

static int64_t refuse_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? -EIO : (int64_t)read->length;
}

/* One bad page of a run does not take its neighbours along. */
static void test_bad_page(void **state) {
    (void)state;
    uint64_t pages[TOUCHES];
    struct mnw_event event;
    struct bed_source source;
    struct bed bed;
    for (int i = 0; i < TOUCHES; i++)
        pages[i] = (uint64_t)i * 3 % PAGES / 2;
    record_run(pages, &no_readahead, 0, distinct(pages, NULL));
    const struct mnw_cache_options one_try = {
        .size = sizeof(one_try), .readahead_bytes = UINT64_MAX, .read_retries = UINT32_MAX};
    open_bed(&bed, &source, (struct mnw_pool_options){0}, &one_try);
    source.answer = refuse_bad_page;
    atomic_store(&source.bad_page, pages[100]);
    assert_true(mnw_cache_replay(bed.cache, path, 3) > 0);
    assert_true(bed_event(bed.pool, &event, 20000));
    assert_int_equal(event.result, -EIO);
    assert_int_equal(event.pages_failed, 1);
    source.answer = NULL;
    uint64_t reads = atomic_load(&source.reads);
    touch(bed.data, pages);
    assert_int_equal(atomic_load(&source.reads), reads + 1);
    bed_close(&bed);
    bed_source_close(&source);
}

/* ---- refusals ---- */

static void write_file(const void *bytes, size_t size) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), size);
    close(fd);
}

static void test_refused(void **state) {
    (void)state;
    uint64_t pages[TOUCHES];
    struct bed_source source, other;
    struct bed bed, larger = {0};
    choose(pages, 8);
    record_run(pages, &no_readahead, 0, distinct(pages, NULL));
    open_bed(&bed, &source, (struct mnw_pool_options){0}, &no_readahead);
    bed_refused(mnw_cache_replay(NULL, path, 0), -EINVAL, "mnw_cache_replay", "NULL");
    bed_refused(mnw_cache_replay(bed.cache, NULL, 0), -EINVAL, "path", "file");
    bed_refused(mnw_cache_replay(bed.cache, "/nowhere/x.mws", 0), -ENOENT, "/nowhere/x.mws", "No such file");
    bed_refused(mnw_cache_replay(bed.cache, "/tmp", 0), -EINVAL, "/tmp", "working set");
    bed_refused(mnw_view_record(NULL, 1), -EINVAL, "view", "NULL");
    bed_refused(mnw_view_save_working_set(bed.view, path, 0), -ENOENT, "does not record", "mnw_view_record");
    assert_int_equal(mnw_view_record(bed.view, 1), 0);
    bed_refused(mnw_view_save_working_set(bed.view, "", 0), -EINVAL, "path", "file");
    bed_refused(mnw_view_save_working_set(bed.view, path, 6), -EINVAL, "flags", "0x6");
    bed_refused(mnw_view_save_working_set(bed.view, "/nowhere/x.mws", 0), -ENOENT, "/nowhere/x.mws", "writable");
    char folder[96];
    snprintf(folder, sizeof(folder), "%s/folder", directory);
    assert_int_equal(mkdir(folder, 0700), 0);
    bed_refused(mnw_view_save_working_set(bed.view, folder, 0), -EISDIR, folder, "directory");
    assert_int_equal(rmdir(folder), 0); /* what was written beside it is gone: see remove_directory() */

    bed_source_open(&other, PAGES * BED_PAGE + BED_PAGE);
    bed_open(&larger, other.store, (struct mnw_pool_options){0}, NULL);
    bed_refused(mnw_cache_replay(larger.cache, path, 0), -ESTALE, "store", "record it anew");
    bed_close(&larger);
    bed_source_close(&other);

    write_file("MINNOWWS and nothing else that would make it a working set, but long enough", 76);
    assert_int_equal(mnw_cache_replay(bed.cache, path, 0), -ENOTSUP);
    write_file("", 0);
    bed_refused(mnw_cache_replay(bed.cache, path, 0), -EBADMSG, "working set", "none");
    /* Nothing worth keeping: a union replaces it. */
    touch(bed.data, pages);
    assert_int_equal(mnw_view_save_working_set(bed.view, path, MNW_WORKING_SET_UNION), distinct(pages, NULL));
    /* Beginning anew forgets; ending too. */
    assert_int_equal(mnw_view_record(bed.view, 1), 0);
    assert_int_equal(mnw_view_save_working_set(bed.view, path, 0), 0);
    await_replay(&bed, mnw_cache_replay(bed.cache, path, 4), 4, 0);
    assert_int_equal(mnw_view_record(bed.view, 0), 0);
    assert_int_equal(mnw_view_save_working_set(bed.view, path, 0), -ENOENT);
    bed_close(&bed);
    bed_source_close(&source);
}

/* ---- many at once ---- */

struct crowd {
    struct mnw_view *view;
    uint64_t pages[TOUCHES];
};

static void *touch_all(void *argument) {
    struct crowd *crowd = argument;
    for (int round = 0; round < 20; round++)
        touch(mnw_view_data(crowd->view), crowd->pages);
    return NULL;
}

/* Recording is turned on and off, saved and replayed while readers fault and pages are evicted and invalidated. */
static void test_while_all_goes_on(void **state) {
    (void)state;
    struct bed_source source;
    struct bed bed;
    struct mnw_event event;
    pthread_t threads[3];
    static struct crowd crowd[3];
    open_bed(&bed, &source, (struct mnw_pool_options){.budget_bytes = 2 * BED_MIB}, NULL);
    for (uint64_t i = 0; i < 3; i++) {
        choose(crowd[i].pages, 20 + i);
        crowd[i].view = bed.view;
        assert_int_equal(pthread_create(&threads[i], NULL, touch_all, &crowd[i]), 0);
    }
    for (int round = 0; round < 40; round++) {
        assert_int_equal(mnw_view_record(bed.view, 1), 0);
        usleep(2000);
        assert_true(mnw_view_save_working_set(bed.view, path, round % 2 ? MNW_WORKING_SET_UNION : 0) >= 0);
        int64_t id = mnw_cache_replay(bed.cache, path, 0);
        assert_true(id > 0);
        assert_int_equal(mnw_invalidate(bed.cache, (uint64_t)round * 8 * BED_PAGE, 64 * BED_PAGE), 0);
        if (round % 3 == 0)
            mnw_prefetch_cancel(bed.pool, id);
        if (round % 4 == 0)
            assert_int_equal(mnw_view_record(bed.view, 0), 0);
        while (mnw_pool_next_event(bed.pool, &event) == 1)
            ;
    }
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    while (bed_event(bed.pool, &event, 200))
        ;
    bed_close(&bed);
    bed_source_close(&source);
}

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    bed_hurry(100);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replayed_run_reads_nothing),
        cmocka_unit_test(test_readahead_is_not_recorded),
        cmocka_unit_test(test_union_of_two_runs),
        cmocka_unit_test(test_on_huge_pages),
        cmocka_unit_test(test_faster_on_a_slow_store),
        cmocka_unit_test(test_the_earliest_that_fit),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_bad_page),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_while_all_goes_on),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
