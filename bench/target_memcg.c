/* SPDX-License-Identifier: MIT */
/* zipf-memcg: with the same memory, minnow against plain mmap of the same file. See confined.h. */
#include "confined.h"
#include "registry.h"

static void measure(struct bench *bench, struct confined *confined) {
    struct bench_arm arms[CONFINED_WAYS] = {
        {.name = "plain mmap in a memory cgroup", .hidden = true},
        {.name = bench->benchmark,
         .against = {"plain mmap in a memory cgroup", "mmap with MADV_RANDOM"},
         .target = {BENCH_AT_LEAST, BENCH_INFORMATION}, /* with that advice it is not plain */
         .limit = {1.0},
         .detail = confined_detail},
        {.name = "mmap with MADV_RANDOM", .hidden = true},
    };
    for (unsigned i = 0; i < CONFINED_WAYS; i++) {
        arms[i].unit = "reads/s";
        arms[i].turn = confined_turn;
        arms[i].context = &confined[i];
    }
    bench_take_turns(bench, arms, CONFINED_WAYS);
}

void target_zipf_memcg(struct bench *bench) {
    static struct confined confined[CONFINED_WAYS];
    if (confined_start(bench, NULL, confined, (bench->smoke ? 128 : 512) * MIB, READS_ZIPF, false))
        measure(bench, confined);
    confined_stop(confined);
}
