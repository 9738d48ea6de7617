/* SPDX-License-Identifier: MIT */
/*
 * A library of the guest's, which maps too: when asked, and by its constructor, which may run before that of the
 * preloaded library.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

unsigned char *guest_map(int fd, size_t size);

unsigned char *guest_map(int fd, size_t size) {
    return mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
}

__attribute__((constructor)) static void map_early(void) {
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char *file = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (file == MAP_FAILED || file[1] != 'E' || memory == MAP_FAILED || munmap(memory, 4096) ||
        madvise(memory + 4096, 4096, MADV_DONTNEED) || munmap(file, 4096) || close(fd))
        abort();
}
