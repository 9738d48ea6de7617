/* SPDX-License-Identifier: MIT */
#include "registry.h"

#include <string.h>

const struct benchmark benchmarks[] = {
    {"kernel-faults", "bare", "what a fault takes that the kernel handles alone, by what is mapped",
     bench_kernel_faults},
    {"handlers", "bare", "what a fault takes that a textbook handler handles, by kind of pages", bench_handlers},
    {"threads", "bare", "the same faults by 1 to 64 threads", bench_threads},
    {"range-continue", "bare", "UFFDIO_CONTINUE of 1 to 512 pages", bench_range_continue},
    {"operations", "bare", "zap, punch, promote, poison, write-protect", bench_operations},
    {"fills", "bare", "ways to bring a file into fresh pages", bench_fills},
    {"engine-metadata", "engine-targets", "anonymous memory per 4 KiB of store, by backing", row_metadata},
    {"engine-budget", "engine-targets", "resident bytes over the budget, seen from outside", row_budget},
    {"engine-idle", "engine-targets", "CPU of a process with 8 views that nobody reads", row_idle},
    {"engine-open", "engine-targets", "time and memory to the first byte of a 1 TiB store", row_open},
    {"engine-fault", "engine-targets", "a resident fault against a loop of read and CONTINUE, by CPUs",
     row_resident_fault},
    {"engine-fill", "engine-targets", "cold sequential fills against preads into fresh pages", row_fill},
    {"engine-consumers", "engine-targets", "64 processes on one fault thread against two", row_consumers},
};
const unsigned benchmark_count = sizeof(benchmarks) / sizeof(benchmarks[0]);

const struct benchmark_group benchmark_groups[] = {
    {"bare", "what user-space paging costs on this machine, minnow beside it where it can do the same"},
    {"engine-targets", "what the engine must reach for those who embed it"},
};
const unsigned benchmark_group_count = sizeof(benchmark_groups) / sizeof(benchmark_groups[0]);

bool benchmark_answers_to(const struct benchmark *benchmark, const char *name) {
    return !strcmp(name, "all") || !strcmp(name, benchmark->name) || !strcmp(name, benchmark->group);
}
