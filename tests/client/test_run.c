/* SPDX-License-Identifier: MIT */
/*
 * `minnow run` with a program that knows nothing of it, served by the fake daemon. test_run COMMAND GUEST
 */
#include "../live/machine.h"
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *command, *guest;
static struct fake fake;
static char file[128], map[192];

static void fill_file(void) {
    unsigned char bytes[4096];
    memset(bytes, 0xff, sizeof(bytes));
    int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    for (size_t at = 0; at < SIZE; at += sizeof(bytes))
        assert_int_not_equal(write(fd, bytes, SIZE - at < sizeof(bytes) ? SIZE - at : sizeof(bytes)), -1);
    close(fd);
}

static int open_run(void **state) {
    (void)state;
    alarm(60);
    fake_open(&fake, SIZE);
    snprintf(file, sizeof(file), "%s/image=raw", fake.folder);
    snprintf(map, sizeof(map), "%s=image", file);
    fill_file();
    return 0;
}

static int close_run(void **state) {
    (void)state;
    unlink(file);
    fake_close(&fake);
    alarm(0);
    return 0;
}

/* Runs it with these arguments behind `minnow run --socket PATH`; `out` gets its standard output. */
static pid_t start(const char *const *arguments, int out) {
    const char *whole[24] = {command, "run", "--socket", fake.path};
    size_t count = 4;
    while (*arguments)
        whole[count++] = *arguments++;
    whole[count] = NULL;
    pid_t pid = fork();
    if (!pid) {
        if (out >= 0)
            dup2(out, STDOUT_FILENO);
        execv(command, (char *const *)(uintptr_t)whole);
        _exit(126);
    }
    return pid;
}

static int end_of(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

#define run(...) end_of(start((const char *const[]){__VA_ARGS__, NULL}, -1))

static void a_guest(const char *name) {
    assert_int_equal(run("--map", map, "--", guest, name, file), 0);
    assert_true(fake_seen(&fake, MNW__WIRE_ATTACH) > 0);
}

#define GUEST(name)                                                                                                    \
    static void guest_##name(void **state) {                                                                           \
        (void)state;                                                                                                   \
        a_guest(#name);                                                                                                \
    }
GUEST(read)
GUEST(writes)
GUEST(fixed)
GUEST(parts)
GUEST(remap)
GUEST(dontneed)
GUEST(remove)
GUEST(punch)
GUEST(syscalls)
GUEST(fork)
GUEST(exec)
GUEST(library)
GUEST(threads)
GUEST(others)

static void guest_follow(void **state) {
    (void)state;
    if (geteuid())
        skip(); /* EVENT_FORK takes CAP_SYS_PTRACE */
    assert_int_equal(run("--follow-fork", "--map", map, "--", guest, "follow", file), 0);
    assert_int_equal(atomic_load(&fake.shared->forks), 3);
}

static void guest_memfd(void **state) {
    (void)state;
    assert_int_equal(run("--memfd", "ram=image", "--", guest, "memfd", file), 0);
    assert_int_equal(fake_seen(&fake, MNW__WIRE_ATTACH), 1);
}

static void every_view_is_detached(void **state) {
    (void)state;
    a_guest("threads");
    assert_int_equal(fake_seen(&fake, MNW__WIRE_ATTACH), fake_seen(&fake, MNW__WIRE_DETACH));
}

static void orders_reach_the_daemon(void **state) {
    (void)state;
    assert_int_equal(run("--record", "--replay", "--verbose", "--map", map, "--", guest, "read", file), 0);
    assert_int_equal(fake_seen(&fake, MNW__WIRE_RECORD), 6); /* three views: begun and saved */
    assert_int_equal(fake_seen(&fake, MNW__WIRE_REPLAY), 3);
}

/* The guest ends with its view mapped. */
static void what_was_recorded_is_saved_at_the_end(void **state) {
    (void)state;
    assert_int_equal(run("--record", "--map", map, "--", guest, "remove", file), 0);
    assert_int_equal(fake_seen(&fake, MNW__WIRE_ATTACH), 2);
    assert_int_equal(fake_seen(&fake, MNW__WIRE_RECORD), 4);
    assert_int_equal(fake_seen(&fake, MNW__WIRE_DETACH), 0);
}

/* Without the command the guest would see the file: the checks do check. */
/* The orders name everything by its whole path: a program may go elsewhere before it maps. */
static void relative_paths_are_good_anywhere(void **state) {
    (void)state;
    char script[400];
    snprintf(script, sizeof(script),
             "cd '%s' && '%s' run --socket socket --map image=raw=image -- sh -c 'cd / && \"%s\" read \"%s\"'",
             fake.folder, command, guest, file);
    assert_int_equal(system(script), 0);
    assert_int_equal(fake_seen(&fake, MNW__WIRE_ATTACH), 3);
}

static void the_guest_sees_the_difference(void **state) {
    (void)state;
    pid_t pid = fork();
    if (!pid) {
        close(STDERR_FILENO);
        execl(guest, guest, "read", file, NULL);
        _exit(126);
    }
    assert_int_equal(end_of(pid), 1);
}

/* A guest that reads slowly, and has begun. */
static pid_t start_reading(void) {
    int pipes[2];
    char star;
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = start((const char *const[]){"--map", map, "--", guest, "slowly", file, NULL}, pipes[1]);
    close(pipes[1]);
    assert_int_equal(read(pipes[0], &star, 1), 1);
    close(pipes[0]);
    return pid;
}

static void the_daemon_is_killed_meanwhile(void **state) {
    (void)state;
    pid_t pid = start_reading();
    for (unsigned i = 0; i < 10; i++) {
        nap(30);
        fake_kill(&fake);
        nap(i % 3 * 10);
        fake_start(&fake);
    }
    assert_int_equal(end_of(pid), 0);
}

static void a_lost_daemon_is_sigbus_and_no_zeros(void **state) {
    (void)state;
    pid_t pid = start_reading();
    fake_kill(&fake);
    fake_new_backing(&fake);
    fake_start(&fake);
    assert_int_equal(end_of(pid), 128 + SIGBUS);
}

static void what_cannot_run_is_refused_before(void **state) {
    (void)state;
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC), old = dup(STDERR_FILENO);
    dup2(null, STDERR_FILENO);
    int codes[] = {run("--map", map, "--"),
                   run("--", guest, "read", file),
                   run("--map", file, "--", guest, "read", file),
                   run("--map", "/nonexistent=image", "--", guest, "read", file),
                   run("--map", "/tmp=image", "--", guest, "read", file),
                   run("--memfd", "ram=other", "--", guest, "read", file),
                   run("--socket", "/nonexistent/socket", "--map", map, "--", guest, "read", file),
                   run("--nonsense", "--map", map, "--", guest, "read", file)};
    int missing = run("--map", map, "--", "/nonexistent/program"), denied = run("--map", map, "--", file);
    dup2(old, STDERR_FILENO);
    close(old);
    close(null);
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        assert_int_equal(codes[i], 2);
    assert_int_equal(missing, 127);
    assert_int_equal(denied, 126);
}

int main(int argc, char **argv) {
    int code = machine_guard(argv);
    if (code >= 0)
        return code;
    if (argc != 3)
        return 2;
    /* Some tests leave this folder. */
    command = realpath(argv[1], NULL);
    guest = realpath(argv[2], NULL);
    if (!command || !guest)
        return 2;
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_run, close_run)
    const struct CMUnitTest tests[] = {
        TEST(guest_read),
        TEST(guest_writes),
        TEST(guest_fixed),
        TEST(guest_parts),
        TEST(guest_remap),
        TEST(guest_dontneed),
        TEST(guest_remove),
        TEST(guest_punch),
        TEST(guest_syscalls),
        TEST(guest_fork),
        TEST(guest_follow),
        TEST(guest_exec),
        TEST(guest_library),
        TEST(guest_threads),
        TEST(guest_memfd),
        TEST(guest_others),
        TEST(every_view_is_detached),
        TEST(orders_reach_the_daemon),
        TEST(what_was_recorded_is_saved_at_the_end),
        TEST(relative_paths_are_good_anywhere),
        TEST(the_guest_sees_the_difference),
        TEST(the_daemon_is_killed_meanwhile),
        TEST(a_lost_daemon_is_sigbus_and_no_zeros),
        TEST(what_cannot_run_is_refused_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
