/* SPDX-License-Identifier: MIT */
/* The worker from its start to its end. One thread, which becomes the loop. */
#include "daemon/daemon.h"

#include "base/error.h"
#include "daemon/harden.h"
#include "daemon/serve.h"
#include "sys/thread.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { QUICK_THREADS = 4, SLOW_THREADS = 8, CLOSING_MS = 5000 };

/* ---- the listening socket ---- */

static bool is_listener(int fd) {
    int type = 0, listens = 0;
    socklen_t length = sizeof(int);
    return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) && type == SOCK_SEQPACKET &&
           !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) && listens;
}

/* From the holder, from systemd's socket unit whatever its name, or made here. */
static int find_listener(struct mnw__daemon *daemon) {
    for (unsigned i = 0; i < daemon->holding.count; i++) {
        struct mnw__held_fd *held = &daemon->holding.fds[i];
        if (held->fd < 0 || !is_listener(held->fd))
            continue;
        daemon->listener = held->fd;
        daemon->owns_socket = !strcmp(held->name, "listen");
        held->fd = -1;
        mnw__socket_file_note(&daemon->socket_file, daemon->config->socket);
        return mnw__socket_set_blocking(daemon->listener, false);
    }
    daemon->listener = mnw__socket_listen(daemon->config->socket, daemon->config->socket_mode);
    if (daemon->listener < 0)
        return daemon->listener;
    daemon->owns_socket = true;
    mnw__socket_file_note(&daemon->socket_file, daemon->config->socket);
    return mnw__holding_store(&daemon->holding, "listen", daemon->listener, false);
}

/* ---- pools ---- */

void mnw__daemon_take_events(struct mnw__daemon_pool *pool, struct mnw__daemon *daemon, unsigned most) {
    struct mnw_event event;
    for (unsigned i = 0; i < most; i++) {
        if (mnw_pool_next_event(pool->pool, &event) <= 0) {
            pool->passed = daemon->ticks;
            return;
        }
        daemon->ticks++;
        if (event.kind == MNW_EVENT_PREFETCH)
            mnw__prefetch_ended(daemon, &event);
        else if (event.kind == MNW_EVENT_VIEW_CHANGED)
            mnw__changes_take(daemon, pool, &event);
        else if (event.kind == MNW_EVENT_PAGE_FAILED)
            mnw__image_note_failure(daemon, &event);
    }
}

static void pool_ready(struct mnw__daemon *daemon, struct mnw__source *source, uint32_t events) {
    (void)events;
    mnw__daemon_take_events((struct mnw__daemon_pool *)source, daemon, MNW__EVENTS_A_TURN);
}

_Static_assert(offsetof(struct mnw__daemon_pool, source) == 0, "pool_ready counts on it");

static int open_pool(struct mnw__daemon *daemon, const struct mnw__config_pool *config) {
    struct mnw__daemon_pool *pool = &daemon->pools[daemon->pool_count];
    *pool = (struct mnw__daemon_pool){.source.ready = pool_ready, .config = config};
    int error = mnw_pool_open(&pool->pool, &config->options);
    if (error)
        return mnw__fail(error, "pool '%s': %s", config->name, strdupa(mnw_error()));
    daemon->pool_count++;
    return mnw__daemon_watch(daemon, mnw_pool_event_fd(pool->pool), EPOLLIN, &pool->source);
}

static int open_pools(struct mnw__daemon *daemon) {
    int error = 0;
    for (unsigned i = 0; i < daemon->config->pool_count && !error; i++)
        error = open_pool(daemon, &daemon->config->pools[i]);
    return error;
}

static void close_pools(struct mnw__daemon *daemon) {
    for (; daemon->pool_count; daemon->pool_count--) {
        struct mnw_pool *pool = daemon->pools[daemon->pool_count - 1].pool;
        mnw__daemon_unwatch(daemon, mnw_pool_event_fd(pool));
        mnw_pool_close(pool);
    }
}

static void set_images(struct mnw__daemon *daemon) {
    daemon->image_count = daemon->config->image_count;
    for (unsigned i = 0; i < daemon->image_count; i++) {
        const struct mnw__config_image *config = &daemon->config->images[i];
        daemon->images[i] =
            (struct mnw__daemon_image){.config = config, .pool = &daemon->pools[config->pool], .record = -1};
    }
}

/* ---- start and end ---- */

/* A descriptor for each session and view, and the kernel counts those on their way to peers as well. */
static void raise_limits(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Consumers wait in their faults for a worker: pools that cannot be had are no reason that there is none. */
static int open_pools_of(struct mnw__daemon *daemon, const struct mnw__config *config, const struct mnw__config *last) {
    daemon->config = config;
    set_images(daemon);
    int error = open_pools(daemon);
    if (!error || !last)
        return error;
    mnw__daemon_log("%s; taking over with the configuration as the last worker read it: mend %s", mnw__fail_message(),
                    config->file);
    close_pools(daemon);
    return open_pools_of(daemon, last, NULL);
}

int mnw__daemon_open(struct mnw__daemon *daemon, const struct mnw__config *config, const struct mnw__config *last) {
    daemon->config = config;
    daemon->started_ns = mnw__clock_ns();
    int error = mnw__daemon_loop_open(daemon);
    if (!error)
        error = open_pools_of(daemon, config, last);
    if (!error)
        error = mnw__lane_open(&daemon->quick, "minnow-quick", QUICK_THREADS, &daemon->finished);
    return error ? error : mnw__lane_open(&daemon->slow, "minnow-slow", SLOW_THREADS, &daemon->finished);
}

/* A parent that is being closed, or saved, may fork still: its children are barred, too. */
static void drop_children(struct mnw__daemon *daemon) {
    for (unsigned i = 0; i < daemon->pool_count; i++)
        mnw__daemon_take_events(&daemon->pools[i], daemon, MNW__EVENTS_A_TURN);
    mnw__views_drop_orphans(daemon);
}

static void end_sessions(struct mnw__daemon *daemon) {
    while (daemon->sessions) {
        struct mnw__session *session = daemon->sessions;
        for (const struct mnw__daemon_view *view = session->views; view && session->fd >= 0; view = view->next)
            if (!view->is_child)
                mnw__views_tell_detached(session, view->id, -ESHUTDOWN);
        mnw__session_drop(session, -ESHUTDOWN, "the daemon was asked to stop");
    }
    uint64_t until = mnw__clock_ns() + CLOSING_MS * UINT64_C(1000000);
    for (;;) {
        drop_children(daemon);
        bool any = daemon->dead || daemon->orphans || daemon->prefetches;
        if (!any || mnw__clock_ns() >= until)
            return;
        mnw__daemon_turn(daemon, 10);
    }
}

void mnw__daemon_close(struct mnw__daemon *daemon) {
    mnw__daemon_unwatch(daemon, daemon->listener);
    end_sessions(daemon);
    for (unsigned i = 0; i < daemon->image_count; i++)
        mnw__image_close(daemon, &daemon->images[i]);
    mnw__lane_close(&daemon->quick);
    mnw__lane_close(&daemon->slow);
    for (unsigned i = 0; i < daemon->pool_count; i++)
        if (mnw_pool_close(daemon->pools[i].pool))
            mnw__daemon_log("closing pool '%s': %s", daemon->pools[i].config->name, mnw_error());
    mnw__claims_close(daemon);
    mnw__holding_remove(&daemon->holding, "state");
    mnw__holding_remove(&daemon->holding, MNW__HOLDING_CONFIG);
    if (daemon->owns_socket) {
        mnw__holding_remove(&daemon->holding, "listen");
        /* May be refused by now: the next daemon replaces it. */
        mnw__socket_file_remove(&daemon->socket_file, daemon->config->socket);
    }
    close(daemon->listener);
    mnw__state_close(&daemon->state);
    mnw__holding_close(&daemon->holding);
    mnw__daemon_loop_close(daemon);
}

/*
 * Privileges are of threads: they go before the first one starts. The filter is put over all of them at the end. A
 * standby gets its descriptors late: all that needs none of them is done before it waits.
 */
static int start(struct mnw__daemon *daemon, const struct mnw__config *config, const struct mnw__config *last) {
    daemon->config = config;
    raise_limits();
    int error = mnw__holding_open(&daemon->holding);
    bool stands_by = daemon->holding.standby >= 0;
    if (!error && daemon->holding.records >= 0)
        error = mnw__state_check(daemon->holding.records);
    if (!error && !stands_by)
        error = find_listener(daemon);
    if (!error && config->sandbox)
        error = mnw__harden_privileges(config);
    if (!error)
        error = mnw__daemon_open(daemon, config, last);
    if (!error && stands_by)
        error = mnw__holding_await(&daemon->holding);
    if (!error && stands_by)
        error = find_listener(daemon);
    int kept = mnw__holding_take(&daemon->holding, MNW__HOLDING_CONFIG); /* stays held until it is replaced */
    if (kept >= 0)
        close(kept);
    if (!error)
        error = mnw__takeover(daemon);
    daemon->listener_source.ready = mnw__session_accept;
    if (!error)
        error = mnw__daemon_watch(daemon, daemon->listener, EPOLLIN, &daemon->listener_source);
    if (!error && config->sandbox)
        error = mnw__harden_calls(config);
    return error;
}

/* This one is good. That it cannot be kept is no reason to end: then the file must be right at the next start. */
static void keep_config(struct mnw__daemon *daemon) {
    const struct mnw__config *config = daemon->config;
    mnw__holding_remove(&daemon->holding, MNW__HOLDING_CONFIG);
    int fd = config->text ? memfd_create("minnow-config", MFD_CLOEXEC) : -1;
    if (fd < 0)
        return;
    if (write(fd, config->text, config->text_bytes) != (ssize_t)config->text_bytes ||
        mnw__holding_store(&daemon->holding, MNW__HOLDING_CONFIG, fd, false))
        mnw__daemon_log("the configuration could not be kept with the holder");
    close(fd);
}

static void tell_ready(struct mnw__daemon *daemon) {
    char text[160];
    snprintf(text, sizeof(text), "READY=1\nSTATUS=serving %u images, restarted %llu times", daemon->image_count,
             (unsigned long long)mnw__state_epoch(&daemon->state));
    mnw__takeover_announce(daemon);
    mnw__holding_tell(&daemon->holding, text);
}

int mnw__worker_run(const struct mnw__config *config, const struct mnw__config *last) {
    static struct mnw__daemon daemon; /* large, and there is one */
    int error = start(&daemon, config, last);
    if (error) {
        mnw__daemon_log("%s", mnw__fail_message());
        if (!daemon.holding.holder && daemon.owns_socket) /* else it is kept, with its file, for the next worker */
            mnw__socket_file_remove(&daemon.socket_file, config->socket);
        return error == -ESTALE ? MNW__SERVE_OTHER : MNW__SERVE_REFUSED;
    }
    keep_config(&daemon);
    tell_ready(&daemon);
    error = mnw__daemon_loop(&daemon);
    if (error)
        mnw__daemon_log("%s", mnw__fail_message());
    if (daemon.phase == MNW__HANDING_OVER)
        _exit(MNW__SERVE_FINE); /* everything stays with the holder, for the next worker */
    mnw__holding_tell(&daemon.holding, "STOPPING=1");
    mnw__daemon_close(&daemon);
    return error ? MNW__SERVE_FAILED : MNW__SERVE_FINE;
}
