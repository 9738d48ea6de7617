/* SPDX-License-Identifier: MIT */
/*
 * What the daemon knows and must not forget when it dies: fixed records in a memfd that the holder keeps.
 *
 * Owns: the mapping. One thread (the loop) reads and writes. A record is valid from the moment its `state` says so,
 * which is stored last, until it is taken back, which is stored first: killed between any two instructions, every
 * record is whole or not there. What was read from a descriptor is not trusted: indices and lengths are checked.
 */
#ifndef MNW_DAEMON_STATE_H
#define MNW_DAEMON_STATE_H

#include "wire/wire.h"

#include <minnow/minnow.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    MNW__STATE_SESSIONS = 1024,
    MNW__STATE_IMAGES = 256,
    MNW__STATE_VIEWS = 4096,
    MNW__STATE_CHILDREN = 2048, /* of the views */
    MNW__STATE_PINS = 4096,
    MNW__STATE_RANGES = 256, /* as many as a view can have */
};

enum mnw__record_state { MNW__RECORD_FREE = 0, MNW__RECORD_TENTATIVE = 1, MNW__RECORD_VALID = 2 };

/* Begins every record. The serial tells a record's descriptors from those of its slot's earlier users. */
struct mnw__record {
    _Atomic uint32_t state;
    uint32_t serial;
};

struct mnw__record_session {
    struct mnw__record record;
    uint32_t greeted, reserved; /* HELLO came */
    char name[MNW__WIRE_NAME_BYTES];
};

struct mnw__record_image { /* valid: its backing and words are with the holder */
    struct mnw__record record;
    char name[MNW__WIRE_NAME_BYTES];
};

struct mnw__record_view {
    struct mnw__record record;
    uint32_t session, image; /* indices of their records */
    uint32_t session_serial;
    uint32_t id, flags;
    uint32_t is_child; /* made by fork(2): its session may be over */
    uint32_t is_recording, page_bytes;
    uint32_t user;                    /* whose, plus 1; 0: nobody knows */
    uint64_t address, length, offset; /* as it was attached; where it lies now: see the ranges */
};

/*
 * Where a view lies. Two of them, of which `current` says which counts: killed while one is written, the other is
 * whole.
 */
struct mnw__record_ranges {
    _Atomic uint32_t current;
    uint32_t counts[2]; /* 0: as it was attached */
    uint32_t reserved;
    struct mnw_view_range ranges[2][MNW__STATE_RANGES];
};

struct mnw__record_pin {
    struct mnw__record record;
    uint32_t session, image;
    uint32_t session_serial, reserved;
    uint64_t offset, length, cookie;
};

/* Goes up with any change of what records mean or where they lie. */
#ifndef MNW__STATE_VERSION
#define MNW__STATE_VERSION 1
#endif

struct mnw__state {
    int fd;
    struct mnw__state_memory *memory;
    struct mnw__record_session *sessions;
    struct mnw__record_image *images;
    struct mnw__record_view *views;
    struct mnw__record_pin *pins;
    struct mnw__record_ranges *ranges; /* of views, by their index; memory only where it was written */
};

int mnw__state_create(struct mnw__state *state);
/* Could they be taken over? -ESTALE, with a message: they are of another version, or no records. */
int mnw__state_check(int fd);
/* Takes over what a worker before left; the descriptor belongs to the state from now on, on success. -ESTALE: not ours.
 */
int mnw__state_adopt(struct mnw__state *state, int fd);
void mnw__state_close(struct mnw__state *state);

/* How often the daemon was restarted. */
uint64_t mnw__state_epoch(const struct mnw__state *state);
void mnw__state_count_restart(struct mnw__state *state);

/* Where a view lies now; none: as it was attached. */
void mnw__state_set_ranges(struct mnw__state *state, unsigned view, const struct mnw_view_range *ranges,
                           unsigned count);
/* How many there are. */
unsigned mnw__state_get_ranges(const struct mnw__state *state, unsigned view, const struct mnw_view_range **ranges);

/* A free record of `count` records of `bytes` each, now tentative, all its own fields 0; -ENOSPC. Returns the index. */
int mnw__state_take(struct mnw__state *state, void *records, size_t bytes, unsigned count);
void mnw__state_validate(struct mnw__record *record);
void mnw__state_free(struct mnw__record *record);
static inline bool mnw__state_is_valid(const struct mnw__record *record) {
    return atomic_load_explicit(&record->state, memory_order_acquire) == MNW__RECORD_VALID;
}

/* "view.17.4": how the holder calls the descriptor of a record. */
#define MNW__STATE_FDNAME_BYTES 48
void mnw__state_fdname(char text[MNW__STATE_FDNAME_BYTES], const char *kind, unsigned index, uint32_t serial);
/* The reverse, for one kind; false: it is not of that kind, or malformed. */
bool mnw__state_parse_fdname(const char *text, const char *kind, unsigned *index, uint32_t *serial);

#endif
