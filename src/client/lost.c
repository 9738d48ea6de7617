/* SPDX-License-Identifier: MIT */
/*
 * Views that nobody serves any more: what was never mapped in them is SIGBUS, for threads that wait already and for
 * those that come. And pages that a consumer discards by itself.
 *
 * Owns nothing. Burying is for the client's thread, with client->lock held; it neither allocates nor maps.
 */
#include "base/bits.h"
#include "base/error.h"
#include "client/client.h"
#include "sys/backing.h"
#include "sys/thread.h"
#include "sys/uffd.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define EAGAIN_PAUSE_NS 100000ull
#define EAGAIN_TRIES    20000u

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* ---- lost ---- */

void mnw__child_bar(int uffd, uintptr_t address, size_t length, size_t page_bytes) {
    struct mnw__uffd_event event;
    for (unsigned tries = 0; tries < EAGAIN_TRIES; tries++) {
        if (mnw__uffd_bar(uffd, address, length, page_bytes) != -EAGAIN)
            return;
        if (mnw__uffd_read(uffd, &event, 1) <= 0)
            mnw__sleep_ns(EAGAIN_PAUSE_NS);
        else if (event.kind == MNW__UFFD_EV_FORK) {
            mnw__uffd_bar(event.fd, address, length, page_bytes);
            mnw__uffd_close(event.fd);
        }
    }
}

static void bury_one(const struct mnw_client_view *view, const struct mnw__uffd_event *event) {
    int64_t done;
    if (event->kind == MNW__UFFD_EV_FORK) {
        mnw__child_bar(event->fd, view->address, view->length, view->page_bytes);
        mnw__uffd_close(event->fd);
    }
    if (event->kind != MNW__UFFD_EV_FAULT)
        return; /* to have read it is all that its thread waits for */
    uintptr_t page = mnw__align_down(event->address, view->page_bytes);
    /* What cannot be barred now (mapped meanwhile, an event unread) faults again. */
    if (mnw__uffd_poison(view->uffd.fd, page, view->page_bytes, 0, &done))
        mnw__uffd_wake(view->uffd.fd, page, view->page_bytes);
}

void mnw__view_bury(struct mnw_client_view *view) {
    struct mnw__uffd_event events[MNW__UFFD_BATCH];
    if (!view->has_poison)
        return;
    int count;
    while ((count = mnw__uffd_read(view->uffd.fd, events, MNW__UFFD_BATCH)) > 0)
        for (int i = 0; i < count; i++)
            bury_one(view, &events[i]);
    /* A daemon that is gone may have read what it did not answer. */
    mnw__uffd_wake(view->uffd.fd, view->address, view->length);
}

/*
 * Without UFFDIO_POISON a single page cannot be barred from here: replacing its mapping would wait for this very thread
 * to read the event. The whole view is closed instead, and touching it is SIGSEGV.
 */
static void close_all(const struct mnw_client_view *view) {
    mprotect((void *)view->address, view->length, PROT_NONE);
    mnw__uffd_unregister(view->uffd.fd, view->address, view->length);
    mnw__uffd_wake(view->uffd.fd, view->address, view->length);
}

void mnw__view_lose(struct mnw_client_view *view, int reason) {
    if (view->state != MNW__CLIENT_VIEW_SERVED && view->state != MNW__CLIENT_VIEW_ADRIFT)
        return;
    view->state = MNW__CLIENT_VIEW_LOST;
    view->lost = reason;
    if (!view->has_poison) {
        close_all(view);
        return;
    }
    /* If it cannot be watched, the clock of the client's thread looks after it. */
    view->watched = !mnw__poller_add(view->client->poller, view->uffd.fd, view);
    mnw__view_bury(view);
}

/* ---- zeroed: callers ---- */

static int forget_pages(uintptr_t at, size_t length) {
    int result;
    do {
        result = madvise((void *)at, length, MADV_DONTNEED);
        if (result && errno == EINVAL)
            result = madvise((void *)at, length, MADV_DONTNEED_LOCKED);
    } while (result && errno == EINTR);
    return result ? -errno : 0;
}

/* The daemon may map a page between the two steps: it is dropped again. */
static int zero_pages(const struct mnw_client_view *view, uintptr_t at, size_t length) {
    uintptr_t end = at + length;
    int error = forget_pages(at, length);
    for (unsigned tries = 0; !error && at < end && tries < EAGAIN_TRIES;) {
        int64_t done = 0;
        int result = mnw__uffd_zeropage(view->uffd.fd, at, end - at, 0, &done);
        if (done > 0)
            at += (uintptr_t)done;
        else if (result == -EEXIST)
            error = forget_pages(at, view->page_bytes);
        else if (result == -EAGAIN) {
            tries++;
            mnw__sleep_ns(EAGAIN_PAUSE_NS);
        } else {
            error = result;
        }
    }
    return error ? error : at < end ? -EAGAIN : 0;
}

int mnw_client_zero(struct mnw_client_view *view, uint64_t offset, uint64_t length) {
    MNW__WHOLE_CALL;
    const char *call = "mnw_client_zero";
    int error = view ? mnw__client_check(view->client, call) : mnw__fail(-EINVAL, "%s: `view` must not be NULL", call);
    if (error)
        return error;
    if (!mnw__is_aligned(offset | length, view->page_bytes) || !length || offset >= view->length ||
        length > view->length - offset)
        return mnw__fail(-EINVAL, "%s: %llu bytes at %llu are not whole pages of %zu inside the view's %zu bytes", call,
                         (unsigned long long)length, (unsigned long long)offset, view->page_bytes, view->length);
    if (mnw__backing_is_hugetlb(view->image->backing))
        return mnw__fail(-EOPNOTSUPP, "%s: the kernel has no page of zeros for hugetlb; write the zeros", call);
    error = zero_pages(view, view->address + offset, length);
    return error ? mnw__fail(error, "%s: %llu bytes at %llu: %s", call, (unsigned long long)length,
                             (unsigned long long)offset, strerror(-error))
                 : 0;
}
