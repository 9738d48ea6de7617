/* SPDX-License-Identifier: MIT */
/*
 * Waiting for several descriptors at once, and being kicked (epoll and an eventfd).
 *
 * Owns: its own descriptors. One thread waits; any thread may add, remove and kick. After remove returns, a
 * wait that begins later never reports the tag; one under way may still.
 */
#ifndef MNW_SYS_POLLER_H
#define MNW_SYS_POLLER_H

#include <stdint.h>

struct mnw__poller;

int mnw__poller_open(struct mnw__poller **poller);
void mnw__poller_close(struct mnw__poller *poller);
int mnw__poller_add(struct mnw__poller *poller, int fd, void *tag);
int mnw__poller_remove(struct mnw__poller *poller, int fd);
/* Tags of readable descriptors, at most `count`; 0 after a kick or `timeout_ns` (INT64_MAX: never). Kicks are not lost.
 */
int mnw__poller_wait(struct mnw__poller *poller, void **tags, int count, int64_t timeout_ns);
/* Async-signal-safe. */
void mnw__poller_kick(struct mnw__poller *poller);

/* An eventfd for the embedder to poll. */
int mnw__eventfd_open(void);
void mnw__eventfd_raise(int fd);
void mnw__eventfd_lower(int fd);
void mnw__eventfd_close(int fd);

#endif
