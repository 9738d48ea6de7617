/* SPDX-License-Identifier: MIT */
/*
 * The worker: what it serves and to whom.
 *
 * Everything here belongs to one thread, the loop: it alone reads sockets, changes these structs and answers. What may
 * block (opening, attaching, pinning, ...) is done by lanes in a struct mnw__work, which carries what it needs and is
 * applied by the loop when it comes back; until then what it names is counted as busy and stays. Faults are served by
 * the library's own threads, which know nothing of all this.
 */
#ifndef MNW_DAEMON_DAEMON_H
#define MNW_DAEMON_DAEMON_H

#include "daemon/config.h"
#include "daemon/holding.h"
#include "daemon/lane.h"
#include "daemon/state.h"
#include "sys/packet.h"
#include "wire/wire.h"

#include <minnow/minnow.h>

#include <stdbool.h>
#include <stdint.h>

struct mnw__daemon;
struct mnw__stray;

/* What epoll reports: embedded in whatever has a descriptor. */
struct mnw__source {
    void (*ready)(struct mnw__daemon *daemon, struct mnw__source *source, uint32_t events);
};

struct mnw__daemon_pool {
    struct mnw__source source; /* its events */
    const struct mnw__config_pool *config;
    struct mnw_pool *pool;
    uint64_t passed; /* in daemon->ticks: what happened until then has been taken */
};

enum mnw__image_state { MNW__IMAGE_CLOSED = 0, MNW__IMAGE_OPENING, MNW__IMAGE_OPEN };

struct mnw__daemon_image {
    const struct mnw__config_image *config;
    struct mnw__daemon_pool *pool;
    enum mnw__image_state state;
    struct mnw__work *waiting; /* OPENs to be answered when it is open */
    int record;                /* index; -1: none. The image's number on the wire, less one */
    struct mnw_store *store;
    struct mnw_cache *cache;
    uint64_t size_bytes;
    uint32_t page_bytes, extent_bytes;
    uint64_t device, inode;
    unsigned views;
    uint64_t failures, told_ns; /* pages not read since the log said so; when it did */
};

enum mnw__view_phase { MNW__VIEW_ATTACHING, MNW__VIEW_ATTACHED, MNW__VIEW_SAVING, MNW__VIEW_DETACHING };

struct mnw__daemon_view {
    struct mnw__daemon_view *next; /* of the session; of daemon->orphans */
    struct mnw__session *session;  /* NULL: of a child that its parent's session has outlived */
    struct mnw__daemon_image *image;
    struct mnw_view *view; /* while ATTACHED or DETACHING */
    enum mnw__view_phase phase;
    bool is_child;   /* made by fork(2) of the consumer: it stays until its process is gone */
    bool is_claimed; /* a child that has asked for its descriptor */
    bool is_recording;
    bool is_ending;   /* to be closed when it is saved */
    unsigned changes; /* MNW_VIEW_CHANGED_*, that came while a lane had it */
    unsigned refused; /* children that could not be served */
    int record;       /* index; -1: none */
    uint64_t cookie;  /* in the library's events; of mnw__views_cookie() */
    uint64_t seen;    /* in daemon->ticks: its last event; 0: none */
    uint64_t closing; /* in daemon->ticks: since when it is DETACHING */
    uint32_t id, flags;
    uint64_t address, length, offset;
    struct mnw_limit *limit; /* of an orphan, while views are taken over; NULL: none */
    bool has_made_limit;     /* it is the one that closes it */
};

struct mnw__daemon_pin {
    struct mnw__daemon_pin *next;
    struct mnw__daemon_image *image;
    int record;
    bool busy; /* being pinned */
    uint64_t offset, length, cookie;
};

struct mnw__daemon_prefetch {
    struct mnw__daemon_prefetch *next; /* of the daemon */
    struct mnw__session *session;      /* NULL: gone */
    struct mnw__daemon_image *image;
    int64_t id;
    uint64_t key;               /* in the library's events */
    uint64_t cookie;            /* the peer's */
    bool is_starting, is_ended; /* a lane starts it; it has ended meanwhile, like this: */
    int result;
    uint64_t pages_failed;
};

/* A packet that the peer has not made room for. */
struct mnw__unsent {
    struct mnw__unsent *next;
    size_t bytes;
    int fd; /* -1: none */
    struct mnw__wire_packet packet;
};

enum { MNW__GROUPS_MAX = 64, MNW__UNSENT_MAX = 128 };

struct mnw__session {
    struct mnw__source source;
    struct mnw__session *next; /* of the daemon; of daemon->dead */
    struct mnw__daemon *daemon;
    int fd; /* -1: over; kept until nothing is busy for it */
    int record;
    uint32_t events; /* that epoll waits for */
    struct mnw__socket_peer peer;
    gid_t groups[MNW__GROUPS_MAX];
    unsigned group_count;
    bool is_admin, is_greeted;
    char name[MNW__WIRE_NAME_BYTES];
    unsigned requests; /* unanswered */
    unsigned works;    /* in a lane, or waiting for an image */
    struct mnw__work *first_work;
    uint64_t allowance;    /* requests it may make at once, in thousandths */
    uint64_t allowance_ns; /* when that was counted */
    bool is_paused;        /* it has none */
    uint64_t deadline_ns;  /* the session ends then; 0: no */
    struct mnw__unsent *unsent, **unsent_end;
    unsigned unsent_count;
    struct mnw__daemon_view *views;
    struct mnw__daemon_pin *pins;
    struct mnw_limit *limit; /* on the faults of all views; NULL: none */
    unsigned view_count, prefetch_count;
    uint64_t view_bytes, pinned_bytes;
};

/* A request on its way through a lane. */
struct mnw__work {
    struct mnw__task task;
    struct mnw__daemon *daemon;
    void (*run)(struct mnw__work *work);              /* on a thread of a lane */
    void (*done)(struct mnw__work *work);             /* on the loop, which then frees it */
    struct mnw__work *next_waiting, *next_of_session; /* waiting for an image; for events */
    const void *owner;                                /* of which one is run at a time; NULL: the session */
    struct mnw__session *session;                     /* NULL: nobody to answer */
    enum mnw__wire_type type;
    uint32_t request; /* 0: nothing to answer */
    int result;
    char message[MNW__WIRE_ERROR_BYTES];
    struct mnw__daemon_image *image;
    struct mnw__daemon_view *view;
    struct mnw__daemon_pin *pin;
    struct mnw__daemon_prefetch *prefetch;
    struct mnw__daemon_pool *pool;
    struct mnw__wire_range range;
    uint64_t number;   /* a budget; the bytes of an answer's descriptor; since when it waits, in daemon->ticks */
    uint32_t features; /* of HELLO */
    int fd;            /* -1: none; the work's */
};

struct mnw__daemon_counts {
    uint64_t messages, refused, dropped;
};

struct mnw__daemon {
    const struct mnw__config *config;
    struct mnw__holding holding;
    struct mnw__state state;
    int epoll, listener, signals;
    int ends[2];      /* of the pipe by which children see our end, and our holder's */
    bool owns_socket; /* we, or a worker before us, made the listening socket's file, which is: */
    struct mnw__socket_file socket_file;
    struct mnw__source listener_source, signals_source, finished_source;
    struct mnw__finished finished;
    struct mnw__lane quick,
        slow; /* answers at once unless the consumer's kernel side is stuck; takes as long as reads */
    struct mnw__daemon_pool pools[MNW__CONFIG_POOLS_MAX];
    struct mnw__daemon_image images[MNW__CONFIG_IMAGES_MAX];
    unsigned pool_count, image_count;
    struct mnw__session *sessions, *dead;
    unsigned session_count, child_count;
    struct mnw__daemon_view *orphans;
    struct mnw__stray *strays;
    unsigned strays_born; /* forked by strays */
    uint64_t strays_ns;   /* when they were last asked whether their processes are gone */
    struct mnw__daemon_prefetch *prefetches;
    uint64_t last_key;
    uint64_t ticks;            /* one for each event, and for each who waits for events */
    struct mnw__work *waiting; /* until all events of before were taken */
    unsigned works;
    enum { MNW__RUNNING = 0, MNW__STOPPING, MNW__HANDING_OVER } phase;
    uint64_t started_ns, leave_ns;
    struct mnw__daemon_counts counts;
};

/* "minnow: <text>" on stderr; what a pipe or socket does not take at once is counted, and told with the next line. */
void mnw__daemon_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- loop.c ---- */

int mnw__daemon_watch(struct mnw__daemon *daemon, int fd, uint32_t events, struct mnw__source *source);
int mnw__daemon_rewatch(struct mnw__daemon *daemon, int fd, uint32_t events, struct mnw__source *source);
void mnw__daemon_unwatch(struct mnw__daemon *daemon, int fd);
/* One round: waits at most `timeout_ms` (-1: for ever) and handles what came. */
int mnw__daemon_turn(struct mnw__daemon *daemon, int timeout_ms);
/* Until it was asked to leave. */
int mnw__daemon_loop(struct mnw__daemon *daemon);
int mnw__daemon_loop_open(struct mnw__daemon *daemon);
void mnw__daemon_loop_close(struct mnw__daemon *daemon);

/* ---- work.c ---- */

/* NULL: out of memory, with a message. Counted for its session, which stays until it is done. */
struct mnw__work *mnw__work_new(struct mnw__session *session, const struct mnw__wire_packet *request);
struct mnw__work *mnw__work_new_for(struct mnw__daemon *daemon);
void mnw__work_start(struct mnw__work *work, struct mnw__lane *lane, void (*run)(struct mnw__work *work),
                     void (*done)(struct mnw__work *work));
/* Is this very request being carried out? Peers send again what a worker before left unanswered. */
bool mnw__work_is_under_way(const struct mnw__session *session, const struct mnw__wire_packet *request);
/* For `run`: keeps the result and, of a failure, the calling thread's message. */
void mnw__work_end(struct mnw__work *work, int result);
void mnw__work_free(struct mnw__work *work);
/* For `done`: answers with nothing but the header, or with the failure. */
void mnw__work_answer(struct mnw__work *work);
void mnw__work_answer_with(struct mnw__work *work, struct mnw__wire_packet *packet, size_t body_bytes, int fd);
/* Handles everything that lanes have done. */
void mnw__work_collect(struct mnw__daemon *daemon);

/* ---- session.c ---- */

void mnw__session_accept(struct mnw__daemon *daemon, struct mnw__source *source, uint32_t events);
/* A session for a connected socket, which it owns from now on; NULL: refused, closed. `record` -1: a new one. */
struct mnw__session *mnw__session_add(struct mnw__daemon *daemon, int fd, int record);
/* Ends it, with a last message to the peer when `status` is not 0. Its views are detached. */
void mnw__session_drop(struct mnw__session *session, int status, const char *message);
/* Frees those that are over and for whom nothing is busy. */
void mnw__session_sweep(struct mnw__daemon *daemon);
/* Sends a sealed packet, or keeps it until there is room. `fd` (-1: none) stays the caller's. */
void mnw__session_put(struct mnw__session *session, const struct mnw__wire_packet *packet, size_t bytes, int fd);
/* What epoll should wait for, now that something has changed. */
void mnw__session_rewatch(struct mnw__session *session);
/* Milliseconds until some session needs a look; -1: none. Looks at those that do. */
int mnw__session_tick(struct mnw__daemon *daemon);
/* Reads one packet and handles it; false: there is none. */
bool mnw__session_read(struct mnw__session *session);

/* ---- request.c ---- */

/* Handles a packet as it came. Descriptors are taken over. */
void mnw__request_handle(struct mnw__session *session, const struct mnw__wire_packet *packet,
                         struct mnw__socket_received *received);
void mnw__request_answer(struct mnw__session *session, struct mnw__wire_packet *packet, enum mnw__wire_type type,
                         uint32_t request, size_t body_bytes, int fd);
/* Refuses with the calling thread's message. */
void mnw__request_refuse(struct mnw__session *session, const struct mnw__wire_packet *request, int status);
/* The image of this number, open, and allowed to this peer; NULL with a message and `*error`. */
struct mnw__daemon_image *mnw__request_image(struct mnw__session *session, uint32_t number, int *error);
/* A range within the image, in whole pages? 0 or -EINVAL. */
int mnw__request_check_range(const struct mnw__daemon_image *image, uint64_t offset, uint64_t length);
int mnw__request_check_admin(const struct mnw__session *session, const char *what);

/* ---- images.c ---- */

void mnw__image_handle_open(struct mnw__session *session, const struct mnw__wire_packet *packet);
void mnw__image_handle_list(struct mnw__session *session, const struct mnw__wire_packet *packet);
/* Opens it now, taking over what is kept when `kept` is not NULL. Any thread, while it is OPENING. */
int mnw__image_open(struct mnw__daemon_image *image, const struct mnw_kept *kept);
/* Gives what must outlive us to the holder. Any thread, while it is OPENING. */
int mnw__image_keep(struct mnw__daemon *daemon, struct mnw__daemon_image *image);
void mnw__image_close(struct mnw__daemon *daemon, struct mnw__daemon_image *image);
/* The one of this cache; NULL: it is not open. */
struct mnw__daemon_image *mnw__image_of(struct mnw__daemon *daemon, const struct mnw_cache *cache);
/* A page could not be read: the log says so, now and then. */
void mnw__image_note_failure(struct mnw__daemon *daemon, const struct mnw_event *event);
bool mnw__image_allows(const struct mnw__session *session, const struct mnw__daemon_image *image);

/* ---- views.c ---- */

void mnw__views_handle_attach(struct mnw__session *session, const struct mnw__wire_packet *packet, int uffd);
void mnw__views_handle_detach(struct mnw__session *session, const struct mnw__wire_packet *packet);
void mnw__views_handle_record(struct mnw__session *session, const struct mnw__wire_packet *packet);
/* A view whose record is valid, as it was before the worker died. */
int mnw__views_adopt(struct mnw__session *session, int record, struct mnw__daemon_image *image, int uffd);
void mnw__views_drop_all(struct mnw__session *session);
/* Children are left to themselves. */
void mnw__views_drop_orphans(struct mnw__daemon *daemon);
/* Closes a view if it is ATTACHED; what it records is saved first by end(), and not by close(). */
void mnw__views_end(struct mnw__daemon *daemon, struct mnw__daemon_view *view);
void mnw__views_close(struct mnw__daemon *daemon, struct mnw__daemon_view *view);
/* Begins to save what all views have recorded so far. */
void mnw__views_save_all(struct mnw__daemon *daemon);
/* How many views are being saved. */
unsigned mnw__views_saving(const struct mnw__daemon *daemon);
/* How the holder calls its descriptor: that of a child can be told from others without its record. */
void mnw__views_fdname(const struct mnw__daemon *daemon, int record, char name[MNW__STATE_FDNAME_BYTES]);
int mnw__views_take_record(struct mnw__daemon *daemon, struct mnw__daemon_view *view);
/* Takes it out of a session's list, or out of the orphans'. */
void mnw__views_unlink(struct mnw__daemon_view **list, const struct mnw__daemon_view *view);
/* A new one. It says whose the view is: its children have it too, and it is known when their parent is not any more. */
uint64_t mnw__views_cookie(struct mnw__daemon *daemon, uid_t user);
static inline uid_t mnw__views_user(const struct mnw__daemon_view *view) {
    return (uid_t)(view->cookie >> 32);
}
/* Tells the peer that a view is served no more. */
void mnw__views_tell_detached(struct mnw__session *session, uint32_t id, int reason);
/* Frees a record of a view, and the holder's descriptor. */
void mnw__views_forget_record(struct mnw__daemon *daemon, int record);

/* ---- changes.c ---- */

/* A view was changed by its consumer; its pool's event number daemon->ticks. */
void mnw__changes_take(struct mnw__daemon *daemon, struct mnw__daemon_pool *pool, const struct mnw_event *event);
/* A lane is done with the view: what came meanwhile. */
void mnw__changes_catch_up(struct mnw__daemon *daemon, struct mnw__daemon_view *view);
/* The session of a child's parent is over. */
void mnw__changes_orphan(struct mnw__daemon *daemon, struct mnw__daemon_view *view);
/* A child whose record is valid; `session` NULL: an orphan. */
int mnw__changes_adopt_child(struct mnw__daemon *daemon, struct mnw__session *session, unsigned index,
                             struct mnw__daemon_image *image, int uffd);
/* No more children are taken over: the limits that orphans share are theirs. */
void mnw__changes_end_adoption(struct mnw__daemon *daemon);
/* work->done is called when every child that was forked before this call is with the holder, or barred. Now, maybe. */
void mnw__changes_settle(struct mnw__work *work);
/* Once a turn: goes on with that. */
void mnw__changes_go_on(struct mnw__daemon *daemon);

/* ---- claims.c ---- */

/* Takes over what children wait for, or makes it. */
int mnw__claims_open(struct mnw__daemon *daemon);
void mnw__claims_close(struct mnw__daemon *daemon);
void mnw__claims_handle(struct mnw__session *session, const struct mnw__wire_packet *packet);
void mnw__claims_handle_end(struct mnw__session *session, const struct mnw__wire_packet *packet);

/* ---- ranges.c ---- */

void mnw__ranges_handle(struct mnw__session *session, const struct mnw__wire_packet *packet);
void mnw__ranges_handle_unpin(struct mnw__session *session, const struct mnw__wire_packet *packet);
void mnw__ranges_handle_budget(struct mnw__session *session, const struct mnw__wire_packet *packet);
void mnw__ranges_adopt_pin(struct mnw__session *session, int record, struct mnw__daemon_image *image);
void mnw__ranges_drop_pins(struct mnw__session *session);

/* ---- prefetches.c ---- */

void mnw__prefetch_handle(struct mnw__session *session, const struct mnw__wire_packet *packet);
void mnw__prefetch_handle_cancel(struct mnw__session *session, const struct mnw__wire_packet *packet);
void mnw__prefetch_handle_replay(struct mnw__session *session, const struct mnw__wire_packet *packet);
void mnw__prefetch_ended(struct mnw__daemon *daemon, const struct mnw_event *event);
void mnw__prefetch_drop_all(struct mnw__session *session);

/* ---- report.c ---- */

void mnw__report_handle_stats(struct mnw__session *session, const struct mnw__wire_packet *packet);
/* A memfd with these bytes, to be sent; -errno. */
int mnw__report_memfd(const char *name, const void *bytes, size_t size);

/* ---- strays.c ---- */

/* In the holder's names: of a child, or the first letters of a stray's. */
#define MNW__CHILD "child."
#define MNW__STRAY "stray."
/*
 * The last userfaultfd of somebody's child, of whom we know nothing, is theirs from now on. The holder has it as
 * `name`; NULL: not yet. False: the process is gone, or it is no userfaultfd; it stays the caller's.
 */
bool mnw__strays_add(struct mnw__daemon *daemon, int fd, const char *name);
/* Lets those go whose processes have ended. Milliseconds until the next look; -1: there are none. */
int mnw__strays_tick(struct mnw__daemon *daemon);

/* ---- takeover.c ---- */

/* Makes the records anew, or takes over what a worker before left with the holder. */
int mnw__takeover(struct mnw__daemon *daemon);
void mnw__takeover_announce(struct mnw__daemon *daemon);

/* ---- daemon.c ---- */

/* Opens pools, lanes, loop. */
/* Pools of `last` (NULL: none) are opened when those of `config` cannot be. */
int mnw__daemon_open(struct mnw__daemon *daemon, const struct mnw__config *config, const struct mnw__config *last);
enum { MNW__EVENTS_A_TURN = 256 };
/* Handles what the library has to tell, at most so many events. */
void mnw__daemon_take_events(struct mnw__daemon_pool *pool, struct mnw__daemon *daemon, unsigned most);
/* Ends everything: peers are told, nothing stays with the holder. */
void mnw__daemon_close(struct mnw__daemon *daemon);

#endif
