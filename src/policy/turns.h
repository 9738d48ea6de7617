/* SPDX-License-Identifier: MIT */
/*
 * Whose turn it is among NUMA nodes with weights: node n has weights[n] turns of every round, spread over it as evenly
 * as they can be. A turn is told by its number alone, so that an extent has the same node each time it is given memory,
 * whoever gives it. Pure; owns one round, and is not changed once built.
 */
#ifndef MNW_POLICY_TURNS_H
#define MNW_POLICY_TURNS_H

#include <stdint.h>

struct mnw__turns {
    uint8_t *round; /* the nodes of one round, in turn */
    uint32_t count; /* 0: not built, nobody takes turns */
};

/* The nodes of the mask, each with a weight of at least 1. -ENOMEM. */
int mnw__turns_init(struct mnw__turns *turns, uint64_t nodes, const uint8_t weights[64]);
void mnw__turns_destroy(struct mnw__turns *turns);

static inline unsigned mnw__turns_node(const struct mnw__turns *turns, uint64_t turn) {
    return turns->round[turn % turns->count];
}

#endif
