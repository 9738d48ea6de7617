/* SPDX-License-Identifier: MIT */
/*
 * Metadata memory and the fork canary. Owns the canary's page, made when the library is loaded and never
 * freed. Any thread may enter.
 */
#include "sys/memory.h"

#include "sys/mapping.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

static size_t page_bytes;
/* Nonzero in a process that has been counted. The kernel wipes the page in a child, whoever forks and how. */
static _Atomic uint32_t *canary;
static _Atomic uint32_t generation;

/* Where the kernel cannot wipe, the C library's fork() at least is seen. */
static void note_fork(void) {
    atomic_fetch_add(&generation, 1);
}

__attribute__((constructor)) static void prepare(void) {
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED && madvise(page, page_bytes, MADV_WIPEONFORK) == 0) {
        canary = page;
        atomic_store(canary, 1);
        return;
    }
    if (page != MAP_FAILED)
        munmap(page, page_bytes);
    pthread_atfork(NULL, NULL, note_fork);
}

void *mnw__memory_reserve(size_t length) {
    void *memory =
        mnw__map_quiet(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
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

uint32_t mnw__memory_generation(void) {
    uint32_t wiped = 0;
    if (canary && atomic_compare_exchange_strong(canary, &wiped, 1))
        atomic_fetch_add(&generation, 1);
    return atomic_load(&generation);
}

bool mnw__memory_is_of(uint32_t wanted) {
    return (!canary || atomic_load_explicit(canary, memory_order_relaxed)) &&
           atomic_load_explicit(&generation, memory_order_relaxed) == wanted;
}
