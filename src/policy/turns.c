/* SPDX-License-Identifier: MIT */
#include "policy/turns.h"

#include <errno.h>
#include <stdlib.h>

static uint32_t common_divisor(uint32_t a, uint32_t b) {
    return b ? common_divisor(b, a % b) : a;
}

/*
 * Each node is owed its weight more before every turn; who is owed most has it, and pays the whole round for it. So no
 * node is ever ahead of its share, or behind it, by more than one turn.
 */
static unsigned next(int64_t owed[64], uint64_t nodes, const uint8_t weights[64], uint32_t whole) {
    unsigned most = (unsigned)__builtin_ctzll(nodes);
    for (uint64_t left = nodes; left; left &= left - 1) {
        unsigned node = (unsigned)__builtin_ctzll(left);
        owed[node] += weights[node];
        if (owed[node] > owed[most])
            most = node;
    }
    owed[most] -= whole;
    return most;
}

int mnw__turns_init(struct mnw__turns *turns, uint64_t nodes, const uint8_t weights[64]) {
    uint32_t whole = 0, divisor = 0;
    int64_t owed[64] = {0};
    for (uint64_t left = nodes; left; left &= left - 1) {
        whole += weights[__builtin_ctzll(left)];
        divisor = common_divisor(weights[__builtin_ctzll(left)], divisor);
    }
    turns->count = whole / divisor;
    turns->round = malloc(turns->count);
    if (!turns->round)
        return -ENOMEM;
    for (uint32_t turn = 0; turn < turns->count; turn++)
        turns->round[turn] = (uint8_t)next(owed, nodes, weights, whole);
    return 0;
}

void mnw__turns_destroy(struct mnw__turns *turns) {
    free(turns->round);
    *turns = (struct mnw__turns){0};
}
