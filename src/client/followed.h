/* SPDX-License-Identifier: MIT */
/*
 * Views that children made by fork(2) have too (MNW_CLIENT_FOLLOW_FORK), and what such a child does before fork(2)
 * returns in it.
 *
 * The child's userfaultfd comes to the daemon with the event of the fork, and the child runs from then on. A daemon
 * that is killed before it has given it to its holder takes it along, and the child would read zeros. So the child
 * asks, and looks whether it is still watched; if not, it has itself served anew.
 *
 * Owns: a process-wide list of views, under a lock that is held over fork(2), as that of keep.h.
 */
#ifndef MNW_CLIENT_FOLLOWED_H
#define MNW_CLIENT_FOLLOWED_H

struct mnw_client_view;

struct mnw__followed {
    struct mnw__followed *next;
    const struct mnw_client_view *view;
    int uffd; /* made by this process because its parent's daemon was lost; -1: none */
};

/* A view that is served and stays where it is until it is removed. */
void mnw__followed_add(struct mnw__followed *followed, const struct mnw_client_view *view);
void mnw__followed_remove(struct mnw__followed *followed);

#endif
