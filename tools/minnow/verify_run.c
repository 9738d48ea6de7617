/* SPDX-License-Identifier: MIT */
/*
 * verify: the run. Readers take pages out of a view by pointer, and the same bytes out of the file with
 * pread(2), and compare every one.
 *
 * A reader owns its struct reader; the main thread reads `checked` of all of them for the progress bar. The
 * examples are shared, under their mutex. Readers block SIGINT and SIGTERM, which the main thread takes. A
 * SIGBUS inside the view ends the one comparison it hit; any other SIGBUS ends the program as ever.
 */
#include "verify.h"

#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <numa.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Above this a page is compared in pieces of PIECE_BYTES, each one operation. */
#define WHOLE_PAGE_MAX (64u << 10)
#define PIECE_BYTES    4096u
/* How long readers have to end after a signal: a page that comes at all is there by then. */
#define GRACE_SECONDS 2.0

struct run {
    const struct verify_options *options;
    struct verify_result *result;
    int fd; /* of the file, for the ordinary reads */
    struct stat before;
    size_t length; /* of each view */
    uint64_t operations;
    pthread_mutex_t examples_lock;
    bool examples_closed; /* the result is being printed */
    sem_t ended;          /* posted once by each reader */
    struct mnw_store *store;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    /* One; with replicas one for each node, and which. */
    struct mnw_view *views[MNW_NODES_MAX];
    unsigned nodes[MNW_NODES_MAX], view_count;
};

struct reader {
    struct run *run;
    pthread_t thread;
    const unsigned char *data; /* of its view */
    unsigned view;
    struct pattern pattern;
    uint64_t operations;
    _Atomic uint64_t checked;
    _Atomic uint64_t mismatches, io_errors;
    unsigned char *expected, *found; /* a piece each */
};

/* Written by the signal handler, read by every reader. */
static _Atomic int stop_signal;

/* What the SIGBUS handler needs of the thread it runs in. */
static _Thread_local struct {
    const unsigned char *data;
    size_t length;
    volatile sig_atomic_t armed;
    volatile uint64_t offset;
    sigjmp_buf jump;
} guard;

/* The second time it is meant. */
static void on_stop(int number) {
    if (stop_signal)
        _exit(128 + number);
    stop_signal = number;
}

/* What was ignored when we were started, as by nohup(1), is not ours to take. */
static int handle_stop(int number, const struct sigaction *action) {
    struct sigaction before;
    return sigaction(number, NULL, &before) || (before.sa_handler != SIG_IGN && sigaction(number, action, NULL));
}

static void on_bus(int number, siginfo_t *info, void *context) {
    (void)context;
    uintptr_t address = (uintptr_t)info->si_addr, start = (uintptr_t)guard.data;
    if (guard.armed && address >= start && address - start < guard.length) {
        guard.armed = 0;
        guard.offset = address - start;
        siglongjmp(guard.jump, 1);
    }
    signal(number, SIG_DFL);
}

static int handle_signals(void) {
    struct sigaction stop = {.sa_handler = on_stop};
    struct sigaction bus = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&stop.sa_mask);
    sigemptyset(&bus.sa_mask);
    stop_signal = 0;
    return handle_stop(SIGINT, &stop) || handle_stop(SIGTERM, &stop) || sigaction(SIGBUS, &bus, NULL);
}

static void stop_signals(int how) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(how, &set, NULL);
}

/* Takes a piece out of the view. -1 when that was SIGBUS; `*offset` then says where. */
static int read_by_pointer(const struct reader *reader, uint64_t offset, unsigned char *bytes, size_t length,
                           uint64_t *failed) {
    guard.data = reader->data;
    guard.length = reader->run->length;
    if (sigsetjmp(guard.jump, 0)) {
        *failed = guard.offset;
        return -1;
    }
    guard.armed = 1;
    atomic_signal_fence(memory_order_seq_cst);
    memcpy(bytes, reader->data + offset, length);
    atomic_signal_fence(memory_order_seq_cst);
    guard.armed = 0;
    return 0;
}

static int read_by_pread(const struct run *run, uint64_t offset, unsigned char *bytes, size_t length) {
    size_t have = 0;
    while (have < length) {
        ssize_t got = pread(run->fd, bytes + have, length - have, (off_t)(offset + have));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        have += (size_t)got;
    }
    return 0;
}

static void note_example(struct run *run, const struct verify_example *example) {
    pthread_mutex_lock(&run->examples_lock);
    if (!run->examples_closed && run->result->example_count < EXAMPLES_MAX)
        run->result->examples[run->result->example_count++] = *example;
    pthread_mutex_unlock(&run->examples_lock);
}

static void check_piece(struct reader *reader, uint64_t piece) {
    struct run *run = reader->run;
    size_t length = run->result->piece_bytes, in_file = length;
    uint64_t offset = piece * length, failed = offset;
    if (run->result->file_bytes - offset < length)
        in_file = run->result->file_bytes - offset;
    /* Past the end of the file the last page holds zeros. */
    memset(reader->expected + in_file, 0, length - in_file);

    if (read_by_pread(run, offset, reader->expected, in_file) ||
        read_by_pointer(reader, offset, reader->found, length, &failed)) {
        reader->io_errors++;
        note_example(run, &(struct verify_example){.offset = failed, .unreadable = true});
        return;
    }
    if (!memcmp(reader->expected, reader->found, length))
        return;
    size_t at = 0;
    while (reader->expected[at] == reader->found[at])
        at++;
    reader->mismatches++;
    note_example(run, &(struct verify_example){
                          .offset = offset + at, .expected = reader->expected[at], .found = reader->found[at]});
}

static void *read_all(void *argument) {
    struct reader *reader = argument;
    if (reader->run->view_count > 1)
        numa_run_on_node((int)reader->run->nodes[reader->view]);
    for (uint64_t done = 0; done < reader->operations && !stop_signal;) {
        check_piece(reader, pattern_next(&reader->pattern));
        atomic_store_explicit(&reader->checked, ++done, memory_order_relaxed);
    }
    sem_post(&reader->run->ended);
    return NULL;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t checked_by_all(const struct reader *readers, uint64_t count) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += atomic_load_explicit(&readers[i].checked, memory_order_relaxed);
    return sum;
}

static void draw_progress(uint64_t done, uint64_t all, double seconds) {
    static const char full[] = "########################################";
    unsigned width = (unsigned)(sizeof(full) - 1), part = (unsigned)((double)done / (double)all * width);
    fprintf(stderr, "\r[%-*.*s] %3u%%  %.0f pages/s ", (int)width, (int)part, full,
            (unsigned)((double)done / (double)all * 100), seconds > 0 ? (double)done / seconds : 0.0);
    fflush(stderr);
}

/*
 * Waits for `count` readers, drawing on a terminal meanwhile. A reader whose page does not come cannot be called back:
 * the number of those that a signal left waiting.
 */
static uint64_t await_readers(struct run *run, const struct reader *readers, uint64_t count, double started) {
    bool terminal = isatty(STDERR_FILENO), told = false;
    uint64_t ended = 0;
    double stopped = 0;
    while (ended < count) {
        double now = seconds_now();
        if (stop_signal && stopped == 0)
            stopped = now;
        if (stopped > 0 && now - stopped > GRACE_SECONDS)
            break;
        if (stopped > 0 && !told && now - stopped > GRACE_SECONDS / 4) {
            fprintf(stderr,
                    "minnow: verify: stopping: %" PRIu64 " of %" PRIu64 " readers wait for a page; it ends in %d s, "
                    "or with the next signal\n",
                    count - ended, count, (int)GRACE_SECONDS);
            told = true;
        }
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 100000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (!sem_timedwait(&run->ended, &until))
            ended++;
        else if (terminal)
            draw_progress(checked_by_all(readers, count), run->operations, seconds_now() - started);
    }
    if (terminal)
        fprintf(stderr, "\r%*s\r", 72, "");
    return count - ended;
}

static int prepare_reader(struct run *run, struct reader *reader, uint64_t index) {
    const struct verify_options *options = run->options;
    const struct verify_result *result = run->result;
    uint64_t pieces = (result->file_bytes + result->piece_bytes - 1) / result->piece_bytes;
    reader->run = run;
    reader->view = (unsigned)(index % run->view_count);
    reader->data = mnw_view_data(run->views[reader->view]);
    reader->operations = run->operations / options->readers + (index < run->operations % options->readers);
    reader->expected = malloc(2 * result->piece_bytes);
    if (!reader->expected)
        return -1;
    reader->found = reader->expected + result->piece_bytes;
    pattern_init(&reader->pattern, options->pattern, pieces, result->page_bytes / result->piece_bytes, (unsigned)index,
                 (unsigned)options->readers, options->seed);
    return 0;
}

static int read_and_compare(struct run *run) {
    uint64_t count = run->options->readers, started_count = 0;
    struct verify_result *result = run->result;
    struct reader *readers = calloc(count, sizeof(*readers));
    if (!readers)
        return usage_error("verify: out of memory for %" PRIu64 " readers", count);

    stop_signals(SIG_BLOCK);
    double started = seconds_now();
    for (; started_count < count; started_count++) {
        struct reader *reader = &readers[started_count];
        if (prepare_reader(run, reader, started_count) || pthread_create(&reader->thread, NULL, read_all, reader))
            break;
    }
    stop_signals(SIG_UNBLOCK);
    if (started_count < count)
        stop_signal = SIGTERM; /* not enough threads: call back those that run */
    result->waiting = await_readers(run, readers, started_count, started);
    result->seconds = seconds_now() - started;

    for (uint64_t i = 0; i < started_count && !result->waiting; i++)
        pthread_join(readers[i].thread, NULL);
    for (uint64_t i = 0; i < count; i++) {
        result->pages_checked += atomic_load(&readers[i].checked);
        result->mismatches += atomic_load(&readers[i].mismatches);
        result->io_errors += atomic_load(&readers[i].io_errors);
        if (!result->waiting)
            free(readers[i].expected);
    }
    if (!result->waiting)
        free(readers);
    pthread_mutex_lock(&run->examples_lock);
    run->examples_closed = true;
    pthread_mutex_unlock(&run->examples_lock);
    if (started_count < count)
        return usage_error("verify: cannot start %" PRIu64 " readers; lower --readers", count);
    result->signal = stop_signal;
    return result->mismatches || result->io_errors ? EXIT_WRONG : EXIT_FINE;
}

/* "file://" and the absolute path, escaped. NULL with errno. */
static char *uri_of(const char *file) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-~";
    char *path = realpath(file, NULL);
    char *uri = path ? malloc(sizeof("file://") + 3 * strlen(path)) : NULL;
    if (uri) {
        char *to = uri + sprintf(uri, "file://");
        for (const char *from = path; *from; from++)
            if (strchr(plain, *from))
                *to++ = *from;
            else
                to += sprintf(to, "%%%02X", (unsigned char)*from);
        *to = 0;
    }
    free(path);
    return uri;
}

static int refused(const char *what) {
    return usage_error("verify: %s: %s", what, mnw_error());
}

static int open_view(struct run *run, unsigned node) {
    const struct verify_options *options = run->options;
    struct mnw_view_options view_options = {.size = sizeof(view_options), .node = node};
    view_options.flags = (options->is_inline ? MNW_VIEW_INLINE : 0u) | (options->has_replicas ? MNW_VIEW_ON_NODE : 0u);
    if (mnw_view_open(&run->views[run->view_count], run->cache, &view_options))
        return refused("opening a view");
    run->nodes[run->view_count++] = node;
    return EXIT_FINE;
}

/* The pool has fault threads on each of its nodes, and latencies of them. */
static int open_views(struct run *run) {
    struct mnw_node_latency latency;
    int code = run->options->has_replicas ? EXIT_FINE : open_view(run, 0);
    for (unsigned node = 0; !code && run->options->has_replicas && node < MNW_NODES_MAX; node++)
        if (!mnw_pool_latency(run->pool, node, &latency, sizeof(latency)))
            code = open_view(run, node);
    return code;
}

static int open_all(struct run *run) {
    const struct verify_options *options = run->options;
    struct mnw_store_options store_options = {.size = sizeof(store_options), .direct = options->direct};
    char *uri = uri_of(options->file);
    if (!uri)
        return usage_error("verify: opening '%s': %s", options->file, strerror(errno));
    int error = mnw_store_open(&run->store, uri, &store_options);
    free(uri);
    if (error)
        return refused("opening the file");
    run->fd = open(options->file, O_RDONLY | O_CLOEXEC);
    if (run->fd < 0 || fstat(run->fd, &run->before))
        return usage_error("verify: opening '%s': %s", options->file, strerror(errno));
    if (mnw_pool_open(&run->pool, &options->pool))
        return refused("opening the pool");
    struct mnw_cache_options cache_options = {.size = sizeof(cache_options), .replicas = options->has_replicas};
    if (mnw_cache_open(&run->cache, run->pool, run->store, &cache_options))
        return refused("opening the cache");
    return open_views(run);
}

static void measure(struct run *run) {
    struct verify_result *result = run->result;
    result->file_bytes = mnw_store_size(run->store);
    result->page_bytes = mnw_cache_page_size(run->cache);
    result->piece_bytes = result->page_bytes <= WHOLE_PAGE_MAX ? result->page_bytes : PIECE_BYTES;
    run->length = mnw_view_length(run->views[0]);
    run->operations = run->options->operations;
    if (!run->operations)
        run->operations = (result->file_bytes + result->piece_bytes - 1) / result->piece_bytes;
}

static int collect(struct run *run) {
    struct verify_result *result = run->result;
    if (mnw_pool_stats(run->pool, &result->stats, sizeof(result->stats)))
        return refused("reading the statistics");
    if (mnw_cache_placement(run->cache, 0, &result->placement, sizeof(result->placement)))
        return refused("asking where memory lies");
    struct mnw_node_latency *latency = malloc(sizeof(*latency));
    if (!latency)
        return usage_error("verify: out of memory");
    for (unsigned node = 0; node < MNW_NODES_MAX; node++) {
        if (mnw_pool_latency(run->pool, node, latency, sizeof(*latency)))
            continue;
        result->faults.count += latency->total.count;
        result->faults.sum_ns += latency->total.sum_ns;
        if (result->faults.max_ns < latency->total.max_ns)
            result->faults.max_ns = latency->total.max_ns;
        for (unsigned i = 0; i < MNW_HISTOGRAM_BUCKETS; i++)
            result->faults.buckets[i] += latency->total.buckets[i];
    }
    free(latency);
    struct stat after;
    result->file_changed = fstat(run->fd, &after) || after.st_size != run->before.st_size ||
                           after.st_mtim.tv_sec != run->before.st_mtim.tv_sec ||
                           after.st_mtim.tv_nsec != run->before.st_mtim.tv_nsec;
    return run->options->pool.numa == MNW_NUMA_BIND && result->placement.outside_bytes ? EXIT_WRONG : EXIT_FINE;
}

static int close_views(struct run *run) {
    int error = 0;
    while (run->view_count && !error)
        error = mnw_view_close(run->views[--run->view_count]);
    return error;
}

/* Closes what is open. That closing is refused here would be a fault of the library: it counts. */
static int close_all(struct run *run) {
    int code = EXIT_FINE;
    if (close_views(run))
        code = EXIT_WRONG;
    else if (run->cache && mnw_cache_close(run->cache))
        code = EXIT_WRONG;
    else if (run->pool && mnw_pool_close(run->pool))
        code = EXIT_WRONG;
    else if (run->store && mnw_store_close(run->store))
        code = EXIT_WRONG;
    if (code)
        refused("closing");
    if (run->fd >= 0)
        close(run->fd);
    return code;
}

int verify_run(const struct verify_options *options, struct verify_result *result) {
    static struct run run; /* readers that are left waiting look at it to the end */
    run = (struct run){.options = options, .result = result, .fd = -1};
    pthread_mutex_init(&run.examples_lock, NULL);
    sem_init(&run.ended, 0, 0);

    int code = handle_signals() ? usage_error("verify: cannot handle signals: %s", strerror(errno)) : EXIT_FINE;
    if (!code)
        code = open_all(&run);
    if (!code) {
        measure(&run);
        code = read_and_compare(&run);
        int collected = code == EXIT_USAGE ? EXIT_FINE : collect(&run);
        code = code > collected ? code : collected;
    }
    if (result->waiting)
        return code;
    int closed = close_all(&run);
    sem_destroy(&run.ended);
    pthread_mutex_destroy(&run.examples_lock);
    return code > closed ? code : closed;
}
