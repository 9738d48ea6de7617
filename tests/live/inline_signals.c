/* SPDX-License-Identifier: MIT */
/*
 * Inline views among everything else that has to do with signals: SIGBUS of others and SIGBUS that is due, system
 * calls, cancellation, fork.
 */
#include "inline_bed.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- SIGBUS of others, and SIGBUS that is due -------------------------------------------------------------- */

static _Atomic int times;
static uintptr_t signalled_at;
static int signalled_code;
static sigset_t mask_in_handler;

static void note(int number, siginfo_t *info, void *context) {
    (void)context;
    pthread_sigmask(SIG_SETMASK, NULL, &mask_in_handler);
    signalled_at = (uintptr_t)info->si_addr;
    signalled_code = info->si_code;
    atomic_fetch_add(&times, 1);
    siglongjmp(here, number);
}

static void note_plain(int number) {
    atomic_fetch_add(&times, 1);
    siglongjmp(here, number);
}

static void note_sent(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    bed_check(info->si_code == SI_TKILL || info->si_code == SI_USER);
    atomic_fetch_add(&times, 1);
}

/* Memory past the end of its file. */
static char *make_foreign(void) {
    int fd = memfd_create("foreign", 0);
    char *memory = mmap(NULL, 2 * BED_PAGE, PROT_READ, MAP_SHARED, fd, 0);
    bed_check(fd >= 0 && memory != MAP_FAILED);
    return memory;
}

static int64_t fail_one(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? -EIO : (int64_t)read->length;
}

/* A foreign fault, a page that failed, and a signal that was sent all reach the handler that was there before. */
static int chained(void *argument) {
    static struct bed_source source;
    bool is_plain = argument != NULL;
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    if (is_plain)
        action = (struct sigaction){.sa_handler = note_plain};
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaction(SIGBUS, &action, NULL);
    char *foreign = make_foreign();
    bed_source_open(&source, PAGES * BED_PAGE);
    source.answer = fail_one;
    atomic_store(&source.bad_page, 9);
    store = source.store;
    open_inline(PAGES * BED_PAGE / 8);
    for (int i = 1; i <= 3; i++) {
        bed_check(faults_at(foreign + 123) == SIGBUS && times == 2 * i - 1);
        bed_check(is_plain || (signalled_at == (uintptr_t)foreign + 123 && signalled_code == BUS_ADRERR));
        bed_check(is_plain || (sigismember(&mask_in_handler, SIGUSR2) && sigismember(&mask_in_handler, SIGBUS) &&
                               !sigismember(&mask_in_handler, SIGUSR1)));
        bed_check(faults_at(bed.data + 9 * BED_PAGE + 77) == SIGBUS && times == 2 * i);
        bed_check(is_plain || signalled_at == (uintptr_t)bed.data + 9 * BED_PAGE + 77);
        bed_check(is_right(8) && is_right(10));
    }
    /* Mended, and forgotten: it is read. */
    atomic_store(&source.bad_page, UINT64_MAX);
    bed_check(faults_at(bed.data + 9 * BED_PAGE) == SIGBUS);
    bed_check(!mnw_invalidate(bed.cache, 9 * BED_PAGE, BED_PAGE));
    bed_check(is_right(9));
    bed_close(&bed);
    bed_source_close(&source);
    /* As it was before. */
    struct sigaction now;
    sigaction(SIGBUS, NULL, &now);
    bed_check(now.sa_sigaction == action.sa_sigaction && sigismember(&now.sa_mask, SIGUSR2));
    return 0;
}

/* No memory for any page, nor to write one: after four deadlines, and no later than that, there is no hope. */
static int starved(void *argument) {
    static const struct mnw_cache_options hasty = {
        .size = sizeof(hasty), .readahead_bytes = UINT64_MAX, .read_deadline_ms = 100};
    struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_INLINE};
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    (void)argument;
    sigaction(SIGBUS, &action, NULL);
    bed_file(&file, PAGES * BED_PAGE, 1);
    bed_forbid_argument(SYS_madvise, 2, MADV_POPULATE_WRITE, ENOMEM);
    bed_forbid((const long[]){SYS_pwrite64}, 1, ENOSPC);
    bed_check(!mnw_store_open(&store, file.uri, NULL));
    bed = (struct bed){0};
    bed_open(&bed, store, (struct mnw_pool_options){.budget_bytes = PAGES * BED_PAGE}, &hasty);
    bed_check(!mnw_view_close(bed.view));
    bed_check(!mnw_view_open(&bed.view, bed.cache, &options));
    const char *data = mnw_view_data(bed.view);
    alarm(20 * (unsigned)machine_slowness());
    bed_check(faults_at(data + 5 * BED_PAGE) == SIGBUS && faults_at(data + 5 * BED_PAGE) == SIGBUS);
    close_file_bed();
    return 0;
}

/* Memory of the view that broke: no read mends it. As the kernel tells of it, early (AO) and at a touch (AR). */
static int broken(void *argument) {
    static const int codes[] = {BUS_MCEERR_AR, BUS_MCEERR_AO};
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    (void)argument;
    sigaction(SIGBUS, &action, NULL);
    open_file_bed(PAGES * BED_PAGE / 8);
    bed_check(is_right(3));
    for (int i = 0; i < 2; i++) {
        siginfo_t info = {.si_signo = SIGBUS, .si_code = codes[i]};
        info.si_addr = bed.data + 3 * BED_PAGE;
        if (!sigsetjmp(here, 1))
            bed_check(!syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGBUS, &info));
        bed_check(times == i + 1 && signalled_code == codes[i] && signalled_at == (uintptr_t)info.si_addr);
    }
    bed_check(is_right(3));
    close_file_bed();
    return 0;
}

static int sent(void *argument) {
    struct sigaction action = {.sa_sigaction = note_sent, .sa_flags = SA_SIGINFO};
    (void)argument;
    sigaction(SIGBUS, &action, NULL);
    open_file_bed(PAGES * BED_PAGE / 8);
    bed_check(!raise(SIGBUS) && times == 1);
    bed_check(!kill(getpid(), SIGBUS) && times == 2);
    bed_check(is_right(3));
    close_file_bed();
    return 0;
}

enum due { FOREIGN_DEFAULT, FOREIGN_IGNORED, FOREIGN_ONCE, FAILED_DEFAULT, SENT_IGNORED, SENT_DEFAULT };

/* What must end the process by SIGBUS, and what must not. */
static int due(void *argument) {
    enum due how = *(enum due *)argument;
    static struct bed_source source;
    struct sigaction once = {.sa_handler = note_plain, .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};
    if (how == FOREIGN_IGNORED || how == SENT_IGNORED)
        signal(SIGBUS, SIG_IGN);
    if (how == FOREIGN_ONCE)
        sigaction(SIGBUS, &once, NULL);
    char *foreign = make_foreign();
    bed_source_open(&source, PAGES * BED_PAGE);
    source.answer = fail_one;
    atomic_store(&source.bad_page, 9);
    store = source.store;
    open_inline(PAGES * BED_PAGE / 8);
    bed_check(is_right(8));
    if (how == FOREIGN_ONCE)
        bed_check(faults_at(foreign) == SIGBUS && is_right(10));
    if (how == SENT_IGNORED || how == SENT_DEFAULT)
        raise(SIGBUS);
    else
        (void)*(volatile char *)(how == FAILED_DEFAULT ? bed.data + 9 * BED_PAGE : foreign);
    bed_check(how == SENT_IGNORED && is_right(11));
    return 0;
}

/* ---- system calls, cancellation, fork ---------------------------------------------------------------------- */

static int system_calls(void *argument) {
    int out = open("/dev/null", O_WRONLY), pipes[2];
    char bytes[BED_PAGE];
    (void)argument;
    open_file_bed(PAGES * BED_PAGE / 2);
    bed_check(!pipe(pipes) && out >= 0);
    bed_check(write(pipes[1], bed.data + 5 * BED_PAGE, 100) == -1 && errno == EFAULT);
    bed_check(!mnw_pin(bed.cache, 0, 16 * BED_PAGE));
    bed_check(write(pipes[1], bed.data + 5 * BED_PAGE, 100) == -1 && errno == EFAULT);
    bed_check(!mnw_view_populate(bed.view, 5 * BED_PAGE + 4000, 200));
    bed_check(write(pipes[1], bed.data + 5 * BED_PAGE + 4000, 200) == 200);
    bed_check(read(pipes[0], bytes, 200) == 200 && !memcmp(bytes, bed.data + 5 * BED_PAGE + 4000, 200));
    bed_check(write(pipes[1], bed.data + 7 * BED_PAGE, 100) == -1 && errno == EFAULT);
    bed_check(!mnw_unpin(bed.cache, 0, 16 * BED_PAGE));
    bed_check(mnw_view_populate(bed.view, 0, 0) == -EINVAL);
    bed_check(mnw_view_populate(bed.view, 1, PAGES * BED_PAGE) == -EINVAL);
    bed_check(mnw_view_populate(bed.view, UINT64_MAX, 2) == -EINVAL);
    /* Other views have it too. */
    struct mnw_view *other;
    bed_check(!mnw_view_open(&other, bed.cache, NULL) && !mnw_view_populate(other, 0, PAGES * BED_PAGE));
    bed_check(!mnw_view_close(other));
    close_file_bed();
    return 0;
}

static void *cancelled(void *argument) {
    _Atomic int *stage = argument;
    atomic_store(stage, 1);
    while (atomic_load(stage) == 1) /* no place to be cancelled */
        ;
    for (uint64_t page = 0; page < PAGES; page++)
        if (!is_right(page))
            return NULL;
    atomic_store(stage, 3);
    pthread_testcancel();
    return NULL;
}

/* A pending cancellation does not take a thread out of the handler. */
static int cancellation(void *argument) {
    _Atomic int stage = 0;
    pthread_t thread;
    void *result;
    (void)argument;
    open_file_bed(PAGES * BED_PAGE / 8);
    pthread_create(&thread, NULL, cancelled, &stage);
    while (!atomic_load(&stage))
        usleep(100);
    pthread_cancel(thread);
    atomic_store(&stage, 2);
    pthread_join(thread, &result);
    bed_check(atomic_load(&stage) == 3 && result == PTHREAD_CANCELED);
    for (uint64_t page = 0; page < PAGES; page++)
        bed_check(is_right(page));
    close_file_bed();
    return 0;
}

/* Who puts the default back takes our handler away; the next view to be opened has it again. */
static int taken_away(void *argument) {
    (void)argument;
    open_file_bed(PAGES * BED_PAGE / 8);
    bed_check(is_right(3));
    signal(SIGBUS, SIG_DFL);
    struct bed first = bed;
    open_inline(PAGES * BED_PAGE / 8);
    bed_check(is_right(4));
    bed_close(&bed);
    bed = first;
    bed_check(is_right(5));
    close_file_bed();
    return 0;
}

static int forks(void *argument) {
    pthread_t threads[THREADS];
    (void)argument;
    open_file_bed(PAGES * BED_PAGE / 8);
    start_readers(threads);
    for (int round = 0; round < 10; round++) {
        pid_t child = fork();
        if (!child) {
            alarm(20 * (unsigned)machine_slowness());
            struct mnw_store *own;
            bed_check(mnw_view_populate(bed.view, 0, 1) == -EOWNERDEAD);
            bed_check(mnw_view_close(bed.view) == -EOWNERDEAD);
            bed_check(!mnw_store_open(&own, file.uri, NULL));
            store = own;
            if (round % 2) { /* its own views, at the same addresses */
                open_inline(PAGES * BED_PAGE / 8);
                for (uint64_t page = 0; page < PAGES; page++)
                    bed_check(is_right(page));
                bed_close(&bed);
                _exit(0);
            }
            struct sigaction nothing = {.sa_handler = SIG_DFL};
            sigaction(SIGSEGV, &nothing, NULL);
            (void)*(volatile char *)bed.data;
            _exit(1);
        }
        int status;
        bed_check(waitpid(child, &status, 0) == child);
        bed_check(round % 2 ? WIFEXITED(status) && !WEXITSTATUS(status)
                            : WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
    join_readers(threads);
    close_file_bed();
    return 0;
}

/* ---- the list ---------------------------------------------------------------------------------------------- */

BED_CHILD_TEST(broken)
BED_CHILD_TEST(sent)
BED_CHILD_TEST(system_calls)
BED_CHILD_TEST(cancellation)
BED_CHILD_TEST(taken_away)

/* The allocator of a sanitizer keeps its locks over a fork: a child of several threads may wait for ever in malloc. */
static void test_forks(void **state) {
    (void)state;
    if (MACHINE_SANITIZED)
        skip();
    bed_assert_child(forks, NULL, 0);
}

static void test_starved(void **state) {
    (void)state;
    bed_assert_child(starved, NULL, 0);
}

static void test_chained(void **state) {
    (void)state;
    bed_assert_child(chained, NULL, 0);
    bed_assert_child(chained, &handled, 0);
}

static void test_due(void **state) {
    (void)state;
    for (int how = FOREIGN_DEFAULT; how <= SENT_DEFAULT; how++)
        bed_assert_child(due, &how, how == SENT_IGNORED ? 0 : 128 + SIGBUS);
}

int main(int count, char **arguments) {
    (void)count;
    int status = machine_guard(arguments);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chained),      cmocka_unit_test(test_starved), cmocka_unit_test(test_broken),
        cmocka_unit_test(test_sent),         cmocka_unit_test(test_due),     cmocka_unit_test(test_system_calls),
        cmocka_unit_test(test_cancellation), cmocka_unit_test(test_forks),   cmocka_unit_test(test_taken_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
