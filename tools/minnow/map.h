/* SPDX-License-Identifier: MIT */
/* The map of an image: a cell for each stretch of its pages. Pure. */
#ifndef MINNOW_MAP_H
#define MINNOW_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_cell {
    uint32_t pages, resident, filling, failed, pinned; /* of those looked at */
};

/* How many pages one cell stands for, so that all have room: 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ... */
uint64_t map_scale(uint64_t pages, size_t cells);
/* Adds pages, from `first` on, to the cells they belong to. */
void map_add(struct map_cell *cells, size_t cell_count, uint64_t scale, uint64_t first, const uint8_t *flags,
             size_t count);
/* What a cell looks like: how full it is, from 0 (nothing) to 4 (all of it); anything resident is at least 1. */
unsigned map_level(const struct map_cell *cell);

/* The sign of a level. */
const char *map_sign(unsigned level, bool unicode);

#endif
