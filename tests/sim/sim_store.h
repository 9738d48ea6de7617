/* SPDX-License-Identifier: MIT */
/*
 * The simulator's store: its bytes are a function of seed, place and version, and it misbehaves on request.
 *
 * Owns: the store, the reads it was asked for, what it did to each page. Reads are answered by fibers of its own,
 * in any order, short, late, twice, with errors, or not until the end. Until it answers, the buffer is its own:
 * it scribbles there. It knows which pages it failed, so that every SIGBUS can be traced to it.
 */
#ifndef MNW_SIM_STORE_H
#define MNW_SIM_STORE_H

#include "fiber.h"
#include "minnow/minnow.h"
#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum store_trouble {
    STORE_SHORT,    /* fewer bytes than asked */
    STORE_ERROR,    /* -EIO, once */
    STORE_END,      /* "the store ends here", although it does not */
    STORE_FLIP,     /* a flipped bit; only when the checksum is on */
    STORE_LATE,     /* answers after the deadline */
    STORE_NEVER,    /* answers when the run ends */
    STORE_TWICE,    /* answers twice */
    STORE_TOKEN,    /* answers a token that was never given */
    STORE_AT_ONCE,  /* answers before read returns */
    STORE_TOO_LONG, /* claims more bytes than were asked */
    STORE_CROWDED,  /* takes no more reads just now */
    STORE_TROUBLES,
};

/* What a page does for ever, until it is mended. */
enum store_page_state { STORE_GOOD, STORE_BAD /* -EIO */, STORE_FLIPPED, STORE_MUTE /* no answer */ };

struct store_page {
    uint32_t version; /* now */
    uint32_t floor;   /* the oldest version a read that begins now may see */
    uint8_t state;
    uint32_t pins;          /* ranges that hold it pinned */
    uint32_t failures;      /* reads of it that went wrong since it was healed */
    uint32_t failures_ever; /* the same, since the beginning */
    uint32_t failures_new;  /* of those, asked for since `marked_ns` */
    uint64_t marked_ns;     /* when the last healing began */
    uint64_t healed_ns;     /* when the last healing ended */
    bool in_doubt;          /* asked for since it was last brought whole */
    bool flipped;           /* what was brought of it since it was asked for from its start has a flipped bit */
    bool late;              /* in doubt for so long that the engine may give up */
    uint64_t doubt_ns;      /* since when */
};

struct store_read {
    struct mnw_read read;
    uint64_t asked_ns, due_ns;
    uint64_t run_first; /* the first page of the run that this read goes on with after short answers */
    bool used, answering;
    bool sent; /* into the backing's file, which may have no memory there yet */
};

enum { STORE_READS_MAX = 4096, STORE_SHORTS = 64, STORE_SENDS = 8 };

/* A short answer: the read that begins where it ended goes on with the same run of pages. */
struct store_short {
    uint64_t end, run_first;
};

struct sim_store {
    struct mnw_store *handle;
    struct mnw__store_ops ops, crowded_ops; /* the handle's own; and those that may refuse a read */
    uint64_t seed, size_bytes, page_bytes, page_count;
    struct store_page *pages;
    bool has_check;
    bool has_copies;        /* its cache has a copy on each node: each reads for itself */
    bool reads_now;         /* who faults may read it himself */
    bool sends;             /* now and then it has bytes in the kernel's page cache */
    bool pages_may_be_lost; /* reads of pinned pages are then no proof of an eviction */
    unsigned chance[STORE_TROUBLES];
    uint64_t delay_ns_max;
    uint64_t deadline_ns;                    /* of the cache: when a read becomes overdue */
    uint32_t retries;                        /* of the cache */
    struct store_short shorts[STORE_SHORTS]; /* the last ones */
    unsigned short_turn;
    uint64_t sends_begun[STORE_SENDS]; /* offsets, plus one, of those that are about to be noted */
    struct store_read *reads;
    unsigned read_count;
    bool stopping; /* no more trouble, everything is answered */
    bool ended;    /* nobody will ask again */
    int fibers[2];
    uint64_t failures_total;
};

/* Once; its bytes, and what it has done to them, outlive every process that opens it. */
void sim_store_prepare(struct sim_store *store);
void sim_store_open(struct sim_store *store, const char *name);
/* The process that had it open has died: its reads go unanswered, but a device may still write into their buffers. */
void sim_store_died(struct sim_store *store);
/* Answers everything that is still open, and from now on all at once. From a fiber. */
void sim_store_stop(struct sim_store *store);
/* When nobody will ask any more for now; closes the handle. From a fiber. */
void sim_store_shut(struct sim_store *store);
/* The same, for ever. */
void sim_store_close(struct sim_store *store);

/* The store's bytes at a version. Past its end: zeros. */
void sim_store_bytes(const struct sim_store *store, uint64_t offset, uint32_t version, void *bytes, size_t length);
/* Is every byte one that a read which began when the page's floor was `floor` may see? Within one page. */
bool sim_store_may_hold(const struct sim_store *store, uint64_t offset, const void *bytes, size_t length,
                        uint32_t floor);

/* May a touch that began at `began_ns` and met SIGBUS on this page be the store's fault? */
bool sim_store_explains(struct sim_store *store, uint64_t page, uint64_t began_ns);
/* The memory of this page has failed, and with it the page. */
void sim_store_blame_memory(struct sim_store *store, uint64_t page);
/* Has it reads that are unanswered past their deadline, in this range of pages? */
bool sim_store_has_overdue(const struct sim_store *store, uint64_t first, uint64_t count);

#endif
