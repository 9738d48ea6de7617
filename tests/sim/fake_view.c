/* SPDX-License-Identifier: MIT */
/*
 * Views of the fake kernel: their addresses and page tables; src/sys/backing.h's view calls.
 *
 * A punched page leaves every page table; poison and private copies stay on shmem and go on hugetlb; a huge
 * mapping goes as a whole. Taking a view away wakes nobody.
 */
#include "base/bits.h"
#include "base/error.h"
#include "fake_kernel.h"
#include "sys/backing.h"
#include "sys/process.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Inaccessible, at the same place in every run, so that whoever follows a view's pointer is caught. */
#define VIEWS_START 0x200000000000u
#define VIEWS_BYTES ((size_t)1 << 36) /* an emulator of another architecture notes each page of it */

static struct {
    struct fake_view views[FAKE_VIEWS];
    uintptr_t next;
} views;

static bool holds(const struct fake_view *view, uintptr_t address) {
    return view->exists && address >= view->address && address < view->address + view->length;
}

struct fake_view *fake_view_of(int process, uintptr_t address) {
    for (int i = 0; i < FAKE_VIEWS; i++)
        if (views.views[i].process == process && holds(&views.views[i], address))
            return &views.views[i];
    return NULL;
}

struct fake_view *fake_view_at(uintptr_t address) {
    struct fake_view *view = fake_view_of(fiber_process(), address);
    for (int i = 0; i < FAKE_VIEWS && !view; i++)
        if (holds(&views.views[i], address) && !views.views[i].is_childs)
            view = &views.views[i];
    return view;
}

struct fake_entry *fake_entry_at(struct fake_view *view, uintptr_t address) {
    return &view->entries[(address - view->address) / view->page_bytes];
}

/* ---- entries ------------------------------------------------------------------------------------------- */

static void clear_one(struct fake_entry *entry, bool markers) {
    if (entry->pte == PTE_POISON && !markers)
        return;
    fake_free(entry->copy);
    entry->copy = NULL;
    entry->pte = PTE_NONE;
    entry->huge = false;
    if (markers)
        entry->wp = false;
}

void fake_entry_clear(struct fake_view *view, size_t index, bool markers) {
    if (view->entries[index].huge) {
        size_t extent = view->file->extent_bytes / view->page_bytes;
        size_t file_page = view->first + index, start = file_page - file_page % extent;
        for (size_t page = start; page < start + extent; page++)
            if (page >= view->first && page - view->first < view->pages && view->entries[page - view->first].huge)
                clear_one(&view->entries[page - view->first], false);
    }
    clear_one(&view->entries[index], markers);
}

void fake_views_drop(struct fake_file *file, uint64_t page) {
    for (int i = 0; i < FAKE_VIEWS; i++) {
        struct fake_view *view = &views.views[i];
        if (!view->exists || view->file != file || page < view->first || page - view->first >= view->pages)
            continue;
        struct fake_entry *entry = &view->entries[page - view->first];
        if (fake_is_hugetlb(file) || entry->pte == PTE_MAPPED)
            fake_entry_clear(view, page - view->first, fake_is_hugetlb(file));
    }
}

static bool has_entry(struct fake_file *file, uint64_t page, enum fake_pte pte) {
    for (int i = 0; i < FAKE_VIEWS; i++) {
        struct fake_view *view = &views.views[i];
        if (view->exists && view->file == file && page >= view->first && page - view->first < view->pages &&
            view->entries[page - view->first].pte == pte)
            return true;
    }
    return false;
}

bool fake_views_map(struct fake_file *file, uint64_t page) {
    return has_entry(file, page, PTE_MAPPED);
}

bool fake_views_copy(struct fake_file *file, uint64_t page) {
    return has_entry(file, page, PTE_COPY);
}

void fake_views_unregister(int id) {
    for (int i = 0; i < FAKE_VIEWS; i++)
        for (size_t page = 0; views.views[i].exists && page < views.views[i].pages; page++)
            if (views.views[i].entries[page].uffd == id)
                views.views[i].entries[page].uffd = -1;
}

/* ---- mapping ------------------------------------------------------------------------------------------- */

static uintptr_t place_for(size_t length) {
    const size_t unit = 2 << 20;
    uintptr_t address = fake_config.reuses_addresses ? VIEWS_START : views.next;
    for (int i = 0; i < FAKE_VIEWS; i++) {
        const struct fake_view *view = &views.views[i];
        if (view->exists && address < view->address + view->length && view->address < address + length) {
            address = mnw__align_up(view->address + view->length, unit);
            i = -1;
        }
    }
    if (address + length > VIEWS_START + VIEWS_BYTES)
        sim_fail("the fake address space is full");
    if (views.next < address + length)
        views.next = mnw__align_up(address + length, unit);
    return address;
}

struct fake_view *fake_view_new(void) {
    for (int i = 0; i < FAKE_VIEWS; i++)
        if (!views.views[i].exists)
            return &views.views[i];
    sim_fail("more than %d views", FAKE_VIEWS);
}

static int map(struct mnw__backing *backing, uint64_t offset, size_t length, bool writable, bool veiled,
               uintptr_t *address) {
    fake_call("view_map");
    struct fake_file *file = fake_file_of(backing->readonly_fd);
    if (offset % file->page_bytes || !length || length % file->page_bytes)
        return mnw__fail(-EINVAL, "a view must be whole pages");
    if (offset + length > file->page_count * file->page_bytes)
        sim_fail("a view of [%llu, +%zu) is larger than its file", (unsigned long long)offset, length);
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-ENOMEM, "no address space for a view of %zu bytes", length);
    struct fake_view *view = fake_view_new();
    *view = (struct fake_view){.exists = true, .writable = writable, .veiled = veiled, .file = file, .length = length};
    view->process = fiber_process();
    view->page_bytes = file->page_bytes;
    view->first = offset / file->page_bytes;
    view->pages = length / file->page_bytes;
    view->address = place_for(length);
    view->entries = calloc(view->pages, sizeof(*view->entries));
    if (!view->entries)
        sim_fail("no memory for a fake view");
    for (size_t page = 0; page < view->pages; page++)
        view->entries[page].uffd = -1;
    *address = view->address;
    sim_trace("view %#lx: mapped, pages [%llu, %llu)", (unsigned long)view->address, (unsigned long long)view->first,
              (unsigned long long)(view->first + view->pages));
    fake_call("view_map done");
    return 0;
}

int mnw__view_map(struct mnw__backing *backing, uint64_t offset, size_t length, bool writable, uintptr_t *address) {
    return map(backing, offset, length, writable, false, address);
}

/* The view that holds the whole range, which must be whole pages. */
static struct fake_view *view_of(uintptr_t address, size_t length, const char *what) {
    struct fake_view *view = fake_view_at(address);
    if (!view || address % view->page_bytes || !length || length % view->page_bytes ||
        address + length > view->address + view->length)
        sim_fail("%s of [%#lx, +%zu), which is not whole pages of one view", what, (unsigned long)address, length);
    return view;
}

/* Tells a monitor that asked for such events, and waits until it has read. */
static void post(struct fake_view *view, uintptr_t address, size_t length, enum mnw__uffd_event_kind kind) {
    struct fake_uffd *uffd = fake_uffd_of_id(fake_entry_at(view, address)->uffd);
    uint64_t feature = kind == MNW__UFFD_EV_REMOVE ? MNW__UFFD_EVENT_REMOVE : MNW__UFFD_EVENT_UNMAP;
    if (!uffd || !(uffd->features & feature))
        return;
    struct mnw__uffd_event event = {.kind = kind, .address = address, .length = length, .fd = -1};
    fake_uffd_post(uffd, &event);
}

/* A reader of a view that was closed may touch the next one at its place between the halves. */
int mnw__view_map_veiled(struct mnw__backing *backing, uint64_t offset, size_t length, uintptr_t *address) {
    return map(backing, offset, length, false, true, address);
}

int mnw__view_unveil(uintptr_t address, size_t length, bool writable) {
    fake_call("view_unveil");
    struct fake_view *view = fake_view_at(address);
    if (!view || view->length != length)
        sim_fail("unveils what is no view");
    view->writable = writable;
    view->veiled = false;
    return 0;
}

int mnw__view_unmap(uintptr_t address, size_t length) {
    fake_call("view_unmap");
    struct fake_view *view = view_of(address, length, "munmap");
    if (length != view->length)
        sim_fail("munmap of a part of a view is not modelled");
    struct fake_view gone = *view;
    view->exists = false; /* the kernel unmaps first, then tells */
    sim_trace("view %#lx: unmapped", (unsigned long)address);
    post(&gone, address, length, MNW__UFFD_EV_UNMAP);
    for (size_t page = 0; page < gone.pages; page++)
        fake_free(gone.entries[page].copy);
    fake_free(gone.entries);
    fake_call("view_unmap done");
    return 0;
}

void fake_view_veil(uintptr_t address) {
    fake_call("mprotect");
    fake_view_at(address)->veiled = true;
    fake_call("mprotect done");
}

void fake_views_died(int process) {
    for (int i = 0; i < FAKE_VIEWS; i++) {
        struct fake_view *view = &views.views[i];
        if (!view->exists || view->process != process)
            continue;
        view->exists = false;
        for (size_t page = 0; page < view->pages; page++)
            fake_free(view->entries[page].copy);
        fake_free(view->entries);
    }
}

int mnw__view_zap(uintptr_t address, size_t length) {
    fake_call("view_zap");
    struct fake_view *view = view_of(address, length, "madvise(DONTNEED)");
    post(view, address, length, MNW__UFFD_EV_REMOVE); /* the kernel tells first, then drops */
    if (!fake_view_at(address))
        return mnw__fail(-ENOMEM, "the view went away");
    size_t first = (address - view->address) / view->page_bytes;
    for (size_t page = first; page < first + length / view->page_bytes; page++)
        if (!view->entries[page].barred)
            fake_entry_clear(view, page, true);
    sim_trace("view %#lx: zapped pages [%zu, %zu)", (unsigned long)view->address, first,
              first + length / view->page_bytes);
    fake_call("view_zap done");
    return 0;
}

/* Why the kernel would refuse to map the extent by one entry, or NULL. */
static const char *collapse_obstacle(struct fake_view *view, size_t first, size_t pages) {
    size_t extent = view->file->extent_bytes;
    if (view->file->kind != MNW_BACKING_GRADED)
        return "not in huge folios";
    if (pages * view->page_bytes != extent || (view->first + first) * view->page_bytes % extent)
        return "not one whole extent";
    for (size_t page = first; page < first + pages; page++) {
        const struct fake_entry *entry = &view->entries[page];
        if (entry->barred || entry->pte == PTE_COPY || entry->pte == PTE_POISON || entry->wp)
            return "a page is a copy, poisoned, barred or write-protected";
        if (entry->modes & MNW__UFFD_MODE_WP)
            return "registered for write-protection";
        if (view->file->broken[view->first + page])
            return "memory that has failed";
    }
    return NULL;
}

int mnw__view_collapse(uintptr_t address, size_t length) {
    fake_call("collapse");
    struct fake_view *view = view_of(address, length, "madvise(COLLAPSE)");
    size_t first = (address - view->address) / view->page_bytes, pages = length / view->page_bytes;
    const char *obstacle = collapse_obstacle(view, first, pages);
    if (obstacle)
        return mnw__fail(-EINVAL, "collapse refused: %s", obstacle);
    if (fake_strikes(FAKE_COLLAPSE))
        return mnw__fail(-EAGAIN, "collapse refused");
    for (size_t page = first; page < first + pages; page++) {
        if (fake_on_map)
            fake_on_map(view->file->bytes, view->first + page);
        fake_file_fill_hole(view->file, view->first + page); /* as the kernel does: zeros */
        view->entries[page].pte = PTE_MAPPED;
        view->entries[page].huge = true;
    }
    sim_trace("view %#lx: collapsed pages [%zu, %zu)", (unsigned long)view->address, first, first + pages);
    fake_call("collapse done");
    return 0;
}

int mnw__view_bar(uintptr_t address, size_t length) {
    fake_call("bar");
    struct fake_view *view = view_of(address, length, "bar");
    for (uintptr_t at = address; at < address + length; at += view->page_bytes) {
        struct fake_entry *entry = fake_entry_at(view, at);
        fake_entry_clear(view, (at - view->address) / view->page_bytes, true);
        entry->barred = true;
        entry->uffd = -1;
        entry->modes = 0;
    }
    sim_trace("view %#lx: barred [%#lx, +%zu)", (unsigned long)view->address, (unsigned long)address, length);
    fake_call("bar done");
    return 0;
}

int mnw__view_unbar(struct mnw__backing *backing, uint64_t offset, uintptr_t address, size_t length, bool writable) {
    fake_call("unbar");
    struct fake_view *view = view_of(address, length, "unbar");
    if (view->file != fake_file_of(backing->readonly_fd) || writable != view->writable ||
        offset != view->first * view->page_bytes + (address - view->address))
        sim_fail("a view's range is given back as another range");
    for (uintptr_t at = address; at < address + length; at += view->page_bytes) {
        if (fake_on_unbar)
            fake_on_unbar(view->file->bytes, view->first + (at - view->address) / view->page_bytes);
        struct fake_entry *entry = fake_entry_at(view, at);
        fake_entry_clear(view, (at - view->address) / view->page_bytes, true);
        entry->barred = false;
        entry->uffd = -1;
    }
    sim_trace("view %#lx: unbarred [%#lx, +%zu)", (unsigned long)view->address, (unsigned long)address, length);
    fake_call("unbar done");
    return 0;
}

/* ---- what can be seen of another process ---- */

enum mnw__mapped mnw__process_maps(pid_t pid, uintptr_t address, size_t length, int fd, uint64_t offset,
                                   bool may_write) {
    fake_call("/proc/PID/maps");
    (void)pid;
    struct fake_view *view = fake_view_at(address);
    if (!view || address + length > view->address + view->length)
        return MNW__MAPPED_NOTHING;
    if (view->file != fake_file_of(fd))
        return MNW__MAPPED_OTHER_FILE;
    if (view->first * view->page_bytes + (address - view->address) != offset)
        return MNW__MAPPED_OTHER_OFFSET;
    return view->writable && !may_write ? MNW__MAPPED_WRITABLE : MNW__MAPPED_AS_SAID;
}

/* ---- a run's begin and end ----------------------------------------------------------------------------- */

void fake_views_begin(void) {
    static bool reserved;
    if (!reserved && mmap((void *)VIEWS_START, VIEWS_BYTES, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
        sim_fail("cannot reserve the fake views' addresses: %s", strerror(errno));
    reserved = true;
    memset(&views, 0, sizeof(views));
    views.next = VIEWS_START;
}

void fake_views_end(void) {
    for (int i = 0; i < FAKE_VIEWS; i++)
        if (views.views[i].exists)
            sim_fail("the view at %#lx was never unmapped", (unsigned long)views.views[i].address);
}
