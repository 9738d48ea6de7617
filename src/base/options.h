/* SPDX-License-Identifier: MIT */
/*
 * Option structs that grow: each begins with its caller's sizeof. Pure.
 *
 * An older caller's struct is shorter: what it lacks is zero, the default. A newer caller's is longer: its tail
 * is accepted only while it asks for nothing.
 */
#ifndef MNW_BASE_OPTIONS_H
#define MNW_BASE_OPTIONS_H

#include <stddef.h>

/*
 * Copies the struct at `from` into the `size` bytes at `to`; NULL gives all defaults. -EINVAL for a size that
 * cannot be, -E2BIG for options this library does not know. `what` names the struct in the message.
 */
int mnw__options_copy(void *to, size_t size, const void *from, const char *what);

#endif
