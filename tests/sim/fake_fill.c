/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd of the fake kernel: the range operations that fill, poison and protect.
 *
 * All stop at the first obstacle. Nothing done: the obstacle's errno, also in the result field. Something
 * done: -EAGAIN, and its bytes in the result field. What was done is woken, unless told otherwise.
 */
#include "fake_kernel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SMALL_PAGE ((uintptr_t)4096)

struct fill {
    struct fake_view *view;
    size_t index; /* the page now */
    unsigned flags;
    const char *source; /* COPY */
};

/* One page: 0 or a negative errno. */
typedef int fill_page(struct fill *fill);

static bool is_registered_run(struct fake_view *view, uintptr_t start, size_t length) {
    if (!view || start + length > view->address + view->length)
        return false;
    const struct fake_entry *first = fake_entry_at(view, start);
    for (uintptr_t at = start; at < start + length; at += SMALL_PAGE) {
        const struct fake_entry *entry = fake_entry_at(view, at);
        if (entry->barred || entry->uffd < 0 || entry->uffd != first->uffd || entry->modes != first->modes)
            return false;
    }
    return true;
}

/* What the kernel finds before the first page. */
static int fill_check(struct fill *fill, int process, uintptr_t start, size_t length) {
    fill->view = fake_view_of(process, start);
    if (!is_registered_run(fill->view, start, length))
        return -ENOENT;
    if ((fill->flags & MNW__UFFD_KEEP_WP) && !(fake_entry_at(fill->view, start)->modes & MNW__UFFD_MODE_WP))
        return -EINVAL;
    if (start % fill->view->page_bytes || length % fill->view->page_bytes)
        return -EINVAL;
    fill->index = (start - fill->view->address) / fill->view->page_bytes;
    return 0;
}

/* Trouble before the page number `done` of the range: 0 or the errno that stops it. */
static int fill_trouble(size_t done) {
    if (!done && fake_strikes(FAKE_FILL_AGAIN))
        return -EAGAIN;
    if (done && fake_strikes(FAKE_FILL_PARTIAL))
        return -EAGAIN;
    return fake_strikes(FAKE_FILL_NOMEM) ? -ENOMEM : 0;
}

static int fill_range(const char *name, int fd, uintptr_t start, size_t length, struct fill *fill, fill_page *page,
                      int64_t *done) {
    fake_call(name);
    struct fake_fd *entry = fake_fd_get(fd, FD_UFFD);
    if (!entry)
        sim_fail("%s on descriptor %d, which is no userfaultfd", name, fd);
    *done = 0;
    if (!entry->uffd->initialised)
        return -EINVAL;
    if (entry->uffd->event_count ||
        entry->uffd->changing) { /* the address space is changing, and nobody has read of it */
        *done = -EAGAIN;
        return -EAGAIN;
    }
    if (!length || start % SMALL_PAGE || length % SMALL_PAGE || start + length < start)
        return -EINVAL;
    if (entry->uffd->orphaned)
        return -ESRCH;
    int error = fill_check(fill, entry->uffd->process, start, length);
    size_t filled = 0;
    while (!error && filled < length) {
        error = fill_trouble(filled);
        if (!error)
            error = page(fill);
        if (!error) {
            filled += fill->view->page_bytes;
            fill->index++;
        }
    }
    *done = filled ? (int64_t)filled : error;
    if (filled && !(fill->flags & MNW__UFFD_DONTWAKE))
        fake_uffd_wake_range(entry->uffd, start, filled);
    sim_trace("uffd %d: %s [%#lx, +%zu) = %d, %lld", fd, name, (unsigned long)start, length,
              filled && filled < length ? -EAGAIN : error, (long long)*done);
    fake_call(name);
    return filled && filled < length ? -EAGAIN : error;
}

static int continue_page(struct fill *fill) {
    struct fake_entry *entry = &fill->view->entries[fill->index];
    struct fake_file *file = fill->view->file;
    uint64_t page = fill->view->first + fill->index;
    if (!file->cached[page])
        return -EFAULT;
    if (fake_strikes(FAKE_BREAK))
        fake_break(fake_file_page(file, page));
    if (file->broken[page])
        return -EIO;
    if (entry->pte == PTE_MAPPED || entry->pte == PTE_COPY)
        return -EEXIST;
    if (fake_on_map)
        fake_on_map(file->bytes, fill->view->first + fill->index);
    fake_entry_clear(fill->view, fill->index, true);
    entry->pte = PTE_MAPPED;
    entry->wp = fill->flags & MNW__UFFD_KEEP_WP;
    return 0;
}

static int poison_page(struct fill *fill) {
    struct fake_entry *entry = &fill->view->entries[fill->index];
    if (entry->pte != PTE_NONE || entry->wp)
        return -EEXIST;
    entry->pte = PTE_POISON;
    return 0;
}

/* A private page of the view: from the source, or zeros. */
static int private_page(struct fill *fill) {
    struct fake_entry *entry = &fill->view->entries[fill->index];
    size_t page_bytes = fill->view->page_bytes;
    bool marked = entry->pte == PTE_POISON || entry->wp;
    if (entry->pte == PTE_MAPPED || entry->pte == PTE_COPY || (marked && !fill->source))
        return -EEXIST;
    char *copy = calloc(1, page_bytes);
    if (!copy)
        sim_fail("no memory for a private page");
    if (fill->source) {
        memcpy(copy, fill->source, page_bytes);
        fill->source += page_bytes;
    }
    fake_entry_clear(fill->view, fill->index, true);
    entry->copy = copy;
    entry->pte = PTE_COPY;
    entry->wp = fill->flags & MNW__UFFD_KEEP_WP;
    return 0;
}

static int hugetlb_has_none(struct fill *fill) {
    (void)fill;
    return -EINVAL;
}

/* ---- src/sys/uffd.h ------------------------------------------------------------------------------------ */

int mnw__uffd_continue(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    struct fill fill = {.flags = flags};
    return fill_range("UFFDIO_CONTINUE", fd, start, length, &fill, continue_page, done);
}

int mnw__uffd_poison(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    if (!fake_config.has_poison) {
        *done = 0;
        return -EINVAL; /* the kernel does not know the ioctl */
    }
    struct fill fill = {.flags = flags & MNW__UFFD_DONTWAKE};
    return fill_range("UFFDIO_POISON", fd, start, length, &fill, poison_page, done);
}

int mnw__uffd_copy(int fd, uintptr_t start, const void *source, size_t length, unsigned flags, int64_t *done) {
    struct fill fill = {.flags = flags, .source = source};
    return fill_range("UFFDIO_COPY", fd, start, length, &fill, private_page, done);
}

int mnw__uffd_zeropage(int fd, uintptr_t start, size_t length, unsigned flags, int64_t *done) {
    struct fill fill = {.flags = flags & MNW__UFFD_DONTWAKE};
    const struct fake_fd *entry = fake_fd_get(fd, FD_UFFD);
    struct fake_view *view = entry ? fake_view_of(entry->uffd->process, start) : NULL;
    bool hugetlb = view && fake_is_hugetlb(view->file);
    return fill_range("UFFDIO_ZEROPAGE", fd, start, length, &fill, hugetlb ? hugetlb_has_none : private_page, done);
}

static void protect_page(struct fake_entry *entry, bool protect) {
    if (entry->pte != PTE_POISON)
        entry->wp = protect;
}

int mnw__uffd_writeprotect(int fd, uintptr_t start, size_t length, bool protect, unsigned flags) {
    fake_call("UFFDIO_WRITEPROTECT");
    struct fake_fd *entry = fake_fd_get(fd, FD_UFFD);
    if (!entry)
        sim_fail("UFFDIO_WRITEPROTECT on descriptor %d, which is no userfaultfd", fd);
    if (entry->uffd->initialised && (entry->uffd->event_count || entry->uffd->changing))
        return -EAGAIN;
    bool dontwake = flags & MNW__UFFD_DONTWAKE;
    if (!entry->uffd->initialised || !length || start % SMALL_PAGE || length % SMALL_PAGE || (protect && dontwake))
        return -EINVAL;
    if (entry->uffd->orphaned)
        return -ESRCH;
    struct fake_view *view = fake_view_of(entry->uffd->process, start);
    if (!is_registered_run(view, start, length) || !(fake_entry_at(view, start)->modes & MNW__UFFD_MODE_WP))
        return -ENOENT;
    if (start % view->page_bytes || length % view->page_bytes)
        return -EINVAL;
    for (uintptr_t at = start; at < start + length; at += view->page_bytes)
        protect_page(fake_entry_at(view, at), protect);
    if (!protect && !dontwake)
        fake_uffd_wake_range(entry->uffd, start, length);
    fake_call("UFFDIO_WRITEPROTECT done");
    return 0;
}
