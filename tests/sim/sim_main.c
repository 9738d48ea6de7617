/* SPDX-License-Identifier: MIT */
/*
 * minnow-sim: runs seeds. Each in a process of its own, so that a seed depends on nothing but itself, and a crash
 * is a failure like any other.
 */
#include "fiber.h"
#include "workload.h"

#include <execinfo.h>
#include <inttypes.h>
#include <popt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SECONDS_PER_SEED = 60 };

static long long first_seed = 1, seed_count = 1;
static int every_label, trace, keep_going, in_process, digests, forking, copying;

static void on_crash(int number, siginfo_t *info, void *context) {
    (void)context;
    void *frames[48];
    const char *why = number == SIGALRM   ? "stuck: something loops without a switch"
                      : number == SIGABRT ? "aborted"
                                          : "crashed: touched a view (law 4), a hole (law 5), or nothing at all";
    fprintf(stderr, "seed %" PRIu64 " FAILED in %s: %s (%s at %p)\n", sim_seed(), fiber_name(fiber_self()), why,
            strsignal(number), number == SIGSEGV || number == SIGBUS ? info->si_addr : NULL);
    fflush(stdout);
    backtrace_symbols_fd(frames, backtrace(frames, 48), STDERR_FILENO);
    _exit(1);
}

static void catch_crashes(void) {
    static char stack[64 << 10];
    static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGALRM, SIGFPE, SIGILL};
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof(stack)}, NULL);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &(struct sigaction){.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK}, NULL);
}

static void run_seed(uint64_t seed) {
    alarm(SECONDS_PER_SEED);
    workload_run(seed, trace);
    alarm(0);
    if (digests)
        printf("seed %" PRIu64 " digest %016" PRIx64 " switches %" PRIu64 "\n", seed, fiber_digest(), fiber_switches());
    if (trace || in_process)
        printf("seed %" PRIu64 " ok: %" PRIu64 " bytes read, %" PRIu64 " writes, %" PRIu64 " SIGBUS, %" PRIu64
               " SIGSEGV, %" PRIu64 " switches, %" PRIu64 " deaths\n",
               seed, world.bytes_read, world.writes, world.sigbus, world.sigsegv, fiber_switches(), world.deaths);
}

/* True: the seed passed. */
static bool run_apart(uint64_t seed) {
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        perror("fork");
        exit(2);
    }
    if (!child) {
        run_seed(seed);
        if (world.deaths) { /* the memory of the dead is gone with them, but not for a leak checker */
            fflush(NULL);
            _exit(0);
        }
        exit(0); /* not _exit: a leak checker looks now */
    }
    int status;
    if (waitpid(child, &status, 0) != child)
        return false;
    if (WIFSIGNALED(status))
        fprintf(stderr, "seed %" PRIu64 " FAILED: killed by %s\n", seed, strsignal(WTERMSIG(status)));
    return WIFEXITED(status) && !WEXITSTATUS(status);
}

static const struct poptOption options[] = {
    {"seed", 0, POPT_ARG_LONGLONG, &first_seed, 0, "the first seed", "N"},
    {"count", 0, POPT_ARG_LONGLONG, &seed_count, 0, "how many seeds", "M"},
    {"trace", 0, POPT_ARG_NONE, &trace, 0, "say every switch and system call", NULL},
    {"keep-going", 0, POPT_ARG_NONE, &keep_going, 0, "do not stop at the first seed that fails", NULL},
    {"digest", 0, POPT_ARG_NONE, &digests, 0, "say a number made of every switch of each seed", NULL},
    {"forking", 0, POPT_ARG_NONE, &forking, 0, "worlds of consumers that fork only", NULL},
    {"replicas", 0, POPT_ARG_NONE, &copying, 0, "worlds of caches with a copy on each of several nodes only", NULL},
    {"every-label", 0, POPT_ARG_NONE, &every_label, 0, "fail unless the manager has died at every label", NULL},
    {"in-process", 0, POPT_ARG_NONE, &in_process, 0, "no process for each seed (for debuggers)", NULL},
    POPT_AUTOHELP POPT_TABLEEND};

static bool parse(int argc, char **argv) {
    const char **arguments = (void *)argv; /* popt is unchanged by reading them */
    poptContext context = poptGetContext("minnow-sim", argc, arguments, options, 0);
    int result = poptGetNextOpt(context);
    bool ok = result == -1 && !poptPeekArg(context) && first_seed >= 0 && seed_count >= 1;
    if (result < -1)
        fprintf(stderr, "minnow-sim: %s: %s\n", poptBadOption(context, 0), poptStrerror(result));
    else if (!ok)
        poptPrintUsage(context, stderr, 0);
    poptFreeContext(context);
    return ok;
}

static void *share(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return memory;
}

/* How many labels there are at which nobody has died. */
static unsigned report_labels(void) {
    unsigned missed = 0;
    for (unsigned i = 0; workload_label(i); i++) {
        printf("%s%s %" PRIu64, i ? ", " : "deaths: ", workload_label(i), workload_deaths_at[i]);
        missed += !workload_deaths_at[i];
    }
    printf("; %u labels missed\n", missed);
    return missed;
}

int main(int argc, char **argv) {
    struct timespec start, end;
    uint64_t failed = 0, ran = 0;
    if (!parse(argc, argv))
        return 2;
    catch_crashes();
    workload_deaths_at = share(LABELS_MAX * sizeof(*workload_deaths_at));
    workload_always_forks = forking;
    workload_always_copies = copying;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (uint64_t seed = (uint64_t)first_seed; ran < (uint64_t)seed_count && (!failed || keep_going); seed++, ran++) {
        if (in_process)
            run_seed(seed);
        else
            failed += !run_apart(seed);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    printf("%" PRIu64 " seeds from %lld, %" PRIu64 " failed, %.1f s\n", ran, first_seed, failed, seconds);
    if (every_label && report_labels())
        return 1;
    return failed ? 1 : 0;
}
