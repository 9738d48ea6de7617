/* SPDX-License-Identifier: MIT */
/* What the userfaultfd tests share: a file with an alias and a registered view, and threads that touch it. */
#ifndef MNW_TESTS_LIVE_UFFD_AREA_H
#define MNW_TESTS_LIVE_UFFD_AREA_H

#include "sys/uffd.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum area_kind { AREA_SHMEM, AREA_HUGETLB, AREA_ANON };

#define AREA_PAGES 4

struct area {
    enum area_kind kind;
    int uffd;
    int fd;
    size_t page;
    size_t length; /* of the view: AREA_PAGES pages, and one more that is beyond the file's end */
    char *alias;
    char *view; /* MAP_SHARED */
};

/* Can memory be write-protected? On arm64 from Linux 6.10 on. */
bool area_protects(void);

/*
 * Registers the view whole with `modes` (0: not at all), without write protection where there is none. Skips the test
 * when the machine has no such pages.
 */
void area_open(struct area *area, enum area_kind kind, uint64_t features, unsigned modes);
void area_close(struct area *area);
/* Puts a page into the file, full of `fill`. */
void area_fill(struct area *area, int page, char fill);
void area_punch(struct area *area, int page);
uintptr_t area_at(const struct area *area, int page);

/* A thread that reads (or writes) one byte. */
struct toucher {
    pthread_t thread;
    volatile char *at;
    bool write;
    char seen;
    int signal_number;
    uintptr_t fault_address;
    _Atomic uint32_t thread_id;
    _Atomic bool ended;
};
void touch_start(struct toucher *toucher, uintptr_t at, bool write);
/* Fails the test when it does not end. */
void touch_join(struct toucher *toucher);

/* The next event, which must come within five seconds. */
struct mnw__uffd_event event_next(int uffd);
void event_none(int uffd);
/* Waits until so many threads wait on the descriptor. */
void await_waiting(int uffd, uint64_t total);

/* A descriptor whose address space is gone; it had `length` bytes registered at `*start`. */
int uffd_of_the_dead(uintptr_t *start, size_t length);

/* Runs in a forked child; its return value is the exit status, which must be 0. */
void in_child(int (*run)(void));
/* In a child: becomes nobody. */
bool drop_privileges(void);
/* In a child: from here on the system call fails with `error`. */
bool forbid_call(long number, int error);

#endif
