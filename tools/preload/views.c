/* SPDX-License-Identifier: MIT */
/*
 * What becomes of the program's calls on views and images. minnow-run(1) lists every decision. Owns nothing but what it
 * puts into the table; any thread may enter; no lock is held here.
 *
 * A view stays in one piece for as long as a page of it is left: the next daemon must find it whole. What the program
 * unmaps of it becomes inaccessible instead, and its memory is given back. A file is never changed: what is punched out
 * of it reads as zeros in the views of this process.
 */
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_OF_FILE (1ull << 61)

static uint64_t up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

static uint64_t down(uint64_t value, uint64_t unit) {
    return value / unit * unit;
}

static size_t base_page(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static uintptr_t lesser(uintptr_t a, uintptr_t b) {
    return a < b ? a : b;
}

static uintptr_t greater(uintptr_t a, uintptr_t b) {
    return a > b ? a : b;
}

static int fail(int error) {
    errno = error;
    return -1;
}

/* ---- zeros ---- */

/* Did the program write this page of its private mapping? Then it is its own, whatever becomes of the file. */
static bool is_copied(int pagemap, uintptr_t address) {
    uint64_t entry;
    off_t at = (off_t)(address / base_page() * sizeof(entry));
    if (pagemap < 0 || pread(pagemap, &entry, sizeof(entry), at) != (ssize_t)sizeof(entry))
        return false;
    return entry & PAGEMAP_SWAPPED || (entry & PAGEMAP_PRESENT && !(entry & PAGEMAP_OF_FILE));
}

static int zero_uncopied(const struct entry *entry, uint64_t from, uint64_t to) {
    int error = 0, pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    size_t page = base_page();
    while (from < to && !error) {
        uint64_t run = from;
        while (run < to && !is_copied(pagemap, entry->address + (run - entry->offset)))
            run += page;
        if (run > from)
            error = client_zero(entry->view, from - entry->offset, run - from);
        from = run + page;
    }
    if (pagemap >= 0)
        close(pagemap);
    return error;
}

/* What was punched and what was not, in order. `from` and `to` are offsets in the image. */
static int for_runs(const struct entry *entry, uint64_t from, uint64_t to,
                    int (*punched)(const struct entry *entry, uint64_t from, uint64_t to),
                    int (*other)(const struct entry *entry, uint64_t from, uint64_t to)) {
    int error = 0;
    uint64_t end;
    for (uint64_t at = from; !error && table_punched_run(entry->source, true, &at, to, &end); at = end)
        error = punched(entry, at, end);
    for (uint64_t at = from; other && !error && table_punched_run(entry->source, false, &at, to, &end); at = end)
        error = other(entry, at, end);
    return error;
}

static int zero(const struct entry *entry, uint64_t from, uint64_t to) {
    return client_zero(entry->view, from - entry->offset, to - from);
}

static int drop(const struct entry *entry, uint64_t from, uint64_t to) {
    return next_madvise((void *)(entry->address + (from - entry->offset)), to - from, MADV_DONTNEED) ? errno : 0;
}

/* ---- mmap ---- */

static int check_place(const struct source *source, uintptr_t address, size_t length, int flags, off_t offset) {
    uint64_t page = source->page_bytes, end = source->page_count * page;
    if (!length || offset < 0 || (uint64_t)offset % page) {
        complain("image '%s': offset %lld must be a multiple of its page, %llu", source->image, (long long)offset,
                 (unsigned long long)page);
        return EINVAL;
    }
    if ((uint64_t)offset >= end || length > end - (uint64_t)offset) {
        complain("image '%s': the program maps %zu bytes at %lld, but the image has only %llu", source->image, length,
                 (long long)offset, (unsigned long long)source->size_bytes);
        return EINVAL;
    }
    bool fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
    if (fixed && (address % page || up(length, base_page()) % page)) {
        complain("image '%s': address %#zx and length %zu must be multiples of its page, %llu", source->image,
                 (size_t)address, length, (unsigned long long)page);
        return EINVAL;
    }
    return 0;
}

/* What mmap(2) says of descriptors and protections. */
static int check_access(int fd, int protection, int flags) {
    int mode = fcntl(fd, F_GETFL), type = flags & MAP_TYPE;
    bool shared = type != MAP_PRIVATE;
    if (mode < 0)
        return errno;
    if ((mode & O_ACCMODE) == O_WRONLY || (shared && protection & PROT_WRITE && (mode & O_ACCMODE) != O_RDWR))
        return EACCES;
    return type == MAP_SHARED_VALIDATE && flags & MAP_SYNC ? EOPNOTSUPP : 0;
}

/* A shared mapping of a read-only descriptor can never be written. Any other may become writable by mprotect(2). */
static unsigned view_flags(int fd, int flags) {
    bool readonly = (flags & MAP_TYPE) != MAP_PRIVATE && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
    return readonly ? 0 : MNW_VIEW_WRITE;
}

/* Takes the place that the program wants, so that nobody else does. */
static int reserve(uintptr_t *address, size_t length, int flags) {
    if (!(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))) {
        *address = 0;
        return 0;
    }
    if (flags & MAP_FIXED_NOREPLACE)
        return next_mmap((void *)*address, length, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED
                   ? errno
                   : 0;
    return view_make_room(*address, length) ? errno : 0;
}

static void dress(const struct entry *entry, size_t length, int protection, int flags) {
    void *at = (void *)entry->address;
    int saved = errno;
    for_runs(entry, entry->offset, entry->offset + entry->length, zero, NULL);
    mprotect(at, entry->length, protection);
    if (flags & MAP_POPULATE)
        next_madvise(at, length, MADV_POPULATE_READ);
    if (flags & MAP_LOCKED)
        mlock(at, length);
    errno = saved;
}

void *view_mmap(struct source *source, void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    struct entry *entry = NULL;
    uintptr_t place = (uintptr_t)address;
    int error = source->page_bytes ? 0 : client_learn(source);
    if (!error)
        error = check_place(source, place, length, flags, offset);
    if (!error)
        error = check_access(fd, protection, flags);
    if (!error && !(entry = calloc(1, sizeof(*entry))))
        error = ENOMEM;
    if (!error)
        error = reserve(&place, length, flags);
    if (!error) {
        error = client_map(&entry->view, source, (uint64_t)offset, length, place, view_flags(fd, flags));
        if (error && flags & MAP_FIXED_NOREPLACE)
            next_munmap((void *)place, length);
    }
    if (!error) {
        entry->source = source;
        entry->address = (uintptr_t)mnw_client_data(entry->view);
        entry->length = mnw_client_length(entry->view);
        entry->offset = (uint64_t)offset;
        entry->is_shared = (flags & MAP_TYPE) != MAP_PRIVATE;
        dress(entry, length, protection, flags);
        if (table_add(entry)) {
            client_unmap(entry->view);
            error = ENOMEM;
        }
    }
    if (error) {
        free(entry);
        errno = error;
        return MAP_FAILED;
    }
    tell("image '%s': %zu bytes at %lld are a view at %#zx", source->image, length, (long long)offset,
         (size_t)entry->address);
    return (void *)entry->address;
}

/* ---- munmap ---- */

/* Ends the caller's use of the entry. */
static void unmap_part(struct entry *entry, uintptr_t from, uintptr_t to) {
    if (table_mark_gone(entry, from, to)) {
        table_remove(entry);
        tell("image '%s': the view at %#zx is unmapped", entry->source->image, (size_t)entry->address);
        client_unmap(entry->view);
        entry_free(entry);
        return;
    }
    munlock((void *)from, to - from);
    mprotect((void *)from, to - from, PROT_NONE);
    next_madvise((void *)from, to - from, MADV_DONTNEED);
    table_leave(entry);
}

int view_munmap(uintptr_t address, size_t length) {
    size_t page = base_page();
    uintptr_t end = address + up(length, page);
    if (address % page || !length || end < address)
        return next_munmap((void *)address, length);
    while (address < end) {
        struct entry *entry = table_enter(address, end);
        uintptr_t from = entry ? greater(entry->address, address) : end;
        uintptr_t to = entry ? lesser(entry->address + entry->length, end) : end;
        if (from > address && next_munmap((void *)address, from - address)) {
            if (entry)
                table_leave(entry);
            return -1;
        }
        if (entry)
            unmap_part(entry, from, to);
        address = to;
    }
    return 0;
}

int view_make_room(uintptr_t address, size_t length) {
    uintptr_t end = address + up(length, base_page());
    for (uintptr_t at = address; at < end;) {
        struct entry *entry = table_enter(at, end);
        if (!entry)
            break;
        bool whole = entry->address >= address && entry->address + entry->length <= end;
        at = entry->address + entry->length;
        if (!whole)
            complain("image '%s': the program maps something over a part of the view; that is refused",
                     entry->source->image);
        table_leave(entry);
        if (!whole)
            return fail(ENOMEM);
    }
    struct entry *entry;
    while ((entry = table_enter(address, end)))
        unmap_part(entry, entry->address, entry->address + entry->length);
    return 0;
}

/* ---- mremap ---- */

static void *remap_view(struct entry *entry, uintptr_t old, size_t old_length, size_t length, int flags) {
    bool inside = old >= entry->address && old_length <= entry->address + entry->length - old;
    if (!inside || !length || !old_length || flags & MREMAP_FIXED || length > old_length) {
        complain("image '%s': the program moves or grows the view by mremap; that is refused", entry->source->image);
        table_leave(entry);
        errno = length ? ENOMEM : EINVAL;
        return MAP_FAILED;
    }
    if (length < old_length)
        unmap_part(entry, old + length, old + old_length);
    else
        table_leave(entry);
    return (void *)old;
}

void *view_mremap(void *old, size_t old_length, size_t length, int flags, void *address) {
    size_t page = base_page();
    uintptr_t from = (uintptr_t)old;
    struct entry *entry = table_enter(from, from + greater(up(old_length, page), page));
    if (entry)
        return remap_view(entry, from, up(old_length, page), up(length, page), flags);
    if (flags & MREMAP_FIXED && view_make_room((uintptr_t)address, length))
        return MAP_FAILED;
    return next_mremap(old, old_length, length, flags, address);
}

/* ---- madvise ---- */

static int discard(const struct entry *entry, uintptr_t from, uintptr_t to) {
    if (entry->is_shared)
        return 0;
    uint64_t page = entry->source->page_bytes, start = from - entry->address + entry->offset;
    return for_runs(entry, down(start, page), up(start + (to - from), page), zero, drop);
}

static int punch(const struct entry *entry, uint64_t offset, uint64_t length) {
    if (entry->source->is_huge)
        return EOPNOTSUPP;
    if (!table_punch(entry->source, offset, length))
        return ENOMEM;
    return 0;
}

static int zero_views(const struct source *source, uint64_t from, uint64_t to) {
    int error = 0;
    struct entry *entry;
    for (unsigned i = 0; !error && (entry = table_enter_source(source, i)); i++) {
        uint64_t start = greater(from, entry->offset), end = lesser(to, entry->offset + entry->length);
        if (start < end)
            error = entry->is_shared ? zero(entry, start, end) : zero_uncopied(entry, start, end);
        table_leave(entry);
    }
    return error;
}

static int advise_view(struct entry *entry, uintptr_t from, uintptr_t to, int advice) {
    uint64_t offset = from - entry->address + entry->offset;
    int error;
    switch (advice) {
    case MADV_DONTNEED:
    case MADV_DONTNEED_LOCKED:
        return discard(entry, from, to);
    case MADV_REMOVE:
        error = entry->is_shared ? punch(entry, offset, to - from) : EACCES;
        return error ? error : zero_views(entry->source, offset, offset + (to - from));
    case MADV_HUGEPAGE: /* the daemon chooses the pages */
    case MADV_NOHUGEPAGE:
        return 0;
    case MADV_DOFORK: /* a child that the daemon does not know of would read zeros: it is the client who does this */
    case MADV_DONTFORK:
        table_set_forked(entry, from, to, advice == MADV_DOFORK);
        return 0;
    case MADV_COLLAPSE: /* it would show pages that are not filled */
        return EINVAL;
    default:
        break;
    }
    return next_madvise((void *)from, to - from, advice) ? errno : 0;
}

int view_madvise(uintptr_t address, size_t length, int advice) {
    size_t page = base_page();
    uintptr_t end = address + up(length, page);
    if (address % page || end <= address)
        return next_madvise((void *)address, length, advice);
    while (address < end) {
        struct entry *entry = table_enter(address, end);
        uintptr_t from = entry ? greater(entry->address, address) : end;
        uintptr_t to = entry ? lesser(entry->address + entry->length, end) : end;
        int error = 0;
        if (from > address && next_madvise((void *)address, from - address, advice))
            error = errno;
        if (entry) {
            if (!error)
                error = advise_view(entry, from, to, advice);
            table_leave(entry);
        }
        if (error)
            return fail(error);
        address = to;
    }
    return 0;
}

/* ---- fallocate ---- */

int view_fallocate(struct source *source, int fd, int mode, off_t offset, off_t length) {
    if (!(mode & ~FALLOC_FL_KEEP_SIZE))
        return next_fallocate(fd, mode, offset, length); /* gives the file memory, and changes no byte of it */
    if (mode & ~(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE))
        return fail(EOPNOTSUPP);
    int error = source->page_bytes ? 0 : client_learn(source);
    if (error || offset < 0 || length <= 0)
        return fail(error ? error : EINVAL);
    if (source->is_huge)
        return fail(EOPNOTSUPP);
    uint64_t page = source->page_bytes, end = source->page_count * page;
    uint64_t from = up((uint64_t)offset, page), to = down((uint64_t)offset + (uint64_t)length, page);
    if ((uint64_t)offset + (uint64_t)length >= source->size_bytes)
        to = end;
    if (from >= to)
        return 0;
    if (!table_punch(source, from, to - from))
        return fail(ENOMEM);
    error = zero_views(source, from, to);
    return error ? fail(error) : 0;
}

/* ---- the end ---- */

/* A program that ends does not unmap its memory; what was recorded of it would be lost. */
__attribute__((destructor)) static void save_all(void) {
    uintptr_t address = 0;
    struct entry *entry;
    while (!table_is_empty() && config_get()->flags & MNW_CLIENT_RECORD &&
           (entry = table_enter(address, UINTPTR_MAX))) {
        address = entry->address + entry->length;
        client_save(entry->view);
        table_leave(entry);
    }
}
