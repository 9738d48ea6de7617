/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on views whose mapping and userfaultfd are a consumer's own. (The consumer is this process: what the
 * kernel does to its address space is the same; processes of their own are in tests/live/remote_*.c.)
 */
#include "base/bits.h"
#include "high.h"
#include "sys/backing.h"
#include "sys/uffd.h"

#include <stdlib.h>

enum { RACES = 40 };

struct remote {
    struct mnw_view *view;
    uintptr_t address;
    size_t length;
    int uffd;
    /* set before it is opened */
    uint32_t faults_per_second; /* 0: no limit */
    struct mnw_limit *limit;    /* NULL: none that is shared */
    unsigned flags;
};

static int attach(struct high *high, struct remote *remote, size_t first) {
    struct mnw_attach_options options = {.size = sizeof(options),
                                         .offset_bytes = high_offset(high, first),
                                         .length_bytes = remote->length,
                                         .address = remote->address,
                                         .uffd = remote->uffd,
                                         .flags = remote->flags,
                                         .faults_per_second = remote->faults_per_second,
                                         .limit = remote->limit};
    return mnw_view_attach(&remote->view, high->cache, &options);
}

/* Pages [first, first + pages) of the cache. */
static void open_remote(struct high *high, struct remote *remote, size_t first, size_t pages) {
    bool huge = high->kind >= MNW_BACKING_HUGETLB_2M;
    uint64_t features = huge ? MNW__UFFD_MINOR_HUGETLBFS | MNW__UFFD_MISSING_HUGETLBFS
                             : MNW__UFFD_MINOR_SHMEM | MNW__UFFD_MISSING_SHMEM;
    remote->length = pages * high->page;
    remote->address = world_map(mnw_cache_fd(high->cache), high_offset(high, first), remote->length, high->page);
    remote->uffd = mnw__uffd_open(features | (world_has_poison() ? MNW__UFFD_POISON : 0) | MNW__UFFD_EVENT_REMAP |
                                  MNW__UFFD_EVENT_UNMAP);
    const unsigned modes = MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR;
    int error = 0;
    if (remote->flags & MNW_VIEW_FORKED) /* is watched from its birth */
        error = mnw__uffd_register(remote->uffd, remote->address, remote->length, modes, NULL);
    if (!error)
        error = attach(high, remote, first);
    if (error) {
        say("attach: %s", mnw_error());
        exit(1);
    }
}

static void close_remote(struct remote *remote, uintptr_t address, size_t length) {
    if (mnw_view_close(remote->view))
        exit(1);
    mnw__uffd_close(remote->uffd); /* first, or the munmap would wait for it to be read */
    if (length)
        world_unmap(address, length);
}

/* One byte of the page that should be at the address. */
static void expect_page(struct high *high, uintptr_t address, size_t page, enum world_outcome wanted) {
    unsigned char byte = 0;
    uintptr_t stopped = 0;
    enum world_outcome outcome = world_read(address + high->page / 2, &byte, 1, &stopped);
    expect(outcome == wanted && (wanted != WORLD_OK || byte == high_byte(page, high->version)), "page %zu: %s", page,
           outcome_name(outcome));
    if (wanted != WORLD_OK)
        expect(stopped == address + high->page / 2, "at the very byte");
}

/* ---- reading, failing, healing ---- */

static void read_and_heal(enum mnw_backing kind) {
    struct high high;
    struct remote remote = {0};
    high_open(&high, kind, &(struct high_options){.extents = 4});
    open_remote(&high, &remote, 0, high.pages);
    high.page_of[1].error = -5;
    high.page_of[1].error_times = -1;
    for (size_t page = 0; page < high.pages && page < 8; page++)
        expect_page(&high, remote.address + page * high.page, page, page == 1 ? WORLD_SIGBUS : WORLD_OK);
    expect_result("invalidate, still bad", mnw_invalidate(high.cache, high_offset(&high, 1), high.page), -5);
    expect_page(&high, remote.address + high.page, 1, WORLD_SIGBUS);
    high.page_of[1].error = 0;
    expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, 1), high.page), 0);
    expect_page(&high, remote.address + high.page, 1, WORLD_OK);
    close_remote(&remote, remote.address, remote.length);
    high_close(&high);
}

/* ---- torn and moved ---- */

static void tear_and_move(enum mnw_backing kind) {
    struct high high;
    struct remote remote = {0};
    struct mnw_view_range ranges[4];
    high_open(&high, kind, &(struct high_options){.extents = kind >= MNW_BACKING_HUGETLB_2M ? 6 : 2});
    size_t page = high.page, last = high.pages - 1;
    open_remote(&high, &remote, 0, high.pages);
    expect_page(&high, remote.address, 0, WORLD_OK);
    world_unmap(remote.address + page, page);
    expect_page(&high, remote.address + page, 1, WORLD_SIGSEGV);
    expect_page(&high, remote.address + 2 * page, 2, WORLD_OK);
    expect(mnw_view_ranges(remote.view, ranges, 4) == 2, "two ranges");
    /* The last page moves far behind, touched or not. */
    uintptr_t behind = remote.address + remote.length + mnw__align_up(remote.length / 2, page);
    world_move(remote.address + last * page, page, behind);
    expect_page(&high, behind, last, WORLD_OK);
    expect_page(&high, remote.address + last * page, last, WORLD_SIGSEGV);
    expect(mnw_view_ranges(remote.view, ranges, 4) == 3, "three ranges");
    world_move(behind, page, remote.address + last * page);
    expect_page(&high, remote.address + last * page, last, WORLD_OK);
    expect(mnw_view_ranges(remote.view, ranges, 4) == 2, "two ranges");
    if (mnw_view_close(remote.view))
        exit(1);
    mnw__uffd_close(remote.uffd);
    world_unmap(remote.address, page);
    world_unmap(remote.address + 2 * page, (last - 2) * page);
    world_unmap(remote.address + last * page, page);
    high_close(&high);
}

/* ---- a place that changes hands ---- */

struct release {
    struct mnw__thread thread;
    struct high *high;
    size_t page;
};

static void release(void *argument) {
    struct release *this = argument;
    high_release(this->high, this->page);
}

/*
 * A reader of one view waits for page 0, which another view waits for as well; the store answers just as the one view's
 * place is given to a third, of other pages that are being read. What was meant for the first must not be mapped
 * into the third, whose reader would see a page that is not there yet.
 */
static bool change_hands(struct high *high) {
    struct remote first = {0}, third = {0};
    struct reader waits, joins, early;
    struct mnw_view *second;
    struct release answer = {.high = high, .page = 0};
    const size_t half = high->pages / 2, count = half < 4 ? half : 4;
    open_remote(high, &first, 0, count);
    open_remote(high, &third, half, count);
    uintptr_t aside = first.address + first.length;
    high_hold(high, 0);
    high_hold(high, half);
    reader_start(&waits, high_at(high->view, high, 0), 1);
    high_wait_asked(high, 0, 1);
    /* Joined, so that the page is mapped into every view that has it. */
    high_open_view(high, &second, 0, high->pages, 0);
    reader_start(&joins, high_at(second, high, 0), 1);
    high_wait_faults(high, 2);
    reader_start(&early, high_at(high->view, high, half), 1);
    high_wait_asked(high, half, 1);
    if (mnw__thread_start(&answer.thread, "answer", -1, release, &answer))
        exit(1);
    world_move(first.address, first.length, aside);
    world_move(third.address, third.length, first.address);
    mnw__thread_join(&answer.thread);
    reader_join(&waits);
    reader_free(&waits);
    reader_join(&joins);
    reader_free(&joins);
    if (mnw_view_close(second))
        exit(1);
    /* Now in the place of the first. */
    struct reader reader;
    reader_start(&reader, first.address, 1);
    bool sleeps = reader_sleeps(&reader);
    high_release(high, half);
    reader_join(&reader);
    reader_join(&early);
    bool good = sleeps && reader.outcome == WORLD_OK && reader.bytes[0] == high_byte(half, high->version);
    reader_free(&reader);
    reader_free(&early);
    close_remote(&first, aside, first.length);
    close_remote(&third, first.address, third.length);
    return good;
}

static void races(enum mnw_backing kind) {
    unsigned good = 0;
    for (unsigned i = 0; i < RACES; i++) {
        struct high high;
        high_open(&high, kind, &(struct high_options){.extents = kind >= MNW_BACKING_HUGETLB_2M ? 4 : 2});
        good += change_hands(&high);
        high_close(&high);
    }
    expect(good == RACES, "in %d races nothing was mapped by addresses that are no more", RACES);
}

/* ---- a limit, and a mapping that changes ---- */

struct unmapper {
    struct mnw__thread thread;
    uintptr_t address;
    size_t length;
    _Atomic bool is_done;
};

static void unmap(void *argument) {
    struct unmapper *this = argument;
    world_unmap(this->address, this->length);
    atomic_store(&this->is_done, true);
}

static bool is_unmapped(void *argument) {
    return atomic_load(&((struct unmapper *)argument)->is_done);
}

/*
 * A consumer that has used its limit up faults in one thread and unmaps in another. The kernel hands out the fault
 * first, each time, and maps nothing before the other event was read.
 */
static void unmap_at_the_limit(enum mnw_backing kind) {
    struct high high;
    struct remote remote = {.faults_per_second = 2};
    struct reader reader;
    high_open(&high, kind, &(struct high_options){.extents = 4});
    const size_t step = high.extent_pages; /* what is mapped along with a page lies in its extent */
    for (size_t page = 0; page < high.pages; page += step)
        expect_page(&high, high_at(high.view, &high, page), page, WORLD_OK); /* none has to be read again */
    open_remote(&high, &remote, 0, high.pages);
    for (size_t page = 0; page < 2 * step; page += step)
        expect_page(&high, remote.address + page * high.page, page, WORLD_OK);
    struct unmapper unmapper = {.address = remote.address + 3 * step * high.page, .length = step * high.page};
    reader_start(&reader, remote.address + 2 * step * high.page, 1);
    if (mnw__thread_start(&unmapper.thread, "unmap", -1, unmap, &unmapper))
        exit(1);
    wait_until(is_unmapped, &unmapper, "the unmapping");
    mnw__thread_join(&unmapper.thread);
    expect(reader_join(&reader) == WORLD_OK && reader.bytes[0] == high_byte(2 * step, high.version), "both have ended");
    reader_free(&reader);
    expect_page(&high, unmapper.address, 3 * step, WORLD_SIGSEGV);
    close_remote(&remote, remote.address, 3 * step * high.page);
    high_close(&high);
}

/* ---- a limit that views share ---- */

/* Has its page taken away each time, so that it faults without end. */
struct hog {
    struct mnw__thread thread;
    uintptr_t address;
    size_t length;
    _Atomic unsigned faults;
    _Atomic bool stop;
};

static void fault_on(void *argument) {
    struct hog *hog = argument;
    unsigned char byte;
    uintptr_t stopped;
    while (!atomic_load(&hog->stop)) {
        if (world_read(hog->address, &byte, 1, &stopped) != WORLD_OK || mnw__view_zap(hog->address, hog->length))
            exit(1);
        atomic_fetch_add(&hog->faults, 1);
    }
}

static void hog_start(struct high *high, struct hog *hog, const struct remote *remote, size_t extent) {
    *hog = (struct hog){.address = remote->address + extent * high->extent, .length = high->extent};
    if (mnw__thread_start(&hog->thread, "hog", -1, fault_on, hog))
        exit(1);
}

static unsigned faults_of(struct hog *hogs, size_t count) {
    unsigned faults = 0;
    for (size_t i = 0; i < count; i++)
        faults += atomic_load(&hogs[i].faults);
    return faults;
}

struct goal {
    struct hog *hogs;
    size_t count;
    unsigned faults;
};

static bool is_reached(void *argument) {
    const struct goal *goal = argument;
    return faults_of(goal->hogs, goal->count) >= goal->faults;
}

/*
 * One view's threads fault without end, for more than what two may have together: each time that it is looked at, it
 * takes all that there is. The other is looked at just behind it, and has its turns all the same: every second fault is
 * its, or nearly. (A machine too slow for the limit would share by the number of threads.)
 */
static void share_a_limit(enum mnw_backing kind) {
    enum { HOGS = 8, PER_SECOND = 2000, SAVED_UP = PER_SECOND / 10, FAULTS = 100 };
    struct high high;
    struct remote busy = {0}, other = {0};
    struct hog hogs[HOGS + 1]; /* the last is the other view's */
    high_open(&high, kind, &(struct high_options){.extents = HOGS});
    expect(mnw_prefetch(high.cache, 0, high.size_bytes, 1) > 0, "prefetch");
    high_event(&high, MNW_EVENT_PREFETCH, 0, 1);
    expect_result("a limit", mnw_limit_open(&busy.limit, PER_SECOND), 0);
    other.limit = busy.limit;
    open_remote(&high, &other, 0, high.pages);
    open_remote(&high, &busy, 0, high.pages);
    expect_result("which the views keep", mnw_limit_close(busy.limit), 0);
    for (size_t i = 0; i < HOGS; i++)
        hog_start(&high, &hogs[i], &busy, i);
    hog_start(&high, &hogs[HOGS], &other, 0);
    wait_until(is_reached, &(struct goal){hogs, HOGS + 1, SAVED_UP + HOGS}, "what was saved up to be spent");
    unsigned before = faults_of(hogs, HOGS), others = faults_of(&hogs[HOGS], 1);
    wait_until(is_reached, &(struct goal){&hogs[HOGS], 1, others + FAULTS}, "faults beside a view that takes all");
    unsigned after = faults_of(hogs, HOGS);
    expect(after - before < 6 * FAULTS, "%d faults beside a view that takes all it can", FAULTS);
    for (size_t i = 0; i < HOGS + 1; i++)
        atomic_store(&hogs[i].stop, true);
    for (size_t i = 0; i < HOGS + 1; i++)
        mnw__thread_join(&hogs[i].thread);
    close_remote(&busy, busy.address, busy.length);
    close_remote(&other, other.address, other.length);
    high_close(&high);
}

/* ---- a child's view that is closed ---- */

/*
 * Whoever closes it has its only userfaultfd. From then on it is SIGBUS where the child has not been, and where it has
 * been when that is taken away.
 */
static void close_child(enum mnw_backing kind) {
    struct high high;
    struct remote child = {.flags = MNW_VIEW_FORKED};
    high_open(&high, kind, &(struct high_options){.extents = 4});
    const size_t step = high.extent_pages; /* what is mapped along with a page lies in its extent */
    open_remote(&high, &child, 0, high.pages);
    for (size_t i = 0; i < 3; i++)
        expect_page(&high, child.address + i * step * high.page, i * step, WORLD_OK);
    mnw__uffd_close(child.uffd);
    expect_result("close", mnw_view_close(child.view), 0);
    expect_page(&high, child.address, 0, WORLD_OK);
    expect_page(&high, child.address + 3 * step * high.page, 3 * step, WORLD_SIGBUS);
    expect_result("invalidate", mnw_invalidate(high.cache, 0, high.size_bytes), 0);
    expect_page(&high, child.address, 0, WORLD_SIGBUS);
    expect_page(&high, child.address + 3 * step * high.page, 3 * step, WORLD_SIGBUS);
    world_unmap(child.address + 2 * step * high.page, step * high.page); /* waits until that was read */
    size_t page = high.page;
    high_close(&high); /* what is left is barred for good: tests/live/remote_fork.c */
    world_unmap(child.address, 2 * step * page);
    world_unmap(child.address + 3 * step * page, child.length - 3 * step * page);
}

const struct scenario scenarios_remote[] = {
    {"remote-read-and-heal", ON_ALL | NEEDS_POISON, read_and_heal},
    {"remote-tear-and-move", ON_SHMEM | ON_HUGETLB, tear_and_move},
    {"remote-place-changes-hands", ON_SHMEM | ON_HUGETLB, races},
    {"remote-unmaps-at-the-limit", ON_SHMEM | ON_HUGETLB, unmap_at_the_limit},
    {"remote-views-share-a-limit", ON_SHMEM | NEEDS_SPEED, share_a_limit},
    {"remote-child-is-closed", ON_SHMEM | ON_HUGETLB | NEEDS_POISON, close_child},
    {0},
};
