/* SPDX-License-Identifier: MIT */
/*
 * The mappings that consumers read through. Owns one empty file, made at the first bar and kept for the
 * process; the mappings belong to the callers. Any thread may enter; never touches a mapping's bytes.
 */
#include "sys/backing.h"

#include "base/error.h"
#include "sys/mapping.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

#define VIEW_FLAGS (MAP_PRIVATE | MAP_NORESERVE)

static int advise(const struct mnw__backing *backing, void *view, size_t length) {
    if (madvise(view, length, MADV_DONTFORK)) {
        return -errno;
    }
    /* khugepaged would otherwise make huge folios of a shmem file's extents, and memory of its holes. */
    if (backing->kind == MNW_BACKING_SHMEM) {
        madvise(view, length, MADV_NOHUGEPAGE);
    }
    return 0;
}

static int protection_of(bool writable) {
    return writable ? PROT_READ | PROT_WRITE : PROT_READ;
}

int mnw__view_map_veiled(struct mnw__backing *backing, uint64_t offset, size_t length, uintptr_t *address) {
    size_t unit = backing->kind == MNW_BACKING_GRADED ? mnw__backing_extent_bytes(backing->kind) : backing->page_bytes;
    void *view = mnw__map_congruent(backing->readonly_fd, offset, length, PROT_NONE, VIEW_FLAGS, unit);
    if (view == MAP_FAILED) {
        return mnw__fail(-errno,
                         "mapping a view of %zu bytes: %s; raise vm.max_map_count or ulimit -v (under mlockall, "
                         "ulimit -l)",
                         length, strerror(errno));
    }
    int result = advise(backing, view, length);
    if (result) {
        munmap(view, length);
        return mnw__fail(result, "madvise(MADV_DONTFORK) of a view: %s", strerror(-result));
    }
    *address = (uintptr_t)view;
    return 0;
}

int mnw__view_unveil(uintptr_t address, size_t length, bool writable) {
    munlock((void *)address, length); /* what mlockall() locked would be populated when it becomes accessible */
    if (mprotect((void *)address, length, protection_of(writable))) {
        return mnw__fail(-errno, "making a view of %zu bytes accessible: %s", length, strerror(errno));
    }
    return 0;
}

int mnw__view_map(struct mnw__backing *backing, uint64_t offset, size_t length, bool writable, uintptr_t *address) {
    int result = mnw__view_map_veiled(backing, offset, length, address);
    if (!result) {
        result = mnw__view_unveil(*address, length, writable);
        if (result) {
            munmap((void *)*address, length);
        }
    }
    return result;
}

int mnw__view_unmap(uintptr_t address, size_t length) {
    return munmap((void *)address, length) ? -errno : 0;
}

static int advise_retry(uintptr_t address, size_t length, int advice) {
    int result;
    do {
        result = madvise((void *)address, length, advice);
    } while (result && errno == EINTR);
    return result ? -errno : 0;
}

/* A consumer may have locked its view: MADV_DONTNEED refuses that, whole or in part. */
int mnw__view_zap(uintptr_t address, size_t length) {
    int result = advise_retry(address, length, MADV_DONTNEED);
    return result == -EINVAL ? advise_retry(address, length, MADV_DONTNEED_LOCKED) : result;
}

int mnw__view_collapse(uintptr_t address, size_t length) {
    return advise_retry(address, length, MADV_COLLAPSE);
}

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

int mnw__view_populate(uintptr_t address, size_t length) {
    int result = advise_retry(address, length, MADV_POPULATE_READ);
    return result == -EFAULT || result == -EHWPOISON ? -EIO : result;
}

/* Made once, by whoever is first: the loser of a race closes its own. */
static int empty_file(void) {
    static _Atomic int shared = -1;
    int fd = atomic_load_explicit(&shared, memory_order_acquire);
    if (fd >= 0) {
        return fd;
    }
    fd = memfd_create("minnow-bar", MFD_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    int expected = -1;
    if (!atomic_compare_exchange_strong(&shared, &expected, fd)) {
        close(fd);
        return expected;
    }
    return fd;
}

static int remap(int fd, uint64_t offset, uintptr_t address, size_t length, int protection) {
    void *at = mmap((void *)address, length, protection, VIEW_FLAGS | MAP_FIXED, fd, (off_t)offset);
    return at == MAP_FAILED ? -errno : 0;
}

int mnw__view_bar(uintptr_t address, size_t length) {
    int fd = empty_file();
    if (fd < 0) {
        return fd;
    }
    int result = remap(fd, 0, address, length, PROT_READ | PROT_WRITE);
    return result ? result : advise_retry(address, length, MADV_DONTFORK);
}

int mnw__view_unbar(struct mnw__backing *backing, uint64_t offset, uintptr_t address, size_t length, bool writable) {
    int result = remap(backing->readonly_fd, offset, address, length, protection_of(writable));
    return result ? result : advise(backing, (void *)address, length);
}
