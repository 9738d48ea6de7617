/* SPDX-License-Identifier: MIT */
/*
 * Memory of the fake kernel that outlives its process: src/sys/shared.h; and which parts of files have memory:
 * src/sys/data.h. A part of shared memory counts as data when a byte of it is not zero, or when the seed says so.
 */
#include "base/bits.h"
#include "base/error.h"
#include "fake_kernel.h"
#include "sys/data.h"
#include "sys/shared.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCK ((uint64_t)4096)

/* ---- shared memory ------------------------------------------------------------------------------------- */

static struct fake_memory *memory_of(int fd) {
    struct fake_fd *entry = fake_fd_get(fd, FD_MEMORY);
    if (!entry)
        sim_fail("descriptor %d is no shared memory", fd);
    return entry->memory;
}

static int own(struct mnw__shared *shared, struct fake_memory *memory) {
    memory->owner = fiber_process() + 1;
    shared->fd = fake_fd_new(FD_MEMORY);
    shared->lock = fake_fd_new(FD_MEMORY);
    fake_fd_get(shared->fd, FD_MEMORY)->memory = fake_fd_get(shared->lock, FD_MEMORY)->memory = memory;
    fake_fd_get(shared->lock, FD_MEMORY)->locks = true;
    shared->memory = memory->bytes;
    fake_call("words are ours");
    return 0;
}

int mnw__shared_create(struct mnw__shared *shared, uint64_t length) {
    fake_call("memfd_create");
    *shared = (struct mnw__shared){.length = mnw__align_up(length, BLOCK), .fd = -1, .lock = -1};
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-EMFILE, "no descriptor left for shared memory");
    struct fake_memory *memory = calloc(1, sizeof(*memory));
    void *bytes =
        mmap(NULL, shared->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!memory || bytes == MAP_FAILED)
        sim_fail("no memory for %llu bytes of fake shared memory", (unsigned long long)shared->length);
    *memory = (struct fake_memory){.bytes = bytes, .length = shared->length};
    return own(shared, memory);
}

int mnw__shared_adopt(struct mnw__shared *shared, int fd, uint64_t length) {
    fake_call("adopt words");
    *shared = (struct mnw__shared){.length = mnw__align_up(length, BLOCK), .fd = -1, .lock = -1};
    struct fake_memory *memory = memory_of(fd);
    if (memory->length != shared->length)
        return mnw__fail(-ESTALE, "descriptor %d is no such memory", fd);
    if (memory->owner)
        return mnw__fail(-EBUSY, "the process that has these words is still there");
    if (fake_strikes(FAKE_OPEN))
        return mnw__fail(-EMFILE, "no descriptor left for shared memory");
    return own(shared, memory);
}

void mnw__shared_destroy(struct mnw__shared *shared) {
    fake_call("words let go");
    fake_fd_close(shared->lock);
    fake_fd_close(shared->fd);
    *shared = (struct mnw__shared){.fd = -1, .lock = -1};
}

void fake_memory_free(struct fake_memory *memory) {
    munmap(memory->bytes, memory->length);
    fake_free(memory);
}

static bool is_data(const struct fake_memory *memory, uint64_t block) {
    const char *bytes = memory->bytes + block * BLOCK;
    for (uint64_t i = 0; i < BLOCK; i++)
        if (bytes[i])
            return true;
    return random_chance(fiber_random(), 300);
}

int mnw__shared_next_data(const struct mnw__shared *shared, uint64_t from, uint64_t *start, uint64_t *end) {
    fake_call("SEEK_DATA");
    const struct fake_memory *memory = memory_of(shared->lock);
    uint64_t block = from / BLOCK, blocks = memory->length / BLOCK;
    while (block < blocks && !is_data(memory, block))
        block++;
    if (block >= blocks)
        return 0;
    *start = mnw__max(from, block * BLOCK);
    while (block < blocks && is_data(memory, block))
        block++;
    *end = mnw__max(block * BLOCK, *start + 1);
    return 1;
}

/* ---- memory of backings -------------------------------------------------------------------------------- */

int mnw__probe_open(struct mnw__probe *probe, struct mnw__backing *backing) {
    fake_call("probe");
    *probe = (struct mnw__probe){.backing = backing, .uffd = -1};
    return mnw__probe_is_slow(probe) && fake_strikes(FAKE_OPEN) ? mnw__fail(-EMFILE, "no descriptor for a probe") : 0;
}

void mnw__probe_close(struct mnw__probe *probe) {
    (void)probe;
    fake_call("probe closed");
}

bool mnw__probe_is_slow(const struct mnw__probe *probe) {
    return fake_is_hugetlb(fake_file_of(probe->backing->fd));
}

int mnw__probe_next(struct mnw__probe *probe, uint64_t from, uint64_t limit, uint64_t *start, uint64_t *end) {
    fake_call("probe");
    const struct fake_file *file = fake_file_of(probe->backing->fd);
    limit = mnw__min(limit, file->page_count * file->page_bytes);
    uint64_t page = from / file->page_bytes, pages = (limit + file->page_bytes - 1) / file->page_bytes;
    while (page < pages && !file->cached[page])
        page++;
    if (page >= pages)
        return 0;
    *start = mnw__max(from, page * file->page_bytes);
    while (page < pages && file->cached[page])
        page++;
    *end = mnw__min(page * file->page_bytes, limit);
    return 1;
}

int mnw__backing_resident(const struct mnw__backing *backing, uint64_t *bytes) {
    fake_call("fstat");
    const struct fake_file *file = fake_file_of(backing->fd);
    *bytes = 0;
    for (uint64_t page = 0; page < file->page_count; page++)
        *bytes += file->cached[page] * file->page_bytes;
    return 0;
}
