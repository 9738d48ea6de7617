/* SPDX-License-Identifier: MIT */
/* Sockets with descriptors beside the bytes. Owns nothing; any thread may enter; never allocates. */
#include "sys/packet.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* Room for the descriptors and for the sender's credentials. */
union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * MNW__SOCKET_FDS_MAX) + CMSG_SPACE(sizeof(struct ucred))];
};

static int fill_address(struct sockaddr_un *address, const char *path, socklen_t *length) {
    size_t bytes = strlen(path);
    if (!bytes || bytes >= sizeof(address->sun_path))
        return mnw__fail(-ENAMETOOLONG, "the socket path '%s' has %zu bytes; it may have 1 to %zu", path, bytes,
                         sizeof(address->sun_path) - 1);
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, bytes);
    *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes + 1);
    if (path[0] == '@') {
        address->sun_path[0] = '\0';
        --*length;
    }
    return 0;
}

static int open_socket(int type) {
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    return fd < 0 ? mnw__fail(-errno, "making a unix socket: %s", strerror(errno)) : fd;
}

/* A socket file that refuses connections is what a dead daemon left behind. */
static bool is_abandoned(const struct sockaddr_un *address, socklen_t length, int type) {
    struct stat status;
    if (address->sun_path[0] == '\0' || lstat(address->sun_path, &status) || !S_ISSOCK(status.st_mode))
        return false;
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)address, length) && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return refused;
}

/* The file is born accessible to its owner alone: nobody gets in before `mode` is set. */
static int bind_at(int fd, const char *path, int type) {
    struct sockaddr_un address;
    socklen_t length = 0;
    int error = fill_address(&address, path, &length);
    if (error)
        return error;
    if (is_abandoned(&address, length, type))
        unlink(path);
    mode_t old = umask(0177);
    int bound = bind(fd, (const struct sockaddr *)&address, length) ? -errno : 0;
    umask(old);
    if (bound)
        return mnw__fail(bound, "binding the socket %s: %s%s", path, strerror(-bound),
                         bound == -EADDRINUSE ? "; another daemon listens there, or the file is no socket"
                         : bound == -ENOENT   ? "; make its folder first"
                                              : "");
    return 0;
}

int mnw__socket_listen(const char *path, unsigned mode) {
    int fd = open_socket(SOCK_SEQPACKET | SOCK_NONBLOCK);
    if (fd < 0)
        return fd;
    int error = bind_at(fd, path, SOCK_SEQPACKET);
    if (!error && listen(fd, 128))
        error = mnw__fail(-errno, "listening at %s: %s", path, strerror(errno));
    if (!error && path[0] != '@' && chmod(path, mode & 0777))
        error = mnw__fail(-errno, "setting the permissions of %s: %s", path, strerror(errno));
    if (error) {
        close(fd);
        return error;
    }
    return fd;
}

void mnw__socket_file_note(struct mnw__socket_file *file, const char *path) {
    struct stat status;
    *file = (struct mnw__socket_file){0};
    if (path[0] != '@' && !lstat(path, &status) && S_ISSOCK(status.st_mode))
        *file = (struct mnw__socket_file){status.st_dev, status.st_ino, true};
}

void mnw__socket_file_remove(const struct mnw__socket_file *file, const char *path) {
    struct mnw__socket_file now;
    mnw__socket_file_note(&now, path);
    if (file->is_known && now.is_known && now.device == file->device && now.inode == file->inode)
        unlink(path);
}

int mnw__socket_accept(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        return fd;
    if (errno == EINTR || errno == ECONNABORTED)
        return -EAGAIN;
    return mnw__fail(-errno, "accepting a connection: %s", strerror(errno));
}

int mnw__socket_connect(const char *path) {
    struct sockaddr_un address;
    socklen_t length = 0;
    int error = fill_address(&address, path, &length);
    if (error)
        return error;
    int fd = open_socket(SOCK_SEQPACKET);
    if (fd < 0)
        return fd;
    while (connect(fd, (const struct sockaddr *)&address, length)) {
        if (errno == EINTR)
            continue;
        error = mnw__fail(-errno, "connecting to the daemon at %s: %s%s", path, strerror(errno),
                          errno == EACCES ? "; the socket's permissions do not let this user in"
                                          : "; is `minnow serve` running?");
        close(fd);
        return error;
    }
    return fd;
}

int mnw__socket_set_blocking(int fd, bool blocking) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK))
        return mnw__fail(-errno, "changing the blocking mode of a socket: %s", strerror(errno));
    return 0;
}

int mnw__socket_set_patience(int fd, uint32_t ms) {
    struct timeval most = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof(most)) ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof(most)))
        return mnw__fail(-errno, "saying how long to wait at a socket: %s", strerror(errno));
    return 0;
}

int mnw__socket_peer(int fd, struct mnw__socket_peer *peer) {
    struct ucred credentials;
    socklen_t length = sizeof(credentials);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length))
        return mnw__fail(-errno, "asking who is connected: %s", strerror(errno));
    *peer = (struct mnw__socket_peer){credentials.pid, credentials.uid, credentials.gid};
    return 0;
}

int mnw__socket_peer_groups(int fd, gid_t *groups, unsigned room) {
    socklen_t length = room * (socklen_t)sizeof(*groups);
    if (!getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &length) || errno == ERANGE)
        return (int)(length / sizeof(*groups));
    return mnw__fail(-errno, "asking for the groups of who is connected: %s", strerror(errno));
}

static void put_descriptors(struct msghdr *message, union control *control, const int *fds, unsigned fd_count) {
    size_t bytes = fd_count * sizeof(*fds);
    memset(control, 0, sizeof(*control));
    message->msg_control = control;
    message->msg_controllen = CMSG_SPACE(bytes);
    struct cmsghdr *header = CMSG_FIRSTHDR(message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(header), fds, bytes);
}

static int send_message(int fd, struct msghdr *message, union control *control, const int *fds, unsigned fd_count) {
    if (fd_count > MNW__SOCKET_FDS_MAX)
        return mnw__fail(-EINVAL, "sending %u descriptors in one packet; the most is %d", fd_count,
                         MNW__SOCKET_FDS_MAX);
    if (fd_count)
        put_descriptors(message, control, fds, fd_count);
    while (sendmsg(fd, message, MSG_NOSIGNAL) < 0) {
        if (errno == EINTR)
            continue;
        int error = errno == ECONNRESET ? -EPIPE : -errno;
        return mnw__fail(error, "sending a packet: %s", strerror(-error));
    }
    return 0;
}

int mnw__socket_send(int fd, const void *packet, size_t bytes, const int *fds, unsigned fd_count) {
    union control control;
    struct iovec piece = {(void *)(uintptr_t)packet, bytes};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    return send_message(fd, &message, &control, fds, fd_count);
}

static void take_descriptors(struct mnw__socket_received *received, const struct cmsghdr *header) {
    unsigned count = (unsigned)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (unsigned i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, (const char *)CMSG_DATA(header) + i * sizeof(fd), sizeof(fd));
        if (received->fd_count < MNW__SOCKET_FDS_MAX) {
            received->fds[received->fd_count++] = fd;
        } else {
            close(fd);
            received->cut = true;
        }
    }
}

static void take_control(struct mnw__socket_received *received, struct msghdr *message) {
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        struct ucred credentials;
        if (header->cmsg_level != SOL_SOCKET)
            continue;
        if (header->cmsg_type == SCM_RIGHTS)
            take_descriptors(received, header);
        if (header->cmsg_type == SCM_CREDENTIALS && header->cmsg_len == CMSG_LEN(sizeof(credentials))) {
            memcpy(&credentials, CMSG_DATA(header), sizeof(credentials));
            received->sender = (struct mnw__socket_peer){credentials.pid, credentials.uid, credentials.gid};
        }
    }
}

int mnw__socket_receive(int fd, void *packet, size_t room, struct mnw__socket_received *received) {
    union control control;
    struct iovec piece = {packet, room};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    *received = (struct mnw__socket_received){.sender = {0, (uid_t)-1, (gid_t)-1}};
    ssize_t bytes;
    while ((bytes = recvmsg(fd, &message, MSG_CMSG_CLOEXEC)) < 0)
        if (errno != EINTR)
            return errno == EAGAIN ? -EAGAIN : mnw__fail(-errno, "receiving a packet: %s", strerror(errno));
    take_control(received, &message);
    received->bytes = (size_t)bytes;
    received->cut |= message.msg_flags & (MSG_TRUNC | MSG_CTRUNC);
    return 0;
}

int mnw__socket_pass_sender(int fd) {
    int on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)))
        return mnw__fail(-errno, "asking for the credentials of senders: %s", strerror(errno));
    return 0;
}

int mnw__socket_unread(int fd) {
    int bytes = 0;
    if (ioctl(fd, SIOCOUTQ, &bytes))
        return mnw__fail(-errno, "asking what was not read yet: %s", strerror(errno));
    return bytes;
}

int mnw__socket_limit_unread(int fd, int bytes) {
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)))
        return mnw__fail(-errno, "setting the buffer of a socket: %s", strerror(errno));
    return 0;
}

int mnw__notify_listen(const char *path, uid_t owner) {
    int fd = open_socket(SOCK_DGRAM | SOCK_NONBLOCK);
    if (fd < 0)
        return fd;
    int error = bind_at(fd, path, SOCK_DGRAM);
    if (!error && path[0] != '@' && owner != geteuid() && chown(path, owner, (gid_t)-1))
        error = mnw__fail(-errno, "giving %s to user %u: %s", path, owner, strerror(errno));
    if (!error)
        error = mnw__socket_pass_sender(fd);
    if (error) {
        close(fd);
        return error;
    }
    return fd;
}

int mnw__notify_send(const char *path, const char *text, const int *fds, unsigned fd_count) {
    struct sockaddr_un address;
    socklen_t length = 0;
    union control control;
    int error = fill_address(&address, path, &length);
    if (error)
        return error;
    int fd = open_socket(SOCK_DGRAM);
    if (fd < 0)
        return fd;
    struct iovec piece = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {.msg_name = &address, .msg_namelen = length, .msg_iov = &piece, .msg_iovlen = 1};
    error = send_message(fd, &message, &control, fds, fd_count);
    close(fd);
    if (!error)
        return 0;
    return mnw__fail(error, "telling the holder at %s: %s%s", path, strerror(-error),
                     error == -EACCES ? "; the user that the daemon becomes must be able to reach that folder" : "");
}

int mnw__notify_barrier(const char *path, int timeout_ms) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return mnw__fail(-errno, "making a pipe: %s", strerror(errno));
    int error = mnw__notify_send(path, "BARRIER=1", &ends[1], 1);
    close(ends[1]);
    struct pollfd wait = {ends[0], 0, 0}; /* the end of the pipe is told unasked */
    int ready = 0;
    while (!error && (ready = poll(&wait, 1, timeout_ms)) < 0 && errno == EINTR) {
    }
    close(ends[0]);
    if (!error && ready <= 0)
        error = mnw__fail(ready ? -errno : -ETIMEDOUT, "the holder at %s did not take in what it was sent within %d ms",
                          path, timeout_ms);
    return error;
}
