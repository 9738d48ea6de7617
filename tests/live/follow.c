/* SPDX-License-Identifier: MIT */
/* Where a fault thread runs: on the CPU of a lone faulter, wherever that goes, and never where it may not. */
#include "bed.h"
#include "machine.h"
#include "sys/thread.h"

#include <ctype.h>
#include <dirent.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGES 1024
#define SOME  64 /* faults between two looks */
#define TURNS 10 /* of the faulter, from CPU to CPU */
#define LOOKS 60

static cpu_set_t given;

static int nth_cpu(int rank) {
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &given) && !rank--)
            return cpu;
    return -1;
}

static void pin(pid_t thread, int cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(thread, sizeof(one), &one), 0);
}

static pid_t fault_thread(void) {
    DIR *directory = opendir("/proc/self/task");
    assert_non_null(directory);
    pid_t found = 0;
    for (struct dirent *entry; !found && (entry = readdir(directory));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = isdigit((unsigned char)entry->d_name[0]) ? fopen(path, "re") : NULL;
        if (file && fgets(name, sizeof(name), file) && !strncmp(name, "mnw-fault-", 10))
            found = (pid_t)atoi(entry->d_name);
        if (file)
            fclose(file);
    }
    closedir(directory);
    assert_true(found);
    return found;
}

/* Faults on resident pages, at random: nothing is mapped or read ahead. */
static void fault_some(const struct bed *bed) {
    static uint64_t random = 88172645463325252u;
    assert_int_equal(madvise(bed->data, PAGES * BED_PAGE, MADV_DONTNEED), 0);
    for (unsigned i = 0; i < SOME; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        uint64_t page = random % PAGES;
        assert_int_equal(bed_compare(bed->data + page * BED_PAGE, page * BED_PAGE, 64, 1, NULL), BED_RIGHT);
    }
}

/* How often it was on the CPU, of `looks`, one after each few faults. */
static unsigned count_there(const struct bed *bed, pid_t thread, int cpu, unsigned looks) {
    unsigned there = 0;
    for (unsigned i = 0; i < looks; i++) {
        fault_some(bed);
        there += mnw__thread_cpu_of((uint32_t)thread) == cpu;
    }
    return there;
}

static void open_resident(struct bed *bed, struct bed_source *source) {
    bed_source_open(source, PAGES * BED_PAGE);
    bed_open(bed, source->store, (struct mnw_pool_options){.backing = MNW_BACKING_SHMEM}, NULL);
    assert_int_equal(bed_compare(bed->data, 0, PAGES * BED_PAGE, 1, NULL), BED_RIGHT);
}

static void close_both(struct bed *bed, struct bed_source *source) {
    bed_close(bed);
    bed_source_close(source);
    assert_int_equal(sched_setaffinity(0, sizeof(given), &given), 0);
}

/* But for the moment in which it moves. */
static bool may_go_anywhere(pid_t thread) {
    struct timespec pause = {.tv_nsec = 1000000};
    cpu_set_t allowed;
    for (int tries = 0; tries < 1000; tries++, nanosleep(&pause, NULL)) {
        assert_int_equal(sched_getaffinity(thread, sizeof(allowed), &allowed), 0);
        if (CPU_EQUAL(&allowed, &given))
            return true;
    }
    return false;
}

/* The faulter goes from CPU to CPU; how often the thread was there with it. */
static unsigned lead_around(const struct bed *bed, pid_t thread) {
    unsigned there = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        pin(0, nth_cpu(turn % 2));
        there += count_there(bed, thread, nth_cpu(turn % 2), LOOKS);
        assert_true(may_go_anywhere(thread));
    }
    return there;
}

/* test_follow.c has when it moves; here is that it does, and keeps the right to go elsewhere. */
static void test_follows(void **state) {
    struct bed_source source;
    struct bed bed = {0};
    (void)state;
    bed_hurry(90);
    if (CPU_COUNT(&given) < 2)
        skip();
    open_resident(&bed, &source);
    unsigned there = lead_around(&bed, fault_thread());
    print_message("with its faulter: %u of %u\n", there, TURNS * LOOKS);
    assert_true(there >= TURNS * LOOKS / 4); /* on a busy machine others push it away */
    close_both(&bed, &source);
}

/* Whoever pinned the thread meant it. */
static void test_stays(void **state) {
    struct bed_source source;
    struct bed bed = {0};
    (void)state;
    bed_hurry(90);
    if (CPU_COUNT(&given) < 2)
        skip();
    open_resident(&bed, &source);
    pid_t thread = fault_thread();
    struct timespec pause = {.tv_nsec = 3000000}; /* longer than from one look to the next */
    nanosleep(&pause, NULL);                      /* while it moves, pinning it would be undone */
    pin(thread, nth_cpu(0));
    pin(0, nth_cpu(1));
    for (int i = 0; i < 20; i++, nanosleep(&pause, NULL))
        fault_some(&bed);
    cpu_set_t allowed;
    assert_int_equal(sched_getaffinity(thread, sizeof(allowed), &allowed), 0);
    assert_int_equal(CPU_COUNT(&allowed), 1);
    assert_true(CPU_ISSET(nth_cpu(0), &allowed));
    close_both(&bed, &source);
}

/* Threads by their number, names with parentheses, threads that are not there. */
static void test_cpu_of(void **state) {
    char old[16];
    (void)state;
    assert_int_equal(pthread_getname_np(pthread_self(), old, sizeof(old)), 0);
    assert_int_equal(pthread_setname_np(pthread_self(), "a) 1 (b 2) c"), 0);
    for (int rank = 0; rank < CPU_COUNT(&given); rank++) {
        pin(0, nth_cpu(rank));
        assert_int_equal(mnw__thread_cpu_of((uint32_t)gettid()), nth_cpu(rank));
    }
    assert_int_equal(sched_setaffinity(0, sizeof(given), &given), 0);
    assert_int_equal(pthread_setname_np(pthread_self(), old), 0);
    assert_int_equal(mnw__thread_cpu_of(UINT32_MAX), -1);
}

int main(int count, char **arguments) {
    (void)count;
    int status = machine_guard(arguments);
    if (status >= 0)
        return status;
    if (sched_getaffinity(0, sizeof(given), &given))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_of),
        cmocka_unit_test(test_follows),
        cmocka_unit_test(test_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
