/* SPDX-License-Identifier: MIT */
/*
 * Reads by io_uring. Owns the ring and `depth` requests. One thread queues, submits and reaps; another may
 * open and close. Never allocates after open.
 *
 * A ring that was granted can still be taken away (a seccomp filter installed later forbids io_uring_enter):
 * reads that cannot be submitted are then done on the spot, slowly but rightly, because every fault ends.
 */
#include "sys/io_internal.h"
#include "sys/memory.h"
#include "sys/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdbool.h>

/*
 * Reads longer than this never run inside the submission. A read whose bytes are in the kernel's page cache
 * would: 4 KiB so cost less than a thread hop, but 2 MiB are 400 us of copying, in which the fault thread
 * serves nobody. What is read ahead is copied by another thread, while the fault thread gives memory to the next run.
 */
#define INLINE_BYTES_MAX ((size_t)64 << 10)

/* The kernel is out of memory, or the completion queue is behind: it says so for moments. */
#define RETRY_NS  100000
#define RETRY_MAX 1000

struct mnw__io_ring {
    struct io_uring uring;
    mnw__io_done *done;
    void *context;
    struct mnw__io_request *free;
    struct mnw__io_request *queued_first, *queued_last; /* not submitted */
    struct mnw__io_request *ended_first, *ended_last;   /* done on the spot, not delivered */
    int64_t *results;                                   /* of those, by request; behind the requests */
    unsigned depth;
    unsigned out;  /* requests that are not delivered yet */
    bool deferred; /* completions wait for the owner to fetch them */
    bool broken;   /* submission is refused for good */
    struct mnw__io_request requests[];
};

/*
 * Best first. Cooperative task work spares the fault thread interrupts between its system calls. Deferred task
 * work would spare it more, but does not wake a thread that waits for the ring in epoll.
 */
static const unsigned setup_flags[] = {
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    0,
};

static int open_ring(struct mnw__io_ring *ring, unsigned depth) {
    int error = -EINVAL;
    for (size_t i = 0; i < sizeof(setup_flags) / sizeof(setup_flags[0]) && error == -EINVAL; i++) {
        error = io_uring_queue_init(depth, &ring->uring, setup_flags[i]);
        ring->deferred = setup_flags[i] & IORING_SETUP_TASKRUN_FLAG;
    }
    return error;
}

/* Whole pages of its own: what malloc() gives may lie on any node. */
static size_t ring_bytes(unsigned depth) {
    return sizeof(struct mnw__io_ring) + depth * (sizeof(struct mnw__io_request) + sizeof(int64_t));
}

int mnw__io_ring_open(struct mnw__io_ring **result, unsigned depth, mnw__io_done *done, void *context) {
    struct mnw__io_ring *ring = mnw__memory_reserve(ring_bytes(depth));
    if (!ring) {
        return -ENOMEM;
    }
    int error = open_ring(ring, depth);
    if (error) {
        mnw__memory_release(ring, ring_bytes(depth));
        return error;
    }
    ring->depth = depth;
    ring->results = (int64_t *)&ring->requests[depth];
    ring->done = done;
    ring->context = context;
    for (unsigned i = 0; i < depth; i++) {
        ring->requests[i].next = ring->free;
        ring->free = &ring->requests[i];
    }
    *result = ring;
    return 0;
}

void mnw__io_ring_close(struct mnw__io_ring *ring) {
    io_uring_queue_exit(&ring->uring);
    mnw__memory_release(ring, ring_bytes(ring->depth));
}

int mnw__io_ring_fd(const struct mnw__io_ring *ring) {
    return ring->uring.ring_fd;
}

static void append(struct mnw__io_request **first, struct mnw__io_request **last, struct mnw__io_request *request) {
    request->next = NULL;
    if (*first) {
        (*last)->next = request;
    } else {
        *first = request;
    }
    *last = request;
}

int mnw__io_ring_read(struct mnw__io_ring *ring, const struct mnw__io_request *wanted) {
    struct mnw__io_request *request = ring->free;
    if (!request) {
        return -EAGAIN;
    }
    ring->free = request->next;
    ring->out++;
    *request = *wanted;
    append(&ring->queued_first, &ring->queued_last, request);
    return 0;
}

/* A direct read copies nothing and its submission is short, whatever its length. */
static bool is_direct(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_DIRECT);
}

static void fill_entry(struct io_uring_sqe *entry, struct mnw__io_request *request) {
    io_uring_prep_read(entry, request->fd, request->buffer, (unsigned)request->length, request->offset);
    io_uring_sqe_set_data(entry, request);
    if (request->length > INLINE_BYTES_MAX && !is_direct(request->fd)) {
        io_uring_sqe_set_flags(entry, IOSQE_ASYNC);
    }
}

/* The ring has an entry for each request, and those of earlier calls are taken: there is room for all. */
static unsigned fill_entries(struct mnw__io_ring *ring) {
    unsigned count = 0;
    for (struct mnw__io_request *request = ring->queued_first; request; request = request->next, count++) {
        struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
        if (!entry) {
            break;
        }
        fill_entry(entry, request);
    }
    return count;
}

static void read_on_the_spot(struct mnw__io_ring *ring, struct mnw__io_request *request) {
    ring->results[request - ring->requests] = mnw__io_pread(request);
    append(&ring->ended_first, &ring->ended_last, request);
}

static bool is_passing(int error) {
    return error == -EAGAIN || error == -EBUSY || error == -ENOMEM;
}

/* The number of entries the kernel took before it refused for good. */
static unsigned enter(struct mnw__io_ring *ring, unsigned count) {
    unsigned taken = 0;
    for (int tries = 0; taken < count;) {
        int result = io_uring_submit_and_get_events(&ring->uring);
        if (result > 0) {
            taken += (unsigned)result;
            tries = 0;
        } else if (result != -EINTR) {
            if ((result && !is_passing(result)) || ++tries > RETRY_MAX) {
                ring->broken = true;
                break;
            }
            mnw__sleep_ns(RETRY_NS);
        }
    }
    return taken;
}

void mnw__io_ring_submit(struct mnw__io_ring *ring) {
    if (!ring->queued_first) {
        return;
    }
    unsigned taken = !ring->broken ? enter(ring, fill_entries(ring)) : 0;
    struct mnw__io_request *request = ring->queued_first, *next;
    ring->queued_first = NULL;
    for (; request; request = next) {
        next = request->next;
        if (taken) {
            taken--;
        } else {
            read_on_the_spot(ring, request);
        }
    }
}

static void deliver(struct mnw__io_ring *ring, struct mnw__io_request *request, int64_t result) {
    uint64_t token = request->token;
    int64_t answer = mnw__io_answer(request, result);
    /* Before `done`: whoever it tells may queue the next read at once. */
    request->next = ring->free;
    ring->free = request;
    ring->out--;
    ring->done(ring->context, token, answer);
}

static int reap_ended(struct mnw__io_ring *ring) {
    int count = 0;
    for (struct mnw__io_request *request; (request = ring->ended_first); count++) {
        ring->ended_first = request->next;
        deliver(ring, request, ring->results[request - ring->requests]);
    }
    return count;
}

static int reap_completions(struct mnw__io_ring *ring) {
    int count = 0;
    for (struct io_uring_cqe *entry; !io_uring_peek_cqe(&ring->uring, &entry) && entry; count++) {
        struct mnw__io_request *request = io_uring_cqe_get_data(entry);
        int64_t result = entry->res;
        io_uring_cqe_seen(&ring->uring, entry);
        deliver(ring, request, result);
    }
    return count;
}

/*
 * Fetches what waits for its owner, if the kernel says that there is any: peeking does that by itself only
 * when the queue is empty.
 */
int mnw__io_ring_reap(struct mnw__io_ring *ring) {
    if (!ring->out) { /* after each resident fault: what the kernel writes to need not be fetched for that */
        return 0;
    }
    if (ring->deferred && (__atomic_load_n(ring->uring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN)) {
        io_uring_get_events(&ring->uring);
    }
    int count = reap_completions(ring);
    return ring->ended_first ? count + reap_ended(ring) : count;
}
