/* SPDX-License-Identifier: MIT */
/* /proc/PID/maps, read line by line. Owns nothing; any thread but a fault thread may enter. */
#include "sys/process.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

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
