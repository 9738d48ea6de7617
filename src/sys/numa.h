/* SPDX-License-Identifier: MIT */
/*
 * NUMA nodes and huge page pools: what there is, and where the calling thread's memory comes from.
 * Owns nothing. Any thread may enter. libnuma, libhugetlbfs and sysfs stand behind it.
 */
#ifndef MNW_SYS_NUMA_H
#define MNW_SYS_NUMA_H

#include "base/node_list.h"
#include "minnow/minnow.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The nodes this process may allocate on, bit per node. Never 0. */
uint64_t mnw__numa_allowed(void);
/*
 * Parses "0-1,3" (NULL: all allowed) and "0:3,1", with weights, of which each node has 1 unless another is given.
 * -EINVAL with a message for bad text or a node that is not allowed.
 */
int mnw__numa_parse(const char *text, uint64_t *nodes, uint8_t weights[MNW__NODE_LIST_MAX]);
/* The node of the CPU the calling thread runs on. */
int mnw__numa_here(void);
/* The node of each CPU below `count`; -1: there is no such CPU. Allocates. */
void mnw__numa_of_cpus(int8_t *nodes, unsigned count);
/* Sets the calling thread's memory policy: what fallocate on hugetlb and shmem obeys. */
int mnw__numa_set_thread_policy(enum mnw_numa policy, uint64_t nodes);
/* The kernel refuses to answer into fewer bits than it may have nodes. */
#define MNW__NUMA_MASK_BITS 1024
/* A thread's own memory policy. */
struct mnw__numa_own {
    int mode;
    unsigned long mask[MNW__NUMA_MASK_BITS / 64];
};
/*
 * The calling thread, which is not ours, prefers a node until it takes its own policy back. False: it keeps its own
 * all the time. Both async-signal-safe.
 */
bool mnw__numa_lend(int node, struct mnw__numa_own *own);
void mnw__numa_take_back(const struct mnw__numa_own *own);
/*
 * Sets the policy of a mapping, and so of a shmem file (mbind of the alias), whose threads' policies then count no
 * more. MNW_NUMA_LOCAL: none of its own.
 */
int mnw__numa_set_range_policy(void *address, size_t length, enum mnw_numa policy, uint64_t nodes);
/* The same without a message: async-signal-safe. */
int mnw__numa_put_range_policy(void *address, size_t length, enum mnw_numa policy, uint64_t nodes);
/*
 * Has somebody given the page there another policy than mnw__numa_set_range_policy() with these gave it? Whoever maps a
 * shmem file can.
 */
bool mnw__numa_is_redirected(void *address, enum mnw_numa policy, uint64_t nodes);
/* Node of the page at each address (move_pages query); for an absent one -ENOENT, or -EFAULT without a page table. */
int mnw__numa_where(void *const *addresses, int *nodes, size_t count);

/* What kernel.numa_balancing says: 0: off; bit 0: pages and threads are moved to each other; bit 1: between tiers. */
uint64_t mnw__numa_balancing(void);
/* Bytes that a node has, and has free; 0: there is no telling. */
void mnw__numa_node_memory(int node, uint64_t *bytes, uint64_t *free_bytes);
/*
 * Moves the page at each address to a node (move_pages). Its bytes stay, and who touches it meanwhile waits in the
 * kernel. `everywhere`: also pages that are mapped more than once, which takes CAP_SYS_NICE (-EPERM). `status`: of each
 * page its node now, or why not: -EACCES (mapped more than once), -ENOMEM (the node has none left), -EBUSY. That is a
 * hint: a huge page may move with the first of its addresses and refuse the others; ask where it is.
 */
int mnw__numa_move(void *const *addresses, int *status, size_t count, int node, bool everywhere);
/* May this process move what is mapped more than once? */
bool mnw__numa_may_move_all(void);

/* Bytes of memory that these nodes have, used or not. UINT64_MAX: there is no telling. */
uint64_t mnw__numa_memory(uint64_t nodes);

struct mnw__hugepages {
    uint64_t total, free, reserved, surplus; /* pages */
};
/* `node` -1: the whole machine. -ENOENT: the machine has no such size. */
int mnw__hugepages(size_t page_bytes, int node, struct mnw__hugepages *pages);
/* The huge page sizes of this machine, largest last; their number. */
int mnw__hugepage_sizes(size_t *sizes, int count);
/* The path of a hugetlbfs mount of this size, or NULL. Static storage of the library behind it. */
const char *mnw__hugetlbfs_mount(size_t page_bytes);

#endif
