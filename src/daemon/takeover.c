/* SPDX-License-Identifier: MIT */
/*
 * Taking over: a worker starts where another one ended, however that was. The loop's, before it turns.
 *
 * What counts is what the holder has: the records say what the descriptors mean, the descriptors that the records are
 * true. One without the other is dropped. Images come first, then the views of each session, whose waiting faults are
 * served from that moment, then the word to the peers.
 */
#include "daemon/daemon.h"

#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* The descriptor of a record, under the name that its serial gives. */
static int take_fd(struct mnw__daemon *daemon, const char *kind, unsigned index, const struct mnw__record *record) {
    char name[MNW__STATE_FDNAME_BYTES];
    mnw__state_fdname(name, kind, index, record->serial);
    return mnw__holding_take(&daemon->holding, name);
}

static void drop_fd(struct mnw__daemon *daemon, const char *kind, unsigned index, const struct mnw__record *record,
                    int fd) {
    char name[MNW__STATE_FDNAME_BYTES];
    mnw__state_fdname(name, kind, index, record->serial);
    mnw__holding_remove(&daemon->holding, name);
    if (fd >= 0)
        close(fd);
}

/* ---- images ---- */

static struct mnw__daemon_image *find_image(struct mnw__daemon *daemon, const struct mnw__record_image *record) {
    for (unsigned i = 0; i < daemon->image_count; i++)
        if (!strncmp(daemon->images[i].config->name, record->name, sizeof(record->name)) &&
            daemon->images[i].state == MNW__IMAGE_CLOSED)
            return &daemon->images[i];
    return NULL;
}

static int adopt_image(struct mnw__daemon *daemon, unsigned index, int pages, int words) {
    struct mnw__record_image *record = &daemon->state.images[index];
    struct mnw__daemon_image *image = find_image(daemon, record);
    struct mnw_kept kept = {.size = sizeof(kept), .backing_fd = pages, .words_fd = words};
    if (!image)
        return mnw__fail(-ENOENT, "it is not in the configuration any more");
    if (pages < 0)
        return mnw__fail(-ESTALE, "the holder has not kept its pages");
    int error = mnw__image_open(image, &kept);
    if (error)
        return mnw__fail(error, "%s", mnw_error());
    image->record = (int)index;
    image->state = MNW__IMAGE_OPEN;
    return words < 0 ? mnw__image_keep(daemon, image) : 0; /* it has new words now */
}

static void take_over_image(struct mnw__daemon *daemon, unsigned index) {
    struct mnw__record *record = &daemon->state.images[index].record;
    if (atomic_load(&record->state) == MNW__RECORD_FREE)
        return;
    int pages = take_fd(daemon, "pages", index, record), words = take_fd(daemon, "words", index, record);
    int error = mnw__state_is_valid(record) ? adopt_image(daemon, index, pages, words) : -ESTALE;
    if (!error) {
        if (pages >= 0)
            close(pages); /* the cache has its own */
        if (words >= 0)
            close(words);
        return;
    }
    if (mnw__state_is_valid(record))
        mnw__daemon_log("image '%.*s' is not taken over, and its views are lost: %s", MNW__WIRE_NAME_BYTES,
                        daemon->state.images[index].name, mnw__fail_message());
    drop_fd(daemon, "pages", index, record, pages);
    drop_fd(daemon, "words", index, record, words);
    mnw__state_free(record);
}

static struct mnw__daemon_image *image_of(struct mnw__daemon *daemon, uint32_t record) {
    for (unsigned i = 0; i < daemon->image_count; i++)
        if (daemon->images[i].state == MNW__IMAGE_OPEN && daemon->images[i].record == (int)record)
            return &daemon->images[i];
    return NULL;
}

/* ---- sessions, views, pins ---- */

static struct mnw__session *session_of(struct mnw__daemon *daemon, uint32_t index, uint32_t serial) {
    if (index >= MNW__STATE_SESSIONS || daemon->state.sessions[index].record.serial != serial)
        return NULL;
    for (struct mnw__session *session = daemon->sessions; session; session = session->next)
        if (session->record == (int)index)
            return session;
    return NULL;
}

static void take_over_session(struct mnw__daemon *daemon, unsigned index) {
    struct mnw__record_session *record = &daemon->state.sessions[index];
    if (atomic_load(&record->record.state) == MNW__RECORD_FREE)
        return;
    int fd = take_fd(daemon, "session", index, &record->record);
    if (fd < 0 || !mnw__state_is_valid(&record->record)) {
        drop_fd(daemon, "session", index, &record->record, fd);
        mnw__state_free(&record->record);
        return;
    }
    struct mnw__session *session = mnw__session_add(daemon, fd, (int)index);
    if (!session || !record->greeted)
        return;
    session->is_greeted = true;
    session->deadline_ns = 0;
    memcpy(session->name, record->name, sizeof(session->name));
    session->name[sizeof(session->name) - 1] = '\0';
}

/*
 * Its parent's session may be over; it is served all the same, or barred. One whose record is not valid has asked by
 * itself, has its own duplicate, and asks again.
 */
static void take_over_child(struct mnw__daemon *daemon, unsigned index, struct mnw__session *session,
                            struct mnw__daemon_image *image, int fd) {
    struct mnw__record *record = &daemon->state.views[index].record;
    bool valid = mnw__state_is_valid(record);
    int error = -ESTALE;
    if (valid && fd >= 0 && image)
        error = mnw__changes_adopt_child(daemon, session, index, image, fd);
    if (!error) {
        close(fd); /* the view has its own */
        return;
    }
    char name[MNW__STATE_FDNAME_BYTES], reason[512];
    mnw__state_fdname(name, "child", index, record->serial);
    snprintf(reason, sizeof(reason), "%s", image ? mnw_error() : "its image is lost"); /* what follows may fail, too */
    if (valid && fd >= 0 && error != -ESRCH && mnw__strays_add(daemon, fd, name))
        mnw__daemon_log("the child of a consumer is not taken over, and gets SIGBUS from now on: %s", reason);
    else
        drop_fd(daemon, "child", index, record, fd);
    mnw__state_free(record);
}

static void take_over_view(struct mnw__daemon *daemon, unsigned index) {
    struct mnw__record_view *record = &daemon->state.views[index];
    if (atomic_load(&record->record.state) == MNW__RECORD_FREE)
        return;
    bool valid = mnw__state_is_valid(&record->record);
    int fd = take_fd(daemon, record->is_child ? "child" : "view", index, &record->record);
    struct mnw__session *session = session_of(daemon, record->session, record->session_serial);
    struct mnw__daemon_image *image = image_of(daemon, record->image);
    int error = -ENOENT;
    if (record->is_child) {
        take_over_child(daemon, index, session, image, fd);
        return;
    }
    if (valid && session && image && fd >= 0)
        error = mnw__views_adopt(session, (int)index, image, fd);
    if (!error) {
        close(fd); /* the view has its own */
        return;
    }
    if (valid && session) {
        mnw__daemon_log("view %u of session %u is not taken over: %s", record->id, record->session,
                        !image   ? "its image is lost"
                        : fd < 0 ? "the holder has not kept its userfaultfd"
                                 : mnw_error());
        mnw__views_tell_detached(session, record->id, image ? error : -ESTALE);
    }
    drop_fd(daemon, "view", index, &record->record, fd);
    mnw__state_free(&record->record);
}

static void take_over_pin(struct mnw__daemon *daemon, unsigned index) {
    struct mnw__record_pin *record = &daemon->state.pins[index];
    if (!mnw__state_is_valid(&record->record)) {
        mnw__state_free(&record->record);
        return;
    }
    struct mnw__session *session = session_of(daemon, record->session, record->session_serial);
    struct mnw__daemon_image *image = image_of(daemon, record->image);
    if (session && image)
        mnw__ranges_adopt_pin(session, (int)index, image);
    else
        mnw__state_free(&record->record);
}

/* ---- */

/* The names of what is left mean nothing: the holder need not keep it. */
static void drop_rest(struct mnw__daemon *daemon) {
    unsigned strays = 0;
    for (unsigned i = 0; i < daemon->holding.count; i++) {
        struct mnw__held_fd *held = &daemon->holding.fds[i];
        if (held->fd < 0)
            continue;
        bool is_childs = !strncmp(held->name, MNW__CHILD, strlen(MNW__CHILD)) ||
                         !strncmp(held->name, MNW__STRAY, strlen(MNW__STRAY));
        if (is_childs && mnw__strays_add(daemon, held->fd, held->name)) {
            strays++;
        } else {
            mnw__holding_remove(&daemon->holding, held->name);
            close(held->fd);
        }
        held->fd = -1;
    }
    if (strays)
        mnw__daemon_log("%u children of consumers get SIGBUS where they touch what they have not touched: what was "
                        "known of them is lost, or of another version",
                        strays);
}

static int start_afresh(struct mnw__daemon *daemon) {
    int error = mnw__state_create(&daemon->state);
    return error ? error : mnw__holding_store(&daemon->holding, "state", daemon->state.fd, true);
}

int mnw__takeover(struct mnw__daemon *daemon) {
    int fd = mnw__holding_take(&daemon->holding, "state");
    int error = fd < 0 ? -ENOENT : mnw__state_adopt(&daemon->state, fd);
    if (error == -ESTALE && daemon->holding.has_choice) {
        close(fd);
        return error; /* nothing else was taken yet, and the holder has this one still */
    }
    int no_ends = mnw__claims_open(daemon);
    if (no_ends) {
        if (error && fd >= 0)
            close(fd);
        return no_ends;
    }
    if (error) {
        if (fd >= 0) {
            mnw__daemon_log("%s: starting afresh", mnw__fail_message());
            mnw__holding_remove(&daemon->holding, "state");
            close(fd);
        }
        drop_rest(daemon);
        return start_afresh(daemon);
    }
    mnw__state_count_restart(&daemon->state);
    for (unsigned i = 0; i < MNW__STATE_IMAGES; i++)
        take_over_image(daemon, i);
    for (unsigned i = 0; i < MNW__STATE_SESSIONS; i++)
        take_over_session(daemon, i);
    for (unsigned i = 0; i < MNW__STATE_VIEWS; i++)
        take_over_view(daemon, i);
    mnw__changes_end_adoption(daemon);
    for (unsigned i = 0; i < MNW__STATE_PINS; i++)
        take_over_pin(daemon, i);
    drop_rest(daemon);
    return 0;
}

void mnw__takeover_announce(struct mnw__daemon *daemon) {
    struct mnw__wire_packet packet;
    for (struct mnw__session *next, *session = daemon->sessions; session; session = next) {
        next = session->next;
        packet.event_restarted = (struct mnw__wire_event_restarted){mnw__state_epoch(&daemon->state)};
        /* A HELLO may have been read and not answered, too. */
        mnw__session_put(session, &packet,
                         mnw__wire_seal(&packet, MNW__WIRE_EVENT_RESTARTED, 0, sizeof(packet.event_restarted)), -1);
    }
}
