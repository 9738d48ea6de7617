/* SPDX-License-Identifier: MIT */
/*
 * Which parts of a file have memory. Owns a probe's own mapping and descriptor; one thread at a time uses a probe.
 * Never touches the memory it asks about.
 */
#ifndef MNW_SYS_DATA_H
#define MNW_SYS_DATA_H

#include "sys/backing.h"

#include <stdbool.h>
#include <stdint.h>

/* The first run of data in [from, limit) of a memfd or tmpfs file: 1; 0: none; or a negative errno. */
int mnw__file_next_data(int fd, uint64_t from, uint64_t limit, uint64_t *start, uint64_t *end);

/* The same of a backing of any kind, by whole pages. */
struct mnw__probe {
    struct mnw__backing *backing;
    uintptr_t address; /* of a mapping of its own, for hugetlb, whose files cannot be asked */
    int uffd;
};
int mnw__probe_open(struct mnw__probe *probe, struct mnw__backing *backing);
void mnw__probe_close(struct mnw__probe *probe);
int mnw__probe_next(struct mnw__probe *probe, uint64_t from, uint64_t limit, uint64_t *start, uint64_t *end);
/* Can only single pages be asked about, each by a system call, however empty the file is? */
bool mnw__probe_is_slow(const struct mnw__probe *probe);

/* Bytes of memory the backing has in all. */
int mnw__backing_resident(const struct mnw__backing *backing, uint64_t *bytes);

#endif
