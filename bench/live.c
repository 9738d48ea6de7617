/* SPDX-License-Identifier: MIT */
#include "live.h"

#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct mnw_stats stats_of(const struct rig *rig) {
    struct mnw_stats stats;
    mnw_pool_stats(rig->pool, &stats, sizeof(stats));
    return stats;
}

/* Only a fault of this thread counts up: it is the only one that reads. */
static enum trace_end end_of(const struct mnw_stats *before, const struct mnw_stats *after) {
    return after->faults_missing > before->faults_missing ? TRACE_MISSING
           : after->faults_minor > before->faults_minor   ? TRACE_MINOR
                                                          : TRACE_UNSEEN;
}

static void read_watched(const struct rig *rig, const struct trace *trace, uint8_t *ends) {
    struct mnw_stats before = stats_of(rig);
    for (uint32_t i = 0; i < trace->count; i++) {
        (void)rig->data[(size_t)trace->pages[i] * rig->page_bytes];
        struct mnw_stats after = stats_of(rig);
        ends[i] = (uint8_t)end_of(&before, &after);
        before = after;
    }
}

static void read_all(const struct rig *rig, const struct trace *trace) {
    for (uint32_t i = 0; i < trace->count; i++)
        (void)rig->data[(size_t)trace->pages[i] * rig->page_bytes];
}

static int open_rig(struct rig *rig, const struct scratch *scratch, const struct mnw_pool_options *options,
                    bool *in_line) {
    int error = rig_open_inline_pool(rig, scratch, options);
    *in_line = !error;
    return error == -EOPNOTSUPP ? rig_open_pool(rig, scratch, options) : error;
}

int live_play(const struct trace *trace, uint32_t budget_pages, uint32_t unit_pages, const char *directory,
              struct live *live, uint8_t *ends) {
    struct mnw_pool_options options = {.size = sizeof(options),
                                       .backing = MNW_BACKING_SHMEM,
                                       .budget_bytes = (uint64_t)budget_pages * trace->page_bytes,
                                       .extent_bytes = (uint64_t)unit_pages * trace->page_bytes};
    struct scratch scratch;
    struct rig rig;
    if (sysconf(_SC_PAGESIZE) != (long)trace->page_bytes) {
        fprintf(stderr, "minnow-bench: the trace has pages of %u bytes, this machine of %ld\n", trace->page_bytes,
                sysconf(_SC_PAGESIZE));
        return -EINVAL;
    }
    int error = scratch_sparse(&scratch, directory, (uint64_t)trace->store_pages * trace->page_bytes);
    if (error) {
        fprintf(stderr, "minnow-bench: no scratch file in %s: %s\n", directory, strerror(-error));
        return error;
    }
    error = open_rig(&rig, &scratch, &options, &live->in_line);
    scratch_close(&scratch); /* the store has its own descriptor */
    if (error)
        return error;
    if (ends)
        read_watched(&rig, trace, ends);
    else
        read_all(&rig, trace);
    struct mnw_stats stats = stats_of(&rig);
    live->misses = stats.faults_missing;
    live->minors = stats.faults_minor;
    live->pages_read = stats.fill_bytes / rig.page_bytes;
    rig_close(&rig);
    return 0;
}
