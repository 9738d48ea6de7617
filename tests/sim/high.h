/* SPDX-License-Identifier: MIT */
/*
 * What the scenarios on the public API share: a store that does as it is told, a pool, a cache, a view.
 *
 * Page p of the store is all bytes high_byte(p, version). Reads are answered before `read` returns, unless the
 * page is held; what is held is answered by whoever releases it. No readahead, unless asked for: one read, one page.
 */
#ifndef MNW_SIM_HIGH_H
#define MNW_SIM_HIGH_H

#include "scenario.h"
#include "store/store.h"

#include <stddef.h>

enum { HIGH_PAGES_MAX = 16384, HIGH_READS_MAX = 64, HIGH_DEADLINE_MS = 20000 };

struct high_page {
    bool held;
    int error;       /* what reads of it get */
    int error_times; /* how often; -1: always */
    int flips;       /* how many reads bring a wrong byte */
    bool halves;     /* answers are half of what was asked */
    int reads;       /* asked so far */
};

struct high {
    enum mnw_backing kind;
    size_t page, extent; /* bytes */
    size_t extent_pages, pages;
    uint64_t size_bytes;
    struct mnw_pool *pool;
    struct mnw_cache *cache;
    struct mnw_store *store;
    struct mnw_view *view;
    struct mnw__mutex lock;
    /* under the lock */
    struct high_page *page_of; /* by page */
    unsigned char version;
    struct mnw_read held[HIGH_READS_MAX];
    size_t held_count;
    int reads, reads_inside;   /* of these, that begin inside a page */
    struct mnw__store_ops ops; /* the store's own, if whoever faults may read it himself */
    unsigned sends,
        send_trouble;  /* so many sends; every how many-th ends early, and every second of these in an error */
    uint64_t delay_ns; /* how long such a read takes; one of a page that is held, until it is no more */
};

struct high_options {
    size_t extents;        /* of the store; 0: 3 */
    size_t cut_bytes;      /* the store ends so much before */
    size_t budget_extents; /* 0: as the store and two more */
    uint32_t retries;      /* 0: none */
    uint32_t deadline_ms;  /* 0: HIGH_DEADLINE_MS */
    size_t around_pages;   /* read around a fault at random; 0: none */
    enum mnw_numa numa;
    const char *nodes;          /* NULL: all */
    uint32_t slots;             /* reads in flight; 0: the default */
    uint64_t rebalance_extents; /* a second, to where they are used; 0: none */
    bool replicas;              /* a copy on each node */
    bool readahead, checked;    /* checked: the store has a checksum */
    bool reads_now;             /* whoever faults inline may read the store himself */
    bool sends;                 /* the store sends what is read ahead */
};

void high_open(struct high *high, enum mnw_backing kind, const struct high_options *options);
/* Everything must close at once. */
void high_close(struct high *high);
void high_open_view(struct high *high, struct mnw_view **view, uint64_t first, size_t pages, unsigned flags);

unsigned char high_byte(size_t page, unsigned char version);
uintptr_t high_at(const struct mnw_view *view, const struct high *high, size_t page);

void high_hold(struct high *high, size_t page);
/* Answers what is held of the page, and holds it no more. Returns the result of the last mnw_read_done(). */
int high_release(struct high *high, size_t page);
/* Waits until `count` reads of the page were asked for, so far. */
void high_wait_asked(struct high *high, size_t page, int count);
/* Waits until the cache has counted so many faults. */
void high_wait_faults(struct high *high, uint64_t count);
int high_reads_of(struct high *high, size_t page);

/* Reads a page on a thread of its own; it must come to `wanted`, with this version's byte, at this very page. */
void high_read(struct high *high, const struct mnw_view *view, size_t page, enum world_outcome wanted,
               unsigned char version);
/* All of the view, and whether every byte is right. */
void high_read_all(struct high *high, const struct mnw_view *view, unsigned char version);
/* Joins a reader of one page, and says how it went. */
void high_join(struct high *high, struct reader *reader, size_t page, enum world_outcome wanted, unsigned char version);
/* Waits for the next event, and says it. */
void high_event(struct high *high, enum mnw_event_kind kind, int result, uint64_t cookie);
struct mnw_stats high_stats(struct high *high);
/* Counts are raised a moment after what they count: waits for it. `field`: its place in struct mnw_stats. */
void high_expect_count(struct high *high, size_t field, uint64_t wanted, const char *what);
/* Residency of one page. */
void high_expect_flags(struct high *high, size_t page, unsigned wanted);
uint64_t high_offset(const struct high *high, size_t page);

#endif
