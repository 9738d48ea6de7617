/* SPDX-License-Identifier: MIT */
#include "measure.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

static uint64_t clock_of(clockid_t id) {
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t clock_ns(void) {
    return clock_of(CLOCK_MONOTONIC);
}

uint64_t process_cpu_ns(void) {
    return clock_of(CLOCK_PROCESS_CPUTIME_ID);
}

void sleep_ns(uint64_t ns) {
    struct timespec left = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    while (nanosleep(&left, &left) && errno == EINTR) {
    }
}

/* ---- memory ---- */

/* "Name:   123 kB" lines. */
static bool read_field(const char *path, const char *field, uint64_t *bytes) {
    char line[256];
    bool found = false;
    FILE *file = fopen(path, "re");
    size_t length = strlen(field);
    while (file && !found && fgets(line, sizeof(line), file))
        if (!strncmp(line, field, length) && line[length] == ':')
            found = sscanf(line + length + 1, "%" SCNu64, bytes) == 1;
    if (file)
        fclose(file);
    *bytes *= 1024;
    return found;
}

bool memory_now(struct memory *memory) {
    *memory = (struct memory){0};
    return read_field("/proc/self/smaps_rollup", "Anonymous", &memory->anonymous) &&
           read_field("/proc/self/smaps_rollup", "Rss", &memory->resident) &&
           read_field("/proc/self/status", "VmPTE", &memory->page_tables);
}

/* ---- backings ---- */

static bool is_backing(int fd, uint64_t size_bytes) {
    struct statfs system;
    struct stat status;
    return !fstat(fd, &status) && S_ISREG(status.st_mode) && (uint64_t)status.st_size == size_bytes &&
           !fstatfs(fd, &system) && (system.f_type == TMPFS_MAGIC || system.f_type == HUGETLBFS_MAGIC);
}

int find_backing(uint64_t size_bytes) {
    int found = -1;
    DIR *directory = opendir("/proc/self/fd");
    for (struct dirent *entry; directory && found < 0 && (entry = readdir(directory));)
        if (isdigit((unsigned char)entry->d_name[0]) && is_backing(atoi(entry->d_name), size_bytes))
            found = atoi(entry->d_name);
    if (directory)
        closedir(directory);
    return found;
}

uint64_t file_resident(int fd) {
    struct stat status;
    return fstat(fd, &status) ? 0 : (uint64_t)status.st_blocks * 512;
}

/* ---- threads ---- */

static bool has_name(const char *thread, const char *name) {
    char path[300], text[32] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%s/comm", thread);
    FILE *file = fopen(path, "re");
    bool same =
        file && fgets(text, sizeof(text), file) && !strncmp(text, name, strlen(name)) && text[strlen(name)] == '\n';
    if (file)
        fclose(file);
    return same;
}

pid_t find_thread(const char *name) {
    pid_t found = -1;
    DIR *directory = opendir("/proc/self/task");
    for (struct dirent *entry; directory && found < 0 && (entry = readdir(directory));)
        if (isdigit((unsigned char)entry->d_name[0]) && has_name(entry->d_name, name))
            found = (pid_t)atoi(entry->d_name);
    if (directory)
        closedir(directory);
    return found;
}

/* What the process was given, before anybody was pinned. */
static const cpu_set_t *given_cpus(void) {
    static cpu_set_t cpus;
    static bool known;
    if (!known)
        known = !sched_getaffinity(0, sizeof(cpus), &cpus);
    return &cpus;
}

int cpu_count(void) {
    return CPU_COUNT(given_cpus());
}

bool pin_thread(pid_t thread, int cpu_rank) {
    cpu_set_t cpus = *given_cpus();
    for (int cpu = 0, rank = 0; cpu_rank >= 0 && cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &cpus) && rank++ != cpu_rank)
            CPU_CLR(cpu, &cpus);
    return CPU_COUNT(&cpus) && !sched_setaffinity(thread, sizeof(cpus), &cpus);
}
