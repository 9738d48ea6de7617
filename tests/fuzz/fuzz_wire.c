/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: everything that peers can say, to sessions of the daemon over a library that is a fake.
 *
 * An input is a program: packets, whole ones and broken ones, of up to four peers, between them answers of the lanes,
 * events of the library, peers that do not read, and peers that go. Whatever comes: no call of the library with
 * nonsense, nothing sent that is no message, and at the end nothing open, pinned or kept.
 */
#include "fuzz/fake_minnow.h"
#include "fuzz/fuzz.h"

#include "base/bits.h"
#include "base/error.h"
#include "daemon/daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { PEERS = 4, STEPS_MAX = 400 };

static struct mnw__daemon daemon_;
static struct mnw__session *peers[PEERS];

static const char configuration[] =
    "{\"socket\": \"/x\", \"access\": {\"users\": [0, 65534]}, \"admins\": {\"users\": [0]},"
    "\"limits\": {\"views\": 3, \"bytes\": 8388608, \"pinned\": 1048576, \"prefetches\": 2, \"requests\": 6,"
    "\"requests_per_second\": 1000000},"
    "\"pools\": [{\"name\": \"p\", \"budget\": \"4M\"}],"
    "\"images\": [{\"name\": \"a\", \"uri\": \"file:///a\"}, {\"name\": \"b\", \"uri\": \"x://b\"},"
    "{\"name\": \"c\", \"uri\": \"file:///c\", \"access\": {\"users\": [0]}}]}";

static const uint16_t bodies[] = {0,
                                  sizeof(struct mnw__wire_hello),
                                  sizeof(struct mnw__wire_list),
                                  sizeof(struct mnw__wire_open),
                                  sizeof(struct mnw__wire_attach),
                                  sizeof(struct mnw__wire_view),
                                  sizeof(struct mnw__wire_range),
                                  sizeof(struct mnw__wire_cookie),
                                  sizeof(struct mnw__wire_range),
                                  sizeof(struct mnw__wire_cookie),
                                  sizeof(struct mnw__wire_range),
                                  sizeof(struct mnw__wire_stats),
                                  sizeof(struct mnw__wire_range),
                                  sizeof(struct mnw__wire_budget),
                                  sizeof(struct mnw__wire_working_set),
                                  sizeof(struct mnw__wire_working_set),
                                  sizeof(struct mnw__wire_claim),
                                  0};

static void set_up(void) {
    struct mnw__config *config = mnw__config_new();
    demand(config && !mnw__config_parse(config, configuration, sizeof(configuration) - 1, "fuzz") &&
               !mnw__config_finish(config),
           "the configuration is refused");
    daemon_.config = config;
    daemon_.pool_count = 1;
    daemon_.pools[0].config = &config->pools[0];
    daemon_.image_count = config->image_count;
    for (unsigned i = 0; i < config->image_count; i++)
        daemon_.images[i] =
            (struct mnw__daemon_image){.config = &config->images[i], .pool = &daemon_.pools[0], .record = -1};
    demand(!mnw__state_create(&daemon_.state) && !mnw__finished_open(&daemon_.finished), "no memfd");
    daemon_.ends[0] = daemon_.state.fd; /* any will do */
    demand(!mnw__lane_open(&daemon_.quick, "q", 0, &daemon_.finished) &&
               !mnw__lane_open(&daemon_.slow, "s", 0, &daemon_.finished),
           "no lanes");
}

/* ---- steps ---- */

static struct mnw__session *peer_of(uint8_t choice) {
    struct mnw__session **peer = &peers[choice % PEERS];
    for (struct mnw__session *session = daemon_.sessions; session && *peer; session = session->next)
        if (session == *peer)
            return session;
    *peer = mnw__session_add(&daemon_, fake_fd(), -1);
    return *peer;
}

static void deliver(struct mnw__session *session, size_t bytes, uint8_t fds) {
    fake.next = (struct mnw__socket_received){.bytes = bytes, .cut = fds >= 250};
    for (unsigned i = 0; i < fds % 4u && i < 3; i++)
        fake.next.fds[fake.next.fd_count++] = fake_fd();
    fake.has_next = true;
    session->source.ready(&daemon_, &session->source, EPOLLIN);
    for (unsigned i = 0; fake.has_next && i < fake.next.fd_count; i++)
        close(fake.next.fds[i]);
    fake.has_next = false;
}

static void send_raw(struct mnw__session *session) {
    size_t bytes = fake_byte();
    memset(&fake.packet, 0, sizeof(fake.packet));
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)&fake.packet)[i] = fake_byte();
    deliver(session, bytes, fake_byte());
}

/* Fields are small numbers, and now and then wild ones: what is refused at once finds nothing further in. */
static uint64_t field(void) {
    uint8_t byte = fake_byte();
    if (byte < 0xf8)
        return byte;
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | fake_byte();
    return value;
}

static uint64_t bytes_field(void) {
    uint64_t value = field();
    return value < 256 ? value * 4096 : value;
}

static void fill_range(struct mnw__wire_range *range) {
    range->image = (uint32_t)field();
    range->offset = bytes_field();
    range->length = bytes_field();
    if (fake.packet.header.type == MNW__WIRE_PREFETCH || fake.packet.header.type == MNW__WIRE_PIN || field() > 250)
        range->cookie = field();
}

static void fill_name(char name[MNW__WIRE_NAME_BYTES]) {
    uint8_t byte = fake_byte();
    memset(name, byte >= 250 ? 'x' : 0, MNW__WIRE_NAME_BYTES);
    name[0] = byte < 200 ? (char)("abcp"[byte % 4]) : (char)byte;
}

static void fill_body(void) {
    struct mnw__wire_packet *packet = &fake.packet;
    switch (packet->header.type) {
    case MNW__WIRE_HELLO:
        packet->hello.version = (uint32_t)field();
        packet->hello.features = packet->hello.version / 16 % 8;
        fill_name(packet->hello.name);
        break;
    case MNW__WIRE_LIST:
        packet->list.first = (uint32_t)field();
        break;
    case MNW__WIRE_OPEN:
        fill_name(packet->open.name);
        break;
    case MNW__WIRE_ATTACH:
        packet->attach = (struct mnw__wire_attach){.image = (uint32_t)field(), .view = (uint32_t)field()};
        packet->attach.flags = (uint32_t)field() % 4;
        packet->attach.address = bytes_field();
        packet->attach.length = bytes_field();
        packet->attach.offset = bytes_field();
        break;
    case MNW__WIRE_DETACH:
        packet->view.view = (uint32_t)field();
        break;
    case MNW__WIRE_CANCEL:
    case MNW__WIRE_UNPIN:
        packet->cookie.cookie = field();
        break;
    case MNW__WIRE_STATS:
        packet->stats.format = (uint32_t)field() % 4;
        break;
    case MNW__WIRE_BUDGET:
        fill_name(packet->budget.pool);
        packet->budget.bytes = bytes_field();
        break;
    case MNW__WIRE_RECORD:
        packet->working_set.view = (uint32_t)field();
        packet->working_set.action = (uint32_t)field() % 4;
        break;
    case MNW__WIRE_REPLAY:
        packet->working_set.image = (uint32_t)field();
        packet->working_set.cookie = field();
        break;
    case MNW__WIRE_CLAIM:
        packet->claim.address = bytes_field();
        packet->claim.length = bytes_field();
        break;
    case MNW__WIRE_END:
        break;
    default:
        fill_range(&packet->range);
    }
}

static void send_whole(struct mnw__session *session, uint8_t type) {
    memset(&fake.packet, 0, sizeof(fake.packet));
    type = (uint8_t)(1 + type % (mnw__array_count(bodies) - 1));
    fake.packet.header.type = type;
    fill_body();
    size_t bytes = sizeof(fake.packet.header) + bodies[type];
    fake.packet.header.bytes = (uint16_t)bytes;
    fake.packet.header.request = (uint32_t)field() + 1;
    deliver(session, bytes, type == MNW__WIRE_ATTACH);
}

static void end_prefetch(void) {
    if (!fake.prefetch_count)
        return;
    unsigned which = fake_byte() % fake.prefetch_count;
    struct mnw_event event = {
        .kind = MNW_EVENT_PREFETCH, .cookie = fake.prefetches[which], .result = -(int)fake_byte()};
    fake.prefetches[which] = fake.prefetches[--fake.prefetch_count];
    mnw__prefetch_ended(&daemon_, &event);
}

static const struct mnw__daemon_view *view_in(const struct mnw__session *session, const struct mnw_view *wanted) {
    const struct mnw__daemon_view *view = session->views;
    while (view && view->view != wanted)
        view = view->next;
    return view;
}

/* The session that a child of this view belongs to, if it is known. */
static const struct mnw__session *session_of(const struct mnw_view *wanted) {
    for (const struct mnw__session *session = daemon_.sessions; session; session = session->next) {
        const struct mnw__daemon_view *view = view_in(session, wanted);
        if (view && view->phase != MNW__VIEW_DETACHING)
            return session;
    }
    return NULL;
}

/* A child's view comes with the event alone, and belongs to whoever takes it. Its parent may be unknown by then. */
static void fork_view(struct mnw_event *event) {
    event->cache = daemon_.images[0].cache;
    event->parent = event->view;
    const struct mnw__session *session = session_of(event->parent);
    if (fake_byte() % 8 == 0) {
        event->cookie = 0;
        session = NULL;
    }
    struct mnw_attach_options options = {.length_bytes = 4096, .uffd = daemon_.state.fd, .cookie = event->cookie};
    if (!event->cache || mnw_view_attach(&event->view, event->cache, &options))
        return;
    if (event->changes & MNW_VIEW_CHANGED_DEAD)
        fake_die(event->view);
    mnw__changes_take(&daemon_, &daemon_.pools[0], event);
    demand(!session || view_in(session, event->view), "a child is not in its parent's session");
}

static void change_view(void) {
    if (!fake.view_count || fake.view_count == FAKE_VIEWS)
        return;
    struct mnw_event event = {.kind = MNW_EVENT_VIEW_CHANGED, .changes = fake_byte() % 8};
    event.view = fake.views[fake_byte() % fake.view_count];
    event.cookie = fake_cookie(event.view);
    if (event.changes & MNW_VIEW_CHANGED_FORKED) {
        fork_view(&event);
        return;
    }
    if (event.changes & MNW_VIEW_CHANGED_DEAD)
        fake_die(event.view);
    mnw__changes_take(&daemon_, &daemon_.pools[0], &event);
}

static void step(void) {
    uint8_t choice = fake_byte(), state;
    struct mnw__session *session = peer_of(choice >> 4);
    if (!session)
        return;
    switch (choice % 16) {
    case 0:
        send_raw(session);
        break;
    case 1:
        end_prefetch();
        break;
    case 2:
        change_view();
        break;
    case 3:
        state = fake_byte();
        fake.send_blocked = state % 4 == 0;
        fake.holder_lost = state >= 128;
        if (!fake.send_blocked)
            session->source.ready(&daemon_, &session->source, EPOLLOUT);
        break;
    case 4:
        if (fake_byte() % 4 == 0)
            session->source.ready(&daemon_, &session->source, EPOLLHUP);
        break;
    case 5:
    case 6:
        mnw__work_collect(&daemon_);
        mnw__session_sweep(&daemon_);
        break;
    case 7:
        mnw__session_tick(&daemon_);
        break;
    default:
        send_whole(session, fake_byte());
    }
}

/* ---- the end of an input ---- */

static void tear_down(void) {
    fuzz_input.left = 0;
    fake.send_blocked = fake.holder_lost = false;
    fake_settle(&daemon_);
    for (unsigned i = 0; i < fake.view_count; i++)
        demand(!fake_is_dead(fake.views[i]), "the view of a process that has ended is served on");
    while (daemon_.sessions)
        mnw__session_drop(daemon_.sessions, -1, "the end");
    fake_settle(&daemon_);
    while (fake.prefetch_count)
        end_prefetch();
    fake_end_orphans(&daemon_);
    for (unsigned i = 0; i < daemon_.image_count; i++)
        mnw__image_close(&daemon_, &daemon_.images[i]);
}

static void check_nothing_left(void) {
    const struct mnw__state *state = &daemon_.state;
    fuzz_check_descriptors();
    demand(!daemon_.dead && !daemon_.prefetches && !daemon_.session_count && !daemon_.child_count && !daemon_.works,
           "a session was left");
    demand(!daemon_.waiting, "somebody still waits for children to be settled");
    demand(!fake.view_count && !fake.pins && !fake.caches && !fake.stores && !fake.limits,
           "a view, pin, image or limit was left");
    for (unsigned i = 0; i < daemon_.image_count; i++)
        demand(!daemon_.images[i].views && daemon_.images[i].state == MNW__IMAGE_CLOSED, "an image counts wrongly");
    demand(fake_all_free(state->sessions, sizeof(*state->sessions), 64) &&
               fake_all_free(state->images, sizeof(*state->images), 64) &&
               fake_all_free(state->views, sizeof(*state->views), 128) &&
               fake_all_free(state->pins, sizeof(*state->pins), 128),
           "a record was left");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!daemon_.config)
        set_up();
    fuzz_begin(data, size);
    fake = (struct fake){0};
    memset(peers, 0, sizeof(peers));
    for (int i = 0; i < STEPS_MAX && fuzz_input.left; i++)
        step();
    tear_down();
    check_nothing_left();
    return 0;
}
