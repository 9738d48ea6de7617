/* SPDX-License-Identifier: MIT */
#include "fake_daemon.h"

#include "sys/packet.h"
#include "sys/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SESSIONS 80
#define VIEWS    160
#define BIT(t)   (1u << (t))

struct session {
    int socket;
    bool dead;
};

struct view {
    int uffd; /* 0: free */
    int session;
    uint32_t id; /* 0: a child's */
    bool is_claimed;
    uint64_t address, length, offset;
};

/* Of the child alone. */
static struct fake *self;
static struct session sessions[SESSIONS];
static struct view views[VIEWS];
static unsigned session_count;
static unsigned char *alias;
static bool *filled;
static int ends[2];

/* ---- the child: faults ---- */

static void fill(uint64_t offset) {
    uint64_t page = offset / self->page_bytes;
    if (filled[page])
        return;
    unsigned char bytes[4096];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = offset + i < self->size_bytes ? fake_byte(offset + i) : 0;
    memcpy(alias + offset, bytes, sizeof(bytes));
    filled[page] = true;
}

static void serve_fault(struct view *view, uint64_t address) {
    if (address < view->address || address - view->address >= view->length)
        return;
    fill(view->offset + (address - view->address));
    int64_t done;
    if (mnw__uffd_continue(view->uffd, address, self->page_bytes, 0, &done))
        mnw__uffd_wake(view->uffd, address, self->page_bytes);
    atomic_fetch_add(&self->shared->served, 1);
}

static struct view *free_view(void) {
    for (unsigned i = 0; i < VIEWS; i++)
        if (!views[i].uffd)
            return &views[i];
    abort();
}

static void drop_view(struct view *view) {
    close(view->uffd);
    view->uffd = 0;
}

static void serve_view(struct view *view) {
    struct mnw__uffd_event events[MNW__UFFD_BATCH];
    int count = mnw__uffd_read(view->uffd, events, MNW__UFFD_BATCH);
    for (int i = 0; i < count; i++) {
        if (events[i].kind == MNW__UFFD_EV_FORK) {
            struct view *child = free_view();
            *child = *view;
            child->uffd = events[i].fd;
            child->id = 0;
            child->is_claimed = false;
            atomic_fetch_add(&self->shared->forks, 1);
            if (atomic_load(&self->shared->lose_forks))
                drop_view(child); /* as a daemon does that dies with it */
        }
        if (events[i].kind == MNW__UFFD_EV_REMAP && events[i].address == view->address)
            view->address = events[i].to;
        if (events[i].kind != MNW__UFFD_EV_FAULT)
            continue;
        if (atomic_load(&self->shared->hold_faults))
            atomic_fetch_add(&self->shared->held, 1);
        else
            serve_fault(view, events[i].address & ~(uint64_t)(self->page_bytes - 1));
    }
}

/* ---- the child: requests ---- */

static void describe(struct mnw__wire_image *image) {
    memset(image, 0, sizeof(*image));
    mnw__wire_put_name(image->name, "image");
    mnw__wire_put_name(image->pool, "pool");
    image->size_bytes = self->size_bytes;
    image->page_bytes = self->page_bytes;
    image->extent_bytes = 65536;
    image->flags = MNW__WIRE_IMAGE_OPEN;
}

static int attach(int session, const struct mnw__wire_attach *attach, int uffd) {
    int error =
        mnw__uffd_register(uffd, attach->address, attach->length, MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL);
    if (error)
        return error;
    *free_view() = (struct view){.uffd = dup(uffd),
                                 .session = session,
                                 .id = attach->flags & MNW__WIRE_ATTACH_CHILD ? 0 : attach->view,
                                 .address = attach->address,
                                 .length = attach->length,
                                 .offset = attach->offset};
    return 0;
}

/* By what it has watched where nobody else has anything. */
static int claimed(const struct mnw__wire_claim *claim) {
    for (unsigned i = 0; i < VIEWS; i++)
        if (views[i].uffd && !views[i].id && !views[i].is_claimed &&
            mnw__uffd_is_one_mapping(views[i].uffd, claim->address, claim->length) == 1) {
            views[i].is_claimed = true;
            return dup(views[i].uffd);
        }
    return -1;
}

static int text_of(const char *text, size_t length) {
    int fd = memfd_create("text", MFD_CLOEXEC);
    if (fd < 0 || write(fd, text, length) != (ssize_t)length)
        abort();
    return fd;
}

static int detach(int session, uint32_t id) {
    for (unsigned i = 0; i < VIEWS; i++)
        if (views[i].uffd && views[i].session == session && views[i].id == id) {
            drop_view(&views[i]);
            return 0;
        }
    return -ENOENT;
}

static void send_event(int session, enum mnw__wire_type type, const void *body, size_t bytes) {
    struct mnw__wire_packet packet;
    memcpy(packet.bytes, body, bytes);
    mnw__socket_send(sessions[session].socket, &packet, mnw__wire_seal(&packet, type, 0, bytes), NULL, 0);
}

/* The answer's body and descriptor; a negative errno refuses. */
static int carry_out(int session, const struct mnw__wire_packet *in, int uffd, struct mnw__wire_packet *out,
                     size_t *bytes, int *fd) {
    struct stat status;
    switch (in->header.type) {
    case MNW__WIRE_HELLO:
        out->hello_answer =
            (struct mnw__wire_hello_answer){.version = 1 + atomic_load(&self->shared->ahead),
                                            .features = in->hello.features & ~atomic_load(&self->shared->lacks),
                                            .requests_max = 64};
        *bytes = sizeof(out->hello_answer);
        return 0;
    case MNW__WIRE_LIST:
        out->list_answer.total = 1;
        out->list_answer.count = in->list.first == 0;
        describe(&out->list_answer.images[0]);
        *bytes = mnw__wire_list_bytes(out->list_answer.count);
        return 0;
    case MNW__WIRE_OPEN:
        if (strcmp(in->open.name, "image"))
            return -ENOENT;
        fstat(self->readonly, &status);
        out->open_answer = (struct mnw__wire_open_answer){7, 0, status.st_dev, status.st_ino, {{0}}};
        describe(&out->open_answer.about);
        *bytes = sizeof(out->open_answer);
        *fd = dup(self->readonly);
        return 0;
    case MNW__WIRE_ATTACH:
        return in->attach.image == 7 ? attach(session, &in->attach, uffd) : -ENOENT;
    case MNW__WIRE_DETACH:
        return detach(session, in->view.view);
    case MNW__WIRE_STATS:
        *fd = text_of("{\"fake\": true}", 14);
        break;
    case MNW__WIRE_RESIDENCY:
        *fd = text_of((const char *)alias, (size_t)(in->range.length / self->page_bytes));
        out->text_answer.bytes = in->range.length / self->page_bytes;
        *bytes = sizeof(out->text_answer);
        return 0;
    case MNW__WIRE_CLAIM:
        *fd = claimed(&in->claim);
        return *fd < 0 ? -ENOENT : 0;
    case MNW__WIRE_END:
        *fd = dup(ends[0]);
        return 0;
    default:
        return 0;
    }
    out->text_answer.bytes = 14;
    *bytes = sizeof(out->text_answer);
    return 0;
}

static void answer(int session, const struct mnw__wire_packet *in, int uffd) {
    struct mnw__wire_packet out;
    size_t body = 0;
    int fd = -1, type = in->header.type;
    uint32_t bit = BIT(type);
    atomic_fetch_add(&self->shared->requests[type], 1);
    if (atomic_load(&self->shared->die) & bit)
        raise(SIGKILL);
    memset(&out, 0, sizeof(out));
    int error = atomic_load(&self->shared->refuse) & bit ? -EPERM : carry_out(session, in, uffd, &out, &body, &fd);
    size_t bytes = error ? mnw__wire_seal_failure(&out, type, in->header.request, error, "refused by the fake")
                         : mnw__wire_seal(&out, type, in->header.request, body);
    if (atomic_load(&self->shared->garble) & bit)
        out.header.bytes = 3;
    if (!(atomic_load(&self->shared->mute) & bit)) {
        mnw__socket_send(sessions[session].socket, &out, bytes, &fd, fd >= 0 ? 1 : 0);
        struct mnw__wire_event_prefetch event = {.cookie = in->range.cookie, .image = 7};
        if (!error && type == MNW__WIRE_PREFETCH)
            send_event(session, MNW__WIRE_EVENT_PREFETCH, &event, sizeof(event));
    }
    if (fd >= 0)
        close(fd);
}

static void serve_session(int session) {
    struct mnw__wire_packet in;
    struct mnw__socket_received received;
    int error = mnw__socket_receive(sessions[session].socket, &in, sizeof(in), &received);
    if (error == -EAGAIN)
        return;
    if (error || !received.bytes) {
        close(sessions[session].socket);
        sessions[session].dead = true;
        atomic_fetch_sub(&self->shared->sessions, 1);
        for (unsigned i = 0; i < VIEWS; i++)
            if (views[i].uffd && views[i].session == session && views[i].id)
                drop_view(&views[i]);
        return;
    }
    if (mnw__wire_check_request(&in, received.bytes, received.fd_count))
        abort(); /* the client sent what no client may */
    answer(session, &in, received.fd_count ? received.fds[0] : -1);
    for (unsigned i = 0; i < received.fd_count; i++)
        close(received.fds[i]);
}

/* ---- the child: its loop ---- */

static void say_what_is_wanted(void) {
    bool restarted = atomic_exchange(&self->shared->say_restarted, false);
    uint32_t detached = atomic_exchange(&self->shared->say_detached, 0);
    for (unsigned i = 0; i < session_count; i++) {
        struct mnw__wire_event_restarted event = {1};
        struct mnw__wire_event_detached gone = {detached, -EIO};
        if (restarted && !sessions[i].dead)
            send_event((int)i, MNW__WIRE_EVENT_RESTARTED, &event, sizeof(event));
        if (detached && !sessions[i].dead) {
            detach((int)i, detached);
            send_event((int)i, MNW__WIRE_EVENT_DETACHED, &gone, sizeof(gone));
        }
    }
}

static void take_peer(void) {
    int fd = mnw__socket_accept(self->listener);
    if (fd < 0)
        return;
    if (session_count == SESSIONS)
        abort();
    sessions[session_count++] = (struct session){.socket = fd};
    atomic_fetch_add(&self->shared->sessions, 1);
}

static void turn(void) {
    struct pollfd polls[1 + SESSIONS + VIEWS];
    int what[1 + SESSIONS + VIEWS];
    nfds_t count = 0;
    polls[count++] = (struct pollfd){self->listener, POLLIN, 0};
    for (unsigned i = 0; i < session_count; i++)
        if (!sessions[i].dead) {
            what[count] = (int)i;
            polls[count++] = (struct pollfd){sessions[i].socket, POLLIN, 0};
        }
    for (unsigned i = 0; i < VIEWS; i++)
        if (views[i].uffd) {
            what[count] = -1 - (int)i;
            polls[count++] = (struct pollfd){views[i].uffd, POLLIN, 0};
        }
    if (poll(polls, count, 5) < 0)
        return;
    for (nfds_t i = 1; i < count; i++) {
        if (!(polls[i].revents & (POLLIN | POLLHUP)))
            continue;
        if (what[i] >= 0)
            serve_session(what[i]);
        else if (views[-1 - what[i]].uffd == polls[i].fd)
            serve_view(&views[-1 - what[i]]);
    }
    if (polls[0].revents & POLLIN)
        take_peer();
    say_what_is_wanted();
}

static void run(struct fake *fake) {
    self = fake;
    size_t length = (size_t)(fake->size_bytes + fake->page_bytes - 1) & ~(size_t)(fake->page_bytes - 1);
    alias = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fake->backing, 0);
    filled = calloc(length / fake->page_bytes, sizeof(*filled)); /* a new daemon proves nothing: it fills all again */
    if (alias == MAP_FAILED || !filled || pipe2(ends, O_CLOEXEC))
        abort();
    while (getppid() == fake->parent) /* PR_SET_PDEATHSIG would look at the thread that forked */
        turn();
    _exit(0);
}

/* ---- the parent ---- */

void fake_start(struct fake *fake) {
    fake->pid = fork();
    if (!fake->pid)
        run(fake);
    assert_true(fake->pid > 0);
}

void fake_kill(struct fake *fake) {
    if (!fake->pid)
        return;
    kill(fake->pid, SIGKILL);
    waitpid(fake->pid, NULL, 0);
    fake->pid = 0;
    atomic_store(&fake->shared->sessions, 0);
}

static void open_backing(struct fake *fake) {
    char path[64];
    uint64_t length = (fake->size_bytes + fake->page_bytes - 1) & ~(uint64_t)(fake->page_bytes - 1);
    fake->backing = memfd_create("fake", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fake->backing >= 0);
    assert_int_equal(ftruncate(fake->backing, (off_t)length), 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fake->backing);
    fake->readonly = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fake->readonly >= 0);
}

void fake_new_backing(struct fake *fake) {
    close(fake->backing);
    close(fake->readonly);
    open_backing(fake);
}

void fake_open(struct fake *fake, uint64_t size_bytes) {
    *fake = (struct fake){.size_bytes = size_bytes, .page_bytes = 4096, .parent = getpid()};
    strcpy(fake->folder, "/tmp/minnow-client-XXXXXX");
    assert_non_null(mkdtemp(fake->folder));
    snprintf(fake->path, sizeof(fake->path), "%s/socket", fake->folder);
    fake->listener = mnw__socket_listen(fake->path, 0600);
    assert_true(fake->listener >= 0);
    fake->shared = mmap(NULL, sizeof(*fake->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(fake->shared, MAP_FAILED);
    open_backing(fake);
    fake_start(fake);
}

void fake_close(struct fake *fake) {
    fake_kill(fake);
    close(fake->listener);
    close(fake->backing);
    close(fake->readonly);
    unlink(fake->path);
    rmdir(fake->folder);
    munmap(fake->shared, sizeof(*fake->shared));
}

uint32_t fake_seen(const struct fake *fake, enum mnw__wire_type type) {
    return atomic_load(&fake->shared->requests[type]);
}

bool fake_until(const _Atomic uint32_t *number, uint32_t least) {
    for (unsigned i = 0; i < 10000 && atomic_load(number) < least; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return atomic_load(number) >= least;
}
