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

static bool pick(struct mnw__policy *policy, mnw__policy_recent *recent, void *context, uint32_t *extent) {
    if (!policy->count)
        return false;
    if (!policy->length[QUEUE_MAIN])
        release_held(policy);
    uint32_t victim = oldest(policy, QUEUE_MAIN);
    for (uint32_t asks = ask_limit(policy); asks; asks--) {
        bool used = recent(context, victim);
        if (is_armed(policy, victim) && !used)
            break;
        move(policy, QUEUE_MAIN, victim, true);
        victim = oldest(policy, QUEUE_MAIN);
    }
    unlink_extent(policy, victim);
    release_held(policy);
    *extent = victim;
    return true;
}

static void put_back(struct mnw__policy *policy, uint32_t extent) {
    push(policy, QUEUE_HELD, extent, false);
}

static void remove_extent(struct mnw__policy *policy, uint32_t extent) {
    if (is_queued(policy, extent))
        unlink_extent(policy, extent);
}

const struct mnw__policy_ops mnw__policy_clock = {
    .name = "clock",
    .insert = insert,
    .pick = pick,
    .put_back = put_back,
    .remove = remove_extent,
};
