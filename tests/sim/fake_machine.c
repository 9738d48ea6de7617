/* SPDX-License-Identifier: MIT */
/*
 * The rest of the fake machine: memory, NUMA nodes, huge pages, files that are never read, and trouble.
 */
#include "base/error.h"
#include "base/point.h"
#include "fake_kernel.h"
#include "store/store.h"
#include "sys/backing.h"
#include "sys/io.h"
#include "sys/memory.h"
#include "sys/numa.h"

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
    free(memory);
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

/* ---- src/sys/numa.h ------------------------------------------------------------------------------------ */

uint64_t mnw__numa_allowed(void) {
    return ((uint64_t)1 << fake_config.nodes) - 1;
}

int mnw__numa_parse(const char *text, uint64_t *nodes) {
    *nodes = 0;
    if (!text) {
        *nodes = mnw__numa_allowed();
        return 0;
    }
    for (const char *at = text; *at;) {
        char *end;
        unsigned long first = strtoul(at, &end, 10), last = first;
        if (end != at && *end == '-') {
            at = end + 1;
            last = strtoul(at, &end, 10);
        }
        if (end == at || (*end && *end != ',') || last < first || last >= fake_config.nodes)
            return mnw__fail(-EINVAL, "\"%s\" does not name nodes of this fake machine of %u", text, fake_config.nodes);
        for (unsigned long node = first; node <= last; node++)
            *nodes |= (uint64_t)1 << node;
        at = *end ? end + 1 : end;
    }
    return *nodes ? 0 : mnw__fail(-EINVAL, "no nodes");
}

int mnw__numa_here(void) {
    return fiber_node(fiber_self());
}

static int check_nodes(uint64_t nodes) {
    if (nodes & ~mnw__numa_allowed())
        sim_fail("a memory policy names nodes %#llx of a machine of %u", (unsigned long long)nodes, fake_config.nodes);
    return 0;
}

int mnw__numa_set_thread_policy(enum mnw_numa policy, uint64_t nodes) {
    (void)policy;
    fake_call("set_mempolicy");
    return check_nodes(nodes);
}

int mnw__numa_set_range_policy(void *address, size_t length, enum mnw_numa policy, uint64_t nodes) {
    (void)address, (void)length, (void)policy;
    fake_call("mbind");
    return check_nodes(nodes);
}

int mnw__numa_where(void *const *addresses, int *nodes, size_t count) {
    (void)addresses;
    for (size_t i = 0; i < count; i++)
        nodes[i] = 0;
    return 0;
}

int mnw__hugepages(size_t page_bytes, int node, struct mnw__hugepages *pages) {
    (void)node;
    if (page_bytes != mnw__backing_page_bytes(MNW_BACKING_HUGETLB_2M) &&
        page_bytes != mnw__backing_page_bytes(MNW_BACKING_HUGETLB_1G))
        return -ENOENT;
    uint64_t used = fake_resident() / page_bytes;
    *pages = (struct mnw__hugepages){.total = fake_config.hugepages, .free = fake_config.hugepages - used};
    return 0;
}

int mnw__hugepage_sizes(size_t *sizes, int count) {
    if (count > 0)
        sizes[0] = mnw__backing_page_bytes(MNW_BACKING_HUGETLB_2M);
    if (count > 1)
        sizes[1] = mnw__backing_page_bytes(MNW_BACKING_HUGETLB_1G);
    return count < 2 ? count : 2;
}

const char *mnw__hugetlbfs_mount(size_t page_bytes) {
    (void)page_bytes;
    return NULL;
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

void mnw__io_close(struct mnw__io *io) {
    machine.ios[fiber_process()]--;
    free(io);
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

/* ---- a run's begin and end ----------------------------------------------------------------------------- */

void fake_begin(void) {
    memset(&machine, 0, sizeof(machine));
    fake_config = (struct fake_config){
        .nodes = 1, .has_poison = true, .hugepages = 1 << 20, .exhausted_ns = 5000000, .fault_ns_max = 600000000000};
    fake_files_begin();
    fake_views_begin();
    fake_fds_begin();
    fake_threads_begin();
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
