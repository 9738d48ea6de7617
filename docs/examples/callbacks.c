/* SPDX-License-Identifier: MIT */
/*
 * A store of one's own: 256 GiB of bytes that are computed, not kept. A worker thread answers the reads, as a
 * program would that asks another machine.
 *
 * minnow's thread calls start_read(), which only queues; the worker computes and answers with the token.
 */
#include <minnow/minnow.h>
#include <pthread.h>
#include <stdio.h>

#define STORE_BYTES (UINT64_C(256) << 30)
#define QUEUE_MAX   1024

struct computed {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct mnw_read queue[QUEUE_MAX];
    unsigned count;
    int ending;
    struct mnw_store *store;
};

static unsigned char byte_at(uint64_t offset) {
    return (unsigned char)((offset >> 12) * 31 + offset * 7);
}

static void start_read(void *context, const struct mnw_read *read) {
    struct computed *computed = context;
    pthread_mutex_lock(&computed->lock);
    int full = computed->count == QUEUE_MAX;
    if (!full)
        computed->queue[computed->count++] = *read;
    pthread_cond_signal(&computed->more);
    pthread_mutex_unlock(&computed->lock);
    if (full) /* an answer at once is allowed; minnow tries again */
        mnw_read_done(computed->store, read->token, -11 /* EAGAIN */);
}

static void *work(void *context) {
    struct computed *computed = context;
    for (;;) {
        pthread_mutex_lock(&computed->lock);
        while (!computed->count && !computed->ending)
            pthread_cond_wait(&computed->more, &computed->lock);
        if (!computed->count) {
            pthread_mutex_unlock(&computed->lock);
            return NULL;
        }
        struct mnw_read read = computed->queue[--computed->count];
        pthread_mutex_unlock(&computed->lock); /* never answer with a lock held that a reader may want */

        unsigned char *bytes = read.buffer;
        for (size_t i = 0; i < read.length; i++)
            bytes[i] = byte_at(read.offset + i);
        mnw_read_done(computed->store, read.token, (int64_t)read.length);
    }
}

/* Reads a few places, far apart, by pointer. The number of wrong bytes. */
static unsigned read_some(const unsigned char *data) {
    unsigned wrong = 0;
    for (uint64_t offset = 5; offset < STORE_BYTES; offset += STORE_BYTES / 100)
        wrong += data[offset] != byte_at(offset);
    return wrong + (data[STORE_BYTES - 1] != byte_at(STORE_BYTES - 1));
}

int main(void) {
    static struct computed computed = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};
    struct mnw_store_callbacks callbacks = {.size = sizeof(callbacks), .size_bytes = STORE_BYTES, .read = start_read};
    struct mnw_pool_options options = {.size = sizeof(options), .budget_bytes = 4 << 20};
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_view *view;
    pthread_t worker;

    if (mnw_store_open_callbacks(&computed.store, &callbacks, &computed) || mnw_pool_open(&pool, &options) ||
        mnw_cache_open(&cache, pool, computed.store, NULL) || mnw_view_open(&view, cache, NULL)) {
        fprintf(stderr, "%s\n", mnw_error());
        return 1;
    }
    if (pthread_create(&worker, NULL, work, &computed))
        return 1;

    unsigned wrong = read_some(mnw_view_data(view));
    printf("%u bytes were wrong\n", wrong);

    /* Readahead may still be asking: close the cache, which waits for it, before the worker goes. */
    int failed = mnw_view_close(view) || mnw_cache_close(cache) || mnw_pool_close(pool);
    pthread_mutex_lock(&computed.lock);
    computed.ending = 1;
    pthread_cond_signal(&computed.more);
    pthread_mutex_unlock(&computed.lock);
    pthread_join(worker, NULL);
    return mnw_store_close(computed.store) || failed || wrong;
}
