/* SPDX-License-Identifier: MIT */
/*
 * Views of peers: attach, detach, working sets. What consumers do to their mappings is in changes.c.
 *
 * The loop's. Attaching and closing ask the kernel about the consumer's memory, which a consumer can delay: lanes do
 * it.
 *
 * Order at attach: tentative record, descriptor with the holder, faults served, record valid, answer. Killed in
 * between, the consumer has no answer and asks again. At detach the record goes first.
 */
#include "daemon/daemon.h"

#include "base/bits.h"
#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- records ---- */

void mnw__views_fdname(const struct mnw__daemon *daemon, int record, char name[MNW__STATE_FDNAME_BYTES]) {
    const struct mnw__record_view *view = &daemon->state.views[record];
    mnw__state_fdname(name, view->is_child ? "child" : "view", (unsigned)record, view->record.serial);
}

/* Forked, or attached as a child, or about to be. */
static bool is_counted_child(const struct mnw__daemon_view *view) {
    return view->is_child || view->flags & MNW__WIRE_ATTACH_CHILD;
}

void mnw__views_forget_record(struct mnw__daemon *daemon, int record) {
    char name[MNW__STATE_FDNAME_BYTES];
    if (record < 0)
        return;
    mnw__views_fdname(daemon, record, name);
    mnw__state_free(&daemon->state.views[record].record);
    mnw__holding_remove(&daemon->holding, name);
}

int mnw__views_take_record(struct mnw__daemon *daemon, struct mnw__daemon_view *view) {
    struct mnw__state *state = &daemon->state;
    int index = mnw__state_take(state, state->views, sizeof(*state->views), MNW__STATE_VIEWS);
    if (index < 0)
        return index;
    struct mnw__record_view *record = &state->views[index];
    record->session = view->session ? (uint32_t)view->session->record : UINT32_MAX;
    record->session_serial = view->session ? state->sessions[view->session->record].record.serial : 0;
    record->image = (uint32_t)view->image->record;
    record->is_child = is_counted_child(view);
    record->page_bytes = view->image->page_bytes;
    record->user = (uint32_t)mnw__views_user(view) + 1;
    record->id = view->id;
    record->flags = view->flags & MNW_VIEW_WRITE;
    record->address = view->address;
    record->length = view->length;
    record->offset = view->offset;
    mnw__state_set_ranges(state, (unsigned)index, NULL, 0);
    view->record = index;
    return 0;
}

uint64_t mnw__views_cookie(struct mnw__daemon *daemon, uid_t user) {
    return (uint64_t)user << 32 | (uint32_t)++daemon->last_key;
}

/* ---- the list of a session ---- */

static struct mnw__daemon_view *find(const struct mnw__session *session, uint32_t id) {
    for (struct mnw__daemon_view *view = session->views; view; view = view->next)
        if (view->id == id && !view->is_child)
            return view;
    return NULL;
}

void mnw__views_unlink(struct mnw__daemon_view **list, const struct mnw__daemon_view *view) {
    for (struct mnw__daemon_view **link = list; *link; link = &(*link)->next)
        if (*link == view) {
            *link = view->next;
            return;
        }
}

static struct mnw__daemon_view *add(struct mnw__session *session, struct mnw__daemon_image *image,
                                    const struct mnw__wire_attach *attach) {
    struct mnw__daemon_view *view = malloc(sizeof(*view));
    if (!view) {
        mnw__fail(-ENOMEM, "the daemon is out of memory");
        return NULL;
    }
    *view = (struct mnw__daemon_view){.next = session->views,
                                      .session = session,
                                      .image = image,
                                      .record = -1,
                                      .cookie = mnw__views_cookie(session->daemon, session->peer.uid),
                                      .id = attach->view,
                                      .flags = attach->flags,
                                      .address = attach->address,
                                      .length = attach->length,
                                      .offset = attach->offset};
    session->views = view;
    session->view_count++;
    session->view_bytes += view->length;
    session->daemon->child_count += is_counted_child(view); /* from now on, however long attaching takes */
    image->views++;
    return view;
}

static void free_view(struct mnw__daemon *daemon, struct mnw__daemon_view *view) {
    struct mnw__session *session = view->session;
    mnw__views_unlink(session ? &session->views : &daemon->orphans, view);
    if (session && !view->is_child) {
        session->view_count--;
        session->view_bytes -= view->length;
    }
    view->image->views--;
    daemon->child_count -= is_counted_child(view);
    mnw__views_forget_record(daemon, view->record);
    free(view);
}

/* ---- detach ---- */

static void run_close(struct mnw__work *work) {
    mnw__work_end(work, mnw_view_close(work->view->view));
}

static void close_done(struct mnw__work *work) {
    if (work->result)
        mnw__daemon_log("closing a view of '%s': %s", work->view->image->config->name, work->message);
    free_view(work->daemon, work->view);
    mnw__work_answer(work);
}

/* `packet` NULL: nobody asked. False: out of memory; nothing has changed. */
static bool begin_close(struct mnw__daemon *daemon, struct mnw__daemon_view *view,
                        const struct mnw__wire_packet *packet) {
    struct mnw__work *work = view->session ? mnw__work_new(view->session, packet) : mnw__work_new_for(daemon);
    if (!work)
        return false;
    view->phase = MNW__VIEW_DETACHING;
    view->closing = ++daemon->ticks;
    /* A child stays on record until its pages are barred. */
    if (view->record >= 0 && !view->is_child)
        atomic_store_explicit(&daemon->state.views[view->record].record.state, MNW__RECORD_TENTATIVE,
                              memory_order_release);
    work->view = view;
    mnw__work_start(work, &daemon->quick, run_close, close_done);
    return true;
}

void mnw__views_handle_detach(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    struct mnw__daemon_view *view = find(session, packet->view.view);
    int error = 0;
    if (!view)
        error = mnw__fail(-ENOENT, "there is no view %u in this session", packet->view.view);
    else if (view->phase != MNW__VIEW_ATTACHED)
        error = mnw__fail(-EBUSY, "view %u is being %s", view->id,
                          view->phase == MNW__VIEW_ATTACHING ? "attached" : "detached");
    else if (!begin_close(session->daemon, view, packet))
        error = -ENOMEM;
    if (error)
        mnw__request_refuse(session, packet, error);
}

/* Telling a peer may have ended its session, and so have begun this already: so it is with end(), too. */
void mnw__views_close(struct mnw__daemon *daemon, struct mnw__daemon_view *view) {
    if (view->phase != MNW__VIEW_ATTACHED)
        return;
    if (!begin_close(daemon, view, NULL))
        mnw__daemon_log("out of memory: a view of '%s' stays attached", view->image->config->name);
}

void mnw__views_drop_all(struct mnw__session *session) {
    struct mnw__daemon *daemon = session->daemon;
    for (struct mnw__daemon_view *next, *view = session->views; view; view = next) {
        next = view->next;
        if (view->is_child)
            mnw__changes_orphan(daemon, view);
        else if (view->phase == MNW__VIEW_ATTACHED)
            mnw__views_end(daemon, view);
    }
}

void mnw__views_drop_orphans(struct mnw__daemon *daemon) {
    for (struct mnw__daemon_view *view = daemon->orphans; view; view = view->next)
        if (view->phase == MNW__VIEW_ATTACHED)
            mnw__views_close(daemon, view);
}

void mnw__views_tell_detached(struct mnw__session *session, uint32_t id, int reason) {
    struct mnw__wire_packet packet;
    packet.event_detached = (struct mnw__wire_event_detached){.view = id, .reason = reason};
    mnw__session_put(session, &packet,
                     mnw__wire_seal(&packet, MNW__WIRE_EVENT_DETACHED, 0, sizeof(packet.event_detached)), -1);
}

/* ---- attach ---- */

/* `ranges`, if there are any, say better than the view where it lies by now. */
static int attach_now(struct mnw__daemon_view *view, int uffd, const struct mnw_view_range *ranges, unsigned count) {
    const struct mnw__session *session = view->session;
    struct mnw_attach_options options = {
        .size = sizeof(options),
        .offset_bytes = view->offset,
        .length_bytes = view->length,
        .address = view->address,
        .uffd = uffd,
        .flags = (view->flags & MNW_VIEW_WRITE) | (view->flags & MNW__WIRE_ATTACH_CHILD ? MNW_VIEW_FORKED : 0),
        .pid = session->peer.pid,
        .cookie = view->cookie,
        .ranges = ranges,
        .range_count = count,
        .limit = session->limit,
    };
    return mnw_view_attach(&view->view, view->image->cache, &options);
}

static void run_attach(struct mnw__work *work) {
    struct mnw__daemon_view *view = work->view;
    char name[MNW__STATE_FDNAME_BYTES];
    mnw__views_fdname(work->daemon, view->record, name);
    int error = mnw__holding_store(&work->daemon->holding, name, work->fd, true);
    mnw__work_end(work, error ? error : attach_now(view, work->fd, NULL, 0));
}

/* From now on it is a child's like those that forks have told of, and counts for no session. */
static void become_child(struct mnw__daemon_view *view) {
    view->session->view_count--;
    view->session->view_bytes -= view->length;
    view->is_child = true;
    view->changes |= MNW_VIEW_CHANGED_RANGES;
    mnw__changes_catch_up(view->session->daemon, view);
}

static void attach_done(struct mnw__work *work) {
    struct mnw__daemon_view *view = work->view;
    struct mnw__daemon *daemon = work->daemon;
    if (work->result) {
        free_view(daemon, view);
        mnw__work_answer(work);
        return;
    }
    view->phase = MNW__VIEW_ATTACHED;
    if (work->session->fd < 0) {
        mnw__views_close(daemon, view);
        return;
    }
    if (view->flags & MNW__WIRE_ATTACH_CHILD)
        become_child(view);
    mnw__state_validate(&daemon->state.views[view->record].record);
    mnw__work_answer(work);
    mnw__changes_catch_up(daemon, view);
}

static int check_limits(const struct mnw__session *session, uint64_t length) {
    const struct mnw__config_limits *limits = &session->daemon->config->limits;
    if (limits->views && session->view_count >= limits->views)
        return mnw__fail(-EDQUOT, "this session has %u views; the most is %llu (\"views\")", session->view_count,
                         (unsigned long long)limits->views);
    if (limits->bytes && (session->view_bytes > limits->bytes || length > limits->bytes - session->view_bytes))
        return mnw__fail(-EDQUOT, "a view of %llu bytes beside %llu: this session may have %llu (\"bytes\")",
                         (unsigned long long)length, (unsigned long long)session->view_bytes,
                         (unsigned long long)limits->bytes);
    return 0;
}

static int check_attach(const struct mnw__session *session, const struct mnw__daemon_image *image,
                        const struct mnw__wire_attach *attach) {
    const struct mnw__daemon_view *other = find(session, attach->view);
    if (other)
        return mnw__fail(other->phase == MNW__VIEW_ATTACHED ? -EEXIST : -EBUSY,
                         "there is a view %u in this session already", attach->view);
    if (attach->flags & ~(uint32_t)(MNW_VIEW_WRITE | MNW__WIRE_ATTACH_CHILD))
        return mnw__fail(-EINVAL, "view %u has flags 0x%x; only 0x%x is known", attach->view, attach->flags,
                         MNW_VIEW_WRITE | MNW__WIRE_ATTACH_CHILD);
    if (attach->flags & MNW__WIRE_ATTACH_CHILD && session->daemon->child_count >= MNW__STATE_CHILDREN)
        return mnw__fail(-EDQUOT, "there are %d children already", MNW__STATE_CHILDREN);
    if (!mnw__is_aligned(attach->address, image->page_bytes))
        return mnw__fail(-EINVAL, "address 0x%llx is not a multiple of the page of image '%s', %u",
                         (unsigned long long)attach->address, image->config->name, image->page_bytes);
    int error = mnw__request_check_range(image, attach->offset, attach->length);
    return error ? error : check_limits(session, attach->length);
}

/* The answer to an earlier request was lost with a worker. */
static bool is_attached_so(const struct mnw__session *session, const struct mnw__daemon_image *image,
                           const struct mnw__wire_attach *attach) {
    const struct mnw__daemon_view *view = find(session, attach->view);
    return view && view->phase == MNW__VIEW_ATTACHED && view->image == image && view->flags == attach->flags &&
           view->address == attach->address && view->length == attach->length && view->offset == attach->offset;
}

/* A tentative view, with its record; NULL with a message and `*error`. */
static struct mnw__daemon_view *new_view(struct mnw__session *session, struct mnw__daemon_image *image,
                                         const struct mnw__wire_attach *attach, int *error) {
    *error = check_attach(session, image, attach);
    struct mnw__daemon_view *view = *error ? NULL : add(session, image, attach);
    if (!view) {
        *error = *error ? *error : -ENOMEM;
        return NULL;
    }
    *error = mnw__views_take_record(session->daemon, view);
    if (!*error)
        return view;
    free_view(session->daemon, view);
    return NULL;
}

void mnw__views_handle_attach(struct mnw__session *session, const struct mnw__wire_packet *packet, int uffd) {
    struct mnw__daemon_view *view = NULL;
    struct mnw__wire_packet answer;
    int error = 0;
    struct mnw__daemon_image *image = mnw__request_image(session, packet->attach.image, &error);
    if (image && is_attached_so(session, image, &packet->attach)) {
        mnw__request_answer(session, &answer, MNW__WIRE_ATTACH, packet->header.request, 0, -1);
        close(uffd);
        return;
    }
    if (image)
        view = new_view(session, image, &packet->attach, &error);
    struct mnw__work *work = view ? mnw__work_new(session, packet) : NULL;
    if (!work) {
        mnw__request_refuse(session, packet, error ? error : -ENOMEM);
        if (view)
            free_view(session->daemon, view);
        close(uffd);
        return;
    }
    work->view = view;
    work->image = image;
    work->fd = uffd;
    mnw__work_start(work, &session->daemon->quick, run_attach, attach_done);
}

/* The next worker has to know; what is noted until then goes with this one, unless it is saved. */
static int set_recording(struct mnw__daemon_view *view, bool on) {
    if (on && view->is_recording)
        return 0; /* asked for again, because the answer was lost: what was noted stays */
    int error = mnw_view_record(view->view, on);
    view->is_recording = on && !error;
    view->session->daemon->state.views[view->record].is_recording = view->is_recording;
    return error;
}

int mnw__views_adopt(struct mnw__session *session, int record, struct mnw__daemon_image *image, int uffd) {
    const struct mnw__record_view *kept = &session->daemon->state.views[record];
    struct mnw__wire_attach attach = {.view = kept->id,
                                      .flags = kept->flags & MNW_VIEW_WRITE,
                                      .address = kept->address,
                                      .length = kept->length,
                                      .offset = kept->offset};
    int error = check_attach(session, image, &attach);
    struct mnw__daemon_view *view = error ? NULL : add(session, image, &attach);
    if (!view)
        return error ? error : -ENOMEM;
    view->record = record;
    const struct mnw_view_range *ranges;
    unsigned count = mnw__state_get_ranges(&session->daemon->state, (unsigned)record, &ranges);
    error = attach_now(view, uffd, ranges, count);
    if (error) {
        view->record = -1; /* the caller forgets it */
        free_view(session->daemon, view);
        return error;
    }
    view->phase = MNW__VIEW_ATTACHED;
    if (kept->is_recording && set_recording(view, true))
        mnw__daemon_log("view %u of session %u is recorded no more: %s", view->id, kept->session, mnw_error());
    return 0;
}

/* ---- working sets ---- */

static void run_save(struct mnw__work *work) {
    int64_t pages =
        mnw_view_save_working_set(work->view->view, work->image->config->working_set, MNW_WORKING_SET_UNION);
    mnw__work_end(work, pages < 0 ? (int)pages : 0);
}

static void save_done(struct mnw__work *work) {
    struct mnw__daemon_view *view = work->view;
    view->phase = MNW__VIEW_ATTACHED;
    if (work->result && !work->request)
        mnw__daemon_log("the working set of '%s' is not saved: %s", view->image->config->name, work->message);
    mnw__work_answer(work);
    if (view->is_ending || work->session->fd < 0)
        mnw__views_close(work->daemon, view);
    else
        mnw__changes_catch_up(work->daemon, view);
}

/* While it is saved the view is kept from being closed. `packet` NULL: nobody asked. */
static int begin_save(struct mnw__session *session, struct mnw__daemon_view *view,
                      const struct mnw__wire_packet *packet) {
    if (!view->image->config->working_set)
        return mnw__fail(-EINVAL,
                         "image '%s' has no place for its working set; its configuration may name one "
                         "(\"working_set\")",
                         view->image->config->name);
    struct mnw__work *work = mnw__work_new(session, packet);
    if (!work)
        return -ENOMEM;
    work->view = view;
    work->image = view->image;
    /* What is saved is united with what is there: one after the other, whichever image it is of. */
    work->owner = view->image->config->working_set_first;
    view->phase = MNW__VIEW_SAVING;
    mnw__work_start(work, &session->daemon->slow, run_save, save_done);
    return 0;
}

void mnw__views_save_all(struct mnw__daemon *daemon) {
    for (const struct mnw__session *session = daemon->sessions; session; session = session->next)
        for (struct mnw__daemon_view *view = session->views; view; view = view->next)
            if (view->is_recording && view->phase == MNW__VIEW_ATTACHED && view->image->config->working_set)
                begin_save(view->session, view, NULL);
}

unsigned mnw__views_saving(const struct mnw__daemon *daemon) {
    const struct mnw__session *lists[] = {daemon->sessions, daemon->dead};
    unsigned count = 0;
    for (unsigned i = 0; i < 2; i++)
        for (const struct mnw__session *session = lists[i]; session; session = session->next)
            for (const struct mnw__daemon_view *view = session->views; view; view = view->next)
                count += view->phase == MNW__VIEW_SAVING;
    return count;
}

void mnw__views_end(struct mnw__daemon *daemon, struct mnw__daemon_view *view) {
    if (view->phase != MNW__VIEW_ATTACHED)
        return;
    view->is_ending = true;
    if (!view->is_recording || !view->image->config->working_set || begin_save(view->session, view, NULL))
        mnw__views_close(daemon, view);
}

void mnw__views_handle_record(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    struct mnw__daemon_view *view = find(session, packet->working_set.view);
    bool start = packet->working_set.action == MNW__WIRE_RECORD_START;
    struct mnw__wire_packet answer;
    int error = 0;
    if (!view || view->phase != MNW__VIEW_ATTACHED)
        error = mnw__fail(view ? -EBUSY : -ENOENT, "view %u of this session %s", packet->working_set.view,
                          view ? "is being attached, detached or saved" : "does not exist");
    if (!error && packet->working_set.action == MNW__WIRE_RECORD_SAVE) {
        error = begin_save(session, view, packet);
        if (!error)
            return;
    } else if (!error) {
        error = set_recording(view, start);
    }
    if (error)
        mnw__request_refuse(session, packet, error);
    else
        mnw__request_answer(session, &answer, MNW__WIRE_RECORD, packet->header.request, 0, -1);
}
