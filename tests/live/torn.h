/* SPDX-License-Identifier: MIT */
/* What the tests of torn, moved and forked mappings share: two peers that map a store, and what is done to the
 * mappings. */
#ifndef MNW_TESTS_LIVE_TORN_H
#define MNW_TESTS_LIVE_TORN_H

#include "bed.h"
#include "peer.h"

#define TORN_HUGE  ((size_t)2 << 20)
#define TORN_PEERS 2
/* The peers' mappings are of so many units: base pages taken sixteen at a time, or huge pages. */
#define TORN_UNITS 12

struct torn {
    struct bed_source source;
    struct bed bed;
    struct peer peers[TORN_PEERS];
    struct mnw_view *views[TORN_PEERS];
    size_t unit;
    uint64_t length; /* of the store: two units more than is mapped */
    enum mnw_backing backing;
};

/* A store of two units more than the peers map, less memory than it needs; `source.bad_page` cannot be read. */
void torn_open(struct torn *world, enum mnw_backing backing, unsigned flags, uint64_t features);
void torn_close(struct torn *world);

/* ---- in a peer ---- */

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return __LINE__;                                                                                           \
    } while (0)

/* 0: `count` units from `first` on lie at the address. */
int64_t torn_right(const char *at, size_t unit, unsigned first, unsigned count);
bool torn_is_gone(const char *at);
/* The kernel moves what one mapping holds, and need not have put together again what was moved back: unit by unit. */
bool torn_move_units(char *from, char *to, size_t unit, unsigned count);
/* Room for `units`, congruent to `like`. */
char *torn_room(const char *like, size_t unit, unsigned units);
/* A peer_body that unmaps this and that; units [1, 3) and [7, TORN_UNITS - 1) are left. */
int64_t torn_unmap_parts(struct peer_side *side, const void *argument);

/* ---- views of children ---- */

/* Takes an event, if there is one, and notes a forked view; true when there was one. */
bool torn_note_child(struct torn *world, unsigned timeout_ms);
/* Closes all forked views, of which there must be so many; how many there were. */
unsigned torn_close_children(struct torn *world, unsigned least);

#endif
