/* SPDX-License-Identifier: MIT */
#include "area.h"

#include "machine.h"
#include "measure.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#define PAGE     4096
#define HUGE_2M  (21u << 26) /* MFD_HUGE_2MB and MFD_HUGE_1GB, which the C library's header lacks */
#define HUGE_1G  (30u << 26)
#define CHUNK    ((size_t)1 << 20)
#define SPARE    2
#define TRIES    5
#define PAUSE_NS 100000000

const char *const area_names[AREA_KINDS] = {"4K", "graded", "2M", "1G"};

static size_t huge_bytes(enum area_kind kind) {
    return kind == AREA_4K ? PAGE : kind == AREA_1G ? (size_t)1 << 30 : (size_t)2 << 20;
}

bool area_provide(enum area_kind kind, size_t length) {
    if (kind != AREA_2M && kind != AREA_1G)
        return true;
    uint64_t spare = kind == AREA_2M ? SPARE : 0;
    /* Pages of what was just closed, and memory that others give back, may come a moment later. */
    for (unsigned tries = 0; tries < TRIES; tries++) {
        if (machine_free_hugepages(huge_bytes(kind), length / huge_bytes(kind) + spare))
            return true;
        sleep_ns(PAUSE_NS);
    }
    return false;
}

/* ---- files ---- */

/* A tmpfs of its own that gives huge pages, mounted nowhere: the machine's setting does not matter, nor change. */
static int graded_file(void) {
    int context = fsopen("tmpfs", FSOPEN_CLOEXEC), fd = -ENOTSUP;
    if (context < 0)
        return -ENOTSUP;
    /* size=0: no limit. */
    if (!fsconfig(context, FSCONFIG_SET_STRING, "huge", "always", 0) &&
        !fsconfig(context, FSCONFIG_SET_STRING, "size", "0", 0) &&
        !fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0)) {
        int mount = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
        if (mount >= 0) {
            fd = openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
            fd = fd < 0 ? -errno : fd;
            close(mount);
        }
    }
    close(context);
    return fd;
}

int area_file(enum area_kind kind, size_t length) {
    unsigned huge = kind == AREA_2M ? MFD_HUGETLB | HUGE_2M : kind == AREA_1G ? MFD_HUGETLB | HUGE_1G : 0;
    int fd = kind == AREA_GRADED ? graded_file() : memfd_create("bare", MFD_CLOEXEC | huge);
    if (fd == -1)
        return -errno;
    if (fd >= 0 && ftruncate(fd, (off_t)length)) {
        int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

/* ---- mappings ---- */

static void *map(int fd, size_t length, int protection, int flags, enum area_kind kind) {
    void *at = mmap(NULL, length, protection, flags | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED)
        return NULL;
    if (kind == AREA_4K)
        madvise(at, length, MADV_NOHUGEPAGE);
    else if (kind == AREA_GRADED)
        madvise(at, length, MADV_HUGEPAGE);
    return at;
}

static int map_both(struct area *area) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", area->fd);
    area->readonly_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (area->readonly_fd < 0)
        return -errno;
    area->alias = map(area->fd, area->length, PROT_READ | PROT_WRITE, MAP_SHARED, area->kind);
    area->view = map(area->readonly_fd, area->length, PROT_READ, MAP_PRIVATE, area->kind);
    if (!area->alias || !area->view)
        return -ENOMEM;
    return madvise((void *)(uintptr_t)area->view, area->length, MADV_DONTFORK) ? -errno : 0;
}

int area_fill(struct area *area, const struct scratch *contents) {
    /* Without this a pool that is too small would be SIGBUS below. Work of other threads may interrupt it. */
    while ((area->kind == AREA_2M || area->kind == AREA_1G) && fallocate(area->fd, 0, 0, (off_t)area->length))
        if (errno != EINTR)
            return -errno;
    for (size_t at = 0; at < area->length; at += CHUNK) {
        ssize_t got = pread(contents->fd, area->alias + at, CHUNK, (off_t)(at % contents->size_bytes));
        if (got != (ssize_t)CHUNK)
            return got < 0 ? -errno : -ENODATA;
    }
    return 0;
}

int area_open(struct area *area, enum area_kind kind, size_t length, const struct scratch *contents) {
    *area = (struct area){.kind = kind, .fd = -1, .readonly_fd = -1, .length = length};
    area->huge_bytes = huge_bytes(kind);
    area->page_bytes = kind == AREA_GRADED ? PAGE : area->huge_bytes;
    if (!area_provide(kind, length))
        return -ENOMEM;
    int error = area->fd = area_file(kind, length);
    if (error >= 0)
        error = map_both(area);
    if (!error && contents)
        error = area_fill(area, contents);
    if (error)
        area_close(area);
    return error;
}

int area_share(struct area *area, const struct area *like) {
    *area = *like;
    area->alias = NULL;
    area->view = NULL;
    area->readonly_fd = -1;
    area->fd = fcntl(like->fd, F_DUPFD_CLOEXEC, 3);
    int error = area->fd < 0 ? -errno : map_both(area);
    if (error)
        area_close(area);
    return error;
}

void area_close(struct area *area) {
    if (area->view)
        munmap((void *)(uintptr_t)area->view, area->length);
    if (area->alias)
        munmap(area->alias, area->length);
    if (area->readonly_fd >= 0)
        close(area->readonly_fd);
    if (area->fd >= 0)
        close(area->fd);
    *area = (struct area){.fd = -1, .readonly_fd = -1};
}

void area_zap(const struct area *area) {
    madvise((void *)(uintptr_t)area->view, area->length, MADV_DONTNEED);
}

bool area_punch(const struct area *area, size_t offset, size_t length) {
    return !fallocate(area->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
}

/* ---- userfaultfd ---- */

int uffd_open(uint64_t features, int flags) {
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | flags);
    if (uffd < 0)
        return -errno;
    if (ioctl(uffd, UFFDIO_API, &api)) {
        int error = -errno;
        close(uffd);
        return error;
    }
    return uffd;
}

int uffd_arm(int uffd, volatile const void *data, size_t length, uint64_t modes) {
    struct uffdio_register range = {.range = {.start = (uintptr_t)data, .len = length}, .mode = modes};
    return ioctl(uffd, UFFDIO_REGISTER, &range) ? -errno : 0;
}

int fault_around_off(volatile const void *data, size_t length) {
    /* The second is older, and for shmem and hugetlb alone. */
    static const uint64_t modes[] = {UFFD_FEATURE_WP_ASYNC, UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
    int error = 0;
    for (unsigned i = 0; i < 2; i++) {
        int uffd = uffd_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP | modes[i], 0);
        if (uffd < 0) {
            error = uffd;
            continue;
        }
        error = uffd_arm(uffd, data, length, UFFDIO_REGISTER_MODE_WP);
        if (!error)
            return uffd;
        close(uffd);
    }
    return error;
}
