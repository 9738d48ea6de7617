/* SPDX-License-Identifier: MIT */
/*
 * The memory store: the caller's bytes.
 *
 * Owns the store object, not the bytes. Any thread may read. Answers before `read` returns; never blocks, but
 * for the page faults of the caller's own memory.
 */
#include "store/store.h"

#include "base/bits.h"
#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct memory_store {
    struct mnw_store store;
    const unsigned char *data;
};

static int64_t read_memory_now(struct mnw_store *store, const struct mnw_read *read) {
    const struct memory_store *memory = mnw__container_of(store, struct memory_store, store);
    size_t length = 0;
    if (read->offset < store->size_bytes)
        length = (size_t)mnw__min(read->length, store->size_bytes - read->offset);
    if (length)
        memcpy(read->buffer, memory->data + read->offset, length);
    return (int64_t)length;
}

static int read_memory(struct mnw_store *store, struct mnw__io *io, const struct mnw_read *read, mnw__io_done *done,
                       void *context) {
    (void)io;
    done(context, read->token, read_memory_now(store, read));
    return 0;
}

static void close_memory(struct mnw_store *store) {
    free(mnw__container_of(store, struct memory_store, store));
}

static const struct mnw__store_ops memory_ops = {
    .name = "memory", .read = read_memory, .read_now = read_memory_now, .close = close_memory};

int mnw__store_open_memory(struct mnw_store **store, const void *data, uint64_t size_bytes) {
    struct memory_store *memory = calloc(1, sizeof(*memory));
    if (!memory)
        return mnw__fail(-ENOMEM, "opening a memory store: out of memory");
    memory->store.ops = &memory_ops;
    memory->store.size_bytes = size_bytes;
    memory->data = data;
    *store = &memory->store;
    return 0;
}
