/* SPDX-License-Identifier: MIT */
/*
 * The filter of system calls: what the worker may no longer do kills it, in every thread, and what it must do it may.
 *
 * Each case is a child of its own that puts the filter on and makes one call.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/config.h"
#include "daemon/harden.h"

#include <errno.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int before, other_thread_go[2];

static void *call_execve(void *unused) {
    char byte;
    (void)unused;
    if (read(other_thread_go[0], &byte, 1) == 1)
        syscall(SYS_execve, "/bin/true", NULL, NULL);
    return NULL;
}

/* ---- what kills ---- */

static void do_execve(void) {
    syscall(SYS_execve, "/bin/true", NULL, NULL);
}
static void do_execveat(void) {
    syscall(SYS_execveat, AF_UNIX, "", NULL, NULL, 0);
}
static void do_fork(void) {
    syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
static void do_vfork(void) {
#ifdef SYS_vfork
    syscall(SYS_vfork);
#else /* arm64 */
    syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
#endif
}
static void do_ptrace(void) {
    syscall(SYS_ptrace, 16, 1, 0, 0);
}
static void do_read_others(void) {
    syscall(SYS_process_vm_readv, 1, NULL, 0, NULL, 0, 0);
}
static void do_kill(void) {
    syscall(SYS_kill, getppid(), 0);
}
static void do_connect(void) {
    syscall(SYS_connect, before, NULL, 0);
}
static void do_bind(void) {
    syscall(SYS_bind, before, NULL, 0);
}
static void do_inet(void) {
    syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
}
static void do_setuid(void) {
    syscall(SYS_setuid, 0);
}
/* Were it let through, there would be nothing to mount, and nowhere. */
static void do_mount(void) {
    syscall(SYS_mount, NULL, NULL, NULL, 0, NULL);
}
static void do_terminal(void) {
    ioctl(-1, 0x5412 /* TIOCSTI */, "x");
}
static void do_bpf(void) {
    syscall(SYS_bpf, 0, NULL, 0);
}
static void do_keys(void) {
    syscall(SYS_keyctl, 0, 0, 0, 0, 0);
}
static void do_limits(void) {
    uint64_t limit[2] = {100, 100};
    syscall(SYS_prlimit64, 0, 7, limit, NULL); /* of this child alone */
}
static void do_dumpable(void) {
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}
static void do_pidfd(void) {
    syscall(SYS_pidfd_getfd, before, 0, 0);
}
/* The filter is over the threads that were there before it as well. */
static void do_execve_elsewhere(void) {
    if (write(other_thread_go[1], "x", 1) == 1)
        pause();
}

/* ---- what does not ---- */

static void *nothing(void *unused) {
    return unused;
}
static void do_threads(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL))
        _exit(9);
}
static void do_memory(void) {
    int fd = memfd_create("x", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 4096) || mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
        _exit(9);
}
static void do_uffd(void) {
    struct uffdio_range range = {0, 4096};
    ioctl(before, UFFDIO_WAKE, &range);
    ioctl(before, UFFDIO_CONTINUE, &range);
}
static void do_files(void) {
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[80];
    if (!maps || !fgets(line, sizeof(line), maps))
        _exit(9);
}

static pid_t run(void (*act)(void), const char *backing) {
    char text[200];
    pid_t pid = fork();
    if (pid)
        return pid;
    pthread_t thread;
    struct mnw__config *config = mnw__config_new();
    snprintf(text, sizeof(text),
             "{\"pools\": [{\"name\": \"p\", \"budget\": \"4M\", \"backing\": \"%s\"}],"
             "\"images\": [{\"name\": \"a\", \"uri\": \"file:///a\"}]}",
             backing);
    before = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (mnw__config_parse(config, text, strlen(text), "test") || mnw__config_finish(config) || pipe(other_thread_go) ||
        pthread_create(&thread, NULL, call_execve, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        mnw__harden_calls(config))
        _exit(8);
    act();
    _exit(0);
}

static int status_of(void (*act)(void), const char *backing) {
    int status = 0;
    pid_t pid = run(act, backing);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void test_forbidden(void **state) {
    static const struct {
        const char *name;
        void (*act)(void);
    } cases[] = {{"execve", do_execve},
                 {"execveat", do_execveat},
                 {"fork", do_fork},
                 {"vfork", do_vfork},
                 {"ptrace", do_ptrace},
                 {"process_vm_readv", do_read_others},
                 {"kill", do_kill},
                 {"connect", do_connect},
                 {"bind", do_bind},
                 {"an internet socket", do_inet},
                 {"setuid", do_setuid},
                 {"mount", do_mount},
                 {"TIOCSTI", do_terminal},
                 {"bpf", do_bpf},
                 {"keyctl", do_keys},
                 {"prlimit", do_limits},
                 {"becoming dumpable", do_dumpable},
                 {"pidfd_getfd", do_pidfd},
                 {"execve in another thread", do_execve_elsewhere}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        int status = status_of(cases[i].act, "shmem");
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
            fail_msg("%s: status 0x%x instead of death by SIGSYS", cases[i].name, (unsigned)status);
    }
}

static void test_allowed(void **state) {
    static void (*const acts[])(void) = {do_threads, do_memory, do_uffd, do_files};
    (void)state;
    for (size_t i = 0; i < sizeof(acts) / sizeof(*acts); i++)
        assert_int_equal(status_of(acts[i], "shmem"), 0);
    assert_int_equal(status_of(do_mount, "graded"), 0); /* its own tmpfs; the call itself fails */
}

int main(void) {
    const char *sanitize = getenv("MINNOW_SANITIZE");
    if (sanitize && strcmp(sanitize, "none") != 0) {
        puts("skipped: a sanitizer's runtime makes calls of its own");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forbidden), cmocka_unit_test(test_allowed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
