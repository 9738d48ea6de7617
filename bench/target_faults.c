/* SPDX-License-Identifier: MIT */
/* The rows of the targets that are about single faults: resident-*, scan-resident, cold-random-inline, threads-64. */
#include "by_hand.h"
#include "measure.h"
#include "parallel.h"
#include "reads.h"
#include "registry.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RANGE     1024 /* pages: the most that minnow maps in one call */
#define LENGTH    (64 * MIB)
#define PAGE      4096
#define TOUCHES   1000
#define NO_INLINE "this library or kernel has no inline mode (MNW_VIEW_INLINE)"

static void read_whole(const struct rig *rig) {
    for (size_t at = 0; at < rig->length; at += rig->page_bytes)
        (void)rig->data[at];
}

/* A resident view of a scratch file, or the reason why not, told. */
static bool open_resident(struct bench *bench, struct rig *rig, const struct scratch *scratch, bool in_line) {
    int error = in_line ? rig_open_inline(rig, scratch, MNW_BACKING_SHMEM, 2 * LENGTH)
                        : rig_open(rig, scratch, MNW_BACKING_SHMEM, 2 * LENGTH);
    if (error == -EOPNOTSUPP && in_line)
        bench_skip(bench, NULL, NO_INLINE);
    else if (error)
        bench_break(bench, NULL, "could not be opened: %s", mnw_error());
    else
        read_whole(rig);
    return !error;
}

/* A scratch file and what is done with it. */
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

/* ---- resident-thread, resident-inline ---- */

struct textbook {
    struct area area;
    struct handler handler;
    struct touches touches;
};

static int open_textbook(const struct bench *bench, struct textbook *textbook, enum handler_kind kind,
                         const struct scratch *scratch) {
    int error = area_open(&textbook->area, AREA_4K, LENGTH, scratch);
    if (error)
        return error;
    error = handler_open(&textbook->handler, &textbook->area, kind, ANSWER_CONTINUE, NULL);
    if (error)
        area_close(&textbook->area);
    textbook->touches = (struct touches){.data = textbook->area.view,
                                         .length = LENGTH,
                                         .page_bytes = PAGE,
                                         .count = bench->smoke ? TOUCHES / 4 : TOUCHES,
                                         .handler = &textbook->handler,
                                         .thread = textbook->handler.thread_id};
    return error;
}

static void close_textbook(struct textbook *textbook) {
    handler_close(&textbook->handler);
    area_close(&textbook->area);
}

static void measure_resident(struct bench *bench, const struct rig *rig, struct textbook *thread,
                             struct textbook *sigbus, bool in_line) {
    struct touches minnow = {.data = rig->data,
                             .length = LENGTH,
                             .page_bytes = PAGE,
                             .count = thread->touches.count,
                             .rig = rig,
                             .thread = in_line ? 0 : find_thread("mnw-fault-0")};
    struct bench_arm arms[] = {
        {.name = "textbook thread handler, same CPU",
         .unit = "ns",
         .turn = touches_turn,
         .context = &thread->touches,
         .hidden = true,
         .same_work = true},
        {.name = bench->benchmark,
         .unit = "ns",
         .turn = touches_turn,
         .context = &minnow,
         .same_work = true,
         .against = {"textbook thread handler, same CPU", in_line ? "bare SIGBUS handler" : NULL},
         .target = {BENCH_AT_MOST, BENCH_AT_MOST},
         .limit = {in_line ? 0.70 : 1.10, 1.15},
         .detail = touches_detail},
        {.name = "bare SIGBUS handler",
         .unit = "ns",
         .turn = touches_turn,
         .context = &sigbus->touches,
         .hidden = true,
         .same_work = true},
    };
    /* An inline fault is seen by nobody but the counters of the library. */
    minnow.any_faults = in_line;
    bench_take_turns(bench, arms, in_line ? 3 : 2);
}

static void measure_against_textbooks(struct bench *bench, const struct scratch *scratch, bool in_line) {
    struct rig rig;
    static struct textbook thread, sigbus;
    if (!open_resident(bench, &rig, scratch, in_line))
        return;
    int error = open_textbook(bench, &thread, HANDLER_BLOCKING, scratch);
    if (!error) {
        error = open_textbook(bench, &sigbus, HANDLER_SIGBUS, scratch);
        if (!error) {
            measure_resident(bench, &rig, &thread, &sigbus, in_line);
            close_textbook(&sigbus);
        }
        close_textbook(&thread);
    }
    if (error)
        bench_break(bench, NULL, "the textbook handlers: %s", strerror(-error));
    rig_close(&rig);
}

static void measure_thread(struct bench *bench, const struct scratch *scratch) {
    measure_against_textbooks(bench, scratch, false);
}

static void measure_inline(struct bench *bench, const struct scratch *scratch) {
    measure_against_textbooks(bench, scratch, true);
}

void target_resident_thread(struct bench *bench) {
    with_scratch(bench, LENGTH, measure_thread);
}

void target_resident_inline(struct bench *bench) {
    with_scratch(bench, LENGTH, measure_inline);
}

/* ---- scan-resident ---- */

struct mapping {
    void *at;
    size_t length;
};

static void unmap_pages(void *context) {
    const struct mapping *mapping = context;
    madvise(mapping->at, mapping->length, MADV_DONTNEED);
}

static void scan_arm(struct bench_arm *arm, struct reads *reads, struct mapping *mapping, const char *name) {
    *reads = (struct reads){.data = mapping->at,
                            .length = mapping->length,
                            .page_bytes = PAGE,
                            .kind = READS_SEQUENTIAL,
                            .threads = 1,
                            .count = (unsigned)(mapping->length / PAGE),
                            .per_read = true,
                            .reset = unmap_pages,
                            .reset_data = mapping};
    reads_begin(reads, 1);
    *arm = (struct bench_arm){.name = name, .unit = "ns", .turn = reads_turn, .context = reads, .same_work = true};
}

#define SCAN_BY_HAND "textbook thread that continues 1,024 pages a fault"

/* The very same pages: the cache's file mapped again, and left to the kernel. By hand, others with the same bytes. */
static void measure_scan_turns(struct bench *bench, const struct rig *rig, void *plain, struct textbook *by_hand) {
    static struct reads reads[3];
    struct bench_arm arms[3];
    void *hand = (void *)(uintptr_t)by_hand->area.view;
    struct mapping mappings[] = {{plain, LENGTH}, {(void *)(uintptr_t)rig->data, LENGTH}, {hand, LENGTH}};
    scan_arm(&arms[0], &reads[0], &mappings[0], "kernel scan of the same tmpfs pages");
    scan_arm(&arms[1], &reads[1], &mappings[1], bench->benchmark);
    scan_arm(&arms[2], &reads[2], &mappings[2], SCAN_BY_HAND);
    by_hand->handler.around = RANGE;
    arms[0].hidden = arms[2].hidden = true;
    arms[1].against[0] = arms[0].name;
    arms[1].target[0] = BENCH_AT_MOST;
    arms[1].limit[0] = 1.3;
    arms[1].against[1] = SCAN_BY_HAND;
    bench_take_turns(bench, arms, 3);
}

static void measure_scan(struct bench *bench, const struct scratch *scratch) {
    static struct textbook by_hand;
    struct rig rig;
    if (!open_resident(bench, &rig, scratch, false))
        return;
    void *plain = mmap(NULL, LENGTH, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, mnw_cache_fd(rig.cache), 0);
    int error = plain == MAP_FAILED ? -errno : open_textbook(bench, &by_hand, HANDLER_BLOCKING, scratch);
    if (error) {
        bench_break(bench, NULL, "the file mapped twice more: %s", strerror(-error));
    } else {
        measure_scan_turns(bench, &rig, plain, &by_hand);
        close_textbook(&by_hand);
    }
    if (plain != MAP_FAILED)
        munmap(plain, LENGTH);
    rig_close(&rig);
}

void target_scan_resident(struct bench *bench) {
    with_scratch(bench, LENGTH, measure_scan);
}

/* ---- cold-random-inline ---- */

static void forget_all(void *context) {
    struct rig *rig = context;
    if (mnw_invalidate(rig->cache, 0, rig->length))
        rig->data = NULL;
}

#define COLD_BY_HAND "signal, pread, pwrite, CONTINUE by hand"

static void measure_cold_turns(struct bench *bench, struct rig *rig, void *plain, struct by_hand *by_hand) {
    struct touches by_kernel = {.data = plain, .length = LENGTH, .page_bytes = PAGE, .count = TOUCHES};
    struct touches by_minnow = {.data = rig->data,
                                .length = LENGTH,
                                .page_bytes = PAGE,
                                .count = TOUCHES,
                                .rig = rig,
                                .reset = forget_all,
                                .reset_data = rig,
                                .any_faults = true};
    struct touches hand = {.data = by_hand->area.view,
                           .length = LENGTH,
                           .page_bytes = PAGE,
                           .count = TOUCHES,
                           .reset = by_hand_reset,
                           .reset_data = by_hand,
                           .any_faults = true};
    struct bench_arm arms[] = {
        {.name = "plain mmap of the file, no fault-around",
         .unit = "ns",
         .turn = touches_turn,
         .context = &by_kernel,
         .hidden = true,
         .same_work = true},
        {.name = bench->benchmark,
         .unit = "ns",
         .turn = touches_turn,
         .context = &by_minnow,
         .same_work = true,
         .against = {"plain mmap of the file, no fault-around", COLD_BY_HAND},
         .target = {BENCH_AT_MOST},
         .limit = {2.0},
         .detail = touches_detail},
        {.name = COLD_BY_HAND, .unit = "ns", .turn = touches_turn, .context = &hand, .hidden = true, .same_work = true},
    };
    bench_take_turns(bench, arms, 3);
}

static void measure_cold_mapped(struct bench *bench, struct rig *rig, const struct scratch *scratch, void *plain) {
    int quiet = fault_around_off(plain, LENGTH);
    if (quiet < 0) {
        bench_skip(bench, NULL, "fault-around cannot be turned off here: %s", strerror(-quiet));
        return;
    }
    struct by_hand by_hand = {.least = true, .room = LENGTH / PAGE};
    struct reads nothing = {.length = LENGTH, .page_bytes = PAGE};
    int error = by_hand_open(&by_hand, scratch, &nothing, bench->seed);
    if (error)
        bench_break(bench, NULL, "the loop by hand: %s", strerror(-error));
    else
        measure_cold_turns(bench, rig, plain, &by_hand);
    by_hand_close(&by_hand);
    close(quiet);
}

static void measure_cold(struct bench *bench, const struct scratch *scratch) {
    struct rig rig;
    int error = rig_open_inline(&rig, scratch, MNW_BACKING_SHMEM, 2 * LENGTH);
    if (error) {
        if (error == -EOPNOTSUPP)
            bench_skip(bench, NULL, NO_INLINE);
        else
            bench_break(bench, NULL, "could not be opened: %s", mnw_error());
        return;
    }
    void *plain = mmap(NULL, LENGTH, PROT_READ, MAP_SHARED, scratch->fd, 0);
    if (plain == MAP_FAILED) {
        bench_break(bench, NULL, "the file could not be mapped: %s", strerror(errno));
    } else {
        measure_cold_mapped(bench, &rig, scratch, plain);
        munmap(plain, LENGTH);
    }
    rig_close(&rig);
}

void target_cold_random_inline(struct bench *bench) {
    with_scratch(bench, LENGTH, measure_cold);
}

/* ---- threads-64 ---- */

static void measure_threads(struct bench *bench, const struct scratch *scratch) {
    struct rig rig;
    if (!open_resident(bench, &rig, scratch, false))
        return;
    struct touches touches = {.data = rig.data,
                              .length = LENGTH,
                              .page_bytes = PAGE,
                              .count = (unsigned)(LENGTH / PAGE) / (bench->smoke ? 8 : 1),
                              .rig = &rig};
    struct parallel few = {.touches = touches, .threads = 2}, many = {.touches = touches, .threads = 64};
    struct bench_arm arms[] = {
        {.name = "2 faulting threads, same total work",
         .unit = "faults/s",
         .turn = parallel_turn,
         .context = &few,
         .hidden = true,
         .same_work = true},
        {.name = bench->benchmark,
         .unit = "faults/s",
         .turn = parallel_turn,
         .context = &many,
         .same_work = true,
         .against = {"2 faulting threads, same total work"},
         .target = {BENCH_AT_LEAST},
         .limit = {0.9}},
    };
    bench_take_turns(bench, arms, 2);
    rig_close(&rig);
}

void target_threads_64(struct bench *bench) {
    with_scratch(bench, LENGTH, measure_threads);
}
