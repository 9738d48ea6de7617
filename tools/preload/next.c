/* SPDX-License-Identifier: MIT */
/*
 * The calls behind ours: the next library's, or the kernel's own while those are not known yet. Owns the addresses,
 * which are found once, when this library's constructor runs. dlsym(3) is never called from an interposed call: it
 * may allocate and lock.
 */
#include "preload.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NEXT(name) static _Atomic(__typeof__(&name)) real_##name
NEXT(mmap);
NEXT(munmap);
NEXT(mremap);
NEXT(madvise);
NEXT(fallocate);
NEXT(ftruncate);
NEXT(memfd_create);

/* A function's address comes as a data pointer. */
#define FIND(name)                                                                                                     \
    do {                                                                                                               \
        void *found = dlsym(RTLD_NEXT, #name);                                                                         \
        __typeof__(&name) function;                                                                                    \
        memcpy(&function, &found, sizeof(function));                                                                   \
        atomic_store(&real_##name, function);                                                                          \
    } while (0)

__attribute__((constructor)) static void find_all(void) {
    FIND(mmap);
    FIND(munmap);
    FIND(mremap);
    FIND(madvise);
    FIND(fallocate);
    FIND(ftruncate);
    FIND(memfd_create);
}

void *next_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    __typeof__(&mmap) real = atomic_load(&real_mmap);
    return real ? real(address, length, protection, flags, fd, offset)
                : (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

int next_munmap(void *address, size_t length) {
    __typeof__(&munmap) real = atomic_load(&real_munmap);
    return real ? real(address, length) : (int)syscall(SYS_munmap, address, length);
}

void *next_mremap(void *old, size_t old_length, size_t length, int flags, void *address) {
    __typeof__(&mremap) real = atomic_load(&real_mremap);
    return real ? real(old, old_length, length, flags, address)
                : (void *)syscall(SYS_mremap, old, old_length, length, flags, address);
}

int next_madvise(void *address, size_t length, int advice) {
    __typeof__(&madvise) real = atomic_load(&real_madvise);
    return real ? real(address, length, advice) : (int)syscall(SYS_madvise, address, length, advice);
}

int next_fallocate(int fd, int mode, off_t offset, off_t length) {
    __typeof__(&fallocate) real = atomic_load(&real_fallocate);
    return real ? real(fd, mode, offset, length) : (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int next_ftruncate(int fd, off_t length) {
    __typeof__(&ftruncate) real = atomic_load(&real_ftruncate);
    return real ? real(fd, length) : (int)syscall(SYS_ftruncate, fd, length);
}

int next_memfd_create(const char *name, unsigned flags) {
    __typeof__(&memfd_create) real = atomic_load(&real_memfd_create);
    return real ? real(name, flags) : (int)syscall(SYS_memfd_create, name, flags);
}
