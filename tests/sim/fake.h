/* SPDX-License-Identifier: MIT */
/*
 * The fake kernel: everything src/sys promises, on fibers and virtual time.
 *
 * Owns: files with a page cache, views with page tables, userfaultfds with their waiters, pollers. One run at a
 * time. What a call changes, it changes at once (no switch inside); it may switch at its entry and exit.
 * Views have addresses that nothing may dereference: consumers read through fake_read(). Aliases are real
 * memory, inaccessible where the file has a hole, so that a manager that touches a hole is caught.
 *
 * Modelled: several processes, that fork and die. Not modelled: swap, views that are shared and writable.
 */
#ifndef MNW_SIM_FAKE_H
#define MNW_SIM_FAKE_H

#include "minnow/minnow.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What may go wrong, each with its own chance (in 1024) per seed. */
enum fake_trouble {
    FAKE_FILL_AGAIN,   /* CONTINUE, POISON: -EAGAIN with a negative result field */
    FAKE_FILL_PARTIAL, /* CONTINUE, POISON: stops in the middle of its range for no reason to be seen */
    FAKE_FILL_NOMEM,   /* CONTINUE: -ENOMEM */
    FAKE_SIGNAL,       /* a waiting thread gets a signal: it faults again, and its event comes again */
    FAKE_EVENT_LOST,   /* an event is read by nobody: its thread waits unread for ever */
    FAKE_BATCH_SHORT,  /* read gives fewer events than there are */
    FAKE_EXHAUSTED,    /* allocate: no memory for a while */
    FAKE_PAGE_LOST,    /* a page leaves the page cache behind the manager's back */
    FAKE_SLOW,         /* a system call takes milliseconds */
    FAKE_SPURIOUS,     /* a condition's wait or a poller's wait returns for no reason */
    FAKE_COLLAPSE,     /* MADV_COLLAPSE is refused */
    FAKE_OPEN,         /* a call that makes something fails: map, create, register, open, start a thread */
    FAKE_BREAK,        /* CONTINUE: the page's memory has failed, and is mapped nowhere any more; -EIO */
    FAKE_PUNCH,        /* punch: no memory to split a folio; nothing is punched */
    FAKE_MOVE,         /* a page does not move to another node */
    FAKE_WRITE,        /* a page's write fails, with nothing done or with a part of it; or is not to be tried */
    FAKE_TROUBLES,
};

struct fake_config {
    unsigned nodes;        /* NUMA nodes */
    bool may_move_all;     /* pages move that are mapped more than once */
    bool has_poison;       /* the kernel has UFFDIO_POISON */
    bool reuses_addresses; /* a view may get the address of one that was unmapped */
    bool kernel_sizes;     /* huge pages of real sizes; otherwise scaled down, for speed */
    uint64_t hugepages;    /* huge pages of the machine, each size */
    uint64_t exhausted_ns; /* how long the lack of memory lasts */
    uint64_t move_ns;      /* how long a call takes that moves pages to another node, however few */
    uint64_t fault_ns_max; /* law 2: no fault may last longer */
    unsigned chance[FAKE_TROUBLES];
};

extern struct fake_config fake_config;

/* Before a run: nothing exists. Sets the config to a calm kernel. */
void fake_begin(void);
/* After a run: fails it if anything still exists. */
void fake_end(void);
/* Stops all trouble from now on. */
void fake_calm(void);

/* Resident pages of all files must never exceed this (UINT64_MAX: no check). */
void fake_set_budget(uint64_t bytes);
uint64_t fake_resident(void);
uint64_t fake_resident_max(void);
/* Takes one page, chosen by the seed, out of a file behind the manager's back: only pages that some view maps. */
void fake_lose_page(void);

enum fake_outcome { FAKE_OK, FAKE_SIGBUS, FAKE_SIGSEGV };
/*
 * What a consumer's loads and stores do. They fault, wait, and fault again, on the calling fiber. When the
 * outcome is not FAKE_OK, `*stopped` is the address that did it. Each page's bytes move at once.
 */
enum fake_outcome fake_read(uintptr_t address, void *bytes, size_t length, uintptr_t *stopped);
enum fake_outcome fake_write(uintptr_t address, const void *bytes, size_t length, uintptr_t *stopped);

/* Asked before a page of a file (named by its alias) is mapped into a view, and before one is punched. NULL: nobody. */
extern void (*fake_on_map)(const void *alias, uint64_t page);
/* The same before a barred page is mapped again: the view is not registered there for a moment. */
extern void (*fake_on_unbar)(const void *alias, uint64_t page);
extern void (*fake_on_punch)(const void *alias, uint64_t page);
/* May the memory of this page fail? Then it does. NULL: yes. */
extern bool (*fake_may_break)(const void *alias, uint64_t page);

/*
 * Processes (see fiber.h): descriptors, mappings, threads and memory are of the process that made them. When one dies,
 * call this from fiber_on_death(): its descriptors are closed, its mappings go, its waiting threads are forgotten.
 */
void fake_process_died(int process);
/* What a consumer does to its mapping: whole pages of one view. Blocks until whoever watches it has read of it. */
void fake_munmap(uintptr_t address, size_t length);
/*
 * fork() of a process that has this view alone, of which nothing was written; blocks until that was read. False: it is
 * not mapped any more. The child's fibers are the caller's to start.
 */
bool fake_fork(uintptr_t address, int child);
/* Whose memory a userfaultfd watches. */
int fake_uffd_process(int fd);
void fake_mremap(uintptr_t from, size_t length, uintptr_t to);
/* From now on a process may use these nodes alone (a cpuset), or those of them that there are. */
void fake_allow_nodes(uint64_t nodes);
/* Pages that were asked for where they lie. */
uint64_t fake_asked_where(void);
/* mbind(MPOL_BIND) of whole pages of a view. */
void fake_mbind(uintptr_t address, size_t length, int node);
/* mprotect(PROT_NONE) of a whole view: touching it is SIGSEGV. */
void fake_view_veil(uintptr_t address);
/* Moves whenever the page of an alias's address leaves its file; what a device still writes then goes nowhere. */
uint64_t fake_incarnation(const void *address);
/* The memory at an alias's address fails. */
void fake_break(const void *address);
bool fake_is_broken(const void *address);
/* Has the page of an alias's address memory? */
bool fake_is_cached(const void *address);
/*
 * What a send does to one page: bytes, which lie within it, come into the backing, whose alias `at` is in. 0 or
 * -ENOSPC.
 */
int fake_file_put(void *at, const void *bytes, size_t length);
/* Another descriptor of the same thing, for a process. */
int fake_fd_duplicate(int fd, int process);
/* Closes any descriptor; with its last one a file, a memory or a userfaultfd goes. */
void fake_fd_close(int fd);

/* May this page be lost though no view maps it? NULL: no. */
extern bool (*fake_may_lose)(const void *alias, uint64_t page);
/* Every thread that waits for a fault to be resolved whose event was read, and not lost on the way. */
void fake_each_waiter(void (*each)(uintptr_t address, uint64_t order));

/* Entry and exit of a fake system call: may switch, may be slow. */
/* Mutexes that the caller holds. */
unsigned fake_locks_held(void);
bool fake_is_freeing(void);
void fake_call(const char *name);
/* Does this trouble strike now? */
bool fake_strikes(enum fake_trouble trouble);

#endif
