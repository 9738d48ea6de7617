/* SPDX-License-Identifier: MIT */
/*
 * What every user of the library calls, a client without an engine too. Owns nothing; any thread may enter.
 */
#include "base/error.h"
#include "minnow/minnow.h"

#define MNW_STRING_(text) #text
#define MNW_STRING(text)  MNW_STRING_(text)

const char *mnw_version(void) {
    return MNW_STRING(MNW_VERSION_MAJOR) "." MNW_STRING(MNW_VERSION_MINOR) "." MNW_STRING(MNW_VERSION_PATCH);
}

const char *mnw_error(void) {
    return mnw__fail_message();
}
