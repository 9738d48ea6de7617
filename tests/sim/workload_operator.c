/* SPDX-License-Identifier: MIT */
/*
 * Operators: they pin, prefetch, invalidate, change the budget, close and open views, and ask, all at random.
 * Each answer is checked against what the model allows.
 */
#include "workload.h"

#include "engine/cache.h"
#include "engine/job.h"
#include "engine/member.h"
#include "engine/view.h"
#include "fake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t draw(uint64_t bound) {
    return random_below(fiber_random(), bound);
}

static struct sim_cache *choose_cache(void) {
    return &world.cache[draw(world.caches)];
}

/* A range of pages; mostly short. */
static void choose_range(const struct sim_cache *cache, uint64_t *first, uint64_t *count) {
    uint64_t pages = cache->store.page_count;
    *first = draw(pages);
    *count = 1 + draw(draw(4) ? (pages - *first < 4 ? pages - *first : 4) : pages - *first);
}

static uint64_t offset_of(const struct sim_cache *cache, uint64_t page) {
    return page * cache->store.page_bytes;
}

static bool store_failed(const struct sim_cache *cache) {
    return cache->store.failures_total || world.may_lack_memory ||
           sim_store_has_overdue(&cache->store, 0, UINT64_MAX / 2);
}

/* ---- views ------------------------------------------------------------------------------------------------- */

static bool open_local_view(struct sim_view *view, const struct mnw_view_options *options) {
    if (mnw_view_open(&view->handle, view->cache->handle, options)) {
        view->handle = NULL;
        return false;
    }
    view->address = (uintptr_t)mnw_view_data(view->handle);
    if (mnw_view_length(view->handle) != options->length_bytes)
        sim_fail("a view has %zu bytes, asked for %llu", mnw_view_length(view->handle),
                 (unsigned long long)options->length_bytes);
    return true;
}

static void close_local_view(struct sim_view *view) {
    int error = mnw_view_close(view->handle);
    if (error)
        sim_fail("a view cannot be closed: %d (%s)", error, mnw_error());
    view->handle = NULL;
}

bool open_view(struct sim_view *view) {
    struct sim_store *store = &view->cache->store;
    struct mnw_view_options options = {.size = sizeof(options)};
    bool writable = (world.backing <= MNW_BACKING_GRADED || world.is_mortal) && !world.has_replicas && draw(3) == 0;
    uint64_t first = draw(2) ? 0 : draw(store->page_count), count = store->page_count - first;
    if (draw(3) == 0)
        count = 1 + draw(count);
    view->is_inline = !world.is_mortal && draw(2);
    options.flags = (writable ? MNW_VIEW_WRITE : 0u) | (view->is_inline ? MNW_VIEW_INLINE : 0u);
    if (world.has_replicas) {
        options.flags |= MNW_VIEW_ON_NODE;
        options.node = (unsigned)draw(fake_config.nodes);
    }
    options.offset_bytes = first * store->page_bytes;
    options.length_bytes = count * store->page_bytes;
    view->first = first;
    view->pages = count;
    view->writable = writable;
    if (world.is_mortal ? !open_remote_view(view) : !open_local_view(view, &options)) {
        if (!world.has_trouble && !world.is_mortal)
            sim_fail("a view cannot be opened: %s", mnw_error());
        return false;
    }
    memset(view->copies, 0, store->page_count);
    view->closing = false;
    view->open = true;
    return true;
}

void close_view(struct sim_view *view) {
    view->open = false;
    view->closing = true;
    if (world.is_mortal)
        close_remote_view(view);
    else
        close_local_view(view);
    view->generation++;
    view->closing = false;
}

static void turn_view(void) {
    struct sim_view *view = &world.view[draw(world.views)];
    if (view->closing || view->populating)
        return;
    if (view->open) {
        if (draw(3) == 0)
            close_view(view);
    } else if (view->handle) { /* its consumer has died */
        close_view(view);
    } else {
        view->closing = true; /* ours until it is open */
        if (!open_view(view))
            view->closing = false;
    }
}

static void populate(void) {
    struct sim_view *view = &world.view[draw(world.views)];
    if (!view->open || world.is_mortal)
        return;
    uint64_t first = draw(view->pages), count = 1 + draw(view->pages - first),
             page_bytes = view->cache->store.page_bytes;
    view->populating++;
    int error = mnw_view_populate(view->handle, first * page_bytes, (count - 1) * page_bytes + 1 + draw(page_bytes));
    view->populating--;
    if (error && error != -EAGAIN && !(error == -EIO && store_failed(view->cache)))
        sim_fail("populating pages %llu +%llu: %d (%s)", (unsigned long long)(view->first + first),
                 (unsigned long long)count, error, mnw_error());
}

/* ---- pins -------------------------------------------------------------------------------------------------- */

static void note_pins(const struct sim_pin *pin, int change) {
    for (uint64_t page = pin->first; page < pin->first + pin->count; page++)
        pin->cache->store.pages[page].pins += (uint32_t)change;
}

/* A pin without pages is being made or ended: another operator leaves it alone. */
void unpin(struct sim_pin *pin) {
    struct sim_cache *cache = pin->cache;
    uint64_t first = pin->first, count = pin->count;
    note_pins(pin, -1);
    pin->count = 0;
    int error = mnw_unpin(cache->handle, offset_of(cache, first), offset_of(cache, count));
    if (error)
        sim_fail("a pinned range cannot be unpinned: %d (%s)", error, mnw_error());
    pin->used = false;
}

static void check_residency(struct sim_cache *cache, uint64_t first, uint64_t count, bool pinned) {
    uint8_t *flags = malloc(count);
    if (!flags)
        sim_fail("no memory");
    int error = mnw_residency(cache->handle, offset_of(cache, first), flags, count);
    if (error)
        sim_fail("residency: %d (%s)", error, mnw_error());
    for (uint64_t i = 0; i < count; i++) {
        if (pinned && !(flags[i] & MNW_PINNED))
            sim_fail("page %llu is pinned, and not said to be", (unsigned long long)(first + i));
        if (pinned && !(flags[i] & MNW_RESIDENT) && !cache->store.pages_may_be_lost)
            sim_fail("page %llu is pinned, and not resident", (unsigned long long)(first + i));
        if (!!(flags[i] & MNW_RESIDENT) + !!(flags[i] & MNW_FILLING) + !!(flags[i] & MNW_FAILED) > 1)
            sim_fail("page %llu has flags %#x, which exclude each other", (unsigned long long)(first + i), flags[i]);
    }
    free(flags);
}

static void turn_pin(void) {
    struct sim_pin *pin = &world.pin[draw(PINS_MAX)];
    if (pin->used) {
        if (pin->count)
            unpin(pin);
        return;
    }
    *pin = (struct sim_pin){.used = true, .cache = choose_cache()};
    struct sim_cache *cache = pin->cache;
    uint64_t first, count;
    choose_range(cache, &first, &count);
    int error = mnw_pin(cache->handle, offset_of(cache, first), offset_of(cache, count));
    if (error) {
        if (error != -ENOSPC && !((error == -EIO || error == -ENOMEM) && store_failed(cache)))
            sim_fail("pin of pages %llu +%llu: %d (%s)", (unsigned long long)first, (unsigned long long)count, error,
                     mnw_error());
        pin->used = false;
        return;
    }
    check_residency(cache, first, count, true);
    pin->first = first;
    pin->count = count;
    note_pins(pin, 1);
}

/* ---- prefetches and events --------------------------------------------------------------------------------- */

static int64_t prefetch_range(struct sim_cache *cache, uint64_t cookie) {
    uint64_t first, count;
    choose_range(cache, &first, &count);
    return mnw_prefetch(cache->handle, offset_of(cache, first), offset_of(cache, count), cookie);
}

/* As a working set is replayed: runs with gaps between them. */
static int64_t prefetch_runs(struct sim_cache *cache, uint64_t cookie) {
    uint64_t pages = cache->store.page_count, most = 1 + draw(8), count = 0, page = draw(pages);
    struct mnw__run *runs = calloc(most, sizeof(*runs));
    if (!runs)
        sim_fail("no memory");
    for (; count < most && page < pages; page += runs[count - 1].count + 1 + draw(4)) {
        uint64_t left = pages - page;
        runs[count++] = (struct mnw__run){page, 1 + draw(left < 4 ? left : 4)};
    }
    int64_t id = mnw__job_prefetch_runs(cache->handle, runs, count, cookie);
    if (id < 0)
        free(runs);
    return id;
}

static void start_prefetch(void) {
    if (world.prefetch_count == PREFETCHES_MAX)
        return;
    uint64_t cookie = world.prefetch_count++;
    struct sim_prefetch *prefetch = &world.prefetch[cookie];
    *prefetch = (struct sim_prefetch){.id = -EAGAIN, .cache = choose_cache()};
    int64_t id = draw(3) ? prefetch_range(prefetch->cache, cookie) : prefetch_runs(prefetch->cache, cookie);
    if (id > 0) {
        prefetch->id = id;
        return;
    }
    if (id != -EAGAIN || world.prefetch_count - 1 - world.prefetch_ended < 64)
        sim_fail("prefetch: %lld (%s)", (long long)id, mnw_error());
    prefetch->ended = true;
    world.prefetch_ended++;
}

static void cancel_prefetch(void) {
    if (!world.prefetch_count)
        return;
    struct sim_prefetch *prefetch = &world.prefetch[draw(world.prefetch_count)];
    if (prefetch->id <= 0)
        return;
    bool had_ended = prefetch->ended;
    int error = mnw_prefetch_cancel(world.pool, prefetch->id);
    if (error && error != -ENOENT)
        sim_fail("cancel: %d (%s)", error, mnw_error());
    if (!error && had_ended)
        sim_fail("a prefetch that has ended is cancelled");
    prefetch->cancelled |= !error;
}

static uint64_t pages_ever_failed(const struct sim_store *store) {
    uint64_t count = 0;
    for (uint64_t page = 0; page < store->page_count; page++)
        count += store->pages[page].failures_ever > store->retries;
    return count;
}

/* The only operator is here: no pin, no invalidation and, if all have ended, no prefetch has a job. */
static void check_jobs(const struct sim_cache *cache) {
    for (uint64_t i = 0; i < world.prefetch_count; i++)
        if (world.prefetch[i].cache == cache && !world.prefetch[i].ended)
            return;
    for (unsigned i = 0; i < mnw__member_count(cache->handle); i++)
        if (atomic_load(&mnw__member(cache->handle, i)->jobs_active))
            sim_fail("the events of all prefetches of a cache are here, and one of them still runs");
}

static void take_prefetch(const struct mnw_event *event) {
    if (event->cookie >= world.prefetch_count)
        sim_fail("a prefetch event with cookie %llu, which was never given", (unsigned long long)event->cookie);
    struct sim_prefetch *prefetch = &world.prefetch[event->cookie];
    if (prefetch->ended)
        sim_fail("the prefetch with cookie %llu ends twice", (unsigned long long)event->cookie);
    prefetch->ended = true;
    world.prefetch_ended++;
    bool legal =
        event->result == 0 || (event->result == -EIO && store_failed(prefetch->cache)) || event->result == -ECANCELED;
    if (!legal)
        sim_fail("a prefetch ends with %d", event->result);
    if (prefetch->cancelled && event->result != -ECANCELED)
        sim_fail("a prefetch was cancelled, and its event says %d", event->result);
    if (event->result == -EIO && !event->pages_failed)
        sim_fail("a prefetch failed, and no page did");
    /* Where a bad page's memory cannot be punched, the rest of its run is given up with it. */
    if (world.is_prompt && !world.is_mortal && !fake_config.chance[FAKE_PUNCH] &&
        event->pages_failed > pages_ever_failed(&prefetch->cache->store))
        sim_fail("a prefetch says that %llu pages failed; the store has failed %llu",
                 (unsigned long long)event->pages_failed,
                 (unsigned long long)pages_ever_failed(&prefetch->cache->store));
    if (world.operators == 1 && !world.is_mortal)
        check_jobs(prefetch->cache);
}

static struct sim_cache *cache_named(const struct mnw_cache *handle) {
    for (unsigned i = 0; i < world.caches; i++)
        if (world.cache[i].handle == handle)
            return &world.cache[i];
    sim_fail("an event names a cache that does not exist");
}

static void take_failure(const struct mnw_event *event) {
    struct sim_cache *cache = cache_named(event->cache);
    uint64_t page = event->offset / world.page_bytes;
    if (event->result >= 0 || event->offset % world.page_bytes || page >= cache->store.page_count)
        sim_fail("a page failure with result %d at offset %llu", event->result, (unsigned long long)event->offset);
    cache->told[page] = event->result;
    cache->lacked[page] |= event->result == -ENOMEM;
}

/* All that happens to a view here is that its consumer dies. */
static void take_change(const struct mnw_event *event) {
    if (world.is_forking && take_child(event))
        return;
    if (!world.is_mortal || event->changes != MNW_VIEW_CHANGED_DEAD)
        sim_fail("a view is said to have changed: %#x", event->changes);
    /* A child has its parent's cookie, and may be told of while it is being closed. */
    for (unsigned i = 0; i < world.views && !event->parent; i++)
        if (world.view[i].open && event->cookie == view_cookie(&world.view[i]))
            sim_fail("view %u is said to be dead, and its consumer lives", i);
}

void take_events(void) {
    struct mnw_event event;
    int taken;
    while (world.is_taking) /* whoever finds nothing to take must know that all was dealt with */
        fiber_sleep(10000, "another one takes events");
    world.is_taking = true;
    while ((taken = mnw_pool_next_event(world.pool, &event)) == 1) {
        if (event.kind == MNW_EVENT_PREFETCH)
            take_prefetch(&event);
        else if (event.kind == MNW_EVENT_VIEW_CHANGED)
            take_change(&event);
        else
            take_failure(&event);
    }
    if (taken)
        sim_fail("next_event: %d", taken);
    world.is_taking = false;
}

/* ---- invalidation ------------------------------------------------------------------------------------------ */

static bool has_pin(const struct sim_cache *cache, uint64_t first, uint64_t count) {
    uint64_t from = first - first % cache->extent_pages, end = first + count + cache->extent_pages - 1;
    end -= end % cache->extent_pages;
    for (unsigned i = 0; i < PINS_MAX; i++) {
        const struct sim_pin *pin = &world.pin[i];
        uint64_t pin_from = pin->first - pin->first % cache->extent_pages;
        uint64_t pin_end = pin->first + pin->count + cache->extent_pages - 1;
        pin_end -= pin_end % cache->extent_pages;
        if (pin->used && pin->cache == cache && (!pin->count || (pin_from < end && from < pin_end)))
            return true;
    }
    return false;
}

/* Where touching an invalidated page is SIGBUS, it has failed anew; or the view is being attached, which mends that. */
static void check_healed(struct mnw_cache *cache, uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < first + count; page++)
        if (mnw__views_have_poison(cache, page, 1) &&
            mnw__page_state(mnw__page_load(&cache->pages, page)) != MNW__PAGE_FAILED)
            sim_fail("page %llu was invalidated, and is still SIGBUS in a view", (unsigned long long)page);
}

/* The store changes, and is mended or broken; then the cache is told. */
static void change_store(void) {
    struct sim_cache *cache = choose_cache();
    struct sim_store *store = &cache->store;
    uint64_t first, count;
    choose_range(cache, &first, &count);
    bool mends = draw(2);
    uint32_t *versions = malloc(count * sizeof(*versions));
    struct store_page *before = malloc(count * sizeof(*before));
    if (!versions || !before)
        sim_fail("no memory");
    for (uint64_t i = 0; i < count; i++) {
        struct store_page *page = &store->pages[first + i];
        if (mends)
            page->state = STORE_GOOD;
        versions[i] = ++page->version;
        before[i] = *page;
        page->failures_new = 0;
        page->marked_ns = fiber_now();
    }
    sim_trace("operator: invalidates pages %llu +%llu", (unsigned long long)first, (unsigned long long)count);
    bool pinned_before = has_pin(cache, first, count);
    int error = mnw_invalidate(cache->handle, offset_of(cache, first), offset_of(cache, count));
    sim_trace("operator: invalidated: %d", error);
    bool punches_fail = fake_config.chance[FAKE_PUNCH];
    if (!error && world.operators == 1 && !world.attaching)
        for (unsigned i = 0; i < mnw__member_count(cache->handle); i++)
            check_healed(mnw__member(cache->handle, i), first, count);
    if (error == -EIO && store_failed(cache))
        error = 0; /* forgotten it is */
    if (error && error != -EBUSY && !(error == -ENOMEM && punches_fail))
        sim_fail("invalidate: %d (%s)", error, mnw_error());
    bool has_writers = world.is_mortal && world.backing >= MNW_BACKING_HUGETLB_2M; /* whose copies would be lost */
    /* A job reads a run that failed page by page, and each has its deadline to itself. */
    bool reads_on = store->failures_total && world.prefetch_count;
    bool unanswered =
        reads_on || sim_store_has_overdue(store, first > cache->extent_pages ? first - cache->extent_pages : 0,
                                          count + 2 * cache->extent_pages);
    if (error && !pinned_before && !has_pin(cache, first, count) && !unanswered && !punches_fail && !has_writers &&
        world.operators == 1)
        sim_fail("invalidate: EBUSY (%s), though nothing is pinned and nothing unanswered", mnw_error());
    for (uint64_t i = 0; i < count; i++) {
        struct store_page *page = &store->pages[first + i];
        if (error) { /* it forgot nothing; another operator's, under way all along, may yet do so */
            page->failures_new += before[i].failures_new;
            page->marked_ns = before[i].marked_ns;
            continue;
        }
        if (page->floor < versions[i])
            page->floor = versions[i];
        page->failures = page->failures_new;
        page->late = false;
        if (page->doubt_ns < page->marked_ns)
            page->doubt_ns = page->marked_ns;
        page->healed_ns = fiber_now();
    }
    free(before);
    free(versions);
}

static void break_page(void) {
    struct sim_store *store = &choose_cache()->store;
    if (!world.has_trouble)
        return;
    static const enum store_page_state states[] = {STORE_BAD, STORE_BAD, STORE_FLIPPED, STORE_MUTE};
    enum store_page_state state = states[draw(4)];
    if ((state == STORE_FLIPPED && !store->has_check) || (state == STORE_MUTE && !store->chance[STORE_NEVER]))
        state = STORE_BAD;
    if (store->chance[STORE_ERROR])
        store->pages[draw(store->page_count)].state = (uint8_t)state;
}

/* ---- the budget, and questions ----------------------------------------------------------------------------- */

static void change_budget(void) {
    if (world.budget_moves)
        return;
    world.budget_moves = true;
    uint64_t wanted = random_between(fiber_random(), world.budget_min, world.budget_max);
    uint64_t before = world.budget;
    fake_set_budget(wanted > before ? wanted : before);
    int error = mnw_pool_set_budget(world.pool, wanted);
    if (error && error != -EBUSY)
        sim_fail("set_budget: %d (%s)", error, mnw_error());
    if (error && wanted >= before)
        sim_fail("set_budget: EBUSY while growing: %s", mnw_error());
    world.budget = error ? before : wanted;
    fake_set_budget(world.budget);
    if (fake_resident() > world.budget)
        sim_fail("law 5: %llu bytes resident after the budget became %llu", (unsigned long long)fake_resident(),
                 (unsigned long long)world.budget);
    if (mnw_pool_set_budget(world.pool, world.budget_min - 1) != -EINVAL)
        sim_fail("a budget below one extent per thread is accepted");
    world.budget_moves = false;
}

void check_stats(void) {
    struct mnw_stats now;
    uint64_t budget_before = world.budget;
    bool moved_before = world.budget_moves;
    int error = mnw_pool_stats(world.pool, &now, sizeof(now));
    if (error)
        sim_fail("stats: %d (%s)", error, mnw_error());
    if (!moved_before && !world.budget_moves && budget_before == world.budget && now.budget_bytes != world.budget)
        sim_fail("stats: a budget of %llu, set to %llu", (unsigned long long)now.budget_bytes,
                 (unsigned long long)world.budget);
    if (now.resident_bytes > world.budget_max || now.resident_bytes > now.resident_bytes_max ||
        now.pinned_bytes > world.budget_max)
        sim_fail("stats: resident %llu of at most %llu, pinned %llu", (unsigned long long)now.resident_bytes,
                 (unsigned long long)now.resident_bytes_max, (unsigned long long)now.pinned_bytes);
#define NEVER_LESS(field)                                                                                              \
    if (now.field < world.last_stats.field)                                                                            \
    sim_fail("stats: " #field " fell from %llu to %llu", (unsigned long long)world.last_stats.field,                   \
             (unsigned long long)now.field)
    if (world.operators == 1) { /* several may finish in another order than they looked */
        NEVER_LESS(faults_minor);
        NEVER_LESS(faults_missing);
        NEVER_LESS(fills);
        NEVER_LESS(fill_bytes);
        NEVER_LESS(fills_failed);
        NEVER_LESS(evictions);
        NEVER_LESS(evicted_bytes);
        NEVER_LESS(pages_mapped);
        NEVER_LESS(resident_bytes_max);
    }
#undef NEVER_LESS
    world.last_stats = now;
}

/*
 * A cpuset takes nodes away and gives them back. A pool that is bound may then lack memory until it has noticed; one
 * that is opened meanwhile has fewer threads.
 */
static void change_nodes(void) {
    if (fake_config.nodes > 1 && !world.is_mortal &&
        (world.may_lack_memory || world.pool_options.numa != MNW_NUMA_BIND))
        fake_allow_nodes(1 + draw((1u << fake_config.nodes) - 1));
}

static void ask(void) {
    struct sim_cache *cache = choose_cache();
    uint64_t first, count;
    choose_range(cache, &first, &count);
    check_residency(cache, first, count, false);
    check_stats();
    char *json = draw(8) ? NULL : mnw_pool_stats_json(world.pool);
    free(json);
}

void operate(void *argument) {
    (void)argument;
    while (world.operations_left) {
        world.operations_left--;
        switch (draw(world.is_mortal ? 10 : 11)) {
        case 0:
        case 1:
            turn_pin();
            break;
        case 2:
            start_prefetch();
            break;
        case 3:
            cancel_prefetch();
            break;
        case 4:
        case 5:
            change_store();
            break;
        case 6:
            break_page();
            change_budget();
            break;
        case 7:
            turn_view();
            break;
        case 8:
            change_nodes();
            take_events();
            close_children(false);
            break;
        case 10: /* local views only */
            populate();
            break;
        default:
            ask();
        }
        fiber_sleep(draw(2000000), "an operator rests");
    }
    world.operators_running--;
}
