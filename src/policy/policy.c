/* SPDX-License-Identifier: MIT */
/*
 * What all eviction policies share: setting up, asking until one must go, and the whole-structure check.
 *
 * Pure; entered under the policy's lock only. Never touches the node of an extent that was not inserted.
 */
#include "policy/policy.h"

#include "policy/queue.h"

void mnw__policy_init(struct mnw__policy *policy, const struct mnw__policy_ops *ops, struct mnw__policy_node *nodes,
                      uint32_t extent_count) {
    *policy = (struct mnw__policy){.ops = ops, .nodes = nodes, .extent_count = extent_count};
}

bool mnw__policy_pick(struct mnw__policy *policy, mnw__policy_recent *recent, void *context, uint32_t *extent) {
    const struct mnw__policy_ops *ops = policy->ops;
    if (!policy->count)
        return false;
    if (policy->length[QUEUE_HELD] == policy->count)
        release_held(policy);
    uint32_t fresh = 0, victim = ops->candidate(policy, fresh);
    for (uint32_t asks = ask_limit(policy); asks; asks--) {
        bool used = recent(context, victim);
        if (is_armed(policy, victim) && !used)
            break;
        fresh += ops->pass_over(policy, victim);
        victim = ops->candidate(policy, fresh);
    }
    ops->take_out(policy, victim);
    release_held(policy);
    *extent = victim;
    return true;
}

/* In use means wanted: it comes back into main. */
void mnw__policy_put_back(struct mnw__policy *policy, uint32_t extent) {
    push(policy, QUEUE_HELD, extent, false);
}

/* A ghost, which is not in, stays one: what is known of its use is not wrong. */
void mnw__policy_remove(struct mnw__policy *policy, uint32_t extent) {
    if (is_queued(policy, extent))
        unlink_extent(policy, extent);
}

/* From the head on: each extent is in range, of this queue, and linked back to the one before. */
static bool is_queue_valid(const struct mnw__policy *policy, unsigned queue) {
    uint32_t length = 0, newer = LINK_END, at = policy->head[queue] ? policy->head[queue] : LINK_END;
    while (at != LINK_END) {
        if (!at || at > policy->extent_count || length == policy->length[queue])
            return false;
        if (queue_of(policy, at - 1) != queue || link_of(policy, at - 1, NEWER) != newer)
            return false;
        newer = at;
        at = link_of(policy, at - 1, OLDER);
        length++;
    }
    return length == policy->length[queue] && policy->tail[queue] == (newer == LINK_END ? 0 : newer);
}

bool mnw__policy_is_valid(const struct mnw__policy *policy) {
    uint64_t count = 0;
    for (unsigned queue = 0; queue < QUEUE_COUNT; queue++) {
        if (!is_queue_valid(policy, queue))
            return false;
        count += policy->length[queue];
    }
    return count == policy->count;
}

bool mnw__policy_holds(const struct mnw__policy *policy, uint32_t extent) {
    return is_queued(policy, extent);
}
