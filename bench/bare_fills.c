/* SPDX-License-Identifier: MIT */
/* Ways to bring a file into fresh pages of each kind by hand, and minnow beside them. */
#include "fills.h"
#include "registry.h"

#include <stdio.h>

#define WAYS 13

static const struct way {
    const char *name;
    enum fill_way way;
    unsigned depth, threads;
} ways[WAYS] = {
    {"pread", FILL_PREAD, 0, 1},       {"pread-twice", FILL_PREAD, 0, 2},
    {"populate", FILL_POPULATE, 0, 1}, {"populate-twice", FILL_POPULATE, 0, 2},
    {"beside", FILL_BESIDE, 0, 2},     {"sendfile", FILL_SENDFILE, 0, 1},
    {"copy", FILL_COPY, 0, 1},         {"copy-twice", FILL_COPY, 0, 2},
    {"io_uring", FILL_URING, 1, 1},    {"io_uring", FILL_URING, 4, 1},
    {"io_uring", FILL_URING, 16, 1},   {"io_uring", FILL_URING, 64, 1},
    {"minnow", FILL_MINNOW, 0, 1},
};

static bool fits(const struct way *way, enum area_kind kind) {
    return (way->way != FILL_SENDFILE && way->way != FILL_COPY) || kind == AREA_4K || kind == AREA_GRADED;
}

static void measure(struct bench *bench, enum area_kind kind, const struct scratch *scratch) {
    struct fill fills[WAYS];
    struct bench_arm arms[WAYS];
    char names[WAYS][48], first[48];
    unsigned count = 0;
    for (unsigned i = 0; i < WAYS; i++) {
        if (!fits(&ways[i], kind))
            continue;
        if (ways[i].depth)
            snprintf(names[count], sizeof(names[count]), "%s-%u-%s", ways[i].name, ways[i].depth, area_names[kind]);
        else
            snprintf(names[count], sizeof(names[count]), "%s-%s", ways[i].name, area_names[kind]);
        fills[count] = (struct fill){scratch, kind, ways[i].way, ways[i].depth, ways[i].threads};
        arms[count] = (struct bench_arm){.name = names[count],
                                         .unit = "MiB/s",
                                         .turn = fill_turn,
                                         .context = &fills[count],
                                         .same_work = true,
                                         .series = area_names[kind],
                                         .against = {count ? first : NULL}};
        if (ways[i].depth) {
            arms[count].by = "depth";
            arms[count].at = ways[i].depth;
        }
        if (!count)
            snprintf(first, sizeof(first), "%s", names[0]);
        count++;
    }
    bench_take_turns(bench, arms, count);
}

/* On the kinds from `first` to before `end`. */
static void with_file(struct bench *bench, uint64_t size_bytes, enum area_kind first, enum area_kind end) {
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, size_bytes)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    for (enum area_kind kind = first; kind < end; kind++) {
        if (area_provide(kind, kind == AREA_1G ? size_bytes : fill_budget(size_bytes)))
            measure(bench, kind, &scratch);
        else
            bench_skip(bench, area_names[kind], "this machine could not give the huge pages");
    }
    scratch_close(&scratch);
}

/* In smoke mode without the page of 1 GiB, which takes the machine seconds to make. */
void bench_fills(struct bench *bench) {
    unsigned repeat = bench->repeat;
    with_file(bench, (bench->smoke ? 32 : 512) * MIB, AREA_4K, AREA_1G);
    if (bench->smoke)
        return;
    bench->repeat = (repeat + 2) / 3; /* each turn takes long */
    with_file(bench, 1024 * MIB, AREA_1G, AREA_KINDS);
    bench->repeat = repeat;
}
