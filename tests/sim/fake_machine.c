/* SPDX-License-Identifier: MIT */
/*
 * The rest of the fake machine: memory, files that are never read, and trouble.
 */
#include "base/error.h"
#include "base/point.h"
#include "fake_kernel.h"
#include "store/store.h"
#include "sys/backing.h"
#include "sys/io.h"
#include "sys/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct fake_config fake_config;

static struct {
    uint64_t reserved[FIBER_PROCESSES]; /* bytes of metadata */
    unsigned ios[FIBER_PROCESSES];
    bool calm;
    bool cleaning; /* after a death: nothing switches */
} machine;

/* ---- processes ----------------------------------------------------------------------------------------- */

void fake_process_died(int process) {
    machine.cleaning = true;
    fake_uffds_died(process);
    fake_fds_died(process);
    fake_views_died(process);
    fake_threads_died(process);
    machine.reserved[process] = 0;
    machine.ios[process] = 0;
    machine.cleaning = false;
}

/* ---- trouble and switching ----------------------------------------------------------------------------- */

bool fake_strikes(enum fake_trouble trouble) {
    return !machine.calm && random_chance(fiber_random(), fake_config.chance[trouble]);
}

void fake_calm(void) {
    machine.calm = true;
}

void fake_call(const char *name) {
    if (fiber_self() == FIBER_NONE || machine.cleaning)
        return;
    if (fake_strikes(FAKE_SLOW))
        fiber_sleep(random_below(fiber_random(), 3000000), name);
    else
        fiber_point(name);
    if (fake_strikes(FAKE_PAGE_LOST))
        fake_lose_page();
}

#ifdef MNW_SIMULATED
void mnw__point(const char *name) {
    fiber_point(name);
}
#endif

/* ---- src/sys/memory.h ---------------------------------------------------------------------------------- */

void *mnw__memory_reserve(size_t length) {
    if (fake_strikes(FAKE_OPEN))
        return NULL;
    machine.reserved[fiber_process()] += length;
    return calloc(1, length ? length : 1);
}

void mnw__memory_release(void *memory, size_t length) {
    if (!memory)
        return;
    machine.reserved[fiber_process()] -= length;
    fake_free(memory);
}

size_t mnw__memory_page_bytes(void) {
    return 4096;
}

uint32_t mnw__memory_generation(void) {
    return 0;
}

bool mnw__memory_is_of(uint32_t generation) {
    return !generation;
}

/* ---- src/sys/io.h: the simulator's stores are callbacks, so this is never asked to read ----------------- */

struct mnw__io {
    unsigned depth;
};

int mnw__io_open(struct mnw__io **io, enum mnw_io_mode mode, unsigned depth, int node, mnw__io_done *done,
                 void *context) {
    (void)mode, (void)node, (void)done, (void)context;
    fake_call("io_open");
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-ENOMEM, "no memory for a ring");
    *io = calloc(1, sizeof(**io));
    if (!*io)
        return -ENOMEM;
    (*io)->depth = depth;
    machine.ios[fiber_process()]++;
    return 0;
}

int mnw__io_open_senders(struct mnw__io *io, unsigned depth, int node, mnw__io_done *done, void *context) {
    (void)io, (void)depth, (void)node, (void)done, (void)context;
    fake_call("io_open_senders");
    return fake_strikes(FAKE_OPEN) ? mnw__fail(-EAGAIN, "no threads to send") : 0;
}

void mnw__io_close(struct mnw__io *io) {
    machine.ios[fiber_process()]--;
    fake_free(io);
}

int mnw__io_read(struct mnw__io *io, int fd, void *buffer, size_t length, uint64_t offset, uint64_t token,
                 size_t before, size_t after) {
    (void)io, (void)buffer, (void)length, (void)offset, (void)token, (void)before, (void)after;
    sim_fail("a file (descriptor %d) is read in the simulator", fd);
}

void mnw__io_submit(struct mnw__io *io) {
    (void)io;
}

int mnw__io_reap(struct mnw__io *io) {
    (void)io;
    return 0;
}

int mnw__io_fd(const struct mnw__io *io) {
    (void)io;
    return -1;
}

enum mnw_io_mode mnw__io_mode(const struct mnw__io *io) {
    (void)io;
    return MNW_IO_THREADS;
}

/* The one kind of store that needs a file system. */
int mnw__store_open_file(struct mnw_store **store, const char *path, int direct) {
    (void)store, (void)direct;
    return mnw__fail(-ENOENT, "%s: the simulator has no files", path);
}

/* ---- the kernel's own memory ---------------------------------------------------------------------------- */

static volatile bool is_freeing; /* the compiler takes free() for one that looks at nothing */

bool fake_is_freeing(void) {
    return is_freeing;
}

void fake_free(void *memory) {
    is_freeing = true;
    free(memory);
    is_freeing = false;
}

/* ---- a run's begin and end ----------------------------------------------------------------------------- */

void fake_begin(void) {
    memset(&machine, 0, sizeof(machine));
    fake_config = (struct fake_config){.nodes = 1,
                                       .may_move_all = true,
                                       .has_poison = true,
                                       .hugepages = 1 << 20,
                                       .exhausted_ns = 5000000,
                                       .fault_ns_max = 600000000000};
    fake_files_begin();
    fake_views_begin();
    fake_fds_begin();
    fake_threads_begin();
    fake_numa_begin();
}

void fake_end(void) {
    fake_threads_end();
    fake_sigbus_end();
    fake_views_end();
    fake_fds_end();
    fake_files_end();
    for (int process = 0; process < FIBER_PROCESSES; process++) {
        if (machine.reserved[process])
            sim_fail("%llu bytes of metadata were never released", (unsigned long long)machine.reserved[process]);
        if (machine.ios[process])
            sim_fail("%u readers were never closed", machine.ios[process]);
    }
}
