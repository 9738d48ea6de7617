/* SPDX-License-Identifier: MIT */
/*
 * munmap and mremap of parts of a fake view, and fork, by its consumer; the events they give.
 *
 * As in the kernel: the mapping changes first, then whoever watches it is told, and the caller waits until that was
 * read. From before the change until the caller runs again, nothing can be mapped through the userfaultfd.
 */
#include "fake_kernel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A view of its own for pages [first, first + pages) of one; at that address. The entries are the new one's. */
static struct fake_view *piece_of(const struct fake_view *view, size_t first, size_t pages, uintptr_t address) {
    struct fake_view *piece = fake_view_new();
    *piece = *view;
    piece->first = view->first + first;
    piece->pages = pages;
    piece->length = pages * view->page_bytes;
    piece->address = address;
    piece->entries = calloc(pages, sizeof(*piece->entries));
    if (!piece->entries)
        sim_fail("no memory for a fake view");
    memcpy(piece->entries, view->entries + first, pages * sizeof(*piece->entries));
    return piece;
}

static void free_copies(const struct fake_view *view, size_t first, size_t pages) {
    for (size_t page = first; page < first + pages; page++)
        fake_free(view->entries[page].copy);
}

/* What is left of a view without [first, first + pages), whose entries are somebody else's by now. */
static void leave(struct fake_view *view, size_t first, size_t pages) {
    struct fake_view was = *view;
    view->exists = false;
    if (first)
        piece_of(&was, 0, first, was.address);
    if (first + pages < was.pages)
        piece_of(&was, first + pages, was.pages - first - pages, was.address + (first + pages) * was.page_bytes);
    fake_free(was.entries);
}

static struct fake_view *whole_pages(uintptr_t address, size_t length, size_t *first, size_t *pages) {
    struct fake_view *view = fake_view_at(address);
    if (!view || address % view->page_bytes || !length || length % view->page_bytes ||
        address + length > view->address + view->length)
        sim_fail("[%#lx, +%zu) is not whole pages of one view", (unsigned long)address, length);
    *first = (address - view->address) / view->page_bytes;
    *pages = length / view->page_bytes;
    return view;
}

/* Who watches it and wants such events; it stays until fake_uffd_release(). */
static struct fake_uffd *watcher(const struct fake_view *view, size_t page, uint64_t feature) {
    struct fake_uffd *uffd = fake_uffd_of_id(view->entries[page].uffd);
    if (!uffd || !(uffd->features & feature))
        return NULL;
    uffd->references++;
    uffd->changing++;
    return uffd;
}

static void tell(struct fake_uffd *uffd, const struct mnw__uffd_event *event) {
    if (!uffd)
        return;
    fake_call("event");
    fake_uffd_post(uffd, event);
    fake_call("event read");
    uffd->changing--;
    fake_uffd_release(uffd);
}

void fake_munmap(uintptr_t address, size_t length) {
    fake_call("munmap");
    size_t first, pages;
    struct fake_view *view = whole_pages(address, length, &first, &pages);
    struct fake_uffd *uffd = watcher(view, first, MNW__UFFD_EVENT_UNMAP);
    free_copies(view, first, pages);
    leave(view, first, pages);
    sim_trace("munmap [%#lx, +%zu)", (unsigned long)address, length);
    tell(uffd, &(struct mnw__uffd_event){.kind = MNW__UFFD_EV_UNMAP, .address = address, .length = length, .fd = -1});
}

void fake_mremap(uintptr_t from, size_t length, uintptr_t to) {
    fake_call("mremap");
    size_t first, pages;
    struct fake_view *view = whole_pages(from, length, &first, &pages);
    if (fake_view_at(to) || fake_view_at(to + length - 1))
        sim_fail("mremap over another view is not modelled");
    struct fake_uffd *moved = watcher(view, first, MNW__UFFD_EVENT_REMAP);
    struct fake_uffd *unmapped = watcher(view, first, MNW__UFFD_EVENT_UNMAP);
    struct fake_view *piece = piece_of(view, first, pages, to);
    for (size_t page = 0; page < pages && !moved; page++)
        piece->entries[page].uffd = -1;
    leave(view, first, pages);
    sim_trace("mremap [%#lx, +%zu) to %#lx", (unsigned long)from, length, (unsigned long)to);
    tell(moved,
         &(struct mnw__uffd_event){.kind = MNW__UFFD_EV_REMAP, .address = from, .to = to, .length = length, .fd = -1});
    tell(unmapped, &(struct mnw__uffd_event){.kind = MNW__UFFD_EV_UNMAP, .address = from, .length = length, .fd = -1});
}

/* The child's userfaultfd is nobody's until the event was read; if it never is, it goes with the parent's. */
bool fake_fork(uintptr_t address, int child) {
    fake_call("fork");
    struct fake_view *view = fake_view_of(fiber_process(), address);
    if (!view)
        return false; /* unmapped by another thread of the process just now */
    struct fake_view *copy = piece_of(view, 0, view->pages, view->address);
    copy->process = child;
    copy->is_childs = true;
    struct fake_uffd *uffd = fake_uffd_of_id(view->entries[0].uffd), *childs = NULL;
    if (uffd && uffd->features & MNW__UFFD_EVENT_FORK) {
        childs = fake_uffd_new(child);
        childs->initialised = true;
        childs->features = uffd->features;
    }
    for (size_t page = 0; page < copy->pages; page++) {
        if (copy->entries[page].copy)
            sim_fail("fork of a view with copies is not modelled");
        copy->entries[page].huge = false;
        copy->entries[page].uffd = (int16_t)(childs ? childs->id : -1);
    }
    sim_trace("fork of the view at %#lx: process %d", (unsigned long)address, child);
    if (childs)
        fake_uffd_post(uffd, &(struct mnw__uffd_event){.kind = MNW__UFFD_EV_FORK, .fd = childs->id});
    fake_call("fork done");
    return true;
}
