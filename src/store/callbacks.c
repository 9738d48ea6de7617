/* SPDX-License-Identifier: MIT */
/*
 * The callback store: bytes come from the embedder, from any thread, at any time.
 *
 * Owns a table of the reads that were asked and not yet answered. Fault threads ask, the embedder's threads
 * answer; `lock` guards the table, is held for a few instructions, and never while anybody else's code runs.
 * Nothing is allocated after open.
 *
 * A token is the entry's place and its generation: an answer given twice, or never asked for, names an entry
 * of another generation and changes nothing. It would take 2^32 reads through one entry to mistake it.
 */
#include "store/store.h"

#include "base/bits.h"
#include "base/error.h"
#include "sys/thread.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

enum {
    ENTRIES_MAX = 4096,
    ERRNO_MAX = 4095,
};

struct entry {
    mnw__io_done *done; /* NULL: free */
    void *context;
    uint64_t token;  /* the engine's */
    uint64_t length; /* what an answer may say at most */
    uint32_t generation;
    uint32_t next_free;
};

struct callback_store {
    struct mnw_store store;
    struct mnw_store_callbacks callbacks;
    void *context;
    struct mnw__mutex lock;
    uint32_t first_free; /* ENTRIES_MAX: none */
    struct entry entries[ENTRIES_MAX];
};

static struct callback_store *of(struct mnw_store *store) {
    return mnw__container_of(store, struct callback_store, store);
}

/* Takes an entry and gives its token. Called with the lock held. */
static int take_entry(struct callback_store *callbacks, const struct mnw_read *read, mnw__io_done *done, void *context,
                      uint64_t *token) {
    uint32_t index = callbacks->first_free;
    if (index == ENTRIES_MAX)
        return -EAGAIN;
    struct entry *entry = &callbacks->entries[index];
    callbacks->first_free = entry->next_free;
    entry->done = done;
    entry->context = context;
    entry->token = read->token;
    entry->length = read->length;
    *token = (uint64_t)entry->generation << 32 | index;
    return 0;
}

/* Gives back the entry that the token names. Called with the lock held. */
static int release_entry(struct callback_store *callbacks, uint64_t token, struct entry *was) {
    uint32_t index = (uint32_t)token;
    if (index >= ENTRIES_MAX)
        return -ESTALE;
    struct entry *entry = &callbacks->entries[index];
    if (!entry->done || entry->generation != token >> 32)
        return -ESTALE;
    *was = *entry;
    entry->done = NULL;
    entry->generation++;
    entry->next_free = callbacks->first_free;
    callbacks->first_free = index;
    return 0;
}

static int read_callback(struct mnw_store *store, struct mnw__io *io, const struct mnw_read *read, mnw__io_done *done,
                         void *context) {
    struct callback_store *callbacks = of(store);
    struct mnw_read asked = *read;
    (void)io;
    mnw__mutex_lock(&callbacks->lock);
    int error = take_entry(callbacks, read, done, context, &asked.token);
    mnw__mutex_unlock(&callbacks->lock);
    if (error)
        return error;
    callbacks->callbacks.read(callbacks->context, &asked);
    return 0;
}

static void close_callback(struct mnw_store *store);

int mnw__store_callbacks_done(struct mnw_store *store, uint64_t token, int64_t result) {
    if (store->ops->close != close_callback)
        return mnw__fail(-EINVAL, "mnw_read_done: this is a %s store; only reads of a callback store are answered",
                         store->ops->name);
    struct callback_store *callbacks = of(store);
    struct entry entry;
    mnw__mutex_lock(&callbacks->lock);
    int error = release_entry(callbacks, token, &entry);
    mnw__mutex_unlock(&callbacks->lock);
    if (error)
        return mnw__fail(error, "mnw_read_done: token %#llx names no unanswered read (answered twice?)",
                         (unsigned long long)token);
    bool sane = result <= (int64_t)entry.length && result >= -ERRNO_MAX;
    entry.done(entry.context, entry.token, sane ? result : -EIO);
    if (!sane)
        return mnw__fail(-EINVAL, "mnw_read_done: result %lld of a read of %llu bytes; the read counts as failed (EIO)",
                         (long long)result, (unsigned long long)entry.length);
    return 0;
}

/* What is neither 0 nor an errno cannot be trusted to mean "right". */
static int check_callback(struct mnw_store *store, uint64_t offset, const void *bytes, size_t length) {
    struct callback_store *callbacks = of(store);
    if (!callbacks->callbacks.check)
        return 0;
    int result = callbacks->callbacks.check(callbacks->context, offset, bytes, length);
    return result > 0 || result < -ERRNO_MAX ? -EIO : result;
}

static void close_callback(struct mnw_store *store) {
    struct callback_store *callbacks = of(store);
    if (callbacks->callbacks.close)
        callbacks->callbacks.close(callbacks->context);
    mnw__mutex_destroy(&callbacks->lock);
    free(callbacks);
}

static const struct mnw__store_ops callback_ops = {
    .name = "callback", .read = read_callback, .check = check_callback, .close = close_callback};

int mnw__store_open_callbacks(struct mnw_store **store, const struct mnw_store_callbacks *callbacks, void *context) {
    struct callback_store *opened = calloc(1, sizeof(*opened));
    if (!opened)
        return mnw__fail(-ENOMEM, "opening a callback store: out of memory");
    opened->store.ops = &callback_ops;
    opened->store.size_bytes = callbacks->size_bytes;
    opened->callbacks = *callbacks;
    opened->context = context;
    mnw__mutex_init(&opened->lock);
    for (uint32_t i = 0; i < ENTRIES_MAX; i++) {
        opened->entries[i].next_free = i + 1;
        opened->entries[i].generation = 1;
    }
    *store = &opened->store;
    return 0;
}
