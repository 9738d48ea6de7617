/* SPDX-License-Identifier: MIT */
/*
 * Both eviction policies against the naive reference: the same random operations, the same questions in the
 * same order, the same victims. Arguments: the first seed and the number of seeds.
 */
#include "model/policy_reference.h"
#include "model/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPERATIONS = 400, ASKED_MAX = MNW__POLICY_ASKS_MAX + 1 };

/* One side of the comparison: what it asked, and in which order. */
struct asked {
    const bool *used; /* shared: the answer depends on the extent alone during one pick */
    uint32_t extents[ASKED_MAX];
    unsigned count;
};

static bool recent(void *context, uint32_t extent) {
    struct asked *asked = context;
    if (asked->count < ASKED_MAX)
        asked->extents[asked->count++] = extent;
    return asked->used[extent];
}

struct run {
    struct random random;
    struct mnw__policy_node nodes[REFERENCE_EXTENTS];
    struct mnw__policy policy;
    struct reference reference;
    bool used[REFERENCE_EXTENTS], in[REFERENCE_EXTENTS];
    uint32_t victims[REFERENCE_EXTENTS]; /* picked, and not yet put back or given up */
    unsigned victim_count;
    uint32_t extents; /* of the store */
    unsigned heat;    /* of 100 answers, how many say "used" */
};

static bool do_insert(struct run *run) {
    uint32_t extent = (uint32_t)random_below(&run->random, run->extents);
    if (run->in[extent])
        return true;
    for (unsigned i = 0; i < run->victim_count; i++)
        if (run->victims[i] == extent)
            run->victims[i] = run->victims[--run->victim_count];
    run->in[extent] = true;
    mnw__policy_insert(&run->policy, extent);
    reference_insert(&run->reference, extent);
    return true;
}

static bool do_remove(struct run *run) {
    uint32_t extent = (uint32_t)random_below(&run->random, run->extents);
    run->in[extent] = false;
    mnw__policy_remove(&run->policy, extent);
    reference_remove(&run->reference, extent);
    return true;
}

static bool do_put_back(struct run *run) {
    if (!run->victim_count)
        return true;
    uint32_t extent = run->victims[--run->victim_count];
    run->in[extent] = true;
    mnw__policy_put_back(&run->policy, extent);
    reference_put_back(&run->reference, extent);
    return true;
}

static bool do_pick(struct run *run) {
    struct asked mine = {.used = run->used}, other = {.used = run->used};
    uint32_t victim = UINT32_MAX, expected = UINT32_MAX;
    for (uint32_t extent = 0; extent < run->extents; extent++)
        run->used[extent] = random_below(&run->random, 100) < run->heat;
    bool found = mnw__policy_pick(&run->policy, recent, &mine, &victim);
    if (found != reference_pick(&run->reference, recent, &other, &expected) || victim != expected)
        return false;
    if (mine.count != other.count || memcmp(mine.extents, other.extents, mine.count * sizeof(mine.extents[0])))
        return false;
    if (!found)
        return true;
    if (!run->in[victim])
        return false;
    run->in[victim] = false;
    run->victims[run->victim_count++] = victim;
    return true;
}

static bool step(struct run *run) {
    switch (random_below(&run->random, 10)) {
    case 0:
        return do_put_back(run);
    case 1:
        return do_remove(run);
    case 2:
    case 3:
    case 4:
        return do_pick(run);
    default:
        return do_insert(run);
    }
}

static bool play(uint64_t seed, const struct mnw__policy_ops *ops) {
    static struct run run;
    memset(&run, 0, sizeof(run));
    run.random.state = seed;
    run.extents = 1 + (uint32_t)random_below(&run.random, REFERENCE_EXTENTS);
    run.heat = (unsigned)random_below(&run.random, 101);
    mnw__policy_init(&run.policy, ops, run.nodes, run.extents);
    reference_init(&run.reference, ops == &mnw__policy_s3fifo);
    for (unsigned operation = 0; operation < OPERATIONS; operation++)
        if (!step(&run) || run.policy.count != reference_count(&run.reference) || !mnw__policy_is_valid(&run.policy)) {
            fprintf(stderr, "%s: seed %llu differs from the reference at operation %u\n", ops->name,
                    (unsigned long long)seed, operation);
            return false;
        }
    return true;
}

int main(int argc, char **argv) {
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : 3000;
    unsigned failed = 0;
    for (uint64_t seed = first; seed < first + count && failed < 5; seed++)
        failed += !play(seed, &mnw__policy_clock) + !play(seed, &mnw__policy_s3fifo);
    printf("%llu seeds, %d operations each, both policies: %s\n", (unsigned long long)count, OPERATIONS,
           failed ? "DIFFERENT" : "equal");
    return failed ? 1 : 0;
}
