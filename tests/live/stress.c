/* SPDX-License-Identifier: MIT */
/*
 * Everything at once on the real kernel: views, readers, eviction, pins, prefetches, invalidations, changing
 * budgets, views that come and go. Every byte that is read is compared with what the store holds.
 *
 *     stress BACKING SECONDS [SEED [MODE]]       BACKING: shmem, graded, hugetlb-2M, hugetlb-1G
 *
 * MODE `inline`: two views of three, and all that come and go, resolve their faults in the reader. `inline-file`: and
 * the store is a file, which the reader reads himself.
 *
 * The store is the embedder's: answers come from another thread, out of order, short, and sometimes late or
 * in error (and then again well). Ends with 0, 1 (something was wrong), or 77 (the machine cannot).
 */
#include "machine.h"

#include <errno.h>
#include <minnow/minnow.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORD    8u
#define READERS 4
#define VIEWS   3
#define QUEUE   4096

static enum mnw_backing backing;
static uint64_t store_bytes, budget_bytes;
static uint64_t seed = 1;
static bool is_inline, is_file;
static atomic_bool stopping, store_done;
static atomic_uint_fast64_t words_read, wrong, errors_injected;
static struct mnw_store *store;
static struct mnw_cache *cache;
static struct mnw_pool *pool;
static struct mnw_view *views[VIEWS];

static void complain(const char *what, uint64_t where) {
    fprintf(stderr, "stress: %s at %llu: %s\n", what, (unsigned long long)where, mnw_error());
    atomic_fetch_add(&wrong, 1);
}

static uint64_t next(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* The store's word at an offset: never 0, so that a page of zeros is always wrong. */
static uint64_t word_at(uint64_t offset) {
    uint64_t state = offset / WORD + seed;
    return next(&state) | 1;
}

/* ---- the store: one thread answers what the fault threads ask ---- */

static struct mnw_read asked[QUEUE];
static unsigned asked_count;
static pthread_mutex_t asked_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t asked_more = PTHREAD_COND_INITIALIZER;

static void ask(void *context, const struct mnw_read *read) {
    (void)context;
    pthread_mutex_lock(&asked_lock);
    if (asked_count < QUEUE) {
        asked[asked_count++] = *read;
        pthread_cond_signal(&asked_more);
        pthread_mutex_unlock(&asked_lock);
    } else {
        pthread_mutex_unlock(&asked_lock);
        mnw_read_done(store, read->token, -EAGAIN);
    }
}

static int64_t fill(const struct mnw_read *read, uint64_t *random) {
    uint64_t dice = next(random) % 100;
    if (dice < 3) {
        atomic_fetch_add(&errors_injected, 1);
        return -EIO;
    }
    size_t length = dice < 20 && read->length > 4096 ? read->length / 2 / WORD * WORD : read->length;
    for (size_t at = 0; at < length; at++) {
        uint64_t word = word_at((read->offset + at) / WORD * WORD);
        size_t skip = (read->offset + at) % WORD;
        size_t some = WORD - skip < length - at ? WORD - skip : length - at;
        memcpy((char *)read->buffer + at, (char *)&word + skip, some);
        at += some - 1;
    }
    return (int64_t)length;
}

static void *answer(void *argument) {
    uint64_t random = seed ^ (uintptr_t)argument;
    pthread_mutex_lock(&asked_lock);
    for (;;) {
        while (!asked_count && !store_done)
            pthread_cond_wait(&asked_more, &asked_lock);
        if (!asked_count)
            break;
        unsigned index = (unsigned)(next(&random) % asked_count);
        struct mnw_read read = asked[index];
        asked[index] = asked[--asked_count];
        pthread_mutex_unlock(&asked_lock);
        if (next(&random) % 64 == 0)
            usleep(500);
        int64_t result = fill(&read, &random);
        if (mnw_read_done(store, read.token, result))
            complain("an answer was refused", read.offset);
        if (next(&random) % 32 == 0 && mnw_read_done(store, read.token, result) != -ESTALE)
            complain("a second answer was taken", read.offset);
        pthread_mutex_lock(&asked_lock);
    }
    pthread_mutex_unlock(&asked_lock);
    return NULL;
}

/* ---- the consumers ---- */

static void compare(const char *data, uint64_t first, uint64_t length) {
    for (uint64_t offset = first; offset < first + length; offset += WORD) {
        uint64_t word = *(const volatile uint64_t *)(data + offset);
        if (word != word_at(offset))
            complain("wrong word", offset);
    }
    atomic_fetch_add(&words_read, length / WORD);
}

static void *read_view(void *argument) {
    const struct mnw_view *view = argument;
    const char *data = mnw_view_data(view);
    uint64_t random = seed * 31 + (uintptr_t)pthread_self(), at = 0;
    while (!stopping) {
        bool scan = next(&random) % 4 == 0;
        at = scan ? at : next(&random) % store_bytes / 4096 * 4096;
        for (int pages = scan ? 64 : 1; pages && !stopping; pages--) {
            uint64_t left = store_bytes - at;
            compare(data, at, left < 4096 ? left / WORD * WORD : 4096);
            at = left > 8192 ? at + 4096 : 0;
        }
    }
    return NULL;
}

static const struct mnw_view_options *view_options(int turn) {
    static const struct mnw_view_options inlined = {.size = sizeof(inlined), .flags = MNW_VIEW_INLINE};
    return is_inline && turn % 3 ? &inlined : NULL;
}

static void *open_and_close(void *argument) {
    uint64_t random = seed * 17;
    (void)argument;
    while (!stopping) {
        struct mnw_view *view;
        if (mnw_view_open(&view, cache, view_options(1))) {
            complain("a view did not open", 0);
            break;
        }
        for (int i = 0; i < 50; i++)
            compare(mnw_view_data(view), next(&random) % (store_bytes - 4096) / 4096 * 4096, 64);
        mnw_view_close(view);
    }
    return NULL;
}

/* ---- the operators ---- */

static void pick_range(uint64_t *random, uint64_t *offset, uint64_t *length) {
    uint64_t page = mnw_cache_page_size(cache), pages = (store_bytes - 1) / page + 1;
    uint64_t first = next(random) % pages, most = pages - first < 16 ? pages - first : 16;
    *offset = first * page;
    *length = (next(random) % most + 1) * page;
}

static void operate(uint64_t *random) {
    uint64_t offset, length;
    struct mnw_event event;
    pick_range(random, &offset, &length);
    int64_t result;
    switch (next(random) % 8) {
    case 0:
    case 1:
        result = mnw_invalidate(cache, offset, length);
        if (result && result != -EBUSY)
            complain("invalidate", offset);
        break;
    case 2:
        result = mnw_pin(cache, offset, length);
        if (!result) {
            uint8_t flags[16];
            if (mnw_residency(cache, offset, flags, 1) || !(flags[0] & MNW_RESIDENT) || !(flags[0] & MNW_PINNED))
                complain("a pinned page is not resident", offset);
            if (mnw_unpin(cache, offset, length))
                complain("unpin", offset);
        } else if (result != -ENOSPC && result != -EIO) {
            complain("pin", offset);
        }
        break;
    case 3:
        result = mnw_prefetch(cache, offset, length, 7);
        if (result < 0 && result != -EAGAIN)
            complain("prefetch", offset);
        else if (result > 0 && next(random) % 2)
            mnw_prefetch_cancel(pool, result);
        break;
    case 4:
        mnw_pool_set_budget(pool, budget_bytes / (next(random) % 2 + 1));
        break;
    case 5:
        usleep(2000);
        break;
    default:
        while (mnw_pool_next_event(pool, &event) == 1)
            if (event.kind == MNW_EVENT_PAGE_FAILED)
                mnw_invalidate(cache, event.offset, event.length);
    }
}

static void *operate_all(void *argument) {
    uint64_t random = seed * 7 + (uintptr_t)argument;
    while (!stopping)
        operate(&random);
    return NULL;
}

static void watch(unsigned seconds) {
    struct mnw_stats stats;
    for (unsigned tenths = 0; tenths < seconds * 10 && !wrong; tenths++) {
        usleep(100000);
        if (mnw_pool_stats(pool, &stats, sizeof(stats)))
            complain("stats", 0);
        if (stats.resident_bytes_max > budget_bytes)
            complain("the budget was exceeded", stats.resident_bytes_max);
    }
}

static void end_everything(void) {
    struct mnw_event event;
    mnw_pool_set_budget(pool, budget_bytes);
    for (int i = 0; i < VIEWS; i++)
        if (mnw_view_close(views[i]))
            complain("view close", 0);
    /* Prefetches that still run are the one reason to refuse; their events say when they have ended. */
    int error;
    while ((error = mnw_cache_close(cache)) == -EBUSY && !wrong) {
        usleep(1000);
        while (mnw_pool_next_event(pool, &event) == 1)
            ;
    }
    if (error)
        complain("cache close", 0);
}

/* The same words in a file that has no name. */
static int open_file(void) {
    static uint64_t words[1 << 13];
    char uri[64];
    int fd = memfd_create("stress", 0);
    for (uint64_t offset = 0; offset < store_bytes; offset += sizeof(words)) {
        uint64_t length = store_bytes - offset < sizeof(words) ? store_bytes - offset : sizeof(words);
        for (uint64_t i = 0; i < sizeof(words) / WORD; i++)
            words[i] = word_at(offset + i * WORD);
        if (pwrite(fd, words, length, (off_t)offset) != (ssize_t)length)
            return -1;
    }
    snprintf(uri, sizeof(uri), "file:///proc/self/fd/%d", fd);
    int error = mnw_store_open(&store, uri, NULL);
    close(fd);
    return error;
}

static int open_everything(void) {
    struct mnw_store_callbacks callbacks = {.size = sizeof(callbacks), .size_bytes = store_bytes, .read = ask};
    struct mnw_pool_options pool_options = {.size = sizeof(pool_options),
                                            .backing = backing,
                                            .budget_bytes = budget_bytes,
                                            .fault_threads_per_node = 2,
                                            .policy = seed % 2 ? MNW_POLICY_S3FIFO : MNW_POLICY_CLOCK};
    /* Errors are injected at random: so many tries that a page fails about never. */
    struct mnw_cache_options cache_options = {.size = sizeof(cache_options), .read_retries = 12, .retry_delay_ms = 1};
    int error = is_file ? open_file() : mnw_store_open_callbacks(&store, &callbacks, NULL);
    if (!error)
        error = mnw_pool_open(&pool, &pool_options);
    if (!error)
        error = mnw_cache_open(&cache, pool, store, &cache_options);
    for (int i = 0; i < VIEWS && !error; i++)
        error = mnw_view_open(&views[i], cache, view_options(i));
    if (error)
        fprintf(stderr, "stress: %s\n", mnw_error());
    return error;
}

static int stress(unsigned seconds) {
    pthread_t answerers[2], workers[READERS + 3];
    int error = open_everything();
    if (error)
        return error == -EOPNOTSUPP || error == -ENOMEM || error == -EPERM || error == -ENOSYS ? 77 : 1;
    for (uintptr_t i = 0; i < 2; i++)
        pthread_create(&answerers[i], NULL, answer, (void *)(i + 1));
    for (int i = 0; i < READERS; i++)
        pthread_create(&workers[i], NULL, read_view, views[i % VIEWS]);
    pthread_create(&workers[READERS], NULL, open_and_close, NULL);
    for (uintptr_t i = 1; i <= 2; i++)
        pthread_create(&workers[READERS + i], NULL, operate_all, (void *)i);
    watch(seconds);
    atomic_store(&stopping, true);
    for (int i = 0; i < READERS + 3; i++)
        pthread_join(workers[i], NULL);
    end_everything();
    pthread_mutex_lock(&asked_lock);
    atomic_store(&store_done, true);
    pthread_cond_broadcast(&asked_more);
    pthread_mutex_unlock(&asked_lock);
    for (int i = 0; i < 2; i++)
        pthread_join(answerers[i], NULL);
    char *json = mnw_pool_stats_json(pool);
    if (wrong)
        puts(json);
    free(json);
    if (mnw_pool_close(pool) || mnw_store_close(store))
        complain("close", 0);
    printf("%llu words read, %llu errors injected, %llu wrong\n", (unsigned long long)words_read,
           (unsigned long long)errors_injected, (unsigned long long)wrong);
    return wrong || !words_read ? 1 : 0;
}

/* No page of this store fails for good, so any SIGBUS is a fault of ours. Says where, and dies of it. */
static void on_sigbus(int number, siginfo_t *info, void *context) {
    char line[200];
    (void)context;
    int length = snprintf(line, sizeof(line), "stress: SIGBUS at %p, code %d\n", info->si_addr, info->si_code);
    for (int i = 0; i < VIEWS; i++) {
        uintptr_t start = (uintptr_t)mnw_view_data(views[i]), at = (uintptr_t)info->si_addr;
        uint8_t flags = 0;
        if (at < start || at - start >= mnw_view_length(views[i]))
            continue;
        mnw_residency(cache, (at - start) & ~(mnw_cache_page_size(cache) - 1), &flags, 1);
        length = snprintf(line, sizeof(line), "stress: SIGBUS in view %d at offset %zu, page flags %x\n", i,
                          (size_t)(at - start), flags);
    }
    if (write(2, line, (size_t)length) < 0)
        _exit(1);
    signal(number, SIG_DFL);
}

static bool choose_backing(const char *name) {
    static const char *const names[] = {"shmem", "graded", "hugetlb-2M", "hugetlb-1G"};
    unsigned kind = 0;
    while (kind < 4 && strcmp(name, names[kind]))
        kind++;
    backing = (enum mnw_backing)kind;
    uint64_t extent = kind == 0 ? 64u << 10 : kind == 3 ? 1u << 30 : 2u << 20;
    uint64_t extents = kind == 0 ? 64 : kind == 3 ? 3 : 12;
    budget_bytes = extent * extents;
    store_bytes = (kind == 3 ? 4 : extents * 3) * extent - 1000;
    return kind < 4;
}

int main(int count, char **arguments) {
    if (count < 3 || !choose_backing(arguments[1])) {
        fprintf(stderr, "usage: stress shmem|graded|hugetlb-2M|hugetlb-1G SECONDS [SEED [inline|inline-file]]\n");
        return 2;
    }
    int status = machine_guard(arguments);
    if (status >= 0)
        return status;
    if (count > 3)
        seed = strtoull(arguments[3], NULL, 0);
    is_inline = count > 4 && !strncmp(arguments[4], "inline", 6);
    is_file = is_inline && !strcmp(arguments[4], "inline-file");
    size_t huge = backing == MNW_BACKING_HUGETLB_2M ? 2u << 20 : backing == MNW_BACKING_HUGETLB_1G ? 1u << 30 : 0;
    if (huge && !machine_free_hugepages(huge, budget_bytes / huge)) {
        fprintf(stderr, "stress: this machine has no %zu huge pages of %zu bytes to give\n",
                (size_t)(budget_bytes / huge), huge);
        return 77;
    }
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    bool longer = getenv("MINNOW_TEST_ALL") != NULL;
    return stress((unsigned)atoi(arguments[2]) * (longer ? 10 : 1));
}
