/* SPDX-License-Identifier: MIT */
/*
 * What a fault costs others: CONTINUE of one page while so many threads wait on the same userfaultfd, with its wake and
 * without. The kernel keeps one list of waiters for each descriptor, and a wake walks it. waiters.
 */
#include "area.h"
#include "harness.h"
#include "measure.h"
#include "registry.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PAGE    4096
#define MOST    1024 /* waiters */
#define POINTS  6    /* 1, 4, 16, ... */
#define CALLS   256
#define LENGTH  (16 * MIB)
#define STACK   (64 << 10)
#define SETTLED 2000000

/* Waiters sleep on the first pages of the view; the calls are on the last ones. */
struct crowd {
    struct area area;
    int uffd;
    _Atomic uint64_t sum;
};

struct waiters_arm {
    struct crowd *crowd;
    unsigned waiters;
    bool wake;
};

struct waiter {
    struct crowd *crowd;
    unsigned page;
    pthread_t thread;
};

static void *wait_there(void *argument) {
    struct waiter *waiter = argument;
    atomic_fetch_add(&waiter->crowd->sum, waiter->crowd->area.view[(size_t)waiter->page * PAGE]);
    return NULL;
}

/* Every one of them is asleep when its event has been read. */
static bool gather(struct crowd *crowd, struct waiter *waiters, unsigned count) {
    struct uffd_msg message;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK);
    bool good = true;
    for (unsigned i = 0; i < count && good; i++) {
        waiters[i] = (struct waiter){.crowd = crowd, .page = i};
        good = !pthread_create(&waiters[i].thread, &small, wait_there, &waiters[i]) &&
               read(crowd->uffd, &message, sizeof(message)) == (ssize_t)sizeof(message);
    }
    pthread_attr_destroy(&small);
    sleep_ns(SETTLED);
    return good;
}

static void release(struct crowd *crowd, struct waiter *waiters, unsigned count) {
    struct uffdio_continue all = {.range = {.start = (uintptr_t)crowd->area.view, .len = (uint64_t)count * PAGE}};
    ioctl(crowd->uffd, UFFDIO_CONTINUE, &all);
    for (unsigned i = 0; i < count; i++)
        pthread_join(waiters[i].thread, NULL);
}

static int continue_some(const struct crowd *crowd, bool wake, double *ns) {
    for (unsigned i = 0; i < CALLS; i++) {
        struct uffdio_continue page = {
            .range = {.start = (uintptr_t)crowd->area.view + (MOST + i) * (uint64_t)PAGE, .len = PAGE},
            .mode = wake ? 0 : UFFDIO_CONTINUE_MODE_DONTWAKE};
        uint64_t begin_ns = clock_ns();
        int error = ioctl(crowd->uffd, UFFDIO_CONTINUE, &page) ? -errno : 0;
        ns[i] = (double)(clock_ns() - begin_ns);
        if (error)
            return error;
    }
    return 0;
}

static double waiters_turn(void *context, struct bench_turn *turn) {
    const struct waiters_arm *arm = context;
    struct waiter *waiters = calloc(arm->waiters, sizeof(*waiters));
    double ns[CALLS];
    area_zap(&arm->crowd->area);
    if (!waiters || !gather(arm->crowd, waiters, arm->waiters)) {
        fprintf(stderr, "minnow-bench: the waiters could not be gathered: %s\n", strerror(errno));
        exit(EXIT_FAILURE); /* some of them wait for ever */
    }
    int error = continue_some(arm->crowd, arm->wake, ns);
    release(arm->crowd, waiters, arm->waiters);
    free(waiters);
    snprintf(turn->why, sizeof(turn->why), "CONTINUE: %s", strerror(-error));
    return error ? NAN : median_of(ns, CALLS);
}

static void measure(struct bench *bench, struct crowd *crowd) {
    static struct waiters_arm contexts[2 * POINTS];
    static char names[2 * POINTS][32];
    struct bench_arm arms[2 * POINTS];
    unsigned count = 0, points = bench->smoke ? POINTS - 2 : POINTS;
    for (unsigned wake = 0; wake < 2; wake++)
        for (unsigned i = 0; i < points; i++, count++) {
            const char *series = wake ? "wake" : "dontwake";
            contexts[count] = (struct waiters_arm){crowd, 1u << 2 * i, wake};
            snprintf(names[count], sizeof(names[0]), "%s-%u", series, 1u << 2 * i);
            arms[count] = (struct bench_arm){.name = names[count],
                                             .unit = "ns",
                                             .turn = waiters_turn,
                                             .context = &contexts[count],
                                             .by = "waiters",
                                             .at = 1u << 2 * i,
                                             .series = series};
        }
    bench_take_turns(bench, arms, count);
}

void bench_waiters(struct bench *bench) {
    struct crowd crowd = {.uffd = -1};
    struct scratch scratch;
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    int error = area_open(&crowd.area, AREA_4K, LENGTH, &scratch);
    if (!error) {
        error = crowd.uffd = uffd_open(UFFD_FEATURE_MINOR_SHMEM, 0);
        if (crowd.uffd >= 0)
            error = uffd_arm(crowd.uffd, crowd.area.view, LENGTH,
                             UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
        if (!error)
            measure(bench, &crowd);
        area_close(&crowd.area);
    }
    if (error)
        bench_break(bench, NULL, "%s", strerror(-error));
    if (crowd.uffd >= 0)
        close(crowd.uffd);
    scratch_close(&scratch);
}
