/* SPDX-License-Identifier: MIT */
/*
 * Queues of extents inside a policy's nodes: what CLOCK and S3-FIFO share.
 *
 * Pure; entered under the policy's lock only. A link holds an extent's index plus one in its low 30 bits, so
 * that a zeroed node is "in no queue" and extent 0 can be named; END closes a queue at both ends. The high bits
 * carry which queue the extent is in, and whether it was asked about since it came (armed).
 *
 * An extent that is in no queue has link[NEWER] 0; link[OLDER] is then the policy's to use.
 */
#ifndef MNW_POLICY_QUEUE_H
#define MNW_POLICY_QUEUE_H

#include "policy/policy.h"

#include <assert.h>

enum {
    NEWER = 0, /* towards the head */
    OLDER = 1, /* towards the tail */
};

enum {
    QUEUE_MAIN = 0,
    QUEUE_SMALL = 1, /* S3-FIFO only */
    QUEUE_HELD = 2,  /* put back, waiting out one pick */
    QUEUE_COUNT = 3,
};

#define LINK_MASK   ((1u << 30) - 1)
#define LINK_END    LINK_MASK
#define QUEUE_SHIFT 30
#define ARMED       (1u << 30)

static inline uint32_t link_of(const struct mnw__policy *policy, uint32_t extent, unsigned side) {
    return policy->nodes[extent].link[side] & LINK_MASK;
}

static inline void set_link(struct mnw__policy *policy, uint32_t extent, unsigned side, uint32_t link) {
    uint32_t *word = &policy->nodes[extent].link[side];
    *word = (*word & ~LINK_MASK) | link;
}

static inline bool is_queued(const struct mnw__policy *policy, uint32_t extent) {
    return link_of(policy, extent, NEWER) != 0;
}

static inline unsigned queue_of(const struct mnw__policy *policy, uint32_t extent) {
    return policy->nodes[extent].link[NEWER] >> QUEUE_SHIFT;
}

static inline bool is_armed(const struct mnw__policy *policy, uint32_t extent) {
    return (policy->nodes[extent].link[OLDER] & ARMED) != 0;
}

/* The oldest extent of a queue that is not empty. */
static inline uint32_t oldest(const struct mnw__policy *policy, unsigned queue) {
    return policy->tail[queue] - 1;
}

/* Into the head of a queue; the extent is in none. */
static inline void push(struct mnw__policy *policy, unsigned queue, uint32_t extent, bool armed) {
    uint32_t first = policy->head[queue];
    assert(!is_queued(policy, extent));
    policy->nodes[extent].link[NEWER] = LINK_END | queue << QUEUE_SHIFT;
    policy->nodes[extent].link[OLDER] = (first ? first : LINK_END) | (armed ? ARMED : 0);
    if (first)
        set_link(policy, first - 1, NEWER, extent + 1);
    else
        policy->tail[queue] = extent + 1;
    policy->head[queue] = extent + 1;
    policy->length[queue]++;
    policy->count++;
}

/* Out of the queue it is in; its node is zero afterwards. */
static inline void unlink_extent(struct mnw__policy *policy, uint32_t extent) {
    unsigned queue = queue_of(policy, extent);
    uint32_t newer = link_of(policy, extent, NEWER), older = link_of(policy, extent, OLDER);
    if (newer == LINK_END)
        policy->head[queue] = older == LINK_END ? 0 : older;
    else
        set_link(policy, newer - 1, OLDER, older);
    if (older == LINK_END)
        policy->tail[queue] = newer == LINK_END ? 0 : newer;
    else
        set_link(policy, older - 1, NEWER, newer);
    policy->nodes[extent] = (struct mnw__policy_node){0};
    policy->length[queue]--;
    policy->count--;
}

static inline void move(struct mnw__policy *policy, unsigned queue, uint32_t extent, bool armed) {
    unlink_extent(policy, extent);
    push(policy, queue, extent, armed);
}

/* Ends the wait of what was put back. It was pinned, hence mapped and unwatched: not armed. */
static inline void release_held(struct mnw__policy *policy) {
    while (policy->length[QUEUE_HELD])
        move(policy, QUEUE_MAIN, oldest(policy, QUEUE_HELD), false);
}

/* How often one pick may ask: the bound, or each extent twice, once to arm it and once to judge. */
static inline uint32_t ask_limit(const struct mnw__policy *policy) {
    return policy->count < MNW__POLICY_ASKS_MAX / 2 ? policy->count * 2 : MNW__POLICY_ASKS_MAX;
}

#endif
