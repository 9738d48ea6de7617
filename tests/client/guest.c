/* SPDX-License-Identifier: MIT */
/*
 * An ordinary program, which knows nothing of minnow, and does with the mappings of a file what programs do.
 *
 * guest CHECK FILE: the file is full of 0xff, and its mappings must show the fake daemon's image. Exits with 0, or says
 * what was wrong and exits with 1.
 */
#include "bytes.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define PAGE 4096ul

static const char *self, *path;
static size_t size; /* of the file and the image */
static int fd;

#define check(holds) check_at(holds, #holds, __LINE__)
static void check_at(bool holds, const char *text, int line) {
    if (!holds) {
        fprintf(stderr, "guest.c:%d: not true: %s (errno %d)\n", line, text, errno);
        _exit(1);
    }
}

static unsigned char *map(int protection, int flags) {
    unsigned char *at = mmap(NULL, size, protection, flags, fd, 0);
    check(at != MAP_FAILED);
    return at;
}

static unsigned char *map_private(void) {
    return map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static bool right(const unsigned char *at, size_t page, size_t count) {
    size_t offset = page * PAGE, length = count * PAGE < size - offset ? count * PAGE : size - offset;
    return !fake_wrong(at + offset, offset, length);
}

static bool all_right(const unsigned char *at) {
    return right(at, 0, (size + PAGE - 1) / PAGE);
}

static bool all_are(const unsigned char *at, size_t page, size_t count, unsigned char value) {
    for (size_t i = page * PAGE; i < (page + count) * PAGE; i++)
        if (at[i] != value)
            return false;
    return true;
}

static bool file_is_untouched(void) {
    unsigned char bytes[PAGE];
    for (size_t at = 0; at < size; at += PAGE) {
        ssize_t got = pread(fd, bytes, sizeof(bytes), (off_t)at);
        for (ssize_t i = 0; i < got; i++)
            if (bytes[i] != 0xff)
                return false;
    }
    struct stat status;
    return !fstat(fd, &status) && (size_t)status.st_size == size;
}

static sigjmp_buf escape;
static void jump(int number) {
    siglongjmp(escape, number);
}

/* 0, or the signal. */
static int touch(volatile unsigned char *at) {
    signal(SIGSEGV, jump);
    signal(SIGBUS, jump);
    int number = sigsetjmp(escape, 1);
    if (!number)
        (void)*at;
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    return number;
}

/* ---- mapping ---- */

static void read_all(void) {
    unsigned char *one = map(PROT_READ, MAP_SHARED), *other = map_private();
    check(all_right(one));
    check(all_right(other));
    for (size_t i = size; i % PAGE; i++)
        check(!one[i]);
    check(!munmap(one, size));
    check(touch(one) == SIGSEGV);
    unsigned char *part = mmap(NULL, 3 * PAGE, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 5 * PAGE);
    check(part != MAP_FAILED && !fake_wrong(part, 5 * PAGE, 3 * PAGE));
    check(mprotect(part, 3 * PAGE, PROT_NONE) == 0 && touch(part) == SIGSEGV);
    check(!munmap(part, 3 * PAGE) && !munmap(other, size));
}

static void writes(void) {
    unsigned char *one = map_private(), *shared = map(PROT_READ | PROT_WRITE, MAP_SHARED);
    memset(one, 7, 3 * PAGE);
    memset(shared + 4 * PAGE, 8, PAGE);
    check(all_are(one, 0, 3, 7) && right(one, 3, 60));
    check(right(shared, 0, 4) && all_are(shared, 4, 1, 8) && right(shared, 5, 60));
    check(file_is_untouched());
    int readonly = open(path, O_RDONLY);
    errno = 0;
    check(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, readonly, 0) == MAP_FAILED && errno == EACCES);
    unsigned char *copy = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, readonly, 0);
    check(copy != MAP_FAILED && right(copy, 0, 1));
    *copy = 3;
    check(*copy == 3);
}

/* As QEMU does: room first, then the file into it. */
static void fixed(void) {
    unsigned char *room = mmap(NULL, size + 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *at = mmap(room + 16 * PAGE, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0);
    check(at == room + 16 * PAGE && all_right(at));
    check(touch(room + 15 * PAGE) == SIGSEGV);
    check(mmap(at + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED);
    check(errno == ENOMEM && all_right(at));
    errno = 0;
    check(mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0) == MAP_FAILED && errno == EEXIST);
    check(mmap(at, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at && all_are(at, 0, 60, 0));
    check(mmap(at, size, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == at && all_right(at));
    check(mmap(at, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == at && all_right(at)); /* a view over a view */
    check(!munmap(room, size + 64 * PAGE) && touch(at) == SIGSEGV);
    check(mmap(at, size, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0) == at && all_right(at));
    errno = 0;
    check(mmap(NULL, size + 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED && errno == EINVAL);
}

static void unmap_parts(void) {
    unsigned char *at = map_private();
    size_t pages = (size + PAGE - 1) / PAGE;
    memset(at, 9, PAGE);
    check(!munmap(at + 10 * PAGE, 5 * PAGE));
    check(touch(at + 10 * PAGE) == SIGSEGV && touch(at + 14 * PAGE) == SIGSEGV);
    check(all_are(at, 0, 1, 9) && right(at, 1, 9) && right(at, 15, pages - 15));
    check(!munmap(at, 2 * PAGE) && touch(at) == SIGSEGV && right(at, 2, 8));
    check(!munmap(at + 12 * PAGE, PAGE)); /* once more is nothing */
    check(!munmap(at + (pages - 3) * PAGE, 3 * PAGE) && right(at, 15, pages - 18));
    check(!munmap(at, 15 * PAGE));
    check(!munmap(at, pages * PAGE)); /* and the rest */
    check(mmap(at, pages * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at);
    errno = 0;
    check(munmap(at + 1, PAGE) == -1 && errno == EINVAL);
}

static void remap(void) {
    unsigned char *at = map_private();
    errno = 0;
    check(mremap(at, size, 2 * size, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
    unsigned char *room = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, room) == MAP_FAILED && errno == ENOMEM);
    check(mremap(at, size, size, 0) == at && all_right(at));
    check(mremap(at, size, 20 * PAGE, 0) == at && right(at, 0, 20) && touch(at + 20 * PAGE) == SIGSEGV);
    unsigned char *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *other = 5;
    other = mremap(other, PAGE, 8 * PAGE, MREMAP_MAYMOVE);
    check(other != MAP_FAILED && *other == 5);
}

/* ---- giving memory back ---- */

static void dontneed(void) {
    unsigned char *one = map_private(), *shared = map(PROT_READ | PROT_WRITE, MAP_SHARED);
    memset(one, 7, 4 * PAGE);
    memset(shared, 7, 4 * PAGE);
    check(!madvise(one, 2 * PAGE, MADV_DONTNEED) && !madvise(shared, 2 * PAGE, MADV_DONTNEED));
    check(right(one, 0, 2) && all_are(one, 2, 2, 7) && all_are(shared, 0, 4, 7));
    check(!madvise(one, size, MADV_HUGEPAGE) && !madvise(one, size, MADV_DOFORK));
    errno = 0;
    check(madvise(one, size, MADV_COLLAPSE) == -1 && errno == EINVAL);
    check(all_right(one + 0 * PAGE) == false && right(one, 4, 60));
}

static void remove_pages(void) {
    unsigned char *shared = map(PROT_READ | PROT_WRITE, MAP_SHARED), *one = map_private();
    shared[PAGE] = 7;
    check(!madvise(shared, 3 * PAGE, MADV_REMOVE));
    check(all_are(shared, 0, 3, 0) && right(shared, 3, 60));
    errno = 0;
    check(madvise(one + 8 * PAGE, PAGE, MADV_REMOVE) == -1 && errno == EACCES && right(one, 8, 1));
    check(all_are(one, 0, 3, 0)); /* it is one file */
    check(file_is_untouched());
}

/* As a balloon does. */
static void punch(void) {
    unsigned char *one = map_private(), *other = map_private();
    memset(one + PAGE, 7, PAGE);
    check(one[2 * PAGE] == fake_byte(2 * PAGE));
    check(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4 * PAGE));
    check(all_are(one, 0, 1, 0) && all_are(one, 1, 1, 7) && all_are(one, 2, 2, 0) && right(one, 4, 60));
    check(all_are(other, 0, 4, 0) && right(other, 4, 60));
    check(!madvise(one, 6 * PAGE, MADV_DONTNEED) && all_are(one, 0, 4, 0) && right(one, 4, 60));
    memset(one, 5, PAGE);
    check(all_are(one, 0, 1, 5) && all_are(other, 0, 1, 0));
    unsigned char *late = map_private();
    check(all_are(late, 0, 4, 0) && right(late, 4, 60));
    for (size_t page = 20; page < 60; page += 2)
        check(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(page * PAGE), PAGE));
    for (size_t page = 20; page < 60; page++)
        check(page % 2 ? right(late, page, 1) : all_are(late, page, 1, 0));
    errno = 0;
    check(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, PAGE) == -1 && errno == EOPNOTSUPP);
    check(ftruncate(fd, PAGE) == -1 && errno == EPERM && !ftruncate(fd, (off_t)size));
    check(file_is_untouched());
}

/* ---- system calls with addresses in a view ---- */

static void system_calls(void) {
    unsigned char *at = map_private(), bytes[3 * PAGE];
    int pipes[2];
    check(!pipe(pipes));
    check(write(pipes[1], at + 7 * PAGE + 5, 2 * PAGE) == 2 * PAGE); /* untouched */
    check(read(pipes[0], bytes, sizeof(bytes)) == 2 * PAGE && !fake_wrong(bytes, 7 * PAGE + 5, 2 * PAGE));
    memset(bytes, 6, sizeof(bytes));
    check(write(pipes[1], bytes, 2 * PAGE) == 2 * PAGE);
    check(read(pipes[0], at + 30 * PAGE + 9, 2 * PAGE) == 2 * PAGE); /* into untouched pages */
    check(right(at, 29, 1) && !fake_wrong(at + 30 * PAGE, 30 * PAGE, 9) && at[30 * PAGE + 9] == 6);
    check(!fake_wrong(at + 32 * PAGE + 9, 32 * PAGE + 9, 9 * PAGE));
    check(pread(fd, at + 50 * PAGE, PAGE, 0) == PAGE && all_are(at, 50, 1, 0xff) && right(at, 51, 60));
}

/* ---- processes, libraries, threads ---- */

static int child_status(pid_t pid) {
    int status;
    check(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void forked(void) {
    unsigned char *at = map_private();
    memset(at, 7, PAGE);
    pid_t pid = fork();
    if (!pid) {
        check(touch(at) == SIGSEGV);
        unsigned char *mine = map_private();
        check(all_right(mine));
        check(!munmap(mine, size));
        _exit(0);
    }
    check(right(at, 1, 60));
    check(child_status(pid) == 0 && all_are(at, 0, 1, 7));
}

static void followed(void) {
    unsigned char *at = map_private();
    memset(at, 7, PAGE);
    check(right(at, 1, 10));
    pid_t pid = fork();
    if (!pid) {
        check(all_are(at, 0, 1, 7) && right(at, 1, 200));
        memset(at + 5 * PAGE, 8, PAGE);
        check(all_are(at, 5, 1, 8));
        _exit(0);
    }
    check(child_status(pid) == 0 && right(at, 1, 200));
    check(!madvise(at + 20 * PAGE, 10 * PAGE, MADV_DONTFORK));
    for (int kept = 1; kept >= 0; kept--) {
        pid = fork();
        if (!pid) {
            check(right(at, 1, 19) && right(at, 30, 170));
            check(kept ? touch(at + 25 * PAGE) == SIGSEGV : right(at, 20, 10));
            _exit(0);
        }
        check(child_status(pid) == 0 && right(at, 1, 200));
        check(!madvise(at, size, MADV_DOFORK));
    }
    pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (!pid) /* what the program says does not give views to whom nobody knows */
        _exit(touch(at + 25 * PAGE) == SIGSEGV && touch(at) == SIGSEGV ? 0 : 1);
    check(child_status(pid) == 0 && right(at, 1, 200));
}

static void execute(void) {
    unsigned char *at = map_private();
    check(right(at, 0, 5));
    pid_t pid = fork();
    if (!pid) {
        execl(self, self, "read", path, NULL);
        _exit(9);
    }
    check(child_status(pid) == 0);
    char command[600];
    snprintf(command, sizeof(command), "'%s' read '%s'", self, path);
    check(system(command) == 0 && all_right(at));
}

static void library(void) {
    char name[400];
    snprintf(name, sizeof(name), "%.*s/libguest.so", (int)(strrchr(self, '/') - self), self);
    void *handle = dlopen(name, RTLD_NOW);
    if (!handle)
        fprintf(stderr, "%s\n", dlerror());
    check(handle);
    void *found = dlsym(handle, "guest_map");
    unsigned char *(*guest_map)(int, size_t);
    memcpy(&guest_map, &found, sizeof(guest_map));
    check(all_right(guest_map(fd, size)));
}

static void *map_often(void *wrong) {
    for (unsigned i = 0; i < 6; i++) {
        unsigned char *at = i % 2 ? map(PROT_READ, MAP_SHARED) : map_private();
        if (i % 2 == 0)
            at[i * PAGE] = 1;
        *(bool *)wrong |= i % 2 ? !all_right(at) : !right(at, 6, 200);
        *(bool *)wrong |= munmap(at, size) != 0;
    }
    return NULL;
}

static void threads(void) {
    pthread_t ids[8];
    bool wrong[8] = {false};
    for (unsigned i = 0; i < 8; i++)
        check(!pthread_create(&ids[i], NULL, map_often, &wrong[i]));
    for (unsigned i = 0; i < 8; i++) {
        pthread_join(ids[i], NULL);
        check(!wrong[i]);
    }
}

static void memfd(void) {
    int file = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING), other = memfd_create("else", MFD_CLOEXEC);
    check(file >= 0 && other >= 0 && !ftruncate(file, (off_t)size) && !ftruncate(other, (off_t)size));
    check(!fcntl(file, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL));
    unsigned char *one = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    unsigned char *two = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);
    check(one != MAP_FAILED && all_right(one) && two != MAP_FAILED && all_are(two, 0, 60, 0));
    *two = 1;
    check(!fallocate(other, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) && !*two);
    check(!fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) && !*one && right(one, 1, 60));
}

/* What has nothing to do with an image is as ever. */
static void others(void) {
    unsigned char *view = map_private();
    int plain = open(self, O_RDONLY);
    errno = 77;
    unsigned char *file = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, plain, 0);
    check(file != MAP_FAILED && errno == 77 && !memcmp(file, "\177ELF", 4));
    unsigned char *memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 5, 4 * PAGE);
    check(!madvise(memory, PAGE, MADV_DONTNEED) && !*memory && memory[PAGE] == 5);
    check(!munmap(memory + PAGE, PAGE) && touch(memory + PAGE) == SIGSEGV && !munmap(memory, 4 * PAGE) && errno == 77);
    errno = 0;
    check(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 999, 0) == MAP_FAILED && errno == EBADF);
    check(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, plain, 0) == MAP_FAILED && errno == EINVAL);
    check(madvise(file, PAGE, 9999) == -1 && errno == EINVAL);
    check(ftruncate(999, 0) == -1 && errno == EBADF && fallocate(999, 0, 0, 1) == -1 && errno == EBADF);
    check(mremap(memory, PAGE, PAGE * 2, 0) == MAP_FAILED && errno == EFAULT);
    check(memfd_create("x", ~0u) == -1 && errno == EINVAL);
    check(all_right(view));
}

/* Reads on and on, for a daemon that dies meanwhile; says when it has begun. $GUEST_ROUNDS: how often. */
static void slowly(void) {
    const char *rounds = getenv("GUEST_ROUNDS");
    for (unsigned round = 0, count = rounds ? (unsigned)atoi(rounds) : 4; round < count; round++) {
        alarm(50);
        unsigned char *at = map_private();
        for (size_t page = 0; page < (size + PAGE - 1) / PAGE; page++) {
            check(right(at, page, 1));
            if (round == 0 && page == 0)
                check(write(STDOUT_FILENO, "*", 1) == 1);
            nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
        }
        check(!munmap(at, size));
    }
}

/* ---- forks, for a daemon that dies meanwhile ---- */

static void nap_us(long us) {
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

/* Each page, some of them after a pause. */
static void read_slowly(const unsigned char *at, size_t first, size_t count, long pause_us) {
    for (size_t page = first; page < first + count; page++) {
        check(right(at, page, 1));
        if (page % 8 == 0)
            nap_us(pause_us);
    }
}

/* What a child does besides: 40 pages of its own are unmapped, moved away, or inherited by a child of its own. */
static void child_of_forks(unsigned char *at, unsigned round) {
    check(all_are(at, 0, 1, 7));
    memset(at, (int)(8 + round % 100), PAGE);
    read_slowly(at, 1 + round % 7, 20, 300);
    if (round % 4 == 1) {
        check(!munmap(at + 60 * PAGE, 40 * PAGE));
    } else if (round % 4 == 2) {
        unsigned char *room = mmap(NULL, 40 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(room != MAP_FAILED);
        unsigned char *moved = mremap(at + 60 * PAGE, 40 * PAGE, 40 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room);
        check(moved == room);
        nap_us(20000);
        for (size_t page = 0; page < 40; page++)
            check(!fake_wrong(moved + page * PAGE, (60 + page) * PAGE, PAGE));
    } else if (round % 4 == 3) {
        pid_t pid = fork();
        if (!pid) {
            read_slowly(at, 60, 40, 500);
            _exit(0);
        }
        read_slowly(at, 60, 40, 500);
        check(child_status(pid) == 0);
    }
    read_slowly(at, 21, 39, 300);
    read_slowly(at, 100, (size + PAGE - 1) / PAGE - 100, 300);
    check(all_are(at, 0, 1, (unsigned char)(8 + round % 100)));
}

/*
 * Where a child has moved a part is written down a moment after the event that told of it was read. A death in that
 * moment is SIGBUS, and must be rare.
 *
 * Up to three children at a time; the last outlives this process, and says so when it has read everything.
 */
static void forks(void) {
    const char *rounds = getenv("GUEST_ROUNDS");
    enum { CHILDREN = 3 };
    pid_t children[CHILDREN] = {0};
    unsigned char *at = map_private();
    memset(at, 7, PAGE);
    check(write(STDOUT_FILENO, "*", 1) == 1);
    unsigned count = rounds ? (unsigned)atoi(rounds) : 40, missed = 0;
    for (unsigned round = 0; round < count + CHILDREN; round++) {
        pid_t *child = &children[round % CHILDREN];
        alarm(50);
        int status = *child ? child_status(*child) : 0;
        bool has_moved = round % 4 == (2 + CHILDREN) % 4;
        missed += has_moved && status == 128 + SIGBUS;
        check(!status || (has_moved && missed <= 1 + count / 32));
        *child = round < count ? fork() : 0;
        if (round < count && !*child) {
            child_of_forks(at, round);
            _exit(0);
        }
    }
    if (!fork()) {
        alarm(50);
        read_slowly(at, 1, (size + PAGE - 1) / PAGE - 1, 20000);
        check(write(STDOUT_FILENO, "o", 1) == 1);
        _exit(0);
    }
}

/* The daemon is stopped while a child waits: what the child has not touched is SIGBUS then. */
static void stopped(void) {
    unsigned char *at = map_private();
    char byte;
    check(right(at, 1, 1));
    pid_t pid = fork();
    if (!pid) {
        check(right(at, 0, 30) && write(STDOUT_FILENO, "*", 1) == 1 && read(STDIN_FILENO, &byte, 1) == 1);
        check(touch(at + 200 * PAGE) == SIGBUS && right(at, 0, 30));
        _exit(0);
    }
    check(child_status(pid) == 0);
}

static unsigned count_descriptors(void) {
    unsigned count = 0;
    for (int number = 0; number < 1024; number++)
        count += fcntl(number, F_GETFD) >= 0;
    return count;
}

/* Everybody who served it is killed: a child, whose parent has ended and which has closed all it could, and its own. */
static void widowed(void) {
    unsigned char *at = map_private();
    unsigned before = count_descriptors();
    char byte;
    check(right(at, 1, 1));
    if (fork())
        return;
    check(count_descriptors() <= before && !close_range(3, ~0u, 0));
    check(right(at, 0, 30) && write(STDOUT_FILENO, "*", 1) == 1 && read(STDIN_FILENO, &byte, 1) == 1);
    check(touch(at + 200 * PAGE) == SIGBUS && right(at, 0, 30));
    pid_t pid = fork();
    if (!pid)
        _exit(touch(at + 201 * PAGE) && touch(at + 200 * PAGE) && touch(at + 29 * PAGE) != SIGBUS ? 0 : 1);
    check(child_status(pid) == 0 && touch(at + 201 * PAGE) == SIGBUS);
    check(!munmap(at + 100 * PAGE, 50 * PAGE) && touch(at + 99 * PAGE) == SIGBUS);
    check(write(STDOUT_FILENO, "o", 1) == 1);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } checks[] = {{"read", read_all},         {"writes", writes},     {"fixed", fixed},         {"parts", unmap_parts},
                  {"remap", remap},           {"dontneed", dontneed}, {"remove", remove_pages}, {"punch", punch},
                  {"syscalls", system_calls}, {"fork", forked},       {"follow", followed},     {"exec", execute},
                  {"library", library},       {"threads", threads},   {"memfd", memfd},         {"others", others},
                  {"slowly", slowly},         {"forks", forks},       {"stopped", stopped},     {"widowed", widowed}};
    struct stat status;
    alarm(50);
    if (argc != 3)
        return 2;
    self = argv[0];
    path = argv[2];
    fd = open(path, O_RDWR);
    check(fd >= 0 && !fstat(fd, &status));
    size = (size_t)status.st_size;
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
        if (!strcmp(checks[i].name, argv[1])) {
            checks[i].run();
            return 0;
        }
    return 2;
}
