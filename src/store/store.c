/* SPDX-License-Identifier: MIT */
/*
 * The public face of stores: checks arguments, chooses the kind, passes on.
 *
 * Owns nothing; any thread may enter. Makes no system call of its own.
 */
#include "store/store.h"

#include "base/error.h"
#include "base/options.h"
#include "sys/memory.h"
#include "sys/thread.h"

#include <errno.h>
#include <string.h>

/* The store belongs to the process that opened it. */
static int refuse_heir(const struct mnw_store *store, const char *what) {
    if (store->generation == mnw__memory_generation())
        return 0;
    return mnw__fail(-EOWNERDEAD, "%s: this store was opened before fork(2) and stays the parent's; open it anew",
                     what);
}

/* What was opened well is from now on this process's. */
static int own(int result, struct mnw_store **store) {
    if (!result)
        (*store)->generation = mnw__memory_generation();
    return result;
}

int mnw_store_open(struct mnw_store **store, const char *uri, const struct mnw_store_options *options) {
    MNW__WHOLE_CALL;
    struct mnw_store_options known;
    struct mnw__uri parsed;
    if (!store || !uri)
        return mnw__fail(-EINVAL, "mnw_store_open: `store` and `uri` must not be NULL");
    int error = mnw__options_copy(&known, sizeof(known), options, "mnw_store_options");
    if (!error)
        error = mnw__uri_parse(uri, &parsed);
    if (error)
        return error;
    if (strcmp(parsed.scheme, "file"))
        return mnw__fail(-ENOTSUP, "opening store \"%.200s\": no store of scheme \"%s\"; known: file", uri,
                         parsed.scheme);
    return own(mnw__store_open_file(store, parsed.path, parsed.direct >= 0 ? parsed.direct : known.direct), store);
}

int mnw_store_open_memory(struct mnw_store **store, const void *data, uint64_t size_bytes) {
    MNW__WHOLE_CALL;
    if (!store || !data)
        return mnw__fail(-EINVAL, "mnw_store_open_memory: `store` and `data` must not be NULL");
    if (!size_bytes)
        return mnw__fail(-ENODATA, "mnw_store_open_memory: a store of 0 bytes has nothing to cache");
    if (size_bytes > INT64_MAX || (uintptr_t)data + size_bytes < (uintptr_t)data)
        return mnw__fail(-EINVAL, "mnw_store_open_memory: %llu bytes do not fit behind %p",
                         (unsigned long long)size_bytes, data);
    return own(mnw__store_open_memory(store, data, size_bytes), store);
}

int mnw_store_open_callbacks(struct mnw_store **store, const struct mnw_store_callbacks *callbacks, void *context) {
    MNW__WHOLE_CALL;
    struct mnw_store_callbacks known;
    if (!store || !callbacks)
        return mnw__fail(-EINVAL, "mnw_store_open_callbacks: `store` and `callbacks` must not be NULL");
    int error = mnw__options_copy(&known, sizeof(known), callbacks, "mnw_store_callbacks");
    if (error)
        return error;
    if (!known.read)
        return mnw__fail(-EINVAL, "mnw_store_open_callbacks: `read` must not be NULL");
    if (!known.size_bytes)
        return mnw__fail(-ENODATA, "mnw_store_open_callbacks: a store of 0 bytes has nothing to cache");
    if (known.size_bytes > INT64_MAX)
        return mnw__fail(-EINVAL, "mnw_store_open_callbacks: size_bytes %llu is not a file offset",
                         (unsigned long long)known.size_bytes);
    return own(mnw__store_open_callbacks(store, &known, context), store);
}

int mnw_read_done(struct mnw_store *store, uint64_t token, int64_t result) {
    MNW__WHOLE_CALL;
    if (!store)
        return mnw__fail(-EINVAL, "mnw_read_done: `store` must not be NULL");
    int error = refuse_heir(store, "mnw_read_done");
    return error ? error : mnw__store_callbacks_done(store, token, result);
}

uint64_t mnw_store_size(const struct mnw_store *store) {
    return store ? store->size_bytes : 0;
}

int mnw_store_close(struct mnw_store *store) {
    MNW__WHOLE_CALL;
    if (!store)
        return mnw__fail(-EINVAL, "mnw_store_close: `store` must not be NULL");
    int error = refuse_heir(store, "mnw_store_close");
    if (error)
        return error;
    uint32_t users = atomic_load_explicit(&store->users, memory_order_acquire);
    if (users)
        return mnw__fail(-EBUSY, "closing a %s store: %u caches use it; close them first", store->ops->name, users);
    store->ops->close(store);
    return 0;
}
