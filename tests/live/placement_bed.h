/* SPDX-License-Identifier: MIT */
/*
 * What the tests of placement share: readers on each node, and where pages lie, asked of the kernel page by page
 * through a view's own mapping. Borrows huge pages of each node, and gives them back.
 */
#ifndef MNW_TESTS_LIVE_PLACEMENT_BED_H
#define MNW_TESTS_LIVE_PLACEMENT_BED_H

#include "bed.h"

#define HUGE (2 * BED_MIB)
/* Pages of 4 KiB between what two readers read, and as many are read ahead at most. */
#define GAP 2048
/* Huge pages of each node that the tests have. */
#define HUGE_PAGES 24u
#define NODES_MAX  8

extern unsigned node_count;
extern bool has_huge;

struct backing {
    enum mnw_backing kind;
    const char *name;
    uint64_t unit;     /* what comes from one node */
    uint64_t per_node; /* pages of 4 KiB that a node's reader reads */
};
extern const struct backing backings[3];
#define EACH_BACKING(backing)                                                                                          \
    for (const struct backing *backing = backings; backing < backings + 3; backing++)                                  \
        if (backing->kind != MNW_BACKING_HUGETLB_2M || has_huge)

/* The calling thread runs there from now on. */
void run_on(unsigned node);
/* The nodes of 512 pages that are mapped from there on; negative: none. */
void nodes_of(const char *at, int nodes[512]);
/* How many pages of a range (whole 2 MiB) lie on each node. The view must have mapped them all. */
void count_nodes(const struct bed *bed, const struct backing *backing, uint64_t from, uint64_t length,
                 uint64_t counts[NODES_MAX]);
/* A little of every page: guests are slow. */
void read_some(const struct bed *bed, uint64_t from, uint64_t pages);
/* Binds a range to a node, as a consumer may. */
void set_own_policy(void *at, uint64_t length, unsigned node);
/* Huge pages of 2 MiB that a node has free. */
uint64_t free_huge(unsigned node);

/* Readers, one on each node. */
struct reader {
    pthread_t thread;
    const struct bed *bed;
    unsigned node;
    uint64_t first, count; /* pages of 4 KiB */
    unsigned step;         /* coprime to count */
    _Atomic bool *stop;    /* NULL: once through */
    _Atomic uint64_t reads;
    int result;
};
void start_readers(struct reader *readers, const struct bed *bed, uint64_t per_node, uint64_t gap, unsigned step,
                   _Atomic bool *stop);
void join_readers(struct reader *readers);

/* A pool with a cache of so many pages of 4 KiB that all fit. */
void open_bed(struct bed *bed, struct bed_source *source, const struct backing *backing, uint64_t pages,
              enum mnw_numa numa, const char *nodes, bool reads_ahead);
void close_bed(struct bed *bed, struct bed_source *source);

/*
 * Runs the tests that match the pattern in arguments[1], or all, where there are several nodes; the exit status. From
 * main(): cmocka knows the tests by their array.
 */
#define RUN_ON_NODES(tests, count, arguments)                                                                          \
    (placement_begin(count, arguments) ? placement_status() : cmocka_run_group_tests(tests, NULL, NULL))
/* True: nothing is to be run here, and placement_status() is how this process ends. */
bool placement_begin(int count, char **arguments);
int placement_status(void);

#endif
