/* SPDX-License-Identifier: MIT */
/*
 * S3-FIFO: a small queue on trial, a main queue with second chances, and ghosts of what failed the trial.
 *
 * Pure; entered under the policy's lock only. The published algorithm counts hits; here a hit on a mapped page
 * is invisible, and use is learned only by asking, which unmaps. So:
 *   - an extent that was never asked about cannot be judged: its first turn at a tail arms it and sends it once
 *     more round its queue, its second turn judges it;
 *   - one bit of use is all there is: used since the last asking, it moves to (or goes round) main;
 *   - there is no ghost queue: the node of an extent that failed the trial keeps the number of its failure, and
 *     it is a ghost until as many others have failed since as main may hold.
 */
#include "policy/queue.h"

/* Small holds a tenth of what is resident. */
#define SMALL_DIVISOR 10

/* Main's share rather than its present length: while main is still empty, ghosts are what fills it. */
static uint32_t ghosts_max(const struct mnw__policy *policy) {
    return policy->count - policy->count / SMALL_DIVISOR;
}

static bool is_ghost(const struct mnw__policy *policy, uint32_t extent) {
    uint32_t number = policy->nodes[extent].link[OLDER];
    return number && policy->sequence - number < ghosts_max(policy);
}

/* Zero means "never failed", so the numbers skip it. */
static void make_ghost(struct mnw__policy *policy, uint32_t extent) {
    if (!++policy->sequence)
        policy->sequence = 1;
    policy->nodes[extent].link[OLDER] = policy->sequence;
}

static void insert(struct mnw__policy *policy, uint32_t extent) {
    push(policy, is_ghost(policy, extent) ? QUEUE_MAIN : QUEUE_SMALL, extent, false);
}

/*
 * Whose turn it is: small's while it has more than its share, or when main is empty. The `fresh` newest of small
 * were armed by the pick under way and had no time to be used: where all of small is fresh, main must give.
 */
static unsigned next_queue(const struct mnw__policy *policy, uint32_t fresh) {
    if (!policy->length[QUEUE_MAIN])
        return QUEUE_SMALL;
    if (policy->length[QUEUE_SMALL] <= fresh)
        return QUEUE_MAIN;
    bool over = (uint64_t)policy->length[QUEUE_SMALL] * SMALL_DIVISOR >= policy->count;
    return over ? QUEUE_SMALL : QUEUE_MAIN;
}

static uint32_t candidate(const struct mnw__policy *policy, uint32_t fresh) {
    return oldest(policy, next_queue(policy, fresh));
}

static uint32_t pass_over(struct mnw__policy *policy, uint32_t extent) {
    bool was_armed = is_armed(policy, extent);
    unsigned queue = queue_of(policy, extent);
    move(policy, was_armed ? QUEUE_MAIN : queue, extent, true);
    return !was_armed && queue == QUEUE_SMALL;
}

static void take_out(struct mnw__policy *policy, uint32_t extent) {
    bool failed = queue_of(policy, extent) == QUEUE_SMALL;
    unlink_extent(policy, extent);
    if (failed)
        make_ghost(policy, extent);
}

const struct mnw__policy_ops mnw__policy_s3fifo = {
    .name = "s3fifo",
    .insert = insert,
    .candidate = candidate,
    .pass_over = pass_over,
    .take_out = take_out,
};
