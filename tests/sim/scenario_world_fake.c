/* SPDX-License-Identifier: MIT */
/* The world of the scenarios that is the fake kernel: calm, so that it does what the real one does. */
#include "fake.h"
#include "fiber.h"
#include "scenario.h"

#include <stdlib.h>

static struct {
    void (*script)(enum mnw_backing kind);
    enum mnw_backing kind;
} now;

enum world_outcome world_read(uintptr_t address, void *bytes, size_t length, uintptr_t *stopped) {
    return (enum world_outcome)fake_read(address, bytes, length, stopped);
}

enum world_outcome world_write(uintptr_t address, const void *bytes, size_t length, uintptr_t *stopped) {
    return (enum world_outcome)fake_write(address, bytes, length, stopped);
}

bool world_has(enum mnw_backing kind, const char **why) {
    (void)kind, (void)why;
    return true;
}

static void run_script(void *argument) {
    (void)argument;
    sim_on_failure(tell_story);
    now.script(now.kind);
    fake_end(); /* whatever is left would run on for ever */
}

void world_run(void (*script)(enum mnw_backing kind), enum mnw_backing kind) {
    const char *seed = getenv("MNW_SCENARIO_SEED");
    now.script = script;
    now.kind = kind;
    fiber_begin(seed ? strtoull(seed, NULL, 10) : 1, 300, getenv("MNW_SCENARIO_TRACE") != NULL);
    fake_begin();
    fiber_start("script", 0, run_script, NULL);
    fiber_loop();
}

void world_begin(void) {
}

void world_end(void) {
}
