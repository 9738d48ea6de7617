/* SPDX-License-Identifier: MIT */
/*
 * Ranges of an image, budgets and statistics: one question each. Owns the pins, which a new session is told again.
 * Any thread of the process that connected may enter.
 */
#include "base/bits.h"
#include "base/error.h"
#include "client/client.h"
#include "sys/thread.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- prefetch, invalidate ---- */

static uint64_t next_cookie(struct mnw_client *client) {
    mnw__mutex_lock(&client->lock);
    uint64_t cookie = ++client->last_cookie;
    mnw__mutex_unlock(&client->lock);
    return cookie;
}

static void make_ranged(struct mnw__request *request, enum mnw__wire_type type, struct mnw__image *image,
                        uint64_t offset, uint64_t length) {
    mnw__request_init(request, type, sizeof(request->body.range));
    request->body.range.offset = offset;
    request->body.range.length = length;
    request->image = image;
    request->is_long = true;
}

static int enter(struct mnw__image **image, struct mnw_client *client, const char *name, uint64_t offset,
                 uint64_t length, const char *call) {
    int error = mnw__client_check(client, call);
    if (!error)
        error = mnw__image_enter(image, client, name, call);
    if (error)
        return error;
    error = mnw__image_check_range(*image, offset, length, call);
    if (error)
        mnw__image_leave(client, *image);
    return error;
}

int mnw_client_prefetch(struct mnw_client *client, const char *name, uint64_t offset, uint64_t length) {
    MNW__WHOLE_CALL;
    struct mnw__image *image;
    int error = enter(&image, client, name, offset, length, "mnw_client_prefetch");
    if (error)
        return error;
    struct mnw__request request;
    make_ranged(&request, MNW__WIRE_PREFETCH, image, offset, length);
    request.body.range.cookie = next_cookie(client);
    request.until_event = true;
    error = mnw__request_ask(client, &request, "mnw_client_prefetch");
    mnw__image_leave(client, image);
    return error;
}

int mnw_client_invalidate(struct mnw_client *client, const char *name, uint64_t offset, uint64_t length) {
    MNW__WHOLE_CALL;
    struct mnw__image *image;
    int error = enter(&image, client, name, offset, length, "mnw_client_invalidate");
    if (error)
        return error;
    struct mnw__request request;
    make_ranged(&request, MNW__WIRE_INVALIDATE, image, offset, length);
    error = mnw__request_ask(client, &request, "mnw_client_invalidate");
    mnw__image_leave(client, image);
    return error;
}

/* ---- pins ---- */

static void discard_pin(struct mnw_client *client, struct mnw__pin *pin) {
    mnw__image_leave(client, pin->image);
    free(pin);
}

/* It is in the list while it waits: a session that breaks meanwhile is told again by the queue itself. */
static void unlink_pin(struct mnw_client *client, struct mnw__pin *pin) {
    struct mnw__pin **link = &client->pins;
    while (*link && *link != pin)
        link = &(*link)->next;
    if (*link)
        *link = pin->next;
    mnw__request_forget(client, &pin->pin);
}

/* Some may still wait to be told to the daemon again. */
void mnw__pins_discard(struct mnw_client *client) {
    while (client->pins) {
        struct mnw__pin *pin = client->pins;
        unlink_pin(client, pin);
        discard_pin(client, pin);
    }
}

int mnw_client_pin(struct mnw_client *client, const char *name, uint64_t offset, uint64_t length) {
    MNW__WHOLE_CALL;
    struct mnw__image *image;
    int error = enter(&image, client, name, offset, length, "mnw_client_pin");
    if (error)
        return error;
    struct mnw__pin *pin = calloc(1, sizeof(*pin));
    if (!pin) {
        mnw__image_leave(client, image);
        return mnw__fail(-ENOMEM, "mnw_client_pin: no memory for a pin");
    }
    *pin = (struct mnw__pin){.image = image, .offset = offset, .length = length, .cookie = next_cookie(client)};
    make_ranged(&pin->pin, MNW__WIRE_PIN, image, offset, length);
    pin->pin.body.range.cookie = pin->cookie;
    mnw__mutex_lock(&client->lock);
    mnw__request_queue(client, &pin->pin);
    error = mnw__request_wait(client, &pin->pin, "mnw_client_pin");
    if (!error) {
        pin->next = client->pins;
        client->pins = pin;
    }
    mnw__mutex_unlock(&client->lock);
    if (error)
        discard_pin(client, pin);
    return error;
}

static struct mnw__pin *take_pin(struct mnw_client *client, const char name[MNW__WIRE_NAME_BYTES], uint64_t offset,
                                 uint64_t length) {
    struct mnw__pin *pin = client->pins;
    while (pin && (pin->offset != offset || pin->length != length || strcmp(pin->image->name, name)))
        pin = pin->next;
    if (pin)
        unlink_pin(client, pin);
    return pin;
}

int mnw_client_unpin(struct mnw_client *client, const char *name, uint64_t offset, uint64_t length) {
    MNW__WHOLE_CALL;
    char known[MNW__WIRE_NAME_BYTES];
    int error = mnw__client_check(client, "mnw_client_unpin");
    if (!error)
        error =
            name ? mnw__wire_put_name(known, name) : mnw__fail(-EINVAL, "mnw_client_unpin: `image` must not be NULL");
    if (error)
        return error;
    mnw__mutex_lock(&client->lock);
    struct mnw__pin *pin = take_pin(client, known, offset, length);
    mnw__mutex_unlock(&client->lock);
    if (!pin)
        return mnw__fail(-EINVAL, "mnw_client_unpin: this client did not pin %llu bytes at %llu of that image",
                         (unsigned long long)length, (unsigned long long)offset);
    struct mnw__request request;
    mnw__request_init(&request, MNW__WIRE_UNPIN, sizeof(request.body.cookie));
    request.body.cookie.cookie = pin->cookie;
    error = mnw__request_ask(client, &request, "mnw_client_unpin");
    discard_pin(client, pin);
    return error;
}

/* ---- what comes as a descriptor full of text ---- */

/* Of statistics: hundreds of times what a daemon has to tell. */
#define TEXT_MAX (64u << 20)

/* `room` bytes at most, which may lie in a view: nothing is locked here. */
static int read_whole(int fd, void *to, size_t room, const char *call) {
    size_t got = 0;
    if (!mnw__image_is_memory(fd))
        return mnw__fail(-EPROTO, "%s: the answer's descriptor is no memory", call);
    while (got < room) {
        ssize_t some = pread(fd, (char *)to + got, room - got, (off_t)got);
        if (some < 0 && errno == EINTR)
            continue;
        if (some <= 0)
            return mnw__fail(some ? -errno : -EPROTO, "%s: reading the answer: %s", call,
                             some ? strerror(errno) : "it is shorter than it says");
        got += (size_t)some;
    }
    return 0;
}

int mnw_client_residency(struct mnw_client *client, const char *name, uint64_t offset, uint8_t *pages, size_t count) {
    MNW__WHOLE_CALL;
    const char *call = "mnw_client_residency";
    struct mnw__image *image;
    int error = pages ? mnw__client_check(client, call) : mnw__fail(-EINVAL, "%s: `pages` must not be NULL", call);
    if (!error)
        error = mnw__image_enter(&image, client, name, call);
    if (error)
        return error;
    struct mnw__wire_packet answer;
    struct mnw__request request;
    uint64_t length = count > UINT64_MAX / image->page_bytes ? UINT64_MAX : (uint64_t)count * image->page_bytes;
    error = mnw__image_check_range(image, offset, length, call);
    if (!error) {
        make_ranged(&request, MNW__WIRE_RESIDENCY, image, offset, length);
        request.answer = &answer;
        error = mnw__request_ask(client, &request, call);
    }
    mnw__image_leave(client, image);
    if (error)
        return error;
    if (answer.text_answer.bytes != count)
        error = mnw__fail(-EPROTO, "%s: the daemon told of %llu pages instead of %zu", call,
                          (unsigned long long)answer.text_answer.bytes, count);
    else
        error = read_whole(request.answer_fd, pages, count, call);
    close(request.answer_fd);
    return error;
}

char *mnw_client_stats(struct mnw_client *client, enum mnw_stats_format format) {
    MNW__WHOLE_CALL;
    const char *call = "mnw_client_stats";
    struct mnw__wire_packet answer;
    struct mnw__request request;
    if (mnw__client_check(client, call))
        return NULL;
    mnw__request_init(&request, MNW__WIRE_STATS, sizeof(request.body.stats));
    request.body.stats.format = (uint32_t)format;
    request.answer = &answer;
    if (mnw__request_ask(client, &request, call))
        return NULL;
    uint64_t bytes = answer.text_answer.bytes;
    char *text = bytes <= TEXT_MAX ? malloc((size_t)bytes + 1) : NULL;
    if (bytes > TEXT_MAX) {
        mnw__fail(-EPROTO, "%s: the daemon tells of %llu bytes of text; at most %u are read", call,
                  (unsigned long long)bytes, TEXT_MAX);
    } else if (!text) {
        mnw__fail(-ENOMEM, "%s: no memory for %llu bytes of text", call, (unsigned long long)bytes);
    } else if (read_whole(request.answer_fd, text, (size_t)bytes, call)) {
        free(text);
        text = NULL;
    } else {
        text[bytes] = 0;
    }
    close(request.answer_fd);
    return text;
}

int mnw_client_set_budget(struct mnw_client *client, const char *pool, uint64_t budget_bytes) {
    MNW__WHOLE_CALL;
    const char *call = "mnw_client_set_budget";
    struct mnw__request request;
    int error = pool ? mnw__client_check(client, call) : mnw__fail(-EINVAL, "%s: `pool` must not be NULL", call);
    if (error)
        return error;
    mnw__request_init(&request, MNW__WIRE_BUDGET, sizeof(request.body.budget));
    request.body.budget.bytes = budget_bytes;
    request.is_long = true;
    error = mnw__wire_put_name(request.body.budget.pool, pool);
    return error ? error : mnw__request_ask(client, &request, call);
}
