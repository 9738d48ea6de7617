/* SPDX-License-Identifier: MIT */
/*
 * Which addresses are views. Owns the list of entries and what was punched out of the files; guarded by one lock, which
 * is held for no longer than looking takes. In a child made by fork(2) the list begins empty.
 */
#include "preload.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORD_BITS 64u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static struct entry *entries; /* lock; by address */
static _Atomic unsigned entry_count;

/* ---- fork ---- */

/* Runs after the client's handler, which has just given all views to children. */
static void before_fork(void) {
    int error = errno;
    pthread_mutex_lock(&lock);
    for (const struct entry *entry = entries; entry; entry = entry->next)
        if (entry->unforked < entry->unforked_end)
            next_madvise((void *)entry->unforked, entry->unforked_end - entry->unforked, MADV_DONTFORK);
    errno = error;
}

static void after_fork_parent(void) {
    pthread_mutex_unlock(&lock);
}

/* What is mapped in a child is not ours to manage: nothing, or, with --follow-fork, views in the daemon's hands. */
static void after_fork_child(void) {
    entries = NULL;
    atomic_store(&entry_count, 0);
    left = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    pthread_mutex_unlock(&lock);
    client_forget();
}

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

/* ---- bits ---- */

static size_t base_page(void) {
    static _Atomic size_t known;
    if (!atomic_load(&known))
        atomic_store(&known, (size_t)sysconf(_SC_PAGESIZE));
    return atomic_load(&known);
}

static bool get_bit(const uint64_t *bits, uint64_t index) {
    return bits && bits[index / WORD_BITS] >> index % WORD_BITS & 1;
}

static bool set_bit(uint64_t *bits, uint64_t index) {
    bool was = get_bit(bits, index);
    bits[index / WORD_BITS] |= 1ull << index % WORD_BITS;
    return was;
}

static uint64_t *make_bits(uint64_t count) {
    return calloc((size_t)((count + WORD_BITS - 1) / WORD_BITS), sizeof(uint64_t));
}

/* ---- entries ---- */

bool table_is_empty(void) {
    return !atomic_load(&entry_count);
}

int table_add(struct entry *entry) {
    entry->gone = make_bits((entry->length + base_page() - 1) / base_page());
    if (!entry->gone)
        return -1;
    entry->left = entry->length;
    pthread_mutex_lock(&lock);
    struct entry **link = &entries;
    while (*link && (*link)->address < entry->address)
        link = &(*link)->next;
    entry->next = *link;
    *link = entry;
    atomic_fetch_add(&entry_count, 1);
    pthread_mutex_unlock(&lock);
    return 0;
}

struct entry *table_enter(uintptr_t address, uintptr_t end) {
    pthread_mutex_lock(&lock);
    struct entry *entry = entries;
    while (entry && entry->address + entry->length <= address)
        entry = entry->next;
    if (entry && entry->address >= end)
        entry = NULL;
    if (entry)
        entry->users++;
    pthread_mutex_unlock(&lock);
    return entry;
}

struct entry *table_enter_source(const struct source *source, unsigned index) {
    pthread_mutex_lock(&lock);
    struct entry *entry = entries;
    while (entry && (entry->source != source || index-- > 0))
        entry = entry->next;
    if (entry)
        entry->users++;
    pthread_mutex_unlock(&lock);
    return entry;
}

void table_set_forked(struct entry *entry, uintptr_t address, uintptr_t end, bool forked) {
    pthread_mutex_lock(&lock);
    bool any = entry->unforked < entry->unforked_end;
    if (!forked) {
        entry->unforked = any && entry->unforked < address ? entry->unforked : address;
        entry->unforked_end = any && entry->unforked_end > end ? entry->unforked_end : end;
    } else if (address <= entry->unforked && end >= entry->unforked_end) {
        entry->unforked = entry->unforked_end = 0;
    }
    pthread_mutex_unlock(&lock);
}

void table_leave(struct entry *entry) {
    pthread_mutex_lock(&lock);
    entry->users--;
    pthread_cond_broadcast(&left);
    pthread_mutex_unlock(&lock);
}

void table_remove(struct entry *entry) {
    pthread_mutex_lock(&lock);
    struct entry **link = &entries;
    while (*link && *link != entry)
        link = &(*link)->next;
    if (*link) {
        *link = entry->next;
        atomic_fetch_sub(&entry_count, 1);
    }
    entry->users--;
    while (entry->users)
        pthread_cond_wait(&left, &lock);
    pthread_mutex_unlock(&lock);
}

void entry_free(struct entry *entry) {
    free(entry->gone);
    free(entry);
}

bool table_mark_gone(struct entry *entry, uintptr_t address, uintptr_t end) {
    size_t page = base_page();
    pthread_mutex_lock(&lock);
    size_t before = entry->left;
    for (uintptr_t at = address; at < end; at += page)
        if (!set_bit(entry->gone, (at - entry->address) / page))
            entry->left -= page;
    bool ended = before && !entry->left;
    pthread_mutex_unlock(&lock);
    return ended;
}

/* ---- what was punched ---- */

bool table_punch(struct source *source, uint64_t offset, uint64_t length) {
    uint64_t *bits = source->punched ? NULL : make_bits(source->page_count);
    pthread_mutex_lock(&lock);
    if (!source->punched) {
        source->punched = bits;
        bits = NULL;
    }
    uint64_t *punched = source->punched;
    for (uint64_t at = offset; punched && at < offset + length; at += source->page_bytes)
        if (at / source->page_bytes < source->page_count)
            set_bit(punched, at / source->page_bytes);
    pthread_mutex_unlock(&lock);
    free(bits);
    return punched;
}

bool table_punched_run(const struct source *source, bool punched, uint64_t *offset, uint64_t end, uint64_t *run_end) {
    pthread_mutex_lock(&lock);
    uint64_t page = source->page_bytes, at = *offset;
    while (at < end && get_bit(source->punched, at / page) != punched)
        at += page;
    *offset = at;
    while (at < end && get_bit(source->punched, at / page) == punched)
        at += page;
    *run_end = at < end ? at : end;
    pthread_mutex_unlock(&lock);
    return *offset < end;
}
