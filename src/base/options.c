/* SPDX-License-Identifier: MIT */
/* Copying option structs of other sizes. Owns nothing; any thread may enter; allocates nothing. */
#include "base/options.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

/* No struct of ours comes near it: a larger size field was never set. */
#define OPTIONS_MAX 4096

int mnw__options_copy(void *to, size_t size, const void *from, const char *what) {
    size_t given = size;
    memset(to, 0, size);
    if (from)
        memcpy(&given, from, sizeof(given));
    if (given < sizeof(given) || given > OPTIONS_MAX)
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
