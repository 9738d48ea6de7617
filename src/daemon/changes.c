/* SPDX-License-Identifier: MIT */
/*
 * What consumers do to their views without asking: they fork, move and tear their mappings, and end.
 *
 * The loop's. Of a child made by fork(2) nobody but the worker has the userfaultfd: closed, the child would read
 * zeros. So it is with the holder before anything else is done, the worker closes it only when all of its pages are
 * barred, and a child is served for as long as it lives, whatever becomes of its parent's session.
 */
#include "daemon/daemon.h"

#include "base/bits.h"
#include "base/error.h"
#include "sys/uffd.h"

#include <errno.h>
#include <stdlib.h>

/* Children of a view that came when there was no room for them any more. */
enum { REFUSED_MAX = 256 };

/* ---- where a view lies ---- */

static void note_ranges(struct mnw__daemon *daemon, const struct mnw__daemon_view *view) {
    struct mnw_view_range ranges[MNW__STATE_RANGES];
    if (view->record < 0)
        return;
    int count = mnw_view_ranges(view->view, ranges, MNW__STATE_RANGES);
    if (count >= 0)
        mnw__state_set_ranges(&daemon->state, (unsigned)view->record, ranges, (unsigned)count);
}

/* ---- children ---- */

static void link_child(struct mnw__daemon *daemon, struct mnw__daemon_view *view) {
    struct mnw__daemon_view **list = view->session ? &view->session->views : &daemon->orphans;
    view->next = *list;
    *list = view;
    view->image->views++;
    daemon->child_count++;
}

void mnw__changes_orphan(struct mnw__daemon *daemon, struct mnw__daemon_view *view) {
    mnw__views_unlink(&view->session->views, view);
    view->session = NULL;
    view->next = daemon->orphans;
    daemon->orphans = view;
}

/* From here on the record counts, with its descriptor: first the one, then the other. */
static int keep_child(struct mnw__daemon *daemon, struct mnw__daemon_view *view) {
    /* Who forks without end leaves room for the views of others. */
    int error = daemon->child_count > MNW__STATE_CHILDREN
                    ? mnw__fail(-ENOSPC, "there are %d children already", MNW__STATE_CHILDREN)
                    : mnw__views_take_record(daemon, view);
    if (error)
        return error;
    struct mnw__record_view *record = &daemon->state.views[view->record];
    char name[MNW__STATE_FDNAME_BYTES];
    note_ranges(daemon, view);
    mnw__state_validate(&record->record);
    mnw__views_fdname(daemon, view->record, name);
    return mnw__holding_store(&daemon->holding, name, mnw_view_fd(view->view), false);
}

/* At once: who asks whether all children are settled is told so when this has been done, too. Closing does the rest. */
static void bar_now(const struct mnw__daemon_view *view) {
    struct mnw_view_range ranges[MNW__STATE_RANGES];
    int count = mnw_view_ranges(view->view, ranges, MNW__STATE_RANGES);
    for (int i = 0; i < count && i < MNW__STATE_RANGES; i++)
        mnw__uffd_bar(mnw_view_fd(view->view), ranges[i].address, ranges[i].length_bytes, view->image->page_bytes);
}

/* Each child that is not served takes a descriptor for as long as it lives. Whoever goes on making them loses the view.
 */
static void count_refused(struct mnw__daemon *daemon, struct mnw__daemon_view *parent) {
    if (!parent || ++parent->refused <= REFUSED_MAX || parent->phase != MNW__VIEW_ATTACHED)
        return;
    if (parent->session && !parent->is_child)
        mnw__views_tell_detached(parent->session, parent->id, -EDQUOT);
    mnw__views_close(daemon, parent); /* telling may have done it */
}

/* A parent that is gone already (NULL) leaves an orphan. */
static struct mnw__daemon_view *add_child(struct mnw__daemon *daemon, struct mnw__daemon_view *parent,
                                          const struct mnw_event *event) {
    struct mnw__daemon_image *image = parent ? parent->image : mnw__image_of(daemon, event->cache);
    struct mnw__daemon_view *view = image ? calloc(1, sizeof(*view)) : NULL;
    if (!view) {
        mnw__daemon_log("out of memory: a child of a consumer is not served");
        mnw_view_close(event->view);
        return NULL;
    }
    *view = (struct mnw__daemon_view){
        .session = parent && parent->session && parent->session->fd >= 0 ? parent->session : NULL,
        .image = image,
        .view = event->view,
        .phase = MNW__VIEW_ATTACHED,
        .is_child = true,
        .record = -1,
        .cookie = event->cookie,
        .id = parent ? parent->id : 0,
        .flags = parent ? parent->flags : MNW_VIEW_WRITE,
    };
    if (parent) {
        view->address = parent->address;
        view->length = parent->length;
        view->offset = parent->offset;
    }
    link_child(daemon, view);
    int error = keep_child(daemon, view);
    if (!error)
        return view;
    mnw__daemon_log("the child of a consumer of '%s' is not served: %s", image->config->name, mnw__fail_message());
    bar_now(view);
    mnw__views_close(daemon, view);
    count_refused(daemon, parent);
    return NULL;
}

/* What the children of a session that is over have in common, as long as they are taken over. NULL: it is the first. */
static struct mnw_limit *find_limit(const struct mnw__daemon *daemon, const struct mnw__record_view *record) {
    for (const struct mnw__daemon_view *view = daemon->orphans; view; view = view->next) {
        const struct mnw__record_view *other = &daemon->state.views[view->record];
        if (other->session == record->session && other->session_serial == record->session_serial)
            return view->limit;
    }
    return NULL;
}

/* A limit that is closed is given to nobody: it stays open until all who may share it are there. */
static int limit_orphan(const struct mnw__daemon *daemon, const struct mnw__record_view *record,
                        struct mnw__daemon_view *view) {
    uint32_t per_second = (uint32_t)daemon->config->limits.faults_per_second;
    view->limit = find_limit(daemon, record);
    if (view->limit || !per_second)
        return 0;
    int error = mnw_limit_open(&view->limit, per_second);
    view->has_made_limit = !error;
    return error;
}

static void leave_limit(struct mnw__daemon_view *view) {
    if (view->has_made_limit)
        mnw_limit_close(view->limit); /* the views have it still */
    view->has_made_limit = false;
    view->limit = NULL;
}

void mnw__changes_end_adoption(struct mnw__daemon *daemon) {
    for (struct mnw__daemon_view *view = daemon->orphans; view; view = view->next)
        leave_limit(view);
}

int mnw__changes_adopt_child(struct mnw__daemon *daemon, struct mnw__session *session, unsigned index,
                             struct mnw__daemon_image *image, int uffd) {
    const struct mnw__record_view *record = &daemon->state.views[index];
    const struct mnw_view_range *ranges;
    unsigned count = mnw__state_get_ranges(&daemon->state, index, &ranges);
    struct mnw_attach_options options = {
        .size = sizeof(options),
        .uffd = uffd,
        .flags = (record->flags & MNW_VIEW_WRITE) | MNW_VIEW_FORKED,
        .cookie = mnw__views_cookie(daemon, (uid_t)(record->user - 1)),
        .ranges = ranges,
        .range_count = count,
    };
    if (!count)
        return mnw__fail(-ESRCH, "it has unmapped all of it");
    struct mnw__daemon_view *view = calloc(1, sizeof(*view));
    if (!view)
        return mnw__fail(-ENOMEM, "the daemon is out of memory");
    *view = (struct mnw__daemon_view){.session = session,
                                      .image = image,
                                      .phase = MNW__VIEW_ATTACHED,
                                      .is_child = true,
                                      .record = (int)index,
                                      .cookie = options.cookie,
                                      .id = record->id,
                                      .flags = record->flags & MNW_VIEW_WRITE,
                                      .address = record->address,
                                      .length = record->length,
                                      .offset = record->offset};
    int error = session ? 0 : limit_orphan(daemon, record, view);
    options.limit = session ? session->limit : view->limit;
    if (!error)
        error = mnw_view_attach(&view->view, image->cache, &options);
    if (error) {
        leave_limit(view);
        free(view);
        return error;
    }
    link_child(daemon, view);
    note_ranges(daemon, view); /* what it has unmapped while nobody looked is left out */
    return 0;
}

/* ---- events ---- */

/*
 * By its cookie too, which its children share: another view may have got the memory, and so the name, of one that was
 * closed. `wanted` NULL: the one whose lane attaches still, and has not told the name yet.
 */
static bool is_it(const struct mnw__daemon_view *view, const struct mnw_view *wanted, uint64_t cookie) {
    if (view->cookie != cookie || view->phase == MNW__VIEW_DETACHING)
        return false;
    if (view->phase == MNW__VIEW_ATTACHING)
        return !wanted && !view->is_child;
    return wanted && view->view == wanted;
}

static struct mnw__daemon_view *search(struct mnw__daemon *daemon, const struct mnw_view *wanted, uint64_t cookie) {
    struct mnw__session *lists[] = {daemon->sessions, daemon->dead};
    for (unsigned i = 0; i < 2; i++)
        for (struct mnw__session *session = lists[i]; session; session = session->next)
            for (struct mnw__daemon_view *view = session->views; view; view = view->next)
                if (is_it(view, wanted, cookie))
                    return view;
    for (struct mnw__daemon_view *view = daemon->orphans; view; view = view->next)
        if (is_it(view, wanted, cookie))
            return view;
    return NULL;
}

/* By its name wherever it is, before a parent that attaches still is taken for it: a child may be an orphan already. */
static struct mnw__daemon_view *find(struct mnw__daemon *daemon, const struct mnw_view *wanted, uint64_t cookie) {
    struct mnw__daemon_view *view = search(daemon, wanted, cookie);
    return view ? view : search(daemon, NULL, cookie);
}

void mnw__changes_catch_up(struct mnw__daemon *daemon, struct mnw__daemon_view *view) {
    unsigned changes = view->changes;
    if (view->phase != MNW__VIEW_ATTACHED)
        return;
    view->changes = 0;
    if (changes & MNW_VIEW_CHANGED_RANGES)
        note_ranges(daemon, view);
    if (!(changes & MNW_VIEW_CHANGED_DEAD))
        return;
    if (view->session && !view->is_child)
        mnw__views_tell_detached(view->session, view->id, -ESRCH);
    mnw__views_end(daemon, view);
}

/* Views are told of in turn, each once: who comes again has let all pass that were there when it came before. */
static void note_turn(struct mnw__daemon *daemon, struct mnw__daemon_pool *pool, struct mnw__daemon_view *view) {
    pool->passed = mnw__max(pool->passed, view->seen);
    view->seen = daemon->ticks;
}

void mnw__changes_take(struct mnw__daemon *daemon, struct mnw__daemon_pool *pool, const struct mnw_event *event) {
    struct mnw__daemon_view *view;
    if (event->changes & MNW_VIEW_CHANGED_FORKED)
        view = add_child(daemon, find(daemon, event->parent, event->cookie), event);
    else
        view = find(daemon, event->view, event->cookie);
    if (!view)
        return; /* it is being closed */
    note_turn(daemon, pool, view);
    view->changes |= event->changes;
    mnw__changes_catch_up(daemon, view);
}

/* ---- settling ---- */

static void meet(const struct mnw__daemon_view *view) {
    for (; view; view = view->next)
        if (view->phase == MNW__VIEW_ATTACHED || view->phase == MNW__VIEW_SAVING)
            mnw_view_ranges(view->view, NULL, 0);
}

/* Who closes a view reads of its last forks, and bars those children. A child's is closed when no process has it. */
static bool is_closing(const struct mnw__daemon_view *view, uint64_t since) {
    for (; view; view = view->next)
        if (!view->is_child && view->phase == MNW__VIEW_DETACHING && view->closing < since)
            return true;
    return false;
}

static bool is_settled(const struct mnw__daemon *daemon, uint64_t since) {
    const struct mnw__session *lists[] = {daemon->sessions, daemon->dead};
    for (unsigned i = 0; i < daemon->pool_count; i++)
        if (daemon->pools[i].passed < since)
            return false;
    for (unsigned i = 0; i < 2; i++)
        for (const struct mnw__session *session = lists[i]; session; session = session->next)
            if (is_closing(session->views, since))
                return false;
    return true;
}

/*
 * A fault thread reads of a fork, and tells of it, while it holds the parent's view; asking where a view lies waits
 * for that. So whoever was forked before we were asked is among the events now. They are taken in portions, so that
 * nobody who forks or changes its mapping without end keeps the loop from others.
 */
void mnw__changes_settle(struct mnw__work *work) {
    struct mnw__daemon *daemon = work->daemon;
    const struct mnw__session *lists[] = {daemon->sessions, daemon->dead};
    for (unsigned i = 0; i < 2; i++)
        for (const struct mnw__session *session = lists[i]; session; session = session->next)
            meet(session->views);
    meet(daemon->orphans);
    work->number = ++daemon->ticks;
    work->next_waiting = daemon->waiting;
    daemon->waiting = work;
    mnw__changes_go_on(daemon);
}

void mnw__changes_go_on(struct mnw__daemon *daemon) {
    for (unsigned i = 0; i < daemon->pool_count && daemon->waiting; i++)
        mnw__daemon_take_events(&daemon->pools[i], daemon, MNW__EVENTS_A_TURN);
    for (struct mnw__work **link = &daemon->waiting; *link;) {
        struct mnw__work *work = *link;
        if (!is_settled(daemon, work->number)) {
            link = &work->next_waiting;
            continue;
        }
        *link = work->next_waiting;
        work->done(work);
        mnw__work_free(work);
    }
}
