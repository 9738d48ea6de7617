/* SPDX-License-Identifier: MIT */
/* One thread. Owns the input, and one descriptor of /dev/null. */
#include "fuzz/input.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* From here on are those that are kept; below, so many may be open at once. */
enum { KEPT_FROM = 900, OPEN_MAX = 256 };

struct fuzz_input fuzz_input;
static struct pollfd before[OPEN_MAX];

void demand(bool condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "fuzz: %s\n", what);
        abort();
    }
}

uint8_t fake_byte(void) {
    if (!fuzz_input.left)
        return 0;
    fuzz_input.left--;
    return *fuzz_input.at++;
}

uint64_t fake_number(void) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | fake_byte();
    return value;
}

int fake_keep(int fd) {
    int kept = fcntl(fd, F_DUPFD_CLOEXEC, KEPT_FROM);
    demand(kept >= 0, "no descriptor to keep");
    close(fd);
    return kept;
}

int fake_duplicate(int fd) {
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    demand(copy >= 0 && copy < OPEN_MAX, "descriptors without end");
    return copy;
}

int fake_fd(void) {
    static int null = -1;
    if (null < 0)
        null = fake_keep(open("/dev/null", O_RDWR | O_CLOEXEC));
    return fake_duplicate(null);
}

/* One call for all of them: of a number that stands for nothing poll(2) says so. */
static void look(struct pollfd fds[OPEN_MAX]) {
    for (int fd = 0; fd < OPEN_MAX; fd++)
        fds[fd] = (struct pollfd){.fd = fd};
    demand(poll(fds, OPEN_MAX, 0) >= 0, "descriptors cannot be looked at");
}

static bool is_open(const struct pollfd *fd) {
    return !(fd->revents & POLLNVAL);
}

void fuzz_begin(const uint8_t *data, size_t size) {
    close(fake_fd()); /* the first makes the one that is kept */
    look(before);
    fuzz_input = (struct fuzz_input){data, size};
}

void fuzz_check_descriptors(void) {
    static struct pollfd after[OPEN_MAX];
    look(after);
    for (int fd = 0; fd < OPEN_MAX; fd++) {
        demand(is_open(&after[fd]) || !is_open(&before[fd]), "a descriptor was closed that was not ours");
        demand(!is_open(&after[fd]) || is_open(&before[fd]), "a descriptor was left open");
    }
}
