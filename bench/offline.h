/* SPDX-License-Identifier: MIT */
/*
 * Eviction policies on a trace of reads, without a cache: the misses of those who see every hit (CLOCK, LRU, S3-FIFO,
 * SIEVE as they were published), of one who knows the future (Belady's optimum), and of minnow's own policies, which
 * see a hit only where they have unmapped.
 *
 * Pages come one by one and are evicted by units, as minnow's are: with a unit of one page each is the published
 * algorithm itself. Owns its memory. Pure.
 */
#ifndef MNW_BENCH_OFFLINE_H
#define MNW_BENCH_OFFLINE_H

#include <stdbool.h>
#include <stdint.h>

struct offline;
struct offline_ops;
struct mnw__policy_ops;

extern const struct offline_ops offline_clock, offline_lru, offline_s3fifo, offline_sieve;
/*
 * Evicts the unit that is read last of all. By units of one page nobody can miss less, whatever their units, unless
 * they read ahead; by larger ones that does not follow. Wants offline_foresee(), and no read that was not foreseen.
 */
extern const struct offline_ops offline_optimum;
/* The policies of src/policy as the engine asks them. */
extern const struct offline_ops offline_minnow_clock, offline_minnow_s3fifo;

const char *offline_name(const struct offline_ops *ops);

/* Room for `room` pages of `pages`, evicted by `unit` pages; each is at least 1. NULL: no memory. */
struct offline *offline_open(const struct offline_ops *ops, uint32_t pages, uint32_t room, uint32_t unit);
void offline_close(struct offline *offline);
/* Tells all that will be read from now on, in order; false: no memory. Others than the optimum do not care. */
bool offline_foresee(struct offline *offline, const uint32_t *pages, uint32_t count);
/* Was the page there? It is afterwards. */
bool offline_read(struct offline *offline, uint32_t page);

/*
 * Misses of a whole trace, from nothing on; UINT64_MAX: no memory. The store has 2^30 pages at most; the memory that
 * this takes is in proportion to the reads, whatever the store's size.
 */
uint64_t offline_misses(const struct offline_ops *ops, const uint32_t *pages, uint32_t count, uint32_t store_pages,
                        uint32_t room, uint32_t unit);

#endif
