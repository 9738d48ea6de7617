/* SPDX-License-Identifier: MIT */
/*
 * kill -9 of the process that manages a cache, again and again, while others read through it.
 *
 *     adopt_kill [--backing shmem|graded|hugetlb-2M|hugetlb-1G] [--kills N] [--seed N]
 *
 * This process holds the descriptors and judges. Consumers are processes that map the cache and check every byte they
 * read; one of them writes, and checks that its copies stay its own. The manager is forked anew for each life: it takes
 * over, compares what it charges with what is there, attaches the views, and then evicts, forgets, prefetches and pins
 * until it is killed, sometimes while it still takes over. Ends with 0, 1 (something was wrong), or 77 (the machine
 * cannot).
 */
#include "adopt.h"
#include "machine.h"
#include "sys/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB       ((uint64_t)1 << 20)
#define CONSUMERS 4 /* the last one writes, where writing costs the cache nothing */
#define STALL_MS  20000

/* What all processes see. */
static struct board {
    atomic_bool stopping;
    atomic_uint_fast64_t reads[CONSUMERS], wrong[CONSUMERS], stall_us[CONSUMERS];
    atomic_uint_fast64_t open_us_max, takeover_us_max, kept_bytes_max, lives;
} * board;

static struct {
    enum mnw_backing backing;
    unsigned kills;
    uint64_t seed, image_bytes, budget_bytes, page_bytes;
    char path[64], uri[96];
    struct mnw_kept kept;
    int readonly_fd;
    struct {
        pid_t pid;
        int socket, uffd;
        uint64_t address;
        bool writes;
    } consumer[CONSUMERS];
} test = {.kills = 10, .seed = 1};

static uint64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t next(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    return z ^ (z >> 31);
}

static void raise_to(atomic_uint_fast64_t *most, uint64_t value) {
    uint64_t seen = atomic_load(most);
    while (seen < value && !atomic_compare_exchange_weak(most, &seen, value))
        ;
}

/* ---- descriptors between processes ---- */

static void send_fd(int socket, int fd, uint64_t value) {
    struct mnw_kept pair = {.size = sizeof(pair), .backing_fd = fd, .words_fd = fd};
    adopt_send(socket, &pair);
    if (send(socket, &value, sizeof(value), 0) != sizeof(value))
        adopt_fail("sending a number: %s", strerror(errno));
}

static int receive_fd(int socket, uint64_t *value) {
    struct mnw_kept pair;
    if (!adopt_receive(socket, &pair) || recv(socket, value, sizeof(*value), 0) != sizeof(*value))
        adopt_fail("a descriptor does not come");
    close(pair.words_fd);
    return pair.backing_fd;
}

/* ---- a consumer ---- */

static int open_uffd(void) {
    bool huge = test.backing >= MNW_BACKING_HUGETLB_2M;
    struct uffdio_api api = {.api = UFFD_API};
    api.features = huge ? UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS
                        : UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM;
    struct mnw__uffd_probe probe;
    if (mnw__uffd_probe(&probe))
        adopt_fail("no userfaultfd: %s", strerror(errno));
    api.features |= UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP | (probe.features & MNW__UFFD_POISON);
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
        adopt_fail("a userfaultfd: %s", strerror(errno));
    return fd;
}

static char *map_cache(int fd, bool writes) {
    uint64_t length = test.image_bytes, unit = 2 * MIB > test.page_bytes ? 2 * MIB : test.page_bytes;
    char *room = mmap(NULL, length + unit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *at = room + (unit - (uintptr_t)room % unit);
    int protection = PROT_READ | (writes ? PROT_WRITE : 0);
    if (room == MAP_FAILED ||
        mmap(at, length, protection, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, 0) == MAP_FAILED)
        adopt_fail("mapping the cache: %s", strerror(errno));
    return at;
}

/* One look at a random place; a writer first marks some pages, and from then on finds its marks there. */
static void look(unsigned self, char *data, bool writes, uint8_t *marks, uint64_t *random) {
    uint64_t pages = test.image_bytes / 4096, page = next(random) % pages;
    size_t within = next(random) % 64 * 64, length = 64;
    uint64_t began_us = now_us();
    if (writes && next(random) % 8 == 0) {
        marks[page] = (uint8_t)(1 + next(random) % 255);
        memset(data + page * 4096, marks[page], 4096);
    }
    if (next(random) % 16 == 0)
        within = 0, length = 4096;
    if (writes && marks[page]) {
        for (size_t i = 0; i < length; i++)
            atomic_fetch_add(&board->wrong[self], (uint8_t)data[page * 4096 + within + i] != marks[page]);
    } else {
        atomic_fetch_add(&board->wrong[self],
                         adopt_wrong(data + page * 4096 + within, page * 4096 + within, length, test.image_bytes));
    }
    raise_to(&board->stall_us[self], now_us() - began_us);
    atomic_fetch_add(&board->reads[self], 1);
}

static void consume(unsigned self, int socket, bool writes) {
    uint64_t unused, random = test.seed * 1000 + self;
    int fd = receive_fd(socket, &unused), uffd = open_uffd();
    char *data = map_cache(fd, writes);
    uint8_t *marks = calloc(test.image_bytes / 4096, 1);
    if (!marks)
        adopt_fail("no memory");
    send_fd(socket, uffd, (uintptr_t)data);
    char go;
    if (recv(socket, &go, 1, 0) != 1) /* attached */
        _exit(1);
    while (!atomic_load(&board->stopping))
        look(self, data, writes, marks, &random);
    for (uint64_t page = 0; page < test.image_bytes / 4096; page++)
        if (!marks[page])
            atomic_fetch_add(&board->wrong[self], adopt_wrong(data + page * 4096, page * 4096, 4096, test.image_bytes));
    _exit(0);
}

static void start_consumers(void) {
    for (unsigned i = 0; i < CONSUMERS; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
            adopt_fail("a socket pair: %s", strerror(errno));
        test.consumer[i].writes = i == CONSUMERS - 1 && test.backing <= MNW_BACKING_GRADED;
        test.consumer[i].socket = pair[0];
        test.consumer[i].pid = fork();
        if (!test.consumer[i].pid) {
            close(pair[0]);
            consume(i, pair[1], test.consumer[i].writes);
        }
        close(pair[1]);
        send_fd(pair[0], test.readonly_fd, 0);
        test.consumer[i].uffd = receive_fd(pair[0], &test.consumer[i].address);
    }
}

/* ---- the manager ---- */

static void open_cache(struct mnw_pool **pool, struct mnw_store **store, struct mnw_cache **cache, bool takes_over) {
    struct mnw_pool_options options = {.size = sizeof(options),
                                       .backing = test.backing,
                                       .budget_bytes = test.budget_bytes,
                                       .kept_bytes = takes_over ? adopt_memory(test.kept.backing_fd) : 0};
    struct mnw_cache_options cache_options = {
        .size = sizeof(cache_options), .keep = 1, .kept = takes_over ? &test.kept : NULL, .name = "image"};
    adopt_must(mnw_store_open(store, test.uri, NULL), "the store");
    adopt_must(mnw_pool_open(pool, &options), "the pool");
    adopt_must(mnw_cache_open(cache, *pool, *store, &cache_options), "the cache");
}

/* A first life, to make the cache; it ends at once. */
static void make_cache(void) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        adopt_fail("a socket pair: %s", strerror(errno));
    pid_t pid = fork();
    if (!pid) {
        struct mnw_pool *pool;
        struct mnw_store *store;
        struct mnw_cache *cache;
        struct mnw_kept kept = {.size = sizeof(kept)};
        open_cache(&pool, &store, &cache, false);
        adopt_must(mnw_cache_kept(cache, &kept), "what is kept");
        adopt_send(pair[1], &kept);
        send_fd(pair[1], mnw_cache_fd(cache), mnw_cache_page_size(cache));
        kill(getpid(), SIGKILL);
    }
    close(pair[1]);
    if (!adopt_receive(pair[0], &test.kept))
        adopt_fail("no cache was made");
    test.readonly_fd = receive_fd(pair[0], &test.page_bytes);
    close(pair[0]);
    waitpid(pid, NULL, 0);
}

static void check_charge(struct mnw_pool *pool) {
    struct mnw_stats stats;
    adopt_must(mnw_pool_stats(pool, &stats, sizeof(stats)), "statistics");
    uint64_t there = adopt_memory(test.kept.backing_fd);
    if (stats.resident_bytes != there)
        adopt_fail("%llu bytes are charged, %llu are there", (unsigned long long)stats.resident_bytes,
                   (unsigned long long)there);
    raise_to(&board->kept_bytes_max, there);
}

/* What evicts, reads and forgets, all the time. */
static void disturb(struct mnw_pool *pool, struct mnw_cache *cache, uint64_t random) {
    uint64_t unit = test.page_bytes, pages = test.image_bytes / unit;
    struct mnw_event event;
    for (;;) {
        uint64_t first = next(&random) % pages, count = 1 + next(&random) % 16;
        if (count > pages - first)
            count = pages - first;
        switch (next(&random) % 6) {
        case 0:
            mnw_invalidate(cache, first * unit, count * unit);
            break;
        case 1:
        case 2:
            mnw_prefetch(cache, first * unit, count * unit, 0);
            break;
        case 3:
            if (!mnw_pin(cache, first * unit, unit))
                mnw_unpin(cache, first * unit, unit);
            break;
        case 4:
            mnw_pool_set_budget(pool, test.budget_bytes - (next(&random) % 2) * test.budget_bytes / 4);
            break;
        default:
            while (mnw_pool_next_event(pool, &event) == 1)
                ;
        }
        if (next(&random) % 4 == 0)
            usleep((useconds_t)(next(&random) % 500));
    }
}

static void manage(int ready, uint64_t random) {
    struct mnw_pool *pool;
    struct mnw_store *store;
    struct mnw_cache *cache;
    uint64_t began_us = now_us();
    open_cache(&pool, &store, &cache, true);
    raise_to(&board->open_us_max, now_us() - began_us);
    check_charge(pool);
    for (unsigned i = 0; i < CONSUMERS; i++) {
        struct mnw_view *view;
        struct mnw_attach_options options = {.size = sizeof(options),
                                             .length_bytes = test.image_bytes,
                                             .address = test.consumer[i].address,
                                             .uffd = test.consumer[i].uffd,
                                             .flags = test.consumer[i].writes ? MNW_VIEW_WRITE : 0,
                                             .pid = test.consumer[i].pid};
        adopt_must(mnw_view_attach(&view, cache, &options), "attaching a view");
    }
    raise_to(&board->takeover_us_max, now_us() - began_us);
    atomic_fetch_add(&board->lives, 1);
    char byte = 'r';
    if (write(ready, &byte, 1) != 1)
        _exit(1);
    disturb(pool, cache, random);
}

/* ---- the holder ---- */

struct life {
    pid_t pid;
    int ready;
    bool serves;
};

static struct life begin_life(uint64_t *random) {
    int ends[2];
    struct life life = {.serves = false};
    uint64_t seed = next(random);
    if (pipe2(ends, O_CLOEXEC))
        adopt_fail("a pipe: %s", strerror(errno));
    life.pid = fork();
    if (!life.pid)
        manage(ends[1], seed);
    close(ends[1]);
    life.ready = ends[0];
    return life;
}

static void await(struct life *life) {
    struct pollfd poll_fd = {.fd = life->ready, .events = POLLIN};
    char byte;
    if (life->serves)
        return;
    life->serves = true;
    if (poll(&poll_fd, 1, STALL_MS) != 1 || read(life->ready, &byte, 1) != 1)
        adopt_fail("a manager does not come as far as to serve");
}

static void end_life(struct life *life) {
    int status;
    kill(life->pid, SIGKILL);
    if (waitpid(life->pid, &status, 0) != life->pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        adopt_fail("a manager ended by itself (status %#x)", status);
    close(life->ready);
}

static void end_consumers(void) {
    atomic_store(&board->stopping, true);
    for (unsigned i = 0; i < CONSUMERS; i++) {
        int status;
        uint64_t limit_us = now_us() + STALL_MS * 1000;
        while (waitpid(test.consumer[i].pid, &status, WNOHANG) == 0) {
            if (now_us() > limit_us)
                adopt_fail("consumer %u does not end: a fault is lost", i);
            usleep(1000);
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status))
            adopt_fail("consumer %u ended with status %#x", i, status);
    }
}

static void run(void) {
    uint64_t random = test.seed, reads = 0, wrong = 0, stall_us = 0;
    make_cache();
    start_consumers();
    struct life life = begin_life(&random);
    await(&life);
    for (unsigned i = 0; i < CONSUMERS; i++)
        if (send(test.consumer[i].socket, "g", 1, 0) != 1)
            adopt_fail("a consumer is gone");
    for (unsigned kills = 0; kills < test.kills; kills++) {
        if (next(&random) % 4) { /* else it may not even have taken over */
            await(&life);
            usleep((useconds_t)(next(&random) % 60000));
        } else {
            usleep((useconds_t)(next(&random) % 8000));
        }
        end_life(&life);
        life = begin_life(&random);
    }
    await(&life);
    end_consumers();
    end_life(&life);
    for (unsigned i = 0; i < CONSUMERS; i++) {
        reads += atomic_load(&board->reads[i]);
        wrong += atomic_load(&board->wrong[i]);
        stall_us = board->stall_us[i] > stall_us ? board->stall_us[i] : stall_us;
    }
    printf("%s: %u kills, %llu takeovers whole, %llu looks, %llu words wrong, longest stall %.1f ms, longest takeover "
           "%.1f ms (%.1f to open), at most %llu KiB kept\n",
           adopt_kinds[test.backing], test.kills, (unsigned long long)board->lives, (unsigned long long)reads,
           (unsigned long long)wrong, (double)stall_us / 1e3, (double)board->takeover_us_max / 1e3,
           (double)board->open_us_max / 1e3, (unsigned long long)board->kept_bytes_max >> 10);
    if (wrong || !reads)
        adopt_fail("%llu words are not the store's", (unsigned long long)wrong);
}

/* ---- main ---- */

static void parse(int argc, char **argv) {
    static const struct option options[] = {{"backing", required_argument, NULL, 'b'},
                                            {"kills", required_argument, NULL, 'k'},
                                            {"seed", required_argument, NULL, 's'},
                                            {0}};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'k')
            test.kills = (unsigned)strtoul(optarg, NULL, 10);
        else if (option == 's')
            test.seed = strtoull(optarg, NULL, 10);
        else
            while (test.backing < MNW_BACKING_HUGETLB_1G &&
                   (option != 'b' || strcmp(optarg, adopt_kinds[test.backing])))
                test.backing++;
    }
}

static void size_up(void) {
    uint64_t unit = test.backing == MNW_BACKING_HUGETLB_1G ? 1024 * MIB : 2 * MIB;
    test.image_bytes = test.backing == MNW_BACKING_HUGETLB_1G ? 2 * unit : 16 * unit;
    test.budget_bytes = test.backing == MNW_BACKING_HUGETLB_1G ? unit : 10 * unit;
}

int main(int argc, char **argv) {
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    parse(argc, argv);
    size_up();
    if (test.backing == MNW_BACKING_GRADED)
        machine_set(SHMEM_ENABLED, "advise");
    if (!adopt_can(test.backing, test.budget_bytes))
        return 77;
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED)
        adopt_fail("no memory");
    setbuf(stdout, NULL);
    alarm((60 + test.kills) * (unsigned)machine_slowness());
    adopt_file(test.path, test.uri, test.image_bytes);
    run();
    unlink(test.path);
    return 0;
}
