/* SPDX-License-Identifier: MIT */
/*
 * SIGBUS of this process, while faults of some view are delivered by it.
 *
 * Owns the disposition of the signal and what it was before. What is not ours is passed on as it would have come: to
 * the handler that was there, in its form and with its mask, or to the kernel's default. Whoever installs a handler
 * later must do the same for us.
 */
#ifndef MNW_SYS_SIGBUS_H
#define MNW_SYS_SIGBUS_H

#include <stdint.h>

enum mnw__sigbus {
    MNW__SIGBUS_RESOLVED, /* the instruction is to be repeated */
    MNW__SIGBUS_FAILED,   /* the page cannot be had: the program gets its SIGBUS */
    MNW__SIGBUS_FOREIGN,  /* no view has this address */
};
/*
 * Called in the thread that faulted, with signals blocked and no cancellation; may block. May call only what is
 * async-signal-safe, and locks of sys/thread.h: whoever holds one has signals blocked.
 */
typedef enum mnw__sigbus mnw__sigbus_serve(uintptr_t address);

/* From now on `serve` is asked, the same one by every caller. Counted. 0, or a negative errno with a message. */
int mnw__sigbus_acquire(mnw__sigbus_serve *serve);
/* With the last one the disposition is what it was before, unless somebody has changed it since. */
void mnw__sigbus_release(void);

#endif
