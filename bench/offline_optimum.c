/* SPDX-License-Identifier: MIT */
/*
 * Belady's optimum: who is read last of all goes first. Owns what is foreseen, and a heap of units by their next read.
 * Pure. A unit has a place in the heap for each time that it was read.
 */
#include "offline_private.h"

#include <stdlib.h>

#define NEVER UINT32_MAX

struct turn {
    uint32_t next, unit; /* the read at which it is wanted again */
};

struct optimum {
    uint32_t *nexts; /* by read: when its unit is read again */
    uint32_t count, reads;
    struct turn *heap; /* the latest first */
    uint32_t heap_count;
};

static void forget(struct optimum *optimum) {
    free(optimum->nexts);
    free(optimum->heap);
    *optimum = (struct optimum){0};
}

static bool open_optimum(struct offline *offline) {
    return (offline->own = calloc(1, sizeof(struct optimum))) != NULL;
}

static void close_optimum(struct offline *offline) {
    if (offline->own)
        forget(offline->own);
    free(offline->own);
}

static bool foresee(struct offline *offline, const uint32_t *pages, uint32_t count) {
    struct optimum *optimum = offline->own;
    uint32_t *wanted = malloc(offline->unit_count * sizeof(uint32_t)); /* by unit: its next read, going back in time */
    forget(optimum);
    optimum->count = count;
    optimum->nexts = malloc((count + 1) * sizeof(uint32_t));
    optimum->heap = malloc((count + 1) * sizeof(struct turn));
    bool good = wanted && optimum->nexts && optimum->heap;
    for (uint32_t i = 0; good && i < offline->unit_count; i++)
        wanted[i] = NEVER;
    for (uint32_t i = count; good && i-- > 0;) {
        uint32_t unit = pages[i] / offline->unit;
        optimum->nexts[i] = wanted[unit];
        wanted[unit] = i;
    }
    free(wanted);
    return good;
}

static void sift_up(struct optimum *optimum, uint32_t at) {
    struct turn turn = optimum->heap[at];
    for (; at && optimum->heap[(at - 1) / 2].next < turn.next; at = (at - 1) / 2)
        optimum->heap[at] = optimum->heap[(at - 1) / 2];
    optimum->heap[at] = turn;
}

static void sift_down(struct optimum *optimum, uint32_t at) {
    struct turn turn = optimum->heap[at];
    for (uint32_t child; (child = 2 * at + 1) < optimum->heap_count; at = child) {
        child += child + 1 < optimum->heap_count && optimum->heap[child + 1].next > optimum->heap[child].next;
        if (optimum->heap[child].next <= turn.next)
            break;
        optimum->heap[at] = optimum->heap[child];
    }
    optimum->heap[at] = turn;
}

static struct turn take_latest(struct optimum *optimum) {
    struct turn latest = optimum->heap[0];
    optimum->heap[0] = optimum->heap[--optimum->heap_count];
    if (optimum->heap_count)
        sift_down(optimum, 0);
    return latest;
}

static void count_read(struct offline *offline) {
    ((struct optimum *)offline->own)->reads++;
}

/* The read that goes on now is `reads` - 1; what was not foreseen is never read again. */
static void note(struct offline *offline, uint32_t unit) {
    struct optimum *optimum = offline->own;
    uint32_t read = optimum->reads - 1;
    if (read >= optimum->count)
        return;
    optimum->heap[optimum->heap_count++] = (struct turn){optimum->nexts[read], unit};
    sift_up(optimum, optimum->heap_count - 1);
}

/* What is on top is somebody's next read: reads that have passed lie below all that come. */
static uint32_t evict_latest(struct offline *offline) {
    return take_latest(offline->own).unit;
}

const struct offline_ops offline_optimum = {
    .name = "optimum",
    .open = open_optimum,
    .close = close_optimum,
    .foresee = foresee,
    .read = count_read,
    .insert = note,
    .use = note,
    .evict = evict_latest,
};
