/* SPDX-License-Identifier: MIT */
/*
 * Images by name: opened by their first user, known anew in every session, closed by their last.
 *
 * Owns the list of images and their descriptors. Callers enter and leave; the client's thread asks and is answered.
 */
#include "base/bits.h"
#include "base/error.h"
#include "client/client.h"
#include "sys/backing.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* ---- answered: the client's thread, locked ---- */

/* Another file backs it now: whoever has the old one mapped cannot be served from the new one. */
static void lose_views(struct mnw_client *client, const struct mnw__image *image, int reason) {
    for (struct mnw_client_view *view = client->views; view; view = view->next)
        if (view->image == image && view->state == MNW__CLIENT_VIEW_ADRIFT)
            mnw__view_lose(view, reason);
}

static void refuse_requests(struct mnw_client *client, const struct mnw__image *image, int reason,
                            const char *message) {
    struct mnw__request *request = client->requests;
    while (request) {
        bool concerned = request->image == image && request != &image->open;
        if (concerned)
            mnw__request_end(client, request, reason, message);
        request = concerned ? client->requests : request->next; /* ending one may have ended others */
    }
}

/* Asking this of any other file may take as long as whoever serves its file system likes. */
bool mnw__image_is_memory(int fd) {
    return fcntl(fd, F_GET_SEALS) >= 0;
}

/*
 * Of the kind that was said, and as long: the kernel maps huge pages whole, over what lies beside a smaller view, and
 * what lies behind the end of a file is no memory.
 */
static bool fits(const struct mnw__wire_image *about, int fd, const struct stat *status) {
    struct statfs system;
    if (about->backing > MNW_BACKING_HUGETLB_1G ||
        about->page_bytes != mnw__backing_page_bytes((enum mnw_backing)about->backing) || fstatfs(fd, &system))
        return false;
    bool is_huge = mnw__backing_is_hugetlb((enum mnw_backing)about->backing);
    if (is_huge ? system.f_type != HUGETLBFS_MAGIC || (uint64_t)system.f_bsize != about->page_bytes
                : system.f_type != TMPFS_MAGIC)
        return false;
    uint64_t length = (uint64_t)status->st_size;
    return about->size_bytes && about->size_bytes <= length &&
           mnw__align_up(about->size_bytes, about->page_bytes) <= length;
}

static int understand(struct mnw_client *client, struct mnw__image *image, int fd) {
    const struct mnw__wire_open_answer *answer = &client->in.open_answer;
    const struct mnw__wire_image *about = &answer->about;
    struct stat status;
    if (!mnw__image_is_memory(fd))
        return -EPROTO;
    if (fstat(fd, &status))
        return -errno;
    if (status.st_dev != answer->device || status.st_ino != answer->inode || !fits(about, fd, &status))
        return -EPROTO;
    image->number = answer->image;
    image->device = answer->device;
    image->inode = answer->inode;
    image->size_bytes = about->size_bytes;
    image->page_bytes = about->page_bytes;
    image->extent_bytes = about->extent_bytes;
    image->backing = (enum mnw_backing)about->backing;
    return 0;
}

static void opened(struct mnw_client *client, struct mnw__request *request) {
    struct mnw__image *image = request->image;
    int fd = request->answer_fd, error = request->result;
    request->answer_fd = -1;
    if (!error) {
        error = understand(client, image, fd);
        request->result = error;
    }
    if (!error) {
        mnw__keep_set(&image->file, fd);
    } else if (fd >= 0) { /* what is known of the image goes with the descriptor of before */
        close(fd);
        strcpy(request->message, "the daemon's description of the image does not fit its descriptor");
    }
    image->known = !error;
    if (error) {
        lose_views(client, image, error);
        refuse_requests(client, image, error, request->message);
        return;
    }
    for (struct mnw_client_view *view = client->views; view; view = view->next) {
        if (view->image != image || (view->device == image->device && view->inode == image->inode))
            continue;
        if (view->attach.state == MNW__REQUEST_WAITING)
            mnw__request_end(client, &view->attach, -ESTALE, "the image has another backing than a moment ago");
        if (view->state == MNW__CLIENT_VIEW_ADRIFT)
            mnw__view_lose(view, -ESTALE);
    }
}

void mnw__image_want(struct mnw_client *client, struct mnw__image *image) {
    struct mnw__request *open = &image->open;
    if (open->state == MNW__REQUEST_WAITING || open->state == MNW__REQUEST_SENT)
        return;
    mnw__request_init(open, MNW__WIRE_OPEN, sizeof(open->body.open));
    memcpy(open->body.open.name, image->name, sizeof(image->name));
    open->image = image;
    open->ended = opened;
    mnw__request_queue(client, open);
}

/* ---- callers ---- */

static struct mnw__image *find(struct mnw_client *client, const char *name) {
    for (struct mnw__image *image = client->images; image; image = image->next)
        if (!strcmp(image->name, name))
            return image;
    return NULL;
}

/* The caller's name may lie in a view: it is copied before anything is locked. */
static struct mnw__image *make(const char *name, int *error) {
    struct mnw__image *image = calloc(1, sizeof(*image));
    if (!image) {
        *error = mnw__fail(-ENOMEM, "no memory for an image");
        return NULL;
    }
    *error = mnw__wire_put_name(image->name, name);
    if (*error) {
        free(image);
        return NULL;
    }
    mnw__keep_add(&image->file);
    return image;
}

static void discard(struct mnw__image *image) {
    mnw__keep_remove(&image->file);
    free(image);
}

/* Unlinks it when nobody uses it. True: the caller has to discard it, unlocked. */
static bool drop(struct mnw_client *client, struct mnw__image *image) {
    if (--image->users)
        return false;
    struct mnw__image **link = &client->images;
    while (*link != image)
        link = &(*link)->next;
    *link = image->next;
    mnw__request_forget(client, &image->open);
    return true;
}

int mnw__image_enter(struct mnw__image **result, struct mnw_client *client, const char *name, const char *call) {
    if (!name)
        return mnw__fail(-EINVAL, "%s: `image` must not be NULL", call);
    int error;
    struct mnw__image *fresh = make(name, &error);
    if (!fresh)
        return error;
    mnw__mutex_lock(&client->lock);
    struct mnw__image *image = find(client, fresh->name);
    if (!image) {
        image = fresh;
        fresh = NULL;
        image->next = client->images;
        client->images = image;
    }
    image->users++;
    if (!image->known) {
        mnw__image_want(client, image);
        error = mnw__request_wait(client, &image->open, call);
    }
    bool last = error && drop(client, image);
    mnw__mutex_unlock(&client->lock);
    if (fresh)
        discard(fresh);
    if (last)
        discard(image);
    *result = image;
    return error;
}

void mnw__image_leave(struct mnw_client *client, struct mnw__image *image) {
    mnw__mutex_lock(&client->lock);
    bool last = drop(client, image);
    mnw__mutex_unlock(&client->lock);
    if (last)
        discard(image);
}

int mnw__image_check_range(const struct mnw__image *image, uint64_t offset, uint64_t length, const char *call) {
    uint64_t end = mnw__align_up(image->size_bytes, image->page_bytes);
    if (!mnw__is_aligned(offset, image->page_bytes) || !mnw__is_aligned(length, image->page_bytes))
        return mnw__fail(-EINVAL, "%s: offset %llu and length %llu must be multiples of the image's page, %u", call,
                         (unsigned long long)offset, (unsigned long long)length, image->page_bytes);
    if (!length || offset >= end || length > end - offset)
        return mnw__fail(-EINVAL, "%s: %llu bytes at %llu are not inside the image's %llu", call,
                         (unsigned long long)length, (unsigned long long)offset, (unsigned long long)end);
    return 0;
}
