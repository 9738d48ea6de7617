/* SPDX-License-Identifier: MIT */
/*
 * Calls whose thread is cancelled, or gets signals, meanwhile: they end as if nothing had been, and signals have their
 * handlers run though the call still waits.
 */
#include "bed.h"
#include "machine.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGES 64ull

/* ---- cancelled --------------------------------------------------------------------------------------------- */

static struct bed_file file;
static char set_path[96];
static struct mnw_store *store, *memory;
static struct mnw_pool *pool;
static struct mnw_cache *cache;
static struct mnw_view *view, *inline_view;
static struct bed_source source;
static struct bed callbacks;

static int open_store(void) {
    return mnw_store_open(&store, file.uri, NULL);
}
static int open_memory(void) {
    return mnw_store_open_memory(&memory, file.path, sizeof(file.path));
}
static int open_pool(void) {
    struct mnw_pool_options options = {.size = sizeof(options), .budget_bytes = BED_MIB};
    return mnw_pool_open(&pool, &options);
}
static int open_cache(void) {
    return mnw_cache_open(&cache, pool, store, NULL);
}
static int open_view(void) {
    return mnw_view_open(&view, cache, NULL);
}
static int open_inline_view(void) {
    struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_INLINE};
    return mnw_view_open(&inline_view, cache, &options);
}
static int record(void) {
    return mnw_view_record(view, 1);
}
static int populate(void) {
    return mnw_view_populate(view, 0, PAGES / 4 * BED_PAGE);
}
static int populate_inline(void) {
    return mnw_view_populate(inline_view, PAGES / 4 * BED_PAGE, PAGES / 4 * BED_PAGE);
}
static int save(void) {
    return mnw_view_save_working_set(view, set_path, 0) > 0 ? 0 : -1;
}
static int invalidate(void) {
    return mnw_invalidate(cache, 0, PAGES * BED_PAGE);
}
static int replay(void) {
    return mnw_cache_replay(cache, set_path, 1) > 0 ? 0 : -1;
}
static int prefetch(void) {
    return mnw_prefetch(cache, PAGES / 2 * BED_PAGE, PAGES / 2 * BED_PAGE, 2) > 0 ? 0 : -1;
}
static int take_events(void) {
    struct mnw_event event;
    for (int taken = 0; taken < 2;)
        taken += mnw_pool_next_event(pool, &event) > 0;
    return mnw_prefetch_cancel(pool, 77) < 0 ? 0 : -1;
}
static int pin(void) {
    return mnw_pin(cache, 0, PAGES / 4 * BED_PAGE);
}
static int unpin(void) {
    return mnw_unpin(cache, 0, PAGES / 4 * BED_PAGE);
}
static int shrink(void) {
    return mnw_pool_set_budget(pool, 2 * 65536);
}
static int look(void) {
    struct mnw_stats stats;
    struct mnw_node_latency latency;
    struct mnw_node_stats node;
    uint8_t pages[PAGES];
    char *text = mnw_pool_stats_json(pool);
    bed_check(text != NULL);
    free(text);
    bed_check(!mnw_residency(cache, 0, pages, PAGES) && !mnw_cache_stats(cache, &stats, sizeof(stats)));
    bed_check(!mnw_pool_node_stats(pool, 0, &node, sizeof(node)));
    return mnw_pool_stats(pool, &stats, sizeof(stats)) | mnw_pool_latency(pool, 0, &latency, sizeof(latency));
}
static void no_finding(void *context, const struct mnw_finding *finding) {
    (void)context;
    (void)finding;
}
static int examine(void) {
    return mnw_examine(no_finding, NULL) < 0 ? -1 : 0;
}
static int answer(void) {
    return bed_release(&source) > 0 ? 0 : -1;
}
static int close_views(void) {
    return mnw_view_close(view) | mnw_view_close(inline_view);
}
static int close_rest(void) {
    return mnw_cache_close(cache) | mnw_pool_close(pool) | mnw_store_close(store) | mnw_store_close(memory);
}

#define CALL(function)                                                                                                 \
    { function, #function }
static const struct call {
    int (*make)(void);
    const char *name;
} calls[] = {
    CALL(open_store), CALL(open_memory), CALL(open_pool),
    CALL(open_cache), CALL(open_view),   CALL(open_inline_view),
    CALL(record),     CALL(populate),    CALL(populate_inline),
    CALL(save),       CALL(invalidate),  CALL(replay),
    CALL(prefetch),   CALL(take_events), CALL(pin),
    CALL(unpin),      CALL(shrink),      CALL(look),
    CALL(examine),    CALL(answer),      CALL(close_views),
    CALL(close_rest),
};

static _Atomic int result;

/* What is due takes place at the first call that allows it: behind the library's, if that allows nothing. */
static void *call_cancelled(void *argument) {
    const struct call *call = argument;
    pthread_cancel(pthread_self());
    atomic_store(&result, call->make());
    pthread_testcancel();
    return NULL;
}

static int cancelled(void *argument) {
    (void)argument;
    bed_file(&file, PAGES * BED_PAGE, 1);
    snprintf(set_path, sizeof(set_path), "%s.set", file.path);
    bed_source_open(&source, PAGES * BED_PAGE);
    source.answer = bed_hold_all;
    bed_open(&callbacks, source.store, (struct mnw_pool_options){0}, NULL);
    bed_check(mnw_prefetch(callbacks.cache, 0, BED_PAGE, 0) > 0 && bed_eventually(bed_is_held, &source));
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        pthread_t thread;
        void *how;
        atomic_store(&result, 4711);
        bed_check(!pthread_create(&thread, NULL, call_cancelled, (void *)(uintptr_t)&calls[i]));
        pthread_join(thread, &how);
        bed_check_at(atomic_load(&result) == 0, calls[i].name, __FILE__, __LINE__);
        bed_check(how == PTHREAD_CANCELED);
    }
    source.answer = NULL;
    bed_close(&callbacks);
    bed_source_close(&source);
    unlink(set_path);
    bed_file_remove(&file);
    return 0;
}

/* ---- signals ----------------------------------------------------------------------------------------------- */

static _Atomic int handled;
static _Atomic bool returned;

static bool touches; /* a page of the very extent that the call waits for */

static void on_signal(int number) {
    (void)number;
    bed_check(!touches || callbacks.data[BED_PAGE] != 0);
    atomic_fetch_add(&handled, 1);
}

static int64_t hold_first(struct bed_source *from, const struct mnw_read *read) {
    return bed_read_has(from, read, 0) ? BED_HOLD : (int64_t)read->length;
}

static int invalidate_first(void) {
    return mnw_invalidate(callbacks.cache, 0, BED_PAGE);
}

static int shrink_callbacks(void) {
    return mnw_pool_set_budget(callbacks.pool, 65536);
}

static void *call_plain(void *argument) {
    const struct call *call = argument;
    atomic_store(&result, call->make());
    atomic_store(&returned, true);
    return NULL;
}

static bool is_handled(void *argument) {
    return atomic_load(&handled) == *(int *)argument;
}

/* Three signals, each handled while the call waits on; then it gets what it waited for. */
static void interrupt(const struct call *call) {
    pthread_t thread;
    atomic_store(&handled, 0);
    atomic_store(&returned, false);
    bed_check(!pthread_create(&thread, NULL, call_plain, (void *)(uintptr_t)call));
    for (int times = 1; times <= 3; times++) {
        usleep(100000);
        bed_check(!pthread_kill(thread, SIGUSR1) && bed_eventually(is_handled, &times));
        bed_check_at(!atomic_load(&returned), call->name, __FILE__, __LINE__);
    }
    bed_check(bed_release(&source) > 0);
    pthread_join(thread, NULL);
    bed_check_at(!atomic_load(&result), call->name, __FILE__, __LINE__);
}

static bool has_reads(void *argument) {
    return bed_held(&source) >= *(unsigned *)argument;
}

static void hold_reads(int64_t (*which)(struct bed_source *from, const struct mnw_read *read), uint64_t pages,
                       unsigned reads) {
    source.answer = which;
    bed_check(mnw_prefetch(callbacks.cache, 0, pages * BED_PAGE, 0) > 0 && bed_eventually(has_reads, &reads));
}

static int signals(void *argument) {
    static const struct call waits[] = {CALL(invalidate_first), CALL(shrink_callbacks)};
    struct sigaction action = {.sa_handler = on_signal};
    (void)argument;
    sigaction(SIGUSR1, &action, NULL);
    bed_source_open(&source, PAGES * BED_PAGE);
    bed_open(&callbacks, source.store, (struct mnw_pool_options){0}, NULL);
    hold_reads(hold_first, 1, 1);
    touches = true;
    interrupt(&waits[0]);
    touches = false;
    bed_check(!mnw_invalidate(callbacks.cache, 0, PAGES * BED_PAGE));
    /* More than the new budget, and none of it to be evicted. */
    hold_reads(bed_hold_all, PAGES, 1);
    interrupt(&waits[1]);
    source.answer = NULL;
    bed_close(&callbacks);
    bed_source_close(&source);
    return 0;
}

/* ---- signals that nobody may hold back ---------------------------------------------------------------------- */

static _Atomic int looked;

/* Where an answer is looked at, its pages are FILLING, and signals blocked. */
static int look_at_mask(struct bed_source *from, uint64_t offset, const void *bytes, size_t length) {
    static const int open[] = {SIGSEGV, SIGSYS, SIGTRAP, SIGILL, SIGFPE}, blocked[] = {SIGUSR1, SIGINT, SIGBUS};
    sigset_t mask;
    (void)from, (void)offset, (void)bytes, (void)length;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    for (size_t i = 0; i < sizeof(open) / sizeof(open[0]); i++)
        bed_check(!sigismember(&mask, open[i]));
    for (size_t i = 0; i < sizeof(blocked) / sizeof(blocked[0]); i++)
        bed_check(sigismember(&mask, blocked[i]));
    atomic_fetch_add(&looked, 1);
    return 0;
}

static int mask(void *argument) {
    sigset_t before, after;
    (void)argument;
    bed_source_open(&source, PAGES * BED_PAGE);
    bed_open(&callbacks, source.store, (struct mnw_pool_options){0}, NULL);
    hold_reads(bed_hold_all, 1, 1);
    source.check = look_at_mask;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    bed_check(bed_release(&source) == 1 && looked == 1);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    bed_check(!memcmp(&before, &after, 8));
    source.answer = NULL;
    source.check = NULL;
    bed_close(&callbacks);
    bed_source_close(&source);
    return 0;
}

BED_CHILD_TEST(cancelled)
BED_CHILD_TEST(signals)
BED_CHILD_TEST(mask)

int main(int count, char **arguments) {
    (void)count;
    int status = machine_guard(arguments);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
