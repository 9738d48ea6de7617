/* SPDX-License-Identifier: MIT */
/*
 * Fuzzing files that begin with a header of 64 bytes, of which the last 8 are a checksum of all others (XXH64). It
 * would let nothing else be tried, so each input is looked at as it is, with its checksum put right, and with a header
 * made to fit the rest. Owns nothing.
 */
#ifndef MNW_TESTS_FUZZ_SEALED_H
#define MNW_TESTS_FUZZ_SEALED_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define FUZZ_HEADER 64

static inline void fuzz_put(uint8_t *to, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static inline void fuzz_seal(uint8_t *bytes, size_t size) {
    fuzz_put(bytes + 56, XXH64(bytes + FUZZ_HEADER, size - FUZZ_HEADER, XXH64(bytes, 56, 0)), 8);
}

/* Of its exact size, so that a sanitizer sees a read behind the end. */
static inline uint8_t *fuzz_copy(const uint8_t *data, size_t size) {
    uint8_t *copy = calloc(1, size ? size : 1);
    if (!copy)
        abort();
    if (size)
        memcpy(copy, data, size);
    return copy;
}

static inline void fuzz_sealed(const uint8_t *data, size_t size, void (*try_bytes)(const uint8_t *bytes, size_t size),
                               void (*mend)(uint8_t *bytes, size_t size)) {
    uint8_t *copy = fuzz_copy(data, size);
    try_bytes(copy, size);
    if (size >= FUZZ_HEADER) {
        fuzz_seal(copy, size);
        try_bytes(copy, size);
    }
    free(copy);
    size -= size % 8;
    if (size < FUZZ_HEADER)
        return;
    copy = fuzz_copy(data, size);
    mend(copy, size);
    fuzz_seal(copy, size);
    try_bytes(copy, size);
    free(copy);
}

#endif
