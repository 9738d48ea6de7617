/* SPDX-License-Identifier: MIT */
/* The functions of src/sys that the client library calls, and the calls of the C library that it makes itself. */
#include "fuzz/client_world.h"

#include "base/bits.h"
#include "base/error.h"
#include "client/minder.h"
#include "sys/backing.h"
#include "sys/packet.h"
#include "sys/poller.h"
#include "sys/process.h"
#include "sys/thread.h"
#include "sys/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* How often somebody may wait in one input before it counts as for ever. */
enum { TURNS_MAX = 20000, FLOOD = 1000, HANDLERS = 4, RESERVE_BYTES = 2 << 20 };

struct world world;
static char *reserve;

void world_set_up(void) {
    reserve = mmap(NULL, RESERVE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    demand(reserve != MAP_FAILED, "no address space");
    daemon_set_up();
}

uintptr_t world_reserve(void) {
    return (uintptr_t)reserve + WORLD_PAGE; /* no place for a huge page */
}

void world_begin(void) {
    world = (struct world){.now_ns = 1000000000};
}

void world_forget_client(void) {
    world.connected_ns = 0;
    world.sent_count = world.served_count = 0;
    memset(world.sent, 0, sizeof(world.sent));
    memset(world.served, 0, sizeof(world.served));
}

bool world_fails(void) {
    return world.fail_in && !--world.fail_in;
}

/* ---- one thread, and time ---- */

void world_turn(int64_t ns) {
    struct mnw_client *client = world.client;
    demand(++world.turns < TURNS_MAX, "a call does not end");
    world.now_ns += 1000;
    uint64_t until = ns > INT64_MAX / 4 ? UINT64_MAX : world.now_ns + (uint64_t)ns;
    if (world.run)
        world.run(client); /* until it waits: the poller stops it */
    client->stopping = false;
    if (!fuzz_input.left && until != UINT64_MAX && until > world.now_ns)
        world.now_ns = until;
}

int mnw__thread_start(struct mnw__thread *thread, const char *name, int node, void (*run)(void *), void *argument) {
    (void)thread;
    (void)name;
    (void)node;
    if (world_fails())
        return mnw__fail(-EAGAIN, "as the input wants it");
    world.run = run;
    world.client = argument;
    return 0;
}
void mnw__thread_join(struct mnw__thread *thread) {
    (void)thread;
    demand(((struct mnw_client *)world.client)->stopping, "nobody told the thread that is waited for to end");
    world.run(world.client);
    world.run = NULL;
}
int mnw__cancel_disable(void) {
    return 0;
}
void mnw__cancel_restore(const int *before) {
    (void)before;
}
uint64_t mnw__clock_ns(void) {
    return world.now_ns;
}
void mnw__sleep_ns(uint64_t ns) {
    demand(++world.turns < TURNS_MAX, "somebody sleeps for ever");
    world.now_ns += ns;
}

void mnw__mutex_init(struct mnw__mutex *mutex) {
    mutex->storage[0] = 0;
}
void mnw__mutex_destroy(struct mnw__mutex *mutex) {
    demand(!mutex->storage[0], "a mutex that is locked is destroyed");
}
void mnw__mutex_lock(struct mnw__mutex *mutex) {
    demand(!mutex->storage[0]++, "a mutex is locked twice");
}
void mnw__mutex_unlock(struct mnw__mutex *mutex) {
    world.received = 0;
    demand(mutex->storage[0]-- == 1, "a mutex is unlocked that is not locked");
}
void mnw__condition_init(struct mnw__condition *condition) {
    (void)condition;
}
void mnw__condition_destroy(struct mnw__condition *condition) {
    (void)condition;
}
void mnw__condition_wake_all(struct mnw__condition *condition) {
    (void)condition;
}
void mnw__condition_wait(struct mnw__condition *condition, struct mnw__mutex *mutex, int64_t timeout_ns) {
    (void)condition;
    mnw__mutex_unlock(mutex);
    world_turn(timeout_ns);
    mnw__mutex_lock(mutex);
}

/* ---- the poller: what is ready is said by the input ---- */

struct mnw__poller {
    int fd;    /* the client's socket; -1: none */
    void *tag; /* its */
};

int mnw__poller_open(struct mnw__poller **poller) {
    if (world_fails())
        return mnw__fail(-EMFILE, "as the input wants it");
    *poller = calloc(1, sizeof(**poller));
    (*poller)->fd = -1;
    return 0;
}
void mnw__poller_close(struct mnw__poller *poller) {
    free(poller);
}
int mnw__poller_add(struct mnw__poller *poller, int fd, void *tag) {
    demand(fcntl(fd, F_GETFD) >= 0 || world.in_child, "a descriptor is watched that is closed");
    if (world_fails())
        return mnw__fail(-ENOSPC, "as the input wants it");
    if (!poller->tag || tag == poller->tag) /* the first is the socket; others are lost views */
        *poller = (struct mnw__poller){fd, tag};
    return 0;
}
int mnw__poller_remove(struct mnw__poller *poller, int fd) {
    if (poller->fd == fd)
        poller->fd = -1;
    return 0;
}
void mnw__poller_kick(struct mnw__poller *poller) {
    demand(poller, "nobody to kick");
}
int mnw__poller_wait(struct mnw__poller *poller, void **tags, int count, int64_t timeout_ns) {
    struct mnw_client *client = world.client;
    uint8_t byte = fake_byte();
    demand(count > 0 && timeout_ns >= 0, "waits for nothing");
    client->stopping = true; /* after this turn */
    world.flood = byte == 127 ? FLOOD : 0;
    world.ready = fuzz_input.left ? byte % 4 + world.flood : 1;
    if (byte >= 128)
        world.now_ns += mnw__min((uint64_t)timeout_ns, (uint64_t)(byte - 127) << 24);
    if (poller->fd < 0 || !world.ready)
        return 0;
    tags[0] = poller->tag;
    return 1;
}

/* ---- the socket ---- */

/* Of the C library, as session.c calls it. */
int fuzz_connect(int fd, const struct sockaddr *address, socklen_t bytes);
int fuzz_connect(int fd, const struct sockaddr *address, socklen_t bytes) {
    demand(fcntl(fd, F_GETFD) >= 0 && address && bytes, "connects nothing");
    demand(!world.connected_ns || world.now_ns >= world.connected_ns + 10000000, "connects as fast as it can");
    uint8_t byte = fake_byte();
    world.connected_ns = fuzz_input.left && byte % 8 != 7 ? world.now_ns : 0;
    if (world.connected_ns)
        return 0;
    errno = byte % 16 == 7 ? EAGAIN : ECONNREFUSED;
    return -1;
}

/* What a child calls; at the end of the input it is told to give up. */
int mnw__socket_connect(const char *path) {
    demand(path[0], "connects nowhere");
    uint8_t byte = fake_byte();
    if (!fuzz_input.left)
        return mnw__fail(-EACCES, "as the input has ended");
    return byte % 4 == 3 ? mnw__fail(byte % 8 == 3 ? -ECONNREFUSED : -ENOENT, "as the input wants it") : fake_fd();
}
int mnw__socket_set_patience(int fd, uint32_t ms) {
    demand(ms && fcntl(fd, F_GETFD) >= 0, "patience with nobody");
    return 0;
}

int mnw__socket_send(int fd, const void *packet, size_t bytes, const int *fds, unsigned fd_count) {
    demand(!fd_count || fcntl(fds[0], F_GETFD) >= 0 || world.in_child, "sends a descriptor that is closed");
    if (fcntl(fd, F_GETFD) < 0) {
        demand(world.in_child, "sends to a socket that is closed");
        return -EBADF;
    }
    if (mnw__wire_check_request(packet, bytes, fd_count))
        demand(false, "the client sends what no daemon takes");
    if (world_fails())
        return world.turns % 2 ? -EAGAIN : -EPIPE;
    struct world_request *request = &world.sent[world.sent_count++ % WORLD_SENT];
    memcpy(request, packet, mnw__min(bytes, sizeof(*request)));
    return 0;
}

int mnw__socket_receive(int fd, void *packet, size_t room, struct mnw__socket_received *received) {
    *received = (struct mnw__socket_received){0};
    if (fcntl(fd, F_GETFD) < 0)
        return -EBADF;
    demand(room == sizeof(struct mnw__wire_packet), "receives into less than a packet");
    if (!world.ready && !world.in_child)
        return -EAGAIN;
    world.ready -= world.ready > 0;
    demand(++world.received < FLOOD || world.in_child, "who sends without end keeps others from the lock");
    if (!fuzz_input.left)
        return 0; /* it has closed the connection */
    if (world.flood) {
        world.flood--;
        received->bytes = daemon_repeat(packet);
        return 0;
    }
    uint8_t byte = fake_byte();
    if (byte == 255)
        return -ECONNRESET;
    if (byte == 252 && world.in_child)
        return -EAGAIN; /* its patience is over */
    received->cut = byte == 254;
    received->bytes = byte == 253 ? 0 : daemon_speak(packet, received->fds, &received->fd_count);
    return 0;
}

/* ---- fork(2) ---- */

static struct { void (*prepare)(void), (*parent)(void), (*child)(void); } handlers[HANDLERS];
static unsigned handler_count;

int fuzz_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int fuzz_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    demand(handler_count < HANDLERS, "handlers without end");
    handlers[handler_count].prepare = prepare;
    handlers[handler_count].parent = parent;
    handlers[handler_count++].child = child;
    return 0;
}

void world_fork(bool in_child) {
    for (unsigned i = handler_count; i--;)
        handlers[i].prepare();
    world.in_child |= in_child;
    for (unsigned i = 0; i < handler_count; i++)
        in_child ? handlers[i].child() : handlers[i].parent();
}

int mnw__process_own_mappings(void (*each)(void *context, const struct mnw__own_mapping *mapping), void *context) {
    const struct mnw_client *client = world.client;
    uint8_t byte = fake_byte();
    if (byte % 4 == 3)
        return -EACCES;
    for (const struct mnw_client_view *view = client ? client->views : NULL; view; view = view->next) {
        struct mnw__own_mapping whole = {.start = view->address,
                                         .end = view->address + view->length,
                                         .device = view->device,
                                         .inode = view->inode,
                                         .offset = view->offset,
                                         .is_private = true};
        struct mnw__own_mapping half = whole;
        size_t cut = byte % 4 && view->length > WORLD_PAGE ? WORLD_PAGE : 0;
        half.end = half.start + cut;
        whole.start += cut;
        whole.offset += byte % 4 == 1 ? cut : 0;
        if (cut)
            each(context, &half);
        each(context, &whole);
    }
    return 0;
}

/* ---- memory: real, and counted ---- */

void *fuzz_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
void *fuzz_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    bool in_reserve = (uintptr_t)address - (uintptr_t)reserve < RESERVE_BYTES;
    if (world_fails()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    demand(!(flags & MAP_FIXED) || !in_reserve || length <= RESERVE_BYTES, "maps over what is not ours");
    void *at = mmap(address, length, protection, flags, fd, offset);
    if (at != MAP_FAILED && (in_reserve || !(flags & MAP_FIXED)))
        world.mapped_bytes += length;
    return at;
}

static bool is_served(uintptr_t address) {
    for (unsigned i = 0; i < mnw__array_count(world.served); i++)
        if (world.served[i] == address)
            return true;
    return false;
}

void world_serve(uintptr_t address) {
    if (!is_served(address)) /* more than there are views: the oldest are gone */
        world.served[world.served_count++ % mnw__array_count(world.served)] = address;
}

static void forget_served(uintptr_t address) {
    for (unsigned i = 0; i < mnw__array_count(world.served); i++)
        if (world.served[i] == address)
            world.served[i] = 0;
}

int fuzz_munmap(void *address, size_t length);
int fuzz_munmap(void *address, size_t length) {
    demand(length <= world.mapped_bytes, "unmaps what it has not mapped");
    world.mapped_bytes -= length;
    forget_served((uintptr_t)address);
    if ((uintptr_t)address - (uintptr_t)reserve >= RESERVE_BYTES)
        return munmap(address, length);
    demand(mmap(address, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == address,
           "the reserve is lost");
    return 0;
}

/* Nobody may touch what nobody serves: it would read as zeros. */
int fuzz_mprotect(void *address, size_t length, int protection);
int fuzz_mprotect(void *address, size_t length, int protection) {
    demand(protection == PROT_NONE || is_served((uintptr_t)address), "a view is made accessible that nobody serves");
    return mprotect(address, length, protection);
}

/* Another file may be one whose server does not answer. */
int fuzz_fstat(int fd, struct stat *status);
int fuzz_fstat(int fd, struct stat *status) {
    demand(fcntl(fd, F_GET_SEALS) >= 0, "asks about what is no memory");
    return fstat(fd, status);
}
int fuzz_fstatfs(int fd, struct statfs *status);
int fuzz_fstatfs(int fd, struct statfs *status) {
    demand(fcntl(fd, F_GET_SEALS) >= 0, "asks about what is no memory");
    return fstatfs(fd, status);
}
ssize_t fuzz_pread(int fd, void *to, size_t bytes, off_t offset);
ssize_t fuzz_pread(int fd, void *to, size_t bytes, off_t offset) {
    demand(fcntl(fd, F_GET_SEALS) >= 0, "reads what is no memory");
    return pread(fd, to, bytes, offset);
}

size_t mnw__backing_page_bytes(enum mnw_backing kind) {
    return kind == MNW_BACKING_HUGETLB_1G ? 1u << 30 : kind == MNW_BACKING_HUGETLB_2M ? 2u << 20 : WORLD_PAGE;
}

/* ---- the userfaultfd ---- */

int mnw__uffd_probe(struct mnw__uffd_probe *probe) {
    uint8_t byte = fake_byte();
    *probe = (struct mnw__uffd_probe){.door = byte % 16 == 15 ? MNW__UFFD_DOOR_USER_ONLY : MNW__UFFD_DOOR_SYSCALL,
                                      .features = byte % 4 == 3 ? 0 : MNW__UFFD_POISON};
    return world_fails() ? mnw__fail(-EPERM, "as the input wants it") : 0;
}
int mnw__uffd_open(uint64_t features) {
    demand(!features || features & MNW__UFFD_EVENT_UNMAP, "a userfaultfd that tells of no unmapping");
    return world_fails() ? mnw__fail(-EPERM, "as the input wants it") : fake_fd();
}
void mnw__uffd_close(int fd) {
    demand(!close(fd), "a userfaultfd is closed twice");
}
int mnw__uffd_register(int fd, uintptr_t start, size_t length, unsigned modes, uint64_t *ioctls) {
    static const int errors[] = {0, 0, -EBUSY, -EBUSY, 0, -EBUSY, -EINVAL, -ENOMEM};
    (void)modes;
    (void)ioctls;
    demand(fcntl(fd, F_GETFD) >= 0 && start && length, "registers nothing");
    return errors[fake_byte() % 8];
}
int mnw__uffd_unregister(int fd, uintptr_t start, size_t length) {
    (void)fd;
    demand(start && length, "unregisters nothing");
    forget_served(start); /* nobody is told of its faults any more */
    return 0;
}
int mnw__uffd_wake(int fd, uintptr_t start, size_t length) {
    (void)fd;
    demand(start && length, "wakes nobody");
    return 0;
}
int mnw__uffd_poison(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    static const int errors[] = {-EEXIST, -EAGAIN, -ENOENT, -ESRCH};
    (void)fd;
    (void)flags;
    demand(!(start % WORLD_PAGE) && !(length % WORLD_PAGE) && length, "bars what are no pages");
    uint8_t byte = fake_byte();
    *done = byte < 240 ? (int64_t)length : 0;
    return byte < 240 ? 0 : errors[byte % 4];
}
int mnw__uffd_zeropage(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    return mnw__uffd_poison(fd, start, length, flags, done);
}
/* ---- what a child minds ---- */

static int minded[MNW__MINDED_MAX];
static unsigned minded_count;

void mnw__minder_begin(void) {
    demand(!minded_count, "descriptors are minded by nobody");
}
int mnw__minder_add_end(int fd) {
    demand(!close(fd), "the daemon's end is closed twice");
    return world_fails() ? -EMFILE : 0;
}
int mnw__minder_add(int uffd, int end) {
    demand(end == 0, "minded until no end");
    if (minded_count < MNW__MINDED_MAX && !world_fails()) {
        minded[minded_count++] = uffd;
        return 0;
    }
    mnw__uffd_close(uffd);
    return -EMFILE;
}
int mnw__minder_add_file(uint64_t device, uint64_t inode, size_t page_bytes) {
    (void)device;
    (void)inode;
    demand(page_bytes, "a file without pages");
    return world_fails() ? -EMFILE : 0;
}
void mnw__minder_abandon(int uffd) {
    demand(fcntl(uffd, F_GETFD) >= 0, "abandons what is closed");
}
bool mnw__minder_watches(uintptr_t start, size_t length) {
    demand(start && length, "nothing is watched");
    return minded_count && fake_byte() % 2;
}
int mnw__minder_start(void) {
    while (minded_count)
        mnw__uffd_close(minded[--minded_count]);
    return world_fails() ? -EAGAIN : 0;
}

/* A fault, or a child; never two at once. */
int mnw__uffd_read(int fd, struct mnw__uffd_event *events, int count) {
    const struct mnw_client *client = world.client;
    uint8_t byte = fake_byte();
    (void)fd;
    demand(count > 0, "reads nothing");
    if (byte % 4 == 0 || !client || !client->views)
        return 0;
    *events = (struct mnw__uffd_event){.kind = byte % 4 == 1 ? MNW__UFFD_EV_FORK : MNW__UFFD_EV_FAULT,
                                       .address = client->views->address + byte / 4 * 64,
                                       .length = WORLD_PAGE,
                                       .fd = byte % 4 == 1 ? fake_fd() : -1};
    if (byte % 4 == 3)
        events->kind = MNW__UFFD_EV_UNMAP;
    return 1;
}
