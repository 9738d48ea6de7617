/* SPDX-License-Identifier: MIT */
#include "engine/follow.h"

#include "base/bits.h"
#include "sys/thread.h"

/* So many faults in a row make a faulter a lone one. */
#define STREAK 4
/* A look costs 5 microseconds and a move 50: at this distance neither shows, however often the faulter moves. */
#define LOOK_NS 2000000ull
/* Longer than a reader takes for a window of readahead. */
#define DEFER_NS 20000000ull
/* Who computes here has the CPU for longer. Some faulters have, too: they need not be served the sooner. */
#define KEPT_NS 1000000ull
/* At these distances what somebody else may keep the CPU for, some milliseconds, does not show either. */
#define PATIENCE_MIN_NS 20000000ull
#define PATIENCE_MAX_NS 3200000000ull
/* So slowly is it forgotten: where somebody computes it is not every time his turn. */
#define PATIENCE_SHARE 64

static void forget(struct mnw__follow *follow) {
    follow->streak = 0;
    follow->is_beside = follow->has_served = false;
}

static void look(struct mnw__follow *follow, uint64_t now_ns) {
    follow->look_ns = now_ns + LOOK_NS;
    int cpu = mnw__thread_cpu_of(follow->faulter);
    follow->is_beside = cpu >= 0 && mnw__thread_move_to(cpu);
}

void mnw__follow_note(struct mnw__follow *follow, uint32_t thread_id, uint64_t now_ns) {
    if (!thread_id || thread_id != follow->faulter) {
        follow->faulter = thread_id;
        forget(follow);
        return;
    }
    if (++follow->streak >= STREAK && now_ns >= follow->look_ns)
        look(follow, now_ns);
    follow->has_served = follow->is_beside;
}

void mnw__follow_defer(struct mnw__follow *follow, uint64_t now_ns) {
    forget(follow);
    follow->look_ns = now_ns + DEFER_NS;
}

void mnw__follow_give_way(struct mnw__follow *follow) {
    if (!follow->has_served)
        return;
    uint64_t begin_ns = mnw__clock_ns();
    follow->has_served = false;
    if (begin_ns < follow->patient_from_ns)
        return;
    mnw__thread_yield();
    uint64_t end_ns = mnw__clock_ns();
    if (end_ns - begin_ns < KEPT_NS) {
        follow->patience_ns -= follow->patience_ns / PATIENCE_SHARE;
        return;
    }
    follow->patience_ns = mnw__min(mnw__max(2 * follow->patience_ns, PATIENCE_MIN_NS), PATIENCE_MAX_NS);
    follow->patient_from_ns = end_ns + follow->patience_ns;
}
