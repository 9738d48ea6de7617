/* SPDX-License-Identifier: MIT */
#include "sys/signal_mask.h"

#include <pthread.h>
#include <signal.h>

/* initial-exec: the first touch of other thread-local memory may call the allocator, which a handler must not. */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
    unsigned depth;
    sigset_t before;
} mask;

void mnw__signals_fill(sigset_t *set) {
    /* What an instruction raises does not wait: blocked, it would end the process past every handler. */
    static const int synchronous[] = {SIGSEGV, SIGSYS, SIGTRAP, SIGILL, SIGFPE};
    sigfillset(set);
    for (unsigned i = 0; i < sizeof(synchronous) / sizeof(synchronous[0]); i++)
        sigdelset(set, synchronous[i]);
}

void mnw__signals_block(void) {
    if (mask.depth) {
        mask.depth++;
        return;
    }
    sigset_t most, before;
    mnw__signals_fill(&most);
    pthread_sigmask(SIG_BLOCK, &most, &before);
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

/* ---- whole calls ------------------------------------------------------------------------------------------- */

int mnw__cancel_disable(void) {
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    return before;
}

void mnw__cancel_restore(const int *before) {
    pthread_setcancelstate(*before, NULL);
}
