/* SPDX-License-Identifier: MIT */
/*
 * Where a fault thread runs: beside the thread whose faults it resolves, while that is one thread.
 *
 * A faulter sleeps while it is served, so its CPU is free; the kernel, which does not know that the one waits for the
 * other, leaves a fault thread where it ran last. On another CPU each fault then costs two wake-ups across CPUs, ten
 * times the fault itself. Several faulters are left to the scheduler, and so is a reader for which there is reading or
 * mapping ahead to do beside it.
 *
 * Beside its faulter a fault thread need not sleep between faults: it lets him run, and is back when he sleeps in the
 * next one. So neither of the two system calls is paid that a sleep takes, nor the wake-up; and the faulter, who alone
 * of the two has slept, has the CPU again as soon as his page is mapped. Where the thread was kept waiting somebody
 * computes here, and might do so again while others fault: it sleeps as it did, for longer and longer.
 *
 * Owns: what the fault thread knows of its last faulters. Only the fault thread enters. Never leaves the CPUs that the
 * thread may run on, and never takes part in a decision about a page.
 */
#ifndef MNW_ENGINE_FOLLOW_H
#define MNW_ENGINE_FOLLOW_H

#include <stdbool.h>
#include <stdint.h>

struct mnw__follow {
    uint32_t faulter;                      /* its thread id; 0: several, or unknown */
    unsigned streak;                       /* faults of it alone */
    uint64_t look_ns;                      /* when to look next where it runs */
    bool is_beside;                        /* it ran where we do, when that was last looked at */
    bool has_served;                       /* since it was last let run */
    uint64_t patience_ns, patient_from_ns; /* so long, and until then, it is not let run before we sleep */
};

/*
 * A fault of `thread_id` was served, alone in its batch; 0: there were several. Now and then looks for the CPU of a
 * lone faulter, and goes there: some microseconds.
 */
void mnw__follow_note(struct mnw__follow *follow, uint32_t thread_id, uint64_t now_ns);
/* There is reading or mapping ahead to do, beside the faulter: stay away from it for a while. */
void mnw__follow_defer(struct mnw__follow *follow, uint64_t now_ns);
/*
 * Before the thread sleeps, with no lock held: a lone faulter on its CPU runs first, and perhaps has his next fault
 * ready on return. Once for each time that one was served.
 */
void mnw__follow_give_way(struct mnw__follow *follow);

#endif
