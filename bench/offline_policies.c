/* SPDX-License-Identifier: MIT */
/* CLOCK, LRU, SIEVE and S3-FIFO as they were published: each sees every hit. Pure. */
#include "offline_private.h"

#define HITS_MAX      3  /* S3-FIFO counts so far */
#define SMALL_DIVISOR 10 /* S3-FIFO's small queue holds a tenth */

static void insert_newest(struct offline *offline, uint32_t index) {
    offline_push(offline, OFFLINE_MAIN, index);
}

static void mark(struct offline *offline, uint32_t index) {
    offline->units[index].hits = 1;
}

static uint32_t take_oldest(struct offline *offline, enum offline_queue_name queue) {
    uint32_t index = offline->queues[queue].oldest;
    offline_unlink(offline, index);
    return index;
}

/* ---- CLOCK: the oldest goes, unless it was used since it was last looked at ---- */

static uint32_t evict_unmarked(struct offline *offline) {
    for (;;) {
        uint32_t index = take_oldest(offline, OFFLINE_MAIN);
        if (!offline->units[index].hits)
            return index;
        offline->units[index].hits = 0;
        offline_push(offline, OFFLINE_MAIN, index);
    }
}

const struct offline_ops offline_clock = {
    .name = "CLOCK", .insert = insert_newest, .use = mark, .evict = evict_unmarked};

/* ---- LRU ---- */

static void move_to_newest(struct offline *offline, uint32_t index) {
    offline_unlink(offline, index);
    offline_push(offline, OFFLINE_MAIN, index);
}

static uint32_t evict_oldest(struct offline *offline) {
    return take_oldest(offline, OFFLINE_MAIN);
}

const struct offline_ops offline_lru = {
    .name = "LRU", .insert = insert_newest, .use = move_to_newest, .evict = evict_oldest};

/* ---- SIEVE: a hand goes from the oldest to the newest and stays where it evicted; nobody moves ---- */

static uint32_t evict_at_hand(struct offline *offline) {
    const struct offline_queue *queue = &offline->queues[OFFLINE_MAIN];
    for (;;) {
        uint32_t index = offline->hand == OFFLINE_NOBODY ? queue->oldest : offline->hand;
        struct offline_unit *unit = &offline->units[index];
        offline->hand = unit->newer;
        if (!unit->hits) {
            offline_unlink(offline, index);
            return index;
        }
        unit->hits = 0;
    }
}

const struct offline_ops offline_sieve = {
    .name = "SIEVE", .insert = insert_newest, .use = mark, .evict = evict_at_hand};

/* ---- S3-FIFO: a small queue on trial, a main queue with second chances, ghosts of what failed the trial ---- */

static void count_hit(struct offline *offline, uint32_t index) {
    offline->units[index].hits += offline->units[index].hits < HITS_MAX;
}

/* Ghosts are as many as main may hold. */
static bool is_ghost(const struct offline *offline, const struct offline_unit *unit) {
    uint32_t most = (offline->room - offline->room / SMALL_DIVISOR) / offline->unit;
    return unit->ghost && offline->evicted - unit->ghost < most;
}

static void insert_on_trial(struct offline *offline, uint32_t index) {
    offline_push(offline, is_ghost(offline, &offline->units[index]) ? OFFLINE_MAIN : OFFLINE_SMALL, index);
}

/* The oldest of small. Used more than once, it moves to main, and nobody goes. */
static uint32_t try_small(struct offline *offline) {
    uint32_t index = take_oldest(offline, OFFLINE_SMALL);
    struct offline_unit *unit = &offline->units[index];
    if (unit->hits > 1) {
        unit->hits = 0;
        offline_push(offline, OFFLINE_MAIN, index);
        return OFFLINE_NOBODY;
    }
    unit->ghost = ++offline->evicted;
    return index;
}

static uint32_t try_main(struct offline *offline) {
    uint32_t index = take_oldest(offline, OFFLINE_MAIN);
    struct offline_unit *unit = &offline->units[index];
    if (!unit->hits)
        return index;
    unit->hits--;
    offline_push(offline, OFFLINE_MAIN, index);
    return OFFLINE_NOBODY;
}

static uint32_t evict_on_trial(struct offline *offline) {
    const struct offline_queue *small = &offline->queues[OFFLINE_SMALL], *others = &offline->queues[OFFLINE_MAIN];
    uint32_t gone;
    do {
        bool from_small = small->oldest != OFFLINE_NOBODY &&
                          (small->pages * SMALL_DIVISOR >= offline->room || others->oldest == OFFLINE_NOBODY);
        gone = from_small ? try_small(offline) : try_main(offline);
    } while (gone == OFFLINE_NOBODY);
    return gone;
}

const struct offline_ops offline_s3fifo = {
    .name = "S3-FIFO", .insert = insert_on_trial, .use = count_hit, .evict = evict_on_trial};
