/* SPDX-License-Identifier: MIT */
/* Records in a memfd. One thread; owns the mapping. */
#include "daemon/state.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x74617473776e6e6d) /* "mnnwstat" */

struct mnw__state_memory {
    uint64_t magic;
    uint32_t version, bytes;
    uint64_t epoch;
    uint32_t serial, reserved;
    struct mnw__record_session sessions[MNW__STATE_SESSIONS];
    struct mnw__record_image images[MNW__STATE_IMAGES];
    struct mnw__record_view views[MNW__STATE_VIEWS];
    struct mnw__record_pin pins[MNW__STATE_PINS];
    struct mnw__record_ranges ranges[MNW__STATE_VIEWS];
};

static int map(struct mnw__state *state, int fd) {
    struct mnw__state_memory *memory = mmap(NULL, sizeof(*memory), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return mnw__fail(-errno, "mapping the daemon's records: %s", strerror(errno));
    *state = (struct mnw__state){.fd = fd,
                                 .memory = memory,
                                 .sessions = memory->sessions,
                                 .images = memory->images,
                                 .views = memory->views,
                                 .pins = memory->pins,
                                 .ranges = memory->ranges};
    return 0;
}

int mnw__state_create(struct mnw__state *state) {
    int fd = memfd_create("minnow-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return mnw__fail(-errno, "making a memfd for the daemon's records: %s", strerror(errno));
    int error = 0;
    if (fchmod(fd, 0600) || ftruncate(fd, sizeof(struct mnw__state_memory)) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        error = mnw__fail(-errno, "sizing the daemon's records: %s", strerror(errno));
    if (!error)
        error = map(state, fd);
    if (error) {
        close(fd);
        return error;
    }
    state->memory->version = MNW__STATE_VERSION;
    state->memory->bytes = sizeof(*state->memory);
    state->memory->magic = MAGIC;
    return 0;
}

int mnw__state_check(int fd) {
    struct stat status;
    const struct mnw__state_memory *memory = NULL; /* for its size */
    struct {
        uint64_t magic;
        uint32_t version, bytes;
    } found;
    _Static_assert(offsetof(struct mnw__state_memory, bytes) == 12, "every version begins so");
    int seals = fcntl(fd, F_GET_SEALS);
    if (fstat(fd, &status) || seals < 0 || !(seals & F_SEAL_SHRINK) ||
        pread(fd, &found, sizeof(found), 0) != sizeof(found) || found.magic != MAGIC)
        return mnw__fail(-ESTALE, "what was kept as the daemon's records is none");
    if (found.version == MNW__STATE_VERSION && found.bytes == sizeof(*memory) && status.st_size == sizeof(*memory))
        return 0;
    return mnw__fail(-ESTALE,
                     "the daemon's records are of version %u, with %u bytes; this minnow reads version %d, with %zu",
                     found.version, found.bytes, MNW__STATE_VERSION, sizeof(*memory));
}

int mnw__state_adopt(struct mnw__state *state, int fd) {
    int error = mnw__state_check(fd);
    return error ? error : map(state, fd);
}

void mnw__state_close(struct mnw__state *state) {
    if (!state->memory)
        return;
    munmap(state->memory, sizeof(*state->memory));
    close(state->fd);
    state->memory = NULL;
}

uint64_t mnw__state_epoch(const struct mnw__state *state) {
    return state->memory->epoch;
}

void mnw__state_count_restart(struct mnw__state *state) {
    state->memory->epoch++;
}

int mnw__state_take(struct mnw__state *state, void *records, size_t bytes, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        struct mnw__record *record = (struct mnw__record *)((char *)records + i * bytes);
        if (atomic_load_explicit(&record->state, memory_order_relaxed) != MNW__RECORD_FREE)
            continue;
        memset((char *)record + sizeof(*record), 0, bytes - sizeof(*record));
        record->serial = ++state->memory->serial;
        atomic_store_explicit(&record->state, MNW__RECORD_TENTATIVE, memory_order_release);
        return (int)i;
    }
    return mnw__fail(-ENOSPC, "the daemon keeps no more than %u records of this kind", count);
}

void mnw__state_validate(struct mnw__record *record) {
    atomic_store_explicit(&record->state, MNW__RECORD_VALID, memory_order_release);
}

void mnw__state_free(struct mnw__record *record) {
    atomic_store_explicit(&record->state, MNW__RECORD_FREE, memory_order_release);
}

void mnw__state_fdname(char text[MNW__STATE_FDNAME_BYTES], const char *kind, unsigned index, uint32_t serial) {
    snprintf(text, MNW__STATE_FDNAME_BYTES, "%s.%u.%u", kind, index, serial);
}

bool mnw__state_parse_fdname(const char *text, const char *kind, unsigned *index, uint32_t *serial) {
    size_t length = strlen(kind);
    int used = -1;
    return !strncmp(text, kind, length) && sscanf(text + length, ".%u.%u%n", index, serial, &used) == 2 && used > 0 &&
           !text[length + (size_t)used];
}

void mnw__state_set_ranges(struct mnw__state *state, unsigned view, const struct mnw_view_range *ranges,
                           unsigned count) {
    struct mnw__record_ranges *record = &state->ranges[view];
    uint32_t next = !(atomic_load_explicit(&record->current, memory_order_relaxed) & 1);
    record->counts[next] = count < MNW__STATE_RANGES ? count : MNW__STATE_RANGES;
    if (count)
        memcpy(record->ranges[next], ranges, record->counts[next] * sizeof(*ranges));
    atomic_store_explicit(&record->current, next, memory_order_release);
}

unsigned mnw__state_get_ranges(const struct mnw__state *state, unsigned view, const struct mnw_view_range **ranges) {
    const struct mnw__record_ranges *record = &state->ranges[view];
    uint32_t now = atomic_load_explicit(&record->current, memory_order_acquire) & 1, count = record->counts[now];
    *ranges = record->ranges[now];
    return count < MNW__STATE_RANGES ? count : MNW__STATE_RANGES;
}
