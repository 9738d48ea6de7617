/* SPDX-License-Identifier: MIT */
#include "freed.h"

#include "fake.h"
#include "fiber.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#ifdef SIM_KEEPS_FREED

enum { BLOCKS_MAX = 1 << 15, GARBAGE = 0xdd };

static struct {
    unsigned char *bytes;
    size_t length;
} blocks[BLOCKS_MAX];
static unsigned block_count;
static bool keeps;

/* The linker's --wrap puts the first in the place of free(). */
void __wrap_free(void *memory);
void __real_free(void *memory);

void __wrap_free(void *memory) {
    if (keeps && fiber_self() != FIBER_NONE && fake_locks_held() && !fake_is_freeing())
        sim_fail(
            "memory is freed under a lock: the allocator's own may be held by a thread that was interrupted, and whose "
            "handler waits for a page");
    if (!memory || !keeps || block_count == BLOCKS_MAX) {
        __real_free(memory);
        return;
    }
    blocks[block_count].bytes = memory;
    blocks[block_count].length = malloc_usable_size(memory);
    memset(memory, GARBAGE, blocks[block_count].length);
    block_count++;
}

void freed_keep(void) {
    keeps = true;
}

void freed_check(void) {
    keeps = false;
    for (unsigned i = 0; i < block_count; i++) {
        for (size_t at = 0; at < blocks[i].length; at++)
            if (blocks[i].bytes[at] != GARBAGE)
                sim_fail("%zu bytes were freed, and one at +%zu was written to afterwards", blocks[i].length, at);
        __real_free(blocks[i].bytes);
    }
    block_count = 0;
}

#else

void freed_keep(void) {
}

void freed_check(void) {
}

#endif
