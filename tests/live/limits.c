/* SPDX-License-Identifier: MIT */
/*
 * Limits: the smallest and the largest store, stores that end anywhere, the smallest budget, many views and
 * caches, pins and prefetches up to their limits. Every byte is compared.
 */
#include "bed.h"
#include "machine.h"
#include "sys/numa.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HUGE ((size_t)2 << 20)

static bool thorough(void) {
    return getenv("MINNOW_TEST_ALL") != NULL;
}

static void assert_bytes(const void *data, uint64_t offset, size_t length, uint64_t salt) {
    int how = bed_compare(data, offset, length, salt, NULL);
    if (how)
        fail_msg("%zu bytes at %llu: %s", length, (unsigned long long)offset,
                 how == BED_WRONG ? "wrong" : strsignal(how));
}

/* ---- where a store ends ---- */

/* Right up to the end, zeros to the end of the page, and nothing beyond. */
static void assert_end(struct bed *bed, uint64_t size_bytes, uint64_t first) {
    size_t length = mnw_view_length(bed->view);
    assert_int_equal(length, (size_bytes + bed->page_bytes - 1) / bed->page_bytes * bed->page_bytes);
    assert_bytes(bed->data + first, first, size_bytes - first, 1);
    assert_int_equal(bed_zeros(bed->data + size_bytes, length - size_bytes), BED_RIGHT);
    uint8_t flags;
    assert_int_equal(mnw_residency(bed->cache, length, &flags, 1), -EINVAL);
}

static void test_ends(void **state) {
    static const uint64_t sizes[] = {
        1, 2, 4095, 4096, 4097, 8191, 8192, 65535, 65537, 2 * BED_MIB - 1, 2 * BED_MIB + 1, 3 * BED_MIB + 12345};
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        enum mnw_backing backing = (enum mnw_backing)kind;
        bed_hurry(60);
        if (backing == MNW_BACKING_HUGETLB_2M && !machine_free_hugepages(HUGE, 4)) {
            print_message("cannot free 4 huge pages\n");
            continue;
        }
        if (backing == MNW_BACKING_GRADED && !machine_set(SHMEM_ENABLED, "advise")) {
            print_message("cannot set shmem_enabled\n");
            continue;
        }
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            struct bed_source source;
            struct bed bed = {0};
            bed_source_open(&source, sizes[i]);
            bed_open(&bed, source.store, (struct mnw_pool_options){.backing = backing}, NULL);
            assert_end(&bed, sizes[i], 0);
            /* The last byte first, in a view of its own. */
            assert_int_equal(mnw_invalidate(bed.cache, 0, mnw_view_length(bed.view)), 0);
            assert_end(&bed, sizes[i], sizes[i] - 1);
            bed_close(&bed);
            bed_source_close(&source);
        }
    }
}

static void test_file_ends(void **state) {
    static const uint64_t sizes[] = {1, 511, 513, 4097, 300000, 2 * BED_MIB + 3};
    static const enum mnw_io_mode modes[] = {MNW_IO_AUTO, MNW_IO_THREADS};
    (void)state;
    bed_hurry(60);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int way = 0; way < 4; way++) { /* buffered and direct, both modes */
            struct mnw_store_options options = {.size = sizeof(options), .direct = way & 1};
            struct bed_file file;
            struct mnw_store *store;
            struct bed bed = {0};
            bed_file(&file, sizes[i], 1);
            int error = mnw_store_open(&store, file.uri, &options);
            if (error == -ENOTSUP && options.direct) {
                print_message("no direct reads: %s\n", mnw_error());
                bed_file_remove(&file);
                continue;
            }
            assert_int_equal(error, 0);
            bed_open(&bed, store, (struct mnw_pool_options){.io_mode = modes[way / 2]}, NULL);
            assert_end(&bed, sizes[i], 0);
            assert_int_equal(mnw_invalidate(bed.cache, 0, mnw_view_length(bed.view)), 0);
            assert_end(&bed, sizes[i], sizes[i] - 1);
            bed_close(&bed);
            assert_int_equal(mnw_store_close(store), 0);
            bed_file_remove(&file);
        }
    }
}

/* ---- 1 TiB ---- */

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void test_tebibyte(void **state) {
    const uint64_t size = (1ull << 40) + 4321;
    struct bed_file file;
    struct mnw_store *store;
    struct bed bed = {0};
    char bytes[2 * BED_PAGE];
    (void)state;
    bed_hurry(60);
    bed_file(&file, 0, 1);
    if (ftruncate(file.fd, (off_t)size)) {
        print_message("/tmp takes no file of a TiB: %s\n", strerror(errno));
        bed_file_remove(&file);
        skip();
    }
    static const uint64_t places[] = {0, (1ull << 32) - BED_PAGE, 1ull << 39, (1ull << 40) + 4321 - sizeof(bytes)};
    for (size_t i = 0; i < 4; i++) {
        bed_bytes(bytes, places[i], sizeof(bytes), 1);
        assert_int_equal(pwrite(file.fd, bytes, sizeof(bytes), (off_t)places[i]), sizeof(bytes));
    }
    assert_int_equal(mnw_store_open(&store, file.uri, NULL), 0);
    uint64_t began_ms = now_ms();
    bed_open(&bed, store, (struct mnw_pool_options){0}, NULL);
    for (size_t i = 4; i--;)
        assert_bytes(bed.data + places[i], places[i], sizeof(bytes), 1);
    assert_true(MACHINE_SANITIZED || now_ms() - began_ms < 5000);
    assert_int_equal(bed_zeros(bed.data + size, mnw_view_length(bed.view) - size), BED_RIGHT);
    assert_int_equal(bed_zeros(bed.data + (1ull << 38) + 77, 3 * BED_PAGE), BED_RIGHT); /* a hole of the file */
    assert_true(bed_stats(bed.pool).resident_bytes <= 8 * BED_MIB);
    bed_close(&bed);
    assert_int_equal(mnw_store_close(store), 0);
    bed_file_remove(&file);
}

/* ---- readers against small budgets ---- */

struct reader {
    pthread_t thread;
    const char *data;
    uint64_t pages, page_bytes, random, rounds, salt;
    int how;
};

static void *read_here_and_there(void *argument) {
    struct reader *reader = argument;
    for (uint64_t i = 0; i < reader->rounds && !reader->how; i++) {
        reader->random = reader->random * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t at = (reader->random >> 33) % reader->pages * reader->page_bytes;
        reader->how = bed_compare(reader->data + at, at, BED_PAGE, reader->salt, NULL);
    }
    return NULL;
}

static void start_reader(struct reader *reader, struct mnw_view *view, uint64_t page_bytes, uint64_t seed,
                         uint64_t rounds, uint64_t salt) {
    *reader = (struct reader){.data = mnw_view_data(view),
                              .pages = mnw_view_length(view) / page_bytes,
                              .page_bytes = page_bytes,
                              .random = seed * 977 + 1,
                              .rounds = rounds,
                              .salt = salt};
    assert_int_equal(pthread_create(&reader->thread, NULL, read_here_and_there, reader), 0);
}

static void join_reader(struct reader *reader) {
    pthread_join(reader->thread, NULL);
    assert_int_equal(reader->how, BED_RIGHT);
}

struct pressure {
    enum mnw_backing backing;
    unsigned threads;
    enum mnw_policy policy;
    enum mnw_numa numa;
    enum mnw_io_mode io_mode;
    uint32_t reads_in_flight;
    uint64_t rounds;
};

/* Eight readers; the budget is one extent for each fault thread. */
static void press(const struct pressure *pressure) {
    struct bed_source source;
    struct bed bed = {0};
    struct reader readers[8];
    bool huge = pressure->backing != MNW_BACKING_SHMEM;
    uint64_t extent = huge ? HUGE : 64 << 10, page = pressure->backing == MNW_BACKING_HUGETLB_2M ? HUGE : BED_PAGE;
    /* Huge pages are read whole for whoever needs them: eight readers on one take minutes of that. */
    uint64_t count = huge ? 2 : 8;
    bed_hurry(60);
    if (pressure->backing == MNW_BACKING_HUGETLB_2M && !machine_free_hugepages(HUGE, pressure->threads + 1)) {
        print_message("cannot free huge pages\n");
        skip();
    }
    if (pressure->backing == MNW_BACKING_GRADED && !machine_set(SHMEM_ENABLED, "advise")) {
        print_message("cannot set shmem_enabled\n");
        skip();
    }
    bed_source_open(&source, 20 * extent);
    struct mnw_pool_options options = {.backing = pressure->backing,
                                       .fault_threads_per_node = pressure->threads,
                                       .nodes = "0",
                                       .numa = pressure->numa,
                                       .policy = pressure->policy,
                                       .io_mode = pressure->io_mode,
                                       .reads_in_flight = pressure->reads_in_flight,
                                       .budget_bytes = extent * pressure->threads};
    bed_open(&bed, source.store, options, NULL);
    for (uint64_t i = 0; i < count; i++)
        start_reader(&readers[i], bed.view, page, i, pressure->rounds * (thorough() ? 20 : 1), 1);
    for (uint64_t i = 0; i < count; i++)
        join_reader(&readers[i]);
    struct mnw_stats stats = bed_stats(bed.pool);
    assert_true(stats.resident_bytes_max <= options.budget_bytes);
    assert_true(stats.evictions > 0);
    assert_int_equal(stats.faults_failed, 0);
    bed_close(&bed);
    bed_source_close(&source);
}

static void test_least_budget(void **state) {
    (void)state;
    press(&(struct pressure){.threads = 1, .rounds = 300});
    press(&(struct pressure){.threads = 2, .rounds = 300});
    press(&(struct pressure){.threads = 4, .rounds = 300, .policy = MNW_POLICY_CLOCK});
}

static void test_least_budget_graded(void **state) {
    (void)state;
    press(&(struct pressure){.backing = MNW_BACKING_GRADED, .threads = 1, .rounds = 30});
    press(&(struct pressure){.backing = MNW_BACKING_GRADED, .threads = 2, .rounds = 30});
}

static void test_least_budget_hugetlb(void **state) {
    (void)state;
    press(&(struct pressure){.backing = MNW_BACKING_HUGETLB_2M, .threads = 1, .rounds = 4});
    press(&(struct pressure){.backing = MNW_BACKING_HUGETLB_2M, .threads = 3, .rounds = 4});
}

static void test_one_read_in_flight(void **state) {
    (void)state;
    press(&(struct pressure){.threads = 1, .rounds = 200, .reads_in_flight = 1});
    press(&(struct pressure){.threads = 2, .rounds = 200, .reads_in_flight = 1, .policy = MNW_POLICY_CLOCK});
    press(&(struct pressure){.threads = 1, .rounds = 200, .reads_in_flight = 1024});
}

static void test_numa(void **state) {
    static const enum mnw_backing backings[] = {MNW_BACKING_SHMEM, MNW_BACKING_GRADED, MNW_BACKING_HUGETLB_2M};
    (void)state;
    for (int backing = 0; backing < 3; backing++)
        for (int numa = 0; numa < 4; numa++)
            press(&(struct pressure){
                .backing = backings[backing], .threads = 1, .rounds = 10, .numa = (enum mnw_numa)numa});
}

/* Files, by the pool of threads and by io_uring, one read at a time and many. */
static void test_io(void **state) {
    static const enum mnw_io_mode modes[] = {MNW_IO_AUTO, MNW_IO_URING, MNW_IO_THREADS};
    struct bed_file file;
    (void)state;
    bed_hurry(60);
    bed_file(&file, 3 * BED_MIB + 100, 1);
    for (int mode = 0; mode < 3; mode++) {
        for (uint32_t in_flight = 1; in_flight <= 1024; in_flight *= 32) {
            struct mnw_store *store;
            struct bed bed = {0};
            struct reader readers[4];
            struct mnw_pool_options options = {
                .io_mode = modes[mode], .reads_in_flight = in_flight, .budget_bytes = 512 << 10};
            struct mnw_pool_options probe = options;
            struct mnw_pool *pool;
            probe.size = sizeof(probe);
            if (mnw_pool_open(&pool, &probe)) {
                assert_int_equal(modes[mode], MNW_IO_URING);
                print_message("no io_uring: %s\n", mnw_error());
                continue;
            }
            assert_int_equal(mnw_pool_close(pool), 0);
            assert_int_equal(mnw_store_open(&store, file.uri, NULL), 0);
            bed_open(&bed, store, options, NULL);
            for (uint64_t i = 0; i < 4; i++) {
                start_reader(&readers[i], bed.view, BED_PAGE, i, 300, 1);
                readers[i].pages--; /* the last one has a tail of zeros */
            }
            for (int i = 0; i < 4; i++)
                join_reader(&readers[i]);
            assert_end(&bed, 3 * BED_MIB + 100, 0);
            bed_close(&bed);
            assert_int_equal(mnw_store_close(store), 0);
        }
    }
    bed_file_remove(&file);
}

/* ---- many ---- */

static void test_many_views(void **state) {
    struct bed_source source;
    struct bed bed = {0};
    struct mnw_view *views[64];
    struct reader readers[8];
    const uint64_t pages = 300;
    (void)state;
    bed_hurry(60);
    bed_source_open(&source, pages * BED_PAGE);
    bed_open(&bed, source.store,
             (struct mnw_pool_options){.budget_bytes = 512 << 10, .fault_threads_per_node = 3, .nodes = "0"}, NULL);
    for (uint64_t i = 0; i < 64; i++) { /* all of it, or a window */
        struct mnw_view_options options = {
            .size = sizeof(options), .offset_bytes = i * BED_PAGE, .length_bytes = i % 2 ? 100 * BED_PAGE - 5 : 0};
        if (mnw_view_open(&views[i], bed.cache, &options))
            fail_msg("view %llu: %s", (unsigned long long)i, mnw_error());
        assert_int_equal(mnw_view_length(views[i]), (i % 2 ? 100 : pages - i) * BED_PAGE);
    }
    for (uint64_t i = 0; i < 8; i++)
        start_reader(&readers[i], bed.view, BED_PAGE, i, 200, 1);
    for (uint64_t round = 0; round < 20; round++)
        for (uint64_t i = 0; i < 64; i++) {
            uint64_t page = (round * 37 + i * 11) % (mnw_view_length(views[i]) / BED_PAGE);
            const char *at = (const char *)mnw_view_data(views[i]) + page * BED_PAGE;
            assert_bytes(at, (i + page) * BED_PAGE, BED_PAGE, 1);
        }
    for (int i = 0; i < 8; i++)
        join_reader(&readers[i]);
    for (int i = 0; i < 64; i++)
        assert_int_equal(mnw_view_close(views[i]), 0);
    bed_close(&bed);
    bed_source_close(&source);
}

static void test_many_caches(void **state) {
    struct bed_source sources[4];
    struct mnw_cache *caches[4];
    struct mnw_view *views[4];
    struct reader readers[8];
    struct mnw_pool *pool;
    struct mnw_pool_options options = {
        .size = sizeof(options), .budget_bytes = 128 << 10, .fault_threads_per_node = 2, .nodes = "0"};
    (void)state;
    bed_hurry(60);
    assert_int_equal(mnw_pool_open(&pool, &options), 0);
    for (uint64_t i = 0; i < 4; i++) {
        bed_source_open(&sources[i], 200 * BED_PAGE);
        atomic_store(&sources[i].salt, i + 1); /* a page of another cache is a wrong page */
        assert_int_equal(mnw_cache_open(&caches[i], pool, sources[i].store, NULL), 0);
        assert_int_equal(mnw_view_open(&views[i], caches[i], NULL), 0);
    }
    for (uint64_t i = 0; i < 8; i++)
        start_reader(&readers[i], views[i % 4], BED_PAGE, i, 300, i % 4 + 1);
    for (int i = 0; i < 8; i++)
        join_reader(&readers[i]);
    assert_true(bed_stats(pool).resident_bytes_max <= 128 << 10);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(mnw_view_close(views[i]), 0);
        assert_int_equal(mnw_cache_close(caches[i]), 0);
        bed_source_close(&sources[i]);
    }
    assert_int_equal(bed_stats(pool).resident_bytes, 0);
    assert_int_equal(mnw_pool_close(pool), 0);
}

/* ---- pins and budgets ---- */

static void test_pins(void **state) {
    struct bed_source source;
    struct bed bed = {0};
    const uint64_t extent = 64 << 10;
    (void)state;
    bed_hurry(60);
    bed_source_open(&source, 40 * extent);
    bed_open(&bed, source.store,
             (struct mnw_pool_options){.budget_bytes = 10 * extent, .fault_threads_per_node = 2, .nodes = "0"}, NULL);
    for (uint64_t i = 0; i < 8; i++) /* of ten, two are kept for the threads */
        assert_int_equal(mnw_pin(bed.cache, 2 * i * extent, extent), 0);
    assert_int_equal(bed_stats(bed.pool).pinned_bytes, 8 * extent);
    bed_refused(mnw_pin(bed.cache, 20 * extent, extent), -ENOSPC, "655360", "524288 are pinned");
    bed_refused(mnw_pin(bed.cache, 0, 3 * extent), -ENOSPC, "pin", "one extent for each fault thread");
    assert_int_equal(bed_stats(bed.pool).pinned_bytes, 8 * extent);
    assert_int_equal(mnw_pin(bed.cache, 0, extent), 0);   /* once more is no more memory */
    for (uint64_t at = 0; at < 40 * extent; at += extent) /* what is not pinned, squeezes through the rest */
        assert_bytes(bed.data + at, at, extent, 1);
    for (uint64_t i = 0; i < 8; i++) {
        uint8_t flags[16];
        assert_int_equal(mnw_residency(bed.cache, 2 * i * extent, flags, 16), 0);
        for (int page = 0; page < 16; page++)
            assert_int_equal(flags[page], MNW_RESIDENT | MNW_PINNED);
    }
    bed_refused(mnw_pool_set_budget(bed.pool, 10 * extent - 1), -EBUSY, "524288 bytes are pinned", "unpin first");
    bed_refused(mnw_pool_set_budget(bed.pool, 2 * extent), -EBUSY, "pinned", "unpin first");
    assert_int_equal(bed_stats(bed.pool).budget_bytes, 10 * extent);
    assert_int_equal(mnw_unpin(bed.cache, 0, extent), 0);
    assert_int_equal(bed_stats(bed.pool).pinned_bytes, 8 * extent); /* it had two */
    for (uint64_t i = 0; i < 8; i++)
        assert_int_equal(mnw_unpin(bed.cache, 2 * i * extent, extent), 0);
    assert_int_equal(bed_stats(bed.pool).pinned_bytes, 0);
    assert_int_equal(mnw_pool_set_budget(bed.pool, 2 * extent), 0);
    assert_true(bed_stats(bed.pool).resident_bytes <= 2 * extent);
    assert_bytes(bed.data, 0, 40 * extent, 1);
    assert_true(bed_stats(bed.pool).resident_bytes <= 2 * extent);
    assert_int_equal(mnw_pool_set_budget(bed.pool, 40 * extent), 0);
    assert_bytes(bed.data, 0, 40 * extent, 1);
    bed_close(&bed);
    bed_source_close(&source);
}

/* ---- prefetches ---- */

static void test_prefetches(void **state) {
    struct bed_source source;
    struct bed bed = {0};
    struct mnw_event event;
    (void)state;
    bed_hurry(60);
    bed_source_open(&source, 64 * BED_MIB);
    bed_open(&bed, source.store, (struct mnw_pool_options){.budget_bytes = 4 * BED_MIB}, NULL);
    for (uint64_t i = 0; i < 64; i++)
        assert_true(mnw_prefetch(bed.cache, i * BED_PAGE, BED_PAGE, i) > 0);
    bed_refused(mnw_prefetch(bed.cache, 0, BED_PAGE, 64), -EAGAIN, "64 prefetches", "mnw_pool_next_event()");
    uint64_t cookies = 0;
    for (int i = 0; i < 64; i++) {
        assert_true(bed_event(bed.pool, &event, 5000));
        assert_int_equal(event.result, 0);
        cookies |= 1ull << event.cookie;
    }
    assert_int_equal(cookies, UINT64_MAX);

    /* Very many, cancelled at some moment: each has one event, and says what came of it. */
    unsigned total = thorough() ? 65536 : 4096, cancelled = 0, told = 0, asked = 0;
    while (told < total) {
        if (asked < total) {
            int64_t id =
                mnw_prefetch(bed.cache, asked * 37ull % 60 * BED_MIB, asked % 3 ? BED_PAGE : 64 * BED_PAGE, asked);
            asked += id > 0;
            assert_true(id > 0 || id == -EAGAIN);
            if (id > 0 && asked % 2) {
                int error = mnw_prefetch_cancel(bed.pool, id);
                assert_true(!error || error == -ENOENT);
                cancelled += !error;
            }
        }
        while (mnw_pool_next_event(bed.pool, &event) == 1) {
            assert_int_equal(event.kind, MNW_EVENT_PREFETCH);
            assert_true(event.result == 0 || event.result == -ECANCELED);
            cancelled -= event.result == -ECANCELED;
            told++;
        }
    }
    assert_int_equal(told, total);
    assert_int_equal(cancelled, 0); /* as many as were told so */
    assert_false(bed_event(bed.pool, &event, 20));
    assert_true(bed_stats(bed.pool).resident_bytes_max <= 4 * BED_MIB);
    for (uint64_t at = 0; at < 64 * BED_MIB; at += 3 * BED_MIB)
        assert_bytes(bed.data + at, at, BED_PAGE, 1);
    bed_close(&bed);
    bed_source_close(&source);
}

int main(int argc, char **argv) {
    int status = machine_guard(argv);
    (void)argc;
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_file_ends),
        cmocka_unit_test(test_tebibyte),
        cmocka_unit_test(test_least_budget),
        cmocka_unit_test(test_least_budget_graded),
        cmocka_unit_test(test_least_budget_hugetlb),
        cmocka_unit_test(test_one_read_in_flight),
        cmocka_unit_test(test_numa),
        cmocka_unit_test(test_io),
        cmocka_unit_test(test_many_views),
        cmocka_unit_test(test_many_caches),
        cmocka_unit_test(test_pins),
        cmocka_unit_test(test_prefetches),
    };
    return cmocka_run_group_tests_name("limits", tests, NULL, NULL);
}
