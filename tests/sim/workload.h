/* SPDX-License-Identifier: MIT */
/*
 * One seed's run: a world drawn from the seed, consumers that check every byte, operators that disturb them.
 */
#ifndef MNW_SIM_WORKLOAD_H
#define MNW_SIM_WORKLOAD_H

#include "sim_store.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    CACHES_MAX = 3,
    VIEWS_MAX = 9,
    CHILDREN_MAX = 6,
    CONSUMERS_USUAL = 6,
    CONSUMERS_MAX = 14,
    PINS_MAX = 8,
    PREFETCHES_MAX = 4096
};

struct sim_cache {
    struct mnw_cache *handle;
    bool closing; /* the handle may be freed at any moment */
    struct sim_store store;
    uint64_t extent_pages;
    uint8_t *refused; /* per page: a touch met SIGBUS that only a lack of memory explains; to be confirmed */
    int *told;        /* per page: the result of the last event of its failure */
    bool *lacked;     /* per page: an event has said that memory lacked for it */
    struct mnw_cache_options options; /* as it was first opened */
    /* mortal worlds */
    struct mnw_kept kept; /* the holder's descriptors; size 0: none yet */
    uint8_t *left;        /* per page: what the last manager left of it, LEFT_* */
    bool left_is_most;    /* what is LEFT_WHOLE may have gone since */
};

enum { LEFT_NOTHING, LEFT_WHOLE, LEFT_FAILED };

struct sim_view {
    struct mnw_view *handle;
    struct sim_cache *cache;
    uintptr_t address;
    uint64_t first, pages;
    bool writable, open, closing;
    bool is_inline;
    unsigned populating; /* operators: nobody closes it meanwhile */
    uint32_t generation; /* moves when it is closed */
    uint8_t *copies;     /* per page: 0, or the byte a consumer has written all over it */
    /* mortal worlds: of a consumer's process */
    unsigned side; /* which of the two */
    int process;
    int uffd, held;   /* the consumer's own; the holder's duplicate, or -1 */
    bool mapped;      /* by the consumer */
    int fiber;        /* that maps or unmaps it; FIBER_NONE */
    bool is_followed; /* the userfaultfd tells of forks */
    /* of a child made by fork */
    int parent;         /* its process */
    bool is_forking;    /* it does not run yet */
    bool has_ended;     /* its process has */
    bool may_be_barred; /* its parent's view was closed as it was born */
};

struct sim_pin {
    bool used;
    struct sim_cache *cache;
    uint64_t first, count;
};

struct sim_prefetch {
    int64_t id;
    bool ended, cancelled;
    struct sim_cache *cache;
};

struct world {
    /* drawn from the seed */
    enum mnw_backing backing;
    uint64_t page_bytes, extent_bytes, budget, budget_min, budget_max;
    unsigned caches, views, consumers, operators;
    unsigned reads_each, operations_each;
    bool may_lack_memory; /* pages may be refused for want of it */
    bool has_trouble;
    bool is_mortal;    /* processes die */
    bool is_forking;   /* and fork */
    bool is_churned;   /* caches are closed and opened all the time */
    bool is_crowded;   /* many consumers of few pages in one view */
    bool has_replicas; /* caches have a copy on each of several nodes */
    bool is_prompt;    /* nothing in this world takes long: a fault that only the watchdog ends is a lost wake-up */
    /* the run */
    struct mnw_pool *pool;
    struct sim_cache cache[CACHES_MAX];
    struct sim_view view[VIEWS_MAX], child[CHILDREN_MAX];
    unsigned children, children_lost; /* made; that a manager's death had left unwatched */
    bool is_taking;                   /* somebody takes events */
    struct sim_pin pin[PINS_MAX];
    struct sim_prefetch prefetch[PREFETCHES_MAX];
    uint64_t prefetch_count, prefetch_ended;
    uint64_t operations_left;
    unsigned operators_running;
    bool budget_moves;
    uint64_t bytes_read, sigbus, sigsegv, writes;
    struct mnw_stats last_stats;
    /* mortal worlds */
    int processes, manager, consumer_process[2]; /* the last number given; who is who now */
    uint64_t deaths, deaths_wanted;              /* of managers */
    bool is_serving;                             /* the manager has taken over */
    unsigned attaching;                          /* its threads that attach a view just now */
    struct mnw_pool_options pool_options;
};

extern struct world world;

/* Every world is one of consumers that fork; other worlds than the same seeds have without. */
extern bool workload_always_forks;
/* The same of caches with a copy on each of several nodes. */
extern bool workload_always_copies;
/* How often the manager has died at each label, of all seeds; shared by their processes. */
enum { LABELS_MAX = 64 };
extern uint64_t *workload_deaths_at;
/* The labels, one by one; NULL: there are no more. */
const char *workload_label(unsigned number);
/* Runs one seed from nothing to nothing; fails through sim_fail(). */
void workload_run(uint64_t seed, bool trace);

/* workload.c */
void open_pool(void);
void open_cache(struct sim_cache *cache);
void close_cache(struct sim_cache *cache);
/* The cache whose alias this is, and whose member it is; NULL: none that is open. */
struct mnw_cache *cache_of_alias(const void *alias, struct sim_cache **of);

/* workload_churn.c */
void live_churned(void);

/* workload_watch.c */
/* A fiber's; `argument` is a bool that says when to end. Not in mortal worlds. */
void keep_watch(void *argument);
/* A page whose word is PRESENT may be lost, as nobody writes to it any more. */
bool may_lose(const void *alias, uint64_t page);

/* workload_death.c */
void live_and_die(void);
/* Names a view while one consumer has it; comes back in its events. */
uint64_t view_cookie(const struct sim_view *view);
bool open_remote_view(struct sim_view *view);
void close_remote_view(struct sim_view *view);

/* workload_fork.c */
/* A consumer forks, if it likes, and comes back. */
void fork_view(struct sim_view *parent);
/* A child is told of; false: it is no child's. */
bool take_child(const struct mnw_event *event);
/* The next manager serves them again. */
void take_over_children(void);
bool have_children_ended(void);
/* In a manager: closes what has ended, or all. */
void close_children(bool all);
void lose_child(int process);
void lose_children_views(void);
int attach_view(struct sim_view *view);

/* workload_consumer.c */
void consume(void *argument);
/* Reads some of a page and checks it. */
void read_some(struct sim_view *view, uint64_t page, unsigned char *bytes);
/* workload_operator.c */
void operate(void *argument);
bool open_view(struct sim_view *view);
void close_view(struct sim_view *view);
void unpin(struct sim_pin *pin);
void take_events(void);
void check_stats(void);

#endif
