/* SPDX-License-Identifier: MIT */
/*
 * Members: the copies of a cache that has one for each NUMA node.
 *
 * A member is a cache like any other, of the same store and pool, whose memory is one node's: it has its own file,
 * since CONTINUE maps a page of the file that the view maps. Budget and reclaim know nothing of all this: what is cold
 * on a node is evicted there. What they have in common is here: a fill looks for its pages in the other members before
 * it asks the store, and what is done to the cache is done to all of them. The embedder knows the first one only.
 *
 * Owns: the list of members, fixed while the cache is open, and the count of those who forbid copying. Any thread may
 * enter. Every function takes an ordinary cache too, which is its only member.
 *
 * What may be copied. Whoever fills a page here visits the other member's extent, sees the page PRESENT, and leaves
 * when he has its bytes: as long as he is there it is neither punched nor filled anew. He never waits, neither for an
 * extent that is being evicted nor for a page that is FILLING there; two members that wanted the same page of each
 * other would wait for ever. What is not there now is read from the store.
 *
 * Invalidation. When mnw_invalidate() has returned, no member may bring bytes from before it was called. So copying is
 * barred first, then every member forgets the range, then copying is allowed again:
 *   - A copy taken while the bar is up does not happen: that fill reads the store.
 *   - A copy that looked at the bar before it went up is of a fill that has entered its own extent before it looked.
 * Who puts the bar up drains that extent afterwards, whichever member it is of: he waits for the fill, and throws away
 *     what it brought. It may have left the other member long before; that does not matter.
 *   - The look is a read-modify-write of the same count: either it comes before the bar in the order of that count, and
 *     then the fill is seen in its extent, or it comes behind it, and sees the bar, or that it was taken away, with
 *     all the evictions that came before that.
 *   - The bar goes when the last member has forgotten the range, not the first one: until then that member could be
 *     copied from. An invalidation that fails in one member is made in the others all the same, and leaves the bar as
 * it found it: nobody was promised that the rest is forgotten, and what lies before the place that it names is
 * forgotten in all. A punch that fails leaves its extent RESIDENT with the bytes that it had: the same case.
 *   - Bars are counted: two invalidations may be under way.
 */
#ifndef MNW_ENGINE_MEMBER_H
#define MNW_ENGINE_MEMBER_H

#include "minnow/minnow.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct mnw_cache;
struct mnw_pool;

struct mnw__members {
    _Atomic uint32_t bars; /* invalidations under way: nothing is copied */
    unsigned count;
    struct mnw_cache *list[MNW_NODES_MAX]; /* in the order of their nodes */
};

/* With `options->replicas` a member for each node of the pool, where it has several. `*cache` is the first. */
int mnw__members_open(struct mnw_cache **cache, struct mnw_pool *pool, struct mnw_store *store,
                      const struct mnw_cache_options *options);
/* All or none. */
int mnw__members_close(struct mnw_cache *cache);

unsigned mnw__member_count(const struct mnw_cache *cache);
struct mnw_cache *mnw__member(struct mnw_cache *cache, unsigned index);
/* The one that the embedder knows: by which events name it. */
struct mnw_cache *mnw__member_first(struct mnw_cache *cache);
/* Whose memory is that node's; the first one where there is none. */
struct mnw_cache *mnw__member_of_node(struct mnw_cache *cache, int node);
/* The same for the node of the CPU that the calling thread runs on. */
struct mnw_cache *mnw__member_here(struct mnw_cache *cache);
/* How many members before this one have the page PRESENT. */
unsigned mnw__member_count_before(const struct mnw_cache *cache, uint64_t page);

/*
 * The read of a fill that begins with a whole page, and whose extents are entered: as many bytes of it as the other
 * members have from its beginning on, copied into its buffer. 0: the store is to be asked, for no more than
 * `read->length`, which then ends where another member has more. Waits for nothing; async-signal-safe.
 */
int64_t mnw__member_copy(struct mnw_cache *cache, struct mnw_read *read);

/* mnw__pin_pages(), mnw__unpin_pages() and mnw__reclaim_range() of every member. */
int mnw__members_pin(struct mnw_cache *cache, uint64_t page, uint64_t count);
int mnw__members_unpin(struct mnw_cache *cache, uint64_t page, uint64_t count);
int mnw__members_reclaim(struct mnw_cache *cache, uint64_t page, uint64_t count, uint64_t *stuck);

#endif
