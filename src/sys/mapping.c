/* SPDX-License-Identifier: MIT */
/* Mappings whose huge extents are huge pages of the address space too. Owns nothing; any thread may enter. */
#include "sys/mapping.h"

#include "base/bits.h"
#include "sys/memory.h"

#include <errno.h>
#include <sys/mman.h>

/*
 * Under mlockall(MCL_FUTURE) the kernel populates a mapping as it makes it: a view would be full of zeros before
 * it is registered, and an alias or an array would take all its memory at once. What cannot be accessed is not
 * populated; once unlocked, it may be made accessible.
 */
void *mnw__map_quiet(void *address, size_t length, int protection, int flags, int fd, uint64_t offset) {
    void *mapped = mmap(address, length, PROT_NONE, flags, fd, (off_t)offset);
    if (mapped == MAP_FAILED) {
        return MAP_FAILED;
    }
    munlock(mapped, length);
    if (mprotect(mapped, length, protection)) {
        int error = errno;
        munmap(mapped, length);
        errno = error;
        return MAP_FAILED;
    }
    return mapped;
}

/* Without the right address the kernel neither allocates a huge folio for a fault nor maps one whole. */
void *mnw__map_congruent(int fd, uint64_t offset, size_t length, int protection, int flags, size_t unit) {
    length = mnw__align_up(length, mnw__memory_page_bytes());
    char *room = mmap(NULL, length + unit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
        return MAP_FAILED;
    }
    size_t skip = (size_t)((offset - (uintptr_t)room) & (unit - 1));
    void *mapped = mnw__map_quiet(room + skip, length, protection, flags | MAP_FIXED, fd, offset);
    if (mapped == MAP_FAILED) {
        int error = errno;
        munmap(room, length + unit);
        errno = error;
        return MAP_FAILED;
    }
    if (skip) {
        munmap(room, skip);
    }
    munmap(room + skip + length, unit - skip);
    return mapped;
}
