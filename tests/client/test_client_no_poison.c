/* SPDX-License-Identifier: MIT */
/*
 * The client where the kernel has no UFFDIO_POISON (before 6.6): a lost view is closed whole. The probe is wrapped so
 * that it does not show the feature, and nobody may ask for the operation.
 */
#include "../live/machine.h"
#include "bed.h"

#include "sys/uffd.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

int __real_mnw__uffd_probe(struct mnw__uffd_probe *probe);
int __wrap_mnw__uffd_probe(struct mnw__uffd_probe *probe);
int __wrap_mnw__uffd_poison(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done);

int __wrap_mnw__uffd_probe(struct mnw__uffd_probe *probe) {
    int error = __real_mnw__uffd_probe(probe);
    probe->features &= ~(uint64_t)MNW__UFFD_POISON;
    return error;
}

static _Atomic unsigned poisons;

int __wrap_mnw__uffd_poison(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    (void)fd;
    (void)start;
    (void)length;
    (void)flags;
    *done = 0;
    atomic_fetch_add(&poisons, 1);
    return -EINVAL;
}

static void every_byte_is_right(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
    close_bed(&bed);
}

/* Who waits, who comes, and what was mapped before: never zeros. */
static void a_lost_view_is_closed_whole(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    pthread_t waiting = begin_to_lose(&bed);
    atomic_store(&bed.fake.shared->say_detached, 1);
    assert_true(is_lost(bed.view));
    pthread_join(waiting, NULL);
    assert_int_equal(touch_signal, SIGSEGV);
    assert_int_equal(machine_touch((char *)bed.data + 30 * PAGE, NULL), SIGSEGV);
    assert_int_equal(machine_touch((char *)bed.data, NULL), SIGSEGV);
    refused(mnw_client_lost(bed.view), -EIO, "does not serve");
    close_bed(&bed);
}

/* A daemon that comes back with other memory, after the link broke. */
static void another_backing_closes_the_view(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    pthread_t waiting = begin_to_lose(&bed);
    fake_kill(&bed.fake);
    atomic_store(&bed.fake.shared->hold_faults, false);
    fake_new_backing(&bed.fake);
    fake_start(&bed.fake);
    assert_true(is_lost(bed.view));
    pthread_join(waiting, NULL);
    assert_int_equal(touch_signal, SIGSEGV);
    struct mnw_client_view *fresh;
    must(mnw_client_map(&fresh, bed.client, "image", NULL));
    assert_int_equal(fake_wrong(mnw_client_data(fresh), 0, SIZE), 0);
    must(mnw_client_unmap(fresh));
    close_bed(&bed);
}

/* No daemon for too long. */
static void given_up_is_closed(void **state) {
    (void)state;
    struct bed bed;
    open_bed_with(&bed, (struct mnw_client_options){.timeout_ms = 5000, .lost_after_ms = 100}, 0);
    pthread_t waiting = begin_to_lose(&bed);
    fake_kill(&bed.fake);
    assert_true(is_lost(bed.view));
    pthread_join(waiting, NULL);
    assert_int_equal(touch_signal, SIGSEGV);
    fake_start(&bed.fake);
    close_bed(&bed);
}

/* The fork has nobody to wait for any more, and the child gets what its parent has. */
static void a_followed_child_of_a_lost_view_has_nothing(void **state) {
    (void)state;
    struct bed bed;
    int status;
    if (geteuid())
        skip(); /* EVENT_FORK takes CAP_SYS_PTRACE */
    open_bed(&bed, MNW_CLIENT_FOLLOW_FORK);
    assert_int_equal(fake_wrong(bed.data, 0, 2 * PAGE), 0);
    atomic_store(&bed.fake.shared->say_detached, 1);
    assert_true(is_lost(bed.view));
    pid_t pid = fork();
    if (!pid)
        _exit(machine_touch((char *)bed.data + 30 * PAGE, NULL) != SIGSEGV ||
              machine_touch((char *)bed.data, NULL) != SIGSEGV);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close_bed(&bed);
}

static void nobody_has_asked_for_poison(void **state) {
    (void)state;
    assert_int_equal(atomic_load(&poisons), 0);
}

int main(int argc, char **argv) {
    (void)argc;
    int code = machine_guard(argv);
    if (code >= 0)
        return code;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_is_right),
        cmocka_unit_test(a_lost_view_is_closed_whole),
        cmocka_unit_test(another_backing_closes_the_view),
        cmocka_unit_test(given_up_is_closed),
        cmocka_unit_test(a_followed_child_of_a_lost_view_has_nothing),
        cmocka_unit_test(nobody_has_asked_for_poison),
    };
    return cmocka_run_group_tests_name("client_no_poison", tests, NULL, NULL);
}
