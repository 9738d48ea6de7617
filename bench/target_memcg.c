/* SPDX-License-Identifier: MIT */
/*
 * zipf-memcg: with the same memory, minnow against plain mmap of the same file.
 *
 * Each way is a process in a memory cgroup of its own, with the same limit: the kernel's page cache of what it maps, or
 * minnow's pages, metadata and threads. Each has a file of its own, with the same bytes, because the page cache belongs
 * to whoever read first. minnow reads past the page cache.
 *
 * Plain mmap reads ahead around each fault, as the machine is set; beyond memory that evicts what is hot. What the
 * kernel can do when it is told better (MADV_RANDOM) is measured beside it.
 */
#include "measure.h"
#include "memcg.h"
#include "reads.h"
#include "registry.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE     4096
#define THREADS  2
#define TURN_NS  700000000
#define WARM     6  /* times a turn */
#define CHUNK    64 /* reads, at first */
#define SMALL_NS 50000000
#define WAYS     3

enum way { BY_MMAP, BY_MINNOW, BY_MMAP_RANDOM };

struct side {
    enum way way;
    struct scratch scratch;
    struct memcg memcg;
    uint64_t limit_bytes;
    pid_t pid;
    int socket;
};

struct answer {
    double rate;
    bool wrong; /* the bytes did not add up to the file's */
};

/* ---- what the bytes must add up to ---- */

/* Of each page of the files, which have the same bytes. Made before the processes, outside their cgroups. */
static uint64_t *page_sums;

static bool sum_pages(const struct scratch *scratch) {
    static uint64_t words[MIB / sizeof(uint64_t)];
    page_sums = calloc(scratch->size_bytes / PAGE, sizeof(*page_sums));
    if (!page_sums)
        return false;
    for (uint64_t at = 0; at < scratch->size_bytes; at += sizeof(words)) {
        if (pread(scratch->fd, words, sizeof(words), (off_t)at) != (ssize_t)sizeof(words))
            return false;
        for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
            page_sums[(at + i * sizeof(words[0])) / PAGE] += words[i];
    }
    return true;
}

/* Of the reads that follow in the streams as they were. */
static uint64_t expected_sum(struct reads *before) {
    uint64_t sum = 0;
    for (unsigned i = 0; i < before->threads; i++)
        for (unsigned drawn = 0; drawn < before->count / before->threads; drawn++)
            sum += page_sums[reads_next(before, &before->streams[i])];
    return sum;
}

/* ---- in the process ---- */

/* What is not pages: metadata, page tables, stacks, rings, the program. */
static uint64_t budget_within(uint64_t limit_bytes) {
    uint64_t other = limit_bytes / 16 + 8 * MIB;
    return (limit_bytes - other) & ~(uint64_t)(MIB - 1);
}

static volatile const unsigned char *open_way(struct side *side, struct rig *rig) {
    if (side->way == BY_MINNOW) {
        struct scratch direct = side->scratch;
        snprintf(direct.uri, sizeof(direct.uri), "file:///proc/self/fd/%d?direct=1", direct.fd);
        return rig_open(rig, &direct, MNW_BACKING_SHMEM, budget_within(side->limit_bytes)) ? NULL : rig->data;
    }
    void *at = mmap(NULL, side->scratch.size_bytes, PROT_READ, MAP_SHARED, side->scratch.fd, 0);
    if (at == MAP_FAILED)
        return NULL;
    if (side->way == BY_MMAP_RANDOM)
        madvise(at, side->scratch.size_bytes, MADV_RANDOM);
    return at;
}

/*
 * By time, not by count: a way may be a hundred times slower than another. In chunks, which grow until starting threads
 * is no part of them.
 */
static struct answer read_for(struct reads *reads, struct bench_turn *turn, uint64_t duration_ns) {
    static struct reads before;
    uint64_t begin_ns = clock_ns(), done = 0, ns = 0;
    double busy = 0;
    bool wrong = false;
    while (ns < duration_ns) {
        before = *reads;
        turn->sum = 0;
        double rate = reads_turn(reads, turn);
        wrong |= turn->sum != expected_sum(&before);
        done += reads->count;
        busy += reads->count / rate;
        if (reads->count / rate < SMALL_NS / 1e9)
            reads->count *= 2;
        ns = clock_ns() - begin_ns;
    }
    return (struct answer){(double)done / busy, wrong};
}

/* Reads as often as it is asked to. Never returns. */
static void serve(struct side *side, struct bench *bench) {
    static struct reads reads;
    struct rig rig = {0};
    unsigned round;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!memcg_enter(&side->memcg))
        _exit(1);
    volatile const unsigned char *data = open_way(side, &rig);
    if (!data)
        _exit(1);
    reads = (struct reads){.data = data,
                           .length = side->scratch.size_bytes,
                           .page_bytes = PAGE,
                           .kind = READS_ZIPF,
                           .threads = THREADS,
                           .whole = true,
                           .count = CHUNK};
    reads_begin(&reads, bench->seed);
    while (read(side->socket, &round, sizeof(round)) == sizeof(round)) {
        struct bench_turn turn = {.bench = bench, .round = round};
        uint64_t duration_ns = (round ? 1 : WARM) * (uint64_t)TURN_NS / (bench->smoke ? 20 : 1);
        struct answer answer = read_for(&reads, &turn, duration_ns);
        if (write(side->socket, &answer, sizeof(answer)) != sizeof(answer))
            break;
    }
    _exit(0);
}

/* ---- outside ---- */

static double side_turn(void *context, struct bench_turn *turn) {
    struct side *side = context;
    struct answer answer;
    if (write(side->socket, &turn->round, sizeof(turn->round)) != sizeof(turn->round) ||
        read(side->socket, &answer, sizeof(answer)) != sizeof(answer)) {
        snprintf(turn->why, sizeof(turn->why), "its process has ended");
        return NAN;
    }
    if (answer.wrong) {
        snprintf(turn->why, sizeof(turn->why), "read other bytes than the file has");
        return NAN;
    }
    return answer.rate;
}

static bool start(struct side *side, struct bench *bench) {
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets))
        return false;
    side->pid = fork();
    if (!side->pid) {
        close(sockets[0]);
        side->socket = sockets[1];
        serve(side, bench);
    }
    close(sockets[1]);
    side->socket = sockets[0];
    return side->pid > 0;
}

static void stop(struct side *side) {
    if (side->pid > 0) {
        close(side->socket);
        kill(side->pid, SIGKILL);
        while (waitpid(side->pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    if (side->memcg.path[0])
        memcg_remove(&side->memcg);
    scratch_close(&side->scratch);
}

static json_t *tell_limit(void *context, struct bench *bench) {
    const struct side *side = context;
    (void)bench;
    return json_pack("{s:f, s:f, s:f}", "limit_mib", (double)side->limit_bytes / (double)MIB, "budget_mib",
                     (double)budget_within(side->limit_bytes) / (double)MIB, "file_mib",
                     (double)side->scratch.size_bytes / (double)MIB);
}

static void measure(struct bench *bench, struct side *sides) {
    struct bench_arm arms[WAYS] = {
        {.name = "plain mmap in a memory cgroup", .hidden = true},
        {.name = bench->benchmark,
         .against = {"plain mmap in a memory cgroup", "mmap with MADV_RANDOM"},
         .target = {BENCH_AT_LEAST, BENCH_INFORMATION}, /* with that advice it is not plain */
         .limit = {1.0},
         .detail = tell_limit},
        {.name = "mmap with MADV_RANDOM", .hidden = true},
    };
    for (unsigned i = 0; i < WAYS; i++) {
        arms[i].unit = "reads/s";
        arms[i].turn = side_turn;
        arms[i].context = &sides[i];
    }
    bench_take_turns(bench, arms, WAYS);
}

/* NULL, or why not; `*skip` when it is the machine. */
static const char *prepare(struct bench *bench, struct side *sides, bool *skip) {
    static const char *const names[WAYS] = {"mmap", "minnow", "random"};
    uint64_t size_bytes = (bench->smoke ? 128 : 512) * MIB;
    *skip = false;
    for (unsigned i = 0; i < WAYS; i++) {
        sides[i].way = (enum way)i;
        sides[i].limit_bytes = size_bytes / 4;
        if (scratch_warm(&sides[i].scratch, bench->directory, size_bytes))
            return "no scratch file";
        if (!i && !sum_pages(&sides[i].scratch))
            return "the scratch file could not be read";
        if (scratch_forget(&sides[i].scratch))
            return "the scratch file could not be forgotten";
        int error = memcg_make(&sides[i].memcg, names[i], sides[i].limit_bytes);
        if (error) {
            sides[i].memcg.path[0] = 0;
            *skip = true;
            return strerror(-error);
        }
    }
    for (unsigned i = 0; i < WAYS; i++)
        if (!start(&sides[i], bench))
            return "a process could not be started";
    return NULL;
}

void target_zipf_memcg(struct bench *bench) {
    static struct side sides[WAYS];
    bool skip;
    memset(sides, 0, sizeof(sides));
    for (unsigned i = 0; i < WAYS; i++)
        sides[i].scratch.fd = -1;
    const char *wrong = prepare(bench, sides, &skip);
    if (wrong && skip)
        bench_skip(bench, NULL, "no memory cgroup: %s", wrong);
    else if (wrong)
        bench_break(bench, NULL, "%s", wrong);
    else
        measure(bench, sides);
    for (unsigned i = 0; i < WAYS; i++)
        stop(&sides[i]);
    free(page_sums);
    page_sums = NULL;
}
