/* SPDX-License-Identifier: MIT */
/*
 * On which NUMA node pages lie, asked of the kernel page by page through a view's own mapping: every policy, on every
 * backing, while consumers meddle and while nodes run out. Borrows huge pages of each node, and gives them back.
 */
#include "bed.h"
#include "machine.h"

#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HUGE (2 * BED_MIB)
/* Pages of 4 KiB between what two readers read, and as many are read ahead at most. */
#define GAP 2048
/* Huge pages of each node that the tests have. */
#define HUGE_PAGES 24u
#define NODES_MAX  8

static unsigned node_count;
static bool has_huge;

static const struct backing {
    enum mnw_backing kind;
    const char *name;
    uint64_t unit;     /* what comes from one node */
    uint64_t per_node; /* pages of 4 KiB that a node's reader reads */
} backings[] = {
    {MNW_BACKING_SHMEM, "shmem", BED_PAGE, 1024},
    {MNW_BACKING_GRADED, "graded", HUGE, 1024},
    {MNW_BACKING_HUGETLB_2M, "hugetlb-2M", HUGE, 4096},
};
#define EACH_BACKING(backing)                                                                                          \
    for (const struct backing *backing = backings; backing < backings + 3; backing++)                                  \
        if (backing->kind != MNW_BACKING_HUGETLB_2M || has_huge)

static void run_on(unsigned node) {
    assert_int_equal(numa_run_on_node((int)node), 0);
}

/* The nodes of 512 pages that are mapped from there on; negative: none. */
static void nodes_of(const char *at, int nodes[512]) {
    void *addresses[512];
    for (size_t i = 0; i < 512; i++)
        addresses[i] = (void *)(uintptr_t)(at + i * BED_PAGE);
    assert_int_equal(move_pages(0, 512, addresses, NULL, nodes, 0), 0);
}

/* How many pages of a range (whole 2 MiB) lie on each node. The view must have mapped them all. */
static void count_nodes(const struct bed *bed, const struct backing *backing, uint64_t from, uint64_t length,
                        uint64_t counts[NODES_MAX]) {
    int nodes[512];
    memset(counts, 0, NODES_MAX * sizeof(counts[0]));
    for (uint64_t at = from; at < from + length; at += HUGE) {
        nodes_of(bed->data + at, nodes);
        for (size_t i = 0; i < 512; i++) {
            if (nodes[i] < 0 || nodes[i] >= NODES_MAX)
                fail_msg("%s: page %zu from %llu on is nowhere (%d)", backing->name, i, (unsigned long long)at,
                         nodes[i]);
            counts[nodes[i]]++;
        }
    }
}

/* A little of every page: guests are slow. */
static void read_some(const struct bed *bed, uint64_t from, uint64_t pages) {
    for (uint64_t at = from; at < from + pages * BED_PAGE; at += BED_PAGE)
        assert_int_equal(bed_compare(bed->data + at, at, 64, 1, NULL), BED_RIGHT);
}

/* ---- readers, one on each node ---- */

struct reader {
    pthread_t thread;
    const struct bed *bed;
    unsigned node;
    uint64_t first, count; /* pages of 4 KiB */
    unsigned step;         /* coprime to count */
    _Atomic bool *stop;    /* NULL: once through */
    _Atomic uint64_t reads;
    int result;
};

static void *read_on_node(void *argument) {
    struct reader *reader = argument;
    numa_run_on_node((int)reader->node);
    do {
        for (uint64_t i = 0; i < reader->count && !(reader->stop && atomic_load(reader->stop)); i++) {
            uint64_t offset = (reader->first + i * reader->step % reader->count) * BED_PAGE;
            int result = bed_compare(reader->bed->data + offset, offset, 64, 1, NULL);
            if (result != BED_RIGHT) {
                reader->result = result;
                return NULL;
            }
            atomic_fetch_add(&reader->reads, 1);
        }
    } while (reader->stop && !atomic_load(reader->stop));
    return NULL;
}

static void start_readers(struct reader *readers, const struct bed *bed, uint64_t per_node, uint64_t gap, unsigned step,
                          _Atomic bool *stop) {
    for (unsigned node = 0; node < node_count; node++) {
        readers[node] = (struct reader){
            .bed = bed, .node = node, .first = node * (per_node + gap), .count = per_node, .step = step, .stop = stop};
        assert_int_equal(pthread_create(&readers[node].thread, NULL, read_on_node, &readers[node]), 0);
    }
}

static void join_readers(struct reader *readers) {
    for (unsigned node = 0; node < node_count; node++) {
        assert_int_equal(pthread_join(readers[node].thread, NULL), 0);
        if (readers[node].result)
            fail_msg("the reader on node %u ended with %d", node, readers[node].result);
    }
}

/* A pool with a cache of so many pages of 4 KiB that all fit. */
static void open_bed(struct bed *bed, struct bed_source *source, const struct backing *backing, uint64_t pages,
                     enum mnw_numa numa, const char *nodes, bool reads_ahead) {
    struct mnw_cache_options cache = {.size = sizeof(cache),
                                      .readahead_bytes = reads_ahead ? GAP * BED_PAGE : UINT64_MAX};
    bed_source_open(source, pages * BED_PAGE);
    struct mnw_pool_options options = {.backing = backing->kind, .numa = numa, .nodes = nodes};
    options.budget_bytes = pages * BED_PAGE + 4 * (backing->unit > 16 * BED_PAGE ? backing->unit : 16 * BED_PAGE);
    bed_open(bed, source->store, options, &cache);
}

static void close_bed(struct bed *bed, struct bed_source *source) {
    bed_close(bed);
    bed_source_close(source);
}

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
    close_bed(&bed, &source);
}

/* ---- consumers with a policy of their own ---- */

static void set_own_policy(void *at, uint64_t length, unsigned node) {
    unsigned long mask = 1ul << node;
    assert_int_equal(mbind(at, length, MPOL_BIND, &mask, 64, 0), 0);
}

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

/* ---- statistics ---- */

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
        if (backing->unit == BED_PAGE) {
            assert_int_equal(mnw_cache_placement(bed.cache, 128, &now, sizeof(now)), 0);
            assert_in_range(now.asked_bytes, 100 * BED_PAGE, 128 * BED_PAGE);
            assert_in_range(now.node_bytes[1] * 4, now.asked_bytes - 4 * BED_PAGE, now.asked_bytes + 4 * BED_PAGE);
        }
        read_some(&bed, 0, 2048);
        close_bed(&bed, &source);
    }
}

/* ---- scarcity ---- */

static uint64_t free_huge(unsigned node) {
    char path[128];
    unsigned long long pages = 0;
    snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/hugepages/hugepages-2048kB/free_hugepages", node);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu", &pages), 1);
    fclose(file);
    return pages;
}

/* Takes every huge page of a node that is free, again and again for a while. */
static void exhaust(unsigned node, const struct reader *readers) {
    uint64_t before[NODES_MAX], taken = 0;
    unsigned dry = 0;
    char *hog = mmap(NULL, (size_t)node_count * HUGE_PAGES * HUGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(hog, MAP_FAILED);
    set_own_policy(hog, (size_t)node_count * HUGE_PAGES * HUGE, node);
    for (unsigned i = 0; i < node_count; i++)
        before[i] = atomic_load(&readers[i].reads);
    for (unsigned round = 0; round < 50; round++) {
        while (taken < HUGE_PAGES && !madvise(hog + taken * HUGE, HUGE, MADV_POPULATE_WRITE))
            taken++;
        dry += free_huge(node) == 0; /* what the pool gives back for a moment is free for a moment */
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    print_message("node %u: %llu huge pages taken, none free in %u looks of 50\n", node, (unsigned long long)taken,
                  dry);
    assert_true(taken && dry);
    for (unsigned i = 0; i < node_count; i++)
        if (atomic_load(&readers[i].reads) == before[i])
            fail_msg("the reader on node %u stands still while node %u has nothing", i, node);
    assert_int_equal(munmap(hog, (size_t)node_count * HUGE_PAGES * HUGE), 0);
}

/* A pool that may have a third of each node, over a store of twice as much; the nodes run out in turn. */
static void exhaust_each(enum mnw_numa numa, const char *nodes) {
    struct bed bed = {0};
    struct bed_source source;
    struct reader readers[NODES_MAX];
    uint64_t huge = nodes ? HUGE_PAGES / 3 : node_count * (HUGE_PAGES / 3);
    _Atomic bool stop = false;
    bed_hurry(100);
    run_on(0);
    bed_source_open(&source, 2 * huge * HUGE);
    struct mnw_pool_options options = {.backing = MNW_BACKING_HUGETLB_2M, .numa = numa, .nodes = nodes};
    options.budget_bytes = huge * HUGE;
    bed_open(&bed, source.store, options, NULL);
    start_readers(readers, &bed, 2 * huge * 512 / node_count, 0, 613, &stop);
    nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
    for (unsigned node = 0; node < node_count; node++)
        exhaust(node, readers);
    atomic_store(&stop, true);
    join_readers(readers);
    assert_int_equal(bed_stats(bed.pool).faults_failed, 0);
    assert_int_equal(bed_stats(bed.pool).fills_failed, 0);
    close_bed(&bed, &source);
}

static void test_nodes_run_out_under_local(void **state) {
    (void)state;
    if (!has_huge)
        skip();
    exhaust_each(MNW_NUMA_LOCAL, NULL);
}

static void test_nodes_run_out_under_bind(void **state) {
    (void)state;
    if (!has_huge)
        skip();
    exhaust_each(MNW_NUMA_BIND, "1");
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

static void test_a_budget_that_a_node_cannot_hold_is_refused(void **state) {
    struct bed bed = {0};
    struct bed_source source;
    (void)state;
    if (!has_huge)
        skip();
    bed_hurry(100);
    bed_source_open(&source, 16 * HUGE);
    struct mnw_pool_options options = {.backing = MNW_BACKING_HUGETLB_2M, .numa = MNW_NUMA_BIND, .nodes = "1"};
    options.budget_bytes = 8 * HUGE;
    bed_open(&bed, source.store, options, NULL);
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
    bed_source_open(&source, 16 * HUGE);
    struct mnw_pool_options options = {.backing = MNW_BACKING_HUGETLB_2M, .numa = MNW_NUMA_BIND, .nodes = "1"};
    struct mnw_cache_options cache = {.size = sizeof(cache), .read_deadline_ms = 500};
    options.budget_bytes = 16 * HUGE;
    bed_open(&bed, source.store, options, &cache);
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
        assert_int_equal(bed_stats(bed.pool).faults_failed, 0);
        assert_int_equal(bed_stats(bed.pool).fills_failed, 0);
        assert_int_equal(munmap(hog, length), 0);
        close_bed(&bed, &source);
    }
}

/* ---- */

static bool borrow_huge_pages(void) {
    char path[128], text[16];
    snprintf(text, sizeof(text), "%u", HUGE_PAGES);
    for (unsigned node = 0; node < node_count; node++) {
        snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/hugepages/hugepages-2048kB/nr_hugepages", node);
        if (!machine_set(path, text) || free_huge(node) != HUGE_PAGES)
            return false;
    }
    return true;
}

/* placement [TEST]: all, or those whose names match the pattern. */
int main(int count, char **arguments) {
    int status = machine_guard(arguments);
    if (status >= 0)
        return status;
    if (count > 1)
        cmocka_set_test_filter(arguments[1]);
    node_count = numa_available() < 0 ? 1 : (unsigned)numa_num_configured_nodes();
    if (node_count < 2 || node_count > NODES_MAX) {
        printf("skipped: %u NUMA nodes; tests/vm/run --nodes 2 has two\n", node_count);
        return 77;
    }
    has_huge = borrow_huge_pages();
    if (!has_huge)
        printf("skipped in part: not %u huge pages of 2 MiB to be had on each node\n", HUGE_PAGES);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_local_follows_the_faulter),
        cmocka_unit_test(test_what_is_read_ahead_is_local),
        cmocka_unit_test(test_prefetch_is_local_to_whoever_asks),
        cmocka_unit_test(test_interleave_shares_evenly),
        cmocka_unit_test(test_bind_never_leaves),
        cmocka_unit_test(test_preferred_falls_back),
        cmocka_unit_test(test_consumer_cannot_redirect),
        cmocka_unit_test(test_consumer_cannot_loosen_bind),
        cmocka_unit_test(test_nodes_run_out_under_local),
        cmocka_unit_test(test_nodes_run_out_under_bind),
        cmocka_unit_test(test_pool_that_a_node_cannot_hold_is_refused),
        cmocka_unit_test(test_a_budget_that_a_node_cannot_hold_is_refused),
        cmocka_unit_test(test_a_pin_that_a_node_cannot_hold_says_so),
        cmocka_unit_test(test_a_full_node_falls_back),
        cmocka_unit_test(test_placement_is_read_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
