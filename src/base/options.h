/* SPDX-License-Identifier: MIT */
/*
 * Option structs that grow: each begins with its caller's sizeof. Pure.
 *
 * An older caller's struct is shorter: what it lacks is zero, the default. A newer caller's is longer: its tail
 * is accepted only while it asks for nothing.
 */
#ifndef MNW_BASE_OPTIONS_H
#define MNW_BASE_OPTIONS_H

#include "base/error.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

/*
 * Copies the struct at `from` into the `size` bytes at `to`; NULL gives all defaults. -EINVAL for a size that
 * cannot be, -E2BIG for options this library does not know. `what` names the struct in the message.
 */
static inline int mnw__options_copy(void *to, size_t size, const void *from, const char *what) {
    size_t given = size;
    memset(to, 0, size);
    if (from)
        memcpy(&given, from, sizeof(given));
    if (given < sizeof(given) || given > 4096)
        return mnw__fail(-EINVAL, "%s: its size field says %zu; set it to sizeof(struct %s)", what, given, what);
    if (from)
        memcpy(to, from, given < size ? given : size);
    for (size_t i = size; i < given; i++)
        if (((const unsigned char *)from)[i])
            return mnw__fail(-E2BIG, "%s: asks for an option (byte %zu) that this version of minnow does not know",
                             what, i);
    memcpy(to, &size, sizeof(size));
    return 0;
}

#endif
