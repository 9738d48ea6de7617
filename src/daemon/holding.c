/* SPDX-License-Identifier: MIT */
/* Descriptors that outlive the worker, by the protocol of sd_notify(3). */
#include "daemon/holding.h"

#include "base/error.h"
#include "sys/packet.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_FD = 3, BARRIER_MS = 5000, NAME_BYTES = 64 };

/* The descriptors are meant for the process that $LISTEN_PID names, and for no child of it. */
static unsigned count_passed(void) {
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (!pid || !count || strtol(pid, NULL, 10) != getpid())
        return 0;
    long number = strtol(count, NULL, 10);
    return number > 0 && number < 1 << 20 ? (unsigned)number : 0;
}

int mnw__holding_passed(const char *name) {
    const char *names = getenv("LISTEN_FDNAMES");
    unsigned count = count_passed();
    for (unsigned i = 0; names && i < count; i++) {
        size_t length = strcspn(names, ":");
        if (length == strlen(name) && !strncmp(names, name, length))
            return FIRST_FD + (int)i;
        names += length + (names[length] == ':');
    }
    return -1;
}

static int take_passed(struct mnw__holding *holding, unsigned count, const char *names) {
    holding->fds = calloc(count ? count : 1, sizeof(*holding->fds));
    if (!holding->fds)
        return mnw__fail(-ENOMEM, "taking over descriptors: out of memory");
    for (unsigned i = 0; i < count; i++) {
        size_t length = strcspn(names, ":");
        holding->fds[i] = (struct mnw__held_fd){strndup(names, length), FIRST_FD + (int)i};
        holding->count = i + 1;
        if (!holding->fds[i].name)
            return mnw__fail(-ENOMEM, "taking over descriptors: out of memory");
        fcntl(holding->fds[i].fd, F_SETFD, FD_CLOEXEC);
        names += length + (names[length] == ':');
    }
    return 0;
}

int mnw__holding_open(struct mnw__holding *holding) {
    *holding = (struct mnw__holding){.standby = -1, .records = -1};
    const char *holder = getenv("NOTIFY_SOCKET"), *names = getenv("LISTEN_FDNAMES");
    const char *standby = getenv(MNW__HOLDING_STANDBY), *records = getenv(MNW__HOLDING_RECORDS);
    holding->has_choice = getenv(MNW__HOLDING_CHOICE);
    if (holder && !(holding->holder = strdup(holder)))
        return mnw__fail(-ENOMEM, "starting: out of memory");
    int error = standby ? 0 : take_passed(holding, count_passed(), names ? names : "");
    if (standby) {
        holding->standby = (int)strtol(standby, NULL, 10);
        fcntl(holding->standby, F_SETFD, FD_CLOEXEC);
        holding->records = records ? (int)strtol(records, NULL, 10) : -1;
    }
    unsetenv("NOTIFY_SOCKET");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDNAMES");
    unsetenv(MNW__HOLDING_STANDBY);
    unsetenv(MNW__HOLDING_RECORDS);
    unsetenv(MNW__HOLDING_CHOICE);
    return error;
}

/* One more descriptor that the holder has kept. */
static int take_sent(struct mnw__holding *holding, const char *name, int fd) {
    struct mnw__held_fd *fds = realloc(holding->fds, (holding->count + 1) * sizeof(*fds));
    if (!fds)
        return mnw__fail(-ENOMEM, "taking over descriptors: out of memory");
    holding->fds = fds;
    fds[holding->count] = (struct mnw__held_fd){strdup(name), fd};
    if (!fds[holding->count].name)
        return mnw__fail(-ENOMEM, "taking over descriptors: out of memory");
    holding->count++;
    return 0;
}

int mnw__holding_await(struct mnw__holding *holding) {
    struct mnw__socket_received received;
    char name[NAME_BYTES];
    int error = 0;
    mnw__holding_tell(holding, "STANDBY=1");
    while (!error) {
        error = mnw__socket_receive(holding->standby, name, sizeof(name) - 1, &received);
        if (error || (received.bytes == 1 && name[0] == '.' && !received.fd_count))
            break;
        name[received.bytes] = '\0';
        error = received.fd_count == 1 ? take_sent(holding, name, received.fds[0])
                                       : mnw__fail(-ECONNRESET, "the holder wants no other worker");
    }
    close(holding->standby);
    if (holding->records >= 0)
        close(holding->records);
    holding->standby = holding->records = -1;
    return error;
}

void mnw__holding_close(struct mnw__holding *holding) {
    for (unsigned i = 0; i < holding->count; i++) {
        if (holding->fds[i].fd >= 0)
            close(holding->fds[i].fd);
        free(holding->fds[i].name);
    }
    free(holding->fds);
    free(holding->holder);
    *holding = (struct mnw__holding){.standby = -1, .records = -1};
}

int mnw__holding_take(struct mnw__holding *holding, const char *name) {
    for (unsigned i = 0; i < holding->count; i++) {
        struct mnw__held_fd *held = &holding->fds[i];
        if (held->fd < 0 || (name && strcmp(held->name, name) != 0))
            continue;
        int fd = held->fd;
        held->fd = -1;
        return fd;
    }
    return -1;
}

/*
 * A holder that has died takes nothing with it but the hope of surviving the next crash: peers are served on, and
 * nothing is kept any more.
 */
static int without_holder(struct mnw__holding *holding, int error) {
    if (error != -ECONNREFUSED && error != -ENOENT)
        return error;
    if (!atomic_exchange(&holding->is_lost, true))
        fprintf(stderr,
                "minnow: the holder at %s is gone: a crash would now lose what consumers have mapped; "
                "restart the daemon when they can be spared\n",
                holding->holder);
    return 0;
}

bool mnw__holding_keeps(const struct mnw__holding *holding) {
    return holding->holder && !atomic_load(&holding->is_lost);
}

int mnw__holding_store(struct mnw__holding *holding, const char *name, int fd, bool certain) {
    char text[128];
    if (!mnw__holding_keeps(holding))
        return 0;
    snprintf(text, sizeof(text), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
    int error = mnw__notify_send(holding->holder, text, &fd, 1);
    if (!error && certain)
        error = mnw__notify_barrier(holding->holder, BARRIER_MS);
    return error ? without_holder(holding, error) : 0;
}

void mnw__holding_remove(const struct mnw__holding *holding, const char *name) {
    char text[128];
    if (!holding->holder)
        return;
    snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
    mnw__notify_send(holding->holder, text, NULL, 0);
}

void mnw__holding_tell(const struct mnw__holding *holding, const char *text) {
    if (holding->holder)
        mnw__notify_send(holding->holder, text, NULL, 0);
}
