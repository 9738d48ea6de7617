/* SPDX-License-Identifier: MIT */
#include "client/minder.h"

#include "client/client.h"
#include "sys/process.h"
#include "sys/thread.h"
#include "sys/uffd.h"

#include <errno.h>
#include <linux/close_range.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENDS_MAX = 16, FILES_MAX = 64 };

enum { BEGINS = 0, HAS_BEGUN, HAS_FAILED };

static struct {
    unsigned uffd_count, end_count, file_count;
    struct {
        int fd, end;
    } uffds[MNW__MINDED_MAX];
    int ends[ENDS_MAX]; /* -1: it has come */
    struct {
        uint64_t device, inode;
        size_t page_bytes;
    } files[FILES_MAX];
    struct mnw__thread thread;
    _Atomic uint32_t state;
} minder;

/* ---- before it starts ---- */

void mnw__minder_begin(void) {
    minder.uffd_count = minder.end_count = minder.file_count = 0;
}

int mnw__minder_add_end(int fd) {
    if (minder.end_count == ENDS_MAX) {
        close(fd);
        return -EMFILE;
    }
    minder.ends[minder.end_count] = fd;
    return (int)minder.end_count++;
}

int mnw__minder_add(int uffd, int end) {
    if (minder.uffd_count == MNW__MINDED_MAX) {
        mnw__uffd_close(uffd);
        return -EMFILE;
    }
    minder.uffds[minder.uffd_count].fd = uffd;
    minder.uffds[minder.uffd_count++].end = end;
    return 0;
}

int mnw__minder_add_file(uint64_t device, uint64_t inode, size_t page_bytes) {
    if (minder.file_count == FILES_MAX)
        return -EMFILE;
    minder.files[minder.file_count].device = device;
    minder.files[minder.file_count].inode = inode;
    minder.files[minder.file_count++].page_bytes = page_bytes;
    return 0;
}

void mnw__minder_abandon(int uffd) {
    for (unsigned i = 0; i < minder.uffd_count; i++)
        if (minder.uffds[i].fd == uffd)
            minder.uffds[i].end = MNW__NOBODY;
}

/* Its own mapping again is nothing new to a userfaultfd; another's is refused. */
bool mnw__minder_watches(uintptr_t start, size_t length) {
    for (unsigned i = 0; i < minder.uffd_count; i++)
        if (!mnw__uffd_register(minder.uffds[i].fd, start, length, MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL))
            return true;
    return false;
}

/* ---- its table of descriptors ---- */

static bool is_ours(unsigned fd) {
    for (unsigned i = 0; i < minder.uffd_count; i++)
        if (minder.uffds[i].fd == (int)fd)
            return true;
    for (unsigned i = 0; i < minder.end_count; i++)
        if (minder.ends[i] == (int)fd)
            return true;
    return false;
}

static unsigned last_of_ours(void) {
    int last = 0;
    for (unsigned i = 0; i < minder.uffd_count; i++)
        last = minder.uffds[i].fd > last ? minder.uffds[i].fd : last;
    for (unsigned i = 0; i < minder.end_count; i++)
        last = minder.ends[i] > last ? minder.ends[i] : last;
    return (unsigned)last;
}

/* A copy, and in it closes all that is not ours: pipes of the program's must not stay open for us. */
static int take_own_table(void) {
    unsigned last = last_of_ours();
    if (syscall(SYS_close_range, last + 1, ~0u, CLOSE_RANGE_UNSHARE))
        return -errno;
    for (unsigned fd = 0; fd < last; fd++)
        if (!is_ours(fd))
            close((int)fd);
    return 0;
}

static void close_ours(void) {
    for (unsigned i = 0; i < minder.uffd_count; i++)
        mnw__uffd_close(minder.uffds[i].fd);
    for (unsigned i = 0; i < minder.end_count; i++)
        close(minder.ends[i]);
}

/* ---- when nobody serves them any more: its thread ---- */

static void bar_part(void *context, const struct mnw__own_mapping *mapping) {
    const int *uffd = context;
    for (unsigned i = 0; i < minder.file_count; i++)
        if (mapping->is_private && mapping->device == minder.files[i].device && mapping->inode == minder.files[i].inode)
            mnw__child_bar(*uffd, mapping->start, mapping->end - mapping->start, minder.files[i].page_bytes);
}

/* It lies in the child where it lies here. Without /proc nobody can tell: then it stays open, and the child waits. */
static void end_child(int uffd) {
    if (!mnw__process_own_mappings(bar_part, &uffd))
        mnw__uffd_close(uffd);
}

static void serve(int fd) {
    struct mnw__uffd_event events[MNW__UFFD_BATCH];
    int count = mnw__uffd_read_nowait(fd, events, MNW__UFFD_BATCH);
    for (int i = 0; i < count; i++) {
        if (events[i].kind == MNW__UFFD_EV_FAULT)
            mnw__uffd_bar_fault(fd, events[i].address);
        else if (events[i].kind == MNW__UFFD_EV_FORK)
            end_child(events[i].fd);
        else
            mnw__uffd_wake(fd, events[i].address, events[i].length);
    }
}

/* Whoever waits may have faulted for a daemon that has read of it. */
static void note_end(int fd) {
    unsigned end = 0;
    while (minder.ends[end] != fd)
        end++;
    close(fd);
    minder.ends[end] = -1;
    for (unsigned i = 0; i < minder.uffd_count; i++)
        if (minder.uffds[i].end == (int)end)
            mnw__uffd_wake_all(minder.uffds[i].fd);
}

static bool is_served(unsigned uffd) {
    int end = minder.uffds[uffd].end;
    return end != MNW__NOBODY && minder.ends[end] >= 0;
}

static void turn(void) {
    struct pollfd polls[ENDS_MAX + MNW__MINDED_MAX];
    nfds_t ends = 0, count;
    for (unsigned i = 0; i < minder.end_count; i++)
        if (minder.ends[i] >= 0)
            polls[ends++] = (struct pollfd){.fd = minder.ends[i]}; /* hanging up is always told */
    count = ends;
    for (unsigned i = 0; i < minder.uffd_count; i++)
        if (!is_served(i))
            polls[count++] = (struct pollfd){.fd = minder.uffds[i].fd, .events = POLLIN};
    if (poll(polls, count, -1) < 0)
        return;
    for (nfds_t i = 0; i < count; i++)
        if (polls[i].revents && i < ends)
            note_end(polls[i].fd);
        else if (polls[i].revents)
            serve(polls[i].fd);
}

static void mind(void *unused) {
    (void)unused;
    int error = take_own_table();
    atomic_store(&minder.state, error ? HAS_FAILED : HAS_BEGUN);
    mnw__word_wake(&minder.state);
    while (!error)
        turn();
}

int mnw__minder_start(void) {
    if (!minder.uffd_count) {
        close_ours();
        return 0;
    }
    for (unsigned i = 0; i < minder.uffd_count; i++)
        mnw__uffd_tame(minder.uffds[i].fd);
    atomic_store(&minder.state, BEGINS);
    int error = mnw__thread_start(&minder.thread, "mnw-child", -1, mind, NULL);
    while (!error && atomic_load(&minder.state) == BEGINS)
        mnw__word_wait(&minder.state, BEGINS, INT64_MAX);
    if (!error && atomic_load(&minder.state) == HAS_FAILED) {
        mnw__thread_join(&minder.thread);
        error = -EMFILE;
    }
    close_ours();
    return error;
}
