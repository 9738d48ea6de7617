/* SPDX-License-Identifier: MIT */
/*
 * A pool's threads, and the kernel's that read for them, stay on their node, and so does what they work with: asked of
 * /proc and of the kernel, while there is something to do on every node.
 */
#include "placement_bed.h"

#include "base/bits.h"
#include "engine/fault.h"
#include "engine/pool.h"
#include "sys/numa.h"

#include <dirent.h>
#include <numa.h>
#include <string.h>
#include <unistd.h>

#define THREADS_MAX 64

/* A thread of this process: its name, and the CPUs that it may run on. */
struct seen {
    int id;
    char name[32];
    char cpus[64];
};

static unsigned look_at_threads(struct seen *seen) {
    DIR *folder = opendir("/proc/self/task");
    unsigned count = 0;
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder)) && count < THREADS_MAX;) {
        char path[320], line[256];
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "re");
        if (!file)
            continue;
        seen[count] = (struct seen){.id = atoi(entry->d_name)};
        while (fgets(line, sizeof(line), file)) {
            sscanf(line, "Name: %31s", seen[count].name);
            sscanf(line, "Cpus_allowed_list: %63s", seen[count].cpus);
        }
        fclose(file);
        count++;
    }
    closedir(folder);
    return count;
}

/* As the kernel writes them: "0", "2-3". */
static void cpus_of(unsigned node, char text[64]) {
    char path[96];
    snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/cpulist", node);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%63s", text), 1);
    fclose(file);
}

static void expect_cpus(const struct seen *thread, unsigned node, unsigned *counts) {
    char cpus[64];
    cpus_of(node, cpus);
    if (strcmp(thread->cpus, cpus))
        fail_msg("%s %d may run on CPUs %s; those of node %u are %s", thread->name, thread->id, thread->cpus, node,
                 cpus);
    counts[node]++;
}

/* The node that the thread with this name and number works for; -1: none. */
static int node_of_fault_thread(const struct seen *threads, unsigned count, int id) {
    for (unsigned i = 0; i < count; i++)
        if (threads[i].id == id && !strncmp(threads[i].name, "mnw-fault-", 10))
            return atoi(threads[i].name + 10); /* one for each node, in their order */
    return -1;
}

/* Of fault threads, and of the kernel's threads that work for their rings. */
static void check_threads(unsigned *faults, unsigned *workers, unsigned *readers) {
    struct seen threads[THREADS_MAX];
    unsigned count = look_at_threads(threads);
    for (unsigned i = 0; i < count; i++) {
        int owner = strncmp(threads[i].name, "iou-wrk-", 8) ? 0 : atoi(threads[i].name + 8);
        int node = node_of_fault_thread(threads, count, owner ? owner : threads[i].id);
        if (node >= 0)
            expect_cpus(&threads[i], (unsigned)node, owner ? workers : faults);
        for (unsigned at = 0; !strcmp(threads[i].name, "mnw-read") && at < node_count; at++) {
            char cpus[64];
            cpus_of(at, cpus);
            readers[at] += !strcmp(threads[i].cpus, cpus);
        }
    }
}

static void expect_node(const char *what, const void *from, size_t length, unsigned node) {
    for (uintptr_t at = (uintptr_t)from; at < (uintptr_t)from + length; at = mnw__align_up(at + 1, BED_PAGE)) {
        void *address = (void *)at;
        int found = -1;
        assert_int_equal(mnw__numa_where(&address, &found, 1), 0);
        if (found >= 0 && found != (int)node) /* not every page of it was touched */
            fail_msg("%s of node %u: a page lies on node %d", what, node, found);
    }
}

static void check_memory(const struct mnw_pool *pool) {
    for (unsigned i = 0; i < pool->thread_count; i++) {
        const struct mnw__fault_thread *thread = &pool->threads[i];
        expect_node("fill slots", thread->fills, thread->fill_count * sizeof(*thread->fills), (unsigned)thread->node);
        expect_node("latencies", thread->latency, sizeof(*thread->latency), (unsigned)thread->node);
    }
}

/* Each node's reader reads a file from its own part, far ahead, so that reads are long. */
static void stay_on_their_nodes(enum mnw_io_mode mode) {
    struct bed bed = {0};
    struct bed_file file;
    struct mnw_store *store;
    unsigned faults[NODES_MAX] = {0}, workers[NODES_MAX] = {0}, readers[NODES_MAX] = {0};
    bed_hurry(100);
    bed_file(&file, node_count * 8 * BED_MIB, 1);
    assert_int_equal(mnw_store_open(&store, file.uri, NULL), 0);
    struct mnw_pool_options options = {.budget_bytes = node_count * 16 * BED_MIB, .io_mode = mode};
    run_on(node_count - 1); /* whoever opens the pool is elsewhere */
    bed_open(&bed, store, options, NULL);
    for (unsigned node = 0; node < node_count; node++) {
        struct mnw_view *view;
        run_on(node);
        assert_int_equal(mnw_view_open(&view, bed.cache, NULL), 0); /* its thread is the node's */
        for (uint64_t at = node * 8 * BED_MIB; at < (node + 1) * 8 * BED_MIB; at += BED_PAGE)
            assert_int_equal(bed_compare((char *)mnw_view_data(view) + at, at, 64, 1, NULL), BED_RIGHT);
        check_threads(faults, workers, readers);
        assert_int_equal(mnw_view_close(view), 0);
    }
    check_memory(bed.pool);
    for (unsigned node = 0; node < node_count; node++) {
        print_message("node %u: %u looks at fault threads, %u at the kernel's readers, %u at ours\n", node,
                      faults[node], workers[node], readers[node]);
        assert_true(faults[node] >= node_count); /* a reader that the kernel just starts has its owner's name */
        assert_true(mode == MNW_IO_URING ? workers[node] : readers[node]);
    }
    bed_close(&bed);
    assert_int_equal(mnw_store_close(store), 0);
    bed_file_remove(&file);
}

static void test_with_io_uring(void **state) {
    (void)state;
    stay_on_their_nodes(MNW_IO_URING);
}

static void test_with_threads_that_read(void **state) {
    (void)state;
    stay_on_their_nodes(MNW_IO_THREADS);
}

/* node_threads [TEST]: all, or those whose names match the pattern. */
int main(int count, char **arguments) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_with_io_uring),
        cmocka_unit_test(test_with_threads_that_read),
    };
    return RUN_ON_NODES(tests, count, arguments);
}
