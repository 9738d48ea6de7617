/* SPDX-License-Identifier: MIT */
/*
 * The eviction policies once more, as naive as can be: lists are arrays, ghosts a list of failures. Slow, and
 * written from the description, not from the code it is compared with.
 */
#ifndef MNW_TESTS_MODEL_POLICY_REFERENCE_H
#define MNW_TESTS_MODEL_POLICY_REFERENCE_H

#include "policy/policy.h"

enum { REFERENCE_EXTENTS = 256, REFERENCE_FAILURES = 1 << 16 };

/* Oldest first. */
struct reference_list {
    uint32_t extents[REFERENCE_EXTENTS];
    unsigned length;
};

struct reference {
    bool s3fifo;
    struct reference_list main, small, held;
    bool armed[REFERENCE_EXTENTS];
    uint32_t failures[REFERENCE_FAILURES]; /* extents that failed the trial, in order; UINT32_MAX: came back */
    unsigned failure_count;
};

void reference_init(struct reference *reference, bool s3fifo);
unsigned reference_count(const struct reference *reference);
void reference_insert(struct reference *reference, uint32_t extent);
bool reference_pick(struct reference *reference, mnw__policy_recent *recent, void *context, uint32_t *extent);
void reference_put_back(struct reference *reference, uint32_t extent);
void reference_remove(struct reference *reference, uint32_t extent);

#endif
