/* SPDX-License-Identifier: MIT */
/*
 * Consumers that fork, in worlds in which processes die. The child does as the client library does in it: it has the
 * manager say that every child of before is with the holder, looks whether it is watched still, and if it is not has
 * itself served anew. Then it reads, and every byte is checked.
 */
#include "workload.h"

#include "fake.h"
#include "sys/backing.h"
#include "sys/uffd.h"

#include <errno.h>
#include <stdlib.h>

enum { READS_MAX = 40, PAGE_BYTES_MAX = 64 << 10, PROCESSES_LEFT = 12, TRIES_MAX = 2000 };

/* ---- in the manager ---- */

static struct sim_view *child_with(const struct mnw_view *handle) {
    for (unsigned i = 0; i < world.children; i++)
        if (world.child[i].handle == handle)
            return &world.child[i];
    return NULL;
}

static struct sim_view *child_of_process(int process) {
    for (unsigned i = 0; i < world.children; i++)
        if (world.child[i].process == process)
            return &world.child[i];
    return NULL;
}

static int duplicate(int fd) {
    int copy;
    while ((copy = fake_fd_duplicate(fd, 0)) < 0)
        fiber_sleep(100000, "a descriptor for the holder");
    return copy;
}

bool take_child(const struct mnw_event *event) {
    if (!(event->changes & MNW_VIEW_CHANGED_FORKED))
        return child_with(event->view);
    struct sim_view *child = child_of_process(fake_uffd_process(mnw_view_fd(event->view)));
    if (!child || child->handle || child->held >= 0)
        sim_fail("a child is told of that nobody has made, or twice");
    child->held = duplicate(mnw_view_fd(event->view));
    child->handle = event->view;
    return true;
}

static void ask_where(struct sim_view *view) {
    if (!view->handle || view->closing)
        return;
    view->populating++;
    mnw_view_ranges(view->handle, NULL, 0);
    view->populating--;
}

/* As the daemon: who was forked before is among the events now, or its parent's view is being closed. */
static void settle_all(void *argument) {
    bool *is_settled = argument;
    for (unsigned i = 0; i < world.views; i++)
        ask_where(&world.view[i]);
    for (unsigned i = 0; i < world.children; i++)
        ask_where(&world.child[i]);
    for (unsigned i = 0; i < world.views; i++)
        for (uint32_t generation = world.view[i].generation;
             world.view[i].closing && world.view[i].generation == generation;)
            fiber_sleep(10000, "a view to be closed");
    take_events();
    *is_settled = true;
}

static void attach_child(void *argument) {
    struct sim_view *child = argument;
    if (!child->handle && !child->has_ended && attach_view(child))
        child->handle = NULL;
}

void take_over_children(void) {
    for (unsigned i = 0; i < world.children; i++) {
        struct sim_view *child = &world.child[i];
        for (unsigned tries = 0; child->held >= 0 && !child->handle && !child->has_ended; tries++) {
            attach_child(child);
            if (!child->handle && !child->has_ended && (!world.has_trouble || tries > TRIES_MAX))
                sim_fail("a child cannot be attached again: %s", mnw_error());
        }
    }
}

void close_children(bool all) {
    for (unsigned i = 0; i < world.children; i++) {
        struct sim_view *child = &world.child[i];
        if (child->populating || !(all || child->has_ended))
            continue;
        struct mnw_view *handle = child->handle;
        child->handle = NULL;
        if (handle && mnw_view_close(handle))
            sim_fail("a child's view cannot be closed: %s", mnw_error());
        if (child->held >= 0 && all) /* not where a manager may die over it */
            fake_fd_close(child->held);
    }
}

/* ---- in the child ---- */

/* Again, if the manager dies over it. */
static void in_manager(const char *what, void (*run)(void *), void *argument) {
    while (!world.is_serving)
        fiber_sleep(100000, "a manager that serves");
    fiber_join(fiber_start_in(world.manager, what, 0, run, argument));
}

/* 0: watched by us; -EBUSY: by whoever has our userfaultfd. */
static int watch(struct sim_view *child) {
    bool huge = world.backing >= MNW_BACKING_HUGETLB_2M;
    uint64_t features = huge ? MNW__UFFD_MINOR_HUGETLBFS | MNW__UFFD_MISSING_HUGETLBFS
                             : MNW__UFFD_MINOR_SHMEM | MNW__UFFD_MISSING_SHMEM;
    features |= MNW__UFFD_EVENT_REMAP | MNW__UFFD_EVENT_UNMAP | MNW__UFFD_POISON;
    int uffd, error;
    do {
        uffd = mnw__uffd_open(features);
        error = uffd < 0 ? uffd
                         : mnw__uffd_register(uffd, child->address, child->pages * world.page_bytes,
                                              MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR, NULL);
        if (error && uffd >= 0)
            mnw__uffd_close(uffd);
    } while (error && error != -EBUSY);
    child->uffd = error ? -1 : uffd;
    return error;
}

static void settle(struct sim_view *child) {
    for (bool is_settled = false; !is_settled;)
        in_manager("settler", settle_all, &is_settled);
    if (watch(child)) {
        if (child->held < 0 && !child->may_be_barred)
            sim_fail("process %d is watched, all is said to be settled, and the holder does not have it",
                     child->process);
        return;
    }
    world.children_lost++;
    child->held = duplicate(child->uffd);
    for (unsigned tries = 0; !child->handle; tries++) {
        in_manager("attacher", attach_child, child);
        if (tries > TRIES_MAX)
            sim_fail("a child cannot be served anew: %s", mnw_error());
    }
}

static void end_child(struct sim_view *child) {
    child->open = false;
    child->generation++;
    child->has_ended = true;
    fake_process_died(child->process);
}

static void live_as_child(void *argument) {
    struct sim_view *child = argument;
    unsigned char bytes[PAGE_BYTES_MAX];
    settle(child);
    for (uint64_t reads = random_between(fiber_random(), 1, READS_MAX); reads; reads--)
        read_some(child, child->first + random_below(fiber_random(), child->pages), bytes);
    end_child(child);
}

/* ---- in the parent ---- */

void fork_view(struct sim_view *parent) {
    if (world.children == CHILDREN_MAX || world.processes + PROCESSES_LEFT > FIBER_PROCESSES || !parent->is_followed ||
        !parent->open || parent->closing || !parent->mapped)
        return;
    struct sim_view *child = &world.child[world.children++];
    uint32_t generation = parent->generation;
    *child = (struct sim_view){.cache = parent->cache,
                               .address = parent->address,
                               .first = parent->first,
                               .pages = parent->pages,
                               .open = true,
                               .copies = calloc(parent->cache->store.page_count, 1),
                               .process = ++world.processes,
                               .uffd = -1,
                               .held = -1,
                               .fiber = FIBER_NONE,
                               .parent = fiber_process(),
                               .is_forking = true};
    if (!child->copies)
        sim_fail("no memory");
    if (!fake_fork(child->address, child->process))
        end_child(child);
    child->may_be_barred = parent->generation != generation || parent->closing;
    child->is_forking = false;
    if (!child->has_ended)
        fiber_start_in(child->process, "child", (int)random_below(fiber_random(), fake_config.nodes), live_as_child,
                       child);
}

/* ---- deaths ---- */

/* A child whose parent dies before the fork was read of is never born. */
void lose_child(int process) {
    for (unsigned i = 0; i < world.children; i++) {
        struct sim_view *child = &world.child[i];
        bool unborn = child->is_forking && child->parent == process;
        if (child->has_ended || (child->process != process && !unborn))
            continue;
        child->open = false;
        child->generation++;
        child->has_ended = true;
        if (unborn)
            fake_process_died(child->process);
    }
}

void lose_children_views(void) {
    for (unsigned i = 0; i < world.children; i++) {
        world.child[i].handle = NULL;
        world.child[i].populating = 0;
    }
    for (unsigned i = 0; i < world.views; i++)
        world.view[i].populating = 0;
    world.is_taking = false;
}

bool have_children_ended(void) {
    for (unsigned i = 0; i < world.children; i++)
        if (!world.child[i].has_ended)
            return false;
    return true;
}
