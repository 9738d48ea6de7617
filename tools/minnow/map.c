/* SPDX-License-Identifier: MIT */
/* Sampling down an image's residency. */
#include "map.h"

#include <minnow/minnow.h>

uint64_t map_scale(uint64_t pages, size_t cells) {
    uint64_t scale = 1, step = 1; /* four steps to each power of two: little of the room is wasted */
    while (cells && (pages + scale - 1) / scale > cells) {
        if (scale == step * 8)
            step *= 2;
        scale += step;
    }
    return scale;
}

void map_add(struct map_cell *cells, size_t cell_count, uint64_t scale, uint64_t first, const uint8_t *flags,
             size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint64_t at = (first + i) / scale;
        if (at >= cell_count)
            return;
        cells[at].pages++;
        cells[at].resident += !!(flags[i] & MNW_RESIDENT);
        cells[at].filling += !!(flags[i] & MNW_FILLING);
        cells[at].failed += !!(flags[i] & MNW_FAILED);
        cells[at].pinned += !!(flags[i] & MNW_PINNED);
    }
}

unsigned map_level(const struct map_cell *cell) {
    if (!cell->resident)
        return 0;
    if (cell->resident == cell->pages)
        return 4;
    return 1 + (unsigned)((uint64_t)cell->resident * 3 / cell->pages);
}

const char *map_sign(unsigned level, bool unicode) {
    static const char *const blocks[] = {"\u00b7", "\u2591", "\u2592", "\u2593", "\u2588"};
    static const char *const letters[] = {".", ":", "+", "*", "#"};
    return (unicode ? blocks : letters)[level < 5 ? level : 4];
}
