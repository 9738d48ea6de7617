/* SPDX-License-Identifier: MIT */
/*
 * The system as the client library sees it, for fuzzing: one thread, time that passes when somebody waits, and a
 * daemon that says what the input says.
 *
 * A caller that waits runs a turn of the client's own thread (mnw__session_run() as it is), which receives what the
 * input makes of the requests that were sent. At the end of the input the daemon is gone, and nobody is let in again.
 */
#ifndef MNW_TESTS_FUZZ_CLIENT_WORLD_H
#define MNW_TESTS_FUZZ_CLIENT_WORLD_H

#include "client/client.h"
#include "fuzz/input.h"
#include "wire/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    WORLD_PAGE = 4096,
    WORLD_PAGES = 256, /* of the image, as a daemon that is sane describes it */
    WORLD_SENT = 16,   /* requests that are remembered */
};

struct world_request {
    struct mnw__wire_header header;
    union {
        struct mnw__wire_attach attach;
        struct mnw__wire_range range;
        unsigned char bytes[128];
    };
};

struct world {
    uint64_t now_ns;
    void (*run)(void *);
    void *client;
    unsigned turns, ready; /* packets that wait to be received */
    unsigned fail_in;      /* the system call that many calls from now fails; 0: none */
    bool in_child;
    unsigned flood, received; /* events that come one after the other; packets since somebody else had the lock */
    uint64_t connected_ns;
    struct world_request sent[WORLD_SENT];
    unsigned sent_count;
    unsigned served_count;
    uintptr_t served[64]; /* where ATTACH was answered with yes */
    size_t mapped_bytes;
};
extern struct world world;

/* Once. */
void world_set_up(void);
void world_begin(void);
/* Another client will ask: what the last one was told means nothing to it. */
void world_forget_client(void);
/* Runs the client's thread until it waits; `ns`: how long the caller would wait at most. */
void world_turn(int64_t ns);
/* False, and counts; true: this call of the system fails. */
bool world_fails(void);
/* As fork(2) calls the library's handlers: in the parent, or in the child. */
void world_fork(bool in_child);

/* client_daemon.c: what the daemon says. Fills the packet; the bytes, and the descriptors that come with it. */
size_t daemon_speak(struct mnw__wire_packet *packet, int *fds, unsigned *fd_count);
/* What it says again and again where it is told to. */
size_t daemon_repeat(struct mnw__wire_packet *packet);
void daemon_set_up(void);

/* The daemon has said that it serves what lies there. */
void world_serve(uintptr_t address);
/* An address at which a view of one page may be wanted. */
uintptr_t world_reserve(void);

#endif
