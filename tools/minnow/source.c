/* SPDX-License-Identifier: MIT */
/* Asking a daemon through libminnow, or reading a file. */
#include "source.h"

#include "command.h"

#include <errno.h>
#include <minnow/minnow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* No daemon says as much. */
#define FILE_MAX ((size_t)64 << 20)

int connect_daemon(struct mnw_client **client, const char *socket, const struct mnw_client_options *options) {
    const struct timespec pause = {.tv_nsec = 20000000};
    int error = mnw_client_connect(client, socket, options);
    for (int tries = 50; (error == -ENOENT || error == -ECONNREFUSED) && tries; tries--) {
        nanosleep(&pause, NULL);
        error = mnw_client_connect(client, socket, options);
    }
    return error;
}

int source_open(struct source *source, const char *socket, const char *file, uint32_t timeout_ms) {
    const struct mnw_client_options options = {.size = sizeof(options), .timeout_ms = timeout_ms};
    *source = (struct source){.file = file};
    if (file)
        return 0;
    if (connect_daemon(&source->client, socket, &options) == 0)
        return 0;
    fprintf(stderr, "minnow: %s\n", mnw_error());
    return -1;
}

void source_close(struct source *source) {
    if (source->client)
        mnw_client_close(source->client);
    source->client = NULL;
}

static char *read_file(const char *path, char *why, size_t why_size) {
    FILE *file = fopen(path, "re");
    char *text = file ? calloc(1, FILE_MAX + 1) : NULL;
    if (!text) {
        snprintf(why, why_size, "%s: %s", path, strerror(errno));
    } else if (!fread(text, 1, FILE_MAX, file)) {
        snprintf(why, why_size, "%s: nothing can be read there", path);
        free(text);
        text = NULL;
    }
    if (file)
        fclose(file);
    return text;
}

char *source_text(struct source *source, int prometheus, char *why, size_t why_size) {
    if (source->file)
        return read_file(source->file, why, why_size);
    char *text = mnw_client_stats(source->client, prometheus ? MNW_STATS_PROMETHEUS : MNW_STATS_JSON);
    if (!text)
        snprintf(why, why_size, "%s", mnw_error());
    return text;
}

int source_residency(struct source *source, const char *image, uint64_t offset, uint8_t *pages, size_t count) {
    if (!source->client)
        return -1;
    return mnw_client_residency(source->client, image, offset, pages, count) < 0 ? -1 : 0;
}
