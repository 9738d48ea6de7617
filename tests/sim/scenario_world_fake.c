/* SPDX-License-Identifier: MIT */
/* The world of the scenarios that is the fake kernel: calm, so that it does what the real one does. */
#include "fake.h"
#include "fiber.h"
#include "scenario.h"
#include "sys/backing.h"

#include <stdlib.h>

static struct {
    void (*script)(enum mnw_backing kind);
    enum mnw_backing kind;
} now;

static bool without_poison;

bool world_has_poison(void) {
    return !without_poison;
}

bool world_protects(void) {
    return true;
}

bool world_lose_poison(void) {
    without_poison = true;
    return true;
}

bool world_has_breaks(void) {
    return true;
}

void world_break(const void *alias) {
    fake_break(alias);
}

enum world_outcome world_read(uintptr_t address, void *bytes, size_t length, uintptr_t *stopped) {
    return (enum world_outcome)fake_read(address, bytes, length, stopped);
}

enum world_outcome world_write(uintptr_t address, const void *bytes, size_t length, uintptr_t *stopped) {
    return (enum world_outcome)fake_write(address, bytes, length, stopped);
}

/* Nothing else lies there: views are handed out from the lower end of the fake's addresses on. */
#define CONSUMERS_OWN 0x208000000000u

uintptr_t world_map(int fd, uint64_t offset, size_t length, size_t page_bytes) {
    struct mnw__backing backing = {.readonly_fd = fd};
    static uintptr_t next = CONSUMERS_OWN;
    uintptr_t address, place = next;
    (void)page_bytes;
    if (mnw__view_map(&backing, offset, length, false, &address))
        sim_fail("a consumer cannot map a cache");
    next += ((uintptr_t)2 * length + 0xffffff) & ~(uintptr_t)0xffffff;
    fake_mremap(address, length, place);
    return place;
}

void world_unmap(uintptr_t address, size_t length) {
    fake_munmap(address, length);
}

void world_move(uintptr_t from, size_t length, uintptr_t to) {
    fake_mremap(from, length, to);
}

unsigned world_nodes(unsigned wanted) {
    fake_config.nodes = wanted;
    return wanted;
}

uint64_t world_asked_where(void) {
    return fake_asked_where();
}

bool world_move_slowly(uint64_t ns) {
    fake_config.move_ns = ns;
    return true;
}

void world_mbind(uintptr_t address, size_t length, unsigned node) {
    fake_mbind(address, length, (int)node);
}

bool world_has(enum mnw_backing kind, const char **why) {
    (void)kind, (void)why;
    return true;
}

void world_put(struct mnw__backing *backing, uint64_t offset, const void *bytes, size_t length) {
    for (size_t done = 0; done < length;) {
        size_t left = backing->page_bytes - (offset + done) % backing->page_bytes;
        size_t step = left < length - done ? left : length - done;
        if (fake_file_put((char *)backing->alias + offset + done, (const char *)bytes + done, step))
            sim_fail("a calm kernel has no memory");
        done += step;
    }
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
    fake_config.has_poison = !without_poison;
    fiber_start("script", 0, run_script, NULL);
    fiber_loop();
}

void world_begin(void) {
}

void world_end(void) {
}
