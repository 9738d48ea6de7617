/* SPDX-License-Identifier: MIT */
/* Giving up privileges. Owns nothing; each function is called once, at the start. */
#include "daemon/harden.h"

#include "base/bits.h"
#include "base/error.h"
#include "daemon/config.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- privileges ---- */

static bool has_backing(const struct mnw__config *config, enum mnw_backing least, enum mnw_backing most) {
    for (unsigned i = 0; i < config->pool_count; i++)
        if (config->pools[i].options.backing >= least && config->pools[i].options.backing <= most)
            return true;
    return false;
}

/*
 * PTRACE: /proc/PID/maps of consumers that are other users. IPC_LOCK: hugetlb memory. SYS_ADMIN: the tmpfs of its own
 * that a graded pool makes where shmem has no huge pages. DAC_READ_SEARCH: images that only root may read, while we
 * are root. All of them only if we have them.
 */
static void choose_capabilities(const struct mnw__config *config) {
    static const capng_type_t sets = CAPNG_EFFECTIVE | CAPNG_PERMITTED;
    struct {
        unsigned capability;
        bool wanted;
    } kept[] = {{CAP_SYS_PTRACE, true},
                {CAP_IPC_LOCK, has_backing(config, MNW_BACKING_HUGETLB_2M, MNW_BACKING_HUGETLB_1G)},
                {CAP_SYS_ADMIN, has_backing(config, MNW_BACKING_GRADED, MNW_BACKING_GRADED)},
                {CAP_DAC_READ_SEARCH, config->uid == 0}};
    for (size_t i = 0; i < mnw__array_count(kept); i++)
        kept[i].wanted = kept[i].wanted && capng_have_capability(CAPNG_PERMITTED, kept[i].capability);
    capng_clear(CAPNG_SELECT_BOTH);
    for (size_t i = 0; i < mnw__array_count(kept); i++)
        if (kept[i].wanted)
            capng_update(CAPNG_ADD, sets, kept[i].capability);
}

static int become(const struct mnw__config *config) {
    bool other = config->user && config->uid != geteuid();
    int error;
    if (!other)
        error = capng_apply(geteuid() == 0 ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS);
    else
        error = capng_change_id((int)config->uid, (int)config->gid, CAPNG_INIT_SUPP_GRP | CAPNG_CLEAR_BOUNDING);
    if (error && (other || geteuid() == 0))
        return mnw__fail(-EPERM, "giving up privileges%s%s: libcap-ng error %d; set \"sandbox\": false to go without",
                         other ? " and becoming user " : "", other ? config->user : "", error);
    return 0;
}

int mnw__harden_privileges(const struct mnw__config *config) {
    if (capng_get_caps_process())
        return mnw__fail(-EPERM, "asking for this process's capabilities failed; /proc must be mounted");
    choose_capabilities(config);
    int error = become(config);
    if (error)
        return error;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return mnw__fail(-errno, "giving up the gain of privileges: %s", strerror(errno));
    /* Else a consumer of the same user could take the writable descriptors of the backings from us. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
        return mnw__fail(-errno, "forbidding others of this user to look inside: %s", strerror(errno));
    return 0;
}

/* ---- system calls ---- */

/* Younger than the library that makes the filter may be; the same number everywhere. */
#define NR_CACHESTAT 451

static const int allowed[] = {
    /* memory */
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(mprotect),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(memfd_create),
    SCMP_SYS(fallocate),
    SCMP_SYS(ftruncate),
    SCMP_SYS(mincore),
    SCMP_SYS(mlock),
    SCMP_SYS(munlock),
    SCMP_SYS(mbind),
    SCMP_SYS(set_mempolicy),
    SCMP_SYS(get_mempolicy),
    SCMP_SYS(move_pages),
    /* files: images, working sets, /proc, /sys */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(preadv2),
    SCMP_SYS(pwritev),
    SCMP_SYS(pwritev2),
    SCMP_SYS(splice),
    SCMP_SYS(openat),
    SCMP_SYS(open),
    SCMP_SYS(close),
    SCMP_SYS(close_range),
    SCMP_SYS(lseek),
    SCMP_SYS(fstat),
    SCMP_SYS(stat),
    SCMP_SYS(lstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(statfs),
    SCMP_SYS(fstatfs),
    SCMP_SYS(access),
    SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2),
    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),
    SCMP_SYS(getdents64),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(rename),
    SCMP_SYS(renameat),
    SCMP_SYS(renameat2),
    SCMP_SYS(unlink),
    SCMP_SYS(unlinkat),
    SCMP_SYS(fchmod),
    SCMP_SYS(flock),
    SCMP_SYS(fcntl),
    SCMP_SYS(dup),
    SCMP_SYS(dup3),
    SCMP_SYS(fadvise64),
    NR_CACHESTAT,
    SCMP_SYS(getcwd),
    /* waiting */
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_pwait2),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(eventfd2),
    SCMP_SYS(pipe2),
    SCMP_SYS(signalfd4),
    SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(futex),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres),
    SCMP_SYS(gettimeofday),
    /* io_uring; what runs in it is not seen by this filter */
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
    /* sockets: those there are, and datagrams to the holder; no connect, bind or listen */
    SCMP_SYS(accept4),
    SCMP_SYS(sendmsg),
    SCMP_SYS(sendto),
    SCMP_SYS(recvmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(shutdown),
    /* threads */
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(sched_setaffinity),
    SCMP_SYS(getcpu),
    SCMP_SYS(gettid),
    SCMP_SYS(membarrier),
    SCMP_SYS(exit),
    SCMP_SYS(set_tid_address),
    /* signals, identity, end */
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(tgkill),
    SCMP_SYS(getpid),
    SCMP_SYS(getppid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(getrandom),
    SCMP_SYS(uname),
    SCMP_SYS(sysinfo),
    SCMP_SYS(getrusage),
    SCMP_SYS(exit_group),
};

/* userfaultfd in full but for MOVE, sizes of block devices, what sockets hold. */
static const unsigned long ioctls[] = {
    UFFDIO_API,
    UFFDIO_REGISTER,
    UFFDIO_UNREGISTER,
    UFFDIO_WAKE,
    UFFDIO_COPY,
    UFFDIO_ZEROPAGE,
    UFFDIO_CONTINUE,
    UFFDIO_WRITEPROTECT,
#ifdef UFFDIO_POISON
    UFFDIO_POISON,
#else
    _IOWR(UFFDIO, 0x08, char[32]),
#endif
    SIOCOUTQ,
    FIONREAD,
    TCGETS,                  /* isatty() of a log */
    _IOR(0x12, 114, size_t), /* BLKGETSIZE64 */
    _IO(0x12, 104),          /* BLKSSZGET */
};

/* A graded pool may still have to mount its tmpfs when an image is opened. */
static const int allowed_graded[] = {SCMP_SYS(fsopen), SCMP_SYS(fsconfig), SCMP_SYS(fsmount), SCMP_SYS(mount),
                                     SCMP_SYS(umount2)};

static int allow(scmp_filter_ctx filter, const int *calls, size_t count) {
    for (size_t i = 0; i < count; i++) {
        int error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
        if (error)
            return error;
    }
    return 0;
}

/* Calls of which only some uses are needed. */
static int allow_some(scmp_filter_ctx filter) {
    int error = 0;
    for (size_t i = 0; i < mnw__array_count(ioctls) && !error; i++)
        error =
            seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1_32(SCMP_CMP_EQ, (uint32_t)ioctls[i]));
    if (!error)
        error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX));
    /* Threads, never processes. clone3() hides its flags in memory: the C library then uses clone(). */
    if (!error)
        error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                                 SCMP_A0_64(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    if (!error)
        error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (!error)
        error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0_32(SCMP_CMP_EQ, PR_SET_NAME));
    /* Reading limits, not setting them. */
    if (!error)
        error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A2_64(SCMP_CMP_EQ, 0));
    return error;
}

int mnw__harden_calls(const struct mnw__config *config) {
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return mnw__fail(-ENOMEM, "making the filter of system calls: out of memory");
    int error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (!error)
        error = allow(filter, allowed, mnw__array_count(allowed));
    if (!error)
        error = allow_some(filter);
    if (!error && has_backing(config, MNW_BACKING_GRADED, MNW_BACKING_GRADED))
        error = allow(filter, allowed_graded, mnw__array_count(allowed_graded));
    if (!error)
        error = seccomp_load(filter);
    seccomp_release(filter);
    if (error)
        return mnw__fail(error,
                         "putting the filter of system calls over the daemon: %s; set \"sandbox\": false to go "
                         "without",
                         strerror(-error));
    return 0;
}
