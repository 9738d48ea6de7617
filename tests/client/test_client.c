/* SPDX-License-Identifier: MIT */
/* The client library against a daemon that is well: reading, writing, forking, unmapping, refusals. */
#include "../live/machine.h"
#include "bed.h"

#include "sys/uffd.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- reading and writing ---- */

static void every_byte_is_right(void **state) {
    (void)state;
    struct bed bed;
    int before = machine_open_descriptors();
    open_bed(&bed, 0);
    assert_int_equal(mnw_client_length(bed.view), PAGES * PAGE);
    assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
    for (size_t i = SIZE; i < PAGES * PAGE; i++)
        assert_int_equal(bed.data[i], 0);
    assert_int_equal(mnw_client_lost(bed.view), 0);
    assert_int_equal(machine_poke((char *)bed.data, 1, NULL), SIGSEGV);
    close_bed(&bed);
    assert_int_equal(machine_open_descriptors(), before);
}

static void a_part_at_a_chosen_address(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    char *room = mmap(NULL, 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct mnw_client_map_options options = {.size = sizeof(options),
                                             .offset_bytes = 8 * PAGE,
                                             .length_bytes = 3 * PAGE - 5,
                                             .address = (uintptr_t)room + 16 * PAGE};
    struct mnw_client_view *part;
    must(mnw_client_map(&part, bed.client, "image", &options));
    assert_ptr_equal(mnw_client_data(part), room + 16 * PAGE);
    assert_int_equal(mnw_client_length(part), 3 * PAGE);
    assert_int_equal(fake_wrong(mnw_client_data(part), 8 * PAGE, 3 * PAGE), 0);
    assert_int_equal(machine_touch(room + 19 * PAGE, NULL), SIGSEGV);
    must(mnw_client_unmap(part));
    assert_int_equal(machine_touch(room + 16 * PAGE, NULL), SIGSEGV);
    munmap(room, 64 * PAGE);
    close_bed(&bed);
}

static void writes_are_private(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, MNW_VIEW_WRITE);
    struct mnw_client_view *other;
    must(mnw_client_map(&other, bed.client, "image", NULL));
    memset(bed.data, 0xee, 3 * PAGE);
    assert_int_equal(fake_wrong(mnw_client_data(other), 0, SIZE), 0);
    assert_int_equal(bed.data[2 * PAGE], 0xee);
    assert_int_equal(fake_wrong(bed.data + 3 * PAGE, 3 * PAGE, SIZE - 3 * PAGE), 0);
    must(mnw_client_unmap(other));
    close_bed(&bed);
}

static void zeroed_pages_are_zero_here_alone(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, MNW_VIEW_WRITE);
    memset(bed.data + 5 * PAGE, 0xee, PAGE);
    assert_int_equal(bed.data[6 * PAGE], fake_byte(6 * PAGE));
    must(mnw_client_zero(bed.view, 4 * PAGE, 4 * PAGE)); /* untouched, written, read, untouched */
    for (size_t i = 0; i < 4 * PAGE; i++)
        assert_int_equal(bed.data[4 * PAGE + i], 0);
    assert_int_equal(fake_wrong(bed.data, 0, 4 * PAGE), 0);
    assert_int_equal(fake_wrong(bed.data + 8 * PAGE, 8 * PAGE, SIZE - 8 * PAGE), 0);
    bed.data[4 * PAGE] = 7;
    assert_int_equal(bed.data[4 * PAGE], 7);
    struct mnw_client_view *other;
    must(mnw_client_map(&other, bed.client, "image", NULL));
    assert_int_equal(fake_wrong(mnw_client_data(other), 0, SIZE), 0);
    must(mnw_client_unmap(other));
    refused(mnw_client_zero(bed.view, 1, PAGE), -EINVAL, "whole pages");
    refused(mnw_client_zero(bed.view, 0, (PAGES + 1) * PAGE), -EINVAL, "whole pages");
    close_bed(&bed);
}

static void many_threads_map_and_read(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    pthread_t threads[8];
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, i % 2 ? read_all : map_and_unmap, &bed), 0);
    for (unsigned i = 0; i < 8; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_int_equal((size_t)wrong, 0);
    }
    close_bed(&bed);
}

/* ---- fork ---- */

static int child_of(struct bed *bed, int (*body)(struct bed *)) {
    pid_t pid = fork();
    if (!pid) {
        machine_be_a_child();
        alarm(20);
        _exit(body(bed));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int child_has_nothing(struct bed *bed) {
    if (machine_touch((char *)bed->data, NULL) != SIGSEGV)
        return 1;
    if (mnw_client_prefetch(bed->client, "image", 0, PAGE) != -EOWNERDEAD || mnw_client_lost(bed->view) != -EOWNERDEAD)
        return 2;
    struct mnw_client *client;
    struct mnw_client_view *view;
    if (mnw_client_connect(&client, bed->fake.path, NULL) || mnw_client_map(&view, client, "image", NULL))
        return 3;
    if (fake_wrong(mnw_client_data(view), 0, SIZE))
        return 4;
    return mnw_client_unmap(view) || mnw_client_close(client) ? 5 : 0;
}

static void a_child_has_nothing_but_may_connect(void **state) {
    (void)state;
    struct bed bed;
#ifdef __SANITIZE_THREAD__
    skip(); /* it lets no child of many threads start one */
#endif
    open_bed(&bed, 0);
    assert_int_equal(child_of(&bed, child_has_nothing), 0);
    assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
    /* A child that lives on does not keep the session of its parent. */
    pid_t pid = fork();
    if (!pid)
        pause();
    must(mnw_client_unmap(bed.view));
    must(mnw_client_close(bed.client));
    for (unsigned i = 0; i < 2000 && atomic_load(&bed.fake.shared->sessions); i++)
        nap(1);
    assert_int_equal(atomic_load(&bed.fake.shared->sessions), 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    fake_close(&bed.fake);
}

/* EVENT_FORK takes CAP_SYS_PTRACE; and a child that is followed has a thread. */
static bool can_follow(void) {
#ifdef __SANITIZE_THREAD__
    return false; /* it lets no child of many threads start one */
#else
    return !geteuid();
#endif
}

static int child_has_it_all(struct bed *bed) {
    return fake_wrong(bed->data, 0, SIZE) != 0;
}

static int child_and_grandchild_have_it_all(struct bed *bed) {
    unsigned char *own = (unsigned char *)(uintptr_t)bed->data;
    bool wrong = own[3] != 77;
    own[3] = fake_byte(3);
    wrong |= fake_wrong(bed->data, 0, SIZE / 2) != 0;
    pid_t pid = fork();
    if (!pid)
        _exit(fake_wrong(bed->data, 0, SIZE) != 0);
    int status;
    return waitpid(pid, &status, 0) != pid || status || wrong;
}

static void a_followed_child_has_it_all(void **state) {
    (void)state;
    struct bed bed;
    if (!can_follow())
        skip();
    open_bed(&bed, MNW_CLIENT_FOLLOW_FORK);
    assert_int_equal(fake_wrong(bed.data, 0, 10 * PAGE), 0);
    assert_int_equal(child_of(&bed, child_has_it_all), 0);
    assert_int_equal(atomic_load(&bed.fake.shared->forks), 1);
    assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
    close_bed(&bed);
}

/* The daemon died with what the fork had brought it. */
static void a_followed_child_that_was_lost_is_served_anew(void **state) {
    (void)state;
    struct bed bed;
    if (!can_follow())
        skip();
    open_bed(&bed, MNW_CLIENT_FOLLOW_FORK | MNW_VIEW_WRITE);
    unsigned char *own = mnw_client_data(bed.view);
    own[3] = 77;
    atomic_store(&bed.fake.shared->lose_forks, true);
    assert_int_equal(child_of(&bed, child_and_grandchild_have_it_all), 0);
    assert_int_equal(atomic_load(&bed.fake.shared->forks), 2);
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_ATTACH), 3);
    assert_int_equal(own[3], 77);
    own[3] = fake_byte(3);
    assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
    close_bed(&bed);
}

/* However the parent has torn it, and wherever it has moved what. */
static unsigned char *moved;

static int child_has_all_parts(struct bed *bed) {
    if (mprotect(bed->data + 100 * PAGE, 10 * PAGE, PROT_READ))
        return 2;
    return fake_wrong(bed->data, 0, 40 * PAGE) || fake_wrong(bed->data + 60 * PAGE, 60 * PAGE, 140 * PAGE) ||
           fake_wrong(bed->data + 220 * PAGE, 220 * PAGE, SIZE - 220 * PAGE) ||
           fake_wrong(moved, 200 * PAGE, 20 * PAGE);
}

static int child_and_grandchild_have_all_parts(struct bed *bed) {
    int status = 0, bad = child_has_all_parts(bed);
    pid_t pid = bad ? 0 : fork();
    if (!pid)
        _exit(bad ? bad : child_has_all_parts(bed));
    return waitpid(pid, &status, 0) != pid || status;
}

static void a_followed_child_of_a_torn_view_is_served_anew(void **state) {
    (void)state;
    struct bed bed;
    if (!can_follow())
        skip();
    open_bed(&bed, MNW_CLIENT_FOLLOW_FORK);
    assert_int_equal(munmap(bed.data + 40 * PAGE, 20 * PAGE), 0);
    assert_int_equal(mprotect(bed.data + 100 * PAGE, 10 * PAGE, PROT_NONE), 0);
    moved = mmap(NULL, 20 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_equal(mremap(bed.data + 200 * PAGE, 20 * PAGE, 20 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, moved), moved);
    atomic_store(&bed.fake.shared->lose_forks, true);
    assert_int_equal(child_of(&bed, child_has_all_parts), 0);
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_ATTACH), 1 + 4); /* the protected part lies in the second */
    assert_int_equal(child_of(&bed, child_and_grandchild_have_all_parts), 0);
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_ATTACH), 1 + 4 + 4 + 4);
    close_bed(&bed);
}

/* More parts than a child keeps descriptors for: the rest cannot be touched, and is never zeros. */
static int child_has_parts_or_none(struct bed *bed) {
    unsigned closed = 0;
    for (size_t page = 0; page < PAGES; page += 2) {
        int signal_number = machine_touch((char *)bed->data + page * PAGE, NULL);
        size_t length = page + 1 == PAGES ? SIZE - page * PAGE : PAGE;
        if (signal_number ? signal_number != SIGSEGV : fake_wrong(bed->data + page * PAGE, page * PAGE, length) != 0)
            return 1;
        closed += signal_number == SIGSEGV;
    }
    return closed == PAGES / 2 - 64 ? 0 : 2;
}

static void a_followed_child_of_many_parts_has_no_zeros(void **state) {
    (void)state;
    struct bed bed;
    if (!can_follow())
        skip();
    open_bed(&bed, MNW_CLIENT_FOLLOW_FORK);
    for (size_t page = 1; page < PAGES; page += 2)
        assert_int_equal(munmap(bed.data + page * PAGE, PAGE), 0);
    atomic_store(&bed.fake.shared->lose_forks, true);
    assert_int_equal(child_of(&bed, child_has_parts_or_none), 0);
    close_bed(&bed);
}

/* It runs no handlers, so nobody looks whether it was lost: it does not have the view. */
static int64_t bare_child(struct bed *bed, bool by_libc) {
    pid_t pid = by_libc ? _Fork() : (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (!pid) {
        alarm(20);
        _exit(machine_touch((char *)bed->data, NULL) == SIGSEGV &&
              machine_touch((char *)bed->data + 9 * PAGE, NULL) == SIGSEGV);
    }
    int status;
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void a_bare_child_has_nothing_though_forks_are_followed(void **state) {
    (void)state;
    struct bed bed;
    if (!can_follow())
        skip();
    open_bed(&bed, MNW_CLIENT_FOLLOW_FORK);
    assert_int_equal(fake_wrong(bed.data, 0, PAGE), 0);
    assert_int_equal(bare_child(&bed, false), 1);
    assert_int_equal(child_of(&bed, child_has_it_all), 0);
    assert_int_equal(bare_child(&bed, true), 1);
    assert_int_equal(atomic_load(&bed.fake.shared->forks), 1);
    assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
    close_bed(&bed);
}

/* It would read zeros when the daemon dies. */
static int child_has_no_view(struct bed *bed) {
    return machine_touch((char *)bed->data + 30 * PAGE, NULL) != SIGSEGV;
}

static void no_child_is_followed_by_a_daemon_that_keeps_nothing(void **state) {
    (void)state;
    struct bed bed;
    if (!can_follow())
        skip();
    open_bed(&bed, MNW_CLIENT_FOLLOW_FORK);
    atomic_store(&bed.fake.shared->lacks, MNW__WIRE_SETTLED | MNW__WIRE_KEPT); /* its holder was killed */
    assert_int_equal(child_of(&bed, child_has_no_view), 0);
    assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
    close_bed(&bed);
    struct mnw_client *client;
    struct mnw_client_view *view;
    struct mnw_client_map_options options = {.size = sizeof(options), .flags = MNW_CLIENT_FOLLOW_FORK};
    fake_open(&bed.fake, SIZE);
    atomic_store(&bed.fake.shared->lacks, MNW__WIRE_KEPT); /* it never had one */
    must(mnw_client_connect(&client, bed.fake.path, NULL));
    refused(mnw_client_map(&view, client, "image", &options), -EOPNOTSUPP, "--alone");
    must(mnw_client_map(&view, client, "image", NULL));
    must(mnw_client_unmap(view));
    must(mnw_client_close(client));
    fake_close(&bed.fake);
}

/* What a child has put in the place of its view is none of a grandchild's. */
static int child_has_something_else_there(struct bed *bed) {
    int other = memfd_create("other", MFD_CLOEXEC);
    if (other < 0 || ftruncate(other, SIZE) ||
        mmap((void *)(uintptr_t)bed->data, SIZE, PROT_READ, MAP_SHARED | MAP_FIXED, other, 0) == MAP_FAILED)
        return 2;
    pid_t pid = fork();
    if (!pid)
        _exit(bed->data[5 * PAGE] != 0);
    int status;
    return waitpid(pid, &status, 0) != pid || status;
}

static void a_followed_child_may_map_something_else(void **state) {
    (void)state;
    struct bed bed;
    if (!can_follow())
        skip();
    open_bed(&bed, MNW_CLIENT_FOLLOW_FORK);
    assert_int_equal(child_of(&bed, child_has_something_else_there), 0);
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_ATTACH), 1);
    close_bed(&bed);
}

/* Nobody would see that what it has of it is taken away: it has none of it. */
static int child_has_none_of_it(struct bed *bed) {
    return machine_touch((char *)bed->data, NULL) != SIGSEGV;
}

static void a_child_forked_after_a_view_was_lost_has_none_of_it(void **state) {
    (void)state;
    struct bed bed;
    struct mnw__uffd_probe probe;
    if (!can_follow() || mnw__uffd_probe(&probe) || !(probe.features & MNW__UFFD_POISON)) {
        print_message("this takes CAP_SYS_PTRACE and UFFDIO_POISON\n");
        skip();
    }
    open_bed(&bed, MNW_CLIENT_FOLLOW_FORK);
    assert_int_equal(bed.data[0], fake_byte(0));
    atomic_store(&bed.fake.shared->say_detached, 1);
    assert_true(is_lost(bed.view));
    assert_int_equal(child_of(&bed, child_has_none_of_it), 0);
    assert_int_equal(bed.data[0], fake_byte(0));
    close_bed(&bed);
}

/* ---- unmapping ---- */

static void whoever_waits_in_an_unmapped_view_gets_sigsegv(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    pthread_t thread = begin_to_lose(&bed);
    must(mnw_client_unmap(bed.view));
    pthread_join(thread, NULL);
    assert_int_equal(touch_signal, SIGSEGV);
    must(mnw_client_close(bed.client));
    fake_close(&bed.fake);
}

static void unmapping_needs_no_daemon(void **state) {
    (void)state;
    struct bed bed;
    open_bed_with(&bed, (struct mnw_client_options){.timeout_ms = 50000}, MNW_CLIENT_RECORD);
    fake_kill(&bed.fake);
    nap(50);
    alarm(10);
    refused(mnw_client_unmap(bed.view), -ENOTCONN, "gone");
    assert_int_equal(machine_touch((char *)bed.data, NULL), SIGSEGV);
    must(mnw_client_close(bed.client));
    fake_close(&bed.fake);
}

/* ---- bad input ---- */

static void refusals_name_the_cause(void **state) {
    (void)state;
    struct bed bed;
    struct mnw_client *client;
    struct mnw_client_view *view;
    struct mnw_client_map_options options = {.size = sizeof(options)};
    uint8_t page;
    char long_name[100];
    memset(long_name, 'x', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = 0;
    refused(mnw_client_connect(&client, "/nonexistent/socket", NULL), -ENOENT, "minnow serve");
    refused(mnw_client_connect(NULL, NULL, NULL), -EINVAL, "NULL");
    open_bed(&bed, 0);
    refused(mnw_client_map(&view, bed.client, "other", NULL), -ENOENT, "refused by the fake");
    refused(mnw_client_map(&view, bed.client, NULL, NULL), -EINVAL, "NULL");
    refused(mnw_client_map(&view, bed.client, "", NULL), -EINVAL, "no name");
    refused(mnw_client_map(&view, bed.client, long_name, NULL), -ENAMETOOLONG, "xxx");
    options.offset_bytes = 5;
    refused(mnw_client_map(&view, bed.client, "image", &options), -EINVAL, "multiples");
    options.offset_bytes = PAGES * PAGE;
    refused(mnw_client_map(&view, bed.client, "image", &options), -EINVAL, "not inside");
    options.offset_bytes = 0;
    options.length_bytes = UINT64_MAX;
    refused(mnw_client_map(&view, bed.client, "image", &options), -EINVAL, "length");
    options.length_bytes = 0;
    options.address = 77;
    refused(mnw_client_map(&view, bed.client, "image", &options), -EINVAL, "multiple");
    options.address = 0;
    options.flags = 1u << 20;
    refused(mnw_client_map(&view, bed.client, "image", &options), -EINVAL, "flags");
    refused(mnw_client_residency(bed.client, "image", 0, &page, SIZE_MAX), -EINVAL, "multiples");
    refused(mnw_client_prefetch(bed.client, "image", 0, 7), -EINVAL, "multiples");
    refused(mnw_client_set_budget(bed.client, NULL, 7), -EINVAL, "NULL");
    refused(mnw_client_close(bed.client), -EBUSY, "unmap");
    atomic_store(&bed.fake.shared->refuse, 1u << MNW__WIRE_BUDGET | 1u << MNW__WIRE_ATTACH | 1u << MNW__WIRE_PIN);
    refused(mnw_client_set_budget(bed.client, "pool", 7), -EPERM, "refused by the fake");
    refused(mnw_client_map(&view, bed.client, "image", NULL), -EPERM, "refused by the fake");
    refused(mnw_client_pin(bed.client, "image", 0, PAGE), -EPERM, "refused by the fake");
    atomic_store(&bed.fake.shared->refuse, 1u << MNW__WIRE_HELLO);
    refused(mnw_client_connect(&client, bed.fake.path, NULL), -EPERM, "refused by the fake");
    assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
    close_bed(&bed);
}

/* ---- everything else ---- */

static void note_image(void *context, const struct mnw_image *image) {
    assert_string_equal(image->name, "image");
    assert_string_equal(image->pool, "pool");
    assert_int_equal(image->size_bytes, SIZE);
    assert_true(image->is_open);
    ++*(int *)context;
}

static void questions_are_answered(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    int count = 0;
    assert_int_equal(mnw_client_images(bed.client, note_image, &count), 1);
    assert_int_equal(count, 1);
    char *text = mnw_client_stats(bed.client, MNW_STATS_JSON);
    assert_non_null(text);
    assert_string_equal(text, "{\"fake\": true}");
    free(text);
    assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
    uint8_t pages[16] = {0};
    must(mnw_client_residency(bed.client, "image", 0, pages, 16)); /* the fake answers with the image's first bytes */
    assert_int_equal(fake_wrong(pages, 0, 16), 0);
    must(mnw_client_prefetch(bed.client, "image", 0, PAGES * PAGE));
    must(mnw_client_invalidate(bed.client, "image", 0, PAGE));
    must(mnw_client_set_budget(bed.client, "pool", 1 << 20));
    close_bed(&bed);
}

int main(int argc, char **argv) {
    int code = machine_guard(argv);
    (void)argc;
    if (code >= 0)
        return code;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_is_right),
        cmocka_unit_test(a_part_at_a_chosen_address),
        cmocka_unit_test(writes_are_private),
        cmocka_unit_test(zeroed_pages_are_zero_here_alone),
        cmocka_unit_test(many_threads_map_and_read),
        cmocka_unit_test(a_child_has_nothing_but_may_connect),
        cmocka_unit_test(a_followed_child_has_it_all),
        cmocka_unit_test(a_followed_child_that_was_lost_is_served_anew),
        cmocka_unit_test(a_followed_child_of_a_torn_view_is_served_anew),
        cmocka_unit_test(a_followed_child_of_many_parts_has_no_zeros),
        cmocka_unit_test(a_bare_child_has_nothing_though_forks_are_followed),
        cmocka_unit_test(no_child_is_followed_by_a_daemon_that_keeps_nothing),
        cmocka_unit_test(a_followed_child_may_map_something_else),
        cmocka_unit_test(a_child_forked_after_a_view_was_lost_has_none_of_it),
        cmocka_unit_test(whoever_waits_in_an_unmapped_view_gets_sigsegv),
        cmocka_unit_test(unmapping_needs_no_daemon),
        cmocka_unit_test(refusals_name_the_cause),
        cmocka_unit_test(questions_are_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
