/* SPDX-License-Identifier: MIT */
#include "confined.h"

#include "measure.h"

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

#define PAGE          4096
#define THREADS       2
#define TURN_NS       700000000
#define WARM          6  /* times a turn */
#define CHUNK         64 /* reads, at first */
#define SMALL_NS      50000000
#define LATENCIES_MAX (64 << 10) /* in one turn there are no more reads then */

struct answer {
    double value;
    unsigned latencies;
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

static volatile const unsigned char *open_way(struct confined *confined, struct rig *rig) {
    if (confined->way == CONFINED_MINNOW) {
        struct scratch direct = confined->scratch;
        snprintf(direct.uri, sizeof(direct.uri), "file:///proc/self/fd/%d?direct=1", direct.fd);
        return rig_open(rig, &direct, MNW_BACKING_SHMEM, budget_within(confined->limit_bytes)) ? NULL : rig->data;
    }
    void *at = mmap(NULL, confined->scratch.size_bytes, PROT_READ, MAP_SHARED, confined->scratch.fd, 0);
    if (at == MAP_FAILED)
        return NULL;
    if (confined->way == CONFINED_MMAP_RANDOM)
        madvise(at, confined->scratch.size_bytes, MADV_RANDOM);
    return at;
}

/* In chunks, which grow until starting threads is no part of them. */
static struct answer read_for(const struct confined *confined, struct reads *reads, uint64_t duration_ns) {
    static struct reads before;
    struct samples latencies = {0};
    struct answer answer = {0};
    uint64_t begin_ns = clock_ns(), done = 0, most = confined->latencies ? LATENCIES_MAX : UINT64_MAX;
    double busy_ns = 0;
    while (clock_ns() - begin_ns < duration_ns && done + reads->count <= most) {
        struct bench_turn turn = {.latencies = &latencies};
        before = *reads;
        double ns = reads_turn(reads, &turn) * reads->count;
        answer.wrong |= turn.sum != expected_sum(&before);
        done += reads->count;
        busy_ns += ns;
        if (ns < SMALL_NS && reads->count < most / 8)
            reads->count *= 2;
    }
    answer.value = confined->latencies ? busy_ns / (double)done : (double)done / (busy_ns / 1e9);
    answer.latencies = (unsigned)latencies.count;
    if (latencies.count)
        memcpy(confined->ns, latencies.values, latencies.count * sizeof(*latencies.values));
    samples_free(&latencies);
    return answer;
}

/* Reads as often as it is asked to. Never returns. */
static void serve(struct confined *confined, struct bench *bench) {
    static struct reads reads;
    struct rig rig = {0};
    unsigned round;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!memcg_enter(&confined->memcg))
        _exit(1);
    volatile const unsigned char *data = open_way(confined, &rig);
    if (!data)
        _exit(1);
    reads = (struct reads){.data = data,
                           .length = confined->scratch.size_bytes,
                           .page_bytes = PAGE,
                           .kind = confined->kind,
                           .threads = THREADS,
                           .whole = true,
                           .latencies = confined->latencies,
                           .per_read = true,
                           .count = bench->smoke ? CHUNK / 4 : CHUNK};
    reads_begin(&reads, bench->seed);
    while (read(confined->socket, &round, sizeof(round)) == sizeof(round)) {
        uint64_t duration_ns = (round ? 1 : WARM) * (uint64_t)TURN_NS / (bench->smoke ? 20 : 1);
        struct answer answer = read_for(confined, &reads, duration_ns);
        if (write(confined->socket, &answer, sizeof(answer)) != sizeof(answer))
            break;
    }
    _exit(0);
}

/* ---- outside ---- */

double confined_turn(void *context, struct bench_turn *turn) {
    struct confined *confined = context;
    struct answer answer;
    if (write(confined->socket, &turn->round, sizeof(turn->round)) != sizeof(turn->round) ||
        read(confined->socket, &answer, sizeof(answer)) != sizeof(answer)) {
        snprintf(turn->why, sizeof(turn->why), "its process has ended");
        return NAN;
    }
    if (answer.wrong) {
        snprintf(turn->why, sizeof(turn->why), "read other bytes than the file has");
        return NAN;
    }
    samples_append(turn->latencies, confined->ns, answer.latencies);
    return answer.value;
}

static bool start_process(struct confined *confined, struct bench *bench) {
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets))
        return false;
    confined->pid = fork();
    if (!confined->pid) {
        close(sockets[0]);
        confined->socket = sockets[1];
        serve(confined, bench);
    }
    close(sockets[1]);
    confined->socket = sockets[0];
    return confined->pid > 0;
}

static void stop_one(struct confined *confined) {
    if (confined->pid > 0) {
        close(confined->socket);
        kill(confined->pid, SIGKILL);
        while (waitpid(confined->pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    if (confined->memcg.path[0])
        memcg_remove(&confined->memcg);
    if (confined->ns)
        munmap(confined->ns, LATENCIES_MAX * sizeof(double));
    scratch_close(&confined->scratch);
}

void confined_stop(struct confined *confined) {
    for (unsigned i = 0; i < CONFINED_WAYS; i++)
        stop_one(&confined[i]);
    free(page_sums);
    page_sums = NULL;
}

json_t *confined_detail(void *context, struct bench *bench) {
    const struct confined *confined = context;
    (void)bench;
    return json_pack("{s:f, s:f, s:f}", "limit_mib", (double)confined->limit_bytes / (double)MIB, "budget_mib",
                     (double)budget_within(confined->limit_bytes) / (double)MIB, "file_mib",
                     (double)confined->scratch.size_bytes / (double)MIB);
}

/* In this process, so that its pages are not the cgroup's. */
static double *share_latencies(void) {
    void *at = mmap(NULL, LATENCIES_MAX * sizeof(double), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* NULL, or why not; `*skip` when it is the machine. */
static const char *prepare(struct bench *bench, struct confined *confined, uint64_t size_bytes, bool *skip) {
    static const char *const names[CONFINED_WAYS] = {"mmap", "minnow", "random"};
    for (unsigned i = 0; i < CONFINED_WAYS; i++) {
        struct confined *one = &confined[i];
        one->limit_bytes = size_bytes / 4;
        if (scratch_warm(&one->scratch, bench->directory, size_bytes))
            return "no scratch file";
        if (!i && !sum_pages(&one->scratch))
            return "the scratch file could not be read";
        if (scratch_forget(&one->scratch))
            return "the scratch file could not be forgotten";
        if (!(one->ns = share_latencies()))
            return "no shared memory";
        int error = memcg_make(&one->memcg, names[i], one->limit_bytes);
        if (error) {
            one->memcg.path[0] = 0;
            *skip = true;
            return strerror(-error);
        }
    }
    for (unsigned i = 0; i < CONFINED_WAYS; i++)
        if (!start_process(&confined[i], bench))
            return "a process could not be started";
    return NULL;
}

bool confined_start(struct bench *bench, const char *name, struct confined *confined, uint64_t size_bytes,
                    enum reads_kind kind, bool latencies) {
    bool skip = false;
    for (unsigned i = 0; i < CONFINED_WAYS; i++)
        confined[i] = (struct confined){
            .way = (enum confined_way)i, .kind = kind, .latencies = latencies, .scratch = {.fd = -1}, .socket = -1};
    const char *wrong = prepare(bench, confined, size_bytes, &skip);
    if (wrong && skip)
        bench_skip(bench, name, "no memory cgroup: %s", wrong);
    else if (wrong)
        bench_break(bench, name, "%s", wrong);
    return !wrong;
}
