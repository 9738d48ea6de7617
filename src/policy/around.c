/* SPDX-License-Identifier: MIT */
/*
 * Reading around: the score of how near to each other faults are.
 *
 * Pure; one caller at a time per struct. Never allocates.
 *
 * Areas are larger than blocks, so that faults can be near each other although the first one brought its block. They
 * are few: in a store of many areas, scattered faults hardly ever meet by chance.
 */
#include "policy/around.h"

#include "base/bits.h"

enum {
    AREA_BLOCKS = 4, /* of the largest block */
    SCORE_MAX = 64,
    SCORE_FIRST = 32, /* the benefit of the doubt: the first faults of all come to areas not seen yet */
    SCORE_NEAR = 3,   /* so that one fault in four keeps the balance */
    WHOLE_FROM = 16,  /* below it, half as much for each halving of the score */
    PAGE_BELOW = 4,
};

void mnw__around_init(struct mnw__around *around, uint32_t pages_max) {
    *around = (struct mnw__around){.pages_max = pages_max ? 1u << mnw__log2(pages_max) : 1, .score = SCORE_FIRST};
}

static bool is_near(struct mnw__around *around, uint64_t page) {
    uint64_t area = page / (around->pages_max * (uint64_t)AREA_BLOCKS);
    uint64_t *place = &around->areas[(area * 0x9e3779b97f4a7c15u) >> (64 - mnw__log2(MNW__AROUND_AREAS))];
    bool near = *place == area + 1;
    *place = area + 1;
    return near;
}

uint32_t mnw__around_fault(struct mnw__around *around, uint64_t page) {
    if (around->pages_max == 1)
        return 1;
    around->score += is_near(around, page) ? SCORE_NEAR : -1;
    around->score = around->score < 0 ? 0 : around->score > SCORE_MAX ? SCORE_MAX : around->score;
    if (around->score < PAGE_BELOW)
        return 1;
    uint32_t pages = around->pages_max;
    for (int score = around->score; score < WHOLE_FROM && pages > 1; score *= 2)
        pages /= 2;
    return pages;
}
