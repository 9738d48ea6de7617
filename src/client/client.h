/* SPDX-License-Identifier: MIT */
/*
 * The consumer's side: a connection to a daemon, its images, and views that the daemon serves.
 *
 * Owns: one socket, one thread, and everything that hangs on the structs below. The client's thread alone sends,
 * receives and connects; callers leave requests and wait. Guarded by client->lock unless a field says otherwise. The
 * lock is never held by someone who touches a caller's memory, which may lie in a view, and the client's thread never
 * allocates and never touches a view: the faults of a consumer that holds any lock of its own still end.
 *
 * A broken connection is made again, for ever, with growing pauses. Every view is then attached anew, if the image is
 * backed by the same file as before; a view that cannot be is lost: its pages that are not mapped are SIGBUS.
 */
#ifndef MNW_CLIENT_CLIENT_H
#define MNW_CLIENT_CLIENT_H

#include "client/followed.h"
#include "client/keep.h"
#include "minnow/minnow.h"
#include "sys/poller.h"
#include "sys/thread.h"
#include "wire/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mnw__image;

enum mnw__request_state {
    MNW__REQUEST_IDLE = 0,
    MNW__REQUEST_WAITING, /* to be sent, as soon as what it needs is there */
    MNW__REQUEST_SENT,
    MNW__REQUEST_ENDED,
};

/* One question to the daemon. Lies where its owner keeps it: on a caller's stack, or in an image, view or pin. */
struct mnw__request {
    struct mnw__request *next;
    enum mnw__request_state state;
    enum mnw__wire_type type;
    uint32_t number;
    bool is_long;     /* its work may take any time: it only gives up while there is no daemon */
    bool until_event; /* it ends with the EVENT_PREFETCH of its cookie */
    int fd;           /* goes with it; -1: none. The owner's. */
    struct mnw__image *image;
    struct mnw_client_view *view;                                           /* to be served before it is sent */
    void (*ended)(struct mnw_client *client, struct mnw__request *request); /* on the client's thread, locked */
    size_t body_bytes;
    union {
        struct mnw__wire_hello hello;
        struct mnw__wire_list list;
        struct mnw__wire_open open;
        struct mnw__wire_attach attach;
        struct mnw__wire_view view;
        struct mnw__wire_range range;
        struct mnw__wire_cookie cookie;
        struct mnw__wire_stats stats;
        struct mnw__wire_budget budget;
        struct mnw__wire_working_set working_set;
    } body;
    int result; /* 0 or a negative errno, then with a message */
    char message[MNW__WIRE_ERROR_BYTES];
    struct mnw__wire_packet *answer; /* NULL: nobody wants to read it. Must not lie in a view. */
    int answer_fd;                   /* -1: none; then the owner's */
};

/* One name that was opened. Stays while someone uses it. */
struct mnw__image {
    struct mnw__image *next;
    unsigned users;
    char name[MNW__WIRE_NAME_BYTES];
    bool known;      /* in this session: `number` is good */
    uint32_t number; /* in this session */
    uint64_t device, inode;
    uint64_t size_bytes;
    uint32_t page_bytes, extent_bytes;
    enum mnw_backing backing;
    struct mnw__kept file; /* read-only; -1: never opened */
    struct mnw__request open;
};

struct mnw__pin {
    struct mnw__pin *next;
    struct mnw__image *image;
    uint64_t offset, length, cookie;
    struct mnw__request pin;
};

enum mnw__view_state {
    MNW__CLIENT_VIEW_NEW = 0,
    MNW__CLIENT_VIEW_SERVED,
    MNW__CLIENT_VIEW_ADRIFT, /* its session broke: to be attached anew */
    MNW__CLIENT_VIEW_LOST,
    MNW__CLIENT_VIEW_GOING, /* being unmapped */
};

struct mnw_client_view {
    struct mnw_client_view *next;
    struct mnw_client *client;
    struct mnw__image *image;
    enum mnw__view_state state;
    bool watched; /* lost, and its descriptor is in the poller */
    int lost;     /* 0, or the negative errno for which it is not served any more */
    uint32_t id;  /* in every session */
    unsigned flags;
    struct mnw__kept uffd; /* the daemon gets a duplicate */
    bool has_poison;
    struct mnw__followed followed; /* with MNW_CLIENT_FOLLOW_FORK */
    uint64_t features;             /* of the userfaultfd */
    uintptr_t address;             /* these never change */
    size_t length;
    uint64_t offset;
    size_t page_bytes;
    uint64_t device, inode; /* of what is mapped */
    struct mnw__request attach;
    struct mnw__request record; /* to begin again what a new worker does not know of */
};

enum mnw__link {
    MNW__LINK_DOWN = 0,
    MNW__LINK_GREETING, /* connected, not yet answered */
    MNW__LINK_UP,
};

struct mnw_client {
    struct mnw__mutex lock;
    struct mnw__condition changed; /* a request ended, a link came up */
    struct mnw__thread thread;
    struct mnw__poller *poller;
    uint32_t generation; /* of the process that may use it */
    bool stopping;
    enum mnw__link link;
    bool was_up;            /* at least once: before, a refusal is final */
    uint64_t down_since_ns; /* 0: up */
    struct mnw__request *requests, **requests_end;
    struct mnw__image *images;
    struct mnw_client_view *views;
    struct mnw__pin *pins;
    uint32_t last_request, last_view;
    uint64_t last_cookie;
    uint32_t timeout_ms;
    uint32_t lost_after_ms;
    bool user_faults_only;
    bool keeps; /* the daemon's views outlive its worker */
    struct mnw__request hello;
    /* the client's thread's own, once it runs */
    struct mnw__kept socket; /* -1: none */
    bool send_blocked;
    bool heard_nonsense; /* in the last session that broke: the next is no proof of a sane daemon */
    uint64_t connected_at_ns, retry_at_ns, retry_pause_ns, tick_at_ns;
    char path[108];
    struct mnw__wire_packet in, out;
};

/* ---- request.c: asking and waiting ---- */

void mnw__request_init(struct mnw__request *request, enum mnw__wire_type type, size_t body_bytes);
/* Locked. Puts it into the queue and tells the client's thread. */
void mnw__request_queue(struct mnw_client *client, struct mnw__request *request);
/* Locked. Takes it out of the queue, whatever its state. */
void mnw__request_forget(struct mnw_client *client, struct mnw__request *request);
/* Locked, client's thread. Ends it and tells whoever waits. */
void mnw__request_end(struct mnw_client *client, struct mnw__request *request, int result, const char *message);
/* Locked. Waits until it has ended, or its time is over (-ETIMEDOUT). The result, with a message. */
int mnw__request_wait(struct mnw_client *client, struct mnw__request *request, const char *call);
/* Unlocked. Queue and wait. */
int mnw__request_ask(struct mnw_client *client, struct mnw__request *request, const char *call);

/* ---- session.c: the client's thread ---- */

int mnw__session_connect(struct mnw_client *client);
void mnw__session_run(void *client);

/* ---- image.c ---- */

/* Unlocked. Opens it or finds it open; the caller is a user of it until mnw__image_leave(). */
int mnw__image_enter(struct mnw__image **image, struct mnw_client *client, const char *name, const char *call);
void mnw__image_leave(struct mnw_client *client, struct mnw__image *image);
/* Locked, client's thread: asks for it if it is not known in this session and nobody has asked yet. */
void mnw__image_want(struct mnw_client *client, struct mnw__image *image);
/* Is it a file of memory, of which nobody can make a reader wait? */
bool mnw__image_is_memory(int fd);
/* 0 when offset and length are whole pages inside the image. */
int mnw__image_check_range(const struct mnw__image *image, uint64_t offset, uint64_t length, const char *call);

/* ---- view.c, lost.c ---- */

/* Locked, client's thread: asks for the view to be served again. */
void mnw__view_reattach(struct mnw_client *client, struct mnw_client_view *view);
/* Locked, client's thread: has a new worker record what the last one did. */
void mnw__view_record_again(struct mnw_client *client, struct mnw_client_view *view);
/* Locked, client's thread. From now on what is not mapped is SIGBUS. */
void mnw__view_lose(struct mnw_client_view *view, int reason);
/* Locked, client's thread: ends the faults that wait in a lost view. */
void mnw__view_bury(struct mnw_client_view *view);
/*
 * Of a child, whose descriptor this is: every page that is not mapped is SIGBUS. While it changes its mapping, it waits
 * for its events to be read.
 */
void mnw__child_bar(int uffd, uintptr_t address, size_t length, size_t page_bytes);

/* ---- range.c ---- */

/* Once the client's thread has ended. */
void mnw__pins_discard(struct mnw_client *client);

/* ---- what every public function checks ---- */

int mnw__client_check(const struct mnw_client *client, const char *call);

#endif
