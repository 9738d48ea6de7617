/* SPDX-License-Identifier: MIT */
/* The loop: waits for what happens and calls whoever it concerns. One thread; owns the epoll and the signals. */
#include "daemon/daemon.h"

#include "base/error.h"
#include "sys/thread.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define MS UINT64_C(1000000)

enum { EVENTS_MAX = 64, LEAVE_MS = 20, SAVE_MS = 2000 };

/* A pipe that nobody empties, or a full socket, takes nothing more. */
static bool log_takes_more(void) {
    struct pollfd wait = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&wait, 1, 0) != 0;
}

void mnw__daemon_log(const char *format, ...) {
    static _Atomic unsigned lost;
    char text[640];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (!log_takes_more()) {
        atomic_fetch_add(&lost, 1);
        return;
    }
    unsigned before = atomic_exchange(&lost, 0);
    if (before)
        fprintf(stderr, "minnow: %u lines are missing here: they could not be written without waiting\n", before);
    fprintf(stderr, "minnow: %s\n", text);
}

static int control(struct mnw__daemon *daemon, int operation, int fd, uint32_t events, struct mnw__source *source) {
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(daemon->epoll, operation, fd, &event))
        return mnw__fail(-errno, "watching a descriptor: %s", strerror(errno));
    return 0;
}

int mnw__daemon_watch(struct mnw__daemon *daemon, int fd, uint32_t events, struct mnw__source *source) {
    return control(daemon, EPOLL_CTL_ADD, fd, events, source);
}

int mnw__daemon_rewatch(struct mnw__daemon *daemon, int fd, uint32_t events, struct mnw__source *source) {
    return control(daemon, EPOLL_CTL_MOD, fd, events, source);
}

void mnw__daemon_unwatch(struct mnw__daemon *daemon, int fd) {
    control(daemon, EPOLL_CTL_DEL, fd, 0, NULL);
}

static void work_finished(struct mnw__daemon *daemon, struct mnw__source *source, uint32_t events) {
    (void)source;
    (void)events;
    mnw__work_collect(daemon);
}

/* A handover leaves everything as it is; the next worker finds it with the holder. */
static void signal_came(struct mnw__daemon *daemon, struct mnw__source *source, uint32_t events) {
    struct signalfd_siginfo info;
    (void)source;
    (void)events;
    while (read(daemon->signals, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGHUP && daemon->holding.holder) {
            daemon->phase = MNW__HANDING_OVER;
            mnw__views_save_all(daemon); /* faults are served meanwhile */
            daemon->leave_ns = mnw__clock_ns() + LEAVE_MS * MS;
        } else if (info.ssi_signo != SIGHUP) {
            daemon->phase = MNW__STOPPING;
        }
    }
}

static int open_signals(struct mnw__daemon *daemon) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    daemon->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (daemon->signals < 0)
        return mnw__fail(-errno, "taking signals: %s", strerror(errno));
    daemon->signals_source.ready = signal_came;
    return mnw__daemon_watch(daemon, daemon->signals, EPOLLIN, &daemon->signals_source);
}

int mnw__daemon_loop_open(struct mnw__daemon *daemon) {
    daemon->signals = -1;
    daemon->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (daemon->epoll < 0)
        return mnw__fail(-errno, "making an epoll: %s", strerror(errno));
    int error = mnw__finished_open(&daemon->finished);
    daemon->finished_source.ready = work_finished;
    if (!error)
        error = mnw__daemon_watch(daemon, daemon->finished.event_fd, EPOLLIN, &daemon->finished_source);
    return error ? error : open_signals(daemon);
}

void mnw__daemon_loop_close(struct mnw__daemon *daemon) {
    mnw__finished_close(&daemon->finished);
    close(daemon->signals);
    close(daemon->epoll);
}

int mnw__daemon_turn(struct mnw__daemon *daemon, int timeout_ms) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(daemon->epoll, events, EVENTS_MAX, daemon->waiting ? 1 : timeout_ms);
    if (count < 0 && errno != EINTR)
        return mnw__fail(-errno, "waiting for something to do: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct mnw__source *source = events[i].data.ptr;
        source->ready(daemon, source, events[i].events);
    }
    mnw__changes_go_on(daemon);
    mnw__session_sweep(daemon);
    return 0;
}

/*
 * What was asked for and is nearly done is finished first: the next worker would have to do it again. What is being
 * saved cannot be done again, and gets more time, whoever began it.
 */
static bool may_leave(const struct mnw__daemon *daemon) {
    if (daemon->phase != MNW__HANDING_OVER)
        return daemon->phase == MNW__STOPPING;
    uint64_t now = mnw__clock_ns();
    if (!daemon->works || now < daemon->leave_ns)
        return !daemon->works;
    unsigned saving = mnw__views_saving(daemon);
    if (saving && now < daemon->leave_ns + SAVE_MS * MS)
        return false;
    if (saving)
        mnw__daemon_log("the working sets of %u views are not saved: that takes more than %d ms, and the next worker "
                        "takes over",
                        saving, SAVE_MS);
    return true;
}

int mnw__daemon_loop(struct mnw__daemon *daemon) {
    int error = 0;
    while (!error && !may_leave(daemon)) {
        int timeout_ms = mnw__session_tick(daemon), strays_ms = mnw__strays_tick(daemon);
        if (timeout_ms < 0 || (strays_ms >= 0 && strays_ms < timeout_ms))
            timeout_ms = strays_ms;
        error = mnw__daemon_turn(daemon, daemon->phase == MNW__HANDING_OVER ? 1 : timeout_ms);
    }
    return error;
}
