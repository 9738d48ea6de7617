/* SPDX-License-Identifier: MIT */
/*
 * Where stat and top look: a daemon, or a file that holds what one said. Owns the connection. One thread.
 */
#ifndef MINNOW_SOURCE_H
#define MINNOW_SOURCE_H

#include <stddef.h>
#include <stdint.h>

struct mnw_client;
struct mnw_client_options;

struct source {
    struct mnw_client *client; /* NULL: the file */
    const char *file;
};

/*
 * mnw_client_connect(), tried again for a second while nobody listens: the daemon may have been started a moment ago.
 * 0 or a negative errno, with mnw_error().
 */
int connect_daemon(struct mnw_client **client, const char *socket, const struct mnw_client_options *options);

/*
 * One of both paths may be given; neither: the daemon of $MINNOW_SOCKET. 0, or -1 and a message on stderr.
 * `timeout_ms`: how long each question may take.
 */
int source_open(struct source *source, const char *socket, const char *file, uint32_t timeout_ms);
void source_close(struct source *source);
/* What the daemon says, JSON or Prometheus text, to be freed; NULL and in `why` the reason. */
char *source_text(struct source *source, int prometheus, char *why, size_t why_size);
/* A byte of MNW_RESIDENT, ... for each of `count` pages from `offset` on. 0 or -1; a file has none. */
int source_residency(struct source *source, const char *image, uint64_t offset, uint8_t *pages, size_t count);

#endif
