/* SPDX-License-Identifier: MIT */
/*
 * The messages between the daemon and its peers: their layout and nothing else.
 *
 * Owns: nothing. Makes no system call, allocates nothing. One message is one packet of a SOCK_SEQPACKET socket, in
 * the byte order of the machine, with its descriptors beside it. docs/protocol.md says what each one means.
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
    MNW__WIRE_CANCEL = 7,
    MNW__WIRE_PIN = 8,
    MNW__WIRE_UNPIN = 9,
    MNW__WIRE_INVALIDATE = 10,
    MNW__WIRE_STATS = 11,     /* answer carries a memfd with the text */
    MNW__WIRE_RESIDENCY = 12, /* answer carries a memfd with a byte per page */
    MNW__WIRE_BUDGET = 13,
    MNW__WIRE_RECORD = 14,         /* start or end recording the working set of a view */
    MNW__WIRE_REPLAY = 15,         /* prefetch the image's working set */
    MNW__WIRE_EVENT_PREFETCH = 64, /* from the daemon, unasked; request is 0 */
    MNW__WIRE_EVENT_RESTARTED = 65,
    MNW__WIRE_EVENT_DETACHED = 66, /* the daemon no longer serves a view */
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

struct mnw__wire_hello {
    uint32_t version;                /* the highest that the sender speaks; the answer: what will be spoken */
    uint32_t features;               /* 0 for now */
    char name[MNW__WIRE_NAME_BYTES]; /* of the program, for people */
};

struct mnw__wire_hello_answer {
    uint32_t version;
    uint32_t features;
    uint64_t views_max, bytes_max, faults_per_second_max; /* this peer's limits; 0: none */
    uint64_t epoch;                                       /* how often the daemon was restarted */
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
    uint32_t views;
};

struct mnw__wire_list_answer {
    uint32_t total, count;
    struct mnw__wire_image images[MNW__WIRE_IMAGES_MAX]; /* `count` of them are sent */
};

struct mnw__wire_open {
    char name[MNW__WIRE_NAME_BYTES];
};

struct mnw__wire_open_answer {
    uint32_t image; /* names the image from now on, in this session */
    uint32_t reserved;
    uint64_t device, inode; /* of the backing, as fstat(2) of the descriptor shows them */
    struct mnw__wire_image about;
};

struct mnw__wire_attach {
    uint32_t image;
    uint32_t view;  /* chosen by the peer, unique in its session */
    uint32_t flags; /* MNW_VIEW_WRITE */
    uint32_t reserved;
    uint64_t address, length, offset;
};

struct mnw__wire_view { /* DETACH */
    uint32_t view;
    uint32_t reserved;
};

struct mnw__wire_range { /* PREFETCH, PIN, UNPIN, INVALIDATE, RESIDENCY */
    uint32_t image;
    uint32_t reserved;
    uint64_t offset, length, cookie;
};

struct mnw__wire_prefetch_answer {
    int64_t id;
};

struct mnw__wire_cancel {
    int64_t id;
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

struct mnw__wire_working_set { /* RECORD (view, action), REPLAY (image, cookie) */
    uint32_t image, view;
    uint32_t action;
    uint32_t reserved;
    uint64_t cookie;
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

#endif
