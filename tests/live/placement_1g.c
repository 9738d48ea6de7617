/* SPDX-License-Identifier: MIT */
/*
 * On which NUMA node pages of 1 GiB lie, under each policy: for machines with memory to spare, such as guests. Borrows
 * a page of each node, and gives it back.
 */
#include "machine.h"
#include "placement_bed.h"

#include <errno.h>
#include <fcntl.h>
#include <numaif.h>
#include <unistd.h>

#define GIB (1ull << 30)

static char path[] = "/tmp/minnow-placement-XXXXXX";
static struct mnw_store *store;

static int node_of(const char *at) {
    void *address = (void *)(uintptr_t)at;
    int node = -1;
    assert_int_equal(move_pages(0, 1, &address, NULL, &node, 0), 0);
    return node;
}

/* Each node's thread reads the page of its number, at its end: nothing but zeros is there. */
static void read_pages(enum mnw_numa numa, const char *nodes, unsigned flags, unsigned pages, int found[NODES_MAX]) {
    struct bed bed = {0};
    struct mnw_pool_options options = {.backing = MNW_BACKING_HUGETLB_1G, .numa = numa, .nodes = nodes};
    struct mnw_cache_options cache = {.size = sizeof(cache), .readahead_bytes = UINT64_MAX, .read_deadline_ms = 60000};
    struct mnw_view_options view = {.size = sizeof(view), .flags = flags};
    bed_hurry(200);
    options.budget_bytes = pages * GIB;
    bed_open(&bed, store, options, &cache);
    assert_int_equal(mnw_view_close(bed.view), 0);
    assert_int_equal(mnw_view_open(&bed.view, bed.cache, &view), 0);
    const char *data = mnw_view_data(bed.view);
    for (unsigned page = 0; page < pages; page++) {
        run_on(node_count - 1 - page); /* the other way round, so that no turn explains it */
        assert_int_equal(data[(page + 1) * GIB - 1], 0);
        found[page] = node_of(data + page * GIB);
        print_message("page %u is on node %d\n", page, found[page]);
    }
    assert_int_equal(bed_stats(bed.pool).pages_elsewhere, 0);
    bed_close(&bed);
}

static void test_local(void **state) {
    int found[NODES_MAX];
    (void)state;
    read_pages(MNW_NUMA_LOCAL, NULL, 0, 2, found);
    assert_int_equal(found[0], node_count - 1);
    assert_int_equal(found[1], node_count - 2);
}

static void test_inline_by_turns(void **state) {
    int found[NODES_MAX];
    (void)state;
    read_pages(MNW_NUMA_INTERLEAVE, "0-1", MNW_VIEW_INLINE, 2, found);
    assert_int_equal(found[0], 0);
    assert_int_equal(found[1], 1);
}

static void test_bind(void **state) {
    int found[NODES_MAX];
    (void)state;
    read_pages(MNW_NUMA_BIND, "0", 0, 1, found); /* read by a thread of the last node */
    assert_int_equal(found[0], 0);
}

static bool borrow_pages(void) {
    char name[128];
    for (unsigned node = 0; node < 2; node++) {
        /* Those of 2 MiB, which are not needed here, may lie where one of 1 GiB would. */
        snprintf(name, sizeof(name), "/sys/devices/system/node/node%u/hugepages/hugepages-2048kB/nr_hugepages", node);
        machine_set(name, "0");
        snprintf(name, sizeof(name), "/sys/devices/system/node/node%u/hugepages/hugepages-1048576kB/nr_hugepages",
                 node);
        unsigned long long pages = 0;
        FILE *file = machine_set(name, "1") ? fopen(name, "re") : NULL;
        if (!file)
            return false;
        bool is_there = fscanf(file, "%llu", &pages) == 1 && pages == 1;
        fclose(file);
        if (!is_there)
            return false;
    }
    return true;
}

/* placement_1g [TEST]: all, or those whose names match the pattern. */
int main(int count, char **arguments) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_local),
        cmocka_unit_test(test_inline_by_turns),
        cmocka_unit_test(test_bind),
    };
    char uri[96];
    if (placement_begin(count, arguments))
        return placement_status();
    if (!borrow_pages()) {
        printf("skipped: not one huge page of 1 GiB to be had on each of two nodes\n");
        return 77;
    }
    int fd = mkostemp(path, O_CLOEXEC);
    snprintf(uri, sizeof(uri), "file://%s", path);
    if (fd < 0 || ftruncate(fd, 2 * GIB) || mnw_store_open(&store, uri, NULL))
        return 1;
    int status = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    close(fd);
    return mnw_store_close(store) ? 1 : status;
}
