/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: everything that a worker can tell the holder, to the holder as it is, whose processes, signals and time
 * are a fake.
 *
 * An input is what happens, turn by turn: notifications of the worker, of the standby and of others, with descriptors
 * or without; deaths of workers, signals, time. Whatever comes: nobody is killed who is not the holder's, there are
 * never more than a worker and a standby, whoever sends without end is interrupted, the holder ends when it is told
 * to, and at the end nothing is open.
 */
#include "fuzz/fuzz.h"
#include "fuzz/input.h"

#include "base/error.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/serve.h"
#include "sys/packet.h"
#include "sys/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST_PID = 1 << 20, CHILDREN = 8, TURNS_MAX = 20000, FLOOD = 5000, SIGNALS_MAX = 4, FDS_GIVEN_MAX = 150 };

struct child {
    pid_t pid; /* 0: none */
    bool is_dead;
    int status; /* then */
};

static struct {
    uint64_t now_ns;
    pid_t last_pid;
    struct child children[CHILDREN];
    int signals[SIGNALS_MAX];
    unsigned signal_count, turns, waiting, received, given;
    bool floods;
} world;

/* ---- processes ---- */

/* The oldest is the worker, the next one its standby. */
static struct child *living(unsigned which) {
    struct child *found = NULL;
    for (pid_t after = 0;; after = found->pid) {
        found = NULL;
        for (struct child *child = world.children; child < world.children + CHILDREN; child++)
            if (child->pid > after && !child->is_dead && (!found || child->pid < found->pid))
                found = child;
        if (!found || !which--)
            return found;
    }
}

pid_t fuzz_fork(void);
pid_t fuzz_fork(void) {
    if (fake_byte() >= 240) {
        errno = EAGAIN;
        return -1;
    }
    demand(!living(1), "more than a worker and a standby");
    for (unsigned i = 0; i < CHILDREN; i++)
        if (!world.children[i].pid) {
            world.children[i] = (struct child){.pid = FIRST_PID + ++world.last_pid};
            return world.children[i].pid;
        }
    demand(false, "the dead are not buried");
    return -1;
}

static void die(struct child *child, int status) {
    if (!child || child->is_dead)
        return;
    child->is_dead = true;
    child->status = status;
    if (world.signal_count < SIGNALS_MAX)
        world.signals[world.signal_count++] = SIGCHLD;
}

int fuzz_kill(pid_t pid, int number);
int fuzz_kill(pid_t pid, int number) {
    struct child *child = world.children;
    while (child < world.children + CHILDREN && child->pid != pid)
        child++;
    demand(pid > 0 && child < world.children + CHILDREN, "a process is killed that is not the holder's");
    if (number == SIGKILL)
        die(child, SIGKILL);
    else if (!fuzz_input.left || fake_byte() % 2)
        die(child, 0);
    return 0;
}

pid_t fuzz_waitpid(pid_t pid, int *status, int options);
pid_t fuzz_waitpid(pid_t pid, int *status, int options) {
    demand(pid == -1, "waits for one of them");
    for (unsigned i = 0; i < CHILDREN; i++) {
        struct child *child = &world.children[i];
        demand(!child->pid || child->is_dead || options & WNOHANG, "waits for ever for a worker that lives");
        if (!child->pid || !child->is_dead)
            continue;
        pid_t ended = child->pid;
        child->pid = 0;
        if (status)
            *status = child->status;
        return ended;
    }
    return options & WNOHANG ? 0 : -1;
}

/* ---- signals and time ---- */

int fuzz_signalfd(int fd, const sigset_t *set, int flags);
int fuzz_signalfd(int fd, const sigset_t *set, int flags) {
    demand(fd == -1 && sigismember(set, SIGCHLD) && flags & SFD_NONBLOCK, "takes no signals");
    return fake_fd();
}
int fuzz_sigprocmask(int how, const sigset_t *set, sigset_t *old);
int fuzz_sigprocmask(int how, const sigset_t *set, sigset_t *old) {
    (void)old;
    demand(how == SIG_BLOCK && set, "signals are let in");
    return 0;
}
ssize_t fuzz_read(int fd, void *to, size_t bytes);
ssize_t fuzz_read(int fd, void *to, size_t bytes) {
    struct signalfd_siginfo info = {0};
    demand(fcntl(fd, F_GETFD) >= 0 && bytes == sizeof(info), "reads something else");
    if (!world.signal_count) {
        errno = EAGAIN;
        return -1;
    }
    info.ssi_signo = (uint32_t)world.signals[--world.signal_count];
    memcpy(to, &info, sizeof(info));
    return sizeof(info);
}

uint64_t mnw__clock_ns(void) {
    return world.now_ns;
}

/* What happens in one turn. */
static void happen(void) {
    static const int statuses[] = {0, SIGKILL, SIGSEGV, 1 << 8, 2 << 8, 3 << 8, 4 << 8, 0};
    uint8_t byte = fake_byte();
    switch (byte % 8) {
    case 0:
    case 1:
    case 2:
        world.waiting = 1 + byte / 64;
        break;
    case 3:
        world.floods = byte >= 240;
        world.waiting = world.floods ? FLOOD : 1;
        break;
    case 4:
        die(living(byte / 8 % 2), statuses[byte / 16 % 8]);
        break;
    case 5:
        if (world.signal_count < SIGNALS_MAX)
            world.signals[world.signal_count++] = byte >= 248 ? SIGTERM : SIGHUP;
        break;
    default:
        world.now_ns += (uint64_t)(byte / 8) << 28;
    }
}

/* At the end of the input it is told to stop; a worker that does not go is late then. */
static void end(int timeout_ms) {
    if (world.turns % 4 == 0 && world.signal_count < SIGNALS_MAX)
        world.signals[world.signal_count++] = SIGTERM;
    if (timeout_ms > 0)
        world.now_ns += (uint64_t)timeout_ms * 1000000;
}

int fuzz_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int fuzz_poll(struct pollfd *fds, nfds_t count, int timeout_ms) {
    demand(count == 2 && ++world.turns < TURNS_MAX, "the holder does not end");
    world.received = 0;
    world.now_ns += 1000000;
    if (fuzz_input.left)
        happen();
    else
        end(timeout_ms);
    fds[0].revents = world.signal_count ? POLLIN : 0;
    fds[1].revents = world.waiting ? POLLIN : 0;
    return !!fds[0].revents + !!fds[1].revents;
}

/* ---- what is told ---- */

static size_t append(char *text, size_t bytes, size_t room, const char *what) {
    size_t length = strlen(what);
    length = length < room - bytes ? length : room - bytes;
    memcpy(text + bytes, what, length);
    return bytes + length;
}

static size_t write_text(char *text, size_t room) {
    static const char *const words[] = {"FDSTORE=1",
                                        "FDNAME=",
                                        "FDSTOREREMOVE=1",
                                        "READY=1",
                                        "STANDBY=1",
                                        "STOPPING=1",
                                        "BARRIER=1",
                                        "STATUS=x",
                                        "listen",
                                        "state",
                                        "view.1.2",
                                        "pages.0.1",
                                        "a:b",
                                        "child.17.4",
                                        "=",
                                        "FDPOLL=0",
                                        "FDSTORE=1\nFDPOLL=0\nFDNAME=view.1.2",
                                        "FDSTOREREMOVE=1\nFDNAME=view.1.2",
                                        "a name that is much longer than any name that a descriptor may have here",
                                        "\n"};
    size_t bytes = 0;
    for (unsigned left = fake_byte() % 8; left; left--) {
        uint8_t byte = fake_byte();
        char raw[2] = {(char)byte, 0};
        bytes = append(text, bytes, room, byte < 200 ? words[byte % 20] : raw);
        if (byte < 200 && byte / 20 % 2 == 0 && words[byte % 20][strlen(words[byte % 20]) - 1] != '=')
            bytes = append(text, bytes, room, "\n");
    }
    while (bytes && text[bytes - 1] == '\n')
        bytes--;
    if (fake_byte() >= 250) { /* as much as there is room for */
        memset(text + bytes, 'x', room - bytes);
        bytes = room;
    }
    return bytes;
}

int mnw__socket_receive(int fd, void *packet, size_t room, struct mnw__socket_received *received) {
    demand(fcntl(fd, F_GETFD) >= 0, "receives of a socket that is closed");
    *received = (struct mnw__socket_received){0};
    if (!world.waiting)
        return -EAGAIN;
    world.waiting--;
    demand(++world.received < FLOOD, "who sends without end keeps the holder from all else");
    received->sender.pid = living(0) ? living(0)->pid : FIRST_PID + world.last_pid; /* what it sent last */
    if (world.floods) {
        received->bytes = append(packet, 0, room, "STATUS=x");
        return 0;
    }
    uint8_t byte = fake_byte();
    if (byte >= 192)
        received->sender.pid = byte >= 250 || !living(1) ? 1 : living(1)->pid;
    received->cut = byte == 191;
    received->bytes = write_text(packet, room);
    for (unsigned i = fake_byte() % 16 < 12 ? 1 : fake_byte() % (MNW__SOCKET_FDS_MAX + 1); i; i--)
        if (world.given++ < FDS_GIVEN_MAX)
            received->fds[received->fd_count++] = fake_fd();
    return 0;
}

int mnw__socket_send(int fd, const void *packet, size_t bytes, const int *fds, unsigned fd_count) {
    demand(fcntl(fd, F_GETFD) >= 0 && packet && bytes && bytes < MNW__STATE_FDNAME_BYTES, "sends no name");
    demand(!memchr(packet, ':', bytes), "a name that no worker could be told");
    demand(!fd_count || fcntl(fds[0], F_GETFD) >= 0, "keeps a descriptor that is closed");
    return fake_byte() >= 240 ? mnw__fail(-EPIPE, "as the input wants it") : 0;
}

int mnw__notify_listen(const char *path, uid_t owner) {
    (void)owner;
    demand(path[0], "listens nowhere");
    return fake_fd();
}
void mnw__socket_file_note(struct mnw__socket_file *file, const char *path) {
    demand(file && path, "notes nothing");
}
void mnw__socket_file_remove(const struct mnw__socket_file *file, const char *path) {
    demand(file && path, "removes nothing");
}
void mnw__daemon_log(const char *format, ...) {
    demand(format[0], "says nothing");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char socket[] = "@fuzz", program[] = "minnow";
    static struct mnw__config config;
    char *const argv[] = {program, NULL};
    config.socket = socket;
    fuzz_begin(data, size);
    memset(&world, 0, sizeof(world));
    world.now_ns = 1000000000;
    int status = mnw__holder_run(&config, argv);
    demand(status >= 0 && status < 256, "no status");
    for (unsigned i = 0; i < CHILDREN; i++)
        demand(!world.children[i].pid, "a worker outlives the holder");
    fuzz_check_descriptors();
    return 0;
}
