/* SPDX-License-Identifier: MIT */
/*
 * A working set: the first run of the program notes which pages it touches, every later one has them brought in before
 * it begins. working_set FILE SET (FILE is an absolute path).
 */
#include <errno.h>
#include <minnow/minnow.h>
#include <poll.h>
#include <stdio.h>

/* Here and there in the file: what a program that starts might read. */
static unsigned long touch_some(const unsigned char *data, size_t length) {
    unsigned long sum = 0, place = 1;
    for (int i = 0; i < 200; i++) {
        place = (place * 1103515245 + 12345) & 0x7fffffff;
        sum += data[place % length];
    }
    return sum;
}

/* 0 when the pages are there, or when there is no set yet. */
static int replay(struct mnw_pool *pool, struct mnw_cache *cache, const char *path) {
    struct pollfd descriptor = {.fd = mnw_pool_event_fd(pool), .events = POLLIN};
    struct mnw_event event;
    int64_t id = mnw_cache_replay(cache, path, 0);
    if (id < 0)
        return id == -ENOENT ? 0 : -1;
    while (mnw_pool_next_event(pool, &event) != 1 || event.kind != MNW_EVENT_PREFETCH)
        poll(&descriptor, 1, -1); /* a program may as well begin at once, and race it */
    return event.result;
}

static int run(struct mnw_pool *pool, struct mnw_cache *cache, struct mnw_view *view, uint64_t size, const char *path) {
    struct mnw_stats stats;
    if (replay(pool, cache, path) || mnw_view_record(view, 1))
        return -1;
    unsigned long sum = touch_some(mnw_view_data(view), size);
    if (mnw_pool_stats(pool, &stats, sizeof(stats)))
        return -1;
    int64_t pages = mnw_view_save_working_set(view, path, MNW_WORKING_SET_UNION);
    if (pages < 0)
        return -1;
    printf("sum %lu; %lld pages in the set; %s\n", sum, (long long)pages,
           stats.faults_missing ? "some had to be waited for" : "none had to be waited for");
    return 0;
}

int main(int argc, char **argv) {
    struct mnw_pool_options options = {.size = sizeof(options), .budget_bytes = 16 << 20};
    struct mnw_cache_options exact = {.size = sizeof(exact), .readahead_bytes = UINT64_MAX};
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view;
    char uri[4096];

    if (argc != 3) {
        fprintf(stderr, "usage: working_set FILE SET\n");
        return 2;
    }
    snprintf(uri, sizeof(uri), "file://%s", argv[1]);
    if (mnw_store_open(&store, uri, NULL) || mnw_pool_open(&pool, &options) ||
        mnw_cache_open(&cache, pool, store, &exact) || mnw_view_open(&view, cache, NULL)) {
        fprintf(stderr, "%s\n", mnw_error());
        return 1;
    }
    int failed = run(pool, cache, view, mnw_store_size(store), argv[2]);
    if (failed)
        fprintf(stderr, "%s\n", mnw_error());
    if (mnw_view_close(view) || mnw_cache_close(cache) || mnw_pool_close(pool) || mnw_store_close(store))
        return 1;
    return failed ? 1 : 0;
}
