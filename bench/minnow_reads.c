/* SPDX-License-Identifier: MIT */
/*
 * minnow by how much of the store fits in the budget, beside a plain mapping of the file: scans and random reads, and
 * how long single reads take while memory is reclaimed. working-set and reclaim-latency.
 */
#include "confined.h"
#include "fills.h"
#include "measure.h"
#include "reads.h"
#include "registry.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE   4096
#define POINTS 4 /* the store is 1, 2, 4, 8 times the budget; 1: it fits, with room */
#define KINDS  5

struct budgets {
    struct rig rigs[POINTS];
    struct reads reads[POINTS + 1];
    struct bench_arm arms[POINTS + 1];
    char names[POINTS + 1][48];
    void *plain;
};

static void set_arm(struct budgets *budgets, struct bench *bench, unsigned which, enum reads_kind kind,
                    volatile const unsigned char *data, size_t length) {
    budgets->reads[which] = (struct reads){.data = data,
                                           .length = length,
                                           .page_bytes = PAGE,
                                           .kind = kind,
                                           .threads = 1,
                                           .whole = true,
                                           .count = bench->smoke ? 2000 : 40000};
    reads_begin(&budgets->reads[which], bench->seed);
    budgets->arms[which] = (struct bench_arm){.name = budgets->names[which],
                                              .unit = "reads/s",
                                              .turn = reads_turn,
                                              .context = &budgets->reads[which],
                                              .same_work = true,
                                              .against = {which ? budgets->names[0] : NULL}};
}

static void measure_kind(struct bench *bench, struct budgets *budgets, enum reads_kind kind) {
    snprintf(budgets->names[0], sizeof(budgets->names[0]), "mmap-%s", reads_names[kind]);
    set_arm(budgets, bench, 0, kind, budgets->plain, budgets->rigs[0].length);
    for (unsigned i = 0; i < POINTS; i++) {
        snprintf(budgets->names[i + 1], sizeof(budgets->names[0]), "%s-%u", reads_names[kind], 1u << i);
        set_arm(budgets, bench, i + 1, kind, budgets->rigs[i].data, budgets->rigs[i].length);
        budgets->arms[i + 1].by = "store / budget";
        budgets->arms[i + 1].at = 1u << i;
        budgets->arms[i + 1].series = reads_names[kind];
    }
    bench_take_turns(bench, budgets->arms, POINTS + 1);
}

static bool open_budgets(struct bench *bench, struct budgets *budgets, const struct scratch *scratch) {
    for (unsigned i = 0; i < POINTS; i++) {
        uint64_t budget = i ? scratch->size_bytes >> i : fill_budget(scratch->size_bytes);
        if (rig_open(&budgets->rigs[i], scratch, MNW_BACKING_SHMEM, budget)) {
            bench_break(bench, NULL, "could not be opened: %s", mnw_error());
            return false;
        }
        for (size_t at = 0; at < budgets->rigs[i].length; at += PAGE)
            (void)budgets->rigs[i].data[at];
    }
    void *at = mmap(NULL, scratch->size_bytes, PROT_READ, MAP_SHARED, scratch->fd, 0);
    budgets->plain = at == MAP_FAILED ? NULL : at;
    if (!budgets->plain)
        bench_break(bench, NULL, "the file could not be mapped");
    return budgets->plain;
}

void bench_working_set(struct bench *bench) {
    static struct budgets budgets;
    struct scratch scratch;
    memset(&budgets, 0, sizeof(budgets));
    if (scratch_warm(&scratch, bench->directory, (bench->smoke ? 32 : 256) * MIB)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    if (open_budgets(bench, &budgets, &scratch))
        for (unsigned kind = 0; kind < KINDS; kind++)
            measure_kind(bench, &budgets, (enum reads_kind)kind);
    for (unsigned i = 0; i < POINTS; i++)
        rig_close(&budgets.rigs[i]);
    if (budgets.plain)
        munmap(budgets.plain, scratch.size_bytes);
    scratch_close(&scratch);
}

/* ---- reclaim-latency ---- */

#define OWN_ARMS 2

/*
 * Every read is timed: of a cache in which all fits, and of one a quarter as large, which reclaims all the time, with
 * the file in the kernel's page cache; and with equal memory, by minnow and by plain mmap, from the disk.
 */
struct latency {
    struct rig rigs[OWN_ARMS];
    struct reads reads[OWN_ARMS];
    struct confined confined[CONFINED_WAYS];
};

static bool open_own(struct bench *bench, struct latency *latency, const struct scratch *scratch) {
    for (unsigned i = 0; i < OWN_ARMS; i++) {
        struct rig *rig = &latency->rigs[i];
        uint64_t budget = i ? scratch->size_bytes / 4 : fill_budget(scratch->size_bytes);
        if (rig_open(rig, scratch, MNW_BACKING_SHMEM, budget))
            return false;
        for (size_t at = 0; at < rig->length; at += PAGE)
            (void)rig->data[at];
        latency->reads[i] = (struct reads){.data = rig->data,
                                           .length = rig->length,
                                           .page_bytes = PAGE,
                                           .kind = READS_UNIFORM,
                                           .threads = 2,
                                           .whole = true,
                                           .latencies = true,
                                           .per_read = true,
                                           .count = bench->smoke ? 2000 : 20000};
        reads_begin(&latency->reads[i], bench->seed);
    }
    return true;
}

static void measure_latency(struct bench *bench, struct latency *latency, bool has_confined) {
    struct bench_arm arms[OWN_ARMS + CONFINED_WAYS] = {
        {.name = "all-resident", .same_work = true},
        {.name = "reclaiming", .same_work = true, .against = {"all-resident"}},
        {.name = "confined-mmap"},
        {.name = "confined-minnow",
         .against = {"confined-mmap", "confined-mmap-random"},
         .detail = confined_detail,
         .sane_low = 1e-6,
         .sane_high = 1e4}, /* mmap that reads ahead may be slower by any factor */
        {.name = "confined-mmap-random"},
    };
    for (unsigned i = 0; i < OWN_ARMS + CONFINED_WAYS; i++) {
        bool own = i < OWN_ARMS;
        arms[i].unit = "ns";
        arms[i].turn = own ? reads_turn : confined_turn;
        arms[i].context = own ? (void *)&latency->reads[i] : &latency->confined[i - OWN_ARMS];
    }
    bench_take_turns(bench, arms, has_confined ? OWN_ARMS + CONFINED_WAYS : OWN_ARMS);
}

void bench_reclaim_latency(struct bench *bench) {
    static struct latency latency;
    struct scratch scratch;
    memset(&latency, 0, sizeof(latency));
    if (scratch_warm(&scratch, bench->directory, (bench->smoke ? 32 : 256) * MIB)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    /* First, and so without what this process maps afterwards. Less would have no room beside what is not pages. */
    bool has_confined =
        confined_start(bench, "confined", latency.confined, (bench->smoke ? 64 : 256) * MIB, READS_UNIFORM, true);
    if (open_own(bench, &latency, &scratch))
        measure_latency(bench, &latency, has_confined);
    else
        bench_break(bench, NULL, "could not be opened: %s", mnw_error());
    for (unsigned i = 0; i < OWN_ARMS; i++)
        rig_close(&latency.rigs[i]);
    confined_stop(latency.confined);
    scratch_close(&scratch);
}
