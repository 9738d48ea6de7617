/* SPDX-License-Identifier: MIT */
/* What a descriptor reports: faults in batches, THREAD_ID, SIGBUS instead, and the events FORK, REMAP, REMOVE, UNMAP.
 */
#include "uffd_area.h"

#include "machine.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MISSING MNW__UFFD_MODE_MISSING
#define MINOR   MNW__UFFD_MODE_MINOR

static unsigned modes_of(enum area_kind kind) {
    return kind == AREA_ANON ? MISSING : MISSING | MINOR;
}

static void supply(const struct area *area, int page, char fill) {
    int64_t done;
    static char bytes[2 << 20];
    if (area->kind != AREA_ANON) {
        area_fill((struct area *)(uintptr_t)area, page, fill);
        assert_int_equal(mnw__uffd_continue(area->uffd, area_at(area, page), area->page, 0, &done), 0);
        return;
    }
    memset(bytes, fill, area->page);
    assert_int_equal(mnw__uffd_copy(area->uffd, area_at(area, page), bytes, area->page, 0, &done), 0);
}

/* ---- faults ---- */

static void test_many_in_one_read(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher touchers[AREA_PAGES];
    struct mnw__uffd_event events[2 * MNW__UFFD_BATCH];
    area_open(&area, *kind, 0, modes_of(*kind));
    assert_int_equal(mnw__uffd_read(area.uffd, events, 8), 0);
    for (int i = 0; i < AREA_PAGES; i++) {
        touch_start(&touchers[i], area_at(&area, i) + 1, i % 2);
        await_waiting(area.uffd, (uint64_t)i + 1);
    }
    assert_int_equal(mnw__uffd_read(area.uffd, events, 1), 1);
    assert_int_equal(mnw__uffd_read(area.uffd, events + 1, 2 * MNW__UFFD_BATCH - 1), AREA_PAGES - 1);
    for (int i = 0; i < AREA_PAGES; i++) { /* oldest first, whole pages, and no thread named unless asked */
        assert_int_equal(events[i].kind, MNW__UFFD_EV_FAULT);
        assert_int_equal(events[i].address, area_at(&area, i));
        assert_int_equal(events[i].flags, i % 2 ? MNW__UFFD_FAULT_WRITE : 0);
        assert_int_equal(events[i].thread_id, 0);
    }
    event_none(area.uffd);
    for (int i = 0; i < AREA_PAGES; i++) {
        supply(&area, i, (char)('a' + i));
        touch_join(&touchers[i]);
        assert_int_equal(touchers[i].seen, i % 2 ? 'w' : 'a' + i);
    }
    area_close(&area);
}

static void test_exact_address(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, MNW__UFFD_EXACT_ADDRESS, modes_of(*kind));
    touch_start(&toucher, area_at(&area, 1) + 123, false);
    assert_int_equal(event_next(area.uffd).address, area_at(&area, 1) + 123);
    supply(&area, 1, 'a');
    touch_join(&toucher);
    area_close(&area);
}

static void test_thread_id(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher touchers[2];
    area_open(&area, *kind, MNW__UFFD_THREAD_ID, modes_of(*kind));
    for (int i = 0; i < 2; i++) {
        touch_start(&touchers[i], area_at(&area, i), false);
        uint32_t reported = event_next(area.uffd).thread_id;
        assert_int_equal(reported, atomic_load(&touchers[i].thread_id));
        supply(&area, i, 'a');
        touch_join(&touchers[i]);
    }
    area_close(&area);
}

/* A signal to the waiting thread makes it fault, and be reported, again. */
static void nothing(int signal_number) {
    (void)signal_number;
}

static void test_a_signal_repeats_the_fault(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGUSR1, &action, NULL);
    area_open(&area, *kind, 0, modes_of(*kind));
    touch_start(&toucher, area_at(&area, 0), false);
    assert_int_equal(event_next(area.uffd).address, area_at(&area, 0));
    for (int i = 0; i < 3; i++) {
        pthread_kill(toucher.thread, SIGUSR1);
        assert_int_equal(event_next(area.uffd).address, area_at(&area, 0));
    }
    supply(&area, 0, 'a');
    touch_join(&toucher);
    assert_int_equal(toucher.seen, 'a');
    area_close(&area);
}

/* SIGBUS in the thread itself, at the byte, and no event; a system call gets EFAULT. */
static void test_sigbus(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    uintptr_t at = 0;
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    area_open(&area, *kind, MNW__UFFD_SIGBUS, modes_of(*kind));
    assert_int_equal(machine_touch(area.view + 77, &at), SIGBUS);
    assert_int_equal(at, area_at(&area, 0) + 77);
    assert_int_equal(machine_poke(area.view + 78, 'x', &at), SIGBUS);
    assert_int_equal(at, area_at(&area, 0) + 78);
    assert_int_equal(write(pipes[1], area.view, 1), -1);
    assert_int_equal(errno, EFAULT);
    event_none(area.uffd);
    supply(&area, 0, 'a');
    assert_int_equal(machine_touch(area.view + 77, &at), 0);
    assert_int_equal(write(pipes[1], area.view, 1), 1);
    if (*kind != AREA_ANON) { /* in the cache, not mapped: a minor fault signals too */
        area_fill(&area, 1, 'b');
        assert_int_equal(machine_touch(area.view + area.page + 5, &at), SIGBUS);
        assert_int_equal(at, area_at(&area, 1) + 5);
        assert_int_equal(machine_touch(area.view + AREA_PAGES * area.page, &at), SIGBUS); /* beyond the end */
    }
    close(pipes[0]);
    close(pipes[1]);
    area_close(&area);
}

/* ---- events of the address space: each blocks the thread that causes it until it is read ---- */

enum change { CHANGE_REMOVE, CHANGE_UNMAP, CHANGE_REMAP, CHANGE_FORK };

struct changer {
    pthread_t thread;
    enum change change;
    char *at, *to;
    size_t length;
    pid_t child;
    _Atomic bool ended;
};

static void *change(void *argument) {
    struct changer *changer = argument;
    switch (changer->change) {
    case CHANGE_REMOVE:
        madvise(changer->at, changer->length, MADV_DONTNEED);
        break;
    case CHANGE_UNMAP:
        munmap(changer->at, changer->length);
        break;
    case CHANGE_REMAP:
        changer->to = mremap(changer->at, changer->length, changer->length, MREMAP_MAYMOVE | MREMAP_FIXED, changer->to);
        break;
    case CHANGE_FORK:
        changer->child = fork();
        if (!changer->child) {
            _exit(*(volatile char *)changer->at == 'f' ? 0 : 1);
        }
        break;
    }
    atomic_store(&changer->ended, true);
    return NULL;
}

static struct mnw__uffd_event change_and_read(struct changer *changer, int uffd) {
    assert_int_equal(pthread_create(&changer->thread, NULL, change, changer), 0);
    usleep(20000);
    assert_false(atomic_load(&changer->ended));
    return event_next(uffd);
}

static void test_remove(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    area_open(&area, *kind, MNW__UFFD_EVENT_REMOVE, modes_of(*kind));
    supply(&area, 1, 'a');
    struct changer changer = {.change = CHANGE_REMOVE, .at = area.view + area.page, .length = 2 * area.page};
    struct mnw__uffd_event event = change_and_read(&changer, area.uffd);
    assert_int_equal(event.kind, MNW__UFFD_EV_REMOVE);
    assert_int_equal(event.address, area_at(&area, 1));
    assert_int_equal(event.length, 2 * area.page);
    pthread_join(changer.thread, NULL);
    /* A hole punched into the file is not reported, even so. */
    if (*kind != AREA_ANON) {
        area_punch(&area, 1);
        event_none(area.uffd);
    }
    area_close(&area);
}

static void test_unmap(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    area_open(&area, *kind, MNW__UFFD_EVENT_UNMAP, modes_of(*kind));
    struct changer changer = {.change = CHANGE_UNMAP, .at = area.view + 2 * area.page, .length = 2 * area.page};
    struct mnw__uffd_event event = change_and_read(&changer, area.uffd);
    assert_int_equal(event.kind, MNW__UFFD_EV_UNMAP);
    assert_int_equal(event.address, area_at(&area, 2));
    assert_int_equal(event.length, 2 * area.page);
    pthread_join(changer.thread, NULL);
    mnw__uffd_unregister(area.uffd, area_at(&area, 0), area.page); /* the last munmap would wait for a reader */
    mnw__uffd_unregister(area.uffd, area_at(&area, 1), area.page);
    mnw__uffd_unregister(area.uffd, area_at(&area, 4), area.page);
    area_close(&area);
}

static void test_remap(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, MNW__UFFD_EVENT_REMAP, modes_of(*kind));
    /* A place aligned for huge pages as well. */
    char *room = mmap(NULL, area.length + area.page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *to = (char *)(((uintptr_t)room + area.page - 1) & ~(area.page - 1));
    struct changer changer = {.change = CHANGE_REMAP, .at = area.view, .to = to, .length = area.length};
    struct mnw__uffd_event event = change_and_read(&changer, area.uffd);
    assert_int_equal(event.kind, MNW__UFFD_EV_REMAP);
    assert_int_equal(event.address, area_at(&area, 0));
    assert_int_equal(event.to, (uintptr_t)to);
    assert_int_equal(event.length, area.length);
    pthread_join(changer.thread, NULL);
    assert_ptr_equal(changer.to, to);
    /* Still watched, at its new place. */
    area.view = to;
    touch_start(&toucher, area_at(&area, 1), false);
    assert_int_equal(event_next(area.uffd).address, area_at(&area, 1));
    supply(&area, 1, 'm');
    touch_join(&toucher);
    assert_int_equal(toucher.seen, 'm');
    area_close(&area);
}

/* Without the event, a moved view is watched no more: its holes read as zeros. */
static void test_remap_unseen(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    area_open(&area, *kind, 0, modes_of(*kind));
    char *room = mmap(NULL, area.length + area.page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *to = (char *)(((uintptr_t)room + area.page - 1) & ~(area.page - 1));
    assert_ptr_equal(mremap(area.view, area.length, area.length, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
    area.view = to;
    assert_int_equal(machine_touch(area.view, NULL), 0);
    assert_int_equal(area.view[0], 0);
    event_none(area.uffd);
    area_close(&area);
}

/* The child's faults come through a descriptor of its own, which the event brings. */
static void test_fork(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    area_open(&area, *kind, MNW__UFFD_EVENT_FORK, modes_of(*kind));
    struct changer changer = {.change = CHANGE_FORK, .at = area.view + area.page};
    struct mnw__uffd_event event = change_and_read(&changer, area.uffd);
    assert_int_equal(event.kind, MNW__UFFD_EV_FORK);
    assert_true(event.fd >= 0);
    struct area childs = area;
    childs.uffd = event.fd;
    assert_int_equal(event_next(event.fd).address, area_at(&area, 1));
    supply(&childs, 1, 'f');
    pthread_join(changer.thread, NULL);
    int status = 1;
    assert_int_equal(waitpid(changer.child, &status, 0), changer.child);
    assert_int_equal(status, 0);
    event_none(area.uffd);
    close(event.fd);
    area_close(&area);
}

/* Closing the last descriptor lets the waiters go, into zeros: trap 2 of whoever closes with holes. */
static void test_close_lets_go(void **state) {
    const enum area_kind *kind = *state;
    struct area area;
    struct toucher toucher;
    area_open(&area, *kind, 0, modes_of(*kind));
    touch_start(&toucher, area_at(&area, 0), false);
    event_next(area.uffd);
    int spare = dup(area.uffd);
    mnw__uffd_close(area.uffd);
    usleep(20000);
    assert_false(atomic_load(&toucher.ended));
    mnw__uffd_close(spare);
    touch_join(&toucher);
    assert_int_equal(toucher.seen, 0);
    area.uffd = mnw__uffd_open(0);
    area_close(&area);
}

static enum area_kind shmem = AREA_SHMEM, hugetlb = AREA_HUGETLB, anon = AREA_ANON;

#define EACH(name)                                                                                                     \
    {"shmem: " #name, name, NULL, NULL, &shmem}, {"hugetlb: " #name, name, NULL, NULL, &hugetlb}, {                    \
        "anon: " #name, name, NULL, NULL, &anon                                                                        \
    }

int main(int argc, char **argv) {
    (void)argc;
    int status = machine_guard(argv);
    if (status >= 0) {
        return status;
    }
    struct mnw__uffd_probe probe;
    if (mnw__uffd_probe(&probe) || probe.door == MNW__UFFD_DOOR_USER_ONLY) {
        fprintf(stderr, "skipped: no full userfaultfd here\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        EACH(test_many_in_one_read),
        EACH(test_exact_address),
        EACH(test_thread_id),
        EACH(test_a_signal_repeats_the_fault),
        EACH(test_sigbus),
        EACH(test_remove),
        EACH(test_unmap),
        EACH(test_remap),
        EACH(test_remap_unseen),
        EACH(test_fork),
        EACH(test_close_lets_go),
    };
    return cmocka_run_group_tests_name("uffd events", tests, NULL, NULL);
}
