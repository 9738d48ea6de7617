/* SPDX-License-Identifier: MIT */
/* Metadata and the budget: what a cache costs, and whether it stays within what it was given. */
#include "measure.h"
#include "registry.h"
#include "rig.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define BASE_PAGE     4096
#define EXTENT_LEAST  (32 << 10) /* the most extents, so the most metadata */
#define READERS       2
#define SAMPLE_GAP_NS 20000

/* ---- metadata-bytes-per-page ---- */

static void read_whole(const struct rig *rig) {
    for (size_t at = 0; at < rig->length; at += rig->page_bytes)
        (void)rig->data[at];
}

/*
 * All anonymous memory that appeared between before the store was opened and after it was read whole: words,
 * extents, policy, threads' stacks, rings, tables of fills. Page tables of the two mappings are told beside it:
 * they are the kernel's, and any mapping of a file has them.
 */
static void measure_metadata(struct bench *bench, const struct backing_name *backing, const char *variant,
                             uint64_t extent_bytes, const struct scratch *scratch, const struct memory *before) {
    uint64_t budget = scratch->size_bytes / 4;
    struct mnw_pool_options options = {
        .size = sizeof(options), .backing = backing->backing, .budget_bytes = budget, .extent_bytes = extent_bytes};
    struct rig rig;
    struct memory after;
    struct mnw_stats stats;
    if (!rig_provide(backing, budget)) {
        bench_skip(bench, variant, "this machine could not give the huge pages");
        return;
    }
    if (rig_open_pool(&rig, scratch, &options)) {
        bench_break(bench, variant, "could not be opened");
        return;
    }
    read_whole(&rig);
    memory_now(&after);
    mnw_pool_stats(rig.pool, &stats, sizeof(stats));
    rig_close(&rig);
    double pages = (double)scratch->size_bytes / BASE_PAGE;
    double growth = (double)after.anonymous - (double)before->anonymous;
    bench_report(bench, &(struct bench_result){
                            .name = variant,
                            .value = growth / pages,
                            .unit = "bytes",
                            .target = BENCH_AT_MOST,
                            .limit = 8,
                            .sane_low = growth > 0 ? 0 : 1,
                            .sane_high = 4096,
                            .detail = json_pack(
                                "{s:f, s:f, s:f, s:f}", "reserved", (double)stats.metadata_bytes / pages, "page_tables",
                                ((double)after.page_tables - (double)before->page_tables) / pages, "store_mib",
                                (double)scratch->size_bytes / (double)MIB, "evictions", (double)stats.evictions),
                        });
}

/* A store with no memory of its own, and what the process had before it. False: the benchmark is broken. */
static bool begin_metadata(struct bench *bench, struct scratch *scratch, struct memory *before) {
    if (!memory_now(before)) {
        bench_break(bench, NULL, "no smaps_rollup in /proc");
        return false;
    }
    if (scratch_sparse(scratch, bench->directory, (bench->smoke ? 64 : 2048) * MIB)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return false;
    }
    return true;
}

void row_metadata(struct bench *bench) {
    struct scratch scratch;
    struct memory before;
    /* Before all of them: stacks and heap that one leaves to the next are the library's too. */
    if (!begin_metadata(bench, &scratch, &before))
        return;
    for (unsigned i = 0; i < 3; i++)
        measure_metadata(bench, &backing_names[i], backing_names[i].name, 0, &scratch, &before);
    measure_metadata(bench, &backing_names[0], "shmem-least-extents", EXTENT_LEAST, &scratch, &before);
    scratch_close(&scratch);
}

/* The backing with the most pages, as it is by default. */
void target_metadata(struct bench *bench) {
    struct scratch scratch;
    struct memory before;
    if (!begin_metadata(bench, &scratch, &before))
        return;
    measure_metadata(bench, &backing_names[0], NULL, 0, &scratch, &before);
    scratch_close(&scratch);
}

/* ---- budget-excess ---- */

struct load {
    const struct rig *rig;
    int backing_fd;
    atomic_bool stop;
    atomic_uint_fast64_t seed, touches, samples, resident_max;
};

static void *sample(void *argument) {
    struct load *load = argument;
    while (!atomic_load(&load->stop)) {
        uint64_t resident = file_resident(load->backing_fd);
        if (resident > atomic_load(&load->resident_max))
            atomic_store(&load->resident_max, resident);
        atomic_fetch_add(&load->samples, 1);
        sleep_ns(SAMPLE_GAP_NS);
    }
    return NULL;
}

/* Half of the reads at random, half in short runs, so that readahead takes part. */
static void *read_at_random(void *argument) {
    struct load *load = argument;
    const struct rig *rig = load->rig;
    uint64_t random = (atomic_fetch_add(&load->seed, 1) + 1) * 88172645463325252u,
             pages = rig->length / rig->page_bytes;
    while (!atomic_load(&load->stop)) {
        uint64_t page = next_random(&random) % pages, run = next_random(&random) % 2 ? 1 : 32;
        for (uint64_t end = page + run; page < end && page < pages; page++) {
            (void)rig->data[page * rig->page_bytes];
            atomic_fetch_add(&load->touches, 1);
        }
    }
    return NULL;
}

static void run_load(struct load *load, uint64_t duration_ns) {
    pthread_t sampler, readers[READERS];
    pthread_create(&sampler, NULL, sample, load);
    for (unsigned i = 0; i < READERS; i++)
        pthread_create(&readers[i], NULL, read_at_random, load);
    sleep_ns(duration_ns);
    atomic_store(&load->stop, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    pthread_join(sampler, NULL);
}

static void report_excess(struct bench *bench, const struct backing_name *backing, const struct load *load,
                          uint64_t budget) {
    struct mnw_stats stats;
    mnw_pool_stats(load->rig->pool, &stats, sizeof(stats));
    uint64_t extent = backing->backing == MNW_BACKING_SHMEM ? 64 << 10 : 2 * MIB; /* the defaults; one fault thread */
    double most = (double)load->resident_max;
    /* Far from the budget, or with few samples or no eviction, nothing was put to the test. */
    bool tested = most > 0.5 * (double)budget && load->samples > 20 && stats.evictions > 0;
    bench_report(
        bench, &(struct bench_result){
                   .name = backing->name,
                   .value = (most - (double)budget) / (double)extent,
                   .unit = "extents",
                   .target = BENCH_AT_MOST,
                   .limit = 1,
                   .sane_low = tested ? -1e6 : 1e9,
                   .sane_high = 1e6,
                   .detail = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "resident_max", most, "budget", (double)budget,
                                       "own_figure", (double)stats.resident_bytes_max, "samples", (double)load->samples,
                                       "touches", (double)load->touches, "evictions", (double)stats.evictions),
               });
}

static void measure_budget(struct bench *bench, const struct backing_name *backing, const struct scratch *scratch) {
    uint64_t budget = scratch->size_bytes / 4;
    struct rig rig;
    if (!rig_provide(backing, budget)) {
        bench_skip(bench, backing->name, "this machine could not give the huge pages");
        return;
    }
    if (rig_open(&rig, scratch, backing->backing, budget)) {
        bench_break(bench, backing->name, "could not be opened");
        return;
    }
    struct load load = {.rig = &rig, .backing_fd = find_backing(scratch->size_bytes)};
    if (load.backing_fd < 0) {
        bench_break(bench, backing->name, "no backing file found in /proc/self/fd");
    } else {
        run_load(&load, bench->smoke ? 200000000 : 3000000000);
        report_excess(bench, backing, &load, budget);
    }
    rig_close(&rig);
}

void row_budget(struct bench *bench) {
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, (bench->smoke ? 64 : 512) * MIB)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    for (unsigned i = 0; i < 3; i++)
        measure_budget(bench, &backing_names[i], &scratch);
    scratch_close(&scratch);
}
