/* SPDX-License-Identifier: MIT */
/*
 * Consumers in processes of their own: each is a child that does as it is told over a socket.
 *
 * What is to be done in the child is a function of the test's own program, which the child has too. Start peers
 * before anything else is opened. A peer that is still there when the test ends is killed by the kernel.
 */
#ifndef MNW_TESTS_LIVE_PEER_H
#define MNW_TESTS_LIVE_PEER_H

#include "bed.h"

#include <minnow/minnow.h>
#include <stdint.h>
#include <sys/types.h>

enum { PEER_MAPS = 8, PEER_ARGUMENT_MAX = 256 };

/* A mapping of a cache in the peer. */
struct peer_map {
    char *data;
    size_t length;
    uint64_t offset;
    int uffd; /* -1: not watched */
};

/* The peer's own side. */
struct peer_side {
    int socket;
    struct peer_map maps[PEER_MAPS];
};

struct peer {
    pid_t pid;
    int socket;
};

void peer_start(struct peer *peer);
/* Tells it to end, and waits. */
void peer_stop(struct peer *peer);
/* SIGKILL, and waits. */
void peer_kill(struct peer *peer);

/* Runs `body` in the peer with a copy of the argument; its result. */
typedef int64_t peer_body(struct peer_side *side, const void *argument);
int64_t peer_do(struct peer *peer, peer_body *body, const void *argument, size_t size);
/* The same in two halves. */
void peer_ask(struct peer *peer, peer_body *body, const void *argument, size_t size);
int64_t peer_answer(struct peer *peer);
/* Has it answered? Waits up to `timeout_ms`. */
bool peer_has_answered(struct peer *peer, int timeout_ms);

/* ---- mapping and attaching ---- */

struct peer_mapping {
    unsigned slot; /* of peer_side.maps */
    uint64_t offset, length;
    unsigned flags;    /* MNW_VIEW_WRITE */
    uint64_t features; /* of the userfaultfd, besides those that attaching needs; peer_features() */
    uint64_t without;  /* features left out */
    bool shared;       /* MAP_SHARED */
    bool raw;          /* no UFFDIO_API at all */
    size_t align;      /* 0: a page of the mapping */
};
/* Has the peer map the cache and make a userfaultfd, which is returned; not attached. */
int peer_map(struct peer *peer, struct mnw_cache *cache, const struct peer_mapping *mapping, uint64_t *address);
/* All of it: maps and attaches. */
struct mnw_view *peer_attach(struct peer *peer, struct mnw_cache *cache, const struct peer_mapping *mapping);
/* Skips the test on a kernel without UFFDIO_POISON, where a fault of another process whose page cannot be had waits,
 * and children are not followed. */
void peer_need_poison(void);
/* Features that attaching needs for a cache's memory. */
uint64_t peer_features(const struct mnw_cache *cache);

/* ---- two of them, and what they map ---- */

struct pair {
    struct bed_source source;
    struct bed bed;
    struct peer peers[2];
    uint64_t length;
};
/* A store, a cache of it, a view of our own, and two peers that have mapped nothing yet. */
void pair_open(struct pair *pair, enum mnw_backing backing, uint64_t length, uint64_t budget);
/* The same; `read_deadline_ms` as in mnw_cache_options. */
void pair_open_with(struct pair *pair, enum mnw_backing backing, uint64_t length, uint64_t budget,
                    uint32_t read_deadline_ms);
void pair_close(struct pair *pair);

/* ---- reading in the peer ---- */

struct peer_read {
    unsigned slot;
    uint64_t offset, length; /* from the mapping's start */
    uint64_t salt;
};
/* BED_RIGHT, BED_WRONG, or the signal in the low byte and the offset from the mapping's start above it. */
int64_t peer_compare(struct peer_side *side, const void *argument);
/* Reads one byte: the same answers. */
int64_t peer_touch(struct peer_side *side, const void *argument);
/* Fails the test unless the peer reads the store's bytes. */
void peer_assert_right(struct peer *peer, unsigned slot, uint64_t offset, uint64_t length, uint64_t salt);
/* Fails the test unless the peer gets SIGBUS at the very byte. */
void peer_assert_bus(struct peer *peer, unsigned slot, uint64_t offset);

#endif
