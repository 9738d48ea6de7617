/* SPDX-License-Identifier: MIT */
/*
 * The same faults, by the node of the CPU that faults and the node of the memory: the kernel's, a textbook handler's in
 * the faulting thread, and minnow's with its pool bound to the node. Where all of it lies is asked of the kernel; on an
 * emulated processor that alone is told. nodes.
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
#define TOUCHES   1000
#define NODES_MAX 4
#define WAYS      3

static const char *const ways[WAYS] = {"kernel", "sigbus", "minnow"};

struct node_memory {
    int node;
    struct area areas[2];
    struct handler handler;
    struct rig rig;
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

/* Bound before the first touch. */
static int open_area_on(struct area *area, int node, const struct scratch *scratch) {
    unsigned long nodes = 1ul << node;
    int error = area_open(area, AREA_4K, LENGTH, NULL);
    if (error)
        return error;
    if (mbind(area->alias, LENGTH, MPOL_BIND, &nodes, sizeof(nodes) * 8, 0))
        error = -errno;
    if (!error)
        error = area_fill(area, scratch);
    if (error)
        area_close(area);
    return error;
}

static int open_node(struct node_memory *memory, int node, const struct scratch *scratch) {
    char nodes[8];
    snprintf(nodes, sizeof(nodes), "%d", node);
    struct mnw_pool_options options = {.size = sizeof(options),
                                       .backing = MNW_BACKING_SHMEM,
                                       .budget_bytes = fill_budget(LENGTH),
                                       .numa = MNW_NUMA_BIND,
                                       .nodes = nodes};
    memory->node = node;
    int error = open_area_on(&memory->areas[0], node, scratch);
    if (!error)
        error = open_area_on(&memory->areas[1], node, scratch);
    if (!error)
        error = memory->quiet = fault_around_off(memory->areas[0].view, LENGTH);
    if (error >= 0)
        error = handler_open(&memory->handler, &memory->areas[1], HANDLER_SIGBUS, ANSWER_CONTINUE, NULL);
    if (!error)
        error = rig_open_pool(&memory->rig, scratch, &options);
    for (size_t at = 0; !error && at < LENGTH; at += PAGE)
        (void)memory->rig.data[at];
    return error;
}

static void close_node(struct node_memory *memory) {
    rig_close(&memory->rig);
    handler_close(&memory->handler);
    for (unsigned i = 0; i < 2; i++)
        if (memory->areas[i].alias)
            area_close(&memory->areas[i]);
    if (memory->quiet > 0)
        close(memory->quiet);
}

static void measure(struct bench *bench, struct node_memory *memories, unsigned nodes) {
    static struct node_arm contexts[NODES_MAX * NODES_MAX * WAYS];
    static char names[NODES_MAX * NODES_MAX * WAYS][32], series[NODES_MAX * NODES_MAX * WAYS][32];
    struct bench_arm arms[NODES_MAX * NODES_MAX * WAYS];
    unsigned count = 0;
    for (unsigned way = 0; way < WAYS; way++)
        for (unsigned cpu = 0; cpu < nodes; cpu++)
            for (unsigned m = 0; m < nodes; m++, count++) {
                struct node_memory *memory = &memories[m];
                contexts[count] = (struct node_arm){
                    .cpu_node = memories[cpu].node,
                    .touches = {.data = way == 2 ? memory->rig.data : memory->areas[way].view,
                                .length = LENGTH,
                                .page_bytes = PAGE,
                                .count = bench->smoke ? TOUCHES / 4 : TOUCHES,
                                .handler = way == 1 ? &memory->handler : NULL,
                                .rig = way == 2 ? &memory->rig : NULL,
                                .stay = true},
                };
                snprintf(names[count], sizeof(names[0]), "%s-cpu%d-memory%d", ways[way], memories[cpu].node,
                         memory->node);
                snprintf(series[count], sizeof(series[0]), "%s, memory on %d", ways[way], memory->node);
                arms[count] = (struct bench_arm){.name = names[count],
                                                 .unit = "ns",
                                                 .turn = node_turn,
                                                 .context = &contexts[count],
                                                 .same_work = true,
                                                 .by = PLOT_BY_NODE,
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
    for (size_t at = 0; at < LENGTH; at += PAGE) {
        void *address = area->alias + at;
        int node = -1;
        there += !move_pages(0, 1, &address, NULL, &node, 0) && node == memory->node;
    }
    return 100 - 100.0 * there / (LENGTH / PAGE);
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
        for (unsigned way = 0; way < WAYS; way++) {
            const struct node_memory *memory = &memories[m];
            char name[48];
            snprintf(name, sizeof(name), "%s-misplaced-memory%d", ways[way], memory->node);
            struct bench_result result = {.name = name, .unit = "%", .target = BENCH_AT_MOST, .limit = 1};
            result.value = way == 2 ? misplaced_in_cache(memory) : misplaced_in_area(memory, &memory->areas[way]);
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

void bench_nodes(struct bench *bench) {
    static struct node_memory memories[NODES_MAX];
    struct scratch scratch;
    int nodes[NODES_MAX], error = 0;
    unsigned count = nodes_with_both(nodes);
    memset(memories, 0, sizeof(memories));
    if (count < 2) {
        bench_skip(bench, NULL, "this machine has one node with CPUs and memory");
        return;
    }
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    for (unsigned i = 0; i < count && !error; i++)
        error = open_node(&memories[i], nodes[i], &scratch);
    if (error)
        bench_break(bench, NULL, "%s", strerror(-error));
    else
        count_placements(bench, memories, count);
    if (!error && is_emulated())
        bench_skip(bench, "times", "the processor is emulated (TCG): times mean nothing, placements were counted");
    else if (!error)
        measure(bench, memories, count);
    for (unsigned i = 0; i < count; i++)
        close_node(&memories[i]);
    scratch_close(&scratch);
}
