/* SPDX-License-Identifier: MIT */
#include "engine/place.h"

#include "base/bits.h"
#include "base/point.h"
#include "engine/adopt.h"
#include "engine/cache.h"
#include "engine/fault.h"
#include "engine/member.h"
#include "engine/pool.h"
#include "sys/backing.h"
#include "sys/numa.h"
#include "sys/thread.h"

#include <errno.h>

/* A consumer may set its policy again just when ours was put back. */
#define TRIES 4
/* Pages asked for in one system call. */
#define BATCH 64
/* Extents that a sample looks at. */
#define EXTENTS_MAX 65536

/* Where the nodes are chosen here, the kernel has no policy but the thread's, as under `local`. */
static enum mnw_numa kernels_policy(const struct mnw_pool *pool) {
    return pool->turns.count ? MNW_NUMA_LOCAL : pool->numa;
}

void mnw__place_begin(struct mnw__fault_thread *thread) {
    thread->place = (struct mnw__place){.home = thread->node, .node = thread->node, .preferred = -1};
    mnw__numa_set_thread_policy(kernels_policy(thread->pool), mnw__nodes_now(thread->pool));
}

void mnw__place_for_thread(struct mnw__place *place, uint32_t faulter) {
    place->faulter = faulter;
    place->node = -1;
}

void mnw__place_for_node(struct mnw__place *place, int node) {
    place->faulter = 0;
    place->node = node;
}

static uint64_t policy_bytes(const struct mnw_cache *cache) {
    const struct mnw_pool *pool = cache->pool;
    return mnw__align_up(cache->backing.size_bytes, pool->whole_extents ? pool->extent_bytes : pool->page_bytes);
}

int mnw__place_set_policy(struct mnw_cache *cache) {
    const struct mnw_pool *pool = cache->pool;
    return mnw__numa_set_range_policy(cache->backing.alias, policy_bytes(cache), kernels_policy(pool),
                                      mnw__nodes_now(pool));
}

/* -1: nothing is known of it. */
static int node_of_thread(uint32_t thread, const struct mnw_pool *pool) {
    int cpu = thread ? mnw__thread_cpu_of(thread) : -1;
    return cpu >= 0 && cpu < MNW__PLACE_CPUS ? pool->node_of_cpu[cpu] : -1;
}

int mnw__place_faulter_node(const struct mnw__place *place, const struct mnw_pool *pool) {
    int node = node_of_thread(place->faulter, pool);
    return node >= 0 && mnw__nodes_now(pool) >> node & 1 ? node : -1;
}

/* A faulter that nothing is known of, or whose node is not the pool's, is taken to be where its fault thread is. */
static int node_of_faulter(struct mnw__place *place, const struct mnw_pool *pool, uint64_t nodes) {
    if (place->node < 0)
        place->node = node_of_thread(place->faulter, pool);
    if (place->node < 0 || !(nodes >> place->node & 1))
        place->node = nodes >> place->home & 1 ? place->home : __builtin_ctzll(nodes);
    return place->node;
}

/*
 * When nodes come or go the kernel changes the policies of threads by itself. The count is read before the nodes, and
 * raised after them: who sees a new one sees the new nodes, and who sees an old one comes again.
 */
static void keep_up(struct mnw__place *place, const struct mnw_pool *pool) {
    uint32_t changes = atomic_load(&pool->nodes_now.changes);
    if (place->changes == changes)
        return;
    mnw__point("nodes changed");
    place->changes = changes;
    place->preferred = -1;
    mnw__numa_set_thread_policy(kernels_policy(pool), mnw__nodes_now(pool));
}

static void prefer(struct mnw__place *place, int node) {
    if (node != place->preferred && !mnw__numa_set_thread_policy(MNW_NUMA_PREFERRED, 1ull << node))
        place->preferred = node;
}

/* The nodes that the memory should come from. */
static uint64_t wanted_nodes(struct mnw__place *place, const struct mnw_pool *pool) {
    uint64_t nodes = mnw__nodes_now(pool), here;
    switch (pool->numa) {
    case MNW_NUMA_LOCAL:
        if (!place) {
            here = 1ull << mnw__numa_here();
            return nodes & here ? here : nodes;
        }
        prefer(place, node_of_faulter(place, pool, nodes));
        return 1ull << place->node;
    case MNW_NUMA_PREFERRED:
        return nodes & -nodes;
    case MNW_NUMA_INTERLEAVE:
    case MNW_NUMA_BIND:
        break;
    }
    return nodes;
}

/* The policy of the file at an offset is made the pool's again; true when it was another. */
static bool put_policy_right(struct mnw_cache *cache, uint64_t offset) {
    const struct mnw_pool *pool = cache->pool;
    uint32_t changes = atomic_load(&pool->nodes_now.changes);
    uint64_t nodes = mnw__nodes_now(pool);
    if (!mnw__numa_is_redirected((char *)cache->backing.alias + offset, kernels_policy(pool), nodes))
        return false;
    /* Since nodes came or went it is our own that is out of date. */
    if (atomic_exchange(&cache->policy_changes, changes) == changes || kernels_policy(pool) == MNW_NUMA_LOCAL)
        mnw__count(&cache->counters, MNW__POLICIES_FOREIGN, 1);
    return !mnw__numa_put_range_policy(cache->backing.alias, policy_bytes(cache), kernels_policy(pool), nodes);
}

/* How many pages of the range lie on none of the nodes, and where the first one is. Pages nobody can see do not. */
static uint64_t count_elsewhere(struct mnw_cache *cache, uint64_t offset, size_t length, uint64_t nodes,
                                uint64_t *first) {
    uint64_t page_bytes = cache->backing.page_bytes, elsewhere = 0;
    for (uint64_t end = offset + length; offset < end;) {
        void *addresses[BATCH];
        int found[BATCH];
        size_t count = 0;
        for (; count < BATCH && offset < end; offset += page_bytes)
            addresses[count++] = (char *)cache->backing.alias + offset;
        if (mnw__numa_where(addresses, found, count))
            return elsewhere;
        for (size_t i = 0; i < count; i++)
            if (found[i] >= 0 && !(nodes >> found[i] & 1) && !elsewhere++)
                *first = offset - (count - i) * page_bytes;
    }
    return elsewhere;
}

/* From these nodes, which the thread's policy or the file's names already. */
static int allocate_from(struct mnw_cache *cache, uint64_t offset, size_t length, bool fresh, uint64_t nodes) {
    struct mnw_pool *pool = cache->pool;
    struct mnw__backing *backing = &cache->backing;
    /* Another page of a graded extent may be on its way into the memory already: it is not taken back. */
    bool is_ours = backing->kind != MNW_BACKING_GRADED;
    uint64_t elsewhere, first = offset;
    put_policy_right(cache, offset);
    for (unsigned tries = 1;; tries++) {
        int error = mnw__backing_allocate(backing, offset, length);
        if (error || !fresh)
            return error;
        if (mnw__backing_is_hugetlb(backing->kind))
            mnw__backing_map_alias(backing, offset, length);
        elsewhere = count_elsewhere(cache, offset, length, nodes, &first);
        if (!elsewhere || !is_ours || tries == TRIES || !put_policy_right(cache, first) ||
            mnw__backing_punch(backing, offset, length))
            break;
    }
    /* Should it not be punched now, the caller will, as he does after any allocation that failed. */
    if (elsewhere && is_ours && pool->numa == MNW_NUMA_BIND) {
        mnw__backing_punch(backing, offset, length);
        return -ENOSPC;
    }
    if (!elsewhere)
        return 0;
    mnw__count(&cache->counters, MNW__PAGES_ELSEWHERE, elsewhere);
    if (mnw__is_power_of_two(nodes))
        atomic_fetch_add_explicit(&pool->elsewhere[__builtin_ctzll(nodes)], elsewhere, memory_order_relaxed);
    return 0;
}

/* As long as it has any, whatever the thread's policy is. */
static int allocate_on(struct mnw__place *place, struct mnw_cache *cache, uint64_t offset, size_t length, bool fresh,
                       int node) {
    struct mnw__numa_own own;
    if (place)
        prefer(place, node);
    bool is_lent = !place && mnw__numa_lend(node, &own);
    int error = allocate_from(cache, offset, length, fresh, 1ull << node);
    if (is_lent)
        mnw__numa_take_back(&own);
    return error;
}

/* ---- nodes that take turns ---- */

static int node_of_turn(const struct mnw_cache *cache, uint64_t offset) {
    const struct mnw_pool *pool = cache->pool;
    uint64_t turn = cache->first_turn + offset / pool->extent_bytes, nodes = mnw__nodes_now(pool);
    int node = (int)mnw__turns_node(&pool->turns, turn);
    if (nodes >> node & 1)
        return node;
    for (turn %= (uint64_t)__builtin_popcountll(nodes); turn; turn--) /* it has left: the others take its turns */
        nodes &= nodes - 1;
    return __builtin_ctzll(nodes);
}

/* The end of what comes from one node. */
static uint64_t end_of_turn(const struct mnw_cache *cache, uint64_t offset, uint64_t end) {
    uint64_t extent_bytes = cache->pool->extent_bytes, at = offset;
    do
        at = mnw__align_down(at, extent_bytes) + extent_bytes;
    while (at < end && node_of_turn(cache, at) == node_of_turn(cache, offset));
    return mnw__min(at, end);
}

static int allocate_in_turn(struct mnw__place *place, struct mnw_cache *cache, uint64_t offset, size_t length,
                            bool fresh) {
    int error = 0;
    for (uint64_t end = offset + length, next; offset < end && !error; offset = next) {
        next = end_of_turn(cache, offset, end);
        error = allocate_on(place, cache, offset, next - offset, fresh, node_of_turn(cache, offset));
    }
    return error;
}

int mnw__place_allocate(struct mnw__place *place, struct mnw_cache *cache, uint64_t offset, size_t length, bool fresh) {
    const struct mnw_pool *pool = cache->pool;
    if (!mnw__nodes_are_several(pool))
        return mnw__backing_allocate(&cache->backing, offset, length);
    if (place)
        keep_up(place, pool);
    if (cache->node >= 0)
        return allocate_on(place, cache, offset, length, fresh, cache->node);
    if (pool->turns.count)
        return allocate_in_turn(place, cache, offset, length, fresh);
    return allocate_from(cache, offset, length, fresh, wanted_nodes(place, pool));
}

/* ---- who is where ---- */

void mnw__place_note_access(const struct mnw__place *place, struct mnw_cache *cache, uint64_t page) {
    void *address = (char *)cache->backing.alias + mnw__cache_page_offset(cache, page);
    int here = place ? node_of_thread(place->faulter, cache->pool) : mnw__numa_here(), there;
    if (here < 0 || mnw__numa_where(&address, &there, 1) || there < 0)
        return;
    mnw__count(&cache->counters, MNW__FAULTS_PLACED, 1);
    if (here != there)
        mnw__count(&cache->counters, MNW__FAULTS_REMOTE, 1);
}

/* ---- where it lies now ---- */

struct survey {
    const struct mnw_cache *cache;
    struct mnw_placement *placement;
    void *addresses[BATCH];
    size_t count;
    uint64_t step, skip, asked; /* one present page of each `step` is asked about; to be passed over now; so far */
};

static void count_node(struct survey *survey, int node) {
    const struct mnw_pool *pool = survey->cache->pool;
    struct mnw_placement *placement = survey->placement;
    uint64_t page_bytes = survey->cache->backing.page_bytes;
    placement->asked_bytes += page_bytes;
    if (node < 0 || node >= MNW_NODES_MAX) {
        placement->unknown_bytes += page_bytes;
        return;
    }
    placement->node_bytes[node] += page_bytes;
    if (!(mnw__nodes_now(pool) >> node & 1))
        placement->outside_bytes += page_bytes;
}

static void ask(struct survey *survey) {
    const struct mnw_pool *pool = survey->cache->pool;
    int found[BATCH];
    bool are_several = mnw__nodes_are_several(pool);
    bool is_told = are_several && !mnw__numa_where(survey->addresses, found, survey->count);
    for (size_t i = 0; i < survey->count; i++)
        count_node(survey, is_told ? found[i] : are_several ? -1 : __builtin_ctzll(pool->nodes));
    survey->count = 0;
}

static void add_page(struct survey *survey, uint64_t page) {
    const struct mnw_cache *cache = survey->cache;
    if (mnw__member_count_before(cache, page))
        survey->placement->copied_bytes += cache->backing.page_bytes;
    survey->addresses[survey->count++] = (char *)cache->backing.alias + mnw__cache_page_offset(cache, page);
    if (survey->count == BATCH)
        ask(survey);
}

/*
 * One of `width` to look at, another one each time: pages that lie on each node in turn would show one node alone to
 * whoever looks at every second one.
 */
static uint64_t scatter(uint64_t index, uint64_t width) {
    uint64_t bits = (index + 1) * 0x9e3779b97f4a7c15ull;
    return ((bits ^ bits >> 29) * 0xbf58476d1ce4e5b9ull >> 20) % width;
}

/* Present pages to be passed over before the next one that is asked about: one of each `step` is. */
static uint64_t pass_over(struct survey *survey) {
    uint64_t step = survey->step, asked = survey->asked++;
    return step - 1 - scatter(asked, step) + scatter(asked + 1, step);
}

static void look_into(struct survey *survey, uint64_t extent) {
    const struct mnw__pages *pages = &survey->cache->pages;
    for (uint64_t page = mnw__extent_first(pages, extent); page < mnw__extent_end(pages, extent); page++) {
        if (mnw__page_state(mnw__page_load(pages, page)) != MNW__PAGE_PRESENT)
            continue;
        if (survey->skip) {
            survey->skip--;
            continue;
        }
        add_page(survey, page);
        survey->skip = pass_over(survey);
    }
}

void mnw__place_survey(struct mnw_cache *cache, uint64_t pages_max, struct mnw_placement *placement) {
    const struct mnw__pages *pages = &cache->pages;
    uint64_t stride = pages_max ? pages->extent_count / EXTENTS_MAX + 1 : 1;
    uint64_t resident = atomic_load(&cache->charged) / cache->backing.page_bytes / stride;
    struct survey survey = {.cache = cache, .placement = placement, .step = pages_max ? resident / pages_max + 1 : 1};
    survey.skip = scatter(0, survey.step);
    for (uint64_t first = 0; first < pages->extent_count; first += stride) {
        uint64_t extent = first + scatter(first, stride);
        if (stride == 1)
            extent = first = mnw__words_next_extent(cache, first, pages->extent_count);
        if (extent >= pages->extent_count)
            break;
        uint64_t present = mnw__extent_load(pages, extent).present;
        if (survey.skip >= present)
            survey.skip -= present;
        else
            look_into(&survey, extent);
    }
    if (survey.count)
        ask(&survey);
}
