/* SPDX-License-Identifier: MIT */
/* Attaching and detaching remote views: what a consumer says is checked here. What it does later is in remote_events.c.
 */
#include "engine/remote.h"

#include "base/bits.h"
#include "base/error.h"
#include "engine/fault.h"
#include "engine/pool.h"
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
    return cache->backing.kind == MNW_BACKING_HUGETLB_2M || cache->backing.kind == MNW_BACKING_HUGETLB_1G;
}

static int check_options(struct mnw_view *view, const struct mnw_attach_options *options) {
    size_t page_bytes = view->cache->backing.page_bytes;
    if (options->flags & ~(unsigned)MNW_VIEW_WRITE)
        return mnw__fail(-EINVAL, "attach: unknown flags 0x%x", options->flags & ~(unsigned)MNW_VIEW_WRITE);
    if (options->pid < 0)
        return mnw__fail(-EINVAL, "attach: there is no process %d; 0 stands for an unknown one", (int)options->pid);
    int error = mnw__view_set_range(view, options->offset_bytes, options->length_bytes);
    if (error)
        return error;
    if (!options->address || !mnw__is_aligned(options->address, page_bytes))
        return mnw__fail(-EINVAL, "attach: address 0x%llx is not a multiple of the page size %zu",
                         (unsigned long long)options->address, page_bytes);
    if (options->address > UINTPTR_MAX - view->length)
        return mnw__fail(-EINVAL, "attach: %zu bytes from address 0x%llx leave the address space", view->length,
                         (unsigned long long)options->address);
    view->writable = options->flags & MNW_VIEW_WRITE;
    return 0;
}

static int check_features(const struct mnw_cache *cache, const struct mnw__uffd_description *description) {
    uint64_t needed = is_hugetlb(cache) ? MNW__UFFD_MINOR_HUGETLBFS | MNW__UFFD_MISSING_HUGETLBFS
                                        : MNW__UFFD_MINOR_SHMEM | MNW__UFFD_MISSING_SHMEM;
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

static int check_mapping(const struct mnw_view *view) {
    const struct mnw__remote *remote = view->remote;
    const struct mnw__piece *piece = &remote->pieces[0];
    const struct mnw__backing *backing = &view->cache->backing;
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
    enum mnw__mapped mapped = mnw__process_maps(remote->pid, piece->address, view->length, backing->readonly_fd,
                                                mnw__cache_page_offset(view->cache, piece->first_page),
                                                view->writable || !is_hugetlb(view->cache));
    if (mapped == MNW__MAPPED_AS_SAID || mapped == MNW__MAPPED_UNSEEN)
        return 0;
    return mnw__fail(-EINVAL, "attach: the range of %zu bytes at 0x%llx in process %d %s", view->length,
                     (unsigned long long)piece->address, (int)remote->pid, wrong[mapped]);
}

static int arm(const struct mnw_view *view) {
    const struct mnw__piece *piece = &view->remote->pieces[0];
    uint64_t ioctls = 0;
    int error = mnw__uffd_register(view->uffd, piece->address, view->length,
                                   MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, &ioctls);
    unsigned long long address = piece->address;
    if (error == -EBUSY)
        return mnw__fail(error,
                         "attach: part of the %zu bytes at 0x%llx is watched by another userfaultfd; detach the "
                         "view it belongs to first",
                         view->length, address);
    if (error == -ENOMEM)
        return mnw__fail(-ESRCH, "attach: the process of the userfaultfd is gone");
    if (error)
        return mnw__fail(error,
                         "attach: the userfaultfd cannot watch %zu bytes at 0x%llx (error %d): they must be a "
                         "private mapping of the descriptor of mnw_cache_fd(), in the process that made the "
                         "userfaultfd",
                         view->length, address, -error);
    if (!(ioctls & MNW__UFFD_TAKES_CONTINUE))
        return mnw__fail(-EINVAL, "attach: the kernel takes no UFFDIO_CONTINUE for the %zu bytes at 0x%llx",
                         view->length, address);
    return 0;
}

/* ---- one userfaultfd, one view ---- */

static int enlist(struct mnw_view *view) {
    int error = 0;
    lock_remotes();
    for (const struct mnw_view *other = remotes.first; other && !error; other = other->remote->next)
        if (other->remote->identity == view->remote->identity)
            error = -EBUSY;
    if (!error) {
        view->remote->next = remotes.first;
        remotes.first = view;
    }
    mnw__mutex_unlock(&remotes.lock);
    if (error)
        return mnw__fail(error, "attach: the userfaultfd serves another view already; each view needs its own");
    return 0;
}

static void strike_off(struct mnw_view *view) {
    lock_remotes();
    struct mnw_view **link = &remotes.first;
    while (*link != view)
        link = &(*link)->remote->next;
    *link = view->remote->next;
    mnw__mutex_unlock(&remotes.lock);
}

/* ---- attaching ---- */

static int serve(struct mnw_view *view) {
    int error = check_mapping(view);
    if (!error)
        error = arm(view);
    return error ? error : mnw__view_start(view);
}

static int set_up(struct mnw_view *view, const struct mnw_attach_options *options) {
    struct mnw__remote *remote = view->remote;
    int error = check_options(view, options);
    if (error)
        return error;
    remote->pieces[0] = (struct mnw__piece){options->address, view->first_page, view->page_count};
    remote->piece_count = 1;
    remote->pid = options->pid;
    remote->cookie = options->cookie;
    remote->faults_per_second = options->faults_per_second;
    /* The pieces say what the view has; the view itself can come to hold any page. */
    view->first_page = 0;
    view->page_count = view->cache->pages.page_count;
    error = mnw__view_reserve(view);
    if (!error)
        error = take_uffd(view, options->uffd);
    if (!error)
        error = enlist(view);
    if (error)
        return error;
    error = serve(view);
    if (error)
        strike_off(view);
    return error;
}

static void free_remote(struct mnw_view *view) {
    if (view->uffd >= 0)
        mnw__uffd_close(view->uffd);
    mnw__mutex_destroy(&view->remote->hold);
    free(view->remote);
    mnw__view_free(view);
}

static struct mnw_view *new_remote(struct mnw_cache *cache) {
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
    return view;
}

int mnw__view_attach(struct mnw_view **out, struct mnw_cache *cache, const struct mnw_attach_options *options) {
    struct mnw_view *view = new_remote(cache);
    if (!view)
        return -ENOMEM;
    int error = set_up(view, options);
    if (error) {
        free_remote(view);
        return error;
    }
    /* Who waits already has faulted for an owner that is gone, which may have read of it. */
    mnw__view_wake_all(view);
    *out = view;
    return 0;
}

/* Whoever waits faults again, and waits in the consumer's own duplicate for the next to attach. */
void mnw__view_detach(struct mnw_view *view) {
    mnw__view_stop(view);
    strike_off(view);
    mnw__notices_forget(&view->cache->pool->notices, view);
    mnw__view_wake_all(view);
    free_remote(view);
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
