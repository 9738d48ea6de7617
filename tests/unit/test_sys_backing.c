/* SPDX-License-Identifier: MIT */
/* Backings and views of every kind on the real kernel; each test runs once per kind. */
#include "base/error.h"
#include "machine.h"
#include "sys/backing.h"
#include "sys/memory.h"
#include "sys/numa.h"
#include "sys/sysfs.h"
#include "sys/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
/* A tebibyte; a sanitizer leaves less of the address space. */
#define LARGE ((uint64_t)1 << (MACHINE_SANITIZED ? 36 : 40))

struct kind {
    enum mnw_backing kind;
    const char *name;
};
static const struct kind kinds[] = {{MNW_BACKING_SHMEM, "shmem"},
                                    {MNW_BACKING_GRADED, "graded"},
                                    {MNW_BACKING_HUGETLB_2M, "hugetlb-2M"},
                                    {MNW_BACKING_HUGETLB_1G, "hugetlb-1G"}};

/* The unit of allocation used here: what the kind forces, or 64 KiB. */
static size_t unit_of(enum mnw_backing kind) {
    size_t extent = mnw__backing_extent_bytes(kind);
    return extent ? extent : 64 * KIB;
}

/* Leaves the test, as skipped and saying why, when this machine cannot have the kind. */
static void need(const struct kind *kind) {
    size_t page = mnw__backing_page_bytes(kind->kind);
    if (page > MIB && !machine_free_hugepages(page, page > 2 * MIB ? 2 : 6)) {
        print_message("%s: this machine cannot free the pages\n", kind->name);
        skip();
    }
    if (mnw__backing_check(kind->kind, 2 * unit_of(kind->kind))) {
        print_message("%s: %s\n", kind->name, mnw__fail_message());
        skip();
    }
}

static uint64_t charged(const struct mnw__backing *backing) {
    struct stat status;
    assert_int_equal(fstat(backing->fd, &status), 0);
    return (uint64_t)status.st_blocks * 512;
}

static char *alias(const struct mnw__backing *backing, uint64_t offset) {
    return (char *)backing->alias + offset;
}

static void test_geometry(void **state) {
    const struct kind *kind = *state;
    need(kind);
    size_t page = mnw__backing_page_bytes(kind->kind);
    int before = machine_open_descriptors();
    struct mnw__backing backing;
    assert_int_equal(mnw__backing_create(&backing, kind->kind, page + 1), 0);
    assert_int_equal(backing.kind, kind->kind);
    assert_int_equal(backing.page_bytes, page);
    assert_int_equal(backing.size_bytes, 2 * page);
    assert_int_equal(charged(&backing), 0);
    assert_int_equal(fcntl(backing.readonly_fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_int_equal(fcntl(backing.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    int seals = fcntl(backing.fd, F_GET_SEALS);
    if (seals == F_SEAL_SEAL) { /* a file of a mounted tmpfs cannot be sealed */
        assert_int_equal(kind->kind, MNW_BACKING_GRADED);
    } else {
        assert_int_equal(seals, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        assert_int_equal(ftruncate(backing.fd, 0), -1);
        assert_int_equal(errno, EPERM);
    }
    mnw__backing_destroy(&backing);
    assert_int_equal(machine_open_descriptors(), before);
    assert_int_equal(mnw__backing_create(&backing, kind->kind, 0), -EINVAL);
    assert_int_equal(mnw__backing_create(&backing, kind->kind, UINT64_MAX), -ENOSPC);
    assert_int_equal(machine_open_descriptors(), before);
}

static void test_allocate_and_punch(void **state) {
    const struct kind *kind = *state;
    need(kind);
    size_t unit = unit_of(kind->kind);
    struct mnw__backing backing;
    assert_int_equal(mnw__backing_create(&backing, kind->kind, 4 * unit), 0);
    assert_int_equal(mnw__backing_allocate(&backing, unit, unit), 0);
    assert_int_equal(charged(&backing), unit);
    assert_int_equal(*alias(&backing, unit + 5), 0);
    *alias(&backing, unit + 5) = 'x';
    assert_int_equal(mnw__backing_allocate(&backing, unit, unit), 0);
    assert_int_equal(*alias(&backing, unit + 5), 'x');
    assert_int_equal(charged(&backing), unit);
    assert_int_equal(mnw__backing_punch(&backing, unit, unit), 0);
    assert_int_equal(charged(&backing), 0);
    assert_int_equal(mnw__backing_allocate(&backing, unit, unit), 0);
    assert_int_equal(*alias(&backing, unit + 5), 0);
    mnw__backing_destroy(&backing);
}

static void test_view(void **state) {
    const struct kind *kind = *state;
    need(kind);
    size_t unit = unit_of(kind->kind), page = mnw__backing_page_bytes(kind->kind);
    struct mnw__backing backing;
    assert_int_equal(mnw__backing_create(&backing, kind->kind, 2 * unit), 0);
    assert_int_equal(mnw__backing_allocate(&backing, unit, unit), 0);
    memset(alias(&backing, unit), 'a', 2 * KIB);

    uintptr_t address, at = 0;
    assert_int_equal(mnw__view_map(&backing, unit, unit, false, &address), 0);
    assert_int_equal(address % page, 0);
    volatile char *view = (volatile char *)address;
    assert_int_equal(view[7], 'a');
    assert_int_equal(machine_poke(view + 9, 'b', &at), SIGSEGV);
    assert_int_equal(at, address + 9);
    *alias(&backing, unit + 7) = 'c';
    assert_int_equal(view[7], 'c');
    assert_int_equal(mnw__view_zap(address, unit), 0);
    assert_int_equal(view[7], 'c');
    assert_int_equal(charged(&backing), unit);

    /* Bar it: SIGBUS at the byte. Unbar it: the bytes again. */
    assert_int_equal(mnw__view_bar(address, page), 0);
    assert_int_equal(machine_touch(view + 11, &at), SIGBUS);
    assert_int_equal(at, address + 11);
    assert_int_equal(mnw__view_unbar(&backing, unit, address, page, false), 0);
    assert_int_equal(machine_touch(view + 7, NULL), 0);
    assert_int_equal(view[7], 'c');
    assert_int_equal(machine_poke(view + 9, 'b', &at), SIGSEGV);
    assert_int_equal(mnw__view_unmap(address, unit), 0);
    assert_int_equal(machine_touch(view, &at), SIGSEGV);
    mnw__backing_destroy(&backing);
}

static void test_private_writes(void **state) {
    const struct kind *kind = *state;
    need(kind);
    size_t unit = unit_of(kind->kind);
    struct mnw__backing backing;
    uintptr_t address;
    assert_int_equal(mnw__backing_create(&backing, kind->kind, 2 * unit), 0);
    assert_int_equal(mnw__backing_allocate(&backing, 0, unit), 0);
    *alias(&backing, 1) = 'a';
    assert_int_equal(mnw__view_map(&backing, 0, unit, true, &address), 0);
    volatile char *view = (volatile char *)address;
    view[1] = 'b';
    assert_int_equal(*alias(&backing, 1), 'a');
    assert_int_equal(mnw__view_zap(address, unit), 0);
    assert_int_equal(view[1], 'a');
    mnw__view_unmap(address, unit);
    mnw__backing_destroy(&backing);
}

static void die_touching(volatile char *at) {
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    (void)*at;
    _exit(0);
}

static int child_touches(volatile char *at) {
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        die_touching(at);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void test_fork(void **state) {
    const struct kind *kind = *state;
    if (MACHINE_SANITIZED) {
        print_message("a sanitizer's own memory may take the place of what the child does not inherit\n");
        skip();
    }
    need(kind);
    size_t unit = unit_of(kind->kind), page = mnw__backing_page_bytes(kind->kind);
    struct mnw__backing backing;
    uintptr_t address;
    assert_int_equal(mnw__backing_create(&backing, kind->kind, unit), 0);
    assert_int_equal(mnw__backing_allocate(&backing, 0, unit), 0);
    assert_int_equal(mnw__view_map(&backing, 0, unit, false, &address), 0);
    assert_int_equal(child_touches(alias(&backing, 0)), SIGSEGV);
    assert_int_equal(child_touches((char *)address), SIGSEGV);
    assert_int_equal(mnw__view_bar(address, page), 0);
    assert_int_equal(child_touches((char *)address), SIGSEGV);
    assert_int_equal(mnw__view_unbar(&backing, 0, address, page, false), 0);
    assert_int_equal(child_touches((char *)address), SIGSEGV);
    mnw__view_unmap(address, unit);
    mnw__backing_destroy(&backing);
}

static void test_a_large_file(void **state) {
    const struct kind *kind = *state;
    need(kind);
    uint64_t start = mnw__clock_ns();
    size_t unit = unit_of(kind->kind);
    struct mnw__backing backing;
    uintptr_t address;
    assert_int_equal(mnw__backing_create(&backing, kind->kind, LARGE), 0);
    assert_int_equal(mnw__view_map(&backing, 0, LARGE, false, &address), 0);
    assert_true(mnw__clock_ns() - start < 50000000);
    assert_int_equal(mnw__backing_allocate(&backing, LARGE - unit, unit), 0);
    *alias(&backing, LARGE - 1) = 'z';
    assert_int_equal(((volatile char *)address)[LARGE - 1], 'z');
    assert_int_equal(mnw__backing_punch(&backing, LARGE - unit, unit), 0);
    assert_int_equal(charged(&backing), 0);
    mnw__view_unmap(address, LARGE);
    mnw__backing_destroy(&backing);
}

static void test_hugetlb_exhaustion(void **state) {
    const struct kind *kind = *state;
    need(kind);
    size_t page = mnw__backing_page_bytes(kind->kind);
    if (page < 2 * MIB) {
        return;
    }
    assert_int_equal(mnw__backing_check(kind->kind, (uint64_t)1 << 50), -ENOMEM);
    assert_non_null(strstr(mnw__fail_message(), "needed; echo "));
    assert_non_null(strstr(mnw__fail_message(), "/nr_hugepages"));
    struct mnw__backing backing;
    struct mnw__hugepages pool;
    assert_int_equal(mnw__hugepages(page, -1, &pool), 0);
    uint64_t pages = pool.total + 16;
    assert_int_equal(mnw__backing_create(&backing, kind->kind, pages * page), 0);
    int result = 0;
    for (uint64_t i = 0; i < pages && !result; i++) {
        result = mnw__backing_allocate(&backing, i * page, page);
    }
    assert_int_equal(result, -ENOSPC);
    mnw__backing_destroy(&backing);
}

/* ---- what the shmem setting must not change ---- */

static const char *const settings[] = {"always", "within_size", "advise", "never", "deny", "force"};

static void test_shmem_budget_under_every_setting(void **state) {
    (void)state;
    size_t page = mnw__memory_page_bytes();
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (!machine_set(SHMEM_ENABLED, settings[i])) {
            print_message("cannot set shmem_enabled\n");
            skip();
        }
        struct mnw__backing backing;
        assert_int_equal(mnw__backing_create(&backing, MNW_BACKING_SHMEM, 64 * MIB), 0);
        assert_int_equal(mnw__backing_allocate(&backing, 4 * MIB, page), 0);
        assert_int_equal(charged(&backing), page);
        assert_int_equal(mnw__backing_allocate(&backing, 8 * MIB, 16 * page), 0);
        assert_int_equal(charged(&backing), 17 * page);
        mnw__backing_destroy(&backing);
    }
}

static bool is_mapped_huge(uintptr_t address) {
    FILE *smaps = fopen("/proc/self/smaps", "r");
    char line[256];
    bool inside = false, huge = false;
    unsigned long kib, start, end;
    while (fgets(line, sizeof(line), smaps)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
            inside = start == address;
        }
        if (inside &&
            (sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1 || sscanf(line, "FilePmdMapped: %lu", &kib) == 1)) {
            huge |= kib > 0;
        }
    }
    fclose(smaps);
    return huge;
}

static void test_graded_under_every_setting(void **state) {
    (void)state;
    if (mnw__memory_page_bytes() != 4 * KIB) {
        print_message("huge pages are of 2 MiB where base pages are of 4 KiB\n");
        skip();
    }
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (!machine_set(SHMEM_ENABLED, settings[i])) {
            print_message("cannot set shmem_enabled\n");
            skip();
        }
        int result = mnw__backing_check(MNW_BACKING_GRADED, 4 * MIB);
        if (!strcmp(settings[i], "deny")) {
            assert_int_equal(result, -EOPNOTSUPP);
            assert_non_null(strstr(mnw__fail_message(), "echo advise > "));
            continue;
        }
        assert_int_equal(result, 0);
        struct mnw__backing backing;
        uintptr_t address;
        /* The last extent is not whole: it is charged whole, and given back whole. */
        assert_int_equal(mnw__backing_create(&backing, MNW_BACKING_GRADED, 6 * MIB + 4 * KIB), 0);
        assert_int_equal(backing.size_bytes, 6 * MIB + 4 * KIB);
        assert_int_equal(mnw__backing_allocate(&backing, 6 * MIB, 4 * KIB), 0);
        assert_int_equal(charged(&backing), 2 * MIB);
        assert_int_equal(mnw__backing_punch(&backing, 6 * MIB, 4 * KIB), 0);
        assert_int_equal(charged(&backing), 0);
        assert_int_equal(mnw__backing_allocate(&backing, 4 * MIB, 2 * MIB), 0);
        assert_int_equal(charged(&backing), 2 * MIB);
        *alias(&backing, 4 * MIB) = 'a';
        assert_true(is_mapped_huge((uintptr_t)backing.alias));
        /* A view that begins inside an extent is congruent with the file, so later extents can be promoted. */
        assert_int_equal(mnw__view_map(&backing, 4 * KIB, 6 * MIB, false, &address), 0);
        assert_int_equal((address - 4 * KIB) % (2 * MIB), 0);
        assert_false(is_mapped_huge(address));
        assert_int_equal(mnw__view_collapse(address + 4 * MIB - 4 * KIB, 2 * MIB), 0);
        assert_true(is_mapped_huge(address));
        mnw__view_unmap(address, 6 * MIB);
        mnw__backing_destroy(&backing);
    }
}

static void test_graded_without_privilege(void **state) {
    (void)state;
    if (geteuid() || !machine_set(SHMEM_ENABLED, "never")) {
        print_message("needs root, to give it up\n");
        skip();
    }
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        if (setgid(65534) || setuid(65534)) {
            _exit(2);
        }
        bool refused = mnw__backing_check(MNW_BACKING_GRADED, 2 * MIB) == -EOPNOTSUPP;
        _exit(refused && strstr(mnw__fail_message(), "echo advise > ") ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
}

/* ---- sending ---- */

enum { SOURCE_PAGES = 40, SOURCE_END = 100 }; /* and a part of a page */

static char source_byte(uint64_t offset) {
    return (char)(1 + (offset / 64 * 31 + offset) % 251);
}

static FILE *open_source(uint64_t length) {
    FILE *source = tmpfile();
    assert_non_null(source);
    for (uint64_t i = 0; i < length; i++)
        fputc(source_byte(i), source);
    assert_int_equal(fflush(source), 0);
    return source;
}

static void assert_sent(const struct mnw__backing *backing, uint64_t offset, uint64_t length) {
    for (uint64_t i = offset; i < offset + length; i++)
        if (*alias(backing, i) != source_byte(i))
            fail_msg("byte %zu differs", (size_t)i);
}

static bool has_memory(const struct mnw__backing *backing, uint64_t offset) {
    return lseek(backing->fd, (off_t)offset, SEEK_DATA) == (off_t)offset;
}

static void test_send(void **state) {
    (void)state;
    struct mnw__backing backing;
    struct mnw__pipe pipe = MNW__PIPE_CLOSED;
    size_t page = mnw__backing_page_bytes(MNW_BACKING_SHMEM), size = SOURCE_PAGES * page + SOURCE_END;
    int before = machine_open_descriptors();
    FILE *source = open_source(size);
    int from = fileno(source);
    assert_int_equal(mnw__backing_create(&backing, MNW_BACKING_SHMEM, size), 0);

    /* More than a pipe holds; and nothing outside gets memory. */
    assert_int_equal(mnw__backing_send(&backing, 3 * page, 20 * page, from, &pipe), 20 * page);
    assert_false(has_memory(&backing, 2 * page) || has_memory(&backing, 23 * page));
    assert_sent(&backing, 3 * page, 20 * page);
    off_t place = lseek(backing.fd, 0, SEEK_CUR), source_place = lseek(from, 0, SEEK_CUR);
    /* Within pages, around what is there. */
    assert_int_equal(mnw__backing_send(&backing, 23 * page + 5, page, from, &pipe), page);
    assert_sent(&backing, 3 * page, 20 * page);
    assert_sent(&backing, 23 * page + 5, page);
    assert_int_equal(*alias(&backing, 23 * page + 4), 0);
    assert_int_equal(*alias(&backing, 24 * page + 5), 0);
    /* The end of the file, twice: what is left, then nothing. Behind it the page has zeros. */
    assert_int_equal(mnw__backing_send(&backing, 39 * page, 2 * page, from, &pipe), page + SOURCE_END);
    assert_sent(&backing, 39 * page, page + SOURCE_END);
    assert_int_equal(*alias(&backing, size), 0);
    assert_int_equal(mnw__backing_send(&backing, size, page - SOURCE_END, from, &pipe), 0);
    /* Nobody's place in either file has moved. */
    assert_int_equal(lseek(from, 0, SEEK_CUR), source_place);
    assert_int_equal(lseek(backing.fd, 0, SEEK_CUR), place);

    mnw__backing_destroy(&backing);
    fclose(source);
    mnw__pipe_close(&pipe);
    mnw__pipe_close(&pipe);
    assert_int_equal(machine_open_descriptors(), before);
}

/* What was in the pipe when sending failed must not come out of it with the next send. */
static void test_send_in_vain(void **state) {
    (void)state;
    struct mnw__backing backing;
    struct mnw__pipe pipe = MNW__PIPE_CLOSED;
    size_t page = mnw__backing_page_bytes(MNW_BACKING_SHMEM), size = SOURCE_PAGES * page;
    FILE *source = open_source(size);
    int from = fileno(source);
    assert_int_equal(mnw__backing_create(&backing, MNW_BACKING_SHMEM, size), 0);
    struct mnw__backing readonly = backing;
    readonly.fd = backing.readonly_fd;
    assert_int_equal(mnw__backing_send(&readonly, 0, 4 * page, from, &pipe), -EBADF);
    assert_int_equal(mnw__backing_send(&backing, 8 * page, 4 * page, from, &pipe), 4 * page);
    assert_sent(&backing, 8 * page, 4 * page);
    assert_false(has_memory(&backing, 0));
    assert_int_equal(mnw__backing_send(&backing, 0, page, -1, &pipe), -EBADF);
    assert_int_equal(mnw__backing_send(&backing, 0, page, from, &pipe), page);

    /* A limit that a write(2) would be told of by a signal that ends the process. */
    struct rlimit limit, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    low = limit;
    low.rlim_cur = 20 * page;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    assert_int_equal(mnw__backing_send(&backing, 18 * page, 4 * page, from, &pipe), -EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_false(has_memory(&backing, 18 * page));
    mnw__pipe_close(&pipe);
    mnw__backing_destroy(&backing);
    fclose(source);
}

static const struct {
    const char *name;
    CMUnitTestFunction run;
} per_kind[] = {{"geometry", test_geometry},
                {"allocate and punch", test_allocate_and_punch},
                {"view", test_view},
                {"private writes", test_private_writes},
                {"fork", test_fork},
                {"a large file", test_a_large_file},
                {"exhaustion", test_hugetlb_exhaustion}};

#define KINDS    (sizeof(kinds) / sizeof(kinds[0]))
#define PER_KIND (sizeof(per_kind) / sizeof(per_kind[0]))

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0) {
        return status;
    }
    static char names[KINDS * PER_KIND][64];
    static struct CMUnitTest tests[KINDS * PER_KIND + 5];
    for (size_t k = 0; k < KINDS; k++) {
        for (size_t t = 0; t < PER_KIND; t++) {
            size_t i = k * PER_KIND + t;
            snprintf(names[i], sizeof(names[i]), "%s: %s", kinds[k].name, per_kind[t].name);
            struct kind *kind = malloc(sizeof(*kind));
            *kind = kinds[k];
            tests[i] = (struct CMUnitTest){.name = names[i], .test_func = per_kind[t].run, .initial_state = kind};
        }
    }
    size_t i = KINDS * PER_KIND;
    tests[i++] = (struct CMUnitTest)cmocka_unit_test(test_send);
    tests[i++] = (struct CMUnitTest)cmocka_unit_test(test_send_in_vain);
    tests[i++] = (struct CMUnitTest)cmocka_unit_test(test_shmem_budget_under_every_setting);
    tests[i++] = (struct CMUnitTest)cmocka_unit_test(test_graded_under_every_setting);
    tests[i++] = (struct CMUnitTest)cmocka_unit_test(test_graded_without_privilege);
    return cmocka_run_group_tests_name("backing", tests, NULL, NULL);
}
