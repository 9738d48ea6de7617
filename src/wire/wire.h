/* SPDX-License-Identifier: MIT */
/*
 * The messages between the daemon and its peers: their layout and nothing else.
 *
 * Owns: nothing. Makes no system call, allocates nothing. One message is one packet of a SOCK_SEQPACKET socket, in
 * the byte order of the machine, with its descriptors beside it. docs/protocol.md says what each one means.
 *
 * Requests of one session may be carried out at the same time and be answered in any order. Whatever a request makes
 * is named by its peer (view numbers, cookies), so that a request that was not answered is simply sent again.
 */
#ifndef MNW_WIRE_WIRE_H
#define MNW_WIRE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MNW__WIRE_VERSION     1
#define MNW__WIRE_NAME_BYTES  64 /* of images and pools, the final zero included */
#define MNW__WIRE_ERROR_BYTES 240
#define MNW__WIRE_PACKET_MAX  4096
#define MNW__WIRE_IMAGES_MAX  16 /* in one answer to LIST */

enum mnw__wire_type {
    MNW__WIRE_HELLO = 1,
    MNW__WIRE_LIST = 2,
    MNW__WIRE_OPEN = 3,   /* answer carries the read-only descriptor */
    MNW__WIRE_ATTACH = 4, /* request carries the userfaultfd */
    MNW__WIRE_DETACH = 5,
    MNW__WIRE_PREFETCH = 6, /* answered at once; EVENT_PREFETCH when it ends */
    MNW__WIRE_CANCEL = 7,   /* a PREFETCH or REPLAY, by its cookie; EVENT_PREFETCH comes all the same */
    MNW__WIRE_PIN = 8,      /* answered when the range is in */
    MNW__WIRE_UNPIN = 9,    /* by the cookie of its PIN */
    MNW__WIRE_INVALIDATE = 10,
    MNW__WIRE_STATS = 11,     /* answer carries a memfd with the text */
    MNW__WIRE_RESIDENCY = 12, /* answer carries a memfd with a byte per page */
    MNW__WIRE_BUDGET = 13,
    MNW__WIRE_RECORD = 14,         /* start or end recording the working set of a view */
    MNW__WIRE_REPLAY = 15,         /* prefetch the image's working set; EVENT_PREFETCH when it ends */
    MNW__WIRE_CLAIM = 16,          /* a child asks for its own userfaultfds: the answer carries one */
    MNW__WIRE_END = 17,            /* answer carries a descriptor that hangs up when nothing is kept any more */
    MNW__WIRE_EVENT_PREFETCH = 64, /* from the daemon, unasked; request is 0 */
    MNW__WIRE_EVENT_RESTARTED = 65,
    MNW__WIRE_EVENT_DETACHED = 66, /* the daemon no longer serves a view */
    MNW__WIRE_EVENT_ENDED = 67,    /* the session is over: status and a failure say why; the socket closes next */
};

/* Starts every message. An answer has the type and request number of what it answers. */
struct mnw__wire_header {
    uint16_t type;
    uint16_t bytes;    /* of the whole message */
    uint32_t request;  /* chosen by the peer, not 0; of events 0 */
    int32_t status;    /* of answers: 0 or a negative errno, and then only struct mnw__wire_failure follows */
    uint32_t reserved; /* 0 */
};

struct mnw__wire_failure {
    char message[MNW__WIRE_ERROR_BYTES];
};

enum mnw__wire_features {
    /* Asked by a child that fork(2) has just made: the answer comes when every child of before is with the holder. */
    MNW__WIRE_SETTLED = 1 << 0,
    /* The answer: what the daemon serves outlives its worker. */
    MNW__WIRE_KEPT = 1 << 1,
};

struct mnw__wire_hello {
    uint32_t version;                /* the highest that the sender speaks; the answer: what will be spoken */
    uint32_t features;               /* enum mnw__wire_features; the answer: those that it knows */
    char name[MNW__WIRE_NAME_BYTES]; /* of the program, for people */
};

struct mnw__wire_hello_answer {
    uint32_t version;
    uint32_t features;
    uint64_t views_max, bytes_max, faults_per_second_max; /* this peer's limits; 0: none */
    uint64_t pinned_max;                                  /* bytes; 0: none may be pinned */
    uint64_t epoch;                                       /* how often the daemon was restarted */
    uint32_t requests_max;                                /* unanswered at a time; more wait in the socket */
    uint32_t flags;                                       /* enum mnw__wire_rights */
};

enum mnw__wire_rights {
    MNW__WIRE_ADMIN = 1 << 0, /* may invalidate and set budgets */
};

struct mnw__wire_list {
    uint32_t first;
    uint32_t reserved;
};

struct mnw__wire_image {
    char name[MNW__WIRE_NAME_BYTES];
    char pool[MNW__WIRE_NAME_BYTES];
    uint64_t size_bytes;
    uint64_t resident_bytes;
    uint32_t page_bytes;
    uint32_t extent_bytes;
    uint32_t backing; /* enum mnw_backing */
    uint32_t views;   /* of all peers */
    uint32_t flags;   /* enum mnw__wire_image_flags */
    uint32_t reserved;
};

enum mnw__wire_image_flags {
    MNW__WIRE_IMAGE_OPEN = 1 << 0, /* else nobody has opened it yet, and sizes and residency are 0 */
};

struct mnw__wire_list_answer {
    uint32_t total, count;
    struct mnw__wire_image images[MNW__WIRE_IMAGES_MAX]; /* `count` of them are sent */
};

struct mnw__wire_open {
    char name[MNW__WIRE_NAME_BYTES];
};

struct mnw__wire_open_answer {
    uint32_t image; /* names the image from now on, never 0; stays good when the daemon is restarted */
    uint32_t reserved;
    uint64_t device, inode; /* of the backing, as fstat(2) of the descriptor shows them */
    struct mnw__wire_image about;
};

struct mnw__wire_attach {
    uint32_t image;
    uint32_t view;  /* chosen by the peer, not 0, unique in its session */
    uint32_t flags; /* MNW_VIEW_WRITE, MNW__WIRE_ATTACH_CHILD */
    uint32_t reserved;
    uint64_t address, length, offset; /* multiples of the image's page; the mapping exists already */
};

enum mnw__wire_attach_flags {
    MNW__WIRE_ATTACH_CHILD = 1 << 1, /* stays when the session ends, for as long as its process lives */
};

struct mnw__wire_view { /* DETACH */
    uint32_t view;
    uint32_t reserved;
};

struct mnw__wire_range { /* PREFETCH, PIN, INVALIDATE, RESIDENCY */
    uint32_t image;
    uint32_t reserved;
    uint64_t offset, length; /* multiples of the image's page */
    uint64_t cookie;         /* PREFETCH, PIN: names it, unique in its kind and session; else 0 */
};

struct mnw__wire_cookie { /* CANCEL, UNPIN */
    uint64_t cookie;
};

enum mnw__wire_format { MNW__WIRE_JSON = 0, MNW__WIRE_PROMETHEUS = 1 };

struct mnw__wire_stats {
    uint32_t format;
    uint32_t reserved;
};

struct mnw__wire_text_answer { /* STATS, RESIDENCY: the descriptor holds so many bytes */
    uint64_t bytes;
};

struct mnw__wire_budget {
    char pool[MNW__WIRE_NAME_BYTES];
    uint64_t bytes;
};

enum mnw__wire_record { MNW__WIRE_RECORD_START = 0, MNW__WIRE_RECORD_SAVE = 1, MNW__WIRE_RECORD_DROP = 2 };

struct mnw__wire_working_set { /* RECORD (view, action), REPLAY (image, cookie); the rest 0 */
    uint32_t image, view;
    uint32_t action;
    uint32_t reserved;
    uint64_t cookie; /* REPLAY: as of PREFETCH */
};

struct mnw__wire_claim {
    uint64_t address, length; /* so many bytes there are watched by some userfaultfd, and as many behind them are not */
};

struct mnw__wire_event_prefetch {
    int32_t result;
    uint32_t image;
    uint64_t cookie, pages_failed;
};

struct mnw__wire_event_restarted {
    uint64_t epoch;
};

struct mnw__wire_event_detached {
    uint32_t view;
    int32_t reason; /* negative errno */
};

/* A message as it lies in memory: aligned, header first, then the body of its type. */
struct mnw__wire_packet {
    struct mnw__wire_header header;
    union {
        struct mnw__wire_failure failure;
        struct mnw__wire_hello hello;
        struct mnw__wire_hello_answer hello_answer;
        struct mnw__wire_list list;
        struct mnw__wire_list_answer list_answer;
        struct mnw__wire_open open;
        struct mnw__wire_open_answer open_answer;
        struct mnw__wire_attach attach;
        struct mnw__wire_view view;
        struct mnw__wire_range range;
        struct mnw__wire_cookie cookie;
        struct mnw__wire_stats stats;
        struct mnw__wire_text_answer text_answer;
        struct mnw__wire_budget budget;
        struct mnw__wire_working_set working_set;
        struct mnw__wire_claim claim;
        struct mnw__wire_event_prefetch event_prefetch;
        struct mnw__wire_event_restarted event_restarted;
        struct mnw__wire_event_detached event_detached;
        unsigned char bytes[MNW__WIRE_PACKET_MAX - sizeof(struct mnw__wire_header)];
    };
};

/*
 * Checks a request as it came, `bytes` long, with so many descriptors. 0: sizes, names, reserved fields and ranges are
 * as they must be. -EPROTO: not a message, or one that no peer of this version sends: the session ends.
 * -EOPNOTSUPP (unknown type), -EINVAL: answered, and the session goes on. With a message for mnw__fail_message().
 */
int mnw__wire_check_request(const struct mnw__wire_packet *packet, size_t bytes, unsigned descriptors);
/* The same for what the daemon sends, answers and events. 0 or -EPROTO. A status in it is no error of this call. */
int mnw__wire_check_answer(const struct mnw__wire_packet *packet, size_t bytes, unsigned descriptors);

/* Fills the header; returns the bytes of the whole message, whose body has `body_bytes`. */
size_t mnw__wire_seal(struct mnw__wire_packet *packet, enum mnw__wire_type type, uint32_t request, size_t body_bytes);
/* Turns it into a failure of `status` with this message, cut to fit; returns the bytes of the whole. */
size_t mnw__wire_seal_failure(struct mnw__wire_packet *packet, enum mnw__wire_type type, uint32_t request, int status,
                              const char *message);
/* Bytes of an answer to LIST with so many images, header not included. */
size_t mnw__wire_list_bytes(uint32_t count);
/* "ATTACH"; "unknown" for what is none. */
const char *mnw__wire_name(unsigned type);
/* Copies a name so that the whole field is defined; -ENAMETOOLONG when it does not fit. */
int mnw__wire_put_name(char to[MNW__WIRE_NAME_BYTES], const char *name);

#endif
