/* SPDX-License-Identifier: MIT */
#include "registry.h"

#include <string.h>

const struct benchmark benchmarks[] = {
    /* First: what others leave on the heap would be used again. */
    {"metadata", "targets", "bytes of metadata per 4 KiB of store", target_metadata},
    {"resident-thread", "targets", "resident 4 KiB fault, fault thread, against a textbook thread",
     target_resident_thread},
    {"resident-inline", "targets", "the same, resolved in the faulting thread", target_resident_inline},
    {"scan-resident", "targets", "sequential scan of resident pages against the kernel's", target_scan_resident},
    {"cold-random-inline", "targets", "cold random reads against mmap of the file", target_cold_random_inline},
    {"fill-hugetlb-2M", "targets", "cold sequential reading against the best loop by hand", target_fill_hugetlb},
    {"fill-graded", "targets", "the same on graded memory", target_fill_graded},
    {"fill-shmem", "targets", "the same on 4 KiB pages", target_fill_shmem},
    {"zipf-quarter", "targets", "zipf 0.99, a quarter in memory, against all of it", target_zipf_quarter},
    {"uniform-quarter", "targets", "uniform, a quarter in memory, against a loop by hand", target_uniform_quarter},
    {"zipf-memcg", "targets", "zipf 0.99 by 2 threads with the memory of plain mmap", target_zipf_memcg},
    {"graded-promoted", "targets", "random reads of promoted memory against hugetlb", target_graded_promoted},
    {"threads-64", "targets", "64 faulting threads against 2", target_threads_64},
    {"kernel-faults", "bare", "what a fault takes that the kernel handles alone, by what is mapped",
     bench_kernel_faults},
    {"handlers", "bare", "what a fault takes that a textbook handler handles, by kind of pages", bench_handlers},
    {"threads", "bare", "the same faults by 1 to 64 threads", bench_threads},
    {"waiters", "bare", "CONTINUE while 1 to 1,024 threads wait on the same userfaultfd", bench_waiters},
    {"nodes", "bare", "the same faults by node of CPU and memory", bench_nodes},
    {"range-continue", "bare", "UFFDIO_CONTINUE of 1 to 1,024 pages", bench_range_continue},
    {"operations", "bare", "zap, punch, promote, poison, write-protect", bench_operations},
    {"fills", "bare", "ways to bring a file into fresh pages", bench_fills},
    {"depths", "bare", "reading a file from its disk, direct and cold, with 1 to 256 reads in flight", bench_depths},
    {"working-set", "minnow", "scans and random reads, the store 1 to 8 times the budget", bench_working_set},
    {"reclaim-latency", "minnow", "how long single reads take while memory is reclaimed", bench_reclaim_latency},
    {"restart", "minnow", "opening and reading a store whose cache was kept", bench_restart},
    {"scale-views", "minnow", "a fault, and opening a view, beside 1 to 1,024 views", bench_scale_views},
    {"scale-eviction", "minnow", "taking an extent away that 1 to 1,024 views have mapped", bench_scale_eviction},
    {"scale-store", "minnow", "a fault, and opening, of stores of 256 MiB to 256 GiB", bench_scale_store},
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
    {"targets", "what minnow must reach, each held against the bare mechanism; under ten minutes"},
    {"bare", "what user-space paging costs on this machine, minnow beside it where it can do the same"},
    {"minnow", "the library over what it depends on: budget, views, size"},
    {"engine-targets", "what the engine must reach for those who embed it"},
};
const unsigned benchmark_group_count = sizeof(benchmark_groups) / sizeof(benchmark_groups[0]);

bool benchmark_answers_to(const struct benchmark *benchmark, const char *name) {
    return !strcmp(name, "all") || !strcmp(name, benchmark->name) || !strcmp(name, benchmark->group);
}
