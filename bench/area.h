/* SPDX-License-Identifier: MIT */
/*
 * Memory as one would set it up by hand for user-space paging: a file of one kind of pages, mapped twice.
 *
 * Owns descriptors and mappings. One thread opens and closes. None of it calls minnow.
 */
#ifndef MNW_BENCH_AREA_H
#define MNW_BENCH_AREA_H

#include "rig.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum area_kind { AREA_4K, AREA_GRADED, AREA_2M, AREA_1G, AREA_KINDS };
/* "4K", "graded", "2M", "1G". */
extern const char *const area_names[AREA_KINDS];

struct area {
    enum area_kind kind;
    int fd, readonly_fd;
    unsigned char *alias;               /* shared, writable */
    volatile const unsigned char *view; /* private, of the read-only descriptor */
    size_t length;
    size_t page_bytes; /* of one fault in an armed view: 4 KiB for graded */
    size_t huge_bytes; /* of the file's pages */
};

/*
 * `contents` fills it from the first byte (a longer area repeats it); NULL: it is one hole. 0, or a negative errno:
 * -ENOMEM where huge pages are missing, -ENOTSUP where graded memory cannot be had.
 */
int area_open(struct area *area, enum area_kind kind, size_t length, const struct scratch *contents);
/* The same file once more: its pages are `like`'s, and so is what they hold. */
int area_share(struct area *area, const struct area *like);
void area_close(struct area *area);

int area_fill(struct area *area, const struct scratch *contents);
/*
 * From here on the kernel maps one page for one fault of this range, not the neighbours too: write-protect mode, in
 * which reads raise no event, turns its fault-around off. The descriptor keeps it so; a negative errno where there is
 * no such mode (before 5.19; of ordinary files before 6.7).
 */
int fault_around_off(volatile const void *data, size_t length);
/* Forgets what the view has mapped; the pages stay. */
void area_zap(const struct area *area);
/* Gives the pages up. */
bool area_punch(const struct area *area, size_t offset, size_t length);

/* A file of that kind, all hole: tmpfs that makes huge pages where it is graded. A negative errno else. */
int area_file(enum area_kind kind, size_t length);
/* Huge pages for so much, or true at once. The pool is put back when the program ends. */
bool area_provide(enum area_kind kind, size_t length);

/* A userfaultfd with these features, and a range armed with it. Both give a negative errno else. */
int uffd_open(uint64_t features, int flags);
int uffd_arm(int uffd, volatile const void *data, size_t length, uint64_t modes);

#endif
