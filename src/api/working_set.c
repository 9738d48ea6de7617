/* SPDX-License-Identifier: MIT */
/* The public face of working sets: recording, saving, replaying. Owns nothing but the file's bytes while it uses them.
 */
#include "policy/working_set.h"
#include "api/handle.h"
#include "base/bits.h"
#include "base/error.h"
#include "engine/cache.h"
#include "engine/job.h"
#include "engine/member.h"
#include "engine/pool.h"
#include "engine/record.h"
#include "minnow/minnow.h"
#include "store/store.h"
#include "sys/thread.h"
#include "sys/whole_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Of 128 million runs. */
#define FILE_BYTES_MAX ((size_t)1 << 30)

int mnw_view_record(struct mnw_view *view, int on) {
    MNW__WHOLE_CALL;
    int error = mnw__check_view(view, "mnw_view_record");
    if (error)
        return error;
    if (on)
        return mnw__record_start(view);
    mnw__record_stop(view);
    return 0;
}

/* ---- saving ---- */

/*
 * The file's own pages, if it is a working set of this store, come together with the new ones; any other file is no
 * longer worth anything to anybody.
 */
static int join_with_file(const char *path, void **bytes, size_t *size) {
    struct mnw__working_set old, new;
    void *file, *both;
    size_t file_size, both_size;
    if (mnw__file_read_whole(path, FILE_BYTES_MAX, &file, &file_size))
        return 0;
    int error = mnw__working_set_decode(&new, *bytes, *size);
    if (!error && !mnw__working_set_decode(&old, file, file_size) &&
        !mnw__working_set_fits(&old, new.of.store_bytes, new.of.identity)) {
        error = mnw__working_set_union(&old, &new, &both, &both_size);
        if (!error) {
            free(*bytes);
            *bytes = both;
            *size = both_size;
        }
    }
    free(file);
    return error;
}

static int64_t write_set(const char *path, const void *bytes, size_t size) {
    struct mnw__working_set set;
    int error = mnw__working_set_decode(&set, bytes, size);
    if (error)
        return error;
    error = mnw__file_replace(path, bytes, size);
    if (error)
        return mnw__fail(error, "saving a working set as \"%.300s\": %s; its directory must be writable", path,
                         strerror(-error));
    return (int64_t)set.page_count;
}

int64_t mnw_view_save_working_set(struct mnw_view *view, const char *path, unsigned flags) {
    MNW__WHOLE_CALL;
    void *bytes;
    size_t size;
    int error = mnw__check_view(view, "mnw_view_save_working_set");
    if (!error && (!path || !*path))
        error = mnw__fail(-EINVAL, "mnw_view_save_working_set: `path` must name a file");
    if (!error && flags & ~(unsigned)MNW_WORKING_SET_UNION)
        error = mnw__fail(-EINVAL, "mnw_view_save_working_set: unknown flags 0x%x",
                          flags & ~(unsigned)MNW_WORKING_SET_UNION);
    if (!error)
        error = mnw__record_encode(view, &bytes, &size);
    if (error)
        return error;
    int64_t pages = flags & MNW_WORKING_SET_UNION ? join_with_file(path, &bytes, &size) : 0;
    if (!pages)
        pages = write_set(path, bytes, size);
    free(bytes);
    return pages;
}

/* ---- replaying ---- */

/* What a replay may bring in without having to evict what it brought before. */
static uint64_t room_for(const struct mnw_cache *cache) {
    struct mnw_pool *pool = cache->pool;
    uint64_t taken = atomic_load(&pool->pinned) + mnw__pool_high_bytes(pool), budget = atomic_load(&pool->budget);
    return budget > taken ? budget - taken : 0;
}

static int64_t replay(struct mnw_cache *cache, const struct mnw__working_set *set, uint64_t cookie) {
    const struct mnw_pool *pool = cache->pool;
    const struct mnw__working_set_plan plan = {
        .page_bytes = (uint32_t)cache->backing.page_bytes,
        .unit_bytes = (uint32_t)(pool->whole_extents ? pool->extent_bytes : cache->backing.page_bytes),
        .bytes_max = room_for(cache),
    };
    struct mnw__run *runs;
    uint64_t count;
    int error = mnw__working_set_runs(set, &plan, &runs, &count);
    if (error)
        return error;
    int64_t id = count ? mnw__job_prefetch_runs(cache, runs, count, cookie) : mnw__job_prefetch(cache, 0, 0, cookie);
    if (id < 0 || !count)
        free(runs);
    if (id == -EAGAIN)
        return mnw__fail(-EAGAIN,
                         "mnw_cache_replay: %d prefetches are running or have their event unread; take events with "
                         "mnw_pool_next_event()",
                         MNW__JOB_PREFETCHES);
    return id;
}

int64_t mnw_cache_replay(struct mnw_cache *cache, const char *path, uint64_t cookie) {
    MNW__WHOLE_CALL;
    struct mnw__working_set set;
    void *bytes;
    size_t size;
    int error = mnw__check_cache(cache, "mnw_cache_replay");
    if (!error && (!path || !*path))
        error = mnw__fail(-EINVAL, "mnw_cache_replay: `path` must name a file");
    if (error)
        return error;
    error = mnw__file_read_whole(path, FILE_BYTES_MAX, &bytes, &size);
    if (error)
        return mnw__fail(error, "reading the working set \"%.300s\": %s; mnw_view_save_working_set() makes one", path,
                         strerror(-error));
    int64_t result = mnw__working_set_decode(&set, bytes, size);
    if (!result)
        result = mnw__working_set_fits(&set, cache->store->size_bytes, mnw__record_identity(cache->store));
    if (!result)
        result = replay(mnw__member_here(cache), &set, cookie);
    free(bytes);
    return result;
}
