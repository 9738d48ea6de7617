/* SPDX-License-Identifier: MIT */
#include "client/keep.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct mnw__kept *all; /* lock */

static void before_fork(void) {
    pthread_mutex_lock(&lock);
}

static void after_fork_parent(void) {
    pthread_mutex_unlock(&lock);
}

static void after_fork_child(void) {
    for (struct mnw__kept *kept = all; kept; kept = kept->next)
        mnw__keep_set(kept, -1);
    all = NULL;
    pthread_mutex_unlock(&lock);
}

static void prepare(void) {
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

void mnw__keep_add(struct mnw__kept *kept) {
    pthread_once(&once, prepare);
    atomic_store(&kept->fd, -1);
    pthread_mutex_lock(&lock);
    kept->next = all;
    all = kept;
    pthread_mutex_unlock(&lock);
}

void mnw__keep_remove(struct mnw__kept *kept) {
    pthread_mutex_lock(&lock);
    struct mnw__kept **link = &all;
    while (*link && *link != kept)
        link = &(*link)->next;
    if (*link)
        *link = kept->next;
    pthread_mutex_unlock(&lock);
    mnw__keep_set(kept, -1);
}

/* Forgotten before it is closed: its number may be someone else's the moment after. */
void mnw__keep_set(struct mnw__kept *kept, int fd) {
    int old = atomic_exchange(&kept->fd, fd);
    if (old >= 0)
        close(old);
}
