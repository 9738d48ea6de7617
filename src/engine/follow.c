/* SPDX-License-Identifier: MIT */
#include "engine/follow.h"

#include "sys/thread.h"

/* So many faults in a row make a faulter a lone one. */
#define STREAK 4
/* A look costs 5 microseconds and a move 50: at this distance neither shows, however often the faulter moves. */
#define LOOK_NS 2000000ull
/* Longer than a reader takes for a window of readahead. */
#define DEFER_NS 20000000ull

void mnw__follow_note(struct mnw__follow *follow, uint32_t thread_id, uint64_t now_ns) {
    if (!thread_id || thread_id != follow->faulter) {
        follow->faulter = thread_id;
        follow->streak = 0;
        return;
    }
    if (++follow->streak < STREAK || now_ns < follow->look_ns)
        return;
    follow->look_ns = now_ns + LOOK_NS;
    int cpu = mnw__thread_cpu_of(thread_id);
    if (cpu >= 0)
        mnw__thread_move_to(cpu);
}

void mnw__follow_defer(struct mnw__follow *follow, uint64_t now_ns) {
    follow->streak = 0;
    follow->look_ns = now_ns + DEFER_NS;
}
