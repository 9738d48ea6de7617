/* SPDX-License-Identifier: MIT */
#include "workload.h"

#include "base/bits.h"
#include "engine/cache.h"
#include "engine/fault.h"
#include "engine/member.h"
#include "engine/pool.h"
#include "fake.h"
#include "freed.h"
#include "sys/backing.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NODES_MAX = 4 };

struct world world;
bool workload_always_forks, workload_always_copies;

static uint64_t draw(uint64_t low, uint64_t high) {
    return random_between(fiber_random(), low, high);
}

static bool one_in(uint64_t bound) {
    return !random_below(fiber_random(), bound);
}

/* ---- drawing a world --------------------------------------------------------------------------------------- */

/* A trouble that one seed in `bound` has, with a chance of up to `most` in 1024. */
static unsigned maybe(uint64_t bound, unsigned most) {
    return world.has_trouble && one_in(bound) ? (unsigned)draw(1, most) : 0;
}

/* The troubles that hide a lost wake-up, or take their time, are not in a prompt world. */
static void make_prompt(void) {
    static const enum fake_trouble slow[] = {FAKE_SIGNAL, FAKE_EVENT_LOST, FAKE_EXHAUSTED, FAKE_SLOW, FAKE_WRITE};
    for (size_t i = 0; i < sizeof(slow) / sizeof(slow[0]); i++)
        fake_config.chance[slow[i]] = 0;
    fake_config.fault_ns_max = 900000000; /* the watchdog looks once a second */
}

static void draw_kernel(void) {
    fake_config.nodes = (unsigned)(one_in(3) ? draw(1, NODES_MAX) : 1);
    fake_config.has_poison = !one_in(4);
    fake_config.reuses_addresses = one_in(2);
    fake_config.fault_ns_max = 200000000000;
    fake_config.chance[FAKE_FILL_AGAIN] = maybe(2, 200);
    fake_config.chance[FAKE_FILL_PARTIAL] = maybe(2, 200);
    fake_config.chance[FAKE_FILL_NOMEM] = maybe(4, 60);
    fake_config.chance[FAKE_SIGNAL] = maybe(2, 300);
    fake_config.chance[FAKE_EVENT_LOST] = maybe(4, 40);
    fake_config.chance[FAKE_BATCH_SHORT] = maybe(2, 500);
    fake_config.chance[FAKE_EXHAUSTED] = maybe(5, 40);
    fake_config.chance[FAKE_PAGE_LOST] = maybe(6, world.is_mortal ? 10 : 40);
    fake_config.chance[FAKE_SLOW] = maybe(3, 60);
    fake_config.chance[FAKE_SPURIOUS] = maybe(3, 200);
    fake_config.chance[FAKE_COLLAPSE] = maybe(3, 300);
    fake_config.chance[FAKE_OPEN] = maybe(6, 60);
    fake_config.chance[FAKE_PUNCH] = maybe(4, 500);
    fake_config.chance[FAKE_BREAK] = maybe(8, 40);
    fake_config.chance[FAKE_WRITE] = maybe(3, 300);
    fake_config.chance[FAKE_MOVE] = maybe(3, 500);
    fake_config.may_move_all = !one_in(3);
}

static void draw_store(struct sim_store *store) {
    store->seed = random_next(fiber_random());
    store->page_bytes = world.page_bytes;
    store->size_bytes = draw(1, one_in(3) ? 24 : 64) * world.page_bytes;
    if (world.page_bytes > 4096)
        store->size_bytes = draw(1, 24) * world.page_bytes;
    if (world.is_crowded)
        store->size_bytes = draw(2, 10) * world.page_bytes;
    if (one_in(2))
        store->size_bytes -= draw(0, world.page_bytes - 1);
    store->has_check = one_in(2);
    store->has_copies = world.has_replicas;
    store->reads_now = !world.is_mortal && !one_in(3);
    store->sends = !one_in(3);
    store->pages_may_be_lost = fake_config.chance[FAKE_PAGE_LOST] || fake_config.chance[FAKE_BREAK];
    store->delay_ns_max = one_in(3) ? 0 : draw(1000, 3000000);
    store->chance[STORE_SHORT] = maybe(2, 300);
    store->chance[STORE_ERROR] = maybe(3, 200);
    store->chance[STORE_END] = maybe(6, 60);
    store->chance[STORE_FLIP] = maybe(3, 200);
    store->chance[STORE_LATE] = maybe(4, 40);
    store->chance[STORE_NEVER] = maybe(6, 12);
    store->chance[STORE_TWICE] = maybe(2, 200);
    store->chance[STORE_TOKEN] = maybe(3, 100);
    store->chance[STORE_AT_ONCE] = one_in(2) ? (unsigned)draw(1, 1024) : 0;
    store->chance[STORE_TOO_LONG] = maybe(6, 60);
    store->chance[STORE_CROWDED] = world.has_trouble && !world.is_mortal && one_in(4) ? (unsigned)draw(1, 400) : 0;
    for (int trouble = 0; world.is_prompt && trouble < STORE_TROUBLES; trouble++)
        if (trouble != STORE_SHORT && trouble != STORE_AT_ONCE && trouble != STORE_ERROR && trouble != STORE_END &&
            trouble != STORE_FLIP && trouble != STORE_CROWDED)
            store->chance[trouble] = 0;
}

static void draw_world(void) {
    world.has_trouble = !one_in(4);
    /* Whose read is late is not known of two that read the same page: what a copy fails is explained by count alone. */
    world.is_prompt = !world.has_trouble || one_in(3) || world.has_replicas;
    world.is_mortal = (one_in(2) && !world.has_replicas) || workload_always_forks;
    world.deaths_wanted = draw(1, 5);
    draw_kernel();
    if (world.has_replicas)
        fake_config.nodes = (unsigned)draw(2, 4);
    if (world.is_mortal)
        fake_config.has_poison = true; /* views of other processes cannot be barred */
    if (world.is_prompt)
        make_prompt();
    world.backing = (enum mnw_backing)draw(0, world.has_replicas ? 2 : 3);
    world.page_bytes = mnw__backing_page_bytes(world.backing);
    world.extent_bytes = mnw__backing_extent_bytes(world.backing);
    if (!world.extent_bytes)
        world.extent_bytes = (uint64_t)32768 << draw(0, 2);
    world.caches = (unsigned)(one_in(2) ? 1 : draw(1, CACHES_MAX));
    world.consumers = (unsigned)draw(1, CONSUMERS_USUAL);
    world.operators = one_in(4) ? 2 : 1;
    world.views = world.caches * (unsigned)draw(1, 3);
    world.reads_each = (unsigned)draw(1, 12);
    world.operations_each = one_in(5) ? 0 : (unsigned)draw(1, 40);
    world.is_crowded = !world.is_mortal && one_in(6);
    if (world.is_crowded) {
        world.caches = 1;
        world.views = (unsigned)draw(1, 2);
        world.consumers = (unsigned)draw(8, CONSUMERS_MAX);
    }
    world.is_churned = !world.is_mortal && !world.is_crowded && one_in(6);
    if (world.is_churned) {
        world.caches = (unsigned)draw(2, CACHES_MAX);
        world.views = world.caches;
    }
    for (unsigned i = 0; i < world.caches; i++) {
        draw_store(&world.cache[i].store);
        world.cache[i].extent_pages = world.extent_bytes / world.page_bytes;
    }
    world.is_forking = world.is_mortal && (one_in(2) || workload_always_forks);
    /* Abandoned reads, retries and an exhausted machine may hold memory and slots longer than a deadline. */
    world.may_lack_memory = !world.is_prompt;
}

/* ---- opening ----------------------------------------------------------------------------------------------- */

/* Opening calls may fail while trouble is on; they must say so, leave nothing behind, and succeed in the end. */
static bool try_again(int error, unsigned *tries, const char *what) {
    if (!error)
        return false;
    if (!world.has_trouble || *tries > 200)
        sim_fail("%s cannot be opened: %d (%s)", what, error, mnw_error());
    if (!*mnw_error())
        sim_fail("%s failed with %d and without a word", what, error);
    ++*tries;
    return true;
}

/* For interleave, now and then. */
static const char *draw_weights(enum mnw_numa numa) {
    static const char *const weights[NODES_MAX] = {"0:2", "0:3,1", "0,1-2:5", "0-1:7,2:255,3"};
    return numa == MNW_NUMA_INTERLEAVE && one_in(2) ? weights[fake_config.nodes - 1] : NULL;
}

static void draw_pool(struct mnw_pool_options *options) {
    unsigned per_node = (unsigned)draw(1, 2);
    *options = (struct mnw_pool_options){
        .size = sizeof(*options),
        .backing = world.backing,
        .numa = (enum mnw_numa)draw(0, 3),
        .fault_threads_per_node = per_node,
        .policy = (enum mnw_policy)draw(0, 1),
        .extent_bytes = world.backing == MNW_BACKING_SHMEM ? world.extent_bytes : 0,
        .recency_faults_per_second = one_in(2) ? 0 : (uint32_t)draw(1, 100000),
        .io_mode = MNW_IO_AUTO,
        .reads_in_flight = (uint32_t)(one_in(3) ? draw(1, 4) : draw(4, 64)),
    };
    if (world.has_replicas)
        options->numa = MNW_NUMA_LOCAL;
    if (fake_config.nodes > 1 && (world.is_churned || one_in(2))) {
        options->numa = MNW_NUMA_LOCAL;
        options->rebalance_bytes_per_second = draw(1, 2000) * world.extent_bytes;
    }
    options->nodes = draw_weights(options->numa);
    unsigned threads = per_node * fake_config.nodes;
    world.budget_min = threads * world.extent_bytes;
    world.budget_max = world.budget_min + draw(1, 14) * world.extent_bytes;
    options->budget_bytes = random_between(fiber_random(), world.budget_min, world.budget_max);
}

void open_pool(void) {
    unsigned tries = 0;
    struct mnw_pool_options options = world.pool_options;
    if (!options.size)
        draw_pool(&options);
    else if (world.backing >= MNW_BACKING_HUGETLB_2M) /* what is kept may not be evicted */
        options.budget_bytes = world.budget_max;
    else if (one_in(3))
        options.budget_bytes = random_between(fiber_random(), world.budget_min, world.budget_max);
    world.pool_options = options;
    world.budget = options.budget_bytes;
    if (!world.is_mortal)
        fake_set_budget(world.budget);
    int error;
    do
        error = mnw_pool_open(&world.pool, &options);
    while (try_again(error, &tries, "the pool"));
}

static void draw_cache(struct sim_cache *cache) {
    struct sim_store *store = &cache->store;
    struct mnw_cache_options options = {
        .size = sizeof(options), .keep = world.is_mortal, .replicas = world.has_replicas};
    static const uint32_t deadlines_ms[] = {20, 100, 1000, 5000};
    store->retries = (uint32_t)draw(0, 3);
    options.read_retries = store->retries ? store->retries : UINT32_MAX;
    options.retry_delay_ms = (uint32_t)draw(1, 10);
    options.read_deadline_ms = deadlines_ms[draw(0, 3)];
    /* Whoever finds no memory within the deadline is refused: in a prompt world that must not come to pass. */
    if (world.is_prompt)
        options.read_deadline_ms = one_in(2) ? 30000 : 10000;
    options.readahead_bytes = one_in(3) ? UINT64_MAX : one_in(2) ? 0 : draw(1, 16) * world.page_bytes;
    options.read_around_bytes = one_in(2) ? 0 : mnw__min(draw(1, 32) * world.page_bytes, 2 << 20);
    store->deadline_ns = options.read_deadline_ms * 1000000ull;
    cache->options = options;
    sim_store_prepare(store);
    cache->refused = calloc(store->page_count, 1);
    cache->left = calloc(store->page_count, 1);
    cache->told = calloc(store->page_count, sizeof(*cache->told));
    cache->lacked = calloc(store->page_count, sizeof(*cache->lacked));
}

void open_cache(struct sim_cache *cache) {
    unsigned tries = 0;
    if (!cache->options.size)
        draw_cache(cache);
    sim_store_open(&cache->store, "store");
    struct mnw_cache *handle;
    int error;
    cache->options.kept = cache->kept.size ? &cache->kept : NULL;
    do
        error = mnw_cache_open(&handle, world.pool, cache->store.handle, &cache->options);
    while (try_again(error, &tries, "a cache"));
    cache->handle = handle;
    if (mnw_cache_page_size(cache->handle) != world.page_bytes)
        sim_fail("a cache has pages of %zu bytes, wanted %llu", mnw_cache_page_size(cache->handle),
                 (unsigned long long)world.page_bytes);
}

static void open_views(void) {
    for (unsigned i = 0; i < world.views; i++) {
        open_view(&world.view[i]);
    }
}

/* ---- closing ----------------------------------------------------------------------------------------------- */

static bool is_at_rest(const struct mnw_cache *cache) {
    return !atomic_load(&cache->fills_active) && !atomic_load(&cache->jobs_active) && !atomic_load(&cache->evicting);
}

/* At rest, what is charged is what is there. */
static const char *check_charge(const struct mnw_cache *cache) {
    uint64_t bytes = 0;
    for (uint64_t extent = 0; extent < cache->pages.extent_count; extent++) {
        struct mnw__extent word = mnw__extent_load(&cache->pages, extent);
        bytes += cache->pool->whole_extents ? word.charged * (uint64_t)cache->pool->extent_bytes
                                            : word.present * (uint64_t)cache->backing.page_bytes;
    }
    return bytes == atomic_load(&cache->charged) ? NULL : "charged is not what is there";
}

/* With everything answered, the cache comes to rest; then every word must be legal. */
static void check_words(struct mnw_cache *cache) {
    uint64_t where = 0, limit_ns = fiber_now() + 100000000000;
    const char *wrong = "it does not come to rest";
    while (fiber_now() < limit_ns) {
        if (is_at_rest(cache)) {
            wrong = mnw__pages_check(&cache->pages, &where);
            if (!wrong)
                wrong = check_charge(cache);
            if (!wrong && atomic_load(&cache->fills_overdue))
                wrong = "all fills have ended, and some count as overdue";
            if (!wrong)
                break;
        }
        fiber_sleep(1000000, "a cache to come to rest");
    }
    if (wrong)
        sim_fail("the words of a cache: %s (at %llu)", wrong, (unsigned long long)where);
    mnw__mutex_lock(&cache->policy_lock);
    if (!mnw__policy_is_valid(&cache->policy))
        sim_fail("the policy's lists are not whole");
    mnw__mutex_unlock(&cache->policy_lock);
}

static void check_refusals(const struct sim_cache *cache) {
    for (uint64_t page = 0; page < cache->store.page_count; page++) {
        /* Without the kernel's poison a page that ever failed may stay SIGBUS in its view. */
        bool stays = !fake_config.has_poison && cache->told[page];
        /* A store that takes no reads for as long as the deadline fails the page with fewer failures than retries: with
         * none, or with what it said when it last took one. */
        stays |= cache->store.chance[STORE_CROWDED] &&
                 (cache->told[page] == -ETIMEDOUT || (cache->told[page] && cache->store.failures_total));
        /* A deadline begins before memory is had, and goes on over retries: what the store was asked last may be young.
         */
        stays |= cache->told[page] == -ETIMEDOUT && (fake_config.chance[FAKE_SLOW] || cache->store.failures_total);
        if (cache->refused[page] && !cache->lacked[page] && !stays && !world.last_stats.events_dropped)
            sim_fail("SIGBUS on page %llu: the store did not fail it, and its event does not say that memory lacked, "
                     "but %d",
                     (unsigned long long)page, cache->told[page]);
    }
}

void close_cache(struct sim_cache *cache) {
    uint64_t limit_ns = fiber_now() + 100000000000;
    int error;
    cache->closing = true;
    while ((error = mnw_cache_close(cache->handle)) == -EBUSY && fiber_now() < limit_ns)
        fiber_sleep(10000000, "a cache to close");
    if (error)
        sim_fail("a cache cannot be closed: %d (%s)", error, mnw_error());
    cache->handle = NULL; /* freed: nobody looks at it any more */
    cache->closing = false;
    if (cache->kept.size) {
        fake_fd_close(cache->kept.backing_fd);
        fake_fd_close(cache->kept.words_fd);
    }
    sim_store_close(&cache->store);
    free(cache->left);
    free(cache->refused);
    free(cache->told);
    free(cache->lacked);
}

static void end_prefetches(void) {
    uint64_t limit_ns = fiber_now() + 100000000000;
    while (take_events(), world.prefetch_ended < world.prefetch_count) {
        if (fiber_now() > limit_ns)
            sim_fail("%llu prefetches of %llu have not ended",
                     (unsigned long long)(world.prefetch_count - world.prefetch_ended),
                     (unsigned long long)world.prefetch_count);
        fiber_sleep(1000000, "prefetches to end");
    }
}

static void check_refused_closes(void) {
    if (mnw_pool_close(world.pool) != -EBUSY)
        sim_fail("a pool with caches open is closed");
    if (mnw_store_close(world.cache[0].store.handle) != -EBUSY)
        sim_fail("a store in use is closed");
    for (unsigned i = 0; i < world.views; i++)
        if (world.view[i].open && mnw_cache_close(world.view[i].cache->handle) != -EBUSY)
            sim_fail("a cache with views open is closed");
}

static void close_world(void) {
    check_refused_closes();
    fake_calm();
    for (unsigned i = 0; i < PINS_MAX; i++)
        if (world.pin[i].used)
            unpin(&world.pin[i]);
    for (unsigned i = 0; i < world.caches; i++)
        sim_store_stop(&world.cache[i].store);
    end_prefetches();
    for (unsigned i = 0; i < world.views; i++) {
        if (world.view[i].handle)
            close_view(&world.view[i]);
        free(world.view[i].copies);
    }
    close_children(true);
    for (unsigned i = 0; i < world.children; i++)
        free(world.child[i].copies);
    check_stats();
    if (world.last_stats.pinned_bytes)
        sim_fail("%llu bytes are pinned by nobody", (unsigned long long)world.last_stats.pinned_bytes);
    for (unsigned i = 0; i < world.caches; i++) {
        for (unsigned member = 0; member < mnw__member_count(world.cache[i].handle); member++)
            check_words(mnw__member(world.cache[i].handle, member));
        take_events();
        check_refusals(&world.cache[i]);
    }
    for (unsigned i = 0; i < world.caches; i++)
        close_cache(&world.cache[i]);
    check_stats();
    if (world.last_stats.resident_bytes || fake_resident())
        sim_fail("all caches are closed, and %llu bytes are charged, %llu resident",
                 (unsigned long long)world.last_stats.resident_bytes, (unsigned long long)fake_resident());
    for (unsigned i = 0; i < world.pool->thread_count; i++)
        if (atomic_load(&world.pool->threads[i].jobs_waiting))
            sim_fail("fault thread %u thinks that %u jobs wait for it", i, world.pool->threads[i].jobs_waiting);
    if (mnw_pool_close(world.pool))
        sim_fail("the pool cannot be closed: %s", mnw_error());
}

/* ---- the run ----------------------------------------------------------------------------------------------- */

static void describe(void) {
    static const char *const kinds[] = {"shmem", "graded", "hugetlb-2M", "hugetlb-1G"};
    fprintf(stderr, "  world: %s, extents of %llu, budget %llu, %u caches, %u views, %u consumers, %s%s%s\n",
            kinds[world.backing], (unsigned long long)world.extent_bytes, (unsigned long long)world.budget,
            world.caches, world.views, world.consumers, world.has_trouble ? "troubled" : "calm",
            world.is_prompt    ? ", prompt"
            : world.is_forking ? ", forking"
            : world.is_mortal  ? ", mortal"
            : world.is_crowded ? ", crowded"
            : world.is_churned ? ", churned"
                               : "",
            fake_config.has_poison ? "" : ", no poison");
    if (world.has_replicas)
        fprintf(stderr, "  a copy on each of %u nodes\n", fake_config.nodes);
    fprintf(stderr, "  troubles of the kernel:");
    for (int i = 0; i < FAKE_TROUBLES; i++)
        fprintf(stderr, " %u", fake_config.chance[i]);
    for (unsigned i = 0; i < world.caches; i++) {
        const struct sim_store *store = &world.cache[i].store;
        fprintf(stderr, "\n  store %u: %llu bytes, deadline %llu ms, %u retries%s, troubles:", i,
                (unsigned long long)store->size_bytes, (unsigned long long)store->deadline_ns / 1000000, store->retries,
                store->has_check ? ", checked" : "");
        for (int trouble = 0; trouble < STORE_TROUBLES; trouble++)
            fprintf(stderr, " %u", store->chance[trouble]);
    }
    fputc('\n', stderr);
}

struct mnw_cache *cache_of_alias(const void *alias, struct sim_cache **of) {
    for (unsigned i = 0; i < world.caches; i++) {
        struct sim_cache *cache = &world.cache[i];
        for (unsigned member = 0; cache->handle && !cache->closing && member < mnw__member_count(cache->handle);
             member++) {
            struct mnw_cache *handle = mnw__member(cache->handle, member);
            *of = cache;
            if (handle->backing.alias == alias)
                return handle;
        }
    }
    return NULL;
}

/* The rules of page.h, at the moment that counts. */
static void check_map(const void *alias, uint64_t page) {
    struct sim_cache *of;
    const struct mnw_cache *cache = cache_of_alias(alias, &of);
    if (!cache || page >= cache->pages.page_count)
        return;
    struct mnw__extent extent = mnw__extent_load(&cache->pages, mnw__extent_of(&cache->pages, page));
    if (mnw__page_state(mnw__page_load(&cache->pages, page)) != MNW__PAGE_PRESENT)
        sim_fail("page %llu is mapped, and its word is %u, not PRESENT", (unsigned long long)page,
                 mnw__page_load(&cache->pages, page));
    if (!extent.visitors && !extent.user_pins)
        sim_fail("page %llu is mapped by nobody who has entered or pinned its extent", (unsigned long long)page);
}

static bool may_break(const void *alias, uint64_t page) {
    struct sim_cache *of;
    const struct mnw_cache *cache = cache_of_alias(alias, &of);
    if (!cache || page >= cache->pages.page_count)
        return false;
    sim_store_blame_memory(&of->store, page);
    return true;
}

static void check_unbar(const void *alias, uint64_t page) {
    struct sim_cache *of;
    const struct mnw_cache *cache = cache_of_alias(alias, &of);
    if (!cache || page >= cache->pages.page_count)
        return;
    struct mnw__extent extent = mnw__extent_load(&cache->pages, mnw__extent_of(&cache->pages, page));
    if (mnw__page_state(mnw__page_load(&cache->pages, page)) != MNW__PAGE_PRESENT || !extent.user_pins)
        sim_fail("page %llu is mapped again, its word is %u, and its extent has %u pins", (unsigned long long)page,
                 mnw__page_load(&cache->pages, page), extent.user_pins);
}

static void check_punch(const void *alias, uint64_t page) {
    struct sim_cache *of;
    const struct mnw_cache *cache = cache_of_alias(alias, &of);
    if (!cache || page >= cache->pages.page_count)
        return;
    struct mnw__extent extent = mnw__extent_load(&cache->pages, mnw__extent_of(&cache->pages, page));
    enum mnw__page_state state = mnw__page_state(mnw__page_load(&cache->pages, page));
    bool is_taken_over = !world.is_mortal || world.is_serving; /* all of its caches, that is */
    if (is_taken_over && fake_resident() > atomic_load(&cache->pool->charged))
        sim_fail("%llu bytes are resident, and only %llu charged", (unsigned long long)fake_resident(),
                 (unsigned long long)atomic_load(&cache->pool->charged));
    if (extent.state == MNW__EXTENT_EVICTING && !extent.visitors && !extent.fills && !extent.user_pins)
        return;
    const char *address = (const char *)alias + page * world.page_bytes;
    if (extent.state == MNW__EXTENT_EVICTING && state == MNW__PAGE_PRESENT &&
        (fake_is_broken(address) || !fake_is_cached(address)))
        return; /* a visitor's, who has found it broken, though it may be lost by now */
    if (!extent.fills || state == MNW__PAGE_PRESENT || state == MNW__PAGE_ABSENT)
        sim_fail("page %llu is punched, its word is %u, its extent in state %u with %u visitors and %u fills",
                 (unsigned long long)page, state, extent.state, extent.visitors, extent.fills);
}

static void set_up_views(void) {
    for (unsigned i = 0; i < world.views; i++) {
        struct sim_view *view = &world.view[i];
        view->cache = &world.cache[i % world.caches];
        view->side = i % 2;
        view->uffd = view->held = -1;
        view->fiber = FIBER_NONE;
        view->copies = calloc((view->cache->store.size_bytes - 1) / world.page_bytes + 1, 1);
        if (!view->copies)
            sim_fail("no memory");
    }
}

static void live_long(void) {
    fake_may_lose = may_lose;
    open_pool();
    for (unsigned i = 0; i < world.caches; i++)
        open_cache(&world.cache[i]);
    open_views();
    int fibers[CONSUMERS_MAX + 2];
    unsigned count = 0;
    world.operations_left = (uint64_t)world.operators * world.operations_each;
    for (unsigned i = 0; i < world.consumers; i++)
        fibers[count++] = fiber_start("consumer", (int)random_below(fiber_random(), fake_config.nodes), consume, NULL);
    for (unsigned i = 0; i < world.operators; i++)
        fibers[count++] = fiber_start("operator", 0, operate, NULL);
    bool ended = false;
    int watchman = fiber_start("watchman", 0, keep_watch, &ended);
    for (unsigned i = 0; i < count; i++)
        fiber_join(fibers[i]);
    ended = true;
    fiber_join(watchman);
}

static void end_world(void *argument) {
    (void)argument;
    close_world();
}

static void live(void *argument) {
    (void)argument;
    sim_on_failure(describe);
    draw_world();
    set_up_views();
    if (world.is_churned) {
        live_churned();
        return;
    }
    if (world.is_mortal)
        live_and_die();
    else
        live_long();
    fiber_join(fiber_start_in(world.manager, "the end", 0, end_world, NULL));
}

void workload_run(uint64_t seed, bool trace) {
    memset(&world, 0, sizeof(world));
    world.has_replicas = !workload_always_forks && (workload_always_copies || random_mix(seed + 1) % 8 == 0);
    freed_keep();
    static const unsigned odds[] = {20, 100, 300, 700, 1024};
    fiber_begin(seed, odds[random_mix(seed) % 5], trace);
    fake_begin();
    fake_on_map = check_map;
    fake_on_unbar = check_unbar;
    fake_on_punch = check_punch;
    fake_may_break = may_break;
    fake_may_lose = NULL;
    fiber_start("world", 0, live, NULL);
    fiber_loop();
    fake_end();
    freed_check();
}
