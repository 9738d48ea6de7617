/* SPDX-License-Identifier: MIT */
/* Reads through both ways: the same tests, once with io_uring and once with threads. */
#include "base/error.h"
#include "sys/backing.h"
#include "sys/io.h"
#include "sys/poller.h"
#include "sys/thread.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SECOND     1000000000ull
#define DEPTH      16
#define FILE_BYTES (((size_t)3 << 20) + 100)

struct fixture {
    struct mnw__io *io;
    struct mnw__poller *poller;
    FILE *store;
    int fd;
    char *buffer;
    struct mnw__mutex mutex; /* threads answer from theirs */
    unsigned answers;
    int64_t results[64]; /* by token */
};

static char byte_at(uint64_t offset) {
    return (char)(offset * 2654435761u >> 13);
}

static void answered(void *context, uint64_t token, int64_t result) {
    struct fixture *fixture = context;
    mnw__mutex_lock(&fixture->mutex);
    fixture->results[token % 64] = result;
    fixture->answers++;
    mnw__mutex_unlock(&fixture->mutex);
}

static struct fixture *make(enum mnw_io_mode mode) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    mnw__mutex_init(&fixture->mutex);
    if (mnw__io_open(&fixture->io, mode, DEPTH, 0, answered, fixture)) {
        print_error("%s\n", mnw__fail_message());
        free(fixture);
        return NULL;
    }
    assert_int_equal(mnw__io_mode(fixture->io), mode);
    assert_int_equal(mnw__poller_open(&fixture->poller), 0);
    if (mode == MNW_IO_URING) {
        assert_int_equal(mnw__poller_add(fixture->poller, mnw__io_fd(fixture->io), fixture), 0);
    } else {
        assert_int_equal(mnw__io_fd(fixture->io), -1);
    }
    /* Not a memfd: reads of shmem never end inline. */
    fixture->store = tmpfile();
    assert_non_null(fixture->store);
    fixture->fd = fileno(fixture->store);
    fixture->buffer = malloc(FILE_BYTES);
    for (size_t i = 0; i < FILE_BYTES; i++) {
        fixture->buffer[i] = byte_at(i);
    }
    assert_int_equal(write(fixture->fd, fixture->buffer, FILE_BYTES), FILE_BYTES);
    memset(fixture->buffer, 0, FILE_BYTES);
    return fixture;
}

static int set_up_ring(void **state) {
    return (*state = make(MNW_IO_URING)) ? 0 : -1;
}

static int set_up_threads(void **state) {
    return (*state = make(MNW_IO_THREADS)) ? 0 : -1;
}

static int tear_down(void **state) {
    struct fixture *fixture = *state;
    mnw__io_close(fixture->io);
    mnw__poller_close(fixture->poller);
    mnw__mutex_destroy(&fixture->mutex);
    fclose(fixture->store);
    free(fixture->buffer);
    free(fixture);
    return 0;
}

static unsigned answers(struct fixture *fixture) {
    mnw__mutex_lock(&fixture->mutex);
    unsigned count = fixture->answers;
    mnw__mutex_unlock(&fixture->mutex);
    return count;
}

/*
 * Waits as a fault thread does: what reap finds not, the poller announces. A wait that ends by its timeout has
 * missed an announcement, even if there is something to reap then.
 */
static void await(struct fixture *fixture, unsigned count) {
    bool announces = mnw__io_fd(fixture->io) >= 0;
    uint64_t start = mnw__clock_ns();
    while (mnw__io_reap(fixture->io), answers(fixture) < count) {
        void *tag;
        mnw__poller_wait(fixture->poller, &tag, 1, announces ? (int64_t)(5 * SECOND) : 100000);
        assert_true(mnw__clock_ns() - start < 4 * SECOND);
    }
}

static void assert_bytes(const char *buffer, uint64_t offset, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (buffer[i] != byte_at(offset + i)) {
            fail_msg("byte %zu differs", i);
        }
    }
}

static void test_reads(void **state) {
    struct fixture *fixture = *state;
    for (uint64_t i = 0; i < DEPTH; i++) {
        assert_int_equal(
            mnw__io_read(fixture->io, fixture->fd, fixture->buffer + i * 8192, 8192, i * 8192 + 3, i, 0, 0), 0);
    }
    assert_int_equal(answers(fixture), 0);
    mnw__io_submit(fixture->io);
    await(fixture, DEPTH);
    for (uint64_t i = 0; i < DEPTH; i++) {
        assert_int_equal(fixture->results[i], 8192);
    }
    assert_bytes(fixture->buffer, 3, DEPTH * 8192);
    mnw__io_submit(fixture->io); /* nothing queued */
    assert_int_equal(mnw__io_reap(fixture->io), 0);
}

static void test_depth(void **state) {
    struct fixture *fixture = *state;
    for (unsigned round = 1; round <= 3; round++) {
        for (uint64_t i = 0; i < DEPTH; i++) {
            assert_int_equal(mnw__io_read(fixture->io, fixture->fd, fixture->buffer + i, 1, i, i, 0, 0), 0);
        }
        assert_int_equal(mnw__io_read(fixture->io, fixture->fd, fixture->buffer, 1, 0, 0, 0, 0), -EAGAIN);
        mnw__io_submit(fixture->io);
        await(fixture, round * DEPTH);
    }
    assert_bytes(fixture->buffer, 0, DEPTH);
}

/* Longer than what is read inside the submission. */
static void test_long_reads(void **state) {
    struct fixture *fixture = *state;
    assert_int_equal(mnw__io_read(fixture->io, fixture->fd, fixture->buffer, 1 << 20, 0, 1, 0, 0), 0);
    assert_int_equal(mnw__io_read(fixture->io, fixture->fd, fixture->buffer + (1 << 20), 2 << 20, 1 << 20, 2, 0, 0), 0);
    mnw__io_submit(fixture->io);
    await(fixture, 2);
    assert_int_equal(fixture->results[1], 1 << 20);
    assert_int_equal(fixture->results[2], 2 << 20);
    assert_bytes(fixture->buffer, 0, 3 << 20);
}

static void test_ends_and_errors(void **state) {
    struct fixture *fixture = *state;
    int writeonly = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_int_equal(mnw__io_read(fixture->io, fixture->fd, fixture->buffer, 4096, FILE_BYTES - 100, 0, 0, 0), 0);
    assert_int_equal(mnw__io_read(fixture->io, fixture->fd, fixture->buffer, 4096, FILE_BYTES, 1, 0, 0), 0);
    assert_int_equal(mnw__io_read(fixture->io, writeonly, fixture->buffer, 4096, 0, 2, 0, 0), 0);
    assert_int_equal(mnw__io_read(fixture->io, fixture->fd, (void *)8, 4096, 0, 3, 0, 0), 0);
    mnw__io_submit(fixture->io);
    await(fixture, 4);
    assert_int_equal(fixture->results[0], 100);
    assert_int_equal(fixture->results[1], 0);
    assert_int_equal(fixture->results[2], -EBADF);
    assert_int_equal(fixture->results[3], -EFAULT);
    close(writeonly);
}

/* Margins are read and not counted. */
static void test_margins(void **state) {
    struct fixture *fixture = *state;
    char *at = fixture->buffer + 4096;
    assert_int_equal(mnw__io_read(fixture->io, fixture->fd, at, 1000, 5000, 0, 904, 2192), 0);
    assert_int_equal(mnw__io_read(fixture->io, fixture->fd, at + 8192, 1000, FILE_BYTES - 10, 1, 90, 500), 0);
    assert_int_equal(mnw__io_read(fixture->io, fixture->fd, at + 16384, 1000, FILE_BYTES, 2, 90, 500), 0);
    assert_int_equal(mnw__io_read(fixture->io, fixture->fd, at + 24576, 1000, FILE_BYTES + 50, 3, 90, 500), 0);
    mnw__io_submit(fixture->io);
    await(fixture, 4);
    assert_int_equal(fixture->results[3], 0);
    assert_int_equal(fixture->results[0], 1000);
    assert_bytes(at - 904, 4096, 4096);
    assert_int_equal(fixture->results[1], 10);
    assert_int_equal(fixture->results[2], 0);
}

/* io_uring only: a warm read has ended when submit returns, and needs no wait to be reaped. */
static void test_warm_reads_end_inline(void **state) {
    struct fixture *fixture = *state;
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(mnw__io_read(fixture->io, fixture->fd, fixture->buffer, 4096, 0, i, 0, 0), 0);
    }
    mnw__io_submit(fixture->io);
    assert_int_equal(mnw__io_reap(fixture->io), 4);
    assert_int_equal(answers(fixture), 4);
}

static int in_child(int (*run)(void)) {
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        _exit(run());
    }
    int status = 1;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

/* The kernel's workers are threads of this process. */
static bool has_worker(void) {
    DIR *tasks = opendir("/proc/self/task");
    bool found = false;
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task->d_name);
        FILE *file = fopen(path, "r");
        found |= file && fgets(name, sizeof(name), file) && !strncmp(name, "iou-wrk", 7);
        if (file) {
            fclose(file);
        }
    }
    closedir(tasks);
    return found;
}

static int read_warm_and_long(void) {
    struct fixture *fixture = make(MNW_IO_URING);
    mnw__io_read(fixture->io, fixture->fd, fixture->buffer, 4096, 0, 0, 0, 0);
    mnw__io_submit(fixture->io);
    await(fixture, 1);
    if (has_worker()) {
        return 1;
    }
    mnw__io_read(fixture->io, fixture->fd, fixture->buffer, 3 << 20, 0, 1, 0, 0);
    mnw__io_submit(fixture->io);
    await(fixture, 2);
    return has_worker() ? 0 : 2;
}

/* A short warm read is done inside the submission, a long one by a worker. */
static void test_long_reads_do_not_block_submission(void **state) {
    (void)state;
    assert_int_equal(in_child(read_warm_and_long), 0);
}

static void read_cold(void *argument) {
    struct fixture *fixture = argument;
    for (unsigned i = 0; i < 20; i++) {
        /* The bytes leave the kernel's page cache, so the reads end later, on the device's or a worker's time. */
        assert_int_equal(posix_fadvise(fixture->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        assert_int_equal(mnw__io_read(fixture->io, fixture->fd, fixture->buffer, 4096, 0, 0, 0, 0), 0);
        assert_int_equal(mnw__io_read(fixture->io, fixture->fd, fixture->buffer + 4096, 2 << 20, 4096, 1, 0, 0), 0);
        mnw__io_submit(fixture->io);
        await(fixture, 2 * (i + 1));
        assert_bytes(fixture->buffer, 0, 4096 + (2 << 20));
    }
}

/* Another thread than the one that opened the ring and had it polled. */
static void test_cold_reads(void **state) {
    struct fixture *fixture = *state;
    struct mnw__thread thread;
    assert_int_equal(fsync(fixture->fd), 0);
    assert_int_equal(mnw__thread_start(&thread, "owner", -1, read_cold, fixture), 0);
    mnw__thread_join(&thread);
    assert_int_equal(answers(fixture), 40);
}

static void read_there(void *argument) {
    struct fixture *fixture = argument;
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    /* Not to be had at once: this one ends later, and the poller tells. */
    assert_int_equal(mnw__io_read(fixture->io, pipes[0], fixture->buffer, 4, (uint64_t)-1, 7, 0, 0), 0);
    mnw__io_submit(fixture->io);
    assert_int_equal(mnw__io_reap(fixture->io), 0);
    assert_int_equal(write(pipes[1], "abcd", 4), 4);
    await(fixture, 1);
    close(pipes[0]);
    close(pipes[1]);
}

/* The ring belongs to the thread that first submits, not to the one that opened it. */
static void test_another_thread_owns_the_ring(void **state) {
    struct fixture *fixture = *state;
    struct mnw__thread thread;
    assert_int_equal(mnw__thread_start(&thread, "owner", -1, read_there, fixture), 0);
    mnw__thread_join(&thread);
    assert_int_equal(fixture->answers, 1);
    assert_int_equal(fixture->results[7], 4);
    assert_memory_equal(fixture->buffer, "abcd", 4);
}

static void forbid(long number, int error) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = 4, .filter = filter};
    assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static const int refusals[] = {ENOSYS, EPERM, EACCES, ENOMEM};
static int refusal;

static int open_refused(void) {
    forbid(SYS_io_uring_setup, refusal);
    struct fixture fixture = {.answers = 0};
    struct mnw__io *io;
    if (mnw__io_open(&io, MNW_IO_URING, 4, -1, answered, &fixture) != -refusal) {
        return 1;
    }
    if (!strstr(mnw__fail_message(), "io_uring_disabled")) {
        return 2;
    }
    if (mnw__io_open(&io, MNW_IO_AUTO, 4, -1, answered, &fixture) || mnw__io_mode(io) != MNW_IO_THREADS) {
        return 3;
    }
    mnw__io_close(io);
    return 0;
}

static void test_refused_setup_falls_back(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        refusal = refusals[i];
        assert_int_equal(in_child(open_refused), 0);
    }
}

/* Granted, then taken away: the reads are answered all the same, also in later rounds. */
static int lose_the_ring(void) {
    struct fixture *fixture = make(MNW_IO_URING);
    forbid(SYS_io_uring_enter, refusal);
    for (int round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < DEPTH; i++) {
            if (mnw__io_read(fixture->io, fixture->fd, fixture->buffer + i * 4096, 4096, i * 4096, i, 0, 0)) {
                return 1;
            }
        }
        mnw__io_submit(fixture->io);
        if (mnw__io_reap(fixture->io) != DEPTH) {
            return 2;
        }
    }
    for (size_t i = 0; i < DEPTH * 4096; i++) {
        if (fixture->buffer[i] != byte_at(i)) {
            return 3;
        }
    }
    return 0;
}

static void test_a_ring_taken_away(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        refusal = refusals[i];
        assert_int_equal(in_child(lose_the_ring), 0);
    }
}

static void await_sends(struct fixture *fixture, unsigned count) {
    uint64_t start = mnw__clock_ns();
    while (answers(fixture) < count) {
        assert_true(mnw__clock_ns() - start < 4 * SECOND);
        mnw__sleep_ns(100000);
    }
}

/* As many as there is room for, beside reads; the end of the file, and an error. */
static void test_sends(void **state) {
    struct fixture *fixture = *state;
    struct mnw__backing backing;
    enum { PIECE = 128 << 10, PIECES = DEPTH - 1 };
    assert_int_equal(mnw__io_open_senders(fixture->io, DEPTH, -1, answered, fixture), 0);
    assert_true(mnw__io_sends(fixture->io));
    assert_int_equal(mnw__backing_create(&backing, MNW_BACKING_SHMEM, FILE_BYTES + PIECE), 0);
    for (uint64_t i = 0; i < PIECES; i++)
        assert_int_equal(mnw__io_send(fixture->io, fixture->fd, &backing, PIECE, i * PIECE, i), 0);
    assert_int_equal(mnw__io_read(fixture->io, fixture->fd, fixture->buffer, 4096, 0, PIECES, 0, 0), 0);
    mnw__io_submit(fixture->io);
    await_sends(fixture, PIECES);
    await(fixture, PIECES + 1);
    for (uint64_t i = 0; i < PIECES; i++)
        assert_int_equal(fixture->results[i], PIECE);
    assert_bytes(backing.alias, 0, PIECES * (size_t)PIECE);
    assert_bytes(fixture->buffer, 0, 4096);
    assert_int_equal(mnw__io_send(fixture->io, fixture->fd, &backing, PIECE, FILE_BYTES - 10, 20), 0);
    assert_int_equal(mnw__io_send(fixture->io, -1, &backing, PIECE, 0, 21), 0);
    mnw__io_submit(fixture->io);
    await_sends(fixture, PIECES + 3);
    assert_int_equal(fixture->results[20], 10);
    assert_int_equal(fixture->results[21], -EBADF);
    mnw__backing_destroy(&backing);
}

static void test_is_cached(void **state) {
    (void)state;
    enum { LENGTH = 256 << 10 };
    int fd = open("/var/tmp", O_TMPFILE | O_RDWR, 0600); /* of a disk: what is in memory alone cannot leave it */
    static char bytes[LENGTH];
    assert_true(fd >= 0);
    assert_false(mnw__io_is_cached(-1, 0, 4096));
    assert_int_equal(write(fd, bytes, LENGTH), LENGTH);
    assert_int_equal(fdatasync(fd), 0);
    if (!mnw__io_is_cached(fd, 0, 4096)) {
        print_message("this kernel does not tell what is in its page cache\n");
        close(fd);
        skip();
    }
    assert_true(mnw__io_is_cached(fd, 0, LENGTH) && mnw__io_is_cached(fd, 5000, LENGTH - 5000));
    assert_false(mnw__io_is_cached(fd, 4096, LENGTH));
    posix_fadvise(fd, LENGTH / 2, LENGTH / 4, POSIX_FADV_DONTNEED);
    bool left = mnw__io_is_cached(fd, LENGTH / 2, LENGTH / 4);
    if (left)
        print_message("this file system keeps it all in memory\n");
    assert_int_equal(mnw__io_is_cached(fd, 0, LENGTH), left);
    assert_true(mnw__io_is_cached(fd, 0, 4096));
    close(fd);
}

#define RING(name)                                                                                                     \
    { "io_uring: " #name, name, set_up_ring, tear_down, NULL }
#define THREADS(name)                                                                                                  \
    { "threads: " #name, name, set_up_threads, tear_down, NULL }

int main(void) {
    const struct CMUnitTest tests[] = {
        RING(test_reads),
        RING(test_depth),
        RING(test_long_reads),
        RING(test_ends_and_errors),
        RING(test_margins),
        RING(test_warm_reads_end_inline),
        cmocka_unit_test(test_long_reads_do_not_block_submission),
        RING(test_cold_reads),
        THREADS(test_cold_reads),
        RING(test_another_thread_owns_the_ring),
        THREADS(test_reads),
        THREADS(test_depth),
        THREADS(test_long_reads),
        THREADS(test_ends_and_errors),
        THREADS(test_margins),
        RING(test_sends),
        THREADS(test_sends),
        cmocka_unit_test(test_is_cached),
        cmocka_unit_test(test_refused_setup_falls_back),
        cmocka_unit_test(test_a_ring_taken_away),
    };
    return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
