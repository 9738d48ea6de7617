/* SPDX-License-Identifier: MIT */
/*
 * Taking over what a process left behind, case by case: what stays, what is refused, what it costs.
 *
 * The process that keeps is a child of the test, killed by SIGKILL when it says that it is ready.
 */
#include "adopt.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB ((uint64_t)1 << 20)

struct life {
    const char *uri;
    enum mnw_backing backing;
    uint64_t budget_bytes, extent_bytes;
    uint64_t touch_bytes; /* read from the start; 0: all */
    const char *name;
    bool prefetches; /* all of it, instead of reading it */
    int64_t took_us; /* to open the cache */
    /* owned while it lives */
    struct mnw_pool *pool;
    struct mnw_store *store;
    struct mnw_cache *cache;
};

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

static int live(struct life *life, const struct mnw_kept *kept) {
    struct mnw_pool_options options = {.size = sizeof(options),
                                       .backing = life->backing,
                                       .budget_bytes = life->budget_bytes,
                                       .extent_bytes = life->extent_bytes,
                                       .kept_bytes = kept ? adopt_memory(kept->backing_fd) : 0};
    /* An heir reads nothing ahead: what it reads of the store was not there. */
    struct mnw_cache_options cache = {
        .size = sizeof(cache), .kept = kept, .keep = 1, .name = life->name, .readahead_bytes = kept ? UINT64_MAX : 0};
    adopt_must(mnw_store_open(&life->store, life->uri, NULL), "the store");
    adopt_must(mnw_pool_open(&life->pool, &options), "the pool");
    int64_t began_us = now_us();
    int error = mnw_cache_open(&life->cache, life->pool, life->store, &cache);
    life->took_us = now_us() - began_us;
    if (error) {
        mnw_pool_close(life->pool);
        mnw_store_close(life->store);
    }
    return error;
}

static void end(struct life *life) {
    assert_int_equal(mnw_cache_close(life->cache), 0);
    assert_int_equal(mnw_pool_close(life->pool), 0);
    assert_int_equal(mnw_store_close(life->store), 0);
}

static void read_through(struct life *life, uint64_t bytes) {
    struct mnw_view *view;
    adopt_must(mnw_view_open(&view, life->cache, NULL), "a view");
    uint64_t length = mnw_view_length(view), store_bytes = mnw_store_size(life->store);
    if (!bytes || bytes > length)
        bytes = length;
    uint64_t wrong = adopt_wrong(mnw_view_data(view), 0, bytes, store_bytes);
    if (wrong)
        adopt_fail("%llu words of %llu bytes are not the store's", (unsigned long long)wrong,
                   (unsigned long long)bytes);
    adopt_must(mnw_view_close(view), "closing the view");
}

static void prefetch_all(struct life *life) {
    struct mnw_event event;
    uint64_t size_bytes = mnw_store_size(life->store);
    adopt_must(mnw_prefetch(life->cache, 0, size_bytes, 0), "a prefetch");
    while (adopt_must(mnw_pool_next_event(life->pool, &event), "an event") == 0)
        usleep(1000);
    adopt_must(event.result, "a prefetch that ended");
}

/* A process that keeps a cache, reads some of it, hands over its descriptors, and is killed. */
static struct mnw_kept leave(const struct life *wanted) {
    int pair[2];
    struct mnw_kept kept;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        struct life life = *wanted;
        close(pair[0]);
        adopt_must(live(&life, NULL), "a cache to keep");
        if (life.prefetches)
            prefetch_all(&life);
        else
            read_through(&life, life.touch_bytes);
        struct mnw_kept ours = {.size = sizeof(ours)};
        adopt_must(mnw_cache_kept(life.cache, &ours), "what is kept");
        adopt_send(pair[1], &ours);
        pause();
        _exit(2);
    }
    close(pair[1]);
    bool received = adopt_receive(pair[0], &kept);
    kill(child, SIGKILL);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(received);
    assert_true(WIFSIGNALED(status));
    close(pair[0]);
    return kept;
}

static struct mnw_stats stats_of(const struct life *life) {
    struct mnw_stats stats;
    assert_int_equal(mnw_pool_stats(life->pool, &stats, sizeof(stats)), 0);
    return stats;
}

static struct life life_of(enum mnw_backing backing, uint64_t budget_bytes, const char *uri) {
    if (!adopt_can(backing, budget_bytes))
        skip();
    return (struct life){.uri = uri, .backing = backing, .budget_bytes = budget_bytes};
}

/* ---- what stays ---- */

static uint64_t unit_of(enum mnw_backing backing) {
    return backing == MNW_BACKING_HUGETLB_1G ? 1024 * MIB : 2 * MIB;
}

static void pages_survive(enum mnw_backing backing, uint64_t size_bytes, uint64_t touch_bytes) {
    char path[64], uri[96];
    uint64_t budget = (size_bytes / unit_of(backing) + (backing == MNW_BACKING_HUGETLB_1G ? 1 : 3)) * unit_of(backing);
    struct life life = life_of(backing, budget, uri);
    adopt_file(path, uri, size_bytes);
    life.touch_bytes = touch_bytes;
    struct mnw_kept kept = leave(&life);
    uint64_t left = adopt_memory(kept.backing_fd);
    assert_true(left >= touch_bytes);
    int error = live(&life, &kept);
    if (error)
        adopt_fail("taking over: %d (%s)", error, mnw_error());
    struct mnw_stats stats = stats_of(&life);
    assert_int_equal(stats.resident_bytes, adopt_memory(kept.backing_fd));
    assert_true(stats.resident_bytes >= touch_bytes);
    read_through(&life, touch_bytes);
    assert_int_equal(stats_of(&life).fill_bytes, 0);
    read_through(&life, 0);
    assert_true(stats_of(&life).fill_bytes > 0);
    end(&life);
    adopt_close(&kept);
    unlink(path);
}

static void survive_shmem(void **state) {
    (void)state;
    pages_survive(MNW_BACKING_SHMEM, 12 * MIB + 12345, 5 * MIB);
}
static void survive_graded(void **state) {
    (void)state;
    if (!machine_set(SHMEM_ENABLED, "advise"))
        skip();
    pages_survive(MNW_BACKING_GRADED, 12 * MIB + 12345, 5 * MIB);
}
static void survive_hugetlb_2m(void **state) {
    (void)state;
    pages_survive(MNW_BACKING_HUGETLB_2M, 12 * MIB + 12345, 4 * MIB);
}
static void survive_hugetlb_1g(void **state) {
    (void)state;
    if (MACHINE_SANITIZED)
        skip();
    pages_survive(MNW_BACKING_HUGETLB_1G, 1024 * MIB + 12345, 8 * MIB);
}

/* A second death, and a third: what was taken over is kept on. */
static void again_and_again(void **state) {
    (void)state;
    char path[64], uri[96];
    adopt_file(path, uri, 4 * MIB);
    struct life life = life_of(MNW_BACKING_SHMEM, 8 * MIB, uri);
    struct mnw_kept kept = leave(&life);
    for (unsigned turn = 0; turn < 3; turn++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            struct life heir = life;
            adopt_must(live(&heir, &kept), "taking over");
            read_through(&heir, 0);
            struct mnw_stats stats;
            adopt_must(mnw_pool_stats(heir.pool, &stats, sizeof(stats)), "statistics");
            if (stats.fill_bytes)
                adopt_fail("%llu bytes were read again", (unsigned long long)stats.fill_bytes);
            adopt_must(kill(getpid(), SIGKILL), "dying");
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
    }
    assert_int_equal(adopt_memory(kept.backing_fd), 4 * MIB);
    adopt_close(&kept);
    unlink(path);
}

/* ---- words that lie ---- */

/* Where the page words begin, and the extent words: as in src/engine/adopt_words.c. */
static uint32_t *map_words(const struct mnw_kept *kept, size_t *length) {
    struct stat status;
    assert_int_equal(fstat(kept->words_fd, &status), 0);
    *length = (size_t)status.st_size;
    void *words = mmap(NULL, *length, PROT_READ | PROT_WRITE, MAP_SHARED, kept->words_fd, 0);
    assert_true(words != MAP_FAILED);
    return words;
}

static void words_are_garbage(enum mnw_backing backing) {
    char path[64], uri[96] = "";
    uint64_t random = 88172645463325252ull;
    struct life life = life_of(backing, 16 * MIB, uri);
    adopt_file(path, uri, 8 * MIB);
    for (unsigned turn = 0; turn < 8; turn++) {
        struct mnw_kept kept = leave(&life);
        size_t length, header = 4096;
        uint32_t *words = map_words(&kept, &length);
        for (size_t i = header / 4; i < length / 4; i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            /* What says PRESENT is believed: our words may say so only where they did. */
            uint32_t lie = turn % 2 ? (uint32_t)random : words[i] ^ (uint32_t)(random % 64 == 0 ? random >> 32 : 0);
            if ((lie & 7) != 2 || words[i] == 2)
                words[i] = lie;
        }
        munmap(words, length);
        adopt_must(live(&life, &kept), "taking garbage over");
        assert_int_equal(stats_of(&life).resident_bytes, adopt_memory(kept.backing_fd));
        /* A word that says FAILED is believed too. */
        adopt_must(mnw_invalidate(life.cache, 0, 8 * MIB), "forgetting");
        assert_int_equal(stats_of(&life).resident_bytes, 0);
        assert_int_equal(adopt_memory(kept.backing_fd), 0);
        read_through(&life, 0);
        end(&life);
        adopt_close(&kept);
    }
    unlink(path);
}

static void garbage_shmem(void **state) {
    (void)state;
    words_are_garbage(MNW_BACKING_SHMEM);
}
static void garbage_graded(void **state) {
    (void)state;
    if (!machine_set(SHMEM_ENABLED, "advise"))
        skip();
    words_are_garbage(MNW_BACKING_GRADED);
}
static void garbage_hugetlb(void **state) {
    (void)state;
    words_are_garbage(MNW_BACKING_HUGETLB_2M);
}

/* Memory that no word speaks of; and words whose memory is gone. */
static void memory_does_not_match(void **state) {
    (void)state;
    static const enum mnw_backing backings[] = {MNW_BACKING_SHMEM, MNW_BACKING_HUGETLB_2M};
    char path[64], uri[96];
    adopt_file(path, uri, 16 * MIB);
    for (size_t i = 0; i < 2; i++) {
        if (!adopt_can(backings[i], 24 * MIB))
            continue;
        struct life life = {.uri = uri, .backing = backings[i], .budget_bytes = 24 * MIB, .touch_bytes = 4 * MIB};
        struct mnw_kept kept = leave(&life);
        int hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        assert_int_equal(fallocate(kept.backing_fd, hole, 2 * MIB, 2 * MIB), 0);
        char *stray = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, kept.backing_fd, 12 * MIB);
        assert_true(stray != MAP_FAILED);
        memset(stray, 0xee, 2 * MIB);
        munmap(stray, 2 * MIB);
        adopt_must(live(&life, &kept), "taking over");
        struct mnw_stats stats = stats_of(&life);
        assert_int_equal(stats.resident_bytes, adopt_memory(kept.backing_fd));
        assert_true(stats.pages_lost > 0);
        read_through(&life, 0);
        end(&life);
        adopt_close(&kept);
    }
    unlink(path);
}

static void nothing_is_known(void **state) {
    (void)state;
    static const enum mnw_backing backings[] = {MNW_BACKING_SHMEM, MNW_BACKING_HUGETLB_2M};
    char path[64], uri[96];
    adopt_file(path, uri, 8 * MIB);
    for (size_t i = 0; i < 2; i++) {
        if (!adopt_can(backings[i], 16 * MIB))
            continue;
        struct life life = {.uri = uri, .backing = backings[i], .budget_bytes = 16 * MIB};
        struct mnw_kept kept = leave(&life), anew = {.size = sizeof(anew)};
        close(kept.words_fd);
        kept.words_fd = -1;
        adopt_must(live(&life, &kept), "taking over without words");
        assert_int_equal(stats_of(&life).resident_bytes, adopt_memory(kept.backing_fd));
        read_through(&life, 0);
        assert_int_equal(stats_of(&life).fill_bytes, 8 * MIB);
        assert_int_equal(mnw_cache_kept(life.cache, &anew), 0);
        assert_true(anew.words_fd >= 0);
        end(&life);
        adopt_close(&kept);
    }
    unlink(path);
}

/* ---- what is refused ---- */

static void refused(struct life *life, const struct mnw_kept *kept, int error, const char *what) {
    assert_int_equal(live(life, kept), error);
    if (!strstr(mnw_error(), what))
        adopt_fail("the message \"%s\" does not say \"%s\"", mnw_error(), what);
}

static void what_disagrees_is_refused(void **state) {
    (void)state;
    char path[64], uri[96], other_path[64], other_uri[96];
    adopt_file(path, uri, 4 * MIB);
    adopt_file(other_path, other_uri, 4 * MIB);
    struct life life = life_of(MNW_BACKING_SHMEM, 8 * MIB, uri);
    life.name = "an image";
    struct mnw_kept kept = leave(&life), second = leave(&life), wrong = kept;
    uint64_t left = adopt_memory(kept.backing_fd);

    life.name = "another image";
    refused(&life, &kept, -ESTALE, "another name");
    life.name = "an image";
    life.uri = other_uri;
    refused(&life, &kept, -ESTALE, "another file");
    life.uri = uri;
    life.extent_bytes = 128 << 10;
    refused(&life, &kept, -ESTALE, "other pages and extents");
    life.extent_bytes = 0;
    wrong.words_fd = second.words_fd;
    refused(&life, &wrong, -ESTALE, "another backing");
    wrong.words_fd = kept.backing_fd;
    refused(&life, &wrong, -ESTALE, "open the cache afresh");
    wrong = kept;
    wrong.backing_fd = kept.words_fd;
    refused(&life, &wrong, -ESTALE, "not a backing");
    int plain = open(other_path, O_RDWR | O_CLOEXEC);
    wrong.backing_fd = plain;
    refused(&life, &wrong, -ESTALE, "another file");
    wrong = kept;
    wrong.words_fd = plain;
    refused(&life, &wrong, -ESTALE, "no memory of fixed size");
    close(plain);

    size_t length;
    uint32_t *words = map_words(&kept, &length);
    words[0] ^= 1;
    refused(&life, &kept, -ESTALE, "no words of a cache");
    words[0] ^= 1;
    words[2] ^= 1;
    refused(&life, &kept, -ESTALE, "another version");
    words[2] ^= 1;
    munmap(words, length);

    assert_int_equal(adopt_memory(kept.backing_fd), left); /* nothing was changed by all this */
    assert_int_equal(live(&life, &kept), 0);
    assert_int_equal(stats_of(&life).resident_bytes, left);
    end(&life);

    /* Bytes of the store have changed. */
    assert_int_equal(truncate(path, 5 * MIB), 0);
    assert_int_equal(truncate(path, 4 * MIB), 0);
    refused(&life, &kept, -ESTALE, "has been changed since");
    adopt_close(&kept);
    adopt_close(&second);
    unlink(path);
    unlink(other_path);
}

static void other_backing_is_refused(void **state) {
    (void)state;
    char path[64], uri[96];
    adopt_file(path, uri, 4 * MIB);
    struct life life = life_of(MNW_BACKING_HUGETLB_2M, 8 * MIB, uri);
    struct mnw_kept kept = leave(&life);
    life.backing = MNW_BACKING_SHMEM;
    refused(&life, &kept, -ESTALE, "not a backing of this kind");
    adopt_close(&kept);
    unlink(path);
}

static void owner_must_be_gone(void **state) {
    (void)state;
    char path[64], uri[96];
    adopt_file(path, uri, 4 * MIB);
    struct life first = life_of(MNW_BACKING_SHMEM, 8 * MIB, uri), second = first;
    struct mnw_kept kept = {.size = sizeof(kept)};
    assert_int_equal(live(&first, NULL), 0);
    assert_int_equal(mnw_cache_kept(first.cache, &kept), 0);
    refused(&second, &kept, -EBUSY, "must have ended");
    kept.backing_fd = dup(kept.backing_fd);
    kept.words_fd = dup(kept.words_fd);
    read_through(&first, 2 * MIB);
    end(&first);
    assert_int_equal(live(&second, &kept), 0); /* a cache that was closed is kept like one whose process died */
    read_through(&second, 2 * MIB);
    assert_int_equal(stats_of(&second).fill_bytes, 0);
    end(&second);
    adopt_close(&kept);
    unlink(path);
}

static void smaller_budget(void **state) {
    (void)state;
    char path[64], uri[96];
    adopt_file(path, uri, 16 * MIB);
    struct life life = life_of(MNW_BACKING_SHMEM, 32 * MIB, uri);
    struct mnw_kept kept = leave(&life);
    life.budget_bytes = 4 * MIB;
    assert_int_equal(live(&life, &kept), 0);
    assert_true(stats_of(&life).resident_bytes <= 4 * MIB);
    assert_true(adopt_memory(kept.backing_fd) <= 4 * MIB);
    read_through(&life, 0);
    end(&life);
    adopt_close(&kept);
    if (adopt_can(MNW_BACKING_HUGETLB_2M, 18 * MIB)) {
        life.backing = MNW_BACKING_HUGETLB_2M;
        life.budget_bytes = 18 * MIB;
        kept = leave(&life);
        life.budget_bytes = 4 * MIB;
        int words_fd = kept.words_fd;
        kept.words_fd = -1; /* nobody knows whether writers have copies: nothing may be taken away */
        refused(&life, &kept, -ENOSPC, "raise it");
        assert_int_equal(adopt_memory(kept.backing_fd), 16 * MIB);
        kept.words_fd = words_fd;
        assert_int_equal(live(&life, &kept), 0);
        assert_true(stats_of(&life).resident_bytes <= 4 * MIB);
        assert_true(adopt_memory(kept.backing_fd) <= 4 * MIB);
        end(&life);
        adopt_close(&kept);
    }
    unlink(path);
}

static void cache_without_keep(void **state) {
    (void)state;
    char path[64], uri[96];
    adopt_file(path, uri, MIB);
    struct mnw_pool_options pool_options = {
        .size = sizeof(pool_options), .backing = MNW_BACKING_SHMEM, .budget_bytes = 4 * MIB};
    struct mnw_pool *pool;
    struct mnw_store *store;
    struct mnw_cache *cache;
    struct mnw_kept kept = {.size = sizeof(kept)};
    assert_int_equal(mnw_pool_open(&pool, &pool_options), 0);
    assert_int_equal(mnw_store_open(&store, uri, NULL), 0);
    assert_int_equal(mnw_cache_open(&cache, pool, store, NULL), 0);
    assert_int_equal(mnw_cache_kept(cache, &kept), 0);
    assert_int_equal(kept.words_fd, -1);
    kept.size = 4;
    assert_int_equal(mnw_cache_kept(cache, &kept), -EINVAL);
    assert_int_equal(mnw_cache_kept(cache, NULL), -EINVAL);
    assert_int_equal(mnw_cache_kept(NULL, &kept), -EINVAL);
    assert_int_equal(mnw_cache_close(cache), 0);
    char name[65] = {0};
    memset(name, 'n', 64);
    struct mnw_cache_options options = {.size = sizeof(options), .name = name, .keep = 1};
    assert_int_equal(mnw_cache_open(&cache, pool, store, &options), -EINVAL);
    name[63] = 0;
    assert_int_equal(mnw_cache_open(&cache, pool, store, &options), 0);
    assert_int_equal(mnw_cache_close(cache), 0);
    assert_int_equal(mnw_pool_close(pool), 0);
    assert_int_equal(mnw_store_close(store), 0);
    unlink(path);
}

/* ---- what it costs ---- */

/* Words that were never written stay without memory when they are asked about, or all is to be forgotten. */
static void asking_costs_nothing(struct life *life, const struct mnw_kept *kept) {
    enum { COUNT = 1 << 22 };
    uint8_t *pages = malloc(COUNT);
    assert_non_null(pages);
    memset(pages, 0xff, COUNT);
    assert_int_equal(mnw_residency(life->cache, 4096, pages, COUNT - 1), 0);
    for (size_t i = 0; i < COUNT - 1; i++)
        assert_int_equal(pages[i], i < MIB / 4096 - 1 ? MNW_RESIDENT : i < MIB / 1024 ? pages[i] : 0); /* read ahead */
    assert_int_equal(pages[COUNT - 1], 0xff);
    free(pages);
    assert_int_equal(mnw_invalidate(life->cache, 0, mnw_store_size(life->store)), 0);
    assert_int_equal(stats_of(life).resident_bytes, 0);
    assert_true(adopt_memory(kept->words_fd) < 256 << 10);
}

static void large_and_empty(void **state) {
    (void)state;
    char path[] = "/tmp/minnow-adopt-XXXXXX", uri[96];
    uint64_t size_bytes = (uint64_t)1 << (MACHINE_SANITIZED ? 34 : 40);
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size_bytes), 0);
    char *bytes = malloc(MIB);
    assert_non_null(bytes);
    adopt_bytes(bytes, 0, MIB);
    assert_int_equal(pwrite(fd, bytes, MIB, 0), MIB);
    free(bytes);
    sprintf(uri, "file://%s", path);
    struct life life = life_of(MNW_BACKING_SHMEM, 8 * MIB, uri);
    life.touch_bytes = MIB;
    struct mnw_kept kept = leave(&life);
    assert_true(adopt_memory(kept.words_fd) < 256 << 10);
    int64_t began_us = now_us();
    assert_int_equal(live(&life, &kept), 0);
    int64_t took_us = now_us() - began_us;
    print_message("taking over %llu GiB, 1 MiB resident: %lld us\n", (unsigned long long)(size_bytes >> 30),
                  (long long)took_us);
    assert_true(took_us < 500000);
    assert_true(stats_of(&life).resident_bytes >= MIB);
    assert_true(adopt_memory(kept.words_fd) < 256 << 10);
    asking_costs_nothing(&life, &kept);
    end(&life);
    adopt_close(&kept);
    close(fd);
    unlink(path);
}

/* Every page resident; MNW_ADOPT_MIB says how many MiB, MNW_ADOPT_BACKING 0..3 of what. */
static void large_and_resident(void **state) {
    (void)state;
    const char *mib = getenv("MNW_ADOPT_MIB"), *kind = getenv("MNW_ADOPT_BACKING");
    uint64_t size_bytes = (mib ? strtoull(mib, NULL, 10) : 64) * MIB;
    char path[] = "/tmp/minnow-adopt-XXXXXX", uri[96];
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size_bytes), 0);
    sprintf(uri, "file://%s", path);
    struct life life =
        life_of(kind ? (enum mnw_backing)atoi(kind) : MNW_BACKING_SHMEM, size_bytes + size_bytes / 8 + 8 * MIB, uri);
    life.prefetches = true;
    struct mnw_kept kept = leave(&life);
    assert_int_equal(adopt_memory(kept.backing_fd), size_bytes);
    int64_t began_us = now_us();
    assert_int_equal(live(&life, &kept), 0);
    int64_t all_us = now_us() - began_us;
    assert_int_equal(stats_of(&life).resident_bytes, size_bytes);
    print_message("taking over %llu MiB, all resident: %lld us for the cache, %lld us with pool and store\n",
                  (unsigned long long)(size_bytes >> 20), (long long)life.took_us, (long long)all_us);
    assert_true(life.took_us < 500000);
    end(&life);
    adopt_close(&kept);
    close(fd);
    unlink(path);
}

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    alarm(200 * (unsigned)machine_slowness());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survive_shmem),
        cmocka_unit_test(survive_graded),
        cmocka_unit_test(survive_hugetlb_2m),
        cmocka_unit_test(survive_hugetlb_1g),
        cmocka_unit_test(again_and_again),
        cmocka_unit_test(garbage_shmem),
        cmocka_unit_test(garbage_graded),
        cmocka_unit_test(garbage_hugetlb),
        cmocka_unit_test(memory_does_not_match),
        cmocka_unit_test(nothing_is_known),
        cmocka_unit_test(what_disagrees_is_refused),
        cmocka_unit_test(other_backing_is_refused),
        cmocka_unit_test(owner_must_be_gone),
        cmocka_unit_test(smaller_budget),
        cmocka_unit_test(cache_without_keep),
        cmocka_unit_test(large_and_empty),
        cmocka_unit_test(large_and_resident),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
