/* SPDX-License-Identifier: MIT */
/* Prefetches of peers, from the request to the event that ends them. The loop's; the library reads by itself. */
#include "daemon/daemon.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>

static struct mnw__daemon_prefetch *find(const struct mnw__session *session, uint64_t cookie) {
    for (struct mnw__daemon_prefetch *found = session->daemon->prefetches; found; found = found->next)
        if (found->session == session && found->cookie == cookie)
            return found;
    return NULL;
}

static void remove_one(struct mnw__daemon *daemon, struct mnw__daemon_prefetch *prefetch) {
    for (struct mnw__daemon_prefetch **link = &daemon->prefetches; *link; link = &(*link)->next)
        if (*link == prefetch) {
            *link = prefetch->next;
            break;
        }
    if (prefetch->session)
        prefetch->session->prefetch_count--;
    free(prefetch);
}

static int check(const struct mnw__session *session, uint64_t cookie) {
    uint64_t most = session->daemon->config->limits.prefetches;
    if (find(session, cookie))
        return mnw__fail(-EEXIST, "a prefetch %llu of this session runs already", (unsigned long long)cookie);
    if (session->prefetch_count >= most)
        return mnw__fail(-EAGAIN, "%u prefetches of this session run already; the most is %llu (\"prefetches\")",
                         session->prefetch_count, (unsigned long long)most);
    return 0;
}

static struct mnw__daemon_prefetch *add(struct mnw__session *session, struct mnw__daemon_image *image,
                                        uint64_t cookie) {
    struct mnw__daemon *daemon = session->daemon;
    struct mnw__daemon_prefetch *prefetch = malloc(sizeof(*prefetch));
    if (!prefetch) {
        mnw__fail(-ENOMEM, "the daemon is out of memory");
        return NULL;
    }
    *prefetch = (struct mnw__daemon_prefetch){
        .next = daemon->prefetches, .session = session, .image = image, .key = ++daemon->last_key, .cookie = cookie};
    daemon->prefetches = prefetch;
    session->prefetch_count++;
    return prefetch;
}

void mnw__prefetch_handle(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    const struct mnw__wire_range *range = &packet->range;
    struct mnw__daemon_prefetch *prefetch = NULL;
    struct mnw__wire_packet answer;
    int error = 0;
    struct mnw__daemon_image *image = mnw__request_image(session, range->image, &error);
    if (image)
        error = mnw__request_check_range(image, range->offset, range->length);
    if (!error)
        error = check(session, range->cookie);
    if (!error && !(prefetch = add(session, image, range->cookie)))
        error = -ENOMEM;
    if (prefetch) {
        prefetch->id = mnw_prefetch(image->cache, range->offset, range->length, prefetch->key);
        error = prefetch->id < 0 ? (int)prefetch->id : 0;
    }
    if (!error) {
        mnw__request_answer(session, &answer, MNW__WIRE_PREFETCH, packet->header.request, 0, -1);
        return;
    }
    mnw__request_refuse(session, packet, error);
    if (prefetch)
        remove_one(session->daemon, prefetch);
}

void mnw__prefetch_handle_cancel(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    struct mnw__daemon_prefetch *prefetch = find(session, packet->cookie.cookie);
    struct mnw__wire_packet answer;
    int error = prefetch && !prefetch->is_starting ? mnw_prefetch_cancel(prefetch->image->pool->pool, prefetch->id)
                                                   : mnw__fail(-ENOENT, "no prefetch %llu of this session runs",
                                                               (unsigned long long)packet->cookie.cookie);
    if (error)
        mnw__request_refuse(session, packet, error);
    else
        mnw__request_answer(session, &answer, MNW__WIRE_CANCEL, packet->header.request, 0, -1);
}

/* Its answer has been sent: an event never comes before it. */
static void tell_ended(struct mnw__daemon *daemon, struct mnw__daemon_prefetch *prefetch) {
    struct mnw__session *session = prefetch->session;
    struct mnw__wire_packet packet;
    packet.event_prefetch = (struct mnw__wire_event_prefetch){.result = prefetch->result,
                                                              .image = (uint32_t)prefetch->image->record + 1,
                                                              .cookie = prefetch->cookie,
                                                              .pages_failed = prefetch->pages_failed};
    remove_one(daemon, prefetch);
    if (session)
        mnw__session_put(session, &packet,
                         mnw__wire_seal(&packet, MNW__WIRE_EVENT_PREFETCH, 0, sizeof(packet.event_prefetch)), -1);
}

void mnw__prefetch_ended(struct mnw__daemon *daemon, const struct mnw_event *event) {
    struct mnw__daemon_prefetch *prefetch = daemon->prefetches;
    while (prefetch && prefetch->key != event->cookie)
        prefetch = prefetch->next;
    if (!prefetch)
        return;
    prefetch->is_ended = true;
    prefetch->result = event->result;
    prefetch->pages_failed = event->pages_failed;
    if (!prefetch->is_starting)
        tell_ended(daemon, prefetch);
}

/* They stay in the list until their event has come: the library's table is full of them until then. */
void mnw__prefetch_drop_all(struct mnw__session *session) {
    for (struct mnw__daemon_prefetch *one = session->daemon->prefetches; one; one = one->next) {
        if (one->session != session)
            continue;
        if (!one->is_starting)
            mnw_prefetch_cancel(one->image->pool->pool, one->id);
        one->session = NULL;
        session->prefetch_count--;
    }
}

/* ---- working sets ---- */

static void run_replay(struct mnw__work *work) {
    struct mnw__daemon_prefetch *prefetch = work->prefetch;
    prefetch->id = mnw_cache_replay(work->image->cache, work->image->config->working_set, prefetch->key);
    mnw__work_end(work, prefetch->id < 0 ? (int)prefetch->id : 0);
}

static void replay_done(struct mnw__work *work) {
    struct mnw__daemon_prefetch *prefetch = work->prefetch;
    prefetch->is_starting = false;
    mnw__work_answer(work);
    if (work->result)
        remove_one(work->daemon, prefetch);
    else if (prefetch->is_ended)
        tell_ended(work->daemon, prefetch);
    else if (!prefetch->session)
        mnw_prefetch_cancel(prefetch->image->pool->pool, prefetch->id);
}

void mnw__prefetch_handle_replay(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    struct mnw__daemon_prefetch *prefetch = NULL;
    int error = 0;
    struct mnw__daemon_image *image = mnw__request_image(session, packet->working_set.image, &error);
    if (image && !image->config->working_set)
        error = mnw__fail(-ENOENT, "image '%s' has no place for a working set; its configuration may name one",
                          image->config->name);
    if (!error)
        error = check(session, packet->working_set.cookie);
    if (!error && !(prefetch = add(session, image, packet->working_set.cookie)))
        error = -ENOMEM;
    struct mnw__work *work = prefetch ? mnw__work_new(session, packet) : NULL;
    if (!work) {
        mnw__request_refuse(session, packet, error ? error : -ENOMEM);
        if (prefetch)
            remove_one(session->daemon, prefetch);
        return;
    }
    prefetch->is_starting = true;
    work->image = image;
    work->prefetch = prefetch;
    mnw__work_start(work, &session->daemon->slow, run_replay, replay_done);
}
