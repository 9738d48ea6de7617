/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include "sys/numa.h"
#include "sys/sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOTES "MNW_TEST_NOTES" /* the descriptor of a file of lines "old-value path" */

static bool write_text(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    bool done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    return !close(fd) && done;
}

static void put_back(int notes) {
    char path[256], value[64];
    FILE *file = fdopen(notes, "r");
    rewind(file);
    while (fscanf(file, "%63s %255s", value, path) == 2) {
        if (!write_text(path, value)) {
            fprintf(stderr, "could not put back %s > %s\n", value, path);
        }
    }
    fclose(file);
}

static pid_t child;
/* What ends a program from outside: it ends the child, and the parent puts back. */
static const int passed_on[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE};

static bool is_passed_on(int signal_number) {
    for (size_t i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++)
        if (passed_on[i] == signal_number)
            return true;
    return false;
}

static void pass_on(int signal_number) {
    kill(child, signal_number);
}

int machine_guard(char **argv) {
    if (getenv(NOTES)) {
        return -1;
    }
    int notes = memfd_create("notes", 0);
    char number[16];
    snprintf(number, sizeof(number), "%d", notes);
    setenv(NOTES, number, 1);
    child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* what it changed cannot be put back while it goes on */
        /* A new image: a forked one would not be a process that loaded the library. */
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    for (size_t i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++) {
        signal(passed_on[i], pass_on);
    }
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) < 0) {
    }
    put_back(notes);
    if (child < 0) {
        return 127;
    }
    if (WIFSIGNALED(status)) {
        if (!is_passed_on(WTERMSIG(status))) {
            fprintf(stderr, "%s: died of signal %d (%s)\n", program_invocation_short_name, WTERMSIG(status),
                    strsignal(WTERMSIG(status)));
        }
        return 128 + WTERMSIG(status);
    }
    return WEXITSTATUS(status);
}

/* The newest note is last and the oldest value must win: a setting is noted once. */
static void note(const char *path, const char *value) {
    char line[320];
    static char seen[8][256];
    for (size_t i = 0; i < 8; i++) {
        if (!strcmp(seen[i], path)) {
            return;
        }
        if (!seen[i][0]) {
            snprintf(seen[i], sizeof(seen[i]), "%s", path);
            break;
        }
    }
    int length = snprintf(line, sizeof(line), "%s %s\n", value, path);
    if (write(atoi(getenv(NOTES)), line, (size_t)length) != length) {
        abort();
    }
}

bool machine_set(const char *path, const char *value) {
    char old[64];
    if (mnw__sysfs_choice(path, old, sizeof(old)) && mnw__sysfs_text(path, old, sizeof(old)) < 0) {
        return false;
    }
    note(path, old);
    return write_text(path, value);
}

bool machine_free_hugepages(size_t page_bytes, uint64_t count) {
    struct mnw__hugepages pages;
    if (mnw__hugepages(page_bytes, -1, &pages)) {
        return false;
    }
    if (pages.free - pages.reserved < count) {
        char path[128], value[32];
        snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%zukB/nr_hugepages", page_bytes >> 10);
        snprintf(value, sizeof(value), "%" PRIu64, pages.total + count - (pages.free - pages.reserved));
        if (!machine_set(path, value) || mnw__hugepages(page_bytes, -1, &pages)) {
            return false;
        }
    }
    return pages.free - pages.reserved >= count;
}

static _Thread_local sigjmp_buf escape;
static _Thread_local volatile uintptr_t escaped_from;
static _Thread_local volatile sig_atomic_t armed;

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    if (!armed) {
        signal(signal_number, SIG_DFL);
        return;
    }
    escaped_from = (uintptr_t)info->si_addr;
    siglongjmp(escape, signal_number);
}

static int guarded(volatile char *at, const char *value, uintptr_t *fault_address) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    int signal_number = sigsetjmp(escape, 1);
    if (!signal_number) {
        armed = 1;
        if (value) {
            *at = *value;
        } else {
            (void)*at;
        }
    }
    armed = 0;
    if (signal_number && fault_address) {
        *fault_address = escaped_from;
    }
    return signal_number;
}

int machine_touch(volatile char *at, uintptr_t *fault_address) {
    return guarded(at, NULL, fault_address);
}

int machine_poke(volatile char *at, char value, uintptr_t *fault_address) {
    return guarded(at, &value, fault_address);
}

/* Who handles SIGFPE is cmocka; nobody else here does. What tests or the library have put in its place stays. */
void machine_be_a_child(void) {
    static const int of_cmocka[] = {SIGILL, SIGSEGV, SIGBUS, SIGSYS, SIGFPE};
    struct sigaction cmocka, now;
    sigaction(SIGFPE, NULL, &cmocka);
    for (size_t i = 0; i < sizeof(of_cmocka) / sizeof(of_cmocka[0]); i++)
        if (!sigaction(of_cmocka[i], NULL, &now) && now.sa_handler == cmocka.sa_handler)
            signal(of_cmocka[i], SIG_DFL);
}

int64_t machine_slowness(void) {
    const char *given = getenv("MINNOW_TEST_SLOWNESS");
    return given ? strtoll(given, NULL, 10) : 1;
}

/* By fstat(2), which opens nothing itself and knows descriptors of paths and mounts too. */
int machine_open_descriptors(void) {
    struct stat status;
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) {
        count += !fstat(fd, &status);
    }
    return count;
}
