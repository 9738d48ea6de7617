/* SPDX-License-Identifier: MIT */
#include "client/followed.h"

#include "base/bits.h"
#include "client/client.h"
#include "sys/packet.h"
#include "sys/process.h"
#include "sys/uffd.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NS_PER_MS      1000000ull
#define PAUSE_FIRST_NS (10 * NS_PER_MS)
#define PAUSE_MAX_NS   (500 * NS_PER_MS)
/* A daemon that is there and does not want us. */
#define REFUSALS_MAX 20

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct mnw__followed *all; /* lock */

/* ---- one question after the other, in a process of one thread ---- */

/* Sends it, again if the daemon was restarted meanwhile, until the answer comes. Its status, or how the link broke. */
static int ask(int link, struct mnw__wire_packet *packet, enum mnw__wire_type type, size_t body_bytes, int fd) {
    struct mnw__wire_packet question = *packet;
    size_t bytes = mnw__wire_seal(&question, type, type, body_bytes);
    struct mnw__socket_received received;
    int error = mnw__socket_send(link, &question, bytes, &fd, fd >= 0);
    while (!error) {
        error = mnw__socket_receive(link, packet, sizeof(*packet), &received);
        for (unsigned i = 0; !error && i < received.fd_count; i++)
            close(received.fds[i]); /* what OPEN brings is mapped already */
        if (!error && !received.bytes)
            return -ECONNRESET;
        if (!error && (received.cut || mnw__wire_check_answer(packet, received.bytes, received.fd_count)))
            return -EPROTO;
        if (!error && packet->header.type == MNW__WIRE_EVENT_RESTARTED)
            error = mnw__socket_send(link, &question, bytes, &fd, fd >= 0);
        else if (!error && packet->header.type == MNW__WIRE_EVENT_ENDED)
            return packet->header.status;
        else if (!error && packet->header.request == (uint32_t)type)
            return packet->header.status;
    }
    return error;
}

/* A link to a daemon that has seen to every child made before; or a negative errno. */
static int greet(const struct mnw_client *client) {
    struct mnw__wire_packet packet;
    int link = mnw__socket_connect(client->path);
    if (link < 0)
        return link;
    packet.hello = client->hello.body.hello;
    packet.hello.features = MNW__WIRE_SETTLED;
    int status = ask(link, &packet, MNW__WIRE_HELLO, sizeof(packet.hello), -1);
    if (!status && packet.hello_answer.features & MNW__WIRE_SETTLED)
        return link;
    close(link);
    return status ? status : -EPROTO;
}

/* How often, and how long, a daemon is waited for. */
struct patience {
    uint64_t pause_ns, until_ns;
    unsigned refusals;
};

static struct patience new_patience(const struct mnw_client *client) {
    uint64_t limit_ns = client->lost_after_ms * NS_PER_MS;
    return (struct patience){PAUSE_FIRST_NS, limit_ns ? mnw__clock_ns() + limit_ns : UINT64_MAX, 0};
}

/* False: no more. A daemon that is not there is waited for, as its faults are; one that refuses is not. */
static bool wait_on(struct patience *patience, int error) {
    bool is_absent = error == -ENOENT || error == -ECONNREFUSED || error == -EPIPE || error == -ECONNRESET;
    if ((!is_absent && ++patience->refusals > REFUSALS_MAX) || mnw__clock_ns() >= patience->until_ns)
        return false;
    mnw__sleep_ns(patience->pause_ns);
    patience->pause_ns = mnw__min(2 * patience->pause_ns, PAUSE_MAX_NS);
    return true;
}

/* ---- is the view watched? ---- */

static int open_uffd(const struct mnw_client_view *view) {
    int fd = mnw__uffd_open(view->features);
    return fd == -EPERM ? mnw__uffd_open(view->features & ~(uint64_t)MNW__UFFD_EVENT_FORK) : fd;
}

static bool is_huge(const struct mnw_client_view *view) {
    return view->image->backing == MNW_BACKING_HUGETLB_2M || view->image->backing == MNW_BACKING_HUGETLB_1G;
}

/* A child of a child: its parent may have unmapped or moved it, and something else is there now. */
static enum mnw__mapped mapped(const struct mnw_client_view *view) {
    return mnw__process_maps_file(getpid(), view->address, view->length, view->device, view->inode, view->offset, true);
}

/*
 * By the userfaultfd of our birth, then nothing has changed. Else nobody is watching, and `uffd` does so from now on;
 * or it is no view any more, and none of our business; or it is one, and cannot be watched: it would be zeros.
 */
enum watch { WATCHED, WATCHED_ANEW, UNWATCHABLE, NO_VIEW };

static enum watch look(const struct mnw_client_view *view, int uffd) {
    if (!is_huge(view) && mnw__uffd_is_one_mapping(uffd, view->address, view->length) == 1)
        return WATCHED;
    enum mnw__mapped what = mapped(view);
    if (what != MNW__MAPPED_AS_SAID && what != MNW__MAPPED_UNSEEN)
        return NO_VIEW;
    int error =
        mnw__uffd_register(uffd, view->address, view->length, MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL);
    if (error == -EBUSY)
        return WATCHED;
    return !error ? WATCHED_ANEW : what == MNW__MAPPED_AS_SAID ? UNWATCHABLE : NO_VIEW;
}

/* ---- what a child does ---- */

static void close_view(const struct mnw_client_view *view) {
    mprotect((void *)view->address, view->length, PROT_NONE);
}

static int attach(const struct mnw_client_view *view, int link, int uffd) {
    struct mnw__wire_packet packet;
    memcpy(packet.open.name, view->image->name, sizeof(packet.open.name));
    int status = ask(link, &packet, MNW__WIRE_OPEN, sizeof(packet.open), -1);
    if (status)
        return status;
    if (packet.open_answer.device != view->device || packet.open_answer.inode != view->inode)
        return -ESTALE;
    packet.attach = (struct mnw__wire_attach){.image = packet.open_answer.image,
                                              .view = view->id,
                                              .flags = (view->flags & MNW_VIEW_WRITE) | MNW__WIRE_ATTACH_CHILD,
                                              .address = view->address,
                                              .length = view->length,
                                              .offset = view->offset};
    status = ask(link, &packet, MNW__WIRE_ATTACH, sizeof(packet.attach), uffd);
    return status == -EBUSY ? 0 : status; /* it was done, and the answer lost */
}

/* Nobody can touch the view meanwhile: this is the only thread, and its faults would wait. */
static void serve_anew(const struct mnw_client_view *view, int uffd) {
    struct patience patience = new_patience(view->client);
    int error;
    do {
        int link = greet(view->client);
        error = link < 0 ? link : attach(view, link, uffd);
        if (link >= 0)
            close(link);
    } while (error && error != -ESTALE && wait_on(&patience, error));
    if (error && (!view->has_poison || mnw__uffd_bar(uffd, view->address, view->length, view->page_bytes)))
        close_view(view);
}

/* What is watched after the daemon has said that it keeps every child of before, stays watched. */
static void settle(struct mnw__followed *followed) {
    const struct mnw_client_view *view = followed->view;
    struct patience patience = new_patience(view->client);
    if (view->state == MNW__CLIENT_VIEW_LOST)
        return; /* and so it is here */
    if (followed->uffd >= 0)
        close(followed->uffd); /* the parent's */
    followed->uffd = open_uffd(view);
    if (followed->uffd < 0) {
        close_view(view);
        return;
    }
    bool is_kept = false;
    enum watch watch;
    while ((watch = look(view, followed->uffd)) == WATCHED && !is_kept) {
        int link = greet(view->client);
        is_kept = link >= 0;
        if (is_kept)
            close(link);
        else if (!wait_on(&patience, link)) {
            close_view(view);
            break;
        }
    }
    if (watch == WATCHED_ANEW) {
        serve_anew(view, followed->uffd);
        return;
    }
    if (watch == UNWATCHABLE)
        close_view(view);
    mnw__uffd_close(followed->uffd);
    followed->uffd = -1;
}

/* ---- around fork(2) ---- */

static void before_fork(void) {
    pthread_mutex_lock(&lock);
}

static void after_fork_parent(void) {
    pthread_mutex_unlock(&lock);
}

static void after_fork_child(void) {
    int error = errno;
    for (struct mnw__followed *followed = all; followed; followed = followed->next)
        settle(followed);
    pthread_mutex_unlock(&lock);
    errno = error;
}

static void prepare(void) {
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

void mnw__followed_add(struct mnw__followed *followed, const struct mnw_client_view *view) {
    pthread_once(&once, prepare);
    *followed = (struct mnw__followed){.view = view, .uffd = -1};
    pthread_mutex_lock(&lock);
    followed->next = all;
    all = followed;
    pthread_mutex_unlock(&lock);
}

void mnw__followed_remove(struct mnw__followed *followed) {
    pthread_mutex_lock(&lock);
    struct mnw__followed **link = &all;
    while (*link && *link != followed)
        link = &(*link)->next;
    if (*link)
        *link = followed->next;
    pthread_mutex_unlock(&lock);
}
