/* SPDX-License-Identifier: MIT */
/*
 * Which parts of a file have memory.
 *
 * tmpfs answers SEEK_DATA and SEEK_HOLE. hugetlbfs does not (to it all is data), and nothing else tells its holes from
 * its zeros but the minor fault: UFFDIO_CONTINUE maps a page that is there, and is EFAULT for one that is not. So a
 * hugetlb file is asked page by page, through a mapping nobody ever touches.
 */
#include "sys/data.h"

#include "base/bits.h"
#include "base/error.h"
#include "sys/uffd.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int mnw__file_next_data(int fd, uint64_t from, uint64_t limit, uint64_t *start, uint64_t *end) {
    if (from >= limit)
        return 0;
    off_t data = lseek(fd, (off_t)from, SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? 0 : -errno;
    if ((uint64_t)data >= limit)
        return 0;
    off_t hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0)
        return -errno;
    *start = (uint64_t)data;
    *end = mnw__min((uint64_t)hole, limit);
    return 1;
}

bool mnw__probe_is_slow(const struct mnw__probe *probe) {
    return mnw__backing_is_hugetlb(probe->backing->kind);
}

static int open_mapping(struct mnw__probe *probe) {
    struct mnw__backing *backing = probe->backing;
    int fd = mnw__uffd_open(mnw__uffd_fault_features(true));
    if (fd < 0)
        return fd;
    int error = mnw__view_map_veiled(backing, 0, backing->size_bytes, &probe->address);
    if (error) {
        mnw__uffd_close(fd);
        return error;
    }
    probe->uffd = fd;
    error = mnw__uffd_register(fd, probe->address, backing->size_bytes, MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR,
                               NULL);
    if (!error)
        return 0;
    mnw__probe_close(probe);
    return mnw__fail(error, "backing: registering %llu bytes to look for memory in them (error %d)",
                     (unsigned long long)backing->size_bytes, -error);
}

int mnw__probe_open(struct mnw__probe *probe, struct mnw__backing *backing) {
    *probe = (struct mnw__probe){.backing = backing, .uffd = -1};
    return mnw__probe_is_slow(probe) ? open_mapping(probe) : 0;
}

void mnw__probe_close(struct mnw__probe *probe) {
    if (probe->uffd < 0)
        return;
    mnw__view_unmap(probe->address, probe->backing->size_bytes);
    mnw__uffd_close(probe->uffd);
    probe->uffd = -1;
}

/* 1: there is a page; 0: a hole; or a negative errno. */
static int ask(const struct mnw__probe *probe, uint64_t offset) {
    int64_t done;
    int error;
    do
        error = mnw__uffd_continue(probe->uffd, probe->address + offset, probe->backing->page_bytes, MNW__UFFD_DONTWAKE,
                                   &done);
    while (error == -EAGAIN);
    /* -EIO: there is one, and its memory has failed. Who touches it will find that out. */
    return error == 0 || error == -EEXIST || error == -EIO ? 1 : error == -EFAULT ? 0 : error;
}

static int next_asked(const struct mnw__probe *probe, uint64_t from, uint64_t limit, uint64_t *start, uint64_t *end) {
    int found = 0;
    uint64_t page_bytes = probe->backing->page_bytes, at = mnw__align_down(from, page_bytes);
    while (at < limit && (found = ask(probe, at)) == 0)
        at += page_bytes;
    if (found <= 0)
        return found;
    *start = at;
    do
        at += page_bytes;
    while (at < limit && (found = ask(probe, at)) > 0);
    *end = at;
    return found < 0 ? found : 1;
}

int mnw__probe_next(struct mnw__probe *probe, uint64_t from, uint64_t limit, uint64_t *start, uint64_t *end) {
    limit = mnw__min(limit, probe->backing->size_bytes);
    return mnw__probe_is_slow(probe) ? next_asked(probe, from, limit, start, end)
                                     : mnw__file_next_data(probe->backing->fd, from, limit, start, end);
}

int mnw__backing_resident(const struct mnw__backing *backing, uint64_t *bytes) {
    struct stat status;
    if (fstat(backing->fd, &status))
        return mnw__fail(-errno, "backing: fstat: %s", strerror(errno));
    *bytes = (uint64_t)status.st_blocks * 512;
    return 0;
}
