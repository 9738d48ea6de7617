/* SPDX-License-Identifier: MIT */
/*
 * What `minnow run` asked for, read from the environment once. Owns the configuration and the list of memfds; any
 * thread may enter; allocates nothing.
 */
#include "preload.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char text[PRELOAD_CONFIG_MAX];
static struct config config;

static struct {
    dev_t device;
    ino_t inode;
    struct source *source;
} memfds[PRELOAD_MEMFDS_MAX];
static _Atomic unsigned memfd_count; /* entries below it are whole */
static pthread_mutex_t memfd_lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((format(printf, 1, 0))) static void print(const char *format, va_list arguments) {
    char line[600] = "minnow: ";
    int saved = errno;
    size_t used = strlen(line);
    int more = vsnprintf(line + used, sizeof(line) - used - 1, format, arguments);
    used = more < 0 ? used : used + (size_t)more;
    if (used > sizeof(line) - 2)
        used = sizeof(line) - 2;
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, used) < 0)
        errno = saved;
    errno = saved;
}

void complain(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
}

void tell(const char *format, ...) {
    va_list arguments;
    if (!config_get()->verbose)
        return;
    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
}

/* "IMAGE<tab>PATH or NAME" */
static void add_source(char *value, bool is_path) {
    char *tab = strchr(value, '\t');
    if (!tab || config.source_count == PRELOAD_SOURCES_MAX)
        return;
    *tab = 0;
    struct source *source = &config.sources[config.source_count++];
    struct stat status;
    source->image = value;
    if (!is_path) {
        source->memfd = tab + 1;
        return;
    }
    source->path = tab + 1;
    if (stat(source->path, &status))
        return; /* in another root: no descriptor can be of it */
    source->device = status.st_dev;
    source->inode = status.st_ino;
    source->found = true;
}

static void read_line(char *line) {
    char *value = strchr(line, '=');
    if (value)
        *value++ = 0;
    if (!strcmp(line, "record"))
        config.flags |= MNW_CLIENT_RECORD;
    else if (!strcmp(line, "replay"))
        config.flags |= MNW_CLIENT_REPLAY;
    else if (!strcmp(line, "follow-fork"))
        config.flags |= MNW_CLIENT_FOLLOW_FORK;
    else if (!strcmp(line, "user-faults-only"))
        config.user_faults_only = true;
    else if (!strcmp(line, "verbose"))
        config.verbose = true;
    else if (value && !strcmp(line, "socket"))
        config.socket = value;
    else if (value && !strcmp(line, "map"))
        add_source(value, true);
    else if (value && !strcmp(line, "memfd"))
        add_source(value, false);
}

static void read_all(void) {
    int saved = errno;
    const char *given = getenv(PRELOAD_VARIABLE);
    size_t length = given ? strlen(given) : 0;
    if (length >= sizeof(text))
        length = 0;
    memcpy(text, given ? given : "", length);
    for (char *line = text, *end; *line; line = end) {
        end = strchr(line, '\n');
        if (end)
            *end++ = 0;
        else
            end = line + strlen(line);
        read_line(line);
    }
    errno = saved;
}

const struct config *config_get(void) {
    pthread_once(&once, read_all);
    return &config;
}

static struct source *find_memfd(const struct stat *status) {
    for (unsigned i = atomic_load(&memfd_count); i > 0; i--)
        if (memfds[i - 1].inode == status->st_ino && memfds[i - 1].device == status->st_dev)
            return memfds[i - 1].source;
    return NULL;
}

struct source *config_source_of(int fd) {
    struct stat status;
    int saved = errno;
    if (!config_get()->source_count || fd < 0)
        return NULL;
    if (fstat(fd, &status)) {
        errno = saved;
        return NULL;
    }
    for (unsigned i = 0; i < config.source_count; i++) {
        struct source *source = &config.sources[i];
        if (source->found && source->inode == status.st_ino && source->device == status.st_dev)
            return source;
    }
    return find_memfd(&status);
}

void config_note_memfd(int fd, struct source *source) {
    struct stat status;
    int saved = errno;
    pthread_mutex_lock(&memfd_lock);
    unsigned count = atomic_load(&memfd_count);
    if (count == PRELOAD_MEMFDS_MAX) {
        complain("memfd '%s': only %d of them can become images; this one does not", source->memfd, PRELOAD_MEMFDS_MAX);
    } else if (!fstat(fd, &status)) {
        memfds[count].device = status.st_dev;
        memfds[count].inode = status.st_ino;
        memfds[count].source = source;
        atomic_store(&memfd_count, count + 1);
    }
    pthread_mutex_unlock(&memfd_lock);
    errno = saved;
}

struct source *config_memfd(const char *name) {
    config_get();
    for (unsigned i = 0; name && i < config.source_count; i++)
        if (config.sources[i].memfd && !strcmp(config.sources[i].memfd, name))
            return &config.sources[i];
    return NULL;
}
