/* SPDX-License-Identifier: MIT */
#include "bare.h"

#include "measure.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE    4096
#define HUGE_2M (21u << 26) /* MFD_HUGE_2MB, which the C library's header lacks */
#define CHUNK   ((size_t)2 << 20)

/* ---- the fault loop ---- */

static void *serve(void *argument) {
    struct bare_loop *loop = argument;
    struct uffd_msg message;
    loop->thread_id = gettid();
    while (read(loop->uffd, &message, sizeof(message)) == (ssize_t)sizeof(message)) {
        if (message.event != UFFD_EVENT_PAGEFAULT)
            continue;
        struct uffdio_continue range = {
            .range = {.start = message.arg.pagefault.address & ~(uint64_t)(PAGE - 1), .len = PAGE}};
        loop->faults++;
        if (ioctl(loop->uffd, UFFDIO_CONTINUE, &range))
            ioctl(loop->uffd, UFFDIO_WAKE, &range.range);
    }
    return NULL;
}

static int map_file(struct bare_loop *loop) {
    char path[64];
    loop->fd = memfd_create("bare", MFD_CLOEXEC);
    if (loop->fd < 0 || ftruncate(loop->fd, (off_t)loop->length))
        return -errno;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", loop->fd);
    loop->readonly_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (loop->readonly_fd < 0)
        return -errno;
    void *alias = mmap(NULL, loop->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, loop->fd, 0);
    if (alias == MAP_FAILED)
        return -errno;
    loop->alias = alias;
    madvise(alias, loop->length, MADV_NOHUGEPAGE);
    memset(alias, 0x5a, loop->length);
    void *view = mmap(NULL, loop->length, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, loop->readonly_fd, 0);
    if (view == MAP_FAILED)
        return -errno;
    loop->data = view;
    madvise(view, loop->length, MADV_NOHUGEPAGE);
    madvise(view, loop->length, MADV_DONTFORK);
    return 0;
}

static int arm(struct bare_loop *loop) {
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MINOR_SHMEM};
    loop->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (loop->uffd < 0 || ioctl(loop->uffd, UFFDIO_API, &api))
        return -errno;
    struct uffdio_register range = {.range = {.start = (uintptr_t)loop->data, .len = loop->length},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR};
    if (ioctl(loop->uffd, UFFDIO_REGISTER, &range))
        return -errno;
    return 0;
}

static void release(struct bare_loop *loop) {
    if (loop->data)
        munmap((void *)(uintptr_t)loop->data, loop->length);
    if (loop->alias)
        munmap(loop->alias, loop->length);
    if (loop->uffd >= 0)
        close(loop->uffd);
    if (loop->readonly_fd >= 0)
        close(loop->readonly_fd);
    if (loop->fd >= 0)
        close(loop->fd);
}

int bare_loop_open(struct bare_loop *loop, size_t length) {
    *loop = (struct bare_loop){.fd = -1, .readonly_fd = -1, .uffd = -1, .length = length};
    int error = map_file(loop);
    if (!error)
        error = arm(loop);
    if (!error)
        error = -pthread_create(&loop->thread, NULL, serve, loop);
    if (error) {
        release(loop);
        return error;
    }
    while (!loop->thread_id)
        sched_yield();
    return 0;
}

/* read() is where a thread may be cancelled, and between faults the loop is nowhere else. */
void bare_loop_close(struct bare_loop *loop) {
    pthread_cancel(loop->thread);
    pthread_join(loop->thread, NULL);
    release(loop);
}

/* ---- the fill loop ---- */

static int fresh_file(enum mnw_backing backing, uint64_t size_bytes) {
    unsigned flags = MFD_CLOEXEC;
    if (backing == MNW_BACKING_HUGETLB_2M)
        flags |= MFD_HUGETLB | HUGE_2M;
    int fd = memfd_create("bare", flags);
    if (fd >= 0 && ftruncate(fd, (off_t)size_bytes)) {
        close(fd);
        return -1;
    }
    return fd;
}

static int64_t fill_all(int fd, uint64_t size_bytes, unsigned char *to, size_t page_bytes, uint64_t *sum) {
    volatile const unsigned char *bytes = to;
    uint64_t begin_ns = clock_ns();
    for (uint64_t at = 0; at < size_bytes; at += CHUNK) {
        if (pread(fd, to + at, CHUNK, (off_t)at) != (ssize_t)CHUNK)
            return errno ? -errno : -ENODATA;
        for (size_t page = 0; page < CHUNK; page += page_bytes)
            *sum += bytes[at + page];
    }
    return (int64_t)(clock_ns() - begin_ns);
}

int64_t bare_fill(int fd, uint64_t size_bytes, enum mnw_backing backing, uint64_t *sum) {
    int file = fresh_file(backing, size_bytes);
    if (file < 0)
        return -errno;
    void *to = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (to == MAP_FAILED) {
        close(file);
        return -ENOMEM;
    }
    if (backing == MNW_BACKING_SHMEM)
        madvise(to, size_bytes, MADV_NOHUGEPAGE);
    int64_t ns = fill_all(fd, size_bytes, to, backing == MNW_BACKING_HUGETLB_2M ? CHUNK : PAGE, sum);
    munmap(to, size_bytes);
    close(file);
    return ns;
}
