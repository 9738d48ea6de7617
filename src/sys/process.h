/* SPDX-License-Identifier: MIT */
/*
 * What can be seen of another process: which files it has mapped, and where.
 *
 * Owns nothing; any thread may enter. May allocate and block on the other process, unless it says otherwise: never on a
 * fault thread. What is seen may have changed by the time it is looked at.
 */
#ifndef MNW_SYS_PROCESS_H
#define MNW_SYS_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum mnw__mapped {
    MNW__MAPPED_AS_SAID,
    MNW__MAPPED_UNSEEN, /* no right to look, or no such process */
    MNW__MAPPED_NOTHING,
    MNW__MAPPED_OTHER_FILE,
    MNW__MAPPED_OTHER_OFFSET,
    MNW__MAPPED_SHARED,
    MNW__MAPPED_WRITABLE, /* though it was said not to be */
};
/* Is [address, address + length) of the process a private mapping of the file behind `fd`, from `offset` on? */
enum mnw__mapped mnw__process_maps(pid_t pid, uintptr_t address, size_t length, int fd, uint64_t offset,
                                   bool may_write);
/* The same, of the file that fstat(2) shows with these. */
enum mnw__mapped mnw__process_maps_file(pid_t pid, uintptr_t address, size_t length, uint64_t device, uint64_t inode,
                                        uint64_t offset, bool may_write);

struct mnw__own_mapping {
    uintptr_t start, end;
    uint64_t device, inode, offset; /* of its file; 0: none */
    bool is_private;
};
/*
 * Each mapping of this process, in the order of addresses. Allocates nothing and takes no lock: a child of fork(2) may
 * call it, and so may a handler of a signal, when `each` does the same. 0, or a negative errno.
 */
int mnw__process_own_mappings(void (*each)(void *context, const struct mnw__own_mapping *mapping), void *context);

#endif
