/* SPDX-License-Identifier: MIT */
/*
 * Sweeping: memory of a backing that nobody was charged for.
 *
 * A process that maps mnw_cache_fd() without attaching it, and touches pages that are not there, has the kernel put
 * zeroed pages into the file. They do no harm to what anybody reads, since words say what is filled; they take
 * memory past the budget. So now and then what the file has is compared with what is charged, and what is in excess is
 * punched. On the reclaimer; never waits for anybody in an extent.
 */
#ifndef MNW_ENGINE_SWEEP_H
#define MNW_ENGINE_SWEEP_H

struct mnw_pool;

/* Sweeps every cache of the pool that has more than it is charged for. */
void mnw__sweep(struct mnw_pool *pool);

#endif
