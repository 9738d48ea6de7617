/* SPDX-License-Identifier: MIT */
/*
 * Being asked to end (SIGINT, SIGTERM): what is finished is told first. Owns the disposition of both signals; the main
 * thread prepares, any thread may ask.
 */
#ifndef MNW_BENCH_INTERRUPT_H
#define MNW_BENCH_INTERRUPT_H

/* From here on the first signal is only noted; another one, a second later or more, ends the process at once. */
void interrupt_prepare(void);
/* The signal that asked to end, or 0. */
int interrupted(void);

#endif
