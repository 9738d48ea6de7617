/* SPDX-License-Identifier: MIT */
#include "adopt.h"

#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORD 8u
#define MIB  ((uint64_t)1 << 20)

const char *const adopt_kinds[4] = {"shmem", "graded", "hugetlb-2M", "hugetlb-1G"};

_Noreturn void adopt_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "FAILED (process %d): ", (int)getpid());
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    _exit(1);
}

int64_t adopt_must(int64_t result, const char *what) {
    if (result < 0)
        adopt_fail("%s: %lld (%s)", what, (long long)result, mnw_error());
    return result;
}

static uint64_t word_at(uint64_t index) {
    uint64_t z = (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    return (z ^ (z >> 31)) | 0x0101010101010101ull;
}

void adopt_bytes(void *to, uint64_t offset, size_t length) {
    char *at = to;
    while (length) {
        uint64_t word = word_at(offset / WORD);
        size_t skip = offset % WORD, some = WORD - skip < length ? WORD - skip : length;
        memcpy(at, (const char *)&word + skip, some);
        at += some;
        offset += some;
        length -= some;
    }
}

uint64_t adopt_wrong(const void *at, uint64_t offset, size_t length, uint64_t store_bytes) {
    uint64_t wrong = 0;
    for (size_t done = 0; done < length; done += WORD) {
        uint64_t word = word_at((offset + done) / WORD), place = offset + done;
        uint64_t left = place < store_bytes ? store_bytes - place : 0;
        if (left < WORD)
            memset((char *)&word + left, 0, WORD - left);
        wrong += memcmp(&word, (const char *)at + done, length - done < WORD ? length - done : WORD) != 0;
    }
    return wrong;
}

void adopt_file(char *path, char *uri, uint64_t size_bytes) {
    char *buffer = malloc(MIB);
    strcpy(path, "/tmp/minnow-adopt-XXXXXX");
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0 || !buffer)
        adopt_fail("a file in /tmp: %s", strerror(errno));
    for (uint64_t offset = 0; offset < size_bytes; offset += MIB) {
        size_t some = size_bytes - offset < MIB ? (size_t)(size_bytes - offset) : MIB;
        adopt_bytes(buffer, offset, some);
        if (pwrite(fd, buffer, some, (off_t)offset) != (ssize_t)some)
            adopt_fail("writing %s: %s", path, strerror(errno));
    }
    free(buffer);
    close(fd);
    sprintf(uri, "file://%s", path);
}

/* ---- descriptors ---- */

union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(2 * sizeof(int))];
};

void adopt_send(int socket, const struct mnw_kept *kept) {
    int fds[2] = {kept->backing_fd, kept->words_fd};
    union control control;
    char byte = 'k';
    memset(&control, 0, sizeof(control));
    struct iovec part = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    control.header =
        (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(fds)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), fds, sizeof(fds));
    if (sendmsg(socket, &message, 0) != 1)
        adopt_fail("sending descriptors: %s", strerror(errno));
}

bool adopt_receive(int socket, struct mnw_kept *kept) {
    int fds[2];
    union control control;
    char byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 || message.msg_controllen < CMSG_LEN(sizeof(fds)))
        return false;
    memcpy(fds, CMSG_DATA(&control.header), sizeof(fds));
    *kept = (struct mnw_kept){.size = sizeof(*kept), .backing_fd = fds[0], .words_fd = fds[1]};
    return true;
}

void adopt_close(struct mnw_kept *kept) {
    close(kept->backing_fd);
    if (kept->words_fd >= 0)
        close(kept->words_fd);
}

uint64_t adopt_memory(int fd) {
    struct stat status;
    if (fstat(fd, &status))
        adopt_fail("fstat: %s", strerror(errno));
    return (uint64_t)status.st_blocks * 512;
}

bool adopt_can(enum mnw_backing backing, uint64_t budget_bytes) {
    size_t page_bytes = backing == MNW_BACKING_HUGETLB_1G ? (size_t)1 << 30 : (size_t)2 << 20;
    if (backing >= MNW_BACKING_HUGETLB_2M && !machine_free_hugepages(page_bytes, budget_bytes / page_bytes)) {
        fprintf(stderr, "%s: this machine cannot free %llu pages\n", adopt_kinds[backing],
                (unsigned long long)(budget_bytes / page_bytes));
        return false;
    }
    struct mnw_pool *pool;
    struct mnw_pool_options options = {.size = sizeof(options), .backing = backing, .budget_bytes = budget_bytes};
    int error = mnw_pool_open(&pool, &options);
    if (error) {
        fprintf(stderr, "%s: %s\n", adopt_kinds[backing], mnw_error());
        return false;
    }
    mnw_pool_close(pool);
    return true;
}
