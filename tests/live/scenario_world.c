/* SPDX-License-Identifier: MIT */
/*
 * The world of the scenarios that is the real kernel: threads, signals, real pages.
 *
 * Owns the handlers of SIGBUS and SIGSEGV, and the huge pages it borrows: the pool is given back as it was, also
 * when the program fails.
 */
#include "machine.h"
#include "sim/scenario.h"

#include "base/error.h"
#include "sys/backing.h"
#include "sys/numa.h"
#include "sys/uffd.h"

#include <errno.h>
#include <numaif.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

enum { HUGE_PAGES = 40, PATIENCE_S = 120 };

static _Thread_local sigjmp_buf escape;
static _Thread_local volatile sig_atomic_t is_touching;
static _Thread_local uintptr_t signalled_at;
static long pages_before = -1, pages_now;

/* ---- consumers --------------------------------------------------------------------------------------------- */

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)context;
    if (!is_touching) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    signalled_at = (uintptr_t)info->si_addr;
    siglongjmp(escape, number);
}

static void let_signals_in(void) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGBUS);
    sigaddset(&signals, SIGSEGV);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
}

/* Byte by byte, so that the signal names the very byte; memcpy may start anywhere. */
static enum world_outcome move(volatile unsigned char *to, const volatile unsigned char *from, size_t length,
                               uintptr_t *stopped) {
    let_signals_in();
    int number = sigsetjmp(escape, 1);
    if (!number) {
        is_touching = 1;
        for (size_t i = 0; i < length; i++)
            to[i] = from[i];
        is_touching = 0;
        return WORLD_OK;
    }
    is_touching = 0;
    *stopped = signalled_at;
    return number == SIGBUS ? WORLD_SIGBUS : WORLD_SIGSEGV;
}

enum world_outcome world_read(uintptr_t address, void *bytes, size_t length, uintptr_t *stopped) {
    return move(bytes, (const volatile unsigned char *)address, length, stopped);
}

enum world_outcome world_write(uintptr_t address, const void *bytes, size_t length, uintptr_t *stopped) {
    return move((volatile unsigned char *)address, bytes, length, stopped);
}

/* ---- mappings of a consumer's own ---- */

uintptr_t world_map(int fd, uint64_t offset, size_t length, size_t page_bytes) {
    size_t unit = page_bytes > ((size_t)2 << 20) ? page_bytes : (size_t)2 << 20;
    char *room = mmap(NULL, 2 * length + 2 * unit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *place = room + (unit - (uintptr_t)room % unit);
    if (room == MAP_FAILED ||
        mmap(place, length, PROT_READ, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, (off_t)offset) == MAP_FAILED) {
        fprintf(stderr, "a consumer cannot map a cache: %s\n", strerror(errno));
        exit(1);
    }
    return (uintptr_t)place;
}

void world_unmap(uintptr_t address, size_t length) {
    munmap((void *)address, length);
}

void world_move(uintptr_t from, size_t length, uintptr_t to) {
    if (mremap((void *)from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)to) == MAP_FAILED) {
        fprintf(stderr, "a consumer cannot move its mapping: %s\n", strerror(errno));
        exit(1);
    }
}

/* ---- huge pages -------------------------------------------------------------------------------------------- */

static long read_pool(void) {
    long pages = -1;
    FILE *file = fopen(POOL, "r");
    if (!file)
        return -1;
    if (fscanf(file, "%ld", &pages) != 1)
        pages = -1;
    fclose(file);
    return pages;
}

static void write_pool(long pages) {
    FILE *file = fopen(POOL, "w");
    if (!file)
        return;
    fprintf(file, "%ld\n", pages);
    fclose(file);
}

static void give_pages_back(void) {
    if (pages_before >= 0)
        write_pool(pages_before);
    pages_before = -1;
}

static void on_end(int number) {
    give_pages_back();
    signal(number, SIG_DFL);
    raise(number);
}

static void borrow_pages(void) {
    pages_now = pages_before = read_pool();
    if (pages_before < 0 || pages_before >= HUGE_PAGES)
        return;
    atexit(give_pages_back);
    write_pool(HUGE_PAGES);
    pages_now = read_pool();
}

/* ---- the world --------------------------------------------------------------------------------------------- */

unsigned world_nodes(unsigned wanted) {
    unsigned count = (unsigned)__builtin_popcountll(mnw__numa_allowed());
    return count < wanted ? count : wanted;
}

uint64_t world_asked_where(void) {
    return 0;
}

bool world_move_slowly(uint64_t ns) {
    (void)ns;
    return false;
}

void world_mbind(uintptr_t address, size_t length, unsigned node) {
    unsigned long mask = 1ul << node;
    if (mbind((void *)address, length, MPOL_BIND, &mask, 64, 0)) {
        perror("mbind");
        exit(1);
    }
}

bool world_has(enum mnw_backing kind, const char **why) {
    if (kind == MNW_BACKING_HUGETLB_2M && pages_now < HUGE_PAGES) {
        *why = "too few 2 MiB pages, and the pool could not be raised";
        return false;
    }
    if (!mnw__backing_check(kind, 0))
        return true;
    *why = mnw__fail_message();
    return false;
}

bool world_has_poison(void) {
    struct mnw__uffd_probe probe;
    return !mnw__uffd_probe(&probe) && probe.features & MNW__UFFD_POISON;
}

bool world_protects(void) {
    struct mnw__uffd_probe probe;
    return !mnw__uffd_probe(&probe) && probe.features & MNW__UFFD_PAGEFAULT_WP;
}

bool world_lose_poison(void) {
    return false;
}

/* MADV_HWPOISON would do it, and lose the page until the machine starts anew. */
bool world_has_breaks(void) {
    return false;
}

void world_break(const void *alias) {
    (void)alias;
}

void world_put(struct mnw__backing *backing, uint64_t offset, const void *bytes, size_t length) {
    if (pwrite(backing->fd, bytes, length, (off_t)offset) != (ssize_t)length) {
        perror("writing to a backing");
        exit(1);
    }
}

void world_run(void (*script)(enum mnw_backing kind), enum mnw_backing kind) {
    alarm(PATIENCE_S * (unsigned)machine_slowness()); /* a scenario that hangs is a failure, not a wait */
    script(kind);
    alarm(0);
}

void world_begin(void) {
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGALRM, SIGABRT};
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        signal(ends[i], on_end);
    borrow_pages();
}

void world_end(void) {
    give_pages_back();
}
