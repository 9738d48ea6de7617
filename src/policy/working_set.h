/* SPDX-License-Identifier: MIT */
/*
 * Working sets: which pages a consumer touched, in the order of their first touch.
 *
 * Pure. A recorder is noted into by any number of threads at once, and read at any time; it takes constant time and
 * allocates nothing. A set as it lies in a file (docs/working-sets.md) comes from anybody: decode looks at every byte
 * before anything else uses it.
 */
#ifndef MNW_POLICY_WORKING_SET_H
#define MNW_POLICY_WORKING_SET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- recording ---- */

struct mnw__recorder {
    _Atomic uint64_t *seen;  /* bit per page */
    _Atomic uint32_t *order; /* pages, plus one, by first touch; 0: about to be written */
    uint64_t first_page, page_count;
    _Atomic uint64_t count;
};

#define MNW__RECORDER_PAGES_MAX (UINT32_MAX - 1)

/* What a recorder of so many pages needs, and how it begins: `memory` is zeroed. */
size_t mnw__recorder_bytes(uint64_t page_count);
void mnw__recorder_init(struct mnw__recorder *recorder, void *memory, uint64_t first_page, uint64_t page_count);
/* Notes a touch; of pages noted before, and of others than the recorder's, nothing. */
void mnw__recorder_note(struct mnw__recorder *recorder, uint64_t page);

/* ---- sets ---- */

/* A run of pages. */
struct mnw__run {
    uint64_t first, count;
};

#define MNW__WORKING_SET_HEADER   64
#define MNW__WORKING_SET_VERSION  1
#define MNW__WORKING_SET_RUN_MAX  (1ull << 24) /* pages in one entry */
#define MNW__WORKING_SET_PAGE_MAX (1ull << 40) /* pages of a store */

/* Whose pages they are. */
struct mnw__working_set_of {
    uint64_t store_bytes;
    uint64_t identity; /* of the store; 0: unknown, fits any */
    uint32_t page_bytes;
};

/* A set decoded; its entries stay in the bytes it was decoded from. */
struct mnw__working_set {
    struct mnw__working_set_of of;
    const unsigned char *entries;
    uint64_t entry_count;
    uint64_t page_count; /* over all entries */
};

/* 0; -EBADMSG: broken; -ENOTSUP: of a version this is not. With a message. */
int mnw__working_set_decode(struct mnw__working_set *set, const void *bytes, size_t size);
/* Entry `index`, in order of first touch. A run lies inside the store. */
struct mnw__run mnw__working_set_entry(const struct mnw__working_set *set, uint64_t index);
/* Is it one of this store? 0, or -ESTALE with a message. Pages may be of another size. */
int mnw__working_set_fits(const struct mnw__working_set *set, uint64_t store_bytes, uint64_t identity);

/* What was recorded so far, as a file's bytes, which the caller frees. 0 or -ENOMEM. */
int mnw__working_set_encode(const struct mnw__recorder *recorder, const struct mnw__working_set_of *of, void **bytes,
                            size_t *size);
/*
 * Both sets of one store, as a file's bytes. The entries of both are merged by the rank of their first page, of two
 * equal ones the one of `a` first; of a page that comes twice, the first stays. In pages of the smaller size.
 * 0 or -ENOMEM. Takes memory of a bit per page of the store: check that it fits before.
 */
int mnw__working_set_union(const struct mnw__working_set *a, const struct mnw__working_set *b, void **bytes,
                           size_t *size);

/* How a set is wanted. */
struct mnw__working_set_plan {
    uint32_t page_bytes; /* of the cache */
    uint32_t unit_bytes; /* in which its memory comes: a page, or an extent */
    uint64_t bytes_max;  /* the set is cut where it would take more: what was touched first stays */
};
/*
 * The set as runs in store order, none touching the next, in pages of another size: an array that the caller frees,
 * and its length in `*count`. 0 or -ENOMEM. Memory as above.
 */
int mnw__working_set_runs(const struct mnw__working_set *set, const struct mnw__working_set_plan *plan,
                          struct mnw__run **runs, uint64_t *count);

#endif
