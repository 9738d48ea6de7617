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
#include <sys/syscall.h>
#include <unistd.h>

#define NS_PER_MS      1000000ull
#define PAUSE_FIRST_NS (10 * NS_PER_MS)
#define PAUSE_MAX_NS   (500 * NS_PER_MS)
/* A daemon that is there and does not want us. */
#define REFUSALS_MAX 20
/* Before an answer come events at most, and few. */
#define OTHERS_MAX 64

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
    for (unsigned others = 0; !error && others < OTHERS_MAX; others++) {
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
        else if (!error && packet->header.request == (uint32_t)type && packet->header.type == type)
            return packet->header.status;
    }
    return error ? error : -EPROTO;
}

/* A link to a daemon that has seen to every child made before; or a negative errno. */
static int greet(const struct mnw_client *client) {
    struct mnw__wire_packet packet;
    int link = mnw__socket_connect(client->path);
    if (link < 0)
        return link;
    packet.hello = client->hello.body.hello;
    packet.hello.features = MNW__WIRE_SETTLED;
    int status = client->lost_after_ms ? mnw__socket_set_patience(link, client->lost_after_ms) : 0;
    if (!status)
        status = ask(link, &packet, MNW__WIRE_HELLO, sizeof(packet.hello), -1);
    if (!status && packet.hello_answer.version != MNW__WIRE_VERSION)
        status = -EPROTONOSUPPORT;
    if (!status && packet.hello_answer.features & MNW__WIRE_SETTLED)
        return link;
    close(link);
    return status ? status : -EOPNOTSUPP; /* nobody keeps anything */
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
    if (error == -EOPNOTSUPP || (!is_absent && ++patience->refusals > REFUSALS_MAX) ||
        mnw__clock_ns() >= patience->until_ns)
        return false;
    mnw__sleep_ns(patience->pause_ns);
    patience->pause_ns = mnw__min(2 * patience->pause_ns, PAUSE_MAX_NS);
    return true;
}

/* ---- where views lie ---- */

/* The first view of each image that is served: what of it lies where is found by the file, whichever view it was. */
static bool stands_for_others(const struct mnw__followed *followed) {
    const struct mnw_client_view *view = followed->view, *other;
    for (const struct mnw__followed *before = all; before != followed; before = before->next) {
        other = before->view;
        if (other->state != MNW__CLIENT_VIEW_LOST && other->client == view->client && other->device == view->device &&
            other->inode == view->inode)
            return false;
    }
    return view->state != MNW__CLIENT_VIEW_LOST;
}

static bool is_view(const struct mnw_client_view *view, const struct mnw__own_mapping *mapping) {
    return mapping->is_private && mapping->device == view->device && mapping->inode == view->inode;
}

/* Whatever was moved, torn or protected since. Without /proc, where the views were mapped. */
static void for_parts(void (*each)(void *context, const struct mnw__own_mapping *mapping), void *context) {
    if (!mnw__process_own_mappings(each, context))
        return;
    for (const struct mnw__followed *followed = all; followed; followed = followed->next) {
        const struct mnw_client_view *view = followed->view;
        each(context, &(struct mnw__own_mapping){.start = view->address,
                                                 .end = view->address + view->length,
                                                 .device = view->device,
                                                 .inode = view->inode,
                                                 .offset = view->offset,
                                                 .is_private = true});
    }
}

/* ---- who has them ---- */

/* Not by the C library: a preloaded one may have its own mind about advice on views. */
static void advise(const struct mnw__own_mapping *mapping, int advice) {
    syscall(SYS_madvise, mapping->start, mapping->end - mapping->start, advice);
}

/* A view that is lost is for no child: nobody would see that its pages are taken away. */
static bool is_lost(const struct mnw__own_mapping *mapping) {
    for (const struct mnw__followed *followed = all; followed; followed = followed->next) {
        const struct mnw_client_view *view = followed->view;
        if (view->state == MNW__CLIENT_VIEW_LOST && is_view(view, mapping) &&
            mapping->start < view->address + view->length && view->address < mapping->end)
            return true;
    }
    return false;
}

static void advise_if_view(void *context, const struct mnw__own_mapping *mapping) {
    if (*(const int *)context == MADV_DOFORK && is_lost(mapping))
        return;
    for (const struct mnw__followed *followed = all; followed; followed = followed->next)
        if (is_view(followed->view, mapping)) {
            advise(mapping, *(const int *)context);
            return;
        }
}

static void advise_all(int advice) {
    if (all)
        for_parts(advise_if_view, &advice);
}

/* ---- what a child does ---- */

/* Parts that are watched anew, side by side in memory and in the image. */
struct group {
    int uffd; /* -1: none */
    uintptr_t start, end;
    uint64_t offset;
};

struct settling {
    const struct mnw_client_view *view;
    unsigned flags; /* of ATTACH */
    bool is_asked;
    int error; /* of asking: nothing is known to be kept */
    struct group group;
};

/* Ours, made because the daemon of our birth was lost. The last of them must not be closed before the mapping is. */
enum { OWN_MAX = 64 };
static struct {
    unsigned count;
    int fds[OWN_MAX];
} own;

static void close_part(uintptr_t start, uintptr_t end) {
    mprotect((void *)start, end - start, PROT_NONE);
}

static int open_uffd(const struct mnw_client_view *view) {
    int fd = mnw__uffd_open(view->features);
    return fd == -EPERM ? mnw__uffd_open(view->features & ~(uint64_t)MNW__UFFD_EVENT_FORK) : fd;
}

/* 0 once the daemon has said that it keeps every child of before. */
static int await_daemon(const struct mnw_client *client) {
    struct patience patience = new_patience(client);
    int link;
    while ((link = greet(client)) < 0)
        if (!wait_on(&patience, link))
            return link;
    close(link);
    return 0;
}

static int attach(const struct settling *settling, const struct group *group, int link) {
    const struct mnw_client_view *view = settling->view;
    const struct mnw__image *image = view->image;
    struct mnw__wire_packet packet;
    memcpy(packet.open.name, image->name, sizeof(packet.open.name));
    int status = ask(link, &packet, MNW__WIRE_OPEN, sizeof(packet.open), -1);
    if (status)
        return status;
    if (packet.open_answer.device != view->device || packet.open_answer.inode != view->inode)
        return -ESTALE;
    /* What lies beyond the image is SIGBUS in any case. */
    uint64_t whole = mnw__align_up(image->size_bytes, image->page_bytes), length = group->end - group->start;
    if (group->offset >= whole)
        return 0;
    packet.attach = (struct mnw__wire_attach){.image = packet.open_answer.image,
                                              .view = view->id,
                                              .flags = settling->flags,
                                              .address = group->start,
                                              .length = mnw__min(length, whole - group->offset),
                                              .offset = group->offset};
    status = ask(link, &packet, MNW__WIRE_ATTACH, sizeof(packet.attach), group->uffd);
    return status == -EBUSY ? 0 : status; /* it was done, and the answer lost */
}

/* Nobody can touch it meanwhile: this is the only thread, and its faults would wait. */
static void serve_anew(const struct settling *settling, const struct group *group) {
    const struct mnw_client_view *view = settling->view;
    struct patience patience = new_patience(view->client);
    int error;
    do {
        int link = greet(view->client);
        error = link < 0 ? link : attach(settling, group, link);
        if (link >= 0)
            close(link);
    } while (error && error != -ESTALE && wait_on(&patience, error));
    if (error &&
        (!view->has_poison || mnw__uffd_bar(group->uffd, group->start, group->end - group->start, view->page_bytes)))
        close_part(group->start, group->end);
}

static void end_group(struct settling *settling) {
    struct group *group = &settling->group;
    if (group->uffd < 0)
        return;
    if (group->start == group->end) {
        mnw__uffd_close(group->uffd);
    } else if (own.count == OWN_MAX) {
        close_part(group->start, group->end);
        mnw__uffd_close(group->uffd);
    } else {
        own.fds[own.count++] = group->uffd;
        serve_anew(settling, group);
    }
    group->uffd = -1;
}

/* A userfaultfd to which this part can be added. */
static int begin_group(struct settling *settling, const struct mnw__own_mapping *part) {
    struct group *group = &settling->group;
    bool fits = group->start == group->end ||
                (group->end == part->start && group->offset + (group->end - group->start) == part->offset);
    if (!fits)
        end_group(settling);
    if (group->uffd < 0)
        *group = (struct group){.uffd = open_uffd(settling->view)};
    return group->uffd < 0 ? group->uffd : 0;
}

/*
 * What is watched after the daemon has said that it keeps every child of before, stays watched: -EBUSY. What is not,
 * we have just made ours. What is neither would be zeros.
 */
static void settle_part(struct settling *settling, const struct mnw__own_mapping *part) {
    struct group *group = &settling->group;
    int error = begin_group(settling, part);
    if (!error)
        error = mnw__uffd_register(group->uffd, part->start, part->end - part->start,
                                   MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL);
    if (error == -EINVAL)
        return; /* no such memory: without /proc we can be wrong */
    if (settling->error || (error && error != -EBUSY))
        close_part(part->start, part->end);
    else if (!error && group->start == group->end)
        *group = (struct group){group->uffd, part->start, part->end, part->offset};
    else if (!error)
        group->end = part->end;
}

static void take_mapping(void *context, const struct mnw__own_mapping *mapping) {
    struct settling *settling = context;
    if (!is_view(settling->view, mapping))
        return;
    if (!settling->is_asked)
        settling->error = await_daemon(settling->view->client);
    settling->is_asked = true;
    settle_part(settling, mapping);
}

static uint32_t flags_of(const struct mnw_client_view *view) {
    uint32_t flags = MNW__WIRE_ATTACH_CHILD;
    for (const struct mnw__followed *followed = all; followed; followed = followed->next)
        if (followed->view->device == view->device && followed->view->inode == view->inode)
            flags |= followed->view->flags & MNW_VIEW_WRITE;
    return flags;
}

static void settle_all(void) {
    while (own.count)
        close(own.fds[--own.count]); /* the parent's */
    for (struct mnw__followed *followed = all; followed; followed = followed->next) {
        if (!stands_for_others(followed))
            continue;
        struct settling settling = {.view = followed->view, .flags = flags_of(followed->view), .group.uffd = -1};
        for_parts(take_mapping, &settling);
        end_group(&settling);
    }
}

/* ---- around fork(2) ---- */

/*
 * Nobody settles what a child has that was made by a bare clone(2) or _Fork(3). So it has no views: they are for
 * children only as long as this lock is held.
 */
static void before_fork(void) {
    int error = errno;
    pthread_mutex_lock(&lock);
    advise_all(MADV_DOFORK);
    errno = error;
}

static void after_fork_parent(void) {
    int error = errno;
    advise_all(MADV_DONTFORK);
    pthread_mutex_unlock(&lock);
    errno = error;
}

static void after_fork_child(void) {
    int error = errno;
    advise_all(MADV_DONTFORK);
    settle_all();
    pthread_mutex_unlock(&lock);
    errno = error;
}

static void prepare(void) {
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

void mnw__followed_add(struct mnw__followed *followed, const struct mnw_client_view *view) {
    pthread_once(&once, prepare);
    *followed = (struct mnw__followed){.view = view};
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
