/* SPDX-License-Identifier: MIT */
/*
 * The file store: a regular file or a block device, buffered or direct.
 *
 * Owns the descriptor. Any fault thread may read, through its own struct mnw__io. The size is what the file had
 * at open; a read past what it has now is answered with 0, and the caller knows better. A file replaced under
 * its name stays the file that was opened.
 */
#include "store/store.h"

#include "base/bits.h"
#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* What direct reads are aligned to when the kernel does not say (before 6.1). */
#define DIRECT_ALIGN_DEFAULT 4096
/* The smallest page a cache has: a larger block would reach into a neighbour page. */
#define DIRECT_ALIGN_MAX 4096
/* No longer than this are reads that io_uring ends inside their submission. */
#define SEND_BYTES_MIN 65536

struct file_store {
    struct mnw_store store;
    int fd;
    size_t align; /* of direct reads; 1: buffered */
};

static struct file_store *of(struct mnw_store *store) {
    return mnw__container_of(store, struct file_store, store);
}

/* Aligned outwards; the reader takes the margins off the answer. False: the buffer does not lie as the offset does. */
static bool find_margins(const struct file_store *file, const struct mnw_read *read, size_t *before, size_t *after) {
    *before = (size_t)(read->offset & (file->align - 1));
    *after = (size_t)(mnw__align_up(read->offset + read->length, file->align) - read->offset - read->length);
    return ((uintptr_t)read->buffer & (file->align - 1)) == *before;
}

static int read_file(struct mnw_store *store, struct mnw__io *io, const struct mnw_read *read, mnw__io_done *done,
                     void *context) {
    const struct file_store *file = of(store);
    size_t before, after;
    (void)done;
    (void)context;
    if (!find_margins(file, read, &before, &after))
        return mnw__fail(-EINVAL, "direct read at %llu: the buffer is not aligned as the offset is",
                         (unsigned long long)read->offset);
    return mnw__io_read(io, file->fd, read->buffer, read->length, read->offset, read->token, before, after);
}

/* What is on a disk yet is read better by io_uring, many at a time; a short run is copied before a thread has woken. */
static bool may_send_file(struct mnw_store *store, const struct mnw__io *io, uint64_t offset, uint64_t length) {
    const struct file_store *file = of(store);
    return file->align == 1 && length > SEND_BYTES_MIN && mnw__io_sends(io) &&
           mnw__io_is_cached(file->fd, offset, length);
}

static int send_file(struct mnw_store *store, struct mnw__io *io, const struct mnw_read *read,
                     struct mnw__backing *backing, mnw__io_done *done, void *context) {
    (void)done;
    (void)context;
    return mnw__io_send(io, of(store)->fd, backing, read->length, read->offset, read->token);
}

static int64_t read_file_now(struct mnw_store *store, const struct mnw_read *read) {
    const struct file_store *file = of(store);
    size_t before, after;
    if (!find_margins(file, read, &before, &after))
        return -EINVAL;
    return mnw__io_read_now(file->fd, read->buffer, read->length, read->offset, before, after);
}

static void close_file(struct mnw_store *store) {
    close(of(store)->fd);
    free(of(store));
}

static const struct mnw__store_ops file_ops = {
    .name = "file",
    .read = read_file,
    .may_send = may_send_file,
    .send = send_file,
    .read_now = read_file_now,
    .close = close_file,
};

/* O_NONBLOCK lest a FIFO without a writer holds us; taken off again, or io_uring would answer EAGAIN. */
static int open_descriptor(const char *path, int direct) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (direct ? O_DIRECT : 0));
    if (fd >= 0) {
        int error = fcntl(fd, F_SETFL, direct ? O_DIRECT : 0) < 0 ? -errno : 0;
        if (!error)
            return fd;
        close(fd);
        return mnw__fail(error, "opening \"%.300s\": fcntl(F_SETFL): %s", path, strerror(-error));
    }
    int error = -errno;
    if (error == -EINVAL && direct)
        return mnw__fail(-ENOTSUP, "opening \"%.300s\": its file system has no direct reads; leave direct=1 out", path);
    return mnw__fail(error, "opening \"%.300s\" for reading: %s", path, strerror(-error));
}

static int find_size(const char *path, int fd, uint64_t *size, struct mnw__store_identity *identity) {
    struct stat status;
    if (fstat(fd, &status) < 0)
        return mnw__fail(-errno, "examining \"%.300s\": %s", path, strerror(errno));
    if (S_ISDIR(status.st_mode))
        return mnw__fail(-EISDIR, "opening \"%.300s\": it is a directory; a store is a file or a block device", path);
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return mnw__fail(-EINVAL, "opening \"%.300s\": it is neither a regular file nor a block device", path);
    *size = (uint64_t)status.st_size;
    if (S_ISBLK(status.st_mode) && ioctl(fd, BLKGETSIZE64, size) < 0)
        return mnw__fail(-errno, "asking for the size of device \"%.300s\": %s", path, strerror(errno));
    if (!*size)
        return mnw__fail(-ENODATA, "opening \"%.300s\": it is empty; there is nothing to cache", path);
    *identity = (struct mnw__store_identity){
        .device = (uint64_t)status.st_dev,
        .inode = (uint64_t)status.st_ino,
        .special = (uint64_t)status.st_rdev,
        .modified_s = (int64_t)status.st_mtim.tv_sec,
        .modified_ns = (int64_t)status.st_mtim.tv_nsec,
    };
    return 0;
}

static int find_alignment(const char *path, int fd, size_t *align) {
    struct statx status = {0};
    *align = DIRECT_ALIGN_DEFAULT;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0 || !(status.stx_mask & STATX_DIOALIGN))
        return 0;
    if (!status.stx_dio_offset_align)
        return mnw__fail(-ENOTSUP, "opening \"%.300s\": it has no direct reads; leave direct=1 out", path);
    *align = (size_t)mnw__max(status.stx_dio_offset_align, status.stx_dio_mem_align);
    if (*align > DIRECT_ALIGN_MAX || !mnw__is_power_of_two(*align))
        return mnw__fail(-ENOTSUP,
                         "opening \"%.300s\": direct reads need blocks of %zu bytes, at most %d are handled; "
                         "leave direct=1 out",
                         path, *align, DIRECT_ALIGN_MAX);
    return 0;
}

/* Takes over the descriptor when it succeeds. */
static int make_store(struct mnw_store **store, int fd, uint64_t size_bytes, const struct mnw__store_identity *identity,
                      size_t align) {
    struct file_store *file = calloc(1, sizeof(*file));
    if (!file)
        return mnw__fail(-ENOMEM, "opening a file store: out of memory");
    file->store.ops = &file_ops;
    file->store.size_bytes = size_bytes;
    file->store.identity = *identity;
    file->fd = fd;
    file->align = align;
    *store = &file->store;
    return 0;
}

int mnw__store_open_file(struct mnw_store **store, const char *path, int direct) {
    uint64_t size_bytes;
    struct mnw__store_identity identity;
    size_t align = 1;
    int fd = open_descriptor(path, direct);
    if (fd < 0)
        return fd;
    int error = find_size(path, fd, &size_bytes, &identity);
    if (!error && direct)
        error = find_alignment(path, fd, &align);
    if (!error)
        error = make_store(store, fd, size_bytes, &identity, align);
    if (error)
        close(fd);
    return error;
}
