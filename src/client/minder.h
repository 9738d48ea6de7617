/* SPDX-License-Identifier: MIT */
/*
 * The userfaultfds of a child that was made by fork(2), for the time when nobody else has them any more.
 *
 * The daemon has them and its holder. When both are killed, the child would read zeros where it has not been. So it
 * has duplicates, and a thread that waits for that end: from then on what was not mapped is SIGBUS. The thread has a
 * table of descriptors of its own, with these alone: the program does not see them, and does not close them either.
 *
 * Owns: the descriptors and the thread, one set for the process. All but the thread itself is for a child of one
 * thread, before fork(2) returns in it. Allocates nothing, but what starting a thread does.
 */
#ifndef MNW_CLIENT_MINDER_H
#define MNW_CLIENT_MINDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MNW__MINDED_MAX = 64, /* userfaultfds */
    MNW__NOBODY = -1,     /* in the place of an end to wait for: nobody serves it, from the beginning */
};

/* Forgets what its parent minded, which is not in this process's table. */
void mnw__minder_begin(void);
/* A descriptor that hangs up when a daemon and its holder have ended. It is ours from now on. Its number, or -EMFILE.
 */
int mnw__minder_add_end(int fd);
/* Ours from now on, even with -EMFILE. `end`: the number of its daemon's. */
int mnw__minder_add(int uffd, int end);
/* What views of this file look like: a child that is forked when nobody serves any more is barred there. -EMFILE. */
int mnw__minder_add_file(uint64_t device, uint64_t inode, size_t page_bytes);
/* The daemon does not want this one. */
void mnw__minder_abandon(int uffd);
/* Is it one of ours that watches this mapping, or could? */
bool mnw__minder_watches(uintptr_t start, size_t length);
/* When all were added. 0; a negative errno: nobody minds them, and they are closed. */
int mnw__minder_start(void);

#endif
