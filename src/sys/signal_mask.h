/* SPDX-License-Identifier: MIT */
/*
 * Signals blocked while a thread holds what a fault may wait for: see mnw__signals_block() in thread.h. Owns a count
 * for each thread. Inside src/sys alone.
 */
#ifndef MNW_SYS_SIGNAL_MASK_H
#define MNW_SYS_SIGNAL_MASK_H

#include "sys/thread.h"

#include <signal.h>

/* All signals but those that an instruction raises by itself; SIGBUS is blocked like the rest, for handlers' sake. */
void mnw__signals_fill(sigset_t *set);
/* They are blocked already: by a handler's own mask, or in a thread of the library. Restores nothing. */
void mnw__signals_note_blocked(void);
void mnw__signals_forget_blocked(void);

#endif
