/* SPDX-License-Identifier: MIT */
/*
 * The interposed calls: which of them concern an image or a view. Everything else goes on untouched, with errno as the
 * next library leaves it. Owns nothing.
 */
/* With it the headers would give mmap() the name of mmap64(), and here both are defined. off_t has 64 bits anyhow. */
#undef _FILE_OFFSET_BITS
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (is_inside())
        return next_mmap(address, length, protection, flags, fd, offset);
    struct source *source = fd >= 0 && !(flags & MAP_ANONYMOUS) ? config_source_of(fd) : NULL;
    if (source)
        return view_mmap(source, address, length, protection, flags, fd, offset);
    if (flags & MAP_FIXED && !table_is_empty() && view_make_room((uintptr_t)address, length))
        return MAP_FAILED;
    return next_mmap(address, length, protection, flags, fd, offset);
}

EXPORT void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap(address, length, protection, flags, fd, offset);
}

EXPORT int munmap(void *address, size_t length) {
    if (is_inside() || table_is_empty())
        return next_munmap(address, length);
    return view_munmap((uintptr_t)address, length);
}

EXPORT void *mremap(void *old, size_t old_length, size_t length, int flags, ...) {
    void *address = NULL;
    if (flags & MREMAP_FIXED) {
        va_list arguments;
        va_start(arguments, flags);
        address = va_arg(arguments, void *);
        va_end(arguments);
    }
    if (is_inside() || table_is_empty())
        return next_mremap(old, old_length, length, flags, address);
    return view_mremap(old, old_length, length, flags, address);
}

EXPORT int madvise(void *address, size_t length, int advice) {
    if (is_inside() || table_is_empty())
        return next_madvise(address, length, advice);
    return view_madvise((uintptr_t)address, length, advice);
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t length) {
    struct source *source = is_inside() ? NULL : config_source_of(fd);
    return source ? view_fallocate(source, fd, mode, offset, length) : next_fallocate(fd, mode, offset, length);
}

EXPORT int fallocate64(int fd, int mode, off_t offset, off_t length) {
    return fallocate(fd, mode, offset, length);
}

/* An image's file keeps its length: the daemon has opened it with that. */
EXPORT int ftruncate(int fd, off_t length) {
    struct source *source = is_inside() ? NULL : config_source_of(fd);
    struct stat status;
    if (!source || source->memfd)
        return next_ftruncate(fd, length);
    if (fstat(fd, &status))
        return -1;
    if (status.st_size == length)
        return 0;
    complain("image '%s': the program changes the length of %s from %lld to %lld; that is refused", source->image,
             source->path, (long long)status.st_size, (long long)length);
    errno = EPERM;
    return -1;
}

EXPORT int ftruncate64(int fd, off_t length) {
    return ftruncate(fd, length);
}

/* The program gets a memfd as it asked for, and can size and seal it; only its mappings become views. */
EXPORT int memfd_create(const char *name, unsigned flags) {
    int fd = next_memfd_create(name, flags);
    struct source *source = fd < 0 || is_inside() ? NULL : config_memfd(name);
    if (source)
        config_note_memfd(fd, source);
    return fd;
}
