/* SPDX-License-Identifier: MIT */
#include "torn.h"

#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

static int64_t fail_bad_page(struct bed_source *source, const struct mnw_read *read) {
    return bed_read_has(source, read, atomic_load(&source->bad_page)) ? -EIO : (int64_t)read->length;
}

void torn_open(struct torn *world, enum mnw_backing backing, unsigned flags, uint64_t features) {
    bool huge = backing == MNW_BACKING_HUGETLB_2M;
    memset(world, 0, sizeof(*world));
    bed_hurry(60);
    if (huge && !machine_free_hugepages(TORN_HUGE, 8)) {
        print_message("cannot free 8 huge pages\n");
        skip();
    }
    if (backing == MNW_BACKING_GRADED && !machine_set(SHMEM_ENABLED, "advise")) {
        print_message("cannot set shmem_enabled\n");
        skip();
    }
    for (unsigned i = 0; i < TORN_PEERS; i++)
        peer_start(&world->peers[i]);
    world->backing = backing;
    world->unit = huge ? TORN_HUGE : 16 * BED_PAGE;
    world->length = (TORN_UNITS + 2) * world->unit;
    bed_source_open(&world->source, world->length);
    world->source.answer = fail_bad_page;
    world->source.page_bytes = huge ? TORN_HUGE : BED_PAGE;
    struct mnw_pool_options options = {.backing = backing,
                                       .budget_bytes = huge                            ? 6 * TORN_HUGE
                                                       : backing == MNW_BACKING_GRADED ? 2 * TORN_HUGE
                                                                                       : 512 << 10};
    struct mnw_cache_options cache_options = {.size = sizeof(cache_options), .read_retries = UINT32_MAX};
    bed_open(&world->bed, world->source.store, options, &cache_options);
    for (unsigned i = 0; i < TORN_PEERS; i++)
        world->views[i] = peer_attach(
            &world->peers[i], world->bed.cache,
            &(struct peer_mapping){
                .length = TORN_UNITS * world->unit, .flags = flags, .features = features, .align = TORN_HUGE});
}

void torn_close(struct torn *world) {
    for (unsigned i = 0; i < TORN_PEERS; i++) {
        assert_int_equal(mnw_view_close(world->views[i]), 0);
        if (world->peers[i].pid)
            peer_stop(&world->peers[i]);
    }
    bed_close(&world->bed);
    bed_source_close(&world->source);
}

/* The kernel moves what one mapping holds, and need not have put together again what was moved back: unit by unit. */
bool torn_move_units(char *from, char *to, size_t unit, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        if (mremap(from + i * unit, unit, unit, MREMAP_MAYMOVE | MREMAP_FIXED, to + i * unit) != to + i * unit)
            return false;
    return true;
}

int64_t torn_right(const char *at, size_t unit, unsigned first, unsigned count) {
    return bed_compare(at, first * unit, count * unit, 1, NULL);
}

bool torn_is_gone(const char *at) {
    return bed_touch(at, NULL) == SIGSEGV;
}

/* Room for `units`, congruent to `like`. */
char *torn_room(const char *like, size_t unit, unsigned units) {
    char *room = mmap(NULL, units * unit + TORN_HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return room == MAP_FAILED ? NULL : room + (((uintptr_t)like - (uintptr_t)room) & (TORN_HUGE - 1));
}

int64_t torn_unmap_parts(struct peer_side *side, const void *argument) {
    size_t unit = *(const size_t *)argument;
    const struct peer_map *map = &side->maps[0];
    CHECK(!munmap(map->data + 4 * unit, 2 * unit)); /* out of the middle, untouched */
    CHECK(!torn_right(map->data, unit, 0, 4));
    CHECK(torn_is_gone(map->data + 4 * unit) && torn_is_gone(map->data + 5 * unit));
    CHECK(!torn_right(map->data + 6 * unit, unit, 6, TORN_UNITS - 6));
    CHECK(!munmap(map->data, unit));                           /* from the start, touched */
    CHECK(!munmap(map->data + (TORN_UNITS - 1) * unit, unit)); /* from the end */
    CHECK(!munmap(map->data + 3 * unit, 4 * unit));            /* across the hole */
    CHECK(torn_is_gone(map->data) && torn_is_gone(map->data + 6 * unit) &&
          torn_is_gone(map->data + (TORN_UNITS - 1) * unit));
    CHECK(!torn_right(map->data + unit, unit, 1, 2));
    CHECK(!torn_right(map->data + 7 * unit, unit, 7, TORN_UNITS - 8));
    return 0;
}

/* Forked views that are open. */
static struct mnw_view *forked_views[4096];
static unsigned child_count;

/* Takes an event, if there is one, and notes a forked view; true when there was one. */
bool torn_note_child(struct torn *world, unsigned timeout_ms) {
    struct mnw_event event;
    if (!bed_event(world->bed.pool, &event, timeout_ms))
        return false;
    if (event.kind == MNW_EVENT_VIEW_CHANGED && event.changes & MNW_VIEW_CHANGED_FORKED) {
        assert_non_null(event.parent);
        assert_ptr_not_equal(event.view, world->views[0]);
        assert_true(mnw_view_fd(event.view) >= 0);
        assert_true(child_count < sizeof(forked_views) / sizeof(forked_views[0]));
        forked_views[child_count++] = event.view;
    }
    return true;
}

/* Closes all forked views, of which there must be so many; how many there were. */
unsigned torn_close_children(struct torn *world, unsigned least) {
    while (torn_note_child(world, child_count < least ? 5000 : 50))
        ;
    unsigned count = child_count;
    while (child_count)
        assert_int_equal(mnw_view_close(forked_views[--child_count]), 0);
    return count;
}
