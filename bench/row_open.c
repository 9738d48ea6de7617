/* SPDX-License-Identifier: MIT */
/* Opening a store of 1 TiB: from the first call to the first byte, and the memory of the process then. */
#include "measure.h"
#include "registry.h"
#include "rig.h"

#include <stdio.h>

#define BUDGET (256 * MIB)

struct opened {
    double ms[BENCH_REPEAT_MAX];
    double rss_mib[BENCH_REPEAT_MAX];
    double page_tables_mib;
};

/* One more that does not count comes first. */
static bool open_often(const struct bench *bench, const struct scratch *scratch, enum mnw_backing backing,
                       struct opened *opened) {
    for (unsigned i = 0; i <= bench->repeat; i++) {
        struct rig rig;
        struct memory memory;
        uint64_t begin_ns = clock_ns();
        if (rig_open(&rig, scratch, backing, BUDGET))
            return false;
        (void)rig.data[scratch->size_bytes / 2 + 12345];
        uint64_t end_ns = clock_ns();
        bool known = memory_now(&memory);
        rig_close(&rig);
        if (!known)
            return false;
        if (!i)
            continue;
        opened->ms[i - 1] = (double)(end_ns - begin_ns) / 1e6;
        opened->rss_mib[i - 1] = (double)memory.resident / (double)MIB;
        opened->page_tables_mib = (double)memory.page_tables / (double)MIB;
    }
    return true;
}

static void measure(struct bench *bench, const struct backing_name *backing, const struct scratch *scratch) {
    static struct opened opened;
    if (!rig_provide(backing, BUDGET)) {
        bench_skip(bench, backing->name, "this machine could not give the huge pages");
        return;
    }
    if (!open_often(bench, scratch, backing->backing, &opened)) {
        bench_break(bench, backing->name, "could not be opened");
        return;
    }
    char name[32];
    bench_report(bench, &(struct bench_result){
                            .name = backing->name,
                            .unit = "ms",
                            .samples = opened.ms,
                            .count = bench->repeat,
                            .target = BENCH_AT_MOST,
                            .limit = 50,
                            .sane_low = 0.001,
                            .sane_high = 60000,
                        });
    snprintf(name, sizeof(name), "rss-%s", backing->name);
    bench_report(bench, &(struct bench_result){
                            .name = name,
                            .unit = "MiB",
                            .samples = opened.rss_mib,
                            .count = bench->repeat,
                            .target = BENCH_AT_MOST,
                            .limit = 300,
                            .sane_low = 0.1,
                            .sane_high = 1 << 20,
                            .detail = json_pack("{s:f}", "page_tables_mib", opened.page_tables_mib),
                        });
}

void row_open(struct bench *bench) {
    struct scratch scratch;
    if (scratch_sparse(&scratch, bench->directory, MIB << 20)) {
        bench_skip(bench, NULL, "%s is on a file system without files of 1 TiB", bench->directory);
        return;
    }
    for (unsigned i = 0; i < 3; i++)
        measure(bench, &backing_names[i], &scratch);
    scratch_close(&scratch);
}
