/* SPDX-License-Identifier: MIT */
/*
 * Reading a file with only so much memory: each way is a process in a memory cgroup of its own, with the same limit for
 * the kernel's page cache of what it maps, or minnow's pages, metadata and threads. Each has a file of its own, with
 * the same bytes, because the page cache belongs to whoever read first. minnow reads past the page cache.
 *
 * Plain mmap reads ahead around each fault, as the machine is set; beyond memory that evicts what is hot. What the
 * kernel can do when it is told better (MADV_RANDOM) is one of the ways.
 *
 * Owns files, cgroups and processes. One thread enters.
 */
#ifndef MNW_BENCH_CONFINED_H
#define MNW_BENCH_CONFINED_H

#include "memcg.h"
#include "reads.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum confined_way { CONFINED_MMAP, CONFINED_MINNOW, CONFINED_MMAP_RANDOM, CONFINED_WAYS };

struct confined {
    enum confined_way way;
    enum reads_kind kind;
    bool latencies; /* each read is timed, and a turn's value is ns for a read; else reads a second */
    struct scratch scratch;
    struct memcg memcg;
    uint64_t limit_bytes;
    pid_t pid;
    int socket;
    double *ns; /* shared with the process: the latencies of its last turn */
};

/*
 * One for each way, at the place of its number: files of `size_bytes`, and a quarter of it as the limit. False, and
 * skipped or broken under `name` with the reason, where it cannot be had. confined_stop() in any case.
 */
bool confined_start(struct bench *bench, const char *name, struct confined *confined, uint64_t size_bytes,
                    enum reads_kind kind, bool latencies);
/* Reads for a while, not so many times: a way may be a hundred times slower than another. */
double confined_turn(void *confined, struct bench_turn *turn);
void confined_stop(struct confined *confined);
/* For struct bench_arm: limit, budget, file in MiB. */
json_t *confined_detail(void *confined, struct bench *bench);

#endif
