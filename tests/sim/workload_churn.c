/* SPDX-License-Identifier: MIT */
/*
 * Worlds in which caches come and go, each as soon as nothing of it is in use, while others fill, evict and end
 * their reads in the same pool. Whoever still has a closed cache in hand then touches freed memory.
 */
#include "workload.h"

#include "engine/cache.h"
#include "engine/member.h"
#include "fake.h"

#include <stdlib.h>
#include <string.h>

enum { READERS = 2, ROUNDS_MAX = 5, BYTES = 64 };

static bool prefetched[CACHES_MAX]; /* by cookie: its event was taken */

static void read_on(void *argument) {
    struct sim_view *view = argument;
    const struct sim_store *store = &view->cache->store;
    while (view->open && !view->closing) {
        unsigned char bytes[BYTES];
        uintptr_t stopped;
        uint64_t page = view->first + random_below(fiber_random(), view->pages);
        enum fake_outcome outcome =
            fake_read(view->address + (page - view->first) * store->page_bytes, bytes, BYTES, &stopped);
        if (outcome == FAKE_SIGSEGV && !view->closing && view->open)
            sim_fail("SIGSEGV on page %llu of an open view", (unsigned long long)page);
        /* Once it closes or is closed, another view may lie at its address. */
        if (outcome == FAKE_OK && view->open && !view->closing &&
            !sim_store_may_hold(store, page * store->page_bytes, bytes, BYTES, 0))
            sim_fail("law 1: page %llu reads %#x, not the store's", (unsigned long long)page, bytes[0]);
        fiber_sleep(random_below(fiber_random(), 300000), "a reader rests");
    }
}

static void take_all(void) {
    struct mnw_event event;
    while (mnw_pool_next_event(world.pool, &event) == 1)
        if (event.kind == MNW_EVENT_PREFETCH)
            prefetched[event.cookie] = true;
}

/* When the event is there, the prefetch has let go of the cache. */
static void prefetch(struct sim_cache *cache, unsigned index) {
    prefetched[index] = false;
    int64_t id = mnw_prefetch(cache->handle, 0, cache->store.page_count * cache->store.page_bytes, index);
    if (id <= 0)
        sim_fail("prefetch: %lld (%s)", (long long)id, mnw_error());
    if (random_chance(fiber_random(), 300))
        mnw_prefetch_cancel(world.pool, id);
    for (uint64_t limit_ns = fiber_now() + 100000000000; take_all(), !prefetched[index];) {
        if (fiber_now() > limit_ns)
            sim_fail("a prefetch has not ended");
        fiber_sleep(100000, "a prefetch to end");
    }
    for (unsigned i = 0; i < mnw__member_count(cache->handle); i++)
        if (atomic_load(&mnw__member(cache->handle, i)->jobs_active))
            sim_fail("the event of a prefetch is here, and it still runs");
}

static void live_one_life(struct sim_cache *cache, struct sim_view *view, unsigned index) {
    int readers[READERS];
    open_cache(cache);
    view->closing = false;
    if (!open_view(view))
        sim_fail("a view cannot be opened: %s", mnw_error());
    for (unsigned i = 0; i < READERS; i++)
        readers[i] = fiber_start("reader", 0, read_on, view);
    if (random_chance(fiber_random(), 700))
        prefetch(cache, index);
    else
        fiber_sleep(random_below(fiber_random(), 5000000), "a short life");
    close_view(view);
    for (unsigned i = 0; i < READERS; i++)
        fiber_join(readers[i]);
    sim_store_stop(&cache->store);
    close_cache(cache);
}

static void churn(void *argument) {
    struct sim_cache *cache = argument;
    unsigned index = (unsigned)(cache - world.cache);
    struct sim_store *store = &cache->store, drawn = *store;
    for (uint64_t rounds = random_between(fiber_random(), 2, ROUNDS_MAX); rounds; rounds--) {
        *store = drawn;
        cache->options.size = 0; /* every life has its own */
        live_one_life(cache, &world.view[index], index);
    }
}

void live_churned(void) {
    int fibers[CACHES_MAX];
    fake_config.chance[FAKE_OPEN] = 0;
    open_pool();
    for (unsigned i = 0; i < world.caches; i++)
        fibers[i] =
            fiber_start("churner", (int)random_below(fiber_random(), fake_config.nodes), churn, &world.cache[i]);
    for (unsigned i = 0; i < world.caches; i++)
        fiber_join(fibers[i]);
    fake_calm();
    take_all();
    if (fake_resident())
        sim_fail("all caches are closed, and %llu bytes are resident", (unsigned long long)fake_resident());
    if (mnw_pool_close(world.pool))
        sim_fail("the pool cannot be closed: %s", mnw_error());
    for (unsigned i = 0; i < world.views; i++)
        free(world.view[i].copies);
}
