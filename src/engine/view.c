/* SPDX-License-Identifier: MIT */
/* Opening and closing views, and what is done to every view of a cache. One view's mapping is in resolve.c. */
#include "engine/view.h"

#include "base/bits.h"
#include "base/error.h"
#include "engine/adopt.h"
#include "engine/fault.h"
#include "engine/pool.h"
#include "engine/remote.h"
#include "sys/memory.h"
#include "sys/numa.h"
#include "sys/uffd.h"

#include <errno.h>
#include <stdlib.h>

static size_t poisoned_bytes(const struct mnw_view *view) {
    return mnw__align_up(view->page_count, 64) / 8;
}

static bool is_poisoned(const struct mnw_view *view, uint64_t page) {
    uint64_t index = page - view->first_page;
    return view->poisoned[index / 64] >> (index % 64) & 1;
}

static void clear_poisoned(struct mnw_view *view, uint64_t page) {
    uint64_t index = page - view->first_page;
    view->poisoned[index / 64] &= ~(1ull << (index % 64));
    view->poisoned_count--;
}

/* ---- where pages lie ---- */

void mnw__view_hold(struct mnw_view *view) {
    if (view->remote)
        mnw__mutex_lock(&view->remote->hold);
}

void mnw__view_let_go(struct mnw_view *view) {
    if (view->remote)
        mnw__mutex_unlock(&view->remote->hold);
}

unsigned mnw__view_piece_count(const struct mnw_view *view) {
    return view->remote ? view->remote->piece_count : 1;
}

static struct mnw__piece piece_of(const struct mnw_view *view, unsigned index) {
    return view->remote ? view->remote->pieces[index]
                        : (struct mnw__piece){view->address, view->first_page, view->page_count};
}

bool mnw__view_clip(const struct mnw_view *view, unsigned index, uint64_t page, uint64_t count,
                    struct mnw__piece *part) {
    struct mnw__piece piece = piece_of(view, index);
    uint64_t first = mnw__max(page, piece.first_page);
    uint64_t end = mnw__min(page + count, piece.first_page + piece.page_count);
    if (first >= end)
        return false;
    part->address = piece.address + (first - piece.first_page) * view->cache->backing.page_bytes;
    part->first_page = first;
    part->page_count = end - first;
    return true;
}

bool mnw__view_page_at(const struct mnw_view *view, uintptr_t address, uint64_t *page) {
    unsigned shift = mnw__log2(view->cache->backing.page_bytes); /* every fault comes by here: no division */
    for (unsigned i = 0; i < mnw__view_piece_count(view); i++) {
        struct mnw__piece piece = piece_of(view, i);
        if (address < piece.address || (address - piece.address) >> shift >= piece.page_count)
            continue;
        *page = piece.first_page + ((address - piece.address) >> shift);
        return true;
    }
    return false;
}

/* ---- opening ---- */

int mnw__cache_range(const struct mnw_cache *cache, uint64_t offset, uint64_t length, uint64_t *page, uint64_t *count) {
    size_t page_bytes = cache->backing.page_bytes;
    if (!mnw__is_aligned(offset, page_bytes))
        return mnw__fail(-EINVAL, "view: offset %llu is not a multiple of the page size %zu",
                         (unsigned long long)offset, page_bytes);
    uint64_t first = offset / page_bytes;
    if (first >= cache->pages.page_count)
        return mnw__fail(-EINVAL, "view: offset %llu is past the end of the store (%llu bytes)",
                         (unsigned long long)offset, (unsigned long long)cache->backing.size_bytes);
    uint64_t pages_left = cache->pages.page_count - first;
    uint64_t pages = length ? (length - 1) / page_bytes + 1 : pages_left;
    if (pages > pages_left)
        return mnw__fail(-EINVAL, "view: %llu bytes from offset %llu reach past the end of the store",
                         (unsigned long long)length, (unsigned long long)offset);
    *page = first;
    *count = pages;
    return 0;
}

static int set_range(struct mnw_view *view, const struct mnw_view_options *options) {
    int error = mnw__cache_range(view->cache, options ? options->offset_bytes : 0, options ? options->length_bytes : 0,
                                 &view->first_page, &view->page_count);
    view->length = view->page_count * view->cache->backing.page_bytes;
    return error;
}

static int check_flags(struct mnw_view *view, const struct mnw_view_options *options) {
    unsigned flags = options ? options->flags : 0;
    const unsigned known = MNW_VIEW_WRITE | MNW_VIEW_INLINE | MNW_VIEW_ON_NODE;
    if (flags & ~known)
        return mnw__fail(-EINVAL, "view: unknown flags 0x%x", flags & ~known);
    if ((flags & MNW_VIEW_WRITE) && view->cache->members)
        return mnw__fail(-EINVAL, "view: a cache with `replicas` is for reading: MNW_VIEW_WRITE needs one without");
    view->writable = flags & MNW_VIEW_WRITE;
    view->is_inline = flags & MNW_VIEW_INLINE;
    enum mnw_backing kind = view->cache->backing.kind;
    if (view->writable && mnw__backing_is_hugetlb(kind))
        return mnw__fail(-EOPNOTSUPP, "view: writable views need a shmem or graded pool: on hugetlb, evicting a page "
                                      "would destroy the copies that writes make");
    return 0;
}

static int open_uffd(struct mnw_view *view) {
    uint64_t features = mnw__uffd_fault_features(mnw__backing_is_hugetlb(view->cache->backing.kind));
    features |= MNW__UFFD_THREAD_ID; /* follow.h */
    if (view->cache->pool->has_poison)
        features |= MNW__UFFD_POISON;
    if (view->is_inline)
        features |= MNW__UFFD_SIGBUS;
    int fd = mnw__uffd_open(features);
    if (fd < 0)
        return fd;
    view->uffd = fd;
    int error =
        mnw__uffd_register(fd, view->address, view->length, MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL);
    if (error) {
        mnw__uffd_close(fd);
        return mnw__fail(error, "view: the kernel refused to register %zu bytes with userfaultfd (error %d)",
                         view->length, -error);
    }
    return 0;
}

/* The views take turns over the threads of the cache's or the opener's node; over all, when the pool has none there. */
static struct mnw__fault_thread *choose_thread(const struct mnw_cache *cache) {
    struct mnw_pool *pool = cache->pool;
    unsigned turn = atomic_fetch_add_explicit(&pool->view_turn, 1, memory_order_relaxed);
    unsigned per_node = pool->thread_count / (unsigned)__builtin_popcountll(pool->nodes);
    int here = cache->node >= 0 ? cache->node : mnw__numa_here();
    for (unsigned first = 0; first < pool->thread_count; first += per_node) /* they lie node by node */
        if (pool->threads[first].node == here)
            return &pool->threads[first + turn % per_node];
    return &pool->threads[turn % pool->thread_count];
}

static void link_view(struct mnw_view *view) {
    struct mnw_cache *cache = view->cache;
    mnw__mutex_lock(&cache->views_lock);
    view->next = cache->views;
    cache->views = view;
    mnw__mutex_unlock(&cache->views_lock);
}

void mnw__view_link_child(struct mnw_view *child, struct mnw_view *parent) {
    struct mnw_cache *cache = child->cache;
    size_t words = poisoned_bytes(parent) / sizeof(*parent->poisoned);
    for (size_t i = 0; parent->poisoned_count && i < words; i++)
        if (parent->poisoned[i])
            child->poisoned[i] = parent->poisoned[i];
    child->poisoned_count = parent->poisoned_count;
    mnw__readahead_init(&child->readahead, cache->pages.page_count, cache->readahead_pages, cache->around_pages);
    child->next = cache->views;
    cache->views = child;
}

static void unlink_view(struct mnw_view *view) {
    struct mnw_cache *cache = view->cache;
    mnw__mutex_lock(&cache->views_lock);
    struct mnw_view **link = &cache->views;
    while (*link != view)
        link = &(*link)->next;
    *link = view->next;
    mnw__mutex_unlock(&cache->views_lock);
}

struct mnw_view *mnw__view_new(struct mnw_cache *cache) {
    struct mnw_view *view = calloc(1, sizeof(*view));
    if (!view) {
        mnw__fail(-ENOMEM, "view: out of memory");
        return NULL;
    }
    view->cache = cache;
    view->uffd = -1;
    view->thread = choose_thread(cache);
    mnw__record_init(&view->record);
    return view;
}

void mnw__view_free(struct mnw_view *view) {
    mnw__record_deinit(&view->record);
    mnw__memory_release(view->poisoned, poisoned_bytes(view));
    free(view);
}

/* From here on faults are served. */
int mnw__view_start(struct mnw_view *view) {
    const struct mnw_cache *cache = view->cache;
    mnw__readahead_init(&view->readahead, cache->pages.page_count, cache->readahead_pages, cache->around_pages);
    link_view(view);
    int error = mnw__fault_attach(view->thread, view);
    if (error)
        unlink_view(view);
    return error;
}

/* From here on nobody maps into it. */
void mnw__view_stop(struct mnw_view *view) {
    unlink_view(view);
    mnw__fault_detach(view);
}

static void presume_poisoned(void *context, uint64_t page) {
    struct mnw_view *view = context;
    view->poisoned[(page - view->first_page) / 64] |= 1ull << ((page - view->first_page) % 64);
    view->poisoned_count++;
}

int mnw__view_presume_poison(struct mnw_view *view) {
    return mnw__each_scar(view->cache, presume_poisoned, view);
}

int mnw__view_reserve(struct mnw_view *view) {
    view->poisoned = mnw__memory_reserve(poisoned_bytes(view));
    if (!view->poisoned)
        return mnw__fail(-ENOMEM, "view: no address space for %zu bytes of metadata", poisoned_bytes(view));
    return 0;
}

static int map_view(struct mnw_view *view) {
    int error = mnw__view_map_veiled(&view->cache->backing, mnw__cache_page_offset(view->cache, view->first_page),
                                     view->length, &view->address);
    if (error)
        return error;
    error = open_uffd(view);
    if (error)
        goto unmap;
    error = mnw__view_unveil(view->address, view->length, view->writable);
    if (!error)
        error = mnw__view_start(view);
    if (!error && view->is_inline) {
        error = mnw__inline_start(view);
        if (error)
            mnw__view_stop(view);
    }
    if (!error)
        return 0;
    mnw__uffd_close(view->uffd);
unmap:
    mnw__view_unmap(view->address, view->length);
    return error;
}

int mnw__view_open(struct mnw_view **out, struct mnw_cache *cache, const struct mnw_view_options *options) {
    struct mnw_view *view = mnw__view_new(cache);
    if (!view)
        return -ENOMEM;
    int error = set_range(view, options);
    if (!error)
        error = check_flags(view, options);
    if (!error)
        error = mnw__view_reserve(view);
    if (!error)
        error = map_view(view);
    if (error) {
        mnw__view_free(view);
        return error;
    }
    *out = view;
    return 0;
}

/*
 * First nobody maps into the view any more, then it is unmapped, and only then its waiters are woken: they
 * fault again and find no mapping.
 */
static void close_local(struct mnw_view *view) {
    /* A handler on top of us that touched the view would wait for its own thread. */
    mnw__signals_block();
    if (view->is_inline)
        mnw__inline_stop(view);
    mnw__view_stop(view);
    mnw__view_unmap(view->address, view->length);
    if (view->is_inline)
        mnw__inline_end(view);
    else
        mnw__uffd_wake(view->uffd, view->address, view->length);
    mnw__signals_restore();
    mnw__uffd_close(view->uffd);
    mnw__view_free(view);
}

int mnw__view_close(struct mnw_view *view) {
    if (view->remote)
        mnw__view_detach(view);
    else
        close_local(view);
    return 0;
}

/* ---- every view of a cache ---- */

/* The part of [page, page + *count) that the view holds; false when there is none. */
static bool clip(const struct mnw_view *view, uint64_t *page, uint64_t *count) {
    uint64_t first = mnw__max(*page, view->first_page);
    uint64_t end = mnw__min(*page + *count, view->first_page + view->page_count);
    if (first >= end)
        return false;
    *page = first;
    *count = end - first;
    return true;
}

void mnw__views_wake(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    mnw__mutex_lock(&cache->views_lock);
    for (struct mnw_view *view = cache->views; view; view = view->next) {
        mnw__view_hold(view);
        mnw__view_wake(view, page, count);
        mnw__view_let_go(view);
    }
    mnw__mutex_unlock(&cache->views_lock);
}

bool mnw__views_zap(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    bool any = false;
    mnw__mutex_lock(&cache->views_lock);
    for (struct mnw_view *view = cache->views; view; view = view->next) {
        uint64_t first = page, some = count;
        /* A writable view may hold private copies, which zapping would lose. Another process cannot be zapped. */
        if (!view->writable && !view->remote && clip(view, &first, &some))
            any |= !mnw__view_zap(mnw__view_address_of(view, first), some * cache->backing.page_bytes);
    }
    mnw__mutex_unlock(&cache->views_lock);
    return any;
}

/* The kernel without poison: see mnw__views_heal. */
static void unbar_page(struct mnw_view *view, uint64_t page) {
    struct mnw_cache *cache = view->cache;
    uintptr_t address = mnw__view_address_of(view, page);
    size_t length = cache->backing.page_bytes;
    if (mnw__page_state(mnw__page_load(&cache->pages, page)) != MNW__PAGE_PRESENT)
        return;
    int error = mnw__view_unbar(&cache->backing, mnw__cache_page_offset(cache, page), address, length, view->writable);
    if (!error)
        error = mnw__uffd_register(view->uffd, address, length, MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL);
    if (error) /* whatever is there now must not be read unregistered */
        mnw__view_bar(address, length);
    else
        clear_poisoned(view, page);
}

static void heal_remote(struct mnw_view *view, uint64_t page) {
    mnw__view_hold(view);
    if (mnw__view_replace_poison(view, page))
        clear_poisoned(view, page);
    mnw__view_let_go(view);
}

static void heal_page(struct mnw_view *view, uint64_t page) {
    if (view->remote)
        heal_remote(view, page);
    else if (!view->cache->pool->has_poison)
        unbar_page(view, page);
    else if (mnw__view_zap(mnw__view_address_of(view, page), view->cache->backing.page_bytes) == 0)
        clear_poisoned(view, page);
}

/* Calls `heal` or not for every poisoned page of the range; whether there was one. */
static bool each_poisoned(struct mnw_cache *cache, uint64_t page, uint64_t count, bool heal) {
    bool any = false;
    mnw__mutex_lock(&cache->views_lock);
    for (struct mnw_view *view = cache->views; view; view = view->next) {
        uint64_t first = page, some = count;
        if (!view->poisoned_count || !clip(view, &first, &some))
            continue;
        for (uint64_t end = first + some; first < end; first++) {
            if (!is_poisoned(view, first))
                continue;
            any = true;
            if (heal)
                heal_page(view, first);
        }
    }
    mnw__mutex_unlock(&cache->views_lock);
    return any;
}

bool mnw__views_have_poison(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    return each_poisoned(cache, page, count, false);
}

void mnw__views_heal(struct mnw_cache *cache, uint64_t page, uint64_t count) {
    each_poisoned(cache, page, count, true);
}
