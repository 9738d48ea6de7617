/* SPDX-License-Identifier: MIT */
#include "memcg.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define V1 "/sys/fs/cgroup/memory"
#define V2 "/sys/fs/cgroup"

static bool write_text(const char *directory, const char *name, const char *text) {
    char path[600];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return done;
}

/* Version 1: below the cgroup that this process is in. */
static bool own_directory(char *path, size_t size) {
    char line[512];
    bool found = false;
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && !found && fgets(line, sizeof(line), file)) {
        char *at = strstr(line, ":memory:");
        line[strcspn(line, "\n")] = 0;
        if (at)
            found = snprintf(path, size, V1 "%s", at + 8) < (int)size && !access(path, W_OK);
    }
    if (file)
        fclose(file);
    return found;
}

int memcg_make(struct memcg *memcg, const char *name, uint64_t limit_bytes) {
    char parent[400], limit[32];
    bool first = own_directory(parent, sizeof(parent));
    if (!first)
        snprintf(parent, sizeof(parent), V2);
    snprintf(memcg->path, sizeof(memcg->path), "%s/minnow-bench-%s-%d", parent, name, getpid());
    snprintf(limit, sizeof(limit), "%" PRIu64, limit_bytes);
    if (mkdir(memcg->path, 0755))
        return -errno;
    if (write_text(memcg->path, first ? "memory.limit_in_bytes" : "memory.max", limit))
        return 0;
    rmdir(memcg->path);
    return -EOPNOTSUPP;
}

bool memcg_enter(const struct memcg *memcg) {
    char pid[16];
    snprintf(pid, sizeof(pid), "%d", getpid());
    return write_text(memcg->path, "cgroup.procs", pid);
}

void memcg_remove(const struct memcg *memcg) {
    rmdir(memcg->path);
}
