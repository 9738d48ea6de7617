/* SPDX-License-Identifier: MIT */
/*
 * The client's thread: connects, greets, sends what waits, hands out answers, and brings views back after a break.
 *
 * Owns the socket and the two packets. Enters only itself, but for mnw__session_connect(), which is called before it
 * runs. Holds client->lock except while it sleeps; never allocates, never touches a view, never maps or unmaps.
 */
#include "base/bits.h"
#include "base/error.h"
#include "client/client.h"
#include "sys/packet.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NS_PER_MS         1000000ull
#define RETRY_FIRST_NS    (10 * NS_PER_MS)
#define RETRY_MAX_NS      (500 * NS_PER_MS)
#define SEND_AGAIN_NS     NS_PER_MS
#define LOST_WATCH_NS     (1000 * NS_PER_MS)
#define TAGS              16
#define PACKETS_A_TURN    256
#define HELLO_DEADLINE_NS (5000 * NS_PER_MS)

/* ---- the link goes down ---- */

/* What a new session has to be told again, and what it need not be. */
static void requeue(struct mnw_client *client, struct mnw__request *request) {
    if (request == &client->hello)
        mnw__request_forget(client, request);
    else if (request->type == MNW__WIRE_DETACH)
        mnw__request_end(client, request, 0, "");
    else
        request->state = MNW__REQUEST_WAITING;
}

static void break_link(struct mnw_client *client) {
    uint64_t now = mnw__clock_ns();
    if (client->socket.fd >= 0)
        mnw__poller_remove(client->poller, client->socket.fd);
    mnw__keep_set(&client->socket, -1);
    client->link = MNW__LINK_DOWN;
    client->send_blocked = false;
    if (!client->down_since_ns)
        client->down_since_ns = now;
    /* A daemon that lets everybody in and hangs up would be asked as fast as it can. */
    client->retry_at_ns = mnw__max(now + client->retry_pause_ns, client->connected_at_ns + RETRY_FIRST_NS);
    client->retry_pause_ns = mnw__min(mnw__max(2 * client->retry_pause_ns, RETRY_FIRST_NS), RETRY_MAX_NS);
    for (struct mnw__image *image = client->images; image; image = image->next)
        image->known = false;
    for (struct mnw_client_view *view = client->views; view; view = view->next)
        if (view->state == MNW__CLIENT_VIEW_SERVED)
            view->state = MNW__CLIENT_VIEW_ADRIFT;
    for (struct mnw__request *request = client->requests, *next; request; request = next) {
        next = request->next;
        requeue(client, request);
    }
    mnw__condition_wake_all(&client->changed);
}

/* ---- the link comes up ---- */

static void restore(struct mnw_client *client) {
    for (struct mnw_client_view *view = client->views; view; view = view->next)
        if (view->state == MNW__CLIENT_VIEW_ADRIFT && view->attach.state != MNW__REQUEST_WAITING)
            mnw__view_reattach(client, view);
    for (struct mnw__pin *pin = client->pins; pin; pin = pin->next)
        if (pin->pin.state == MNW__REQUEST_ENDED)
            mnw__request_queue(client, &pin->pin);
}

static void greeted(struct mnw_client *client, struct mnw__request *hello) {
    if (!hello->result && client->in.hello_answer.version != MNW__WIRE_VERSION) {
        hello->result = -EPROTONOSUPPORT;
        snprintf(hello->message, sizeof(hello->message), "the daemon wants to speak version %u; this library knows %d",
                 client->in.hello_answer.version, MNW__WIRE_VERSION);
    }
    if (hello->result) {
        break_link(client);
        return;
    }
    client->link = MNW__LINK_UP;
    client->keeps = client->in.hello_answer.features & MNW__WIRE_KEPT;
    client->was_up = true;
    client->down_since_ns = 0;
    if (!client->heard_nonsense)
        client->retry_pause_ns = 0;
    client->heard_nonsense = false;
    restore(client);
}

/* Never waits: a listener whose queue is full is asked again later. */
static int connect_socket(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    memcpy(address.sun_path, path, length);
    if (path[0] == '@')
        address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (path[0] == '@' ? 0 : 1));
    if (!connect(fd, (const struct sockaddr *)&address, bytes))
        return fd;
    int error = -errno;
    close(fd);
    return error;
}

static int connect_now(struct mnw_client *client) {
    int fd = connect_socket(client->path);
    if (fd < 0)
        return fd;
    mnw__keep_set(&client->socket, fd);
    int error = mnw__poller_add(client->poller, fd, &client->socket);
    if (error) {
        mnw__keep_set(&client->socket, -1);
        return error;
    }
    client->link = MNW__LINK_GREETING;
    client->connected_at_ns = mnw__clock_ns();
    client->tick_at_ns = client->connected_at_ns + HELLO_DEADLINE_NS;
    client->hello.ended = greeted;
    mnw__request_queue(client, &client->hello);
    return 0;
}

int mnw__session_connect(struct mnw_client *client) {
    int error = connect_now(client);
    return error ? mnw__fail(error, "mnw_client_connect: %s: %s; is `minnow serve` running, and may this user connect?",
                             client->path, strerror(-error))
                 : 0;
}

/* ---- sending ---- */

static bool may_send(struct mnw_client *client, struct mnw__request *request) {
    if (request == &client->hello)
        return client->link == MNW__LINK_GREETING;
    if (client->link != MNW__LINK_UP)
        return false;
    struct mnw__image *image = request->image;
    if (image && !image->known && request != &image->open) {
        mnw__image_want(client, image);
        return false;
    }
    struct mnw_client_view *view = request->view;
    return !view || request == &view->attach || view->state != MNW__CLIENT_VIEW_ADRIFT;
}

static void address_it(struct mnw__request *request) {
    switch (request->type) {
    case MNW__WIRE_ATTACH:
        request->body.attach.image = request->image->number;
        break;
    case MNW__WIRE_PREFETCH:
    case MNW__WIRE_PIN:
    case MNW__WIRE_INVALIDATE:
    case MNW__WIRE_RESIDENCY:
        request->body.range.image = request->image->number;
        break;
    case MNW__WIRE_REPLAY:
        request->body.working_set.image = request->image->number;
        break;
    default:
        break;
    }
}

/* False: the link is no good any more. */
static bool send_one(struct mnw_client *client, struct mnw__request *request) {
    address_it(request);
    memcpy(client->out.bytes, &request->body, request->body_bytes);
    size_t bytes = mnw__wire_seal(&client->out, request->type, request->number, request->body_bytes);
    int error = mnw__socket_send(client->socket.fd, &client->out, bytes, &request->fd, request->fd >= 0 ? 1 : 0);
    if (error == -EAGAIN || error == -ENOBUFS || error == -ENOMEM || error == -ETOOMANYREFS) {
        client->send_blocked = true;
        return true;
    }
    if (error)
        return false;
    request->state = MNW__REQUEST_SENT;
    return true;
}

/* ---- receiving ---- */

static struct mnw_client_view *find_view(struct mnw_client *client, uint32_t id) {
    for (struct mnw_client_view *view = client->views; view; view = view->next)
        if (view->id == id)
            return view;
    return NULL;
}

static void prefetched(struct mnw_client *client, const struct mnw__wire_event_prefetch *event) {
    for (struct mnw__request *request = client->requests; request; request = request->next) {
        uint64_t cookie =
            request->type == MNW__WIRE_REPLAY ? request->body.working_set.cookie : request->body.range.cookie;
        if (!request->until_event || cookie != event->cookie)
            continue;
        mnw__request_end(client, request, event->result < 0 ? event->result : 0,
                         event->result < 0 ? strerror(-event->result) : "");
        return;
    }
}

/* The session outlived its worker: what was asked and not answered may never have been read. */
static void restarted(struct mnw_client *client) {
    for (struct mnw__request *request = client->requests; request; request = request->next)
        if (request->state == MNW__REQUEST_SENT)
            request->state = MNW__REQUEST_WAITING;
    for (struct mnw_client_view *view = client->views; view; view = view->next)
        if (view->state == MNW__CLIENT_VIEW_SERVED)
            mnw__view_record_again(client, view);
}

static void take_event(struct mnw_client *client) {
    const struct mnw__wire_packet *in = &client->in;
    struct mnw_client_view *view;
    switch (in->header.type) {
    case MNW__WIRE_EVENT_PREFETCH:
        prefetched(client, &in->event_prefetch);
        break;
    case MNW__WIRE_EVENT_RESTARTED:
        restarted(client);
        break;
    case MNW__WIRE_EVENT_DETACHED:
        view = find_view(client, in->event_detached.view);
        if (view && view->state != MNW__CLIENT_VIEW_GOING)
            mnw__view_lose(view, in->event_detached.reason < 0 ? in->event_detached.reason : -ESTALE);
        break;
    case MNW__WIRE_EVENT_ENDED: /* the socket closes next */
        if (!client->was_up) {
            client->hello.result = in->header.status;
            memcpy(client->hello.message, in->failure.message, sizeof(client->hello.message));
            mnw__condition_wake_all(&client->changed);
        }
        break;
    default:
        break;
    }
}

static void take_answer(struct mnw_client *client, int *fds, unsigned count) {
    struct mnw__request *request = client->requests;
    while (request && (request->number != client->in.header.request || request->type != client->in.header.type ||
                       request->state != MNW__REQUEST_SENT))
        request = request->next;
    if (!request)
        return; /* given up, or answered twice because it was sent twice */
    int status = client->in.header.status;
    if (!status && request->until_event)
        return; /* it stays SENT: a new worker is asked again */
    if (request->answer)
        memcpy(request->answer, &client->in, client->in.header.bytes);
    if (!status && count) {
        request->answer_fd = fds[0];
        fds[0] = -1;
    }
    mnw__request_end(client, request, status, status ? client->in.failure.message : "");
}

/* False: the link is no good any more. */
static bool take_packet(struct mnw_client *client, struct mnw__socket_received *received) {
    if (!received->bytes || received->cut || mnw__wire_check_answer(&client->in, received->bytes, received->fd_count))
        return false;
    if (client->in.header.request)
        take_answer(client, received->fds, received->fd_count);
    else
        take_event(client);
    return true;
}

/* In portions: whoever sends without end keeps nobody from the lock. The rest is reported again. */
static void receive_some(struct mnw_client *client) {
    for (unsigned packets = 0; packets < PACKETS_A_TURN && client->link != MNW__LINK_DOWN; packets++) {
        struct mnw__socket_received received;
        int error = mnw__socket_receive(client->socket.fd, &client->in, sizeof(client->in), &received);
        if (error == -EAGAIN)
            return;
        bool good = !error && take_packet(client, &received);
        for (unsigned i = 0; !error && i < received.fd_count; i++)
            if (received.fds[i] >= 0)
                close(received.fds[i]);
        if (!good && client->link != MNW__LINK_DOWN) {
            client->heard_nonsense = !error && received.bytes;
            break_link(client);
        }
    }
}

static void send_waiting(struct mnw_client *client) {
    client->send_blocked = false;
    for (struct mnw__request *request = client->requests; request && !client->send_blocked; request = request->next)
        if (request->state == MNW__REQUEST_WAITING && may_send(client, request) && !send_one(client, request)) {
            /* Why the daemon closed it may still be there to be read. */
            receive_some(client);
            if (client->link != MNW__LINK_DOWN)
                break_link(client);
            return;
        }
}

/* ---- the clock ---- */

static void give_up_on_views(struct mnw_client *client, uint64_t now) {
    if (!client->lost_after_ms || !client->down_since_ns ||
        now - client->down_since_ns < client->lost_after_ms * NS_PER_MS)
        return;
    for (struct mnw_client_view *view = client->views; view; view = view->next)
        if (view->state == MNW__CLIENT_VIEW_ADRIFT)
            mnw__view_lose(view, -ETIMEDOUT);
}

static void tend(struct mnw_client *client) {
    uint64_t now = mnw__clock_ns();
    if (client->link == MNW__LINK_GREETING && now >= client->tick_at_ns)
        break_link(client);
    if (client->link == MNW__LINK_DOWN && now >= client->retry_at_ns && connect_now(client))
        break_link(client); /* only to set the next try */
    give_up_on_views(client, now);
    for (struct mnw_client_view *view = client->views; view; view = view->next)
        if (view->state == MNW__CLIENT_VIEW_LOST)
            mnw__view_bury(view);
    send_waiting(client);
}

static int64_t sleep_ns(const struct mnw_client *client) {
    uint64_t now = mnw__clock_ns(), until = UINT64_MAX;
    if (client->send_blocked)
        until = now + SEND_AGAIN_NS;
    if (client->link == MNW__LINK_GREETING)
        until = mnw__min(until, client->tick_at_ns);
    if (client->link == MNW__LINK_DOWN)
        until = mnw__min(until, client->retry_at_ns);
    if (client->lost_after_ms && client->down_since_ns)
        until =
            mnw__min(until, mnw__max(client->down_since_ns + client->lost_after_ms * NS_PER_MS, now + RETRY_FIRST_NS));
    for (const struct mnw_client_view *view = client->views; view; view = view->next)
        if (view->state == MNW__CLIENT_VIEW_LOST)
            until = mnw__min(until, now + LOST_WATCH_NS);
    if (until == UINT64_MAX)
        return INT64_MAX;
    return until > now ? (int64_t)(until - now) : 0;
}

void mnw__session_run(void *argument) {
    struct mnw_client *client = argument;
    void *tags[TAGS];
    mnw__mutex_lock(&client->lock);
    while (!client->stopping) {
        tend(client);
        int64_t ns = sleep_ns(client);
        mnw__mutex_unlock(&client->lock);
        int count = mnw__poller_wait(client->poller, tags, TAGS, ns);
        mnw__mutex_lock(&client->lock);
        /* Every other tag is a lost view: tend() looks after all of them. */
        for (int i = 0; i < count; i++)
            if (tags[i] == &client->socket)
                receive_some(client);
    }
    mnw__mutex_unlock(&client->lock);
}
