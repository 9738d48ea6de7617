/* SPDX-License-Identifier: MIT */
/*
 * Sessions: one peer each, from its connection to its end.
 *
 * The loop's. A peer is read from only while it takes its answers, keeps to its rate and has not too much unanswered;
 * what it sends meanwhile waits in the kernel, at its own expense. No peer can make the loop wait.
 */
#include "daemon/daemon.h"

#include "base/bits.h"
#include "base/error.h"
#include "sys/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS UINT64_C(1000000)

enum { READS_MAX = 8, ACCEPTS_MAX = 8, SEND_BUFFER = 32768, TICK_MS = 50 };

/* ---- sending ---- */

static int send_now(const struct mnw__session *session, const struct mnw__wire_packet *packet, size_t bytes, int fd) {
    return mnw__socket_send(session->fd, packet, bytes, &fd, fd >= 0);
}

static uint64_t unread_until(const struct mnw__session *session) {
    return mnw__clock_ns() + session->daemon->config->limits.unread_ms * MS;
}

static bool keep_unsent(struct mnw__session *session, const struct mnw__wire_packet *packet, size_t bytes, int fd) {
    struct mnw__unsent *unsent = session->unsent_count < MNW__UNSENT_MAX ? malloc(sizeof(*unsent)) : NULL;
    if (!unsent)
        return false;
    *unsent = (struct mnw__unsent){.bytes = bytes, .fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0)};
    memcpy(&unsent->packet, packet, bytes);
    if (fd >= 0 && unsent->fd < 0) {
        free(unsent);
        return false;
    }
    if (!session->unsent_count++)
        session->deadline_ns = unread_until(session);
    *session->unsent_end = unsent;
    session->unsent_end = &unsent->next;
    return true;
}

static void free_unsent(struct mnw__session *session) {
    struct mnw__unsent *unsent = session->unsent;
    session->unsent = unsent->next;
    if (!session->unsent)
        session->unsent_end = &session->unsent;
    session->unsent_count--;
    if (unsent->fd >= 0)
        close(unsent->fd);
    free(unsent);
}

void mnw__session_put(struct mnw__session *session, const struct mnw__wire_packet *packet, size_t bytes, int fd) {
    if (session->fd < 0)
        return;
    int error = session->unsent_count ? -EAGAIN : send_now(session, packet, bytes, fd);
    /* Too many descriptors are on their way to peers that do not take them: this one waits for better times. */
    if ((error == -EAGAIN || error == -ETOOMANYREFS || error == -ENOBUFS) && keep_unsent(session, packet, bytes, fd)) {
        mnw__session_rewatch(session);
        return;
    }
    if (error)
        mnw__session_drop(session, 0, NULL);
}

static void send_unsent(struct mnw__session *session) {
    while (session->fd >= 0 && session->unsent) {
        const struct mnw__unsent *unsent = session->unsent;
        int error = send_now(session, &unsent->packet, unsent->bytes, unsent->fd);
        if (error == -EAGAIN || error == -ETOOMANYREFS || error == -ENOBUFS)
            return;
        if (error) {
            mnw__session_drop(session, 0, NULL);
            return;
        }
        free_unsent(session);
        session->deadline_ns = session->unsent ? unread_until(session) : 0;
    }
}

/* ---- receiving ---- */

static uint32_t wanted_events(const struct mnw__session *session) {
    const struct mnw__config_limits *limits = &session->daemon->config->limits;
    bool reads = !session->unsent_count && !session->is_paused && session->requests < limits->requests &&
                 session->daemon->phase == MNW__RUNNING;
    return (reads ? EPOLLIN : 0u) | (session->unsent_count ? EPOLLOUT : 0u);
}

void mnw__session_rewatch(struct mnw__session *session) {
    if (session->fd < 0)
        return;
    uint32_t events = wanted_events(session);
    if (events != session->events && !mnw__daemon_rewatch(session->daemon, session->fd, events, &session->source))
        session->events = events;
}

/* A bucket of one second's requests, counted in thousandths of a request. */
static bool may_ask(struct mnw__session *session) {
    uint64_t per_second = session->daemon->config->limits.requests_per_second, now = mnw__clock_ns();
    uint64_t passed = mnw__min(now - session->allowance_ns, 1000 * MS);
    uint64_t gained = passed / 1000 * per_second / 1000; /* ns * requests/s in thousandths: / 10^6 */
    if (gained) {
        session->allowance = mnw__min(session->allowance + gained, per_second * 1000);
        session->allowance_ns = now;
    }
    if (session->allowance < 1000)
        return false;
    session->allowance -= 1000;
    return true;
}

bool mnw__session_read(struct mnw__session *session) {
    struct mnw__wire_packet packet;
    struct mnw__socket_received received;
    if (!may_ask(session)) {
        session->is_paused = true;
        return false;
    }
    int error = mnw__socket_receive(session->fd, &packet, sizeof(packet), &received);
    if (error == -EAGAIN)
        return false;
    if (error || !received.bytes) {
        for (unsigned i = 0; i < received.fd_count; i++)
            close(received.fds[i]);
        mnw__session_drop(session, 0, NULL);
        return false;
    }
    mnw__request_handle(session, &packet, &received);
    return true;
}

static void session_ready(struct mnw__daemon *daemon, struct mnw__source *source, uint32_t events) {
    struct mnw__session *session = mnw__container_of(source, struct mnw__session, source);
    (void)daemon;
    if (events & EPOLLOUT)
        send_unsent(session);
    for (int i = 0; i < READS_MAX && session->fd >= 0 && (wanted_events(session) & EPOLLIN); i++)
        if (!mnw__session_read(session))
            break;
    /* Gone for good, and nothing of it may be read: it was paused, or owes us room. */
    if (session->fd >= 0 && events & (EPOLLHUP | EPOLLERR) && !(wanted_events(session) & EPOLLIN))
        mnw__session_drop(session, 0, NULL);
    mnw__session_rewatch(session);
}

/* ---- beginning ---- */

/* Its groups count as well as its own; the process may have more than fit, and those do not count. */
static int know_peer(struct mnw__session *session) {
    int error = mnw__socket_peer(session->fd, &session->peer);
    if (error)
        return error;
    int count = mnw__socket_peer_groups(session->fd, session->groups, MNW__GROUPS_MAX - 1);
    session->group_count = count > 0 && count < MNW__GROUPS_MAX ? (unsigned)count : 0;
    session->groups[session->group_count++] = session->peer.gid;
    const struct mnw__access *admins = &session->daemon->config->admins;
    session->is_admin = mnw__access_allows(admins, session->peer.uid, session->groups, session->group_count);
    return 0;
}

static bool may_use_any(const struct mnw__session *session) {
    const struct mnw__config *config = session->daemon->config;
    bool may = mnw__access_allows(&config->access, session->peer.uid, session->groups, session->group_count);
    for (unsigned i = 0; i < config->image_count && !may; i++)
        may = config->images[i].access.given &&
              mnw__access_allows(&config->images[i].access, session->peer.uid, session->groups, session->group_count);
    return may || session->is_admin;
}

static int admit(const struct mnw__session *session) {
    const struct mnw__daemon *daemon = session->daemon;
    const struct mnw__config_limits *limits = &daemon->config->limits;
    unsigned of_user = 0;
    for (const struct mnw__session *other = daemon->sessions; other; other = other->next)
        of_user += other->peer.uid == session->peer.uid;
    if (!may_use_any(session))
        return mnw__fail(-EACCES, "user %u may not use this daemon; its configuration says who may (\"access\")",
                         session->peer.uid);
    if (of_user >= limits->sessions_per_user)
        return mnw__fail(-EUSERS, "user %u has %u sessions already; the most is %llu (\"sessions_per_user\")",
                         session->peer.uid, of_user, (unsigned long long)limits->sessions_per_user);
    if (daemon->session_count >= limits->sessions)
        return mnw__fail(-EUSERS, "the daemon has %u sessions already; the most is %llu (\"sessions\")",
                         daemon->session_count, (unsigned long long)limits->sessions);
    return 0;
}

static int take_record(struct mnw__session *session) {
    struct mnw__state *state = &session->daemon->state;
    char name[MNW__STATE_FDNAME_BYTES];
    int index = mnw__state_take(state, state->sessions, sizeof(*state->sessions), MNW__STATE_SESSIONS);
    if (index < 0)
        return index;
    session->record = index;
    mnw__state_validate(&state->sessions[index].record);
    mnw__state_fdname(name, "session", (unsigned)index, state->sessions[index].record.serial);
    return mnw__holding_store(&session->daemon->holding, name, session->fd, false);
}

static void free_record(struct mnw__session *session) {
    struct mnw__state *state = &session->daemon->state;
    char name[MNW__STATE_FDNAME_BYTES];
    if (session->record < 0)
        return;
    struct mnw__record *record = &state->sessions[session->record].record;
    mnw__state_fdname(name, "session", (unsigned)session->record, record->serial);
    mnw__state_free(record);
    mnw__holding_remove(&session->daemon->holding, name);
    session->record = -1;
}

/*
 * The holder's duplicate would keep the connection open, and what we have not read would turn the last message to the
 * peer into a reset.
 */
static void hang_up(int fd) {
    char byte;
    shutdown(fd, SHUT_RDWR);
    for (int i = 0; i < 256 && recv(fd, &byte, sizeof(byte), MSG_DONTWAIT) > 0; i++)
        ;
    close(fd);
}

static int limit_faults(struct mnw__session *session) {
    uint32_t per_second = (uint32_t)session->daemon->config->limits.faults_per_second;
    int error = per_second ? mnw_limit_open(&session->limit, per_second) : 0;
    return error ? mnw__fail(error, "%s", strdupa(mnw_error())) : 0;
}

static void free_session(struct mnw__session *session) {
    if (session->limit)
        mnw_limit_close(session->limit); /* its children may have it still */
    free(session);
}

static void refuse(struct mnw__session *session, int status) {
    struct mnw__wire_packet packet;
    size_t bytes = mnw__wire_seal_failure(&packet, MNW__WIRE_EVENT_ENDED, 0, status, mnw__fail_message());
    send_now(session, &packet, bytes, -1);
    session->daemon->counts.dropped++;
    free_record(session);
    hang_up(session->fd);
    free_session(session);
}

struct mnw__session *mnw__session_add(struct mnw__daemon *daemon, int fd, int record) {
    struct mnw__session *session = calloc(1, sizeof(*session));
    if (!session) {
        close(fd);
        return NULL;
    }
    session->source.ready = session_ready;
    session->daemon = daemon;
    session->fd = fd;
    session->record = record;
    session->events = EPOLLIN;
    session->unsent_end = &session->unsent;
    session->allowance = daemon->config->limits.requests_per_second * 1000;
    session->allowance_ns = mnw__clock_ns();
    session->deadline_ns = session->allowance_ns + daemon->config->limits.hello_ms * MS;
    int error = know_peer(session);
    if (!error)
        error = admit(session);
    if (!error)
        error = mnw__socket_limit_unread(fd, SEND_BUFFER);
    if (!error)
        error = limit_faults(session);
    if (!error && record < 0)
        error = take_record(session);
    if (!error)
        error = mnw__daemon_watch(daemon, fd, session->events, &session->source);
    if (error) {
        refuse(session, error);
        return NULL;
    }
    session->next = daemon->sessions;
    daemon->sessions = session;
    daemon->session_count++;
    return session;
}

void mnw__session_accept(struct mnw__daemon *daemon, struct mnw__source *source, uint32_t events) {
    (void)source;
    (void)events;
    for (int i = 0; i < ACCEPTS_MAX && daemon->phase == MNW__RUNNING; i++) {
        int fd = mnw__socket_accept(daemon->listener);
        if (fd < 0)
            return;
        mnw__session_add(daemon, fd, -1);
    }
}

/* ---- ending ---- */

void mnw__session_drop(struct mnw__session *session, int status, const char *message) {
    struct mnw__daemon *daemon = session->daemon;
    struct mnw__wire_packet packet;
    if (session->fd < 0)
        return;
    if (status) {
        daemon->counts.dropped++;
        size_t bytes = mnw__wire_seal_failure(&packet, MNW__WIRE_EVENT_ENDED, 0, status, message);
        if (!session->unsent_count)
            send_now(session, &packet, bytes, -1);
    }
    mnw__daemon_unwatch(daemon, session->fd);
    hang_up(session->fd);
    session->fd = -1;
    while (session->unsent)
        free_unsent(session);
    mnw__prefetch_drop_all(session);
    mnw__ranges_drop_pins(session);
    mnw__views_drop_all(session);
    for (struct mnw__session **link = &daemon->sessions; *link; link = &(*link)->next)
        if (*link == session) {
            *link = session->next;
            break;
        }
    daemon->session_count--;
    session->next = daemon->dead;
    daemon->dead = session;
}

void mnw__session_sweep(struct mnw__daemon *daemon) {
    for (struct mnw__session **link = &daemon->dead; *link;) {
        struct mnw__session *session = *link;
        if (session->works || session->views || session->pins) {
            link = &session->next;
            continue;
        }
        *link = session->next;
        free_record(session);
        free_session(session);
    }
}

/* ---- time ---- */

static bool is_late(struct mnw__session *session, uint64_t now) {
    if (!session->deadline_ns || now < session->deadline_ns)
        return false;
    if (session->unsent_count)
        mnw__session_drop(session, -ETIMEDOUT, "answers were not read");
    else if (!session->is_greeted)
        mnw__session_drop(session, -ETIMEDOUT, "no HELLO came in time");
    else
        session->deadline_ns = 0;
    return true;
}

int mnw__session_tick(struct mnw__daemon *daemon) {
    uint64_t now = mnw__clock_ns();
    int timeout_ms = -1;
    for (struct mnw__session *next, *session = daemon->sessions; session; session = next) {
        next = session->next;
        if (is_late(session, now))
            continue;
        if (session->is_paused && now - session->allowance_ns >= TICK_MS * MS) {
            session->is_paused = false;
            mnw__session_rewatch(session);
        }
        if (session->is_paused || session->unsent_count)
            timeout_ms = TICK_MS;
        else if (session->deadline_ns && timeout_ms < 0)
            timeout_ms = 1000;
    }
    return timeout_ms;
}
