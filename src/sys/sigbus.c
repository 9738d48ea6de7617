/* SPDX-License-Identifier: MIT */
/*
 * The handler of SIGBUS, and passing on. Between the kernel's signal and `serve` nothing is called that is not
 * async-signal-safe, or that could be a place to be cancelled.
 */
#include "sys/sigbus.h"

#include "base/error.h"
#include "sys/memory.h"
#include "sys/signal_mask.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* What the kernel's own mask has; the C library's type is longer than what lies in a signal's frame. */
#define KERNEL_MASK_BYTES 8

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned users; /* lock */
/* lock: ours is installed, at the top or below a handler that somebody installed later */
static bool installed;
/* Written before the handler is installed. */
static struct sigaction before;
static _Atomic bool before_is_spent; /* it was SA_RESETHAND, and has been called */
static mnw__sigbus_serve *_Atomic ask;

/* ---- passing on -------------------------------------------------------------------------------------------- */

/* As if there had been no handler: with this very siginfo, in this very thread. */
static void die(int number, siginfo_t *info) {
    struct sigaction nothing = {.sa_handler = SIG_DFL};
    sigset_t only;
    sigaction(number, &nothing, NULL);
    syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), number, info);
    sigemptyset(&only);
    sigaddset(&only, number);
    pthread_sigmask(SIG_UNBLOCK, &only, NULL);
}

/* The mask that the old handler would have found. */
static void set_mask(int number, const ucontext_t *context) {
    sigset_t mask;
    sigemptyset(&mask);
    memcpy(&mask, &context->uc_sigmask, KERNEL_MASK_BYTES);
    sigorset(&mask, &mask, &before.sa_mask);
    if (!(before.sa_flags & SA_NODEFER))
        sigaddset(&mask, number);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

static void pass_on(int number, siginfo_t *info, void *context) {
    /* The kernel lets nobody ignore a fault: it would be repeated for ever. */
    bool is_fault = info->si_code > 0;
    bool is_default = before.sa_handler == SIG_DFL;
    if (!is_default && before.sa_handler != SIG_IGN && (before.sa_flags & (int)SA_RESETHAND))
        is_default = atomic_exchange(&before_is_spent, true);
    if (is_default || (before.sa_handler == SIG_IGN && is_fault)) {
        die(number, info);
        return;
    }
    if (before.sa_handler == SIG_IGN)
        return;
    set_mask(number, context);
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(number, info, context);
    else
        before.sa_handler(number);
}

/* ---- the handler ------------------------------------------------------------------------------------------- */

/* A view that was closed between the fault and now: the repeated instruction finds no mapping. */
static bool is_unmapped(const siginfo_t *info) {
    unsigned char resident;
    size_t page_bytes = mnw__memory_page_bytes();
    uintptr_t page = (uintptr_t)info->si_addr & ~(uintptr_t)(page_bytes - 1);
    return mincore((void *)page, 1, &resident) && errno == ENOMEM;
}

static void on_sigbus(int number, siginfo_t *info, void *context) {
    int saved = errno, cancel_state;
    bool resolved = false;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    mnw__signals_note_blocked();
    /* As every fault of userfaultfd. Memory that broke (BUS_MCEERR_*) would be found broken for ever. */
    if (info->si_code == BUS_ADRERR) {
        enum mnw__sigbus what = atomic_load_explicit(&ask, memory_order_acquire)((uintptr_t)info->si_addr);
        resolved = what == MNW__SIGBUS_RESOLVED || (what == MNW__SIGBUS_FOREIGN && is_unmapped(info));
    }
    mnw__signals_forget_blocked();
    pthread_setcancelstate(cancel_state, NULL);
    errno = saved;
    /* Last: a handler may never come back. */
    if (!resolved)
        pass_on(number, info, context);
}

/* ---- the disposition --------------------------------------------------------------------------------------- */

static bool is_ours(const struct sigaction *action) {
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_sigbus;
}

/* Somebody else's handler that came after ours passes on to it; where there is none at all, ours was taken away. */
static bool is_there(const struct sigaction *now) {
    bool is_handler = now->sa_handler != SIG_DFL && now->sa_handler != SIG_IGN;
    return is_ours(now) || (installed && is_handler);
}

static int install(mnw__sigbus_serve *serve) {
    struct sigaction now;
    if (sigaction(SIGBUS, NULL, &now))
        return -errno;
    if (is_there(&now))
        return 0;
    before = now;
    atomic_store(&before_is_spent, false);
    atomic_store_explicit(&ask, serve, memory_order_release);
    /* On the alternate stack, where a thread has one: its own may be what faulted. */
    struct sigaction ours = {.sa_sigaction = on_sigbus,
                             .sa_flags = SA_SIGINFO | SA_ONSTACK | (now.sa_flags & (int)SA_RESTART)};
    mnw__signals_fill(&ours.sa_mask);
    return sigaction(SIGBUS, &ours, NULL) ? -errno : 0;
}

/* In a child: who held the lock is not there, and who took the signal over was the parent. */
static void forget_parent(void) {
    pthread_mutex_init(&lock, NULL);
    users = 0;
}

static void watch_forks(void) {
    pthread_atfork(NULL, NULL, forget_parent);
}

int mnw__sigbus_acquire(mnw__sigbus_serve *serve) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    mnw__signals_block();
    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&lock);
    int error = install(serve);
    if (!error) {
        installed = true;
        users++;
    }
    pthread_mutex_unlock(&lock);
    mnw__signals_restore();
    return error ? mnw__fail(error, "view: taking SIGBUS over: %s", strerror(-error)) : 0;
}

void mnw__sigbus_release(void) {
    struct sigaction now;
    mnw__signals_block();
    pthread_mutex_lock(&lock);
    /* Under a handler that was installed later we stay: it may pass on to us. */
    if (!--users && !sigaction(SIGBUS, NULL, &now) && is_ours(&now)) {
        sigaction(SIGBUS, &before, NULL);
        installed = false;
    }
    pthread_mutex_unlock(&lock);
    mnw__signals_restore();
}
