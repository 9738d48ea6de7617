/* SPDX-License-Identifier: MIT */
#include "engine/survey.h"

#include "base/bits.h"
#include "engine/cache.h"
#include "engine/place.h"
#include "engine/pool.h"
#include "sys/numa.h"

#define KEPT_NS 1000000000ull
/* Pages asked about, in a millisecond or so, whatever the number of caches; of each, so many at least. */
#define PAGES       2048
#define PAGES_LEAST 32

void mnw__survey_init(struct mnw__surveyor *surveyor) {
    mnw__mutex_init(&surveyor->lock);
}

void mnw__survey_destroy(struct mnw__surveyor *surveyor) {
    mnw__mutex_destroy(&surveyor->lock);
}

static uint64_t part_of(uint64_t whole, uint64_t part, uint64_t of) {
    return of ? (uint64_t)((unsigned __int128)whole * part / of) : 0;
}

static void add_cache(struct mnw__survey *survey, struct mnw_cache *cache, uint64_t pages_max) {
    struct mnw_placement found = {0};
    mnw__place_survey(cache, pages_max, &found);
    uint64_t resident = atomic_load(&cache->charged);
    survey->sample.asked_bytes += found.asked_bytes;
    survey->sample.unknown_bytes += found.unknown_bytes;
    survey->sample.outside_bytes += found.outside_bytes;
    for (unsigned node = 0; node < MNW_NODES_MAX; node++) {
        survey->sample.node_bytes[node] += found.node_bytes[node];
        survey->resident_bytes[node] += part_of(resident, found.node_bytes[node], found.asked_bytes);
    }
}

static unsigned count_caches(struct mnw_pool *pool) {
    unsigned count = 0;
    mnw__mutex_lock(&pool->lock);
    for (const struct mnw_cache *cache = pool->caches; cache; cache = cache->next)
        count++;
    mnw__mutex_unlock(&pool->lock);
    return count;
}

static void look(struct mnw_pool *pool, struct mnw__survey *survey) {
    unsigned count = count_caches(pool);
    uint64_t pages_max = mnw__max(PAGES / mnw__max(count, 1), PAGES_LEAST);
    struct mnw_cache *cache;
    *survey = (struct mnw__survey){0};
    for (unsigned i = 0; (cache = mnw__cache_hold_nth(pool, i)); i++) {
        add_cache(survey, cache, pages_max);
        mnw__cache_let_go(cache);
    }
}

static bool is_kept(uint64_t taken_ns, uint64_t now_ns) {
    return taken_ns && now_ns - taken_ns < KEPT_NS;
}

void mnw__survey_get(struct mnw_pool *pool, struct mnw__survey *survey) {
    struct mnw__surveyor *surveyor = &pool->surveyor;
    uint64_t now_ns = mnw__clock_ns();
    mnw__mutex_lock(&surveyor->lock);
    bool is_fresh = is_kept(surveyor->taken_ns, now_ns);
    if (is_fresh)
        *survey = surveyor->last;
    mnw__mutex_unlock(&surveyor->lock);
    if (is_fresh)
        return;
    look(pool, survey); /* two that come at once look twice */
    mnw__mutex_lock(&surveyor->lock);
    surveyor->last = *survey;
    surveyor->taken_ns = now_ns;
    mnw__mutex_unlock(&surveyor->lock);
}

uint64_t mnw__survey_balancing(struct mnw_pool *pool) {
    struct mnw__surveyor *surveyor = &pool->surveyor;
    uint64_t now_ns = mnw__clock_ns();
    mnw__mutex_lock(&surveyor->lock);
    if (!is_kept(surveyor->balancing_ns, now_ns)) {
        surveyor->balancing = mnw__numa_balancing();
        surveyor->balancing_ns = now_ns;
    }
    uint64_t balancing = surveyor->balancing;
    mnw__mutex_unlock(&surveyor->lock);
    return balancing;
}
