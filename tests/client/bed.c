/* SPDX-License-Identifier: MIT */
#include "bed.h"

#include "../live/machine.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

int touch_signal;

void must(int result) {
    if (result)
        print_error("%s\n", mnw_error());
    assert_int_equal(result, 0);
}

void refused(int result, int expected, const char *word) {
    if (result != expected || !strstr(mnw_error(), word))
        print_error("%d: %s\n", result, mnw_error());
    assert_int_equal(result, expected);
    assert_non_null(strstr(mnw_error(), word));
}

void nap(unsigned ms) {
    nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

void open_bed_with(struct bed *bed, struct mnw_client_options options, unsigned flags) {
    alarm(60);
    fake_open(&bed->fake, SIZE);
    options.size = sizeof(options);
    must(mnw_client_connect(&bed->client, bed->fake.path, &options));
    struct mnw_client_map_options how = {.size = sizeof(how), .flags = flags};
    must(mnw_client_map(&bed->view, bed->client, "image", &how));
    bed->data = mnw_client_data(bed->view);
}

void open_bed(struct bed *bed, unsigned flags) {
    open_bed_with(bed, (struct mnw_client_options){.timeout_ms = 5000}, flags);
}

void close_bed(struct bed *bed) {
    must(mnw_client_unmap(bed->view));
    must(mnw_client_close(bed->client));
    fake_close(&bed->fake);
    alarm(0);
}

void *read_all(void *argument) {
    struct bed *bed = argument;
    return (void *)fake_wrong(bed->data, 0, SIZE);
}

void *map_and_unmap(void *argument) {
    struct bed *bed = argument;
    size_t wrong = 0;
    for (unsigned i = 0; i < 10; i++) {
        struct mnw_client_view *view;
        if (mnw_client_map(&view, bed->client, "image", NULL))
            return (void *)(SIZE + 1);
        wrong += fake_wrong(mnw_client_data(view), 0, SIZE);
        if (mnw_client_unmap(view))
            return (void *)(SIZE + 2);
    }
    return (void *)wrong;
}

bool is_lost(struct mnw_client_view *view) {
    for (unsigned i = 0; i < 5000 && !mnw_client_lost(view); i++)
        nap(1);
    return mnw_client_lost(view);
}

static void *touch_one(void *argument) {
    struct bed *bed = argument;
    touch_signal = machine_touch((char *)bed->data + 9 * PAGE, NULL);
    return NULL;
}

/* Two pages are mapped, a thread waits at page 9 for a daemon that has read its fault. */
pthread_t begin_to_lose(struct bed *bed) {
    pthread_t thread;
    assert_int_equal(fake_wrong(bed->data, 0, 2 * PAGE), 0);
    atomic_store(&bed->fake.shared->hold_faults, true);
    assert_int_equal(pthread_create(&thread, NULL, touch_one, bed), 0);
    assert_true(fake_until(&bed->fake.shared->held, 1));
    return thread;
}
