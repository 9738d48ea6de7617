/* SPDX-License-Identifier: MIT */
/*
 * The queue of questions. Owns nothing of its own; everything is guarded by client->lock. Callers queue and wait; the
 * client's thread sends and ends. Allocates nothing.
 */
#include "base/error.h"
#include "client/client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_MS 1000000ull

void mnw__request_init(struct mnw__request *request, enum mnw__wire_type type, size_t body_bytes) {
    memset(request, 0, sizeof(*request));
    request->type = type;
    request->body_bytes = body_bytes;
    request->fd = request->answer_fd = -1;
}

void mnw__request_queue(struct mnw_client *client, struct mnw__request *request) {
    request->state = MNW__REQUEST_WAITING;
    request->number = ++client->last_request ? client->last_request : ++client->last_request;
    request->next = NULL;
    *client->requests_end = request;
    client->requests_end = &request->next;
    mnw__poller_kick(client->poller);
}

void mnw__request_forget(struct mnw_client *client, struct mnw__request *request) {
    struct mnw__request **link = &client->requests;
    while (*link && *link != request)
        link = &(*link)->next;
    if (*link) {
        *link = request->next;
        if (client->requests_end == &request->next)
            client->requests_end = link;
    }
    request->state = MNW__REQUEST_IDLE;
}

void mnw__request_end(struct mnw_client *client, struct mnw__request *request, int result, const char *message) {
    mnw__request_forget(client, request);
    request->state = MNW__REQUEST_ENDED;
    request->result = result;
    snprintf(request->message, sizeof(request->message), "%s", message);
    if (request->ended)
        request->ended(client, request);
    mnw__condition_wake_all(&client->changed);
}

/* When to give up: a long request runs as long as there is a daemon to run it. */
static uint64_t deadline(const struct mnw_client *client, const struct mnw__request *request, uint64_t begun_ns) {
    uint64_t patience = client->timeout_ms * NS_PER_MS;
    if (!request->is_long)
        return begun_ns + patience;
    return client->down_since_ns ? client->down_since_ns + patience : UINT64_MAX;
}

int mnw__request_wait(struct mnw_client *client, struct mnw__request *request, const char *call) {
    uint64_t begun_ns = mnw__clock_ns();
    while (request->state != MNW__REQUEST_ENDED) {
        uint64_t now = mnw__clock_ns(), until = deadline(client, request, begun_ns);
        if (now >= until) {
            mnw__request_forget(client, request);
            return mnw__fail(-ETIMEDOUT, "%s: no answer from the daemon at %s within %u ms; is it running?", call,
                             client->path, client->timeout_ms);
        }
        uint64_t left = until - now;
        mnw__condition_wait(&client->changed, &client->lock, left > INT64_MAX ? INT64_MAX : (int64_t)left);
    }
    return request->result ? mnw__fail(request->result, "%s: %s", call, request->message) : 0;
}

int mnw__request_ask(struct mnw_client *client, struct mnw__request *request, const char *call) {
    mnw__mutex_lock(&client->lock);
    mnw__request_queue(client, request);
    int result = mnw__request_wait(client, request, call);
    mnw__mutex_unlock(&client->lock);
    return result;
}
