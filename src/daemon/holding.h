/* SPDX-License-Identifier: MIT */
/*
 * The worker's side of its holder: descriptors that outlive it, and how it feels. systemd, or `minnow serve` itself.
 *
 * Owns: the list of what was handed over at start. One thread (the loop), but for store, which tasks may call.
 * Without $NOTIFY_SOCKET there is no holder: everything succeeds and nothing is held.
 */
#ifndef MNW_DAEMON_HOLDING_H
#define MNW_DAEMON_HOLDING_H

#include <stdatomic.h>
#include <stdbool.h>

/* In the environment: the descriptor over which a standby is sent what other workers are started with. */
#define MNW__HOLDING_STANDBY "MINNOW_STANDBY"
/* There too, of a standby: the records of the worker that serves, to see whether they can be read at all. */
#define MNW__HOLDING_RECORDS "MINNOW_STANDBY_RECORDS"
/* There, of any other worker: it need not do what it cannot, the holder has another program. */
#define MNW__HOLDING_CHOICE "MINNOW_HAS_CHOICE"

/* Under this name the text of the configuration is kept, for a worker that finds a wrong one in its place. */
#define MNW__HOLDING_CONFIG "config"

struct mnw__held_fd {
    char *name;
    int fd; /* -1: taken */
};

struct mnw__holding {
    char *holder;         /* path of its socket; NULL: none */
    _Atomic bool is_lost; /* it was there, and is not any more */
    int standby;          /* where the descriptors are still to come from; -1: they are here */
    int records;          /* of a standby: MNW__HOLDING_RECORDS; -1: none */
    bool has_choice;      /* MNW__HOLDING_CHOICE */
    unsigned count;
    struct mnw__held_fd *fds;
};

/* Before mnw__holding_open(): the descriptor that the environment names so, which stays where it is; -1. */
int mnw__holding_passed(const char *name);
/* Reads and removes $NOTIFY_SOCKET, $LISTEN_FDS, $LISTEN_FDNAMES, $LISTEN_PID, and those named above. */
int mnw__holding_open(struct mnw__holding *holding);
/*
 * Of a standby: tells the holder that nothing is wanting but the descriptors, and waits for them, however long the old
 * worker takes to go. -ECONNRESET: the holder is gone, or wants no other worker.
 */
int mnw__holding_await(struct mnw__holding *holding);
void mnw__holding_close(struct mnw__holding *holding);

/* Does somebody keep what is stored, as far as is known? */
bool mnw__holding_keeps(const struct mnw__holding *holding);
/* The next descriptor handed over under this name (NULL: any), which is the caller's now; -1. */
int mnw__holding_take(struct mnw__holding *holding, const char *name);

/* Asks the holder to keep a duplicate under this name. `certain`: returns only when it has it. */
int mnw__holding_store(struct mnw__holding *holding, const char *name, int fd, bool certain);
void mnw__holding_remove(const struct mnw__holding *holding, const char *name);
/* "READY=1", "STATUS=...", "STOPPING=1". */
void mnw__holding_tell(const struct mnw__holding *holding, const char *text);

#endif
