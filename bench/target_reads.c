/* SPDX-License-Identifier: MIT */
/* zipf-quarter, uniform-quarter, graded-promoted: rates of reading, within and beyond the budget. */
#include "by_hand.h"
#include "fills.h"
#include "measure.h"
#include "offline.h"
#include "reads.h"
#include "registry.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PAGE         4096
#define SIZE(bench)  (((bench)->smoke ? 32 : 256) * MIB)
#define READS(bench) ((bench)->smoke ? 20000u : 200000u)

/* What each miss needs: a signal, a read, memory, CONTINUE; and its share of an extent's punch. */
#define LEAST "a loop of signal, pread, pwrite, CONTINUE, and a punch for each 64 KiB, that knows nothing"

static json_t *last_result(const struct bench *bench) {
    return json_array_get(bench->results, json_array_size(bench->results) - 1);
}

static double baseline_of(const json_t *result) {
    return json_number_value(json_object_get(result, "baseline"));
}

/* ---- zipf-quarter ---- */

struct quarter {
    struct reads reads;
    struct rig rig;
    uint64_t misses; /* in the turns that count */
    bool in_line;
};

static uint64_t misses_now(const struct rig *rig) {
    struct mnw_stats stats;
    mnw_pool_stats(rig->pool, &stats, sizeof(stats));
    return stats.faults_missing;
}

static double quarter_turn(void *context, struct bench_turn *turn) {
    struct quarter *quarter = context;
    uint64_t before = misses_now(&quarter->rig);
    double rate = reads_turn(&quarter->reads, turn);
    if (turn->round)
        quarter->misses += misses_now(&quarter->rig) - before;
    return rate;
}

/* The same reads again, by somebody who sees each: misses in the turns that count. */
static uint64_t replay_misses(const struct bench *bench, const struct reads *like, uint32_t room, uint32_t unit) {
    struct reads reads = *like;
    uint64_t misses = 0, pages = reads.length / PAGE;
    struct offline *offline = offline_open(&offline_s3fifo, (uint32_t)pages, room, unit);
    if (!offline)
        return 0;
    reads_begin(&reads, bench->seed);
    for (uint64_t i = 0; i < (uint64_t)reads.count * (bench->repeat + 1); i++)
        if (!offline_read(offline, (uint32_t)reads_next(&reads, &reads.streams[0])) && i >= reads.count)
            misses++;
    offline_close(offline);
    return misses;
}

static void add_misses(struct bench *bench, const struct quarter *small) {
    uint32_t room = (uint32_t)(small->reads.length / PAGE / 4);
    double extents = (double)replay_misses(bench, &small->reads, room, BY_HAND_EXTENT / PAGE);
    double pages = (double)replay_misses(bench, &small->reads, room, 1);
    json_t *last = last_result(bench);
    double ratio = (double)small->misses / extents;
    json_object_set_new(last, "misses",
                        json_pack("{s:f, s:f, s:f, s:f, s:f, s:b}", "minnow", (double)small->misses, "s3fifo_extents",
                                  extents, "s3fifo_pages", pages, "ratio", ratio, "limit", 1.03, "held",
                                  ratio <= 1.03));
    if (ratio > 1.03 && json_is_string(json_object_get(last, "verdict")) &&
        !strcmp(json_string_value(json_object_get(last, "verdict")), "held")) {
        json_object_set_new(last, "verdict", json_string("missed"));
        bench->missed++;
    }
    if (!bench->json)
        printf("    misses %.0f, %.3f x S3-FIFO offline by extents of 64 KiB (<= 1.03) %s; offline by pages: %.0f\n",
               (double)small->misses, ratio, ratio <= 1.03 ? "held" : "missed", pages);
}

/* What the ratio would be if each of minnow's misses cost as little as one of the least mechanism. */
static void add_zipf_limit(struct bench *bench, const struct quarter *small, const struct by_hand *least) {
    json_t *last = last_result(bench);
    double reads = (double)small->reads.count * bench->repeat;
    double resident_ns = 1e9 / baseline_of(last), least_ns = 1e9 / baseline_of(json_object_get(last, "also"));
    double miss_ns = (least_ns - resident_ns) / ((double)least->misses / reads);
    double limit = resident_ns / (resident_ns + (double)small->misses / reads * miss_ns);
    json_object_set_new(last, "mechanism",
                        json_pack("{s:f, s:f, s:f}", "ratio", limit, "miss_ns", miss_ns, "resident_ns", resident_ns));
    if (!bench->json)
        printf("    the mechanism allows %.3f, with %.1f us for a miss and these misses: " LEAST "\n", limit,
               miss_ns / 1e3);
}

static bool open_quarter(struct bench *bench, struct quarter *quarter, const struct scratch *scratch, uint64_t budget,
                         enum reads_kind kind) {
    *quarter = (struct quarter){0};
    quarter->in_line = !rig_open_inline(&quarter->rig, scratch, MNW_BACKING_SHMEM, budget);
    if (!quarter->in_line && rig_open(&quarter->rig, scratch, MNW_BACKING_SHMEM, budget)) {
        bench_break(bench, NULL, "could not be opened: %s", mnw_error());
        return false;
    }
    quarter->reads = (struct reads){.data = quarter->rig.data,
                                    .length = quarter->rig.length,
                                    .page_bytes = PAGE,
                                    .kind = kind,
                                    .threads = 1,
                                    .whole = true,
                                    .count = READS(bench)};
    reads_begin(&quarter->reads, bench->seed);
    return true;
}

/* Inline where the library can, whichever row. Which it was is told. */
static json_t *tell_mode(void *context, struct bench *bench) {
    const struct quarter *quarter = context;
    (void)bench;
    return json_pack("{s:s, s:f}", "faults_resolved", quarter->in_line ? "inline" : "by a fault thread", "budget_mib",
                     (double)quarter->rig.length / 4 / (double)MIB);
}

static void measure_zipf(struct bench *bench, const struct scratch *scratch) {
    static struct quarter small, large;
    static struct by_hand least;
    least = (struct by_hand){.least = true};
    if (!open_quarter(bench, &small, scratch, scratch->size_bytes / 4, READS_ZIPF))
        return;
    if (open_quarter(bench, &large, scratch, fill_budget(scratch->size_bytes), READS_ZIPF)) {
        for (size_t at = 0; at < large.rig.length; at += PAGE)
            (void)large.rig.data[at];
        struct bench_arm arms[] = {
            {.name = "everything resident",
             .unit = "reads/s",
             .turn = quarter_turn,
             .context = &large,
             .hidden = true,
             .same_work = true},
            {.name = bench->benchmark,
             .unit = "reads/s",
             .turn = quarter_turn,
             .context = &small,
             .same_work = true,
             .against = {"everything resident", "the least mechanism"},
             .target = {BENCH_AT_LEAST},
             .limit = {0.25},
             .detail = tell_mode},
            {.name = "the least mechanism",
             .unit = "reads/s",
             .turn = by_hand_turn,
             .context = &least,
             .hidden = true,
             .same_work = true},
        };
        unsigned broken = bench->broken;
        int error = by_hand_open(&least, scratch, &small.reads, bench->seed);
        if (error)
            bench_break(bench, NULL, "the least mechanism: %s", strerror(-error));
        else
            bench_take_turns(bench, arms, 3);
        if (broken == bench->broken) {
            add_misses(bench, &small);
            add_zipf_limit(bench, &small, &least);
        }
        by_hand_close(&least);
        rig_close(&large.rig);
    }
    rig_close(&small.rig);
}

static void with_scratch(struct bench *bench, uint64_t size_bytes,
                         void (*measure)(struct bench *bench, const struct scratch *scratch)) {
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, size_bytes)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    measure(bench, &scratch);
    scratch_close(&scratch);
}

void target_zipf_quarter(struct bench *bench) {
    with_scratch(bench, SIZE(bench), measure_zipf);
}

/* ---- uniform-quarter ---- */

/* What of the target the mechanism allows. */
static void add_uniform_limit(struct bench *bench) {
    json_t *last = last_result(bench);
    double by_hand = baseline_of(last), least = baseline_of(json_object_get(last, "also"));
    json_object_set_new(last, "mechanism", json_pack("{s:f}", "ratio", least / by_hand));
    if (!bench->json)
        printf("    the mechanism allows %.2f: " LEAST "\n", least / by_hand);
}

static void take_uniform_turns(struct bench *bench, struct quarter *minnow, struct by_hand *loop,
                               struct by_hand *least) {
    struct bench_arm arms[] = {
        {.name = "punch + pread + CONTINUE by hand, inline",
         .unit = "reads/s",
         .turn = by_hand_turn,
         .context = loop,
         .hidden = true,
         .same_work = true},
        {.name = bench->benchmark,
         .unit = "reads/s",
         .turn = quarter_turn,
         .context = minnow,
         .same_work = true,
         .against = {"punch + pread + CONTINUE by hand, inline", "the least mechanism"},
         .target = {BENCH_AT_LEAST},
         .limit = {2.0},
         .detail = tell_mode},
        {.name = "the least mechanism",
         .unit = "reads/s",
         .turn = by_hand_turn,
         .context = least,
         .hidden = true,
         .same_work = true},
    };
    unsigned broken = bench->broken;
    bench_take_turns(bench, arms, 3);
    if (broken == bench->broken)
        add_uniform_limit(bench);
}

static void measure_uniform(struct bench *bench, const struct scratch *scratch) {
    static struct quarter minnow;
    static struct by_hand loop, least;
    if (!open_quarter(bench, &minnow, scratch, scratch->size_bytes / 4, READS_UNIFORM))
        return;
    minnow.reads.count = READS(bench) / 4;
    loop = (struct by_hand){0};
    least = (struct by_hand){.least = true};
    int error = by_hand_open(&loop, scratch, &minnow.reads, bench->seed);
    if (!error) {
        error = by_hand_open(&least, scratch, &minnow.reads, bench->seed);
        if (!error)
            take_uniform_turns(bench, &minnow, &loop, &least);
        by_hand_close(&least);
    }
    if (error)
        bench_break(bench, NULL, "the loop by hand: %s", strerror(-error));
    by_hand_close(&loop);
    rig_close(&minnow.rig);
}

void target_uniform_quarter(struct bench *bench) {
    with_scratch(bench, SIZE(bench), measure_uniform);
}

/* ---- graded-promoted ---- */

static json_t *tell_promoted(void *context, struct bench *bench) {
    const struct quarter *graded = context;
    struct mnw_stats stats;
    (void)bench;
    mnw_pool_stats(graded->rig.pool, &stats, sizeof(stats));
    return json_pack("{s:f, s:f}", "pages_promoted", (double)stats.pages_promoted, "faults",
                     (double)(stats.faults_minor + stats.faults_missing));
}

static void random_reads(struct reads *reads, const struct bench *bench, volatile const unsigned char *data,
                         size_t length) {
    *reads = (struct reads){.data = data,
                            .length = length,
                            .page_bytes = PAGE,
                            .kind = READS_UNIFORM,
                            .threads = 1,
                            .count = bench->smoke ? 100000 : 2000000,
                            .within = PAGE};
    reads_begin(reads, bench->seed);
}

/* Mapped and promoted before anything counts. */
static bool open_view(struct bench *bench, struct quarter *quarter, const struct scratch *scratch,
                      enum mnw_backing backing) {
    *quarter = (struct quarter){0};
    if (rig_open(&quarter->rig, scratch, backing, fill_budget(scratch->size_bytes))) {
        bench_break(bench, NULL, "could not be opened: %s", mnw_error());
        return false;
    }
    for (unsigned again = 0; again < 2; again++)
        for (size_t at = 0; at < quarter->rig.length; at += PAGE)
            (void)quarter->rig.data[at];
    random_reads(&quarter->reads, bench, quarter->rig.data, quarter->rig.length);
    return true;
}

static void measure_promoted(struct bench *bench, const struct scratch *scratch) {
    static struct quarter graded, small;
    static struct reads native;
    struct area area;
    int error = area_open(&area, AREA_2M, scratch->size_bytes, scratch);
    if (error) {
        bench_skip(bench, NULL, "no native hugetlb mapping: %s", strerror(-error));
        return;
    }
    random_reads(&native, bench, area.view, area.length);
    if (open_view(bench, &graded, scratch, MNW_BACKING_GRADED)) {
        if (open_view(bench, &small, scratch, MNW_BACKING_SHMEM)) {
            struct bench_arm arms[] = {
                {.name = "native hugetlb mapping",
                 .unit = "reads/s",
                 .turn = reads_turn,
                 .context = &native,
                 .hidden = true,
                 .same_work = true},
                {.name = bench->benchmark,
                 .unit = "reads/s",
                 .turn = reads_turn,
                 .context = &graded,
                 .same_work = true,
                 .against = {"native hugetlb mapping", "the 4 KiB view"},
                 .target = {BENCH_AT_LEAST, BENCH_AT_LEAST},
                 .limit = {0.95, 1.0},
                 .detail = tell_promoted},
                {.name = "the 4 KiB view",
                 .unit = "reads/s",
                 .turn = reads_turn,
                 .context = &small,
                 .hidden = true,
                 .same_work = true},
            };
            bench_take_turns(bench, arms, 3);
            rig_close(&small.rig);
        }
        rig_close(&graded.rig);
    }
    area_close(&area);
}

void target_graded_promoted(struct bench *bench) {
    with_scratch(bench, (bench->smoke ? 64 : 1024) * MIB, measure_promoted);
}
