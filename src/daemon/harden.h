/* SPDX-License-Identifier: MIT */
/*
 * What the worker gives up once it has what it needs: another user, capabilities, system calls.
 *
 * Owns nothing; called once each, by the only thread (privileges) and at the end of the start (calls).
 * docs/hardening.md says what remains, and why.
 */
#ifndef MNW_DAEMON_HARDEN_H
#define MNW_DAEMON_HARDEN_H

struct mnw__config;

/* Becomes the configured user, drops capabilities, and can get none back. Before any thread is started. */
int mnw__harden_privileges(const struct mnw__config *config);
/* From here on every thread that makes a system call which is not on the list ends the process. */
int mnw__harden_calls(const struct mnw__config *config);

#endif
