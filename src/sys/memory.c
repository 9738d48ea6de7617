/* SPDX-License-Identifier: MIT */
/*
 * Metadata memory and the fork canary. Owns the canary's page, made when the library is loaded and never
 * freed. Any thread may enter.
 */
#include "sys/memory.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

static size_t page_bytes;
/* Nonzero in the process that loaded the library. The kernel wipes the page in a child, whoever forks and how. */
static volatile char *canary;
static volatile bool forked; /* where the kernel cannot wipe: the C library's fork() at least is seen */

static void note_fork(void) {
    forked = true;
}

__attribute__((constructor)) static void prepare(void) {
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    char *page = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        pthread_atfork(NULL, NULL, note_fork);
        return;
    }
    if (madvise(page, page_bytes, MADV_WIPEONFORK)) {
        munmap(page, page_bytes);
        pthread_atfork(NULL, NULL, note_fork);
        return;
    }
    *page = 1;
    canary = page;
}

void *mnw__memory_reserve(size_t length) {
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void mnw__memory_release(void *memory, size_t length) {
    if (memory) {
        munmap(memory, length);
    }
}

size_t mnw__memory_page_bytes(void) {
    return page_bytes;
}

bool mnw__memory_is_forked(void) {
    return canary ? !*canary : forked;
}
