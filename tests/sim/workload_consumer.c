/* SPDX-License-Identifier: MIT */
/*
 * Consumers: they read through views, in patterns, and check every byte; some write, and expect their copies back.
 */
#include "workload.h"

#include "fake.h"

#include <string.h>

enum { PAGE_BYTES_MAX = 64 << 10 };

enum pattern { SEQUENTIAL, BACKWARD, STRIDED, UNIFORM, HOT, PATTERNS };

static struct sim_view *choose_view(void) {
    unsigned candidates = 0;
    struct sim_view *chosen = NULL;
    for (unsigned i = 0; i < world.views; i++)
        if (world.view[i].open && (!world.is_mortal || world.view[i].process == fiber_process()) &&
            !random_below(fiber_random(), ++candidates))
            chosen = &world.view[i];
    return chosen;
}

static uint64_t next_page(enum pattern pattern, uint64_t page, uint64_t pages, uint64_t stride) {
    switch (pattern) {
    case SEQUENTIAL:
        return (page + 1) % pages;
    case BACKWARD:
        return (page + pages - 1) % pages;
    case STRIDED:
        return (page + stride) % pages;
    case HOT:
        return random_chance(fiber_random(), 800) ? random_below(fiber_random(), (pages + 7) / 8)
                                                  : random_below(fiber_random(), pages);
    case UNIFORM:
    case PATTERNS:
        break;
    }
    return random_below(fiber_random(), pages);
}

static void judge_signal(struct sim_view *view, uint64_t page, enum fake_outcome outcome, uint32_t generation,
                         uint64_t began_ns) {
    struct sim_cache *cache = view->cache;
    if (view->closing || view->generation != generation) {
        world.sigsegv++;
        return;
    }
    /* A child that was forked while its parent's view was being closed may have inherited what is no view any more. */
    if (outcome == FAKE_SIGSEGV && view->may_be_barred) {
        world.sigsegv++;
        return;
    }
    if (outcome == FAKE_SIGSEGV)
        sim_fail("SIGSEGV on page %llu of an open view", (unsigned long long)page);
    world.sigbus++;
    if (sim_store_explains(&cache->store, page, began_ns) || view->may_be_barred)
        return;
    if (!world.may_lack_memory)
        sim_fail("SIGBUS on page %llu, which the store did not fail (%u failures, %u retries)",
                 (unsigned long long)page, cache->store.pages[page].failures, cache->store.retries);
    sim_trace("consumer: SIGBUS on page %llu, %u failures, healed at %.6f ms", (unsigned long long)page,
              cache->store.pages[page].failures, (double)cache->store.pages[page].healed_ns / 1e6);
    cache->refused[page] = 1; /* an event must say so; looked at when the run ends */
}

static void check_bytes(struct sim_view *view, uint64_t page, size_t within, const unsigned char *bytes, size_t length,
                        uint32_t floor) {
    const struct sim_store *store = &view->cache->store;
    uint8_t copy = view->copies[page - view->first];
    world.bytes_read += length;
    if (copy) {
        for (size_t i = 0; i < length; i++)
            if (bytes[i] != copy)
                sim_fail("law 1: page %llu of a writable view has lost the consumer's write at +%zu",
                         (unsigned long long)page, within + i);
        return;
    }
    if (sim_store_may_hold(store, page * store->page_bytes + within, bytes, length, floor))
        return;
    size_t at = 0;
    while (at + 1 < length && sim_store_may_hold(store, page * store->page_bytes + within + at, bytes + at, 1, floor))
        at++;
    sim_fail("law 1: page %llu at +%zu reads %#x, not the store's (versions %u to %u)", (unsigned long long)page,
             within + at, bytes[at], floor, store->pages[page].version);
}

void read_some(struct sim_view *view, uint64_t page, unsigned char *bytes) {
    struct sim_store *store = &view->cache->store;
    size_t within = random_below(fiber_random(), store->page_bytes / 8) * 8, left = store->page_bytes - within;
    size_t length =
        random_chance(fiber_random(), 200) ? left : random_between(fiber_random(), 1, left < 256 ? left : 256);
    uint64_t began_ns = fiber_now();
    uint32_t floor = store->pages[page].floor, generation = view->generation;
    uintptr_t stopped = 0, address = view->address + (page - view->first) * store->page_bytes + within;
    enum fake_outcome outcome = fake_read(address, bytes, length, &stopped);
    if (outcome != FAKE_OK)
        judge_signal(view, page, outcome, generation, began_ns);
    else if (view->generation == generation)
        check_bytes(view, page, within, bytes, length, floor);
}

/* A whole page at once, so that what it must read as from now on is known. */
static void write_page(struct sim_view *view, uint64_t page, unsigned char *bytes) {
    struct sim_store *store = &view->cache->store;
    uint64_t began_ns = fiber_now();
    uint32_t generation = view->generation;
    uintptr_t stopped = 0, address = view->address + (page - view->first) * store->page_bytes;
    uint8_t value = (uint8_t)random_between(fiber_random(), 1, 255);
    memset(bytes, value, store->page_bytes);
    enum fake_outcome outcome = fake_write(address, bytes, store->page_bytes, &stopped);
    if (outcome != FAKE_OK) {
        judge_signal(view, page, outcome, generation, began_ns);
    } else if (view->generation == generation) {
        view->copies[page - view->first] = value;
        world.writes++;
    }
}

static void read_pattern(unsigned char *bytes) {
    struct sim_view *view = choose_view();
    enum pattern pattern = (enum pattern)random_below(fiber_random(), PATTERNS);
    if (!view) {
        fiber_sleep(1000000, "no view is open");
        return;
    }
    uint32_t generation = view->generation;
    uint64_t page = random_below(fiber_random(), view->pages), stride = random_between(fiber_random(), 2, 5);
    unsigned writes = view->writable ? 100 : 0;
    for (uint64_t steps = random_between(fiber_random(), 1, 24); steps; steps--) {
        if (view->generation != generation || view->closing)
            return;
        if (random_chance(fiber_random(), writes))
            write_page(view, view->first + page, bytes);
        else
            read_some(view, view->first + page, bytes);
        page = next_page(pattern, page, view->pages, stride);
    }
}

void consume(void *argument) {
    /* On its stack, which goes with it when its process dies. */
    unsigned char bytes[PAGE_BYTES_MAX];
    (void)argument;
    if (world.page_bytes > sizeof(bytes))
        sim_fail("pages of %llu bytes are too large for a consumer", (unsigned long long)world.page_bytes);
    for (unsigned i = 0; i < world.reads_each; i++) {
        read_pattern(bytes);
        struct sim_view *view = world.is_forking && random_chance(fiber_random(), 300) ? choose_view() : NULL;
        if (view)
            fork_view(view);
    }
}
