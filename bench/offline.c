/* SPDX-License-Identifier: MIT */
#include "offline.h"

#include <stdlib.h>

#define SMALL_DIVISOR 10 /* small holds a tenth */
#define HITS_MAX      3
#define NOBODY        UINT32_MAX

enum place { OUT, SMALL, MAIN };

/* A unit of pages. In a queue it knows who came before and after. */
struct unit {
    uint32_t older, newer, pages; /* resident of it */
    uint32_t ghost;               /* the number of its last eviction from small; 0: none */
    uint8_t place, hits;
};

struct queue {
    uint32_t oldest, newest;
    uint64_t pages;
};

struct offline {
    uint32_t room, unit, resident, evicted; /* pages; evictions from small, in all */
    struct queue queues[3];
    struct unit *units;
    uint8_t *present;
};

struct offline *offline_open(uint32_t pages, uint32_t room, uint32_t unit) {
    struct offline *offline = calloc(1, sizeof(*offline));
    if (!offline)
        return NULL;
    *offline = (struct offline){.room = room, .unit = unit};
    offline->units = calloc(pages / unit + 1, sizeof(struct unit));
    offline->present = calloc(pages, 1);
    for (unsigned i = 0; i < 3; i++)
        offline->queues[i].oldest = offline->queues[i].newest = NOBODY;
    if (offline->units && offline->present)
        return offline;
    offline_close(offline);
    return NULL;
}

void offline_close(struct offline *offline) {
    if (!offline)
        return;
    free(offline->units);
    free(offline->present);
    free(offline);
}

static void push(struct offline *offline, enum place place, uint32_t index) {
    struct queue *queue = &offline->queues[place];
    struct unit *unit = &offline->units[index];
    unit->place = place;
    unit->older = queue->newest;
    unit->newer = NOBODY;
    if (queue->newest != NOBODY)
        offline->units[queue->newest].newer = index;
    else
        queue->oldest = index;
    queue->newest = index;
    queue->pages += unit->pages;
}

static uint32_t take_oldest(struct offline *offline, enum place place) {
    struct queue *queue = &offline->queues[place];
    uint32_t index = queue->oldest;
    struct unit *unit = &offline->units[index];
    queue->oldest = unit->newer;
    if (unit->newer != NOBODY)
        offline->units[unit->newer].older = NOBODY;
    else
        queue->newest = NOBODY;
    queue->pages -= unit->pages;
    unit->place = OUT;
    return index;
}

static void drop(struct offline *offline, uint32_t index) {
    struct unit *unit = &offline->units[index];
    for (uint32_t i = 0; i < offline->unit; i++)
        offline->present[index * offline->unit + i] = 0;
    offline->resident -= unit->pages;
    unit->pages = 0;
    unit->hits = 0;
}

/* True when something went. A unit that was used more than once moves to main. */
static bool evict_from_small(struct offline *offline) {
    uint32_t index = take_oldest(offline, SMALL);
    struct unit *unit = &offline->units[index];
    if (unit->hits > 1) {
        unit->hits = 0;
        push(offline, MAIN, index);
        return false;
    }
    drop(offline, index);
    unit->ghost = ++offline->evicted;
    return true;
}

static bool evict_from_main(struct offline *offline) {
    uint32_t index = take_oldest(offline, MAIN);
    struct unit *unit = &offline->units[index];
    if (unit->hits) {
        unit->hits--;
        push(offline, MAIN, index);
        return false;
    }
    drop(offline, index);
    return true;
}

static void make_room(struct offline *offline) {
    bool gone = false;
    while (!gone) {
        bool small = offline->queues[SMALL].oldest != NOBODY;
        if (small &&
            (offline->queues[SMALL].pages * SMALL_DIVISOR >= offline->room || offline->queues[MAIN].oldest == NOBODY))
            gone = evict_from_small(offline);
        else
            gone = evict_from_main(offline);
    }
}

/* Ghosts are as many as main may hold. */
static bool is_ghost(const struct offline *offline, const struct unit *unit) {
    uint32_t most = (offline->room - offline->room / SMALL_DIVISOR) / offline->unit;
    return unit->ghost && offline->evicted - unit->ghost < most;
}

bool offline_read(struct offline *offline, uint32_t page) {
    uint32_t index = page / offline->unit;
    struct unit *unit = &offline->units[index];
    if (offline->present[page]) {
        unit->hits += unit->hits < HITS_MAX;
        return true;
    }
    while (offline->resident >= offline->room)
        make_room(offline);
    /* It may itself have been what went. */
    if (unit->place == OUT)
        push(offline, is_ghost(offline, unit) ? MAIN : SMALL, index);
    else
        unit->hits += unit->hits < HITS_MAX;
    offline->present[page] = 1;
    unit->pages++;
    offline->resident++;
    offline->queues[unit->place].pages++;
    return false;
}
