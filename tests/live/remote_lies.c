/* SPDX-License-Identifier: MIT */
/*
 * Consumers that lie: what is refused at attach changes nothing; descriptors that are played with harm nobody else.
 */
#include "bed.h"
#include "engine/pool.h"
#include "engine/remote.h"
#include "engine/sweep.h"
#include "machine.h"
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HUGE ((size_t)2 << 20)
#define MIB  BED_MIB

/* ---- refused ---- */

struct lie {
    struct pair *world;
    struct mnw_attach_options options;
};

static void begin_lie(struct lie *lie, struct pair *world, const struct peer_mapping *mapping) {
    *lie = (struct lie){.world = world, .options = {.size = sizeof(lie->options), .pid = world->peers[0].pid}};
    lie->options.uffd = peer_map(&world->peers[0], world->bed.cache, mapping, &lie->options.address);
    lie->options.length_bytes = mapping->length;
    lie->options.offset_bytes = mapping->offset;
}

/* Refused, with a message that names the thing; and nothing is held that was not before. */
#define refused(lie, expected, word) refused_at(lie, expected, word, __LINE__)
static void refused_at(struct lie *lie, int expected, const char *word, int line) {
    struct bed_holdings before = bed_holdings();
    struct mnw_view *view = (struct mnw_view *)lie;
    int result = mnw_view_attach(&view, lie->world->bed.cache, &lie->options);
    if (result != expected)
        fail_msg("line %d: %d instead of %d: %s", line, result, expected, mnw_error());
    if (!strstr(mnw_error(), word))
        fail_msg("line %d: the message does not speak of %s: %s", line, word, mnw_error());
    assert_ptr_equal(view, lie);
    struct bed_holdings after = bed_holdings();
    assert_int_equal(after.descriptors, before.descriptors);
    if (!MACHINE_SANITIZED) /* a sanitizer maps memory of its own */
        assert_int_equal(after.mappings, before.mappings);
    struct mnw_event event;
    assert_int_equal(mnw_pool_next_event(lie->world->bed.pool, &event), 0);
}

/* The same options, told truly, are taken after all. */
static void end_lie(struct lie *lie, bool is_true) {
    struct mnw_view *view;
    if (is_true) {
        assert_int_equal(mnw_view_attach(&view, lie->world->bed.cache, &lie->options), 0);
        peer_assert_right(&lie->world->peers[0], 0, 0, lie->options.length_bytes, 1);
        assert_int_equal(mnw_view_close(view), 0);
    }
    close(lie->options.uffd);
}

static int64_t forget_map(struct peer_side *side, const void *argument) {
    (void)argument;
    if (side->maps[0].uffd >= 0)
        close(side->maps[0].uffd);
    munmap(side->maps[0].data, side->maps[0].length);
    side->maps[0].uffd = -1;
    return 0;
}

static void test_options(void **state) {
    (void)state;
    struct pair world;
    struct lie lie;
    struct mnw_view *view;
    pair_open(&world, MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
    begin_lie(&lie, &world, &(struct peer_mapping){.offset = MIB, .length = MIB});
    const struct mnw_attach_options truth = lie.options;
    assert_int_equal(mnw_view_attach(NULL, world.bed.cache, &truth), -EINVAL);
    assert_int_equal(mnw_view_attach(&view, NULL, &truth), -EINVAL);
    assert_int_equal(mnw_view_attach(&view, world.bed.cache, NULL), -EINVAL);
    lie.options.size = 4;
    refused(&lie, -EINVAL, "size");
    lie.options = truth, lie.options.flags = 1u << 9;
    refused(&lie, -EINVAL, "flags");
    lie.options = truth, lie.options.pid = -4;
    refused(&lie, -EINVAL, "process");
    lie.options = truth, lie.options.offset_bytes += 100;
    refused(&lie, -EINVAL, "offset");
    lie.options = truth, lie.options.offset_bytes = 400 * MIB;
    refused(&lie, -EINVAL, "past the end");
    lie.options = truth, lie.options.length_bytes = 400 * MIB;
    refused(&lie, -EINVAL, "past the end");
    lie.options = truth, lie.options.address += 8;
    refused(&lie, -EINVAL, "address");
    lie.options = truth, lie.options.address = 0;
    refused(&lie, -EINVAL, "address");
    lie.options = truth, lie.options.address = UINTPTR_MAX - BED_PAGE + 1;
    refused(&lie, -EINVAL, "address space");
    lie.options = truth, lie.options.range_count = 1;
    refused(&lie, -EINVAL, "ranges");
    lie.options = truth;
    end_lie(&lie, true);
    pair_close(&world);
}

static void test_not_a_userfaultfd(void **state) {
    (void)state;
    struct pair world;
    struct lie lie;
    pair_open(&world, MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
    begin_lie(&lie, &world, &(struct peer_mapping){.length = MIB});
    const int uffd = lie.options.uffd;
    int others[2];
    assert_int_equal(pipe2(others, O_CLOEXEC), 0);
    lie.options.uffd = others[0];
    refused(&lie, -EINVAL, "no userfaultfd");
    lie.options.uffd = mnw_cache_fd(world.bed.cache);
    refused(&lie, -EINVAL, "no userfaultfd");
    lie.options.uffd = -1;
    refused(&lie, -EBADF, "no userfaultfd");
    lie.options.uffd = 1000;
    refused(&lie, -EBADF, "no userfaultfd");
    close(others[0]);
    close(others[1]);
    lie.options.uffd = uffd;
    end_lie(&lie, true);
    pair_close(&world);
}

/* Every feature that is needed, one by one; no UFFDIO_API at all; one too many. */
static void test_features(void **state) {
    (void)state;
    struct pair world;
    struct lie lie;
    pair_open(&world, MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
    uint64_t needed = peer_features(world.bed.cache);
    for (uint64_t rest = needed; rest; rest &= rest - 1) {
        begin_lie(&lie, &world, &(struct peer_mapping){.length = MIB, .without = rest & -rest});
        refused(&lie, -EINVAL, "features");
        end_lie(&lie, false);
        peer_do(&world.peers[0], forget_map, "", 1);
    }
    begin_lie(&lie, &world, &(struct peer_mapping){.length = MIB, .features = UFFD_FEATURE_SIGBUS});
    refused(&lie, -EINVAL, "SIGBUS");
    end_lie(&lie, false);
    peer_do(&world.peers[0], forget_map, "", 1);
    begin_lie(&lie, &world, &(struct peer_mapping){.length = MIB, .raw = true});
    refused(&lie, -EINVAL, "UFFDIO_API");
    end_lie(&lie, false);
    pair_close(&world);
}

/* ---- what is mapped there ---- */

static int64_t map_other(struct peer_side *side, const void *argument) {
    char what = *(const char *)argument;
    struct peer_map *map = &side->maps[0];
    int fd = memfd_create("other", MFD_CLOEXEC), flags = MAP_PRIVATE | MAP_FIXED;
    if (fd < 0 || ftruncate(fd, (off_t)map->length))
        return -errno;
    void *at = MAP_FAILED;
    switch (what) {
    case 'a': /* anonymous */
        at = mmap(map->data, map->length, PROT_READ, flags | MAP_ANONYMOUS, -1, 0);
        break;
    case 'f': /* another file */
        at = mmap(map->data, map->length, PROT_READ, flags, fd, 0);
        break;
    case 'n': /* nothing */
        at = munmap(map->data, map->length) ? MAP_FAILED : NULL;
        break;
    case 'h': /* a hole in the middle */
        at = munmap(map->data + map->length / 2, BED_PAGE) ? MAP_FAILED : NULL;
        break;
    default:
        break;
    }
    close(fd);
    return at == MAP_FAILED ? -errno : 0;
}

/* With the process known, its maps tell; without, the kernel refuses what it can. */
static void test_mapped_something_else(void **state) {
    (void)state;
    struct pair world;
    struct lie lie;
    pair_open(&world, MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
    begin_lie(&lie, &world, &(struct peer_mapping){.length = MIB, .shared = true});
    refused(&lie, -EINVAL, "MAP_SHARED");
    lie.options.pid = 0;
    refused(&lie, -EPERM, "private mapping");
    end_lie(&lie, false);
    peer_do(&world.peers[0], forget_map, "", 1);
    for (const char *what = "afnh"; *what; what++) {
        begin_lie(&lie, &world, &(struct peer_mapping){.length = MIB});
        assert_int_equal(peer_do(&world.peers[0], map_other, what, 1), 0);
        refused(&lie, -EINVAL, *what == 'a' || *what == 'f' ? "mnw_cache_fd" : "not mapped");
        lie.options.pid = 0;
        if (*what == 'a' || *what == 'n')
            refused(&lie, -EINVAL, "private mapping");
        end_lie(&lie, false);
        peer_do(&world.peers[0], forget_map, "", 1);
    }
    begin_lie(&lie, &world, &(struct peer_mapping){.offset = MIB, .length = MIB});
    lie.options.offset_bytes = 2 * MIB;
    refused(&lie, -EINVAL, "another offset");
    lie.options.offset_bytes = MIB;
    end_lie(&lie, true);
    pair_close(&world);
}

/* ---- whose it is ---- */

static void test_twice(void **state) {
    (void)state;
    struct pair world;
    struct lie lie, second;
    struct mnw_view *view;
    pair_open(&world, MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
    begin_lie(&lie, &world, &(struct peer_mapping){.length = 2 * MIB});
    begin_lie(&second, &world, &(struct peer_mapping){.slot = 1, .length = 2 * MIB});
    assert_int_equal(mnw_view_attach(&view, world.bed.cache, &lie.options), 0);
    /* The same descriptor again, for the same place or another; and another descriptor for the same place. */
    refused(&lie, -EBUSY, "another view");
    lie.options.length_bytes = MIB;
    refused(&lie, -EBUSY, "another view");
    uint64_t address = second.options.address;
    second.options.address = lie.options.address;
    refused(&second, -EBUSY, "another userfaultfd");
    peer_assert_right(&world.peers[0], 0, 0, 2 * MIB, 1);
    second.options.address = address;
    assert_int_equal(mnw_view_close(view), 0);
    end_lie(&second, false);
    end_lie(&lie, true);
    pair_close(&world);
}

static void test_gone(void **state) {
    (void)state;
    struct pair world;
    struct lie lie;
    pair_open(&world, MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
    begin_lie(&lie, &world, &(struct peer_mapping){.length = MIB});
    peer_kill(&world.peers[0]);
    refused(&lie, -ESRCH, "gone");
    end_lie(&lie, false);
    pair_close(&world);
}

/* Takes its view off the userfaultfd, maps another in its place and attaches that: the older one is done with. */
static int64_t unregister_all(struct peer_side *side, const void *argument) {
    struct peer_map *map = &side->maps[0];
    struct uffdio_range range = {.start = (uintptr_t)map->data, .len = map->length};
    (void)argument;
    return ioctl(map->uffd, UFFDIO_UNREGISTER, &range) ? -errno : 0;
}

static void test_displaced(void **state) {
    (void)state;
    struct pair world;
    struct lie first, second;
    struct mnw_view *older, *newer;
    struct mnw_view_range range;
    pair_open(&world, MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
    begin_lie(&first, &world, &(struct peer_mapping){.length = 2 * MIB});
    begin_lie(&second, &world, &(struct peer_mapping){.slot = 1, .length = MIB});
    assert_int_equal(mnw_view_attach(&older, world.bed.cache, &first.options), 0);
    peer_assert_right(&world.peers[0], 0, 0, MIB, 1);
    assert_int_equal(peer_do(&world.peers[0], unregister_all, "", 1), 0);
    second.options.address = first.options.address + MIB;
    second.options.offset_bytes = MIB;
    assert_int_equal(mnw_view_attach(&newer, world.bed.cache, &second.options), 0);
    assert_int_equal(mnw_view_ranges(older, &range, 1), 1);
    assert_int_equal(range.length_bytes, MIB);
    peer_assert_right(&world.peers[0], 0, MIB, MIB, 1);
    assert_int_equal(mnw_view_close(older), 0);
    assert_int_equal(mnw_view_close(newer), 0);
    end_lie(&first, false);
    end_lie(&second, false);
    pair_close(&world);
}

/* ---- attached again in pieces ---- */

static void test_ranges(void **state) {
    (void)state;
    struct pair world;
    struct lie lie;
    struct mnw_view *view;
    pair_open(&world, MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
    begin_lie(&lie, &world, &(struct peer_mapping){.length = 4 * MIB});
    struct mnw_view_range ranges[] = {{lie.options.address + 3 * MIB, 3 * MIB, MIB}, {lie.options.address, 0, MIB}};
    struct mnw_attach_options options = {
        .size = sizeof(options), .uffd = lie.options.uffd, .ranges = ranges, .range_count = 2, .pid = lie.options.pid};
    assert_int_equal(mnw_view_attach(&view, world.bed.cache, &options), 0);
    assert_int_equal(mnw_view_ranges(view, NULL, 0), 2);
    peer_assert_right(&world.peers[0], 0, 0, MIB, 1);
    peer_assert_right(&world.peers[0], 0, 3 * MIB, MIB, 1);
    assert_int_equal(mnw_view_close(view), 0);
    end_lie(&lie, true);
    pair_close(&world);
}

/* ---- played with ---- */

static int64_t make_blocking(struct peer_side *side, const void *argument) {
    (void)argument;
    int flags = fcntl(side->maps[0].uffd, F_GETFL);
    return fcntl(side->maps[0].uffd, F_SETFL, flags & ~O_NONBLOCK) ? -errno : 0;
}

static uint64_t cpu_ns(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
}

/* A descriptor that blocks, again and again: nobody is blocked by it, and nobody spins. */
static void test_made_blocking(void **state) {
    (void)state;
    struct pair world;
    struct mnw_view *views[2];
    pair_open(&world, MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
    for (unsigned i = 0; i < 2; i++)
        views[i] = peer_attach(&world.peers[i], world.bed.cache, &(struct peer_mapping){.length = 4 * MIB});
    assert_ptr_equal(views[0]->thread, views[1]->thread);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(peer_do(&world.peers[0], make_blocking, "", 1), 0);
        peer_assert_right(&world.peers[0], 0, i * 8 * BED_PAGE, 8 * BED_PAGE, 1);
        peer_assert_right(&world.peers[1], 0, i * 16 * BED_PAGE, 16 * BED_PAGE, 1);
    }
    assert_int_equal(peer_do(&world.peers[0], make_blocking, "", 1), 0);
    uint64_t before_ns = cpu_ns();
    usleep(300000);
    uint64_t used_ns = cpu_ns() - before_ns;
    if (used_ns > 100000000)
        fail_msg("%llu ms of CPU time in 300 ms", (unsigned long long)used_ns / 1000000);
    peer_assert_right(&world.peers[0], 0, 0, 4 * MIB, 1);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(mnw_view_close(views[i]), 0);
    pair_close(&world);
}

/* Memory of the consumer's own, registered with the same descriptor: SIGBUS, not zeros that it never had, and no hang.
 */
static int64_t watch_own(struct peer_side *side, const void *argument) {
    const size_t length = 16 * BED_PAGE;
    (void)argument;
    char *own = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)own, length}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (own == MAP_FAILED || ioctl(side->maps[0].uffd, UFFDIO_REGISTER, &range))
        return -errno;
    for (size_t at = 0; at < length; at += BED_PAGE)
        if (bed_touch(own + at, NULL) != SIGBUS)
            return 1;
    return 0;
}

static void test_own_memory(void **state) {
    (void)state;
    struct pair world;
    peer_need_poison(); /* without it the reader waits */
    pair_open(&world, MNW_BACKING_SHMEM, 4 * MIB, 2 * MIB);
    struct mnw_view *view = peer_attach(&world.peers[0], world.bed.cache, &(struct peer_mapping){.length = MIB});
    assert_int_equal(peer_do(&world.peers[0], watch_own, "", 1), 0);
    peer_assert_right(&world.peers[0], 0, 0, MIB, 1);
    assert_int_equal(mnw_view_close(view), 0);
    pair_close(&world);
}

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),       cmocka_unit_test(test_not_a_userfaultfd),
        cmocka_unit_test(test_features),      cmocka_unit_test(test_mapped_something_else),
        cmocka_unit_test(test_twice),         cmocka_unit_test(test_gone),
        cmocka_unit_test(test_displaced),     cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_made_blocking), cmocka_unit_test(test_own_memory),
    };
    return cmocka_run_group_tests_name("remote_lies", tests, NULL, NULL);
}
