/* SPDX-License-Identifier: MIT */
/*
 * Views of other processes at moments that a test must choose: in the middle of an attach, and while the kernel lacks
 * memory for a consumer's page tables.
 */
#include "bed.h"
#include "machine.h"
#include "peer.h"
#include "sys/uffd.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

enum { PAGES = 16, BAD = 3 };

/* In the middle of an attach: the kernel is asked what the descriptor is. */
static struct mnw_cache *to_invalidate;

int __real_mnw__uffd_describe(int fd, struct mnw__uffd_description *description);
int __wrap_mnw__uffd_describe(int fd, struct mnw__uffd_description *description);
int __wrap_mnw__uffd_describe(int fd, struct mnw__uffd_description *description) {
    if (to_invalidate)
        assert_int_equal(mnw_invalidate(to_invalidate, 0, PAGES * BED_PAGE), 0);
    to_invalidate = NULL;
    return __real_mnw__uffd_describe(fd, description);
}

/* As long as it is set, whoever maps a page finds that somebody has done so just before, and woken nobody. */
static _Atomic bool is_late;
/* As long as it is set, consumers have no memory for page tables. */
static _Atomic bool is_scarce;
static _Atomic unsigned refusals;

int __real_mnw__uffd_continue(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done);
int __wrap_mnw__uffd_continue(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done);
int __wrap_mnw__uffd_continue(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    if (atomic_load(&is_late)) {
        __real_mnw__uffd_continue(fd, start, length, flags | MNW__UFFD_DONTWAKE, done);
        *done = -EEXIST;
        return -EEXIST;
    }
    if (!atomic_load(&is_scarce))
        return __real_mnw__uffd_continue(fd, start, length, flags, done);
    atomic_fetch_add(&refusals, 1);
    *done = -ENOMEM;
    return -ENOMEM;
}

static int64_t fail_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? -EIO : (int64_t)read->length;
}

static void test_invalidate_during_attach(void **state) {
    (void)state;
    struct pair pair;
    struct mnw_view *view;
    peer_need_poison();
    pair_open(&pair, MNW_BACKING_SHMEM, PAGES * BED_PAGE, 1 << 20);
    struct mnw_attach_options options = {.size = sizeof(options), .length_bytes = PAGES * BED_PAGE};
    options.uffd =
        peer_map(&pair.peers[0], pair.bed.cache, &(struct peer_mapping){.length = PAGES * BED_PAGE}, &options.address);
    pair.source.answer = fail_bad_page;
    atomic_store(&pair.source.bad_page, BAD);
    assert_int_equal(mnw_view_attach(&view, pair.bed.cache, &options), 0);
    peer_assert_bus(&pair.peers[0], 0, BAD * BED_PAGE);
    assert_int_equal(mnw_view_close(view), 0); /* the mapping bars the page on */
    atomic_store(&pair.source.bad_page, UINT64_MAX);

    to_invalidate = pair.bed.cache;
    assert_int_equal(mnw_view_attach(&view, pair.bed.cache, &options), 0);
    assert_null(to_invalidate);
    /* Alone: a fault beside it would have the page mapped over what bars it. */
    peer_assert_right(&pair.peers[0], 0, BAD * BED_PAGE, BED_PAGE, 1);
    peer_assert_right(&pair.peers[0], 0, 0, PAGES * BED_PAGE, 1);
    assert_int_equal(mnw_view_close(view), 0);
    close(options.uffd);
    pair_close(&pair);
}

/* A consumer without memory costs the fault thread little, and no more than its limit allows. */
static unsigned refusals_in_a_second(uint32_t faults_per_second) {
    struct pair pair;
    struct mnw_view *view;
    pair_open(&pair, MNW_BACKING_SHMEM, PAGES * BED_PAGE, 1 << 20);
    assert_int_equal(bed_compare(pair.bed.data, 0, PAGES * BED_PAGE, 1, NULL), BED_RIGHT); /* all is resident */
    struct mnw_attach_options options = {
        .size = sizeof(options), .length_bytes = PAGES * BED_PAGE, .faults_per_second = faults_per_second};
    options.uffd =
        peer_map(&pair.peers[0], pair.bed.cache, &(struct peer_mapping){.length = PAGES * BED_PAGE}, &options.address);
    assert_int_equal(mnw_view_attach(&view, pair.bed.cache, &options), 0);
    close(options.uffd);
    atomic_store(&refusals, 0);
    atomic_store(&is_scarce, true);
    struct peer_read all = {0, 0, PAGES * BED_PAGE, 1};
    peer_ask(&pair.peers[0], peer_compare, &all, sizeof(all));
    assert_false(peer_has_answered(&pair.peers[0], 1000));
    unsigned count = atomic_load(&refusals);
    atomic_store(&is_scarce, false);
    assert_int_equal(peer_answer(&pair.peers[0]), BED_RIGHT);
    assert_int_equal(mnw_view_close(view), 0);
    pair_close(&pair);
    return count;
}

static void test_scarce(void **state) {
    (void)state;
    assert_in_range(refusals_in_a_second(0), 5, 40);
    assert_in_range(refusals_in_a_second(4), 1, 8);
}

/* It waits since before the page was mapped, and nobody but who finds that out can wake it, and the watchdog. */
static void test_mapped_just_before(void **state) {
    (void)state;
    struct pair pair;
    pair_open(&pair, MNW_BACKING_SHMEM, PAGES * BED_PAGE, 1 << 20);
    struct mnw_view *view =
        peer_attach(&pair.peers[0], pair.bed.cache, &(struct peer_mapping){.length = PAGES * BED_PAGE});
    assert_int_equal(bed_compare(pair.bed.data, 0, PAGES * BED_PAGE, 1, NULL), BED_RIGHT);
    uint64_t before = bed_stats(pair.bed.pool).redeliveries;
    atomic_store(&is_late, true);
    peer_assert_right(&pair.peers[0], 0, 0, PAGES * BED_PAGE, 1);
    atomic_store(&is_late, false);
    assert_int_equal(bed_stats(pair.bed.pool).redeliveries, before);
    assert_int_equal(mnw_view_close(view), 0);
    pair_close(&pair);
}

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_invalidate_during_attach), cmocka_unit_test(test_scarce),
                                       cmocka_unit_test(test_mapped_just_before)};
    return cmocka_run_group_tests_name("remote_moments", tests, NULL, NULL);
}
