/* SPDX-License-Identifier: MIT */
/*
 * Waiting for several descriptors: epoll, and an eventfd for kicks. Owns both. One thread waits; any thread
 * adds, removes and kicks.
 *
 * Everything is level-triggered but the kick. That one is edge-triggered and its eventfd never read: each
 * write is one edge, remembered by epoll until a wait reports it, so a kick costs the waiter no system call.
 */
#include "sys/poller.h"

#include "base/error.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define BATCH     64
#define NS_PER_S  1000000000ll
#define NS_PER_MS 1000000ll

struct mnw__poller {
    int epoll;
    int kick;
    bool kick_owed; /* waiter: a kick came together with descriptors; the next wait returns 0 for it */
    bool no_pwait2; /* waiter: refused by kernel or seccomp filter */
};

static int give_up(struct mnw__poller *poller, const char *what) {
    int error = errno;
    if (poller->epoll >= 0) {
        close(poller->epoll);
    }
    if (poller->kick >= 0) {
        close(poller->kick);
    }
    free(poller);
    return mnw__fail(-error, "%s: %s; raise the limit on open files (ulimit -n) if that is the cause", what,
                     strerror(error));
}

int mnw__poller_open(struct mnw__poller **result) {
    struct mnw__poller *poller = calloc(1, sizeof(*poller));
    if (!poller) {
        return mnw__fail(-ENOMEM, "no memory for a poller");
    }
    poller->kick = -1;
    poller->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (poller->epoll < 0) {
        return give_up(poller, "epoll_create1");
    }
    poller->kick = mnw__eventfd_open();
    if (poller->kick < 0) {
        errno = -poller->kick;
        return give_up(poller, "eventfd");
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = poller};
    if (epoll_ctl(poller->epoll, EPOLL_CTL_ADD, poller->kick, &event)) {
        return give_up(poller, "epoll_ctl");
    }
    *result = poller;
    return 0;
}

void mnw__poller_close(struct mnw__poller *poller) {
    if (!poller) {
        return;
    }
    close(poller->epoll);
    close(poller->kick);
    free(poller);
}

int mnw__poller_add(struct mnw__poller *poller, int fd, void *tag) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = tag};
    if (epoll_ctl(poller->epoll, EPOLL_CTL_ADD, fd, &event)) {
        return mnw__fail(-errno,
                         "watching a descriptor by epoll: %s; raise fs.epoll.max_user_watches if that is the cause",
                         strerror(errno));
    }
    return 0;
}

int mnw__poller_remove(struct mnw__poller *poller, int fd) {
    return epoll_ctl(poller->epoll, EPOLL_CTL_DEL, fd, NULL) ? -errno : 0;
}

static int wait_ns(struct mnw__poller *poller, struct epoll_event *events, int count, int64_t timeout_ns) {
    if (timeout_ns == INT64_MAX) {
        return epoll_wait(poller->epoll, events, count, -1);
    }
    if (timeout_ns <= 0) {
        return epoll_wait(poller->epoll, events, count, 0);
    }
    if (!poller->no_pwait2) {
        struct timespec timeout = {.tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};
        int ready = epoll_pwait2(poller->epoll, events, count, &timeout, NULL);
        if (ready >= 0 || (errno != ENOSYS && errno != EPERM)) {
            return ready;
        }
        poller->no_pwait2 = true;
    }
    /* Rounded up, or a deadline less than a millisecond away would be met by spinning. */
    int64_t ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
    return epoll_wait(poller->epoll, events, count, ms > INT32_MAX ? INT32_MAX : (int)ms);
}

int mnw__poller_wait(struct mnw__poller *poller, void **tags, int count, int64_t timeout_ns) {
    if (poller->kick_owed) {
        poller->kick_owed = false;
        return 0;
    }
    struct epoll_event events[BATCH];
    int ready = wait_ns(poller, events, count < BATCH ? count : BATCH, timeout_ns);
    if (ready < 0) {
        return errno == EINTR ? 0 : -errno;
    }
    int found = 0;
    for (int i = 0; i < ready; i++) {
        if (events[i].data.ptr == poller) {
            poller->kick_owed = ready > 1;
        } else {
            tags[found++] = events[i].data.ptr;
        }
    }
    return found;
}

void mnw__poller_kick(struct mnw__poller *poller) {
    mnw__eventfd_raise(poller->kick);
}

int mnw__eventfd_open(void) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return mnw__fail(-errno, "eventfd: %s; raise the limit on open files (ulimit -n) if that is the cause",
                         strerror(errno));
    }
    return fd;
}

void mnw__eventfd_raise(int fd) {
    int saved = errno;
    uint64_t one = 1;
    ssize_t written;
    do {
        written = write(fd, &one, sizeof(one));
    } while (written < 0 && errno == EINTR);
    /* EAGAIN: the counter is full, which reads the same as raised. */
    errno = saved;
}

void mnw__eventfd_lower(int fd) {
    int saved = errno;
    uint64_t count;
    ssize_t bytes;
    do {
        bytes = read(fd, &count, sizeof(count));
    } while (bytes < 0 && errno == EINTR);
    errno = saved;
}

void mnw__eventfd_close(int fd) {
    close(fd);
}
