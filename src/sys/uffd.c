/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd on Linux. Owns nothing; any thread may enter. Never allocates, never touches watched memory.
 *
 * The kernel headers of Debian 12 are those of 6.1: what is younger is defined here, by the numbers of the
 * kernel's ABI, and the running kernel is asked what it offers.
 */
#include "sys/uffd.h"

#include "base/bits.h"
#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef UFFDIO_POISON
#define _UFFDIO_POISON (0x08)
struct uffdio_poison {
    struct uffdio_range range;
    __u64 mode;
    __s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, _UFFDIO_POISON, struct uffdio_poison)
#endif

#define DEVICE "/dev/userfaultfd"

/* The flags go to the kernel as they are. */
_Static_assert(MNW__UFFD_DONTWAKE == UFFDIO_COPY_MODE_DONTWAKE, "mode bit");
_Static_assert(MNW__UFFD_DONTWAKE == UFFDIO_CONTINUE_MODE_DONTWAKE, "mode bit");
_Static_assert(MNW__UFFD_DONTWAKE == UFFDIO_ZEROPAGE_MODE_DONTWAKE, "mode bit");
_Static_assert(MNW__UFFD_KEEP_WP == UFFDIO_COPY_MODE_WP, "mode bit");
_Static_assert(MNW__UFFD_MODE_MISSING == UFFDIO_REGISTER_MODE_MISSING, "mode bit");
_Static_assert(MNW__UFFD_MODE_WP == UFFDIO_REGISTER_MODE_WP, "mode bit");
_Static_assert(MNW__UFFD_MODE_MINOR == UFFDIO_REGISTER_MODE_MINOR, "mode bit");
_Static_assert(MNW__UFFD_FAULT_WRITE == UFFD_PAGEFAULT_FLAG_WRITE, "fault bit");
_Static_assert(MNW__UFFD_FAULT_WP == UFFD_PAGEFAULT_FLAG_WP, "fault bit");
_Static_assert(MNW__UFFD_FAULT_MINOR == UFFD_PAGEFAULT_FLAG_MINOR, "fault bit");
_Static_assert(MNW__UFFD_WP_HUGETLBFS_SHMEM == UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "feature bit");

static int open_by_syscall(int extra_flags) {
    long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | extra_flags);
    return fd < 0 ? -errno : (int)fd;
}

static int open_by_device(void) {
    int device = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (device < 0) {
        return -errno;
    }
    int fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    int error = fd < 0 ? -errno : 0;
    close(device);
    return error ? error : fd;
}

int mnw__uffd_open_raw(enum mnw__uffd_door door) {
    switch (door) {
    case MNW__UFFD_DOOR_SYSCALL:
        return open_by_syscall(0);
    case MNW__UFFD_DOOR_DEVICE:
        return open_by_device();
    case MNW__UFFD_DOOR_USER_ONLY:
        return open_by_syscall(UFFD_USER_MODE_ONLY);
    case MNW__UFFD_DOOR_NONE:
        break;
    }
    return -EINVAL;
}

int mnw__uffd_api(int fd, uint64_t version, uint64_t features, uint64_t *features_out, uint64_t *ioctls_out) {
    struct uffdio_api api = {.api = version, .features = features};
    if (ioctl(fd, UFFDIO_API, &api)) {
        return -errno;
    }
    if (features_out) {
        *features_out = api.features;
    }
    if (ioctls_out) {
        *ioctls_out = api.ioctls;
    }
    return 0;
}

/* -ENOSYS from both system-call doors is a kernel without userfaultfd; anything else is a refusal. */
static int refusal(const struct mnw__uffd_probe *probe) {
    return probe->syscall_error == -ENOSYS && probe->user_only_error == -ENOSYS ? -ENOSYS : -EPERM;
}

static int fail_no_door(const struct mnw__uffd_probe *probe) {
    if (refusal(probe) == -ENOSYS) {
        return mnw__fail(-ENOSYS, "userfaultfd: this kernel has none (or a seccomp filter hides it); "
                                  "use a kernel built with CONFIG_USERFAULTFD=y");
    }
    if (probe->syscall_error == -EMFILE || probe->syscall_error == -ENFILE || probe->syscall_error == -ENOMEM) {
        return mnw__fail(probe->syscall_error,
                         "userfaultfd: %s; raise the limit on open files (ulimit -n) "
                         "or free memory",
                         strerror(-probe->syscall_error));
    }
    return mnw__fail(-EPERM,
                     "userfaultfd: refused (system call: %s; %s: %s; user faults only: %s); allow it in the "
                     "seccomp filter, or run: sysctl vm.unprivileged_userfaultfd=1, or give access to %s",
                     strerror(-probe->syscall_error), DEVICE, strerror(-probe->device_error),
                     strerror(-probe->user_only_error), DEVICE);
}

/* Opens by the best door; the errors of those tried before it are in `probe`. */
static int open_best(struct mnw__uffd_probe *probe) {
    int fd = probe->syscall_error = mnw__uffd_open_raw(MNW__UFFD_DOOR_SYSCALL);
    if (fd >= 0) {
        probe->syscall_error = 0;
        probe->door = MNW__UFFD_DOOR_SYSCALL;
        return fd;
    }
    fd = probe->device_error = mnw__uffd_open_raw(MNW__UFFD_DOOR_DEVICE);
    if (fd >= 0) {
        probe->device_error = 0;
        probe->door = MNW__UFFD_DOOR_DEVICE;
        return fd;
    }
    fd = probe->user_only_error = mnw__uffd_open_raw(MNW__UFFD_DOOR_USER_ONLY);
    if (fd >= 0) {
        probe->user_only_error = 0;
        probe->door = MNW__UFFD_DOOR_USER_ONLY;
        return fd;
    }
    return fail_no_door(probe);
}

static int try_door(enum mnw__uffd_door door, struct mnw__uffd_probe *probe) {
    int fd = mnw__uffd_open_raw(door);
    if (fd < 0) {
        return fd;
    }
    int result = 0;
    if (probe->door == MNW__UFFD_DOOR_NONE) {
        result = mnw__uffd_api(fd, UFFD_API, 0, &probe->features, &probe->ioctls);
        probe->door = result ? MNW__UFFD_DOOR_NONE : door;
    }
    close(fd);
    return result;
}

int mnw__uffd_probe(struct mnw__uffd_probe *probe) {
    *probe = (struct mnw__uffd_probe){.door = MNW__UFFD_DOOR_NONE};
    probe->syscall_error = try_door(MNW__UFFD_DOOR_SYSCALL, probe);
    probe->device_error = try_door(MNW__UFFD_DOOR_DEVICE, probe);
    probe->user_only_error = try_door(MNW__UFFD_DOOR_USER_ONLY, probe);
    return probe->door == MNW__UFFD_DOOR_NONE ? fail_no_door(probe) : 0;
}

int mnw__uffd_open(uint64_t features) {
    struct mnw__uffd_probe probe = {.door = MNW__UFFD_DOOR_NONE};
    int fd = open_best(&probe);
    if (fd < 0) {
        return fd;
    }
    int result = mnw__uffd_api(fd, UFFD_API, features, NULL, NULL);
    if (!result) {
        return fd;
    }
    close(fd);
    /* A refused UFFDIO_API does not say what it refused: only a descriptor that asks for nothing can tell. */
    if (result == -EINVAL && !mnw__uffd_probe(&probe) && (features & ~probe.features)) {
        return mnw__fail(-ENOSYS,
                         "userfaultfd: this kernel lacks the features 0x%" PRIx64 " (it has 0x%" PRIx64
                         "); a newer kernel is needed",
                         features & ~probe.features, probe.features);
    }
    return mnw__fail(result, "UFFDIO_API with features 0x%" PRIx64 ": %s", features, strerror(-result));
}

void mnw__uffd_close(int fd) {
    close(fd);
}

int mnw__uffd_register(int fd, uintptr_t start, size_t length, unsigned modes, uint64_t *ioctls) {
    struct uffdio_register range = {.range = {.start = start, .len = length}, .mode = modes};
    if (ioctl(fd, UFFDIO_REGISTER, &range)) {
        return -errno;
    }
    if (ioctls) {
        *ioctls = range.ioctls;
    }
    return 0;
}

int mnw__uffd_unregister(int fd, uintptr_t start, size_t length) {
    struct uffdio_range range = {.start = start, .len = length};
    return ioctl(fd, UFFDIO_UNREGISTER, &range) ? -errno : 0;
}

int mnw__uffd_continue(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    struct uffdio_continue range = {.range = {.start = start, .len = length}, .mode = flags};
    int result = ioctl(fd, UFFDIO_CONTINUE, &range) ? -errno : 0;
    *done = range.mapped;
    return result;
}

int mnw__uffd_copy(int fd, uintptr_t start, const void *source, size_t length, unsigned flags, int64_t *done) {
    struct uffdio_copy range = {.dst = start, .src = (uintptr_t)source, .len = length, .mode = flags};
    int result = ioctl(fd, UFFDIO_COPY, &range) ? -errno : 0;
    *done = range.copy;
    return result;
}

int mnw__uffd_zeropage(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    struct uffdio_zeropage range = {.range = {.start = start, .len = length}, .mode = flags};
    int result = ioctl(fd, UFFDIO_ZEROPAGE, &range) ? -errno : 0;
    *done = range.zeropage;
    return result;
}

int mnw__uffd_poison(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    struct uffdio_poison range = {.range = {.start = start, .len = length}, .mode = flags};
    int result = ioctl(fd, UFFDIO_POISON, &range) ? -errno : 0;
    *done = range.updated;
    return result;
}

int mnw__uffd_wake(int fd, uintptr_t start, size_t length) {
    struct uffdio_range range = {.start = start, .len = length};
    return ioctl(fd, UFFDIO_WAKE, &range) ? -errno : 0;
}

int mnw__uffd_writeprotect(int fd, uintptr_t start, size_t length, bool protect, unsigned flags) {
    struct uffdio_writeprotect range = {.range = {.start = start, .len = length}};
    range.mode = (protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0) |
                 (flags & MNW__UFFD_DONTWAKE ? UFFDIO_WRITEPROTECT_MODE_DONTWAKE : 0);
    return ioctl(fd, UFFDIO_WRITEPROTECT, &range) ? -errno : 0;
}

static void translate(const struct uffd_msg *message, struct mnw__uffd_event *event) {
    *event = (struct mnw__uffd_event){.fd = -1};
    switch (message->event) {
    case UFFD_EVENT_PAGEFAULT:
        event->kind = MNW__UFFD_EV_FAULT;
        event->flags = (unsigned)message->arg.pagefault.flags;
        event->thread_id = message->arg.pagefault.feat.ptid;
        event->address = message->arg.pagefault.address;
        break;
    case UFFD_EVENT_FORK:
        event->kind = MNW__UFFD_EV_FORK;
        event->fd = (int)message->arg.fork.ufd;
        break;
    case UFFD_EVENT_REMAP:
        event->kind = MNW__UFFD_EV_REMAP;
        event->address = message->arg.remap.from;
        event->to = message->arg.remap.to;
        event->length = message->arg.remap.len;
        break;
    default:
        event->kind = message->event == UFFD_EVENT_UNMAP ? MNW__UFFD_EV_UNMAP : MNW__UFFD_EV_REMOVE;
        event->address = message->arg.remove.start;
        event->length = message->arg.remove.end - message->arg.remove.start;
        break;
    }
}

/* What the read brought, or why it brought nothing. */
static int take(ssize_t bytes, const struct uffd_msg *messages, struct mnw__uffd_event *events) {
    if (bytes < 0) {
        return errno == EAGAIN ? 0 : -errno;
    }
    int taken = (int)((size_t)bytes / sizeof(messages[0]));
    for (int i = 0; i < taken; i++) {
        translate(&messages[i], &events[i]);
    }
    return taken;
}

int mnw__uffd_read(int fd, struct mnw__uffd_event *events, int count) {
    struct uffd_msg messages[MNW__UFFD_BATCH];
    if (count > MNW__UFFD_BATCH) {
        count = MNW__UFFD_BATCH;
    }
    ssize_t bytes;
    do {
        bytes = read(fd, messages, (size_t)count * sizeof(messages[0]));
    } while (bytes < 0 && errno == EINTR);
    return take(bytes, messages, events);
}

int mnw__uffd_read_nowait(int fd, struct mnw__uffd_event *events, int count) {
    struct uffd_msg messages[MNW__UFFD_BATCH];
    if (count > MNW__UFFD_BATCH) {
        count = MNW__UFFD_BATCH;
    }
    struct iovec room = {.iov_base = messages, .iov_len = (size_t)count * sizeof(messages[0])};
    ssize_t bytes;
    do {
        bytes = preadv2(fd, &room, 1, -1, RWF_NOWAIT);
    } while (bytes < 0 && errno == EINTR);
    if (bytes < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == ESPIPE)) {
        int error = mnw__uffd_tame(fd);
        return error ? error : mnw__uffd_read(fd, events, count);
    }
    return take(bytes, messages, events);
}

static ssize_t read_info(int fd, char *text, size_t size) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    int info = open(path, O_RDONLY | O_CLOEXEC);
    if (info < 0) {
        return -errno;
    }
    ssize_t bytes = read(info, text, size - 1);
    int error = errno;
    close(info);
    if (bytes < 0) {
        return -error;
    }
    text[bytes] = 0;
    return bytes;
}

int mnw__uffd_waiting(int fd, uint64_t *pending, uint64_t *total) {
    char text[512];
    ssize_t bytes = read_info(fd, text, sizeof(text));
    if (bytes < 0) {
        return (int)bytes;
    }
    const char *pending_text = strstr(text, "pending:"), *total_text = strstr(text, "total:");
    if (!pending_text || !total_text || sscanf(pending_text, "pending: %" SCNu64, pending) != 1 ||
        sscanf(total_text, "total: %" SCNu64, total) != 1) {
        return -EINVAL; /* not a userfaultfd */
    }
    return 0;
}

void mnw__uffd_bar_fault(int fd, uintptr_t address) {
    static const size_t page_bytes[] = {4096, 16384, 65536, 2 << 20, 1 << 30};
    int error = -EINVAL;
    for (size_t i = 0; error == -EINVAL && i < mnw__array_count(page_bytes); i++) {
        int64_t done;
        error = mnw__uffd_poison(fd, mnw__align_down(address, page_bytes[i]), page_bytes[i], 0, &done);
    }
    /*
     * The address is the one that it waits with, and this size is right for waking whatever its page is. That of the
     * last call need not be: a change is told of before the size is looked at.
     */
    if (error) {
        size_t kernel_page_bytes = (size_t)sysconf(_SC_PAGESIZE);
        mnw__uffd_wake(fd, mnw__align_down(address, kernel_page_bytes), kernel_page_bytes);
    }
}

/* Below every mapping; the kernel wants no lower one. Whole pages, whatever the kernel's are. */
#define LOW_ADDRESS 0x10000

/* How large address spaces are depends on the machine: the kernel refuses what leaves them. */
int mnw__uffd_wake_all(int fd) {
    int error = -EINVAL;
    for (unsigned bits = 57; error == -EINVAL && bits > 30; bits--) {
        error = mnw__uffd_wake(fd, LOW_ADDRESS, ((uintptr_t)1 << bits) - (1 << 16) - LOW_ADDRESS);
    }
    return error;
}

/* A page that cannot be read, made once; low enough that no length from there leaves the address space. */
static const void *unreadable_page(void) {
    static _Atomic(void *) shared;
    void *page = atomic_load_explicit(&shared, memory_order_acquire), *nobody = NULL;
    if (page) {
        return page;
    }
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    page = mmap((void *)(1ull << 30), page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (page == MAP_FAILED || !atomic_compare_exchange_strong(&shared, &nobody, page)) {
        if (page != MAP_FAILED) {
            munmap(page, page_bytes);
        }
        page = nobody;
    }
    return page;
}

/* COPY looks at the mapping first, and then at what is to be copied, which cannot be read: so nothing ever is. */
int mnw__uffd_is_one_mapping(int fd, uintptr_t start, size_t length) {
    const void *nothing = unreadable_page();
    int64_t done = 0;
    if (!nothing) {
        return -ENOMEM;
    }
    int error = mnw__uffd_copy(fd, start, nothing, length, 0, &done);
    return error == -EFAULT ? 1 : error == -ENOENT ? 0 : error;
}

/* The kernel's own bit among the features: UFFDIO_API was done. */
#define INITIALISED (1ull << 31)

int mnw__uffd_describe(int fd, struct mnw__uffd_description *description) {
    char text[512];
    struct stat status;
    uint64_t version, features;
    ssize_t bytes = read_info(fd, text, sizeof(text));
    if (bytes < 0) {
        return (int)bytes;
    }
    const char *api = strstr(text, "\nAPI:");
    if (!strstr(text, "\npending:") || !api || fstat(fd, &status) ||
        sscanf(api, "\nAPI: %" SCNx64 ":%" SCNx64, &version, &features) != 2) {
        return -EINVAL;
    }
    description->initialised = features & INITIALISED;
    description->features = features & ~INITIALISED;
    description->identity = status.st_ino;
    return 0;
}

int mnw__uffd_duplicate(int fd) {
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return copy < 0 ? -errno : copy;
}

int mnw__uffd_tame(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK)) ||
        fcntl(fd, F_SETFD, FD_CLOEXEC)) {
        return -errno;
    }
    return 0;
}
