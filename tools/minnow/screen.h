/* SPDX-License-Identifier: MIT */
/*
 * What top shows, drawn with curses. Owns nothing: draws what it is given into the terminal that is there now, whatever
 * its size; what has no room is left out from below.
 */
#ifndef MINNOW_SCREEN_H
#define MINNOW_SCREEN_H

#include "map.h"
#include "state.h"

#include <stdbool.h>
#include <stddef.h>

enum { SCREEN_CELLS_MAX = 65536 };

struct screen {
    const struct state *before, *now; /* before: NULL until there are two */
    double interval;                  /* seconds */
    size_t selected;                  /* image */
    bool paused, unicode;
    const char *problem; /* why there is nothing newer; NULL: nothing wrong */

    /* the map of the selected image */
    struct map_cell *cells; /* SCREEN_CELLS_MAX of them; all zero: not known */
    uint64_t map_pages, map_scale;
    bool has_map;
};

/* Where the map goes in a terminal of this size: how many cells it has. */
size_t screen_map_cells(const struct screen *screen, int lines, int columns);
void screen_draw(const struct screen *screen);
/* Colours, if there are any. After initscr(). */
void screen_begin(void);

#endif
