/* SPDX-License-Identifier: MIT */
#include "sys/signal_mask.h"

#include <pthread.h>
#include <signal.h>

/* initial-exec: the first touch of other thread-local memory may call the allocator, which a handler must not. */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
    unsigned depth;
    sigset_t before;
} mask;

void mnw__signals_block(void) {
    if (mask.depth) {
        mask.depth++;
        return;
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    mask.before = before;
    mask.depth = 1;
}

void mnw__signals_restore(void) {
    if (--mask.depth)
        return;
    sigset_t before = mask.before;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void mnw__signals_note_blocked(void) {
    mask.depth++;
}

void mnw__signals_forget_blocked(void) {
    mask.depth--;
}
