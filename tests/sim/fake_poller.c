/* SPDX-License-Identifier: MIT */
/*
 * Descriptors of the fake kernel, and waiting for them: src/sys/poller.h. Level-triggered, as epoll is.
 */
#include "base/error.h"
#include "fake_kernel.h"
#include "sys/poller.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { WATCHED_MAX = FAKE_FDS };

struct mnw__poller {
    int process;
    struct {
        int fd;
        void *tag;
    } watched[WATCHED_MAX];
    int count;
    bool kicked;
    unsigned turn; /* where the next report starts: no descriptor starves */
};

static struct {
    struct fake_fd fds[FAKE_FDS];
    uint64_t changes; /* a channel */
    unsigned pollers[FIBER_PROCESSES];
} table;

int fake_fd_new(enum fake_fd_type type) {
    for (int i = 0; i < FAKE_FDS; i++)
        if (table.fds[i].type == FD_FREE) {
            table.fds[i] = (struct fake_fd){.type = type, .process = fiber_process()};
            return FAKE_FD_BASE + i; /* the lowest, as the kernel does: numbers come back soon */
        }
    sim_fail("more than %d descriptors", FAKE_FDS);
}

struct fake_fd *fake_fd_get(int fd, enum fake_fd_type type) {
    int index = fd - FAKE_FD_BASE;
    return index >= 0 && index < FAKE_FDS && table.fds[index].type == type ? &table.fds[index] : NULL;
}

void fake_fd_free(int fd) {
    table.fds[fd - FAKE_FD_BASE] = (struct fake_fd){.type = FD_FREE};
}

/* Descriptors that are of the same thing. */
static unsigned count_like(const struct fake_fd *entry) {
    unsigned count = 0;
    for (int i = 0; i < FAKE_FDS; i++)
        count += table.fds[i].type == entry->type && table.fds[i].file == entry->file &&
                 table.fds[i].memory == entry->memory;
    return count;
}

void fake_fd_close(int fd) {
    struct fake_fd *entry = &table.fds[fd - FAKE_FD_BASE], was = *entry;
    if (was.type == FD_UFFD) {
        mnw__uffd_close(fd);
        return;
    }
    bool last = (was.type == FD_FILE || was.type == FD_MEMORY) && count_like(entry) == 1;
    fake_fd_free(fd);
    if (was.type == FD_MEMORY && was.locks)
        was.memory->owner = 0;
    if (last && was.type == FD_FILE)
        fake_file_free(was.file);
    if (last && was.type == FD_MEMORY)
        fake_memory_free(was.memory);
}

int fake_fd_duplicate(int fd, int process) {
    struct fake_fd *entry = &table.fds[fd - FAKE_FD_BASE];
    int copy = entry->type == FD_UFFD ? mnw__uffd_duplicate(fd) : fake_fd_new(entry->type);
    if (copy < 0)
        return copy;
    table.fds[copy - FAKE_FD_BASE].process = process;
    if (entry->type == FD_UFFD)
        return copy;
    table.fds[copy - FAKE_FD_BASE] = *entry;
    table.fds[copy - FAKE_FD_BASE].process = process;
    table.fds[copy - FAKE_FD_BASE].locks = false;
    return copy;
}

void fake_fds_died(int process) {
    for (int i = 0; i < FAKE_FDS; i++)
        if (table.fds[i].type != FD_FREE && table.fds[i].process == process)
            fake_fd_close(FAKE_FD_BASE + i);
    table.pollers[process] = 0;
}

bool fake_fd_is_readable(int fd) {
    const struct fake_fd *entry = &table.fds[fd - FAKE_FD_BASE];
    return (entry->type == FD_UFFD && fake_uffd_is_readable(entry->uffd)) || (entry->type == FD_EVENT && entry->count);
}

void fake_fd_changed(int fd) {
    (void)fd;
    fiber_wake(&table.changes);
}

/* ---- src/sys/poller.h ---------------------------------------------------------------------------------- */

int mnw__poller_open(struct mnw__poller **poller) {
    fake_call("epoll_create");
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-EMFILE, "no descriptor left for a poller");
    *poller = calloc(1, sizeof(**poller));
    if (!*poller)
        return -ENOMEM;
    (*poller)->process = fiber_process();
    table.pollers[fiber_process()]++;
    return 0;
}

void mnw__poller_close(struct mnw__poller *poller) {
    fake_call("poller_close");
    table.pollers[poller->process]--;
    fake_free(poller);
}

static int position(const struct mnw__poller *poller, int fd) {
    for (int i = 0; i < poller->count; i++)
        if (poller->watched[i].fd == fd)
            return i;
    return -1;
}

int mnw__poller_add(struct mnw__poller *poller, int fd, void *tag) {
    fake_call("epoll_ctl add");
    if (!fake_fd_get(fd, FD_UFFD) && !fake_fd_get(fd, FD_EVENT))
        sim_fail("descriptor %d, which cannot be polled, is given to a poller", fd);
    if (position(poller, fd) >= 0)
        return -EEXIST;
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-ENOSPC, "too many watches");
    poller->watched[poller->count].fd = fd;
    poller->watched[poller->count++].tag = tag;
    fiber_wake(&table.changes);
    return 0;
}

int mnw__poller_remove(struct mnw__poller *poller, int fd) {
    fake_call("epoll_ctl remove");
    int at = position(poller, fd);
    if (at < 0)
        return -ENOENT;
    poller->watched[at] = poller->watched[--poller->count];
    return 0;
}

static int report(struct mnw__poller *poller, void **tags, int count) {
    int number = 0, start = poller->count ? (int)(poller->turn++ % (unsigned)poller->count) : 0;
    for (int i = 0; i < poller->count && number < count; i++) {
        int at = (start + i) % poller->count;
        if (fake_fd_is_readable(poller->watched[at].fd))
            tags[number++] = poller->watched[at].tag;
    }
    return number;
}

int mnw__poller_wait(struct mnw__poller *poller, void **tags, int count, int64_t timeout_ns) {
    fake_call("epoll_wait");
    uint64_t began = fiber_now();
    for (;;) {
        int number = report(poller, tags, count);
        bool kicked = poller->kicked;
        poller->kicked = false;
        uint64_t passed = fiber_now() - began;
        bool is_over = timeout_ns != INT64_MAX && passed >= (uint64_t)(timeout_ns < 0 ? 0 : timeout_ns);
        if (number || kicked || is_over || fake_strikes(FAKE_SPURIOUS)) {
            fake_call("epoll_wait done"); /* tags may be stale by the time the caller looks */
            return number;
        }
        fiber_wait(&table.changes, "epoll_wait",
                   timeout_ns == INT64_MAX ? FIBER_FOREVER : (uint64_t)timeout_ns - passed);
    }
}

void mnw__poller_kick(struct mnw__poller *poller) {
    poller->kicked = true;
    fiber_wake(&table.changes);
    fake_call("kick");
}

int mnw__eventfd_open(void) {
    fake_call("eventfd");
    return fake_strikes(FAKE_OPEN) ? mnw__fail(-EMFILE, "no descriptor left for an eventfd") : fake_fd_new(FD_EVENT);
}

static struct fake_fd *event_of(int fd) {
    struct fake_fd *entry = fake_fd_get(fd, FD_EVENT);
    if (!entry)
        sim_fail("descriptor %d is no eventfd", fd);
    return entry;
}

void mnw__eventfd_raise(int fd) {
    event_of(fd)->count++;
    fake_fd_changed(fd);
    fake_call("eventfd write");
}

void mnw__eventfd_lower(int fd) {
    event_of(fd)->count = 0;
    fake_call("eventfd read");
}

void mnw__eventfd_close(int fd) {
    fake_call("eventfd close");
    event_of(fd);
    fake_fd_free(fd);
}

/* ---- a run's begin and end ----------------------------------------------------------------------------- */

void fake_fds_begin(void) {
    memset(&table, 0, sizeof(table));
}

void fake_fds_end(void) {
    for (int i = 0; i < FAKE_FDS; i++)
        if (table.fds[i].type != FD_FREE)
            sim_fail("descriptor %d (type %d) was never closed", FAKE_FD_BASE + i, table.fds[i].type);
    for (int process = 0; process < FIBER_PROCESSES; process++)
        if (table.pollers[process])
            sim_fail("%u pollers were never closed", table.pollers[process]);
}
