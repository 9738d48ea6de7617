/* SPDX-License-Identifier: MIT */
/*
 * Consumers of the fake kernel: their loads and stores walk the fake page tables, and fault.
 */
#include "fake_kernel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* No userfaultfd watches this page: the kernel serves it alone, a hole as zeros (on hugetlb zeros of its own). */
static void serve_as_kernel(struct fake_view *view, struct fake_entry *entry, uint64_t file_page) {
    if (fake_is_hugetlb(view->file) && !view->file->cached[file_page]) {
        entry->copy = calloc(1, view->page_bytes);
        if (!entry->copy)
            sim_fail("no memory for a private page");
        entry->pte = PTE_COPY;
        return;
    }
    fake_file_fill_hole(view->file, file_page);
    entry->pte = PTE_MAPPED;
}

static void copy_on_write(struct fake_view *view, size_t index, uint64_t file_page) {
    fake_entry_clear(view, index, false);
    struct fake_entry *entry = &view->entries[index];
    entry->copy = malloc(view->page_bytes);
    if (!entry->copy)
        sim_fail("no memory for a private page");
    memcpy(entry->copy, fake_file_page(view->file, file_page), view->page_bytes);
    entry->pte = PTE_COPY;
}

/* One walk: true when the access ended with `*outcome`, false when it must be made again. */
static bool walk(uintptr_t address, bool write, uint64_t began, enum fake_outcome *outcome) {
    struct fake_view *view = fake_view_at(address);
    *outcome = FAKE_SIGSEGV;
    if (!view)
        return true;
    size_t index = (address - view->address) / view->page_bytes;
    struct fake_entry *entry = &view->entries[index];
    uintptr_t page_address = view->address + index * view->page_bytes;
    if (view->veiled || (write && !view->writable))
        return true;
    *outcome = FAKE_SIGBUS;
    if (entry->barred || entry->pte == PTE_POISON)
        return true;
    *outcome = FAKE_OK;
    uint64_t file_page = view->first + index;
    struct fake_uffd *watch = fake_uffd_of_id(entry->uffd);
    unsigned flags = write ? MNW__UFFD_FAULT_WRITE : 0;
    if (entry->pte == PTE_MAPPED || entry->pte == PTE_COPY) {
        if (!write)
            return true;
        if (watch && entry->wp && (entry->modes & MNW__UFFD_MODE_WP)) {
            fake_uffd_wait(watch, page_address, flags | MNW__UFFD_FAULT_WP, began);
            return false;
        }
        if (entry->huge) { /* the huge mapping goes, and the page faults as if it had never been mapped */
            fake_entry_clear(view, index, false);
            return false;
        }
        if (entry->pte == PTE_MAPPED)
            copy_on_write(view, index, file_page);
        return true;
    }
    bool cached = view->file->cached[file_page];
    if (!watch || !(entry->modes & (cached ? MNW__UFFD_MODE_MINOR : MNW__UFFD_MODE_MISSING))) {
        serve_as_kernel(view, entry, file_page);
        return false;
    }
    if (watch->features & MNW__UFFD_SIGBUS) {
        *outcome = FAKE_SIGBUS;
        return true;
    }
    fake_uffd_wait(watch, page_address, flags | (cached ? MNW__UFFD_FAULT_MINOR : 0), began);
    return false;
}

static enum fake_outcome touch(uintptr_t address, bool write) {
    uint64_t began = fiber_now();
    enum fake_outcome outcome;
    fiber_point("touch");
    while (!walk(address, write, began, &outcome))
        fiber_point("fault again");
    return outcome;
}

static char *bytes_at(uintptr_t address) {
    struct fake_view *view = fake_view_at(address);
    size_t index = (address - view->address) / view->page_bytes;
    struct fake_entry *entry = &view->entries[index];
    char *page = entry->pte == PTE_COPY ? entry->copy : fake_file_page(view->file, view->first + index);
    return page + (address - view->address) % view->page_bytes;
}

/* How far one access may go: to the end of the page. */
static size_t step_of(uintptr_t address, size_t length) {
    struct fake_view *view = fake_view_at(address);
    size_t left = view->page_bytes - (address - view->address) % view->page_bytes;
    return length < left ? length : left;
}

enum fake_outcome fake_read(uintptr_t address, void *bytes, size_t length, uintptr_t *stopped) {
    for (char *to = bytes; length;) {
        enum fake_outcome outcome = touch(address, false);
        if (outcome != FAKE_OK) {
            *stopped = address;
            return outcome;
        }
        size_t step = step_of(address, length);
        memcpy(to, bytes_at(address), step);
        to += step;
        address += step;
        length -= step;
    }
    return FAKE_OK;
}

enum fake_outcome fake_write(uintptr_t address, const void *bytes, size_t length, uintptr_t *stopped) {
    for (const char *from = bytes; length;) {
        enum fake_outcome outcome = touch(address, true);
        if (outcome != FAKE_OK) {
            *stopped = address;
            return outcome;
        }
        size_t step = step_of(address, length);
        memcpy(bytes_at(address), from, step);
        from += step;
        address += step;
        length -= step;
    }
    return FAKE_OK;
}
