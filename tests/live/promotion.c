/* SPDX-License-Identifier: MIT */
/*
 * No extent of graded memory is mapped whole before each of its pages is there: not while the store holds one page
 * back, not while one cannot be read, not after one was invalidated; while threads read all the others, the view is
 * zapped, pages are invalidated, the budget shrinks, and khugepaged, hurried, looks for what it could collapse. On a
 * memfd and on the private tmpfs. Changes the settings of transparent huge pages, and puts them back.
 */
#include "bed.h"
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define THP     "/sys/kernel/mm/transparent_hugepage/"
#define HUGE    ((size_t)2 << 20)
#define EXTENTS 2
#define PAGES   (EXTENTS * HUGE / BED_PAGE)
#define HELD    77ull                      /* of the first extent: the store does not answer */
#define FAILED  (HUGE / BED_PAGE + 300ull) /* of the second: the store cannot read it */
#define READERS 3
#define SOME    64 /* bytes of each page: what is mapped too soon is zeros */
#define SPAN_MS 250
#define SCAN_MS 400 /* and so long at most for khugepaged, which looks at other processes too */
#define CYCLES  2

static struct bed_source source;
static struct bed bed;
static _Atomic bool incomplete; /* the two pages are not to be had */
static _Atomic bool stopping;
static _Atomic unsigned wrong;

/* The two alone: a read of several pages fails, and is tried page by page. */
static int64_t withhold(struct bed_source *from, const struct mnw_read *read) {
    if (!atomic_load(&incomplete))
        return (int64_t)read->length;
    if (bed_read_has(from, read, FAILED))
        return -EIO;
    if (!bed_read_has(from, read, HELD))
        return (int64_t)read->length;
    return read->length > BED_PAGE ? -EIO : BED_HOLD;
}

/* ---- what the kernel says ---- */

/* Bytes of the view that are mapped by huge entries. */
static uint64_t huge_mapped(void) {
    uint64_t begin = 0, end = 0, found = 0;
    uint64_t first = (uintptr_t)bed.data, last = first + PAGES * BED_PAGE;
    char line[512];
    FILE *file = fopen("/proc/self/smaps", "re");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file)) {
        unsigned long long from, to, value;
        if (sscanf(line, "%llx-%llx ", &from, &to) == 2)
            begin = from, end = to;
        else if (begin < last && end > first &&
                 (sscanf(line, "ShmemPmdMapped: %llu", &value) == 1 ||
                  sscanf(line, "FilePmdMapped: %llu", &value) == 1))
            found += value << 10;
    }
    fclose(file);
    return found;
}

static unsigned long scans(void) {
    unsigned long count = 0;
    FILE *file = fopen(THP "khugepaged/full_scans", "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lu", &count), 1);
    fclose(file);
    return count;
}

static bool hurry_khugepaged(void) {
    return machine_set(THP "enabled", "always") && machine_set(THP "khugepaged/max_ptes_none", "511") &&
           machine_set(THP "khugepaged/pages_to_scan", "1000000") &&
           machine_set(THP "khugepaged/scan_sleep_millisecs", "1");
}

/* ---- who provokes ---- */

static bool is_withheld(uint64_t page) {
    return page == HELD || page == FAILED;
}

static void compare(uint64_t page) {
    int how = bed_compare(bed.data + page * BED_PAGE, page * BED_PAGE, SOME, 1, NULL);
    if (how && !atomic_fetch_add(&wrong, 1))
        fprintf(stderr, "page %llu: %s\n", (unsigned long long)page, how == BED_WRONG ? "wrong bytes" : strsignal(how));
}

static void *read_others(void *argument) {
    uint64_t random = (uintptr_t)argument * 0x9e3779b97f4a7c15u + 1;
    while (!atomic_load(&stopping)) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        uint64_t page = random % PAGES;
        if (!is_withheld(page))
            compare(page);
    }
    return NULL;
}

/* Waits for the page that is held back; what it gets must be the store's. */
static void *read_held(void *argument) {
    (void)argument;
    compare(HELD);
    return NULL;
}

static void disturb(unsigned turn) {
    /* Not of the first extent: that would wait for the answer that does not come. */
    uint64_t page = PAGES / EXTENTS + turn * 131 % (PAGES / EXTENTS);
    madvise(bed.data, PAGES * BED_PAGE, MADV_DONTNEED);
    if (!is_withheld(page)) {
        int error = mnw_invalidate(bed.cache, page * BED_PAGE, BED_PAGE);
        assert_true(!error || error == -EBUSY);
    }
    if (turn % 16 == 0) {
        mnw_pool_set_budget(bed.pool, 2 * HUGE);
        mnw_pool_set_budget(bed.pool, 4 * HUGE);
    }
}

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- the phases ---- */

static bool both_lack(void *argument) {
    (void)argument;
    return bed_held(&source) && bed_touch(bed.data + FAILED * BED_PAGE, NULL) == SIGBUS;
}

static void never_whole(void) {
    uint64_t promoted = bed_stats(bed.pool).pages_promoted, until = now_ms() + SPAN_MS;
    unsigned long before = scans();
    assert_true(bed_eventually(both_lack, NULL));
    for (unsigned turn = 0; now_ms() < until || (scans() < before + 2 && now_ms() < until + SCAN_MS); turn++) {
        assert_int_equal(huge_mapped(), 0);
        assert_int_equal(bed_stats(bed.pool).pages_promoted, promoted);
        assert_int_equal(atomic_load(&wrong), 0);
        bed_assert_bus(bed.view, FAILED);
        disturb(turn);
    }
}

static bool is_whole(void *argument) {
    const uint64_t *promoted = argument;
    return bed_stats(bed.pool).pages_promoted > *promoted && huge_mapped() > 0;
}

static void complete_it(pthread_t waiter) {
    uint64_t promoted = bed_stats(bed.pool).pages_promoted;
    atomic_store(&incomplete, false);
    while (!bed_release(&source))
        usleep(1000);
    pthread_join(waiter, NULL);
    assert_int_equal(mnw_invalidate(bed.cache, FAILED * BED_PAGE, BED_PAGE), 0);
    bed_assert_page(bed.view, FAILED, 1);
    assert_true(bed_eventually(is_whole, &promoted));
}

/* Both extents lack a page from here on. */
static void take_pages_away(void) {
    atomic_store(&incomplete, true);
    assert_int_equal(mnw_invalidate(bed.cache, HELD * BED_PAGE, BED_PAGE), 0);
    assert_int_equal(mnw_invalidate(bed.cache, FAILED * BED_PAGE, BED_PAGE), 0);
}

static void provoke(const char *setting) {
    static const struct mnw_cache_options hasty = {.size = sizeof(hasty), .read_retries = 1, .retry_delay_ms = 1};
    pthread_t readers[READERS], waiter;
    bed_hurry(60);
    if (!machine_set(SHMEM_ENABLED, setting) || !hurry_khugepaged()) {
        print_message("the settings of transparent huge pages cannot be changed\n");
        skip();
    }
    bed_source_open(&source, PAGES * BED_PAGE);
    source.answer = withhold;
    atomic_store(&incomplete, true);
    atomic_store(&stopping, false);
    bed = (struct bed){0};
    bed_open(&bed, source.store, (struct mnw_pool_options){.backing = MNW_BACKING_GRADED, .budget_bytes = 4 * HUGE},
             &hasty);
    for (uintptr_t i = 0; i < READERS; i++)
        pthread_create(&readers[i], NULL, read_others, (void *)(i + 1));
    for (unsigned cycle = 0; cycle < CYCLES; cycle++) {
        pthread_create(&waiter, NULL, read_held, NULL);
        never_whole();
        complete_it(waiter);
        if (cycle + 1 < CYCLES)
            take_pages_away();
    }
    atomic_store(&stopping, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    assert_int_equal(atomic_load(&wrong), 0);
    bed_close(&bed);
    bed_source_close(&source);
}

static void test_memfd(void **state) {
    (void)state;
    provoke("always");
}

static void test_private_mount(void **state) {
    (void)state;
    provoke("never");
}

int main(int count, char **arguments) {
    (void)count;
    int status = machine_guard(arguments);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memfd), cmocka_unit_test(test_private_mount)};
    return cmocka_run_group_tests_name("promotion", tests, NULL, NULL);
}
