/* SPDX-License-Identifier: MIT */
#include "uffd_area.h"

#include "machine.h"
#include "sys/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SECOND 1000000000ull

static void map_file(struct area *area) {
    area->fd = memfd_create("area", MFD_CLOEXEC | (area->kind == AREA_HUGETLB ? MFD_HUGETLB | 21u << 26 : 0));
    assert_true(area->fd >= 0);
    assert_int_equal(ftruncate(area->fd, (off_t)(AREA_PAGES * area->page)), 0);
    area->alias = mmap(NULL, AREA_PAGES * area->page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, area->fd, 0);
    area->view = mmap(NULL, area->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, area->fd, 0);
    assert_ptr_not_equal(area->alias, MAP_FAILED);
}

bool area_protects(void) {
    struct mnw__uffd_probe probe;
    assert_int_equal(mnw__uffd_probe(&probe), 0);
    return probe.features & MNW__UFFD_PAGEFAULT_WP;
}

void area_open(struct area *area, enum area_kind kind, uint64_t features, unsigned modes) {
    *area = (struct area){.kind = kind, .uffd = -1, .fd = -1};
    area->page = kind == AREA_HUGETLB ? (size_t)2 << 20 : (size_t)sysconf(_SC_PAGESIZE);
    area->length = (AREA_PAGES + 1) * area->page;
    if (kind == AREA_HUGETLB && !machine_free_hugepages(area->page, AREA_PAGES + 1)) {
        print_message("cannot free %d huge pages of 2 MiB\n", AREA_PAGES + 1);
        skip();
    }
    if (!area_protects()) {
        modes &= ~(unsigned)MNW__UFFD_MODE_WP;
    }
    area->uffd = mnw__uffd_open(features);
    assert_true(area->uffd >= 0);
    if (kind == AREA_ANON) {
        area->view = mmap(NULL, area->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(area->view, area->length, MADV_NOHUGEPAGE);
    } else {
        map_file(area);
    }
    assert_ptr_not_equal(area->view, MAP_FAILED);
    if (modes) {
        assert_int_equal(mnw__uffd_register(area->uffd, area_at(area, 0), area->length, modes, NULL), 0);
    }
}

void area_close(struct area *area) {
    munmap(area->view, area->length);
    if (area->fd >= 0) {
        munmap(area->alias, AREA_PAGES * area->page);
        close(area->fd);
    }
    mnw__uffd_close(area->uffd);
}

void area_fill(struct area *area, int page, char fill) {
    off_t offset = (off_t)((size_t)page * area->page);
    assert_int_equal(fallocate(area->fd, FALLOC_FL_KEEP_SIZE, offset, (off_t)area->page), 0);
    memset(area->alias + offset, fill, area->page);
}

void area_punch(struct area *area, int page) {
    off_t offset = (off_t)((size_t)page * area->page);
    assert_int_equal(fallocate(area->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, (off_t)area->page), 0);
}

uintptr_t area_at(const struct area *area, int page) {
    return (uintptr_t)area->view + (size_t)page * area->page;
}

static void *touch(void *argument) {
    struct toucher *toucher = argument;
    atomic_store(&toucher->thread_id, (uint32_t)gettid());
    toucher->signal_number = toucher->write ? machine_poke(toucher->at, 'w', &toucher->fault_address)
                                            : machine_touch(toucher->at, &toucher->fault_address);
    if (!toucher->signal_number) {
        toucher->seen = *toucher->at;
    }
    atomic_store(&toucher->ended, true);
    return NULL;
}

void touch_start(struct toucher *toucher, uintptr_t at, bool write) {
    *toucher = (struct toucher){.at = (volatile char *)at, .write = write};
    assert_int_equal(pthread_create(&toucher->thread, NULL, touch, toucher), 0);
}

void touch_join(struct toucher *toucher) {
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 5;
    if (pthread_timedjoin_np(toucher->thread, NULL, &deadline)) {
        fail_msg("the touching thread still waits");
    }
}

struct mnw__uffd_event event_next(int uffd) {
    struct mnw__uffd_event event = {.fd = -1};
    struct pollfd wait = {.fd = uffd, .events = POLLIN};
    if (poll(&wait, 1, 5000) != 1 || mnw__uffd_read(uffd, &event, 1) != 1) {
        fail_msg("no event came");
    }
    return event;
}

void event_none(int uffd) {
    struct mnw__uffd_event event;
    assert_int_equal(mnw__uffd_read(uffd, &event, 1), 0);
}

void await_waiting(int uffd, uint64_t total) {
    uint64_t pending, all = 0, deadline = mnw__clock_ns() + 5 * SECOND;
    while (!mnw__uffd_waiting(uffd, &pending, &all) && all != total) {
        if (mnw__clock_ns() > deadline) {
            fail_msg("%d threads wait, not %d", (int)all, (int)total);
        }
        mnw__sleep_ns(100000);
    }
    assert_int_equal(all, total);
}

/* The child shares the descriptors and not the memory, so its death takes the memory and leaves the descriptor. */
int uffd_of_the_dead(uintptr_t *start, size_t length) {
    struct {
        int uffd;
        void *start;
    } *note = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned modes = MNW__UFFD_MODE_MISSING | (area_protects() ? MNW__UFFD_MODE_WP : 0);
    pid_t child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
    if (!child) {
        note->uffd = mnw__uffd_open(0);
        note->start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        _exit(mnw__uffd_register(note->uffd, (uintptr_t)note->start, length, modes, NULL) ? 1 : 0);
    }
    int status = 1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    int uffd = note->uffd;
    *start = (uintptr_t)note->start;
    munmap(note, 4096);
    return uffd;
}

void in_child(int (*run)(void)) {
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        _exit(run());
    }
    int status = 1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

bool drop_privileges(void) {
    return !setgroups(0, NULL) && !setresgid(65534, 65534, 65534) && !setresuid(65534, 65534, 65534);
}

bool forbid_call(long number, int error) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = 4, .filter = filter};
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}
