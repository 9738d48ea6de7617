/* SPDX-License-Identifier: MIT */
/* Cold sequential fills from a warm file, against a loop that preads into fresh memory of the same kind. */
#include "fills.h"
#include "registry.h"

static void measure(struct bench *bench, enum area_kind kind, const struct scratch *scratch) {
    static const char *const names[AREA_KINDS][2] = {
        {"shmem", "pread-shmem"}, {"graded", "pread-graded"}, {"hugetlb-2M", "pread-hugetlb-2M"}};
    struct fill by_hand = {.scratch = scratch, .kind = kind, .way = FILL_PREAD};
    struct fill by_minnow = {.scratch = scratch, .kind = kind, .way = FILL_MINNOW};
    if (!area_provide(kind, fill_budget(scratch->size_bytes))) {
        bench_skip(bench, names[kind][0], "this machine could not give the huge pages");
        return;
    }
    struct bench_arm arms[] = {
        {.name = names[kind][1], .unit = "MiB/s", .turn = fill_turn, .context = &by_hand, .same_work = true},
        {.name = names[kind][0],
         .unit = "MiB/s",
         .turn = fill_turn,
         .context = &by_minnow,
         .same_work = true,
         .against = {names[kind][1]},
         .target = {kind == AREA_2M ? BENCH_AT_LEAST : BENCH_INFORMATION},
         .limit = {0.8},
         .sane_low = 0.01,
         .sane_high = 20},
    };
    /* What has no target has fewer. */
    unsigned repeat = bench->repeat;
    if (kind != AREA_2M)
        bench->repeat = (repeat + 2) / 3;
    bench_take_turns(bench, arms, 2);
    bench->repeat = repeat;
}

void row_fill(struct bench *bench) {
    static const enum area_kind kinds[] = {AREA_2M, AREA_GRADED, AREA_4K};
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, (bench->smoke ? 64 : 1024) * MIB)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    for (unsigned i = 0; i < 3; i++)
        measure(bench, kinds[i], &scratch);
    scratch_close(&scratch);
}
