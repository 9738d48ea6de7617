/* SPDX-License-Identifier: MIT */
/*
 * A limit on faults a second, which one view or many have in common: all of a peer's, and those of its children.
 *
 * Owns: what may still be spent, in one atomic word. Any thread; nothing here waits, allocates (but for new) or asks
 * the kernel.
 */
#ifndef MNW_ENGINE_LIMIT_H
#define MNW_ENGINE_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

struct mnw_limit;

/* With one reference; NULL: no memory. `per_second` is not 0. */
struct mnw_limit *mnw__limit_new(uint32_t per_second);
struct mnw_limit *mnw__limit_ref(struct mnw_limit *limit);
/* The last one frees it; NULL: nothing. */
void mnw__limit_unref(struct mnw_limit *limit);

/*
 * How many of `count` faults may be served now. 0: none, and the next turn of whoever asks comes in `*wait_ns`; he asks
 * again then with `had_turn`, and until he has been served, and gets one at least. He holds a reference.
 */
int mnw__limit_ask(struct mnw_limit *limit, uint64_t now_ns, int count, bool had_turn, uint64_t *wait_ns);
/* They were served; what is negative is given back. Something may be owed afterwards: for turns, or when several asked
 * at once. */
void mnw__limit_pay(struct mnw_limit *limit, int count);

#endif
