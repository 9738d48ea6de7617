/* SPDX-License-Identifier: MIT */
/* A memory cgroup of our own, of either version. Owns the directory; one thread enters. */
#ifndef MNW_BENCH_MEMCG_H
#define MNW_BENCH_MEMCG_H

#include <stdbool.h>
#include <stdint.h>

struct memcg {
    char path[512];
};
/* 0, or a negative errno: cgroups with memory limits are not to be had. */
int memcg_make(struct memcg *memcg, const char *name, uint64_t limit_bytes);
/* Moves the calling process there. What it allocates from now on is counted. */
bool memcg_enter(const struct memcg *memcg);
/* When its processes are gone. */
void memcg_remove(const struct memcg *memcg);

#endif
