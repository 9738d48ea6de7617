/* SPDX-License-Identifier: MIT */
/*
 * Consumers that fork, and consumers that do everything at once: parents and children have the right bytes while other
 * threads of theirs tear the mapping, memory is short, and other consumers fault on the same pages.
 */
#include "machine.h"
#include "sys/uffd.h"
#include "torn.h"

#include "sys/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int wait_for(pid_t child) {
    int status;
    if (waitpid(child, &status, 0) != child)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- fork ---- */

/* Child and grandchild read all, while the parent does. */
static int64_t fork_and_read(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    CHECK(!torn_right(map->data, unit, 2, 0) && !torn_right(map->data + 2 * unit, unit, 2, 1));
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pid_t grandchild = fork();
        int64_t bad = torn_right(map->data, unit, 0, TORN_UNITS);
        _exit(!grandchild ? (int)(bad & 127) : bad ? 99 : wait_for(grandchild));
    }
    int64_t bad = torn_right(map->data, unit, 0, TORN_UNITS);
    int childs = wait_for(child);
    return bad ? bad : childs;
}

/* The child tears what it has inherited; the parent's stays. */
static int64_t fork_and_tear(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit((int)torn_unmap_parts(side, argument) & 127);
    }
    int childs = wait_for(child);
    int64_t bad = torn_right(map->data, unit, 0, TORN_UNITS);
    return bad ? bad : childs;
}

/* Copies made before are the child's too, later ones are not. */
static int64_t fork_and_write(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    map->data[unit] = 'b';
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bool good = map->data[unit] == 'b';
        map->data[2 * unit] = 'c';
        good &= map->data[2 * unit] == 'c' && !torn_right(map->data + 3 * unit, unit, 3, TORN_UNITS - 3);
        good &= !bed_compare(map->data + unit + 1, unit + 1, unit - 1, 1, NULL);
        _exit(good ? 0 : 9);
    }
    int childs = wait_for(child);
    CHECK(map->data[unit] == 'b' && !bed_compare(map->data + unit + 1, unit + 1, (TORN_UNITS - 1) * unit - 1, 1, NULL));
    return childs;
}

static void run_fork(enum mnw_backing backing, unsigned flags, peer_body *body, unsigned children) {
    struct torn world;
    torn_open(&world, backing, flags, UFFD_FEATURE_EVENT_FORK);
    int64_t bad = peer_do(&world.peers[0], body, &world.unit, sizeof(world.unit));
    if (bad)
        fail_msg("in the peer: %lld", (long long)bad);
    assert_int_equal(torn_close_children(&world, children), children);
    torn_close(&world);
}

static void test_fork(void **state) {
    (void)state;
    run_fork(MNW_BACKING_SHMEM, 0, fork_and_read, 2);
    run_fork(MNW_BACKING_GRADED, 0, fork_and_read, 2);
    run_fork(MNW_BACKING_HUGETLB_2M, 0, fork_and_read, 2);
    run_fork(MNW_BACKING_SHMEM, MNW_VIEW_WRITE, fork_and_write, 1);
    run_fork(MNW_BACKING_SHMEM, 0, fork_and_tear, 1);
}

/*
 * Forks a child that runs `first`, says so, waits until the parent lets it, and runs `then`. 0 when the child has said
 * so; it is waited for by let_go_on().
 */
static int64_t fork_in_two(struct peer_side *side, size_t unit, int (*first)(const char *data, size_t unit),
                           int (*then)(const char *data, size_t unit)) {
    const struct peer_map *map = &side->maps[0];
    int gate[2], ready[2];
    char byte = 0;
    CHECK(!pipe(gate) && !pipe(ready));
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(gate[1]);
        int bad = first(map->data, unit);
        if (bad || write(ready[1], &byte, 1) != 1 || read(gate[0], &byte, 1) != 0)
            _exit(bad ? bad : 8);
        _exit(then(map->data, unit));
    }
    close(gate[0]);
    close(ready[1]);
    bool is_ready = read(ready[0], &byte, 1) == 1;
    close(ready[0]);
    side->maps[1].uffd = gate[1];
    side->maps[1].length = (size_t)child;
    return is_ready ? 0 : __LINE__;
}

/* A child whose view is closed gets SIGBUS where it has not been, never zeros; its parent notices nothing. */
static int read_second(const char *data, size_t unit) {
    return torn_right(data + unit, unit, 1, 1) ? 7 : 0;
}

static int read_second_and_sixth(const char *data, size_t unit) {
    if (read_second(data, unit))
        return 7;
    return bed_touch(data + 5 * unit, NULL) == SIGBUS ? 0 : 6;
}

static int64_t fork_and_wait(struct peer_side *side, const void *argument) {
    return fork_in_two(side, *(const size_t *)argument, read_second, read_second_and_sixth);
}

static int64_t let_go_on(struct peer_side *side, const void *argument) {
    (void)argument;
    close(side->maps[1].uffd);
    return wait_for((pid_t)side->maps[1].length);
}

/* No event tells that the mapping is more than one now. */
static int read_second_and_split(const char *data, size_t unit) {
    if (read_second(data, unit))
        return 7;
    return mprotect((void *)((uintptr_t)data + 3 * unit), BED_PAGE, PROT_NONE) ? 5 : 0;
}

static int64_t fork_and_split(struct peer_side *side, const void *argument) {
    return fork_in_two(side, *(const size_t *)argument, read_second_and_split, read_second_and_sixth);
}

static void run_closed_child(peer_body *fork_it) {
    struct torn world;
    torn_open(&world, MNW_BACKING_SHMEM, 0, UFFD_FEATURE_EVENT_FORK);
    assert_int_equal(peer_do(&world.peers[0], fork_it, &world.unit, sizeof(world.unit)), 0);
    assert_int_equal(torn_close_children(&world, 1), 1);
    assert_int_equal(peer_do(&world.peers[0], let_go_on, &world.unit, sizeof(world.unit)), 0);
    peer_assert_right(&world.peers[0], 0, 0, TORN_UNITS * world.unit, 1);
    torn_close(&world);
}

static void test_closed_child(void **state) {
    (void)state;
    run_closed_child(fork_and_wait);
    run_closed_child(fork_and_split);
}

/* Where it has been, too, as soon as that is evicted; and so it is for its own children. */
static int meet_sigbus_in_second(const char *data, size_t unit) {
    pid_t grandchild = fork();
    if (!grandchild)
        _exit(bed_touch(data + unit, NULL) == SIGBUS && bed_touch(data + 2 * unit, NULL) == SIGBUS ? 0 : 4);
    return bed_touch(data + unit, NULL) == SIGBUS && bed_touch(data + 5 * unit, NULL) == SIGBUS ? wait_for(grandchild)
                                                                                                : 6;
}

static int64_t fork_and_meet_sigbus(struct peer_side *side, const void *argument) {
    return fork_in_two(side, *(const size_t *)argument, read_second, meet_sigbus_in_second);
}

/* With `closes` the cache is closed before the child goes on. */
static void run_evicted_child(enum mnw_backing backing, bool closes) {
    struct torn world;
    torn_open(&world, backing, 0, UFFD_FEATURE_EVENT_FORK);
    assert_int_equal(peer_do(&world.peers[0], fork_and_meet_sigbus, &world.unit, sizeof(world.unit)), 0);
    assert_int_equal(torn_close_children(&world, 1), 1);
    assert_int_equal(mnw_invalidate(world.bed.cache, 0, TORN_UNITS * world.unit), 0); /* takes its pages away */
    if (!closes) {
        assert_int_equal(peer_do(&world.peers[0], let_go_on, &world.unit, sizeof(world.unit)), 0);
        peer_assert_right(&world.peers[0], 0, 0, TORN_UNITS * world.unit, 1);
        torn_close(&world);
        return;
    }
    for (unsigned i = 0; i < TORN_PEERS; i++)
        assert_int_equal(mnw_view_close(world.views[i]), 0);
    bed_close(&world.bed);
    assert_int_equal(peer_do(&world.peers[0], let_go_on, &world.unit, sizeof(world.unit)), 0);
    for (unsigned i = 0; i < TORN_PEERS; i++)
        peer_stop(&world.peers[i]);
    bed_source_close(&world.source);
}

static void test_evicted_child(void **state) {
    (void)state;
    run_evicted_child(MNW_BACKING_SHMEM, false);
    run_evicted_child(MNW_BACKING_SHMEM, true);
    run_evicted_child(MNW_BACKING_HUGETLB_2M, false);
    run_evicted_child(MNW_BACKING_HUGETLB_2M, true);
}

/* A closed child's descriptor goes when it has ended, though nobody is told. */
static bool is_buried(void *argument) {
    return bed_holdings().descriptors == *(const unsigned *)argument;
}

static void test_ended_child(void **state) {
    (void)state;
    struct torn world;
    torn_open(&world, MNW_BACKING_SHMEM, 0, UFFD_FEATURE_EVENT_FORK);
    unsigned before = bed_holdings().descriptors;
    assert_int_equal(peer_do(&world.peers[0], fork_and_meet_sigbus, &world.unit, sizeof(world.unit)), 0);
    assert_int_equal(torn_close_children(&world, 1), 1);
    assert_int_equal(bed_holdings().descriptors, before + 1);
    assert_int_equal(mnw_invalidate(world.bed.cache, 0, TORN_UNITS * world.unit), 0);
    assert_int_equal(peer_do(&world.peers[0], let_go_on, &world.unit, sizeof(world.unit)), 0);
    if (!bed_eventually(is_buried, &before))
        fail_msg("%u descriptors, and %u before the child", bed_holdings().descriptors, before);
    assert_int_equal(torn_close_children(&world, 0), 0); /* nor of its child */
    torn_close(&world);
}

/* A closed child that forks without end: each of its children takes a descriptor of ours. */
enum { SEALED_MAX = 1024, MANY = SEALED_MAX + 100, PATIENCE = 400 /* twentieths of a second */ };
static _Atomic bool *many_may_end; /* all processes' */

static int fork_many(const char *data, size_t unit) {
    static pid_t children[MANY];
    (void)data;
    (void)unit;
    for (unsigned i = 0; i < MANY; i++) {
        children[i] = fork();
        if (!children[i]) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            while (!atomic_load(many_may_end))
                usleep(100000);
            _exit(0);
        }
    }
    for (unsigned i = 0; i < MANY; i++)
        if (wait_for(children[i]))
            return 3;
    return 0;
}

static int64_t fork_one_that_forks_many(struct peer_side *side, const void *argument) {
    return fork_in_two(side, *(const size_t *)argument, read_second, fork_many);
}

static unsigned count_descriptors(void) {
    unsigned count = 0;
    for (int fd = 0; fd < 4 * SEALED_MAX; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void test_children_of_a_closed_child_are_bounded(void **state) {
    (void)state;
    struct torn world;
    unsigned most = 0, turns = 0;
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < 4 * SEALED_MAX || MACHINE_SANITIZED) {
        print_message("this takes %d descriptors, and as many processes without a sanitizer\n", 4 * SEALED_MAX);
        skip();
    }
    limit.rlim_cur = 4 * SEALED_MAX;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    many_may_end = mmap(NULL, sizeof(*many_may_end), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(many_may_end, MAP_FAILED);
    torn_open(&world, MNW_BACKING_SHMEM, 0, UFFD_FEATURE_EVENT_FORK);
    unsigned before = count_descriptors();
    assert_int_equal(peer_do(&world.peers[0], fork_one_that_forks_many, &world.unit, sizeof(world.unit)), 0);
    assert_int_equal(torn_close_children(&world, 1), 1);
    peer_ask(&world.peers[0], let_go_on, &world.unit, sizeof(world.unit));
    while (!peer_has_answered(&world.peers[0], 50)) {
        unsigned now = count_descriptors();
        turns = now > most ? 0 : turns + 1;
        most = now > most ? now : most;
        /* It goes no further; where it did not come so far, it may have been slow. */
        atomic_store(many_may_end, turns > (most - before < SEALED_MAX ? PATIENCE : 10));
        peer_assert_right(&world.peers[1], 0, 0, TORN_UNITS * world.unit, 1); /* nobody else is concerned */
    }
    assert_int_equal(peer_answer(&world.peers[0]), 0); /* those beyond came when others had ended */
    assert_in_range(most - before, SEALED_MAX, SEALED_MAX + 8);
    torn_close(&world);
    munmap(many_may_end, sizeof(*many_may_end));
}

/* SIGBUS is inherited, and taken off in all. */
static int meet_sigbus(const char *data, size_t unit) {
    (void)unit;
    return bed_touch(data + 3 * BED_PAGE, NULL) == SIGBUS ? 0 : 5;
}

static int read_eight(const char *data, size_t unit) {
    (void)unit;
    return bed_compare(data, 0, 8 * BED_PAGE, 1, NULL) ? 6 : 0;
}

static int64_t fork_with_sigbus(struct peer_side *side, const void *argument) {
    CHECK(bed_touch(side->maps[0].data + 3 * BED_PAGE, NULL) == SIGBUS);
    return fork_in_two(side, *(const size_t *)argument, meet_sigbus, read_eight);
}

static void test_fork_with_sigbus(void **state) {
    (void)state;
    struct torn world;
    torn_open(&world, MNW_BACKING_SHMEM, 0, UFFD_FEATURE_EVENT_FORK);
    atomic_store(&world.source.bad_page, 3);
    assert_int_equal(peer_do(&world.peers[0], fork_with_sigbus, &world.unit, sizeof(world.unit)), 0);
    atomic_store(&world.source.bad_page, UINT64_MAX);
    assert_int_equal(mnw_invalidate(world.bed.cache, 0, 16 * BED_PAGE), 0);
    assert_int_equal(peer_do(&world.peers[0], let_go_on, &world.unit, sizeof(world.unit)), 0);
    peer_assert_right(&world.peers[0], 0, 0, 8 * BED_PAGE, 1);
    assert_int_equal(torn_close_children(&world, 1), 1);
    torn_close(&world);
}

/* ---- taken over ---- */

enum { ALL = 64, GONE_FROM = 20, GONE_TO = 31 };

/* Something else, with holes, in the place of some pages. */
static int64_t put_another_there(struct peer_side *side, const void *argument) {
    (void)argument;
    char *at = side->maps[0].data + GONE_FROM * BED_PAGE;
    size_t length = (GONE_TO - GONE_FROM) * BED_PAGE;
    int fd = memfd_create("other", MFD_CLOEXEC);
    CHECK(fd >= 0 && !ftruncate(fd, (off_t)length));
    CHECK(mmap(at, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == at);
    return 0;
}

static int64_t use_the_other(struct peer_side *side, const void *argument) {
    (void)argument;
    char *at = side->maps[0].data + GONE_FROM * BED_PAGE;
    CHECK(at[5 * BED_PAGE] == 0);
    at[6 * BED_PAGE] = 'o';
    CHECK(at[6 * BED_PAGE] == 'o');
    return 0;
}

/* What was said of a child is older than what it has done: what is not watched any more is none of the view's. */
static void test_forked_ranges_may_be_stale(void **state) {
    (void)state;
    struct pair pair;
    uint64_t address;
    pair_open(&pair, MNW_BACKING_SHMEM, ALL * BED_PAGE, 512 << 10);
    int uffd = peer_map(&pair.peers[0], pair.bed.cache, &(struct peer_mapping){.length = ALL * BED_PAGE}, &address);
    assert_int_equal(
        mnw__uffd_register(uffd, address, ALL * BED_PAGE, MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL), 0);
    assert_int_equal(mnw__uffd_unregister(uffd, address + GONE_FROM * BED_PAGE, (GONE_TO - GONE_FROM) * BED_PAGE), 0);
    assert_int_equal(peer_do(&pair.peers[0], put_another_there, NULL, 0), 0);

    struct mnw_view_range said = {address, 0, ALL * BED_PAGE}, left[3];
    struct mnw_attach_options options = {
        .size = sizeof(options), .uffd = uffd, .flags = MNW_VIEW_FORKED, .ranges = &said, .range_count = 1};
    struct mnw_view *view;
    assert_int_equal(mnw_view_attach(&view, pair.bed.cache, &options), 0);
    assert_int_equal(mnw_view_ranges(view, left, 3), 2);
    assert_int_equal(left[0].length_bytes, GONE_FROM * BED_PAGE);
    assert_int_equal(left[1].address, address + GONE_TO * BED_PAGE);
    assert_int_equal(left[1].length_bytes, (ALL - GONE_TO) * BED_PAGE);
    peer_assert_right(&pair.peers[0], 0, 0, GONE_FROM * BED_PAGE, 1);
    peer_assert_right(&pair.peers[0], 0, GONE_TO * BED_PAGE, 9 * BED_PAGE, 1);
    assert_int_equal(peer_do(&pair.peers[0], use_the_other, NULL, 0), 0);
    assert_int_equal(mnw_view_close(view), 0); /* as of a child: what it has not touched is SIGBUS */
    peer_assert_bus(&pair.peers[0], 0, (ALL - 1) * BED_PAGE);
    close(uffd);
    pair_close(&pair);
}

/*
 * A child that nobody serves yet, and that says so itself: it is looked at as any consumer, and closed as a child. Its
 * own duplicate of the userfaultfd would let it wait for ever.
 */
static void test_forked_that_asks(void **state) {
    (void)state;
    struct pair pair;
    uint64_t address;
    pair_open(&pair, MNW_BACKING_SHMEM, ALL * BED_PAGE, 512 << 10);
    int uffd = peer_map(&pair.peers[0], pair.bed.cache, &(struct peer_mapping){.length = ALL * BED_PAGE}, &address);
    struct mnw_attach_options options = {.size = sizeof(options),
                                         .uffd = uffd,
                                         .address = address,
                                         .offset_bytes = BED_PAGE,
                                         .length_bytes = (ALL - 1) * BED_PAGE,
                                         .flags = MNW_VIEW_FORKED,
                                         .pid = pair.peers[0].pid};
    struct mnw_view *view;
    assert_int_equal(mnw_view_attach(&view, pair.bed.cache, &options), -EINVAL); /* another offset is mapped there */
    options.offset_bytes = 0;
    options.length_bytes = ALL * BED_PAGE;
    assert_int_equal(mnw_view_attach(&view, pair.bed.cache, &options), 0);
    peer_assert_right(&pair.peers[0], 0, 0, 9 * BED_PAGE, 1);
    assert_int_equal(mnw_view_close(view), 0);
    peer_assert_bus(&pair.peers[0], 0, (ALL - 1) * BED_PAGE);
    close(uffd);
    pair_close(&pair);
}

/* A mapping of half the file, with room for the other half behind it, and nobody but the test has its userfaultfd. */
static int64_t keep_half(struct peer_side *side, const void *argument) {
    (void)argument;
    struct peer_map *map = &side->maps[0];
    close(map->uffd);
    return munmap(map->data + ALL * BED_PAGE, ALL * BED_PAGE);
}

static int64_t grow_in_place(struct peer_side *side, const void *argument) {
    (void)argument;
    char *data = side->maps[0].data;
    CHECK(mremap(data, ALL * BED_PAGE, 2 * ALL * BED_PAGE, 0) == data);
    return 0;
}

/* No event tells of it, and with the cache closed nobody is there to see that it is touched. */
static void test_closed_child_that_grew(void **state) {
    (void)state;
    struct pair pair;
    uint64_t address;
    pair_open(&pair, MNW_BACKING_SHMEM, 2 * ALL * BED_PAGE, 1 << 20);
    int uffd = peer_map(&pair.peers[0], pair.bed.cache, &(struct peer_mapping){.length = 2 * ALL * BED_PAGE}, &address);
    assert_int_equal(peer_do(&pair.peers[0], keep_half, NULL, 0), 0);
    struct mnw_view_range said = {address, 0, ALL * BED_PAGE};
    struct mnw_attach_options options = {
        .size = sizeof(options), .uffd = uffd, .flags = MNW_VIEW_FORKED, .ranges = &said, .range_count = 1};
    struct mnw_view *view;
    assert_int_equal(
        mnw__uffd_register(uffd, address, ALL * BED_PAGE, MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL), 0);
    assert_int_equal(mnw_view_attach(&view, pair.bed.cache, &options), 0);
    peer_assert_right(&pair.peers[0], 0, 0, BED_PAGE, 1);
    assert_int_equal(mnw_view_close(view), 0);
    close(uffd);
    assert_int_equal(peer_do(&pair.peers[0], grow_in_place, NULL, 0), 0);
    bed_close(&pair.bed);
    peer_assert_bus(&pair.peers[0], 0, (ALL - 1) * BED_PAGE);
    peer_assert_bus(&pair.peers[0], 0, ALL * BED_PAGE);
    peer_assert_bus(&pair.peers[0], 0, (ALL + 37) * BED_PAGE);
    peer_assert_bus(&pair.peers[0], 0, (2 * ALL - 1) * BED_PAGE);
    for (unsigned i = 0; i < 2; i++)
        peer_stop(&pair.peers[i]);
    bed_source_close(&pair.source);
}

/* ---- all at once ---- */

struct storm {
    size_t unit;
    unsigned ms;
    bool forks;
};

struct storm_reader {
    const struct peer_map *map;
    size_t unit;
    _Atomic bool *stop;
    int64_t bad;
};

/* The first third of the mapping is let alone by the others. */
static void *read_on(void *argument) {
    struct storm_reader *reader = argument;
    unsigned turn = 0;
    while (!atomic_load(reader->stop) && !reader->bad) {
        unsigned first = turn++ * 7 % (TORN_UNITS / 3);
        reader->bad = torn_right(reader->map->data + first * reader->unit, reader->unit, first, 1);
        madvise(reader->map->data + first * reader->unit, reader->unit, MADV_DONTNEED);
    }
    return NULL;
}

/* What follows is torn, moved there and back, and read. */
static int64_t move_about(const struct peer_map *map, char *room, size_t unit, unsigned turn) {
    unsigned first = TORN_UNITS / 3 + turn % 4, count = 1 + turn % 3;
    char *home = map->data + first * unit;
    CHECK(torn_move_units(home, room, unit, count));
    CHECK(!torn_right(room, unit, first, count));
    CHECK(torn_move_units(room, home, unit, count));
    CHECK(!madvise(home, count * unit, MADV_DONTNEED));
    CHECK(!torn_right(home, unit, first, count));
    return 0;
}

static int64_t storm(struct peer_side *side, const void *argument) {
    const struct storm *order = argument;
    const struct peer_map *map = &side->maps[0];
    _Atomic bool stop = false;
    struct storm_reader readers[2];
    pthread_t threads[2];
    char *room = torn_room(map->data, order->unit, 4);
    CHECK(room);
    for (unsigned i = 0; i < 2; i++) {
        readers[i] = (struct storm_reader){map, order->unit, &stop, 0};
        CHECK(!pthread_create(&threads[i], NULL, read_on, &readers[i]));
    }
    int64_t bad = 0;
    struct timespec began, now;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (unsigned turn = 0; !bad; turn++) {
        bad = move_about(map, room, order->unit, turn);
        if (!bad && order->forks && turn % 8 == 0) {
            pid_t child = fork();
            if (!child)
                _exit(torn_right(map->data + 4 * order->unit, order->unit, 4, 4) ? 1 : 0);
            bad = wait_for(child);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000 > order->ms)
            break;
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        bad = bad ? bad : readers[i].bad;
    }
    return bad;
}

/* Under a sanitizer a process of several threads does not fork. */
static void run_storm(enum mnw_backing backing, bool may_fork) {
    const bool forks = may_fork && !MACHINE_SANITIZED;
    struct torn world;
    torn_open(&world, backing, 0, forks ? UFFD_FEATURE_EVENT_FORK : 0);
    struct storm order = {world.unit, 700, forks};
    for (unsigned i = 0; i < TORN_PEERS; i++)
        peer_ask(&world.peers[i], storm, &order, sizeof(order));
    for (unsigned i = 0; i < TORN_PEERS; i++) {
        while (!peer_has_answered(&world.peers[i], 1))
            torn_note_child(&world, 1);
        int64_t bad = peer_answer(&world.peers[i]);
        if (bad)
            fail_msg("in peer %u: %lld", i, (long long)bad);
    }
    assert_true(torn_close_children(&world, forks) >= forks);
    torn_close(&world);
}

static void test_storm_shmem(void **state) {
    (void)state;
    run_storm(MNW_BACKING_SHMEM, false);
    run_storm(MNW_BACKING_SHMEM, true);
}
static void test_storm_graded(void **state) {
    (void)state;
    run_storm(MNW_BACKING_GRADED, true);
}
static void test_storm_hugetlb(void **state) {
    (void)state;
    run_storm(MNW_BACKING_HUGETLB_2M, false);
}

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    struct mnw__uffd_probe probe;
    if (mnw__uffd_probe(&probe) || !(probe.features & MNW__UFFD_POISON)) {
        fprintf(stderr, "skipped: without UFFDIO_POISON children are not followed\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_closed_child),
        cmocka_unit_test(test_evicted_child),
        cmocka_unit_test(test_ended_child),
        cmocka_unit_test(test_children_of_a_closed_child_are_bounded),
        cmocka_unit_test(test_fork_with_sigbus),
        cmocka_unit_test(test_forked_ranges_may_be_stale),
        cmocka_unit_test(test_forked_that_asks),
        cmocka_unit_test(test_closed_child_that_grew),
        cmocka_unit_test(test_storm_shmem),
        cmocka_unit_test(test_storm_graded),
        cmocka_unit_test(test_storm_hugetlb),
    };
    return cmocka_run_group_tests_name("remote_fork", tests, NULL, NULL);
}
