/* SPDX-License-Identifier: MIT */
/* What every public function checks of its handles. Pure, but for asking which process this is. */
#ifndef MNW_API_HANDLE_H
#define MNW_API_HANDLE_H

#include "engine/cache.h"
#include "engine/pool.h"
#include "engine/view.h"

#include <stdbool.h>

/* 0; -EINVAL for NULL; -EOWNERDEAD in a child of the process that opened it. `call` is for the message. */
int mnw__check_pool(const struct mnw_pool *pool, const char *call);
int mnw__check_cache(const struct mnw_cache *cache, const char *call);
int mnw__check_view(const struct mnw_view *view, const char *call);

/* A range of whole pages inside the cache, as page numbers. -EINVAL with a message. */
int mnw__check_range(const struct mnw_cache *cache, uint64_t offset, uint64_t length, const char *call, uint64_t *page,
                     uint64_t *count);

#endif
