/* SPDX-License-Identifier: MIT */
/* Connecting and closing, and the list of images. Owns clients; any thread of the process that connected may enter. */
#include "client/client.h"

#include "base/error.h"
#include "base/options.h"
#include "sys/memory.h"
#include "sys/thread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS       1000000ull
#define TIMEOUT_MS      30000u
#define IMAGES_MAX      65536u /* of a daemon; who tells of more would tell without end */
#define DEFAULT_SOCKET  "/run/minnow/socket"
#define SOCKET_VARIABLE "MINNOW_SOCKET"

int mnw__client_check(const struct mnw_client *client, const char *call) {
    if (!client)
        return mnw__fail(-EINVAL, "%s: `client` must not be NULL", call);
    if (client->generation != mnw__memory_generation())
        return mnw__fail(-EOWNERDEAD,
                         "%s: the client connected before this process was forked, and stays its parent's; "
                         "connect anew",
                         call);
    return 0;
}

/* ---- connecting ---- */

static int copy_path(struct mnw_client *client, const char *path) {
    if (!path)
        path = getenv(SOCKET_VARIABLE);
    if (!path || !*path)
        path = DEFAULT_SOCKET;
    size_t length = strlen(path);
    if (length >= sizeof(client->path))
        return mnw__fail(-ENAMETOOLONG, "mnw_client_connect: the path of a socket has at most %zu bytes: %s",
                         sizeof(client->path) - 1, path);
    memcpy(client->path, path, length);
    return 0;
}

static void prepare_hello(struct mnw_client *client, const char *name) {
    struct mnw__request *hello = &client->hello;
    mnw__request_init(hello, MNW__WIRE_HELLO, sizeof(hello->body.hello));
    hello->body.hello.version = MNW__WIRE_VERSION;
    hello->body.hello.features = MNW__WIRE_KEPT;
    if (!name || !*name)
        name = program_invocation_short_name;
    if (!*name)
        name = "?";
    strncpy(hello->body.hello.name, name, sizeof(hello->body.hello.name) - 1);
}

static void discard(struct mnw_client *client) {
    mnw__keep_remove(&client->socket);
    mnw__poller_close(client->poller);
    mnw__condition_destroy(&client->changed);
    mnw__mutex_destroy(&client->lock);
    free(client);
}

static int make(struct mnw_client **result, const char *path, const struct mnw_client_options *options) {
    struct mnw_client *client = calloc(1, sizeof(*client));
    if (!client)
        return mnw__fail(-ENOMEM, "mnw_client_connect: no memory for a client");
    mnw__mutex_init(&client->lock);
    mnw__condition_init(&client->changed);
    mnw__keep_add(&client->socket);
    client->requests_end = &client->requests;
    client->timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS;
    client->lost_after_ms = options->lost_after_ms;
    client->user_faults_only = options->user_faults_only;
    client->generation = mnw__memory_generation();
    client->down_since_ns = mnw__clock_ns();
    prepare_hello(client, options->name);
    int error = mnw__poller_open(&client->poller);
    if (!error)
        error = copy_path(client, path);
    if (error) {
        discard(client);
        return error;
    }
    *result = client;
    return 0;
}

static void stop(struct mnw_client *client) {
    mnw__mutex_lock(&client->lock);
    client->stopping = true;
    mnw__mutex_unlock(&client->lock);
    mnw__poller_kick(client->poller);
    mnw__thread_join(&client->thread);
}

/* The first greeting must succeed; a later one is tried for ever. */
static int await_greeting(struct mnw_client *client) {
    uint64_t until = mnw__clock_ns() + client->timeout_ms * NS_PER_MS;
    int error = 0;
    mnw__mutex_lock(&client->lock);
    while (client->link != MNW__LINK_UP && !error) {
        uint64_t now = mnw__clock_ns();
        if (client->hello.result)
            error = mnw__fail(client->hello.result, "mnw_client_connect: %s: %s", client->path, client->hello.message);
        else if (now >= until)
            error = mnw__fail(-ETIMEDOUT, "mnw_client_connect: %s: the daemon does not answer", client->path);
        else
            mnw__condition_wait(&client->changed, &client->lock, (int64_t)(until - now));
    }
    mnw__mutex_unlock(&client->lock);
    return error;
}

static int begin(struct mnw_client *client) {
    int error = mnw__session_connect(client);
    if (!error)
        error = mnw__thread_start(&client->thread, "mnw-client", -1, mnw__session_run, client);
    if (error)
        return error;
    error = await_greeting(client);
    if (error)
        stop(client);
    return error;
}

int mnw_client_connect(struct mnw_client **result, const char *path, const struct mnw_client_options *options) {
    MNW__WHOLE_CALL;
    struct mnw_client_options known;
    if (!result)
        return mnw__fail(-EINVAL, "mnw_client_connect: `client` must not be NULL");
    int error = mnw__options_copy(&known, sizeof(known), options, "mnw_client_options");
    struct mnw_client *client = NULL;
    if (!error)
        error = make(&client, path, &known);
    if (error)
        return error;
    error = begin(client);
    if (error) {
        discard(client);
        return error;
    }
    *result = client;
    return 0;
}

int mnw_client_close(struct mnw_client *client) {
    MNW__WHOLE_CALL;
    int error = mnw__client_check(client, "mnw_client_close");
    if (error)
        return error;
    mnw__mutex_lock(&client->lock);
    bool busy = client->views;
    mnw__mutex_unlock(&client->lock);
    if (busy)
        return mnw__fail(-EBUSY, "mnw_client_close: views are mapped; unmap them first");
    stop(client);
    mnw__pins_discard(client);
    discard(client);
    return 0;
}

/* ---- the list of images ---- */

static enum mnw_backing backing_of(uint32_t backing) {
    return backing <= MNW_BACKING_HUGETLB_1G ? (enum mnw_backing)backing : MNW_BACKING_SHMEM;
}

static void show(const struct mnw__wire_image *from, void (*each)(void *context, const struct mnw_image *image),
                 void *context) {
    struct mnw_image image = {.name = from->name,
                              .pool = from->pool,
                              .size_bytes = from->size_bytes,
                              .resident_bytes = from->resident_bytes,
                              .page_bytes = from->page_bytes,
                              .extent_bytes = from->extent_bytes,
                              .backing = backing_of(from->backing),
                              .views = from->views,
                              .is_open = from->flags & MNW__WIRE_IMAGE_OPEN};
    each(context, &image);
}

int mnw_client_images(struct mnw_client *client, void (*each)(void *context, const struct mnw_image *image),
                      void *context) {
    MNW__WHOLE_CALL;
    int error = mnw__client_check(client, "mnw_client_images");
    if (error)
        return error;
    if (!each)
        return mnw__fail(-EINVAL, "mnw_client_images: `each` must not be NULL");
    struct mnw__wire_packet answer;
    uint32_t first = 0;
    do {
        struct mnw__request request;
        mnw__request_init(&request, MNW__WIRE_LIST, sizeof(request.body.list));
        request.body.list.first = first;
        request.answer = &answer;
        error = mnw__request_ask(client, &request, "mnw_client_images");
        if (error)
            return error;
        if (answer.list_answer.total > IMAGES_MAX)
            return mnw__fail(-EPROTO, "mnw_client_images: the daemon tells of %u images; at most %u are believed",
                             answer.list_answer.total, IMAGES_MAX);
        for (uint32_t i = 0; i < answer.list_answer.count; i++)
            show(&answer.list_answer.images[i], each, context);
        first += answer.list_answer.count;
    } while (answer.list_answer.count && first < answer.list_answer.total);
    return (int)first;
}
