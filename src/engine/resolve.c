/* SPDX-License-Identifier: MIT */
/*
 * Resolving: what is done to one view's page table, and how each answer of the kernel is read.
 *
 * CONTINUE stops at the first obstacle and says little: a positive progress with -EAGAIN means "ask again
 * from there", and the next call names the obstacle. It wakes nobody on an error, so each error path wakes.
 */
#include "engine/view.h"

#include "engine/fault.h"
#include "engine/pool.h"
#include "engine/remote.h"
#include "sys/uffd.h"

#include <errno.h>

/* How often a transient refusal is asked again before the waiters are sent round through the kernel. */
#define TRIES_MAX 16

void mnw__view_wake(struct mnw_view *view, uint64_t page, uint64_t count) {
    struct mnw__piece part;
    if (view->is_inline) {
        mnw__inline_wake(view->cache, page, count);
        return;
    }
    for (unsigned i = 0; i < mnw__view_piece_count(view); i++)
        if (mnw__view_clip(view, i, page, count, &part))
            mnw__uffd_wake(view->uffd, part.address, part.page_count * view->cache->backing.page_bytes);
}

void mnw__view_wake_all(struct mnw_view *view) {
    mnw__view_wake(view, view->first_page, view->page_count);
}

/* One CONTINUE of pages [at, at + count) of a piece; pages done, and the error that stopped it or 0. */
static int map_some(struct mnw_view *view, const struct mnw__piece *piece, uint64_t at, uint64_t count, bool wake,
                    uint64_t *done) {
    size_t page_bytes = view->cache->backing.page_bytes;
    int64_t bytes = 0;
    int error = mnw__uffd_continue(view->uffd, piece->address + at * page_bytes, count * page_bytes,
                                   wake ? 0 : MNW__UFFD_DONTWAKE, &bytes);
    *done = error == 0 ? count : bytes > 0 ? (uint64_t)bytes / page_bytes : 0;
    return error;
}

static enum mnw__map give_up(struct mnw_view *view, uint64_t page, uint64_t count, enum mnw__map how) {
    mnw__view_wake(view, page, count);
    return how;
}

static enum mnw__map map_piece(struct mnw_view *view, const struct mnw__piece *piece, uint64_t wanted, bool wake) {
    uint64_t page = piece->first_page, count = piece->page_count, at = 0, step = count;
    unsigned tries = 0;
    enum mnw__map result = MNW__MAP_DONE;
    while (at < count) {
        uint64_t done = 0;
        int error = map_some(view, piece, at, step < count - at ? step : count - at, wake, &done);
        mnw__count(&view->cache->counters, MNW__PAGES_MAPPED, done);
        at += done;
        if (at >= wanted && (error || at >= count))
            break;
        if (done) {
            tries = 0;
            continue;
        }
        if (error == -EEXIST) { /* mapped already; a waiter may have come before it was */
            mnw__view_wake(view, page + at, 1);
            at++;
        } else if (error == -EFAULT) {
            result = at == 0 ? MNW__MAP_LOST : MNW__MAP_AGAIN;
            break;
        } else if (error == -EIO) {
            result = at == 0 ? MNW__MAP_BROKEN : MNW__MAP_AGAIN;
            break;
        } else if (error == -ENOENT && step > 1) {
            step = 1; /* a part of the range is no longer ours (unmapped, or barred): the rest may be */
        } else if (error == -ENOENT) {
            result = give_up(view, page + at++, 1, MNW__MAP_GONE);
        } else if (error == -ESRCH) {
            mnw__remote_died(view);
            result = give_up(view, page + at, count - at, MNW__MAP_GONE);
            break;
        } else if (++tries == TRIES_MAX || error != -EAGAIN) {
            result = error == -ENOMEM ? MNW__MAP_SCARCE : MNW__MAP_AGAIN;
            break;
        }
    }
    return result;
}

/* Of two pieces' answers, the one that asks more of the caller. */
static enum mnw__map worse(enum mnw__map a, enum mnw__map b) {
    static const int weight[] = {[MNW__MAP_DONE] = 0,   [MNW__MAP_GONE] = 1, [MNW__MAP_AGAIN] = 2,
                                 [MNW__MAP_SCARCE] = 3, [MNW__MAP_LOST] = 4, [MNW__MAP_BROKEN] = 4};
    return weight[a] > weight[b] ? a : b;
}

enum mnw__map mnw__view_map_pages(struct mnw_view *view, uint64_t page, uint64_t count, uint64_t wanted, bool wake) {
    enum mnw__map result = MNW__MAP_DONE;
    struct mnw__piece part;
    if (mnw__record_is_on(&view->record)) {
        /* A neighbour that is mapped along is never seen touched; and of a run we know not who waits for what. */
        if (wanted > 1)
            mnw__view_wake(view, page, wanted);
        if (wanted != 1)
            return MNW__MAP_DONE;
        count = 1;
    }
    for (unsigned i = 0; i < mnw__view_piece_count(view); i++) {
        if (!mnw__view_clip(view, i, page, count, &part))
            continue;
        uint64_t skipped = part.first_page - page, left = wanted > skipped ? wanted - skipped : 0;
        enum mnw__map how = map_piece(view, &part, left < part.page_count ? left : part.page_count, wake);
        if ((how == MNW__MAP_LOST || how == MNW__MAP_BROKEN) && skipped)
            how = MNW__MAP_AGAIN; /* not the first page that the caller asked for */
        result = worse(result, how);
    }
    if (wake && view->is_inline) /* the kernel knows nothing of who waits */
        mnw__inline_wake(view->cache, page, count);
    return result;
}

bool mnw__view_promote(struct mnw_view *view, uint64_t extent) {
    struct mnw_cache *cache = view->cache;
    uint64_t first = mnw__extent_first(&cache->pages, extent);
    uint64_t count = mnw__extent_end(&cache->pages, extent) - first;
    if (view->writable || view->remote || mnw__record_is_on(&view->record) || !mnw__view_holds(view, first) ||
        !mnw__view_holds(view, first + count - 1))
        return false;
    int error = mnw__view_collapse(mnw__view_address_of(view, first), count * cache->backing.page_bytes);
    if (error) {
        /* A copied page, or a kernel that cannot: it would be refused each time. */
        if (error == -EINVAL)
            mnw__extent_set_unfit(&cache->pages, extent);
        return false;
    }
    mnw__count(&cache->counters, MNW__PAGES_PROMOTED, 1);
    mnw__view_wake(view, first, count);
    return true;
}

static void set_poisoned(struct mnw_view *view, uint64_t page) {
    uint64_t index = page - view->first_page, bit = 1ull << (index % 64);
    view->poisoned_count += !(view->poisoned[index / 64] & bit);
    view->poisoned[index / 64] |= bit;
}

/*
 * POISON wakes only when it took. EEXIST: the page is mapped after all (by an earlier fault of the same batch), or
 * has its marker already: either way its waiters can go on, and nothing has changed.
 */
static int poison_at(struct mnw_view *view, uintptr_t address) {
    int error;
    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        int64_t done = 0;
        error = mnw__uffd_poison(view->uffd, address, view->cache->backing.page_bytes, 0, &done);
        if (error != -EAGAIN)
            break;
    }
    return error;
}

static bool leaves_waiting(int error) {
    return error && error != -EEXIST && error != -ENOENT && error != -ESRCH;
}

/* In every piece that holds the page. The error that leaves somebody waiting, if any; 0 when one took it. */
static int install_poison(struct mnw_view *view, uint64_t page) {
    struct mnw__piece part;
    int result = -ENOENT, waiting = 0;
    for (unsigned i = 0; i < mnw__view_piece_count(view); i++) {
        if (!mnw__view_clip(view, i, page, 1, &part))
            continue;
        int error = poison_at(view, part.address);
        if (!error)
            set_poisoned(view, page);
        if (error == -ESRCH)
            mnw__remote_died(view);
        if (leaves_waiting(error))
            waiting = error;
        if (!error || result)
            result = error;
    }
    return waiting ? waiting : result;
}

/* SIGBUS by the kernel's poison, or by a mapping of an empty file. */
static int install(struct mnw_view *view, uint64_t page) {
    if (view->cache->pool->has_poison)
        return install_poison(view, page);
    int error = mnw__view_bar(mnw__view_address_of(view, page), view->cache->backing.page_bytes);
    if (!error)
        set_poisoned(view, page);
    return error;
}

int mnw__view_poison_page(struct mnw_view *view, uint64_t page) {
    struct mnw_cache *cache = view->cache;
    int error = 0;
    if (view->is_inline) { /* its threads look at the word themselves */
        mnw__view_wake(view, page, 1);
        return 0;
    }
    /* Under the lock no healing comes between the look at the word and the marker. */
    mnw__mutex_lock(&cache->views_lock);
    if (mnw__page_state(mnw__page_load(&cache->pages, page)) == MNW__PAGE_FAILED) {
        error = install(view, page);
        if (!error)
            mnw__count(&cache->counters, MNW__FAULTS_FAILED, 1);
    }
    mnw__mutex_unlock(&cache->views_lock);
    if (leaves_waiting(error))
        return error;
    mnw__view_wake(view, page, 1);
    return 0;
}

bool mnw__view_replace_poison(struct mnw_view *view, uint64_t page) {
    struct mnw__piece part;
    bool replaced = true;
    const struct mnw__pages *pages = &view->cache->pages;
    /* An extent that is being taken away may be mapped by nobody any more. */
    if (mnw__page_state(mnw__page_load(pages, page)) != MNW__PAGE_PRESENT ||
        mnw__extent_load(pages, mnw__extent_of(pages, page)).state != MNW__EXTENT_RESIDENT)
        return false;
    for (unsigned i = 0; i < mnw__view_piece_count(view); i++) {
        uint64_t done = 0;
        if (!mnw__view_clip(view, i, page, 1, &part))
            continue;
        int error = map_some(view, &part, 0, 1, true, &done);
        replaced &= error == 0 || error == -EEXIST || error == -ENOENT || error == -ESRCH;
    }
    return replaced;
}
