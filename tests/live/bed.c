/* SPDX-License-Identifier: MIT */
#include "bed.h"

#include "engine/pool.h"
#include "engine/view.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORD 8u

/* ---- bytes ---- */

static uint64_t word_at(uint64_t index, uint64_t salt) {
    uint64_t z = (index + salt * 0x51ed27) * 0x9e3779b97f4a7c15ull + salt;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) | 0x0101010101010101ull;
}

void bed_bytes(void *to, uint64_t offset, size_t length, uint64_t salt) {
    char *at = to;
    while (length) {
        uint64_t word = word_at(offset / WORD, salt);
        size_t skip = offset % WORD, some = WORD - skip < length ? WORD - skip : length;
        memcpy(at, (const char *)&word + skip, some);
        at += some;
        offset += some;
        length -= some;
    }
}

void bed_file(struct bed_file *file, uint64_t size_bytes, uint64_t salt) {
    char *buffer = malloc(BED_MIB);
    snprintf(file->path, sizeof(file->path), "/tmp/minnow-live-XXXXXX");
    file->fd = mkostemp(file->path, O_CLOEXEC);
    assert_true(file->fd >= 0 && buffer);
    snprintf(file->uri, sizeof(file->uri), "file://%s", file->path);
    for (uint64_t offset = 0; offset < size_bytes; offset += BED_MIB) {
        size_t some = size_bytes - offset < BED_MIB ? (size_t)(size_bytes - offset) : BED_MIB;
        bed_bytes(buffer, offset, some, salt);
        assert_int_equal(pwrite(file->fd, buffer, some, (off_t)offset), some);
    }
    free(buffer);
}

void bed_file_remove(struct bed_file *file) {
    unlink(file->path);
    close(file->fd);
}

/* ---- reading ---- */

static _Thread_local sigjmp_buf escape;
static _Thread_local volatile uintptr_t escaped_from;
static _Thread_local volatile sig_atomic_t armed;

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    if (!armed) {
        signal(signal_number, SIG_DFL);
        return;
    }
    escaped_from = (uintptr_t)info->si_addr;
    siglongjmp(escape, signal_number);
}

static void catch_faults(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

/* Runs `look` on the memory; its answer, or the signal. */
static int guarded(int (*look)(const char *at, uint64_t offset, size_t length, uint64_t salt), const char *at,
                   uint64_t offset, size_t length, uint64_t salt, uintptr_t *fault) {
    volatile int result = 0;
    catch_faults();
    int signal_number = sigsetjmp(escape, 1);
    if (!signal_number) {
        armed = 1;
        result = look(at, offset, length, salt);
    }
    armed = 0;
    if (signal_number && fault)
        *fault = escaped_from;
    return signal_number ? signal_number : result;
}

static int look_same(const char *at, uint64_t offset, size_t length, uint64_t salt) {
    for (size_t done = 0; done < length;) {
        char expected[WORD];
        size_t some = length - done < WORD ? length - done : WORD;
        bed_bytes(expected, offset + done, some, salt);
        if (memcmp(expected, at + done, some))
            return BED_WRONG;
        done += some;
    }
    return BED_RIGHT;
}

static int look_once(const char *at, uint64_t offset, size_t length, uint64_t salt) {
    (void)offset;
    (void)length;
    (void)salt;
    (void)*(const volatile char *)at;
    return 0;
}

static int look_zeros(const char *at, uint64_t offset, size_t length, uint64_t salt) {
    (void)offset;
    (void)salt;
    for (size_t i = 0; i < length; i++)
        if (at[i])
            return BED_WRONG;
    return BED_RIGHT;
}

int bed_compare(const void *at, uint64_t offset, size_t length, uint64_t salt, uintptr_t *fault) {
    return guarded(look_same, at, offset, length, salt, fault);
}

int bed_touch(const void *at, uintptr_t *fault) {
    return guarded(look_once, at, 0, 1, 0, fault);
}

int bed_zeros(const void *at, size_t length) {
    return guarded(look_zeros, at, 0, length, 0, NULL);
}

static size_t view_page_bytes(const struct mnw_view *view) {
    return mnw_cache_page_size(view->cache);
}

void bed_assert_page(struct mnw_view *view, uint64_t page, uint64_t salt) {
    size_t page_bytes = view_page_bytes(view);
    const char *data = mnw_view_data(view);
    int how = bed_compare(data + page * page_bytes, page * page_bytes, page_bytes, salt, NULL);
    if (how)
        fail_msg("page %llu: %s", (unsigned long long)page, how == BED_WRONG ? "wrong bytes" : strsignal(how));
}

void bed_assert_bus(struct mnw_view *view, uint64_t page) {
    size_t page_bytes = view_page_bytes(view);
    const char *at = (const char *)mnw_view_data(view) + page * page_bytes;
    /* In the middle: the address of the signal has to be the one that was touched. */
    uintptr_t fault = 0;
    int how = bed_touch(at + page_bytes / 2 + 5, &fault);
    if (how != SIGBUS)
        fail_msg("page %llu: no SIGBUS but %d", (unsigned long long)page, how);
    if (fault < (uintptr_t)at || fault >= (uintptr_t)at + page_bytes)
        fail_msg("page %llu at %p: SIGBUS came with the address %#lx", (unsigned long long)page, at, fault);
}

/* ---- a store that fails as told ---- */

bool bed_read_has(const struct bed_source *source, const struct mnw_read *read, uint64_t page) {
    uint64_t first = read->offset / source->page_bytes, last = (read->offset + read->length - 1) / source->page_bytes;
    return page >= first && page <= last;
}

static void ask(void *context, const struct mnw_read *read) {
    struct bed_source *source = context;
    atomic_fetch_add(&source->reads, 1);
    bed_bytes(read->buffer, read->offset, read->length, atomic_load(&source->salt));
    int64_t result = source->answer ? source->answer(source, read) : (int64_t)read->length;
    if (result != BED_HOLD) {
        mnw_read_done(source->store, read->token, result);
        return;
    }
    pthread_mutex_lock(&source->lock);
    if (source->held_count == sizeof(source->held) / sizeof(source->held[0]))
        abort();
    source->held[source->held_count++] = *read;
    pthread_mutex_unlock(&source->lock);
}

static int check(void *context, uint64_t offset, const void *bytes, size_t length) {
    struct bed_source *source = context;
    return source->check ? source->check(source, offset, bytes, length) : 0;
}

void bed_source_open(struct bed_source *source, uint64_t size_bytes) {
    struct mnw_store_callbacks callbacks = {
        .size = sizeof(callbacks), .size_bytes = size_bytes, .read = ask, .check = check};
    memset(source, 0, sizeof(*source));
    source->size_bytes = size_bytes;
    source->page_bytes = BED_PAGE;
    atomic_store(&source->salt, 1);
    atomic_store(&source->bad_page, UINT64_MAX);
    pthread_mutex_init(&source->lock, NULL);
    assert_int_equal(mnw_store_open_callbacks(&source->store, &callbacks, source), 0);
}

void bed_source_close(struct bed_source *source) {
    assert_int_equal(mnw_store_close(source->store), 0);
    pthread_mutex_destroy(&source->lock);
}

unsigned bed_held(struct bed_source *source) {
    pthread_mutex_lock(&source->lock);
    unsigned count = source->held_count;
    pthread_mutex_unlock(&source->lock);
    return count;
}

bool bed_is_held(void *source) {
    return bed_held(source) > 0;
}

int64_t bed_hold_all(struct bed_source *source, const struct mnw_read *read) {
    (void)source;
    (void)read;
    return BED_HOLD;
}

unsigned bed_release(struct bed_source *source) {
    unsigned count = 0;
    for (;; count++) {
        pthread_mutex_lock(&source->lock);
        bool some = source->held_count > 0;
        struct mnw_read read;
        if (some)
            read = source->held[--source->held_count];
        pthread_mutex_unlock(&source->lock);
        if (!some)
            return count;
        bed_bytes(read.buffer, read.offset, read.length, atomic_load(&source->salt));
        mnw_read_done(source->store, read.token, (int64_t)read.length);
    }
}

/* ---- a pool, a cache, a view ---- */

void bed_open(struct bed *bed, struct mnw_store *store, struct mnw_pool_options pool_options,
              const struct mnw_cache_options *cache_options) {
    pool_options.size = sizeof(pool_options);
    if (!pool_options.budget_bytes)
        pool_options.budget_bytes = 8 * BED_MIB;
    if (mnw_pool_open(&bed->pool, &pool_options))
        fail_msg("pool: %s", mnw_error());
    if (bed->no_poison)
        bed->pool->has_poison = false;
    if (mnw_cache_open(&bed->cache, bed->pool, store, cache_options) || mnw_view_open(&bed->view, bed->cache, NULL))
        fail_msg("cache, view: %s", mnw_error());
    bed->data = mnw_view_data(bed->view);
    bed->page_bytes = mnw_cache_page_size(bed->cache);
}

void bed_close(struct bed *bed) {
    struct mnw_event event;
    assert_int_equal(mnw_view_close(bed->view), 0);
    while (mnw_pool_next_event(bed->pool, &event) == 1)
        ;
    if (mnw_cache_close(bed->cache))
        fail_msg("cache close: %s", mnw_error());
    assert_int_equal(mnw_pool_close(bed->pool), 0);
}

bool bed_event(struct mnw_pool *pool, struct mnw_event *event, unsigned timeout_ms) {
    for (unsigned waited = 0; mnw_pool_next_event(pool, event) != 1; waited += 10) {
        struct pollfd wait = {.fd = mnw_pool_event_fd(pool), .events = POLLIN};
        if (waited >= timeout_ms)
            return false;
        poll(&wait, 1, 10);
    }
    return true;
}

struct mnw_stats bed_stats(struct mnw_pool *pool) {
    struct mnw_stats stats;
    assert_int_equal(mnw_pool_stats(pool, &stats, sizeof(stats)), 0);
    return stats;
}

uint64_t bed_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

bool bed_eventually(bool (*holds)(void *argument), void *argument) {
    for (int tries = 0; tries < 10000; tries++) {
        if (holds(argument))
            return true;
        usleep(1000);
    }
    return false;
}

void bed_refused_at(int64_t result, int expected, const char *thing, const char *remedy, const char *file, int line) {
    char message[1024];
    snprintf(message, sizeof(message), "%s", mnw_error());
    if (result != expected)
        fail_msg("%s:%d: %lld (%s), expected %d", file, line, (long long)result, message, expected);
    if (!strstr(message, thing))
        fail_msg("%s:%d: the message names no \"%s\": %s", file, line, thing, message);
    if (!strstr(message, remedy))
        fail_msg("%s:%d: the message tells no \"%s\": %s", file, line, remedy, message);
}

/* ---- processes ---- */

void bed_hurry(unsigned seconds) {
    signal(SIGALRM, SIG_DFL);
    alarm((MACHINE_SANITIZED ? seconds * 4 : seconds) * (unsigned)machine_slowness());
}

int bed_child(int (*body)(void *argument), void *argument) {
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        machine_be_a_child();
        bed_hurry(20);
        int status = body(argument);
        fflush(NULL);
        _exit(status);
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void bed_assert_child(int (*body)(void *argument), void *argument, int expected) {
    /* cmocka has handlers of its own. */
    void (*on_bus)(int) = signal(SIGBUS, SIG_DFL), (*on_segv)(int) = signal(SIGSEGV, SIG_DFL);
    int status = bed_child(body, argument);
    signal(SIGBUS, on_bus);
    signal(SIGSEGV, on_segv);
    assert_int_equal(status, expected);
}

void bed_check_at(bool holds, const char *text, const char *file, int line) {
    if (holds)
        return;
    fprintf(stderr, "%s:%d: in the child: not %s (last message: %s)\n", file, line, text, mnw_error());
    _exit(1);
}

/* As after an exec: a process that gave up root may not look at its own /proc files otherwise. */
void bed_become_nobody(void) {
    if (setgid(65534) || setuid(65534) || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)) {
        fprintf(stderr, "cannot become nobody: %s\n", strerror(errno));
        _exit(2);
    }
}

static void install(struct sock_filter *filter, size_t count) {
    struct sock_fprog program = {.len = (unsigned short)count, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        fprintf(stderr, "cannot install a seccomp filter: %s\n", strerror(errno));
        _exit(2);
    }
}

void bed_forbid(const long *numbers, size_t count, int error) {
    struct sock_filter filter[16];
    size_t n = 0;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < count; i++) {
        uint8_t to_error = (uint8_t)(count - i);
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)numbers[i], to_error, 0);
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error);
    install(filter, n);
}

void bed_forbid_argument(long number, unsigned argument, uint32_t value, int error) {
    uint32_t low_half = (uint32_t)(offsetof(struct seccomp_data, args) + argument * sizeof(uint64_t));
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, low_half), /* little-endian */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    install(filter, sizeof(filter) / sizeof(filter[0]));
}

/* By calls that no test makes to fail, and without memory of its own: it must not change what it measures. */
static int open_quietly(const char *path) {
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC};
    return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
}

static unsigned count_lines(const char *path) {
    char buffer[4096];
    unsigned count = 0;
    int fd = open_quietly(path);
    for (ssize_t bytes; (bytes = read(fd, buffer, sizeof(buffer))) > 0;)
        for (ssize_t i = 0; i < bytes; i++)
            count += buffer[i] == '\n';
    close(fd);
    return count;
}

static uint64_t read_number(const char *path, const char *format) {
    char buffer[4096];
    uint64_t number = 0;
    int fd = open_quietly(path);
    ssize_t bytes = read(fd, buffer, sizeof(buffer) - 1);
    close(fd);
    if (bytes > 0) {
        buffer[bytes] = '\0';
        const char *at = strstr(buffer, format);
        number = at ? strtoull(at + strlen(format), NULL, 10) : 0;
    }
    return number;
}

static unsigned count_descriptors(void) {
    struct pollfd all[1024];
    unsigned count = 0;
    for (int fd = 0; fd < 1024; fd++)
        all[fd] = (struct pollfd){.fd = fd};
    if (poll(all, 1024, 0) < 0)
        return 0;
    for (int fd = 0; fd < 1024; fd++)
        count += !(all[fd].revents & POLLNVAL);
    return count;
}

/* What is mapped, but for the C library's heap: that shrinks when it likes. */
static uint64_t mapped_kib(void) {
    static char *heap_start;
    char *heap_end = sbrk(0);
    if (!heap_start)
        heap_start = heap_end;
    return read_number("/proc/self/status", "VmSize:") - (uint64_t)((heap_end - heap_start) / 1024);
}

struct bed_holdings bed_holdings(void) {
    return (struct bed_holdings){
        .descriptors = count_descriptors(),
        .mappings = count_lines("/proc/self/maps"),
        .mapped_kib = mapped_kib(),
        .threads = (unsigned)read_number("/proc/self/status", "Threads:"),
    };
}

struct bed_holdings bed_settled(const struct bed_holdings *before) {
    struct bed_holdings now = bed_holdings();
    for (int tries = 0; now.threads != before->threads && tries < 1000; tries++) {
        usleep(1000);
        now = bed_holdings();
    }
    return now;
}
