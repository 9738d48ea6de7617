/* SPDX-License-Identifier: MIT */
/*
 * Stores: where bytes come from. One file per kind of store, behind one ops struct.
 *
 * Owns: the store object and whatever its kind holds. A store starts reads; it never waits for them, never
 * knows pages, and never touches the buffer after it has answered. `read` is called by fault threads, many
 * at once for one store; answers may come on any thread, before `read` returns too.
 */
#ifndef MNW_STORE_STORE_H
#define MNW_STORE_STORE_H

#include "minnow/minnow.h"
#include "sys/io.h"

#include <stdatomic.h>
#include <stdint.h>

struct mnw__store_ops {
    const char *name;
    /*
     * Starts one read and promises exactly one done(context, read->token, result), where result is
     * 1..length bytes, 0 at the end of the store, or a negative errno. Short answers are the caller's to
     * continue, at any offset. `io` is the calling fault thread's, opened with this same done and context.
     * 0, or a negative errno and no answer: -EAGAIN when too many reads are in flight, to be repeated after
     * an answer. `buffer` + n and `offset` + n lie alike in their pages, and the whole pages they lie in are
     * the caller's: a direct read may overwrite the last page behind `length`, and may write again, with the
     * same bytes, what an earlier part of the same page's read has written.
     */
    int (*read)(struct mnw_store *store, struct mnw__io *io, const struct mnw_read *read, mnw__io_done *done,
                void *context);
    /*
     * Optional, both: bytes that go straight into the file of a backing, which gets its memory thereby. Would that be
     * the better way for this range now? And: the same as `read`, with the backing at the same offset in place of the
     * buffer, which is not looked at. After an error the range may have memory.
     */
    bool (*may_send)(struct mnw_store *store, const struct mnw__io *io, uint64_t offset, uint64_t length);
    int (*send)(struct mnw_store *store, struct mnw__io *io, const struct mnw_read *read, struct mnw__backing *backing,
                mnw__io_done *done, void *context);
    /*
     * Optional: the same read in the calling thread, which may be inside a signal handler: async-signal-safe, and
     * waits. Returns what `done` would have been told. Without it a fault thread reads.
     */
    int64_t (*read_now)(struct mnw_store *store, const struct mnw_read *read);
    /* Optional: 0, or a negative errno when the bytes are not the store's. */
    int (*check)(struct mnw_store *store, uint64_t offset, const void *bytes, size_t length);
    /* Frees the store. Nobody uses it any more. */
    void (*close)(struct mnw_store *store);
};

/* Whether two stores, perhaps of different processes, hold the same bytes; beside their kind and size. Zeros: nothing
 * known. */
struct mnw__store_identity {
    uint64_t device, inode, special; /* `special`: the device that a block device is */
    int64_t modified_s, modified_ns;
};

struct mnw_store {
    const struct mnw__store_ops *ops;
    uint64_t size_bytes;                 /* fixed at open, at least 1 */
    uint32_t generation;                 /* the process it belongs to: mnw__memory_generation() */
    _Atomic uint32_t users;              /* caches open on it */
    struct mnw__store_identity identity; /* at open */
};

/* Each kind's open; on success `*store` begins with a struct mnw_store that this kind allocated. */
int mnw__store_open_file(struct mnw_store **store, const char *path, int direct);
int mnw__store_open_memory(struct mnw_store **store, const void *data, uint64_t size_bytes);
int mnw__store_open_callbacks(struct mnw_store **store, const struct mnw_store_callbacks *callbacks, void *context);
/* The kind's part of mnw_read_done(). -EINVAL for a store of another kind. */
int mnw__store_callbacks_done(struct mnw_store *store, uint64_t token, int64_t result);

/* A parsed URI. */
struct mnw__uri {
    char scheme[16]; /* lower case */
    char path[4096]; /* file: absolute, percent-decoded. "" for other schemes, whose grammar is their own */
    int direct;      /* -1: not said */
};
/* Pure. -EINVAL or -ENAMETOOLONG with a message; `uri` is then undefined. */
int mnw__uri_parse(const char *text, struct mnw__uri *uri);

#endif
