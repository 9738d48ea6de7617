/* SPDX-License-Identifier: MIT */
/*
 * Reading around against a reference that keeps nothing but the list of all faults, and computes every answer from its
 * beginning. Arguments: the first seed and the number of seeds.
 */
#include "model/random.h"
#include "policy/around.h"

#include <stdio.h>
#include <stdlib.h>

enum { FAULTS = 300 };

/* The last fault of the same place was in the same area of four blocks. */
static int is_near(const uint64_t *pages, int at, uint64_t area_pages) {
    uint64_t area = pages[at] / area_pages, place = (area * 0x9e3779b97f4a7c15u) >> 58;
    for (int i = at - 1; i >= 0; i--)
        if (((pages[i] / area_pages * 0x9e3779b97f4a7c15u) >> 58) == place)
            return pages[i] / area_pages == area;
    return 0;
}

static uint32_t answer_of(const uint64_t *pages, int count, uint32_t largest) {
    int score = 32;
    for (int i = 0; i < count; i++) {
        score += is_near(pages, i, largest * 4ull) ? 3 : -1;
        score = score < 0 ? 0 : score > 64 ? 64 : score;
    }
    uint32_t share = score >= 16 ? largest : score >= 8 ? largest / 2 : score >= 4 ? largest / 4 : 1;
    return share ? share : 1;
}

/* Runs of faults in a small part of the store and all over it take turns. */
static int run(uint64_t seed) {
    struct random random = {seed};
    struct mnw__around around;
    uint64_t pages[FAULTS], span = 0, base = 0;
    uint32_t largest = 1u << random_below(&random, 6);
    mnw__around_init(&around, largest);
    for (int i = 0; i < FAULTS; i++) {
        if (i % 40 == 0) {
            span = random_below(&random, 2) ? 500 : 1ull << 40;
            base = random_below(&random, 1ull << 40);
        }
        pages[i] = base + random_below(&random, span);
        uint32_t found = mnw__around_fault(&around, pages[i]), wanted = answer_of(pages, i + 1, largest);
        if (found != wanted) {
            fprintf(stderr, "seed %llu, fault %d: blocks of %u pages, the reference says %u\n",
                    (unsigned long long)seed, i, found, wanted);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, count = argc > 2 ? strtoull(argv[2], NULL, 10) : 100;
    for (uint64_t end = seed + count; seed < end; seed++)
        if (run(seed))
            return 1;
    return 0;
}
