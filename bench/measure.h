/* SPDX-License-Identifier: MIT */
/*
 * What can be seen from outside the library: time, this process's memory in /proc, the backing's blocks, threads by
 * name. Owns nothing. Any thread may enter; none of it calls minnow.
 */
#ifndef MNW_BENCH_MEASURE_H
#define MNW_BENCH_MEASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

uint64_t clock_ns(void);
uint64_t process_cpu_ns(void);
void sleep_ns(uint64_t ns);

/* xorshift: the same row of numbers on every machine. `*state` is not 0. */
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

struct memory {
    uint64_t anonymous, resident; /* exact: the kernel walks the page tables */
    uint64_t page_tables;
};
bool memory_now(struct memory *memory);

/* The descriptor of the memory file of that size in this process, or -1: a backing, seen from outside. */
int find_backing(uint64_t size_bytes);
uint64_t file_resident(int fd);

/* The thread of this process with that name, or -1. */
pid_t find_thread(const char *name);
/* Pins a thread (0: the caller) to one of the process's CPUs by rank, or with -1 lets it run on all it had. */
bool pin_thread(pid_t thread, int cpu_rank);
int cpu_count(void);

#endif
