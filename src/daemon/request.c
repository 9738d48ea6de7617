/* SPDX-License-Identifier: MIT */
/* Requests: checked as messages, then handed to who carries them out. The loop's. */
#include "daemon/daemon.h"

#include "base/bits.h"
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void mnw__request_answer(struct mnw__session *session, struct mnw__wire_packet *packet, enum mnw__wire_type type,
                         uint32_t request, size_t body_bytes, int fd) {
    size_t bytes = mnw__wire_seal(packet, type, request, body_bytes);
    session->daemon->counts.messages++;
    mnw__session_put(session, packet, bytes, fd);
}

void mnw__request_refuse(struct mnw__session *session, const struct mnw__wire_packet *request, int status) {
    struct mnw__wire_packet packet;
    size_t bytes = mnw__wire_seal_failure(&packet, (enum mnw__wire_type)request->header.type, request->header.request,
                                          status, mnw__fail_message());
    session->daemon->counts.messages++;
    session->daemon->counts.refused++;
    mnw__session_put(session, &packet, bytes, -1);
}

struct mnw__daemon_image *mnw__request_image(struct mnw__session *session, uint32_t number, int *error) {
    struct mnw__daemon *daemon = session->daemon;
    for (unsigned i = 0; i < daemon->image_count; i++) {
        struct mnw__daemon_image *image = &daemon->images[i];
        if (image->state != MNW__IMAGE_OPEN || image->record < 0 || (uint32_t)image->record + 1 != number)
            continue;
        if (mnw__image_allows(session, image))
            return image;
        break;
    }
    *error = mnw__fail(-ENOENT, "there is no image %u in this session; the answer to OPEN gives the number", number);
    return NULL;
}

int mnw__request_check_range(const struct mnw__daemon_image *image, uint64_t offset, uint64_t length) {
    uint64_t page = image->page_bytes, end = mnw__align_up(image->size_bytes, page);
    if (!mnw__is_aligned(offset, page) || !mnw__is_aligned(length, page))
        return mnw__fail(-EINVAL, "offset %llu and length %llu must be multiples of the page of image '%s', %llu",
                         (unsigned long long)offset, (unsigned long long)length, image->config->name,
                         (unsigned long long)page);
    if (!length || offset >= end || length > end - offset)
        return mnw__fail(-EINVAL, "%llu bytes at %llu are not inside image '%s', which has %llu",
                         (unsigned long long)length, (unsigned long long)offset, image->config->name,
                         (unsigned long long)end);
    return 0;
}

int mnw__request_check_admin(const struct mnw__session *session, const char *what) {
    if (session->is_admin)
        return 0;
    return mnw__fail(-EPERM, "user %u may not %s; the daemon's configuration says who may (\"admins\")",
                     session->peer.uid, what);
}

static void fill_hello(const struct mnw__session *session, struct mnw__wire_hello_answer *answer, uint32_t features) {
    const struct mnw__daemon *daemon = session->daemon;
    const struct mnw__config_limits *limits = &daemon->config->limits;
    /* Without a holder nothing is kept, and nobody who asks for it is told so. */
    *answer = (struct mnw__wire_hello_answer){.version = MNW__WIRE_VERSION,
                                              .features = mnw__holding_keeps(&daemon->holding) ? features : 0,
                                              .views_max = limits->views,
                                              .bytes_max = limits->bytes,
                                              .faults_per_second_max = limits->faults_per_second,
                                              .pinned_max = limits->pinned,
                                              .epoch = mnw__state_epoch(&daemon->state),
                                              .requests_max = (uint32_t)limits->requests,
                                              .flags = session->is_admin ? MNW__WIRE_ADMIN : 0};
}

static void settled(struct mnw__work *work) {
    struct mnw__wire_packet answer;
    fill_hello(work->session, &answer.hello_answer, work->features);
    mnw__work_answer_with(work, &answer, sizeof(answer.hello_answer), -1);
}

static void answer_hello(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    uint32_t features = packet->hello.features & (MNW__WIRE_SETTLED | MNW__WIRE_KEPT);
    if (!(features & MNW__WIRE_SETTLED)) {
        struct mnw__wire_packet answer;
        fill_hello(session, &answer.hello_answer, features);
        mnw__request_answer(session, &answer, MNW__WIRE_HELLO, packet->header.request, sizeof(answer.hello_answer), -1);
        return;
    }
    struct mnw__work *work = mnw__work_new(session, packet);
    if (!work) {
        mnw__request_refuse(session, packet, -ENOMEM);
        return;
    }
    work->features = features;
    work->done = settled;
    mnw__changes_settle(work);
}

static void handle_hello(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    if (!packet->hello.version) {
        int error =
            mnw__fail(-EPROTONOSUPPORT, "there is no version 0; this daemon speaks version %d", MNW__WIRE_VERSION);
        mnw__request_refuse(session, packet, error);
        return;
    }
    struct mnw__record_session *record = &session->daemon->state.sessions[session->record];
    memcpy(session->name, packet->hello.name, sizeof(session->name));
    memcpy(record->name, packet->hello.name, sizeof(record->name));
    record->greeted = 1;
    session->is_greeted = true;
    if (!session->unsent_count)
        session->deadline_ns = 0;
    answer_hello(session, packet);
}

static void dispatch(struct mnw__session *session, const struct mnw__wire_packet *packet,
                     struct mnw__socket_received *received) {
    switch ((enum mnw__wire_type)packet->header.type) {
    case MNW__WIRE_HELLO:
        handle_hello(session, packet);
        break;
    case MNW__WIRE_LIST:
        mnw__image_handle_list(session, packet);
        break;
    case MNW__WIRE_OPEN:
        mnw__image_handle_open(session, packet);
        break;
    case MNW__WIRE_ATTACH:
        mnw__views_handle_attach(session, packet, received->fds[0]);
        received->fds[0] = -1; /* now theirs */
        break;
    case MNW__WIRE_DETACH:
        mnw__views_handle_detach(session, packet);
        break;
    case MNW__WIRE_PREFETCH:
        mnw__prefetch_handle(session, packet);
        break;
    case MNW__WIRE_CANCEL:
        mnw__prefetch_handle_cancel(session, packet);
        break;
    case MNW__WIRE_PIN:
    case MNW__WIRE_INVALIDATE:
    case MNW__WIRE_RESIDENCY:
        mnw__ranges_handle(session, packet);
        break;
    case MNW__WIRE_UNPIN:
        mnw__ranges_handle_unpin(session, packet);
        break;
    case MNW__WIRE_BUDGET:
        mnw__ranges_handle_budget(session, packet);
        break;
    case MNW__WIRE_STATS:
        mnw__report_handle_stats(session, packet);
        break;
    case MNW__WIRE_RECORD:
        mnw__views_handle_record(session, packet);
        break;
    case MNW__WIRE_REPLAY:
        mnw__prefetch_handle_replay(session, packet);
        break;
    case MNW__WIRE_CLAIM:
        mnw__claims_handle(session, packet);
        break;
    case MNW__WIRE_END:
        mnw__claims_handle_end(session, packet);
        break;
    default: /* the check lets no other through */
        break;
    }
}

/* What the rest of the session cannot be trusted after. */
static int check(const struct mnw__session *session, const struct mnw__wire_packet *packet,
                 const struct mnw__socket_received *received) {
    if (received->cut)
        return mnw__fail(-EPROTO, "a message was longer than %d bytes, or had more than %d descriptors",
                         MNW__WIRE_PACKET_MAX, MNW__SOCKET_FDS_MAX);
    int error = mnw__wire_check_request(packet, received->bytes, received->fd_count);
    if (error != -EPROTO && !session->is_greeted && packet->header.type != MNW__WIRE_HELLO)
        error =
            mnw__fail(-EPROTO, "the first message of a session is HELLO, not %s", mnw__wire_name(packet->header.type));
    return error;
}

void mnw__request_handle(struct mnw__session *session, const struct mnw__wire_packet *packet,
                         struct mnw__socket_received *received) {
    int error = check(session, packet, received);
    if (!error && !mnw__work_is_under_way(session, packet))
        dispatch(session, packet, received);
    else if (error == -EPROTO)
        mnw__session_drop(session, error, mnw__fail_message());
    else if (error)
        mnw__request_refuse(session, packet, error);
    for (unsigned i = 0; i < received->fd_count; i++)
        if (received->fds[i] >= 0)
            close(received->fds[i]);
}
