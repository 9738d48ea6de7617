/* SPDX-License-Identifier: MIT */
/* The bytes of the fake daemon's image, which tell their place and are never zero. Pure. */
#ifndef MNW_TESTS_CLIENT_BYTES_H
#define MNW_TESTS_CLIENT_BYTES_H

#include <stddef.h>
#include <stdint.h>

static inline unsigned char fake_byte(uint64_t offset) {
    uint64_t z = (offset >> 3) * 0x9e3779b97f4a7c15ull + offset;
    return (unsigned char)((z ^ z >> 29 ^ z >> 51) | 1);
}

/* How many of these bytes are wrong. */
static inline size_t fake_wrong(const void *bytes, uint64_t offset, size_t length) {
    size_t wrong = 0;
    for (size_t i = 0; i < length; i++)
        wrong += ((const unsigned char *)bytes)[i] != fake_byte(offset + i);
    return wrong;
}

#endif
