/* SPDX-License-Identifier: MIT */
/*
 * NUMA nodes and huge page pools. Owns nothing; any thread may enter. On a kernel without NUMA there is one
 * node, 0, every policy for it succeeds and means nothing.
 */
#include "sys/numa.h"

#include "base/error.h"
#include "sys/sysfs.h"

#include <errno.h>
#include <hugetlbfs.h>
#include <inttypes.h>
#include <numa.h>
#include <numaif.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef MPOL_F_STATIC_NODES /* of the kernel's own header, which libnuma's cannot stand beside */
#define MPOL_F_STATIC_NODES (1 << 15)
#endif

#define MASK_BITS        MNW__NODE_LIST_MAX
#define KERNEL_MASK_BITS MNW__NUMA_MASK_BITS

static bool has_numa(void) {
    return numa_available() >= 0;
}

uint64_t mnw__numa_allowed(void) {
    if (!has_numa()) {
        return 1;
    }
    /* libnuma's own call writes to stderr where the kernel refuses, as a container's filter makes it. */
    unsigned long mask[KERNEL_MASK_BITS / 64] = {0};
    if (get_mempolicy(NULL, mask, KERNEL_MASK_BITS, NULL, MPOL_F_MEMS_ALLOWED)) {
        return 1;
    }
    return mask[0] ? mask[0] : 1;
}

int mnw__numa_parse(const char *text, uint64_t *nodes, uint8_t weights[MNW__NODE_LIST_MAX]) {
    uint64_t allowed = mnw__numa_allowed();
    if (!text) {
        *nodes = allowed;
        memset(weights, 1, MNW__NODE_LIST_MAX);
        return 0;
    }
    if (mnw__node_list_parse(text, nodes, weights)) {
        return mnw__fail(
            -EINVAL,
            "NUMA nodes \"%s\": write numbers below %d and ranges, like 0-1,3; for interleave with weights "
            "from 1 to 255, one for each node, like 0:3,1",
            text, MASK_BITS);
    }
    if (*nodes & ~allowed) {
        return mnw__fail(-EINVAL,
                         "NUMA nodes \"%s\": node %d is not one this process may use (allowed mask 0x%" PRIx64
                         "); see /proc/self/status, Mems_allowed_list",
                         text, __builtin_ctzll(*nodes & ~allowed), allowed);
    }
    return 0;
}

int mnw__numa_here(void) {
    unsigned cpu, node;
    return getcpu(&cpu, &node) || node >= MASK_BITS ? 0 : (int)node;
}

void mnw__numa_of_cpus(int8_t *nodes, unsigned count) {
    memset(nodes, has_numa() ? -1 : 0, count);
    for (int node = 0; has_numa() && node <= numa_max_node() && node < MASK_BITS; node++) {
        struct bitmask *cpus = numa_allocate_cpumask();
        bool found = !numa_node_to_cpus(node, cpus);
        for (unsigned cpu = 0; found && cpu < cpus->size && cpu < count; cpu++) {
            if (numa_bitmask_isbitset(cpus, cpu)) {
                nodes[cpu] = (int8_t)node;
            }
        }
        numa_free_cpumask(cpus);
    }
}

static int mode_of(enum mnw_numa policy, uint64_t *nodes) {
    switch (policy) {
    case MNW_NUMA_LOCAL:
        *nodes = 0;
        return MPOL_LOCAL;
    case MNW_NUMA_INTERLEAVE:
        return MPOL_INTERLEAVE;
    case MNW_NUMA_BIND:
        return MPOL_BIND;
    case MNW_NUMA_PREFERRED:
        *nodes &= -*nodes;
        return MPOL_PREFERRED;
    }
    return -EINVAL;
}

static int fail_policy(const char *what, enum mnw_numa policy, uint64_t nodes, int error) {
    return mnw__fail(-error, "%s: NUMA policy %d on nodes 0x%" PRIx64 ": %s", what, (int)policy, nodes,
                     strerror(error));
}

int mnw__numa_set_thread_policy(enum mnw_numa policy, uint64_t nodes) {
    unsigned long mask = nodes;
    int mode = mode_of(policy, &nodes);
    if (mode < 0) {
        return mnw__fail(mode, "unknown NUMA policy %d", (int)policy);
    }
    if (!has_numa()) {
        return 0;
    }
    mask = nodes;
    /* One bit more than the mask has: the kernel counts the bits from one. */
    if (set_mempolicy(mode, mask ? &mask : NULL, mask ? MASK_BITS + 1 : 0)) {
        return fail_policy("set_mempolicy", policy, nodes, errno);
    }
    return 0;
}

bool mnw__numa_lend(int node, struct mnw__numa_own *own) {
    unsigned long mask = 1ul << node;
    return has_numa() && !get_mempolicy(&own->mode, own->mask, KERNEL_MASK_BITS, NULL, 0) &&
           !set_mempolicy(MPOL_PREFERRED, &mask, MASK_BITS + 1);
}

void mnw__numa_take_back(const struct mnw__numa_own *own) {
    bool names_nodes = false;
    for (unsigned i = 0; i < KERNEL_MASK_BITS / 64; i++) {
        names_nodes |= own->mask[i] != 0;
    }
    set_mempolicy(own->mode, names_nodes ? own->mask : NULL, names_nodes ? KERNEL_MASK_BITS + 1 : 0);
}

/* A file's own policy is the allocating thread's unless it has one. */
static int range_mode_of(enum mnw_numa policy, uint64_t *nodes) {
    int mode = mode_of(policy, nodes);
    return mode == MPOL_LOCAL ? MPOL_DEFAULT : mode;
}

int mnw__numa_put_range_policy(void *address, size_t length, enum mnw_numa policy, uint64_t nodes) {
    int mode = range_mode_of(policy, &nodes);
    if (mode < 0) {
        return mode;
    }
    if (!has_numa()) {
        return 0;
    }
    unsigned long mask = nodes, *to = mask ? &mask : NULL, bits = mask ? MASK_BITS + 1 : 0;
    /*
     * The kernel does nothing when the mapping has this policy already, though the file may have another by now. So it
     * gets one first that differs in name alone.
     */
    int other = mode == MPOL_DEFAULT ? MPOL_LOCAL : mode | MPOL_F_STATIC_NODES;
    if (mbind(address, length, other, to, bits, 0) || mbind(address, length, mode, to, bits, 0)) {
        return -errno;
    }
    return 0;
}

int mnw__numa_set_range_policy(void *address, size_t length, enum mnw_numa policy, uint64_t nodes) {
    int error = mnw__numa_put_range_policy(address, length, policy, nodes);
    return error ? fail_policy("mbind", policy, nodes, -error) : 0;
}

bool mnw__numa_is_redirected(void *address, enum mnw_numa policy, uint64_t nodes) {
    unsigned long mask[KERNEL_MASK_BITS / 64] = {0};
    int mode;
    if (get_mempolicy(&mode, mask, KERNEL_MASK_BITS, address, MPOL_F_ADDR)) {
        return false;
    }
    return mode != range_mode_of(policy, &nodes) || (mode != MPOL_DEFAULT && mask[0] != nodes);
}

int mnw__numa_where(void *const *addresses, int *nodes, size_t count) {
    if (move_pages(0, count, (void **)(uintptr_t)addresses, NULL, nodes, 0) >= 0) {
        return 0;
    }
    if (errno != ENOSYS) {
        return -errno;
    }
    memset(nodes, 0, count * sizeof(nodes[0]));
    return 0;
}

uint64_t mnw__numa_balancing(void) {
    uint64_t value = 0;
    return mnw__sysfs_number("/proc/sys/kernel/numa_balancing", &value) ? 0 : value;
}

void mnw__numa_node_memory(int node, uint64_t *bytes, uint64_t *free_bytes) {
    long long left = 0, all = has_numa() ? numa_node_size64(node, &left) : 0;
    *bytes = all > 0 ? (uint64_t)all : 0;
    *free_bytes = all > 0 && left > 0 ? (uint64_t)left : 0;
}

int mnw__numa_move(void *const *addresses, int *status, size_t count, int node, bool everywhere) {
    int nodes[64];
    for (size_t done = 0; done < count;) {
        size_t some = count - done < 64 ? count - done : 64;
        for (size_t i = 0; i < some; i++) {
            nodes[i] = node;
        }
        if (move_pages(0, some, (void **)(uintptr_t)addresses + done, nodes, status + done,
                       everywhere ? MPOL_MF_MOVE_ALL : MPOL_MF_MOVE) < 0) {
            return -errno;
        }
        done += some;
    }
    return 0;
}

bool mnw__numa_may_move_all(void) {
    return !move_pages(0, 0, NULL, NULL, NULL, MPOL_MF_MOVE_ALL);
}

uint64_t mnw__numa_memory(uint64_t nodes) {
    uint64_t bytes = 0;
    if (!has_numa()) {
        return UINT64_MAX;
    }
    for (; nodes; nodes &= nodes - 1) {
        long long some = numa_node_size64(__builtin_ctzll(nodes), NULL);
        bytes += some > 0 ? (uint64_t)some : 0;
    }
    return bytes;
}

static int pool_number(size_t page_bytes, int node, const char *name, uint64_t *value) {
    char path[160];
    if (node < 0) {
        snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%zukB/%s", page_bytes >> 10, name);
    } else {
        snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/hugepages/hugepages-%zukB/%s", node,
                 page_bytes >> 10, name);
    }
    return mnw__sysfs_number(path, value);
}

int mnw__hugepages(size_t page_bytes, int node, struct mnw__hugepages *pages) {
    *pages = (struct mnw__hugepages){0};
    int result = pool_number(page_bytes, node, "nr_hugepages", &pages->total);
    if (!result) {
        result = pool_number(page_bytes, node, "free_hugepages", &pages->free);
    }
    if (!result) {
        result = pool_number(page_bytes, node, "surplus_hugepages", &pages->surplus);
    }
    /* Reservations belong to the machine, not to a node. */
    if (!result && node < 0) {
        result = pool_number(page_bytes, node, "resv_hugepages", &pages->reserved);
    }
    return result;
}

static int by_size(const void *a, const void *b) {
    const long *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

int mnw__hugepage_sizes(size_t *sizes, int count) {
    long found[16];
    int n = gethugepagesizes(found, 16);
    if (n <= 0) {
        return 0;
    }
    qsort(found, (size_t)n, sizeof(found[0]), by_size);
    n = n < count ? n : count;
    for (int i = 0; i < n; i++) {
        sizes[i] = (size_t)found[i];
    }
    return n;
}

const char *mnw__hugetlbfs_mount(size_t page_bytes) {
    return hugetlbfs_find_path_for_size((long)page_bytes);
}
