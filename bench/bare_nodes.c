/* SPDX-License-Identifier: MIT */
/*
 * The same faults, by the node of the CPU that faults and the node of the memory, on each kind of pages: the kernel's,
 * a textbook handler's in the faulting thread, and minnow's, by its thread and inline, with its pool bound to the node.
 * Where all of it lies is asked of the kernel; on an emulated processor that alone is told. nodes.
 */
#include "fills.h"
#include "measure.h"
#include "registry.h"
#include "report.h"
#include "touches.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE      4096
#define LENGTH    (16 * MIB)
#define GIB       ((size_t)1 << 30)
#define NODES_MAX 4

enum node_way { BY_KERNEL, BY_SIGBUS, BY_MINNOW, BY_INLINE, WAYS };
#define PLACED BY_INLINE /* the last has the memory of the one before */

static const char *const ways[WAYS] = {"kernel", "sigbus", "minnow", "minnow-inline"};

/* Names of the first kind are those of before there were others. */
static const struct kind_of_pages {
    const char *suffix, *by;
    unsigned touches;
} kinds[AREA_KINDS] = {
    [AREA_4K] = {"", PLOT_BY_NODE, 1000},
    [AREA_GRADED] = {"-graded", PLOT_BY_NODE ", graded", 1000},
    [AREA_2M] = {"-2M", PLOT_BY_NODE ", 2M", 96},
    [AREA_1G] = {"-1G", PLOT_BY_NODE ", 1G", 4},
};

struct node_memory {
    enum area_kind kind;
    int node;
    struct area areas[2]; /* of kernel and handler */
    struct handler handler;
    struct rig rig, in_line; /* of one cache */
    int quiet;
};

struct node_arm {
    struct touches touches;
    int cpu_node;
};

static double node_turn(void *context, struct bench_turn *turn) {
    struct node_arm *arm = context;
    struct bitmask *all = numa_allocate_cpumask();
    numa_node_to_cpus(arm->cpu_node, all);
    numa_sched_setaffinity(0, all);
    numa_free_cpumask(all);
    double value = touches_turn(&arm->touches, turn);
    numa_run_on_node(-1);
    return value;
}

static size_t length_of(enum area_kind kind) {
    return kind == AREA_1G ? GIB : LENGTH;
}

/* The reclaimer keeps some free, of 1 GiB pages one. */
static uint64_t budget_of(enum area_kind kind) {
    return kind == AREA_1G ? 2 * GIB : fill_budget(LENGTH);
}

/* Bound before the first touch: the file, which hugetlb does not ask, and the thread that makes the pages. */
static int open_area_on(struct area *area, enum area_kind kind, int node, const struct scratch *scratch) {
    unsigned long nodes = 1ul << node;
    int error = area_open(area, kind, length_of(kind), NULL);
    if (error)
        return error;
    if (mbind(area->alias, area->length, MPOL_BIND, &nodes, sizeof(nodes) * 8, 0) ||
        set_mempolicy(MPOL_BIND, &nodes, sizeof(nodes) * 8))
        error = -errno;
    if (!error)
        error = area_fill(area, scratch);
    set_mempolicy(MPOL_DEFAULT, NULL, 0);
    if (error)
        area_close(area);
    return error;
}

static int open_node(struct node_memory *memory, enum area_kind kind, int node, const struct scratch *scratch) {
    char nodes[8];
    snprintf(nodes, sizeof(nodes), "%d", node);
    struct mnw_pool_options options = {.size = sizeof(options),
                                       .backing = fill_backing(kind),
                                       .budget_bytes = budget_of(kind),
                                       .numa = MNW_NUMA_BIND,
                                       .nodes = nodes};
    memory->kind = kind;
    memory->node = node;
    int error = open_area_on(&memory->areas[0], kind, node, scratch);
    if (!error) /* nobody changes the file: huge pages are shared */
        error = kind >= AREA_2M ? area_share(&memory->areas[1], &memory->areas[0])
                                : open_area_on(&memory->areas[1], kind, node, scratch);
    if (!error && kind == AREA_4K)
        error = memory->quiet = fault_around_off(memory->areas[0].view, LENGTH);
    if (error >= 0)
        error = handler_open(&memory->handler, &memory->areas[1], HANDLER_SIGBUS, ANSWER_CONTINUE, NULL);
    if (!error)
        error = rig_open_pool(&memory->rig, scratch, &options);
    for (size_t at = 0; !error && at < memory->rig.length; at += memory->rig.page_bytes)
        (void)memory->rig.data[at];
    if (!error && rig_share(&memory->in_line, &memory->rig, true))
        memory->in_line = (struct rig){0}; /* not by this library or kernel: left out, and told */
    return error;
}

static void close_node(struct node_memory *memory) {
    rig_close(&memory->in_line);
    rig_close(&memory->rig);
    handler_close(&memory->handler);
    for (unsigned i = 0; i < 2; i++)
        if (memory->areas[i].alias)
            area_close(&memory->areas[i]);
    if (memory->quiet > 0)
        close(memory->quiet);
}

/* Graded memory the kernel alone maps 2 MiB at a time: no fault of 4 KiB. */
static bool has_way(struct bench *bench, const struct node_memory *memory, enum node_way way) {
    if (way == BY_KERNEL)
        return memory->kind != AREA_GRADED;
    if (way == BY_INLINE && !memory->in_line.view)
        bench_skip(bench, ways[way], "not to be had by this library or kernel");
    return way != BY_INLINE || memory->in_line.view;
}

static struct touches touches_of(const struct bench *bench, struct node_memory *memory, enum node_way way) {
    const struct rig *rig = way == BY_MINNOW ? &memory->rig : way == BY_INLINE ? &memory->in_line : NULL;
    unsigned count = kinds[memory->kind].touches;
    return (struct touches){.data = rig ? rig->data : memory->areas[way].view,
                            .length = length_of(memory->kind),
                            .page_bytes = rig ? rig->page_bytes : memory->areas[way].page_bytes,
                            .count = bench->smoke && count > 4 ? count / 4 : count,
                            .handler = way == BY_SIGBUS ? &memory->handler : NULL,
                            .rig = rig,
                            /* Promoted, one fault maps 2 MiB. */
                            .any_faults = rig && memory->kind == AREA_GRADED,
                            .stay = true};
}

static void measure(struct bench *bench, struct node_memory *memories, unsigned nodes) {
    static struct node_arm contexts[NODES_MAX * NODES_MAX * WAYS];
    static char names[NODES_MAX * NODES_MAX * WAYS][48], series[NODES_MAX * NODES_MAX * WAYS][48];
    const struct kind_of_pages *kind = &kinds[memories->kind];
    struct bench_arm arms[NODES_MAX * NODES_MAX * WAYS];
    unsigned count = 0;
    for (enum node_way way = 0; way < WAYS; way++)
        for (unsigned cpu = 0; has_way(bench, memories, way) && cpu < nodes; cpu++)
            for (unsigned m = 0; m < nodes; m++, count++) {
                struct node_memory *memory = &memories[m];
                contexts[count] = (struct node_arm){touches_of(bench, memory, way), memories[cpu].node};
                snprintf(names[count], sizeof(names[0]), "%s%s-cpu%d-memory%d", ways[way], kind->suffix,
                         memories[cpu].node, memory->node);
                snprintf(series[count], sizeof(series[0]), "%s%s, memory on %d", ways[way], kind->suffix, memory->node);
                arms[count] = (struct bench_arm){.name = names[count],
                                                 .unit = "ns",
                                                 .turn = node_turn,
                                                 .context = &contexts[count],
                                                 .same_work = true,
                                                 .by = kind->by,
                                                 .at = memories[cpu].node,
                                                 .series = series[count],
                                                 .against = {cpu != m ? names[count - m + cpu] : NULL}};
            }
    /* Names of later arms are not there yet when they are first pointed at, but their places are. */
    bench_take_turns(bench, arms, count);
}

/* ---- placements ---- */

/* Per cent of an area's pages that lie on another node than its own. */
static double misplaced_in_area(const struct node_memory *memory, const struct area *area) {
    unsigned there = 0;
    for (size_t at = 0; at < area->length; at += PAGE) {
        void *address = area->alias + at;
        int node = -1;
        (void)*(volatile unsigned char *)address; /* what this mapping has not seen it cannot tell */
        there += !move_pages(0, 1, &address, NULL, &node, 0) && node == memory->node;
    }
    return 100 - 100.0 * there / (double)(area->length / PAGE);
}

static double misplaced_in_cache(const struct node_memory *memory) {
    struct mnw_placement placement;
    if (mnw_cache_placement(memory->rig.cache, 0, &placement, sizeof(placement)) || !placement.asked_bytes)
        return 100;
    return 100 - 100.0 * (double)placement.node_bytes[memory->node] / (double)placement.asked_bytes;
}

/* That memory is where the names of the results say it is: asked of the kernel, before anything is measured. */
static void count_placements(struct bench *bench, const struct node_memory *memories, unsigned nodes) {
    for (unsigned m = 0; m < nodes; m++)
        for (enum node_way way = 0; way < PLACED; way++) {
            const struct node_memory *memory = &memories[m];
            char name[48];
            snprintf(name, sizeof(name), "%s%s-misplaced-memory%d", ways[way], kinds[memory->kind].suffix,
                     memory->node);
            struct bench_result result = {.name = name, .unit = "%", .target = BENCH_AT_MOST, .limit = 1};
            result.value =
                way == BY_MINNOW ? misplaced_in_cache(memory) : misplaced_in_area(memory, &memory->areas[way]);
            bench_report(bench, &result);
        }
}

/* Is the processor made of software? Then every instruction costs what its emulation does, and no memory is far. */
static bool is_emulated(void) {
#ifdef __x86_64__
    unsigned a, b, features, d, name[3];
    if (!__get_cpuid(1, &a, &b, &features, &d) || !(features >> 31)) /* no hypervisor */
        return false;
    __cpuid(0x40000000, a, name[0], name[1], name[2]);
    return !memcmp(name, "TCGTCGTCGTCG", 12);
#else
    return false;
#endif
}

static unsigned nodes_with_both(int *nodes) {
    unsigned count = 0;
    for (int node = 0; numa_available() >= 0 && node <= numa_max_node() && count < NODES_MAX; node++) {
        struct bitmask *cpus = numa_allocate_cpumask();
        bool has_cpus = !numa_node_to_cpus(node, cpus) && numa_bitmask_weight(cpus);
        numa_free_cpumask(cpus);
        if (has_cpus && numa_node_size64(node, NULL) > (long long)(4 * LENGTH))
            nodes[count++] = node;
    }
    return count;
}

/* 0, or a negative errno: memory of that kind is not to be had on each node. */
static int with_kind(struct bench *bench, enum area_kind kind, const int *nodes, unsigned count,
                     const struct scratch *scratch) {
    static struct node_memory memories[NODES_MAX];
    memset(memories, 0, sizeof(memories));
    /* More pages of a pool come from all nodes by turns. */
    int error = area_provide(kind, count * (length_of(kind) + budget_of(kind))) ? 0 : -ENOMEM;
    for (unsigned i = 0; i < count && !error; i++)
        error = open_node(&memories[i], kind, nodes[i], scratch);
    if (!error) {
        count_placements(bench, memories, count);
        if (!is_emulated())
            measure(bench, memories, count);
    }
    for (unsigned i = 0; i < count; i++)
        close_node(&memories[i]);
    return error;
}

void bench_nodes(struct bench *bench) {
    struct scratch scratch;
    int nodes[NODES_MAX];
    unsigned count = nodes_with_both(nodes);
    if (count < 2) {
        bench_skip(bench, NULL, "this machine has one node with CPUs and memory");
        return;
    }
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    for (enum area_kind kind = 0; kind < AREA_KINDS; kind++) {
        int error = with_kind(bench, kind, nodes, count, &scratch);
        if (error && kind == AREA_4K)
            bench_break(bench, NULL, "%s", strerror(-error));
        else if (error)
            bench_skip(bench, area_names[kind], "%s", strerror(-error));
    }
    if (is_emulated())
        bench_skip(bench, "times", "the processor is emulated (TCG): times mean nothing, placements were counted");
    scratch_close(&scratch);
}
