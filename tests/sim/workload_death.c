/* SPDX-License-Identifier: MIT */
/*
 * Worlds in which processes die: the manager at any point of its code, consumers at any time. A holder keeps the
 * descriptors, starts the next manager, and sees to it that nothing is believed that is not so.
 *
 * Process 0 is the holder and the judge: it is never killed. Consumers have their mappings and userfaultfds to
 * themselves; the manager's threads, stores and operators go with it.
 */
#include "workload.h"

#include "engine/cache.h"
#include "engine/pool.h"
#include "engine/remote.h"
#include "engine/view.h"
#include "fake.h"
#include "sys/backing.h"
#include "sys/data.h"
#include "sys/uffd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { OPENINGS_MAX = 200 };

static uint64_t draw(uint64_t low, uint64_t high) {
    return random_between(fiber_random(), low, high);
}

static bool one_in(uint64_t bound) {
    return !random_below(fiber_random(), bound);
}

/* ---- the consumers' side of a view --------------------------------------------------------------------- */

static uint64_t length_of(const struct sim_view *view) {
    return view->pages * view->cache->store.page_bytes;
}

/* The mapping, the userfaultfd, and a duplicate of it for the holder: all or nothing. */
static void map(void *argument) {
    struct sim_view *view = argument;
    bool huge = world.backing >= MNW_BACKING_HUGETLB_2M;
    uint64_t features = huge ? MNW__UFFD_MINOR_HUGETLBFS | MNW__UFFD_MISSING_HUGETLBFS
                             : MNW__UFFD_MINOR_SHMEM | MNW__UFFD_MISSING_SHMEM;
    features |= MNW__UFFD_EVENT_REMAP | MNW__UFFD_EVENT_UNMAP | MNW__UFFD_POISON;
    view->is_followed = world.is_forking && !view->writable;
    if (view->is_followed)
        features |= MNW__UFFD_EVENT_FORK;
    struct mnw__backing backing = {.readonly_fd = view->cache->kept.backing_fd};
    uint64_t offset = view->first * view->cache->store.page_bytes;
    if (mnw__view_map(&backing, offset, length_of(view), view->writable, &view->address))
        return;
    view->uffd = mnw__uffd_open(features);
    view->held = view->uffd < 0 ? -1 : fake_fd_duplicate(view->uffd, 0);
    view->mapped = view->held >= 0;
    if (view->mapped)
        return;
    if (view->uffd >= 0)
        mnw__uffd_close(view->uffd);
    mnw__view_unmap(view->address, length_of(view));
}

/* As a client does it: nobody may touch it, nobody watches it, it goes. */
static void unmap(void *argument) {
    struct sim_view *view = argument;
    view->mapped = false;
    fake_view_veil(view->address);
    if (mnw__uffd_unregister(view->uffd, view->address, length_of(view)))
        sim_fail("a consumer cannot unregister its view");
    if (mnw__view_unmap(view->address, length_of(view)))
        sim_fail("a consumer cannot unmap its view");
    mnw__uffd_close(view->uffd);
}

/* Runs in the consumer's process; whoever waits for it may be killed, and so may that process. */
static void as_consumer(struct sim_view *view, const char *what, void (*run)(void *)) {
    view->fiber = fiber_start_in(view->process, what, 0, run, view);
    fiber_join(view->fiber);
    view->fiber = FIBER_NONE;
}

static void drop_mapping(struct sim_view *view) {
    if (view->mapped)
        as_consumer(view, "unmapper", unmap);
    if (view->held >= 0)
        fake_fd_close(view->held);
    view->held = -1;
}

uint64_t view_cookie(const struct sim_view *view) {
    return (uint64_t)view->generation << 32 | (uint64_t)(view - world.view);
}

int attach_view(struct sim_view *view) {
    uint64_t page_bytes = view->cache->store.page_bytes;
    struct mnw_attach_options options = {
        .size = sizeof(options),
        .offset_bytes = view->first * page_bytes,
        .length_bytes = view->pages * page_bytes,
        .address = view->address,
        .uffd = view->held,
        .cookie = view_cookie(view),
        .faults_per_second = one_in(3) ? (uint32_t)draw(world.is_prompt ? 500 : 20, 5000) : 0,
        .flags = (view->writable ? MNW_VIEW_WRITE : 0u) | (view->parent ? MNW_VIEW_FORKED : 0u),
    };
    world.attaching++;
    int error = mnw_view_attach(&view->handle, view->cache->handle, &options);
    world.attaching--;
    return error;
}

bool open_remote_view(struct sim_view *view) {
    drop_mapping(view); /* of a consumer that died before it could be attached again */
    view->process = world.consumer_process[view->side];
    as_consumer(view, "mapper", map);
    if (view->mapped && !attach_view(view))
        return view->mapped; /* its consumer may have died meanwhile: then it is left to be closed */
    view->handle = NULL;
    drop_mapping(view);
    return false;
}

void close_remote_view(struct sim_view *view) {
    struct mnw_view *handle = view->handle;
    view->handle = NULL;
    if (mnw_view_close(handle))
        sim_fail("a view cannot be closed: %s", mnw_error());
    drop_mapping(view);
}

/* ---- deaths -------------------------------------------------------------------------------------------- */

/* What can be proven of a page at this moment, by someone who sees everything. */
static uint8_t provable(const struct sim_cache *cache, uint64_t page) {
    const struct mnw__pages *pages = &cache->handle->pages;
    uint64_t extent = mnw__extent_of(pages, page);
    enum mnw__page_state state = mnw__page_state(mnw__page_load(pages, page));
    if (state == MNW__PAGE_FAILED)
        return LEFT_FAILED;
    bool resident = mnw__extent_load(pages, extent).state == MNW__EXTENT_RESIDENT;
    return state == MNW__PAGE_PRESENT && resident ? LEFT_WHOLE : LEFT_NOTHING;
}

static void lose_cache(struct sim_cache *cache) {
    if (cache->handle)
        for (uint64_t page = 0; page < cache->store.page_count; page++)
            cache->left[page] = provable(cache, page);
    /* Who dies while it takes over may have evicted already, to come down to its budget. */
    cache->left_is_most = !cache->handle;
    cache->handle = NULL;
    sim_store_died(&cache->store);
}

static void lose_manager(void) {
    for (unsigned i = 0; i < world.caches; i++)
        lose_cache(&world.cache[i]);
    for (unsigned i = 0; i < PINS_MAX; i++)
        world.pin[i].used = false;
    for (uint64_t i = 0; i < world.prefetch_count; i++) {
        world.prefetch_ended += !world.prefetch[i].ended;
        world.prefetch[i].ended = true;
        world.prefetch[i].id = -1;
    }
    for (unsigned i = 0; i < world.views; i++)
        world.view[i].handle = NULL;
    lose_children_views();
    mnw__remote_forget_all();
    memset(&world.last_stats, 0, sizeof(world.last_stats));
    world.pool = NULL;
    world.budget_moves = world.is_serving = false;
    world.attaching = 0;
    world.operators_running = 0;
    world.deaths++;
    fake_set_budget(UINT64_MAX); /* several caches are taken over one by one */
    fiber_wake(&world.deaths);
}

static void lose_consumers(int process) {
    for (unsigned i = 0; i < world.views; i++) {
        struct sim_view *view = &world.view[i];
        if (view->process != process)
            continue;
        view->mapped = view->open = false;
        view->generation++;
    }
}

/* Labels at which a death is most awkward; besides any point at all. */
static const char *const labels[] = {
    "claim",
    "join",
    "fill",
    "drop",
    "heal",
    "enter",
    "leave",
    "settle",
    "revisit",
    "release",
    "charge",
    "claim_eviction",
    "drain",
    "evicted",
    "pin",
    "unpin",
    "punch",
    "punch done",
    "allocate",
    "allocate done",
    "UFFDIO_CONTINUE",
    "UFFDIO_POISON",
    "UFFDIO_WAKE",
    "uffd_read done",
    "store asked",
    "store scribbles",
    "store reads",
    "UFFDIO_REGISTER",
    "UFFDIO_REGISTER done",
    "epoll_ctl add",
    "take_use",
};
/*
 * Few runs come there, and then once. Left out, since no death of these worlds was ever seen there: "go on" (only
 * inline views, which they have none of), "abandon", "claim_heal" (kernels without poison), and "revisit, full" (more
 * visitors than there are fibers).
 */
static const char *const rare_labels[] = {"unclaim", "fail", "keep", "claim_repair", "unscar", "note_passed"};
static const char *const labels_of_takeover[] = {"prove",
                                                 "rebuild",
                                                 "adopt words",
                                                 "words are ours",
                                                 "punch",
                                                 "punch done",
                                                 "probe",
                                                 "SEEK_DATA",
                                                 "backing_adopt done",
                                                 "UFFDIO_REGISTER",
                                                 "UFFDIO_REGISTER done",
                                                 "UFFDIO_WAKE"};

enum {
    LABELS = sizeof(labels) / sizeof(char *),
    RARE_LABELS = sizeof(rare_labels) / sizeof(char *),
    LABELS_OF_TAKEOVER = sizeof(labels_of_takeover) / sizeof(char *),
};
_Static_assert(LABELS + RARE_LABELS + LABELS_OF_TAKEOVER <= LABELS_MAX, "raise LABELS_MAX");
uint64_t *workload_deaths_at;

const char *workload_label(unsigned number) {
    if (number < LABELS)
        return labels[number];
    number -= LABELS;
    if (number < RARE_LABELS)
        return rare_labels[number];
    number -= RARE_LABELS;
    return number < LABELS_OF_TAKEOVER ? labels_of_takeover[number] : NULL;
}

static void count_death(const char *label) {
    for (unsigned i = 0; label && workload_deaths_at && workload_label(i); i++)
        workload_deaths_at[i] += !strcmp(workload_label(i), label); /* some are in both tables */
}

static void on_death(int process) {
    fake_process_died(process);
    lose_child(process);
    if (process == world.manager) {
        count_death(fiber_doomed_at());
        lose_manager();
    } else {
        lose_consumers(process);
    }
}

/* The next death of the manager; more often than not within what it does first. */
static void doom_manager(bool takes_over) {
    if (world.deaths >= world.deaths_wanted) {
        fiber_doom(world.manager, NULL, 0);
    } else if (takes_over && one_in(4)) {
        fiber_doom(world.manager, labels_of_takeover[draw(0, LABELS_OF_TAKEOVER - 1)], draw(1, 6));
    } else if (one_in(6)) {
        fiber_doom(world.manager, rare_labels[draw(0, RARE_LABELS - 1)], 1);
    } else if (one_in(2)) {
        fiber_doom(world.manager, labels[draw(0, LABELS - 1)], (uint64_t)1 << (one_in(2) ? 0 : draw(0, 4)));
    } else {
        fiber_doom(world.manager, NULL, draw(1, (uint64_t)1 << draw(4, 12)));
    }
}

/* ---- taking over --------------------------------------------------------------------------------------- */

static void check_page(const struct sim_cache *cache, uint64_t page, bool evicted) {
    const struct mnw_cache *handle = cache->handle;
    const struct sim_store *store = &cache->store;
    enum mnw__page_state state = mnw__page_state(mnw__page_load(&handle->pages, page));
    const char *bytes = (const char *)handle->backing.alias + page * store->page_bytes;
    bool cached = fake_is_cached(bytes);
    if (state == MNW__PAGE_PRESENT) {
        if (cache->left[page] != LEFT_WHOLE)
            sim_fail("takeover: page %llu is PRESENT, which nothing proves", (unsigned long long)page);
        if (cached &&
            !sim_store_may_hold(store, page * store->page_bytes, bytes, store->page_bytes, store->pages[page].floor))
            sim_fail("takeover: page %llu is PRESENT, and its bytes are not the store's", (unsigned long long)page);
        if (!cached && !store->pages_may_be_lost)
            sim_fail("takeover: page %llu is PRESENT, and a hole", (unsigned long long)page);
    }
    if (state != MNW__PAGE_PRESENT && cached && !handle->pool->whole_extents)
        sim_fail("takeover: page %llu has memory, and its word is %u", (unsigned long long)page, state);
    if (cache->left[page] == LEFT_FAILED && state != MNW__PAGE_FAILED)
        sim_fail("takeover: page %llu had failed, and its word is %u", (unsigned long long)page, state);
    if (state == MNW__PAGE_FILLING || (state == MNW__PAGE_FAILED && cache->left[page] != LEFT_FAILED))
        sim_fail("takeover: page %llu has word %u, which nobody left so", (unsigned long long)page, state);
    if (cache->left[page] == LEFT_WHOLE && state != MNW__PAGE_PRESENT && !evicted && !store->pages_may_be_lost)
        sim_fail("takeover: page %llu was whole, and is dropped", (unsigned long long)page);
}

static void check_cache(struct sim_cache *cache) {
    const struct mnw_cache *handle = cache->handle;
    uint64_t where = 0, resident = 0;
    struct mnw_stats stats;
    if (mnw_pool_stats(world.pool, &stats, sizeof(stats)))
        sim_fail("stats: %s", mnw_error());
    for (uint64_t page = 0; page < cache->store.page_count; page++)
        check_page(cache, page, stats.evictions > 0 || cache->left_is_most);
    const char *wrong = mnw__pages_check(&handle->pages, &where);
    if (wrong)
        sim_fail("takeover: %s (at %llu)", wrong, (unsigned long long)where);
    for (uint64_t extent = 0; extent < handle->pages.extent_count; extent++)
        if (mnw__extent_load(&handle->pages, extent).user_pins)
            sim_fail("takeover: extent %llu is pinned by nobody", (unsigned long long)extent);
    mnw__backing_resident(&handle->backing, &resident);
    if (resident != atomic_load(&handle->charged) && !cache->store.pages_may_be_lost)
        sim_fail("takeover: %llu bytes are there, %llu charged", (unsigned long long)resident,
                 (unsigned long long)atomic_load(&handle->charged));
    for (uint64_t page = 0; page < cache->store.page_count; page++)
        cache->lacked[page] |= cache->left[page] == LEFT_FAILED; /* the event that said why may have been lost */
}

static void keep(struct sim_cache *cache) {
    struct mnw_kept kept = {.size = sizeof(kept)};
    if (cache->kept.size)
        return;
    if (mnw_cache_kept(cache->handle, &kept))
        sim_fail("mnw_cache_kept: %s", mnw_error());
    cache->kept = (struct mnw_kept){.size = sizeof(kept),
                                    .backing_fd = fake_fd_duplicate(kept.backing_fd, 0),
                                    .words_fd = fake_fd_duplicate(kept.words_fd, 0)};
    memset(cache->left, LEFT_NOTHING, cache->store.page_count);
}

/* What was kept of another cache, or under another name, must not be taken for this one's; and nothing may change by
 * it. */
static void try_wrong(struct sim_cache *cache) {
    struct mnw_cache_options options = cache->options;
    struct mnw_kept kept = cache->kept;
    const struct sim_cache *other = &world.cache[draw(0, world.caches - 1)];
    struct mnw_cache *handle;
    options.kept = &kept;
    if (other != cache && other->kept.size)
        kept.words_fd = other->kept.words_fd;
    else
        options.name = "another";
    bool taken = kept.words_fd != cache->kept.words_fd && other->handle; /* its own cache has them already */
    sim_store_open(&cache->store, "store");
    int error = mnw_cache_open(&handle, world.pool, cache->store.handle, &options);
    if (error != -ESTALE && !(taken && error == -EBUSY) && !(error && world.has_trouble))
        sim_fail("words that are not this cache's are answered with %d (%s)", error, mnw_error());
    sim_store_shut(&cache->store);
}

static void take_over_cache(struct sim_cache *cache) {
    bool anew = !cache->kept.size;
    if (!anew && one_in(4))
        try_wrong(cache);
    open_cache(cache);
    if (!anew)
        check_cache(cache);
    keep(cache);
}

static void take_over_view(struct sim_view *view) {
    for (unsigned tries = 0; view->open && attach_view(view); tries++)
        if (!view->open)
            break;
        else if (!world.has_trouble || tries > OPENINGS_MAX)
            sim_fail("a view cannot be attached again: %s", mnw_error());
}

/* The consumer's mapping may bar what had failed: who attaches it must reckon with that. */
static void check_presumed(const struct sim_view *view) {
    for (uint64_t page = view->first; view->handle && page < view->first + view->pages; page++)
        if (view->cache->left[page] == LEFT_FAILED && !(view->handle->poisoned[page / 64] >> (page % 64) & 1))
            sim_fail("page %llu had failed, and the view that is attached again knows nothing of it",
                     (unsigned long long)page);
}

static void manage(void *argument) {
    (void)argument;
    bool first = world.deaths == 0;
    doom_manager(!first);
    open_pool();
    for (unsigned i = 0; i < world.caches; i++)
        take_over_cache(&world.cache[i]);
    fake_set_budget(world.budget);
    for (unsigned i = 0; i < world.views; i++) {
        if (world.view[i].open) {
            take_over_view(&world.view[i]);
            check_presumed(&world.view[i]);
        } else if (first || one_in(2))
            open_view(&world.view[i]);
    }
    take_over_children();
    world.operators_running = world.operators;
    for (unsigned i = 0; i < world.operators; i++)
        fiber_start("operator", 0, operate, NULL);
    if (!first && one_in(2))
        doom_manager(false);
    world.is_serving = true;
}

/* What a manager was about to open or close when it died is the consumer's to clean up. */
static void clean_up(void) {
    for (unsigned i = 0; i < world.views; i++) {
        struct sim_view *view = &world.view[i];
        if (view->fiber != FIBER_NONE)
            fiber_join(view->fiber);
        view->fiber = FIBER_NONE;
        if (view->open)
            continue;
        drop_mapping(view);
        view->generation++;
        view->closing = false;
    }
}

static void restart(void) {
    clean_up();
    world.manager = ++world.processes;
    fiber_start_in(world.manager, "manager", 0, manage, NULL);
}

/* ---- the holder ---------------------------------------------------------------------------------------- */

static unsigned start_consumers(int *fibers, unsigned side) {
    unsigned count = 0;
    world.consumer_process[side] = ++world.processes;
    for (unsigned i = side; i < world.consumers; i += 2)
        fibers[count++] = fiber_start_in(world.consumer_process[side], "consumer",
                                         (int)random_below(fiber_random(), fake_config.nodes), consume, NULL);
    return count;
}

static bool have_ended(const int *fibers, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        if (!fiber_has_ended(fibers[i]))
            return false;
    return true;
}

static bool is_over(int fibers[2][CONSUMERS_MAX], const unsigned *counts, uint64_t deaths) {
    return have_ended(fibers[0], counts[0]) && have_ended(fibers[1], counts[1]) && world.deaths == deaths &&
           world.is_serving && !world.operators_running && have_children_ended();
}

void live_and_die(void) {
    int fibers[2][CONSUMERS_MAX];
    unsigned counts[2], consumer_deaths = one_in(3) ? (unsigned)draw(1, 3) : 0;
    uint64_t deaths = 0;
    fiber_on_death(on_death);
    for (unsigned side = 0; side < 2; side++)
        counts[side] = start_consumers(fibers[side], side);
    world.operations_left = world.operators * world.operations_each;
    restart();
    while (!is_over(fibers, counts, deaths)) {
        fiber_wait(&world.deaths, "the holder waits", draw(1, 3000000));
        if (world.deaths != deaths) {
            deaths = world.deaths;
            fiber_sleep(draw(0, one_in(2) ? 0 : 1000000), "the holder restarts the manager");
            restart();
        } else if (world.deaths < world.deaths_wanted && one_in(world.is_serving ? 12 : 6)) {
            fiber_kill(world.manager); /* wherever its threads are */
        } else if (consumer_deaths && one_in(20)) {
            unsigned side = (unsigned)draw(0, 1);
            consumer_deaths--;
            fiber_kill(world.consumer_process[side]);
            counts[side] = start_consumers(fibers[side], side);
        } else if (world.children && one_in(60)) {
            const struct sim_view *child = &world.child[draw(0, world.children - 1)];
            if (!child->is_forking) /* nobody can kill it before it is born */
                fiber_kill(child->process);
        }
    }
    fiber_doom(world.manager, NULL, 0);
    for (unsigned i = 0; i < world.views; i++)
        if (!world.view[i].handle) /* its consumer died before it could be attached again */
            drop_mapping(&world.view[i]);
}
