/* SPDX-License-Identifier: MIT */
#include "syscall_fail.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_USER_NOTIF_FLAG_CONTINUE
#define SECCOMP_USER_NOTIF_FLAG_CONTINUE 1
#endif

#define WATCH_MAX  48
#define TIMEOUT_MS 20000
#define RUN        "--fail-run"

/* What the run inherits: a socket to send its listener through, and the numbers to watch. */
struct order {
    size_t count;
    long numbers[WATCH_MAX];
};

static int install(const struct order *order) {
    struct sock_filter filter[WATCH_MAX + 3];
    size_t n = 0;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < order->count; i++, n++) {
        uint8_t to_notify = (uint8_t)(order->count - i);
        filter[n] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)order->numbers[i], to_notify, 0);
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    struct sock_fprog program = {.len = (unsigned short)n, .filter = filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static bool send_descriptor(int channel, int fd) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control = {.bytes = {0}};
    char byte = 0;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    control.header =
        (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fd))};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    return sendmsg(channel, &message, 0) == 1;
}

static int receive_descriptor(int channel) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control;
    char byte;
    int fd = -1;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message)) {
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
    }
    return fd;
}

/* ---- the run's side ---- */

int fail_enter(int argc, char **argv, const struct fail_case *cases, size_t count) {
    if (argc != 4 || strcmp(argv[1], RUN)) {
        return -1;
    }
    int channel = atoi(argv[3]);
    struct order order;
    if (read(channel, &order, sizeof(order)) != sizeof(order)) {
        return 254;
    }
    const struct fail_case *found = NULL;
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(cases[i].name, argv[2])) {
            found = &cases[i];
        }
    }
    if (!found) {
        return 253;
    }
    alarm(2 * TIMEOUT_MS / 1000); /* should the supervisor die */
    int listener = install(&order);
    if (listener < 0 || !send_descriptor(channel, listener)) {
        return 252;
    }
    /* The supervisor's copy alone keeps the listener: when this process ends, it sees the end. */
    close(listener);
    close(channel);
    return found->run();
}

/* ---- the supervisor's side ---- */

struct supervisor {
    const struct fail_watch *watched;
    size_t count;
    unsigned nth;
    int error;
    struct fail_result *result;
};

static bool matches(const struct supervisor *supervisor, const struct seccomp_data *call) {
    for (size_t i = 0; i < supervisor->count; i++) {
        const struct fail_watch *watch = &supervisor->watched[i];
        if (watch->number == call->nr && (watch->argument < 0 || call->args[watch->argument] == watch->value)) {
            return true;
        }
    }
    return false;
}

static void answer(const struct supervisor *supervisor, int listener) {
    union { /* the kernel may know a longer struct */
        struct seccomp_notif call;
        char room[512];
    } notice = {.room = {0}};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notice)) {
        return;
    }
    union {
        struct seccomp_notif_resp response;
        char room[512];
    } reply = {.room = {0}};
    reply.response.id = notice.call.id;
    reply.response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    if (matches(supervisor, &notice.call.data) && ++supervisor->result->seen == supervisor->nth) {
        supervisor->result->failed = true;
        supervisor->result->number = notice.call.data.nr;
        reply.response.flags = 0;
        reply.response.error = -supervisor->error;
    }
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
}

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* False: it did not end in time. Before 6.11 the listener of a process that ended hangs up only when it was waited for,
 * so `pidfd` tells. */
static bool supervise(const struct supervisor *supervisor, int listener, int pidfd) {
    uint64_t deadline = now_ms() + TIMEOUT_MS;
    for (;;) {
        struct pollfd wait[] = {{.fd = listener, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
        uint64_t now = now_ms();
        if (now >= deadline || poll(wait, 2, (int)(deadline - now)) == 0) {
            return false;
        }
        if (wait[0].revents & POLLIN) {
            answer(supervisor, listener);
        } else if (wait[0].revents & (POLLHUP | POLLERR) || wait[1].revents) {
            return true;
        }
    }
}

static pid_t start(const char *name, const struct order *order, int channels[2]) {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channels)) {
        return -1;
    }
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        char number[16];
        int kept = dup(channels[1]); /* without close-on-exec */
        snprintf(number, sizeof(number), "%d", kept);
        execl("/proc/self/exe", "fail-run", RUN, name, number, (char *)NULL);
        _exit(251);
    }
    close(channels[1]);
    if (child > 0 && write(channels[0], order, sizeof(*order)) != sizeof(*order)) {
        kill(child, SIGKILL);
    }
    return child;
}

bool fail_run(const char *name, const struct fail_watch *watched, size_t count, unsigned nth, int error,
              struct fail_result *result) {
    struct order order = {.count = count};
    int channels[2];
    *result = (struct fail_result){.status = 255};
    if (count > WATCH_MAX) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        order.numbers[i] = watched[i].number;
    }
    pid_t child = start(name, &order, channels);
    if (child < 0) {
        return false;
    }
    int listener = receive_descriptor(channels[0]);
    close(channels[0]);
    struct supervisor supervisor = {watched, count, nth, error, result};
    int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    bool ended = listener >= 0 && supervise(&supervisor, listener, pidfd);
    close(pidfd);
    if (!ended && listener >= 0) {
        kill(child, SIGKILL);
    }
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (listener < 0) {
        return false;
    }
    close(listener);
    if (ended) {
        result->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return true;
}
