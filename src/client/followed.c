/* SPDX-License-Identifier: MIT */
#include "client/followed.h"

#include "base/bits.h"
#include "client/client.h"
#include "client/minder.h"
#include "sys/packet.h"
#include "sys/process.h"
#include "sys/uffd.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
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

/* What came along; at most one is wanted. */
static void take_descriptors(const struct mnw__socket_received *received, int *wanted) {
    for (unsigned i = 0; i < received->fd_count; i++)
        if (wanted && *wanted < 0)
            *wanted = received->fds[i];
        else
            close(received->fds[i]);
}

/*
 * Sends it, again if the daemon was restarted meanwhile, until the answer comes. Its status, or how the link broke.
 * `taken` NULL: no descriptor is wanted.
 */
static int ask(int link, struct mnw__wire_packet *packet, enum mnw__wire_type type, size_t body_bytes, int fd,
               int *taken) {
    struct mnw__wire_packet question = *packet;
    size_t bytes = mnw__wire_seal(&question, type, type, body_bytes);
    struct mnw__socket_received received;
    int error = mnw__socket_send(link, &question, bytes, &fd, fd >= 0);
    for (unsigned others = 0; !error && others < OTHERS_MAX; others++) {
        error = mnw__socket_receive(link, packet, sizeof(*packet), &received);
        if (!error) /* it may be another answer, to what was asked twice */
            take_descriptors(&received,
                             packet->header.request == (uint32_t)type && packet->header.type == type ? taken : NULL);
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
        status = ask(link, &packet, MNW__WIRE_HELLO, sizeof(packet.hello), -1, NULL);
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
    int end;   /* to be minded */
    struct group group;
};

static void close_part(uintptr_t start, uintptr_t end) {
    mprotect((void *)start, end - start, PROT_NONE);
}

static int open_uffd(const struct mnw_client_view *view) {
    int fd = mnw__uffd_open(view->features);
    return fd == -EPERM ? mnw__uffd_open(view->features & ~(uint64_t)MNW__UFFD_EVENT_FORK) : fd;
}

/* ---- what is ours already: we need duplicates ---- */

/* Two pages where nobody else has any, of which the first is watched: by this we are known. */
struct mark {
    uintptr_t address;
    size_t page_bytes;
    int uffd;
};

/* Not by the C library, as it is with advice. */
static int map_somewhere(struct mark *mark) {
    for (unsigned bits = 46; bits > 30; bits--) {
        uintptr_t at;
        if (getrandom(&at, sizeof(at), 0) != sizeof(at))
            return -EAGAIN;
        at = mnw__align_down(at & (((uintptr_t)1 << bits) - 1), mark->page_bytes) | (uintptr_t)1 << (bits - 1);
        if ((uintptr_t)syscall(SYS_mmap, at, 2 * mark->page_bytes, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) == at) {
            mark->address = at;
            return 0;
        }
    }
    return -ENOMEM;
}

/* The userfaultfd goes first: nobody then waits for its events to be read. */
static void remove_mark(const struct mark *mark) {
    if (mark->uffd >= 0)
        mnw__uffd_close(mark->uffd);
    if (mark->address)
        syscall(SYS_munmap, mark->address, 2 * mark->page_bytes);
}

static int make_mark(struct mark *mark) {
    *mark = (struct mark){.page_bytes = (size_t)sysconf(_SC_PAGESIZE), .uffd = mnw__uffd_open(0)};
    int error = mark->uffd < 0 ? mark->uffd : map_somewhere(mark);
    if (!error)
        error = mnw__uffd_register(mark->uffd, mark->address, mark->page_bytes, MNW__UFFD_MODE_MISSING, NULL);
    if (error)
        remove_mark(mark);
    return error;
}

/* What a daemon has of ours, before it is known whether we got all of it. */
struct claimed {
    int end;
    unsigned count;
    int uffds[MNW__MINDED_MAX];
};

static void give_up(struct claimed *claimed) {
    while (claimed->count)
        mnw__uffd_close(claimed->uffds[--claimed->count]);
    if (claimed->end >= 0)
        close(claimed->end);
    claimed->end = -1;
}

/* -ENOENT: that was the last. */
static int claim_one(int link, const struct mark *mark, struct claimed *claimed) {
    struct mnw__wire_packet packet;
    int uffd = -1;
    packet.claim = (struct mnw__wire_claim){mark->address, mark->page_bytes};
    int error = ask(link, &packet, MNW__WIRE_CLAIM, sizeof(packet.claim), -1, &uffd);
    if (error && uffd >= 0)
        close(uffd);
    if (error)
        return error;
    claimed->uffds[claimed->count++] = uffd;
    return claimed->count < MNW__MINDED_MAX ? 0 : -EMFILE;
}

static int claim_all(int link, const struct mark *mark, struct claimed *claimed) {
    struct mnw__wire_packet packet;
    int error = ask(link, &packet, MNW__WIRE_END, 0, -1, &claimed->end);
    while (!error)
        error = claim_one(link, mark, claimed);
    if (error == -ENOENT)
        return 0;
    give_up(claimed);
    return error;
}

static int mind(struct settling *settling, const struct claimed *claimed) {
    const struct mnw_client_view *view = settling->view;
    int error = settling->end = mnw__minder_add_end(claimed->end);
    if (error >= 0 && mnw__minder_add_file(view->device, view->inode, view->page_bytes))
        error = -EMFILE;
    for (unsigned i = 0; i < claimed->count; i++) {
        int result = mnw__minder_add(claimed->uffds[i], settling->end);
        error = error < 0 ? error : result;
    }
    return error < 0 ? error : 0;
}

/* 0 once the daemon has said that it keeps every child of before, and we have what it keeps of ours. */
static int await_daemon(struct settling *settling) {
    const struct mnw_client *client = settling->view->client;
    struct patience patience = new_patience(client);
    struct claimed claimed = {.end = -1};
    struct mark mark;
    int error = make_mark(&mark);
    if (error)
        return error;
    do {
        int link = greet(client);
        error = link < 0 ? link : claim_all(link, &mark, &claimed);
        if (link >= 0)
            close(link);
    } while (error && wait_on(&patience, error));
    remove_mark(&mark);
    return error ? error : mind(settling, &claimed);
}

/* ---- what was lost: served anew ---- */

static int attach(const struct settling *settling, const struct group *group, int link) {
    const struct mnw_client_view *view = settling->view;
    const struct mnw__image *image = view->image;
    struct mnw__wire_packet packet;
    memcpy(packet.open.name, image->name, sizeof(packet.open.name));
    int status = ask(link, &packet, MNW__WIRE_OPEN, sizeof(packet.open), -1, NULL); /* it is mapped already */
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
    status = ask(link, &packet, MNW__WIRE_ATTACH, sizeof(packet.attach), group->uffd, NULL);
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
    if (!error)
        return;
    mnw__minder_abandon(group->uffd);
    if (!view->has_poison || mnw__uffd_bar(group->uffd, group->start, group->end - group->start, view->page_bytes))
        close_part(group->start, group->end);
}

static void end_group(struct settling *settling) {
    struct group *group = &settling->group;
    if (group->uffd < 0)
        return;
    if (group->start == group->end) {
        mnw__uffd_close(group->uffd);
    } else if (mnw__minder_add(group->uffd, settling->end)) {
        close_part(group->start, group->end);
    } else {
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
 * What is watched after the daemon has said that it keeps every child of before, stays watched: -EBUSY; by what we have
 * a duplicate of, even when nobody else has. What is not, we have just made ours. What is neither would be zeros.
 */
static void settle_part(struct settling *settling, const struct mnw__own_mapping *part) {
    struct group *group = &settling->group;
    int error = begin_group(settling, part);
    if (!error)
        error = mnw__uffd_register(group->uffd, part->start, part->end - part->start,
                                   MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL);
    if (error == -EINVAL)
        return; /* no such memory: without /proc we can be wrong */
    bool is_kept = error == -EBUSY && mnw__minder_watches(part->start, part->end - part->start);
    if (settling->error || (error && !is_kept))
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
        settling->error = await_daemon(settling);
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

static void close_if_view(void *unused, const struct mnw__own_mapping *mapping) {
    (void)unused;
    for (const struct mnw__followed *followed = all; followed; followed = followed->next)
        if (is_view(followed->view, mapping)) {
            close_part(mapping->start, mapping->end);
            return;
        }
}

static void settle_all(void) {
    mnw__minder_begin();
    for (struct mnw__followed *followed = all; followed; followed = followed->next) {
        if (!stands_for_others(followed))
            continue;
        struct settling settling = {.view = followed->view, .flags = flags_of(followed->view), .group.uffd = -1};
        for_parts(take_mapping, &settling);
        end_group(&settling);
    }
    /* The descriptors are closed then, and what they watched is closed first. */
    if (mnw__minder_start())
        for_parts(close_if_view, NULL);
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
