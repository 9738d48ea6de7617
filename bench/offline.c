/* SPDX-License-Identifier: MIT */
/* Which pages are there, and the queues that most policies keep. */
#include "offline_private.h"

#include <stdlib.h>

#define SPARSE 4 /* units of the store for each read: from then on only those that are read are numbered */

const char *offline_name(const struct offline_ops *ops) {
    return ops->name;
}

struct offline *offline_open(const struct offline_ops *ops, uint32_t pages, uint32_t room, uint32_t unit) {
    struct offline *offline = calloc(1, sizeof(*offline));
    if (!offline)
        return NULL;
    *offline = (struct offline){.ops = ops, .pages = pages, .room = room, .unit = unit, .hand = OFFLINE_NOBODY};
    offline->unit_count = (pages - 1) / unit + 1;
    offline->units = calloc(offline->unit_count, sizeof(struct offline_unit));
    offline->present = calloc(pages, 1);
    for (unsigned i = 0; i < OFFLINE_QUEUES; i++)
        offline->queues[i].oldest = offline->queues[i].newest = OFFLINE_NOBODY;
    if (offline->units && offline->present && (!ops->open || ops->open(offline)))
        return offline;
    offline_close(offline);
    return NULL;
}

void offline_close(struct offline *offline) {
    if (!offline)
        return;
    if (offline->ops->close)
        offline->ops->close(offline);
    free(offline->units);
    free(offline->present);
    free(offline);
}

bool offline_foresee(struct offline *offline, const uint32_t *pages, uint32_t count) {
    return !offline->ops->foresee || offline->ops->foresee(offline, pages, count);
}

void offline_push(struct offline *offline, enum offline_queue_name name, uint32_t index) {
    struct offline_queue *queue = &offline->queues[name];
    struct offline_unit *unit = &offline->units[index];
    unit->queue = (uint8_t)name;
    unit->older = queue->newest;
    unit->newer = OFFLINE_NOBODY;
    if (queue->newest != OFFLINE_NOBODY)
        offline->units[queue->newest].newer = index;
    else
        queue->oldest = index;
    queue->newest = index;
    queue->pages += unit->pages;
}

void offline_unlink(struct offline *offline, uint32_t index) {
    struct offline_unit *unit = &offline->units[index];
    struct offline_queue *queue = &offline->queues[unit->queue];
    if (unit->older != OFFLINE_NOBODY)
        offline->units[unit->older].newer = unit->newer;
    else
        queue->oldest = unit->newer;
    if (unit->newer != OFFLINE_NOBODY)
        offline->units[unit->newer].older = unit->older;
    else
        queue->newest = unit->older;
    queue->pages -= unit->pages;
}

static void evict(struct offline *offline) {
    uint32_t index = offline->ops->evict(offline);
    struct offline_unit *unit = &offline->units[index];
    uint64_t first = (uint64_t)index * offline->unit;
    for (uint64_t page = first; page < first + offline->unit && page < offline->pages; page++)
        if (offline->present[page]) /* what was never written takes no memory */
            offline->present[page] = 0;
    offline->resident -= unit->pages;
    unit->pages = 0;
    unit->hits = 0;
    unit->in = false;
}

bool offline_read(struct offline *offline, uint32_t page) {
    uint32_t index = page / offline->unit;
    struct offline_unit *unit = &offline->units[index];
    if (offline->ops->read)
        offline->ops->read(offline);
    if (offline->present[page]) {
        offline->ops->use(offline, index);
        return true;
    }
    while (offline->resident >= offline->room)
        evict(offline);
    /* It may itself have been what went. */
    if (unit->in)
        offline->ops->use(offline, index);
    else
        offline->ops->insert(offline, index);
    unit->in = true;
    offline->present[page] = 1;
    unit->pages++;
    offline->resident++;
    offline->queues[unit->queue].pages++;
    return false;
}

static uint64_t play(const struct offline_ops *ops, const uint32_t *pages, uint32_t count, uint32_t store_pages,
                     uint32_t room, uint32_t unit) {
    uint64_t misses = 0;
    struct offline *offline = offline_open(ops, store_pages, room, unit);
    bool good = offline && offline_foresee(offline, pages, count);
    for (uint32_t i = 0; good && i < count; i++)
        misses += !offline_read(offline, pages[i]);
    offline_close(offline);
    return good ? misses : UINT64_MAX;
}

static int compare_numbers(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

/* Sorts them and keeps one of each; how many. */
static uint32_t keep_distinct(uint32_t *numbers, uint32_t count) {
    uint32_t kept = 0;
    qsort(numbers, count, sizeof(numbers[0]), compare_numbers);
    for (uint32_t i = 0; i < count; i++)
        if (!kept || numbers[kept - 1] != numbers[i])
            numbers[kept++] = numbers[i];
    return kept;
}

/* The same reads in a store that has no units but those that are read. To a policy a unit's number means nothing. */
static uint64_t play_sparse(const struct offline_ops *ops, const uint32_t *pages, uint32_t count, uint32_t room,
                            uint32_t unit) {
    uint32_t *units = malloc(count * sizeof(units[0])), *moved = malloc(count * sizeof(moved[0]));
    uint64_t misses = UINT64_MAX;
    if (units && moved) {
        for (uint32_t i = 0; i < count; i++)
            units[i] = pages[i] / unit;
        uint32_t distinct = keep_distinct(units, count);
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t wanted = pages[i] / unit,
                           *found = bsearch(&wanted, units, distinct, sizeof(units[0]), compare_numbers);
            moved[i] = (uint32_t)(found - units) * unit + pages[i] % unit;
        }
        misses = play(ops, moved, count, distinct * unit, room, unit);
    }
    free(units);
    free(moved);
    return misses;
}

uint64_t offline_misses(const struct offline_ops *ops, const uint32_t *pages, uint32_t count, uint32_t store_pages,
                        uint32_t room, uint32_t unit) {
    bool sparse = count && ((store_pages - 1) / unit + 1) / SPARSE >= count;
    return sparse ? play_sparse(ops, pages, count, room, unit) : play(ops, pages, count, store_pages, room, unit);
}
