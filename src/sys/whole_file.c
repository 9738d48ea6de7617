/* SPDX-License-Identifier: MIT */
/* Reading a file whole, and replacing it by a new one under the same name. */
#include "sys/whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- reading ---- */

/* Until `size` bytes are there or the file ends; how many. */
static ssize_t read_all(int fd, char *to, size_t size) {
    size_t done = 0;
    while (done < size) {
        ssize_t count = read(fd, to + done, size - done);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        if (!count)
            break;
        done += (size_t)count;
    }
    return (ssize_t)done;
}

static int check_kind(int fd, size_t size_max, size_t *size) {
    struct stat status;
    if (fstat(fd, &status) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode))
        return -EINVAL;
    if ((uint64_t)status.st_size > size_max)
        return -EFBIG;
    *size = (size_t)status.st_size;
    return 0;
}

static int read_open(int fd, size_t size_max, void **bytes, size_t *size) {
    int error = check_kind(fd, size_max, size);
    if (error)
        return error;
    char *to = malloc(*size + 1); /* an empty file has bytes too */
    if (!to)
        return -ENOMEM;
    ssize_t count = read_all(fd, to, *size);
    if (count < 0) {
        free(to);
        return (int)count;
    }
    *bytes = to;
    *size = (size_t)count;
    return 0;
}

int mnw__file_read_whole(const char *path, size_t size_max, void **bytes, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -errno;
    int error = read_open(fd, size_max, bytes, size);
    close(fd);
    return error;
}

/* ---- replacing ---- */

static int write_all(int fd, const char *from, size_t size) {
    while (size) {
        ssize_t count = write(fd, from, size);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        from += count;
        size -= (size_t)count;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

/* A new file beside the old one. O_EXCL: nobody else's, and no link that somebody laid there. */
static int open_beside(const char *path, char *name, size_t name_size) {
    static _Atomic unsigned turn;
    for (unsigned tries = 0; tries < 100; tries++) {
        int length = snprintf(name, name_size, "%s.%ld.%u.new", path, (long)getpid(), atomic_fetch_add(&turn, 1));
        if (length < 0 || (size_t)length >= name_size)
            return -ENAMETOOLONG;
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd >= 0)
            return fd;
        if (errno != EEXIST)
            return -errno;
    }
    return -EEXIST;
}

/* Without this the rename may be lost in a crash; the old file is then still whole, so failing here is no failure. */
static void keep_name(const char *path) {
    char directory[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int length = slash ? snprintf(directory, sizeof(directory), "%.*s", (int)(slash - path + 1), path)
                       : snprintf(directory, sizeof(directory), ".");
    int fd = length > 0 ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

int mnw__file_replace(const char *path, const void *bytes, size_t size) {
    char name[PATH_MAX];
    int fd = open_beside(path, name, sizeof(name));
    if (fd < 0)
        return fd;
    int error = write_all(fd, bytes, size);
    if (close(fd) < 0 && !error)
        error = -errno;
    if (!error && rename(name, path) < 0)
        error = -errno;
    if (error)
        unlink(name);
    else
        keep_name(path);
    return error;
}
