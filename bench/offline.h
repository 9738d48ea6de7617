/* SPDX-License-Identifier: MIT */
/*
 * S3-FIFO as it was published, on a trace of reads: the misses of somebody who sees every hit.
 *
 * Pages come one by one and are evicted by units, as minnow's are: a unit of one page is the published algorithm
 * itself. Owns its memory. Pure.
 */
#ifndef MNW_BENCH_OFFLINE_H
#define MNW_BENCH_OFFLINE_H

#include <stdbool.h>
#include <stdint.h>

struct offline;
/* Room for `room` pages of `pages`, evicted by `unit` pages. NULL: no memory. */
struct offline *offline_open(uint32_t pages, uint32_t room, uint32_t unit);
void offline_close(struct offline *offline);
/* Was the page there? It is afterwards. */
bool offline_read(struct offline *offline, uint32_t page);

#endif
