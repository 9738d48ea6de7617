/* SPDX-License-Identifier: MIT */
/*
 * Adoption: words that outlive their process, and taking over what a process has left behind.
 *
 * Owns: the layout of kept words, and the walk that proves them. Everything here happens while a cache is opened,
 * on the opener's thread, before anybody else knows the cache. Never reads a page's bytes.
 */
#ifndef MNW_ENGINE_ADOPT_H
#define MNW_ENGINE_ADOPT_H

#include "minnow/minnow.h"

#include <stdbool.h>
#include <stdint.h>

struct mnw_cache;

/*
 * Memory for the words of a cache whose geometry and backing are known: its own, kept for the next process, or, from
 * `options->kept`, that of the last one. -ESTALE: that is of something else.
 */
int mnw__words_open(struct mnw_cache *cache, const struct mnw_cache_options *options);
void mnw__words_close(struct mnw_cache *cache);
/* The words remember whether there are views that wrote; see mnw__cache_is_copied(). Without kept words: nothing. */
void mnw__words_note_copies(struct mnw_cache *cache, bool exist);
bool mnw__words_tell_copies(const struct mnw_cache *cache);
uint64_t mnw__words_bytes(const struct mnw_cache *cache);
/*
 * The first extent in [extent, end) that may have been touched; `end`: none. Kept words are a sparse file, and looking
 * at a word where it has none gives it memory.
 */
uint64_t mnw__words_next_extent(const struct mnw_cache *cache, uint64_t extent, uint64_t end);

/* `is_known`: the words are the last owner's. Proves the words against the backing, page by page; takes away what
 * memory is not proven; gives extents to the policy. */
int mnw__adopt(struct mnw_cache *cache, bool is_known);

/*
 * Calls `each` for every page that is SCARRED: views of other processes that were attached before, to us or to whoever
 * had the cache before us, may bar it still.
 */
int mnw__each_scar(struct mnw_cache *cache, void (*each)(void *context, uint64_t page), void *context);

#endif
