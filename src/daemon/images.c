/* SPDX-License-Identifier: MIT */
/*
 * Images: stores under a name, each with its cache. Opened when the first peer asks, and kept open.
 *
 * The loop's, but for opening and handing over to the holder, which a lane does while the image is OPENING.
 */
#include "daemon/daemon.h"

#include "base/bits.h"
#include "base/error.h"
#include "sys/thread.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

bool mnw__image_allows(const struct mnw__session *session, const struct mnw__daemon_image *image) {
    const struct mnw__access *access = &image->config->access;
    if (!access->given)
        access = &session->daemon->config->access;
    return session->is_admin || mnw__access_allows(access, session->peer.uid, session->groups, session->group_count);
}

static uint32_t extent_bytes(const struct mnw__daemon_image *image) {
    const struct mnw_pool_options *options = &image->pool->config->options;
    switch (options->backing) {
    case MNW_BACKING_SHMEM:
        return options->extent_bytes ? (uint32_t)options->extent_bytes : 65536;
    case MNW_BACKING_GRADED:
        return 2u << 20;
    default:
        return image->page_bytes;
    }
}

static int open_cache(struct mnw__daemon_image *image, const struct mnw_kept *kept) {
    struct mnw_cache_options options = image->config->options;
    options.keep = 1;
    options.kept = kept;
    options.name = image->config->name;
    struct stat status;
    int error = mnw_cache_open(&image->cache, image->pool->pool, image->store, &options);
    if (error)
        return error;
    if (fstat(mnw_cache_fd(image->cache), &status)) {
        error = mnw__fail(-errno, "asking about the backing of '%s': %s", image->config->name, strerror(errno));
        mnw_cache_close(image->cache);
        return error;
    }
    image->size_bytes = mnw_store_size(image->store);
    image->page_bytes = (uint32_t)mnw_cache_page_size(image->cache);
    image->extent_bytes = extent_bytes(image);
    image->device = status.st_dev;
    image->inode = status.st_ino;
    return 0;
}

int mnw__image_open(struct mnw__daemon_image *image, const struct mnw_kept *kept) {
    struct mnw_store_options options = {.size = sizeof(options)};
    int error = mnw_store_open(&image->store, image->config->uri, &options);
    if (error)
        return error;
    error = open_cache(image, kept);
    if (error) {
        mnw_store_close(image->store);
        image->store = NULL;
        image->cache = NULL;
    }
    return error;
}

int mnw__image_keep(struct mnw__daemon *daemon, struct mnw__daemon_image *image) {
    const struct mnw__record *record = &daemon->state.images[image->record].record;
    struct mnw_kept kept = {.size = sizeof(kept)};
    char name[MNW__STATE_FDNAME_BYTES];
    int error = mnw_cache_kept(image->cache, &kept);
    mnw__state_fdname(name, "pages", (unsigned)image->record, record->serial);
    if (!error)
        error = mnw__holding_store(&daemon->holding, name, kept.backing_fd, false);
    mnw__state_fdname(name, "words", (unsigned)image->record, record->serial);
    return error ? error : mnw__holding_store(&daemon->holding, name, kept.words_fd, true);
}

static void forget_record(struct mnw__daemon *daemon, struct mnw__daemon_image *image) {
    char name[MNW__STATE_FDNAME_BYTES];
    if (image->record < 0)
        return;
    struct mnw__record *record = &daemon->state.images[image->record].record;
    mnw__state_free(record);
    mnw__state_fdname(name, "pages", (unsigned)image->record, record->serial);
    mnw__holding_remove(&daemon->holding, name);
    mnw__state_fdname(name, "words", (unsigned)image->record, record->serial);
    mnw__holding_remove(&daemon->holding, name);
    image->record = -1;
}

void mnw__image_close(struct mnw__daemon *daemon, struct mnw__daemon_image *image) {
    if (image->state != MNW__IMAGE_OPEN)
        return;
    forget_record(daemon, image);
    if (mnw_cache_close(image->cache)) {
        mnw__daemon_log("closing image '%s': %s", image->config->name, mnw_error());
        return; /* still in use by somebody: so is its store */
    }
    mnw_store_close(image->store);
    image->cache = NULL;
    image->store = NULL;
    image->state = MNW__IMAGE_CLOSED;
}

/* ---- what peers are told ---- */

static void describe(const struct mnw__daemon_image *image, struct mnw__wire_image *about) {
    struct mnw_stats stats = {0};
    *about = (struct mnw__wire_image){.backing = (uint32_t)image->pool->config->options.backing, .views = image->views};
    mnw__wire_put_name(about->name, image->config->name);
    mnw__wire_put_name(about->pool, image->pool->config->name);
    if (image->state != MNW__IMAGE_OPEN)
        return;
    about->flags = MNW__WIRE_IMAGE_OPEN;
    about->size_bytes = image->size_bytes;
    about->page_bytes = image->page_bytes;
    about->extent_bytes = image->extent_bytes;
    if (!mnw_cache_stats(image->cache, &stats, sizeof(stats)))
        about->resident_bytes = stats.resident_bytes;
}

void mnw__image_handle_list(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    struct mnw__daemon *daemon = session->daemon;
    struct mnw__wire_packet answer;
    uint32_t count = 0, seen = 0;
    for (unsigned i = 0; i < daemon->image_count; i++) {
        if (!mnw__image_allows(session, &daemon->images[i]))
            continue;
        if (seen++ >= packet->list.first && count < MNW__WIRE_IMAGES_MAX)
            describe(&daemon->images[i], &answer.list_answer.images[count++]);
    }
    answer.list_answer.total = seen;
    answer.list_answer.count = count;
    mnw__request_answer(session, &answer, MNW__WIRE_LIST, packet->header.request, mnw__wire_list_bytes(count), -1);
}

static struct mnw__daemon_image *find(struct mnw__session *session, const char *name) {
    struct mnw__daemon *daemon = session->daemon;
    for (unsigned i = 0; i < daemon->image_count; i++)
        if (!strcmp(daemon->images[i].config->name, name) && mnw__image_allows(session, &daemon->images[i]))
            return &daemon->images[i];
    return NULL;
}

static void answer_open(struct mnw__work *work) {
    const struct mnw__daemon_image *image = work->image;
    struct mnw__wire_packet answer;
    answer.open_answer = (struct mnw__wire_open_answer){
        .image = (uint32_t)image->record + 1, .device = image->device, .inode = image->inode};
    describe(image, &answer.open_answer.about);
    mnw__work_answer_with(work, &answer, sizeof(answer.open_answer),
                          image->state == MNW__IMAGE_OPEN ? mnw_cache_fd(image->cache) : -1);
}

/* The one who asked first; the others wait in image->waiting. */
static void run_open(struct mnw__work *work) {
    int error = mnw__image_open(work->image, NULL);
    if (!error)
        error = mnw__image_keep(work->daemon, work->image);
    mnw__work_end(work, error);
}

static void open_done(struct mnw__work *work) {
    struct mnw__daemon_image *image = work->image;
    struct mnw__daemon *daemon = work->daemon;
    image->state = MNW__IMAGE_OPEN;
    if (!work->result) {
        mnw__state_validate(&daemon->state.images[image->record].record);
    } else if (image->cache) { /* opened, but the holder could not be had */
        mnw__image_close(daemon, image);
    } else {
        image->state = MNW__IMAGE_CLOSED;
        forget_record(daemon, image);
    }
    answer_open(work);
    while (image->waiting) {
        struct mnw__work *other = image->waiting;
        image->waiting = other->next_waiting;
        other->result = work->result;
        memcpy(other->message, work->message, sizeof(other->message));
        answer_open(other);
        mnw__work_free(other);
    }
}

static int begin_open(struct mnw__daemon *daemon, struct mnw__daemon_image *image) {
    struct mnw__state *state = &daemon->state;
    int index = mnw__state_take(state, state->images, sizeof(*state->images), MNW__STATE_IMAGES);
    if (index < 0)
        return index;
    mnw__wire_put_name(state->images[index].name, image->config->name);
    image->record = index;
    image->state = MNW__IMAGE_OPENING;
    return 0;
}

void mnw__image_handle_open(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    struct mnw__daemon_image *image = find(session, packet->open.name);
    if (!image) {
        mnw__request_refuse(session, packet,
                            mnw__fail(-ENOENT, "there is no image '%s', or not for user %u; LIST names those there are",
                                      packet->open.name, session->peer.uid));
        return;
    }
    struct mnw__work *work = mnw__work_new(session, packet);
    int error = work ? 0 : -ENOMEM;
    if (!error && image->state == MNW__IMAGE_CLOSED) {
        error = begin_open(session->daemon, image);
        if (!error) {
            work->image = image;
            mnw__work_start(work, &session->daemon->slow, run_open, open_done);
            return;
        }
    }
    if (error) {
        mnw__request_refuse(session, packet, error);
        if (work)
            mnw__work_free(work);
        return;
    }
    work->image = image;
    if (image->state == MNW__IMAGE_OPENING) {
        work->next_waiting = image->waiting;
        image->waiting = work;
        return;
    }
    answer_open(work);
    mnw__work_free(work);
}

/* ---- pages that cannot be read ---- */

/* Seconds between two lines of the log about one image. */
enum { QUIET_S = 10 };

struct mnw__daemon_image *mnw__image_of(struct mnw__daemon *daemon, const struct mnw_cache *cache) {
    for (unsigned i = 0; i < daemon->image_count; i++)
        if (daemon->images[i].state == MNW__IMAGE_OPEN && daemon->images[i].cache == cache)
            return &daemon->images[i];
    return NULL;
}

void mnw__image_note_failure(struct mnw__daemon *daemon, const struct mnw_event *event) {
    struct mnw__daemon_image *image = mnw__image_of(daemon, event->cache);
    uint64_t now = mnw__clock_ns();
    if (!image)
        return;
    image->failures++;
    if (image->told_ns && now - image->told_ns < QUIET_S * UINT64_C(1000000000))
        return;
    mnw__daemon_log("image '%s': the page at %llu could not be read: %s; it is SIGBUS until it is invalidated "
                    "(%llu pages since the last such line)",
                    image->config->name, (unsigned long long)event->offset, strerror(-event->result),
                    (unsigned long long)image->failures);
    image->failures = 0;
    image->told_ns = now;
}
