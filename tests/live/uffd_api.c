/* SPDX-License-Identifier: MIT */
/* UFFDIO_API, the three doors, REGISTER and UNREGISTER: each success and each documented refusal. */
#include "uffd_area.h"

#include "base/error.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define MISSING MNW__UFFD_MODE_MISSING
#define MINOR   MNW__UFFD_MODE_MINOR
#define WP      MNW__UFFD_MODE_WP

#define IOCTL(name) ((uint64_t)1 << _##name)

static const enum mnw__uffd_door doors[] = {MNW__UFFD_DOOR_SYSCALL, MNW__UFFD_DOOR_DEVICE, MNW__UFFD_DOOR_USER_ONLY};

static void test_probe(void **state) {
    (void)state;
    int before = machine_open_descriptors();
    struct mnw__uffd_probe probe;
    assert_int_equal(mnw__uffd_probe(&probe), 0);
    assert_int_equal(machine_open_descriptors(), before);
    assert_int_not_equal(probe.door, MNW__UFFD_DOOR_NONE);
    uint64_t needed = MNW__UFFD_MINOR_SHMEM | MNW__UFFD_MINOR_HUGETLBFS | MNW__UFFD_MISSING_SHMEM;
    assert_int_equal(probe.features & needed, needed);
    assert_int_equal(probe.ioctls & IOCTL(UFFDIO_REGISTER), IOCTL(UFFDIO_REGISTER));
    assert_int_equal(probe.ioctls & IOCTL(UFFDIO_UNREGISTER), IOCTL(UFFDIO_UNREGISTER));
    if (!geteuid()) {
        assert_int_equal(probe.door, MNW__UFFD_DOOR_SYSCALL);
        assert_int_equal(probe.syscall_error, 0);
        assert_int_equal(probe.user_only_error, 0);
    }
}

/* Each door gives a descriptor that answers UFFDIO_API, does not block and is closed on exec. */
static void test_doors(void **state) {
    (void)state;
    struct mnw__uffd_probe probe;
    assert_int_equal(mnw__uffd_probe(&probe), 0);
    const int errors[] = {probe.syscall_error, probe.device_error, probe.user_only_error};
    for (size_t i = 0; i < 3; i++) {
        int fd = mnw__uffd_open_raw(doors[i]);
        if (errors[i]) {
            assert_int_equal(fd, errors[i]);
            continue;
        }
        assert_true(fd >= 0);
        assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
        assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        uint64_t features = 0, ioctls = 0;
        assert_int_equal(mnw__uffd_api(fd, UFFD_API, MNW__UFFD_MINOR_SHMEM, &features, &ioctls), 0);
        assert_int_equal(features & probe.features, probe.features);
        assert_int_equal(ioctls, probe.ioctls);
        event_none(fd);
        mnw__uffd_close(fd);
    }
    assert_int_equal(mnw__uffd_open_raw(MNW__UFFD_DOOR_NONE), -EINVAL);
}

static void test_api_refusals(void **state) {
    (void)state;
    static const uint64_t versions[] = {0, UFFD_API - 1, UFFD_API + 1, UINT64_MAX};
    for (size_t i = 0; i < 4; i++) {
        int fd = mnw__uffd_open_raw(MNW__UFFD_DOOR_SYSCALL);
        assert_int_equal(mnw__uffd_api(fd, versions[i], 0, NULL, NULL), -EINVAL);
        mnw__uffd_close(fd);
    }
    int fd = mnw__uffd_open_raw(MNW__UFFD_DOOR_SYSCALL);
    assert_int_equal(mnw__uffd_api(fd, UFFD_API, (uint64_t)1 << 63, NULL, NULL), -EINVAL);
    assert_int_equal(ioctl(fd, UFFDIO_API, NULL), -1);
    assert_int_equal(errno, EFAULT);
    /* A refusal does not use the descriptor up; a success does. */
    assert_int_equal(mnw__uffd_api(fd, UFFD_API, 0, NULL, NULL), 0);
    assert_int_equal(mnw__uffd_api(fd, UFFD_API, 0, NULL, NULL), -EINVAL);
    mnw__uffd_close(fd);
}

/* Nothing else works before UFFDIO_API. */
static void test_before_api(void **state) {
    (void)state;
    struct mnw__uffd_event event;
    int fd = mnw__uffd_open_raw(MNW__UFFD_DOOR_SYSCALL);
    assert_int_equal(mnw__uffd_register(fd, 0, 4096, MISSING, NULL), -EINVAL);
    assert_int_equal(mnw__uffd_wake(fd, 0, 4096), -EINVAL);
    assert_int_equal(mnw__uffd_read(fd, &event, 1), -EINVAL);
    mnw__uffd_close(fd);
}

static void test_two_step_open(void **state) {
    (void)state;
    int before = machine_open_descriptors();
    int fd = mnw__uffd_open(MNW__UFFD_MINOR_SHMEM | MNW__UFFD_MISSING_SHMEM);
    assert_true(fd >= 0);
    mnw__uffd_close(fd);
    assert_int_equal(mnw__uffd_open((uint64_t)1 << 62 | MNW__UFFD_MINOR_SHMEM), -ENOSYS);
    assert_non_null(strstr(mnw__fail_message(), "lacks the features 0x4000000000000000"));
    assert_int_equal(machine_open_descriptors(), before);
}

/* ---- who may ---- */

static int unprivileged(void) {
    struct mnw__uffd_probe probe;
    if (!drop_privileges()) {
        return 1;
    }
    if (mnw__uffd_probe(&probe) || probe.door != MNW__UFFD_DOOR_USER_ONLY) {
        return 2;
    }
    if (probe.syscall_error != -EPERM || probe.device_error != -EACCES || probe.user_only_error) {
        return 3;
    }
    int fd = mnw__uffd_open_raw(MNW__UFFD_DOOR_USER_ONLY);
    if (mnw__uffd_api(fd, UFFD_API, MNW__UFFD_EVENT_FORK, NULL, NULL) != -EPERM) {
        return 4;
    }
    /* Through this door a fault of the kernel's is refused: write(2) from an untouched page. */
    fd = mnw__uffd_open(0);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int pipes[2];
    if (fd < 0 || mnw__uffd_register(fd, (uintptr_t)page, 4096, MISSING, NULL) || pipe(pipes)) {
        return 5;
    }
    return write(pipes[1], page, 1) == -1 && errno == EFAULT ? 0 : 6;
}

static int forbidden_by_filter(void) {
    if (!drop_privileges() || !forbid_call(SYS_userfaultfd, EPERM)) {
        return 1;
    }
    if (mnw__uffd_open(0) != -EPERM || !strstr(mnw__fail_message(), "vm.unprivileged_userfaultfd=1")) {
        return 2;
    }
    struct mnw__uffd_probe probe;
    return mnw__uffd_probe(&probe) == -EPERM && !probe.features && probe.user_only_error == -EPERM ? 0 : 3;
}

static int hidden_by_filter(void) {
    if (!drop_privileges() || !forbid_call(SYS_userfaultfd, ENOSYS)) {
        return 1;
    }
    return mnw__uffd_open(0) == -ENOSYS && strstr(mnw__fail_message(), "CONFIG_USERFAULTFD") ? 0 : 2;
}

static int by_device_alone(void) {
    struct mnw__uffd_probe probe;
    if (!forbid_call(SYS_userfaultfd, EPERM) || mnw__uffd_probe(&probe)) {
        return 1;
    }
    return probe.door == MNW__UFFD_DOOR_DEVICE && mnw__uffd_open(MNW__UFFD_MINOR_SHMEM) >= 0 ? 0 : 2;
}

static void test_permissions(void **state) {
    (void)state;
    if (geteuid()) {
        print_message("needs root, to give it up\n");
        skip();
    }
    if (machine_set("/proc/sys/vm/unprivileged_userfaultfd", "0")) {
        in_child(unprivileged);
    }
    in_child(forbidden_by_filter);
    in_child(hidden_by_filter);
    in_child(by_device_alone);
}

/* ---- REGISTER and UNREGISTER ---- */

static void assert_registers(const struct area *area, unsigned modes, uint64_t expected) {
    uint64_t ioctls = 0;
    assert_int_equal(mnw__uffd_register(area->uffd, area_at(area, 0), area->length, modes, &ioctls), 0);
    assert_int_equal(ioctls & expected, expected);
    if (!(modes & MINOR)) {
        assert_int_equal(ioctls & IOCTL(UFFDIO_CONTINUE), 0);
    }
    if (!(modes & WP)) {
        assert_int_equal(ioctls & IOCTL(UFFDIO_WRITEPROTECT), 0);
    }
    assert_int_equal(mnw__uffd_unregister(area->uffd, area_at(area, 0), area->length), 0);
}

static void test_register_modes(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    bool protects = area_protects();
    area_open(&area, *kind, protects ? MNW__UFFD_WP_HUGETLBFS_SHMEM : 0, 0);
    uint64_t basic = IOCTL(UFFDIO_WAKE) | IOCTL(UFFDIO_COPY);
    uint64_t wp = IOCTL(UFFDIO_WRITEPROTECT), more = IOCTL(UFFDIO_CONTINUE);
    assert_registers(&area, MISSING, basic);
    if (protects) {
        assert_registers(&area, WP, basic | wp);
        assert_registers(&area, MISSING | WP, basic | wp);
    } else {
        assert_int_equal(mnw__uffd_register(area.uffd, area_at(&area, 0), area.length, WP, NULL), -EINVAL);
    }
    if (*kind == AREA_ANON) {
        assert_int_equal(mnw__uffd_register(area.uffd, area_at(&area, 0), area.length, MINOR, NULL), -EINVAL);
        assert_int_equal(mnw__uffd_register(area.uffd, area_at(&area, 0), area.length, MINOR | MISSING, NULL), -EINVAL);
    } else {
        assert_registers(&area, MINOR, basic | more);
        assert_registers(&area, MISSING | MINOR, basic | more);
        if (protects) {
            assert_registers(&area, MISSING | MINOR | WP, basic | more | wp);
        }
    }
    area_close(&area);
}

static void test_register_refusals(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    area_open(&area, *kind, 0, 0);
    uintptr_t at = area_at(&area, 0);
    assert_int_equal(mnw__uffd_register(area.uffd, at, area.length, 0, NULL), -EINVAL);
    assert_int_equal(mnw__uffd_register(area.uffd, at, area.length, 1 << 7, NULL), -EINVAL);
    assert_int_equal(mnw__uffd_register(area.uffd, at + 1, area.page, MISSING, NULL), -EINVAL);
    assert_int_equal(mnw__uffd_register(area.uffd, at, area.page - 1, MISSING, NULL), -EINVAL);
    assert_int_equal(mnw__uffd_register(area.uffd, at, 0, MISSING, NULL), -EINVAL);
    assert_int_equal(mnw__uffd_register(area.uffd, ~(uintptr_t)0 - 4095, 4096, MISSING, NULL), -EINVAL);
    if (*kind == AREA_HUGETLB) {
        assert_int_equal(mnw__uffd_register(area.uffd, at + 4096, area.page, MISSING, NULL), -EINVAL);
        assert_int_equal(mnw__uffd_register(area.uffd, at, 4096, MISSING, NULL), -EINVAL);
    }
    /* Another descriptor has it: EBUSY. Unregistering through the wrong one: EINVAL, but older kernels let it. */
    int other = mnw__uffd_open(0);
    assert_int_equal(mnw__uffd_register(other, at, area.length, MISSING, NULL), 0);
    assert_int_equal(mnw__uffd_register(area.uffd, at, area.length, MISSING, NULL), -EBUSY);
    int by_another = mnw__uffd_unregister(area.uffd, at, area.length);
    int again = mnw__uffd_register(area.uffd, at, area.length, MISSING, NULL);
    assert_true((by_another == -EINVAL && again == -EBUSY) || (!by_another && !again));
    mnw__uffd_close(other);
    assert_int_equal(mnw__uffd_register(area.uffd, at, area.length, MISSING, NULL), 0);
    /* Nothing mapped there at all. */
    munmap(area.view, area.length);
    assert_int_equal(mnw__uffd_register(area.uffd, at, area.page, MISSING, NULL), -EINVAL);
    area.view = mmap(NULL, area.length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    area_close(&area);
}

static void test_register_needs_a_right_to_write(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    area_open(&area, *kind, 0, 0);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", area.fd);
    int readonly = open(path, O_RDONLY | O_CLOEXEC);
    void *shared = mmap(NULL, area.page, PROT_READ, MAP_SHARED | MAP_NORESERVE, readonly, 0);
    void *private = mmap(NULL, area.page, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, readonly, 0);
    assert_int_equal(mnw__uffd_register(area.uffd, (uintptr_t)shared, area.page, MISSING | MINOR, NULL), -EPERM);
    assert_int_equal(mnw__uffd_register(area.uffd, (uintptr_t) private, area.page, MISSING | MINOR, NULL), 0);
    munmap(shared, area.page);
    munmap(private, area.page);
    close(readonly);
    area_close(&area);
}

static void test_register_other_memory(void **state) {
    (void)state;
    FILE *file = tmpfile();
    assert_int_equal(ftruncate(fileno(file), 4096), 0);
    void *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    int uffd = mnw__uffd_open(0);
    assert_int_equal(mnw__uffd_register(uffd, (uintptr_t)mapped, 4096, MISSING, NULL), -EINVAL);
    assert_int_equal(mnw__uffd_register(uffd, (uintptr_t)mapped, 4096, MINOR, NULL), -EINVAL);
    assert_int_equal(mnw__uffd_unregister(uffd, (uintptr_t)mapped, 4096), -EINVAL);
    mnw__uffd_close(uffd);
    munmap(mapped, 4096);
    fclose(file);
}

static void test_unregister(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, 0, MISSING);
    uintptr_t at = area_at(&area, 0);
    assert_int_equal(mnw__uffd_unregister(area.uffd, at + 1, area.page), -EINVAL);
    assert_int_equal(mnw__uffd_unregister(area.uffd, at, 0), -EINVAL);
    /* A thread that waits for a missing page is let go, and gets what an unwatched mapping gives: zeros. */
    touch_start(&toucher, at, false);
    assert_int_equal(event_next(area.uffd).kind, MNW__UFFD_EV_FAULT);
    assert_int_equal(mnw__uffd_unregister(area.uffd, at, area.page), 0);
    touch_join(&toucher);
    assert_int_equal(toucher.seen, 0);
    /* Twice is no error. */
    assert_int_equal(mnw__uffd_unregister(area.uffd, at, area.page), 0);
    /* The rest is still watched. */
    touch_start(&toucher, at + area.page, false);
    assert_int_equal(event_next(area.uffd).address, at + area.page);
    assert_int_equal(mnw__uffd_unregister(area.uffd, at, area.length), 0);
    touch_join(&toucher);
    area_close(&area);
}

static void test_the_address_space_is_gone(void **state) {
    (void)state;
    uintptr_t start;
    int uffd = uffd_of_the_dead(&start, 16384);
    assert_int_equal(mnw__uffd_register(uffd, start, 4096, MISSING, NULL), -ENOMEM);
    assert_int_equal(mnw__uffd_unregister(uffd, start, 4096), -ENOMEM);
    assert_int_equal(mnw__uffd_wake(uffd, start, 4096), 0);
    mnw__uffd_close(uffd);
}

static void test_waiting(void **state) {
    (void)state;
    struct area area;
    struct toucher touchers[3];
    uint64_t pending, total;
    area_open(&area, AREA_SHMEM, 0, MISSING);
    assert_int_equal(mnw__uffd_waiting(area.uffd, &pending, &total), 0);
    assert_int_equal(pending | total, 0);
    for (int i = 0; i < 3; i++) {
        touch_start(&touchers[i], area_at(&area, i), false);
    }
    await_waiting(area.uffd, 3);
    event_next(area.uffd);
    assert_int_equal(mnw__uffd_waiting(area.uffd, &pending, &total), 0);
    assert_int_equal(pending, 2);
    assert_int_equal(total, 3);
    assert_int_equal(mnw__uffd_unregister(area.uffd, area_at(&area, 0), area.length), 0);
    for (int i = 0; i < 3; i++) {
        touch_join(&touchers[i]);
    }
    assert_int_equal(mnw__uffd_waiting(0, &pending, &total), -EINVAL);
    assert_int_equal(mnw__uffd_waiting(9999, &pending, &total), -ENOENT);
    area_close(&area);
}

static enum area_kind shmem = AREA_SHMEM, hugetlb = AREA_HUGETLB, anon = AREA_ANON;

#define SHMEM(name)                                                                                                    \
    { "shmem: " #name, name, NULL, NULL, &shmem }
#define HUGETLB(name)                                                                                                  \
    { "hugetlb: " #name, name, NULL, NULL, &hugetlb }
#define ANON(name)                                                                                                     \
    { "anon: " #name, name, NULL, NULL, &anon }

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0) {
        return status;
    }
    struct mnw__uffd_probe probe;
    if (mnw__uffd_probe(&probe) || probe.door == MNW__UFFD_DOOR_USER_ONLY) {
        fprintf(stderr, "skipped: no full userfaultfd here: %s\n", mnw__fail_message());
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_doors),
        cmocka_unit_test(test_api_refusals),
        cmocka_unit_test(test_before_api),
        cmocka_unit_test(test_two_step_open),
        cmocka_unit_test(test_permissions),
        SHMEM(test_register_modes),
        HUGETLB(test_register_modes),
        ANON(test_register_modes),
        SHMEM(test_register_refusals),
        HUGETLB(test_register_refusals),
        ANON(test_register_refusals),
        SHMEM(test_register_needs_a_right_to_write),
        HUGETLB(test_register_needs_a_right_to_write),
        cmocka_unit_test(test_register_other_memory),
        SHMEM(test_unregister),
        HUGETLB(test_unregister),
        ANON(test_unregister),
        cmocka_unit_test(test_the_address_space_is_gone),
        cmocka_unit_test(test_waiting),
    };
    return cmocka_run_group_tests_name("uffd api", tests, NULL, NULL);
}
