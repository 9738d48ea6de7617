/* SPDX-License-Identifier: MIT */
#include "placement_bed.h"
#include "machine.h"

#include <numa.h>
#include <numaif.h>
#include <string.h>

unsigned node_count;
bool has_huge;
static int status;

const struct backing backings[3] = {
    {MNW_BACKING_SHMEM, "shmem", BED_PAGE, 1024},
    {MNW_BACKING_GRADED, "graded", HUGE, 1024},
    {MNW_BACKING_HUGETLB_2M, "hugetlb-2M", HUGE, 4096},
};
void run_on(unsigned node) {
    assert_int_equal(numa_run_on_node((int)node), 0);
}

void nodes_of(const char *at, int nodes[512]) {
    void *addresses[512];
    for (size_t i = 0; i < 512; i++)
        addresses[i] = (void *)(uintptr_t)(at + i * BED_PAGE);
    assert_int_equal(move_pages(0, 512, addresses, NULL, nodes, 0), 0);
}

void count_nodes(const struct bed *bed, const struct backing *backing, uint64_t from, uint64_t length,
                 uint64_t counts[NODES_MAX]) {
    int nodes[512];
    memset(counts, 0, NODES_MAX * sizeof(counts[0]));
    for (uint64_t at = from; at < from + length; at += HUGE) {
        nodes_of(bed->data + at, nodes);
        for (size_t i = 0; i < 512; i++) {
            if (nodes[i] < 0 || nodes[i] >= NODES_MAX)
                fail_msg("%s: page %zu from %llu on is nowhere (%d)", backing->name, i, (unsigned long long)at,
                         nodes[i]);
            counts[nodes[i]]++;
        }
    }
}

void read_some(const struct bed *bed, uint64_t from, uint64_t pages) {
    for (uint64_t at = from; at < from + pages * BED_PAGE; at += BED_PAGE)
        assert_int_equal(bed_compare(bed->data + at, at, 64, 1, NULL), BED_RIGHT);
}

/* ---- readers ---- */

static void *read_on_node(void *argument) {
    struct reader *reader = argument;
    numa_run_on_node((int)reader->node);
    do {
        for (uint64_t i = 0; i < reader->count && !(reader->stop && atomic_load(reader->stop)); i++) {
            uint64_t offset = (reader->first + i * reader->step % reader->count) * BED_PAGE;
            int result = bed_compare(reader->bed->data + offset, offset, 64, 1, NULL);
            if (result != BED_RIGHT) {
                reader->result = result;
                return NULL;
            }
            atomic_fetch_add(&reader->reads, 1);
        }
    } while (reader->stop && !atomic_load(reader->stop));
    return NULL;
}

void start_readers(struct reader *readers, const struct bed *bed, uint64_t per_node, uint64_t gap, unsigned step,
                   _Atomic bool *stop) {
    for (unsigned node = 0; node < node_count; node++) {
        readers[node] = (struct reader){
            .bed = bed, .node = node, .first = node * (per_node + gap), .count = per_node, .step = step, .stop = stop};
        assert_int_equal(pthread_create(&readers[node].thread, NULL, read_on_node, &readers[node]), 0);
    }
}

void join_readers(struct reader *readers) {
    for (unsigned node = 0; node < node_count; node++) {
        assert_int_equal(pthread_join(readers[node].thread, NULL), 0);
        if (readers[node].result)
            fail_msg("the reader on node %u ended with %d", node, readers[node].result);
    }
}

void open_bed(struct bed *bed, struct bed_source *source, const struct backing *backing, uint64_t pages,
              enum mnw_numa numa, const char *nodes, bool reads_ahead) {
    struct mnw_cache_options cache = {.size = sizeof(cache),
                                      .readahead_bytes = reads_ahead ? GAP * BED_PAGE : UINT64_MAX};
    bed_source_open(source, pages * BED_PAGE);
    struct mnw_pool_options options = {.backing = backing->kind, .numa = numa, .nodes = nodes};
    options.budget_bytes = pages * BED_PAGE + 4 * (backing->unit > 16 * BED_PAGE ? backing->unit : 16 * BED_PAGE);
    bed_open(bed, source->store, options, &cache);
}

void close_bed(struct bed *bed, struct bed_source *source) {
    bed_close(bed);
    bed_source_close(source);
}

/* ---- the machine ---- */

void set_own_policy(void *at, uint64_t length, unsigned node) {
    unsigned long mask = 1ul << node;
    assert_int_equal(mbind(at, length, MPOL_BIND, &mask, 64, 0), 0);
}

uint64_t free_huge(unsigned node) {
    char path[128];
    unsigned long long pages = 0;
    snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/hugepages/hugepages-2048kB/free_hugepages", node);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu", &pages), 1);
    fclose(file);
    return pages;
}

static bool borrow_huge_pages(void) {
    char path[128], text[16];
    snprintf(text, sizeof(text), "%u", HUGE_PAGES);
    for (unsigned node = 0; node < node_count; node++) {
        snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/hugepages/hugepages-2048kB/nr_hugepages", node);
        if (!machine_set(path, text) || free_huge(node) != HUGE_PAGES)
            return false;
    }
    return true;
}

bool placement_begin(int count, char **arguments) {
    status = machine_guard(arguments);
    if (status >= 0)
        return true;
    if (count > 1)
        cmocka_set_test_filter(arguments[1]);
    node_count = numa_available() < 0 ? 1 : (unsigned)numa_num_configured_nodes();
    if (node_count < 2 || node_count > NODES_MAX) {
        printf("skipped: %u NUMA nodes; tests/vm/run --nodes 2 has two\n", node_count);
        status = 77;
        return true;
    }
    has_huge = borrow_huge_pages();
    if (!has_huge)
        printf("skipped in part: not %u huge pages of 2 MiB to be had on each node\n", HUGE_PAGES);
    return false;
}

int placement_status(void) {
    return status;
}
