/* SPDX-License-Identifier: MIT */
#include "interrupt.h"

#include "measure.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* A terminal signals every process of the group, and the parent passes on what it gets: two that mean one. */
#define SAME_NS 1000000000

static _Atomic uint64_t noted_ns; /* when, or 0 */
static atomic_int noted;

static void note(int number) {
    uint64_t never = 0, now_ns = clock_ns();
    if (atomic_compare_exchange_strong(&noted_ns, &never, now_ns)) {
        atomic_store(&noted, number);
    } else if (now_ns - never > SAME_NS) {
        signal(number, SIG_DFL);
        raise(number); /* when this handler returns */
    }
}

void interrupt_prepare(void) {
    static const int numbers[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct sigaction before, action = {.sa_handler = note, .sa_flags = SA_RESTART};
        /* Whoever started this may want them ignored: nohup(1), shells in the background. */
        if (!sigaction(numbers[i], NULL, &before) && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
}

int interrupted(void) {
    return atomic_load(&noted);
}
