/* SPDX-License-Identifier: MIT */
/*
 * Scenarios on memory that fails under a page of a cache: the page is SIGBUS, its neighbours are not, and once it is
 * invalidated it has other memory.
 */
#include "high.h"

#include "engine/cache.h"

#include <errno.h>
#include <stddef.h>

static void break_page(struct high *high, size_t page) {
    world_break((const char *)high->cache->backing.alias + high_offset(high, page));
    say("the memory of a page fails");
}

/* Nobody has it mapped in the view that touches it. */
static void fails_in(enum mnw_backing kind, unsigned flags, bool is_pinned) {
    struct high high;
    struct mnw_view *view;
    high_open(&high, kind, &(struct high_options){.reads_now = true});
    high_open_view(&high, &view, 0, high.pages, flags);
    high_read(&high, high.view, 1, WORLD_OK, 0);
    high_read(&high, high.view, 2, WORLD_OK, 0);
    if (is_pinned)
        expect_result("pin", mnw_pin(high.cache, high_offset(&high, 1), high.page), 0);
    break_page(&high, 1);
    high_read(&high, view, 1, WORLD_SIGBUS, 0);
    high_event(&high, MNW_EVENT_PAGE_FAILED, -EHWPOISON, 0);
    high_read(&high, view, 1, WORLD_SIGBUS, 0);
    high_read(&high, view, 2, WORLD_OK, 0);
    high_expect_flags(&high, 1, MNW_FAILED | (is_pinned ? MNW_PINNED : 0));
    expect(high_reads_of(&high, 1) == 1, "it was read once");
    if (is_pinned)
        expect_result("unpin", mnw_unpin(high.cache, high_offset(&high, 1), high.page), 0);
    high.version = 1;
    expect_result("invalidate", mnw_invalidate(high.cache, high_offset(&high, 1), high.page), 0);
    high_read(&high, view, 1, WORLD_OK, 1);
    expect_result("the other view closes", mnw_view_close(view), 0);
    high_close(&high);
}

static void plain(enum mnw_backing kind) {
    fails_in(kind, 0, false);
}

static void pinned(enum mnw_backing kind) {
    fails_in(kind, 0, true);
}

static void inline_view(enum mnw_backing kind) {
    fails_in(kind, MNW_VIEW_INLINE, false);
}

const struct scenario scenarios_broken[] = {
    {"memory-fails", ON_ALL | NEEDS_BREAKS, plain},
    {"memory-fails-pinned", ON_ALL | NEEDS_BREAKS, pinned},
    {"memory-fails-inline", ON_ALL | NEEDS_BREAKS, inline_view},
    {0},
};
