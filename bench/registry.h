/* SPDX-License-Identifier: MIT */
/* Every benchmark there is, by name, and the groups that they belong to. Owns nothing. */
#ifndef MNW_BENCH_REGISTRY_H
#define MNW_BENCH_REGISTRY_H

#include "harness.h"

struct benchmark {
    const char *name, *group, *summary;
    void (*run)(struct bench *bench);
};
extern const struct benchmark benchmarks[];
extern const unsigned benchmark_count;

struct benchmark_group {
    const char *name, *summary;
};
extern const struct benchmark_group benchmark_groups[];
extern const unsigned benchmark_group_count;

/* Is it named so, of a group of that name, or is the name "all"? */
bool benchmark_answers_to(const struct benchmark *benchmark, const char *name);

/* targets: one result each, of the same name. */
void target_metadata(struct bench *bench);
void target_resident_thread(struct bench *bench);
void target_resident_inline(struct bench *bench);
void target_scan_resident(struct bench *bench);
void target_cold_random_inline(struct bench *bench);
void target_fill_hugetlb(struct bench *bench);
void target_fill_graded(struct bench *bench);
void target_fill_shmem(struct bench *bench);
void target_zipf_quarter(struct bench *bench);
void target_uniform_quarter(struct bench *bench);
void target_zipf_memcg(struct bench *bench);
void target_graded_promoted(struct bench *bench);
void target_threads_64(struct bench *bench);

/* bare: the mechanism without minnow. */
void bench_kernel_faults(struct bench *bench);
void bench_handlers(struct bench *bench);
void bench_threads(struct bench *bench);
void bench_waiters(struct bench *bench);
void bench_nodes(struct bench *bench);
void bench_range_continue(struct bench *bench);
void bench_operations(struct bench *bench);
void bench_fills(struct bench *bench);
void bench_depths(struct bench *bench);

/* minnow: the library over what it depends on. */
void bench_working_set(struct bench *bench);
void bench_reclaim_latency(struct bench *bench);
void bench_restart(struct bench *bench);
void bench_scale_views(struct bench *bench);
void bench_scale_eviction(struct bench *bench);
void bench_scale_store(struct bench *bench);

/* engine-targets: what the engine must reach for programs that embed it. */
void row_metadata(struct bench *bench);
void row_budget(struct bench *bench);
void row_idle(struct bench *bench);
void row_open(struct bench *bench);
void row_resident_fault(struct bench *bench);
void row_fill(struct bench *bench);
void row_consumers(struct bench *bench);

#endif
