/* SPDX-License-Identifier: MIT */
/*
 * Backings: the file that holds a cache's pages, and its mappings.
 *
 * Owns: the descriptors and the alias of a struct mnw__backing. Allocation and punching may be called by any
 * thread; create and destroy by one. Never touches a view's bytes.
 */
#ifndef MNW_SYS_BACKING_H
#define MNW_SYS_BACKING_H

#include "minnow/minnow.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mnw__backing {
    enum mnw_backing kind;
    size_t page_bytes;        /* of the mappings: unit of CONTINUE */
    uint64_t size_bytes;      /* multiple of page_bytes */
    int fd;                   /* read-write; seals: SHRINK|GROW|SEAL where the file can be sealed */
    int readonly_fd;          /* what views map */
    void *alias;              /* MAP_SHARED, never registered, MADV_DONTFORK */
    _Atomic bool takes_pages; /* write_page() and send() may be tried: written into, the file gets small folios */
};

static inline bool mnw__backing_is_hugetlb(enum mnw_backing kind) {
    return kind == MNW_BACKING_HUGETLB_2M || kind == MNW_BACKING_HUGETLB_1G;
}

/* Where the huge folios of graded memory come from, as the machine is set: its memfds, a private tmpfs, or nowhere. */
enum mnw__folios { MNW__FOLIOS_MEMFD, MNW__FOLIOS_TMPFS, MNW__FOLIOS_NONE };
enum mnw__folios mnw__backing_folios(void);

/* What a kind needs of the machine, before anything is made. -ENOMEM, -EOPNOTSUPP with a message; or 0. */
int mnw__backing_check(enum mnw_backing kind, uint64_t budget_bytes);
/*
 * The same of nodes that the memory must come from: -ENOMEM with a message that names them when they do not have it, or
 * not in huge pages that are free.
 */
int mnw__backing_check_nodes(enum mnw_backing kind, uint64_t budget_bytes, uint64_t nodes);
/* Bytes of a page of this kind: what faults, fills and CONTINUE count in. */
size_t mnw__backing_page_bytes(enum mnw_backing kind);
/* The unit of allocation that the kind forces; 0 where any power-of-two run of pages will do (shmem). */
size_t mnw__backing_extent_bytes(enum mnw_backing kind);

/* `size_bytes` is rounded up to a page. */
int mnw__backing_create(struct mnw__backing *backing, enum mnw_backing kind, uint64_t size_bytes);
/*
 * Takes over the file behind a descriptor, which stays the caller's: its memory stays as it is. -ESTALE: it is no
 * backing of this kind and size.
 */
int mnw__backing_adopt(struct mnw__backing *backing, enum mnw_backing kind, uint64_t size_bytes, int fd);
/* The file goes when nobody else holds a descriptor of it, or maps it. */
void mnw__backing_destroy(struct mnw__backing *backing);

/* Which file it is, among all of this boot. */
struct mnw__backing_name {
    uint64_t device, inode;
};
int mnw__backing_name(const struct mnw__backing *backing, struct mnw__backing_name *name);

/*
 * Gives the range memory (zeroes where it had none) under the calling thread's memory policy; what is there
 * stays. -ENOSPC, -ENOMEM: none to be had, and part of the range may have got memory: punch it. After success,
 * stores through the alias cannot fail. Whole extents, or up to the end of the backing.
 */
int mnw__backing_allocate(struct mnw__backing *backing, uint64_t offset, size_t length);
/*
 * Gives one page memory and its bytes at once, without zeroing it first and without a page fault: the way for one
 * thread that wants one page. `bytes` are a whole page. -ENOSPC, -ENOMEM: no memory; other errors: it is to be done the
 * other way. After an error the page may have memory, with any contents. Async-signal-safe.
 */
int mnw__backing_write_page(struct mnw__backing *backing, uint64_t offset, const void *bytes);
/* What bytes are sent through. One thread uses it. */
struct mnw__pipe {
    int read, write; /* -1: closed; a send opens it */
};
#define MNW__PIPE_CLOSED                                                                                               \
    { -1, -1 }
void mnw__pipe_close(struct mnw__pipe *pipe);
/*
 * Gives a range memory and the bytes that the file `from` has at the same offset at once: no zeroing, no page fault,
 * and one copy, from the kernel's page cache, which it waits for. How many bytes, 0 at the end of the file, or a
 * negative errno; what came before an error is answered first. The range, but no page outside it, may have memory
 * afterwards, with any contents behind the bytes that came. Any offset and length inside the backing.
 */
int64_t mnw__backing_send(struct mnw__backing *backing, uint64_t offset, size_t length, int from,
                          struct mnw__pipe *pipe);
/* Looks up `takes_pages` again: the machine's settings may have changed. */
void mnw__backing_look_up(struct mnw__backing *backing);
/* Maps a range that has memory through the alias, which move_pages(2) sees pages by. Need not succeed. */
void mnw__backing_map_alias(struct mnw__backing *backing, uint64_t offset, size_t length);
/*
 * Copies bytes that the file holds: into memory of the caller's that is there, or -EFAULT. Where the file has a hole
 * they are zeros, and it stays a hole. -EIO: memory of it has failed, or not all could be read. Async-signal-safe.
 */
int mnw__backing_read(const struct mnw__backing *backing, uint64_t offset, void *bytes, size_t length);
/* Takes the range's memory away and drops every mapping of it. */
int mnw__backing_punch(struct mnw__backing *backing, uint64_t offset, size_t length);

/*
 * The two halves of mnw__view_map(): mapped, but accessible to nobody; and accessible. Between them the view is
 * registered, so that not even mlockall(2) by another thread fills it behind the back of userfaultfd.
 */
int mnw__view_map_veiled(struct mnw__backing *backing, uint64_t offset, size_t length, uintptr_t *address);
int mnw__view_unveil(uintptr_t address, size_t length, bool writable);

/* Maps a range for a consumer: MAP_PRIVATE of the read-only descriptor, no reservation, MADV_DONTFORK. */
int mnw__view_map(struct mnw__backing *backing, uint64_t offset, size_t length, bool writable, uintptr_t *address);
int mnw__view_unmap(uintptr_t address, size_t length);
/* Drops page-table entries, keeps pages; the range's private copies are lost. Clears poison. */
int mnw__view_zap(uintptr_t address, size_t length);
/* MADV_COLLAPSE: maps a complete huge extent by one entry. Maps unfilled pieces too: the caller proves there are none.
 */
int mnw__view_collapse(uintptr_t address, size_t length);
/* Touches every page for reading, and waits until each has come. -EIO: one cannot be had. */
int mnw__view_populate(uintptr_t address, size_t length);
/*
 * For kernels without poison: replaces the range by a mapping of an empty file, so that touching it is
 * SIGBUS at the exact address; and back (the caller registers the range again). Neither wakes waiters.
 */
int mnw__view_bar(uintptr_t address, size_t length);
int mnw__view_unbar(struct mnw__backing *backing, uint64_t offset, uintptr_t address, size_t length, bool writable);

#endif
