/* SPDX-License-Identifier: MIT */
/* The client library against a daemon that dies, comes back, comes back as another, or talks nonsense. */
#include "../live/machine.h"
#include "bed.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- a daemon that dies ---- */

static void killed_while_faults_wait(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    assert_int_equal(bed.data[0], fake_byte(0));
    atomic_store(&bed.fake.shared->hold_faults, true);
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, read_all, &bed), 0);
    assert_true(fake_until(&bed.fake.shared->held, 1)); /* it was read, and dies with its reader */
    fake_kill(&bed.fake);
    nap(50);
    atomic_store(&bed.fake.shared->hold_faults, false);
    fake_start(&bed.fake);
    void *wrong;
    pthread_join(reader, &wrong);
    assert_int_equal((size_t)wrong, 0);
    assert_int_equal(mnw_client_lost(bed.view), 0);
    close_bed(&bed);
}

static void killed_again_and_again(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, i % 2 ? read_all : map_and_unmap, &bed), 0);
    for (unsigned i = 0; i < 12; i++) {
        fake_kill(&bed.fake);
        fake_start(&bed.fake);
        nap(15 * (i % 4));
    }
    for (unsigned i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_int_equal((size_t)wrong, 0);
    }
    close_bed(&bed);
}

/* Waits for the daemon's death and starts a healthy one. */
static void *nurse(void *argument) {
    struct bed *bed = argument;
    waitpid(bed->fake.pid, NULL, 0);
    atomic_store(&bed->fake.shared->die, 0);
    fake_start(&bed->fake);
    return NULL;
}

/* Every request is asked again of the next daemon, and nobody sees a difference. */
static void dies_at_each_request(void **state) {
    (void)state;
    static const enum mnw__wire_type types[] = {
        MNW__WIRE_OPEN,  MNW__WIRE_ATTACH,     MNW__WIRE_RECORD,    MNW__WIRE_REPLAY, MNW__WIRE_PREFETCH, MNW__WIRE_PIN,
        MNW__WIRE_UNPIN, MNW__WIRE_INVALIDATE, MNW__WIRE_RESIDENCY, MNW__WIRE_STATS,  MNW__WIRE_DETACH};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        struct bed bed;
        open_bed(&bed, 0);
        must(mnw_client_unmap(bed.view)); /* so that the image is opened again */
        atomic_store(&bed.fake.shared->die, 1u << types[i]);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, nurse, &bed), 0);
        uint8_t resident[2];
        struct mnw_client_map_options options = {.size = sizeof(options),
                                                 .flags = MNW_CLIENT_RECORD | MNW_CLIENT_REPLAY};
        must(mnw_client_map(&bed.view, bed.client, "image", &options));
        bed.data = mnw_client_data(bed.view);
        must(mnw_client_prefetch(bed.client, "image", 0, PAGE));
        must(mnw_client_pin(bed.client, "image", 0, PAGE));
        must(mnw_client_unpin(bed.client, "image", 0, PAGE));
        must(mnw_client_invalidate(bed.client, "image", 0, PAGE));
        must(mnw_client_residency(bed.client, "image", 0, resident, 2));
        free(mnw_client_stats(bed.client, MNW_STATS_JSON));
        assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
        must(mnw_client_unmap(bed.view));
        pthread_join(thread, NULL);
        must(mnw_client_map(&bed.view, bed.client, "image", NULL));
        close_bed(&bed);
    }
}

static void unanswered_requests_are_sent_again_when_the_worker_was_replaced(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    atomic_store(&bed.fake.shared->mute, 1u << MNW__WIRE_ATTACH);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, map_and_unmap, &bed), 0);
    assert_true(fake_until(&bed.fake.shared->requests[MNW__WIRE_ATTACH], 2));
    atomic_store(&bed.fake.shared->mute, 0);
    nap(20);
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_ATTACH), 2);
    /* The fake's own registration of the same range is no obstacle, as it must not be in any daemon. */
    atomic_store(&bed.fake.shared->say_restarted, true);
    void *wrong;
    pthread_join(thread, &wrong);
    assert_int_equal((size_t)wrong, 0);
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_HELLO), 1);
    close_bed(&bed);
}

static void recording_begins_again_with_the_next_daemon(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, MNW_CLIENT_RECORD);
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_RECORD), 1);
    fake_kill(&bed.fake);
    fake_start(&bed.fake);
    assert_true(fake_until(&bed.fake.shared->requests[MNW__WIRE_RECORD], 2));
    atomic_store(&bed.fake.shared->say_restarted, true);
    assert_true(fake_until(&bed.fake.shared->requests[MNW__WIRE_RECORD], 3));
    must(mnw_client_save(bed.view));
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_RECORD), 4);
    must(mnw_client_unmap(bed.view));
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_RECORD), 5);
    must(mnw_client_map(&bed.view, bed.client, "image", NULL));
    refused(mnw_client_save(bed.view), -EINVAL, "MNW_CLIENT_RECORD");
    close_bed(&bed);
}

static void pins_are_told_to_the_next_daemon(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    must(mnw_client_pin(bed.client, "image", 0, 2 * PAGE));
    must(mnw_client_pin(bed.client, "image", 0, 2 * PAGE));
    must(mnw_client_pin(bed.client, "image", 4 * PAGE, PAGE));
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_PIN), 3);
    must(mnw_client_unpin(bed.client, "image", 4 * PAGE, PAGE));
    refused(mnw_client_unpin(bed.client, "image", 4 * PAGE, PAGE), -EINVAL, "did not pin");
    fake_kill(&bed.fake);
    fake_start(&bed.fake);
    assert_true(fake_until(&bed.fake.shared->requests[MNW__WIRE_PIN], 5));
    nap(20);
    assert_int_equal(fake_seen(&bed.fake, MNW__WIRE_PIN), 5);
    must(mnw_client_unpin(bed.client, "image", 0, 2 * PAGE));
    must(mnw_client_unpin(bed.client, "image", 0, 2 * PAGE));
    close_bed(&bed);
}

/* Sane again only when a client that asked at once each time would have asked hundreds of times. */
static void *make_sane(void *argument) {
    struct bed *bed = argument;
    fake_until(&bed->fake.shared->requests[MNW__WIRE_STATS], 3);
    nap(300);
    atomic_store(&bed->fake.shared->garble, 0);
    return NULL;
}

static void a_daemon_that_talks_nonsense_is_left_and_tried_again(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    atomic_store(&bed.fake.shared->garble, 1u << MNW__WIRE_STATS);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, make_sane, &bed), 0);
    char *text = mnw_client_stats(bed.client, MNW_STATS_JSON);
    pthread_join(thread, NULL);
    assert_non_null(text);
    free(text);
    assert_in_range(fake_seen(&bed.fake, MNW__WIRE_HELLO), 4, 20);
    assert_int_equal(fake_wrong(bed.data, 0, SIZE), 0);
    close_bed(&bed);
}

/* ---- views that are lost ---- */

static void check_lost(struct bed *bed, int signal_number) {
    uintptr_t fault;
    assert_true(is_lost(bed->view));
    assert_int_equal(machine_touch((char *)bed->data + 20 * PAGE + 5, &fault), signal_number);
    if (signal_number == SIGBUS) {
        assert_int_equal(fault & ~(PAGE - 1), (uintptr_t)bed->data + 20 * PAGE);
        assert_int_equal(fake_wrong(bed->data, 0, 2 * PAGE), 0); /* what is mapped stays */
        int pipes[2];
        assert_int_equal(pipe(pipes), 0);
        assert_int_equal(write(pipes[1], bed->data + 21 * PAGE, 1), -1);
        assert_int_equal(errno, EFAULT);
        close(pipes[0]);
        close(pipes[1]);
    }
}

static void another_backing_means_sigbus(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    pthread_t thread = begin_to_lose(&bed);
    fake_kill(&bed.fake);
    fake_new_backing(&bed.fake);
    atomic_store(&bed.fake.shared->hold_faults, false);
    fake_start(&bed.fake);
    pthread_join(thread, NULL);
    assert_int_equal(touch_signal, SIGBUS);
    check_lost(&bed, SIGBUS);
    refused(mnw_client_lost(bed.view), -ESTALE, "does not serve");
    must(mnw_client_unmap(bed.view)); /* and the image can be mapped anew */
    must(mnw_client_map(&bed.view, bed.client, "image", NULL));
    assert_int_equal(fake_wrong(mnw_client_data(bed.view), 0, SIZE), 0);
    close_bed(&bed);
}

static void refused_by_the_next_daemon_means_sigbus(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    pthread_t thread = begin_to_lose(&bed);
    fake_kill(&bed.fake);
    atomic_store(&bed.fake.shared->refuse, 1u << MNW__WIRE_OPEN);
    fake_start(&bed.fake);
    pthread_join(thread, NULL);
    assert_int_equal(touch_signal, SIGBUS);
    check_lost(&bed, SIGBUS);
    close_bed(&bed);
}

static void detached_by_the_daemon_means_sigbus(void **state) {
    (void)state;
    struct bed bed;
    open_bed(&bed, 0);
    pthread_t thread = begin_to_lose(&bed);
    atomic_store(&bed.fake.shared->say_detached, 1);
    pthread_join(thread, NULL);
    assert_int_equal(touch_signal, SIGBUS);
    check_lost(&bed, SIGBUS);
    refused(mnw_client_lost(bed.view), -EIO, "does not serve");
    close_bed(&bed);
}

static void no_daemon_for_too_long_means_sigbus(void **state) {
    (void)state;
    struct bed bed;
    open_bed_with(&bed, (struct mnw_client_options){.timeout_ms = 300, .lost_after_ms = 200}, 0);
    pthread_t thread = begin_to_lose(&bed);
    fake_kill(&bed.fake);
    pthread_join(thread, NULL);
    assert_int_equal(touch_signal, SIGBUS);
    check_lost(&bed, SIGBUS);
    refused(mnw_client_lost(bed.view), -ETIMEDOUT, "does not serve");
    /* -ENOENT or -ECONNREFUSED would be of no use here: the listener is still there. */
    refused(mnw_client_prefetch(bed.client, "image", 0, PAGE), -ETIMEDOUT, bed.fake.path);
    close_bed(&bed);
}

static void a_daemon_that_speaks_another_version_is_refused(void **state) {
    (void)state;
    struct fake fake;
    struct mnw_client *client;
    fake_open(&fake, SIZE);
    atomic_store(&fake.shared->ahead, 1);
    refused(mnw_client_connect(&client, fake.path, NULL), -EPROTONOSUPPORT, "version 2");
    atomic_store(&fake.shared->ahead, 0);
    assert_int_equal(mnw_client_connect(&client, fake.path, NULL), 0);
    assert_int_equal(mnw_client_close(client), 0);
    fake_close(&fake);
}

int main(int argc, char **argv) {
    int code = machine_guard(argv);
    (void)argc;
    if (code >= 0)
        return code;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_while_faults_wait),
        cmocka_unit_test(killed_again_and_again),
        cmocka_unit_test(dies_at_each_request),
        cmocka_unit_test(unanswered_requests_are_sent_again_when_the_worker_was_replaced),
        cmocka_unit_test(recording_begins_again_with_the_next_daemon),
        cmocka_unit_test(pins_are_told_to_the_next_daemon),
        cmocka_unit_test(a_daemon_that_talks_nonsense_is_left_and_tried_again),
        cmocka_unit_test(a_daemon_that_speaks_another_version_is_refused),
        cmocka_unit_test(another_backing_means_sigbus),
        cmocka_unit_test(refused_by_the_next_daemon_means_sigbus),
        cmocka_unit_test(detached_by_the_daemon_means_sigbus),
        cmocka_unit_test(no_daemon_for_too_long_means_sigbus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
