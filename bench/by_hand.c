/* SPDX-License-Identifier: MIT */
#include "by_hand.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PAGE 4096
#define MOST 2

static struct by_hand *open_ones[MOST];
static unsigned open_count;
static struct sigaction before;
static char bytes[PAGE];

static void map(const struct by_hand *by_hand, size_t at) {
    struct uffdio_continue page = {.range = {.start = (uintptr_t)by_hand->area.view + at, .len = PAGE}};
    if (ioctl(by_hand->uffd, UFFDIO_CONTINUE, &page))
        abort();
}

static void serve(struct by_hand *by_hand, size_t at) {
    uint32_t *slot = &by_hand->ring[by_hand->next++ % by_hand->room];
    if (*slot)
        area_punch(&by_hand->area, (size_t)(*slot - 1) * PAGE, PAGE);
    *slot = (uint32_t)(at / PAGE) + 1;
    if (pread(by_hand->scratch->fd, by_hand->area.alias + at, PAGE, (off_t)at) != PAGE)
        abort();
    map(by_hand, at);
}

static void serve_least(struct by_hand *by_hand, size_t at) {
    uint32_t extent = (uint32_t)(at / BY_HAND_EXTENT);
    while (by_hand->resident >= by_hand->room) {
        uint32_t oldest = by_hand->ring[by_hand->first++ % by_hand->room];
        area_punch(&by_hand->area, (size_t)oldest * BY_HAND_EXTENT, BY_HAND_EXTENT);
        by_hand->resident -= by_hand->held[oldest];
        by_hand->held[oldest] = 0;
    }
    if (!by_hand->held[extent]++)
        by_hand->ring[by_hand->next++ % by_hand->room] = extent;
    by_hand->resident++;
    if (pread(by_hand->scratch->fd, bytes, PAGE, (off_t)at) != PAGE ||
        pwrite(by_hand->area.fd, bytes, PAGE, (off_t)at) != PAGE)
        abort();
    map(by_hand, at);
}

static void on_sigbus(int number, siginfo_t *info, void *context) {
    for (unsigned i = 0; i < open_count; i++) {
        struct by_hand *by_hand = open_ones[i];
        size_t at = ((uintptr_t)info->si_addr - (uintptr_t)by_hand->area.view) & ~(size_t)(PAGE - 1);
        if (at >= by_hand->area.length)
            continue;
        by_hand->misses++;
        (by_hand->least ? serve_least : serve)(by_hand, at);
        return;
    }
    if (before.sa_flags & SA_SIGINFO) /* a view of minnow's, if it is anybody's */
        before.sa_sigaction(number, info, context);
    else
        sigaction(number, &before, NULL);
}

int by_hand_open(struct by_hand *by_hand, const struct scratch *scratch, const struct reads *like, uint64_t seed) {
    by_hand->scratch = scratch;
    by_hand->uffd = -1;
    if (!by_hand->room)
        by_hand->room = (uint32_t)(scratch->size_bytes / PAGE / 4);
    by_hand->ring = calloc(by_hand->room, sizeof(*by_hand->ring));
    by_hand->held = calloc(scratch->size_bytes / BY_HAND_EXTENT + 1, sizeof(*by_hand->held));
    open_ones[open_count++] = by_hand;
    if (open_count == 1) {
        struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
        sigaction(SIGBUS, &action, &before);
    }
    int error =
        by_hand->ring && by_hand->held ? area_open(&by_hand->area, AREA_4K, scratch->size_bytes, NULL) : -ENOMEM;
    if (error)
        return error;
    by_hand->reads = *like;
    by_hand->reads.data = by_hand->area.view;
    reads_begin(&by_hand->reads, seed);
    by_hand->uffd = uffd_open(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MINOR_SHMEM, 0);
    return by_hand->uffd < 0 ? by_hand->uffd
                             : uffd_arm(by_hand->uffd, by_hand->area.view, by_hand->area.length,
                                        UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
}

void by_hand_close(struct by_hand *by_hand) {
    if (by_hand->area.alias)
        area_close(&by_hand->area);
    if (by_hand->uffd >= 0)
        close(by_hand->uffd);
    if (!--open_count)
        sigaction(SIGBUS, &before, NULL);
    free(by_hand->ring);
    free(by_hand->held);
    *by_hand = (struct by_hand){.uffd = -1};
}

void by_hand_reset(void *context) {
    struct by_hand *by_hand = context;
    area_punch(&by_hand->area, 0, by_hand->area.length);
    memset(by_hand->held, 0, (by_hand->area.length / BY_HAND_EXTENT + 1) * sizeof(*by_hand->held));
    by_hand->resident = by_hand->first = by_hand->next = 0;
}

double by_hand_turn(void *context, struct bench_turn *turn) {
    struct by_hand *by_hand = context;
    uint64_t misses = by_hand->misses;
    double rate = reads_turn(&by_hand->reads, turn);
    if (!turn->round)
        by_hand->misses = misses;
    return rate;
}
