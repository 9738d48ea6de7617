/* SPDX-License-Identifier: MIT */
#include "model/policy_reference.h"

#include <assert.h>
#include <string.h>

static void append(struct reference_list *list, uint32_t extent) {
    assert(list->length < REFERENCE_EXTENTS);
    list->extents[list->length++] = extent;
}

static bool drop(struct reference_list *list, uint32_t extent) {
    for (unsigned i = 0; i < list->length; i++)
        if (list->extents[i] == extent) {
            list->length--;
            memmove(&list->extents[i], &list->extents[i + 1], (list->length - i) * sizeof(list->extents[0]));
            return true;
        }
    return false;
}

static void drop_everywhere(struct reference *reference, uint32_t extent) {
    if (!drop(&reference->main, extent) && !drop(&reference->small, extent))
        drop(&reference->held, extent);
}

/* What was put back was pinned, hence unwatched. */
static void release(struct reference *reference) {
    while (reference->held.length) {
        uint32_t extent = reference->held.extents[0];
        drop(&reference->held, extent);
        reference->armed[extent] = false;
        append(&reference->main, extent);
    }
}

void reference_init(struct reference *reference, bool s3fifo) {
    memset(reference, 0, sizeof(*reference));
    reference->s3fifo = s3fifo;
}

unsigned reference_count(const struct reference *reference) {
    return reference->main.length + reference->small.length + reference->held.length;
}

/* Forgets the failure of an extent that comes back; tells how many others have failed since, or UINT_MAX. */
static unsigned failures_since(struct reference *reference, uint32_t extent) {
    for (unsigned i = reference->failure_count; i-- > 0;)
        if (reference->failures[i] == extent) {
            reference->failures[i] = UINT32_MAX;
            return reference->failure_count - 1 - i;
        }
    return UINT32_MAX;
}

void reference_insert(struct reference *reference, uint32_t extent) {
    unsigned count = reference_count(reference), main_share = count - count / 10;
    bool known = failures_since(reference, extent) < main_share;
    reference->armed[extent] = false;
    append(!reference->s3fifo || known ? &reference->main : &reference->small, extent);
}

static struct reference_list *turn(struct reference *reference, unsigned armed_in_small) {
    if (!reference->main.length)
        return &reference->small;
    if (reference->small.length <= armed_in_small)
        return &reference->main;
    return reference->small.length * 10 >= reference_count(reference) ? &reference->small : &reference->main;
}

static unsigned asks_allowed(const struct reference *reference) {
    unsigned twice = reference_count(reference) * 2;
    return twice < MNW__POLICY_ASKS_MAX ? twice : MNW__POLICY_ASKS_MAX;
}

bool reference_pick(struct reference *reference, mnw__policy_recent *recent, void *context, uint32_t *extent) {
    unsigned armed_in_small = 0;
    if (!reference_count(reference))
        return false;
    if (!reference->main.length && !reference->small.length)
        release(reference);
    for (unsigned asks = asks_allowed(reference);; asks--) {
        struct reference_list *list = turn(reference, armed_in_small);
        uint32_t candidate = list->extents[0];
        bool judged = reference->armed[candidate];
        if (!asks || (!recent(context, candidate) && judged)) {
            drop(list, candidate);
            if (list == &reference->small) {
                assert(reference->failure_count < REFERENCE_FAILURES);
                reference->failures[reference->failure_count++] = candidate;
            }
            release(reference);
            *extent = candidate;
            return true;
        }
        drop(list, candidate);
        armed_in_small += !judged && list == &reference->small;
        reference->armed[candidate] = true;
        append(judged ? &reference->main : list, candidate);
    }
}

/* Whoever comes back, by whatever way, is no ghost any more. */
void reference_put_back(struct reference *reference, uint32_t extent) {
    failures_since(reference, extent);
    append(&reference->held, extent);
}

void reference_remove(struct reference *reference, uint32_t extent) {
    drop_everywhere(reference, extent);
}
