/* SPDX-License-Identifier: MIT */
/* Counts the newlines of a file of any size by pointer, in 64 MiB of memory: read FILE. */
#include <limits.h>
#include <minnow/minnow.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    struct mnw_pool_options options = {.size = sizeof(options), .budget_bytes = 64 << 20, .user_faults_only = 1};
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view;
    char path[PATH_MAX], uri[PATH_MAX + 8];

    if (!realpath(argc > 1 ? argv[1] : "/etc/services", path))
        return perror(argv[1]), 1;
    snprintf(uri, sizeof(uri), "file://%s", path);
    if (mnw_store_open(&store, uri, NULL) || mnw_pool_open(&pool, &options) ||
        mnw_cache_open(&cache, pool, store, NULL) || mnw_view_open(&view, cache, NULL))
        return fprintf(stderr, "%s\n", mnw_error()), 1;

    const char *data = mnw_view_data(view);
    size_t lines = 0;
    for (uint64_t i = 0; i < mnw_store_size(store); i++)
        lines += data[i] == '\n';
    printf("%zu lines\n", lines);

    return mnw_view_close(view) || mnw_cache_close(cache) || mnw_pool_close(pool) || mnw_store_close(store);
}
