/* SPDX-License-Identifier: MIT */
/* fill-hugetlb-2M, fill-graded, fill-shmem: cold sequential reading against the best loop one can write by hand. */
#include "fills.h"
#include "registry.h"

#include <stdio.h>

static void measure(struct bench *bench, enum area_kind kind, double limit, const struct scratch *scratch) {
    /* Those that write come last: hugetlb files cannot be written to. */
    static const char *const names[] = {"pread into fresh pages",
                                        "the same in two threads",
                                        "pread into pages populated before",
                                        "populate and pread in two threads",
                                        "pread beside a thread that populates",
                                        "io_uring, 4 deep",
                                        "io_uring, 16 deep",
                                        "sendfile into the file",
                                        "pread into a buffer and pwrite",
                                        "pread into buffers and pwrite in two threads"};
    enum { WAYS = 10, READING = 7 };
    struct fill by_hand[WAYS] = {
        {scratch, kind, FILL_PREAD, 0, 1},    {scratch, kind, FILL_PREAD, 0, 2},
        {scratch, kind, FILL_POPULATE, 0, 1}, {scratch, kind, FILL_POPULATE, 0, 2},
        {scratch, kind, FILL_BESIDE, 0, 2},   {scratch, kind, FILL_URING, 4, 1},
        {scratch, kind, FILL_URING, 16, 1},   {scratch, kind, FILL_SENDFILE, 0, 1},
        {scratch, kind, FILL_COPY, 0, 1},     {scratch, kind, FILL_COPY, 0, 2},
    };
    struct fill by_minnow = {.scratch = scratch, .kind = kind, .way = FILL_MINNOW};
    int best = fill_best_by_hand(bench, by_hand, kind == AREA_2M ? READING : WAYS);
    if (best < 0) {
        bench_break(bench, NULL, "no loop by hand worked");
        return;
    }
    struct bench_arm arms[] = {
        {.name = names[best],
         .unit = "MiB/s",
         .turn = fill_turn,
         .context = &by_hand[best],
         .hidden = true,
         .same_work = true},
        {.name = bench->benchmark,
         .unit = "MiB/s",
         .turn = fill_turn,
         .context = &by_minnow,
         .same_work = true,
         .against = {names[best]},
         .target = {BENCH_AT_LEAST},
         .limit = {limit}},
    };
    bench_take_turns(bench, arms, 2);
}

static void fill(struct bench *bench, enum area_kind kind, double limit) {
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, (bench->smoke ? 32 : 512) * MIB)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    if (area_provide(kind, fill_budget(scratch.size_bytes)))
        measure(bench, kind, limit, &scratch);
    else
        bench_skip(bench, NULL, "this machine could not give the huge pages");
    scratch_close(&scratch);
}

void target_fill_hugetlb(struct bench *bench) {
    fill(bench, AREA_2M, 0.95);
}

void target_fill_graded(struct bench *bench) {
    fill(bench, AREA_GRADED, 0.9);
}

void target_fill_shmem(struct bench *bench) {
    fill(bench, AREA_4K, 0.9);
}
