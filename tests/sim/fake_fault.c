/* SPDX-License-Identifier: MIT */
/*
 * Consumers of the fake kernel: their loads and stores walk the fake page tables, and fault.
 */
#include "base/error.h"
#include "fake_kernel.h"
#include "sys/backing.h"
#include "sys/sigbus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- src/sys/sigbus.h: of one process, that of the run itself ---- */

static struct {
    mnw__sigbus_serve *serve;
    unsigned users;
} handler;

int mnw__sigbus_acquire(mnw__sigbus_serve *serve) {
    fake_call("sigaction");
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-EINVAL, "no handler to be had");
    handler.serve = serve;
    handler.users++;
    fake_call("sigaction done");
    return 0;
}

void mnw__sigbus_release(void) {
    fake_call("sigaction");
    if (!handler.users--)
        sim_fail("SIGBUS is given back more often than it was taken");
    fake_call("sigaction done");
}

void fake_sigbus_end(void) {
    if (handler.users)
        sim_fail("SIGBUS was never given back");
}

/* Law 2, for faults that no kernel keeps. */
static void check_patience(uintptr_t address, uint64_t began) {
    if (fiber_now() - began >= fake_config.fault_ns_max)
        sim_fail("law 2: an inline fault at %#lx has not ended for %.3f s", (unsigned long)address,
                 (double)(fiber_now() - began) / 1e9);
}

/* The handler runs in the faulting fiber. True: the access is over, with SIGBUS. */
static bool raise_sigbus(uintptr_t address, uint64_t began) {
    check_patience(address, began);
    sim_trace("SIGBUS at %#lx", (unsigned long)address);
    fake_call("signal");
    enum mnw__sigbus what = handler.users ? handler.serve(address) : MNW__SIGBUS_FOREIGN;
    fake_call("sigreturn");
    check_patience(address, began);
    return what == MNW__SIGBUS_FAILED || (what == MNW__SIGBUS_FOREIGN && fake_view_at(address));
}

/* ---- page tables ---- */

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
    struct fake_view *view = fake_view_of(fiber_process(), address);
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
        return raise_sigbus(address, began);
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

int mnw__view_populate(uintptr_t address, size_t length) {
    fake_call("madvise(POPULATE_READ)");
    for (uintptr_t at = address; at < address + length; at += fake_view_at(address)->page_bytes)
        if (touch(at, false) != FAKE_OK)
            return -EIO;
    return 0;
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
