/* SPDX-License-Identifier: MIT */
/*
 * What the process of a remote view does with its mapping: munmap, mremap, fork, exit. On the view's fault thread.
 *
 * The kernel queues an event when the mapping has changed already, and refuses CONTINUE and POISON (EAGAIN) until
 * the event was read and the thread that changed it runs again. Events are read while the view is held, and the pieces
 * brought up to date before it is let go: whoever maps by older pieces is refused, whoever comes later knows the new.
 */
#include "engine/remote.h"

#include "base/bits.h"
#include "engine/fault.h"
#include "engine/pool.h"
#include "sys/poller.h"

#include <errno.h>
#include <string.h>

/* A view beyond its limit, or that cannot be read just now, is left alone for so long at least. */
#define PARK_NS 1000000ull
/* So many visits without an event, and it is a consumer that plays with its descriptor. */
#define VAIN_MAX     16
#define VAIN_PARK_NS 20000000ull
#define RETRY_NS     1000000000ull
/* The reclaimer has other work, however fast consumers fork. */
#define SPARES_PER_ROUND 64
/* Below every view. */
#define LOW_ADDRESS 0x10000
#define LOW_BYTES   4096

/* ---- pieces ---- */

static size_t page_bytes_of(const struct mnw_view *view) {
    return view->cache->backing.page_bytes;
}

static bool follows(const struct mnw__piece *piece, const struct mnw__piece *before, size_t page_bytes) {
    return piece->address == before->address + before->page_count * page_bytes &&
           piece->first_page == before->first_page + before->page_count;
}

/* What lies side by side is one piece. A mapping torn further than there is room for loses pages: they are SIGBUS. */
static void add_piece(struct mnw__remote *remote, struct mnw__piece piece, size_t page_bytes) {
    if (!piece.page_count)
        return;
    for (unsigned i = 0; i < remote->piece_count;) {
        struct mnw__piece *other = &remote->pieces[i];
        bool behind = follows(&piece, other, page_bytes);
        if (!behind && !follows(other, &piece, page_bytes)) {
            i++;
            continue;
        }
        piece.page_count += other->page_count;
        if (behind) {
            piece.address = other->address;
            piece.first_page = other->first_page;
        }
        *other = remote->pieces[--remote->piece_count];
        i = 0;
    }
    if (remote->piece_count < MNW__PIECES_MAX)
        remote->pieces[remote->piece_count++] = piece;
}

/* The part of a piece that lies in [start, end), as pages of the piece; false when there is none. */
static bool cut(const struct mnw__piece *piece, size_t page_bytes, uintptr_t start, uintptr_t end, uint64_t *first,
                uint64_t *last) {
    uintptr_t piece_end = piece->address + piece->page_count * page_bytes;
    if (start >= piece_end || end <= piece->address)
        return false;
    *first = start <= piece->address ? 0 : (start - piece->address) / page_bytes;
    *last = end >= piece_end ? piece->page_count : (end - piece->address + page_bytes - 1) / page_bytes;
    return true;
}

static struct mnw__piece part_of(const struct mnw__piece *piece, size_t page_bytes, uint64_t first, uint64_t last) {
    return (struct mnw__piece){piece->address + first * page_bytes, piece->first_page + first, last - first};
}

/* While held. */
static void drop_held(struct mnw_view *view, uintptr_t start, uintptr_t end) {
    struct mnw__remote *remote = view->remote;
    size_t page_bytes = page_bytes_of(view);
    uint64_t first, last;
    for (unsigned i = remote->piece_count; i-- > 0;) {
        struct mnw__piece piece = remote->pieces[i];
        if (!cut(&piece, page_bytes, start, end, &first, &last))
            continue;
        remote->pieces[i] = remote->pieces[--remote->piece_count];
        add_piece(remote, part_of(&piece, page_bytes, 0, first), page_bytes);
        add_piece(remote, part_of(&piece, page_bytes, last, piece.page_count), page_bytes);
    }
}

void mnw__remote_drop(struct mnw_view *view, uintptr_t start, size_t length) {
    mnw__view_hold(view);
    drop_held(view, start, start + length);
    mnw__view_let_go(view);
    mnw__notices_add_view(&view->cache->pool->notices, view, MNW_VIEW_CHANGED_RANGES);
}

/* mremap(2). The old place stays ours (MREMAP_DONTUNMAP) until the event that says it was unmapped, which follows. */
static void move_held(struct mnw_view *view, uintptr_t from, uintptr_t to, size_t length) {
    struct mnw__remote *remote = view->remote;
    struct mnw__piece moved[MNW__PIECES_MAX];
    size_t page_bytes = page_bytes_of(view);
    unsigned count = 0;
    uint64_t first, last;
    for (unsigned i = 0; i < remote->piece_count; i++) {
        if (!cut(&remote->pieces[i], page_bytes, from, from + length, &first, &last))
            continue;
        moved[count] = part_of(&remote->pieces[i], page_bytes, first, last);
        moved[count].address = to + (moved[count].address - from);
        count++;
    }
    for (unsigned i = 0; i < count; i++)
        add_piece(remote, moved[i], page_bytes);
}

/* ---- fork ---- */

static bool wants_spare(const struct mnw_view *view) {
    return view->remote && view->remote->features & MNW__UFFD_EVENT_FORK && !view->remote->spare &&
           mnw__remote_may_fork(view);
}

/* What the child has inherited: the address space as it was, markers included. While the parent is held. */
static void inherit(struct mnw_view *child, struct mnw_view *parent) {
    struct mnw__remote *to = child->remote, *from = parent->remote;
    memcpy(to->pieces, from->pieces, from->piece_count * sizeof(from->pieces[0]));
    to->piece_count = from->piece_count;
    to->features = from->features;
    to->cookie = from->cookie;
    to->limit = mnw__limit_ref(from->limit);
    to->forked = true;
    if (mnw__remote_is_sealed(parent)) {
        atomic_fetch_add(&parent->cache->pool->sealed, 1);
        atomic_store(&to->sealed, true);
    }
    to->parent = parent;
    child->length = parent->length;
    child->writable = parent->writable;
    child->thread = parent->thread;
    to->keeps_all = from->keeps_all;
    if (to->keeps_all)
        mnw__cache_add_copied(child->cache);
}

/* The parent's thread, which is us, serves the child. */
static void serve_child(struct mnw_view *child) {
    struct mnw__fault_thread *thread = child->thread;
    mnw__uffd_tame(child->uffd);
    mnw__fault_adopt(thread, child);
    if (mnw__poller_add(thread->poller, child->uffd, child)) {
        child->remote->parked = true;
        child->remote->resume_ns = mnw__clock_ns() + PARK_NS;
        mnw__fault_due(thread, child->remote->resume_ns);
    }
}

/*
 * The child, whose faults wait since it was made. With views_lock and the parent held: SIGBUS that is taken off in the
 * parent from now on is taken off in the child too, and before, while the event was unread, it could not be. And who
 * holds the parent after the child ran finds that it was told of.
 */
static void adopt(struct mnw_view *parent, int fd) {
    struct mnw_view *child = parent->remote->spare;
    parent->remote->spare = NULL;
    inherit(child, parent);
    child->uffd = fd;
    mnw__view_link_child(child, parent);
    serve_child(child);
    mnw__notices_add_view(&child->cache->pool->notices, child, MNW_VIEW_CHANGED_FORKED);
}

static bool has_wanting(struct mnw_cache *cache) {
    bool found = false;
    mnw__mutex_lock(&cache->views_lock);
    for (struct mnw_view *view = cache->views; view && !found; view = view->next)
        found = wants_spare(view);
    mnw__mutex_unlock(&cache->views_lock);
    return found;
}

/* A cache with a view that wants a spare; it stays open until `evicting` falls again. */
static struct mnw_cache *find_wanting(struct mnw_pool *pool) {
    struct mnw_cache *found = NULL;
    mnw__mutex_lock(&pool->lock);
    for (struct mnw_cache *cache = pool->caches; cache && !found; cache = cache->next)
        if (has_wanting(cache))
            found = cache;
    if (found)
        atomic_fetch_add(&found->evicting, 1);
    mnw__mutex_unlock(&pool->lock);
    return found;
}

/* Gives the spare to a view that wants one; NULL when it was taken. */
static struct mnw_view *give_spare(struct mnw_cache *cache, struct mnw_view *spare) {
    mnw__mutex_lock(&cache->views_lock);
    for (struct mnw_view *view = cache->views; view && spare; view = view->next) {
        if (!wants_spare(view))
            continue;
        view->remote->spare = spare;
        spare = NULL;
    }
    mnw__mutex_unlock(&cache->views_lock);
    return spare;
}

bool mnw__remote_make_spare(struct mnw_cache *cache) {
    if (!has_wanting(cache))
        return true;
    struct mnw_view *spare = mnw__remote_new(cache);
    bool made = spare;
    if (spare)
        spare = give_spare(cache, spare);
    if (spare)
        mnw__remote_free(spare);
    return made;
}

void mnw__remote_make_spares(struct mnw_pool *pool) {
    struct mnw_cache *cache;
    for (unsigned count = 0; count < SPARES_PER_ROUND && (cache = find_wanting(pool)); count++) {
        bool made = mnw__remote_make_spare(cache);
        mnw__cache_let_go(cache);
        if (!made)
            break; /* no memory: asked for again with the view's next visit */
    }
}

/* ---- parking ---- */

static void park(struct mnw_view *view, uint64_t now_ns, uint64_t ns) {
    struct mnw__remote *remote = view->remote;
    struct mnw__fault_thread *thread = view->thread;
    remote->resume_ns = now_ns + ns;
    mnw__fault_due(thread, remote->resume_ns);
    if (remote->parked)
        return;
    remote->parked = true;
    mnw__poller_remove(thread->poller, view->uffd);
}

uint64_t mnw__remote_resume(struct mnw_view *view, uint64_t now_ns) {
    struct mnw__remote *remote = view->remote;
    if (now_ns < remote->resume_ns)
        return remote->resume_ns;
    if (mnw__poller_add(view->thread->poller, view->uffd, view)) {
        remote->resume_ns = now_ns + VAIN_PARK_NS; /* no memory for it just now */
        return remote->resume_ns;
    }
    remote->parked = false;
    return UINT64_MAX;
}

void mnw__remote_in_vain(struct mnw_view *view) {
    struct mnw__remote *remote = view->remote;
    if (remote->parked || ++remote->vain < VAIN_MAX)
        return;
    /* Its consumer made it block again, perhaps: epoll then reports it as broken without end. */
    remote->vain = 0;
    mnw__uffd_tame(view->uffd);
    park(view, mnw__clock_ns(), VAIN_PARK_NS);
}

/* How many events the view may have now; 0: it is parked until it may have some. */
static int allowed(struct mnw_view *view, int count) {
    struct mnw__remote *remote = view->remote;
    uint64_t wait_ns, now_ns;
    if (!remote->limit || remote->refused)
        return count;
    now_ns = mnw__clock_ns();
    count = mnw__limit_ask(remote->limit, now_ns, count, remote->has_turn, &wait_ns);
    if (!count) {
        remote->has_turn = true;
        park(view, now_ns, mnw__max(wait_ns, PARK_NS));
    }
    return count;
}

static void pay(struct mnw__remote *remote, int count) {
    if (remote->limit)
        mnw__limit_pay(remote->limit, count);
}

/* It was not served, so it costs nothing. */
void mnw__remote_refused(struct mnw_view *view) {
    view->remote->refused = true;
    pay(view->remote, -1);
}

bool mnw__remote_may_retry(struct mnw_view *view, uint64_t now_ns) {
    if (now_ns < view->remote->retry_ns)
        return false;
    view->remote->retry_ns = now_ns + RETRY_NS;
    return true;
}

/* ---- events ---- */

/* What a read brought besides faults. */
struct news {
    unsigned changes; /* MNW_VIEW_CHANGED_* */
    bool forked;
    bool any; /* of what the kernel refuses for */
};

/* While held; for a view with EVENT_FORK, in views_lock too. */
static void take_event(struct mnw_view *view, const struct mnw__uffd_event *event, struct news *news) {
    news->any |= event->kind != MNW__UFFD_EV_FAULT;
    switch (event->kind) {
    case MNW__UFFD_EV_FAULT:
        break; /* the caller's */
    case MNW__UFFD_EV_UNMAP:
        drop_held(view, event->address, event->address + event->length);
        news->changes |= MNW_VIEW_CHANGED_RANGES;
        break;
    case MNW__UFFD_EV_REMAP:
        move_held(view, event->address, event->to, event->length);
        news->changes |= MNW_VIEW_CHANGED_RANGES;
        break;
    case MNW__UFFD_EV_REMOVE:
        break; /* its pages are unmapped once we have read this, and fault again */
    case MNW__UFFD_EV_FORK:
        adopt(view, event->fd);
        news->forked = true;
        break;
    }
}

static int read_held(struct mnw_view *view, struct mnw__uffd_event *events, int count, struct news *news) {
    mnw__view_hold(view);
    int taken = mnw__uffd_read_nowait(view->uffd, events, count);
    for (int i = 0; i < taken; i++)
        take_event(view, &events[i], news);
    mnw__view_let_go(view);
    return taken;
}

/* One spare, one child, one event at a time. */
static int read_with_spare(struct mnw_view *view, struct mnw__uffd_event *events, struct news *news) {
    struct mnw_cache *cache = view->cache;
    mnw__mutex_lock(&cache->views_lock);
    bool may_fork = mnw__remote_may_fork(view), ready = may_fork && view->remote->spare;
    int taken = ready ? read_held(view, events, 1, news) : 0;
    mnw__mutex_unlock(&cache->views_lock);
    if (may_fork && (!ready || news->forked))
        mnw__poller_kick(cache->pool->reclaimer_poller);
    if (!ready)
        park(view, mnw__clock_ns(), may_fork ? PARK_NS : VAIN_PARK_NS);
    return ready ? taken : -EBUSY;
}

/* Who waits where the mapping was, finds another there now, or none. */
static void wake_moved(struct mnw_view *view, const struct mnw__uffd_event *events, int count) {
    for (int i = 0; i < count; i++)
        if (events[i].kind == MNW__UFFD_EV_UNMAP || events[i].kind == MNW__UFFD_EV_REMAP)
            mnw__uffd_wake(view->uffd, events[i].address, events[i].length);
}

static void tell(struct mnw_view *view, const struct mnw__uffd_event *events, int count, const struct news *news) {
    view->remote->in_motion = news->changes;
    if (news->changes) {
        wake_moved(view, events, count);
        mnw__notices_add_view(&view->cache->pool->notices, view, news->changes);
    }
}

int mnw__remote_read(struct mnw_view *view, struct mnw__uffd_event *events, int count) {
    struct mnw__remote *remote = view->remote;
    struct news news = {0};
    if (remote->parked)
        return 0;
    count = allowed(view, count);
    if (!count)
        return 0;
    int taken = remote->features & MNW__UFFD_EVENT_FORK ? read_with_spare(view, events, &news)
                                                        : read_held(view, events, count, &news);
    if (taken < 0 && !remote->parked)
        park(view, mnw__clock_ns(), VAIN_PARK_NS); /* no descriptor left for a child, perhaps */
    if (remote->refused && (!taken || news.any)) {
        remote->refused = false;
        mnw__fault_send_round(view);
    }
    if (taken <= 0)
        return 0;
    remote->vain = 0;
    pay(remote, taken);
    remote->has_turn = false;
    tell(view, events, taken, &news);
    return taken;
}

/* ---- faults outside ---- */

/* The piece that begins before the address, with no other between. */
static struct mnw__piece *piece_before(struct mnw_view *view, uintptr_t address) {
    struct mnw__remote *remote = view->remote;
    struct mnw__piece *best = NULL;
    for (unsigned i = 0; i < remote->piece_count; i++) {
        struct mnw__piece *piece = &remote->pieces[i];
        if (piece->address <= address && (!best || piece->address > best->address))
            best = piece;
    }
    return best;
}

/*
 * No event tells that a mapping grew, in place or as it moved. What lies behind a piece, in the same mapping, is its
 * growth. 1: it is; 0: it is not; -EAGAIN: the address space changes just now, and we have not read of it.
 */
static int grow(struct mnw_view *view, uintptr_t address) {
    struct mnw__piece *piece = piece_before(view, address);
    size_t page_bytes = page_bytes_of(view);
    uintptr_t known = piece ? piece->address + (piece->page_count - 1) * page_bytes : address;
    int is_one = mnw__uffd_is_one_mapping(view->uffd, known, address + page_bytes - known);
    if (is_one <= 0 || !piece)
        return is_one == -EAGAIN ? -EAGAIN : 0;
    uint64_t index = (address - piece->address) / page_bytes;
    if (piece->first_page + index >= view->cache->pages.page_count)
        return 0;
    mnw__view_hold(view);
    piece->page_count = mnw__max(piece->page_count, index + 1);
    mnw__view_let_go(view);
    mnw__notices_add_view(&view->cache->pool->notices, view, MNW_VIEW_CHANGED_RANGES);
    return 1;
}

/* Hugetlb mappings do not grow. */
static bool can_grow(const struct mnw_view *view) {
    enum mnw_backing kind = view->cache->backing.kind;
    return kind == MNW_BACKING_SHMEM || kind == MNW_BACKING_GRADED;
}

/*
 * While the address space changes, the fault may be at a place that we do not know yet, or know no more, and POISON is
 * refused: it is sent round. So is one that was read with the event, and may be older.
 */
bool mnw__remote_stray(struct mnw_view *view, uintptr_t address) {
    size_t page_bytes = page_bytes_of(view);
    int64_t done;
    address = mnw__align_down(address, page_bytes);
    int error = 0;
    if (!view->remote->in_motion) {
        error = can_grow(view) && !mnw__remote_is_sealed(view) ? grow(view, address) : 0;
        if (error > 0)
            return true;
        if (!error && view->cache->pool->has_poison)
            error = mnw__uffd_poison(view->uffd, address, page_bytes, 0, &done);
    }
    if (error == -EAGAIN)
        mnw__remote_refused(view);
    else if (error == -ENOMEM)
        mnw__fault_back_off(view);
    else
        mnw__uffd_wake(view->uffd, address, page_bytes);
    return false;
}

void mnw__remote_died(struct mnw_view *view) {
    struct mnw__remote *remote = view->remote;
    if (!remote || atomic_exchange(&remote->dead, true))
        return;
    mnw__notices_add_view(&view->cache->pool->notices, view, MNW_VIEW_CHANGED_DEAD);
    if (mnw__remote_is_sealed(view))
        mnw__poller_kick(view->cache->pool->reclaimer_poller);
}

/*
 * No event tells that a process has ended. Nothing can be copied to where nothing is watched: the kernel says first
 * whether there is an address space at all.
 */
void mnw__remote_watch(struct mnw_view *view) {
    if (mnw__uffd_is_one_mapping(view->uffd, LOW_ADDRESS, LOW_BYTES) == -ESRCH)
        mnw__remote_died(view);
}
