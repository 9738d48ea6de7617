/* SPDX-License-Identifier: MIT */
/*
 * Backings: the file that holds a cache's pages, its alias, and its views' mappings.
 *
 * Owns the descriptors and the alias. Any thread may allocate and punch; one creates and destroys. Never
 * touches a view's bytes, and never a hole of the file: where allocation goes through the alias it is
 * MADV_POPULATE_WRITE, which answers with an error where a store would be SIGBUS.
 *
 * How each kind gets its memory (all tried on 6.18):
 *   hugetlb  fallocate. The alias reserves nothing, so what fallocate finds free is all there is.
 *   shmem    MADV_POPULATE_WRITE on an alias with MADV_NOHUGEPAGE. fallocate has no mapping to ask: with
 *            shmem_enabled=always, within_size or force it makes a 2 MiB folio for a request of 4 KiB, and a
 *            budget of 64 KiB extents would be overrun 32 times. With the zeroing and the page faults that
 *            fallocate leaves to the first store, both ways cost the same.
 *            One page for one thread comes by a write(2) instead, with its bytes: no zeroing, no fault; runs out of
 *            the page cache come by splice(2). Those have no mapping to ask either, so not under those settings.
 *   graded   MADV_POPULATE_WRITE on an alias with MADV_HUGEPAGE (fallocate makes small folios under advise).
 *            With shmem_enabled=never no memfd gets huge folios, but a file of a tmpfs mounted huge=always does.
 */
#include "sys/backing.h"

#include "base/bits.h"
#include "base/error.h"
#include "sys/mapping.h"
#include "sys/memory.h"
#include "sys/numa.h"
#include "sys/sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif

#define THP   "/sys/kernel/mm/transparent_hugepage/"
#define MIB_2 ((size_t)2 << 20)
#define GIB_1 ((size_t)1 << 30)

size_t mnw__backing_page_bytes(enum mnw_backing kind) {
    switch (kind) {
    case MNW_BACKING_HUGETLB_2M:
        return MIB_2;
    case MNW_BACKING_HUGETLB_1G:
        return GIB_1;
    case MNW_BACKING_SHMEM:
    case MNW_BACKING_GRADED:
        break;
    }
    return mnw__memory_page_bytes();
}

size_t mnw__backing_extent_bytes(enum mnw_backing kind) {
    uint64_t bytes;
    switch (kind) {
    case MNW_BACKING_SHMEM:
        return 0;
    case MNW_BACKING_GRADED:
        return mnw__sysfs_number(THP "hpage_pmd_size", &bytes) || !mnw__is_power_of_two(bytes) ? MIB_2 : (size_t)bytes;
    case MNW_BACKING_HUGETLB_2M:
    case MNW_BACKING_HUGETLB_1G:
        break;
    }
    return mnw__backing_page_bytes(kind);
}

/* The file covers whole extents, so that the last one can be a huge folio too. */
static uint64_t file_bytes(enum mnw_backing kind, uint64_t size_bytes) {
    uint64_t extent = mnw__backing_extent_bytes(kind);
    return mnw__align_up(size_bytes, extent ? extent : mnw__backing_page_bytes(kind));
}

/* ---- graded: where huge folios come from ---- */

enum mnw__folios mnw__backing_folios(void) {
    char word[16], path[96];
    if (mnw__sysfs_choice(THP "shmem_enabled", word, sizeof(word)) || !strcmp(word, "deny")) {
        return MNW__FOLIOS_NONE;
    }
    if (!strcmp(word, "force")) {
        return MNW__FOLIOS_MEMFD;
    }
    /* Since 6.11 each size has a setting of its own, which for this size defaults to the one above. */
    char own[16];
    snprintf(path, sizeof(path), THP "hugepages-%zukB/shmem_enabled",
             mnw__backing_extent_bytes(MNW_BACKING_GRADED) >> 10);
    if (!mnw__sysfs_choice(path, own, sizeof(own)) && strcmp(own, "inherit")) {
        memcpy(word, own, sizeof(word));
    }
    return strcmp(word, "never") ? MNW__FOLIOS_MEMFD : MNW__FOLIOS_TMPFS;
}

/* A nameless file on a tmpfs that is mounted nowhere. It cannot be sealed: nobody else ever gets its descriptor. */
static int open_tmpfs_file(void) {
    int mount = -1, fd = -1, error = 0;
    int context = fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (context < 0) {
        return -errno;
    }
    /* size=0 and nr_inodes=0: no limits. The budget is kept elsewhere, the file is as large as the store. */
    if (fsconfig(context, FSCONFIG_SET_STRING, "huge", "always", 0) ||
        fsconfig(context, FSCONFIG_SET_STRING, "size", "0", 0) ||
        fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) ||
        (mount = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)) < 0 ||
        (fd = openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)) < 0) {
        error = -errno;
    }
    if (mount >= 0) {
        close(mount);
    }
    close(context);
    return error ? error : fd;
}

static int fail_graded(int error) {
    return mnw__fail(-EOPNOTSUPP,
                     "graded backing: shmem gets no huge folios here, and mounting a tmpfs with huge=always failed "
                     "(%s); run: echo advise > " THP "shmem_enabled",
                     strerror(-error));
}

static int check_graded(void) {
    switch (mnw__backing_folios()) {
    case MNW__FOLIOS_MEMFD:
        return 0;
    case MNW__FOLIOS_NONE:
        return mnw__fail(-EOPNOTSUPP, "graded backing: this kernel denies huge folios to shmem; run: "
                                      "echo advise > " THP "shmem_enabled");
    case MNW__FOLIOS_TMPFS:
        break;
    }
    int fd = open_tmpfs_file();
    if (fd < 0) {
        return fail_graded(fd);
    }
    close(fd);
    return 0;
}

/* ---- what the machine must have ---- */

static const char *size_name(enum mnw_backing kind) {
    return kind == MNW_BACKING_HUGETLB_1G ? "1 GiB" : "2 MiB";
}

/* Pages that may be made when none is free. */
static uint64_t overcommit(size_t page_bytes) {
    struct mnw__hugepages pages;
    char path[128];
    uint64_t most = 0;
    snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%zukB/nr_overcommit_hugepages", page_bytes >> 10);
    return mnw__hugepages(page_bytes, -1, &pages) || mnw__sysfs_number(path, &most) || most < pages.surplus
               ? 0
               : most - pages.surplus;
}

static int check_hugetlb(enum mnw_backing kind, uint64_t budget_bytes) {
    size_t page_bytes = mnw__backing_page_bytes(kind);
    uint64_t needed = budget_bytes / page_bytes + (budget_bytes % page_bytes != 0);
    struct mnw__hugepages pages;
    if (mnw__hugepages(page_bytes, -1, &pages)) {
        return mnw__fail(-EOPNOTSUPP, "hugetlb backing: this machine has no %s pages; choose another backing",
                         size_name(kind));
    }
    uint64_t spare = pages.free > pages.reserved ? pages.free - pages.reserved : 0;
    if (spare + overcommit(page_bytes) >= needed) {
        return 0;
    }
    return mnw__fail(-ENOMEM,
                     "%s pages: %" PRIu64 " free of %" PRIu64 ", %" PRIu64 " needed; echo %" PRIu64
                     " > /sys/kernel/mm/hugepages/hugepages-%zukB/nr_hugepages",
                     size_name(kind), spare, pages.total, needed, pages.total - pages.surplus + needed - spare,
                     page_bytes >> 10);
}

int mnw__backing_check(enum mnw_backing kind, uint64_t budget_bytes) {
    switch (kind) {
    case MNW_BACKING_SHMEM:
        return 0;
    case MNW_BACKING_GRADED:
        return check_graded();
    case MNW_BACKING_HUGETLB_2M:
    case MNW_BACKING_HUGETLB_1G:
        return check_hugetlb(kind, budget_bytes);
    }
    return mnw__fail(-EINVAL, "unknown backing kind %d", (int)kind);
}

static int check_hugetlb_nodes(enum mnw_backing kind, uint64_t budget_bytes, uint64_t nodes) {
    size_t page_bytes = mnw__backing_page_bytes(kind);
    uint64_t needed = budget_bytes / page_bytes + (budget_bytes % page_bytes != 0), spare = overcommit(page_bytes);
    uint64_t total = 0;
    int first = __builtin_ctzll(nodes);
    struct mnw__hugepages pages, of_first = {0};
    for (uint64_t left = nodes; left; left &= left - 1) {
        if (mnw__hugepages(page_bytes, __builtin_ctzll(left), &pages)) {
            return 0; /* a kernel that does not tell nodes apart */
        }
        spare += pages.free;
        total += pages.total;
        if (left == nodes) {
            of_first = pages;
        }
    }
    if (spare >= needed) {
        return 0;
    }
    return mnw__fail(-ENOMEM,
                     "%s pages on node %d%s: %" PRIu64 " free of %" PRIu64 ", %" PRIu64 " needed there; echo %" PRIu64
                     " > /sys/devices/system/node/node%d/hugepages/hugepages-%zukB/nr_hugepages",
                     size_name(kind), first, nodes & (nodes - 1) ? " and the others the pool is bound to" : "", spare,
                     total, needed, of_first.total + needed - spare, first, page_bytes >> 10);
}

int mnw__backing_check_nodes(enum mnw_backing kind, uint64_t budget_bytes, uint64_t nodes) {
    if (mnw__backing_is_hugetlb(kind)) {
        return check_hugetlb_nodes(kind, budget_bytes, nodes);
    }
    /* A node that is bound to and full makes the kernel kill somebody. */
    uint64_t bytes = mnw__numa_memory(nodes);
    if (budget_bytes <= bytes) {
        return 0;
    }
    return mnw__fail(-ENOMEM,
                     "NUMA nodes 0x%" PRIx64 ": they have %" PRIu64 " bytes of memory, the budget of a pool bound to "
                     "them is %" PRIu64 "; bind it to more nodes, or lower the budget",
                     nodes, bytes, budget_bytes);
}

/* ---- making one ---- */

static int open_file(enum mnw_backing kind) {
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    if (mnw__backing_is_hugetlb(kind)) {
        flags |= MFD_HUGETLB | mnw__log2(mnw__backing_page_bytes(kind)) << MFD_HUGE_SHIFT;
    } else if (kind == MNW_BACKING_GRADED && mnw__backing_folios() == MNW__FOLIOS_TMPFS) {
        int fd = open_tmpfs_file();
        return fd < 0 ? fail_graded(fd) : fd;
    }
    int fd = memfd_create("minnow", flags);
    if (fd < 0) {
        return mnw__fail(
            -errno, "memfd_create of a %s backing: %s; raise the limit on open files (ulimit -n) if that is the cause",
            mnw__backing_is_hugetlb(kind) ? size_name(kind) : "shmem", strerror(errno));
    }
    return fd;
}

/* EINVAL and EPERM: a file that knows no seals. */
static int seal(int fd) {
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) && errno != EINVAL && errno != EPERM) {
        return -errno;
    }
    return 0;
}

static int open_readonly(int fd) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int readonly = open(path, O_RDONLY | O_CLOEXEC);
    return readonly < 0 ? -errno : readonly;
}

static int map_alias(struct mnw__backing *backing) {
    size_t length = file_bytes(backing->kind, backing->size_bytes);
    size_t extent = mnw__backing_extent_bytes(backing->kind);
    void *alias = mnw__map_congruent(backing->fd, 0, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                                     extent ? extent : backing->page_bytes);
    if (alias == MAP_FAILED) {
        return -errno;
    }
    backing->alias = alias;
    if (madvise(alias, length, MADV_DONTFORK)) {
        return -errno;
    }
    /* Nobody reads in order here, says this, so that the kernel keeps no record of use: unmapping costs half of it. */
    madvise(alias, length, MADV_RANDOM);
    /* A kernel without huge page support refuses both, and has no folio to be forbidden or asked for. */
    if (backing->kind == MNW_BACKING_SHMEM) {
        madvise(alias, length, MADV_NOHUGEPAGE);
    } else if (backing->kind == MNW_BACKING_GRADED) {
        madvise(alias, length, MADV_HUGEPAGE);
    }
    return 0;
}

/* The file has its size: seals it, and opens and maps it as a backing is. */
static int prepare(struct mnw__backing *backing) {
    int result = seal(backing->fd);
    mnw__backing_look_up(backing);
    if (!result) {
        result = backing->readonly_fd = open_readonly(backing->fd);
    }
    if (result < 0) {
        return mnw__fail(result,
                         "backing file: sealing and opening /proc/self/fd/%d read-only: %s; /proc must be mounted, and "
                         "the limit on open files (ulimit -n) not reached",
                         backing->fd, strerror(-result));
    }
    result = map_alias(backing);
    if (result) {
        return mnw__fail(result == -ENOMEM ? -ENOSPC : result, "mapping a backing of %" PRIu64 " bytes: %s",
                         file_bytes(backing->kind, backing->size_bytes), strerror(-result));
    }
    return 0;
}

static int give_size(struct mnw__backing *backing) {
    uint64_t length = file_bytes(backing->kind, backing->size_bytes);
    /* A memfd is born with mode 0777: whoever is given a read-only descriptor could open it again to write. */
    if (length <= INT64_MAX && !ftruncate(backing->fd, (off_t)length) && !fchmod(backing->fd, 0600)) {
        return 0;
    }
    int result = length > INT64_MAX ? -EFBIG : -errno;
    return mnw__fail(result == -EFBIG || result == -EINVAL ? -ENOSPC : result,
                     "backing file of %" PRIu64 " bytes: %s; the store is too large for this backing", length,
                     strerror(-result));
}

static int begin(struct mnw__backing *backing, enum mnw_backing kind, uint64_t size_bytes) {
    size_t page_bytes = mnw__backing_page_bytes(kind);
    *backing = (struct mnw__backing){.kind = kind, .page_bytes = page_bytes, .fd = -1, .readonly_fd = -1};
    /* The margin keeps the roundings from wrapping. */
    if (!size_bytes || size_bytes > INT64_MAX - GIB_1) {
        return mnw__fail(size_bytes ? -ENOSPC : -EINVAL, "a backing cannot have %" PRIu64 " bytes", size_bytes);
    }
    backing->size_bytes = mnw__align_up(size_bytes, page_bytes);
    return 0;
}

static int destroy_after(struct mnw__backing *backing, int result) {
    if (result) {
        mnw__backing_destroy(backing);
    }
    return result;
}

int mnw__backing_create(struct mnw__backing *backing, enum mnw_backing kind, uint64_t size_bytes) {
    int result = begin(backing, kind, size_bytes);
    if (result) {
        return result;
    }
    backing->fd = open_file(kind);
    result = backing->fd < 0 ? backing->fd : give_size(backing);
    return destroy_after(backing, result ? result : prepare(backing));
}

/* ---- taking one over ---- */

static int check_kept(const struct mnw__backing *backing, int fd) {
    struct stat status;
    struct statfs system;
    if (fstat(fd, &status) || fstatfs(fd, &system)) {
        return mnw__fail(-errno, "kept backing: descriptor %d: %s", fd, strerror(errno));
    }
    bool huge = mnw__backing_is_hugetlb(backing->kind);
    uint64_t length = file_bytes(backing->kind, backing->size_bytes);
    bool right = S_ISREG(status.st_mode) && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR &&
                 (uint64_t)system.f_type == (huge ? HUGETLBFS_MAGIC : TMPFS_MAGIC) &&
                 (!huge || (size_t)system.f_bsize == backing->page_bytes);
    if (right && (uint64_t)status.st_size == length) {
        return 0;
    }
    return mnw__fail(-ESTALE,
                     "kept backing: descriptor %d is %s of %lld bytes, not a backing of this kind and of %" PRIu64
                     "; open the cache afresh",
                     fd, right ? "one" : "another file", (long long)status.st_size, length);
}

int mnw__backing_adopt(struct mnw__backing *backing, enum mnw_backing kind, uint64_t size_bytes, int fd) {
    int result = begin(backing, kind, size_bytes);
    if (!result) {
        result = check_kept(backing, fd);
    }
    if (result) {
        return result;
    }
    backing->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (backing->fd < 0) {
        return mnw__fail(-errno, "kept backing: duplicating descriptor %d: %s", fd, strerror(errno));
    }
    return destroy_after(backing, prepare(backing));
}

int mnw__backing_name(const struct mnw__backing *backing, struct mnw__backing_name *name) {
    struct stat status;
    if (fstat(backing->fd, &status)) {
        return mnw__fail(-errno, "backing: fstat: %s", strerror(errno));
    }
    *name = (struct mnw__backing_name){.device = (uint64_t)status.st_dev, .inode = (uint64_t)status.st_ino};
    return 0;
}

void mnw__backing_destroy(struct mnw__backing *backing) {
    if (backing->alias) {
        munmap(backing->alias, file_bytes(backing->kind, backing->size_bytes));
    }
    if (backing->readonly_fd >= 0) {
        close(backing->readonly_fd);
    }
    if (backing->fd >= 0) {
        close(backing->fd);
    }
    *backing = (struct mnw__backing){.kind = backing->kind, .fd = -1, .readonly_fd = -1};
}

/* ---- memory of a range ---- */

/* A range that reaches the end takes the rest of its extent with it: the folio is there whole. */
static size_t whole_length(const struct mnw__backing *backing, uint64_t offset, size_t length) {
    if (backing->kind == MNW_BACKING_GRADED && offset + length == backing->size_bytes) {
        return (size_t)(file_bytes(backing->kind, backing->size_bytes) - offset);
    }
    return length;
}

static int retry_fallocate(int fd, int mode, uint64_t offset, size_t length) {
    int result;
    do {
        result = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    } while (result && errno == EINTR);
    return result ? -errno : 0;
}

static int populate(void *start, size_t length) {
    int result;
    do {
        result = madvise(start, length, MADV_POPULATE_WRITE);
    } while (result && (errno == EINTR || errno == EAGAIN));
    /* EFAULT is where a store would have been SIGBUS: inside the file, that is no memory. */
    return !result ? 0 : errno == EFAULT ? -ENOSPC : errno == EHWPOISON ? -EIO : -errno;
}

int mnw__backing_allocate(struct mnw__backing *backing, uint64_t offset, size_t length) {
    if (mnw__backing_is_hugetlb(backing->kind)) {
        return retry_fallocate(backing->fd, 0, offset, length);
    }
    return populate((char *)backing->alias + offset, whole_length(backing, offset, length));
}

/* A file's own size limit is told by a signal that ends the process: then nothing is written. */
static bool is_beyond_limit(uint64_t end) {
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) || (limit.rlim_cur != RLIM_INFINITY && end > limit.rlim_cur);
}

int mnw__backing_write_page(struct mnw__backing *backing, uint64_t offset, const void *bytes) {
    ssize_t written;
    if (is_beyond_limit(offset + backing->page_bytes)) {
        return -EFBIG;
    }
    do {
        written = pwrite(backing->fd, bytes, backing->page_bytes, (off_t)offset);
    } while (written < 0 && errno == EINTR);
    return written == (ssize_t)backing->page_bytes ? 0 : written < 0 ? -errno : -EIO;
}

int mnw__backing_read(const struct mnw__backing *backing, uint64_t offset, void *bytes, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(backing->fd, (char *)bytes + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? -errno : -EIO;
        }
        done += (size_t)got;
    }
    return 0;
}

/* ---- sending ---- */

static int open_pipe(struct mnw__pipe *pipe) {
    int ends[2];
    if (pipe->read >= 0) {
        return 0;
    }
    if (pipe2(ends, O_CLOEXEC)) {
        return -errno;
    }
    *pipe = (struct mnw__pipe){ends[0], ends[1]};
    return 0;
}

void mnw__pipe_close(struct mnw__pipe *pipe) {
    if (pipe->read >= 0) {
        close(pipe->read);
        close(pipe->write);
    }
    *pipe = (struct mnw__pipe)MNW__PIPE_CLOSED;
}

static ssize_t retry_splice(int from, off_t *from_offset, int to, off_t *to_offset, size_t length) {
    ssize_t moved;
    do {
        moved = splice(from, from_offset, to, to_offset, length, 0);
    } while (moved < 0 && errno == EINTR);
    return moved < 0 ? -errno : moved;
}

/* The pipe's bytes to where they belong; those that cannot be put there go with the pipe. How many, or an error. */
static ssize_t empty_pipe(struct mnw__backing *backing, struct mnw__pipe *pipe, off_t offset, size_t length) {
    size_t done = 0;
    while (done < length) {
        ssize_t moved = retry_splice(pipe->read, NULL, backing->fd, &offset, length - done);
        if (moved <= 0) {
            mnw__pipe_close(pipe);
            return done ? (ssize_t)done : moved ? moved : -EIO;
        }
        done += (size_t)moved;
    }
    return (ssize_t)done;
}

int64_t mnw__backing_send(struct mnw__backing *backing, uint64_t offset, size_t length, int from,
                          struct mnw__pipe *pipe) {
    size_t done = 0;
    ssize_t moved = is_beyond_limit(offset + length) ? -EFBIG : open_pipe(pipe);
    while (moved >= 0 && done < length) {
        off_t at = (off_t)(offset + done);
        moved = retry_splice(from, &at, pipe->write, NULL, length - done);
        if (moved <= 0) {
            break;
        }
        size_t brought = (size_t)moved;
        moved = empty_pipe(backing, pipe, (off_t)(offset + done), brought);
        if (moved > 0) {
            done += (size_t)moved;
        }
        if (moved != (ssize_t)brought) {
            break;
        }
    }
    return done ? (int64_t)done : moved;
}

void mnw__backing_look_up(struct mnw__backing *backing) {
    char word[16];
    bool takes = backing->kind == MNW_BACKING_SHMEM;
    /* Under advise it is the mapping that asks for huge folios, and ours does not. No such file: no huge folios. */
    if (takes && mnw__sysfs_choice(THP "shmem_enabled", word, sizeof(word)) >= 0) {
        takes = !strcmp(word, "never") || !strcmp(word, "advise") || !strcmp(word, "deny");
    }
    atomic_store_explicit(&backing->takes_pages, takes, memory_order_relaxed);
}

void mnw__backing_map_alias(struct mnw__backing *backing, uint64_t offset, size_t length) {
    populate((char *)backing->alias + offset, whole_length(backing, offset, length));
}

int mnw__backing_punch(struct mnw__backing *backing, uint64_t offset, size_t length) {
    return retry_fallocate(backing->fd, FALLOC_FL_PUNCH_HOLE, offset, whole_length(backing, offset, length));
}
