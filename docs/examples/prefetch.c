/* SPDX-License-Identifier: MIT */
/*
 * Prefetch, events and residency: asks for the first mebibyte of a file, does something else, and is told when
 * it is there. prefetch FILE (an absolute path).
 */
#include <minnow/minnow.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

/* Waits for the event of the prefetch with this cookie. Its result, or -1. */
static int await_prefetch(struct mnw_pool *pool, uint64_t cookie) {
    struct pollfd descriptor = {.fd = mnw_pool_event_fd(pool), .events = POLLIN};
    struct mnw_event event;
    for (;;) {
        while (mnw_pool_next_event(pool, &event) == 1) {
            if (event.kind == MNW_EVENT_PAGE_FAILED)
                fprintf(stderr, "page at %llu: SIGBUS from now on\n", (unsigned long long)event.offset);
            if (event.kind == MNW_EVENT_PREFETCH && event.cookie == cookie)
                return event.result;
        }
        if (poll(&descriptor, 1, 30000) <= 0)
            return -1;
    }
}

static size_t count_resident(struct mnw_cache *cache, uint64_t length) {
    size_t pages = (size_t)(length / mnw_cache_page_size(cache)), resident = 0;
    uint8_t *flags = malloc(pages);
    if (!flags || mnw_residency(cache, 0, flags, pages))
        pages = 0;
    for (size_t i = 0; i < pages; i++)
        resident += flags[i] & MNW_RESIDENT;
    free(flags);
    return resident;
}

static int use(struct mnw_pool *pool, struct mnw_cache *cache, uint64_t store_bytes) {
    const uint64_t cookie = 4711, page = mnw_cache_page_size(cache);
    uint64_t length = store_bytes < 1 << 20 ? (store_bytes + page - 1) / page * page : 1 << 20;

    int64_t id = mnw_prefetch(cache, 0, length, cookie);
    if (id < 0) {
        fprintf(stderr, "%s\n", mnw_error());
        return 1;
    }
    if (await_prefetch(pool, cookie))
        return 1;
    printf("%zu of %llu pages are resident\n", count_resident(cache, length), (unsigned long long)(length / page));

    char *statistics = mnw_pool_stats_json(pool);
    printf("statistics: %s\n", statistics ? statistics : "out of memory");
    free(statistics);
    return 0;
}

int main(int argc, char **argv) {
    struct mnw_pool_options options = {.size = sizeof(options), .budget_bytes = 16 << 20};
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    char uri[4096];

    snprintf(uri, sizeof(uri), "file://%s", argc > 1 ? argv[1] : "/etc/services");
    if (mnw_store_open(&store, uri, NULL) || mnw_pool_open(&pool, &options) ||
        mnw_cache_open(&cache, pool, store, NULL)) {
        fprintf(stderr, "%s\n", mnw_error());
        return 1;
    }
    int failed = use(pool, cache, mnw_store_size(store));
    if (mnw_cache_close(cache) || mnw_pool_close(pool) || mnw_store_close(store)) {
        fprintf(stderr, "%s\n", mnw_error());
        return 1;
    }
    return failed;
}
