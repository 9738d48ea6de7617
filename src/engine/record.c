/* SPDX-License-Identifier: MIT */
/* Recording: turning it on and off while the view is in use, and reading what came of it. */
#include "engine/record.h"

#include "base/error.h"
#include "engine/fault.h"
#include "engine/view.h"
#include "store/store.h"
#include "sys/memory.h"

#include <errno.h>

void mnw__record_init(struct mnw__record *record) {
    mnw__mutex_init(&record->lock);
}

static void release(struct mnw__record *record) {
    if (record->memory)
        mnw__memory_release(record->memory, mnw__recorder_bytes(record->recorder.page_count));
    record->memory = NULL;
}

void mnw__record_deinit(struct mnw__record *record) {
    release(record);
    mnw__mutex_destroy(&record->lock);
}

/* Nobody is noting when this returns, nor before it is turned on again. */
static void turn(struct mnw_view *view, bool on) {
    mnw__mutex_lock(&view->thread->lock);
    mnw__mutex_lock(&view->cache->views_lock);
    atomic_store_explicit(&view->record.on, on, memory_order_relaxed);
    mnw__mutex_unlock(&view->cache->views_lock);
    mnw__mutex_unlock(&view->thread->lock);
}

int mnw__record_start(struct mnw_view *view) {
    struct mnw__record *record = &view->record;
    if (view->page_count > MNW__RECORDER_PAGES_MAX)
        return mnw__fail(-EFBIG, "recording a view of %llu pages: at most %lu are recorded",
                         (unsigned long long)view->page_count, (unsigned long)MNW__RECORDER_PAGES_MAX);
    void *memory = mnw__memory_reserve(mnw__recorder_bytes(view->page_count));
    if (!memory)
        return mnw__fail(-ENOMEM, "recording a view of %llu pages: no address space for %zu bytes",
                         (unsigned long long)view->page_count, mnw__recorder_bytes(view->page_count));
    mnw__mutex_lock(&record->lock);
    turn(view, false);
    release(record);
    record->memory = memory;
    mnw__recorder_init(&record->recorder, memory, view->first_page, view->page_count);
    turn(view, true);
    mnw__mutex_unlock(&record->lock);
    return 0;
}

void mnw__record_stop(struct mnw_view *view) {
    struct mnw__record *record = &view->record;
    mnw__mutex_lock(&record->lock);
    turn(view, false);
    release(record);
    mnw__mutex_unlock(&record->lock);
}

/*
 * When it was last changed. Not which inode it is: the working set lies beside the image, and is copied and moved with
 * it. A block device has no such time.
 */
uint64_t mnw__record_identity(const struct mnw_store *store) {
    const struct mnw__store_identity *identity = &store->identity;
    if (identity->special || (!identity->modified_s && !identity->modified_ns))
        return 0;
    return (uint64_t)identity->modified_s * 1000000000 + (uint64_t)identity->modified_ns;
}

int mnw__record_encode(struct mnw_view *view, void **bytes, size_t *size) {
    struct mnw__record *record = &view->record;
    const struct mnw__working_set_of of = {.store_bytes = view->cache->store->size_bytes,
                                           .identity = mnw__record_identity(view->cache->store),
                                           .page_bytes = (uint32_t)view->cache->backing.page_bytes};
    mnw__mutex_lock(&record->lock);
    int error = record->memory ? mnw__working_set_encode(&record->recorder, &of, bytes, size)
                               : mnw__fail(-ENOENT, "working set: the view does not record; call mnw_view_record()");
    mnw__mutex_unlock(&record->lock);
    return error;
}
