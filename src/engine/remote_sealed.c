/* SPDX-License-Identifier: MIT */
/*
 * Children whose view was closed.
 *
 * A child's userfaultfd is known to us alone. With it closed the child would read zeros: where it has never been, and
 * where it has been as soon as those pages are evicted. So closing such a view seals it: it is barred where the child
 * has not been, and stays with its fault thread, which ends each further fault in SIGBUS; the child's own children are
 * born sealed. It goes when its process is gone, or with the cache: then nothing is evicted any more, and what is not
 * mapped is barred for good (the child's children inherit that).
 */
#include "base/bits.h"
#include "engine/fault.h"
#include "engine/pool.h"
#include "engine/remote.h"

#include <errno.h>
#include <string.h>

/* A child that changes its mapping all the time is not waited for longer than this, of 0.1 ms each. */
#define SEAL_TRIES 100000
/* Barred at a time: its fault thread, which serves others too, waits for so many. */
#define BAR_PAGES 1024

/* Where the pages lie by now. */
static int bar_pages(struct mnw_view *view, uint64_t page, uint64_t count) {
    size_t page_bytes = view->cache->backing.page_bytes;
    struct mnw__piece part;
    int result = 0;
    mnw__view_hold(view);
    for (unsigned i = 0; i < mnw__view_piece_count(view) && (!result || result == -ENOENT); i++)
        if (mnw__view_clip(view, i, page, count, &part))
            result = mnw__uffd_bar(view->uffd, part.address, part.page_count * page_bytes, page_bytes);
    mnw__view_let_go(view);
    return result;
}

/* Everything that is not mapped. A child that forks meanwhile needs a spare, and nobody else may make it any more. */
static void bar(struct mnw_view *view) {
    struct mnw__piece pieces[MNW__PIECES_MAX];
    unsigned count, tries = 0;
    mnw__view_hold(view);
    count = view->remote->piece_count;
    memcpy(pieces, view->remote->pieces, count * sizeof(*pieces));
    mnw__view_let_go(view);
    for (unsigned i = 0; i < count; i++) {
        uint64_t end = pieces[i].first_page + pieces[i].page_count;
        for (uint64_t page = pieces[i].first_page; page < end;) {
            uint64_t some = mnw__min(end - page, BAR_PAGES);
            if (bar_pages(view, page, some) != -EAGAIN || tries++ >= SEAL_TRIES) {
                page += some;
                continue;
            }
            mnw__remote_make_spare(view->cache);
            mnw__sleep_ns(100000);
        }
    }
}

/* While it lives its fault thread bars each page of that which is touched; nobody will any more. */
static void take_growth(struct mnw_view *view) {
    for (unsigned tries = 0; mnw__remote_take_growth(view) == -EAGAIN && tries < SEAL_TRIES; tries++) {
        mnw__remote_make_spare(view->cache);
        mnw__sleep_ns(100000);
    }
}

void mnw__remote_seal(struct mnw_view *view) {
    struct mnw_cache *cache = view->cache;
    mnw__remote_enlist_sealed(view);
    /* Not for what comes later, but in case that this process dies. */
    bar(view);
    mnw__mutex_lock(&cache->views_lock);
    view->poisoned_count = 0; /* nobody heals it any more */
    mnw__mutex_unlock(&cache->views_lock);
    /* From the moment it is sealed it may be buried, but not while we have the lock of its thread. */
    mnw__mutex_lock(&view->thread->lock);
    atomic_fetch_add(&cache->pool->sealed, 1);
    atomic_store(&view->remote->sealed, true);
    mnw__notices_forget(&cache->pool->notices, view);
    mnw__view_wake_all(view);
    mnw__mutex_unlock(&view->thread->lock);
}

bool mnw__remote_may_fork(const struct mnw_view *view) {
    return !mnw__remote_is_sealed(view) || atomic_load(&view->cache->pool->sealed) < MNW__SEALED_MAX;
}

/* A sealed view whose process is gone; its cache stays open until `evicting` falls again. */
static struct mnw_view *find_dead(struct mnw_pool *pool) {
    struct mnw_view *found = NULL;
    mnw__mutex_lock(&pool->lock);
    for (struct mnw_cache *cache = pool->caches; cache && !found; cache = cache->next) {
        mnw__mutex_lock(&cache->views_lock);
        for (struct mnw_view *view = cache->views; view && !found; view = view->next)
            if (mnw__remote_is_sealed(view) && atomic_load(&view->remote->dead))
                found = view;
        mnw__mutex_unlock(&cache->views_lock);
    }
    if (found)
        atomic_fetch_add(&found->cache->evicting, 1);
    mnw__mutex_unlock(&pool->lock);
    return found;
}

void mnw__remote_bury(struct mnw_pool *pool) {
    struct mnw_view *view;
    while ((view = find_dead(pool))) {
        struct mnw_cache *cache = view->cache;
        mnw__remote_end(view);
        mnw__cache_let_go(cache);
    }
}

static struct mnw_view *first_view(struct mnw_cache *cache) {
    mnw__mutex_lock(&cache->views_lock);
    struct mnw_view *view = cache->views;
    mnw__mutex_unlock(&cache->views_lock);
    return view;
}

/* A child that is born meanwhile comes first. */
void mnw__remote_end_sealed(struct mnw_cache *cache) {
    struct mnw_view *view;
    while ((view = first_view(cache))) {
        mnw__remote_drop_unwatched(view);
        take_growth(view);
        bar(view);
        mnw__remote_end(view);
    }
}
