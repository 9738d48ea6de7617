/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include "machine.h"
#include "measure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HUGE_SPARE    2
#define HUGE_TRIES    5
#define HUGE_PAUSE_NS 100000000

const struct backing_name backing_names[3] = {
    {MNW_BACKING_SHMEM, "shmem", 0},
    {MNW_BACKING_GRADED, "graded", 0},
    {MNW_BACKING_HUGETLB_2M, "hugetlb-2M", 2 << 20},
};

bool rig_provide(const struct backing_name *backing, uint64_t bytes) {
    if (!backing->huge_bytes)
        return true;
    /* Pages of a cache just closed, and memory that others give back, may come a moment later. */
    for (unsigned tries = 0; tries < HUGE_TRIES; tries++) {
        if (machine_free_hugepages(backing->huge_bytes, bytes / backing->huge_bytes + HUGE_SPARE))
            return true;
        sleep_ns(HUGE_PAUSE_NS);
    }
    return false;
}

/* ---- scratch files ---- */

static int tell(const char *directory, int error) {
    fprintf(stderr, "minnow-bench: a scratch file in %s: %s\n", directory, strerror(-error));
    return error;
}

static int give_up(struct scratch *scratch, const char *directory, int error) {
    tell(directory, error);
    close(scratch->fd);
    scratch->fd = -1;
    return error;
}

static int open_scratch(struct scratch *scratch, const char *directory, uint64_t size_bytes) {
    scratch->size_bytes = size_bytes;
    scratch->fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (scratch->fd < 0)
        return tell(directory, -errno);
    snprintf(scratch->uri, sizeof(scratch->uri), "file:///proc/self/fd/%d", scratch->fd);
    return 0;
}

int scratch_sparse(struct scratch *scratch, const char *directory, uint64_t size_bytes) {
    int error = open_scratch(scratch, directory, size_bytes);
    if (!error && ftruncate(scratch->fd, (off_t)size_bytes))
        error = give_up(scratch, directory, -errno);
    return error;
}

/* Every page begins with a byte that tells it from its neighbours. */
static int write_pages(int fd, uint64_t size_bytes) {
    const size_t chunk = MIB;
    unsigned char *bytes = calloc(1, chunk);
    int error = bytes ? 0 : -ENOMEM;
    uint64_t random = 88172645463325252u;
    for (uint64_t at = 0; !error && at < size_bytes; at += chunk) {
        for (size_t page = 0; page < chunk; page += 4096)
            bytes[page] = (unsigned char)next_random(&random);
        ssize_t written = pwrite(fd, bytes, chunk, (off_t)at);
        if (written != (ssize_t)chunk)
            error = written < 0 ? -errno : -ENOSPC;
    }
    free(bytes);
    return error;
}

int scratch_warm(struct scratch *scratch, const char *directory, uint64_t size_bytes) {
    int error = open_scratch(scratch, directory, size_bytes);
    if (error)
        return error;
    error = write_pages(scratch->fd, size_bytes);
    /* Or the disk would be written to while something else is measured. */
    if (!error && fdatasync(scratch->fd))
        error = -errno;
    return error ? give_up(scratch, directory, error) : 0;
}

int scratch_forget(const struct scratch *scratch) {
    return -posix_fadvise(scratch->fd, 0, 0, POSIX_FADV_DONTNEED);
}

void scratch_close(struct scratch *scratch) {
    if (scratch->fd >= 0)
        close(scratch->fd);
    scratch->fd = -1;
}

/* ---- the library's handles ---- */

static void must(int error, const char *what) {
    if (!error)
        return;
    fprintf(stderr, "%s: %s\n", what, mnw_error());
    exit(EXIT_FAILURE);
}

void rig_close(struct rig *rig) {
    if (rig->view)
        must(mnw_view_close(rig->view), "closing the view");
    if (rig->shares) {
        *rig = (struct rig){0};
        return;
    }
    if (rig->cache)
        must(mnw_cache_close(rig->cache), "closing the cache");
    if (rig->pool)
        must(mnw_pool_close(rig->pool), "closing the pool");
    if (rig->store)
        must(mnw_store_close(rig->store), "closing the store");
    *rig = (struct rig){0};
}

static int open_all(struct rig *rig, const char *uri, const struct mnw_pool_options *options, unsigned flags) {
    struct mnw_view_options view = {.size = sizeof(view), .flags = flags};
    int error = mnw_store_open(&rig->store, uri, NULL);
    if (!error)
        error = mnw_pool_open(&rig->pool, options);
    if (!error)
        error = mnw_cache_open(&rig->cache, rig->pool, rig->store, NULL);
    return error ? error : mnw_view_open(&rig->view, rig->cache, &view);
}

static void take_view(struct rig *rig) {
    rig->data = mnw_view_data(rig->view);
    rig->length = mnw_view_length(rig->view);
    rig->page_bytes = mnw_cache_page_size(rig->cache);
}

static int open_flagged(struct rig *rig, const struct scratch *scratch, const struct mnw_pool_options *options,
                        unsigned flags) {
    *rig = (struct rig){0};
    int error = open_all(rig, scratch->uri, options, flags);
    if (error) {
        if (error != -EOPNOTSUPP)
            fprintf(stderr, "%s\n", mnw_error());
        rig_close(rig);
        return error;
    }
    take_view(rig);
    return 0;
}

int rig_open(struct rig *rig, const struct scratch *scratch, enum mnw_backing backing, uint64_t budget_bytes) {
    struct mnw_pool_options options = {.size = sizeof(options), .backing = backing, .budget_bytes = budget_bytes};
    return rig_open_pool(rig, scratch, &options);
}

int rig_open_pool(struct rig *rig, const struct scratch *scratch, const struct mnw_pool_options *options) {
    return open_flagged(rig, scratch, options, 0);
}

/* Without the inline mode a flag that is refused. */
#ifdef BENCH_HAS_INLINE
#define VIEW_INLINE MNW_VIEW_INLINE
#else
#define VIEW_INLINE (1u << 31)
#endif

int rig_share(struct rig *rig, const struct rig *like, bool in_line) {
    struct mnw_view_options options = {.size = sizeof(options), .flags = in_line ? VIEW_INLINE : 0};
    *rig = *like;
    rig->view = NULL;
    rig->shares = true;
    int error = mnw_view_open(&rig->view, rig->cache, &options);
    if (error)
        *rig = (struct rig){0};
    else
        take_view(rig);
    return error;
}

int rig_open_inline(struct rig *rig, const struct scratch *scratch, enum mnw_backing backing, uint64_t budget_bytes) {
    struct mnw_pool_options options = {.size = sizeof(options), .backing = backing, .budget_bytes = budget_bytes};
    return rig_open_inline_pool(rig, scratch, &options);
}

int rig_open_inline_pool(struct rig *rig, const struct scratch *scratch, const struct mnw_pool_options *options) {
#ifdef BENCH_HAS_INLINE
    return open_flagged(rig, scratch, options, VIEW_INLINE);
#else
    (void)scratch, (void)options;
    *rig = (struct rig){0};
    return -EOPNOTSUPP;
#endif
}
