/* SPDX-License-Identifier: MIT */
/*
 * What a well-formed message is. Pure: owns nothing, any thread may enter, looks at nothing but the packet.
 */
#include "wire/wire.h"

#include "base/bits.h"
#include "base/error.h"

#include <errno.h>
#include <string.h>

struct shape {
    const char *name;
    uint16_t request_bytes, answer_bytes; /* of the bodies */
    uint8_t request_fds, answer_fds;
};

#define ERRNO_MAX  4095
#define BODY(type) sizeof(struct mnw__wire_##type)

static const struct shape requests[] = {
    [MNW__WIRE_HELLO] = {"HELLO", BODY(hello), BODY(hello_answer), 0, 0},
    [MNW__WIRE_LIST] = {"LIST", BODY(list), offsetof(struct mnw__wire_list_answer, images), 0, 0},
    [MNW__WIRE_OPEN] = {"OPEN", BODY(open), BODY(open_answer), 0, 1},
    [MNW__WIRE_ATTACH] = {"ATTACH", BODY(attach), 0, 1, 0},
    [MNW__WIRE_DETACH] = {"DETACH", BODY(view), 0, 0, 0},
    [MNW__WIRE_PREFETCH] = {"PREFETCH", BODY(range), 0, 0, 0},
    [MNW__WIRE_CANCEL] = {"CANCEL", BODY(cookie), 0, 0, 0},
    [MNW__WIRE_PIN] = {"PIN", BODY(range), 0, 0, 0},
    [MNW__WIRE_UNPIN] = {"UNPIN", BODY(cookie), 0, 0, 0},
    [MNW__WIRE_INVALIDATE] = {"INVALIDATE", BODY(range), 0, 0, 0},
    [MNW__WIRE_STATS] = {"STATS", BODY(stats), BODY(text_answer), 0, 1},
    [MNW__WIRE_RESIDENCY] = {"RESIDENCY", BODY(range), BODY(text_answer), 0, 1},
    [MNW__WIRE_BUDGET] = {"BUDGET", BODY(budget), 0, 0, 0},
    [MNW__WIRE_RECORD] = {"RECORD", BODY(working_set), 0, 0, 0},
    [MNW__WIRE_REPLAY] = {"REPLAY", BODY(working_set), 0, 0, 0},
    [MNW__WIRE_CLAIM] = {"CLAIM", BODY(claim), 0, 0, 1},
    [MNW__WIRE_END] = {"END", 0, 0, 0, 1},
};

static const struct shape events[] = {
    {"EVENT_PREFETCH", 0, BODY(event_prefetch), 0, 0},
    {"EVENT_RESTARTED", 0, BODY(event_restarted), 0, 0},
    {"EVENT_DETACHED", 0, BODY(event_detached), 0, 0},
    {"EVENT_ENDED", 0, 0, 0, 0},
};

_Static_assert(sizeof(struct mnw__wire_packet) == MNW__WIRE_PACKET_MAX, "a packet holds every message and no more");
_Static_assert(sizeof(struct mnw__wire_list_answer) + sizeof(struct mnw__wire_header) <= MNW__WIRE_PACKET_MAX, "fits");

static const struct shape *shape_of(unsigned type) {
    if (type && type < mnw__array_count(requests))
        return &requests[type];
    if (type >= MNW__WIRE_EVENT_PREFETCH && type - MNW__WIRE_EVENT_PREFETCH < mnw__array_count(events))
        return &events[type - MNW__WIRE_EVENT_PREFETCH];
    return NULL;
}

const char *mnw__wire_name(unsigned type) {
    const struct shape *shape = shape_of(type);
    return shape ? shape->name : "unknown";
}

static int check_frame(const struct mnw__wire_packet *packet, size_t bytes) {
    if (bytes < sizeof(packet->header))
        return mnw__fail(-EPROTO, "a message of %zu bytes is shorter than its header, %zu", bytes,
                         sizeof(packet->header));
    if (packet->header.bytes != bytes)
        return mnw__fail(-EPROTO, "a message of %zu bytes says that it has %u", bytes, packet->header.bytes);
    if (packet->header.reserved)
        return mnw__fail(-EPROTO, "the reserved field of a header is %u; it must be 0", packet->header.reserved);
    return 0;
}

static int check_name(const char name[MNW__WIRE_NAME_BYTES], const char *what) {
    const char *end = memchr(name, 0, MNW__WIRE_NAME_BYTES);
    if (!end)
        return mnw__fail(-EINVAL, "%s: its name has no final zero within %d bytes", what, MNW__WIRE_NAME_BYTES);
    if (end == name)
        return mnw__fail(-EINVAL, "%s: an empty name", what);
    return 0;
}

static int check_reserved(uint32_t reserved, const char *what) {
    return reserved ? mnw__fail(-EINVAL, "%s: a reserved field is %u; it must be 0", what, reserved) : 0;
}

static int check_range(uint64_t offset, uint64_t length, const char *what) {
    if (!length || offset + length < offset)
        return mnw__fail(-EINVAL, "%s: %llu bytes at %llu is no range", what, (unsigned long long)length,
                         (unsigned long long)offset);
    return 0;
}

static int check_attach(const struct mnw__wire_attach *attach) {
    int error = check_reserved(attach->reserved, "ATTACH");
    if (!error && !attach->view)
        error = mnw__fail(-EINVAL, "ATTACH: a view's number must not be 0");
    if (!error)
        error = check_range(attach->offset, attach->length, "ATTACH");
    if (!error && (!attach->address || attach->address + attach->length < attach->address))
        error = mnw__fail(-EINVAL, "ATTACH: nothing can be mapped at address 0x%llx, %llu bytes long",
                          (unsigned long long)attach->address, (unsigned long long)attach->length);
    return error;
}

static int check_ranged(const struct mnw__wire_packet *packet, const char *what) {
    const struct mnw__wire_range *range = &packet->range;
    bool named = packet->header.type == MNW__WIRE_PREFETCH || packet->header.type == MNW__WIRE_PIN;
    int error = check_reserved(range->reserved, what);
    if (!error && !named && range->cookie)
        error = mnw__fail(-EINVAL, "%s: its cookie must be 0", what);
    return error ? error : check_range(range->offset, range->length, what);
}

static int check_working_set(const struct mnw__wire_packet *packet, const char *what) {
    const struct mnw__wire_working_set *set = &packet->working_set;
    int error = check_reserved(set->reserved, what);
    if (error)
        return error;
    bool replay = packet->header.type == MNW__WIRE_REPLAY;
    if (replay ? set->view || set->action : set->image || set->cookie)
        return mnw__fail(-EINVAL, "%s: the fields that it does not use must be 0", what);
    if (set->action > MNW__WIRE_RECORD_DROP)
        return mnw__fail(-EINVAL, "%s: there is no action %u", what, set->action);
    return 0;
}

/* Twice its length is looked at. */
static int check_claim(const struct mnw__wire_claim *claim, const char *what) {
    if (!claim->length || claim->length > UINT32_MAX || claim->address > UINT64_MAX - 2 * claim->length)
        return mnw__fail(-EINVAL, "%s: there is nothing at address 0x%llx, %llu bytes long", what,
                         (unsigned long long)claim->address, (unsigned long long)claim->length);
    return 0;
}

static int check_body(const struct mnw__wire_packet *packet, const char *what) {
    switch (packet->header.type) {
    case MNW__WIRE_HELLO:
        return check_name(packet->hello.name, what);
    case MNW__WIRE_LIST:
        return check_reserved(packet->list.reserved, what);
    case MNW__WIRE_OPEN:
        return check_name(packet->open.name, what);
    case MNW__WIRE_ATTACH:
        return check_attach(&packet->attach);
    case MNW__WIRE_DETACH:
        return check_reserved(packet->view.reserved, what);
    case MNW__WIRE_PREFETCH:
    case MNW__WIRE_PIN:
    case MNW__WIRE_INVALIDATE:
    case MNW__WIRE_RESIDENCY:
        return check_ranged(packet, what);
    case MNW__WIRE_STATS:
        if (packet->stats.format > MNW__WIRE_PROMETHEUS)
            return mnw__fail(-EINVAL, "%s: there is no format %u", what, packet->stats.format);
        return check_reserved(packet->stats.reserved, what);
    case MNW__WIRE_BUDGET:
        return check_name(packet->budget.pool, what);
    case MNW__WIRE_RECORD:
    case MNW__WIRE_REPLAY:
        return check_working_set(packet, what);
    case MNW__WIRE_CLAIM:
        return check_claim(&packet->claim, what);
    default:
        return 0; /* CANCEL, UNPIN: any cookie may be asked for; END asks for nothing else */
    }
}

int mnw__wire_check_request(const struct mnw__wire_packet *packet, size_t bytes, unsigned descriptors) {
    int error = check_frame(packet, bytes);
    if (error)
        return error;
    const struct mnw__wire_header *header = &packet->header;
    if (!header->request || header->status)
        return mnw__fail(-EPROTO, "request number %u, status %d: a request has a number other than 0, and status 0",
                         header->request, header->status);
    if (!header->type || header->type >= mnw__array_count(requests))
        return mnw__fail(-EOPNOTSUPP, "there is no request of type %u in version %d", header->type, MNW__WIRE_VERSION);
    const struct shape *shape = &requests[header->type];
    if (bytes != sizeof(*header) + shape->request_bytes)
        return mnw__fail(-EPROTO, "%s has %zu bytes; in version %d it has %zu", shape->name, bytes, MNW__WIRE_VERSION,
                         sizeof(*header) + shape->request_bytes);
    if (descriptors != shape->request_fds)
        return mnw__fail(-EPROTO, "%s came with %u descriptors; it takes %u", shape->name, descriptors,
                         shape->request_fds);
    return check_body(packet, shape->name);
}

static bool is_event(const struct mnw__wire_header *header) {
    return header->type >= MNW__WIRE_EVENT_PREFETCH;
}

/* What callers may negate, print and compare; the kernel has no other. */
static int check_errno(int32_t status, const char *what) {
    return status < -ERRNO_MAX ? mnw__fail(-EPROTO, "%s: %d is no errno", what, status) : 0;
}

static int check_failure(const struct mnw__wire_packet *packet, size_t bytes, unsigned descriptors, const char *what) {
    if (bytes != sizeof(packet->header) + sizeof(packet->failure) || descriptors)
        return mnw__fail(-EPROTO, "%s: a failure of %zu bytes with %u descriptors", what, bytes, descriptors);
    if (!memchr(packet->failure.message, 0, sizeof(packet->failure.message)))
        return mnw__fail(-EPROTO, "%s: a failure's message has no final zero", what);
    return check_errno(packet->header.status, what);
}

static int check_image(const struct mnw__wire_image *image) {
    return check_name(image->name, "an image") || check_name(image->pool, "an image's pool") ? -EPROTO : 0;
}

static int check_list_answer(const struct mnw__wire_packet *packet, size_t bytes) {
    uint32_t count = packet->list_answer.count;
    if (count > MNW__WIRE_IMAGES_MAX || bytes != sizeof(packet->header) + mnw__wire_list_bytes(count))
        return mnw__fail(-EPROTO, "LIST: %u images in %zu bytes", count, bytes);
    for (uint32_t i = 0; i < count; i++)
        if (check_image(&packet->list_answer.images[i]))
            return -EPROTO;
    return 0;
}

static int check_answer_body(const struct mnw__wire_packet *packet, const char *what) {
    switch (packet->header.type) {
    case MNW__WIRE_OPEN:
        return check_image(&packet->open_answer.about);
    case MNW__WIRE_EVENT_PREFETCH:
        return check_errno(packet->event_prefetch.result, what);
    case MNW__WIRE_EVENT_DETACHED:
        return check_errno(packet->event_detached.reason, what);
    default:
        return 0;
    }
}

int mnw__wire_check_answer(const struct mnw__wire_packet *packet, size_t bytes, unsigned descriptors) {
    int error = check_frame(packet, bytes);
    if (error)
        return error;
    const struct mnw__wire_header *header = &packet->header;
    const struct shape *shape = shape_of(header->type);
    if (header->status < 0 && header->request) /* also of a type that this version does not know */
        return check_failure(packet, bytes, descriptors, mnw__wire_name(header->type));
    if (!shape || header->status > 0 || is_event(header) != !header->request)
        return mnw__fail(-EPROTO, "type %u, request %u, status %d is no answer and no event", header->type,
                         header->request, header->status);
    if (header->status < 0)
        return check_failure(packet, bytes, descriptors, shape->name);
    if (descriptors != shape->answer_fds)
        return mnw__fail(-EPROTO, "the answer to %s came with %u descriptors instead of %u", shape->name, descriptors,
                         shape->answer_fds);
    size_t least = sizeof(*header) + shape->answer_bytes;
    if (header->type == MNW__WIRE_LIST && bytes >= least)
        return check_list_answer(packet, bytes);
    if (bytes != least || header->type == MNW__WIRE_EVENT_ENDED)
        return mnw__fail(-EPROTO, "%s: %zu bytes instead of %zu", shape->name, bytes, least);
    return check_answer_body(packet, shape->name);
}

size_t mnw__wire_seal(struct mnw__wire_packet *packet, enum mnw__wire_type type, uint32_t request, size_t body_bytes) {
    size_t bytes = sizeof(packet->header) + body_bytes;
    packet->header = (struct mnw__wire_header){.type = (uint16_t)type, .bytes = (uint16_t)bytes, .request = request};
    return bytes;
}

size_t mnw__wire_seal_failure(struct mnw__wire_packet *packet, enum mnw__wire_type type, uint32_t request, int status,
                              const char *message) {
    size_t length = strnlen(message, sizeof(packet->failure.message) - 1);
    size_t bytes = mnw__wire_seal(packet, type, request, sizeof(packet->failure));
    packet->header.status = status;
    memset(&packet->failure, 0, sizeof(packet->failure));
    memcpy(packet->failure.message, message, length);
    return bytes;
}

size_t mnw__wire_list_bytes(uint32_t count) {
    return offsetof(struct mnw__wire_list_answer, images) + count * sizeof(struct mnw__wire_image);
}

int mnw__wire_put_name(char to[MNW__WIRE_NAME_BYTES], const char *name) {
    size_t length = strlen(name);
    if (!length || length >= MNW__WIRE_NAME_BYTES)
        return mnw__fail(length ? -ENAMETOOLONG : -EINVAL, "'%s' is no name: 1 to %d bytes", name,
                         MNW__WIRE_NAME_BYTES - 1);
    memset(to, 0, MNW__WIRE_NAME_BYTES);
    memcpy(to, name, length);
    return 0;
}
