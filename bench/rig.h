/* SPDX-License-Identifier: MIT */
/*
 * What every row needs: a scratch file, and a store, pool, cache and view of it in one call.
 *
 * Owns the handles in its structs. One thread enters. Public API only.
 */
#ifndef MNW_BENCH_RIG_H
#define MNW_BENCH_RIG_H

#include <minnow/minnow.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MIB ((uint64_t)1 << 20)

struct scratch {
    int fd; /* of a file without a name: it cannot stay behind */
    char uri[64];
    uint64_t size_bytes;
};

/* A file of that size with bytes in it, in the kernel's page cache and on the disk. 0, or a negative errno. */
int scratch_warm(struct scratch *scratch, const char *directory, uint64_t size_bytes);
/* Out of the page cache: its next reads come from the disk. 0, or a negative errno. */
int scratch_forget(const struct scratch *scratch);
/* One hole. */
int scratch_sparse(struct scratch *scratch, const char *directory, uint64_t size_bytes);
void scratch_close(struct scratch *scratch);

struct rig {
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view;
    volatile const unsigned char *data;
    size_t length, page_bytes;
    bool shares; /* all but the view are another rig's */
};

/* All or nothing; mnw_error() says what went wrong. */
int rig_open(struct rig *rig, const struct scratch *scratch, enum mnw_backing backing, uint64_t budget_bytes);
/* The same with every option of the pool. */
int rig_open_pool(struct rig *rig, const struct scratch *scratch, const struct mnw_pool_options *options);
/* With a view whose faults are resolved in the faulting thread; -EOPNOTSUPP: not by this library, or this kernel. */
int rig_open_inline(struct rig *rig, const struct scratch *scratch, enum mnw_backing backing, uint64_t budget_bytes);
int rig_open_inline_pool(struct rig *rig, const struct scratch *scratch, const struct mnw_pool_options *options);
/* Another view of the same cache, inline or not. `like` is closed after it. */
int rig_share(struct rig *rig, const struct rig *like, bool in_line);
/* A handle that does not close is a defect: it ends the process. */
void rig_close(struct rig *rig);

extern const struct backing_name {
    enum mnw_backing backing;
    const char *name;
    size_t huge_bytes; /* hugetlb: the size of its pages */
} backing_names[3];

/* Huge pages for `bytes`; true at once where the backing needs none. The pool is put back at exit. */
bool rig_provide(const struct backing_name *backing, uint64_t bytes);

#endif
