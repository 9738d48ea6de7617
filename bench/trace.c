/* SPDX-License-Identifier: MIT */
#include "trace.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define VERSION        1
#define RECORD         8
#define PAGE_BYTES_MAX (1u << 30)
#define PAGE_BITS      40 /* of a record; above them how the read ended */

static const char magic[8] = {'M', 'I', 'N', 'N', 'O', 'W', 'T', 'R'};

struct header {
    char magic[8];
    uint32_t version, page_bytes;
    uint64_t store_pages, reads, budget_pages;
    uint32_t unit_pages, reserved;
    uint64_t reserved_too, checksum; /* of all other bytes, header first */
};
_Static_assert(sizeof(struct header) == TRACE_HEADER, "as it lies in the file");

int trace_reserve(struct trace *trace, uint32_t count) {
    trace->count = count;
    trace->pages = calloc((size_t)count + 1, sizeof(trace->pages[0]));
    trace->ends = calloc((size_t)count + 1, 1);
    if (trace->pages && trace->ends)
        return 0;
    trace_free(trace);
    return -ENOMEM;
}

void trace_free(struct trace *trace) {
    free(trace->pages);
    free(trace->ends);
    trace->pages = NULL;
    trace->ends = NULL;
    trace->count = 0;
}

static uint64_t checksum(const unsigned char *bytes, size_t size) {
    uint64_t of_header = XXH64(bytes, offsetof(struct header, checksum), 0);
    return XXH64(bytes + TRACE_HEADER, size - TRACE_HEADER, of_header);
}

/* In the order in which they are looked at: nothing is believed that was not checked. */
static const char *what_is_wrong(const struct header *header, const unsigned char *bytes, size_t size) {
    uint32_t page_bytes = le32toh(header->page_bytes);
    uint64_t store = le64toh(header->store_pages), reads = le64toh(header->reads);
    if (page_bytes < 4096 || page_bytes > PAGE_BYTES_MAX || (page_bytes & (page_bytes - 1)))
        return "its page size is not a power of two from 4 KiB to 1 GiB";
    if (!store || store > TRACE_STORE_MAX)
        return "its store has no pages, or more than 2^30";
    if (!reads || reads > TRACE_READS_MAX || size != TRACE_HEADER + reads * RECORD)
        return "it is not as long as its number of reads says";
    if (!le64toh(header->budget_pages) || le64toh(header->budget_pages) > TRACE_STORE_MAX)
        return "its budget has no pages, or more than 2^30";
    if (!le32toh(header->unit_pages) || le32toh(header->unit_pages) > store)
        return "its unit of eviction has no pages, or more than the store";
    if (header->reserved || header->reserved_too)
        return "reserved bytes are not zero";
    if (le64toh(header->checksum) != checksum(bytes, size))
        return "its checksum is wrong: it was damaged, or cut and mended";
    return NULL;
}

static int refuse(int error, const char **why, const char *what) {
    *why = what;
    return error;
}

static bool take_reads(struct trace *trace, const unsigned char *records) {
    for (uint32_t i = 0; i < trace->count; i++) {
        uint64_t record;
        memcpy(&record, records + (size_t)i * RECORD, RECORD);
        record = le64toh(record);
        uint64_t page = record & ((UINT64_C(1) << PAGE_BITS) - 1), end = record >> PAGE_BITS;
        if (page >= trace->store_pages || end >= TRACE_ENDS)
            return false;
        trace->pages[i] = (uint32_t)page;
        trace->ends[i] = (uint8_t)end;
    }
    return true;
}

int trace_decode(struct trace *trace, const void *bytes, size_t size, const char **why) {
    struct header header;
    *trace = (struct trace){0};
    if (size < TRACE_HEADER || memcmp(bytes, magic, sizeof(magic)))
        return refuse(-EBADMSG, why, "it is no trace of minnow-bench");
    memcpy(&header, bytes, sizeof(header));
    if (le32toh(header.version) != VERSION)
        return refuse(-ENOTSUP, why, "it is of a version that this minnow-bench does not know");
    const char *wrong = what_is_wrong(&header, bytes, size);
    if (wrong)
        return refuse(-EBADMSG, why, wrong);
    trace->page_bytes = le32toh(header.page_bytes);
    trace->store_pages = (uint32_t)le64toh(header.store_pages);
    trace->budget_pages = (uint32_t)le64toh(header.budget_pages);
    trace->unit_pages = le32toh(header.unit_pages);
    if (trace_reserve(trace, (uint32_t)le64toh(header.reads)))
        return refuse(-ENOMEM, why, "there is no memory for its reads");
    if (take_reads(trace, (const unsigned char *)bytes + TRACE_HEADER))
        return 0;
    trace_free(trace);
    return refuse(-EBADMSG, why, "a read lies behind its store, or ended in no known way");
}

void *trace_encode(const struct trace *trace, size_t *size) {
    *size = TRACE_HEADER + (size_t)trace->count * RECORD;
    unsigned char *bytes = malloc(*size);
    if (!bytes)
        return NULL;
    struct header header = {.version = htole32(VERSION),
                            .page_bytes = htole32(trace->page_bytes),
                            .store_pages = htole64(trace->store_pages),
                            .reads = htole64(trace->count),
                            .budget_pages = htole64(trace->budget_pages),
                            .unit_pages = htole32(trace->unit_pages)};
    memcpy(header.magic, magic, sizeof(magic));
    for (uint32_t i = 0; i < trace->count; i++) {
        uint64_t record = htole64(trace->pages[i] | (uint64_t)trace->ends[i] << PAGE_BITS);
        memcpy(bytes + TRACE_HEADER + (size_t)i * RECORD, &record, RECORD);
    }
    memcpy(bytes, &header, sizeof(header));
    header.checksum = htole64(checksum(bytes, *size));
    memcpy(bytes, &header, sizeof(header));
    return bytes;
}

/* ---- files ---- */

static int tell(const char *path, int error, const char *why) {
    fprintf(stderr, "minnow-bench: %s: %s\n", path, why);
    return error;
}

static int read_whole(const char *path, void **bytes, size_t *size) {
    FILE *file = fopen(path, "re");
    struct stat status;
    if (!file || fstat(fileno(file), &status)) {
        int error = -errno;
        if (file)
            fclose(file);
        return tell(path, error, strerror(-error));
    }
    *size = (size_t)status.st_size;
    int error = S_ISREG(status.st_mode) ? 0 : tell(path, -EBADMSG, "it is no regular file");
    if (!error && *size > TRACE_HEADER + (uint64_t)TRACE_READS_MAX * RECORD)
        error = tell(path, -EBADMSG, "it is longer than any trace");
    if (!error && !(*bytes = malloc(*size + 1)))
        error = tell(path, -ENOMEM, "there is no memory to read it into");
    if (!error && fread(*bytes, 1, *size, file) != *size)
        error = tell(path, -EIO, "it could not be read whole");
    fclose(file);
    if (error)
        free(*bytes);
    return error;
}

int trace_load(struct trace *trace, const char *path) {
    void *bytes = NULL;
    size_t size = 0;
    const char *why;
    int error = read_whole(path, &bytes, &size);
    if (error)
        return error;
    error = trace_decode(trace, bytes, size, &why);
    free(bytes);
    return error ? tell(path, error, why) : 0;
}

/* Writes them and closes the file; half of them on a full disk are nobody's trace, and go. */
static int write_whole(FILE *file, const char *path, const void *bytes, size_t size) {
    struct stat status;
    bool is_file = !fstat(fileno(file), &status) && S_ISREG(status.st_mode);
    int error = fwrite(bytes, 1, size, file) == size ? 0 : -errno;
    if (fclose(file) && !error)
        error = -errno;
    if (error && is_file)
        unlink(path);
    return error;
}

int trace_save(const struct trace *trace, const char *path) {
    size_t size;
    void *bytes = trace_encode(trace, &size);
    if (!bytes)
        return tell(path, -ENOMEM, "there is no memory to write it from");
    FILE *file = fopen(path, "we");
    int error = file ? write_whole(file, path, bytes, size) : -errno;
    free(bytes);
    return error ? tell(path, error, strerror(-error)) : 0;
}
