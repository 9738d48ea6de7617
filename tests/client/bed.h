/* SPDX-License-Identifier: MIT */
/* What the tests of the client stand on: a fake daemon, a client, a view of all of its image. One test at a time. */
#ifndef MNW_TESTS_CLIENT_BED_H
#define MNW_TESTS_CLIENT_BED_H

#include "fake_daemon.h"

#include <pthread.h>

#define PAGE  4096ul
#define PAGES 256ul
#define SIZE  (PAGES * PAGE - 100) /* the last page is not full */

struct bed {
    struct fake fake;
    struct mnw_client *client;
    struct mnw_client_view *view;
    unsigned char *data;
};

void must(int result);
/* It failed as expected, and the message has the word. */
void refused(int result, int expected, const char *word);
void nap(unsigned ms);

void open_bed_with(struct bed *bed, struct mnw_client_options options, unsigned flags);
void open_bed(struct bed *bed, unsigned flags);
void close_bed(struct bed *bed);

/* For threads: how many bytes are wrong. */
void *read_all(void *bed);
void *map_and_unmap(void *bed);

/* Waits up to 5 s. */
bool is_lost(struct mnw_client_view *view);
/* Two pages are mapped, a thread waits at page 9 for a daemon that has read its fault. */
pthread_t begin_to_lose(struct bed *bed);
/* What ended that thread's wait. */
extern int touch_signal;

#endif
