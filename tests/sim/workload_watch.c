/* SPDX-License-Identifier: MIT */
/*
 * The watchman of a world: he finds whoever waits for nothing.
 *
 * The engine's watchdog sends all waiters round once a second, and so hides every wake-up that was lost. Here each
 * waiter whose event was read is judged by the words: when its page is in a state that nobody works on and that a
 * fault would be ended by, and it is the same a good while later, then nobody will wake it.
 */
#include "workload.h"

#include "engine/cache.h"
#include "engine/view.h"
#include "fake.h"

#define LOOK_NS 60000000 /* longer than the engine's longest tick */

enum { SUSPECTS_MAX = 64 };

static struct {
    uint64_t order; /* of the waiter */
    enum mnw__page_state state;
} suspects[2][SUSPECTS_MAX];
static unsigned suspect_count[2], turn;

static const struct sim_view *view_at(uintptr_t address) {
    for (unsigned i = 0; i < world.views; i++) {
        const struct sim_view *view = &world.view[i];
        if (view->open && !view->closing && address >= view->address &&
            address - view->address < view->pages * world.page_bytes)
            return view;
    }
    return NULL;
}

/* Nobody is in the extent, nobody has it in hand: the next move would have to be the waiter's. */
static bool is_forgotten(const struct sim_view *view, uint64_t page, enum mnw__page_state *state) {
    const struct mnw__pages *pages = &view->handle->cache->pages;
    struct mnw__extent extent = mnw__extent_load(pages, mnw__extent_of(pages, page));
    *state = mnw__page_state(mnw__page_load(pages, page));
    return *state != MNW__PAGE_FILLING && extent.state != MNW__EXTENT_EVICTING && !extent.visitors &&
           !view->handle->starved;
}

static void judge(uintptr_t address, uint64_t order) {
    const struct sim_view *view = view_at(address);
    enum mnw__page_state state;
    if (!view)
        return;
    uint64_t page = view->first + (address - view->address) / world.page_bytes;
    if (!is_forgotten(view, page, &state) || suspect_count[turn] == SUSPECTS_MAX)
        return;
    for (unsigned i = 0; i < suspect_count[!turn]; i++)
        if (suspects[!turn][i].order == order && suspects[!turn][i].state == state)
            sim_fail("whoever waits for page %llu waits for nothing: its word is %u, and nobody is in its extent",
                     (unsigned long long)page, state);
    suspects[turn][suspect_count[turn]].order = order;
    suspects[turn][suspect_count[turn]++].state = state;
}

void keep_watch(void *argument) {
    const bool *ended = argument;
    suspect_count[0] = suspect_count[1] = 0;
    while (!*ended) {
        turn = !turn;
        suspect_count[turn] = 0;
        fake_each_waiter(judge);
        fiber_sleep(LOOK_NS, "the watchman");
    }
}

bool may_lose(const void *alias, uint64_t page) {
    struct sim_cache *of;
    const struct mnw_cache *cache = cache_of_alias(alias, &of);
    return cache && page < cache->pages.page_count &&
           mnw__page_state(mnw__page_load(&cache->pages, page)) == MNW__PAGE_PRESENT;
}
