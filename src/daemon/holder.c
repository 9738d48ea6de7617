/* SPDX-License-Identifier: MIT */
/*
 * The holder: does for a worker what systemd would. Keeps its descriptors, starts it again when it dies.
 *
 * For a planned handover it can do better than systemd: the next worker, the *standby*, is started while the old one
 * still serves. When it says that all is ready but the descriptors, the old one is asked to go, and the moment it is
 * gone the standby is sent what the holder has, and is the worker.
 *
 * Owns: the descriptors, the socket for notifications, the worker's process. One thread, no engine: it does so little
 * that it has nothing to die of. It listens to its own worker alone.
 */
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/holding.h"
#include "daemon/serve.h"

#include "base/bits.h"
#include "base/error.h"
#include "sys/packet.h"
#include "sys/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS UINT64_C(1000000)

enum {
    FDS_MAX = 8192,
    NAME_BYTES = 48,
    FIRST_FD = 3,
    QUICK_DEATHS = 10, /* in a row: from then on it waits before it tries again */
    PAUSE_MS = 1000,
    STOP_MS = 10000,
    SEND_MS = 2000, /* a standby that takes nothing for so long is none */
    STANDBY_S = 30, /* and one that has not said after so long that it stands by is replaced */
    STANDBYS_MAX = 3,
    NOTIFICATIONS_A_TURN = 256,
    LAST_TURNS = 16, /* more than a queue can hold */
    LEAVE_S = 10,    /* a worker that has not gone for one is killed */
};

struct held {
    char name[NAME_BYTES];
    int fd;
};

struct holder {
    char path[108]; /* of the socket for notifications */
    char binary[4096];
    char *const *argv;
    const char *socket;                  /* where workers listen */
    struct mnw__socket_file socket_file; /* while a worker's listening socket is held */
    int notify, signals;
    unsigned count;
    struct held *fds;
    pid_t worker, standby; /* 0: none */
    int standby_socket;    /* with a standby */
    unsigned standby_s, standby_tries;
    bool stands_by;             /* the standby has said so */
    uint64_t handover_until_ns; /* when the next step of a handover is late; 0: none is awaited */
    bool ready, was_ready;      /* this worker; any */
    bool stopping, worker_stops;
    uint64_t started_ns, start_at_ns, kill_at_ns; /* 0: no */
    int death;                                    /* the status of a worker that ended */
    bool tells_death;                             /* it is still to be logged */
    unsigned quick_deaths;
    bool refusal_told; /* of workers that refused to start, one after the other */
    bool prefers_own;  /* the program on disk cannot read the worker's records; the one that we are could */
    int status;
};

/* ---- what is kept ---- */

static void keep(struct holder *holder, const char *name, int fd) {
    if (holder->count == FDS_MAX || !name[0] || strlen(name) >= NAME_BYTES || strchr(name, ':')) {
        mnw__daemon_log("holder: cannot keep a descriptor as '%.60s'", name);
        close(fd);
        return;
    }
    struct held *held = &holder->fds[holder->count++];
    snprintf(held->name, sizeof(held->name), "%s", name);
    held->fd = fd;
    if (!strcmp(name, "listen"))
        mnw__socket_file_note(&holder->socket_file, holder->socket);
}

/* A worker that has become another user may not remove it itself, and one that was killed could not. */
static void remove_socket(struct holder *holder) {
    mnw__socket_file_remove(&holder->socket_file, holder->socket);
    holder->socket_file.is_known = false;
}

static void forget(struct holder *holder, const char *name) {
    if (!strcmp(name, "listen"))
        remove_socket(holder);
    for (unsigned i = 0; i < holder->count;) {
        if (strcmp(holder->fds[i].name, name) != 0) {
            i++;
            continue;
        }
        close(holder->fds[i].fd);
        holder->fds[i] = holder->fds[--holder->count];
    }
}

/* ---- notifications ---- */

/* The value of `key` among lines KEY=VALUE, copied; false: not there. */
static bool find_value(const char *text, const char *key, char value[NAME_BYTES]) {
    size_t length = strlen(key);
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        if (strncmp(line, key, length) != 0 || line[length] != '=')
            continue;
        snprintf(value, NAME_BYTES, "%.*s", (int)strcspn(line + length + 1, "\n"), line + length + 1);
        return true;
    }
    return false;
}

static void take_notification(struct holder *holder, const char *text, struct mnw__socket_received *received) {
    char name[NAME_BYTES], value[NAME_BYTES];
    bool named = find_value(text, "FDNAME", name);
    if (find_value(text, "FDSTORE", value) && named && received->fd_count == 1) {
        keep(holder, name, received->fds[0]);
        received->fd_count = 0;
    }
    if (find_value(text, "FDSTOREREMOVE", value) && named)
        forget(holder, name);
    if (find_value(text, "STANDBY", value))
        holder->handover_until_ns = 0; /* its predecessor has died meanwhile */
    if (find_value(text, "STOPPING", value))
        holder->worker_stops = true;
    if (find_value(text, "READY", value)) {
        holder->ready = holder->was_ready = true;
        holder->refusal_told = false;
    }
}

/* From now on it is the old worker that others wait for. */
static void standby_is_ready(struct holder *holder) {
    holder->stands_by = true;
    holder->handover_until_ns = mnw__clock_ns() + mnw__min(LEAVE_S, holder->standby_s) * 1000 * MS;
    kill(holder->worker, SIGHUP);
}

/*
 * Closing the descriptor that came with BARRIER=1 is the answer to it. False: there are no more for now. In portions:
 * who sends without end keeps nobody from stopping the daemon.
 */
static bool take_notifications(struct holder *holder) {
    struct mnw__socket_received received;
    char text[512];
    for (unsigned i = 0; i < NOTIFICATIONS_A_TURN; i++) {
        if (mnw__socket_receive(holder->notify, text, sizeof(text) - 1, &received))
            return false;
        text[received.bytes] = '\0';
        if (received.sender.pid == holder->worker && !received.cut)
            take_notification(holder, text, &received);
        else if (holder->standby && received.sender.pid == holder->standby && !strcmp(text, "STANDBY=1") &&
                 holder->worker)
            standby_is_ready(holder);
        for (unsigned fd = 0; fd < received.fd_count; fd++)
            close(received.fds[fd]);
    }
    return true;
}

/* ---- workers ---- */

/* In the child. Descriptors go to 3, 4, ...: first all out of the way, then each to its place. */
static void place_descriptors(const struct holder *holder) {
    int above = FIRST_FD + (int)holder->count;
    for (unsigned i = 0; i < holder->count; i++)
        holder->fds[i].fd = fcntl(holder->fds[i].fd, F_DUPFD_CLOEXEC, above);
    for (unsigned i = 0; i < holder->count; i++)
        if (dup2(holder->fds[i].fd, FIRST_FD + (int)i) < 0) /* without close-on-exec */
            _exit(MNW__SERVE_FAILED);
}

static void set_environment(const struct holder *holder) {
    char number[24];
    char *names = malloc((size_t)holder->count * NAME_BYTES + 1), *end = names;
    if (!names)
        _exit(MNW__SERVE_FAILED);
    *end = '\0';
    for (unsigned i = 0; i < holder->count; i++)
        end += sprintf(end, "%s%s", i ? ":" : "", holder->fds[i].name);
    setenv("NOTIFY_SOCKET", holder->path, 1);
    setenv("LISTEN_FDNAMES", names, 1);
    snprintf(number, sizeof(number), "%u", holder->count);
    setenv("LISTEN_FDS", number, 1);
    snprintf(number, sizeof(number), "%d", getpid());
    setenv("LISTEN_PID", number, 1);
    if (!holder->prefers_own)
        setenv(MNW__HOLDING_CHOICE, "1", 1);
}

/* The binary that is on disk now, unless it is to be ours; the one that runs, when there is none. */
static void execute(const struct holder *holder, char *const *argv, bool ours) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (!ours)
        execv(holder->binary, argv);
    execv("/proc/self/exe", argv);
    mnw__daemon_log("holder: starting %s: %s", holder->binary, strerror(errno));
    _exit(MNW__SERVE_FAILED);
}

static void begin_worker(struct holder *holder, pid_t pid) {
    holder->worker = pid;
    holder->ready = holder->worker_stops = false;
    holder->start_at_ns = 0;
    holder->started_ns = mnw__clock_ns();
}

static void start_worker(struct holder *holder) {
    pid_t pid = fork();
    if (!pid) {
        place_descriptors(holder);
        set_environment(holder);
        execute(holder, holder->argv, holder->prefers_own);
    }
    if (pid < 0) {
        mnw__daemon_log("holder: starting a worker: %s; trying again in %d ms", strerror(errno), PAUSE_MS);
        holder->start_at_ns = mnw__clock_ns() + PAUSE_MS * MS;
        return;
    }
    begin_worker(holder, pid);
}

/* Consumers are worth more than the newest program: the next worker is of our own. */
static bool is_other(int status) {
    return WIFEXITED(status) && WEXITSTATUS(status) == MNW__SERVE_OTHER;
}

/* A worker that was killed is no sign that the next one would die too; one that cannot even get ready is. */
static void note_death(struct holder *holder, int status) {
    if (is_other(status) && !holder->prefers_own) {
        mnw__daemon_log("holder: the next worker is of the program that the daemon was started with, not of %s",
                        holder->binary);
        holder->prefers_own = true;
        holder->start_at_ns = mnw__clock_ns();
        return;
    }
    if (WIFEXITED(status) && (WEXITSTATUS(status) == MNW__SERVE_REFUSED || is_other(status))) {
        if (!holder->refusal_told)
            mnw__daemon_log("holder: THE NEXT WORKER REFUSES TO START, for the reason above, and consumers wait for "
                            "it. Mend that: it is tried again every second");
        holder->refusal_told = true;
        holder->start_at_ns = mnw__clock_ns() + PAUSE_MS * MS;
        return;
    }
    bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    bool handed_over = WIFEXITED(status) && WEXITSTATUS(status) == MNW__SERVE_FINE && holder->ready;
    holder->tells_death = !handed_over;
    holder->death = status;
    bool lived = holder->ready && mnw__clock_ns() - holder->started_ns > PAUSE_MS * MS;
    holder->quick_deaths = killed || handed_over || lived ? 0 : holder->quick_deaths + 1;
    holder->start_at_ns = mnw__clock_ns() + (holder->quick_deaths > QUICK_DEATHS ? PAUSE_MS * MS : 0);
}

/* When the next one is under way: a log on a slow disk may take seconds, and consumers wait. */
static void tell_death(struct holder *holder) {
    if (!holder->tells_death)
        return;
    holder->tells_death = false;
    mnw__daemon_log("holder: the worker ended (%s %d); its consumers wait for the next one",
                    WIFSIGNALED(holder->death) ? "signal" : "status",
                    WIFSIGNALED(holder->death) ? WTERMSIG(holder->death) : WEXITSTATUS(holder->death));
}

/* ---- the standby ---- */

static void forget_standby(struct holder *holder) {
    close(holder->standby_socket);
    holder->standby = 0;
    holder->handover_until_ns = 0;
}

static void drop_standby(struct holder *holder) {
    if (!holder->standby)
        return;
    kill(holder->standby, SIGKILL);
    forget_standby(holder);
}

/* Each descriptor with its name; then a packet without, and there are no more. */
static int send_descriptors(const struct holder *holder) {
    int error = 0;
    for (unsigned i = 0; i < holder->count && !error; i++) {
        const struct held *held = &holder->fds[i];
        error = mnw__socket_send(holder->standby_socket, held->name, strlen(held->name), &held->fd, 1);
    }
    return error ? error : mnw__socket_send(holder->standby_socket, ".", 1, NULL, 0);
}

/*
 * Whatever the old worker died of: the standby need not be ready, what it is sent waits for it. But not longer than
 * before.
 */
static void promote_standby(struct holder *holder) {
    uint64_t until_ns = holder->stands_by ? 0 : holder->handover_until_ns;
    int error = send_descriptors(holder);
    if (error) {
        mnw__daemon_log("holder: the next worker is started anew: %s", mnw__fail_message());
        drop_standby(holder);
        return;
    }
    begin_worker(holder, holder->standby);
    holder->prefers_own = false;
    forget_standby(holder);
    holder->handover_until_ns = until_ns;
}

static int open_pair(int ends[2]) {
    struct timeval most = {.tv_sec = SEND_MS / 1000};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return -errno;
    setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &most, sizeof(most));
    return 0;
}

/* In the child: what it will have to take over, that it may say beforehand that it cannot. */
static void show_records(const struct holder *holder) {
    char number[24];
    for (unsigned i = 0; i < holder->count; i++)
        if (!strcmp(holder->fds[i].name, "state")) {
            int records = fcntl(holder->fds[i].fd, F_DUPFD, FIRST_FD + 1);
            if (records < 0) { /* shown none, it would start afresh where it should refuse to */
                mnw__daemon_log("holder: showing the next worker the records: %s", strerror(errno));
                _exit(MNW__SERVE_FAILED);
            }
            snprintf(number, sizeof(number), "%d", records);
            setenv(MNW__HOLDING_RECORDS, number, 1);
        }
}

/* A new binary or configuration that would not start is found out while the old worker still serves. */
static void start_standby(struct holder *holder) {
    int ends[2];
    if (open_pair(ends)) {
        mnw__daemon_log("holder: no handover: making a socket: %s; the old worker goes on", strerror(errno));
        return;
    }
    pid_t pid = fork();
    if (!pid) {
        show_records(holder);
        if (dup2(ends[1], FIRST_FD) < 0) /* without close-on-exec */
            _exit(MNW__SERVE_FAILED);
        setenv("NOTIFY_SOCKET", holder->path, 1);
        setenv(MNW__HOLDING_STANDBY, "3", 1);
        execute(holder, holder->argv, false);
    }
    close(ends[1]);
    if (pid < 0) {
        mnw__daemon_log("holder: no handover: starting a worker: %s; the old worker goes on", strerror(errno));
        close(ends[0]);
        return;
    }
    holder->standby = pid;
    holder->standby_socket = ends[0];
    holder->stands_by = false;
    holder->handover_until_ns = mnw__clock_ns() + holder->standby_s * 1000 * MS;
}

static void begin_handover(struct holder *holder) {
    if (holder->standby || !holder->worker) {
        mnw__daemon_log("holder: no handover: %s", holder->standby ? "one is under way" : "no worker is running");
        return;
    }
    holder->standby_tries = 1;
    start_standby(holder);
}

static void replace_standby(struct holder *holder) {
    bool again = holder->standby_tries++ < STANDBYS_MAX;
    mnw__daemon_log("holder: the next worker (process %d) did not get ready within %u s, and is killed; %s",
                    (int)holder->standby, holder->standby_s,
                    again ? "another one is started" : "no handover: the old worker goes on");
    drop_standby(holder);
    if (again)
        start_standby(holder);
}

static void kill_late_worker(struct holder *holder, const char *what) {
    mnw__daemon_log("holder: the worker (process %d) did not %s, and is killed", (int)holder->worker, what);
    holder->handover_until_ns = 0;
    if (holder->worker)
        kill(holder->worker, SIGKILL);
}

/* Somebody hangs, and consumers may wait for it. */
static void hurry(struct holder *holder) {
    if (!holder->standby)
        kill_late_worker(holder, "get ready in time");
    else if (holder->stands_by)
        kill_late_worker(holder, "leave for the next one");
    else
        replace_standby(holder);
}

static void standby_ended(struct holder *holder, int status) {
    forget_standby(holder);
    holder->prefers_own |= is_other(status);
    mnw__daemon_log("holder: no handover: `%s serve` did not get ready; the old worker goes on", holder->binary);
}

/* ---- the end of a worker ---- */

static void worker_ended(struct holder *holder, int status) {
    for (unsigned i = 0; i < LAST_TURNS && take_notifications(holder); i++)
        ; /* what it sent last is still in the queue */
    holder->worker = 0;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : MNW__SERVE_FAILED;
    if (holder->stopping || holder->worker_stops || (!holder->was_ready && code == MNW__SERVE_REFUSED)) {
        holder->stopping = true;
        holder->status = code;
        drop_standby(holder);
        return;
    }
    note_death(holder, status);
    if (!holder->standby)
        holder->handover_until_ns = 0;
    else
        promote_standby(holder);
}

/* ---- the loop ---- */

static void reap(struct holder *holder) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == holder->worker)
            worker_ended(holder, status);
        else if (pid == holder->standby)
            standby_ended(holder, status);
    }
}

static void begin_stop(struct holder *holder) {
    holder->stopping = true;
    holder->kill_at_ns = mnw__clock_ns() + STOP_MS * MS;
    drop_standby(holder);
    if (holder->worker)
        kill(holder->worker, SIGTERM);
}

static void take_signals(struct holder *holder) {
    struct signalfd_siginfo info;
    while (read(holder->signals, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGCHLD)
            reap(holder);
        else if (info.ssi_signo == SIGHUP)
            begin_handover(holder);
        else
            begin_stop(holder);
    }
}

static int timeout_ms(const struct holder *holder) {
    const uint64_t times[] = {holder->start_at_ns, holder->kill_at_ns, holder->handover_until_ns};
    uint64_t at = UINT64_MAX, now = mnw__clock_ns();
    for (unsigned i = 0; i < sizeof(times) / sizeof(*times); i++)
        at = times[i] && times[i] < at ? times[i] : at;
    return at == UINT64_MAX ? -1 : at <= now ? 0 : (int)((at - now) / MS) + 1;
}

static void look_at_clock(struct holder *holder) {
    uint64_t now = mnw__clock_ns();
    if (holder->start_at_ns && now >= holder->start_at_ns && !holder->worker && !holder->stopping)
        start_worker(holder);
    if (holder->kill_at_ns && now >= holder->kill_at_ns && holder->worker) {
        kill(holder->worker, SIGKILL);
        holder->kill_at_ns = 0;
    }
    if (holder->handover_until_ns && now >= holder->handover_until_ns)
        hurry(holder);
}

static void hold(struct holder *holder) {
    struct pollfd wait[] = {{holder->signals, POLLIN, 0}, {holder->notify, POLLIN, 0}};
    while (holder->worker || !holder->stopping) {
        look_at_clock(holder);
        tell_death(holder);
        if (poll(wait, 2, timeout_ms(holder)) <= 0)
            continue;
        if (wait[1].revents)
            take_notifications(holder);
        if (wait[0].revents)
            take_signals(holder);
    }
}

static int open_signals(struct holder *holder) {
    static const int wanted[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++)
        sigaddset(&set, wanted[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    holder->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return holder->signals < 0 ? mnw__fail(-errno, "taking signals: %s", strerror(errno)) : 0;
}

static unsigned standby_seconds(void) {
    const char *text = getenv("MINNOW_STANDBY_SECONDS");
    long seconds = text ? strtol(text, NULL, 10) : 0;
    return seconds > 0 && seconds <= 86400 ? (unsigned)seconds : STANDBY_S;
}

static int open_holder(struct holder *holder, const struct mnw__config *config) {
    struct rlimit limit;
    ssize_t length = readlink("/proc/self/exe", holder->binary, sizeof(holder->binary) - 1);
    if (length < 0)
        return mnw__fail(-errno, "looking for the program itself: %s; /proc must be mounted", strerror(errno));
    holder->binary[length] = '\0';
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    holder->standby_s = standby_seconds();
    holder->fds = calloc(FDS_MAX, sizeof(*holder->fds));
    if (!holder->fds)
        return mnw__fail(-ENOMEM, "starting the holder: out of memory");
    if (snprintf(holder->path, sizeof(holder->path), "%s.holder", config->socket) >= (int)sizeof(holder->path))
        return mnw__fail(-ENAMETOOLONG, "the socket's path %s is too long by 7 bytes at least", config->socket);
    holder->notify = mnw__notify_listen(holder->path, config->uid);
    return holder->notify < 0 ? holder->notify : open_signals(holder);
}

static void let_go(struct holder *holder) {
    while (holder->count)
        close(holder->fds[--holder->count].fd);
    free(holder->fds);
    holder->fds = NULL;
    if (holder->notify >= 0)
        close(holder->notify);
    if (holder->signals >= 0)
        close(holder->signals);
}

int mnw__holder_run(const struct mnw__config *config, char *const *argv) {
    static struct holder holder;
    holder = (struct holder){.argv = argv, .socket = config->socket, .notify = -1, .signals = -1};
    if (open_holder(&holder, config)) {
        mnw__daemon_log("%s", mnw__fail_message());
        let_go(&holder);
        return MNW__SERVE_REFUSED;
    }
    prctl(PR_SET_NAME, "minnow-holder");
    start_worker(&holder);
    hold(&holder);
    while (waitpid(-1, NULL, 0) > 0)
        ; /* a standby, killed: whoever waited for us finds nothing of us left */
    if (holder.path[0] != '@')
        unlink(holder.path);
    remove_socket(&holder);
    let_go(&holder);
    return holder.status;
}
