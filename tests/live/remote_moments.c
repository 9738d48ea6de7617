/* SPDX-License-Identifier: MIT */
/*
 * Moments that a test must choose, mostly in views of other processes: in the middle of an attach, while the kernel
 * lacks memory for a consumer's page tables, between a page's mapping and its waiter, between a look at a page and
 * entering its extent, and at the end of a read.
 */
#include "bed.h"
#include "engine/cache.h"
#include "engine/fault.h"
#include "engine/pool.h"
#include "machine.h"
#include "peer.h"
#include "sys/uffd.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
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

/* Who answers a read lingers once in its last steps, until its cache is being closed and some time after. */
enum step { NOWHERE, AT_KICK, AT_PROGRESS };
static _Thread_local enum step lingers;
static _Atomic bool is_lingering, is_closing;

static bool is_being_closed(void *argument) {
    (void)argument;
    return atomic_load(&is_closing);
}

static void linger(enum step step) {
    if (lingers != step)
        return;
    lingers = NOWHERE;
    atomic_store(&is_lingering, true);
    if (bed_eventually(is_being_closed, NULL))
        usleep(100000);
    atomic_store(&is_lingering, false);
}

void __real_mnw__fault_thread_kick(struct mnw__fault_thread *thread);
void __wrap_mnw__fault_thread_kick(struct mnw__fault_thread *thread);
void __wrap_mnw__fault_thread_kick(struct mnw__fault_thread *thread) {
    __real_mnw__fault_thread_kick(thread);
    linger(AT_KICK);
}

void __real_mnw__pool_progress(struct mnw_pool *pool);
void __wrap_mnw__pool_progress(struct mnw_pool *pool);
void __wrap_mnw__pool_progress(struct mnw_pool *pool) {
    linger(AT_PROGRESS);
    __real_mnw__pool_progress(pool);
}

/* When it is armed, a fault thread that is about to enter an extent ahead of a reader waits until it is let on. */
static struct {
    _Atomic bool is_armed;
    _Atomic uint64_t waits_for; /* the extent; 0: nobody waits */
} gate;

/* Then nobody enters it to read it. */
static bool is_resident(const struct mnw_cache *cache, uint64_t extent) {
    return mnw__extent_load(&cache->pages, extent).present ==
           mnw__extent_end(&cache->pages, extent) - mnw__extent_first(&cache->pages, extent);
}

bool __real_mnw__cache_enter(struct mnw_cache *cache, uint64_t extent, bool fault);
bool __wrap_mnw__cache_enter(struct mnw_cache *cache, uint64_t extent, bool fault);
bool __wrap_mnw__cache_enter(struct mnw_cache *cache, uint64_t extent, bool fault) {
    if (!fault && extent && is_resident(cache, extent) && atomic_exchange(&gate.is_armed, false)) {
        atomic_store(&gate.waits_for, extent);
        while (atomic_load(&gate.waits_for))
            usleep(100);
    }
    return __real_mnw__cache_enter(cache, extent, fault);
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

/*
 * A consumer without memory costs the fault thread little, and no more than its limit allows: how often it is asked
 * again. On a busy machine a second may be longer than one, and in one of three it is asked as often as it should be.
 */
static void assert_refusals(uint32_t faults_per_second, unsigned least, unsigned most_per_second) {
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
    uint64_t began = bed_now_ns();
    atomic_store(&is_scarce, true);
    struct peer_read all = {0, 0, PAGES * BED_PAGE, 1};
    peer_ask(&pair.peers[0], peer_compare, &all, sizeof(all));
    unsigned count = 0, before;
    int64_t seconds = 0;
    do {
        before = count;
        assert_false(peer_has_answered(&pair.peers[0], 1000));
        count = atomic_load(&refusals);
    } while (count - before < least && ++seconds < 3 * machine_slowness());
    uint64_t ns = bed_now_ns() - began;
    atomic_store(&is_scarce, false);
    assert_int_equal(peer_answer(&pair.peers[0]), BED_RIGHT);
    assert_int_equal(mnw_view_close(view), 0);
    pair_close(&pair);
    if (count - before < least || count * 1000000000ull > most_per_second * ns)
        fail_msg("asked %u times in %llu ms, of that %u in the last second", count, (unsigned long long)ns / 1000000,
                 count - before);
}

static void test_scarce(void **state) {
    (void)state;
    assert_refusals(0, 5, 40);
    assert_refusals(4, 1, 8);
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

enum { EXTENT_PAGES = 16, EXTENTS = 24 };

/* Whoever maps such a page sees at once that it is not the store's. */
static int64_t scribble_and_hold(struct bed_source *source, const struct mnw_read *read) {
    (void)source;
    memset(read->buffer, 0, read->length);
    return BED_HOLD;
}

static void *read_all(void *data) {
    return (void *)(intptr_t)bed_compare(data, 0, EXTENTS * EXTENT_PAGES * BED_PAGE, 1, NULL);
}

static void *touch(void *at) {
    return (void *)(intptr_t)bed_touch(at, NULL);
}

/* Somebody waits at the gate for an extent that he saw resident: it is taken away, and is being read again. */
static void read_anew(struct bed *bed, struct bed_source *source, const char *other) {
    uint64_t at = atomic_load(&gate.waits_for) * EXTENT_PAGES * BED_PAGE;
    pthread_t thread;
    void *how;
    assert_int_equal(mnw_invalidate(bed->cache, at, EXTENT_PAGES * BED_PAGE), 0);
    source->answer = scribble_and_hold;
    assert_int_equal(pthread_create(&thread, NULL, touch, (void *)((uintptr_t)other + at)), 0);
    assert_true(bed_eventually(bed_is_held, source));
    atomic_store(&gate.waits_for, 0);
    usleep(20000); /* for who was let on, and his reader */
    source->answer = NULL;
    assert_true(bed_release(source) > 0);
    assert_int_equal(pthread_join(thread, &how), 0);
    assert_null(how);
}

/* What was resident when it was looked at need not be when its extent is entered, to be mapped ahead of a reader. */
static void test_read_anew_before_it_is_entered(void **state) {
    (void)state;
    struct bed_source source;
    struct bed bed;
    struct mnw_view *other, *ahead;
    unsigned times = 0;
    bed_hurry(60);
    bed_source_open(&source, EXTENTS * EXTENT_PAGES * BED_PAGE);
    struct mnw_cache_options cache_options = {.size = sizeof(cache_options), .readahead_bytes = 1 << 20};
    bed_open(&bed, source.store,
             (struct mnw_pool_options){.backing = MNW_BACKING_SHMEM,
                                       .budget_bytes = 8 << 20,
                                       .extent_bytes = EXTENT_PAGES * BED_PAGE,
                                       .fault_threads_per_node = 2},
             &cache_options);
    assert_null(read_all(bed.data));
    /* They take turns over the threads: who waits in one is not served by that which waits at the gate. */
    assert_int_equal(mnw_view_open(&other, bed.cache, NULL), 0);
    assert_int_equal(mnw_view_open(&ahead, bed.cache, NULL), 0);
    pthread_t reader;
    void *how;
    atomic_store(&gate.is_armed, true);
    assert_int_equal(pthread_create(&reader, NULL, read_all, (void *)(uintptr_t)mnw_view_data(ahead)), 0);
    while (pthread_tryjoin_np(reader, &how)) {
        if (atomic_load(&gate.waits_for)) {
            read_anew(&bed, &source, mnw_view_data(other));
            times++;
            atomic_store(&gate.is_armed, true);
        }
        usleep(100);
    }
    atomic_store(&gate.is_armed, false);
    assert_null(how);
    assert_true(times >= 2);
    assert_int_equal(mnw_view_close(ahead), 0);
    assert_int_equal(mnw_view_close(other), 0);
    bed_close(&bed);
    bed_source_close(&source);
}

struct answer {
    struct bed_source *source;
    enum step step;
};

static void *answer_slowly(void *argument) {
    const struct answer *answer = argument;
    const struct mnw_read *read = &answer->source->held[0];
    lingers = answer->step;
    mnw_read_done(answer->source->store, read->token, answer->step == AT_KICK ? -EIO : (int64_t)read->length);
    return NULL;
}

static bool is_lingering_now(void *argument) {
    (void)argument;
    return atomic_load(&is_lingering);
}

/* Whoever ends a read has not done with its cache before the last step. */
static void close_at(enum step step, int wanted) {
    struct bed_source source;
    struct bed bed;
    pthread_t toucher, answerer;
    void *how;
    bed_hurry(60);
    bed_source_open(&source, PAGES * BED_PAGE);
    struct mnw_cache_options cache_options = {.size = sizeof(cache_options), .read_retries = UINT32_MAX};
    bed_open(&bed, source.store, (struct mnw_pool_options){.backing = MNW_BACKING_SHMEM, .budget_bytes = 1 << 20},
             &cache_options);
    source.answer = bed_hold_all;
    assert_int_equal(pthread_create(&toucher, NULL, touch, bed.data), 0);
    assert_true(bed_eventually(bed_is_held, &source));
    struct answer answer = {&source, step};
    assert_int_equal(pthread_create(&answerer, NULL, answer_slowly, &answer), 0);
    assert_true(bed_eventually(is_lingering_now, NULL));
    pthread_join(toucher, &how); /* he has his page, or SIGBUS */
    assert_int_equal((intptr_t)how, wanted);
    assert_int_equal(mnw_view_close(bed.view), 0);
    assert_true(atomic_load(&is_lingering));
    atomic_store(&is_closing, true);
    int error;
    while ((error = mnw_cache_close(bed.cache)) == -EBUSY)
        usleep(1000);
    assert_int_equal(error, 0);
    assert_false(atomic_load(&is_lingering));
    atomic_store(&is_closing, false);
    pthread_join(answerer, NULL);
    source.held_count = 0;
    assert_int_equal(mnw_pool_close(bed.pool), 0);
    bed_source_close(&source);
}

static void test_closed_while_a_read_ends(void **state) {
    (void)state;
    close_at(AT_KICK, SIGBUS);
    close_at(AT_PROGRESS, 0);
}

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_invalidate_during_attach), cmocka_unit_test(test_scarce),
                                       cmocka_unit_test(test_mapped_just_before),
                                       cmocka_unit_test(test_read_anew_before_it_is_entered),
                                       cmocka_unit_test(test_closed_while_a_read_ends)};
    return cmocka_run_group_tests_name("remote_moments", tests, NULL, NULL);
}
