/* SPDX-License-Identifier: MIT */
/* What a run ran on: everything that changes its numbers and can be asked for. Owns nothing; one thread enters. */
#ifndef MNW_BENCH_FINGERPRINT_H
#define MNW_BENCH_FINGERPRINT_H

#include <jansson.h>

/* A new object, as things are now. */
json_t *fingerprint_take(void);
/* A line or two for people. */
void fingerprint_print(const json_t *fingerprint);

#endif
