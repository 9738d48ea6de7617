/* SPDX-License-Identifier: MIT */
/*
 * On which NUMA node pages lie, asked of the kernel page by page: every policy, on every backing, while consumers
 * meddle.
 */
#include "machine.h"
#include "placement_bed.h"

#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* ---- local ---- */

static void expect_local(const struct bed *bed, const struct backing *backing, uint64_t per_node) {
    uint64_t counts[NODES_MAX];
    for (unsigned node = 0; node < node_count; node++) {
        count_nodes(bed, backing, node * (per_node + GAP) * BED_PAGE, per_node * BED_PAGE, counts);
        print_message("%s: node %u: %llu of %llu pages on the faulter's node\n", backing->name, node,
                      (unsigned long long)counts[node], (unsigned long long)per_node);
        if (counts[node] * 100 < per_node * 99)
            fail_msg("%s: node %u has %llu of its %llu pages", backing->name, node, (unsigned long long)counts[node],
                     (unsigned long long)per_node);
    }
}

static void read_local(unsigned step, bool reads_ahead) {
    EACH_BACKING(backing) {
        struct bed bed = {0};
        struct bed_source source;
        struct reader readers[NODES_MAX];
        bed_hurry(100);
        run_on(0);
        open_bed(&bed, &source, backing, node_count * (backing->per_node + GAP), MNW_NUMA_LOCAL, NULL, reads_ahead);
        start_readers(readers, &bed, backing->per_node, GAP, step, NULL);
        join_readers(readers);
        expect_local(&bed, backing, backing->per_node);
        assert_int_equal(bed_stats(bed.pool).pages_elsewhere, 0);
        close_bed(&bed, &source);
    }
}

static void test_local_follows_the_faulter(void **state) {
    (void)state;
    read_local(613, false);
}

static void test_what_is_read_ahead_is_local(void **state) {
    (void)state;
    read_local(1, true);
}

/* A prefetch has no faulter: it belongs to whoever asked. */
static void test_prefetch_is_local_to_whoever_asks(void **state) {
    struct bed bed = {0};
    struct bed_source source;
    uint64_t counts[NODES_MAX];
    (void)state;
    bed_hurry(100);
    run_on(0);
    open_bed(&bed, &source, &backings[0], 1024, MNW_NUMA_LOCAL, NULL, true);
    run_on(node_count - 1);
    assert_int_equal(mnw_pin(bed.cache, 0, 1024 * BED_PAGE), 0);
    read_some(&bed, 0, 1024);
    count_nodes(&bed, &backings[0], 0, 1024 * BED_PAGE, counts);
    assert_int_equal(counts[node_count - 1], 1024);
    assert_int_equal(mnw_unpin(bed.cache, 0, 1024 * BED_PAGE), 0);
    close_bed(&bed, &source);
}

/* ---- interleave, bind, preferred ---- */

static void test_interleave_shares_evenly(void **state) {
    (void)state;
    EACH_BACKING(backing) {
        struct bed bed = {0};
        struct bed_source source;
        uint64_t counts[NODES_MAX], pages = backing->unit == HUGE ? 2048u * node_count : 4096;
        bed_hurry(100);
        run_on(0);
        open_bed(&bed, &source, backing, pages, MNW_NUMA_INTERLEAVE, NULL, true);
        read_some(&bed, 0, pages);
        count_nodes(&bed, backing, 0, pages * BED_PAGE, counts);
        for (unsigned node = 0; node < node_count; node++) {
            print_message("%s: %llu of %llu pages on node %u\n", backing->name, (unsigned long long)counts[node],
                          (unsigned long long)pages, node);
            assert_in_range(counts[node] * node_count * 100, pages * 98, pages * 102);
        }
        close_bed(&bed, &source);
    }
}

/* Three parts on node 0, one on each other; in a view whose faults threads serve, or whose faulters serve themselves.
 */
static void expect_weights(const struct backing *backing, unsigned flags) {
    struct bed bed = {0};
    struct bed_file file;
    struct mnw_store *store;
    char nodes[32], expected[64];
    uint64_t counts[NODES_MAX], pages = backing->unit == HUGE ? 1024u * (node_count + 2) : 4096;
    int mode;
    bed_hurry(100);
    run_on(1);
    snprintf(nodes, sizeof(nodes), "0:3,1-%u", node_count - 1);
    bed_file(&file, pages * BED_PAGE, 1);
    assert_int_equal(mnw_store_open(&store, file.uri, NULL), 0);
    struct mnw_pool_options options = {.backing = backing->kind, .numa = MNW_NUMA_INTERLEAVE, .nodes = nodes};
    options.budget_bytes = pages * BED_PAGE + 8 * HUGE;
    bed_open(&bed, store, options, NULL);
    struct mnw_view_options view = {.size = sizeof(view), .flags = flags};
    assert_int_equal(mnw_view_close(bed.view), 0);
    assert_int_equal(mnw_view_open(&bed.view, bed.cache, &view), 0);
    bed.data = mnw_view_data(bed.view);
    /* By plain loads: no handler of SIGBUS but the library's. */
    for (uint64_t at = 0; at < pages * BED_PAGE; at += BED_PAGE) {
        bed_bytes(expected, at, sizeof(expected), 1);
        assert_memory_equal(bed.data + at, expected, sizeof(expected));
    }
    count_nodes(&bed, backing, 0, pages * BED_PAGE, counts);
    for (unsigned node = 0; node < node_count; node++) {
        uint64_t share = pages * (node ? 1 : 3) / (node_count + 2);
        print_message("%s: %llu of %llu pages on node %u, whose share is %llu\n", backing->name,
                      (unsigned long long)counts[node], (unsigned long long)pages, node, (unsigned long long)share);
        assert_in_range(counts[node] * 100, share * 98, share * 102);
    }
    assert_int_equal(bed_stats(bed.pool).pages_elsewhere, 0);
    assert_int_equal(get_mempolicy(&mode, NULL, 0, NULL, 0), 0);
    assert_int_equal(mode, MPOL_DEFAULT); /* a faulter has his own policy back */
    bed_close(&bed);
    assert_int_equal(mnw_store_close(store), 0);
    bed_file_remove(&file);
}

static void test_weights_are_shares(void **state) {
    (void)state;
    EACH_BACKING(backing) {
        expect_weights(backing, 0);
        expect_weights(backing, MNW_VIEW_INLINE);
    }
}

static void test_bad_weights_are_refused(void **state) {
    struct mnw_pool *pool = NULL;
    struct mnw_pool_options options = {.size = sizeof(options), .budget_bytes = 64 * BED_MIB};
    (void)state;
    options.numa = MNW_NUMA_BIND;
    options.nodes = "0:3,1";
    bed_refused(mnw_pool_open(&pool, &options), -EINVAL, "0:3,1", "only the policy interleave has weights");
    options.numa = MNW_NUMA_INTERLEAVE;
    options.nodes = "0:256,1";
    bed_refused(mnw_pool_open(&pool, &options), -EINVAL, "0:256,1", "weights from 1 to 255");
}

static void test_bind_never_leaves(void **state) {
    (void)state;
    EACH_BACKING(backing) {
        struct bed bed = {0};
        struct bed_source source;
        uint64_t there = 0, pages = 4096;
        int nodes[512];
        bed_hurry(100);
        run_on(0);
        bed_source_open(&source, pages * BED_PAGE);
        struct mnw_pool_options options = {.backing = backing->kind, .numa = MNW_NUMA_BIND, .nodes = "1"};
        options.budget_bytes = 8 * BED_MIB; /* half of it: what is read again is allocated again */
        bed_open(&bed, source.store, options, NULL);
        for (unsigned pass = 0; pass < 2; pass++) {
            for (uint64_t at = 0; at < pages * BED_PAGE; at += HUGE) {
                read_some(&bed, at, 512);
                nodes_of(bed.data + at, nodes);
                for (size_t i = 0; i < 512; i++) {
                    there += nodes[i] == 1;
                    if (nodes[i] != 1 && nodes[i] != -ENOENT && nodes[i] != -EFAULT) /* evicted just now */
                        fail_msg("%s: page %zu from %llu on is on node %d", backing->name, i, (unsigned long long)at,
                                 nodes[i]);
                }
            }
        }
        assert_true(there > pages);
        close_bed(&bed, &source);
    }
}

/* ---- consumers with a policy of their own ---- */

static void test_consumer_cannot_redirect(void **state) {
    (void)state;
    EACH_BACKING(backing) {
        struct bed bed = {0};
        struct bed_source source;
        struct reader readers[NODES_MAX];
        bed_hurry(100);
        run_on(0);
        open_bed(&bed, &source, backing, node_count * (backing->per_node + GAP), MNW_NUMA_LOCAL, NULL, false);
        set_own_policy(bed.data, node_count * (backing->per_node + GAP) * BED_PAGE, node_count - 1);
        start_readers(readers, &bed, backing->per_node, GAP, 613, NULL);
        join_readers(readers);
        expect_local(&bed, backing, backing->per_node);
        uint64_t foreign = bed_stats(bed.pool).policies_foreign;
        /* On hugetlb such a policy is the consumer's own affair. */
        if (backing->kind == MNW_BACKING_HUGETLB_2M)
            assert_int_equal(foreign, 0);
        else
            assert_in_range(foreign, 1, 2 * node_count);
        close_bed(&bed, &source);
    }
}

/* Every other page, so that the first page of a run may look innocent. */
static void test_consumer_cannot_loosen_bind(void **state) {
    struct bed bed = {0};
    struct bed_source source;
    uint64_t counts[NODES_MAX], pages = 512;
    (void)state;
    bed_hurry(100);
    run_on(0);
    open_bed(&bed, &source, &backings[0], pages, MNW_NUMA_BIND, "1", true);
    for (unsigned odd = 1; odd < pages; odd += 2)
        set_own_policy(bed.data + odd * BED_PAGE, BED_PAGE, 0);
    assert_int_equal(mnw_pin(bed.cache, 0, pages * BED_PAGE), 0); /* in long runs, that begin with even pages */
    read_some(&bed, 0, pages);
    assert_int_equal(mnw_unpin(bed.cache, 0, pages * BED_PAGE), 0);
    count_nodes(&bed, &backings[0], 0, pages * BED_PAGE, counts);
    assert_int_equal(counts[1], pages);
    assert_true(bed_stats(bed.pool).policies_foreign > 0);
    close_bed(&bed, &source);
}

/* ---- the kernel's own balancing ---- */

/* How many of 512 pages lie on a node. */
static unsigned count_on(const char *at, int node) {
    int nodes[512];
    unsigned count = 0;
    nodes_of(at, nodes);
    for (size_t i = 0; i < 512; i++)
        count += nodes[i] == node;
    return count;
}

/*
 * A thread goes to another node than its memory's, and the kernel moves to it what it may: anonymous memory. The
 * cache's pages stay, mapped for reading and for writing.
 */
static void test_balancing_leaves_caches_alone(void **state) {
    struct bed bed = {0};
    struct bed_source source;
    struct mnw_view *writer;
    struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_WRITE};
    const time_t end = time(NULL) + 40;
    (void)state;
    bed_hurry(100);
    if (!machine_set("/proc/sys/kernel/numa_balancing", "1"))
        skip();
    run_on(1);
    open_bed(&bed, &source, &backings[0], 512, MNW_NUMA_LOCAL, NULL, true);
    assert_int_equal(mnw_view_open(&writer, bed.cache, &options), 0);
    char *data = mnw_view_data(writer),
         *own = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(own, MAP_FAILED);
    assert_int_equal(madvise(own, HUGE, MADV_NOHUGEPAGE), 0);
    memset(own, 1, HUGE);
    read_some(&bed, 0, 512);
    for (uint64_t at = 0; at < HUGE; at += BED_PAGE)
        assert_int_equal(bed_compare(data + at, at, 64, 1, NULL), BED_RIGHT);
    assert_int_equal(count_on(own, 1), 512);
    run_on(0);
    while (count_on(own, 0) < 256 && time(NULL) < end)
        for (uint64_t at = 0; at < HUGE; at += BED_PAGE)
            own[at] = (char)(data[at] + bed.data[at]);
    print_message("%u of 512 anonymous pages were moved\n", count_on(own, 0));
    assert_in_range(count_on(own, 0), 256, 512);
    assert_int_equal(count_on(data, 1), 512);
    assert_int_equal(count_on(bed.data, 1), 512);
    assert_int_equal(bed_stats(bed.pool).numa_balancing, 1);
    assert_true(machine_set("/proc/sys/kernel/numa_balancing", "0"));
    assert_int_equal(munmap(own, HUGE), 0);
    assert_int_equal(mnw_view_close(writer), 0);
    close_bed(&bed, &source);
}

/* ---- statistics ---- */

/* Pages lie on the nodes in turn, and every fourth one would be on one node alone. */
static void test_samples_are_fair(void **state) {
    struct bed bed = {0};
    struct bed_source source;
    struct mnw_placement now;
    const uint64_t pages = 4096, asked = 1025;
    (void)state;
    bed_hurry(100);
    run_on(0);
    open_bed(&bed, &source, &backings[0], pages, MNW_NUMA_INTERLEAVE, NULL, true);
    read_some(&bed, 0, pages);
    assert_int_equal(mnw_cache_placement(bed.cache, asked, &now, sizeof(now)), 0);
    assert_in_range(now.asked_bytes, pages / 4 * BED_PAGE, asked * BED_PAGE);
    for (unsigned node = 0; node < node_count; node++) {
        print_message("of %llu pages asked about %llu on node %u\n", (unsigned long long)(now.asked_bytes / BED_PAGE),
                      (unsigned long long)(now.node_bytes[node] / BED_PAGE), node);
        assert_in_range(now.node_bytes[node] * node_count * 100, now.asked_bytes * 80, now.asked_bytes * 120);
    }
    close_bed(&bed, &source);
}

/* They are asked of the kernel, so they follow pages that somebody else moves. */
static void test_placement_is_read_again(void **state) {
    (void)state;
    EACH_BACKING(backing) {
        struct bed bed = {0};
        struct bed_source source;
        struct mnw_placement now;
        void *addresses[512];
        int to[512], nodes[512];
        bed_hurry(100);
        run_on(0);
        open_bed(&bed, &source, backing, 2048, MNW_NUMA_LOCAL, "0", false);
        read_some(&bed, 0, 2048);
        assert_int_equal(mnw_cache_placement(bed.cache, 0, &now, sizeof(now)), 0);
        assert_int_equal(now.asked_bytes, 2048 * BED_PAGE);
        assert_int_equal(now.node_bytes[0], 2048 * BED_PAGE);
        for (size_t i = 0; i < 512; i++) {
            addresses[i] = (void *)(uintptr_t)(bed.data + i * BED_PAGE);
            to[i] = 1;
        }
        assert_int_equal(move_pages(0, 512, addresses, to, nodes, MPOL_MF_MOVE_ALL), 0);
        assert_int_equal(mnw_cache_placement(bed.cache, 0, &now, sizeof(now)), 0);
        assert_int_equal(now.node_bytes[1], 512 * BED_PAGE);
        assert_int_equal(now.outside_bytes, 512 * BED_PAGE);
        assert_int_equal(now.node_bytes[0] + now.unknown_bytes, 1536 * BED_PAGE);
        struct mnw_node_stats home, outside;
        assert_int_equal(mnw_pool_node_stats(bed.pool, 0, &home, sizeof(home)), 0);
        assert_int_equal(mnw_pool_node_stats(bed.pool, 1, &outside, sizeof(outside)), 0);
        assert_true(outside.is_outside && !home.is_outside && home.fault_threads == 1 && !outside.fault_threads);
        /* A sample: of 2048 pages one of two. Pages that were mapped nowhere just now are not told. */
        assert_in_range(outside.resident_bytes, 508 * BED_PAGE, 516 * BED_PAGE);
        assert_in_range(home.resident_bytes, 1000 * BED_PAGE, 1540 * BED_PAGE);
        assert_int_equal(home.huge_pages, backing->kind == MNW_BACKING_HUGETLB_2M ? HUGE_PAGES : 0);
        assert_int_equal(home.huge_pages_free, backing->kind == MNW_BACKING_HUGETLB_2M ? free_huge(0) : 0);
        assert_true(home.memory_free_bytes && home.memory_free_bytes < home.memory_bytes);
        if (backing->unit == BED_PAGE) {
            assert_int_equal(mnw_cache_placement(bed.cache, 128, &now, sizeof(now)), 0);
            assert_in_range(now.asked_bytes, 100 * BED_PAGE, 128 * BED_PAGE);
            assert_in_range(now.node_bytes[1] * 4, now.asked_bytes - 4 * BED_PAGE, now.asked_bytes + 4 * BED_PAGE);
        }
        read_some(&bed, 0, 2048);
        close_bed(&bed, &source);
    }
}

/* placement [TEST]: all, or those whose names match the pattern. */
int main(int count, char **arguments) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_local_follows_the_faulter),
        cmocka_unit_test(test_what_is_read_ahead_is_local),
        cmocka_unit_test(test_prefetch_is_local_to_whoever_asks),
        cmocka_unit_test(test_interleave_shares_evenly),
        cmocka_unit_test(test_weights_are_shares),
        cmocka_unit_test(test_bad_weights_are_refused),
        cmocka_unit_test(test_bind_never_leaves),
        cmocka_unit_test(test_consumer_cannot_redirect),
        cmocka_unit_test(test_consumer_cannot_loosen_bind),
        cmocka_unit_test(test_balancing_leaves_caches_alone),
        cmocka_unit_test(test_samples_are_fair),
        cmocka_unit_test(test_placement_is_read_again),
    };
    return RUN_ON_NODES(tests, count, arguments);
}
