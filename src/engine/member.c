/* SPDX-License-Identifier: MIT */
#include "engine/member.h"

#include "base/bits.h"
#include "base/error.h"
#include "base/point.h"
#include "engine/cache.h"
#include "engine/pin.h"
#include "engine/pool.h"
#include "engine/reclaim.h"
#include "sys/backing.h"
#include "sys/numa.h"
#include "sys/thread.h"

#include <errno.h>
#include <stdlib.h>

/* Pages asked for in one system call. */
#define BATCH 64

/* ---- who they are ---- */

unsigned mnw__member_count(const struct mnw_cache *cache) {
    return cache->members ? cache->members->count : 1;
}

struct mnw_cache *mnw__member(struct mnw_cache *cache, unsigned index) {
    return cache->members ? cache->members->list[index] : cache;
}

struct mnw_cache *mnw__member_first(struct mnw_cache *cache) {
    return mnw__member(cache, 0);
}

struct mnw_cache *mnw__member_of_node(struct mnw_cache *cache, int node) {
    for (unsigned i = 0; i < mnw__member_count(cache); i++)
        if (mnw__member(cache, i)->node == node)
            return mnw__member(cache, i);
    return mnw__member_first(cache);
}

struct mnw_cache *mnw__member_here(struct mnw_cache *cache) {
    return cache->members ? mnw__member_of_node(cache, mnw__numa_here()) : cache;
}

static bool has_page(const struct mnw_cache *cache, uint64_t page) {
    return mnw__page_state(mnw__page_load(&cache->pages, page)) == MNW__PAGE_PRESENT;
}

unsigned mnw__member_count_before(const struct mnw_cache *cache, uint64_t page) {
    unsigned count = 0;
    for (unsigned i = 0; i < cache->member_index; i++)
        count += has_page(cache->members->list[i], page);
    return count;
}

/* ---- copying ---- */

/* PRESENT pages from `page` on, within one extent. */
static uint64_t count_present(const struct mnw_cache *cache, uint64_t page, uint64_t most) {
    uint64_t end = mnw__min(page + most, mnw__extent_end(&cache->pages, mnw__extent_of(&cache->pages, page)));
    uint64_t at = page;
    while (at < end && has_page(cache, at))
        at++;
    return at - page;
}

/*
 * Were they there all the while? A page that vanished behind our back was read as zeros, and is a hole still: nobody
 * fills it while we visit. Where it cannot be told, it counts as lost.
 */
static bool were_there(const struct mnw_cache *from, uint64_t page, uint64_t count) {
    for (uint64_t end = page + count; page < end;) {
        void *addresses[BATCH];
        int nodes[BATCH];
        size_t asked = 0;
        for (; asked < BATCH && page < end; page++)
            addresses[asked++] = (char *)from->backing.alias + mnw__cache_page_offset(from, page);
        if (mnw__numa_where(addresses, nodes, asked))
            return false;
        for (size_t i = 0; i < asked; i++)
            if (nodes[i] < 0)
                return false;
    }
    return true;
}

/* The same of one extent of one member; returns pages. */
static uint64_t copy_from(struct mnw_cache *from, uint64_t page, uint64_t most, char *buffer, size_t room) {
    struct mnw__pages *pages = &from->pages;
    uint64_t extent = mnw__extent_of(pages, page), page_bytes = from->backing.page_bytes;
    if (!has_page(from, page) || !mnw__extent_visit(pages, extent))
        return 0;
    uint64_t count = count_present(from, page, most);
    mnw__point("member copy");
    if (count && (mnw__backing_read(&from->backing, page * page_bytes, buffer, mnw__min(count * page_bytes, room)) ||
                  !were_there(from, page, count)))
        count = 0;
    mnw__extent_leave(pages, extent);
    return count;
}

/* From whichever member has the page. */
static uint64_t copy_from_any(struct mnw_cache *cache, uint64_t page, uint64_t most, char *buffer, size_t room) {
    uint64_t copied = 0;
    for (unsigned i = 0; i < cache->members->count && !copied; i++)
        if (cache->members->list[i] != cache)
            copied = copy_from(cache->members->list[i], page, most, buffer, room);
    return copied;
}

static bool is_elsewhere(const struct mnw_cache *cache, uint64_t page) {
    for (unsigned i = 0; i < cache->members->count; i++)
        if (cache->members->list[i] != cache && has_page(cache->members->list[i], page))
            return true;
    return false;
}

int64_t mnw__member_copy(struct mnw_cache *cache, struct mnw_read *read) {
    struct mnw__members *members = cache->members;
    if (!members || members->count == 1)
        return 0;
    uint64_t page_bytes = cache->backing.page_bytes, first = read->offset / page_bytes;
    uint64_t count = (read->length - 1) / page_bytes + 1, done = 0;
    /* Not a load: see the head of member.h. */
    if (atomic_fetch_add(&members->bars, 0))
        return 0;
    mnw__point("member unbarred");
    for (uint64_t more = 1; more && done < count; done += more)
        more = copy_from_any(cache, first + done, count - done, (char *)read->buffer + done * page_bytes,
                             read->length - done * page_bytes);
    if (done)
        return (int64_t)mnw__min(done * page_bytes, read->length);
    for (done = 1; done < count && !is_elsewhere(cache, first + done);)
        done++;
    read->length = mnw__min(read->length, done * page_bytes);
    return 0;
}

/* ---- what is done to all of them ---- */

int mnw__members_pin(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    for (unsigned i = 0; i < mnw__member_count(cache); i++) {
        int error = mnw__pin_pages(mnw__member(cache, i), page, count);
        if (!error)
            continue;
        while (i--)
            mnw__unpin_pages(mnw__member(cache, i), page, count);
        return error;
    }
    return 0;
}

int mnw__members_unpin(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    int error = 0;
    for (unsigned i = 0; !error && i < mnw__member_count(cache); i++)
        error = mnw__unpin_pages(mnw__member(cache, i), page, count);
    return error;
}

/* Of two results the one that says that less is forgotten, and how far all is. -EIO: all, and yet a page is SIGBUS. */
static void add_result(int error, uint64_t stuck, int *worst, uint64_t *worst_stuck) {
    bool is_worse = error != -EIO && (!*worst || *worst == -EIO);
    if (!error || (error == -EIO && *worst && *worst != -EIO))
        return;
    if (is_worse || stuck < *worst_stuck)
        *worst_stuck = stuck;
    if (is_worse || !*worst)
        *worst = error;
}

int mnw__members_reclaim(struct mnw_cache *cache, uint64_t page, uint64_t count, uint64_t *stuck) {
    struct mnw__members *members = cache->members;
    if (!members)
        return mnw__reclaim_range(cache, page, count, stuck);
    int worst = 0;
    *stuck = UINT64_MAX;
    atomic_fetch_add(&members->bars, 1);
    for (unsigned i = 0; i < members->count; i++) {
        uint64_t at;
        int error = mnw__reclaim_range(members->list[i], page, count, &at);
        if (!i && error && at == UINT64_MAX) { /* pinned, and all of them are: nothing is forgotten */
            worst = error;
            break;
        }
        add_result(error, at == UINT64_MAX ? page : at, &worst, stuck); /* pinned meanwhile: in this one */
    }
    atomic_fetch_sub(&members->bars, 1);
    return worst;
}

/* ---- opening and closing ---- */

/* What has one copy for everybody, or must not lose any, has no replicas. */
static int refuse(const struct mnw_pool *pool, const struct mnw_cache_options *options) {
    if (options->keep || options->kept)
        return mnw__fail(-EINVAL, "mnw_cache_open: a cache with `replicas` cannot be kept nor taken over: leave `keep` "
                                  "and `kept` alone");
    if (pool->numa != MNW_NUMA_LOCAL)
        return mnw__fail(-EINVAL, "mnw_cache_open: `replicas` need a pool of MNW_NUMA_LOCAL: the pool's policy says "
                                  "itself where memory lies");
    if (pool->backing == MNW_BACKING_HUGETLB_1G)
        return mnw__fail(-EOPNOTSUPP, "mnw_cache_open: no `replicas` of pages of 1 GiB: a fault would copy for longer "
                                      "than others may wait; take MNW_BACKING_HUGETLB_2M");
    return 0;
}

static int open_each(struct mnw__members *members, struct mnw_pool *pool, struct mnw_store *store,
                     const struct mnw_cache_options *options) {
    for (uint64_t left = pool->nodes; left; left &= left - 1) {
        /* On one node there is nothing to choose. */
        int node = __builtin_popcountll(pool->nodes) > 1 ? __builtin_ctzll(left) : -1;
        int error = mnw__cache_open(&members->list[members->count], pool, store, options, members, node);
        if (error) {
            while (members->count)
                mnw__cache_close(members->list[--members->count]);
            return error;
        }
        members->count++;
    }
    return 0;
}

int mnw__members_open(struct mnw_cache **cache, struct mnw_pool *pool, struct mnw_store *store,
                      const struct mnw_cache_options *options) {
    if (!options->replicas)
        return mnw__cache_open(cache, pool, store, options, NULL, -1);
    int error = refuse(pool, options);
    if (error)
        return error;
    struct mnw__members *members = calloc(1, sizeof(*members));
    if (!members)
        return mnw__fail(-ENOMEM, "cache: out of memory");
    error = open_each(members, pool, store, options);
    if (error) {
        free(members);
        return error;
    }
    *cache = members->list[0];
    return 0;
}

int mnw__members_close(struct mnw_cache *cache) {
    struct mnw__members *members = cache->members;
    unsigned count = mnw__member_count(cache);
    for (unsigned i = 0; i < count; i++) {
        int error = mnw__cache_is_closable(mnw__member(cache, i));
        if (error)
            return error;
    }
    for (unsigned i = count; i--;)
        mnw__cache_close(members ? members->list[i] : cache);
    free(members);
    return 0;
}
