/* SPDX-License-Identifier: MIT */
/* Cold sequential fills from a warm file, against a loop that preads into fresh memory of the same kind. */
#include "bare.h"
#include "harness.h"
#include "measure.h"
#include "rig.h"

#include <string.h>

/* Room beside the file, so that the reclaimer, which keeps a share of the budget free, has nothing to do. */
#define ROOM(bytes) ((bytes) / 16 + 8 * MIB)

static int64_t fill_by_minnow(const struct scratch *scratch, enum mnw_backing backing, uint64_t *sum) {
    struct rig rig;
    if (rig_open(&rig, scratch, backing, scratch->size_bytes + ROOM(scratch->size_bytes)))
        return -1;
    uint64_t begin_ns = clock_ns();
    for (size_t at = 0; at < rig.length; at += rig.page_bytes)
        *sum += rig.data[at];
    int64_t ns = (int64_t)(clock_ns() - begin_ns);
    rig_close(&rig);
    return ns;
}

static double mib_per_second(uint64_t bytes, int64_t ns) {
    return (double)bytes / (double)MIB / ((double)ns / 1e9);
}

struct fills {
    double minnow[BENCH_REPEAT_MAX], bare[BENCH_REPEAT_MAX], ratios[BENCH_REPEAT_MAX];
};

/* One of each does not count; then they take turns. NULL, or what went wrong. */
static const char *take_turns(unsigned count, const struct backing_name *backing, const struct scratch *scratch,
                              struct fills *fills) {
    for (unsigned i = 0; i <= count; i++) {
        uint64_t minnow_sum = 0, bare_sum = 0;
        int64_t bare_ns = bare_fill(scratch->fd, scratch->size_bytes, backing->backing, &bare_sum);
        if (bare_ns < 0)
            return strerror((int)-bare_ns);
        int64_t minnow_ns = fill_by_minnow(scratch, backing->backing, &minnow_sum);
        if (minnow_ns < 0)
            return "could not be opened";
        if (minnow_sum != bare_sum)
            return "the bytes differ";
        if (!i)
            continue;
        fills->bare[i - 1] = mib_per_second(scratch->size_bytes, bare_ns);
        fills->minnow[i - 1] = mib_per_second(scratch->size_bytes, minnow_ns);
        fills->ratios[i - 1] = fills->minnow[i - 1] / fills->bare[i - 1];
    }
    return NULL;
}

static void measure(struct bench *bench, const struct backing_name *backing, const struct scratch *scratch) {
    static struct fills fills;
    char name[32];
    snprintf(name, sizeof(name), "fill-%s", backing->name);
    if (!rig_provide(backing, scratch->size_bytes + ROOM(scratch->size_bytes))) {
        bench_skip(bench, name, "warm file", "this machine could not give the huge pages");
        return;
    }
    /* What has no target has fewer. */
    unsigned count = backing->huge_bytes ? bench->repeat : (bench->repeat + 2) / 3;
    const char *wrong = take_turns(count, backing, scratch, &fills);
    if (wrong) {
        bench_break(bench, name, "warm file", "%s", wrong);
        return;
    }
    double ratio = bench_median(fills.ratios, count);
    bench_report(bench, &(struct bench_row){
                            .name = name,
                            .variant = "warm file",
                            .value = ratio,
                            .unit = "x bare preads",
                            .target = backing->huge_bytes ? BENCH_AT_LEAST : BENCH_INFORMATION,
                            .limit = 0.8,
                            .sane_low = 0.01,
                            .sane_high = 20,
                            .detail = json_pack(
                                "{s:f, s:f, s:f, s:f, s:f}", "minnow_mib_s", bench_median(fills.minnow, count),
                                "bare_mib_s", bench_median(fills.bare, count), "least", fills.ratios[0], "greatest",
                                fills.ratios[count - 1], "file_mib", (double)scratch->size_bytes / (double)MIB),
                        });
}

void row_fill(struct bench *bench) {
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, (bench->smoke ? 64 : 1024) * MIB)) {
        bench_break(bench, "fill", "all", "no scratch file in %s", bench->directory);
        return;
    }
    for (unsigned i = 3; i-- > 0;)
        measure(bench, &backing_names[i], &scratch);
    scratch_close(&scratch);
}
