/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that a child made by fork(2) must not keep: a session whose socket is open in a child does not end with
 * its process, and a userfaultfd that is open in a child keeps faults waiting for ever.
 *
 * Owns: a process-wide list of places. A place is added and removed by callers of the library; its descriptor is set by
 * any thread at any time, without a lock. The list's lock is held over fork(2), which may take long: nobody may wait
 * for it with another lock held, and the client's thread never takes it.
 */
#ifndef MNW_CLIENT_KEEP_H
#define MNW_CLIENT_KEEP_H

struct mnw__kept {
    struct mnw__kept *next;
    _Atomic int fd; /* -1: none */
};

/* Begins empty. */
void mnw__keep_add(struct mnw__kept *kept);
/* Closes what is there. */
void mnw__keep_remove(struct mnw__kept *kept);
/* Puts `fd` there (-1: nothing) and closes what was there before. */
void mnw__keep_set(struct mnw__kept *kept, int fd);

#endif
