/* SPDX-License-Identifier: MIT */
/*
 * Where memory comes from on a machine with several NUMA nodes: the pool's policy, made to hold.
 *
 * Under `local` the node is that of the CPU the faulter left. The event names the thread, and /proc where it ran last;
 * a userfaultfd of its own for each node would need no such look, but a mapping has one userfaultfd, whoever touches
 * it. The memory is then allocated under the fault thread's own memory policy, which is changed when it has to name
 * another node.
 *
 * Whoever maps a shmem file may give the file a policy (mbind), and that goes before any thread's. It cannot be
 * prevented; so the file is asked before memory is taken from it, its policy is put right again, and that is counted.
 *
 * Owns: what a fault thread knows of the faulter it serves, and its memory policy. Only the fault thread enters, and
 * faulters that resolve their own faults, which own nothing here.
 */
#ifndef MNW_ENGINE_PLACE_H
#define MNW_ENGINE_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mnw_cache;
struct mnw_placement;
struct mnw_pool;
struct mnw__fault_thread;

/* CPUs whose node is known; a faulter on another one counts as unknown. */
#define MNW__PLACE_CPUS 4096

struct mnw__place {
    uint32_t faulter; /* whose fault is served; 0: nobody's, or unknown */
    int home;         /* the fault thread's node */
    int node;         /* where its memory belongs; -1: not looked up yet */
    int preferred;    /* by the thread's memory policy; -1: the pool's policy */
    uint32_t changes; /* of the pool's nodes, that the policy takes into account */
};

/* The calling thread becomes the fault thread: it allocates by the pool's policy from now on. */
void mnw__place_begin(struct mnw__fault_thread *thread);
/* What is allocated from now on is for a fault of this thread (0: unknown); or for somebody on this node. */
void mnw__place_for_thread(struct mnw__place *place, uint32_t faulter);
void mnw__place_for_node(struct mnw__place *place, int node);
/* The node of the thread whose fault is served, if it is known and the pool's; -1: not. Asks /proc. */
int mnw__place_faulter_node(const struct mnw__place *place, const struct mnw_pool *pool);

/*
 * mnw__backing_allocate() where the policy wants it. Not `fresh`: the range is in an extent that may have its memory,
 * which then stays where it is. Memory that the policy would rather have elsewhere is counted
 * (PAGES_ELSEWHERE). `place` NULL: a faulter that resolves its own fault, on whatever thread; its memory policy is its
 * own affair. What `bind` does not allow is given back, and is -ENOSPC.
 */
int mnw__place_allocate(struct mnw__place *place, struct mnw_cache *cache, uint64_t offset, size_t length, bool fresh);

/*
 * A fault found its page resident. Counted: whether the page lies on the faulter's node (FAULTS_PLACED, FAULTS_REMOTE),
 * where both can be told; some microseconds. `place` NULL: the calling thread is the faulter. While the page's extent
 * is entered.
 */
void mnw__place_note_access(const struct mnw__place *place, struct mnw_cache *cache, uint64_t page);

/*
 * Adds to `placement` where pages that are resident lie, as the kernel says: all of them, or about `pages_max` (not 0)
 * spread over them, of at most 65,536 extents. May look at pages that come and go meanwhile.
 */
void mnw__place_survey(struct mnw_cache *cache, uint64_t pages_max, struct mnw_placement *placement);

/* Gives the cache's file the policy of its pool. */
int mnw__place_set_policy(struct mnw_cache *cache);

#endif
