/* SPDX-License-Identifier: MIT */
/*
 * Sockets between the daemon, its peers and its holder: packets with descriptors beside them (SOCK_SEQPACKET), and the
 * notifications of sd_notify(3) (SOCK_DGRAM).
 *
 * Owns: nothing; descriptors belong to the caller. Any thread may enter. Never allocates. errno becomes a negative
 * return here. Every descriptor made or received is close-on-exec.
 */
#ifndef MNW_SYS_PACKET_H
#define MNW_SYS_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MNW__SOCKET_FDS_MAX 8

struct mnw__socket_peer {
    pid_t pid; /* 0: in a pid namespace that is not seen from here */
    uid_t uid;
    gid_t gid;
};

/* The file of a listening socket, to be known again. */
struct mnw__socket_file {
    dev_t device;
    ino_t inode;
    bool is_known;
};
/* What lies at `path` now, if it is a socket. */
void mnw__socket_file_note(struct mnw__socket_file *file, const char *path);
/* Removes what was noted, if it lies there still: never anything else. */
void mnw__socket_file_remove(const struct mnw__socket_file *file, const char *path);

/*
 * Listens at `path`, with the permissions `mode`. A socket that nobody listens at any more is replaced; -EADDRINUSE
 * when somebody does. Returns a non-blocking descriptor.
 */
int mnw__socket_listen(const char *path, unsigned mode);
/* Non-blocking descriptor of the next peer; -EAGAIN: none waits. */
int mnw__socket_accept(int listener);
/* Blocking descriptor. -ENOENT, -ECONNREFUSED: no daemon there; -EACCES. */
int mnw__socket_connect(const char *path);
int mnw__socket_set_blocking(int fd, bool blocking);
/* From now on a blocking call of it ends after so long: -EAGAIN. */
int mnw__socket_set_patience(int fd, uint32_t ms);

/* Who connected, as the kernel noted it at that moment. */
int mnw__socket_peer(int fd, struct mnw__socket_peer *peer);
/* Its supplementary groups; the count, of which at most `room` were stored. */
int mnw__socket_peer_groups(int fd, gid_t *groups, unsigned room);

/* One packet with `fd_count` descriptors. 0; -EAGAIN: no room now; -EPIPE: the other side is gone. Never SIGPIPE. */
int mnw__socket_send(int fd, const void *packet, size_t bytes, const int *fds, unsigned fd_count);

struct mnw__socket_received {
    size_t bytes; /* 0: the other side closed, or sent an empty packet */
    bool cut;     /* the packet was longer, or had more descriptors; what did not fit is lost and closed */
    unsigned fd_count;
    int fds[MNW__SOCKET_FDS_MAX];   /* the caller's now */
    struct mnw__socket_peer sender; /* only where mnw__socket_pass_sender() was called */
};
/* One packet into `packet`. 0; -EAGAIN: none there; -ECONNRESET. */
int mnw__socket_receive(int fd, void *packet, size_t room, struct mnw__socket_received *received);
/* From now on receiving tells who sent. */
int mnw__socket_pass_sender(int fd);
/* Bytes that this side sent and the other has not taken. */
int mnw__socket_unread(int fd);
/* The kernel's buffer for what was sent and not taken. */
int mnw__socket_limit_unread(int fd, int bytes);

/* ---- notifications: what sd_notify(3) speaks ---- */

/* The receiving side, for whoever plays systemd: a datagram socket at `path` that only `owner` may send to. */
int mnw__notify_listen(const char *path, uid_t owner);
/* One datagram to `path` ('@' first: abstract), as $NOTIFY_SOCKET names it. Blocks while its queue is full. */
int mnw__notify_send(const char *path, const char *text, const int *fds, unsigned fd_count);
/* Returns when everything sent before was taken in; -ETIMEDOUT. */
int mnw__notify_barrier(const char *path, int timeout_ms);

#endif
