/* SPDX-License-Identifier: MIT */
/*
 * Recording the working set of a view.
 *
 * Owns: a view's recorder. It is set and taken away under the view's thread->lock and its cache's views_lock, so that
 * whoever holds either may note into it; `lock` keeps it for whoever reads it, and is never held over a wait.
 */
#ifndef MNW_ENGINE_RECORD_H
#define MNW_ENGINE_RECORD_H

#include "policy/working_set.h"
#include "sys/thread.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mnw_view;
struct mnw_store;

struct mnw__record {
    struct mnw__mutex lock; /* taken before every other */
    struct mnw__recorder recorder;
    void *memory;    /* lock */
    _Atomic bool on; /* written under thread->lock and views_lock */
};

void mnw__record_init(struct mnw__record *record);
/* Nobody notes any more. */
void mnw__record_deinit(struct mnw__record *record);

/* Begins anew. -ENOMEM, -EFBIG: more pages than can be recorded. */
int mnw__record_start(struct mnw_view *view);
/* Ends, and forgets. */
void mnw__record_stop(struct mnw_view *view);
/* What was recorded, as the bytes of a file, which the caller frees. -ENOENT: the view does not record. */
int mnw__record_encode(struct mnw_view *view, void **bytes, size_t *size);

/* What tells this state of a store from others, in a working set's file; 0: nothing does. */
uint64_t mnw__record_identity(const struct mnw_store *store);

/* In thread->lock or views_lock. */
static inline bool mnw__record_is_on(const struct mnw__record *record) {
    return atomic_load_explicit(&record->on, memory_order_relaxed);
}
static inline void mnw__record_note(struct mnw__record *record, uint64_t page) {
    if (mnw__record_is_on(record))
        mnw__recorder_note(&record->recorder, page);
}

#endif
