/* SPDX-License-Identifier: MIT */
/*
 * The layout of the public structs on 64-bit machines. A number here changes only together with the soname, or
 * when a struct that carries its size grows at its end: then the new size joins, and the old fields stay put.
 */
#include <minnow/minnow.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

struct fact {
    const char *what;
    size_t is, must_be;
};

#define SIZE(type, bytes)                                                                                              \
    { "sizeof(struct " #type ")", sizeof(struct type), bytes }
#define PLACE(type, member, bytes)                                                                                     \
    { "struct " #type "." #member, offsetof(struct type, member), bytes }

static const struct fact facts[] = {
    SIZE(mnw_store_options, 16),
    PLACE(mnw_store_options, direct, 8),
    SIZE(mnw_read, 32),
    PLACE(mnw_read, offset, 8),
    PLACE(mnw_read, buffer, 16),
    PLACE(mnw_read, length, 24),
    SIZE(mnw_store_callbacks, 40),
    PLACE(mnw_store_callbacks, size_bytes, 8),
    PLACE(mnw_store_callbacks, read, 16),
    PLACE(mnw_store_callbacks, close, 32),
    SIZE(mnw_pool_options, 88),
    PLACE(mnw_pool_options, backing, 8),
    PLACE(mnw_pool_options, budget_bytes, 16),
    PLACE(mnw_pool_options, numa, 24),
    PLACE(mnw_pool_options, nodes, 32),
    PLACE(mnw_pool_options, fault_threads_per_node, 40),
    PLACE(mnw_pool_options, policy, 44),
    PLACE(mnw_pool_options, extent_bytes, 48),
    PLACE(mnw_pool_options, recency_faults_per_second, 56),
    PLACE(mnw_pool_options, io_mode, 60),
    PLACE(mnw_pool_options, reads_in_flight, 64),
    PLACE(mnw_pool_options, kept_bytes, 72),
    PLACE(mnw_pool_options, rebalance_bytes_per_second, 80),
    SIZE(mnw_kept, 16),
    PLACE(mnw_kept, backing_fd, 8),
    PLACE(mnw_kept, words_fd, 12),
    SIZE(mnw_cache_options, 72),
    PLACE(mnw_cache_options, read_retries, 8),
    PLACE(mnw_cache_options, read_deadline_ms, 16),
    PLACE(mnw_cache_options, readahead_bytes, 24),
    PLACE(mnw_cache_options, kept, 32),
    PLACE(mnw_cache_options, name, 40),
    PLACE(mnw_cache_options, keep, 48),
    PLACE(mnw_cache_options, read_around_bytes, 56),
    PLACE(mnw_cache_options, replicas, 64),
    SIZE(mnw_view_options, 32),
    PLACE(mnw_view_options, offset_bytes, 8),
    PLACE(mnw_view_options, length_bytes, 16),
    PLACE(mnw_view_options, flags, 24),
    PLACE(mnw_view_options, node, 28),
    SIZE(mnw_event, 72),
    PLACE(mnw_event, result, 4),
    PLACE(mnw_event, cache, 8),
    PLACE(mnw_event, offset, 16),
    PLACE(mnw_event, length, 24),
    PLACE(mnw_event, cookie, 32),
    PLACE(mnw_event, pages_failed, 40),
    PLACE(mnw_event, view, 48),
    PLACE(mnw_event, parent, 56),
    PLACE(mnw_event, changes, 64),
    SIZE(mnw_attach_options, 80),
    PLACE(mnw_attach_options, offset_bytes, 8),
    PLACE(mnw_attach_options, length_bytes, 16),
    PLACE(mnw_attach_options, address, 24),
    PLACE(mnw_attach_options, uffd, 32),
    PLACE(mnw_attach_options, flags, 36),
    PLACE(mnw_attach_options, pid, 40),
    PLACE(mnw_attach_options, faults_per_second, 44),
    PLACE(mnw_attach_options, cookie, 48),
    PLACE(mnw_attach_options, ranges, 56),
    PLACE(mnw_attach_options, range_count, 64),
    PLACE(mnw_attach_options, limit, 72),
    SIZE(mnw_view_range, 24),
    PLACE(mnw_view_range, offset_bytes, 8),
    PLACE(mnw_view_range, length_bytes, 16),
    SIZE(mnw_histogram, 24 + 8 * 256),
    SIZE(mnw_placement, 32 + 8 * MNW_NODES_MAX),
    PLACE(mnw_placement, copied_bytes, 24 + 8 * MNW_NODES_MAX),
    SIZE(mnw_node_stats, 56),
    SIZE(mnw_stats, 320),
    PLACE(mnw_stats, node_count, 4),
    PLACE(mnw_stats, budget_bytes, 8),
    PLACE(mnw_stats, resident_bytes_max, 24),
    PLACE(mnw_stats, faults_minor, 48),
    PLACE(mnw_stats, fills, 112),
    PLACE(mnw_stats, evictions, 160),
    PLACE(mnw_stats, events_dropped, 208),
    PLACE(mnw_stats, pages_foreign, 216),
    PLACE(mnw_stats, pages_elsewhere, 224),
    PLACE(mnw_stats, policies_foreign, 232),
    PLACE(mnw_stats, pages_copied, 248),
    PLACE(mnw_stats, faults_placed, 256),
    PLACE(mnw_stats, faults_remote, 264),
    PLACE(mnw_stats, extents_sampled, 272),
    PLACE(mnw_stats, nodes_changed, 312),
    SIZE(mnw_node_latency, 4 * (24 + 8 * 256)),
    PLACE(mnw_node_latency, total, 3 * (24 + 8 * 256)),
    SIZE(mnw_client_options, 32),
    PLACE(mnw_client_options, name, 8),
    PLACE(mnw_client_options, timeout_ms, 16),
    PLACE(mnw_client_options, lost_after_ms, 20),
    PLACE(mnw_client_options, user_faults_only, 24),
    SIZE(mnw_client_map_options, 40),
    PLACE(mnw_client_map_options, offset_bytes, 8),
    PLACE(mnw_client_map_options, address, 24),
    PLACE(mnw_client_map_options, flags, 32),
    SIZE(mnw_image, 56),
    PLACE(mnw_image, size_bytes, 16),
    PLACE(mnw_image, page_bytes, 32),
    PLACE(mnw_image, is_open, 48),
    SIZE(mnw_finding, 32),
    PLACE(mnw_finding, found, 16),
};

static void layouts_stay(void **state) {
    (void)state;
    unsigned moved = 0;
    for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++)
        if (facts[i].is != facts[i].must_be) {
            print_error("%s is %zu, was %zu\n", facts[i].what, facts[i].is, facts[i].must_be);
            moved++;
        }
    assert_int_equal(moved, 0);
}

static void constants_stay(void **state) {
    (void)state;
    assert_int_equal(MNW_BACKING_HUGETLB_1G, 3);
    assert_int_equal(MNW_NUMA_PREFERRED, 3);
    assert_int_equal(MNW_POLICY_CLOCK, 1);
    assert_int_equal(MNW_IO_THREADS, 2);
    assert_int_equal(MNW_VIEW_WRITE, 1);
    assert_int_equal(MNW_VIEW_FORKED, 2);
    assert_int_equal(MNW_RESIDENT | MNW_FILLING | MNW_FAILED | MNW_PINNED, 15);
    assert_int_equal(MNW_EVENT_PAGE_FAILED, 2);
    assert_int_equal(MNW_STATS_VERSION, 1);
    assert_int_equal(MNW_CLIENT_RECORD | MNW_CLIENT_REPLAY | MNW_CLIENT_FOLLOW_FORK, 0x700);
    assert_int_equal(MNW_STATS_PROMETHEUS, 1);
}

static void version_matches_header(void **state) {
    (void)state;
    unsigned major, minor, patch;
    assert_int_equal(sscanf(mnw_version(), "%u.%u.%u", &major, &minor, &patch), 3);
    assert_int_equal(major, MNW_VERSION_MAJOR);
    assert_int_equal(minor, MNW_VERSION_MINOR);
    assert_int_equal(patch, MNW_VERSION_PATCH);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(layouts_stay), cmocka_unit_test(constants_stay),
                                       cmocka_unit_test(version_matches_header)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
