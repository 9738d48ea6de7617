/* SPDX-License-Identifier: MIT */
/*
 * libminnow-preload.so: makes the mappings of an unmodified program views of a daemon's images.
 *
 * Owns: what `minnow run` asked for (config.c), one client of the process, made when the first image is mapped, and the
 * table of its views (table.c). Any thread of the program may enter at any time, before constructors have run too. What
 * concerns no image goes to the C library untouched. The table's lock is never held over a call that may wait for the
 * daemon or touch memory of the program.
 */
#ifndef MINNOW_PRELOAD_H
#define MINNOW_PRELOAD_H

#include <minnow/minnow.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PRELOAD_VARIABLE    "MINNOW_RUN" /* set by `minnow run`: lines of a word and its value */
#define PRELOAD_CONFIG_MAX  16384
#define PRELOAD_SOURCES_MAX 64
#define PRELOAD_MEMFDS_MAX  256

/* ---- config.c: what was asked for ---- */

/* An image, by one path or by the name of a memfd. */
struct source {
    const char *image;
    const char *path;  /* NULL: a memfd */
    const char *memfd; /* NULL: a path */
    dev_t device;      /* of the path, as the process began */
    ino_t inode;
    bool found;
    /* table lock: pages that the program punched out of the file, a bit each; NULL: none */
    uint64_t *punched;
    uint64_t page_bytes, size_bytes, page_count; /* table lock; 0: not asked yet */
    bool is_huge;
};

struct config {
    const char *socket;
    unsigned flags; /* MNW_CLIENT_* */
    bool verbose;
    bool user_faults_only;
    struct source sources[PRELOAD_SOURCES_MAX];
    unsigned source_count;
};

/* Reads the environment once. */
const struct config *config_get(void);
/* Which image a descriptor stands for; NULL: none. Keeps errno. */
struct source *config_source_of(int fd);
/* From now on this memfd stands for the image. */
void config_note_memfd(int fd, struct source *source);
/* The image whose memfd has this name; NULL: none. */
struct source *config_memfd(const char *name);

/* "minnow: <text>" on the standard error, without stdio. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same with --verbose only. */
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- next.c: what was interposed ---- */

void *next_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int next_munmap(void *address, size_t length);
void *next_mremap(void *old, size_t old_length, size_t length, int flags, void *address);
int next_madvise(void *address, size_t length, int advice);
int next_fallocate(int fd, int mode, off_t offset, off_t length);
int next_ftruncate(int fd, off_t length);
int next_memfd_create(const char *name, unsigned flags);

/* ---- client.c: the process's connection ---- */

/* True: this thread is inside of minnow, whose own system calls are not interposed. */
bool is_inside(void);
/* 0, or an errno, after a complaint. Learns the image's page and size. */
int client_learn(struct source *source);
int client_map(struct mnw_client_view **view, const struct source *source, uint64_t offset, uint64_t length,
               uintptr_t address, unsigned flags);
int client_unmap(struct mnw_client_view *view);
int client_zero(struct mnw_client_view *view, uint64_t offset, uint64_t length);
int client_save(struct mnw_client_view *view);
/* In a child: the client was the parent's. */
void client_forget(void);

/* ---- table.c: which addresses are views ---- */

struct entry {
    struct entry *next;
    struct mnw_client_view *view;
    struct source *source;
    uintptr_t address;
    size_t length;
    uint64_t offset;                  /* in the image */
    bool is_shared;                   /* the program asked for MAP_SHARED: its writes must not be dropped by advice */
    size_t left;                      /* bytes that the program has not unmapped */
    uint64_t *gone;                   /* a bit for each base page that it has */
    unsigned users;                   /* threads at work on it, outside the lock */
    uintptr_t unforked, unforked_end; /* table lock: what children shall not have, though forks are followed */
};

/* Is there any view at all? One load. */
bool table_is_empty(void);
int table_add(struct entry *entry);
/* The entry with the lowest address that overlaps [address, end), with the caller as a user; NULL: none. */
struct entry *table_enter(uintptr_t address, uintptr_t end);
/* The nth entry of a source, likewise. */
struct entry *table_enter_source(const struct source *source, unsigned index);
void table_leave(struct entry *entry);
/* Ends the caller's use, waits for the other users, and takes it out. It is the caller's to free. */
void table_remove(struct entry *entry);
void entry_free(struct entry *entry);
/* Notes that base pages of the view were unmapped. True, once: none is left. */
bool table_mark_gone(struct entry *entry, uintptr_t address, uintptr_t end);
/* Notes what was punched out of a source's file, page by page. False: no memory to note it. */
bool table_punch(struct source *source, uint64_t offset, uint64_t length);
/* MADV_DONTFORK, MADV_DOFORK: what is said of a part of what was kept from children before, is true of all of it. */
void table_set_forked(struct entry *entry, uintptr_t address, uintptr_t end, bool forked);
/* The first run of punched (or unpunched) pages at or after *offset, before `end`. False: none. */
bool table_punched_run(const struct source *source, bool punched, uint64_t *offset, uint64_t end, uint64_t *run_end);

/* ---- views.c: what becomes of the calls ---- */

void *view_mmap(struct source *source, void *address, size_t length, int protection, int flags, int fd, off_t offset);
/* Makes room at a place that the program says it replaces. 0, or -1 with errno. */
int view_make_room(uintptr_t address, size_t length);
int view_munmap(uintptr_t address, size_t length);
void *view_mremap(void *old, size_t old_length, size_t length, int flags, void *address);
int view_madvise(uintptr_t address, size_t length, int advice);
int view_fallocate(struct source *source, int fd, int mode, off_t offset, off_t length);

#endif
