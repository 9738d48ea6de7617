/* SPDX-License-Identifier: MIT */
/*
 * What a child of a consumer asks for before it runs, so that it never reads zeros: duplicates of its userfaultfds,
 * which only we and our holder have, and a descriptor that tells when both of us have ended.
 *
 * The loop's. That descriptor is the end of a pipe whose other end we have, every worker after us, and the holder.
 */
#include "daemon/daemon.h"

#include "base/error.h"
#include "sys/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define END_READ  "end.read"
#define END_WRITE "end.write"

int mnw__claims_open(struct mnw__daemon *daemon) {
    daemon->ends[0] = mnw__holding_take(&daemon->holding, END_READ);
    daemon->ends[1] = mnw__holding_take(&daemon->holding, END_WRITE);
    if (daemon->ends[0] >= 0 && daemon->ends[1] >= 0)
        return 0;
    mnw__claims_close(daemon); /* whoever stored one has shown it to nobody before the other was stored */
    if (pipe2(daemon->ends, O_CLOEXEC | O_NONBLOCK))
        return mnw__fail(-errno, "making the pipe by which children see our end: %s; raise ulimit -n", strerror(errno));
    int error = mnw__holding_store(&daemon->holding, END_READ, daemon->ends[0], false);
    return error ? error : mnw__holding_store(&daemon->holding, END_WRITE, daemon->ends[1], true);
}

void mnw__claims_close(struct mnw__daemon *daemon) {
    mnw__holding_remove(&daemon->holding, END_READ);
    mnw__holding_remove(&daemon->holding, END_WRITE);
    for (unsigned i = 0; i < 2; i++)
        if (daemon->ends[i] >= 0)
            close(daemon->ends[i]);
}

void mnw__claims_handle_end(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    struct mnw__wire_packet answer;
    mnw__request_answer(session, &answer, MNW__WIRE_END, packet->header.request, 0, session->daemon->ends[0]);
}

/*
 * Nobody else has something watched just there, and nothing behind it. Whoever asks is of the user that forked: what
 * such a process could guess, it could as well look at.
 */
static bool is_its(const struct mnw__daemon_view *view, const struct mnw__session *session,
                   const struct mnw__wire_claim *claim) {
    if (!view->is_child || view->is_claimed || view->phase != MNW__VIEW_ATTACHED ||
        mnw__views_user(view) != session->peer.uid)
        return false;
    int fd = mnw_view_fd(view->view);
    return mnw__uffd_is_one_mapping(fd, claim->address, claim->length) == 1 &&
           mnw__uffd_is_one_mapping(fd, claim->address + claim->length, claim->length) == 0;
}

static struct mnw__daemon_view *find(struct mnw__daemon_view *view, const struct mnw__session *session,
                                     const struct mnw__wire_claim *claim) {
    while (view && !is_its(view, session, claim))
        view = view->next;
    return view;
}

void mnw__claims_handle(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    struct mnw__daemon *daemon = session->daemon;
    struct mnw__wire_packet answer;
    struct mnw__daemon_view *view = find(daemon->orphans, session, &packet->claim);
    for (const struct mnw__session *other = daemon->sessions; other && !view; other = other->next)
        view = find(other->views, session, &packet->claim);
    if (!view) {
        int error = mnw__fail(-ENOENT, "no child that nobody has claimed is watched at address 0x%llx",
                              (unsigned long long)packet->claim.address);
        mnw__request_refuse(session, packet, error);
        return;
    }
    view->is_claimed = true; /* a link that breaks before this arrives is an end for its asker */
    mnw__request_answer(session, &answer, MNW__WIRE_CLAIM, packet->header.request, 0, mnw_view_fd(view->view));
}
