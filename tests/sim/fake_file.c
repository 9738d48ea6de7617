/* SPDX-License-Identifier: MIT */
/*
 * Files of the fake kernel: src/sys/backing.h but for views. Holes are inaccessible memory.
 */
#include "base/bits.h"
#include "base/error.h"
#include "fake_kernel.h"
#include "sys/backing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct {
    struct fake_file files[FAKE_FILES];
    uint64_t resident, resident_max, budget;
    uint64_t exhausted_until;
    uint64_t inodes;
} files;

void (*fake_on_map)(const void *alias, uint64_t page);
void (*fake_on_unbar)(const void *alias, uint64_t page);
void (*fake_on_punch)(const void *alias, uint64_t page);
bool (*fake_may_break)(const void *alias, uint64_t page);
bool (*fake_may_lose)(const void *alias, uint64_t page);

static const size_t small_page_bytes[] = {4096, 4096, 16 << 10, 64 << 10};
static const size_t small_extent_bytes[] = {0, 8 * 4096, 16 << 10, 64 << 10};
static const size_t kernel_page_bytes[] = {4096, 4096, 2 << 20, 1 << 30};
static const size_t kernel_extent_bytes[] = {0, 2 << 20, 2 << 20, 1 << 30};

bool fake_is_hugetlb(const struct fake_file *file) {
    return file->kind == MNW_BACKING_HUGETLB_2M || file->kind == MNW_BACKING_HUGETLB_1G;
}

size_t mnw__backing_page_bytes(enum mnw_backing kind) {
    return fake_config.kernel_sizes ? kernel_page_bytes[kind] : small_page_bytes[kind];
}

size_t mnw__backing_extent_bytes(enum mnw_backing kind) {
    return fake_config.kernel_sizes ? kernel_extent_bytes[kind] : small_extent_bytes[kind];
}

void fake_set_budget(uint64_t bytes) {
    files.budget = bytes;
}

uint64_t fake_resident(void) {
    return files.resident;
}

uint64_t fake_resident_max(void) {
    return files.resident_max;
}

void *fake_file_page(struct fake_file *file, uint64_t page) {
    return file->bytes + page * file->page_bytes;
}

struct fake_file *fake_file_of(int fd) {
    struct fake_fd *entry = fake_fd_get(fd, FD_FILE);
    if (!entry)
        sim_fail("descriptor %d is not a backing's", fd);
    return entry->file;
}

void fake_file_fill_hole(struct fake_file *file, uint64_t page) {
    if (file->cached[page])
        return;
    void *bytes = fake_file_page(file, page);
    if (mprotect(bytes, file->page_bytes, PROT_READ | PROT_WRITE))
        sim_fail("mprotect: %s", strerror(errno));
    memset(bytes, 0, file->page_bytes);
    file->cached[page] = true;
    file->nodes[page] = (int8_t)fake_numa_choose(file, page);
    files.resident += file->page_bytes;
    if (files.resident > files.resident_max)
        files.resident_max = files.resident;
}

void fake_file_drop(struct fake_file *file, uint64_t page) {
    fake_views_drop(file, page);
    if (!file->cached[page])
        return;
    void *bytes = fake_file_page(file, page);
    memset(bytes, 0xdb, file->page_bytes);
    if (mprotect(bytes, file->page_bytes, PROT_NONE))
        sim_fail("mprotect: %s", strerror(errno));
    file->cached[page] = file->broken[page] = false;
    file->incarnation[page]++;
    files.resident -= file->page_bytes;
}

struct fake_file *fake_file_at(const void *address, uint64_t *page) {
    for (int i = 0; i < FAKE_FILES; i++) {
        struct fake_file *file = &files.files[i];
        if (!file->exists || (const char *)address < file->bytes)
            continue;
        *page = (uint64_t)((const char *)address - file->bytes) / file->page_bytes;
        if (*page < file->page_count)
            return file;
    }
    return NULL;
}

uint64_t fake_incarnation(const void *address) {
    uint64_t page;
    const struct fake_file *file = fake_file_at(address, &page);
    return file ? file->incarnation[page] : UINT64_MAX;
}

void fake_break(const void *address) {
    uint64_t page;
    struct fake_file *file = fake_file_at(address, &page);
    if (fake_may_break && !fake_may_break(file->bytes, page))
        return;
    sim_trace("kernel: the memory of page %llu fails", (unsigned long long)page);
    file->broken[page] = true;
}

bool fake_is_broken(const void *address) {
    uint64_t page;
    const struct fake_file *file = fake_file_at(address, &page);
    return file && file->broken[page];
}

bool fake_is_cached(const void *address) {
    uint64_t page;
    const struct fake_file *file = fake_file_at(address, &page);
    return file && file->cached[page];
}

void fake_lose_page(void) {
    unsigned candidates = 0;
    struct fake_file *lost_file = NULL;
    uint64_t lost_page = 0;
    for (int i = 0; i < FAKE_FILES; i++) {
        struct fake_file *file = &files.files[i];
        /* On graded a later MADV_COLLAPSE would, as on the real kernel, map the hole as zeros: no defence exists. */
        if (!file->exists || file->kind == MNW_BACKING_GRADED)
            continue;
        for (uint64_t page = 0; page < file->page_count; page++) {
            if (!file->cached[page])
                continue;
            /* On hugetlb a consumer's copies would go with it, as on the real kernel: no defence exists. */
            if (fake_is_hugetlb(file) && fake_views_copy(file, page))
                continue;
            if (!fake_views_map(file, page) && !(fake_may_lose && fake_may_lose(file->bytes, page)))
                continue;
            if (!random_below(fiber_random(), ++candidates)) {
                lost_file = file;
                lost_page = page;
            }
        }
    }
    if (!lost_file)
        return;
    sim_trace("kernel: page %llu of a file is lost", (unsigned long long)lost_page);
    fake_file_drop(lost_file, lost_page);
}

/* ---- src/sys/backing.h --------------------------------------------------------------------------------- */

int mnw__backing_check(enum mnw_backing kind, uint64_t budget_bytes) {
    fake_call("backing_check");
    if (kind != MNW_BACKING_HUGETLB_2M && kind != MNW_BACKING_HUGETLB_1G)
        return 0;
    size_t page_bytes = mnw__backing_page_bytes(kind);
    if (budget_bytes / page_bytes > fake_config.hugepages)
        return mnw__fail(-ENOMEM, "the fake machine has %llu huge pages of %zu bytes",
                         (unsigned long long)fake_config.hugepages, page_bytes);
    return 0;
}

int mnw__backing_check_nodes(enum mnw_backing kind, uint64_t budget_bytes, uint64_t nodes) {
    (void)kind, (void)budget_bytes, (void)nodes; /* nodes never run out one by one */
    fake_call("backing_check");
    return 0;
}

static struct fake_file *free_file(void) {
    for (int i = 0; i < FAKE_FILES; i++)
        if (!files.files[i].exists)
            return &files.files[i];
    sim_fail("more than %d files", FAKE_FILES);
}

static void open_backing(struct mnw__backing *backing, struct fake_file *file, uint64_t size_bytes) {
    int fd = fake_fd_new(FD_FILE), readonly_fd = fake_fd_new(FD_FILE);
    fake_fd_get(fd, FD_FILE)->file = fake_fd_get(readonly_fd, FD_FILE)->file = file;
    *backing = (struct mnw__backing){.kind = file->kind,
                                     .page_bytes = file->page_bytes,
                                     .size_bytes = mnw__align_up(size_bytes, file->page_bytes),
                                     .fd = fd,
                                     .readonly_fd = readonly_fd,
                                     .alias = file->bytes};
    mnw__backing_look_up(backing);
}

static uint64_t file_bytes(enum mnw_backing kind, uint64_t size_bytes) {
    size_t extent = mnw__backing_extent_bytes(kind);
    /* The file covers whole extents: its last huge folio is as large as any other. */
    return mnw__align_up(size_bytes, extent ? extent : mnw__backing_page_bytes(kind));
}

int mnw__backing_adopt(struct mnw__backing *backing, enum mnw_backing kind, uint64_t size_bytes, int fd) {
    fake_call("backing_adopt");
    struct fake_file *file = fake_file_of(fd);
    if (file->kind != kind || file->page_count * file->page_bytes != file_bytes(kind, size_bytes))
        return mnw__fail(-ESTALE, "descriptor %d is another backing", fd);
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-ENOMEM, "no address space for an alias");
    open_backing(backing, file, size_bytes);
    fake_call("backing_adopt done");
    return 0;
}

int mnw__backing_name(const struct mnw__backing *backing, struct mnw__backing_name *name) {
    *name = (struct mnw__backing_name){.inode = fake_file_of(backing->fd)->inode};
    return 0;
}

int mnw__backing_create(struct mnw__backing *backing, enum mnw_backing kind, uint64_t size_bytes) {
    fake_call("backing_create");
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-ENOMEM, "no memory for a file of %llu bytes", (unsigned long long)size_bytes);
    size_t page_bytes = mnw__backing_page_bytes(kind);
    struct fake_file *file = free_file();
    *file = (struct fake_file){.exists = true, .kind = kind, .page_bytes = page_bytes};
    file->extent_bytes = mnw__backing_extent_bytes(kind);
    file->inode = ++files.inodes;
    uint64_t size = file_bytes(kind, size_bytes);
    file->page_count = size / page_bytes;
    file->cached = calloc(file->page_count, sizeof(*file->cached));
    file->broken = calloc(file->page_count, sizeof(*file->broken));
    file->incarnation = calloc(file->page_count, sizeof(*file->incarnation));
    file->nodes = calloc(file->page_count, sizeof(*file->nodes));
    file->policies = calloc(file->page_count, sizeof(*file->policies));
    void *alias = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!file->cached || !file->broken || !file->incarnation || !file->nodes || !file->policies || alias == MAP_FAILED)
        sim_fail("no memory for a fake file of %llu bytes", (unsigned long long)size);
    file->bytes = alias;
    open_backing(backing, file, size_bytes);
    sim_trace("backing %d: created, %llu pages", backing->fd, (unsigned long long)file->page_count);
    fake_call("backing_create done");
    return 0;
}

void mnw__backing_destroy(struct mnw__backing *backing) {
    fake_call("backing_destroy");
    sim_trace("backing %d: destroyed", backing->fd);
    fake_fd_close(backing->fd);
    fake_fd_close(backing->readonly_fd);
}

void fake_file_free(struct fake_file *file) {
    for (uint64_t page = 0; page < file->page_count; page++)
        fake_file_drop(file, page);
    munmap(file->bytes, file->page_count * file->page_bytes);
    fake_free(file->cached);
    fake_free(file->broken);
    fake_free(file->incarnation);
    fake_free(file->nodes);
    fake_free(file->policies);
    *file = (struct fake_file){0};
}

/* First and one past the last page of a range: whole pages (on graded, extents) or to the end of the backing. */
static void page_range(const struct mnw__backing *backing, uint64_t offset, size_t length, uint64_t *first,
                       uint64_t *end) {
    const struct fake_file *file = fake_file_of(backing->fd);
    size_t unit = file->kind == MNW_BACKING_GRADED ? file->extent_bytes : file->page_bytes;
    uint64_t size = backing->size_bytes;
    if (!length || offset + length < offset || offset + length > size || offset % unit ||
        ((offset + length) % unit && offset + length != size))
        sim_fail("a backing of %llu bytes is asked for [%llu, +%zu): not whole %s inside it", (unsigned long long)size,
                 (unsigned long long)offset, length, unit == file->page_bytes ? "pages" : "folios");
    *first = offset / file->page_bytes;
    *end = offset + length == size ? file->page_count : (offset + length) / file->page_bytes;
}

/* For a while, from the moment when `trouble` strikes. */
static bool is_exhausted(enum fake_trouble trouble) {
    if (files.exhausted_until > fiber_now())
        return true;
    if (!fake_strikes(trouble))
        return false;
    files.exhausted_until = fiber_now() + random_below(fiber_random(), fake_config.exhausted_ns + 1);
    return true;
}

static void check_budget(void) {
    if (files.resident > files.budget)
        sim_fail("law 5: %llu bytes resident, over the budget of %llu", (unsigned long long)files.resident,
                 (unsigned long long)files.budget);
}

int mnw__backing_allocate(struct mnw__backing *backing, uint64_t offset, size_t length) {
    fake_call("allocate");
    struct fake_file *file = fake_file_of(backing->fd);
    uint64_t first, end;
    page_range(backing, offset, length, &first, &end);
    if (is_exhausted(FAKE_EXHAUSTED) ||
        (fake_is_hugetlb(file) && files.resident + length > fake_config.hugepages * file->page_bytes)) {
        sim_trace("backing %d: allocate [%llu, %llu) = -ENOSPC", backing->fd, (unsigned long long)first,
                  (unsigned long long)end);
        return mnw__fail(-ENOSPC, "no memory for pages %llu to %llu", (unsigned long long)first,
                         (unsigned long long)end);
    }
    for (uint64_t page = first; page < end; page++)
        fake_file_fill_hole(file, page);
    sim_trace("backing %d: allocate [%llu, %llu), resident %llu", backing->fd, (unsigned long long)first,
              (unsigned long long)end, (unsigned long long)files.resident);
    check_budget();
    fake_call("allocate done");
    return 0;
}

int mnw__backing_write_page(struct mnw__backing *backing, uint64_t offset, const void *bytes) {
    static const int errors[] = {-ENOMEM, -EFBIG, -EIO};
    fake_call("write");
    struct fake_file *file = fake_file_of(backing->fd);
    int error = is_exhausted(FAKE_WRITE)   ? -ENOSPC
                : fake_strikes(FAKE_WRITE) ? errors[random_below(fiber_random(), 3)]
                                           : 0;
    size_t length = error ? 0 : file->page_bytes;
    uint64_t page, end;
    page_range(backing, offset, file->page_bytes, &page, &end);
    if (error == -EIO) /* short: the page has memory now, zeros behind what came */
        length = random_between(fiber_random(), 1, file->page_bytes - 1);
    if (length) {
        fake_file_fill_hole(file, page);
        memcpy(fake_file_page(file, page), bytes, length);
        check_budget();
    }
    sim_trace("backing %d: write page %llu = %d", backing->fd, (unsigned long long)page, error);
    fake_call("write done");
    return error;
}

int mnw__backing_read(const struct mnw__backing *backing, uint64_t offset, void *bytes, size_t length) {
    fake_call("read");
    struct fake_file *file = fake_file_of(backing->fd);
    if (offset + length > backing->size_bytes)
        sim_fail("a backing is read behind its end");
    /* In pieces: it may change between them. */
    for (size_t done = 0, step; done < length; done += step) {
        uint64_t page = (offset + done) / file->page_bytes;
        size_t left = (page + 1) * file->page_bytes - (offset + done);
        step = left < length - done ? left : length - done;
        if (step > file->page_bytes / 2)
            step = file->page_bytes / 2;
        if (file->broken[page])
            return -EIO;
        if (file->cached[page])
            memcpy((char *)bytes + done, file->bytes + offset + done, step);
        else
            memset((char *)bytes + done, 0, step);
        fake_call("read on");
        if (random_chance(fiber_random(), 50)) /* it had been swapped out */
            fiber_sleep(random_below(fiber_random(), 3000000), "a page to be swapped in");
    }
    return 0;
}

int fake_file_put(void *at, const void *bytes, size_t length) {
    fake_call("send");
    uint64_t page;
    struct fake_file *file = fake_file_at(at, &page);
    if (!file || file->kind != MNW_BACKING_SHMEM)
        sim_fail("bytes are sent to where none may be");
    if (is_exhausted(FAKE_WRITE))
        return -ENOSPC;
    fake_file_fill_hole(file, page);
    memcpy(at, bytes, length);
    check_budget();
    fake_call("send done");
    return 0;
}

/* The machine's settings may change at any time. */
void mnw__backing_look_up(struct mnw__backing *backing) {
    bool takes = backing->kind == MNW_BACKING_SHMEM && !fake_strikes(FAKE_WRITE);
    atomic_store(&backing->takes_pages, takes);
}

void mnw__backing_map_alias(struct mnw__backing *backing, uint64_t offset, size_t length) {
    (void)backing, (void)offset, (void)length;
    fake_call("populate");
}

int mnw__backing_punch(struct mnw__backing *backing, uint64_t offset, size_t length) {
    fake_call("punch");
    struct fake_file *file = fake_file_of(backing->fd);
    uint64_t first, end;
    page_range(backing, offset, length, &first, &end);
    if (fake_strikes(FAKE_PUNCH))
        return mnw__fail(-ENOMEM, "no memory to punch pages %llu to %llu", (unsigned long long)first,
                         (unsigned long long)end);
    for (uint64_t page = first; page < end; page++) {
        if (fake_on_punch)
            fake_on_punch(file->bytes, page);
        fake_file_drop(file, page);
    }
    sim_trace("backing %d: punch [%llu, %llu)", backing->fd, (unsigned long long)first, (unsigned long long)end);
    fake_call("punch done");
    return 0;
}

/* ---- a run's begin and end ----------------------------------------------------------------------------- */

static unsigned files_open(void) {
    unsigned count = 0;
    for (int i = 0; i < FAKE_FILES; i++)
        count += files.files[i].exists;
    return count;
}

void fake_files_begin(void) {
    memset(&files, 0, sizeof(files));
    files.budget = UINT64_MAX;
}

void fake_files_end(void) {
    if (files_open())
        sim_fail("%u backings were never destroyed", files_open());
}
