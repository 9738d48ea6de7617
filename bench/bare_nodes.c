/* SPDX-License-Identifier: MIT */
/*
 * The same faults, by the node of the CPU that faults and the node of the memory: the kernel's, a textbook handler's in
 * the faulting thread, and minnow's with its pool bound to the node. nodes.
 */
#include "fills.h"
#include "measure.h"
#include "registry.h"
#include "report.h"
#include "touches.h"

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
    static const char *const ways[WAYS] = {"kernel", "sigbus", "minnow"};
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
        measure(bench, memories, count);
    for (unsigned i = 0; i < count; i++)
        close_node(&memories[i]);
    scratch_close(&scratch);
}
