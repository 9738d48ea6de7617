/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: files of traces. What is decoded lies inside its store and gives its very bytes when it is encoded;
 * what is refused says why, and holds nothing.
 *
 * The checksum would let nothing else be tried, so each input is looked at as it is, with its checksum put right, and
 * with a header made to fit its length.
 */
#include "fuzz/fuzz.h"

#include "trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static void demand(int condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "fuzz_trace: %s\n", what);
        abort();
    }
}

static void try_bytes(const uint8_t *data, size_t size) {
    struct trace trace;
    const char *why = NULL;
    int error = trace_decode(&trace, data, size, &why);
    demand(error == 0 || error == -EBADMSG || error == -ENOTSUP, "an unknown error");
    if (error) {
        demand(why && *why && !trace.pages && !trace.ends, "refused without a word, or not given back");
        return;
    }
    demand(trace.count && trace.budget_pages && trace.unit_pages, "nothing in it");
    for (uint32_t i = 0; i < trace.count; i++)
        demand(trace.pages[i] < trace.store_pages && trace.ends[i] < TRACE_ENDS, "a read that cannot be");
    size_t again;
    void *bytes = trace_encode(&trace, &again);
    demand(bytes && again == size && !memcmp(bytes, data, size), "encoded, it is another");
    free(bytes);
    trace_free(&trace);
}

static void put(uint8_t *to, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static void seal(uint8_t *bytes, size_t size) {
    put(bytes + 56, XXH64(bytes + TRACE_HEADER, size - TRACE_HEADER, XXH64(bytes, 56, 0)), 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = calloc(1, size ? size : 1); /* exact, so that a sanitizer sees a read behind the end */
    demand(copy != NULL, "out of memory");
    if (size)
        memcpy(copy, data, size);
    try_bytes(copy, size);
    if (size >= TRACE_HEADER) {
        seal(copy, size);
        try_bytes(copy, size);
    }
    free(copy);
    size -= size % 8;
    if (size < TRACE_HEADER)
        return 0;
    copy = malloc(size);
    demand(copy != NULL, "out of memory");
    memcpy(copy, data, size);
    memcpy(copy, "MINNOWTR\1\0\0\0", 12);
    put(copy + 24, (size - TRACE_HEADER) / 8, 8);
    put(copy + 44, 0, 4);
    put(copy + 48, 0, 8);
    seal(copy, size);
    try_bytes(copy, size);
    free(copy);
    return 0;
}
