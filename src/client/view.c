/* SPDX-License-Identifier: MIT */
/*
 * Views of a daemon's image: mapped here, watched by a userfaultfd made here, served there.
 *
 * Owns the mappings and the descriptors. Callers map and unmap; the client's thread attaches again after a break. A
 * mapping is inaccessible until the daemon has said that it serves it, and again before it stops: whoever touches it
 * outside of that gets SIGSEGV, never zeros.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/options.h"
#include "client/client.h"
#include "sys/backing.h"
#include "sys/mapping.h"
#include "sys/memory.h"
#include "sys/thread.h"
#include "sys/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GRADED_BYTES (2ull << 20)
#define VIEW_FLAGS   (MAP_PRIVATE | MAP_NORESERVE)
#define KNOWN_FLAGS  (MNW_VIEW_WRITE | MNW_CLIENT_RECORD | MNW_CLIENT_REPLAY | MNW_CLIENT_FOLLOW_FORK)

/* ---- the userfaultfd ---- */

static uint64_t features_of(const struct mnw__image *image, unsigned flags, uint64_t offered) {
    uint64_t features = mnw__uffd_fault_features(mnw__backing_is_hugetlb(image->backing));
    features |= MNW__UFFD_EVENT_REMAP | MNW__UFFD_EVENT_UNMAP | MNW__UFFD_THREAD_ID | (offered & MNW__UFFD_POISON);
    return flags & MNW_CLIENT_FOLLOW_FORK ? features | MNW__UFFD_EVENT_FORK : features;
}

static bool keeps_children(struct mnw_client *client) {
    mnw__mutex_lock(&client->lock);
    bool keeps = client->keeps;
    mnw__mutex_unlock(&client->lock);
    return keeps;
}

static int open_uffd(struct mnw_client *client, struct mnw_client_view *view) {
    struct mnw__uffd_probe probe;
    int error = mnw__uffd_probe(&probe);
    if (error)
        return error;
    if (probe.door == MNW__UFFD_DOOR_USER_ONLY && !client->user_faults_only)
        return mnw__fail(-EPERM, "mnw_client_map: this process may only watch faults of user code, and a system call "
                                 "given an untouched page would fail; run: sysctl vm.unprivileged_userfaultfd=1, or "
                                 "give access to /dev/userfaultfd, or accept it by the option user_faults_only");
    if (view->flags & MNW_CLIENT_FOLLOW_FORK && !keeps_children(client))
        return mnw__fail(-EOPNOTSUPP,
                         "mnw_client_map: the daemon at %s has no holder, and a child would read zeros when "
                         "it dies; start it without --alone, or map without MNW_CLIENT_FOLLOW_FORK",
                         client->path);
    view->has_poison = probe.features & MNW__UFFD_POISON;
    view->features = features_of(view->image, view->flags, probe.features);
    int fd = mnw__uffd_open(view->features);
    if (fd == -EPERM && view->flags & MNW_CLIENT_FOLLOW_FORK)
        return mnw__fail(-EPERM, "mnw_client_map: following forks by userfaultfd takes CAP_SYS_PTRACE, which this "
                                 "process lacks; map without MNW_CLIENT_FOLLOW_FORK");
    if (fd < 0)
        return fd;
    mnw__keep_set(&view->uffd, fd);
    return 0;
}

/* ---- the mapping ---- */

/* Under the lock: a reconnection may replace the descriptor at any time, by one of another image. */
static int backing_of(struct mnw_client *client, struct mnw_client_view *view) {
    const struct mnw__image *image = view->image;
    mnw__mutex_lock(&client->lock);
    bool fits = view->page_bytes == image->page_bytes &&
                view->offset + view->length <= mnw__align_up(image->size_bytes, image->page_bytes);
    int fd = fcntl(image->file.fd, F_DUPFD_CLOEXEC, 0), error = fd < 0 ? -errno : 0;
    view->device = image->device;
    view->inode = image->inode;
    mnw__mutex_unlock(&client->lock);
    if (error)
        return mnw__fail(error, "mnw_client_map: duplicating a descriptor: %s; raise ulimit -n", strerror(-error));
    if (fits)
        return fd;
    close(fd);
    return mnw__fail(-ESTALE, "mnw_client_map: image '%s' has become another one meanwhile", image->name);
}

static int map_veiled(struct mnw_client *client, struct mnw_client_view *view) {
    int fd = backing_of(client, view);
    if (fd < 0)
        return fd;
    size_t unit = view->image->backing == MNW_BACKING_GRADED ? GRADED_BYTES : view->page_bytes;
    void *at = view->address ? mnw__map_quiet((void *)view->address, view->length, PROT_NONE, VIEW_FLAGS | MAP_FIXED,
                                              fd, view->offset)
                             : mnw__map_congruent(fd, view->offset, view->length, PROT_NONE, VIEW_FLAGS, unit);
    int error = at == MAP_FAILED ? -errno : 0;
    close(fd);
    if (error)
        return mnw__fail(error,
                         "mnw_client_map: mapping %zu bytes of '%s': %s; raise vm.max_map_count or ulimit -v, and "
                         "choose addresses that are multiples of the image's page, %zu",
                         view->length, view->image->name, strerror(-error), view->page_bytes);
    view->address = (uintptr_t)at;
    /* With FOLLOW_FORK too: only while fork(2) is under way it is not so. */
    if (madvise(at, view->length, MADV_DONTFORK))
        return mnw__fail(-errno, "mnw_client_map: madvise(MADV_DONTFORK): %s", strerror(errno));
    /* khugepaged would make huge folios of the file's extents, and memory of its holes. */
    if (view->image->backing == MNW_BACKING_SHMEM)
        madvise(at, view->length, MADV_NOHUGEPAGE);
    return 0;
}

/* Under the lock: who loses the view closes it for good, where it cannot be barred page by page. */
static int unveil(struct mnw_client *client, const struct mnw_client_view *view) {
    int protection = view->flags & MNW_VIEW_WRITE ? PROT_READ | PROT_WRITE : PROT_READ, error = 0;
    munlock((void *)view->address, view->length); /* mlockall() would populate it all */
    mnw__mutex_lock(&client->lock);
    if (view->state == MNW__CLIENT_VIEW_LOST)
        error = mnw__fail(view->lost, "mnw_client_map: the daemon gave the view up at once: %s", strerror(-view->lost));
    else if (mprotect((void *)view->address, view->length, protection))
        error = mnw__fail(-errno, "mnw_client_map: making %zu bytes accessible: %s", view->length, strerror(errno));
    mnw__mutex_unlock(&client->lock);
    return error;
}

/*
 * Whoever waits in the view is woken by the unregistration into a mapping that is closed already. A munmap of what is
 * still registered would wait for somebody to read of it.
 */
static void unmap(const struct mnw_client_view *view) {
    mprotect((void *)view->address, view->length, PROT_NONE);
    mnw__uffd_unregister(view->uffd.fd, view->address, view->length);
    mnw__uffd_wake(view->uffd.fd, view->address, view->length);
    munmap((void *)view->address, view->length);
}

/* ---- attaching: the client's thread, locked ---- */

static void attached(struct mnw_client *client, struct mnw__request *request) {
    struct mnw_client_view *view = mnw__container_of(request, struct mnw_client_view, attach);
    if (view->state != MNW__CLIENT_VIEW_NEW && view->state != MNW__CLIENT_VIEW_ADRIFT)
        return;
    bool again = view->state == MNW__CLIENT_VIEW_ADRIFT;
    if (!request->result)
        view->state = MNW__CLIENT_VIEW_SERVED;
    else if (again)
        mnw__view_lose(view, request->result);
    /* Faults that the old daemon had read are never told to the new one unless they happen again. */
    if (!request->result && again) {
        mnw__uffd_wake(view->uffd.fd, view->address, view->length);
        mnw__view_record_again(client, view);
    }
}

void mnw__view_record_again(struct mnw_client *client, struct mnw_client_view *view) {
    struct mnw__request *record = &view->record;
    if (!(view->flags & MNW_CLIENT_RECORD) || record->state == MNW__REQUEST_WAITING ||
        record->state == MNW__REQUEST_SENT)
        return;
    mnw__request_init(record, MNW__WIRE_RECORD, sizeof(record->body.working_set));
    record->body.working_set = (struct mnw__wire_working_set){.view = view->id, .action = MNW__WIRE_RECORD_START};
    record->view = view;
    mnw__request_queue(client, record);
}

static void prepare_attach(struct mnw_client_view *view) {
    struct mnw__request *attach = &view->attach;
    mnw__request_init(attach, MNW__WIRE_ATTACH, sizeof(attach->body.attach));
    attach->image = view->image;
    attach->view = view;
    attach->fd = view->uffd.fd;
    attach->ended = attached;
    attach->body.attach = (struct mnw__wire_attach){.view = view->id,
                                                    .flags = view->flags & MNW_VIEW_WRITE,
                                                    .address = view->address,
                                                    .length = view->length,
                                                    .offset = view->offset};
}

void mnw__view_reattach(struct mnw_client *client, struct mnw_client_view *view) {
    prepare_attach(view);
    mnw__request_queue(client, &view->attach);
}

/* ---- mapping: callers ---- */

static void enlist(struct mnw_client *client, struct mnw_client_view *view) {
    mnw__mutex_lock(&client->lock);
    do {
        view->id = ++client->last_view;
    } while (!view->id);
    view->next = client->views;
    client->views = view;
    prepare_attach(view);
    mnw__mutex_unlock(&client->lock);
}

static void strike(struct mnw_client *client, struct mnw_client_view *view) {
    mnw__mutex_lock(&client->lock);
    struct mnw_client_view **link = &client->views;
    while (*link && *link != view)
        link = &(*link)->next;
    if (*link)
        *link = view->next;
    mnw__request_forget(client, &view->attach);
    mnw__request_forget(client, &view->record);
    if (view->watched)
        mnw__poller_remove(client->poller, view->uffd.fd);
    mnw__mutex_unlock(&client->lock);
}

static int tell(struct mnw_client *client, struct mnw_client_view *view, enum mnw__wire_type type, uint32_t action) {
    struct mnw__request request;
    if (type == MNW__WIRE_DETACH) {
        mnw__request_init(&request, type, sizeof(request.body.view));
        request.body.view.view = view->id;
    } else {
        mnw__request_init(&request, type, sizeof(request.body.working_set));
        request.body.working_set = (struct mnw__wire_working_set){.view = view->id, .action = action};
    }
    request.view = view;
    return mnw__request_ask(client, &request, type == MNW__WIRE_DETACH ? "mnw_client_unmap" : "recording");
}

/* Answered as soon as the reads are under way; nobody waits for their end. */
static int replay(struct mnw_client *client, struct mnw_client_view *view) {
    struct mnw__request request;
    mnw__request_init(&request, MNW__WIRE_REPLAY, sizeof(request.body.working_set));
    mnw__mutex_lock(&client->lock);
    request.body.working_set.cookie = ++client->last_cookie;
    mnw__mutex_unlock(&client->lock);
    request.image = view->image;
    int error = mnw__request_ask(client, &request, "replaying the working set");
    return error == -ENOENT ? 0 : error; /* nothing was recorded yet: the first run is no failure */
}

static int attach_new(struct mnw_client *client, struct mnw_client_view *view) {
    int error = open_uffd(client, view);
    if (!error)
        error = map_veiled(client, view);
    if (error)
        return error;
    enlist(client, view);
    error = mnw__request_ask(client, &view->attach, "mnw_client_map");
    if (!error && view->flags & MNW_CLIENT_RECORD)
        error = tell(client, view, MNW__WIRE_RECORD, MNW__WIRE_RECORD_START);
    if (!error && view->flags & MNW_CLIENT_REPLAY)
        error = replay(client, view);
    if (!error)
        error = unveil(client, view);
    if (error)
        strike(client, view);
    return error;
}

static int check_options(const struct mnw__image *image, struct mnw_client_map_options *options) {
    uint64_t end = mnw__align_up(image->size_bytes, image->page_bytes);
    if (options->flags & ~KNOWN_FLAGS)
        return mnw__fail(-EINVAL, "mnw_client_map: unknown flags 0x%x", options->flags & ~KNOWN_FLAGS);
    if (!mnw__is_aligned(options->address, image->page_bytes))
        return mnw__fail(-EINVAL, "mnw_client_map: address 0x%llx must be a multiple of the image's page, %u",
                         (unsigned long long)options->address, image->page_bytes);
    if (!options->length_bytes && options->offset_bytes < end)
        options->length_bytes = end - options->offset_bytes;
    if (options->length_bytes < UINT64_MAX - image->page_bytes)
        options->length_bytes = mnw__align_up(options->length_bytes, image->page_bytes);
    return mnw__image_check_range(image, options->offset_bytes, options->length_bytes, "mnw_client_map");
}

static int map(struct mnw_client_view *view, struct mnw_client *client, struct mnw_client_map_options *options) {
    int error = check_options(view->image, options);
    if (error)
        return error;
    view->client = client;
    view->page_bytes = view->image->page_bytes;
    view->address = (uintptr_t)options->address;
    view->length = (size_t)options->length_bytes;
    view->offset = options->offset_bytes;
    view->flags = options->flags;
    mnw__keep_add(&view->uffd);
    uintptr_t wanted = view->address;
    error = attach_new(client, view);
    if (error) {
        if (view->address != wanted || view->id)
            unmap(view);
        mnw__keep_remove(&view->uffd);
    }
    return error;
}

int mnw_client_map(struct mnw_client_view **result, struct mnw_client *client, const char *image,
                   const struct mnw_client_map_options *options) {
    MNW__WHOLE_CALL;
    struct mnw_client_map_options known;
    int error = result ? mnw__client_check(client, "mnw_client_map")
                       : mnw__fail(-EINVAL, "mnw_client_map: `view` must not be NULL");
    if (!error)
        error = mnw__options_copy(&known, sizeof(known), options, "mnw_client_map_options");
    if (error)
        return error;
    struct mnw_client_view *view = calloc(1, sizeof(*view));
    if (!view)
        return mnw__fail(-ENOMEM, "mnw_client_map: no memory for a view");
    error = mnw__image_enter(&view->image, client, image, "mnw_client_map");
    if (!error) {
        error = map(view, client, &known);
        if (error)
            mnw__image_leave(client, view->image);
    }
    if (error) {
        free(view);
        return error;
    }
    if (view->flags & MNW_CLIENT_FOLLOW_FORK)
        mnw__followed_add(&view->followed, view);
    *result = view;
    return 0;
}

/* ---- unmapping ---- */

static int check_view(const struct mnw_client_view *view, const char *call) {
    return view ? mnw__client_check(view->client, call) : mnw__fail(-EINVAL, "%s: `view` must not be NULL", call);
}

/* Does the daemon serve it? From now on it is nobody's to attach. */
static bool begin_to_go(struct mnw_client *client, struct mnw_client_view *view) {
    mnw__mutex_lock(&client->lock);
    bool served = view->state == MNW__CLIENT_VIEW_SERVED;
    view->state = MNW__CLIENT_VIEW_GOING;
    mnw__mutex_unlock(&client->lock);
    return served;
}

/* Nobody waits for a daemon that is not there: it would not know of what the last one noted. */
static int save(struct mnw_client_view *view) {
    struct mnw_client *client = view->client;
    mnw__mutex_lock(&client->lock);
    bool served = view->state == MNW__CLIENT_VIEW_SERVED;
    mnw__mutex_unlock(&client->lock);
    return served ? tell(client, view, MNW__WIRE_RECORD, MNW__WIRE_RECORD_SAVE)
                  : mnw__fail(-ENOTCONN, "recording: no daemon serves this view now; what was noted of it is gone");
}

int mnw_client_save(struct mnw_client_view *view) {
    MNW__WHOLE_CALL;
    int error = check_view(view, "mnw_client_save");
    if (!error && !(view->flags & MNW_CLIENT_RECORD))
        error = mnw__fail(-EINVAL, "mnw_client_save: the view was mapped without MNW_CLIENT_RECORD");
    return error ? error : save(view);
}

int mnw_client_unmap(struct mnw_client_view *view) {
    MNW__WHOLE_CALL;
    int error = check_view(view, "mnw_client_unmap");
    if (error)
        return error;
    struct mnw_client *client = view->client;
    int saved = 0;
    if (view->flags & MNW_CLIENT_FOLLOW_FORK)
        mnw__followed_remove(&view->followed);
    if (view->flags & MNW_CLIENT_RECORD)
        saved = save(view);
    /* A daemon that does not answer cannot keep the memory from its owner: the session's end detaches too. */
    if (begin_to_go(client, view))
        tell(client, view, MNW__WIRE_DETACH, 0);
    unmap(view);
    strike(client, view);
    mnw__keep_remove(&view->uffd);
    mnw__image_leave(client, view->image);
    free(view);
    return saved;
}

void *mnw_client_data(const struct mnw_client_view *view) {
    return check_view(view, "mnw_client_data") ? NULL : (void *)view->address;
}

size_t mnw_client_length(const struct mnw_client_view *view) {
    return check_view(view, "mnw_client_length") ? 0 : view->length;
}

int mnw_client_lost(const struct mnw_client_view *view) {
    int error = check_view(view, "mnw_client_lost");
    if (error)
        return error;
    mnw__mutex_lock(&view->client->lock);
    int lost = view->lost;
    mnw__mutex_unlock(&view->client->lock);
    return lost ? mnw__fail(lost, "the daemon does not serve this view any more: %s", strerror(-lost)) : 0;
}
