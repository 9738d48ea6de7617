/* SPDX-License-Identifier: MIT */
/*
 * Nodes that run out of memory: the cache evicts, falls back by its policy, or refuses and says why; nobody is killed
 * and nobody waits for ever.
 */
#include "placement_bed.h"

#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <sys/mman.h>
#include <time.h>

/* Of all that lies elsewhere, this much belonged to the node. */
static void expect_elsewhere(const struct bed *bed, unsigned wanted, uint64_t pages) {
    for (unsigned node = 0; node < node_count; node++) {
        struct mnw_node_stats stats;
        assert_int_equal(mnw_pool_node_stats(bed->pool, node, &stats, sizeof(stats)) == 0 ? stats.pages_elsewhere : 0,
                         node == wanted ? pages : 0);
    }
}

static void test_preferred_falls_back(void **state) {
    struct bed bed = {0};
    struct bed_source source;
    uint64_t counts[NODES_MAX], pages = (HUGE_PAGES + 8) * 512;
    (void)state;
    if (!has_huge)
        skip();
    bed_hurry(100);
    run_on(0);
    open_bed(&bed, &source, &backings[2], pages, MNW_NUMA_PREFERRED, "1", true);
    read_some(&bed, 0, pages);
    count_nodes(&bed, &backings[2], 0, pages * BED_PAGE, counts);
    assert_int_equal(counts[1], HUGE_PAGES * 512);
    assert_int_equal(bed_stats(bed.pool).pages_elsewhere, 8);
    expect_elsewhere(&bed, 1, 8);
    close_bed(&bed, &source);
}

/* How often a hog looks for more, every 10 ms; and at most, while a reader stands still. */
#define ROUNDS     20u
#define ROUNDS_MAX 2000u

/* Memory that others take of a node: 2 MiB at a time, as huge pages or as small ones. */
struct hog {
    char *at;
    size_t size, taken;
    unsigned node;
    bool is_huge;
};

static void hog_begin(struct hog *hog, unsigned node, bool is_huge) {
    long long left = 0;
    *hog = (struct hog){.node = node, .is_huge = is_huge, .size = (size_t)node_count * HUGE_PAGES * HUGE};
    if (!is_huge)
        hog->size = (size_t)numa_node_size64((int)node, &left) & ~(HUGE - 1);
    hog->at = mmap(NULL, hog->size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (is_huge ? MAP_HUGETLB : 0), -1, 0);
    assert_ptr_not_equal(hog->at, MAP_FAILED);
    (void)madvise(hog->at, hog->size, MADV_HUGEPAGE); /* sooner taken */
    /* Small ones are not bound: who binds to a node that has nothing left is killed, and so may others be. */
    unsigned long mask = 1ul << node;
    assert_int_equal(mbind(hog->at, hog->size, is_huge ? MPOL_BIND : MPOL_PREFERRED, &mask, 64, 0), 0);
}

/* One step; false: the node has nothing more for it. */
static bool hog_take(struct hog *hog) {
    void *last = hog->at + hog->taken + HUGE - BED_PAGE;
    int node = -1;
    if (hog->taken == hog->size || madvise(hog->at + hog->taken, HUGE, MADV_POPULATE_WRITE))
        return false;
    if (!hog->is_huge && (move_pages(0, 1, &last, NULL, &node, 0) || node != (int)hog->node)) {
        assert_int_equal(madvise(hog->at + hog->taken, HUGE, MADV_DONTNEED), 0); /* some of it is another node's */
        return false;
    }
    hog->taken += HUGE;
    return true;
}

static bool all_went_on(const struct reader *readers, const uint64_t *before) {
    for (unsigned i = 0; i < node_count; i++)
        if (atomic_load(&readers[i].reads) == before[i])
            return false;
    return true;
}

/*
 * Takes what a node has free, again and again: what the pool gives back for a moment is free for a moment. Until
 * everybody has read more.
 */
static void exhaust(unsigned node, bool is_huge, const struct reader *readers) {
    struct hog hog;
    uint64_t before[NODES_MAX];
    unsigned dry = 0, round = 0;
    hog_begin(&hog, node, is_huge);
    while (hog_take(&hog))
        ;
    for (unsigned i = 0; i < node_count; i++)
        before[i] = atomic_load(&readers[i].reads);
    for (; round < ROUNDS || (round < ROUNDS_MAX && !all_went_on(readers, before)); round++) {
        while (hog_take(&hog))
            ;
        dry += !is_huge || free_huge(node) == 0;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    print_message("node %u: %zu MiB taken, nothing free in %u looks of %u\n", node, hog.taken >> 20, dry, round);
    assert_true(hog.taken && dry);
    if (!all_went_on(readers, before))
        fail_msg("a reader stands still while node %u has nothing", node);
    assert_int_equal(munmap(hog.at, hog.size), 0);
}

/* A pool that may have a third of each node's huge pages, or as much, over a store of twice as much; the nodes run out
 * in turn. */
static void exhaust_each(const struct backing *backing, enum mnw_numa numa, const char *nodes) {
    struct bed bed = {0};
    struct bed_source source;
    struct reader readers[NODES_MAX];
    uint64_t huge = nodes ? HUGE_PAGES / 3 : node_count * (HUGE_PAGES / 3);
    _Atomic bool stop = false;
    bed_hurry(100);
    run_on(0);
    bed_source_open(&source, 2 * huge * HUGE);
    struct mnw_pool_options options = {.backing = backing->kind, .numa = numa, .nodes = nodes};
    options.budget_bytes = huge * HUGE;
    bed_open(&bed, source.store, options, NULL);
    start_readers(readers, &bed, 2 * huge * 512 / node_count, 0, 613, &stop);
    nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
    for (unsigned node = 0; node < node_count; node++)
        exhaust(node, backing->kind == MNW_BACKING_HUGETLB_2M, readers);
    atomic_store(&stop, true);
    join_readers(readers);
    struct mnw_stats stats = bed_stats(bed.pool);
    print_message("%s: %llu of the pages read were given memory elsewhere\n", backing->name,
                  (unsigned long long)stats.pages_elsewhere);
    assert_int_equal(stats.faults_failed, 0);
    assert_int_equal(stats.fills_failed, 0);
    /* Under `bind` there is no elsewhere. Under `local` there is, unless what was evicted on the node was enough. */
    if (numa == MNW_NUMA_BIND)
        assert_int_equal(stats.pages_elsewhere, 0);
    close_bed(&bed, &source);
}

static void test_nodes_run_out_under_local(void **state) {
    (void)state;
    EACH_BACKING(backing) {
        exhaust_each(backing, MNW_NUMA_LOCAL, NULL);
    }
}

/* Huge pages alone: for small ones of a node that has nothing left the kernel kills, whoever asks bound to it. */
static void test_nodes_run_out_under_bind(void **state) {
    (void)state;
    if (!has_huge)
        skip();
    exhaust_each(&backings[2], MNW_NUMA_BIND, "1");
}

/* The node whose turn it is has nothing: another one gives it. */
static void test_nodes_run_out_under_interleave(void **state) {
    (void)state;
    if (!has_huge)
        skip();
    exhaust_each(&backings[2], MNW_NUMA_INTERLEAVE, NULL);
}

static void test_pool_that_a_node_cannot_hold_is_refused(void **state) {
    struct mnw_pool *pool = NULL;
    struct mnw_pool_options options = {.size = sizeof(options), .backing = MNW_BACKING_HUGETLB_2M};
    (void)state;
    if (!has_huge)
        skip();
    options.numa = MNW_NUMA_BIND;
    options.nodes = "1";
    options.budget_bytes = (HUGE_PAGES + 1) * HUGE;
    bed_refused(mnw_pool_open(&pool, &options), -ENOMEM, "node 1",
                "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages");
    options.backing = MNW_BACKING_SHMEM;
    options.budget_bytes = 1ull << 50;
    bed_refused(mnw_pool_open(&pool, &options), -ENOMEM, "nodes", "budget");
}

/* A pool that may have so many huge pages of node 1, and no other memory, over a store of 16. Deadline 0: the usual
 * one. */
static void open_bound(struct bed *bed, struct bed_source *source, uint64_t huge, unsigned deadline_ms) {
    struct mnw_pool_options pool = {.backing = MNW_BACKING_HUGETLB_2M, .numa = MNW_NUMA_BIND, .nodes = "1"};
    struct mnw_cache_options cache = {.size = sizeof(cache), .read_deadline_ms = deadline_ms};
    pool.budget_bytes = huge * HUGE;
    bed_source_open(source, 16 * HUGE);
    bed_open(bed, source->store, pool, &cache);
}

static void test_a_budget_that_a_node_cannot_hold_is_refused(void **state) {
    struct bed bed = {0};
    struct bed_source source;
    (void)state;
    if (!has_huge)
        skip();
    bed_hurry(100);
    open_bound(&bed, &source, 8, 0);
    read_some(&bed, 0, 4 * 512); /* what it holds is not free, and need not be */
    bed_refused(mnw_pool_set_budget(bed.pool, (HUGE_PAGES + 1) * HUGE), -ENOMEM, "2 MiB pages on node 1: ",
                "echo 25 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages");
    assert_int_equal(bed_stats(bed.pool).budget_bytes, 8 * HUGE);
    assert_int_equal(mnw_pool_set_budget(bed.pool, HUGE_PAGES * HUGE), 0);
    read_some(&bed, 0, 16 * 512);
    close_bed(&bed, &source);
}

static void test_a_pin_that_a_node_cannot_hold_says_so(void **state) {
    struct bed bed = {0};
    struct bed_source source;
    (void)state;
    if (!has_huge)
        skip();
    bed_hurry(100);
    open_bound(&bed, &source, 16, 500);
    char *hog = mmap(NULL, HUGE_PAGES * HUGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(hog, MAP_FAILED);
    set_own_policy(hog, HUGE_PAGES * HUGE, 1);
    assert_int_equal(madvise(hog, HUGE_PAGES * HUGE, MADV_POPULATE_WRITE), 0);
    bed_refused(mnw_pin(bed.cache, 0, 2 * HUGE), -ENOMEM, "2 MiB pages on node 1: 0 free of 24",
                "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages");
    assert_int_equal(munmap(hog, HUGE_PAGES * HUGE), 0);
    assert_int_equal(mnw_pin(bed.cache, 0, 2 * HUGE), 0);
    assert_int_equal(mnw_unpin(bed.cache, 0, 2 * HUGE), 0);
    close_bed(&bed, &source);
}

/* Small pages and folios: the reader's node has nothing left, so memory comes from another one. */
static void test_a_full_node_falls_back(void **state) {
    (void)state;
    for (const struct backing *backing = backings; backing < backings + 2; backing++) {
        struct bed bed = {0};
        struct bed_source source;
        uint64_t counts[NODES_MAX], pages = 8 * 512;
        long long left = 0;
        bed_hurry(100);
        run_on(1);
        open_bed(&bed, &source, backing, pages, MNW_NUMA_LOCAL, NULL, true);
        assert_true(numa_node_size64(1, &left) > 0);
        size_t length = (size_t)left & ~(HUGE - 1);
        char *hog = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        assert_ptr_not_equal(hog, MAP_FAILED);
        /* Not bound: what the node does not have any more comes from elsewhere, and nobody is killed for it. */
        unsigned long mask = 2;
        assert_int_equal(mbind(hog, length, MPOL_PREFERRED, &mask, 64, 0), 0);
        for (size_t at = 0; at < length; at += HUGE)
            if (madvise(hog + at, HUGE, MADV_POPULATE_WRITE))
                break;
        read_some(&bed, 0, pages);
        count_nodes(&bed, backing, 0, pages * BED_PAGE, counts);
        print_message("%s: %llu of %llu pages on the full node, %llu counted elsewhere\n", backing->name,
                      (unsigned long long)counts[1], (unsigned long long)pages,
                      (unsigned long long)bed_stats(bed.pool).pages_elsewhere);
        assert_true(counts[1] < pages);
        assert_int_equal(bed_stats(bed.pool).pages_elsewhere, pages - counts[1]);
        expect_elsewhere(&bed, 1, pages - counts[1]);
        assert_int_equal(bed_stats(bed.pool).faults_failed, 0);
        assert_int_equal(bed_stats(bed.pool).fills_failed, 0);
        assert_int_equal(munmap(hog, length), 0);
        close_bed(&bed, &source);
    }
}

/* scarcity [TEST]: all, or those whose names match the pattern. */
int main(int count, char **arguments) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_preferred_falls_back),
        cmocka_unit_test(test_nodes_run_out_under_local),
        cmocka_unit_test(test_nodes_run_out_under_bind),
        cmocka_unit_test(test_nodes_run_out_under_interleave),
        cmocka_unit_test(test_pool_that_a_node_cannot_hold_is_refused),
        cmocka_unit_test(test_a_budget_that_a_node_cannot_hold_is_refused),
        cmocka_unit_test(test_a_pin_that_a_node_cannot_hold_says_so),
        cmocka_unit_test(test_a_full_node_falls_back),
    };
    return RUN_ON_NODES(tests, count, arguments);
}
