/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on the public API: many readers fight over very little memory. Every one of them gets on, and an
 * eviction for the next of them never comes before the last of them has run.
 */
#include "high.h"

#include <stdlib.h>

enum { READERS = 8, VISITS = 60, EXTENTS = 2 * READERS };

struct visitor {
    struct mnw__thread thread;
    struct high *high;
    unsigned index, good;
};

/* Each has two extents of its own and visits them in turn: no visit can do without an eviction. */
static void visit(void *argument) {
    struct visitor *visitor = argument;
    struct high *high = visitor->high;
    for (unsigned step = 0; step < VISITS; step++) {
        size_t page = (visitor->index * 2 + step % 2) * high->extent_pages;
        unsigned char byte = 0;
        uintptr_t stopped;
        enum world_outcome outcome = world_read(high_at(high->view, high, page), &byte, 1, &stopped);
        visitor->good += outcome == WORLD_OK && byte == high_byte(page, 0);
    }
}

static void fight(enum mnw_backing kind, size_t budget_extents) {
    struct high high;
    struct visitor visitors[READERS];
    high_open(&high, kind, &(struct high_options){.extents = EXTENTS, .budget_extents = budget_extents});
    for (unsigned i = 0; i < READERS; i++) {
        visitors[i] = (struct visitor){.high = &high, .index = i};
        if (mnw__thread_start(&visitors[i].thread, "visitor", -1, visit, &visitors[i]))
            exit(1);
    }
    unsigned good = 0;
    for (unsigned i = 0; i < READERS; i++) {
        mnw__thread_join(&visitors[i].thread);
        good += visitors[i].good;
    }
    expect(good == READERS * VISITS, "%d readers in memory for %d: every visit ends with the page", READERS,
           (int)budget_extents);
    struct mnw_stats stats = high_stats(&high);
    expect(stats.evictions <= READERS * VISITS * 11 / 10, "and hardly an eviction is in vain");
    high_close(&high);
}

static void fight_over_one(enum mnw_backing kind) {
    fight(kind, 1);
}

static void fight_over_two(enum mnw_backing kind) {
    fight(kind, 2);
}

const struct scenario scenarios_thrash[] = {
    {"fight-over-one", ON_GRADED | ON_HUGETLB | NEEDS_SPEED, fight_over_one},
    {"fight-over-two", ON_GRADED | ON_HUGETLB | NEEDS_SPEED, fight_over_two},
    {0},
};
