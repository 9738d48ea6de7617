/* SPDX-License-Identifier: MIT */
/*
 * Memory that was freed, kept: a run never gets it back, reads of it are nonsense, and writes to it are found. Built
 * with a sanitizer, which knows better, this does nothing.
 */
#ifndef MNW_SIM_FREED_H
#define MNW_SIM_FREED_H

/* From now on what is freed is kept. */
void freed_keep(void);
/* Fails the run if something was written to what was freed since; and frees it. */
void freed_check(void);

#endif
