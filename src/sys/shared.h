/* SPDX-License-Identifier: MIT */
/*
 * Memory that outlives its process: a nameless file, mapped, whose descriptor somebody else may hold too.
 *
 * Owns: the descriptors and the mapping of a struct mnw__shared. One thread creates, adopts and destroys; what
 * is in the memory is the users' own. At any time one process has it: it is locked from create or adopt until that
 * process is gone, threads, system calls and all.
 */
#ifndef MNW_SYS_SHARED_H
#define MNW_SYS_SHARED_H

#include <stdint.h>

struct mnw__shared {
    void *memory; /* NULL: none */
    uint64_t length;
    int fd;   /* to be handed to a holder; it shares no lock */
    int lock; /* the same file once more, locked */
};

/* Zeroed and sparse; of whole base pages, of fixed size, not inherited by fork(2). */
int mnw__shared_create(struct mnw__shared *shared, uint64_t length);
/*
 * Takes over the memory behind a descriptor, which stays the caller's. -EBUSY: its process is still there. -ESTALE: it
 * is no such memory, or of another length.
 */
int mnw__shared_adopt(struct mnw__shared *shared, int fd, uint64_t length);
void mnw__shared_destroy(struct mnw__shared *shared);

/*
 * The first run at or after `from` that was ever written, to whole base pages: 1; 0: there is none. What is not in a
 * run is zero.
 */
int mnw__shared_next_data(const struct mnw__shared *shared, uint64_t from, uint64_t *start, uint64_t *end);

#endif
