/* SPDX-License-Identifier: MIT */
/*
 * minnow - a page cache that a program owns
 *
 * Open a store (a file, memory, or your own callbacks), give it to a cache in a pool with a byte budget,
 * open a view of the cache, and read the store's bytes through an ordinary pointer.
 *
 * Conventions, for every function unless its own text says otherwise:
 *   - returns 0 (or a count) on success and a negative errno on failure; mnw_error() then tells the calling
 *     thread, in words, what was attempted, on what, and what to do about it;
 *   - bad arguments are refused before anything changes;
 *   - is thread-safe, is NOT async-signal-safe, and is no cancellation point, though it may wait;
 *   - offsets and lengths are bytes; ranges that name pages must be aligned to mnw_cache_page_size();
 *   - in a child made by fork(2), handles of the parent are refused with -EOWNERDEAD, and views are not
 *     mapped: touching one is SIGSEGV, never zeros.
 */
#ifndef MINNOW_H
#define MINNOW_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) && __GNUC__ >= 4
#define MNW_PUBLIC __attribute__((visibility("default")))
#else
#define MNW_PUBLIC
#endif

#define MNW_VERSION_MAJOR 0
#define MNW_VERSION_MINOR 1
#define MNW_VERSION_PATCH 0

struct mnw_store;
struct mnw_pool;
struct mnw_cache;
struct mnw_view;

/* The library's version, "major.minor.patch". Static storage. Async-signal-safe. */
MNW_PUBLIC const char *mnw_version(void);

/*
 * The message of the last failure in the calling thread; "" when there was none. Valid until the thread's
 * next minnow call. Makes no system call.
 */
MNW_PUBLIC const char *mnw_error(void);

/* ---- stores -------------------------------------------------------------------------------------------- */

struct mnw_store_options {
    size_t size; /* sizeof(struct mnw_store_options) */
    int direct;  /* nonzero: O_DIRECT, past the kernel's page cache (file stores) */
};

/*
 * Opens a store by URI: "file:///absolute/path", or "file:///path?direct=1". Options may be NULL.
 * The size of the store is fixed here: a file that shrinks later gives SIGBUS for the pages it lost.
 * Errors: -EINVAL (malformed URI), -ENOENT, -EACCES, -EISDIR, -ENOTSUP (unknown scheme), -ENODATA (empty),
 * -ENOMEM. System calls: open, fstat, ioctl.
 */
MNW_PUBLIC int mnw_store_open(struct mnw_store **store, const char *uri, const struct mnw_store_options *options);

/*
 * A store over the caller's memory, which must stay valid and mapped until the store is closed. It must not be a
 * view, nor any memory whose faults wait for minnow: the thread that reads it would wait for itself.
 */
MNW_PUBLIC int mnw_store_open_memory(struct mnw_store **store, const void *data, uint64_t size_bytes);

/*
 * One read that minnow asks of the embedder's store. `buffer` stays valid until the read is answered: a read
 * that outlives its deadline keeps its memory, so a late answer never writes into another page's bytes.
 * The embedder may copy the struct; it must answer with the token exactly once.
 */
struct mnw_read {
    uint64_t token;  /* names this read to mnw_read_done() */
    uint64_t offset; /* in the store */
    void *buffer;    /* where the bytes go; belongs to minnow */
    size_t length;   /* bytes wanted; an answer may be shorter, minnow reads on */
};

struct mnw_store_callbacks {
    size_t size;         /* sizeof(struct mnw_store_callbacks) */
    uint64_t size_bytes; /* the store's length, at least 1 */
    /*
     * Start a read. Called on a thread of minnow: must not block, must not touch a view, must not call
     * minnow but for mnw_read_done(), which it may call before it returns.
     */
    void (*read)(void *context, const struct mnw_read *read);
    /*
     * Optional: are these bytes what the store holds? Return 0, or a negative errno to have the read
     * repeated. `offset` is page-aligned, `length` covers whole pages or runs to the end of the store. Called on
     * a thread of minnow or within mnw_read_done(): must not block, must not touch a view, must not call minnow.
     */
    int (*check)(void *context, uint64_t offset, const void *bytes, size_t length);
    /* Optional: called once when the store is closed. */
    void (*close)(void *context);
};

/* A store whose bytes come from the embedder's callbacks. The struct is copied. */
MNW_PUBLIC int mnw_store_open_callbacks(struct mnw_store **store, const struct mnw_store_callbacks *callbacks,
                                        void *context);

/*
 * Answers a read of a callback store, from any thread. `result` is the number of bytes now in the buffer
 * (1..length), 0 for the end of the store, or a negative errno. Returns -ESTALE, and changes nothing, when
 * the token names no unanswered read (answered twice, or never asked). May resolve faults before it
 * returns: never call it with a lock held that a reader of a view may hold while it faults.
 * System calls: ioctl(UFFDIO_CONTINUE, UFFDIO_WAKE), write (eventfd).
 */
MNW_PUBLIC int mnw_read_done(struct mnw_store *store, uint64_t token, int64_t result);

MNW_PUBLIC uint64_t mnw_store_size(const struct mnw_store *store);

/* Closes the store. -EBUSY while a cache uses it. */
MNW_PUBLIC int mnw_store_close(struct mnw_store *store);

/* ---- pools --------------------------------------------------------------------------------------------- */

enum mnw_backing {
    MNW_BACKING_SHMEM = 0,      /* base pages of a memfd */
    MNW_BACKING_GRADED = 1,     /* shmem in huge folios: faults of a base page, promoted when complete */
    MNW_BACKING_HUGETLB_2M = 2, /* 2 MiB hugetlb pages */
    MNW_BACKING_HUGETLB_1G = 3, /* 1 GiB hugetlb pages */
};

enum mnw_numa {
    MNW_NUMA_LOCAL = 0,      /* the node of the CPU that faulted, while it has memory */
    MNW_NUMA_INTERLEAVE = 1, /* the nodes take turns by offset: as often as their weights say */
    MNW_NUMA_BIND = 2,       /* only these nodes */
    MNW_NUMA_PREFERRED = 3,  /* the first of these nodes while it has memory */
};

enum mnw_policy {
    MNW_POLICY_S3FIFO = 0,
    MNW_POLICY_CLOCK = 1,
};

enum mnw_io_mode {
    MNW_IO_AUTO = 0,    /* io_uring, or threads where io_uring is refused */
    MNW_IO_URING = 1,   /* io_uring or an error */
    MNW_IO_THREADS = 2, /* a pool of threads that call preadv(2) */
};

struct mnw_pool_options {
    size_t size; /* sizeof(struct mnw_pool_options) */
    enum mnw_backing backing;
    uint64_t budget_bytes; /* file pages resident at most; at least one extent per fault thread */
    enum mnw_numa numa;
    const char *nodes;               /* "0", "0-1,3"; NULL: every node this process may use. For interleave with weights
                                      * 1..255: "0:3,1-2:1"; 1 unless given */
    unsigned fault_threads_per_node; /* 0: one */
    enum mnw_policy policy;
    uint64_t extent_bytes;              /* shmem only: unit of eviction, a power of two; 0: 64 KiB */
    uint32_t recency_faults_per_second; /* bound on the extra faults spent to learn recency; 0: 20000 */
    enum mnw_io_mode io_mode;           /* how the fault threads read files */
    uint32_t reads_in_flight;           /* per fault thread, 1..1024; 0: 128 */
    /*
     * Nonzero: a userfaultfd that sees the faults of user code only will do. That is all an unprivileged process
     * gets by default; system calls given a pointer to an untouched page of a view then fail with EFAULT.
     */
    uint32_t user_faults_only;
    /*
     * hugetlb: of the budget, what the backings of caches that will be taken over hold already (their st_blocks). So
     * much less has to be free when the pool opens.
     */
    uint64_t kept_bytes;
    /*
     * MNW_NUMA_LOCAL on a machine with several nodes: memory that is used from another node than it lies on is moved
     * there, at most so many bytes a second (an extent at least). To learn who uses it, a few extents at a time are
     * unmapped from read-only views of this process, which costs extra faults, at most as many a second as recency may;
     * what only other processes or writers map is not moved. Takes CAP_SYS_NICE to move what is mapped while it moves.
     * 0: memory stays on the node it came to. -EINVAL with another policy.
     */
    uint64_t rebalance_bytes_per_second;
};

/*
 * Opens a pool: checks the machine, starts its fault threads and its reclaim thread.
 * Errors: -EINVAL, -EPERM (userfaultfd refused: the message names the setting), -ENOSYS (no userfaultfd, or
 * a feature missing: the message names kernel and feature), -ENOMEM (huge pages missing: the message names
 * size, node and command). System calls: userfaultfd, UFFDIO_API, clone, epoll_create, eventfd.
 */
MNW_PUBLIC int mnw_pool_open(struct mnw_pool **pool, const struct mnw_pool_options *options);

/*
 * Changes the budget while the pool is in use. Down: evicts until it holds before it returns.
 * -EINVAL below one extent per fault thread; -EBUSY, with the budget as it was, when pins and unfinished
 * fills hold more than the new budget.
 */
MNW_PUBLIC int mnw_pool_set_budget(struct mnw_pool *pool, uint64_t budget_bytes);

/* Stops the pool's threads and frees it. -EBUSY while a cache is open in it. */
MNW_PUBLIC int mnw_pool_close(struct mnw_pool *pool);

/* ---- caches -------------------------------------------------------------------------------------------- */

/*
 * What of a cache outlives its process, in the hands of whoever holds the descriptors: its pages, and the words that
 * say which of them are whole.
 */
struct mnw_kept {
    size_t size;    /* sizeof(struct mnw_kept) */
    int backing_fd; /* the pages */
    int words_fd;   /* -1: nothing is known of them, and they are all read anew */
};

struct mnw_cache_options {
    size_t size;               /* sizeof(struct mnw_cache_options) */
    uint32_t read_retries;     /* further tries after a failed read; UINT32_MAX: none; 0: two */
    uint32_t retry_delay_ms;   /* pause before the first further try, doubled each time; 0: 10 */
    uint32_t read_deadline_ms; /* a fill that takes longer fails; 0: 30000 */
    uint64_t readahead_bytes;  /* largest window; UINT64_MAX: none; 0: 4 MiB, graded 32 MiB, hugetlb 16 MiB */
    /*
     * Takes over a cache of the same store, backing and extents, whose process has ended. The descriptors stay the
     * caller's. NULL: a new, empty one.
     */
    const struct mnw_kept *kept;
    /*
     * Names the contents of the store, in at most 63 bytes: a cache is taken over under the name it was opened with.
     * For stores that are not files nothing else tells their contents apart. NULL: "".
     */
    const char *name;
    int keep; /* nonzero: mnw_cache_kept() gives what another process needs to take this cache over */
    /*
     * The aligned block that is read and mapped with a page that faults at random: for consumers whose random faults
     * lie near each other, as those of a guest. Only into memory that is free, and less of it, or none, while faults
     * are scattered. At most 2 MiB; 0: the page alone.
     */
    uint64_t read_around_bytes;
    /*
     * Nonzero: a copy of what is read on each NUMA node of the pool, in memory of that node, for as long as it is used
     * there: what is cold on a node is evicted there, and the budget bounds all copies together. A page that one node
     * has is copied from there, not read again. Views are of one node's copy (MNW_VIEW_ON_NODE) and read-only. Views of
     * other processes have the first node's. Pins and mnw_invalidate() act on all copies, prefetches and replays on
     * that of the caller's node; a page is resident when one copy of it is; counts are sums. On one node it changes
     * nothing. -EINVAL: with `keep` or `kept`, or in a pool that is not MNW_NUMA_LOCAL; -EOPNOTSUPP: with pages of 1
     * GiB.
     */
    int replicas;
};

/*
 * Opens a cache of `store` in `pool`. Options may be NULL. Allocates metadata (virtual; resident as pages
 * are touched, at most 8 bytes per base page) and the backing file. -ENOSPC: the store is larger than the
 * backing can address. With `kept` also: -ESTALE when what was kept is of another store, backing or layout, or no cache
 * at all (open it afresh); -EBUSY while the process that kept it is still there; -ENOSPC when the pages do not fit in
 * the budget and evicting them could destroy what consumers wrote (hugetlb). System calls: memfd_create, ftruncate,
 * fcntl (seals), mmap; flock, lseek with `keep` and `kept`.
 */
MNW_PUBLIC int mnw_cache_open(struct mnw_cache **cache, struct mnw_pool *pool, struct mnw_store *store,
                              const struct mnw_cache_options *options);

/*
 * What another process needs to take the cache over, to be duplicated or sent to it or to a process that waits. The
 * descriptors belong to the cache. Set `kept->size`. `words_fd` is -1 of a cache opened without `keep`.
 *
 * The next owner opens the cache with `kept` once this process has ended, by whatever death. It finds the pages that
 * were whole, and everything else absent; failed pages stay failed, and pins are gone.
 */
MNW_PUBLIC int mnw_cache_kept(const struct mnw_cache *cache, struct mnw_kept *kept);

/* The unit of faults and of range alignment: the base page, or the huge page of the pool's backing. */
MNW_PUBLIC size_t mnw_cache_page_size(const struct mnw_cache *cache);

/*
 * Closes the cache and drops its pages, unless another process holds the descriptors of mnw_cache_kept(). -EBUSY while
 * a view is open, a prefetch runs, a range is pinned, or a read of the store is unanswered past its deadline. Waits for
 * reads in flight up to their deadline.
 */
MNW_PUBLIC int mnw_cache_close(struct mnw_cache *cache);

/* ---- views --------------------------------------------------------------------------------------------- */

enum {
    MNW_VIEW_WRITE = 1 << 0,  /* writable: a write makes a copy that only this view sees (not on hugetlb) */
    MNW_VIEW_FORKED = 1 << 1, /* mnw_view_attach() only: of a child that was forked */
    MNW_VIEW_INLINE = 1 << 2, /* faults are resolved in the thread that faulted, in a handler of SIGBUS */
    /* mnw_view_open() of a cache with `replicas`: the copy of `node`. Else that of the node the caller runs on. */
    MNW_VIEW_ON_NODE = 1 << 3,
};

struct mnw_view_options {
    size_t size;           /* sizeof(struct mnw_view_options) */
    uint64_t offset_bytes; /* page-aligned */
    uint64_t length_bytes; /* 0: to the end of the store; rounded up to a page */
    unsigned flags;
    unsigned node; /* with MNW_VIEW_ON_NODE: one of the pool's */
};

/*
 * Maps the cache, or a range of it, into this process. Options may be NULL: all of it, read-only. Bytes
 * past the end of the store, up to the end of its last page, read as zero; there is nothing beyond.
 * A page whose bytes cannot be had raises SIGBUS at its address, in the threads that touch it.
 * System calls given an untouched pointer block like a reader; a failed page gives them EFAULT.
 * System calls: mmap, madvise, userfaultfd, ioctl(UFFDIO_REGISTER), epoll_ctl.
 *
 * With MNW_VIEW_INLINE no other thread is woken for a fault: a resident page costs about two thirds. A pool's first
 * such view takes SIGBUS over for the process (sigaction), and closing the pool gives it back; what is not ours goes to
 * the action that was there, and so does a page that failed. A handler installed later must pass on what is not its
 * own. What touches the view must not block SIGBUS: the kernel would kill the process. System calls given an untouched
 * pointer fail with EFAULT: call mnw_view_populate() first. -ENOSYS: a kernel before 4.14.
 */
MNW_PUBLIC int mnw_view_open(struct mnw_view **view, struct mnw_cache *cache, const struct mnw_view_options *options);

/*
 * Brings and maps the pages of a range of the view (bytes from mnw_view_data(); rounded outwards), as if each were
 * touched, and waits. Meant for an inline view before a system call is given a pointer into it. A mapped page may be
 * evicted at any time, and then is EFAULT again, unless it is pinned before (mnw_pin). -EIO: a page of it cannot be
 * had. Not for signal handlers. System calls: ioctl(UFFDIO_CONTINUE), pread, futex; of other views madvise.
 */
MNW_PUBLIC int mnw_view_populate(struct mnw_view *view, uint64_t offset, uint64_t length);

MNW_PUBLIC void *mnw_view_data(const struct mnw_view *view);
MNW_PUBLIC size_t mnw_view_length(const struct mnw_view *view);

/*
 * Unmaps the view. A thread that waits in it, or touches it later, gets SIGSEGV, as with munmap(2).
 * A view of another process stays mapped there, and its faults wait from then on: for whoever attaches it next, or
 * until the consumer's own duplicate of the userfaultfd is closed. The view of a child that was forked, of which there
 * is no other duplicate, becomes SIGBUS there: what the child has not touched at once, what it has when that is
 * evicted. Its descriptor, and what a writer keeps on hugetlb, stay until the child has ended or the cache is closed.
 * System calls: munmap, ioctl(UFFDIO_WAKE), epoll_ctl, close.
 */
MNW_PUBLIC int mnw_view_close(struct mnw_view *view);

/* ---- views of other processes -------------------------------------------------------------------------- */

/*
 * A read-only descriptor of the cache's memory, for another process to map MAP_PRIVATE; send it by SCM_RIGHTS. It
 * belongs to the cache: do not close it. Untouched pages of such a mapping read as zeros until it is attached.
 */
MNW_PUBLIC int mnw_cache_fd(const struct mnw_cache *cache);

/* A part of a view that lies in one piece. */
struct mnw_view_range {
    uint64_t address;
    uint64_t offset_bytes;
    uint64_t length_bytes;
};

struct mnw_attach_options {
    size_t size;           /* sizeof(struct mnw_attach_options) */
    uint64_t offset_bytes; /* page-aligned */
    uint64_t length_bytes; /* 0: to the end of the store; rounded up to a page */
    uint64_t address;      /* where the consumer has mapped that offset */
    int uffd;              /* the consumer's userfaultfd, after UFFDIO_API; it stays the caller's */
    unsigned flags;        /* MNW_VIEW_WRITE: mapped PROT_WRITE; a write makes a copy that only the consumer sees.
                            * MNW_VIEW_FORKED: see below */
    pid_t pid;             /* the consumer; 0: unknown. With it, and the right to look, /proc/PID/maps is checked */
    uint32_t faults_per_second; /* of the view and its children: the most that are served, on average; 0: no limit */
    uint64_t cookie;            /* comes back in the view's events */
    /* A view that was moved or torn, and is attached again: what mnw_view_ranges() said; the fields above are 0. */
    const struct mnw_view_range *ranges;
    size_t range_count;      /* at most 256; 0: the fields above say where it is */
    struct mnw_limit *limit; /* shared with other views, in place of faults_per_second; NULL: none */
};

/*
 * A limit on faults a second that views have in common: all those, of any cache and pool, that are attached with it,
 * and those of children that their consumers fork. A consumer has then what it may have, however many views it makes.
 * Errors: -EINVAL (0 a second), -ENOMEM. Thread-safe; no system calls.
 */
struct mnw_limit;
MNW_PUBLIC int mnw_limit_open(struct mnw_limit **limit, uint32_t faults_per_second);
/* No more views will be attached with it; those that were have it until they are closed. Returns 0; -EINVAL for NULL.
 */
MNW_PUBLIC int mnw_limit_close(struct mnw_limit *limit);

/*
 * Serves the faults of a mapping that another process made of mnw_cache_fd(). The userfaultfd must have the features
 * EVENT_REMAP, EVENT_UNMAP, MISSING and MINOR of the kind of memory, POISON where the kernel has it, and must serve
 * nothing else. It is duplicated, made non-blocking and registered here. The consumer must not touch the range before
 * this has returned 0; should it touch other memory, hold back events or lie, that harms none but itself.
 * The consumer, or somebody who outlives this process, should keep a duplicate of the userfaultfd: with the last one
 * closed, untouched pages read as zeros.
 *
 * MNW_VIEW_FORKED: a view that MNW_VIEW_CHANGED_FORKED told of, in another process before, is attached again. The
 * userfaultfd watches its ranges already; those that it does not watch any more are left out, where the kernel tells
 * (not on hugetlb). Closing the view makes it SIGBUS: see mnw_view_close(). With `pid`: a child that nobody
 * serves yet, which asks by itself; its range is looked at and registered as any consumer's.
 *
 * Errors: -EINVAL (no userfaultfd, features missing; the range is not mapped, or maps something else), -EBUSY (the
 * userfaultfd, or part of the range, belongs to another view), -ESRCH (the consumer is gone), -ENOSPC (a writable
 * view of hugetlb: its pages can never be evicted, and the pool's budget does not hold them all), -EMFILE, -ENOMEM.
 * System calls: ioctl(UFFDIO_REGISTER), fcntl, epoll_ctl, open (/proc).
 */
MNW_PUBLIC int mnw_view_attach(struct mnw_view **view, struct mnw_cache *cache,
                               const struct mnw_attach_options *options);

/*
 * The duplicate of the userfaultfd, to be kept by somebody who outlives this process. Belongs to the view. The
 * userfaultfd of a child that was forked is known to nobody else: closing its view makes it SIGBUS. -EINVAL for
 * a view of this process.
 */
MNW_PUBLIC int mnw_view_fd(const struct mnw_view *view);

/*
 * Where the view lies now: its ranges, at most `count` of them into `ranges` (may be NULL with 0). Returns how many
 * there are; 0: the consumer has unmapped it all. A consumer moves and tears its mapping by mremap(2) and munmap(2).
 */
MNW_PUBLIC int mnw_view_ranges(struct mnw_view *view, struct mnw_view_range *ranges, size_t count);

/* ---- ranges of a cache --------------------------------------------------------------------------------- */

/*
 * Brings a range in and keeps it resident until unpinned; waits for its reads. Pins are counted, and held
 * by whole extents. All or nothing: -EIO when a page could not be read, -ENOSPC when pins would leave the
 * pool less than one extent per fault thread; -ENOMEM when four deadlines of a read went by without memory for it (the
 * message names a node that lacks huge pages); -EOVERFLOW: 65535 pins of one extent. Waits for an invalidate of the
 * range that is under way.
 */
MNW_PUBLIC int mnw_pin(struct mnw_cache *cache, uint64_t offset, uint64_t length);
/* Undoes one mnw_pin() of the same range. -EINVAL, and nothing changes, when part of it is not pinned. */
MNW_PUBLIC int mnw_unpin(struct mnw_cache *cache, uint64_t offset, uint64_t length);

/*
 * Starts to bring a range in; returns at once. `cookie` comes back in the MNW_EVENT_PREFETCH event.
 * Returns an id > 0 for mnw_prefetch_cancel(). -EAGAIN when 64 prefetches already run or have their event
 * unread.
 */
MNW_PUBLIC int64_t mnw_prefetch(struct mnw_cache *cache, uint64_t offset, uint64_t length, uint64_t cookie);
/* Stops a prefetch; its event comes with -ECANCELED. -ENOENT when it has ended. */
MNW_PUBLIC int mnw_prefetch_cancel(struct mnw_pool *pool, int64_t id);

/*
 * Forgets a range: a touch that begins after the return reads the store anew, and failed pages are healed.
 * Copies that writable views made stay theirs. -EBUSY, with nothing forgotten, when part of it is pinned;
 * -EBUSY also when the store has not answered a read of the range within its deadline (the message names
 * the offset; what came before it in the range is forgotten). -EIO: all is forgotten, but a page that had failed could
 * not be read again, and stays SIGBUS (only where it must be read to be healed: kernels before 6.6, views of other
 * processes).
 * System calls: fallocate(PUNCH_HOLE), madvise, ioctl.
 */
MNW_PUBLIC int mnw_invalidate(struct mnw_cache *cache, uint64_t offset, uint64_t length);

enum {
    MNW_RESIDENT = 1 << 0, /* the bytes are in memory */
    MNW_FILLING = 1 << 1,  /* being read */
    MNW_FAILED = 1 << 2,   /* SIGBUS until invalidated */
    MNW_PINNED = 1 << 3,
};
/* One byte of the flags above per page, a snapshot that may be stale at once. `count` bytes, from `offset`. */
MNW_PUBLIC int mnw_residency(struct mnw_cache *cache, uint64_t offset, uint8_t *pages, size_t count);

/* ---- working sets --------------------------------------------------------------------------------------- */

/*
 * Nonzero: begins to note which pages of the view are touched, in the order of their first touch; what was noted before
 * is forgotten. 0: ends it, and forgets. A page counts as touched when a fault on it is served, so begin before the
 * view is touched: what is mapped already is not seen. While a view records, its faults are resolved one page at a
 * time. Reserves 4 bytes a page (resident as touched).
 */
MNW_PUBLIC int mnw_view_record(struct mnw_view *view, int on);

enum {
    MNW_WORKING_SET_UNION = 1 << 0, /* together with what the file holds, if that is a working set of the same store */
};

/*
 * Saves what the view has noted so far, and goes on recording. The file is replaced as a whole: readers, and crashes,
 * find the old one or the new one. Returns how many pages it holds. -ENOENT: the view does not record; or a negative
 * errno of the file system. The format is in docs/working-sets.md.
 */
MNW_PUBLIC int64_t mnw_view_save_working_set(struct mnw_view *view, const char *path, unsigned flags);

/*
 * Starts to bring in the pages of a saved working set, in the order in which they lie in the store; reads the file,
 * then returns. Returns an id as mnw_prefetch() does, and counts as one prefetch: it has one MNW_EVENT_PREFETCH, with
 * `cookie`, and mnw_prefetch_cancel() stops it. The set may have been recorded with pages of another size. Of a set
 * that does not fit in the pool's budget, what was touched first is brought. -ESTALE: a set of another store, or of an
 * older state of it; -EBADMSG: the file is broken; -ENOTSUP: it is of a newer version; -EAGAIN as mnw_prefetch().
 */
MNW_PUBLIC int64_t mnw_cache_replay(struct mnw_cache *cache, const char *path, uint64_t cookie);

/* ---- events -------------------------------------------------------------------------------------------- */

enum mnw_event_kind {
    MNW_EVENT_PREFETCH = 1,     /* a prefetch ended */
    MNW_EVENT_PAGE_FAILED = 2,  /* a page raises SIGBUS from now on */
    MNW_EVENT_VIEW_CHANGED = 3, /* a view of another process is not what it was */
};

/* What has changed of a view, in any order since the last event of that view. */
enum {
    MNW_VIEW_CHANGED_RANGES = 1 << 0, /* unmapped in part, moved, grown: see mnw_view_ranges() */
    MNW_VIEW_CHANGED_FORKED = 1 << 1, /* a new view, of a child of `parent`'s process: close it with mnw_view_close() */
    MNW_VIEW_CHANGED_DEAD = 1 << 2,   /* its process is gone, or has replaced its memory */
};

struct mnw_event {
    enum mnw_event_kind kind;
    int result;              /* 0 or a negative errno */
    struct mnw_cache *cache; /* as a name only: it may have been closed */
    uint64_t offset;
    uint64_t length;
    uint64_t cookie;         /* prefetch: the caller's */
    uint64_t pages_failed;   /* prefetch: pages that could not be read */
    struct mnw_view *view;   /* view changed: which, by name only: it may have been closed. Its cookie is in `cookie` */
    struct mnw_view *parent; /* view changed, forked: of which view, by name only */
    unsigned changes;        /* view changed: MNW_VIEW_CHANGED_* */
};

/* An eventfd that polls readable while events wait. Belongs to the pool: poll it, do not read or close it. */
MNW_PUBLIC int mnw_pool_event_fd(const struct mnw_pool *pool);
/* Takes the oldest event: 1, or 0 when there is none. Page failures beyond 256 unread ones are only counted. */
MNW_PUBLIC int mnw_pool_next_event(struct mnw_pool *pool, struct mnw_event *event);

/* ---- statistics ---------------------------------------------------------------------------------------- */

#define MNW_STATS_VERSION     1
#define MNW_NODES_MAX         64
#define MNW_HISTOGRAM_BUCKETS 256

/*
 * Latencies in nanoseconds. Bucket i counts values v with mnw_histogram_floor(i) <= v <
 * mnw_histogram_floor(i + 1): four buckets to each power of two.
 */
struct mnw_histogram {
    uint64_t count;
    uint64_t sum_ns;
    uint64_t max_ns;
    uint64_t buckets[MNW_HISTOGRAM_BUCKETS];
};

struct mnw_stats {
    uint32_t version; /* MNW_STATS_VERSION */
    uint32_t node_count;
    uint64_t budget_bytes;
    uint64_t resident_bytes;     /* charged against the budget now */
    uint64_t resident_bytes_max; /* the most it ever was */
    uint64_t pinned_bytes;
    uint64_t metadata_bytes; /* reserved for page words and extents; resident as touched */
    uint64_t faults_minor;   /* events read, by kind */
    uint64_t faults_missing;
    uint64_t faults_resolved; /* ended by mapping a resident page at once */
    uint64_t faults_joined;   /* found the page already being read */
    uint64_t faults_failed;   /* ended by SIGBUS */
    uint64_t faults_starved;  /* had to wait for memory or for a free read */
    uint64_t pages_mapped;    /* by UFFDIO_CONTINUE, neighbours included */
    uint64_t pages_promoted;  /* extents made one huge mapping */
    uint64_t fills;           /* reads of the store that ended well */
    uint64_t fill_bytes;
    uint64_t fills_failed;
    uint64_t fills_late; /* past their deadline */
    uint64_t read_retries;
    uint64_t readahead_pages;
    uint64_t evictions; /* extents */
    uint64_t evicted_bytes;
    uint64_t evictions_direct; /* made by a fault: it found little memory free, or none */
    uint64_t zaps;             /* extents unmapped to learn recency */
    uint64_t pages_lost;       /* present by our word, gone from the backing; filled again */
    uint64_t redeliveries;     /* waiters woken to fault again */
    uint64_t events_dropped;
    uint64_t pages_foreign;    /* put into the backing by processes that map it and are not attached; taken out */
    uint64_t pages_elsewhere;  /* given memory on a node the policy would rather not have had: it had none left */
    uint64_t policies_foreign; /* times that a consumer's mbind(2) had redirected the cache; it was undone */
    uint64_t numa_balancing;   /* kernel.numa_balancing: not 0, the kernel moves threads and memory between nodes */
    uint64_t pages_copied;     /* brought from another node's copy, not read from the store (`replicas`) */
    /*
     * With several NUMA nodes, one in 16 of the faults that find their page resident is asked on which node it happens;
     * those where that could be told, and of these the ones whose page lies on another node.
     */
    uint64_t faults_placed;
    uint64_t faults_remote;
    uint64_t extents_sampled; /* unmapped to learn from which node they are used */
    uint64_t pages_moved;     /* to the node they are used from */
    uint64_t pages_unmoved;   /* that were to be moved, and stayed; of these: */
    uint64_t unmoved_scarce;  /* the node had no memory for them; hugetlb: it needs free huge pages of its own */
    uint64_t unmoved_shared;  /* mapped more than once; CAP_SYS_NICE would help */
    uint64_t nodes_changed;   /* times that the nodes which the pool may use were others than before */
};

struct mnw_node_latency {
    struct mnw_histogram queue; /* event read to handling begun */
    struct mnw_histogram fill;  /* read of the store begun to bytes in place */
    struct mnw_histogram map;   /* resolving system call */
    struct mnw_histogram total; /* event read to resolved */
};

/* Sums over the pool's caches, closed ones included. `size` is sizeof(struct mnw_stats) of the caller. */
MNW_PUBLIC int mnw_pool_stats(struct mnw_pool *pool, struct mnw_stats *stats, size_t size);
MNW_PUBLIC int mnw_cache_stats(struct mnw_cache *cache, struct mnw_stats *stats, size_t size);
/* Latencies of the faults served by threads of `node`. -ENOENT: the pool has no thread there. */
MNW_PUBLIC int mnw_pool_latency(struct mnw_pool *pool, unsigned node, struct mnw_node_latency *latency, size_t size);

/* What a pool has on one NUMA node, and what it could have there. */
struct mnw_node_stats {
    uint64_t resident_bytes;  /* about: by a sample of the kernel's word that is at most a second old */
    uint64_t pages_elsewhere; /* that belonged here by the policy, and were given memory on another node */
    uint64_t huge_pages;      /* of the pool's size that the node has; 0 for shmem and graded */
    uint64_t huge_pages_free;
    uint64_t memory_bytes; /* of the node; 0: not known */
    uint64_t memory_free_bytes;
    uint32_t fault_threads;
    uint32_t is_outside; /* nonzero: none of the pool's nodes; its pages were moved there, or found no memory on them */
};

/*
 * -ENOENT: the node is none of the pool's, and has nothing of it. `size` is sizeof(struct mnw_node_stats) of the
 * caller. System calls: once a second move_pages(2) without nodes, for some 2048 pages; files of /sys and /proc.
 */
MNW_PUBLIC int mnw_pool_node_stats(struct mnw_pool *pool, unsigned node, struct mnw_node_stats *stats, size_t size);

/* Where a cache's memory lies. */
struct mnw_placement {
    uint64_t asked_bytes;   /* of resident pages that the kernel was asked about */
    uint64_t unknown_bytes; /* of these: it did not say. They are being evicted, swapped out, or were taken over
                             * (`kept`) and not used since */
    uint64_t outside_bytes; /* of these: on nodes that are not the pool's */
    uint64_t node_bytes[MNW_NODES_MAX];
    uint64_t copied_bytes; /* of the asked: what a lower node has a copy of, too (`replicas`) */
};

/*
 * Asks the kernel on which NUMA nodes the resident pages of a cache lie now (move_pages(2) without nodes): they may
 * have been moved since they were filled. `pages_max`: of more pages than this, so many spread over them are asked
 * about; 0: all, which takes about a second for 20 GiB in pages of 4 KiB. `size` is sizeof(struct mnw_placement) of the
 * caller. Thread-safe, beside faults and evictions; not async-signal-safe.
 */
MNW_PUBLIC int mnw_cache_placement(struct mnw_cache *cache, uint64_t pages_max, struct mnw_placement *placement,
                                   size_t size);

/*
 * All of the above as one JSON object, placement sampled once a second at most; the caller frees it with free(3). NULL:
 * out of memory.
 */
MNW_PUBLIC char *mnw_pool_stats_json(struct mnw_pool *pool);

/* ---- images of a daemon -------------------------------------------------------------------------------- */

/*
 * The other side of `minnow serve`: a daemon keeps images, which are stores with their caches, by name; a client maps
 * them. Faults are served by the daemon, memory is shared by all its clients, and writes stay private.
 *
 * A client has one thread, which never touches a view. When the daemon goes away it connects again, for ever, and
 * attaches every view anew; meanwhile faults wait. A view whose image has another backing than before is lost: pages
 * of it that were not mapped yet raise SIGBUS.
 */
struct mnw_client;
struct mnw_client_view;

struct mnw_client_options {
    size_t size;               /* sizeof(struct mnw_client_options) */
    const char *name;          /* of this program, for people; NULL: its short name */
    uint32_t timeout_ms;       /* how long a call waits for an answer; 0: 30000 */
    uint32_t lost_after_ms;    /* without a daemon for so long, views are given up as lost; 0: never */
    uint32_t user_faults_only; /* as in struct mnw_pool_options */
};

/*
 * Connects to the daemon at a socket's path; NULL: $MINNOW_SOCKET, or else /run/minnow/socket. Options may be NULL.
 * Errors: -ENOENT, -ECONNREFUSED (no daemon there), -EACCES, -EPERM (refused), -ETIMEDOUT.
 * System calls: socket, connect, clone, epoll_create, eventfd.
 */
MNW_PUBLIC int mnw_client_connect(struct mnw_client **client, const char *path,
                                  const struct mnw_client_options *options);
/* Ends the session: pins are dropped. -EBUSY while a view is mapped. */
MNW_PUBLIC int mnw_client_close(struct mnw_client *client);

/* What is known of an image. New fields join at the end. */
struct mnw_image {
    const char *name;
    const char *pool;
    uint64_t size_bytes; /* 0, like the rest, until somebody opened it */
    uint64_t resident_bytes;
    uint32_t page_bytes; /* the unit of ranges, addresses and faults */
    uint32_t extent_bytes;
    enum mnw_backing backing;
    uint32_t views; /* of all clients */
    int is_open;
};
/* Calls `each` for every image; what it is given lives for the call only. Returns how many there are. */
MNW_PUBLIC int mnw_client_images(struct mnw_client *client, void (*each)(void *context, const struct mnw_image *image),
                                 void *context);

enum {                                   /* for mnw_client_map(), besides MNW_VIEW_WRITE */
       MNW_CLIENT_RECORD = 1 << 8,       /* note which pages are touched first, and keep that with the image */
       MNW_CLIENT_REPLAY = 1 << 9,       /* fetch ahead what was noted before */
       MNW_CLIENT_FOLLOW_FORK = 1 << 10, /* children have the view too; takes CAP_SYS_PTRACE, Linux 6.6 */
};

struct mnw_client_map_options {
    size_t size;           /* sizeof(struct mnw_client_map_options) */
    uint64_t offset_bytes; /* a multiple of the image's page */
    uint64_t length_bytes; /* 0: to the end of the image; rounded up to a page */
    uint64_t address;      /* 0: anywhere; else exactly there, in place of what is mapped there (MAP_FIXED) */
    unsigned flags;
};

/*
 * Maps an image, or a range of it, into this process. Options may be NULL: all of it, read-only. What is said of
 * mnw_view_open() holds: bytes past the end are zero, a page that cannot be had is SIGBUS, and without
 * MNW_CLIENT_FOLLOW_FORK a child made by fork(2) does not have the view.
 * Errors: -ENOENT (no such image), -EPERM, -EACCES, -EDQUOT (a limit of this peer), -ENOSPC, -EINVAL, -ENOMEM,
 * -EOPNOTSUPP (forks cannot be followed without UFFDIO_POISON), -ETIMEDOUT. System calls: mmap, mprotect, madvise,
 * userfaultfd, ioctl(UFFDIO_API).
 */
MNW_PUBLIC int mnw_client_map(struct mnw_client_view **view, struct mnw_client *client, const char *image,
                              const struct mnw_client_map_options *options);
MNW_PUBLIC void *mnw_client_data(const struct mnw_client_view *view);
MNW_PUBLIC size_t mnw_client_length(const struct mnw_client_view *view);
/* 0, or the negative errno for which the daemon serves this view no more. */
MNW_PUBLIC int mnw_client_lost(const struct mnw_client_view *view);
/*
 * Forgets what is in a range of a view, the consumer's own writes too: it reads as zeros from now on, in this view
 * only, and takes no memory until it is written. -EOPNOTSUPP on hugetlb.
 */
MNW_PUBLIC int mnw_client_zero(struct mnw_client_view *view, uint64_t offset, uint64_t length);
/*
 * Has the daemon keep what it noted of this view so far, with MNW_CLIENT_RECORD. mnw_client_unmap() does it too; a
 * process that just ends has to do it before.
 */
MNW_PUBLIC int mnw_client_save(struct mnw_client_view *view);
/* Unmaps the view and frees it, also when the daemon is gone. Threads that wait in it get SIGSEGV. */
MNW_PUBLIC int mnw_client_unmap(struct mnw_client_view *view);

/* Brings a range of an image in, and waits until that is done. -EIO when a page of it could not be read. */
MNW_PUBLIC int mnw_client_prefetch(struct mnw_client *client, const char *image, uint64_t offset, uint64_t length);
/* As mnw_pin(): until it is unpinned, or the session ends. Counts against a limit of this peer. */
MNW_PUBLIC int mnw_client_pin(struct mnw_client *client, const char *image, uint64_t offset, uint64_t length);
MNW_PUBLIC int mnw_client_unpin(struct mnw_client *client, const char *image, uint64_t offset, uint64_t length);
/* As mnw_invalidate(), for all clients: -EPERM unless the daemon's configuration lets this user. */
MNW_PUBLIC int mnw_client_invalidate(struct mnw_client *client, const char *image, uint64_t offset, uint64_t length);
/* As mnw_residency(). */
MNW_PUBLIC int mnw_client_residency(struct mnw_client *client, const char *image, uint64_t offset, uint8_t *pages,
                                    size_t count);

enum mnw_stats_format {
    MNW_STATS_JSON = 0,
    MNW_STATS_PROMETHEUS = 1, /* its text format */
};
/* What the daemon tells of itself, as text that the caller frees with free(3). NULL: see mnw_error(). */
MNW_PUBLIC char *mnw_client_stats(struct mnw_client *client, enum mnw_stats_format format);
/* As mnw_pool_set_budget(), of a pool of the daemon. -EPERM unless its configuration lets this user. */
MNW_PUBLIC int mnw_client_set_budget(struct mnw_client *client, const char *pool, uint64_t budget_bytes);

/* ---- the machine --------------------------------------------------------------------------------------- */

/* One thing that minnow needs, or could use, and whether this machine offers it. */
struct mnw_finding {
    const char *name;  /* stable, machine-readable: "uffd-minor-shmem" */
    int ok;            /* nonzero: available to this process now */
    int required;      /* nonzero: without it no pool opens at all */
    const char *found; /* what was seen, in words */
    const char *fix;   /* the command that would change it, or NULL */
};

/*
 * Examines the machine and calls `each` for every finding; the strings live for the call only. Changes
 * nothing that stays. Returns the number of required things that are missing, or a negative errno.
 */
MNW_PUBLIC int mnw_examine(void (*each)(void *context, const struct mnw_finding *finding), void *context);

/* ---- reading histograms -------------------------------------------------------------------------------- */

/* The least value that bucket `index` counts. Async-signal-safe. */
MNW_PUBLIC uint64_t mnw_histogram_floor(unsigned index);
/* The value below which `fraction` (0..1) of the counted values lie, to the width of a bucket. */
MNW_PUBLIC uint64_t mnw_histogram_quantile(const struct mnw_histogram *histogram, double fraction);

#ifdef __cplusplus
}
#endif

#endif
