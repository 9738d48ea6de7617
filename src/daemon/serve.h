/* SPDX-License-Identifier: MIT */
/*
 * What the command calls: `minnow serve` as a worker, as its holder, or as a check of the configuration.
 *
 * One call to a process, from its only thread; it returns the process's exit status.
 */
#ifndef MNW_DAEMON_SERVE_H
#define MNW_DAEMON_SERVE_H

#include <minnow/minnow.h>

#include <stdint.h>

enum mnw__serve_status {
    MNW__SERVE_FINE = 0,
    MNW__SERVE_FAILED = 1,
    MNW__SERVE_REFUSED = 2, /* the configuration, or the machine: starting again would not help */
    MNW__SERVE_OTHER = 3,   /* the records that were kept are of another version, which the holder has, too */
};

struct mnw__serve_options {
    const char *config;         /* file; NULL: none */
    const char *socket;         /* NULL: the configuration's */
    const char *const *images;  /* "NAME=FILE", ends with NULL; may be NULL */
    enum mnw_backing backing;   /* of the pool "main", unless the configuration has pools */
    uint64_t budget_bytes;      /* 0: there is no such pool */
    int has_read_around;        /* the next is given */
    uint64_t read_around_bytes; /* of images that do not say */
    int no_sandbox;
    int check;         /* read and check the configuration, and end */
    int alone;         /* no holder: what it serves ends with it */
    char *const *argv; /* of the process: how the holder starts workers */
};

int mnw__serve(const struct mnw__serve_options *options);

/* ---- between the parts ---- */

struct mnw__config;

/* `last`: the configuration of the worker before us, for when pools of the other cannot be opened. NULL: none */
int mnw__worker_run(const struct mnw__config *config, const struct mnw__config *last);
/* Starts workers by `argv`, keeps their descriptors, restarts them. */
int mnw__holder_run(const struct mnw__config *config, char *const *argv);

#endif
