/* SPDX-License-Identifier: MIT */
/* Bad arguments: each is refused before anything changes, by a message that names the thing and the remedy. */
#include "bed.h"
#include "machine.h"
#include "sys/numa.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- options ---- */

static void test_budget(void **state) {
    static const struct {
        enum mnw_backing backing;
        uint64_t extent_bytes;
    } kinds[] = {{MNW_BACKING_SHMEM, 64 << 10},
                 {MNW_BACKING_GRADED, 2 << 20},
                 {MNW_BACKING_HUGETLB_2M, 2 << 20},
                 {MNW_BACKING_HUGETLB_1G, 1 << 30}};
    struct mnw_pool *pool = NULL;
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        for (unsigned threads = 1; threads < 4; threads++) {
            char least[32];
            struct mnw_pool_options options = {.size = sizeof(options),
                                               .backing = kinds[i].backing,
                                               .fault_threads_per_node = threads,
                                               .nodes = "0",
                                               .budget_bytes = kinds[i].extent_bytes * threads - 1};
            snprintf(least, sizeof(least), "at least %llu", (unsigned long long)(kinds[i].extent_bytes * threads));
            bed_refused(mnw_pool_open(&pool, &options), -EINVAL, "budget", least);
            options.budget_bytes = 0;
            bed_refused(mnw_pool_open(&pool, &options), -EINVAL, "budget", least);
        }
    }
    assert_null(pool);
}

static void test_set_budget(void **state) {
    struct bed_source source;
    struct bed bed = {0};
    (void)state;
    bed_source_open(&source, BED_MIB);
    bed_open(&bed, source.store, (struct mnw_pool_options){.fault_threads_per_node = 2, .nodes = "0"}, NULL);
    uint64_t before = bed_stats(bed.pool).budget_bytes;
    bed_refused(mnw_pool_set_budget(bed.pool, (128 << 10) - 1), -EINVAL, "budget", "at least 131072");
    bed_refused(mnw_pool_set_budget(bed.pool, 0), -EINVAL, "budget", "at least 131072");
    assert_int_equal(bed_stats(bed.pool).budget_bytes, before);
    assert_int_equal(mnw_pool_set_budget(bed.pool, 128 << 10), 0);
    for (uint64_t page = 0; page < 256; page++)
        bed_assert_page(bed.view, page, 1);
    bed_close(&bed);
    bed_source_close(&source);
}

static void refuse_pool(struct mnw_pool_options options, const char *thing, const char *remedy) {
    struct mnw_pool *pool = NULL;
    options.size = sizeof(options);
    if (!options.budget_bytes)
        options.budget_bytes = 64 * BED_MIB;
    bed_refused(mnw_pool_open(&pool, &options), -EINVAL, thing, remedy);
    assert_null(pool);
}

static void test_pool_options(void **state) {
    (void)state;
    refuse_pool((struct mnw_pool_options){.backing = (enum mnw_backing)4}, "backing", "4");
    refuse_pool((struct mnw_pool_options){.backing = (enum mnw_backing) - 1}, "backing", "unknown");
    refuse_pool((struct mnw_pool_options){.numa = (enum mnw_numa)4}, "NUMA", "4");
    refuse_pool((struct mnw_pool_options){.policy = (enum mnw_policy)2}, "policy", "2");
    refuse_pool((struct mnw_pool_options){.io_mode = (enum mnw_io_mode)3}, "I/O mode", "3");
    refuse_pool((struct mnw_pool_options){.reads_in_flight = 1025}, "reads_in_flight", "1024");
    refuse_pool((struct mnw_pool_options){.fault_threads_per_node = 65}, "fault threads", "64");
    refuse_pool((struct mnw_pool_options){.nodes = "63"}, "node 63", "Mems_allowed");
    refuse_pool((struct mnw_pool_options){.nodes = "0-"}, "\"0-\"", "0-1,3");
    refuse_pool((struct mnw_pool_options){.nodes = "zero"}, "\"zero\"", "0-1,3");
    refuse_pool((struct mnw_pool_options){.nodes = "64"}, "\"64\"", "64");
    refuse_pool((struct mnw_pool_options){.extent_bytes = 3 << 16}, "extent_bytes", "power of two");
    refuse_pool((struct mnw_pool_options){.extent_bytes = 8 << 10}, "extent_bytes", "power of two");
    refuse_pool((struct mnw_pool_options){.extent_bytes = 4 << 20}, "extent_bytes", "2097152");
    refuse_pool((struct mnw_pool_options){.backing = MNW_BACKING_GRADED, .extent_bytes = 64 << 10}, "extent_bytes",
                "must be 0");
    refuse_pool((struct mnw_pool_options){.backing = MNW_BACKING_HUGETLB_2M, .extent_bytes = 4 << 20}, "extent_bytes",
                "must be 0");
}

/* The size of an options struct: older and smaller, newer and larger, never set. */
static void test_sizes(void **state) {
    struct mnw_pool *pool = NULL;
    struct mnw_store *store = NULL;
    struct bed_source source;
    struct bed bed = {0};
    struct {
        struct mnw_pool_options known;
        uint64_t unknown[2];
    } newer = {.known = {.size = sizeof(newer), .budget_bytes = BED_MIB}};
    (void)state;

    newer.unknown[1] = 1;
    bed_refused(mnw_pool_open(&pool, &newer.known), -E2BIG, "mnw_pool_options", "does not know");
    newer.unknown[1] = 0;
    assert_int_equal(mnw_pool_open(&pool, &newer.known), 0);
    assert_int_equal(mnw_pool_close(pool), 0);
    struct mnw_pool_options older = {
        .size = offsetof(struct mnw_pool_options, numa), .budget_bytes = BED_MIB, .numa = (enum mnw_numa)77};
    assert_int_equal(mnw_pool_open(&pool, &older), 0); /* what it does not say, counts as 0 */
    assert_int_equal(mnw_pool_close(pool), 0);
    older.size = 0;
    bed_refused(mnw_pool_open(&pool, &older), -EINVAL, "mnw_pool_options", "sizeof");
    older.size = 7;
    bed_refused(mnw_pool_open(&pool, &older), -EINVAL, "mnw_pool_options", "sizeof");
    older.size = SIZE_MAX;
    bed_refused(mnw_pool_open(&pool, &older), -EINVAL, "mnw_pool_options", "sizeof");

    struct mnw_store_options no_size = {.size = 0};
    bed_refused(mnw_store_open(&store, "file:///etc/passwd", &no_size), -EINVAL, "mnw_store_options", "sizeof");
    struct mnw_store_callbacks no_callbacks = {.size = 0};
    bed_refused(mnw_store_open_callbacks(&store, &no_callbacks, NULL), -EINVAL, "mnw_store_callbacks", "sizeof");

    bed_source_open(&source, BED_MIB);
    bed_open(&bed, source.store, (struct mnw_pool_options){0}, NULL);
    struct mnw_cache *cache = NULL;
    struct mnw_view *view = NULL;
    struct mnw_cache_options cache_options = {.size = 3};
    struct mnw_view_options view_options = {.size = 0};
    bed_refused(mnw_cache_open(&cache, bed.pool, source.store, &cache_options), -EINVAL, "mnw_cache_options", "sizeof");
    cache_options = (struct mnw_cache_options){.size = sizeof(cache_options), .read_around_bytes = (2u << 20) + 1};
    bed_refused(mnw_cache_open(&cache, bed.pool, source.store, &cache_options), -EINVAL, "read_around_bytes",
                "2097152");
    bed_refused(mnw_view_open(&view, bed.cache, &view_options), -EINVAL, "mnw_view_options", "sizeof");
    view_options = (struct mnw_view_options){.size = sizeof(view_options), .flags = 1u << 31};
    bed_refused(mnw_view_open(&view, bed.cache, &view_options), -EINVAL, "flags", "0x80000000");
    assert_true(!cache && !view);

    /* Statistics grow in the same way. */
    struct mnw_stats stats;
    memset(&stats, 0x55, sizeof(stats));
    assert_int_equal(mnw_pool_stats(bed.pool, &stats, offsetof(struct mnw_stats, resident_bytes)), 0);
    assert_int_equal(stats.budget_bytes, 8 * BED_MIB);
    assert_int_equal(stats.resident_bytes, 0x5555555555555555);
    bed_close(&bed);
    bed_source_close(&source);
}

static void test_null(void **state) {
    struct bed_source source;
    struct bed bed = {0};
    struct mnw_pool *pool;
    struct mnw_store *store;
    struct mnw_cache *cache;
    struct mnw_view *view;
    struct mnw_event event;
    struct mnw_stats stats;
    struct mnw_node_stats node;
    struct mnw_node_latency latency;
    uint8_t flags;
    struct mnw_pool_options options = {.size = sizeof(options), .budget_bytes = BED_MIB};
    struct mnw_store_callbacks no_read = {.size = sizeof(no_read), .size_bytes = 1};
    (void)state;
    bed_source_open(&source, BED_MIB);
    bed_open(&bed, source.store, options, NULL);
    bed_refused(mnw_store_open(NULL, "file:///etc/passwd", NULL), -EINVAL, "store", "NULL");
    bed_refused(mnw_store_open(&store, NULL, NULL), -EINVAL, "uri", "NULL");
    bed_refused(mnw_store_open_memory(NULL, &flags, 1), -EINVAL, "store", "NULL");
    bed_refused(mnw_store_open_memory(&store, NULL, 1), -EINVAL, "data", "NULL");
    bed_refused(mnw_store_open_callbacks(&store, NULL, NULL), -EINVAL, "callbacks", "NULL");
    bed_refused(mnw_store_open_callbacks(&store, &no_read, NULL), -EINVAL, "read", "NULL");
    bed_refused(mnw_read_done(NULL, 1, 1), -EINVAL, "store", "NULL");
    bed_refused(mnw_store_close(NULL), -EINVAL, "store", "NULL");
    assert_int_equal(mnw_store_size(NULL), 0);
    bed_refused(mnw_pool_open(NULL, &options), -EINVAL, "pool", "NULL");
    bed_refused(mnw_pool_open(&pool, NULL), -EINVAL, "options", "NULL");
    bed_refused(mnw_pool_set_budget(NULL, BED_MIB), -EINVAL, "pool", "NULL");
    bed_refused(mnw_pool_close(NULL), -EINVAL, "pool", "NULL");
    bed_refused(mnw_pool_event_fd(NULL), -EINVAL, "pool", "NULL");
    bed_refused(mnw_pool_next_event(NULL, &event), -EINVAL, "pool", "NULL");
    bed_refused(mnw_pool_next_event(bed.pool, NULL), -EINVAL, "event", "NULL");
    bed_refused(mnw_cache_open(NULL, bed.pool, source.store, NULL), -EINVAL, "cache", "NULL");
    bed_refused(mnw_cache_open(&cache, NULL, source.store, NULL), -EINVAL, "pool", "NULL");
    bed_refused(mnw_cache_open(&cache, bed.pool, NULL, NULL), -EINVAL, "store", "NULL");
    assert_int_equal(mnw_cache_page_size(NULL), 0);
    bed_refused(mnw_cache_close(NULL), -EINVAL, "cache", "NULL");
    bed_refused(mnw_view_open(NULL, bed.cache, NULL), -EINVAL, "view", "NULL");
    bed_refused(mnw_view_open(&view, NULL, NULL), -EINVAL, "cache", "NULL");
    assert_null(mnw_view_data(NULL));
    assert_int_equal(mnw_view_length(NULL), 0);
    bed_refused(mnw_view_close(NULL), -EINVAL, "view", "NULL");
    bed_refused(mnw_pin(NULL, 0, BED_PAGE), -EINVAL, "cache", "NULL");
    bed_refused(mnw_unpin(NULL, 0, BED_PAGE), -EINVAL, "cache", "NULL");
    bed_refused(mnw_prefetch(NULL, 0, BED_PAGE, 0), -EINVAL, "cache", "NULL");
    bed_refused(mnw_prefetch_cancel(NULL, 1), -EINVAL, "pool", "NULL");
    bed_refused(mnw_prefetch_cancel(bed.pool, 1), -ENOENT, "prefetch 1", "no prefetch");
    bed_refused(mnw_invalidate(NULL, 0, BED_PAGE), -EINVAL, "cache", "NULL");
    bed_refused(mnw_residency(NULL, 0, &flags, 1), -EINVAL, "cache", "NULL");
    bed_refused(mnw_residency(bed.cache, 0, NULL, 1), -EINVAL, "pages", "NULL");
    bed_refused(mnw_pool_stats(NULL, &stats, sizeof(stats)), -EINVAL, "pool", "NULL");
    bed_refused(mnw_pool_stats(bed.pool, NULL, sizeof(stats)), -EINVAL, "stats", "NULL");
    bed_refused(mnw_cache_stats(NULL, &stats, sizeof(stats)), -EINVAL, "cache", "NULL");
    bed_refused(mnw_pool_latency(NULL, 0, &latency, sizeof(latency)), -EINVAL, "pool", "NULL");
    bed_refused(mnw_pool_latency(bed.pool, 63, &latency, sizeof(latency)), -ENOENT, "node 63", "no");
    bed_refused(mnw_pool_node_stats(NULL, 0, &node, sizeof(node)), -EINVAL, "pool", "NULL");
    bed_refused(mnw_pool_node_stats(bed.pool, 0, NULL, sizeof(node)), -EINVAL, "stats", "NULL");
    bed_refused(mnw_pool_node_stats(bed.pool, 63, &node, sizeof(node)), -ENOENT, "node 63", "none of the pool's");
    bed_refused(mnw_pool_node_stats(bed.pool, 64, &node, sizeof(node)), -ENOENT, "node 64", "none of the pool's");
    assert_null(mnw_pool_stats_json(NULL));
    bed_close(&bed);
    bed_source_close(&source);
}

/* ---- ranges ---- */

static int64_t pin(struct bed *bed, uint64_t offset, uint64_t length) {
    return mnw_pin(bed->cache, offset, length);
}
static int64_t unpin(struct bed *bed, uint64_t offset, uint64_t length) {
    return mnw_unpin(bed->cache, offset, length);
}
static int64_t prefetch(struct bed *bed, uint64_t offset, uint64_t length) {
    return mnw_prefetch(bed->cache, offset, length, 0);
}
static int64_t invalidate(struct bed *bed, uint64_t offset, uint64_t length) {
    return mnw_invalidate(bed->cache, offset, length);
}

static void test_ranges(void **state) {
    int64_t (*const calls[])(struct bed *, uint64_t, uint64_t) = {pin, unpin, prefetch, invalidate};
    const char *const names[] = {"mnw_pin", "mnw_unpin", "mnw_prefetch", "mnw_invalidate"};
    struct bed_source source;
    struct bed bed = {0};
    struct mnw_view *view = NULL;
    uint8_t flags[4];
    const uint64_t size = 100 * BED_PAGE, wrap = UINT64_MAX - BED_PAGE + 1;
    (void)state;
    bed_source_open(&source, size - 10);
    bed_open(&bed, source.store, (struct mnw_pool_options){0}, NULL);
    bed_assert_page(bed.view, 0, 1);
    assert_int_equal(mnw_pin(bed.cache, 0, BED_PAGE), 0);
    usleep(20000); /* readahead ends */
    struct mnw_stats before = bed_stats(bed.pool), after;
    for (size_t i = 0; i < 4; i++) {
        bed_refused(calls[i](&bed, 1, BED_PAGE), -EINVAL, names[i], "multiples of the page size, 4096");
        bed_refused(calls[i](&bed, 0, 100), -EINVAL, "length 100", "multiples of the page size, 4096");
        bed_refused(calls[i](&bed, 0, 0), -EINVAL, names[i], "not inside");
        bed_refused(calls[i](&bed, size, BED_PAGE), -EINVAL, "offset 409600", "409600");
        bed_refused(calls[i](&bed, 0, size + BED_PAGE), -EINVAL, names[i], "409600");
        bed_refused(calls[i](&bed, size - BED_PAGE, 2 * BED_PAGE), -EINVAL, names[i], "409600");
        bed_refused(calls[i](&bed, BED_PAGE, wrap), -EINVAL, names[i], "409600");
        bed_refused(calls[i](&bed, wrap, BED_PAGE), -EINVAL, names[i], "409600");
    }
    bed_refused(mnw_residency(bed.cache, 7, flags, 1), -EINVAL, "mnw_residency", "4096");
    bed_refused(mnw_residency(bed.cache, 0, flags, 0), -EINVAL, "mnw_residency", "not inside");
    bed_refused(mnw_residency(bed.cache, size, flags, 1), -EINVAL, "mnw_residency", "409600");
    bed_refused(mnw_residency(bed.cache, size - BED_PAGE, flags, 2), -EINVAL, "mnw_residency", "409600");
    bed_refused(mnw_residency(bed.cache, 0, flags, SIZE_MAX), -EINVAL, "mnw_residency", "more than");
    static const struct {
        uint64_t offset, length;
        const char *thing, *remedy;
    } views[] = {{1, 0, "offset 1", "multiple of the page size"},
                 {100 * BED_PAGE, 0, "offset 409600", "past the end"},
                 {0, 101 * BED_PAGE, "413696 bytes", "past the end"},
                 {99 * BED_PAGE, BED_PAGE + 1, "view", "past the end"},
                 {BED_PAGE, UINT64_MAX, "view", "past the end"}};
    for (size_t i = 0; i < sizeof(views) / sizeof(views[0]); i++) {
        struct mnw_view_options options = {
            .size = sizeof(options), .offset_bytes = views[i].offset, .length_bytes = views[i].length};
        bed_refused(mnw_view_open(&view, bed.cache, &options), -EINVAL, views[i].thing, views[i].remedy);
    }
    after = bed_stats(bed.pool);
    assert_true(after.fills == before.fills && after.pinned_bytes == before.pinned_bytes &&
                after.evictions == before.evictions && after.resident_bytes == before.resident_bytes);
    bed_refused(mnw_unpin(bed.cache, 0, 64 * BED_PAGE), -EINVAL, "unpin", "not pinned");
    assert_int_equal(bed_stats(bed.pool).pinned_bytes, 64 << 10);
    bed_refused(mnw_invalidate(bed.cache, 0, 64 * BED_PAGE), -EBUSY, "pinned", "unpin it first");
    assert_int_equal(mnw_unpin(bed.cache, 0, BED_PAGE), 0);
    bed_close(&bed);
    bed_source_close(&source);
}

/* ---- stores ---- */

static void refuse_store(const char *uri, int expected, const char *thing, const char *remedy) {
    struct mnw_store *store = NULL;
    int before = machine_open_descriptors();
    bed_refused(mnw_store_open(&store, uri, NULL), expected, thing, remedy);
    assert_null(store);
    assert_int_equal(machine_open_descriptors(), before);
}

static int open_unreadable(void *argument) {
    const struct bed_file *file = argument;
    struct mnw_store *store = NULL;
    bed_become_nobody();
    bed_check(mnw_store_open(&store, file->uri, NULL) == -EACCES);
    bed_check(strstr(mnw_error(), file->path) && strstr(mnw_error(), "Permission denied"));
    bed_check(store == NULL);
    return 0;
}

static void test_stores(void **state) {
    char folder[] = "/tmp/minnow-live-XXXXXX", path[64], uri[96];
    struct bed_file file;
    (void)state;
    bed_hurry(10); /* a FIFO must not hold us */
    assert_non_null(mkdtemp(folder));
    snprintf(uri, sizeof(uri), "file://%s", folder);
    refuse_store(uri, -EISDIR, folder, "a store is a file");
    snprintf(path, sizeof(path), "%s/fifo", folder);
    snprintf(uri, sizeof(uri), "file://%s", path);
    refuse_store(uri, -ENOENT, path, "No such file");
    assert_int_equal(mkfifo(path, 0600), 0);
    refuse_store(uri, -EINVAL, path, "neither a regular file nor a block device");
    unlink(path);
    rmdir(folder);
    refuse_store("file:///dev/null", -EINVAL, "/dev/null", "neither a regular file nor a block device");
    bed_file(&file, 0, 0);
    refuse_store(file.uri, -ENODATA, file.path, "empty");
    assert_int_equal(ftruncate(file.fd, 100), 0);
    assert_int_equal(bed_child(open_unreadable, &file), 0);
    bed_file_remove(&file);
    refuse_store("rbd://pool/image", -ENOTSUP, "\"rbd\"", "known: file");
    refuse_store("/etc/passwd", -EINVAL, "/etc/passwd", "file:///absolute/path");
    refuse_store("file:etc/passwd", -EINVAL, "file:etc/passwd", "absolute");
    refuse_store("file:///etc/passwd?dirct=1", -EINVAL, "dirct=1", "known: direct=0, direct=1");
    refuse_store("", -EINVAL, "scheme", "file:///absolute/path");
    refuse_store("file:///proc/version?direct=1", -ENOTSUP, "/proc/version", "leave direct=1 out");
}

/* ---- huge pages ---- */

static void test_no_hugepages(void **state) {
    struct mnw_pool *pool = NULL;
    struct mnw_pool_options options = {
        .size = sizeof(options), .backing = MNW_BACKING_HUGETLB_2M, .budget_bytes = 1ull << 50};
    (void)state;
    const char *path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    struct bed_holdings before = bed_holdings(), after;
    bed_refused(mnw_pool_open(&pool, &options), -ENOMEM, "2", path);
    bed_refused(mnw_pool_open(&pool, &options), -ENOMEM, "free of", "echo ");
    options.backing = MNW_BACKING_HUGETLB_1G;
    if (!access("/sys/kernel/mm/hugepages/hugepages-1048576kB", F_OK))
        bed_refused(mnw_pool_open(&pool, &options), -ENOMEM, "1", "hugepages-1048576kB/nr_hugepages");
    else
        bed_refused(mnw_pool_open(&pool, &options), -EOPNOTSUPP, "1", "another backing");
    after = bed_holdings();
    assert_int_equal(before.threads, after.threads);
    assert_int_equal(before.descriptors, after.descriptors);
    assert_int_equal(before.mapped_kib, after.mapped_kib);
    assert_null(pool);
}

/* The command the message gives is the one that helps. */
static void test_told_command_helps(void **state) {
    struct mnw_pool *pool = NULL;
    struct mnw_pool_options options = {.size = sizeof(options), .backing = MNW_BACKING_HUGETLB_2M};
    struct mnw__hugepages pages;
    char value[32] = "", path[128] = "";
    (void)state;
    if (!machine_free_hugepages(2 << 20, 1) || mnw__hugepages(2 << 20, -1, &pages)) {
        print_message("cannot change the pool of huge pages\n");
        skip();
    }
    options.budget_bytes = (pages.free - pages.reserved + 3) << 21;
    assert_int_equal(mnw_pool_open(&pool, &options), -ENOMEM);
    /* Others may take huge pages meanwhile: then the next message asks for more. */
    for (int tries = 0; tries < 5 && !pool; tries++) {
        const char *command = strstr(mnw_error(), "echo ");
        assert_non_null(command);
        assert_int_equal(sscanf(command, "echo %31s > %127s", value, path), 2);
        assert_true(machine_set(path, value));
        mnw_pool_open(&pool, &options);
    }
    if (!pool)
        fail_msg("after \"%s > %s\": %s", value, path, mnw_error());
    assert_int_equal(mnw_pool_close(pool), 0);
}

static void test_too_large(void **state) {
    struct bed_source source, small;
    struct bed bed = {0};
    struct mnw_cache *cache = NULL;
    (void)state;
    bed_source_open(&source, INT64_MAX);
    bed_source_open(&small, BED_MIB);
    bed_open(&bed, small.store, (struct mnw_pool_options){.extent_bytes = 32 << 10}, NULL);
    bed_refused(mnw_cache_open(&cache, bed.pool, source.store, NULL), -ENOSPC, "9223372036854775807", "larger extents");
    assert_null(cache);
    bed_close(&bed);
    bed_source_close(&small);
    bed_source_close(&source);
}

int main(int argc, char **argv) {
    int status = machine_guard(argv);
    (void)argc;
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget),       cmocka_unit_test(test_set_budget),
        cmocka_unit_test(test_pool_options), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_null),         cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_stores),       cmocka_unit_test(test_no_hugepages),
        cmocka_unit_test(test_too_large),    cmocka_unit_test(test_told_command_helps),
    };
    return cmocka_run_group_tests_name("bad input", tests, NULL, NULL);
}
