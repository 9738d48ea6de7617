/* SPDX-License-Identifier: MIT */
/*
 * Ranges of images: pin, invalidate, residency; and budgets. Each may take as long as reads take, so a lane does it.
 *
 * The loop's. A pin belongs to its session and has a record: a worker that takes over pins it again.
 */
#include "daemon/daemon.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- pins ---- */

static struct mnw__daemon_pin *find_pin(struct mnw__session *session, uint64_t cookie) {
    for (struct mnw__daemon_pin *pin = session->pins; pin; pin = pin->next)
        if (pin->cookie == cookie)
            return pin;
    return NULL;
}

static void remove_pin(struct mnw__session *session, struct mnw__daemon_pin *pin) {
    for (struct mnw__daemon_pin **link = &session->pins; *link; link = &(*link)->next)
        if (*link == pin) {
            *link = pin->next;
            break;
        }
    session->pinned_bytes -= pin->length;
    mnw__state_free(&session->daemon->state.pins[pin->record].record);
    free(pin);
}

static void run_pin(struct mnw__work *work) {
    mnw__work_end(work, mnw_pin(work->image->cache, work->pin->offset, work->pin->length));
}

static void pin_done(struct mnw__work *work) {
    struct mnw__session *session = work->session;
    struct mnw__daemon_pin *pin = work->pin;
    pin->busy = false;
    if (work->result) {
        remove_pin(session, pin);
    } else if (session->fd < 0) {
        mnw_unpin(pin->image->cache, pin->offset, pin->length);
        remove_pin(session, pin);
    } else {
        mnw__state_validate(&session->daemon->state.pins[pin->record].record);
    }
    mnw__work_answer(work);
}

static int check_pin(struct mnw__session *session, const struct mnw__wire_range *range) {
    uint64_t most = session->daemon->config->limits.pinned;
    if (find_pin(session, range->cookie))
        return mnw__fail(-EEXIST, "there is a pin %llu in this session already; a pin's cookie is its own",
                         (unsigned long long)range->cookie);
    if (!session->is_admin && (session->pinned_bytes > most || range->length > most - session->pinned_bytes))
        return mnw__fail(-EDQUOT, "pinning %llu bytes beside %llu: this session may pin %llu (\"pinned\")",
                         (unsigned long long)range->length, (unsigned long long)session->pinned_bytes,
                         (unsigned long long)most);
    return 0;
}

/* One whose record there is; NULL: no memory. */
static struct mnw__daemon_pin *add_pin(struct mnw__session *session, struct mnw__daemon_image *image, int record) {
    const struct mnw__record_pin *said = &session->daemon->state.pins[record];
    struct mnw__daemon_pin *pin = malloc(sizeof(*pin));
    if (!pin)
        return NULL;
    *pin = (struct mnw__daemon_pin){.next = session->pins,
                                    .image = image,
                                    .record = record,
                                    .busy = true,
                                    .offset = said->offset,
                                    .length = said->length,
                                    .cookie = said->cookie};
    session->pins = pin;
    session->pinned_bytes += pin->length;
    return pin;
}

/* With a tentative record. NULL with a message and `*error`. */
static struct mnw__daemon_pin *new_pin(struct mnw__session *session, struct mnw__daemon_image *image,
                                       const struct mnw__wire_range *range, int *error) {
    struct mnw__state *state = &session->daemon->state;
    int index = mnw__state_take(state, state->pins, sizeof(*state->pins), MNW__STATE_PINS);
    if (index < 0) {
        *error = index;
        return NULL;
    }
    struct mnw__record_pin *record = &state->pins[index];
    record->session = (uint32_t)session->record;
    record->session_serial = state->sessions[session->record].record.serial;
    record->image = (uint32_t)image->record;
    record->offset = range->offset;
    record->length = range->length;
    record->cookie = range->cookie;
    struct mnw__daemon_pin *pin = add_pin(session, image, index);
    if (!pin) {
        *error = mnw__fail(-ENOMEM, "the daemon is out of memory");
        mnw__state_free(&record->record);
    }
    return pin;
}

static bool is_same_pin(const struct mnw__daemon_pin *pin, const struct mnw__daemon_image *image,
                        const struct mnw__wire_range *range) {
    return !pin->busy && pin->image == image && pin->offset == range->offset && pin->length == range->length;
}

static void handle_pin(struct mnw__session *session, const struct mnw__wire_packet *packet,
                       struct mnw__daemon_image *image) {
    const struct mnw__daemon_pin *same = find_pin(session, packet->range.cookie);
    struct mnw__wire_packet answer;
    if (same && is_same_pin(same, image, &packet->range)) { /* asked again: the answer was lost with a worker */
        mnw__request_answer(session, &answer, MNW__WIRE_PIN, packet->header.request, 0, -1);
        return;
    }
    int error = check_pin(session, &packet->range);
    struct mnw__daemon_pin *pin = error ? NULL : new_pin(session, image, &packet->range, &error);
    struct mnw__work *work = pin ? mnw__work_new(session, packet) : NULL;
    if (!work) {
        mnw__request_refuse(session, packet, error ? error : -ENOMEM);
        if (pin)
            remove_pin(session, pin);
        return;
    }
    work->image = image;
    work->pin = pin;
    mnw__work_start(work, &session->daemon->slow, run_pin, pin_done);
}

/* Nobody waits for the answer; if it cannot be pinned again, it is not. */
static void pin_again_done(struct mnw__work *work) {
    if (work->result)
        mnw__daemon_log("pinning '%s' again after a restart: %s", work->image->config->name, work->message);
    pin_done(work);
}

/* Its record stays valid meanwhile: a worker that is killed before all is read again leaves it to the next one. */
void mnw__ranges_adopt_pin(struct mnw__session *session, int record, struct mnw__daemon_image *image) {
    struct mnw__record_pin *said = &session->daemon->state.pins[record];
    bool is_sane = !find_pin(session, said->cookie) && !mnw__request_check_range(image, said->offset, said->length);
    struct mnw__daemon_pin *pin = is_sane ? add_pin(session, image, record) : NULL;
    struct mnw__work *work = pin ? mnw__work_new(session, NULL) : NULL;
    if (!work) {
        if (pin)
            remove_pin(session, pin);
        else
            mnw__state_free(&said->record);
        return;
    }
    work->image = image;
    work->pin = pin;
    mnw__work_start(work, &session->daemon->slow, run_pin, pin_again_done);
}

void mnw__ranges_handle_unpin(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    struct mnw__wire_packet answer;
    struct mnw__daemon_pin *pin = find_pin(session, packet->cookie.cookie);
    int error = 0;
    if (!pin || pin->busy)
        error = mnw__fail(pin ? -EBUSY : -ENOENT, "pin %llu of this session %s",
                          (unsigned long long)packet->cookie.cookie, pin ? "is not pinned yet" : "does not exist");
    if (!error)
        error = mnw_unpin(pin->image->cache, pin->offset, pin->length);
    if (error) {
        mnw__request_refuse(session, packet, error);
        return;
    }
    remove_pin(session, pin);
    mnw__request_answer(session, &answer, MNW__WIRE_UNPIN, packet->header.request, 0, -1);
}

void mnw__ranges_drop_pins(struct mnw__session *session) {
    for (struct mnw__daemon_pin *next, *pin = session->pins; pin; pin = next) {
        next = pin->next;
        if (pin->busy)
            continue; /* pin_done sees that the session is over */
        mnw_unpin(pin->image->cache, pin->offset, pin->length);
        remove_pin(session, pin);
    }
}

/* ---- invalidate, residency ---- */

static void run_invalidate(struct mnw__work *work) {
    mnw__work_end(work, mnw_invalidate(work->image->cache, work->range.offset, work->range.length));
}

/* A byte per page, asked for in pieces: an image may have hundreds of millions of them. */
static int fill_residency(struct mnw__work *work, int fd) {
    uint8_t pages[4096];
    uint64_t page_bytes = work->image->page_bytes, count = work->range.length / page_bytes;
    for (uint64_t done = 0, part; done < count; done += part) {
        part = count - done < sizeof(pages) ? count - done : sizeof(pages);
        int error = mnw_residency(work->image->cache, work->range.offset + done * page_bytes, pages, (size_t)part);
        if (error < 0)
            return error;
        if (write(fd, pages, (size_t)part) != (ssize_t)part)
            return mnw__fail(-EIO, "writing the residency of '%s': %s", work->image->config->name, strerror(errno));
    }
    work->number = count;
    return 0;
}

static void run_residency(struct mnw__work *work) {
    work->fd = mnw__report_memfd("minnow-residency", NULL, 0);
    mnw__work_end(work, work->fd < 0 ? work->fd : fill_residency(work, work->fd));
}

static void residency_done(struct mnw__work *work) {
    struct mnw__wire_packet answer;
    answer.text_answer = (struct mnw__wire_text_answer){work->number};
    mnw__work_answer_with(work, &answer, sizeof(answer.text_answer), work->fd);
}

void mnw__ranges_handle(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    int error = 0;
    struct mnw__daemon_image *image = mnw__request_image(session, packet->range.image, &error);
    if (image)
        error = mnw__request_check_range(image, packet->range.offset, packet->range.length);
    if (!error && packet->header.type == MNW__WIRE_INVALIDATE)
        error = mnw__request_check_admin(session, "invalidate");
    if (!error && packet->header.type == MNW__WIRE_PIN) {
        handle_pin(session, packet, image);
        return;
    }
    struct mnw__work *work = error ? NULL : mnw__work_new(session, packet);
    if (!work) {
        mnw__request_refuse(session, packet, error ? error : -ENOMEM);
        return;
    }
    work->image = image;
    work->range = packet->range;
    if (packet->header.type == MNW__WIRE_INVALIDATE)
        mnw__work_start(work, &session->daemon->slow, run_invalidate, mnw__work_answer);
    else
        mnw__work_start(work, &session->daemon->quick, run_residency, residency_done);
}

/* ---- budgets ---- */

static void run_budget(struct mnw__work *work) {
    mnw__work_end(work, mnw_pool_set_budget(work->pool->pool, work->number));
}

void mnw__ranges_handle_budget(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    struct mnw__daemon *daemon = session->daemon;
    struct mnw__daemon_pool *pool = NULL;
    for (unsigned i = 0; i < daemon->pool_count; i++)
        if (!strcmp(daemon->pools[i].config->name, packet->budget.pool))
            pool = &daemon->pools[i];
    int error = mnw__request_check_admin(session, "set budgets");
    if (!error && !pool)
        error = mnw__fail(-ENOENT, "there is no pool '%s'", packet->budget.pool);
    struct mnw__work *work = error ? NULL : mnw__work_new(session, packet);
    if (!work) {
        mnw__request_refuse(session, packet, error ? error : -ENOMEM);
        return;
    }
    work->pool = pool;
    work->number = packet->budget.bytes;
    mnw__work_start(work, &daemon->slow, run_budget, mnw__work_answer);
}
