/* SPDX-License-Identifier: MIT */
/*
 * Inline views: faults that are resolved in the handler of SIGBUS, wherever the thread is when it faults, on every
 * backing, while other threads evict, invalidate and close.
 */
#include "inline_bed.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static bool has_default(void) {
    struct sigaction now;
    sigaction(SIGBUS, NULL, &now);
    return now.sa_handler == SIG_DFL;
}

/* ---- where a thread may be when it faults ------------------------------------------------------------------ */

static int plain(void *argument) {
    (void)argument;
    bed_check(has_default());
    open_file_bed(PAGES * BED_PAGE / 4);
    for (uint64_t round = 0; round < 3; round++)
        for (uint64_t page = 0; page < PAGES; page++) {
            errno = 4711;
            volatile char byte = bed.data[page * BED_PAGE + 17];
            (void)byte;
            bed_check(errno == 4711);
            bed_check(is_right(page));
        }
    struct mnw_stats stats = bed_stats(bed.pool);
    bed_check(stats.fills >= 3 * PAGES * 3 / 4 && stats.evictions > 0);
    bed_check(!has_default());
    close_file_bed();
    bed_check(has_default());
    return 0;
}

#if !MACHINE_SANITIZED
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *memory);
static _Thread_local const volatile char *volatile touch_in_malloc;
static _Thread_local int inside_malloc;

/* As an allocator that faults on its own memory would: whoever enters it anew meanwhile, by whichever call, has lost.
 */
static void enter_allocator(void) {
    if (inside_malloc)
        abort();
    inside_malloc = 1;
    if (touch_in_malloc)
        (void)*touch_in_malloc;
    touch_in_malloc = NULL;
}

#define IN_ALLOCATOR(call)                                                                                             \
    enter_allocator();                                                                                                 \
    void *memory = call;                                                                                               \
    inside_malloc = 0;                                                                                                 \
    return memory

void *malloc(size_t size) {
    IN_ALLOCATOR(__libc_malloc(size));
}

void *calloc(size_t count, size_t size) {
    IN_ALLOCATOR(__libc_calloc(count, size));
}

void *realloc(void *old, size_t size) {
    IN_ALLOCATOR(__libc_realloc(old, size));
}

void *memalign(size_t alignment, size_t size) {
    IN_ALLOCATOR(__libc_memalign(alignment, size));
}

void *aligned_alloc(size_t alignment, size_t size) {
    IN_ALLOCATOR(__libc_memalign(alignment, size));
}

int posix_memalign(void **memory, size_t alignment, size_t size) {
    *memory = memalign(alignment, size);
    return *memory ? 0 : ENOMEM;
}

void free(void *memory) {
    enter_allocator();
    __libc_free(memory);
    inside_malloc = 0;
}

static int in_malloc(void *argument) {
    (void)argument;
    open_file_bed(PAGES * BED_PAGE / 8);
    for (uint64_t page = 0; page < PAGES; page++) {
        touch_in_malloc = bed.data + page * BED_PAGE;
        void *volatile memory = page % 2 ? malloc(100) : calloc(10, 10);
        bed_check(memory && !touch_in_malloc && is_right(page));
        touch_in_malloc = bed.data + page * BED_PAGE;
        free(memory);
        bed_check(!touch_in_malloc);
    }
    close_file_bed();
    return 0;
}
#endif

static int in_locks(void *argument) {
    pthread_mutex_t lock;
    pthread_mutexattr_t checking;
    (void)argument;
    open_file_bed(PAGES * BED_PAGE / 8);
    pthread_mutexattr_init(&checking);
    pthread_mutexattr_settype(&checking, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&lock, &checking);
    for (uint64_t page = 0; page < PAGES; page++) {
        pthread_mutex_lock(&lock);
        flockfile(stdout);
        bed_check(bed.data[page * BED_PAGE] != 0);
        funlockfile(stdout);
        bed_check(!pthread_mutex_unlock(&lock));
        bed_check(is_right(page));
    }
    /* The library stores into memory of the caller's that is itself such a view. */
    struct mnw_view *writable;
    struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_INLINE | MNW_VIEW_WRITE};
    bed_check(!mnw_view_open(&writable, bed.cache, &options));
    struct mnw_stats *stats = mnw_view_data(writable);
    bed_check(!mnw_pool_stats(bed.pool, stats, sizeof(*stats)) && stats->fills >= PAGES);
    bed_check(mnw_pool_next_event(bed.pool, (struct mnw_event *)((char *)stats + 5 * BED_PAGE)) == 0);
    bed_check(!mnw_view_close(writable));
    close_file_bed();
    return 0;
}

static void touch_in_handler(int number) {
    static _Thread_local uint64_t random;
    (void)number;
    int saved = errno;
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    uint64_t page = (random >> 33) % PAGES;
    bed_check(is_right(page));
    errno = saved;
    atomic_fetch_add(&handled, 1);
}

static void *signal_main(void *argument) {
    pthread_t target = *(pthread_t *)argument;
    while (!atomic_load(&done)) {
        pthread_kill(target, SIGUSR1);
        usleep(50);
    }
    return NULL;
}

/* A signal finds the thread anywhere: in the library, with its locks held; its handler faults. */
static int in_handlers(void *argument) {
    pthread_t self = pthread_self(), signaller;
    struct sigaction action = {.sa_handler = touch_in_handler};
    (void)argument;
    open_file_bed(PAGES * BED_PAGE / 8);
    sigaction(SIGUSR1, &action, NULL);
    pthread_create(&signaller, NULL, signal_main, &self);
    for (uint64_t i = 0; atomic_load(&handled) < 3000; i++) {
        uint64_t page = i * 16 % PAGES;
        bed_check(is_right(page));
        bed_check(!mnw_invalidate(bed.cache, page * BED_PAGE, BED_PAGE));
        if (!mnw_pin(bed.cache, page * BED_PAGE, BED_PAGE))
            bed_check(!mnw_unpin(bed.cache, page * BED_PAGE, BED_PAGE));
        bed_check(!mnw_view_populate(bed.view, page * BED_PAGE, 1));
    }
    atomic_store(&done, true);
    pthread_join(signaller, NULL);
    close_file_bed();
    return 0;
}

static char *small_stack;

static void touch_on_stack(int number) {
    char local;
    (void)number;
    bed_check(&local > small_stack);
    touch_in_handler(0);
}

/* A handler on a stack that is as small as the kernel allows, and a little; so is ours, on the same. */
static int on_alternate_stack(void *argument) {
    size_t size = (size_t)sysconf(_SC_MINSIGSTKSZ) * 2 + (MACHINE_SANITIZED ? 65536 : 12288), guard = 4096;
    struct sigaction action = {.sa_handler = touch_on_stack, .sa_flags = SA_ONSTACK};
    (void)argument;
    size = (size + 4095) & ~(size_t)4095;
    char *memory = mmap(NULL, guard + size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bed_check(memory != MAP_FAILED && !mprotect(memory + guard, size, PROT_READ | PROT_WRITE));
    small_stack = memory + guard;
    open_file_bed(PAGES * BED_PAGE / 8);
    stack_t stack = {.ss_sp = small_stack, .ss_size = size};
    bed_check(!sigaltstack(&stack, NULL));
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 0; i < 2000; i++)
        raise(SIGUSR1);
    bed_check(handled == 2000);
    for (uint64_t page = 0; page < PAGES; page++)
        bed_check(is_right(page));
    close_file_bed();
    return 0;
}

/* How much of an alternate stack was ever written to, if it was painted before. */
static size_t used_of(const unsigned char *stack, size_t size) {
    size_t untouched = 0;
    while (untouched < size && stack[untouched] == 0xa5)
        untouched++;
    return size - untouched;
}

/* What mnw_view_open(3) says that such a stack must have, beside what the kernel puts there. */
#define STACK_NEED 8192

/* Every kind of fault, all of them on the alternate stack: filled, evicted for, mapped, joined, failed. */
static int stack_need(void *argument) {
    enum { SIZE = 256 << 10 };
    static unsigned char stack_memory[SIZE] __attribute__((aligned(64)));
    pthread_t threads[THREADS];
    (void)argument;
    stack_t stack = {.ss_sp = stack_memory, .ss_size = SIZE};
    memset(stack_memory, 0xa5, SIZE);
    open_file_bed(PAGES * BED_PAGE / 8);
    bed_check(!sigaltstack(&stack, NULL));
    for (int round = 0; round < 10; round++) {
        if (round == 1) /* not before: what the dynamic linker binds at the first call, it binds on this stack */
            start_readers(threads);
        for (uint64_t page = 0; page < PAGES; page++)
            bed_check(is_right(page));
        bed_check(!mnw_invalidate(bed.cache, 0, PAGES * BED_PAGE));
    }
    size_t used = used_of(stack_memory, SIZE), kernels = getauxval(AT_MINSIGSTKSZ);
    fprintf(stderr, "an inline fault used %zu bytes of stack, the kernel's frame of up to %zu among them\n", used,
            kernels);
    bed_check(used > 1024 && used <= kernels + STACK_NEED);
    join_readers(threads);
    close_file_bed();
    return 0;
}

/* ---- many threads, other views, eviction, invalidation, closing -------------------------------------------- */

static int many_threads(void *argument) {
    pthread_t threads[THREADS];
    (void)argument;
    open_file_bed(PAGES * BED_PAGE / 8);
    start_readers(threads);
    uint64_t rounds = 0;
    while (atomic_load(&handled) < (MACHINE_SANITIZED || machine_slowness() > 1 ? 20000 : 200000)) {
        int error = mnw_invalidate(bed.cache, (rounds++ * 16 % PAGES) * BED_PAGE, 16 * BED_PAGE);
        bed_check(!error || error == -EBUSY);
        usleep(200);
    }
    join_readers(threads);
    struct mnw_stats stats = bed_stats(bed.pool);
    bed_check(stats.evictions > 0 && stats.fills_failed == 0);
    close_file_bed();
    return 0;
}

static void on_gone(int number) {
    siglongjmp(here, number);
}

static void *read_until_gone(void *argument) {
    int number = sigsetjmp(here, 1);
    if (number)
        return (void *)(intptr_t)number;
    for (uint64_t page = (uintptr_t)argument * 31;; page++)
        (void)*(volatile char *)(bed.data + page % PAGES * BED_PAGE);
}

/* Closing while threads are in the handler: they get SIGSEGV, as with munmap, never SIGBUS, never another's bytes. */
static int closing(void *argument) {
    struct sigaction action = {.sa_handler = on_gone, .sa_flags = SA_NODEFER};
    struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_INLINE};
    pthread_t threads[THREADS];
    (void)argument;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    open_file_bed(PAGES * BED_PAGE / 8);
    for (int round = 0; round < 100; round++) {
        for (uintptr_t i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, read_until_gone, (void *)(i + 1));
        usleep((useconds_t)(round * 37 % 1000));
        bed_check(!mnw_view_close(bed.view));
        for (int i = 0; i < THREADS; i++) {
            void *how;
            pthread_join(threads[i], &how);
            bed_check((intptr_t)how == SIGSEGV);
        }
        bed_check(!mnw_view_open(&bed.view, bed.cache, &options));
        bed.data = mnw_view_data(bed.view);
    }
    close_file_bed();
    return 0;
}

/* ---- stores that the handler cannot read ------------------------------------------------------------------- */

static int callbacks(void *argument) {
    static struct bed_source source;
    pthread_t threads[THREADS];
    (void)argument;
    bed_source_open(&source, PAGES * BED_PAGE);
    store = source.store;
    open_inline(PAGES * BED_PAGE / 8);
    start_readers(threads);
    while (atomic_load(&handled) < 5000)
        usleep(1000);
    join_readers(threads);
    bed_check(atomic_load(&source.reads) >= PAGES);
    bed_close(&bed);
    bed_source_close(&source);
    return 0;
}

/* A view that is closed while its thread waits for a page that does not come. */
static int closing_while_waiting(void *argument) {
    static struct bed_source source;
    struct sigaction action = {.sa_handler = on_gone, .sa_flags = SA_NODEFER};
    struct mnw_view_options options = {.size = sizeof(options)};
    pthread_t thread;
    void *how;
    (void)argument;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    bed_source_open(&source, PAGES * BED_PAGE);
    source.answer = bed_hold_all;
    store = source.store;
    open_inline(PAGES * BED_PAGE / 8);
    pthread_create(&thread, NULL, read_until_gone, NULL);
    bed_check(bed_eventually(bed_is_held, &source));
    usleep(20000);
    bed_check(!mnw_view_close(bed.view));
    pthread_join(thread, &how);
    bed_check((intptr_t)how == SIGSEGV);
    source.answer = NULL;
    bed_release(&source);
    bed_check(!mnw_view_open(&bed.view, bed.cache, &options));
    bed_close(&bed);
    bed_source_close(&source);
    return 0;
}

/* ---- the backings ------------------------------------------------------------------------------------------ */

static int on_backing(void *argument) {
    enum mnw_backing kind = *(enum mnw_backing *)argument;
    bed_hurry(60); /* a huge page of 1 GiB takes a busy machine its time */
    static const size_t extents[] = {64u << 10, 2u << 20, 2u << 20, 1u << 30};
    size_t extent = extents[kind], budget = 2 * extent;
    uint64_t bytes = kind == MNW_BACKING_HUGETLB_1G ? 3 * BED_MIB : 6 * extent;
    if (kind >= MNW_BACKING_HUGETLB_2M && !machine_free_hugepages(extent, 2))
        return 77;
    bed_file(&file, bytes, 1);
    bed_check(!mnw_store_open(&store, file.uri, NULL));
    struct mnw_pool_options pool_options = {.size = sizeof(pool_options), .backing = kind, .budget_bytes = budget};
    struct mnw_view_options options = {.size = sizeof(options), .flags = MNW_VIEW_INLINE};
    bed = (struct bed){0};
    int error = mnw_pool_open(&bed.pool, &pool_options);
    if (error == -EOPNOTSUPP || error == -ENOMEM || error == -EPERM)
        return 77;
    bed_check(!error && !mnw_cache_open(&bed.cache, bed.pool, store, &exact));
    bed_check(!mnw_view_open(&bed.view, bed.cache, &options));
    bed.data = mnw_view_data(bed.view);
    for (int round = 0; round < 2; round++)
        for (uint64_t page = 0; page < bytes / BED_PAGE; page++)
            bed_check(is_right(page));
    close_file_bed();
    return 0;
}

/* ---- a page and its memory by one call --------------------------------------------------------------------- */

/* The kernel ends a process that writes behind its limit: a page that is read is nothing that the program has written.
 */
static int below_file_limit(void *argument) {
    struct rlimit limit;
    (void)argument;
    open_file_bed(PAGES * BED_PAGE / 4);
    bed_check(!getrlimit(RLIMIT_FSIZE, &limit));
    limit.rlim_cur = 16 * BED_PAGE;
    bed_check(!setrlimit(RLIMIT_FSIZE, &limit));
    for (uint64_t page = 0; page < PAGES; page++)
        bed_check(is_right(page * 7 % PAGES));
    close_file_bed();
    return 0;
}

/* Whatever the machine does with files: a page is a page of the budget, and no huge folio. */
static int without_huge_folios(void *argument) {
    struct stat status;
    (void)argument;
    bed_file(&file, 8 * BED_MIB, 1);
    bed_check(!mnw_store_open(&store, file.uri, NULL));
    open_inline(4 * BED_MIB);
    for (uint64_t page = 5; page < 8 * BED_MIB / BED_PAGE; page += 300)
        bed_check(is_right(page));
    bed_check(!fstat(mnw_cache_fd(bed.cache), &status));
    bed_check((uint64_t)status.st_blocks * 512 <= 32 * BED_PAGE);
    close_file_bed();
    return 0;
}

/* The last page of a file that ends within it, after others that have left their bytes in the same place. */
static int zeros_behind_the_end(void *argument) {
    (void)argument;
    bed_file(&file, 8 * BED_PAGE + 3, 1);
    bed_check(!mnw_store_open(&store, file.uri, NULL));
    open_inline(BED_MIB);
    for (uint64_t page = 0; page < 8; page++)
        bed_check(is_right(page));
    for (uint64_t at = 3; at < BED_PAGE; at++)
        bed_check(!bed.data[8 * BED_PAGE + at]);
    close_file_bed();
    return 0;
}

/* ---- the list ---------------------------------------------------------------------------------------------- */

BED_CHILD_TEST(plain)
BED_CHILD_TEST(in_locks)
BED_CHILD_TEST(many_threads)
BED_CHILD_TEST(closing)
BED_CHILD_TEST(closing_while_waiting)
BED_CHILD_TEST(callbacks)
BED_CHILD_TEST(below_file_limit)
BED_CHILD_TEST(zeros_behind_the_end)

static void test_in_handlers(void **state) {
    (void)state;
    if (MACHINE_TSAN)
        skip();
    bed_assert_child(in_handlers, NULL, 0);
}

static void test_on_alternate_stack(void **state) {
    (void)state;
    if (MACHINE_TSAN)
        skip();
    bed_assert_child(on_alternate_stack, NULL, 0);
}

static void test_stack_need(void **state) {
    (void)state;
    if (MACHINE_SANITIZED)
        skip(); /* its frames are larger */
    bed_assert_child(stack_need, NULL, 0);
}

static void test_in_malloc(void **state) {
    (void)state;
#if MACHINE_SANITIZED
    skip(); /* the sanitizer's allocator is in the place of the test's */
#else
    bed_assert_child(in_malloc, NULL, 0);
#endif
}

static void test_without_huge_folios(void **state) {
    static const char *const settings[] = {"never", "advise", "within_size", "always", "force"};
    (void)state;
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (machine_set(SHMEM_ENABLED, settings[i]))
            bed_assert_child(without_huge_folios, NULL, 0);
        else
            print_message("shmem_enabled cannot be set to %s\n", settings[i]);
    }
}

static void test_backings(void **state) {
    (void)state;
    for (int kind = MNW_BACKING_SHMEM; kind <= MNW_BACKING_HUGETLB_1G; kind++) {
        int status = bed_child(on_backing, &kind);
        if (status == 77)
            print_message("backing %d cannot be had here\n", kind);
        else
            assert_int_equal(status, 0);
    }
}

int main(int count, char **arguments) {
    (void)count;
    int status = machine_guard(arguments);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_in_malloc),
        cmocka_unit_test(test_in_locks),
        cmocka_unit_test(test_in_handlers),
        cmocka_unit_test(test_on_alternate_stack),
        cmocka_unit_test(test_stack_need),
        cmocka_unit_test(test_many_threads),
        cmocka_unit_test(test_closing),
        cmocka_unit_test(test_closing_while_waiting),
        cmocka_unit_test(test_callbacks),
        cmocka_unit_test(test_below_file_limit),
        cmocka_unit_test(test_zeros_behind_the_end),
        cmocka_unit_test(test_without_huge_folios),
        cmocka_unit_test(test_backings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
