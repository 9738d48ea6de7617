/* SPDX-License-Identifier: MIT */
/*
 * CLOCK, the baseline: one queue; the oldest goes unless it was used since it was last asked, in which case it
 * starts over as the newest.
 *
 * Pure; entered under the policy's lock only. A new extent is unwatched, so its first turn only arms it, as a
 * page's reference bit that its own fill has set would.
 */
#include "policy/queue.h"

static void insert(struct mnw__policy *policy, uint32_t extent) {
    push(policy, QUEUE_MAIN, extent, false);
}

static uint32_t candidate(const struct mnw__policy *policy, uint32_t fresh) {
    (void)fresh;
    return oldest(policy, QUEUE_MAIN);
}

static uint32_t pass_over(struct mnw__policy *policy, uint32_t extent) {
    move(policy, QUEUE_MAIN, extent, true);
    return 0;
}

const struct mnw__policy_ops mnw__policy_clock = {
    .name = "clock",
    .insert = insert,
    .candidate = candidate,
    .pass_over = pass_over,
    .take_out = unlink_extent,
};
