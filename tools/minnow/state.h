/* SPDX-License-Identifier: MIT */
/*
 * The state of a daemon, as its JSON tells it, for stat and top. Pure: text in, structs out. What is missing in the
 * text is zero, what is unknown is passed over: the daemon may be older or newer than the command.
 */
#ifndef MINNOW_STATE_H
#define MINNOW_STATE_H

#include <minnow/minnow.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STATE_NAME 64

/* What pools and images count. */
struct state_counts {
    uint64_t faults_minor, faults_missing, faults_failed, faults_starved;
    uint64_t fills, fill_bytes, fills_failed;
    uint64_t evictions, evicted_bytes;
    uint64_t pages_mapped, readahead_pages;
};

struct state_node {
    unsigned node;
    uint64_t resident_bytes, pages_elsewhere, huge_pages, huge_pages_free, memory_bytes, memory_free_bytes;
    uint64_t fault_threads;
    bool is_outside;
    struct mnw_histogram queue, fill, map, total;
};

struct state_pool {
    char name[STATE_NAME], backing[16];
    uint64_t budget_bytes, resident_bytes, pinned_bytes;
    uint64_t policies_foreign, numa_balancing;
    struct state_counts counts;
    struct state_node *nodes;
    size_t node_count;
};

struct state_image {
    char name[STATE_NAME], pool[STATE_NAME];
    uint64_t size_bytes, page_bytes, resident_bytes, pinned_bytes, views;
    struct state_counts counts;
};

struct state_view {
    char image[STATE_NAME], peer[STATE_NAME];
    int64_t pid;
    uint64_t session, id, address, offset, length;
    bool writable, recording;
};

struct state {
    char version[32];
    int64_t pid;
    uint64_t metrics_version, uptime_ns, epoch, sessions, messages, messages_refused;
    struct state_pool *pools;
    struct state_image *images;
    struct state_view *views;
    size_t pool_count, image_count, view_count;
};

/* 0, or -1 and in `why` what is wrong with the text. */
int state_read(struct state *state, const char *text, char *why, size_t why_size);
void state_free(struct state *state);

/* The pool or image of that name in another state; NULL: it was not there. */
const struct state_pool *state_find_pool(const struct state *state, const char *name);
const struct state_image *state_find_image(const struct state *state, const char *name);

/*
 * How many a second, between two states; 0 when there is nothing to compare with, or the counter fell (the daemon was
 * restarted).
 */
double state_rate(uint64_t before, uint64_t now, double seconds);
/* Seconds between two states of one worker; 0: it is another worker, or there is no earlier one. */
double state_seconds(const struct state *before, const struct state *now);
/* What was counted between two histograms; all of `now` when `before` is NULL or does not fit. */
void state_histogram_since(struct mnw_histogram *to, const struct mnw_histogram *before,
                           const struct mnw_histogram *now);

/* ---- numbers as people read them; they return `text` ---- */

char *format_count(double count, char text[32]); /* "12", "3.4k", "5.6M" */
char *format_ns(uint64_t ns, char text[32]);     /* "850 ns", "12.3 us", "4.5 ms", "2.0 s" */
char *format_uptime(uint64_t ns, char text[32]); /* "45 s", "3 min 12 s", "2 h 5 min", "4 d 3 h" */

#endif
