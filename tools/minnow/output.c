/* SPDX-License-Identifier: MIT */
/* Owns the end of the standard output. The main thread's. */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *name;
static int broken_status;

/* In the wrong mode: reading and writing fail as they would have. A program that is started finds them closed, too. */
static void take_closed(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            open("/dev/null", (fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) | O_CLOEXEC); /* the lowest number: this one */
}

/* A write that failed before has left no reason; the next one has, most likely the same. */
static int end_output(int status) {
    int earlier = ferror(stdout);
    errno = 0;
    if (!fflush(stdout) && !earlier)
        return status;
    fprintf(stderr, "%s: writing the result to the standard output: %s\n", name, strerror(errno ? errno : EIO));
    return status ? status : broken_status;
}

static void at_exit(int status, void *unused) {
    (void)unused;
    int ended = end_output(status);
    if (ended != status)
        _exit(ended);
}

void output_begin(const char *program, int broken) {
    name = program;
    broken_status = broken;
    take_closed();
    /* Of the usual length a result fails as a whole, when it is flushed, with its reason. */
    static char buffer[1 << 16];
    if (!isatty(STDOUT_FILENO))
        setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
    on_exit(at_exit, NULL);
}

void output_leave(int status) {
    status = end_output(status);
    fflush(stderr);
    _exit(status);
}
