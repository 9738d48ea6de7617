/* SPDX-License-Identifier: MIT */
/*
 * Eviction policies: which extent goes next.
 *
 * Pure: no system calls, no locks, no clock; sees extent indices and events only. The caller serialises
 * calls on one policy (the cache's policy lock). An extent is in the policy from insert until pick or
 * remove. Nodes are an array of one per extent of the store, zeroed before init and touched only for extents
 * that were ever inserted, so that a sparse store costs nothing.
 */
#ifndef MNW_POLICY_POLICY_H
#define MNW_POLICY_POLICY_H

#include <stdbool.h>
#include <stdint.h>

/* All a policy keeps of one extent. */
struct mnw__policy_node {
    uint32_t link[2];
};

/*
 * Was the extent used since this was last asked of it? Asking clears the answer, and unmaps the extent (within
 * the bound on extra faults), so that its next use is seen. An extent that stayed mapped since its fill was
 * never watched: the first answer after insert says nothing, and the policies do not judge by it. Must not call
 * the policy.
 */
typedef bool mnw__policy_recent(void *context, uint32_t extent);

struct mnw__policy;

/* What one policy decides; the calls that are the same for all are below. */
struct mnw__policy_ops {
    const char *name;
    void (*insert)(struct mnw__policy *policy, uint32_t extent);
    /* Who is to be asked about next, when the pick under way has passed over `fresh` that it has just armed. */
    uint32_t (*candidate)(const struct mnw__policy *policy, uint32_t fresh);
    /* It was used, or was never asked about before: it stays, armed. 1: it counts as fresh. */
    uint32_t (*pass_over)(struct mnw__policy *policy, uint32_t extent);
    void (*take_out)(struct mnw__policy *policy, uint32_t extent);
};

struct mnw__policy {
    const struct mnw__policy_ops *ops;
    struct mnw__policy_node *nodes;
    uint32_t extent_count;                /* of the store; at most MNW__POLICY_EXTENTS_MAX */
    uint32_t count;                       /* extents in the policy */
    uint32_t head[3], tail[3], length[3]; /* queues, as the policy wants them */
    uint32_t sequence;                    /* S3-FIFO: ghosts made so far; never 0 once one was */
};

#define MNW__POLICY_EXTENTS_MAX ((1u << 30) - 2)

/*
 * The most unmappings that one pick may cost. When everything is hot, or nothing was watched yet, the pick that
 * reaches the bound takes the oldest as it stands: the caller holds the policy lock meanwhile.
 */
#define MNW__POLICY_ASKS_MAX 64

extern const struct mnw__policy_ops mnw__policy_clock;
extern const struct mnw__policy_ops mnw__policy_s3fifo;

void mnw__policy_init(struct mnw__policy *policy, const struct mnw__policy_ops *ops, struct mnw__policy_node *nodes,
                      uint32_t extent_count);

static inline void mnw__policy_insert(struct mnw__policy *policy, uint32_t extent) {
    policy->ops->insert(policy, extent);
}
/*
 * Chooses and takes out a victim; false when the policy is empty. Asks `recent` at most MNW__POLICY_ASKS_MAX
 * times, and at most twice per extent on average, whatever it answers.
 */
bool mnw__policy_pick(struct mnw__policy *policy, mnw__policy_recent *recent, void *context, uint32_t *extent);
/*
 * Takes back a victim that could not be evicted (it was in use). The next pick passes over all that were put back
 * since the last one, while others remain.
 */
void mnw__policy_put_back(struct mnw__policy *policy, uint32_t extent);
/* Takes an extent out for another reason; nothing happens when it is not in. */
void mnw__policy_remove(struct mnw__policy *policy, uint32_t extent);

/* Is the extent in the policy? */
bool mnw__policy_holds(const struct mnw__policy *policy, uint32_t extent);

/* Debug: every list is whole, every count right. */
bool mnw__policy_is_valid(const struct mnw__policy *policy);

#endif
