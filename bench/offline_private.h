/* SPDX-License-Identifier: MIT */
/* Shared between offline.c (which pages are there) and the policies (who goes), and nobody else. */
#ifndef MNW_BENCH_OFFLINE_PRIVATE_H
#define MNW_BENCH_OFFLINE_PRIVATE_H

#include "offline.h"

#define OFFLINE_NOBODY UINT32_MAX

enum offline_queue_name { OFFLINE_MAIN, OFFLINE_SMALL, OFFLINE_QUEUES };

/* A unit of pages. In a queue it knows who came before and after. */
struct offline_unit {
    uint32_t older, newer, pages; /* resident of it */
    uint32_t ghost;               /* S3-FIFO: the number of its last eviction from small; 0: none */
    uint8_t queue, hits;
    bool in; /* the policy has it */
};

struct offline_queue {
    uint32_t oldest, newest;
    uint64_t pages;
};

struct offline {
    const struct offline_ops *ops;
    uint32_t pages, room, unit, unit_count, resident; /* pages; and units */
    struct offline_unit *units;
    uint8_t *present;

    struct offline_queue queues[OFFLINE_QUEUES];
    uint32_t evicted; /* S3-FIFO: from small, in all */
    uint32_t hand;    /* SIEVE: who is looked at next */
    void *own;        /* of a policy with more to remember */
};

struct offline_ops {
    const char *name;
    bool (*open)(struct offline *offline); /* optional: makes `own`; false: no memory */
    void (*close)(struct offline *offline);
    bool (*foresee)(struct offline *offline, const uint32_t *pages, uint32_t count); /* optional */
    void (*read)(struct offline *offline);                                           /* optional: before each read */
    void (*insert)(struct offline *offline, uint32_t unit);
    /* A page of a unit that is in was read, one that is there or another. */
    void (*use)(struct offline *offline, uint32_t unit);
    /* Chooses one and takes it out. There is one. */
    uint32_t (*evict)(struct offline *offline);
};

/* In at the newest end; out. The pages that are there count with it. */
void offline_push(struct offline *offline, enum offline_queue_name queue, uint32_t unit);
void offline_unlink(struct offline *offline, uint32_t unit);

#endif
