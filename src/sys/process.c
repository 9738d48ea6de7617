/* SPDX-License-Identifier: MIT */
/* /proc/PID/maps, read line by line. Owns nothing; any thread but a fault thread may enter. */
#include "sys/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct line {
    uintptr_t start, end;
    char permissions[5];
    uint64_t offset;
    unsigned major, minor;
    uint64_t inode;
};

struct wanted {
    uintptr_t address, end;
    uint64_t device, inode;
    uint64_t offset;
    bool may_write;
};

static bool parse(const char *text, struct line *line) {
    return sscanf(text, "%" SCNxPTR "-%" SCNxPTR " %4s %" SCNx64 " %x:%x %" SCNu64, &line->start, &line->end,
                  line->permissions, &line->offset, &line->major, &line->minor, &line->inode) == 7;
}

/* Is this mapping, which holds wanted->address, what was said? */
static enum mnw__mapped judge(const struct line *line, const struct wanted *wanted) {
    if (line->inode != wanted->inode || line->major != major(wanted->device) || line->minor != minor(wanted->device))
        return MNW__MAPPED_OTHER_FILE;
    if (line->offset + (wanted->address - line->start) != wanted->offset)
        return MNW__MAPPED_OTHER_OFFSET;
    if (line->permissions[3] != 'p')
        return MNW__MAPPED_SHARED;
    return line->permissions[1] == 'w' && !wanted->may_write ? MNW__MAPPED_WRITABLE : MNW__MAPPED_AS_SAID;
}

/* The mappings of the range lie one behind the other; the lines are sorted. */
static enum mnw__mapped scan(FILE *maps, struct wanted *wanted) {
    enum mnw__mapped result = MNW__MAPPED_AS_SAID;
    char *text = NULL;
    size_t size = 0;
    struct line line;
    while (result == MNW__MAPPED_AS_SAID && wanted->address < wanted->end && getline(&text, &size, maps) > 0) {
        if (!parse(text, &line) || line.end <= wanted->address)
            continue;
        result = line.start > wanted->address ? MNW__MAPPED_NOTHING : judge(&line, wanted);
        wanted->offset += line.end - wanted->address;
        wanted->address = line.end;
    }
    free(text);
    if (result == MNW__MAPPED_AS_SAID && wanted->address < wanted->end)
        return MNW__MAPPED_NOTHING;
    return result;
}

enum mnw__mapped mnw__process_maps_file(pid_t pid, uintptr_t address, size_t length, uint64_t device, uint64_t inode,
                                        uint64_t offset, bool may_write) {
    struct wanted wanted = {.address = address,
                            .end = address + length,
                            .device = device,
                            .inode = inode,
                            .offset = offset,
                            .may_write = may_write};
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    if (!maps)
        return MNW__MAPPED_UNSEEN;
    /* Who may not look gets an error or nothing at the first read. */
    int first = getc(maps);
    enum mnw__mapped result = MNW__MAPPED_UNSEEN;
    if (first != EOF) {
        ungetc(first, maps);
        result = scan(maps, &wanted);
    }
    fclose(maps);
    return result;
}

enum mnw__mapped mnw__process_maps(pid_t pid, uintptr_t address, size_t length, int fd, uint64_t offset,
                                   bool may_write) {
    struct stat file;
    if (fstat(fd, &file))
        return MNW__MAPPED_UNSEEN;
    return mnw__process_maps_file(pid, address, length, file.st_dev, file.st_ino, offset, may_write);
}

/* ---- our own, without the C library's streams ---- */

/* A number of /proc, and the one character behind it. */
static uint64_t take_number(const char **text, unsigned base) {
    uint64_t number = 0;
    for (;; (*text)++) {
        char c = **text;
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                                                : 99;
        if (digit >= base)
            break;
        number = number * base + digit;
    }
    *text += **text != '\0';
    return number;
}

/* START-END PERM OFFSET MAJOR:MINOR INODE */
static struct mnw__own_mapping parse_own(const char *text) {
    struct mnw__own_mapping mapping;
    mapping.start = take_number(&text, 16);
    mapping.end = take_number(&text, 16);
    for (int i = 0; i < 5 && *text; i++, text++)
        if (i == 3)
            mapping.is_private = *text == 'p';
    mapping.offset = take_number(&text, 16);
    unsigned device_major = (unsigned)take_number(&text, 16), device_minor = (unsigned)take_number(&text, 16);
    mapping.device = makedev(device_major, device_minor);
    mapping.inode = take_number(&text, 10);
    return mapping;
}

int mnw__process_own_mappings(void (*each)(void *context, const struct mnw__own_mapping *mapping), void *context) {
    char head[128], bytes[2048]; /* the beginning of a line; its name may be longer */
    size_t used = 0;
    ssize_t count;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    while ((count = read(fd, bytes, sizeof(bytes))) > 0 || (count < 0 && errno == EINTR))
        for (ssize_t i = 0; i < count; i++) {
            if (bytes[i] != '\n') {
                if (used < sizeof(head) - 1)
                    head[used++] = bytes[i];
                continue;
            }
            head[used] = '\0';
            used = 0;
            struct mnw__own_mapping mapping = parse_own(head);
            each(context, &mapping);
        }
    int error = count < 0 ? -errno : 0;
    close(fd);
    return error;
}
