/* SPDX-License-Identifier: MIT */
/*
 * A daemon small enough to misbehave on command: it speaks the wire, serves faults from bytes that tell their place,
 * and runs in a child, so that it can be killed.
 *
 * The parent keeps the listening socket and the backing: the next child goes on with them, as a descriptor store would
 * have it. One image, "image". What is in `struct fake_shared` may be changed at any time.
 */
#ifndef MNW_TESTS_CLIENT_FAKE_DAEMON_H
#define MNW_TESTS_CLIENT_FAKE_DAEMON_H

#include "bytes.h"
#include "wire/wire.h"

#include <minnow/minnow.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#define FAKE_TYPES 32

struct fake_shared {
    _Atomic uint32_t requests[FAKE_TYPES]; /* seen, by type */
    _Atomic uint32_t mute;                 /* a bit by type: such requests are not answered */
    _Atomic uint32_t refuse;               /* a bit by type: answered with -EPERM */
    _Atomic uint32_t die;                  /* a bit by type: the daemon kills itself when one comes */
    _Atomic uint32_t garble;               /* a bit by type: answered with nonsense */
    _Atomic bool hold_faults;              /* events are read, and nothing is done about them */
    _Atomic bool say_restarted;            /* sends EVENT_RESTARTED to every session, once */
    _Atomic uint32_t say_detached;         /* sends EVENT_DETACHED of this view, once */
    _Atomic uint32_t held;                 /* events held */
    _Atomic uint32_t served;               /* pages mapped */
    _Atomic uint32_t sessions;             /* open now */
    _Atomic uint32_t forks;                /* children's userfaultfds taken */
    _Atomic bool lose_forks;               /* and closed at once */
    _Atomic uint32_t lacks;                /* features that it does not know */
    _Atomic uint32_t ahead;                /* versions that it is ahead of the library, and speaks no other */
};

struct fake {
    char folder[64], path[96];
    int listener, backing, readonly;
    uint64_t size_bytes;
    uint32_t page_bytes;
    pid_t pid; /* 0: not running */
    pid_t parent;
    struct fake_shared *shared;
};

void fake_open(struct fake *fake, uint64_t size_bytes);
void fake_close(struct fake *fake);
void fake_start(struct fake *fake);
void fake_kill(struct fake *fake);
/* What a daemon that lost everything comes back with. */
void fake_new_backing(struct fake *fake);

uint32_t fake_seen(const struct fake *fake, enum mnw__wire_type type);
/* Waits up to 10 s. */
bool fake_until(const _Atomic uint32_t *number, uint32_t least);

#endif
