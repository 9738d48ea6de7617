/* SPDX-License-Identifier: MIT */
#include "inline_bed.h"

#include <string.h>

struct bed_file file;
struct mnw_store *store;
struct bed bed;
const struct mnw_cache_options exact = {.size = sizeof(exact), .readahead_bytes = UINT64_MAX};
_Atomic uint64_t handled;
_Atomic bool done;
_Thread_local sigjmp_buf here;

void open_inline(uint64_t budget_bytes) {
    struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_INLINE};
    bed = (struct bed){0};
    bed_open(&bed, store, (struct mnw_pool_options){.budget_bytes = budget_bytes}, &exact);
    bed_check(!mnw_view_close(bed.view));
    bed_check(!mnw_view_open(&bed.view, bed.cache, &options));
    bed.data = mnw_view_data(bed.view);
}

void open_file_bed(uint64_t budget_bytes) {
    bed_file(&file, PAGES * BED_PAGE, 1);
    bed_check(!mnw_store_open(&store, file.uri, NULL));
    open_inline(budget_bytes);
}

void close_file_bed(void) {
    bed_close(&bed);
    bed_check(!mnw_store_close(store));
    bed_file_remove(&file);
}

bool is_right(uint64_t page) {
    char expected[BED_PAGE];
    bed_bytes(expected, page * BED_PAGE, BED_PAGE, 1);
    return !memcmp(expected, bed.data + page * BED_PAGE, BED_PAGE);
}

static void *read_random(void *argument) {
    uint64_t random = (uintptr_t)argument;
    while (!atomic_load(&done)) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        bed_check(is_right((random >> 33) % PAGES));
        atomic_fetch_add(&handled, 1);
    }
    return NULL;
}

void start_readers(pthread_t *threads) {
    for (uintptr_t i = 0; i < THREADS; i++)
        bed_check(!pthread_create(&threads[i], NULL, read_random, (void *)(i + 1)));
}

void join_readers(pthread_t *threads) {
    atomic_store(&done, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

int faults_at(const char *at) {
    int number = sigsetjmp(here, 1);
    if (!number)
        (void)*(const volatile char *)at;
    return number;
}
