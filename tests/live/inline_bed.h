/* SPDX-License-Identifier: MIT */
/*
 * What the tests of inline views share: one file, one pool, one inline view, read by plain loads. Each test runs in a
 * child of its own (bed_child), since the disposition of SIGBUS belongs to the process; its checks are bed_check().
 */
#ifndef MNW_TESTS_LIVE_INLINE_BED_H
#define MNW_TESTS_LIVE_INLINE_BED_H

#include "bed.h"

#define PAGES   256ull
#define THREADS 8

extern struct bed_file file;
extern struct mnw_store *store;
extern struct bed bed;
extern const struct mnw_cache_options exact;

/* Opens all but the store, which is in `store`. */
void open_inline(uint64_t budget_bytes);
void open_file_bed(uint64_t budget_bytes);
void close_file_bed(void);
/* By plain loads: no handler but those the test itself installs. */
bool is_right(uint64_t page);

/* Threads that read at random and compare, until `done`; `handled` counts. */
extern _Atomic uint64_t handled;
extern _Atomic bool done;
void start_readers(pthread_t *threads);
void join_readers(pthread_t *threads);

/* For siglongjmp() out of a handler. */
extern _Thread_local sigjmp_buf here;
/* A read of this byte: 0, or the signal that a handler left by `here`. */
int faults_at(const char *at);

#endif
