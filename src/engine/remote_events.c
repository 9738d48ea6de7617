/* SPDX-License-Identifier: MIT */
/* What the process of a remote view does with its mapping: munmap, mremap, fork, exit. On the view's fault thread. */
#include "engine/remote.h"

#include "engine/pool.h"

#include <errno.h>

int mnw__remote_read(struct mnw_view *view, struct mnw__uffd_event *events, int count) {
    struct mnw__remote *remote = view->remote;
    mnw__mutex_lock(&remote->hold);
    int taken = mnw__uffd_read_nowait(view->uffd, events, count);
    mnw__mutex_unlock(&remote->hold);
    return taken;
}

void mnw__remote_stray(struct mnw_view *view, uintptr_t address) {
    (void)view;
    (void)address;
}

void mnw__remote_died(struct mnw_view *view) {
    struct mnw__remote *remote = view->remote;
    if (remote && !atomic_exchange(&remote->dead, true))
        mnw__notices_add_view(&view->cache->pool->notices, view, MNW_VIEW_CHANGED_DEAD);
}
