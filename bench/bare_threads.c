/* SPDX-License-Identifier: MIT */
/* The same faults by 1 to 64 threads, by kind of pages: the kernel's, a textbook thread's, textbook signal handlers',
 * minnow's by its thread and inline. */
#include "fills.h"
#include "measure.h"
#include "parallel.h"
#include "registry.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LENGTH (64 * MIB)
#define GIB    ((size_t)1 << 30)
#define MOST   64
#define POINTS 7
#define SERIES 5

/* Names of the first kind are those of before there were others. */
static const struct kind_of_threads {
    const char *suffix, *by;
    size_t contents;
    unsigned touches; /* in one turn */
} kinds[AREA_KINDS] = {
    [AREA_4K] = {"", "threads", LENGTH, 4096},
    [AREA_GRADED] = {"-graded", "threads on graded", LENGTH, 4096},
    [AREA_2M] = {"-2M", "threads on 2M", 4 * LENGTH, 512},
    [AREA_1G] = {"-1G", "threads on 1G", LENGTH, 64}, /* on one and the same page */
};

enum threads_way { BY_KERNEL, BY_THREAD, BY_SIGBUS, BARE };

struct threads {
    struct bench *bench;
    enum area_kind kind;
    size_t length;
    const struct scratch *scratch;
    struct area areas[BARE];
    struct handler handlers[BARE];
    struct rig rig, in_line; /* of one cache */
    int quiet;               /* keeps the kernel's fault-around off */
    struct parallel parallel[SERIES * POINTS];
    struct bench_arm arms[SERIES * POINTS];
    char series[SERIES][32], names[SERIES * POINTS][32];
    unsigned count, series_count;
};

static const char *name_series(struct threads *threads, const char *name) {
    char *text = threads->series[threads->series_count];
    snprintf(text, sizeof(threads->series[0]), "%s%s", name, kinds[threads->kind].suffix);
    return text;
}

static void add_series(struct threads *threads, const char *name, const struct touches *touches, size_t page_bytes) {
    const struct kind_of_threads *kind = &kinds[threads->kind];
    const char *series = name_series(threads, name);
    bool smoke = threads->bench->smoke;
    threads->series_count++;
    for (unsigned many = 1; many <= MOST; many *= smoke && threads->kind ? 8 : 2) {
        unsigned i = threads->count++;
        snprintf(threads->names[i], sizeof(threads->names[i]), "%s%s-%u", name, kind->suffix, many);
        threads->parallel[i] = (struct parallel){.touches = *touches, .threads = many};
        threads->parallel[i].touches.count = smoke ? kind->touches / 8 : kind->touches;
        threads->parallel[i].touches.length = threads->length;
        threads->parallel[i].touches.page_bytes = page_bytes;
        threads->arms[i] = (struct bench_arm){.name = threads->names[i],
                                              .unit = "faults/s",
                                              .turn = parallel_turn,
                                              .context = &threads->parallel[i],
                                              .by = kind->by,
                                              .series = series,
                                              .at = many,
                                              .same_work = true};
    }
}

/* Nobody changes the file: huge pages are shared. */
static int open_area(struct threads *threads, struct area *area) {
    if (area > threads->areas && threads->areas[0].alias && threads->kind >= AREA_2M)
        return area_share(area, &threads->areas[0]);
    return area_open(area, threads->kind, threads->length, threads->scratch);
}

static int add_bare(struct threads *threads, enum threads_way way) {
    static const char *const names[BARE] = {"kernel", "thread", "sigbus"};
    struct area *area = &threads->areas[way];
    struct handler *handler = &threads->handlers[way];
    int error = open_area(threads, area);
    if (error)
        return error;
    if (way)
        error =
            handler_open(handler, area, way == BY_THREAD ? HANDLER_BLOCKING : HANDLER_SIGBUS, ANSWER_CONTINUE, NULL);
    else if (threads->kind == AREA_4K)
        error = threads->quiet = fault_around_off(area->view, area->length);
    if (error >= 0)
        add_series(threads, names[way], &(struct touches){.data = area->view, .handler = way ? handler : NULL},
                   area->page_bytes);
    return error < 0 ? error : 0;
}

static void add_minnow(struct threads *threads) {
    struct rig *rig = &threads->rig;
    /* The reclaimer keeps some free, of 1 GiB pages one. */
    uint64_t budget = threads->kind == AREA_1G ? 2 * GIB : fill_budget(threads->length);
    if (!area_provide(threads->kind, budget)) {
        bench_skip(threads->bench, name_series(threads, "minnow"), "this machine could not give the huge pages");
        return;
    }
    if (rig_open(rig, threads->scratch, fill_backing(threads->kind), budget)) {
        bench_break(threads->bench, name_series(threads, "minnow"), "could not be opened: %s", mnw_error());
        return;
    }
    for (size_t at = 0; at < rig->length; at += rig->page_bytes)
        (void)rig->data[at];
    add_series(threads, "minnow",
               &(struct touches){.data = rig->data, .rig = rig, .thread = find_thread("mnw-fault-0")}, rig->page_bytes);
    if (rig_share(&threads->in_line, rig, true))
        bench_skip(threads->bench, name_series(threads, "minnow-inline"), "%s", mnw_error());
    else
        add_series(threads, "minnow-inline", &(struct touches){.data = threads->in_line.data, .rig = rig},
                   rig->page_bytes);
}

static void close_all(struct threads *threads) {
    rig_close(&threads->in_line);
    rig_close(&threads->rig);
    for (unsigned i = 0; i < BARE; i++) {
        handler_close(&threads->handlers[i]);
        if (threads->areas[i].alias)
            area_close(&threads->areas[i]);
    }
    if (threads->quiet > 0)
        close(threads->quiet);
}

static void measure(struct bench *bench, enum area_kind kind, const struct scratch *scratch) {
    static struct threads threads;
    memset(&threads, 0, sizeof(threads));
    threads.bench = bench;
    threads.kind = kind;
    threads.scratch = scratch;
    threads.length = kind == AREA_1G ? GIB : scratch->size_bytes;
    int error = 0;
    /* Graded memory the kernel alone maps 2 MiB at a time: no fault of 4 KiB. */
    for (unsigned way = kind == AREA_GRADED ? BY_THREAD : BY_KERNEL; way < BARE && !error; way++)
        error = add_bare(&threads, (enum threads_way)way);
    if (!error)
        add_minnow(&threads);
    if (!error)
        bench_take_turns(bench, threads.arms, threads.count);
    else if (kind == AREA_4K)
        bench_break(bench, NULL, "%s", strerror(-error));
    else
        bench_skip(bench, area_names[kind], "%s", strerror(-error));
    close_all(&threads);
}

/* In smoke mode without those pages that take the machine seconds to make. */
void bench_threads(struct bench *bench) {
    for (enum area_kind kind = 0; kind < (bench->smoke ? AREA_1G : AREA_KINDS); kind++) {
        struct scratch scratch;
        if (scratch_warm(&scratch, bench->directory, bench->smoke ? LENGTH / 4 : kinds[kind].contents)) {
            bench_break(bench, NULL, "no scratch file in %s", bench->directory);
            return;
        }
        measure(bench, kind, &scratch);
        scratch_close(&scratch);
    }
}
