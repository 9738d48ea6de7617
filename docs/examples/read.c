/* SPDX-License-Identifier: MIT */
/* Counts the newlines of a file of any size by pointer, in 64 MiB of memory: read FILE (an absolute path). */
#include <minnow/minnow.h>
#include <stdio.h>

int main(int argc, char **argv) {
    struct mnw_pool_options options = {.size = sizeof(options), .budget_bytes = 64 << 20};
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view;
    char uri[4096];

    snprintf(uri, sizeof(uri), "file://%s", argc > 1 ? argv[1] : "/etc/services");
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
