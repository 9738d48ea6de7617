/* SPDX-License-Identifier: MIT */
/*
 * minnow's own policies on a trace: src/policy as it is linked into the engine, asked as the engine asks it.
 *
 * Asking whether a unit was used unmaps it, so that its next read is a fault, which is seen; those after it are not.
 * That is one bit. What the engine has besides is not here: readahead, the share that it keeps free, several threads.
 * Pure.
 */
#include "offline_private.h"
#include "policy/policy.h"

#include <stdlib.h>

struct seen {
    struct mnw__policy policy;
    bool *used; /* by unit: read since it was asked about, or came */
    struct mnw__policy_node nodes[];
};

static bool open_seen(struct offline *offline, const struct mnw__policy_ops *ops) {
    if (offline->unit_count > MNW__POLICY_EXTENTS_MAX)
        return false;
    struct seen *seen = calloc(1, sizeof(*seen) + offline->unit_count * sizeof(seen->nodes[0]));
    offline->own = seen;
    if (!seen)
        return false;
    mnw__policy_init(&seen->policy, ops, seen->nodes, offline->unit_count);
    seen->used = calloc(offline->unit_count, 1);
    return seen->used != NULL;
}

static bool open_clock(struct offline *offline) {
    return open_seen(offline, &mnw__policy_clock);
}

static bool open_s3fifo(struct offline *offline) {
    return open_seen(offline, &mnw__policy_s3fifo);
}

static void close_seen(struct offline *offline) {
    struct seen *seen = offline->own;
    if (seen)
        free(seen->used);
    free(seen);
}

static void insert(struct offline *offline, uint32_t unit) {
    struct seen *seen = offline->own;
    mnw__policy_insert(&seen->policy, unit);
    seen->used[unit] = true;
}

static void use(struct offline *offline, uint32_t unit) {
    struct seen *seen = offline->own;
    seen->used[unit] = true;
}

static bool ask(void *context, uint32_t unit) {
    struct seen *seen = context;
    bool used = seen->used[unit];
    seen->used[unit] = false;
    return used;
}

static uint32_t evict(struct offline *offline) {
    struct seen *seen = offline->own;
    uint32_t unit = OFFLINE_NOBODY;
    mnw__policy_pick(&seen->policy, ask, seen, &unit); /* there is one */
    return unit;
}

const struct offline_ops offline_minnow_clock = {
    .name = "minnow CLOCK", .open = open_clock, .close = close_seen, .insert = insert, .use = use, .evict = evict};
const struct offline_ops offline_minnow_s3fifo = {
    .name = "minnow S3-FIFO", .open = open_s3fifo, .close = close_seen, .insert = insert, .use = use, .evict = evict};
