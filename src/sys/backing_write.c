/* SPDX-License-Identifier: MIT */
/*
 * Writing into backings: memory and its bytes by one call, without a page fault, and without zeroing what the write
 * covers.
 *
 * Any thread enters; a pipe is one thread's. Written into, a file has no mapping to ask what its folios are to be like.
 * On shmem, whose alias forbids huge ones, it is done where the machine's settings make none. On graded it is tried
 * once: under `advise` the file would get small ones, and so it would for a short write into a tmpfs of
 * huge=always by some kernels (6.14 to 6.16).
 */
#include "base/bits.h"
#include "sys/backing.h"
#include "sys/memory.h"
#include "sys/sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHMEM_ENABLED "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/* A file's own size limit is told by a signal that ends the process: then nothing is written. */
static bool is_beyond_limit(uint64_t end) {
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) || (limit.rlim_cur != RLIM_INFINITY && end > limit.rlim_cur);
}

void mnw__backing_hasten(struct mnw__backing *backing, uint64_t offset) {
    bool takes = atomic_load_explicit(&backing->takes_writes, memory_order_relaxed);
    if (takes && !is_beyond_limit(offset + 1)) {
        ssize_t written = pwrite(backing->fd, "", 1, (off_t)offset);
        (void)written;
    }
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

/* ---- sending ---- */

static int open_ends(struct mnw__pipe *pipe) {
    int ends[2];
    if (pipe->read >= 0) {
        return 0;
    }
    if (pipe2(ends, O_CLOEXEC)) {
        return -errno;
    }
    pipe->read = ends[0];
    pipe->write = ends[1];
    return 0;
}

static void close_ends(struct mnw__pipe *pipe) {
    if (pipe->read >= 0) {
        close(pipe->read);
        close(pipe->write);
    }
    pipe->read = pipe->write = -1;
}

void mnw__pipe_close(struct mnw__pipe *pipe) {
    close_ends(pipe);
    if (pipe->buffer) {
        mnw__memory_release(pipe->buffer, pipe->buffer_bytes);
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
            close_ends(pipe);
            return done ? (ssize_t)done : moved ? moved : -EIO;
        }
        done += (size_t)moved;
    }
    return (ssize_t)done;
}

static int64_t retry_pread(int from, char *bytes, size_t length, uint64_t offset) {
    size_t done = 0;
    while (done < length) {
        ssize_t got = pread(from, bytes + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return done || !got ? (int64_t)done : -errno;
        }
        done += (size_t)got;
    }
    return (int64_t)done;
}

/*
 * Huge folios by way of a buffer, which the CPU's caches hold: one write(2) covers a folio, and it is not zeroed. No
 * pipe is as long, and mapping the source would interrupt all readers to unmap it.
 */
static int64_t send_by_buffer(struct mnw__backing *backing, uint64_t offset, size_t length, int from,
                              struct mnw__pipe *pipe) {
    if (!pipe->buffer) {
        pipe->buffer_bytes = mnw__backing_extent_bytes(backing->kind);
        pipe->buffer = mnw__memory_reserve(pipe->buffer_bytes);
    }
    if (!pipe->buffer) {
        return -ENOMEM;
    }
    int64_t got = retry_pread(from, pipe->buffer, mnw__min(length, pipe->buffer_bytes), offset);
    if (got <= 0) {
        return got;
    }
    ssize_t written;
    do {
        written = pwrite(backing->fd, pipe->buffer, (size_t)got, (off_t)offset);
    } while (written < 0 && errno == EINTR);
    return written < 0 ? -errno : written;
}

int64_t mnw__backing_send(struct mnw__backing *backing, uint64_t offset, size_t length, int from,
                          struct mnw__pipe *pipe) {
    size_t done = 0;
    if (is_beyond_limit(offset + length)) {
        return -EFBIG;
    }
    if (backing->kind == MNW_BACKING_GRADED) {
        return send_by_buffer(backing, offset, length, from, pipe);
    }
    ssize_t moved = open_ends(pipe);
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

/* ---- whether to ---- */

/* Does a short write into an empty file of graded memory bring a huge folio? */
static bool gives_huge(struct mnw__backing *backing) {
    size_t extent = mnw__backing_extent_bytes(MNW_BACKING_GRADED);
    struct stat status;
    if (is_beyond_limit(1) || pwrite(backing->fd, "", 1, 0) != 1) {
        return false;
    }
    bool is_huge = !fstat(backing->fd, &status) && (size_t)status.st_blocks * 512 >= extent;
    return !mnw__backing_punch(backing, 0, mnw__min(extent, backing->size_bytes)) && is_huge;
}

/* Under advise it is the mapping that asks for huge folios, and ours does not. No such file: no huge folios. */
static bool gives_small(void) {
    char word[16];
    return mnw__sysfs_choice(SHMEM_ENABLED, word, sizeof(word)) < 0 || !strcmp(word, "never") ||
           !strcmp(word, "advise") || !strcmp(word, "deny");
}

void mnw__backing_look_up(struct mnw__backing *backing, bool is_empty) {
    if (backing->kind == MNW_BACKING_SHMEM) {
        atomic_store_explicit(&backing->takes_writes, gives_small(), memory_order_relaxed);
    } else if (is_empty && backing->kind == MNW_BACKING_GRADED) {
        atomic_store_explicit(&backing->takes_writes, gives_huge(backing), memory_order_relaxed);
    }
}
