/* SPDX-License-Identifier: MIT */
/*
 * What all eviction policies share: setting up, finding one by name, and the whole-structure check.
 *
 * Pure; entered under the policy's lock only. Never touches the node of an extent that was not inserted.
 */
#include "policy/policy.h"

#include "base/bits.h"
#include "policy/queue.h"

#include <string.h>

void mnw__policy_init(struct mnw__policy *policy, const struct mnw__policy_ops *ops, struct mnw__policy_node *nodes,
                      uint32_t extent_count) {
    *policy = (struct mnw__policy){.ops = ops, .nodes = nodes, .extent_count = extent_count};
}

const struct mnw__policy_ops *mnw__policy_find(const char *name) {
    static const struct mnw__policy_ops *const all[] = {&mnw__policy_s3fifo, &mnw__policy_clock};
    for (size_t i = 0; i < mnw__array_count(all); i++)
        if (!strcmp(all[i]->name, name))
            return all[i];
    return NULL;
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
