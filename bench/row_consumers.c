/* SPDX-License-Identifier: MIT */
/*
 * Many consumer processes at once: what they get in all, beside two alone, and what the least of them gets.
 *
 * Each touches pages that are resident, in an order that nobody foresees, over and over in a mapping of its own; all
 * are served by one fault thread. Two alone and all together are measured in turn.
 */
#include "measure.h"
#include "registry.h"
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONSUMERS 64
#define FEW       2
#define LENGTH    (4 * MIB)
#define PAGE      4096u
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif

struct consumer {
    pid_t pid;
    int socket;
    struct mnw_view *view;
};

/* Shared with the consumers. */
struct board {
    _Atomic uint64_t faults[CONSUMERS]; /* of the last run */
    _Atomic uint64_t begin_ns, end_ns;  /* of the run that was asked for */
};

/* ---- a descriptor over a socket ---- */

static bool send_fd(int socket, uint64_t word, int fd) {
    struct iovec part = {.iov_base = &word, .iov_len = sizeof(word)};
    char control[CMSG_SPACE(sizeof(fd))] = {0};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(fd));
    memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    return sendmsg(socket, &message, MSG_NOSIGNAL) == sizeof(word);
}

static int receive_fd(int socket, uint64_t *word) {
    struct iovec part = {.iov_base = word, .iov_len = sizeof(*word)};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    int fd = -1;
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != sizeof(*word))
        return -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    return fd;
}

/* ---- a consumer ---- */

static int make_uffd(void) {
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MISSING_SHMEM |
                                         UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_POISON};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && !ioctl(fd, UFFDIO_API, &api))
        return fd;
    api.features &= ~(uint64_t)UFFD_FEATURE_POISON; /* a kernel without it */
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    return fd >= 0 && !ioctl(fd, UFFDIO_API, &api) ? fd : -1;
}

static void touch_until(volatile const unsigned char *data, struct board *board, unsigned index, uint64_t *random) {
    uint64_t faults = 0, pages = LENGTH / PAGE, end_ns = atomic_load(&board->end_ns);
    while (clock_ns() < atomic_load(&board->begin_ns))
        usleep(200);
    while (clock_ns() < end_ns) {
        uint64_t at = next_random(random) % pages, step = 2 * (next_random(random) % pages) + 1;
        uint64_t i = 0;
        for (; i < pages && clock_ns() < end_ns; i++)
            (void)data[(at + i * step) % pages * PAGE];
        faults += i;
        madvise((void *)(uintptr_t)data, LENGTH, MADV_DONTNEED);
    }
    atomic_store(&board->faults[index], faults);
}

static void consume(int socket, struct board *board, unsigned index) {
    uint64_t word, random = 0x9e3779b97f4a7c15ull * (index + 1);
    int fd = receive_fd(socket, &word);
    void *data = mmap(NULL, LENGTH, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
    int uffd = make_uffd();
    if (data == MAP_FAILED || uffd < 0 || !send_fd(socket, (uint64_t)(uintptr_t)data, uffd))
        _exit(1);
    while (read(socket, &word, sizeof(word)) == sizeof(word)) {
        touch_until(data, board, index, &random);
        if (write(socket, &word, sizeof(word)) != sizeof(word))
            break;
    }
    _exit(0);
}

static bool start(struct consumer *consumer, struct board *board, unsigned index) {
    int sockets[2];
    pid_t parent = getpid();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets))
        return false;
    consumer->pid = fork();
    if (!consumer->pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        int socket = dup2(sockets[1], 3);
        close_range(4, ~0u, 0);
        consume(socket, board, index);
    }
    close(sockets[1]);
    consumer->socket = sockets[0];
    return consumer->pid > 0;
}

static void stop(struct consumer *consumer) {
    if (consumer->pid <= 0)
        return;
    if (consumer->view)
        mnw_view_close(consumer->view);
    close(consumer->socket);
    kill(consumer->pid, SIGKILL);
    while (waitpid(consumer->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static bool attach(struct consumer *consumer, const struct rig *rig) {
    struct mnw_attach_options options = {.size = sizeof(options), .length_bytes = LENGTH, .pid = consumer->pid};
    if (!send_fd(consumer->socket, 0, mnw_cache_fd(rig->cache)))
        return false;
    options.uffd = receive_fd(consumer->socket, &options.address);
    if (options.uffd < 0)
        return false;
    int error = mnw_view_attach(&consumer->view, rig->cache, &options);
    close(options.uffd);
    return !error;
}

/* ---- measuring ---- */

struct run {
    double per_second, least; /* of the fair share */
};

static bool run_some(struct consumer *consumers, unsigned count, struct board *board, uint64_t duration_ns,
                     struct run *run) {
    uint64_t word = 1, total = 0, least = UINT64_MAX;
    atomic_store(&board->begin_ns, clock_ns() + 20000000);
    atomic_store(&board->end_ns, atomic_load(&board->begin_ns) + duration_ns);
    for (unsigned i = 0; i < count; i++)
        if (write(consumers[i].socket, &word, sizeof(word)) != sizeof(word))
            return false;
    for (unsigned i = 0; i < count; i++)
        if (read(consumers[i].socket, &word, sizeof(word)) != sizeof(word))
            return false;
    for (unsigned i = 0; i < count; i++) {
        uint64_t faults = atomic_load(&board->faults[i]);
        total += faults;
        least = faults < least ? faults : least;
    }
    run->per_second = (double)total / ((double)duration_ns / 1e9);
    run->least = total ? (double)least * count / (double)total : 0;
    return true;
}

static void report(struct bench *bench, const double *ratios, const double *leasts, const double *few,
                   const double *many) {
    bench_report(bench, &(struct bench_result){
                            .name = "64-processes",
                            .unit = "faults/s",
                            .samples = many,
                            .count = bench->repeat,
                            .against = {{.name = "2 processes",
                                         .baseline = summarize(few, bench->repeat).median,
                                         .ratios = ratios,
                                         .target = BENCH_AT_LEAST,
                                         .limit = 0.8}},
                            .sane_low = 0.05,
                            .sane_high = 20,
                        });
    bench_report(bench, &(struct bench_result){
                            .name = "least-of-64",
                            .unit = "share",
                            .samples = leasts,
                            .count = bench->repeat,
                            .target = BENCH_AT_LEAST,
                            .limit = 1.0 / 3,
                            .sane_low = 0,
                            .sane_high = 1,
                        });
}

static bool measure(struct bench *bench, struct consumer *consumers, struct board *board) {
    static double ratios[BENCH_REPEAT_MAX], leasts[BENCH_REPEAT_MAX], few[BENCH_REPEAT_MAX], many[BENCH_REPEAT_MAX];
    uint64_t duration_ns = bench->smoke ? 100000000 : 2000000000;
    for (unsigned i = 0; i < bench->repeat; i++) {
        struct run two, all;
        if (!run_some(consumers, FEW, board, duration_ns, &two) ||
            !run_some(consumers, CONSUMERS, board, duration_ns, &all))
            return false;
        few[i] = two.per_second;
        many[i] = all.per_second;
        ratios[i] = two.per_second > 0 ? all.per_second / two.per_second : 0;
        leasts[i] = all.least;
    }
    report(bench, ratios, leasts, few, many);
    return true;
}

static bool serve_and_measure(struct bench *bench, struct consumer *consumers, struct board *board,
                              const struct scratch *scratch) {
    struct rig rig;
    if (rig_open(&rig, scratch, MNW_BACKING_SHMEM, 2 * LENGTH))
        return false;
    for (size_t at = 0; at < LENGTH; at += rig.page_bytes)
        (void)rig.data[at];
    bool good = true;
    for (unsigned i = 0; i < CONSUMERS && good; i++)
        good = attach(&consumers[i], &rig);
    good = good && measure(bench, consumers, board);
    for (unsigned i = 0; i < CONSUMERS; i++)
        stop(&consumers[i]);
    rig_close(&rig);
    return good;
}

/* The consumers are there before the library's threads are. */
void row_consumers(struct bench *bench) {
    struct consumer consumers[CONSUMERS] = {0};
    struct scratch scratch;
    struct board *board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED || scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    bool good = true;
    for (unsigned i = 0; i < CONSUMERS && good; i++)
        good = start(&consumers[i], board, i);
    if (good)
        good = serve_and_measure(bench, consumers, board, &scratch);
    else
        for (unsigned i = 0; i < CONSUMERS; i++)
            stop(&consumers[i]);
    if (!good)
        bench_break(bench, NULL, "a consumer could not be started, attached or run: %s", mnw_error());
    scratch_close(&scratch);
    munmap(board, sizeof(*board));
}
