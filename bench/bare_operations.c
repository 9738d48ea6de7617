/* SPDX-License-Identifier: MIT */
/*
 * What the kernel takes for the operations that user-space paging is made of: range CONTINUE by length, zap, punch,
 * promote, poison, write-protect. No fault is raised; an armed view is mapped before, and each call is timed.
 * range-continue and operations.
 */
#include "measure.h"
#include "registry.h"
#include "touches.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LENGTH (64 * MIB)
#define KIB    ((size_t)1 << 10)
#define GIB    ((size_t)1 << 30)
#define CALLS  256 /* in one turn, at most */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef UFFDIO_POISON
struct uffdio_poison {
    struct uffdio_range range;
    uint64_t mode;
    int64_t updated;
};
#define UFFDIO_POISON _IOWR(0xAA, 0x08, struct uffdio_poison)
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif

/* A view of resident pages, armed, and what is done to pieces of it. */
struct operation {
    const char *name;
    enum area_kind kind;
    size_t step;                                              /* of one call */
    bool (*prepare)(const struct operation *operation);       /* before the clock; NULL: every page mapped */
    int (*act)(const struct operation *operation, size_t at); /* 0, or a negative errno */
    uint64_t features, modes;                                 /* of the registration */
    bool refill;                                              /* it gives pages up */
    struct area area;
    int uffd;
    const struct scratch *scratch;
};

static volatile unsigned char *address(const struct operation *operation, size_t at) {
    return (volatile unsigned char *)(uintptr_t)operation->area.view + at;
}

static struct uffdio_range range_at(const struct operation *operation, size_t at) {
    return (struct uffdio_range){.start = (uintptr_t)address(operation, at), .len = operation->step};
}

/* ---- what is done before ---- */

static bool map_nothing(const struct operation *operation) {
    area_zap(&operation->area);
    return true;
}

static bool map_all(const struct operation *operation) {
    struct uffdio_continue all = {.range = {.start = (uintptr_t)operation->area.view, .len = operation->area.length},
                                  .mode = UFFDIO_CONTINUE_MODE_DONTWAKE};
    area_zap(&operation->area);
    return !ioctl(operation->uffd, UFFDIO_CONTINUE, &all);
}

static bool map_huge(const struct operation *operation) {
    return map_all(operation) &&
           !madvise((void *)(uintptr_t)operation->area.view, operation->area.length, MADV_COLLAPSE);
}

static bool protect_all(const struct operation *operation) {
    struct uffdio_writeprotect all = {
        .range = {.start = (uintptr_t)operation->area.view, .len = operation->area.length},
        .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    return map_all(operation) && !ioctl(operation->uffd, UFFDIO_WRITEPROTECT, &all);
}

static bool scatter_pages(const struct operation *operation) {
    struct area area = operation->area;
    madvise(area.alias, area.length, MADV_NOHUGEPAGE);
    bool done = area_punch(&area, 0, area.length) && !area_fill(&area, operation->scratch);
    return done && !madvise(area.alias, area.length, MADV_HUGEPAGE);
}

/* ---- what is done ---- */

static int do_continue(const struct operation *operation, size_t at) {
    struct uffdio_continue range = {.range = range_at(operation, at)};
    return ioctl(operation->uffd, UFFDIO_CONTINUE, &range) ? -errno : 0;
}

static int do_continue_asleep(const struct operation *operation, size_t at) {
    struct uffdio_continue range = {.range = range_at(operation, at), .mode = UFFDIO_CONTINUE_MODE_DONTWAKE};
    return ioctl(operation->uffd, UFFDIO_CONTINUE, &range) ? -errno : 0;
}

static int do_wake(const struct operation *operation, size_t at) {
    struct uffdio_range range = range_at(operation, at);
    return ioctl(operation->uffd, UFFDIO_WAKE, &range) ? -errno : 0;
}

static int do_zap(const struct operation *operation, size_t at) {
    return madvise((void *)(uintptr_t)address(operation, at), operation->step, MADV_DONTNEED) ? -errno : 0;
}

static int do_punch(const struct operation *operation, size_t at) {
    return area_punch(&operation->area, at, operation->step) ? 0 : -errno;
}

static int do_collapse(const struct operation *operation, size_t at) {
    return madvise((void *)(uintptr_t)address(operation, at), operation->step, MADV_COLLAPSE) ? -errno : 0;
}

static int do_collapse_alias(const struct operation *operation, size_t at) {
    return madvise(operation->area.alias + at, operation->step, MADV_COLLAPSE) ? -errno : 0;
}

static int do_poison(const struct operation *operation, size_t at) {
    struct uffdio_poison range = {.range = range_at(operation, at)};
    return ioctl(operation->uffd, UFFDIO_POISON, &range) ? -errno : 0;
}

static int do_protect(const struct operation *operation, size_t at) {
    struct uffdio_writeprotect range = {.range = range_at(operation, at), .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    return ioctl(operation->uffd, UFFDIO_WRITEPROTECT, &range) ? -errno : 0;
}

static int do_unprotect(const struct operation *operation, size_t at) {
    struct uffdio_writeprotect range = {.range = range_at(operation, at)};
    return ioctl(operation->uffd, UFFDIO_WRITEPROTECT, &range) ? -errno : 0;
}

/* ---- a turn ---- */

static bool has_room_to_refill(const struct operation *operation) {
    struct stat status;
    if (fstat(operation->area.fd, &status))
        return false;
    return area_provide(operation->kind, operation->area.length - (size_t)status.st_blocks * 512);
}

/* Spread over the area, so that calls do not share more than they must. */
static double operation_turn(void *context, struct bench_turn *turn) {
    struct operation *operation = context;
    size_t pieces = operation->area.length / operation->step;
    unsigned calls = (unsigned)(pieces < CALLS ? pieces : CALLS);
    double ns[CALLS];
    /* What was punched went back to the pool, where others may have taken it. */
    if (operation->refill && (!has_room_to_refill(operation) || area_fill(&operation->area, operation->scratch))) {
        snprintf(turn->why, sizeof(turn->why), "could not be filled again");
        return NAN;
    }
    if (!(operation->prepare ? operation->prepare : map_all)(operation)) {
        snprintf(turn->why, sizeof(turn->why), "could not be prepared: %s", strerror(errno));
        return NAN;
    }
    for (unsigned i = 0; i < calls; i++) {
        size_t at = i * (pieces / calls) * operation->step;
        uint64_t begin_ns = clock_ns();
        int error = operation->act(operation, at);
        ns[i] = (double)(clock_ns() - begin_ns);
        if (error) {
            snprintf(turn->why, sizeof(turn->why), "%s", strerror(-error));
            return NAN;
        }
    }
    samples_append(turn->latencies, ns, calls);
    return median_of(ns, calls);
}

/* Pages of 1 GiB are dear: `like`'s is shared, where there is one, by all who do not give it up. */
static int open_area(const struct bench *bench, struct operation *operation, const struct operation *like) {
    size_t length = operation->kind == AREA_1G ? GIB : bench->smoke ? LENGTH / 4 : LENGTH;
    if (operation->kind == AREA_1G && like && !operation->refill)
        return area_share(&operation->area, &like->area);
    return area_open(&operation->area, operation->kind, length, operation->scratch);
}

static int open_operation(const struct bench *bench, struct operation *operation, const struct scratch *scratch,
                          const struct operation *like) {
    uint64_t minor = operation->kind >= AREA_2M ? UFFD_FEATURE_MINOR_HUGETLBFS : UFFD_FEATURE_MINOR_SHMEM;
    operation->scratch = scratch;
    int error = open_area(bench, operation, like);
    if (error)
        return error;
    operation->uffd = uffd_open(minor | operation->features, 0);
    error = operation->uffd < 0
                ? operation->uffd
                : uffd_arm(operation->uffd, operation->area.view, operation->area.length,
                           UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | operation->modes);
    if (error) {
        if (operation->uffd >= 0)
            close(operation->uffd);
        area_close(&operation->area);
    }
    return error;
}

static void close_operation(struct operation *operation) {
    /* Unmapped first: with the last descriptor closed, faults would be the kernel's. */
    area_close(&operation->area);
    close(operation->uffd);
}

/* ---- operations ---- */

#define WP_FEATURES (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

void bench_operations(struct bench *bench) {
    static const struct operation all[] = {
        {"zap-4K", AREA_4K, 4 * KIB, NULL, do_zap},
        {"zap-64K", AREA_4K, 64 * KIB, NULL, do_zap},
        {"zap-2M-of-4K", AREA_4K, 2048 * KIB, NULL, do_zap},
        {"zap-2M-promoted", AREA_GRADED, 2048 * KIB, map_huge, do_zap},
        {"zap-hugetlb-2M", AREA_2M, 2048 * KIB, NULL, do_zap},
        {"zap-hugetlb-1G", AREA_1G, GIB, NULL, do_zap},
        {"punch-4K", AREA_4K, 4 * KIB, NULL, do_punch, .refill = true},
        {"punch-64K", AREA_4K, 64 * KIB, NULL, do_punch, .refill = true},
        {"punch-2M-of-4K", AREA_4K, 2048 * KIB, NULL, do_punch, .refill = true},
        {"punch-graded-2M", AREA_GRADED, 2048 * KIB, NULL, do_punch, .refill = true},
        {"punch-2M-promoted", AREA_GRADED, 2048 * KIB, map_huge, do_punch, .refill = true},
        {"punch-hugetlb-2M", AREA_2M, 2048 * KIB, NULL, do_punch, .refill = true},
        {"punch-hugetlb-1G", AREA_1G, GIB, NULL, do_punch, .refill = true},
        {"promote-in-place", AREA_GRADED, 2048 * KIB, NULL, do_collapse},
        {"promote-unmapped", AREA_GRADED, 2048 * KIB, map_nothing, do_collapse},
        {"promote-by-copy", AREA_4K, 2048 * KIB, scatter_pages, do_collapse_alias},
        {"poison-4K", AREA_4K, 4 * KIB, map_nothing, do_poison, .features = UFFD_FEATURE_POISON},
        {"poison-hugetlb-2M", AREA_2M, 2048 * KIB, map_nothing, do_poison, .features = UFFD_FEATURE_POISON},
        {"poison-hugetlb-1G", AREA_1G, GIB, map_nothing, do_poison, .features = UFFD_FEATURE_POISON},
        {"protect-4K", AREA_4K, 4 * KIB, NULL, do_protect, .features = WP_FEATURES, .modes = UFFDIO_REGISTER_MODE_WP},
        {"protect-2M-of-4K", AREA_4K, 2048 * KIB, NULL, do_protect, .features = WP_FEATURES,
         .modes = UFFDIO_REGISTER_MODE_WP},
        {"protect-2M-of-graded", AREA_GRADED, 2048 * KIB, NULL, do_protect, .features = WP_FEATURES,
         .modes = UFFDIO_REGISTER_MODE_WP}, /* never promoted: what write-protect mode watches cannot be collapsed */
        {"protect-hugetlb-2M", AREA_2M, 2048 * KIB, NULL, do_protect, .features = WP_FEATURES,
         .modes = UFFDIO_REGISTER_MODE_WP},
        {"protect-hugetlb-1G", AREA_1G, GIB, NULL, do_protect, .features = WP_FEATURES,
         .modes = UFFDIO_REGISTER_MODE_WP},
        {"unprotect-4K", AREA_4K, 4 * KIB, protect_all, do_unprotect, .features = WP_FEATURES,
         .modes = UFFDIO_REGISTER_MODE_WP},
        {"wake-nobody", AREA_4K, 4 * KIB, NULL, do_wake},
    };
    enum { COUNT = sizeof(all) / sizeof(all[0]) };
    static struct operation operations[COUNT];
    struct bench_arm arms[COUNT];
    struct scratch scratch;
    unsigned count = 0;
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    const struct operation *like = NULL; /* has a page of 1 GiB, and keeps it */
    for (unsigned i = 0; i < COUNT; i++) {
        if (bench->smoke && all[i].kind == AREA_1G) /* which takes the machine seconds to make */
            continue;
        operations[count] = all[i];
        int error = open_operation(bench, &operations[count], &scratch, like);
        if (error) {
            bench_skip(bench, all[i].name, "%s", strerror(-error));
            continue;
        }
        if (all[i].kind == AREA_1G && !like)
            like = &operations[count];
        arms[count] = (struct bench_arm){
            .name = all[i].name, .unit = "ns", .turn = operation_turn, .context = &operations[count]};
        count++;
    }
    bench_take_turns(bench, arms, count);
    for (unsigned i = 0; i < count; i++)
        close_operation(&operations[i]);
    scratch_close(&scratch);
}

/* ---- range-continue ---- */

#define LENGTHS 11 /* 1 to 1,024 pages, the most that minnow maps in one call */

static const struct ranges {
    const char *series;
    enum area_kind kind;
    int (*act)(const struct operation *operation, size_t at);
} ranges[] = {{"4K", AREA_4K, do_continue},
              {"4K-dontwake", AREA_4K, do_continue_asleep},
              {"graded", AREA_GRADED, do_continue},
              {"2M", AREA_2M, do_continue},
              {"1G", AREA_1G, do_continue}};
#define SERIES (sizeof(ranges) / sizeof(ranges[0]))

/* One area of each series; lengths take turns on it. */
void bench_range_continue(struct bench *bench) {
    static struct operation operations[SERIES * LENGTHS];
    static char names[SERIES * LENGTHS][32];
    struct bench_arm arms[SERIES * LENGTHS];
    struct scratch scratch;
    unsigned count = 0, opened[SERIES], open_count = 0;
    if (scratch_warm(&scratch, bench->directory, LENGTH)) {
        bench_break(bench, NULL, "no scratch file in %s", bench->directory);
        return;
    }
    for (unsigned s = 0; s < SERIES; s++) {
        struct operation operation = {
            .name = ranges[s].series, .kind = ranges[s].kind, .prepare = map_nothing, .act = ranges[s].act};
        if (bench->smoke && operation.kind == AREA_1G)
            continue;
        int error = open_operation(bench, &operation, &scratch, NULL);
        if (error) {
            bench_skip(bench, ranges[s].series, "%s", strerror(-error));
            continue;
        }
        opened[open_count++] = count;
        /* At least two calls in a turn; of 1 GiB there is one page. */
        size_t page = operation.area.page_bytes, most = page < GIB ? operation.area.length / 2 : page;
        for (unsigned i = 0; i < LENGTHS && page << i <= most; i++, count++) {
            operations[count] = operation;
            operations[count].step = page << i;
            snprintf(names[count], sizeof(names[count]), "%s-%u", ranges[s].series, 1u << i);
            arms[count] = (struct bench_arm){.name = names[count],
                                             .unit = "ns",
                                             .turn = operation_turn,
                                             .context = &operations[count],
                                             .by = "pages",
                                             .at = 1u << i,
                                             .series = ranges[s].series};
        }
    }
    bench_take_turns(bench, arms, count);
    for (unsigned i = 0; i < open_count; i++)
        close_operation(&operations[opened[i]]);
    scratch_close(&scratch);
}
