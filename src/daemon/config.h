/* SPDX-License-Identifier: MIT */
/*
 * The daemon's configuration: what is in the file and on the command line, checked and with defaults filled in.
 *
 * Owns: its strings. Read and changed by one thread before the daemon starts, only read afterwards. Resolves users and
 * groups by name, so that nothing needs to be looked up later.
 */
#ifndef MNW_DAEMON_CONFIG_H
#define MNW_DAEMON_CONFIG_H

#include <minnow/minnow.h>

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    MNW__CONFIG_POOLS_MAX = 16,
    MNW__CONFIG_IMAGES_MAX = 256,
    MNW__CONFIG_NAMES_MAX = 64, /* users, or groups, in one list */
    MNW__CONFIG_READ_AROUND = 64 << 10,
    MNW__CONFIG_READ_AROUND_MAX = 2 << 20,
};

/* Who may: anyone, or the users and groups that are listed. */
struct mnw__access {
    bool given; /* it was in the file; else the default of its place holds */
    bool anyone;
    unsigned user_count, group_count;
    uid_t users[MNW__CONFIG_NAMES_MAX];
    gid_t groups[MNW__CONFIG_NAMES_MAX];
};

struct mnw__config_pool {
    char *name;
    char *nodes; /* NULL: all */
    struct mnw_pool_options options;
};

struct mnw__config_image {
    char *name;
    char *uri;
    char *working_set;                                 /* where it is kept; NULL: nowhere */
    const struct mnw__config_image *working_set_first; /* the first image that keeps it in the same file */
    unsigned pool;                                     /* index */
    struct mnw_cache_options options;
    struct mnw__access access; /* not given: that of the daemon */
};

struct mnw__config_limits {
    uint64_t sessions, sessions_per_user;                         /* in all; of one user */
    uint64_t views, bytes, faults_per_second, pinned, prefetches; /* of one session; 0: no limit, but see pinned */
    uint64_t requests, requests_per_second;
    uint64_t hello_ms, unread_ms; /* how long a session lasts without HELLO; whose peer takes no answer */
};

struct mnw__config {
    char *file; /* NULL: none */
    char *text; /* what it held, of so many bytes; NULL: there is none */
    size_t text_bytes;
    bool takes_over; /* consumers wait: what the command line names and is not there now is no reason to refuse */
    char *socket;
    unsigned socket_mode;
    char *user; /* NULL: stay who started it */
    uid_t uid;
    gid_t gid;
    bool sandbox;
    uint64_t read_around_bytes; /* of images that do not say */
    struct mnw__access access, admins;
    struct mnw__config_limits limits;
    unsigned pool_count, image_count;
    struct mnw__config_pool pools[MNW__CONFIG_POOLS_MAX];
    struct mnw__config_image images[MNW__CONFIG_IMAGES_MAX];
};

/* All defaults, no pools, no images. NULL: out of memory. */
struct mnw__config *mnw__config_new(void);
void mnw__config_free(struct mnw__config *config);

/* Adds what the file says. -EINVAL, -ENOENT, ...: the message names file, key and what to do. */
int mnw__config_read(struct mnw__config *config, const char *file);
/* The same from an open file, whose name was `file`. */
int mnw__config_read_open(struct mnw__config *config, int fd, const char *file);
/* The same from text; `name` stands for the file in messages. */
int mnw__config_parse(struct mnw__config *config, const char *text, size_t bytes, const char *name);

/* From the command line: a pool "main" unless there is one; an image NAME=FILE-OR-URI in it. */
int mnw__config_default_pool(struct mnw__config *config, enum mnw_backing backing, uint64_t budget_bytes);
int mnw__config_add_image(struct mnw__config *config, const char *text);
int mnw__config_set_socket(struct mnw__config *config, const char *path);
/* After everything was added: is it enough to run? */
int mnw__config_finish(struct mnw__config *config);

/* Is this peer, with these groups, among them? */
bool mnw__access_allows(const struct mnw__access *access, uid_t uid, const gid_t *groups, unsigned group_count);

#endif
