/* SPDX-License-Identifier: MIT */
/*
 * Traces of reads, as minnow-bench records them: docs/traces.md. A struct trace owns its arrays. A file comes from
 * anybody: decoding looks at every byte before anything else uses it.
 */
#ifndef MNW_BENCH_TRACE_H
#define MNW_BENCH_TRACE_H

#include <stddef.h>
#include <stdint.h>

#define TRACE_HEADER    64
#define TRACE_STORE_MAX (1u << 30) /* pages */
#define TRACE_READS_MAX UINT32_C(0x7fffffff)

/* What the cache that it was recorded on did about a read. */
enum trace_end {
    TRACE_UNSEEN,  /* nothing: the page was mapped */
    TRACE_MINOR,   /* a fault of a page that was in memory */
    TRACE_MISSING, /* a miss */
    TRACE_ENDS
};

struct trace {
    uint32_t page_bytes, store_pages;
    uint32_t budget_pages, unit_pages; /* of the cache it was recorded on */
    uint32_t count;
    uint32_t *pages; /* by read */
    uint8_t *ends;   /* enum trace_end */
};

/* Room for `count` reads. 0, or -ENOMEM. */
int trace_reserve(struct trace *trace, uint32_t count);
void trace_free(struct trace *trace);

/* 0; -EBADMSG, -ENOTSUP, -ENOMEM, and why in `*why`. */
int trace_decode(struct trace *trace, const void *bytes, size_t size, const char **why);
/* The bytes of a file, which the caller frees; NULL: no memory. */
void *trace_encode(const struct trace *trace, size_t *size);

/* The same of files; errors are told on the standard error. */
int trace_load(struct trace *trace, const char *path);
int trace_save(const struct trace *trace, const char *path);

#endif
