/* SPDX-License-Identifier: MIT */
/* Requests on their way through a lane, and their answers. The loop makes, finishes and frees; lanes run. */
#include "daemon/daemon.h"

#include "base/bits.h"
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct mnw__work *mnw__work_new_for(struct mnw__daemon *daemon) {
    struct mnw__work *work = calloc(1, sizeof(*work));
    if (!work) {
        mnw__fail(-ENOMEM, "the daemon is out of memory");
        return NULL;
    }
    work->daemon = daemon;
    work->fd = -1;
    daemon->works++;
    return work;
}

struct mnw__work *mnw__work_new(struct mnw__session *session, const struct mnw__wire_packet *request) {
    struct mnw__work *work = mnw__work_new_for(session->daemon);
    if (!work)
        return NULL;
    work->session = session;
    session->works++;
    work->next_of_session = session->first_work;
    session->first_work = work;
    if (request) {
        work->type = (enum mnw__wire_type)request->header.type;
        work->request = request->header.request;
        session->requests++;
    }
    return work;
}

static void enter(struct mnw__task *task) {
    struct mnw__work *work = mnw__container_of(task, struct mnw__work, task);
    work->run(work);
}

void mnw__work_start(struct mnw__work *work, struct mnw__lane *lane, void (*run)(struct mnw__work *work),
                     void (*done)(struct mnw__work *work)) {
    work->run = run;
    work->done = done;
    work->task = (struct mnw__task){.run = enter, .owner = work->owner ? work->owner : work->session};
    mnw__lane_add(lane, &work->task);
}

void mnw__work_end(struct mnw__work *work, int result) {
    work->result = result;
    if (result < 0)
        snprintf(work->message, sizeof(work->message), "%s", mnw_error());
}

bool mnw__work_is_under_way(const struct mnw__session *session, const struct mnw__wire_packet *request) {
    for (const struct mnw__work *work = session->first_work; work; work = work->next_of_session)
        if (work->request == request->header.request && work->type == (enum mnw__wire_type)request->header.type)
            return true;
    return false;
}

static void unlink_from_session(const struct mnw__work *work) {
    for (struct mnw__work **link = &work->session->first_work; *link; link = &(*link)->next_of_session)
        if (*link == work) {
            *link = work->next_of_session;
            return;
        }
}

void mnw__work_free(struct mnw__work *work) {
    if (work->session) {
        unlink_from_session(work);
        work->session->works--;
        if (work->request)
            work->session->requests--;
        mnw__session_rewatch(work->session);
    }
    work->daemon->works--;
    if (work->fd >= 0)
        close(work->fd);
    free(work);
}

void mnw__work_answer_with(struct mnw__work *work, struct mnw__wire_packet *packet, size_t body_bytes, int fd) {
    if (!work->session || !work->request)
        return;
    if (!work->result) {
        mnw__request_answer(work->session, packet, work->type, work->request, body_bytes, fd);
        return;
    }
    struct mnw__wire_packet request = {.header = {.type = (uint16_t)work->type, .request = work->request}};
    mnw__fail(work->result, "%s", work->message);
    mnw__request_refuse(work->session, &request, work->result);
}

void mnw__work_answer(struct mnw__work *work) {
    struct mnw__wire_packet packet;
    mnw__work_answer_with(work, &packet, 0, -1);
}

void mnw__work_collect(struct mnw__daemon *daemon) {
    struct mnw__task *next, *task = mnw__finished_take(&daemon->finished);
    for (; task; task = next) {
        struct mnw__work *work = mnw__container_of(task, struct mnw__work, task);
        next = task->next;
        work->done(work);
        mnw__work_free(work);
    }
}
