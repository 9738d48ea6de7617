/* SPDX-License-Identifier: MIT */
/* Attaching and detaching remote views: what a consumer says is checked here. What it does later is in remote_events.c.
 */
#include "engine/remote.h"

#include "base/bits.h"
#include "base/error.h"
#include "engine/fault.h"
#include "engine/pool.h"
#include "engine/reclaim.h"
#include "sys/memory.h"
#include "sys/process.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Every remote view of this process, whatever its pool: one userfaultfd can serve one view only. */
static struct {
    _Atomic uint32_t state; /* 0: not made yet; 1: being made; 2: made */
    struct mnw__mutex lock; /* a leaf */
    struct mnw_view *first; /* lock */
} remotes;

static void lock_remotes(void) {
    uint32_t unmade = 0;
    if (atomic_compare_exchange_strong(&remotes.state, &unmade, 1)) {
        mnw__mutex_init(&remotes.lock);
        atomic_store(&remotes.state, 2);
    }
    while (atomic_load(&remotes.state) != 2)
        mnw__sleep_ns(1000);
    mnw__mutex_lock(&remotes.lock);
}

#ifdef MNW_SIMULATED
void mnw__remote_forget_all(void) {
    remotes.state = 0;
    remotes.first = NULL;
}
#endif

/* ---- what was said ---- */

static bool is_hugetlb(const struct mnw_cache *cache) {
    return mnw__backing_is_hugetlb(cache->backing.kind);
}

static int check_address(const struct mnw_view *view, uint64_t address, size_t length) {
    size_t page_bytes = view->cache->backing.page_bytes;
    if (!address || !mnw__is_aligned(address, page_bytes))
        return mnw__fail(-EINVAL, "attach: address 0x%llx is not a multiple of the page size %zu",
                         (unsigned long long)address, page_bytes);
    if (address > UINTPTR_MAX - length)
        return mnw__fail(-EINVAL, "attach: %zu bytes from address 0x%llx leave the address space", length,
                         (unsigned long long)address);
    return 0;
}

static int take_range(struct mnw_view *view, const struct mnw_view_range *range) {
    struct mnw__remote *remote = view->remote;
    struct mnw__piece piece = {.address = range->address};
    size_t length = 0;
    int error =
        mnw__cache_range(view->cache, range->offset_bytes, range->length_bytes, &piece.first_page, &piece.page_count);
    if (!error) {
        length = piece.page_count * view->cache->backing.page_bytes;
        error = check_address(view, range->address, length);
    }
    if (error)
        return error;
    view->length += length;
    remote->pieces[remote->piece_count++] = piece;
    return 0;
}

static int take_ranges(struct mnw_view *view, const struct mnw_attach_options *options) {
    if (!options->range_count)
        return take_range(view, &(struct mnw_view_range){.address = options->address,
                                                         .offset_bytes = options->offset_bytes,
                                                         .length_bytes = options->length_bytes});
    if (options->range_count > MNW__PIECES_MAX || !options->ranges)
        return mnw__fail(-EINVAL, "attach: `ranges` must not be NULL, and `range_count` not more than %d",
                         MNW__PIECES_MAX);
    int error = 0;
    for (size_t i = 0; i < options->range_count && !error; i++)
        error = take_range(view, &options->ranges[i]);
    return error;
}

/* One of its own is its children's too. */
static int take_limit(struct mnw__remote *remote, const struct mnw_attach_options *options) {
    if (options->limit && options->faults_per_second)
        return mnw__fail(-EINVAL, "attach: `faults_per_second` and `limit` exclude each other");
    if (options->limit)
        remote->limit = mnw__limit_ref(options->limit);
    else if (options->faults_per_second && !(remote->limit = mnw__limit_new(options->faults_per_second)))
        return mnw__fail(-ENOMEM, "attach: out of memory");
    return 0;
}

static int take_options(struct mnw_view *view, const struct mnw_attach_options *options) {
    struct mnw__remote *remote = view->remote;
    const unsigned known = MNW_VIEW_WRITE | MNW_VIEW_FORKED;
    if (options->flags & ~known)
        return mnw__fail(-EINVAL, "attach: unknown flags 0x%x", options->flags & ~known);
    if (options->pid < 0)
        return mnw__fail(-EINVAL, "attach: there is no process %d; 0 stands for an unknown one", (int)options->pid);
    view->writable = options->flags & MNW_VIEW_WRITE;
    remote->forked = options->flags & MNW_VIEW_FORKED;
    remote->pid = options->pid;
    remote->cookie = options->cookie;
    int error = take_limit(remote, options);
    return error ? error : take_ranges(view, options);
}

static int check_features(const struct mnw_cache *cache, const struct mnw__uffd_description *description) {
    uint64_t needed = mnw__uffd_fault_features(is_hugetlb(cache));
    needed |= MNW__UFFD_EVENT_REMAP | MNW__UFFD_EVENT_UNMAP;
    if (cache->pool->has_poison)
        needed |= MNW__UFFD_POISON;
    if (!description->initialised)
        return mnw__fail(-EINVAL,
                         "attach: no UFFDIO_API was done on the userfaultfd; the consumer must do it, with "
                         "the features 0x%llx",
                         (unsigned long long)needed);
    if (needed & ~description->features)
        return mnw__fail(-EINVAL,
                         "attach: the userfaultfd lacks the features 0x%llx; the consumer must ask for them "
                         "in UFFDIO_API",
                         (unsigned long long)(needed & ~description->features));
    if (description->features & MNW__UFFD_SIGBUS)
        return mnw__fail(-EINVAL, "attach: the userfaultfd has UFFD_FEATURE_SIGBUS, so that no fault would ever be "
                                  "seen here; the consumer must not ask for it");
    if (description->features & MNW__UFFD_EVENT_FORK && !cache->pool->has_poison)
        return mnw__fail(-EOPNOTSUPP, "attach: the userfaultfd has UFFD_FEATURE_EVENT_FORK, and without UFFDIO_POISON "
                                      "(Linux 6.6) a child whose view is closed would read zeros; the consumer must "
                                      "not ask for it, and keep its mapping from children by MADV_DONTFORK");
    return 0;
}

static int take_uffd(struct mnw_view *view, int fd) {
    struct mnw__uffd_description description;
    int error = mnw__uffd_describe(fd, &description);
    if (error)
        return mnw__fail(error == -ENOENT ? -EBADF : error, "attach: descriptor %d is no userfaultfd", fd);
    error = check_features(view->cache, &description);
    if (error)
        return error;
    view->remote->features = description.features;
    view->remote->identity = description.identity;
    view->uffd = mnw__uffd_duplicate(fd);
    if (view->uffd < 0)
        return mnw__fail(view->uffd,
                         "attach: duplicating the userfaultfd: %s; raise the limit on open files "
                         "(ulimit -n) if that is the cause",
                         strerror(-view->uffd));
    error = mnw__uffd_tame(view->uffd);
    return error ? mnw__fail(error, "attach: the userfaultfd cannot be made non-blocking: %s", strerror(-error)) : 0;
}

/* ---- what is there ---- */

static int check_mapping(const struct mnw_view *view, const struct mnw__piece *piece) {
    const struct mnw__remote *remote = view->remote;
    const struct mnw__backing *backing = &view->cache->backing;
    size_t length = piece->page_count * backing->page_bytes;
    static const char *const wrong[] = {
        [MNW__MAPPED_NOTHING] = "is not mapped, or in part only",
        [MNW__MAPPED_OTHER_FILE] = "maps something that is not the descriptor of mnw_cache_fd()",
        [MNW__MAPPED_OTHER_OFFSET] = "maps another offset",
        [MNW__MAPPED_SHARED] = "is mapped MAP_SHARED; map it MAP_PRIVATE",
        [MNW__MAPPED_WRITABLE] = "is mapped writable; map it PROT_READ, or attach it with MNW_VIEW_WRITE",
    };
    if (!remote->pid)
        return 0;
    /* On shmem writing costs nobody anything, whatever was said; on hugetlb the copies would be lost. */
    bool may_write = view->writable || !is_hugetlb(view->cache);
    enum mnw__mapped mapped = mnw__process_maps(remote->pid, piece->address, length, backing->readonly_fd,
                                                mnw__cache_page_offset(view->cache, piece->first_page), may_write);
    if (mapped == MNW__MAPPED_AS_SAID || mapped == MNW__MAPPED_UNSEEN)
        return 0;
    return mnw__fail(-EINVAL, "attach: the range of %zu bytes at 0x%llx in process %d %s", length,
                     (unsigned long long)piece->address, (int)remote->pid, wrong[mapped]);
}

static int arm(const struct mnw_view *view, const struct mnw__piece *piece) {
    size_t length = piece->page_count * view->cache->backing.page_bytes;
    unsigned long long address = piece->address;
    uint64_t ioctls = 0;
    int error =
        mnw__uffd_register(view->uffd, piece->address, length, MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, &ioctls);
    if (error == -EBUSY)
        return mnw__fail(error,
                         "attach: part of the %zu bytes at 0x%llx is watched by another userfaultfd; detach the "
                         "view it belongs to first",
                         length, address);
    if (error == -ENOMEM)
        return mnw__fail(-ESRCH, "attach: the process of the userfaultfd is gone");
    if (error)
        return mnw__fail(error,
                         "attach: the userfaultfd cannot watch %zu bytes at 0x%llx (error %d): they must be a "
                         "private mapping of the descriptor of mnw_cache_fd(), in the process that made the "
                         "userfaultfd",
                         length, address, -error);
    if (!(ioctls & MNW__UFFD_TAKES_CONTINUE))
        return mnw__fail(-EINVAL, "attach: the kernel takes no UFFDIO_CONTINUE for the %zu bytes at 0x%llx", length,
                         address);
    return 0;
}

/* What somebody's userfaultfd watches can be registered only if it is ours, and stays as it is. Other failures say
 * nothing of whose it is. */
static bool is_ours(const struct mnw_view *view, const struct mnw__piece *piece, int is_watched) {
    if (is_watched <= 0)
        return is_watched; /* the address space changes: that will be read of */
    size_t length = piece->page_count * view->cache->backing.page_bytes;
    int error =
        mnw__uffd_register(view->uffd, piece->address, length, MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL);
    return error != -EBUSY && error != -EINVAL;
}

/* In the order of addresses: what follows the last is part of it. More than there is room for is SIGBUS. */
static void add_watched(struct mnw__remote *remote, struct mnw__piece piece, size_t page_bytes) {
    struct mnw__piece *last = remote->piece_count ? &remote->pieces[remote->piece_count - 1] : NULL;
    if (last && last->address + last->page_count * page_bytes == piece.address &&
        last->first_page + last->page_count == piece.first_page)
        last->page_count += piece.page_count;
    else if (remote->piece_count < MNW__PIECES_MAX)
        remote->pieces[remote->piece_count++] = piece;
}

/* Each takes the kernel less than a microsecond; whoever takes a daemon over waits for them. */
#define LOOKS_MAX (1u << 20)

/* Keeps of a piece what is watched still. 0, -ESRCH, or -E2BIG when finding out would take too long. */
static int keep_watched(struct mnw_view *view, struct mnw__piece piece, unsigned *looks) {
    struct mnw__remote *remote = view->remote;
    size_t page_bytes = view->cache->backing.page_bytes;
    if (!(*looks)--)
        return mnw__fail(-E2BIG, "attach: the child has unmapped too much of what was said of it");
    int is_watched = mnw__uffd_is_one_mapping(view->uffd, piece.address, piece.page_count * page_bytes);
    if (is_watched == -ESRCH)
        return mnw__fail(-ESRCH, "attach: the child is gone");
    if (is_watched) {
        if (is_ours(view, &piece, is_watched))
            add_watched(remote, piece, page_bytes);
        return 0;
    }
    if (piece.page_count == 1)
        return 0;
    struct mnw__piece half = piece;
    half.page_count /= 2;
    piece.address += half.page_count * page_bytes;
    piece.first_page += half.page_count;
    piece.page_count -= half.page_count;
    int error = keep_watched(view, half, looks);
    return error ? error : keep_watched(view, piece, looks);
}

/*
 * A child's ranges were watched from its birth. What was said of them may be a moment too old: where the child has
 * something else by now, that is none of ours.
 */
static int arm_forked(struct mnw_view *view) {
    struct mnw__remote *remote = view->remote;
    struct mnw__piece said[MNW__PIECES_MAX];
    unsigned count = remote->piece_count, looks = LOOKS_MAX;
    int error = 0;
    memcpy(said, remote->pieces, count * sizeof(*said));
    remote->piece_count = 0;
    for (unsigned i = 0; i < count && !error; i++)
        error = keep_watched(view, said[i], &looks);
    return error;
}

/* It is not told when its consumer takes a range off the userfaultfd, where another's may be by now. */
void mnw__remote_drop_unwatched(struct mnw_view *view) {
    if (is_hugetlb(view->cache)) /* the kernel does not tell */
        return;
    mnw__mutex_lock(&view->thread->lock);
    mnw__view_hold(view);
    struct mnw__piece said[MNW__PIECES_MAX];
    unsigned count = view->remote->piece_count;
    memcpy(said, view->remote->pieces, count * sizeof(*said));
    if (arm_forked(view)) {
        memcpy(view->remote->pieces, said, count * sizeof(*said));
        view->remote->piece_count = count;
    }
    mnw__view_let_go(view);
    mnw__mutex_unlock(&view->thread->lock);
}

/* How far what is watched goes on behind a piece: 0, or -EAGAIN: the address space changes just now. */
static int add_growth(struct mnw_view *view, unsigned index) {
    struct mnw__piece *piece = &view->remote->pieces[index];
    size_t page_bytes = view->cache->backing.page_bytes;
    uint64_t pages = view->cache->backing.size_bytes / page_bytes, other; /* behind the file's end the kernel bars */
    for (uint64_t some = 1; some;) {
        struct mnw__piece more = {piece->address + piece->page_count * page_bytes,
                                  piece->first_page + piece->page_count, some};
        if (more.first_page >= pages || mnw__view_page_at(view, more.address, &other))
            return 0;
        int is_watched = mnw__uffd_is_one_mapping(view->uffd, more.address, some * page_bytes);
        if (is_watched < 0)
            return is_watched;
        if (is_watched && is_ours(view, &more, is_watched)) {
            piece->page_count += some;
            some *= 2;
        } else {
            some /= 2;
        }
    }
    return 0;
}

int mnw__remote_take_growth(struct mnw_view *view) {
    int error = 0;
    if (is_hugetlb(view->cache)) /* does not grow */
        return 0;
    mnw__mutex_lock(&view->thread->lock);
    mnw__view_hold(view);
    for (unsigned i = 0; i < view->remote->piece_count && !error; i++)
        error = add_growth(view, i);
    mnw__view_let_go(view);
    mnw__mutex_unlock(&view->thread->lock);
    return error;
}

/* All of them are looked at before any is changed. */
static int arm_all(struct mnw_view *view) {
    const struct mnw__remote *remote = view->remote;
    int error = 0;
    if (remote->forked && !remote->pid && !is_hugetlb(view->cache))
        return arm_forked(view);
    for (unsigned i = 0; i < remote->piece_count && !error; i++)
        error = check_mapping(view, &remote->pieces[i]);
    for (unsigned i = 0; i < remote->piece_count && !error; i++)
        error = arm(view, &remote->pieces[i]);
    return error;
}

/* ---- pages that cannot be evicted ---- */

/*
 * On hugetlb the kernel destroys the copies that writers made when their page is evicted. So while there is a
 * writable view, all of its cache stays, and must fit beside the others of which that is true.
 */
static int keep_all(struct mnw_view *view) {
    struct mnw_cache *cache = view->cache;
    struct mnw_pool *pool = cache->pool;
    if (!view->writable || !is_hugetlb(cache))
        return 0;
    mnw__mutex_lock(&pool->lock);
    uint64_t kept = 0, budget = atomic_load(&pool->budget);
    for (const struct mnw_cache *other = pool->caches; other; other = other->next)
        if (other == cache || mnw__cache_is_copied(other))
            kept += other->backing.size_bytes;
    bool fits = kept + atomic_load(&pool->pinned) + mnw__pool_budget_min(pool) <= budget;
    if (fits)
        mnw__cache_add_copied(cache);
    mnw__mutex_unlock(&pool->lock);
    if (!fits)
        return mnw__fail(
            -ENOSPC,
            "attach: a writable view of hugetlb keeps all of its %llu bytes, and with others of this kind, "
            "pins, and an extent for each fault thread that is more than the budget, %llu",
            (unsigned long long)cache->backing.size_bytes, (unsigned long long)budget);
    view->remote->keeps_all = true;
    /* Evictions that began before are over before the consumer writes. */
    while (atomic_load_explicit(&cache->evicting, memory_order_acquire))
        mnw__sleep_ns(100000);
    return 0;
}

static void keep_no_more(struct mnw_view *view) {
    if (view->remote->keeps_all)
        mnw__cache_drop_copied(view->cache);
}

/* ---- one userfaultfd, one view ---- */

static void enlist_held(struct mnw_view *view) {
    view->remote->next = remotes.first;
    view->remote->is_listed = true;
    remotes.first = view;
}

static int enlist(struct mnw_view *view) {
    int error = 0;
    lock_remotes();
    for (const struct mnw_view *other = remotes.first; other && !error; other = other->remote->next)
        if (other->remote->identity == view->remote->identity)
            error = -EBUSY;
    if (!error)
        enlist_held(view);
    mnw__mutex_unlock(&remotes.lock);
    if (error)
        return mnw__fail(error, "attach: the userfaultfd serves another view already; each view needs its own");
    return 0;
}

/* A child that was born to us is in no list before, since nobody else has its userfaultfd; the embedder may have kept
 * a duplicate, and must not attach that. */
void mnw__remote_enlist_sealed(struct mnw_view *view) {
    struct mnw__uffd_description description;
    if (view->remote->is_listed || mnw__uffd_describe(view->uffd, &description))
        return;
    view->remote->identity = description.identity;
    lock_remotes();
    enlist_held(view);
    mnw__mutex_unlock(&remotes.lock);
}

static void strike_off(struct mnw_view *view) {
    if (!view->remote->is_listed)
        return;
    lock_remotes();
    struct mnw_view **link = &remotes.first;
    while (*link != view)
        link = &(*link)->remote->next;
    *link = view->remote->next;
    mnw__mutex_unlock(&remotes.lock);
}

static bool overlap(const struct mnw_view *a, const struct mnw__piece *b, size_t b_bytes) {
    size_t a_bytes = a->cache->backing.page_bytes;
    for (unsigned i = 0; i < a->remote->piece_count; i++) {
        const struct mnw__piece *piece = &a->remote->pieces[i];
        if (piece->address < b->address + b->page_count * b_bytes &&
            b->address < piece->address + piece->page_count * a_bytes)
            return true;
    }
    return false;
}

/*
 * A consumer that took its older view off its userfaultfd (no event tells) and put this one in its place: the older one
 * must not be mapped into any more, since the kernel would take that for this one's. Which of the two was watched was
 * settled when this one was registered.
 */
static void displace(struct mnw_view *older, const struct mnw_view *view) {
    size_t page_bytes = view->cache->backing.page_bytes;
    mnw__mutex_lock(&older->thread->lock);
    for (unsigned i = 0; i < view->remote->piece_count; i++) {
        const struct mnw__piece *piece = &view->remote->pieces[i];
        if (overlap(older, piece, page_bytes))
            mnw__remote_drop(older, piece->address, piece->page_count * page_bytes);
    }
    mnw__mutex_unlock(&older->thread->lock);
}

static void displace_older(const struct mnw_view *view) {
    pid_t pid = view->remote->pid;
    if (!pid)
        return;
    lock_remotes();
    for (struct mnw_view *older = remotes.first; older; older = older->remote->next)
        if (older != view && older->remote->pid == pid)
            displace(older, view);
    mnw__mutex_unlock(&remotes.lock);
}

/* ---- attaching ---- */

static int serve(struct mnw_view *view) {
    int error = arm_all(view);
    if (error)
        return error;
    displace_older(view);
    error = keep_all(view);
    if (!error)
        error = mnw__view_start(view);
    if (error)
        keep_no_more(view);
    return error;
}

static int set_up(struct mnw_view *view, const struct mnw_attach_options *options) {
    int error = take_options(view, options);
    if (!error)
        error = take_uffd(view, options->uffd);
    if (!error && view->remote->features & MNW__UFFD_EVENT_FORK) {
        view->remote->spare = mnw__remote_new(view->cache);
        error = view->remote->spare ? 0 : -ENOMEM;
    }
    if (!error)
        error = enlist(view);
    if (!error)
        error = serve(view);
    if (error)
        strike_off(view);
    return error;
}

void mnw__remote_free(struct mnw_view *view) {
    if (view->remote->spare)
        mnw__remote_free(view->remote->spare);
    if (view->uffd >= 0)
        mnw__uffd_close(view->uffd);
    mnw__mutex_destroy(&view->remote->hold);
    mnw__limit_unref(view->remote->limit);
    free(view->remote);
    mnw__view_free(view);
}

struct mnw_view *mnw__remote_new(struct mnw_cache *cache) {
    struct mnw_view *view = mnw__view_new(cache);
    if (!view)
        return NULL;
    view->remote = calloc(1, sizeof(*view->remote));
    if (!view->remote) {
        mnw__view_free(view);
        mnw__fail(-ENOMEM, "attach: out of memory");
        return NULL;
    }
    mnw__mutex_init(&view->remote->hold);
    /* The pieces say what the view has; the view itself can come to hold any page. */
    view->page_count = cache->pages.page_count;
    if (mnw__view_reserve(view)) {
        mnw__remote_free(view);
        return NULL;
    }
    return view;
}

int mnw__view_attach(struct mnw_view **out, struct mnw_cache *cache, const struct mnw_attach_options *options) {
    struct mnw_view *view = mnw__remote_new(cache);
    if (!view)
        return -ENOMEM;
    int error = mnw__view_presume_poison(view);
    if (!error)
        error = set_up(view, options);
    if (error) {
        mnw__remote_free(view);
        return error;
    }
    mnw__mutex_lock(&cache->views_lock);
    bool bars = view->poisoned_count;
    mnw__mutex_unlock(&cache->views_lock);
    if (bars)
        mnw__reclaim_reopen(cache);
    /* Who waits already has faulted for an owner that is gone, which may have read of it. */
    mnw__view_hold(view);
    mnw__view_wake_all(view);
    mnw__view_let_go(view);
    *out = view;
    return 0;
}

/* ---- detaching ---- */

void mnw__remote_end(struct mnw_view *view) {
    mnw__view_stop(view);
    strike_off(view);
    mnw__notices_forget(&view->cache->pool->notices, view);
    keep_no_more(view);
    mnw__view_wake_all(view);
    if (mnw__remote_is_sealed(view))
        atomic_fetch_sub(&view->cache->pool->sealed, 1);
    mnw__remote_free(view);
}

/* Whoever waits faults again, and waits in the consumer's own duplicate for the next to attach; a child, which has
 * none, is never let go while it lives. */
void mnw__view_detach(struct mnw_view *view) {
    struct mnw__remote *remote = view->remote;
    if (remote->forked && view->cache->pool->has_poison && !atomic_load(&remote->dead))
        mnw__remote_seal(view);
    else
        mnw__remote_end(view);
}

int mnw__view_ranges(struct mnw_view *view, struct mnw_view_range *ranges, size_t count) {
    size_t page_bytes = view->cache->backing.page_bytes;
    /* A copy: the caller's memory may lie in a view. */
    struct mnw__piece pieces[MNW__PIECES_MAX];
    mnw__view_hold(view);
    unsigned all = mnw__view_piece_count(view);
    for (unsigned i = 0; i < all; i++)
        mnw__view_clip(view, i, 0, UINT64_MAX, &pieces[i]);
    mnw__view_let_go(view);
    for (unsigned i = 0; i < all && i < count; i++)
        ranges[i] = (struct mnw_view_range){.address = pieces[i].address,
                                            .offset_bytes = pieces[i].first_page * page_bytes,
                                            .length_bytes = pieces[i].page_count * page_bytes};
    return (int)all;
}
