/* SPDX-License-Identifier: MIT */
/*
 * The library and the sockets as the daemon's sessions see them, for fuzzing: nothing is served, but every call is
 * checked, may fail when the input says so, and what is opened is counted.
 */
#ifndef MNW_TESTS_FUZZ_FAKE_MINNOW_H
#define MNW_TESTS_FUZZ_FAKE_MINNOW_H

#include "fuzz/input.h"
#include "sys/packet.h"
#include "wire/wire.h"

#include <minnow/minnow.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FAKE_VIEWS = 64, FAKE_PREFETCHES = 64 };

struct fake {
    struct mnw_view *views[FAKE_VIEWS]; /* open */
    unsigned view_count;
    unsigned pins, caches, stores, limits;
    uint64_t prefetches[FAKE_PREFETCHES]; /* cookies of those that run */
    unsigned prefetch_count;
    struct mnw__wire_packet packet; /* what is received next, when packet_bytes is not SIZE_MAX */
    struct mnw__socket_received next;
    bool has_next, send_blocked, holder_lost;
    uint64_t sent;
    unsigned failures; /* that the input has wanted */
};

extern struct fake fake;

/* Fails in one call of eight, where the input goes on. */
int fake_maybe(int error, const char *what);
/* With which a view was attached. */
uint64_t fake_cookie(const struct mnw_view *view);
/* The daemon is being told that the view's process has ended. */
void fake_die(struct mnw_view *view);
bool fake_is_dead(const struct mnw_view *view);

struct mnw__daemon;

/* Carries out what is under way, and what follows from it. */
void fake_settle(struct mnw__daemon *daemon);
/* Children that outlived their parents. */
void fake_end_orphans(struct mnw__daemon *daemon);
/* `count` records of `bytes` each. */
bool fake_all_free(void *records, size_t bytes, unsigned count);

#endif
