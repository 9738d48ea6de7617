/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd: every operation the kernel documents, one function each, but UFFDIO_MOVE: it moves anonymous memory,
 * and a cache has none.
 *
 * Owns: one page that nobody can read, mapped once; file descriptors belong to the caller. Any thread may enter. Never
 * enters the allocator, never touches the memory a descriptor watches. errno becomes a negative return here.
 *
 * Range operations report progress through `done`: the bytes completed, or the negative errno the kernel
 * wrote into the result field, or 0 when the kernel left the field untouched.
 */
#ifndef MNW_SYS_UFFD_H
#define MNW_SYS_UFFD_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Features, numbered as in the kernel's UFFD_FEATURE_*. */
enum {
    MNW__UFFD_PAGEFAULT_WP = 1 << 0,
    MNW__UFFD_EVENT_FORK = 1 << 1,
    MNW__UFFD_EVENT_REMAP = 1 << 2,
    MNW__UFFD_EVENT_REMOVE = 1 << 3,
    MNW__UFFD_MISSING_HUGETLBFS = 1 << 4,
    MNW__UFFD_MISSING_SHMEM = 1 << 5,
    MNW__UFFD_EVENT_UNMAP = 1 << 6,
    MNW__UFFD_SIGBUS = 1 << 7,
    MNW__UFFD_THREAD_ID = 1 << 8,
    MNW__UFFD_MINOR_HUGETLBFS = 1 << 9,
    MNW__UFFD_MINOR_SHMEM = 1 << 10,
    MNW__UFFD_EXACT_ADDRESS = 1 << 11,
    MNW__UFFD_WP_HUGETLBFS_SHMEM = 1 << 12,
    MNW__UFFD_WP_UNPOPULATED = 1 << 13,
    MNW__UFFD_POISON = 1 << 14,
    MNW__UFFD_WP_ASYNC = 1 << 15,
    MNW__UFFD_MOVE = 1 << 16,
};

/* What a view of such memory asks for, to be told of both kinds of faults. */
static inline uint64_t mnw__uffd_fault_features(bool hugetlb) {
    return hugetlb ? MNW__UFFD_MISSING_HUGETLBFS | MNW__UFFD_MINOR_HUGETLBFS
                   : MNW__UFFD_MISSING_SHMEM | MNW__UFFD_MINOR_SHMEM;
}

/* Which door of the kernel let us in. */
enum mnw__uffd_door {
    MNW__UFFD_DOOR_NONE = 0,
    MNW__UFFD_DOOR_SYSCALL,   /* userfaultfd(2), kernel faults included */
    MNW__UFFD_DOOR_DEVICE,    /* /dev/userfaultfd */
    MNW__UFFD_DOOR_USER_ONLY, /* userfaultfd(UFFD_USER_MODE_ONLY): system calls on untouched pages: EFAULT */
};

struct mnw__uffd_probe {
    uint64_t features;        /* what the kernel offers; 0 when no door is open */
    uint64_t ioctls;          /* of UFFDIO_API */
    enum mnw__uffd_door door; /* the best that works for this process */
    int syscall_error;        /* 0 or the negative errno of each door */
    int device_error;
    int user_only_error;
};

/* Tries every door and asks for the features (first step of the two-step open). 0, or -ENOSYS/-EPERM. */
int mnw__uffd_probe(struct mnw__uffd_probe *probe);

/* Opens through a given door, close-on-exec and non-blocking; no UFFDIO_API yet. fd or negative errno. */
int mnw__uffd_open_raw(enum mnw__uffd_door door);
/* UFFDIO_API: `features` asked for; on success the kernel's answers. */
int mnw__uffd_api(int fd, uint64_t version, uint64_t features, uint64_t *features_out, uint64_t *ioctls_out);
/* The whole open: best door, exactly `features`. fd or negative errno. */
int mnw__uffd_open(uint64_t features);
void mnw__uffd_close(int fd);

enum { /* registration modes */
       MNW__UFFD_MODE_MISSING = 1 << 0,
       MNW__UFFD_MODE_WP = 1 << 1,
       MNW__UFFD_MODE_MINOR = 1 << 2,
};
/* Of the ioctls that REGISTER says the range will take. */
#define MNW__UFFD_TAKES_CONTINUE (1ull << 7)
int mnw__uffd_register(int fd, uintptr_t start, size_t length, unsigned modes, uint64_t *ioctls);
int mnw__uffd_unregister(int fd, uintptr_t start, size_t length);

enum { /* for the range operations */
       MNW__UFFD_DONTWAKE = 1 << 0,
       MNW__UFFD_KEEP_WP = 1 << 1, /* map write-protected */
};
int mnw__uffd_continue(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done);
int mnw__uffd_copy(int fd, uintptr_t start, const void *source, size_t length, unsigned flags, int64_t *done);
int mnw__uffd_zeropage(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done);
int mnw__uffd_poison(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done);
int mnw__uffd_wake(int fd, uintptr_t start, size_t length);
/*
 * Poisons every page of the range that is not mapped. 0; -EAGAIN: the address space changes, and its event is unread;
 * -ENOENT: a part is not watched any more; all the rest was barred; -ESRCH.
 *
 * The kernel takes no range that leaves a mapping, and a mapping is split by who protects or locks a part of it, of
 * which no event tells. So what is refused is halved. It takes a call, of a fraction of a microsecond, for each page
 * that is mapped, and for each that is not watched: nothing tells where what is watched begins again.
 */
static inline int mnw__uffd_bar(int fd, uintptr_t start, size_t length, size_t page_bytes) {
    uintptr_t end = start + length;
    bool skipped = false;
    for (size_t part = length; start < end;) {
        int64_t done = 0;
        part = part < end - start ? part : end - start;
        int error = mnw__uffd_poison(fd, start, part, 0, &done);
        if (done > 0) {
            start += (uintptr_t)done;
            part *= 2;
        } else if (error == -EEXIST) { /* mapped already */
            start += page_bytes;
        } else if (error == -ENOENT && part > page_bytes) {
            part = part / page_bytes / 2 * page_bytes;
        } else if (error == -ENOENT) {
            skipped = true;
            start += page_bytes;
        } else if (error) {
            return error;
        }
    }
    return skipped ? -ENOENT : 0;
}
int mnw__uffd_writeprotect(int fd, uintptr_t start, size_t length, bool protect, unsigned flags);

enum mnw__uffd_event_kind {
    MNW__UFFD_EV_FAULT = 1,
    MNW__UFFD_EV_FORK,
    MNW__UFFD_EV_REMAP,
    MNW__UFFD_EV_REMOVE,
    MNW__UFFD_EV_UNMAP,
};
enum { /* of a fault */
       MNW__UFFD_FAULT_WRITE = 1 << 0,
       MNW__UFFD_FAULT_WP = 1 << 1,
       MNW__UFFD_FAULT_MINOR = 1 << 2,
};
struct mnw__uffd_event {
    enum mnw__uffd_event_kind kind;
    unsigned flags;     /* fault */
    uint32_t thread_id; /* fault, with THREAD_ID */
    uintptr_t address;  /* fault: page-aligned; remove, unmap: start; remap: from */
    uintptr_t to;       /* remap */
    size_t length;      /* remap, remove, unmap */
    int fd;             /* fork: the child's */
};

#define MNW__UFFD_BATCH 64
/* Takes up to `count` (at most MNW__UFFD_BATCH) events, oldest first: their number, 0 when none, or an errno. */
int mnw__uffd_read(int fd, struct mnw__uffd_event *events, int count);

/*
 * The same, and does not block where another process has made the descriptor block. Before 6.10 it is made to block no
 * more; should that process undo this at once, it does block.
 */
int mnw__uffd_read_nowait(int fd, struct mnw__uffd_event *events, int count);

/*
 * For whoever knows nothing of a descriptor but its events: the page of this fault is SIGBUS. Of what size it is, the
 * kernel is asked. What is mapped or barred already, or changes just now, is looked at again by whoever waits there.
 */
void mnw__uffd_bar_fault(int fd, uintptr_t address);
/* Whoever waits, wherever: events that an owner has read who is gone are told again. 0, or -errno. */
int mnw__uffd_wake_all(int fd);

/*
 * Is the range inside one mapping that a userfaultfd watches? 1: yes; 0: no; -EAGAIN: the mapping is being changed, and
 * the event is unread; or another errno. Not for hugetlb.
 */
int mnw__uffd_is_one_mapping(int fd, uintptr_t start, size_t length);

/* What a descriptor is that another process made. */
struct mnw__uffd_description {
    bool initialised;  /* UFFDIO_API was done */
    uint64_t features; /* asked for in it */
    uint64_t identity; /* the same for all duplicates, and for nothing else while one exists */
};
/* -EINVAL: no userfaultfd. */
int mnw__uffd_describe(int fd, struct mnw__uffd_description *description);
/* A duplicate, close-on-exec. */
int mnw__uffd_duplicate(int fd);
/* Non-blocking and close-on-exec from now on, for all its duplicates. */
int mnw__uffd_tame(int fd);

/* Threads waiting on the descriptor: not yet read, and in all (from /proc/self/fdinfo). */
int mnw__uffd_waiting(int fd, uint64_t *pending, uint64_t *total);

#endif
