/* SPDX-License-Identifier: MIT */
/*
 * Makes the Nth system call of a run fail, from outside: a seccomp filter hands the watched calls to a
 * supervisor, which counts them, lets them pass, and answers one of them with an error. Nothing in the tested
 * code knows of it, and threads that the run starts are watched as well.
 *
 * A run happens in a process of its own (the test's binary again, so that constructors have run in it). Use:
 *
 *     static int open_and_close(void) { ...; return 0; }       0: clean; anything else is shown as the status
 *     static const struct fail_case cases[] = {{"open", open_and_close}};
 *     int main(int argc, char **argv) {
 *         int status = fail_enter(argc, argv, cases, 1);       -1: not a run, go on with the tests
 *         ...
 *         struct fail_result result;
 *         for (unsigned n = 1; fail_run("open", watched, count, n, ENOMEM, &result) && result.failed; n++) ...
 */
#ifndef MNW_TESTS_LIVE_SYSCALL_FAIL_H
#define MNW_TESTS_LIVE_SYSCALL_FAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fail_case {
    const char *name;
    int (*run)(void);
};

/* A system call; with `argument` 0..5, only where that argument has `value` (say, of ioctl). */
struct fail_watch {
    long number;
    int argument; /* -1: every call */
    uint64_t value;
};

struct fail_result {
    unsigned seen; /* watched calls */
    bool failed;   /* one was answered with the error */
    long number;   /* which */
    int status;    /* exit status of the run; 128 + signal; 255: had to be killed after 20 s */
};

int fail_enter(int argc, char **argv, const struct fail_case *cases, size_t count);
/* `nth` 0 only counts. False: this machine cannot (no seccomp notifications). */
bool fail_run(const char *name, const struct fail_watch *watched, size_t count, unsigned nth, int error,
              struct fail_result *result);

#endif
