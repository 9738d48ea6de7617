/* SPDX-License-Identifier: MIT */
/*
 * Memory that outlives its process. Owns nothing but what is in a struct mnw__shared.
 *
 * The lock is of an open file description of its own: descriptors that were sent to a holder share none of it, and
 * it goes when the last thread of the process has closed its files, after which none of them runs any more.
 */
#include "sys/shared.h"

#include "base/bits.h"
#include "base/error.h"
#include "sys/data.h"
#include "sys/mapping.h"
#include "sys/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static int open_again(int fd) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR | O_CLOEXEC);
    if (again >= 0)
        return again;
    return mnw__fail(
        -errno,
        "kept words: opening /proc/self/fd/%d: %s; /proc must be mounted, the words must belong to this user, "
        "and the limit on open files (ulimit -n) must not be reached",
        fd, strerror(errno));
}

static int map(struct mnw__shared *shared) {
    void *memory =
        mnw__map_quiet(NULL, shared->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, shared->lock, 0);
    if (memory == MAP_FAILED)
        return mnw__fail(-errno, "kept words: mapping %" PRIu64 " bytes: %s; ulimit -v may forbid it", shared->length,
                         strerror(errno));
    shared->memory = memory;
    /* A kernel without huge page support refuses the second; words of a sparse store are few and far between. */
    madvise(memory, shared->length, MADV_DONTFORK);
    madvise(memory, shared->length, MADV_NOHUGEPAGE);
    return 0;
}

/* Locks the file of `shared->fd` and maps it. */
static int own(struct mnw__shared *shared) {
    shared->lock = open_again(shared->fd);
    if (shared->lock < 0)
        return shared->lock;
    if (flock(shared->lock, LOCK_EX | LOCK_NB))
        return mnw__fail(errno == EWOULDBLOCK ? -EBUSY : -errno,
                         "kept words: %s; the process that has them must have ended first, with every child it forked",
                         errno == EWOULDBLOCK ? "another process has them" : strerror(errno));
    return map(shared);
}

static int give_size(const struct mnw__shared *shared) {
    if (shared->length > INT64_MAX || ftruncate(shared->fd, (off_t)shared->length) || fchmod(shared->fd, 0600) ||
        fcntl(shared->fd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_SEAL))
        return mnw__fail(shared->length > INT64_MAX ? -EFBIG : -errno,
                         "kept words: a file of %" PRIu64 " bytes: %s; the store is too large", shared->length,
                         strerror(shared->length > INT64_MAX ? EFBIG : errno));
    return 0;
}

int mnw__shared_create(struct mnw__shared *shared, uint64_t length) {
    *shared = (struct mnw__shared){.length = mnw__align_up(length, mnw__memory_page_bytes()), .lock = -1};
    shared->fd = memfd_create("minnow-words", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (shared->fd < 0)
        return mnw__fail(-errno, "kept words: memfd_create: %s; raise the limit on open files (ulimit -n)",
                         strerror(errno));
    int error = give_size(shared);
    if (!error)
        error = own(shared);
    if (error)
        mnw__shared_destroy(shared);
    return error;
}

/* Somebody who could shrink it could end us by SIGBUS. */
static int check_file(int fd, uint64_t length) {
    struct stat status;
    if (fstat(fd, &status))
        return mnw__fail(-errno, "kept words: descriptor %d: %s", fd, strerror(errno));
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SIZE_SEALS) != SIZE_SEALS)
        return mnw__fail(-ESTALE, "kept words: descriptor %d is no memory of fixed size; open the cache afresh", fd);
    if ((uint64_t)status.st_size != length)
        return mnw__fail(-ESTALE, "kept words: %lld bytes, not the %" PRIu64 " of this store; open the cache afresh",
                         (long long)status.st_size, length);
    return 0;
}

int mnw__shared_adopt(struct mnw__shared *shared, int fd, uint64_t length) {
    *shared = (struct mnw__shared){.length = mnw__align_up(length, mnw__memory_page_bytes()), .fd = -1, .lock = -1};
    int error = check_file(fd, shared->length);
    if (error)
        return error;
    shared->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    error = shared->fd < 0 ? mnw__fail(-errno, "kept words: duplicating descriptor %d: %s", fd, strerror(errno))
                           : own(shared);
    if (error)
        mnw__shared_destroy(shared);
    return error;
}

void mnw__shared_destroy(struct mnw__shared *shared) {
    if (shared->memory)
        munmap(shared->memory, shared->length);
    if (shared->lock >= 0)
        close(shared->lock);
    if (shared->fd >= 0)
        close(shared->fd);
    *shared = (struct mnw__shared){.fd = -1, .lock = -1};
}

int mnw__shared_next_data(const struct mnw__shared *shared, uint64_t from, uint64_t *start, uint64_t *end) {
    return mnw__file_next_data(shared->lock, from, shared->length, start, end);
}
