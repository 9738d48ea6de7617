/* SPDX-License-Identifier: MIT */
/*
 * A bucket of time: every fault costs its share of a second, and time that was not used is there for a moment.
 *
 * Whoever finds nothing is given a turn of his own, one fault's share after the last that was given. Otherwise all
 * views of a peer at its limit would come back together, for one fault, and the more views it has the more often would
 * it be looked at for nothing. When the turn comes there is a fault for it, even if others have taken what there was: a
 * sibling that never ceases to fault would otherwise be there first each time. It is owed then, by all of them.
 */
#include "engine/limit.h"

#include "base/bits.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#define NS_PER_S 1000000000ull
/* What may be saved up. */
#define BURST_NS 100000000ull

struct mnw_limit {
    _Atomic uint32_t references;
    uint64_t cost_ns;      /* of one fault */
    _Atomic uint64_t paid; /* time is spent until here; in the future: owed */
    _Atomic uint64_t turn; /* the last that was given */
};

struct mnw_limit *mnw__limit_new(uint32_t per_second) {
    struct mnw_limit *limit = calloc(1, sizeof(*limit));
    if (!limit)
        return NULL;
    atomic_init(&limit->references, 1);
    limit->cost_ns = mnw__max(NS_PER_S / per_second, 1ull);
    return limit;
}

struct mnw_limit *mnw__limit_ref(struct mnw_limit *limit) {
    if (limit)
        atomic_fetch_add(&limit->references, 1);
    return limit;
}

void mnw__limit_unref(struct mnw_limit *limit) {
    if (limit && atomic_fetch_sub(&limit->references, 1) == 1)
        free(limit);
}

/* Time from before that is not worth anything any more. */
static uint64_t forget(struct mnw_limit *limit, uint64_t now_ns) {
    uint64_t burst = mnw__max(BURST_NS, limit->cost_ns), floor = now_ns > burst ? now_ns - burst : 0;
    uint64_t paid = atomic_load(&limit->paid);
    while (paid < floor)
        if (atomic_compare_exchange_weak(&limit->paid, &paid, floor))
            return floor;
    return paid;
}

/* Behind those who can be before us: each of them has a reference. The turns of who is gone are nobody's. */
static uint64_t take_turn(struct mnw_limit *limit, uint64_t earliest) {
    uint64_t others = atomic_load(&limit->references) - 1, latest = earliest + others * limit->cost_ns;
    uint64_t last = atomic_load(&limit->turn), mine;
    do
        mine = mnw__min(mnw__max(last + limit->cost_ns, earliest), latest);
    while (!atomic_compare_exchange_weak(&limit->turn, &last, mine));
    return mine;
}

int mnw__limit_ask(struct mnw_limit *limit, uint64_t now_ns, int count, bool had_turn, uint64_t *wait_ns) {
    uint64_t paid = forget(limit, now_ns);
    uint64_t credit = now_ns > paid ? now_ns - paid : 0;
    if (credit >= limit->cost_ns)
        return (int)mnw__min((uint64_t)count, credit / limit->cost_ns);
    if (had_turn)
        return 1;
    *wait_ns = take_turn(limit, paid + limit->cost_ns) - now_ns;
    return 0;
}

void mnw__limit_pay(struct mnw_limit *limit, int count) {
    uint64_t paid = atomic_load(&limit->paid), now;
    do
        now = count >= 0 ? paid + (uint64_t)count * limit->cost_ns
                         : paid - mnw__min((uint64_t)-count * limit->cost_ns, paid);
    while (!atomic_compare_exchange_weak(&limit->paid, &paid, now));
}
