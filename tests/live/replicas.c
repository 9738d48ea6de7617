/* SPDX-License-Identifier: MIT */
/*
 * A cache with a copy on each NUMA node: which view reads whose memory, asked of the kernel page by page; how often the
 * store is read; how many accesses are remote, with copies and without; and that nothing old is left on any node.
 */
#include "placement_bed.h"

#include <errno.h>
#include <string.h>

#define PAGES 1024ull
#define BYTES (PAGES * BED_PAGE)

/* A view of each node, opened by a thread that runs there. */
struct copies {
    struct bed bed; /* its own view is of node 0 */
    struct bed_source source;
    struct bed on[NODES_MAX];
};

static void open_views(struct copies *copies) {
    for (unsigned node = 0; node < node_count; node++) {
        struct bed *on = &copies->on[node];
        run_on(node);
        *on = copies->bed;
        assert_int_equal(mnw_view_open(&on->view, on->cache, NULL), 0);
        on->data = mnw_view_data(on->view);
    }
    run_on(0);
}

static void close_views(struct copies *copies) {
    for (unsigned node = 0; node < node_count; node++)
        assert_int_equal(mnw_view_close(copies->on[node].view), 0);
}

static void open_copies(struct copies *copies, const struct backing *backing, int replicas) {
    struct mnw_cache_options cache = {.size = sizeof(cache), .readahead_bytes = UINT64_MAX, .replicas = replicas};
    struct mnw_pool_options pool = {.backing = backing->kind, .budget_bytes = node_count * (BYTES + 2 * HUGE)};
    memset(copies, 0, sizeof(*copies));
    bed_hurry(150);
    run_on(0);
    bed_source_open(&copies->source, BYTES);
    bed_open(&copies->bed, copies->source.store, pool, &cache);
    open_views(copies);
}

static void close_copies(struct copies *copies) {
    close_views(copies);
    close_bed(&copies->bed, &copies->source);
}

/* By the thread of each node, one node after the other. */
static void read_all(struct copies *copies) {
    for (unsigned node = 0; node < node_count; node++) {
        run_on(node);
        read_some(&copies->on[node], 0, PAGES);
    }
    run_on(0);
}

/* ---- where it lies, and what was read ---- */

/* Counts are raised a moment after what they count. */
static bool has_counted_all(void *copies) {
    const struct bed *bed = &((struct copies *)copies)->bed;
    struct mnw_stats stats = bed_stats(bed->pool);
    return stats.fill_bytes + stats.pages_copied * bed->page_bytes == node_count * BYTES;
}

static void test_each_view_reads_its_own_node(void **state) {
    (void)state;
    EACH_BACKING(backing) {
        struct copies copies;
        struct mnw_placement placement;
        open_copies(&copies, backing, 1);
        read_all(&copies);
        assert_true(bed_eventually(has_counted_all, &copies));
        struct mnw_stats stats = bed_stats(copies.bed.pool);
        assert_int_equal(mnw_cache_placement(copies.bed.cache, 0, &placement, sizeof(placement)), 0);
        for (unsigned node = 0; node < node_count; node++) {
            uint64_t counts[NODES_MAX];
            count_nodes(&copies.on[node], backing, 0, BYTES, counts);
            print_message("%s: the view of node %u has %llu of %llu pages there\n", backing->name, node,
                          (unsigned long long)counts[node], (unsigned long long)PAGES);
            assert_int_equal(counts[node], PAGES);
            assert_int_equal(placement.node_bytes[node], BYTES);
        }
        print_message("%s: %llu bytes of %llu read from the store, %llu pages copied\n", backing->name,
                      (unsigned long long)stats.fill_bytes, (unsigned long long)BYTES,
                      (unsigned long long)stats.pages_copied);
        assert_int_equal(stats.fill_bytes, BYTES);
        assert_int_equal(stats.pages_elsewhere, 0);
        assert_int_equal(placement.copied_bytes, (node_count - 1) * BYTES);
        close_copies(&copies);
    }
}

/* A view may be told whose copy it has. */
static void test_a_view_may_name_its_node(void **state) {
    struct copies copies;
    struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_ON_NODE, .node = node_count - 1};
    uint64_t counts[NODES_MAX];
    (void)state;
    open_copies(&copies, &backings[0], 1);
    struct bed named = copies.bed;
    assert_int_equal(mnw_view_open(&named.view, named.cache, &options), 0);
    named.data = mnw_view_data(named.view);
    read_some(&named, 0, PAGES);
    count_nodes(&named, &backings[0], 0, BYTES, counts);
    assert_int_equal(counts[node_count - 1], PAGES);
    assert_int_equal(mnw_view_close(named.view), 0);
    close_copies(&copies);
}

/* The library's handler of SIGBUS must be the one that is there. */
static void read_unguarded(const struct bed *on) {
    for (uint64_t at = 0; at < BYTES; at += BED_PAGE) {
        unsigned char right[64];
        bed_bytes(right, at, sizeof(right), 1);
        assert_memory_equal(on->data + at, right, sizeof(right));
    }
}

/* The memory is that of the view's node also when a reader elsewhere resolves its own faults. */
static void test_inline_views_read_their_own_node(void **state) {
    (void)state;
    EACH_BACKING(backing) {
        struct copies copies;
        struct bed_file file;
        struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_INLINE | MNW_VIEW_ON_NODE};
        open_copies(&copies, backing, 1);
        bed_file(&file, BYTES, 1);
        struct mnw_cache_options cache = {.size = sizeof(cache), .readahead_bytes = UINT64_MAX, .replicas = 1};
        struct mnw_store *store;
        struct bed on = copies.bed;
        assert_int_equal(mnw_store_open(&store, file.uri, NULL), 0);
        assert_int_equal(mnw_cache_open(&on.cache, on.pool, store, &cache), 0);
        for (options.node = 0; options.node < node_count; options.node++) {
            uint64_t counts[NODES_MAX];
            assert_int_equal(mnw_view_open(&on.view, on.cache, &options), 0);
            on.data = mnw_view_data(on.view);
            read_unguarded(&on); /* on node 0, whatever the view's */
            count_nodes(&on, backing, 0, BYTES, counts);
            assert_int_equal(counts[options.node], PAGES);
            assert_int_equal(mnw_view_close(on.view), 0);
        }
        struct mnw_stats stats = bed_stats(on.pool);
        assert_int_equal(stats.fill_bytes, BYTES);
        assert_int_equal(mnw_cache_close(on.cache), 0);
        assert_int_equal(mnw_store_close(store), 0);
        bed_file_remove(&file);
        close_copies(&copies);
    }
}

/* ---- what it gains ---- */

/* Every page is resident, and touched anew by a reader of each node through a view of its own, in no order. */
static struct mnw_stats touch_again(struct copies *copies, uint64_t *pages_remote) {
    struct mnw_stats before = bed_stats(copies->bed.pool);
    close_views(copies);
    open_views(copies);
    *pages_remote = 0;
    for (unsigned node = 0; node < node_count; node++) {
        uint64_t counts[NODES_MAX];
        run_on(node);
        for (uint64_t i = 0; i < PAGES; i++)
            assert_int_equal(bed_touch(copies->on[node].data + i * 613 % PAGES * BED_PAGE, NULL), 0);
        count_nodes(&copies->on[node], &backings[0], 0, BYTES, counts);
        *pages_remote += PAGES - counts[node];
    }
    run_on(0);
    struct mnw_stats after = bed_stats(copies->bed.pool);
    after.faults_placed -= before.faults_placed;
    after.faults_remote -= before.faults_remote;
    return after;
}

static void count_remote(int replicas, uint64_t *pages_remote, struct mnw_stats *stats) {
    struct copies copies;
    open_copies(&copies, &backings[0], replicas);
    read_all(&copies);
    *stats = touch_again(&copies, pages_remote);
    print_message("%s copies: %llu of %llu pages are remote; of %llu faults asked, %llu\n",
                  replicas ? "with" : "without", (unsigned long long)*pages_remote,
                  (unsigned long long)(node_count * PAGES), (unsigned long long)stats->faults_placed,
                  (unsigned long long)stats->faults_remote);
    assert_true(stats->faults_placed >= node_count * PAGES / 32); /* some faults bring two pages */
    close_copies(&copies);
}

/* All is in the memory of the first reader's node: for every other one each access is remote, unless it has a copy. */
static void test_remote_accesses_with_and_without(void **state) {
    uint64_t with, without;
    struct mnw_stats stats;
    (void)state;
    count_remote(0, &without, &stats);
    assert_int_equal(without, (node_count - 1) * PAGES);
    assert_in_range(stats.faults_remote * node_count * 100, stats.faults_placed * (node_count - 1) * 95,
                    stats.faults_placed * (node_count - 1) * 105);
    count_remote(1, &with, &stats);
    assert_int_equal(with, 0);
    assert_int_equal(stats.faults_remote, 0);
}

/* ---- invalidation ---- */

struct toucher {
    pthread_t thread;
    struct bed *on;
    unsigned node;
    _Atomic bool *stop;
    int result;
};

static void *touch_on_node(void *argument) {
    struct toucher *toucher = argument;
    run_on(toucher->node);
    for (uint64_t i = 0; !atomic_load(toucher->stop) && !toucher->result; i++)
        toucher->result = bed_touch(toucher->on->data + i * 613 % 64 * BED_PAGE, NULL);
    return NULL;
}

/* Readers on each node bring back, from wherever they can, what is being forgotten. */
static void test_nothing_old_is_left_on_any_node(void **state) {
    struct copies copies;
    struct toucher touchers[NODES_MAX];
    _Atomic bool stop = false;
    (void)state;
    open_copies(&copies, &backings[0], 1);
    for (unsigned node = 0; node < node_count; node++) {
        touchers[node] = (struct toucher){.on = &copies.on[node], .node = node, .stop = &stop};
        assert_int_equal(pthread_create(&touchers[node].thread, NULL, touch_on_node, &touchers[node]), 0);
    }
    for (uint64_t salt = 2; salt < 16; salt++) {
        atomic_store(&copies.source.salt, salt);
        assert_int_equal(mnw_invalidate(copies.bed.cache, 0, 64 * BED_PAGE), 0);
        for (unsigned node = 0; node < node_count; node++)
            for (uint64_t at = 0; at < 64 * BED_PAGE; at += BED_PAGE)
                assert_int_equal(bed_compare(copies.on[node].data + at, at, 64, salt, NULL), BED_RIGHT);
    }
    atomic_store(&stop, true);
    for (unsigned node = 0; node < node_count; node++) {
        assert_int_equal(pthread_join(touchers[node].thread, NULL), 0);
        assert_int_equal(touchers[node].result, 0);
    }
    print_message("%llu pages copied\n", (unsigned long long)bed_stats(copies.bed.pool).pages_copied);
    assert_true(bed_stats(copies.bed.pool).pages_copied > 0);
    close_copies(&copies);
}

/* ---- what is refused ---- */

static void test_other_policies_are_refused(void **state) {
    struct bed bed = {0};
    struct bed_source source;
    struct mnw_cache *cache;
    struct mnw_cache_options options = {.size = sizeof(options), .replicas = 1};
    (void)state;
    bed_hurry(50);
    open_bed(&bed, &source, &backings[0], 512, MNW_NUMA_INTERLEAVE, NULL, false);
    bed_refused(mnw_cache_open(&cache, bed.pool, source.store, &options), -EINVAL, "replicas", "MNW_NUMA_LOCAL");
    close_bed(&bed, &source);
}

/* replicas [TEST]: all, or those whose names match the pattern. */
int main(int count, char **arguments) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_view_reads_its_own_node),
        cmocka_unit_test(test_a_view_may_name_its_node),
        cmocka_unit_test(test_inline_views_read_their_own_node),
        cmocka_unit_test(test_remote_accesses_with_and_without),
        cmocka_unit_test(test_nothing_old_is_left_on_any_node),
        cmocka_unit_test(test_other_policies_are_refused),
    };
    return RUN_ON_NODES(tests, count, arguments);
}
