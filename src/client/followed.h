/* SPDX-License-Identifier: MIT */
/*
 * Views that children made by fork(2) have too (MNW_CLIENT_FOLLOW_FORK), and what such a child does before fork(2)
 * returns in it.
 *
 * The child's userfaultfd comes to the daemon with the event of the fork, and the child runs from then on. A daemon
 * that is killed before it has given it to its holder takes it along, and the child would read zeros. So the child
 * asks, and looks whether what it has of the view, wherever that lies by now, is still watched; if not, it has itself
 * served anew. A child that runs no handlers does not have the view.
 *
 * Owns: a process-wide list of views, under a lock that is held over fork(2), as that of keep.h.
 */
#ifndef MNW_CLIENT_FOLLOWED_H
#define MNW_CLIENT_FOLLOWED_H

struct mnw_client_view;

struct mnw__followed {
    struct mnw__followed *next;
    const struct mnw_client_view *view;
};

/* A view that is served, and advised MADV_DONTFORK: a child has it only by fork(2), which runs our handlers. */
void mnw__followed_add(struct mnw__followed *followed, const struct mnw_client_view *view);
void mnw__followed_remove(struct mnw__followed *followed);

#endif
