/* SPDX-License-Identifier: MIT */
/* What the scenarios on src/sys share: a backing, views of it, a descriptor, and events by page. */
#ifndef MNW_SIM_LOW_H
#define MNW_SIM_LOW_H

#include "scenario.h"
#include "sys/backing.h"
#include "sys/uffd.h"

enum { LOW_PAGES = 8, LOW_MISSING_MINOR = MNW__UFFD_MODE_MISSING | MNW__UFFD_MODE_MINOR };

struct low {
    struct mnw__backing backing;
    size_t page; /* bytes */
    size_t pages;
    uintptr_t address;
    int uffd;
};

/* Every feature that pages of files can use and this kernel has, and no events. */
uint64_t low_features(void);
/* A backing of LOW_PAGES pages (graded: one extent), a view of all, and a registered descriptor. */
void low_open(struct low *low, enum mnw_backing kind, uint64_t features, unsigned modes, bool writable);
void low_close(struct low *low);
/* A further view of the backing of `of`, with a descriptor of its own. */
void low_open_view(struct low *low, const struct low *of, unsigned modes, bool writable);
void low_close_view(struct low *low);

/* Memory and bytes for pages [first, first + count): page p is all bytes low_byte(p). Graded: memory for all. */
void low_fill(struct low *low, size_t first, size_t count);
void low_allocate(struct low *low, size_t first, size_t count);
void low_punch(struct low *low, size_t first, size_t count);
unsigned char low_byte(size_t page);
uintptr_t low_at(const struct low *low, size_t page);

/* Waits until `count` threads wait unread on the descriptor. */
void low_wait_pending(struct low *low, uint64_t count);
/* Reads one event, waiting for it, and says it; its address as a page number, or -1 for another kind. */
int low_event(struct low *low);
/* Says the result and progress of a range operation, and fails unless they are as wanted. */
void low_expect(const char *what, int result, int64_t done, int wanted, int64_t wanted_done, size_t page);
/* Maps pages and says how it went. */
void low_continue(struct low *low, size_t first, size_t count, unsigned flags, int wanted, int64_t wanted_done);
/* Reads one page on this thread: it must not block. Says outcome and byte. */
void low_read(struct low *low, size_t page, enum world_outcome wanted, int byte);
/* Reads it on another thread, serving its fault: says the kind of event. */
void low_read_served(struct low *low, size_t page);

#endif
