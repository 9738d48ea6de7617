/* SPDX-License-Identifier: MIT */
/*
 * Page words and extent words under real threads, each doing all that fault threads, fills, reclaim and invalidate
 * do to them, without a kernel. The rules of page.h are checked by what they are for: bytes that are written and
 * read without any other order than the words' (so that TSan has its say), and waiters that must be woken.
 * Argument: rounds per thread.
 */
#include "model/random.h"
#include "page/page.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Few extents, so that threads meet. */
enum { THREADS = 4, SHIFT = 2, PAGES = 10, EXTENTS = 3, WAIT_SECONDS = 30 };

static _Atomic uint32_t words[PAGES];
static _Atomic uint64_t extents[EXTENTS];
static struct mnw__pages pages = {words, extents, PAGES, EXTENTS, SHIFT};

/* Plain, not atomic: a page's byte is its filler's until it is PRESENT, and its evictor's once it is EVICTING. */
static unsigned char bytes[PAGES];

static _Atomic int visitors[EXTENTS], fills[EXTENTS], pins[EXTENTS], owners[EXTENTS];
static _Atomic uint64_t page_wakes[PAGES], extent_wakes[EXTENTS];
static _Atomic uint64_t evictions, fills_ended, joins, refusals;
static uint64_t rounds = 100000;
static pthread_barrier_t counted;

static void fail(const char *what, uint64_t where) {
    fprintf(stderr, "%s (%llu)\n", what, (unsigned long long)where);
    exit(1);
}

static void expect(bool right, const char *what, uint64_t where) {
    if (!right)
        fail(what, where);
}

/* A waiter that is not woken is the failure this looks for. */
static void wait_for_change(_Atomic uint64_t *wakes, uint64_t before, const char *what, uint64_t where) {
    time_t end = time(NULL) + WAIT_SECONDS;
    while (atomic_load(wakes) == before) {
        sched_yield();
        expect(time(NULL) < end, what, where);
    }
}

static void wake_page(uint64_t page, uint32_t word) {
    if (word & MNW__PAGE_JOINED)
        atomic_fetch_add(&page_wakes[page], 1);
}

/* ---- visiting ---------------------------------------------------------------------------------------------- */

static bool enter(uint64_t extent, bool fault) {
    uint64_t wakes = atomic_load(&extent_wakes[extent]);
    if (mnw__extent_enter(&pages, extent, fault) == MNW__ENTER_BUSY) {
        atomic_fetch_add(&refusals, 1);
        if (fault)
            wait_for_change(&extent_wakes[extent], wakes, "a fault that met EVICTING was never woken", extent);
        return false;
    }
    atomic_fetch_add(&visitors[extent], 1);
    return true;
}

static void leave(uint64_t extent) {
    atomic_fetch_sub(&visitors[extent], 1);
    mnw__extent_leave(&pages, extent);
}

/* Begins, and perhaps ends well, the fill of a page that is claimed. */
static void fill_claimed(struct random *random, uint64_t page) {
    uint64_t extent = mnw__extent_of(&pages, page);
    atomic_fetch_add(&fills[extent], 1);
    atomic_fetch_sub(&visitors[extent], 1);
    mnw__extent_settle(&pages, extent);
    bytes[page] = 0;
    if (random_below(random, 4) == 0)
        sched_yield();
    uint32_t word;
    switch (random_below(random, 6)) {
    case 0:
        word = mnw__page_unclaim(&pages, page);
        break;
    case 1:
        word = mnw__page_fail(&pages, page);
        break;
    default:
        bytes[page] = (unsigned char)(1 + page);
        atomic_fetch_add(&visitors[extent], 1);
        mnw__extent_revisit(&pages, extent);
        word = mnw__page_fill(&pages, page);
        mnw__extent_add_present(&pages, extent, 1);
        leave(extent);
    }
    wake_page(page, word);
    atomic_fetch_sub(&fills[extent], 1);
    mnw__extent_release(&pages, extent);
    atomic_fetch_add(&fills_ended, 1);
}

/* What a fault does. */
static void touch(struct random *random) {
    uint64_t page = random_below(random, PAGES), extent = mnw__extent_of(&pages, page);
    if (!enter(extent, random_below(random, 2)))
        return;
    uint64_t wakes = atomic_load(&page_wakes[page]);
    switch (mnw__page_state(mnw__page_load(&pages, page))) {
    case MNW__PAGE_ABSENT:
        if (mnw__page_claim(&pages, page)) {
            fill_claimed(random, page);
            return;
        }
        break;
    case MNW__PAGE_FILLING:
        if (mnw__page_join(&pages, page)) {
            leave(extent);
            atomic_fetch_add(&joins, 1);
            wait_for_change(&page_wakes[page], wakes, "whoever joined a fill was never woken", page);
            return;
        }
        break;
    case MNW__PAGE_PRESENT:
        /* Here a fault maps the page: between this look and leave it must stay what it is. */
        if (random_below(random, 8) == 0)
            sched_yield();
        expect(bytes[page] == 1 + page, "a visitor saw PRESENT, and the bytes are gone", page);
        expect(mnw__page_state(mnw__page_load(&pages, page)) == MNW__PAGE_PRESENT,
               "a page left PRESENT under a visitor", page);
        break;
    case MNW__PAGE_FAILED:
        break;
    }
    leave(extent);
}

/* ---- evicting ---------------------------------------------------------------------------------------------- */

static void end_eviction(struct random *random, uint64_t extent, bool heals) {
    unsigned present = 0, dropped = 0;
    expect(atomic_exchange(&owners[extent], 1) == 0, "two own one eviction", extent);
    expect(!atomic_load(&visitors[extent]), "an extent is EVICTING with a visitor in it", extent);
    expect(!atomic_load(&fills[extent]), "an extent is EVICTING with a fill in flight", extent);
    for (uint64_t page = mnw__extent_first(&pages, extent); page < mnw__extent_end(&pages, extent); page++) {
        enum mnw__page_state state = mnw__page_state(mnw__page_load(&pages, page));
        expect(state != MNW__PAGE_FILLING, "an extent is EVICTING with a page FILLING", page);
        present += state == MNW__PAGE_PRESENT;
    }
    expect(mnw__extent_load(&pages, extent).present == present, "the count of PRESENT pages is wrong", extent);
    bool keeps = random_below(random, 4) == 0;
    for (uint64_t page = mnw__extent_first(&pages, extent); page < mnw__extent_end(&pages, extent) && !keeps; page++) {
        if (mnw__page_state(mnw__page_load(&pages, page)) == MNW__PAGE_PRESENT) {
            bytes[page] = 0xdb;
            dropped += mnw__page_drop(&pages, page);
        } else if (heals) {
            mnw__page_heal(&pages, page);
        }
    }
    expect(keeps || dropped == present, "a PRESENT page could not be dropped", extent);
    atomic_store(&owners[extent], 0);
    if (keeps ? mnw__extent_keep(&pages, extent) : mnw__extent_evicted(&pages, extent))
        atomic_fetch_add(&extent_wakes[extent], 1);
    atomic_fetch_add(&evictions, 1);
}

static void evict(struct random *random) {
    uint64_t extent = random_below(random, EXTENTS);
    mnw__extent_take_use(&pages, extent);
    if (mnw__extent_claim_eviction(&pages, extent)) {
        expect(!atomic_load(&pins[extent]), "a pinned extent is evicted", extent);
        end_eviction(random, extent, false);
    }
}

static void invalidate(struct random *random) {
    uint64_t extent = random_below(random, EXTENTS);
    if (mnw__extent_drain(&pages, extent))
        return;
    expect(!atomic_load(&pins[extent]), "a pinned extent is drained", extent);
    for (struct mnw__extent word; word = mnw__extent_load(&pages, extent), word.visitors || word.fills;)
        sched_yield();
    end_eviction(random, extent, true);
}

static void pin(struct random *random) {
    uint64_t extent = random_below(random, EXTENTS);
    if (mnw__extent_pin(&pages, extent) < 0)
        return;
    atomic_fetch_add(&pins[extent], 1);
    if (random_below(random, 4) == 0)
        sched_yield();
    atomic_fetch_sub(&pins[extent], 1);
    expect(mnw__extent_unpin(&pages, extent) >= 0, "a pin is gone", extent);
}

/* Nothing but counting, as fast as it goes: a count that is lost once is wrong for ever. */
static void count(void) {
    for (uint64_t round = 0; round < rounds; round++) {
        if (mnw__extent_enter(&pages, 0, false) == MNW__ENTER_BUSY)
            fail("an extent is EVICTING, and nobody evicts", 0);
        mnw__extent_add_present(&pages, 0, 2);
        mnw__extent_settle(&pages, 0);
        mnw__extent_revisit(&pages, 0);
        mnw__extent_add_present(&pages, 0, -2);
        mnw__extent_release(&pages, 0);
        mnw__extent_leave(&pages, 0);
    }
}

static void check_words(void) {
    uint64_t where = 0;
    const char *wrong = mnw__pages_check(&pages, &where);
    if (wrong)
        fail(wrong, where);
}

static void *work(void *argument) {
    struct random random = {(uint64_t)(uintptr_t)argument};
    count();
    if (pthread_barrier_wait(&counted) == PTHREAD_BARRIER_SERIAL_THREAD)
        check_words();
    pthread_barrier_wait(&counted);
    for (uint64_t round = 0; round < rounds; round++) {
        uint64_t ticket = random_below(&random, 100);
        if (ticket < 80)
            touch(&random);
        else if (ticket < 93)
            evict(&random);
        else if (ticket < 96)
            invalidate(&random);
        else
            pin(&random);
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    if (argc > 1)
        rounds = strtoull(argv[1], NULL, 0);
    pthread_barrier_init(&counted, NULL, THREADS);
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(i + 1)))
            fail("a thread cannot be started", i);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&counted);
    check_words();
    printf("%llu rounds: %llu fills, %llu joins, %llu evictions, %llu refused to enter\n",
           (unsigned long long)(THREADS * rounds), (unsigned long long)fills_ended, (unsigned long long)joins,
           (unsigned long long)evictions, (unsigned long long)refusals);
    /* A run in which nobody met anybody proves nothing. */
    expect(joins && refusals && evictions, "the threads never met", 0);
    return 0;
}
