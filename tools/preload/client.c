/* SPDX-License-Identifier: MIT */
/*
 * The process's connection to the daemon. Owns the client, made at the first need and kept for the life of the process.
 * Any thread may enter. While it calls minnow, a thread's own calls are not interposed.
 */
#include "preload.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mnw_client *client; /* lock */
static _Atomic bool constructed;
static __thread unsigned inside __attribute__((tls_model("initial-exec")));

__attribute__((constructor)) static void note_construction(void) {
    atomic_store(&constructed, true);
}

bool is_inside(void) {
    return inside;
}

static struct mnw_client *get(int *error) {
    const struct config *config = config_get();
    struct mnw_client_options options = {.size = sizeof(options), .user_faults_only = config->user_faults_only};
    *error = 0;
    if (!atomic_load(&constructed)) {
        complain("an image is mapped while the program is still being loaded; that is too early");
        *error = -ENODEV;
        return NULL;
    }
    inside++;
    pthread_mutex_lock(&lock);
    if (!client)
        *error = mnw_client_connect(&client, config->socket, &options);
    struct mnw_client *result = *error ? NULL : client;
    pthread_mutex_unlock(&lock);
    inside--;
    if (*error)
        complain("%s", mnw_error());
    return result;
}

static void learn_one(void *context, const struct mnw_image *image) {
    struct source *source = context;
    if (strcmp(image->name, source->image) || !image->is_open)
        return;
    source->page_bytes = image->page_bytes;
    source->size_bytes = image->size_bytes;
    source->page_count = (image->size_bytes + image->page_bytes - 1) / image->page_bytes;
    source->is_huge = image->backing == MNW_BACKING_HUGETLB_2M || image->backing == MNW_BACKING_HUGETLB_1G;
}

/* An image that nobody has opened yet has no size; asking for the residency of a page opens it. */
int client_learn(struct source *source) {
    int error;
    struct mnw_client *with = get(&error);
    if (!with)
        return -error;
    struct source learned = {.image = source->image};
    uint8_t page;
    inside++;
    error = mnw_client_residency(with, source->image, 0, &page, 1);
    if (!error)
        error = mnw_client_images(with, learn_one, &learned);
    inside--;
    if (error >= 0 && !learned.page_bytes) {
        complain("image '%s': the daemon does not say how large it is", source->image);
        return EPROTO;
    }
    if (error < 0) {
        complain("image '%s': %s", source->image, mnw_error());
        return -error;
    }
    pthread_mutex_lock(&lock);
    source->size_bytes = learned.size_bytes;
    source->page_count = learned.page_count;
    source->is_huge = learned.is_huge;
    source->page_bytes = learned.page_bytes;
    pthread_mutex_unlock(&lock);
    return 0;
}

int client_map(struct mnw_client_view **view, const struct source *source, uint64_t offset, uint64_t length,
               uintptr_t address, unsigned flags) {
    int error;
    struct mnw_client *with = get(&error);
    if (!with)
        return -error;
    struct mnw_client_map_options options = {.size = sizeof(options),
                                             .offset_bytes = offset,
                                             .length_bytes = length,
                                             .address = address,
                                             .flags = flags | config_get()->flags};
    inside++;
    error = mnw_client_map(view, with, source->image, &options);
    inside--;
    if (error)
        complain("image '%s': %s", source->image, mnw_error());
    return -error;
}

int client_unmap(struct mnw_client_view *view) {
    inside++;
    int error = mnw_client_unmap(view);
    inside--;
    if (error)
        complain("%s", mnw_error());
    return -error;
}

int client_zero(struct mnw_client_view *view, uint64_t offset, uint64_t length) {
    inside++;
    int error = mnw_client_zero(view, offset, length);
    inside--;
    return -error;
}

int client_save(struct mnw_client_view *view) {
    inside++;
    int error = mnw_client_save(view);
    inside--;
    if (error)
        complain("%s", mnw_error());
    return -error;
}

/* Nobody else runs in a child; the lock may have been anyone's. */
void client_forget(void) {
    client = NULL;
    lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}
