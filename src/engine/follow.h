/* SPDX-License-Identifier: MIT */
/*
 * Where a fault thread runs: beside the thread whose faults it resolves, while that is one thread.
 *
 * A faulter sleeps while it is served, so its CPU is free; the kernel, which does not know that the one waits for the
 * other, leaves a fault thread where it ran last. On another CPU each fault then costs two wake-ups across CPUs, ten
 * times the fault itself. Several faulters are left to the scheduler, and so is a reader for which there is reading or
 * mapping ahead to do beside it.
 *
 * Owns: what the fault thread knows of its last faulters. Only the fault thread enters. Never leaves the CPUs that the
 * thread may run on, and never takes part in a decision about a page.
 */
#ifndef MNW_ENGINE_FOLLOW_H
#define MNW_ENGINE_FOLLOW_H

#include <stdint.h>

struct mnw__follow {
    uint32_t faulter; /* its thread id; 0: several, or unknown */
    unsigned streak;  /* faults of it alone */
    uint64_t look_ns; /* when to look next where it runs */
};

/*
 * A fault of `thread_id` was served, alone in its batch; 0: there were several. Now and then looks for the CPU of a
 * lone faulter, and goes there: some microseconds.
 */
void mnw__follow_note(struct mnw__follow *follow, uint32_t thread_id, uint64_t now_ns);
/* There is reading or mapping ahead to do, beside the faulter: stay away from it for a while. */
void mnw__follow_defer(struct mnw__follow *follow, uint64_t now_ns);

#endif
