/* SPDX-License-Identifier: MIT */
/* The CPU that an idle process with open views uses, after it has had work. */
#include "measure.h"
#include "registry.h"
#include "rig.h"

#include <sys/resource.h>

#define VIEWS 8

static long context_switches(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
}

static bool open_views(struct rig *rig, struct mnw_view **views) {
    for (unsigned i = 0; i < VIEWS; i++) {
        if (mnw_view_open(&views[i], rig->cache, NULL))
            return false;
        volatile const unsigned char *data = mnw_view_data(views[i]);
        for (size_t at = 0; at < rig->length; at += rig->page_bytes)
            (void)data[at];
    }
    return true;
}

static void measure(struct bench *bench, uint64_t settle_ns) {
    uint64_t duration_ns = bench->smoke ? 500000000 : 8000000000;
    sleep_ns(settle_ns);
    long switches = context_switches();
    uint64_t cpu_ns = process_cpu_ns(), begin_ns = clock_ns();
    sleep_ns(duration_ns);
    cpu_ns = process_cpu_ns() - cpu_ns;
    double seconds = (double)(clock_ns() - begin_ns) / 1e9;
    switches = context_switches() - switches;
    bench_report(bench, &(struct bench_result){
                            .name = "8-views",
                            .value = (double)cpu_ns / 1e9 / seconds,
                            .unit = "CPUs",
                            .target = BENCH_AT_MOST,
                            .limit = 0.0001,
                            .sane_high = 4,
                            .detail = json_pack("{s:f, s:f, s:f}", "seconds", seconds, "cpu_us", (double)cpu_ns / 1e3,
                                                "wakeups_per_second", (double)switches / seconds),
                        });
}

void row_idle(struct bench *bench) {
    struct scratch scratch;
    struct rig rig;
    struct mnw_view *views[VIEWS] = {0};
    if (scratch_warm(&scratch, bench->directory, 32 * MIB)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    if (rig_open(&rig, &scratch, MNW_BACKING_SHMEM, 8 * MIB)) {
        bench_break(bench, NULL, "could not be opened");
    } else {
        if (open_views(&rig, views))
            measure(bench, bench->smoke ? 0 : 2000000000);
        else
            bench_break(bench, NULL, "a view could not be opened: %s", mnw_error());
        for (unsigned i = 0; i < VIEWS; i++)
            if (views[i])
                mnw_view_close(views[i]);
        rig_close(&rig);
    }
    scratch_close(&scratch);
}
