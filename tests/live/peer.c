/* SPDX-License-Identifier: MIT */
#include "peer.h"

#include "engine/cache.h"
#include "machine.h"
#include "sys/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct order {
    peer_body *body; /* NULL: end */
    char argument[PEER_ARGUMENT_MAX];
};

/* ---- messages ---- */

static bool send_message(int socket, const void *bytes, size_t size, int fd) {
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    char control[CMSG_SPACE(sizeof(fd))] = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(fd));
        memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t)size;
}

/* Reads a message; a descriptor that came with it is `*fd`. */
static bool receive_message(int socket, void *bytes, size_t size, int *fd) {
    struct iovec part = {.iov_base = bytes, .iov_len = size};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t got;
    do
        got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    *fd = -1;
    struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(header), sizeof(*fd));
    return got == (ssize_t)size;
}

/* ---- the peer's side ---- */

static void serve(int socket) {
    static struct peer_side side;
    struct order order;
    int fd;
    side.socket = socket;
    for (unsigned i = 0; i < PEER_MAPS; i++)
        side.maps[i].uffd = -1;
    while (receive_message(socket, &order, sizeof(order), &fd) && order.body) {
        int64_t result = order.body(&side, order.argument);
        if (!send_message(socket, &result, sizeof(result), -1))
            break;
    }
    _exit(0);
}

void peer_start(struct peer *peer) {
    int sockets[2];
    pid_t parent = getpid();
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    peer->pid = fork();
    assert_true(peer->pid >= 0);
    if (!peer->pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        machine_be_a_child();
        alarm(120 * (unsigned)machine_slowness());
        int socket = dup2(sockets[1], 3);
        close_range(4, ~0u, 0);
        serve(socket);
    }
    close(sockets[1]);
    peer->socket = sockets[0];
}

static void reap(struct peer *peer) {
    close(peer->socket);
    while (waitpid(peer->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    peer->pid = 0;
}

void peer_stop(struct peer *peer) {
    struct order order = {.body = NULL};
    send_message(peer->socket, &order, sizeof(order), -1);
    reap(peer);
}

void peer_kill(struct peer *peer) {
    kill(peer->pid, SIGKILL);
    reap(peer);
}

void peer_ask(struct peer *peer, peer_body *body, const void *argument, size_t size) {
    struct order order = {.body = body};
    assert_true(size <= sizeof(order.argument));
    if (size)
        memcpy(order.argument, argument, size);
    assert_true(send_message(peer->socket, &order, sizeof(order), -1));
}

static void tell_end(struct peer *peer) {
    int status = 0;
    close(peer->socket);
    while (waitpid(peer->pid, &status, 0) < 0 && errno == EINTR)
        ;
    peer->pid = 0;
    fail_msg("the peer ended before it answered: %s",
             WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "it left of its own accord");
}

int64_t peer_answer(struct peer *peer) {
    int64_t result = 0;
    int fd;
    if (!receive_message(peer->socket, &result, sizeof(result), &fd))
        tell_end(peer);
    return result;
}

bool peer_has_answered(struct peer *peer, int timeout_ms) {
    struct pollfd wait = {.fd = peer->socket, .events = POLLIN};
    return poll(&wait, 1, timeout_ms) == 1;
}

int64_t peer_do(struct peer *peer, peer_body *body, const void *argument, size_t size) {
    peer_ask(peer, body, argument, size);
    return peer_answer(peer);
}

/* ---- mapping ---- */

struct map_order {
    struct peer_mapping mapping;
    uint64_t features;
    size_t align;
};

/* A place that is congruent to the offset, so that huge pages fit. */
static char *place(size_t length, uint64_t offset, size_t align) {
    char *room = mmap(NULL, length + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return room == MAP_FAILED ? NULL : room + ((offset - (uintptr_t)room) & (align - 1));
}

static int64_t make_uffd(uint64_t features, bool raw) {
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    return raw ? fd : ioctl(fd, UFFDIO_API, &api) ? -errno : fd;
}

static int64_t map_in_peer(struct peer_side *side, const void *argument) {
    const struct map_order *order = argument;
    const struct peer_mapping *mapping = &order->mapping;
    struct peer_map *map = &side->maps[mapping->slot];
    int fd;
    char byte;
    int64_t ready = 0;
    /* First the answer that says it is waiting for the descriptor. */
    if (!send_message(side->socket, &ready, sizeof(ready), -1) || !receive_message(side->socket, &byte, 1, &fd))
        return -EPIPE;
    char *at = place(mapping->length, mapping->offset, order->align);
    int kind = mapping->shared ? MAP_SHARED : MAP_PRIVATE;
    int protection = mapping->flags & MNW_VIEW_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
    if (!at || mmap(at, mapping->length, protection, kind | MAP_NORESERVE | MAP_FIXED, fd, (off_t)mapping->offset) ==
                   MAP_FAILED)
        return -errno;
    close(fd);
    *map = (struct peer_map){.data = at, .length = mapping->length, .offset = mapping->offset, .uffd = -1};
    int64_t uffd = make_uffd(order->features, mapping->raw);
    if (uffd < 0)
        return uffd;
    map->uffd = (int)uffd;
    return send_message(side->socket, &byte, 1, map->uffd) ? (int64_t)(uintptr_t)at : -EPIPE;
}

static uint64_t offered(void) {
    struct mnw__uffd_probe probe;
    if (mnw__uffd_probe(&probe))
        fail_msg("no userfaultfd: %s", mnw_error());
    return probe.features;
}

void peer_need_poison(void) {
    if (!(offered() & MNW__UFFD_POISON)) {
        print_message("this kernel has no UFFDIO_POISON\n");
        skip();
    }
}

uint64_t peer_features(const struct mnw_cache *cache) {
    uint64_t features = cache->backing.kind <= MNW_BACKING_GRADED
                            ? UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MISSING_SHMEM
                            : UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_MISSING_HUGETLBFS;
    return features | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP | (offered() & MNW__UFFD_POISON);
}

int peer_map(struct peer *peer, struct mnw_cache *cache, const struct peer_mapping *mapping, uint64_t *address) {
    struct map_order order = {.mapping = *mapping};
    char byte = 0;
    int uffd;
    order.features = (peer_features(cache) | mapping->features) & ~mapping->without;
    order.align = mapping->align ? mapping->align : mnw_cache_page_size(cache);
    if (!order.mapping.length)
        order.mapping.length = cache->backing.size_bytes - mapping->offset;
    peer_ask(peer, map_in_peer, &order, sizeof(order));
    assert_int_equal(peer_answer(peer), 0);
    assert_true(send_message(peer->socket, &byte, 1, mnw_cache_fd(cache)));
    if (!receive_message(peer->socket, &byte, 1, &uffd) || uffd < 0)
        fail_msg("the peer could not map the cache, or make a userfaultfd");
    *address = (uint64_t)peer_answer(peer);
    return uffd;
}

struct mnw_view *peer_attach(struct peer *peer, struct mnw_cache *cache, const struct peer_mapping *mapping) {
    struct mnw_attach_options options = {.size = sizeof(options),
                                         .offset_bytes = mapping->offset,
                                         .length_bytes = mapping->length,
                                         .flags = mapping->flags,
                                         .pid = peer->pid,
                                         .cookie = mapping->slot};
    struct mnw_view *view = NULL;
    options.uffd = peer_map(peer, cache, mapping, &options.address);
    int result = mnw_view_attach(&view, cache, &options);
    if (result)
        fail_msg("attach: %d, %s", result, mnw_error());
    close(options.uffd);
    return view;
}

/* ---- pairs ---- */

#define HUGEPAGE ((size_t)2 << 20)

void pair_open_with(struct pair *pair, enum mnw_backing backing, uint64_t length, uint64_t budget,
                    uint32_t read_deadline_ms) {
    memset(pair, 0, sizeof(*pair));
    bed_hurry(60);
    if (backing == MNW_BACKING_HUGETLB_2M && !machine_free_hugepages(HUGEPAGE, budget / HUGEPAGE + 2)) {
        print_message("cannot free the huge pages\n");
        skip();
    }
    for (unsigned i = 0; i < 2; i++)
        peer_start(&pair->peers[i]);
    pair->length = length;
    bed_source_open(&pair->source, length);
    struct mnw_pool_options options = {.backing = backing, .budget_bytes = budget};
    struct mnw_cache_options cache_options = {.size = sizeof(cache_options), .read_deadline_ms = read_deadline_ms};
    bed_open(&pair->bed, pair->source.store, options, &cache_options);
}

void pair_open(struct pair *pair, enum mnw_backing backing, uint64_t length, uint64_t budget) {
    pair_open_with(pair, backing, length, budget, 0);
}

void pair_close(struct pair *pair) {
    for (unsigned i = 0; i < 2; i++)
        if (pair->peers[i].pid)
            peer_stop(&pair->peers[i]);
    bed_close(&pair->bed);
    bed_source_close(&pair->source);
}

/* ---- reading ---- */

static int64_t ended(const struct peer_map *map, int how, uintptr_t fault) {
    return how <= 0 ? how : (int64_t)((fault - (uintptr_t)map->data) << 8 | (uintptr_t)how);
}

int64_t peer_compare(struct peer_side *side, const void *argument) {
    const struct peer_read *read = argument;
    const struct peer_map *map = &side->maps[read->slot];
    uintptr_t fault = 0;
    int how = bed_compare(map->data + read->offset, map->offset + read->offset, read->length, read->salt, &fault);
    return ended(map, how, fault);
}

int64_t peer_touch(struct peer_side *side, const void *argument) {
    const struct peer_read *read = argument;
    const struct peer_map *map = &side->maps[read->slot];
    uintptr_t fault = 0;
    int how = bed_touch(map->data + read->offset, &fault);
    return ended(map, how, fault);
}

void peer_assert_right(struct peer *peer, unsigned slot, uint64_t offset, uint64_t length, uint64_t salt) {
    struct peer_read read = {slot, offset, length, salt};
    int64_t how = peer_do(peer, peer_compare, &read, sizeof(read));
    if (how == BED_WRONG)
        fail_msg("wrong bytes in the peer's [%llu, +%llu)", (unsigned long long)offset, (unsigned long long)length);
    if (how)
        fail_msg("%s in the peer at %lld", strsignal((int)(how & 255)), (long long)(how >> 8));
}

void peer_assert_bus(struct peer *peer, unsigned slot, uint64_t offset) {
    struct peer_read read = {slot, offset, 1, 0};
    int64_t how = peer_do(peer, peer_touch, &read, sizeof(read));
    assert_int_equal(how & 255, SIGBUS);
    assert_int_equal(how >> 8, offset);
}
