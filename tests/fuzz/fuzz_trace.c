/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: files of traces. What is decoded lies inside its store and gives its very bytes when it is encoded;
 * what is refused says why, and holds nothing.
 */
#include "fuzz/fuzz.h"
#include "fuzz/sealed.h"

#include "trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void mend(uint8_t *bytes, size_t size) {
    memcpy(bytes, "MINNOWTR\1\0\0\0", 12);
    fuzz_put(bytes + 24, (size - TRACE_HEADER) / 8, 8);
    fuzz_put(bytes + 44, 0, 4);
    fuzz_put(bytes + 48, 0, 8);
}

_Static_assert(TRACE_HEADER == FUZZ_HEADER, "the header is another");

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_sealed(data, size, try_bytes, mend);
    return 0;
}
