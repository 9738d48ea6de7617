/* SPDX-License-Identifier: MIT */
/*
 * One fault: what the kernel takes by itself, what textbook handlers take, and minnow beside them, by kind of pages.
 * kernel-faults and handlers.
 */
#include "fills.h"
#include "measure.h"
#include "registry.h"
#include "touches.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LENGTH     (64 * MIB)
#define SMOKE      (16 * MIB)
#define GIB        ((size_t)1 << 30)
#define HUGE       ((size_t)2 << 20)
#define TOUCHES    1000
#define HUGE_COUNT 96
#define GIB_COUNT  4

static size_t length_of(enum area_kind kind) {
    return kind == AREA_1G ? GIB : LENGTH;
}

static unsigned count_of(const struct bench *bench, size_t page_bytes) {
    unsigned count = page_bytes < HUGE ? TOUCHES : page_bytes < GIB ? HUGE_COUNT : GIB_COUNT;
    return bench->smoke && count > GIB_COUNT ? count / 4 : count;
}

/* ---- kernel-faults ---- */

#define KERNEL_ARMS 16

struct kernel {
    struct bench *bench;
    const struct scratch *scratch;
    struct area areas[KERNEL_ARMS];
    struct touches touches[KERNEL_ARMS];
    struct bench_arm arms[KERNEL_ARMS];
    void *mappings[KERNEL_ARMS];
    int quiet[KERNEL_ARMS]; /* descriptors of those without fault-around, plus 1 */
    unsigned count;
};

static void punch_all(void *area) {
    area_punch(area, 0, ((struct area *)area)->length);
}

/* False, and told, where the kernel cannot be kept from mapping neighbours. */
static bool keep_around_off(struct kernel *kernel, const char *name, volatile const void *data, size_t length) {
    int uffd = fault_around_off(data, length);
    if (uffd < 0)
        bench_skip(kernel->bench, name, "fault-around cannot be turned off here: %s", strerror(-uffd));
    else
        kernel->quiet[kernel->count] = uffd + 1;
    return uffd >= 0;
}

static struct touches *add_arm(struct kernel *kernel, const char *name, volatile const void *data, size_t length,
                               size_t page_bytes) {
    unsigned i = kernel->count++;
    kernel->touches[i] = (struct touches){
        .data = data, .length = length, .page_bytes = page_bytes, .count = count_of(kernel->bench, page_bytes)};
    kernel->arms[i] = (struct bench_arm){
        .name = name, .unit = "ns", .turn = touches_turn, .context = &kernel->touches[i], .detail = touches_detail};
    return &kernel->touches[i];
}

/* Pages that are in the file: the fault only maps them. */
static void add_resident(struct kernel *kernel, const char *name, enum area_kind kind, bool around) {
    struct area *area = &kernel->areas[kernel->count];
    int error = area_open(area, kind, length_of(kind), kernel->scratch);
    if (error) {
        bench_skip(kernel->bench, name, "%s", strerror(-error));
        return;
    }
    if (kind == AREA_4K && !around && !keep_around_off(kernel, name, area->view, area->length)) {
        area_close(area);
        return;
    }
    struct touches *touches = add_arm(kernel, name, area->view, area->length, area->huge_bytes);
    touches->order = around ? TOUCH_SEQUENTIAL : TOUCH_RANDOM;
    touches->any_faults = around;
}

/* Pages that are not: the fault makes them. */
static void add_fresh(struct kernel *kernel, const char *name, enum area_kind kind) {
    struct area *area = &kernel->areas[kernel->count];
    int error = area_open(area, kind, length_of(kind), NULL);
    if (error) {
        bench_skip(kernel->bench, name, "%s", strerror(-error));
        return;
    }
    struct touches *touches = add_arm(kernel, name, area->alias, area->length, area->huge_bytes);
    touches->reset = punch_all;
    touches->reset_data = area;
    touches->write = true;
}

static void add_mapping(struct kernel *kernel, const char *name, int fd, int advice, bool around) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *at = mmap(NULL, LENGTH, fd < 0 ? PROT_READ | PROT_WRITE : PROT_READ, flags | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED) {
        bench_break(kernel->bench, name, "could not be mapped");
        return;
    }
    madvise(at, LENGTH, advice);
    if (fd >= 0 && !around && !keep_around_off(kernel, name, at, LENGTH)) {
        munmap(at, LENGTH);
        return;
    }
    kernel->mappings[kernel->count] = at;
    struct touches *touches = add_arm(kernel, name, at, LENGTH, advice == MADV_HUGEPAGE ? HUGE : 4096);
    touches->order = around ? TOUCH_SEQUENTIAL : TOUCH_RANDOM;
    touches->any_faults = around;
    touches->write = fd < 0;
}

void bench_kernel_faults(struct bench *bench) {
    static struct kernel kernel;
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    memset(&kernel, 0, sizeof(kernel));
    kernel.bench = bench;
    kernel.scratch = &scratch;
    add_resident(&kernel, "tmpfs-4K", AREA_4K, false);
    add_resident(&kernel, "tmpfs-4K-around", AREA_4K, true);
    add_resident(&kernel, "tmpfs-huge", AREA_GRADED, false);
    add_resident(&kernel, "hugetlb-2M", AREA_2M, false);
    add_resident(&kernel, "hugetlb-1G", AREA_1G, false);
    add_mapping(&kernel, "file-4K", scratch.fd, MADV_NORMAL, false);
    add_mapping(&kernel, "file-4K-around", scratch.fd, MADV_NORMAL, true);
    add_fresh(&kernel, "fresh-tmpfs-4K", AREA_4K);
    add_fresh(&kernel, "fresh-tmpfs-huge", AREA_GRADED);
    add_fresh(&kernel, "fresh-hugetlb-2M", AREA_2M);
    if (!bench->smoke) /* zeroing 1 GiB takes long */
        add_fresh(&kernel, "fresh-hugetlb-1G", AREA_1G);
    add_mapping(&kernel, "fresh-anonymous-4K", -1, MADV_NOHUGEPAGE, false);
    add_mapping(&kernel, "fresh-anonymous-2M", -1, MADV_HUGEPAGE, false);
    bench_take_turns(bench, kernel.arms, kernel.count);
    for (unsigned i = 0; i < kernel.count; i++) {
        if (kernel.mappings[i])
            munmap(kernel.mappings[i], LENGTH);
        if (kernel.quiet[i])
            close(kernel.quiet[i] - 1);
        if (kernel.areas[i].alias)
            area_close(&kernel.areas[i]);
    }
    scratch_close(&scratch);
}

/* ---- handlers ---- */

static const struct way {
    const char *name;
    enum handler_kind kind;
    enum handler_answer answer;
    int thread_cpu; /* rank; -1: there is no thread */
} ways[] = {
    {"thread-same-cpu", HANDLER_BLOCKING, ANSWER_CONTINUE, 0},
    {"thread-other-cpu", HANDLER_BLOCKING, ANSWER_CONTINUE, 1},
    {"thread-spinning", HANDLER_SPINNING, ANSWER_CONTINUE, 1},
    {"sigbus", HANDLER_SIGBUS, ANSWER_CONTINUE, -1},
    {"missing-continue", HANDLER_BLOCKING, ANSWER_FILL, 0},
    {"sigbus-continue", HANDLER_SIGBUS, ANSWER_FILL, -1},
    {"missing-copy", HANDLER_BLOCKING, ANSWER_COPY, 0},
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

static const struct minnow_way {
    const char *name;
    bool in_line, cold; /* cold: the cache is invalidated before, so that each page is copied in again */
} minnow_ways[] = {
    {"minnow", false, false},
    {"minnow-inline", true, false},
    {"minnow-cold", false, true},
    {"minnow-inline-cold", true, true},
};
#define MINNOW_WAYS (sizeof(minnow_ways) / sizeof(minnow_ways[0]))
#define ARMS        (1 + WAYS + MINNOW_WAYS) /* the kernel alone first */

struct handlers {
    struct bench *bench;
    enum area_kind kind;
    size_t length;
    const struct scratch *scratch;
    struct area areas[ARMS];
    struct handler handlers[ARMS];
    struct touches touches[ARMS];
    struct bench_arm arms[ARMS];
    char names[ARMS][48];
    struct rig rigs[MINNOW_WAYS];
    int quiet; /* keeps the kernel's fault-around off */
    unsigned count;
};

static const char *name_arm(struct handlers *handlers, const char *name) {
    char *text = handlers->names[handlers->count];
    snprintf(text, sizeof(handlers->names[0]), "%s-%s", name, area_names[handlers->kind]);
    return text;
}

static struct touches *add_touches(struct handlers *handlers, const char *series, volatile const void *data,
                                   size_t page_bytes) {
    const char *name = name_arm(handlers, series);
    unsigned i = handlers->count++;
    handlers->touches[i] = (struct touches){.data = data,
                                            .length = handlers->length,
                                            .page_bytes = page_bytes,
                                            .count = count_of(handlers->bench, page_bytes)};
    handlers->arms[i] = (struct bench_arm){
        .name = name,
        .unit = "ns",
        .turn = touches_turn,
        .context = &handlers->touches[i],
        .against = {i ? handlers->arms[0].name : NULL}, /* the kernel, where it could be had */
        .same_work = true,
        .series = series,
        .by = handlers->kind == AREA_GRADED ? NULL : "page KiB",
        .at = (double)page_bytes / 1024,
        .detail = touches_detail,
    };
    return &handlers->touches[i];
}

/* The page that was given up went back to the pool, where others may have taken it. */
static double moving_turn(void *context, struct bench_turn *turn) {
    const struct touches *touches = context;
    if (touches->give_up && !area_provide(AREA_1G, touches->length)) {
        snprintf(turn->why, sizeof(turn->why), "the huge page is gone: others have taken it");
        return NAN;
    }
    return touches_turn(context, turn);
}

/* A gigabyte is moved for each fault of the arm that was added last: one will do, which is other work. */
static void move_one(struct handlers *handlers) {
    handlers->touches[handlers->count - 1].count = 1;
    handlers->arms[handlers->count - 1].turn = moving_turn;
    handlers->arms[handlers->count - 1].same_work = false;
    handlers->arms[handlers->count - 1].sane_low = 1;
    handlers->arms[handlers->count - 1].sane_high = 1e12; /* millions of times what the kernel takes to map it */
}

/* Of 1 GiB pages one is for all who do not change it, one for those who bring it in, by turns, and two are minnow's. */
static int open_area(struct handlers *handlers, struct area *area, const struct scratch *contents) {
    if (handlers->kind == AREA_1G && contents && handlers->count)
        return area_share(area, &handlers->areas[0]);
    return area_open(area, handlers->kind, handlers->length, contents);
}

/* Not for graded: without a handler the kernel maps 2 MiB at once. */
static void add_kernel(struct handlers *handlers) {
    if (handlers->kind == AREA_GRADED)
        return;
    struct area *area = &handlers->areas[handlers->count];
    int error = open_area(handlers, area, handlers->scratch);
    if (error) {
        bench_skip(handlers->bench, name_arm(handlers, "kernel"), "%s", strerror(-error));
        return;
    }
    if (area->page_bytes == 4096 && (handlers->quiet = fault_around_off(area->view, area->length)) < 0) {
        bench_skip(handlers->bench, name_arm(handlers, "kernel"), "fault-around cannot be turned off here: %s",
                   strerror(-handlers->quiet));
        area_close(area);
        return;
    }
    add_touches(handlers, "kernel", area->view, area->page_bytes);
}

static void add_way(struct handlers *handlers, const struct way *way) {
    struct area *area = &handlers->areas[handlers->count];
    struct handler *handler = &handlers->handlers[handlers->count];
    size_t length = handlers->length;
    if (way->thread_cpu >= cpu_count()) {
        bench_skip(handlers->bench, name_arm(handlers, way->name), "there is one CPU");
        return;
    }
    int error = open_area(handlers, area, way->answer == ANSWER_FILL ? NULL : handlers->scratch);
    if (!error && way->answer == ANSWER_COPY && !area_provide(handlers->kind, length))
        error = -ENOMEM;
    if (!error)
        error = handler_open(handler, area, way->kind, way->answer, handlers->scratch);
    if (error) {
        if (area->alias)
            area_close(area);
        bench_skip(handlers->bench, name_arm(handlers, way->name), "%s", strerror(-error));
        return;
    }
    struct touches *touches = add_touches(handlers, way->name, handler->data, area->page_bytes);
    touches->handler = handler;
    touches->thread = handler->thread_id;
    touches->thread_cpu = way->thread_cpu;
    if (way->answer != ANSWER_CONTINUE && handlers->kind == AREA_1G) {
        touches->give_up = true;
        move_one(handlers);
    }
}

static void forget_all(void *context) {
    struct rig *rig = context;
    mnw_invalidate(rig->cache, 0, rig->length);
}

static int open_minnow(struct handlers *handlers, unsigned which) {
    struct rig *rig = &handlers->rigs[which];
    bool in_line = minnow_ways[which].in_line;
    if (handlers->kind == AREA_1G && handlers->rigs[0].cache && which)
        return rig_share(rig, &handlers->rigs[0], in_line);
    /* The reclaimer keeps some free, of 1 GiB pages one. */
    uint64_t budget = handlers->kind == AREA_1G ? 2 * GIB : fill_budget(handlers->length);
    if (!area_provide(handlers->kind, budget))
        return -ENOMEM;
    return in_line ? rig_open_inline(rig, handlers->scratch, fill_backing(handlers->kind), budget)
                   : rig_open(rig, handlers->scratch, fill_backing(handlers->kind), budget);
}

static void add_minnow(struct handlers *handlers, unsigned which) {
    const struct minnow_way *way = &minnow_ways[which];
    struct rig *rig = &handlers->rigs[which];
    int error = open_minnow(handlers, which);
    if (error) {
        bench_skip(handlers->bench, name_arm(handlers, way->name), "%s",
                   error == -ENOMEM ? "huge pages missing" : mnw_error());
        return;
    }
    for (size_t at = 0; at < rig->length; at += rig->page_bytes)
        (void)rig->data[at];
    struct touches *touches = add_touches(handlers, way->name, rig->data, rig->page_bytes);
    touches->rig = rig;
    if (!which) /* the first is the one that has the name; others follow who faults by themselves */
        touches->thread = find_thread("mnw-fault-0");
    if (way->cold)
        touches->reset = forget_all, touches->reset_data = rig;
    if (way->cold && handlers->kind == AREA_1G)
        move_one(handlers);
    /* Promoted, one fault maps 2 MiB; cold, neighbours may come along; inline ones are seen by counters alone. */
    touches->any_faults = handlers->kind == AREA_GRADED || way->cold || way->in_line;
}

static void close_all(struct handlers *handlers) {
    for (unsigned i = 0; i < ARMS; i++) {
        handler_close(&handlers->handlers[i]);
        if (handlers->areas[i].alias)
            area_close(&handlers->areas[i]);
    }
    for (unsigned i = MINNOW_WAYS; i--;) /* the first may be shared by the others */
        rig_close(&handlers->rigs[i]);
    if (handlers->quiet > 0)
        close(handlers->quiet);
    handlers->quiet = 0;
}

static void add_arm_of(struct handlers *handlers, unsigned which) {
    if (which == 0)
        add_kernel(handlers);
    else if (which <= WAYS)
        add_way(handlers, &ways[which - 1]);
    else
        add_minnow(handlers, which - 1 - WAYS);
}

/* Each page of 1 GiB takes the machine seconds to make: in smoke mode there is one. */
static bool is_left_out(const struct bench *bench, enum area_kind kind, unsigned which) {
    bool shares = !which || (which <= WAYS && ways[which - 1].answer == ANSWER_CONTINUE);
    return bench->smoke && kind == AREA_1G && !shares;
}

static void measure_handlers(struct bench *bench, enum area_kind kind, const struct scratch *scratch) {
    static struct handlers handlers;
    unsigned repeat = bench->repeat;
    memset(&handlers, 0, sizeof(handlers));
    handlers.bench = bench;
    handlers.kind = kind;
    handlers.scratch = scratch;
    handlers.length = kind == AREA_1G ? GIB : scratch->size_bytes;
    if (kind != AREA_1G && !area_provide(kind, (ARMS + 2) * handlers.length)) {
        bench_skip(bench, area_names[kind], "this machine could not give the huge pages");
        return;
    }
    for (unsigned i = 0; i < ARMS; i++)
        if (!is_left_out(bench, kind, i))
            add_arm_of(&handlers, i);
    if (kind == AREA_1G)
        bench->repeat = (repeat + 2) / 3;
    /* Of what was free when the first of them was opened minnow may have taken some. */
    if (kind == AREA_1G && !bench->smoke && handlers.count && !area_provide(kind, GIB))
        bench_skip(bench, area_names[kind], "this machine could not give the huge pages");
    else if (handlers.count)
        bench_take_turns(bench, handlers.arms, handlers.count);
    bench->repeat = repeat;
    close_all(&handlers);
}

/* On the kinds from `first` to before `end`. */
static void handlers_with_file(struct bench *bench, uint64_t size_bytes, enum area_kind first, enum area_kind end) {
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, size_bytes)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    for (enum area_kind kind = first; kind < end; kind++)
        measure_handlers(bench, kind, &scratch);
    scratch_close(&scratch);
}

/* For 1 GiB pages a file as large, so that minnow moves as much as the others. */
void bench_handlers(struct bench *bench) {
    handlers_with_file(bench, bench->smoke ? SMOKE : LENGTH, AREA_4K, bench->smoke ? AREA_KINDS : AREA_1G);
    if (!bench->smoke)
        handlers_with_file(bench, GIB, AREA_1G, AREA_KINDS);
}
