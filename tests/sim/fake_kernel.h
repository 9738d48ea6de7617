/* SPDX-License-Identifier: MIT */
/*
 * The fake kernel's own structures, shared by fake_*.c alone. See fake.h for the rules.
 */
#ifndef MNW_SIM_FAKE_KERNEL_H
#define MNW_SIM_FAKE_KERNEL_H

#include "fake.h"
#include "fiber.h"
#include "sys/uffd.h"

enum { FAKE_FILES = 16, FAKE_VIEWS = 48, FAKE_FDS = 192, FAKE_FD_BASE = 100, FAKE_WAITERS = 64, FAKE_EVENTS = 16 };

/* ---- files --------------------------------------------------------------------------------------------- */

/* Where memory comes from; not set: the node of the allocating thread's CPU. */
struct fake_policy {
    bool is_set;
    enum mnw_numa policy;
    uint64_t nodes;
};

struct fake_file {
    bool exists;
    enum mnw_backing kind;
    size_t page_bytes, extent_bytes;
    uint64_t page_count;
    bool *cached;                 /* in the page cache; false: a hole */
    bool *broken;                 /* its memory has failed: it is mapped nowhere any more */
    uint64_t *incarnation;        /* per page: how often it has left */
    int8_t *nodes;                /* per page: where it lies */
    struct fake_policy *policies; /* per page: the file's own */
    char *bytes;                  /* the alias */
    uint64_t inode;
};

bool fake_is_hugetlb(const struct fake_file *file);
void fake_file_fill_hole(struct fake_file *file, uint64_t page);
void fake_file_drop(struct fake_file *file, uint64_t page);
void *fake_file_page(struct fake_file *file, uint64_t page);
/* The file whose alias the address is in, and its page; NULL: none. */
struct fake_file *fake_file_at(const void *address, uint64_t *page);
/* The node that a page allocated by this thread comes from. */
int fake_numa_choose(const struct fake_file *file, uint64_t page);
void fake_numa_begin(void);
/* The file behind a backing's descriptor. */
struct fake_file *fake_file_of(int fd);

/* ---- views --------------------------------------------------------------------------------------------- */

enum fake_pte {
    PTE_NONE,
    PTE_MAPPED, /* the file's page */
    PTE_COPY,   /* a private page of this view */
    PTE_POISON,
};

struct fake_entry {
    enum fake_pte pte : 8;
    bool huge : 1;   /* part of one huge mapping */
    bool wp : 1;     /* write-protected, or (on an empty entry) a marker of it */
    bool barred : 1; /* another mapping has taken this page's place */
    uint8_t modes;   /* registered */
    int16_t uffd;    /* to which userfaultfd, by its id; -1: none */
    char *copy;
};

struct fake_view {
    bool exists;
    int process;
    bool is_childs; /* made by fake_fork() */
    bool writable;
    bool veiled; /* nobody may touch it */
    struct fake_file *file;
    uint64_t first; /* page of the file */
    size_t page_bytes, pages, length;
    uintptr_t address;
    struct fake_entry *entries;
};

/* An unused one, for the caller to fill in. */
struct fake_view *fake_view_new(void);
/* The view that maps the address, or NULL: of this process, else of any that is not somebody's child. */
struct fake_view *fake_view_at(uintptr_t address);
/* The same, of one process. */
struct fake_view *fake_view_of(int process, uintptr_t address);
/* The entry of an address in a view. */
struct fake_entry *fake_entry_at(struct fake_view *view, uintptr_t address);
/* Empties an entry; a huge mapping goes as a whole. Markers stay unless `markers`. */
void fake_entry_clear(struct fake_view *view, size_t index, bool markers);
/* A page has left the file. */
void fake_views_drop(struct fake_file *file, uint64_t page);
bool fake_views_map(struct fake_file *file, uint64_t page);
/* Has a view a private copy of it? */
bool fake_views_copy(struct fake_file *file, uint64_t page);
void fake_views_unregister(int id);

/* ---- descriptors --------------------------------------------------------------------------------------- */

enum fake_fd_type { FD_FREE, FD_FILE, FD_UFFD, FD_EVENT, FD_MEMORY };

struct fake_waiter {
    int fiber;
    uintptr_t address; /* rounded down to its page */
    unsigned flags;
    bool used, read, lost;
    uint64_t order;
};

struct fake_uffd {
    int id, references; /* descriptors that are this userfaultfd */
    int process;        /* whose memory it watches */
    bool orphaned;      /* that memory is gone */
    int changing;       /* mappings it watches are being changed */
    bool initialised;
    uint64_t features;
    struct fake_waiter waiters[FAKE_WAITERS];
    struct mnw__uffd_event events[FAKE_EVENTS]; /* not faults; of a fork, until it is read, `fd` is the child's id */
    int event_count;
    uint64_t serial, posted, taken; /* of this userfaultfd; how many events */
};

/* Memory that outlives its process. */
struct fake_memory {
    char *bytes;
    uint64_t length;
    int owner; /* process + 1; 0: nobody */
};

struct fake_fd {
    enum fake_fd_type type;
    int process; /* whose it is */
    bool locks;  /* the memory is its process's while this is open */
    struct fake_memory *memory;
    struct fake_file *file;
    struct fake_uffd *uffd;
    uint64_t count; /* of an eventfd */
};

int fake_fd_new(enum fake_fd_type type);
struct fake_fd *fake_fd_get(int fd, enum fake_fd_type type); /* NULL: not one */
void fake_fd_free(int fd);
void fake_memory_free(struct fake_memory *memory);
/* free(), of what the kernel has for itself: no allocator of the process is entered. */
void fake_free(void *memory);
/* No descriptor of it is left. */
void fake_file_free(struct fake_file *file);
/* Something may have become readable. */
void fake_fd_changed(int fd);
bool fake_fd_is_readable(int fd);
unsigned fake_pollers_open(void);

/* ---- userfaultfd --------------------------------------------------------------------------------------- */

/* One without a descriptor, with one reference. */
struct fake_uffd *fake_uffd_new(int process);

/* The last reference: closed. */
void fake_uffd_release(struct fake_uffd *uffd);
/* NULL for -1. */
struct fake_uffd *fake_uffd_of_id(int id);
/* Blocks the calling fiber in a fault until it is woken, or signalled. */
void fake_uffd_wait(struct fake_uffd *uffd, uintptr_t address, unsigned flags, uint64_t began);
void fake_uffd_wake_range(struct fake_uffd *uffd, uintptr_t start, size_t length);
/* An event other than a fault; blocks until it is read. */
void fake_uffd_post(struct fake_uffd *uffd, const struct mnw__uffd_event *event);
bool fake_uffd_is_readable(const struct fake_uffd *uffd);

/* ---- processes ----------------------------------------------------------------------------------------- */

/* What a death takes with it, part by part. */
void fake_uffds_died(int process);
void fake_fds_died(int process);
void fake_views_died(int process);
void fake_threads_died(int process);

/* ---- begin and end of a run, one pair per file ----------------------------------------------------------- */

void fake_files_begin(void);
void fake_files_end(void);
void fake_views_begin(void);
void fake_views_end(void);
void fake_fds_begin(void);
void fake_fds_end(void);
void fake_threads_begin(void);
void fake_threads_end(void);
void fake_sigbus_end(void);

#endif
