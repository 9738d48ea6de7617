/* SPDX-License-Identifier: MIT */
/*
 * mnw_examine(): what minnow needs, or could use, and whether this machine offers it to this process.
 *
 * Owns nothing; any thread may enter. Tries things (opens a userfaultfd, a ring) and closes them again; changes
 * no setting. A finding that fails carries the one command that would change it, where there is one.
 */
#include "base/bits.h"
#include "base/error.h"
#include "minnow/minnow.h"
#include "sys/backing.h"
#include "sys/io.h"
#include "sys/numa.h"
#include "sys/sysfs.h"
#include "sys/thread.h"
#include "sys/uffd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define THP_DIRECTORY "/sys/kernel/mm/transparent_hugepage"
#define FIX_UFFD      "sysctl -w vm.unprivileged_userfaultfd=1"
/* A container's; a service's filter is its SystemCallFilter=. */
#define FIX_FILTER      "docker run --security-opt seccomp=PROFILE, one that permits userfaultfd"
#define FIX_UFFD_DEVICE "sudo setfacl -m u:$(id -un):rw /dev/userfaultfd"
#define FIX_SHMEM_HUGE  "echo advise > " THP_DIRECTORY "/shmem_enabled"

struct examination {
    void (*each)(void *context, const struct mnw_finding *finding);
    void *context;
    int missing; /* required things */
};

static void tell(struct examination *examination, const char *name, bool ok, bool required, const char *fix,
                 const char *format, ...) __attribute__((format(printf, 6, 7)));

static void tell(struct examination *examination, const char *name, bool ok, bool required, const char *fix,
                 const char *format, ...) {
    char found[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(found, sizeof(found), format, arguments);
    va_end(arguments);
    struct mnw_finding finding = {.name = name, .ok = ok, .required = required, .found = found, .fix = ok ? NULL : fix};
    examination->missing += required && !ok;
    examination->each(examination->context, &finding);
}

/* A setting's text, or "unknown" where it cannot be read. */
static const char *setting(const char *path, char *text, size_t size) {
    if (mnw__sysfs_text(path, text, size) < 0)
        snprintf(text, size, "unknown");
    return text;
}

static void examine_kernel(struct examination *examination) {
    char release[128];
    unsigned major = 0, minor = 0;
    setting("/proc/sys/kernel/osrelease", release, sizeof(release));
    bool known = sscanf(release, "%u.%u", &major, &minor) == 2;
    bool ok = known && (major > 5 || (major == 5 && minor >= 14));
    tell(examination, "kernel", ok, true, "boot Linux 5.14 or newer",
         ok ? "Linux %s" : "Linux %s; 5.14 is the first with minor faults on shmem", release);
}

static bool has_filter(void) {
    char status[4096];
    if (mnw__sysfs_text("/proc/self/status", status, sizeof(status)) < 0)
        return false;
    const char *line = strstr(status, "\nSeccomp:\t");
    return line && line[sizeof("\nSeccomp:\t") - 1] == '2';
}

/* A filter that forbids a call shows as EPERM or ENOSYS: then no setting helps, and the reader should know. */
static const char *seccomp_note(void) {
    return has_filter() ? "; a seccomp filter is active and may be the reason" : "";
}

/* What lets userfaultfd(2) through. The form without kernel faults needs no privilege: refused, it is by a filter. */
static const char *fix_uffd(const struct mnw__uffd_probe *probe) {
    return has_filter() && probe->user_only_error == -EPERM ? FIX_FILTER : FIX_UFFD;
}

static void examine_door(struct examination *examination, const char *name, int error, const char *fix,
                         const char *when) {
    if (!error)
        tell(examination, name, true, false, NULL, "works");
    else if (error == -ENOENT || error == -ENOSYS || error == -ENODEV)
        tell(examination, name, false, false, NULL, "not in this kernel (%s)%s", strerror(-error),
             error == -ENOSYS ? seccomp_note() : "");
    else
        tell(examination, name, false, false, fix, "refused (%s); %s%s", strerror(-error), when, seccomp_note());
}

static void examine_doors(struct examination *examination, const struct mnw__uffd_probe *probe) {
    static const char *const doors[] = {
        [MNW__UFFD_DOOR_NONE] = "refused at every door",
        [MNW__UFFD_DOOR_SYSCALL] = "by the system call",
        [MNW__UFFD_DOOR_DEVICE] = "by /dev/userfaultfd",
        [MNW__UFFD_DOOR_USER_ONLY] = "for faults of user code only",
    };
    char value[32];
    bool open = probe->door != MNW__UFFD_DOOR_NONE;
    bool built = probe->syscall_error != -ENOSYS;
    const char *fix = fix_uffd(probe);
    tell(examination, "userfaultfd", open, true, built ? fix : "boot a kernel built with CONFIG_USERFAULTFD=y", "%s%s",
         doors[probe->door], open ? "" : seccomp_note());

    setting("/proc/sys/vm/unprivileged_userfaultfd", value, sizeof(value));
    char when[128];
    snprintf(when, sizeof(when), "needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1 (now %s)", value);
    examine_door(examination, "uffd-syscall", probe->syscall_error, fix, when);
    examine_door(examination, "uffd-device", probe->device_error, FIX_UFFD_DEVICE,
                 "needs read and write permission on the device");
    examine_door(examination, "uffd-user-only", probe->user_only_error, fix,
                 probe->user_only_error == -EINVAL ? "needs a kernel from 5.11 on" : "it needs no privilege");

    bool kernel_faults = probe->door == MNW__UFFD_DOOR_SYSCALL || probe->door == MNW__UFFD_DOOR_DEVICE;
    tell(examination, "uffd-kernel-faults", kernel_faults, false, fix, "%s",
         kernel_faults
             ? "system calls given an untouched pointer wait like a reader"
             : "system calls given an untouched pointer fail with EFAULT; pools want the option user_faults_only");
}

static void examine_features(struct examination *examination, const struct mnw__uffd_probe *probe) {
    static const struct {
        const char *name;
        uint64_t feature;
        bool required;
        const char *with, *without;
    } features[] = {
        {"uffd-missing-shmem", MNW__UFFD_MISSING_SHMEM, true, "holes of shmem raise events", "no events for holes"},
        {"uffd-missing-hugetlbfs", MNW__UFFD_MISSING_HUGETLBFS, true, "holes of hugetlb raise events",
         "no events for holes"},
        {"uffd-minor-shmem", MNW__UFFD_MINOR_SHMEM, true, "resident pages of shmem raise events",
         "no minor faults on shmem; Linux 5.14 on x86-64 or arm64 has them"},
        {"uffd-minor-hugetlbfs", MNW__UFFD_MINOR_HUGETLBFS, true, "resident pages of hugetlb raise events",
         "no minor faults on hugetlb; Linux 5.13 on x86-64 or arm64 has them"},
        {"uffd-poison", MNW__UFFD_POISON, false,
         "a page that cannot be read is poisoned: SIGBUS for whoever touches it",
         "before Linux 6.6: instead, a page that cannot be read is replaced in each view by a mapping of an empty "
         "file, so touching it is SIGBUS at the exact address too; each such page costs a mapping (vm.max_map_count); "
         "in views of other processes the reader waits, and their forks cannot be followed"},
        {"uffd-sigbus", MNW__UFFD_SIGBUS, false, "faults can be resolved in the thread that faults (MNW_VIEW_INLINE)",
         "no inline views; Linux 4.14 has them"},
    };
    for (size_t i = 0; i < mnw__array_count(features); i++) {
        bool ok = probe->features & features[i].feature;
        bool known = probe->door != MNW__UFFD_DOOR_NONE;
        const char *found = ok ? features[i].with : features[i].without;
        tell(examination, features[i].name, ok, features[i].required, NULL, "%s",
             known ? found : "unknown while userfaultfd is refused");
    }
}

/* "2M", "1G", "64K" */
static void name_size(size_t bytes, char *text, size_t size) {
    if (bytes >> 30)
        snprintf(text, size, "%zuG", bytes >> 30);
    else if (bytes >> 20)
        snprintf(text, size, "%zuM", bytes >> 20);
    else
        snprintf(text, size, "%zuK", bytes >> 10);
}

static void fix_hugepages(size_t page_bytes, int node, unsigned count, char *fix, size_t size) {
    snprintf(fix, size, "echo %u > /sys/devices/system/node/node%d/hugepages/hugepages-%zukB/nr_hugepages", count, node,
             page_bytes >> 10);
}

static int first_node(uint64_t nodes) {
    return __builtin_ctzll(nodes);
}

static const char *how_used(enum mnw_backing kind) {
    if (kind != MNW_BACKING_GRADED)
        return "can be used now";
    return mnw__backing_folios() == MNW__FOLIOS_MEMFD ? "can be used now, on memfds"
                                                      : "can be used now, on a private tmpfs mounted with huge=always";
}

static void examine_backings(struct examination *examination, const struct mnw__uffd_probe *probe, uint64_t nodes) {
    static const struct {
        const char *name;
        enum mnw_backing kind;
        unsigned fix_pages; /* of hugetlb, in the command that is shown */
    } backings[] = {
        {"backing-shmem", MNW_BACKING_SHMEM, 0},
        {"backing-graded", MNW_BACKING_GRADED, 0},
        {"backing-hugetlb-2M", MNW_BACKING_HUGETLB_2M, 512},
        {"backing-hugetlb-1G", MNW_BACKING_HUGETLB_1G, 1},
    };
    for (size_t i = 0; i < mnw__array_count(backings); i++) {
        enum mnw_backing kind = backings[i].kind;
        size_t page_bytes = mnw__backing_page_bytes(kind);
        char fix[160] = FIX_SHMEM_HUGE;
        if (backings[i].fix_pages)
            fix_hugepages(page_bytes, first_node(nodes), backings[i].fix_pages, fix, sizeof(fix));
        int error = mnw__backing_check(kind, mnw__max(page_bytes, mnw__backing_extent_bytes(kind)));
        bool required = kind == MNW_BACKING_SHMEM, open = probe->door != MNW__UFFD_DOOR_NONE;
        tell(examination, backings[i].name, !error && open, required, required || !error ? NULL : fix, "%s",
             error  ? mnw__fail_message()
             : open ? how_used(kind)
                    : "its memory can be had, and userfaultfd is refused");
    }
}

static void examine_hugepages(struct examination *examination, uint64_t nodes) {
    size_t sizes[8];
    int count = mnw__hugepage_sizes(sizes, (int)mnw__array_count(sizes));
    if (count <= 0)
        tell(examination, "hugepages", false, false, NULL, "this kernel has no hugetlb pages");
    for (int i = 0; i < count; i++) {
        char size[16], name[64], fix[160];
        name_size(sizes[i], size, sizeof(size));
        for (uint64_t left = nodes; left; left &= left - 1) {
            int node = first_node(left);
            struct mnw__hugepages pages;
            if (mnw__hugepages(sizes[i], node, &pages))
                continue;
            snprintf(name, sizeof(name), "hugepages-%s-node%d", size, node);
            fix_hugepages(sizes[i], node, sizes[i] >> 30 ? 1 : 512, fix, sizeof(fix));
            tell(examination, name, pages.free > 0, false, fix, "%" PRIu64 " of %" PRIu64 " free", pages.free,
                 pages.total);
        }
        const char *mount = mnw__hugetlbfs_mount(sizes[i]);
        snprintf(name, sizeof(name), "hugetlbfs-%s", size);
        snprintf(fix, sizeof(fix),
                 "mkdir -p /dev/hugepages-%s && mount -t hugetlbfs -o pagesize=%s none /dev/hugepages-%s", size, size,
                 size);
        tell(examination, name, mount, false, fix, "%s", mount ? mount : "not mounted; pools do not need it");
    }
}

/* Since 6.11 each size of folios has a setting of its own, which counts unless it is "inherit". */
static void examine_shmem_huge(struct examination *examination) {
    char word[32], own[32], path[128], fix[256] = FIX_SHMEM_HUGE;
    size_t kib = mnw__backing_extent_bytes(MNW_BACKING_GRADED) >> 10;
    if (mnw__sysfs_choice(THP_DIRECTORY "/shmem_enabled", word, sizeof(word)) < 0) {
        tell(examination, "shmem-huge", false, false, NULL, "this kernel has no huge shmem pages");
        return;
    }
    snprintf(path, sizeof(path), THP_DIRECTORY "/hugepages-%zukB/shmem_enabled", kib);
    bool has_own = mnw__sysfs_choice(path, own, sizeof(own)) >= 0 && strcmp(own, "inherit");
    if (has_own && strcmp(word, "deny"))
        snprintf(fix, sizeof(fix), "echo inherit > %s && %s", path, FIX_SHMEM_HUGE);
    bool ok = mnw__backing_folios() == MNW__FOLIOS_MEMFD;
    tell(examination, "shmem-huge", ok, false, fix, "shmem_enabled is %s%s%s%s", word,
         has_own ? ", for folios of this size " : "", has_own ? own : "",
         ok ? "" : "; graded pools then need a tmpfs mount with huge=, which takes root");
}

static void ignore_answer(void *context, uint64_t token, int64_t result) {
    (void)context;
    (void)token;
    (void)result;
}

static void examine_io_uring(struct examination *examination) {
    struct mnw__io *io = NULL;
    int error = mnw__io_open(&io, MNW_IO_URING, 4, -1, ignore_answer, NULL);
    if (!error) {
        mnw__io_close(io);
        tell(examination, "io-uring", true, false, NULL, "files are read through a ring");
        return;
    }
    uint64_t disabled = 0;
    mnw__sysfs_number("/proc/sys/kernel/io_uring_disabled", &disabled);
    tell(examination, "io-uring", false, false, disabled ? "sysctl -w kernel.io_uring_disabled=0" : NULL,
         "refused (%s)%s; files are read by a pool of threads instead", strerror(-error),
         disabled ? ", kernel.io_uring_disabled is set" : seccomp_note());
}

static void examine_nodes(struct examination *examination, uint64_t nodes) {
    char list[256] = "";
    size_t used = 0;
    for (uint64_t left = nodes; left && used < sizeof(list); left &= left - 1)
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%d", used ? "," : "", first_node(left));
    int count = __builtin_popcountll(nodes);
    tell(examination, "numa", true, false, NULL, "%d node%s this process may use: %s", count, count == 1 ? "" : "s",
         list);
}

/* Gives a page of shmem memory on this node, as fills do: where it lies then, or a negative errno. */
static int try_node(struct mnw__backing *backing, int node) {
    struct mnw__numa_own own;
    void *address = backing->alias;
    int found;
    if (!mnw__numa_lend(node, &own))
        return -EPERM;
    int error = mnw__backing_allocate(backing, 0, backing->page_bytes);
    mnw__numa_take_back(&own);
    if (!error)
        error = mnw__numa_where(&address, &found, 1);
    mnw__backing_punch(backing, 0, backing->page_bytes);
    return error ? error : found;
}

/* Whether memory lies where it is asked for: policies may be refused, and a node may have none. */
static void examine_placement(struct examination *examination, uint64_t nodes) {
    struct mnw__backing backing;
    int count = __builtin_popcountll(nodes), node = -1, found = -1;
    if (count == 1) {
        tell(examination, "numa-placement", true, false, NULL, "one node: memory cannot lie elsewhere");
        return;
    }
    if (mnw__backing_create(&backing, MNW_BACKING_SHMEM, 1)) {
        tell(examination, "numa-placement", false, false, NULL, "not tried: %s", mnw__fail_message());
        return;
    }
    for (uint64_t left = nodes; left && found == node; left &= left - 1) {
        node = first_node(left);
        found = try_node(&backing, node);
    }
    mnw__backing_destroy(&backing);
    if (found == node)
        tell(examination, "numa-placement", true, false, NULL,
             "memory lies on each of the %d nodes when it is asked of it", count);
    else if (found >= 0)
        tell(examination, "numa-placement", false, false, NULL,
             "memory asked of node %d lies on node %d: node %d has none "
             "left",
             node, found, node);
    else
        tell(examination, "numa-placement", false, false, "give the container CAP_SYS_NICE",
             "asking for memory of node %d "
             "is refused (%s)%s: memory lies where the allocating thread runs",
             node, strerror(-found), seccomp_note());
}

/*
 * The kernel moves memory to the threads that use it, and threads to their memory. Of the former it leaves out mappings
 * of shmem without a lazy policy, and hugetlb: a cache's pages stay, whatever the setting.
 */
static void examine_balancing(struct examination *examination, uint64_t nodes) {
    uint64_t balancing = mnw__numa_balancing();
    bool ok = !balancing || __builtin_popcountll(nodes) == 1;
    tell(examination, "numa-balancing", ok, false, "sysctl -w kernel.numa_balancing=0",
         ok ? "kernel.numa_balancing is %" PRIu64
            : "kernel.numa_balancing is %" PRIu64
              ": it leaves the pages of caches where they are, but moves threads to "
              "other nodes, away from the pages that they had faulted in",
         balancing);
}

static void examine_moves(struct examination *examination) {
    bool may = mnw__numa_may_move_all();
    tell(examination, "numa-move", may, false, may ? NULL : "setcap cap_sys_nice+ep PROGRAM", "%s",
         may ? "memory can be moved to the node it is used from while it is mapped"
             : "no CAP_SYS_NICE: rebalancing moves only memory that is mapped nowhere else at that moment");
}

static void examine_limits(struct examination *examination) {
    uint64_t overcommit = 0;
    mnw__sysfs_number("/proc/sys/vm/overcommit_memory", &overcommit);
    tell(examination, "overcommit", overcommit != 2, false, "sysctl -w vm.overcommit_memory=0",
         overcommit == 2 ? "vm.overcommit_memory is %" PRIu64 ": metadata counts in full, large stores may be refused"
                         : "vm.overcommit_memory is %" PRIu64,
         overcommit);

    char limits[4096];
    const char *line = NULL;
    if (mnw__sysfs_text("/proc/self/limits", limits, sizeof(limits)) >= 0)
        line = strstr(limits, "Max address space");
    char soft[32];
    if (!line || sscanf(line, "Max address space %31s", soft) != 1)
        return;
    bool unlimited = !strcmp(soft, "unlimited");
    tell(examination, "address-space", unlimited, false, "ulimit -v unlimited",
         unlimited ? "%s" : "%s bytes; a store is mapped twice over, in full", soft);
}

int mnw_examine(void (*each)(void *context, const struct mnw_finding *finding), void *context) {
    MNW__WHOLE_CALL;
    if (!each)
        return mnw__fail(-EINVAL, "examining the machine: no function to call with the findings");
    struct examination examination = {.each = each, .context = context};
    struct mnw__uffd_probe probe = {0};
    mnw__uffd_probe(&probe); /* its answer is in the probe */
    uint64_t nodes = mnw__numa_allowed();

    examine_kernel(&examination);
    examine_doors(&examination, &probe);
    examine_features(&examination, &probe);
    examine_backings(&examination, &probe, nodes);
    examine_hugepages(&examination, nodes);
    examine_shmem_huge(&examination);
    examine_io_uring(&examination);
    examine_nodes(&examination, nodes);
    examine_placement(&examination, nodes);
    examine_balancing(&examination, nodes);
    examine_moves(&examination);
    examine_limits(&examination);
    return examination.missing;
}
