/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd of the fake kernel: descriptors, registration, waiters, events. Filling is in fake_fill.c.
 */
#include "base/error.h"
#include "fake_kernel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SMALL_PAGE ((uintptr_t)4096)

enum { API_VERSION = 0xAA, API_IOCTLS = 1 << 0 | 1 << 1 };

/* Numbers of the range ioctls, as the kernel reports them. */
enum {
    IOCTL_WAKE = 1 << 2,
    IOCTL_COPY = 1 << 3,
    IOCTL_ZEROPAGE = 1 << 4,
    IOCTL_MOVE = 1 << 5,
    IOCTL_WRITEPROTECT = 1 << 6,
    IOCTL_CONTINUE = 1 << 7,
    IOCTL_POISON = 1 << 8,
};

static uint64_t order;
static struct fake_uffd *existing[FAKE_FDS];

struct fake_uffd *fake_uffd_of_id(int id) {
    return id >= 0 ? existing[id] : NULL;
}

static uint64_t kernel_features(void) {
    uint64_t features = ((uint64_t)MNW__UFFD_MOVE << 1) - 1;
    return fake_config.has_poison ? features : features & ~(uint64_t)MNW__UFFD_POISON;
}

static bool is_range(uintptr_t start, size_t length) {
    return length && !(start % SMALL_PAGE) && !(length % SMALL_PAGE) && start + length > start;
}

/* An initialised descriptor, or NULL: what the kernel answers with EINVAL. */
static struct fake_uffd *uffd_of(int fd, const char *what) {
    struct fake_fd *entry = fake_fd_get(fd, FD_UFFD);
    if (!entry)
        sim_fail("%s on descriptor %d, which is no userfaultfd", what, fd);
    return entry->uffd->initialised ? entry->uffd : NULL;
}

/* ---- opening ------------------------------------------------------------------------------------------- */

int mnw__uffd_probe(struct mnw__uffd_probe *probe) {
    fake_call("uffd_probe");
    *probe = (struct mnw__uffd_probe){.features = kernel_features(), .ioctls = API_IOCTLS};
    probe->door = MNW__UFFD_DOOR_SYSCALL;
    return 0;
}

int mnw__uffd_open_raw(enum mnw__uffd_door door) {
    fake_call("userfaultfd");
    if (door == MNW__UFFD_DOOR_NONE)
        return -EINVAL;
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-EMFILE, "no descriptor left for a userfaultfd");
    int fd = fake_fd_new(FD_UFFD);
    fake_fd_get(fd, FD_UFFD)->uffd = fake_uffd_new(fiber_process());
    return fd;
}

struct fake_uffd *fake_uffd_new(int process) {
    struct fake_uffd *uffd = calloc(1, sizeof(*uffd));
    if (!uffd)
        sim_fail("no memory for a fake userfaultfd");
    while (existing[uffd->id])
        uffd->id++;
    existing[uffd->id] = uffd;
    uffd->references = 1;
    uffd->process = process;
    uffd->serial = ++order;
    return uffd;
}

int mnw__uffd_api(int fd, uint64_t version, uint64_t features, uint64_t *features_out, uint64_t *ioctls_out) {
    fake_call("UFFDIO_API");
    struct fake_fd *entry = fake_fd_get(fd, FD_UFFD);
    if (!entry)
        sim_fail("UFFDIO_API on descriptor %d, which is no userfaultfd", fd);
    if (version != API_VERSION || (features & ~kernel_features()) || entry->uffd->initialised)
        return -EINVAL;
    entry->uffd->initialised = true;
    entry->uffd->features = features;
    if (features_out)
        *features_out = kernel_features();
    if (ioctls_out)
        *ioctls_out = API_IOCTLS;
    return 0;
}

int mnw__uffd_open(uint64_t features) {
    int fd = mnw__uffd_open_raw(MNW__UFFD_DOOR_SYSCALL);
    if (fd < 0)
        return fd;
    int error = mnw__uffd_api(fd, API_VERSION, features, NULL, NULL);
    if (error) {
        mnw__uffd_close(fd);
        return mnw__fail(error, "the fake kernel lacks a feature of %#llx", (unsigned long long)features);
    }
    return fd;
}

static void wake_waiter(struct fake_waiter *waiter) {
    waiter->used = false;
    fiber_wake(waiter);
}

void mnw__uffd_close(int fd) {
    fake_call("uffd_close");
    struct fake_fd *entry = fake_fd_get(fd, FD_UFFD);
    if (!entry)
        sim_fail("close of descriptor %d, which is no userfaultfd", fd);
    struct fake_uffd *uffd = entry->uffd;
    sim_trace("uffd %d: closed", fd);
    fake_fd_free(fd);
    fake_uffd_release(uffd);
    fake_call("uffd_close done");
}

/* Forks that will not end: nobody can read of them, or who forked is dead. */
static void drop_forks(struct fake_uffd *uffd) {
    int kept = 0;
    for (int i = 0; i < uffd->event_count; i++)
        if (uffd->events[i].kind == MNW__UFFD_EV_FORK)
            fake_uffd_release(fake_uffd_of_id(uffd->events[i].fd));
        else
            uffd->events[kept++] = uffd->events[i];
    uffd->taken += (uint64_t)(uffd->event_count - kept);
    uffd->event_count = kept;
}

void fake_uffd_release(struct fake_uffd *uffd) {
    if (--uffd->references)
        return;
    fake_views_unregister(uffd->id);
    existing[uffd->id] = NULL;
    drop_forks(uffd);
    for (int i = 0; i < FAKE_WAITERS; i++)
        if (uffd->waiters[i].used)
            wake_waiter(&uffd->waiters[i]);
    fiber_wake(&uffd->event_count);
    fake_free(uffd);
}

/* ---- registering --------------------------------------------------------------------------------------- */

/* EINVAL, or 0 when the range is whole pages inside one view. */
static int range_view(int process, uintptr_t start, size_t length, struct fake_view **view) {
    if (!is_range(start, length))
        return -EINVAL;
    *view = fake_view_of(process, start);
    if (!*view)
        return -EINVAL;
    if (start + length > (*view)->address + (*view)->length)
        sim_fail("a range that leaves its view is registered: not modelled");
    return start % (*view)->page_bytes || length % (*view)->page_bytes ? -EINVAL : 0;
}

static uint64_t range_ioctls(const struct fake_view *view, unsigned modes) {
    uint64_t ioctls = IOCTL_WAKE | IOCTL_COPY;
    if (fake_config.has_poison)
        ioctls |= IOCTL_POISON;
    if (!fake_is_hugetlb(view->file))
        ioctls |= IOCTL_ZEROPAGE | (fake_config.has_poison ? IOCTL_MOVE : 0); /* a kernel with neither, or with both */
    if (modes & MNW__UFFD_MODE_WP)
        ioctls |= IOCTL_WRITEPROTECT;
    if (modes & MNW__UFFD_MODE_MINOR)
        ioctls |= IOCTL_CONTINUE;
    return ioctls;
}

int mnw__uffd_register(int fd, uintptr_t start, size_t length, unsigned modes, uint64_t *ioctls) {
    fake_call("UFFDIO_REGISTER");
    struct fake_view *view;
    const unsigned all = MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_WP | MNW__UFFD_MODE_MINOR;
    struct fake_uffd *uffd = uffd_of(fd, "UFFDIO_REGISTER");
    if (!uffd || !modes || (modes & ~all) || range_view(uffd->process, start, length, &view))
        return mnw__fail(-EINVAL, "UFFDIO_REGISTER [%#lx, +%zu)", (unsigned long)start, length);
    if (uffd->orphaned || fake_strikes(FAKE_OPEN))
        return mnw__fail(-ENOMEM, "UFFDIO_REGISTER [%#lx, +%zu)", (unsigned long)start, length);
    for (uintptr_t at = start; at < start + length; at += view->page_bytes)
        if (fake_entry_at(view, at)->uffd >= 0 && fake_entry_at(view, at)->uffd != uffd->id)
            return mnw__fail(-EBUSY, "UFFDIO_REGISTER [%#lx, +%zu)", (unsigned long)start, length);
    for (uintptr_t at = start; at < start + length; at += view->page_bytes) {
        struct fake_entry *entry = fake_entry_at(view, at);
        if (entry->barred)
            return mnw__fail(-EINVAL, "UFFDIO_REGISTER of a barred range");
        if (entry->uffd == uffd->id && (entry->modes & modes) == modes)
            continue;
        entry->uffd = (int16_t)uffd->id;
        entry->modes = (uint8_t)modes;
    }
    if (ioctls)
        *ioctls = range_ioctls(view, modes);
    sim_trace("uffd %d: registered [%#lx, +%zu) modes %u", fd, (unsigned long)start, length, modes);
    fake_call("UFFDIO_REGISTER done");
    return 0;
}

int mnw__uffd_unregister(int fd, uintptr_t start, size_t length) {
    fake_call("UFFDIO_UNREGISTER");
    struct fake_view *view;
    struct fake_uffd *uffd = uffd_of(fd, "UFFDIO_UNREGISTER");
    if (uffd && uffd->orphaned)
        return -ENOMEM;
    if (!uffd || range_view(uffd->process, start, length, &view))
        return -EINVAL;
    for (uintptr_t at = start; at < start + length; at += view->page_bytes)
        if (fake_entry_at(view, at)->uffd >= 0 && fake_entry_at(view, at)->uffd != uffd->id)
            return -EINVAL;
    for (uintptr_t at = start; at < start + length; at += view->page_bytes) {
        struct fake_entry *entry = fake_entry_at(view, at);
        if (entry->uffd < 0)
            continue;
        entry->uffd = -1;
        if (entry->modes & MNW__UFFD_MODE_MISSING)
            fake_uffd_wake_range(uffd, at, view->page_bytes);
        entry->modes = 0;
    }
    fake_call("UFFDIO_UNREGISTER done");
    return 0;
}

/* ---- waiting and waking -------------------------------------------------------------------------------- */

static struct fake_waiter *free_waiter(struct fake_uffd *uffd) {
    for (int i = 0; i < FAKE_WAITERS; i++)
        if (!uffd->waiters[i].used)
            return &uffd->waiters[i];
    sim_fail("more than %d waiters on one descriptor", FAKE_WAITERS);
}

void fake_uffd_wait(struct fake_uffd *uffd, uintptr_t address, unsigned flags, uint64_t began) {
    struct fake_waiter *waiter = free_waiter(uffd);
    *waiter = (struct fake_waiter){fiber_self(), address, flags, true, false, false, ++order};
    sim_trace("uffd #%d: fault at %#lx%s%s", uffd->id, (unsigned long)address,
              flags & MNW__UFFD_FAULT_MINOR ? " minor" : "", flags & MNW__UFFD_FAULT_WRITE ? " write" : "");
    fake_fd_changed(-1);
    uint64_t limit = began + fake_config.fault_ns_max;
    if (fiber_now() >= limit)
        sim_fail("law 2: a fault at %#lx has not ended for %.3f s", (unsigned long)address,
                 (double)(fiber_now() - began) / 1e9);
    uint64_t patience = limit - fiber_now();
    bool signalled = fake_strikes(FAKE_SIGNAL);
    if (signalled)
        patience = random_below(fiber_random(), 1000000);
    if (fiber_wait(waiter, "a fault to be resolved", patience))
        return;
    if (!signalled)
        sim_fail("law 2: a fault at %#lx has not ended for %.3f s", (unsigned long)address,
                 (double)(fiber_now() - began) / 1e9);
    sim_trace("uffd #%d: signal to the waiter at %#lx", uffd->id, (unsigned long)address);
    waiter->used = false;
}

void fake_uffd_wake_range(struct fake_uffd *uffd, uintptr_t start, size_t length) {
    for (int i = 0; i < FAKE_WAITERS; i++) {
        struct fake_waiter *waiter = &uffd->waiters[i];
        if (waiter->used && waiter->address >= start && waiter->address - start < length)
            wake_waiter(waiter);
    }
}

int mnw__uffd_wake(int fd, uintptr_t start, size_t length) {
    fake_call("UFFDIO_WAKE");
    struct fake_uffd *uffd = uffd_of(fd, "UFFDIO_WAKE");
    if (!uffd || !is_range(start, length))
        return -EINVAL;
    fake_uffd_wake_range(uffd, start, length);
    sim_trace("uffd %d: wake [%#lx, +%zu)", fd, (unsigned long)start, length);
    fake_call("UFFDIO_WAKE done");
    return 0;
}

int mnw__uffd_waiting(int fd, uint64_t *pending, uint64_t *total) {
    fake_call("fdinfo");
    struct fake_uffd *uffd = uffd_of(fd, "fdinfo");
    *pending = *total = 0;
    for (int i = 0; uffd && i < FAKE_WAITERS; i++) {
        *total += uffd->waiters[i].used;
        *pending += uffd->waiters[i].used && !uffd->waiters[i].read;
    }
    return 0;
}

static void orphan(struct fake_uffd *uffd) {
    uffd->orphaned = true;
    drop_forks(uffd);
}

/* Duplicates of its userfaultfds live on; what they watched does not. */
void fake_uffds_died(int process) {
    for (int id = 0; id < FAKE_FDS; id++)
        if (existing[id] && existing[id]->process == process)
            orphan(existing[id]);
    for (int id = 0; id < FAKE_FDS; id++)
        for (int i = 0; existing[id] && i < FAKE_WAITERS; i++)
            if (fiber_is_dead(existing[id]->waiters[i].fiber))
                existing[id]->waiters[i].used = false;
}

void fake_each_waiter(void (*each)(uintptr_t address, uint64_t order)) {
    for (int fd = FAKE_FD_BASE; fd < FAKE_FD_BASE + FAKE_FDS; fd++) {
        const struct fake_fd *entry = fake_fd_get(fd, FD_UFFD);
        for (int i = 0; entry && i < FAKE_WAITERS; i++) {
            const struct fake_waiter *waiter = &entry->uffd->waiters[i];
            if (waiter->used && waiter->read && !waiter->lost)
                each(waiter->address, waiter->order);
        }
    }
}

/* ---- events -------------------------------------------------------------------------------------------- */

bool fake_uffd_is_readable(const struct fake_uffd *uffd) {
    if (uffd->event_count)
        return true;
    for (int i = 0; i < FAKE_WAITERS; i++)
        if (uffd->waiters[i].used && !uffd->waiters[i].read)
            return true;
    return false;
}

void fake_uffd_post(struct fake_uffd *uffd, const struct mnw__uffd_event *event) {
    if (uffd->event_count == FAKE_EVENTS)
        sim_fail("more than %d unread events", FAKE_EVENTS);
    uffd->events[uffd->event_count++] = *event;
    fake_fd_changed(-1);
    int id = uffd->id;
    uint64_t mine = ++uffd->posted, serial = uffd->serial;
    while (existing[id] && existing[id]->serial == serial && uffd->taken < mine) /* it may be closed meanwhile */
        fiber_wait(&uffd->event_count, "an event to be read", FIBER_FOREVER);
}

static struct fake_waiter *oldest_unread(struct fake_uffd *uffd) {
    struct fake_waiter *oldest = NULL;
    for (int i = 0; i < FAKE_WAITERS; i++) {
        struct fake_waiter *waiter = &uffd->waiters[i];
        if (waiter->used && !waiter->read && (!oldest || waiter->order < oldest->order))
            oldest = waiter;
    }
    return oldest;
}

static int read_faults(struct fake_uffd *uffd, struct mnw__uffd_event *events, int count) {
    int number = 0;
    for (struct fake_waiter *waiter; number < count && (waiter = oldest_unread(uffd));) {
        waiter->read = true;
        if (fake_strikes(FAKE_EVENT_LOST)) {
            waiter->lost = true;
            sim_trace("the event of %#lx is lost", (unsigned long)waiter->address);
            continue;
        }
        events[number++] = (struct mnw__uffd_event){
            .kind = MNW__UFFD_EV_FAULT,
            .flags = waiter->flags,
            .thread_id = uffd->features & MNW__UFFD_THREAD_ID ? (uint32_t)waiter->fiber + 1 : 0,
            .address = waiter->address,
            .fd = -1,
        };
    }
    return number;
}

/* A child's userfaultfd becomes a descriptor of whoever reads. */
static struct mnw__uffd_event received(const struct mnw__uffd_event *posted) {
    struct mnw__uffd_event event = *posted;
    if (event.kind == MNW__UFFD_EV_FORK) {
        event.fd = fake_fd_new(FD_UFFD);
        fake_fd_get(event.fd, FD_UFFD)->uffd = fake_uffd_of_id(posted->fd);
    }
    return event;
}

int mnw__uffd_read(int fd, struct mnw__uffd_event *events, int count) {
    fake_call("uffd_read");
    struct fake_uffd *uffd = uffd_of(fd, "read");
    if (!uffd || count < 1)
        return -EINVAL;
    if (count > MNW__UFFD_BATCH)
        count = MNW__UFFD_BATCH;
    if (fake_strikes(FAKE_BATCH_SHORT))
        count = 1 + (int)random_below(fiber_random(), (uint64_t)count);
    int number = read_faults(uffd, events, count), taken = 0;
    while (number < count && taken < uffd->event_count)
        events[number++] = received(&uffd->events[taken++]);
    if (taken) {
        uffd->taken += (uint64_t)taken;
        uffd->event_count -= taken;
        memmove(uffd->events, uffd->events + taken, sizeof(uffd->events[0]) * (size_t)uffd->event_count);
        fiber_wake(&uffd->event_count);
    }
    if (number)
        sim_trace("uffd %d: read %d events, first at %#lx", fd, number, (unsigned long)events[0].address);
    fake_call("uffd_read done");
    return number;
}

/* ---- descriptors of other processes -------------------------------------------------------------------- */

int mnw__uffd_read_nowait(int fd, struct mnw__uffd_event *events, int count) {
    return mnw__uffd_read(fd, events, count);
}

int mnw__uffd_describe(int fd, struct mnw__uffd_description *description) {
    fake_call("fdinfo");
    struct fake_fd *entry = fake_fd_get(fd, FD_UFFD);
    if (!entry)
        return -EINVAL;
    *description =
        (struct mnw__uffd_description){entry->uffd->initialised, entry->uffd->features, (uint64_t)entry->uffd->id};
    return 0;
}

int mnw__uffd_duplicate(int fd) {
    fake_call("dup");
    struct fake_fd *entry = fake_fd_get(fd, FD_UFFD);
    if (!entry)
        return -EBADF;
    if (fake_strikes(FAKE_OPEN))
        return -EMFILE;
    int copy = fake_fd_new(FD_UFFD);
    fake_fd_get(copy, FD_UFFD)->uffd = entry->uffd;
    entry->uffd->references++;
    return copy;
}

int mnw__uffd_tame(int fd) {
    fake_call("fcntl");
    return fake_fd_get(fd, FD_UFFD) ? 0 : -EBADF;
}

int mnw__uffd_is_one_mapping(int fd, uintptr_t start, size_t length) {
    fake_call("UFFDIO_COPY of nothing");
    struct fake_uffd *uffd = uffd_of(fd, "UFFDIO_COPY of nothing");
    if (!uffd || uffd->event_count || uffd->changing)
        return uffd ? -EAGAIN : -EINVAL;
    if (uffd->orphaned)
        return -ESRCH;
    struct fake_view *view = fake_view_of(uffd->process, start);
    if (!view || start + length > view->address + view->length)
        return 0;
    for (uintptr_t at = start; at < start + length; at += view->page_bytes)
        if (fake_entry_at(view, at)->uffd < 0)
            return 0;
    return 1;
}

int fake_uffd_process(int fd) {
    return fake_fd_get(fd, FD_UFFD)->uffd->process;
}
