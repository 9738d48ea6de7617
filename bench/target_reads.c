/* SPDX-License-Identifier: MIT */
/* zipf-quarter, uniform-quarter, graded-promoted: rates of reading, within and beyond the budget. */
#include "fills.h"
#include "handler.h"
#include "measure.h"
#include "offline.h"
#include "reads.h"
#include "registry.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE         4096
#define EXTENT       (64 << 10) /* the default of shmem */
#define SIZE(bench)  (((bench)->smoke ? 32 : 256) * MIB)
#define READS(bench) ((bench)->smoke ? 20000u : 200000u)

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
    double extents = (double)replay_misses(bench, &small->reads, room, EXTENT / PAGE);
    double pages = (double)replay_misses(bench, &small->reads, room, 1);
    json_t *last = json_array_get(bench->results, json_array_size(bench->results) - 1);
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
             .against = {"everything resident"},
             .target = {BENCH_AT_LEAST},
             .limit = {0.25},
             .detail = tell_mode},
        };
        unsigned broken = bench->broken;
        bench_take_turns(bench, arms, 2);
        if (broken == bench->broken)
            add_misses(bench, &small);
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

/* A cache in an afternoon: in the SIGBUS handler, the oldest page is punched, the new one read, and continued. */
static struct by_hand {
    struct area area;
    const struct scratch *scratch;
    int uffd;
    uint32_t *ring; /* pages in the order they came */
    uint32_t room, next;
    struct sigaction before;
    struct reads reads;
} by_hand;

static void evict_and_fill(int number, siginfo_t *info, void *context) {
    size_t at = ((uintptr_t)info->si_addr - (uintptr_t)by_hand.area.view) & ~(size_t)(PAGE - 1);
    if (at >= by_hand.area.length) { /* a view of minnow's, if it is anybody's */
        if (by_hand.before.sa_flags & SA_SIGINFO)
            by_hand.before.sa_sigaction(number, info, context);
        else
            sigaction(number, &by_hand.before, NULL);
        return;
    }
    uint32_t *slot = &by_hand.ring[by_hand.next++ % by_hand.room];
    if (*slot)
        area_punch(&by_hand.area, (size_t)(*slot - 1) * PAGE, PAGE);
    *slot = (uint32_t)(at / PAGE) + 1;
    struct uffdio_continue page = {.range = {.start = (uintptr_t)by_hand.area.view + at, .len = PAGE}};
    if (pread(by_hand.scratch->fd, by_hand.area.alias + at, PAGE, (off_t)at) != PAGE ||
        ioctl(by_hand.uffd, UFFDIO_CONTINUE, &page))
        abort();
}

static int open_by_hand(struct bench *bench, const struct scratch *scratch) {
    by_hand = (struct by_hand){.scratch = scratch, .uffd = -1, .room = (uint32_t)(scratch->size_bytes / PAGE / 4)};
    by_hand.ring = calloc(by_hand.room, sizeof(uint32_t));
    int error = by_hand.ring ? area_open(&by_hand.area, AREA_4K, scratch->size_bytes, NULL) : -ENOMEM;
    if (error)
        return error;
    by_hand.uffd = uffd_open(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MINOR_SHMEM, 0);
    if (by_hand.uffd < 0)
        return by_hand.uffd;
    struct sigaction action = {.sa_sigaction = evict_and_fill, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, &by_hand.before);
    by_hand.reads = (struct reads){.data = by_hand.area.view,
                                   .length = by_hand.area.length,
                                   .page_bytes = PAGE,
                                   .kind = READS_UNIFORM,
                                   .threads = 1,
                                   .whole = true,
                                   .count = READS(bench) / 4};
    reads_begin(&by_hand.reads, bench->seed);
    return uffd_arm(by_hand.uffd, by_hand.area.view, by_hand.area.length,
                    UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
}

static void close_by_hand(void) {
    if (by_hand.area.alias)
        area_close(&by_hand.area);
    if (by_hand.uffd >= 0) {
        sigaction(SIGBUS, &by_hand.before, NULL);
        close(by_hand.uffd);
    }
    free(by_hand.ring);
}

static void measure_uniform(struct bench *bench, const struct scratch *scratch) {
    static struct quarter minnow;
    int error = rig_open_inline(&minnow.rig, scratch, MNW_BACKING_SHMEM, scratch->size_bytes / 4);
    minnow.in_line = !error;
    if (error && rig_open(&minnow.rig, scratch, MNW_BACKING_SHMEM, scratch->size_bytes / 4)) {
        bench_break(bench, NULL, "could not be opened: %s", mnw_error());
        return;
    }
    error = open_by_hand(bench, scratch);
    if (error) {
        bench_break(bench, NULL, "the loop by hand: %s", strerror(-error));
    } else {
        minnow.reads = by_hand.reads;
        minnow.reads.data = minnow.rig.data;
        struct bench_arm arms[] = {
            {.name = "punch + pread + CONTINUE by hand, inline",
             .unit = "reads/s",
             .turn = reads_turn,
             .context = &by_hand.reads,
             .hidden = true,
             .same_work = true},
            {.name = bench->benchmark,
             .unit = "reads/s",
             .turn = quarter_turn,
             .context = &minnow,
             .same_work = true,
             .against = {"punch + pread + CONTINUE by hand, inline"},
             .target = {BENCH_AT_LEAST},
             .limit = {2.0},
             .detail = tell_mode},
        };
        bench_take_turns(bench, arms, 2);
    }
    close_by_hand();
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
