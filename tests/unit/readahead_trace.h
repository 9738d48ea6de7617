/* SPDX-License-Identifier: MIT */
/*
 * Readahead on traces. Each trace is played through a small consumer: it faults on pages that are not mapped,
 * the plan maps `around` and `lead` of the resident pages, and what was planned becomes resident.
 */
#ifndef MNW_TESTS_READAHEAD_TRACE_H
#define MNW_TESTS_READAHEAD_TRACE_H

#include "unit.h"

#include "model/random.h"
#include "policy/readahead.h"

#include <stdbool.h>
#include <string.h>

enum { PAGES = 1 << 16, WINDOW = 256 };

static struct {
    struct mnw__readahead readahead;
    struct mnw__readahead_plan plan; /* the last */
    bool resident[PAGES], mapped[PAGES], planned[PAGES];
    unsigned faults, stalls; /* a stall: the page was neither resident nor planned */
    uint64_t planned_count, planned_twice;
} world;

static void begin(uint32_t window_max) {
    memset(&world, 0, sizeof(world));
    mnw__readahead_init(&world.readahead, PAGES, window_max, 1);
}

static void apply_plan(uint64_t page) {
    const struct mnw__readahead_plan *plan = &world.plan;
    bool resident = true;
    assert_true(plan->around >= 1 && plan->around <= MNW__READAHEAD_AROUND_MAX);
    assert_true(page + plan->around <= PAGES);
    for (uint32_t i = 0; i < plan->count; i++) {
        uint64_t ahead = plan->start + (uint64_t)((int64_t)i * plan->stride);
        assert_true(ahead < PAGES);
        assert_true(ahead != page);
        resident &= world.resident[ahead];
        world.planned_twice += world.planned[ahead];
        world.planned[ahead] = world.resident[ahead] = true;
        world.planned_count++;
    }
    if (plan->count)
        mnw__readahead_planned(&world.readahead, plan, resident);
    for (uint64_t i = page; i < page + plan->around && world.resident[i]; i++)
        world.mapped[i] = true;
    assert_true(!plan->lead_count || (plan->lead > page + 1 && plan->lead + plan->lead_count <= PAGES));
    assert_true(plan->lead_count < MNW__READAHEAD_AROUND_MAX);
    assert_true(!plan->lead_count || !world.mapped[plan->lead - 1]); /* the sign for more */
    for (uint64_t i = plan->lead; i < plan->lead + plan->lead_count && world.resident[i]; i++)
        world.mapped[i] = true;
}

static void fault(uint64_t page) {
    world.faults++;
    mnw__readahead_fault(&world.readahead, page, &world.plan);
    if (!world.resident[page])
        mnw__readahead_missed(&world.readahead, page, &world.plan);
    world.resident[page] = true;
    apply_plan(page);
}

/* A consumer reads the page: nothing happens when it is mapped. */
static void touch(uint64_t page) {
    if (world.mapped[page])
        return;
    world.stalls += !world.resident[page];
    fault(page);
}

/* Everything is in memory, and nothing is mapped. */
static void begin_resident(uint32_t window_max) {
    begin(window_max);
    memset(world.resident, 1, sizeof(world.resident));
}

#endif
