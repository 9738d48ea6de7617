/* SPDX-License-Identifier: MIT */
#include "fiber.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#ifdef WITH_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

enum { STACK_BYTES = 256 << 10, SWITCHES_MAX = 20000000 };

enum state { UNUSED, READY, BLOCKED, ENDED };

struct fiber {
    ucontext_t context;
    enum state state;
    char name[24];
    int node, process;
    bool killed;
    unsigned weight;
    void (*run)(void *);
    void *argument;
    const void *channel;
    const char *what;
    uint64_t deadline;
    bool woken;
    char *stack;
    void *fake_stack;
};

static struct {
    struct fiber fibers[FIBERS_MAX];
    int count, current;
    ucontext_t main;
    void *main_fake_stack;
    const void *main_stack;
    size_t main_stack_bytes;
    uint64_t now, seed, digest, switches;
    unsigned switch_per_1024;
    bool trace;
    struct random random;
    void (*describe)(void);
    void (*died)(int process);
    struct {
        int process;
        const char *label;
        uint64_t points;
        const char *hit; /* while it dies of that: the label */
    } doom;
} sim = {.current = FIBER_NONE};

/* ---- failing and tracing ------------------------------------------------------------------------------- */

static void describe_fibers(void) {
    for (int i = 0; i < sim.count; i++) {
        const struct fiber *fiber = &sim.fibers[i];
        if (fiber->state == ENDED)
            continue;
        fprintf(stderr, "  %s %-20s", i == sim.current ? "*" : " ", fiber->name);
        if (fiber->state == BLOCKED) {
            fprintf(stderr, " waits: %s", fiber->what);
            if (fiber->deadline != FIBER_FOREVER)
                fprintf(stderr, ", until %.6f s", (double)fiber->deadline / 1e9);
        } else {
            fprintf(stderr, " ready%s%s", fiber->what ? ", last at " : "", fiber->what ? fiber->what : "");
        }
        fputc('\n', stderr);
    }
}

_Noreturn void sim_fail(const char *format, ...) {
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "seed %llu FAILED at %.6f s in %s: ", (unsigned long long)sim.seed, (double)sim.now / 1e9,
            sim.current == FIBER_NONE ? "main" : sim.fibers[sim.current].name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    describe_fibers();
    if (sim.describe) {
        void (*describe)(void) = sim.describe;
        sim.describe = NULL; /* it may fail itself */
        describe();
    }
    fflush(stderr);
    _exit(1);
}

void sim_on_failure(void (*describe)(void)) {
    sim.describe = describe;
}

bool sim_is_tracing(void) {
    return sim.trace;
}

void sim_trace_line(const char *format, ...) {
    va_list arguments;
    printf("%14.6f %-16s ", (double)sim.now / 1e6, sim.current == FIBER_NONE ? "-" : sim.fibers[sim.current].name);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

uint64_t sim_seed(void) {
    return sim.seed;
}

/* ---- switching ----------------------------------------------------------------------------------------- */

/* Called first thing on a stack that was just switched to. */
static void switch_ended(void *fake_stack) {
#ifdef WITH_ASAN
    const void *from;
    size_t from_bytes;
    __sanitizer_finish_switch_fiber(fake_stack, &from, &from_bytes);
    if (!sim.main_stack) { /* the first switch ever leaves the main stack */
        sim.main_stack = from;
        sim.main_stack_bytes = from_bytes;
    }
#else
    (void)fake_stack;
#endif
}

static void switch_begins(void **fake_stack, const void *to, size_t to_bytes) {
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(fake_stack, to, to_bytes);
#else
    (void)fake_stack, (void)to, (void)to_bytes;
#endif
}

static void to_fiber(ucontext_t *from, void **fake_stack, int id) {
    struct fiber *fiber = &sim.fibers[id];
    sim.current = id;
    switch_begins(fake_stack, fiber->stack, STACK_BYTES);
    swapcontext(from, &fiber->context);
    switch_ended(fake_stack ? *fake_stack : NULL);
}

static bool is_runnable(const struct fiber *fiber) {
    return fiber->state == READY || (fiber->state == BLOCKED && fiber->deadline <= sim.now);
}

static unsigned runnable_weight(void) {
    unsigned weight = 0;
    for (int i = 0; i < sim.count; i++)
        if (is_runnable(&sim.fibers[i]))
            weight += sim.fibers[i].weight;
    return weight;
}

static void jump_to_earliest_timeout(void) {
    uint64_t earliest = FIBER_FOREVER;
    for (int i = 0; i < sim.count; i++)
        if (sim.fibers[i].state == BLOCKED && sim.fibers[i].deadline < earliest)
            earliest = sim.fibers[i].deadline;
    if (earliest == FIBER_FOREVER)
        sim_fail("deadlock: no fiber can run and none has a timeout");
    sim.now = earliest;
}

static bool all_ended(void) {
    for (int i = 0; i < sim.count; i++)
        if (sim.fibers[i].state != ENDED)
            return false;
    return true;
}

/* The fiber that goes next, made ready; FIBER_NONE when all have ended. */
static int pick(void) {
    if (all_ended())
        return FIBER_NONE;
    unsigned weight = runnable_weight();
    if (!weight) {
        jump_to_earliest_timeout();
        weight = runnable_weight();
    }
    uint64_t ticket = random_below(&sim.random, weight);
    int chosen = 0;
    for (int i = 0; i < sim.count; i++) {
        if (!is_runnable(&sim.fibers[i]))
            continue;
        if (ticket < sim.fibers[i].weight) {
            chosen = i;
            break;
        }
        ticket -= sim.fibers[i].weight;
    }
    struct fiber *fiber = &sim.fibers[chosen];
    if (fiber->state == BLOCKED) {
        fiber->state = READY;
        fiber->woken = false;
    }
    sim.now += 20 + random_below(&sim.random, 200);
    sim.digest = random_mix(sim.digest ^ (uint64_t)chosen ^ sim.now);
    if (++sim.switches > SWITCHES_MAX)
        sim_fail("livelock: %d switches and no end", SWITCHES_MAX);
    return chosen;
}

static void go_on(void) {
    int self = sim.current, next = pick();
    if (next == self)
        return;
    if (sim.trace)
        sim_trace_line("-> %s", sim.fibers[next].name);
    to_fiber(&sim.fibers[self].context, &sim.fibers[self].fake_stack, next);
}

static _Noreturn void leave_for_ever(void) {
    int next = pick();
    if (next == FIBER_NONE) {
        sim.current = FIBER_NONE;
        switch_begins(NULL, sim.main_stack, sim.main_stack_bytes);
        setcontext(&sim.main);
    } else {
        sim.current = next;
        switch_begins(NULL, sim.fibers[next].stack, STACK_BYTES);
        setcontext(&sim.fibers[next].context);
    }
    abort();
}

static void entry(void) {
    switch_ended(NULL);
    struct fiber *fiber = &sim.fibers[sim.current];
    fiber->run(fiber->argument);
    fiber->state = ENDED;
    fiber_wake(fiber);
    leave_for_ever();
}

/* ---- processes ------------------------------------------------------------------------------------------- */

int fiber_process(void) {
    return fiber_process_of(sim.current);
}

int fiber_process_of(int id) {
    return id < 0 || id >= sim.count ? 0 : sim.fibers[id].process;
}

bool fiber_is_dead(int id) {
    return id >= 0 && id < sim.count && sim.fibers[id].killed;
}

bool fiber_has_ended(int id) {
    return sim.fibers[id].state == ENDED;
}

void fiber_on_death(void (*died)(int process)) {
    sim.died = died;
}

void fiber_doom(int process, const char *label, uint64_t points) {
    sim.doom.process = process;
    sim.doom.label = label;
    sim.doom.points = points;
}

const char *fiber_doomed_at(void) {
    return sim.doom.hit;
}

void fiber_kill(int process) {
    if (sim.trace)
        sim_trace_line("process %d dies", process);
    sim.doom.points = 0;
    for (int i = 0; i < sim.count; i++) {
        struct fiber *fiber = &sim.fibers[i];
        if (fiber->process != process || fiber->state == ENDED)
            continue;
        fiber->state = ENDED;
        fiber->killed = true;
        fiber_wake(fiber);
    }
    if (sim.died)
        sim.died(process);
    sim.doom.hit = NULL;
    if (sim.current != FIBER_NONE && sim.fibers[sim.current].killed)
        leave_for_ever();
}

static bool is_doomed(const char *what) {
    if (!sim.doom.points || sim.fibers[sim.current].process != sim.doom.process)
        return false;
    bool now = (!sim.doom.label || !strcmp(sim.doom.label, what)) && !--sim.doom.points;
    sim.doom.hit = now ? sim.doom.label : NULL;
    return now;
}

/* ---- the interface ------------------------------------------------------------------------------------- */

void fiber_begin(uint64_t seed, unsigned switch_per_1024, bool trace) {
    for (int i = 0; i < sim.count; i++)
        munmap(sim.fibers[i].stack, STACK_BYTES);
    memset(sim.fibers, 0, sizeof(sim.fibers[0]) * (size_t)sim.count);
    sim.count = 0;
    sim.current = FIBER_NONE;
    sim.now = 1000000000000; /* a machine that has been up for a while, as every machine has */
    sim.seed = sim.digest = seed;
    sim.switches = 0;
    sim.switch_per_1024 = switch_per_1024;
    sim.trace = trace;
    sim.describe = NULL;
    sim.died = NULL;
    sim.doom.points = 0;
    random_seed(&sim.random, seed);
}

void fiber_loop(void) {
    int next = pick();
    if (next != FIBER_NONE)
        to_fiber(&sim.main, &sim.main_fake_stack, next);
}

int fiber_start(const char *name, int node, void (*run)(void *), void *argument) {
    return fiber_start_in(fiber_process(), name, node, run, argument);
}

int fiber_start_in(int process, const char *name, int node, void (*run)(void *), void *argument) {
    if (sim.count == FIBERS_MAX)
        sim_fail("more than %d fibers in one run", FIBERS_MAX);
    int id = sim.count++;
    struct fiber *fiber = &sim.fibers[id];
    snprintf(fiber->name, sizeof(fiber->name), "%s", name);
    fiber->node = node;
    fiber->process = process;
    fiber->run = run;
    fiber->argument = argument;
    /* Some fibers are slow in this seed: that finds races which even odds do not. */
    fiber->weight = random_chance(&sim.random, 256) ? 1 : 8;
    fiber->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fiber->stack == MAP_FAILED || mprotect(fiber->stack, 4096, PROT_NONE))
        sim_fail("no memory for a fiber's stack");
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber->context, entry, 0);
    fiber->state = READY;
    return id;
}

void fiber_join(int id) {
    while (sim.fibers[id].state != ENDED)
        fiber_wait(&sim.fibers[id], "a thread to end", FIBER_FOREVER);
}

int fiber_self(void) {
    return sim.current;
}

const char *fiber_name(int id) {
    return id < 0 || id >= sim.count ? "?" : sim.fibers[id].name;
}

int fiber_node(int id) {
    return id < 0 || id >= sim.count ? 0 : sim.fibers[id].node;
}

struct random *fiber_random(void) {
    return &sim.random;
}

uint64_t fiber_digest(void) {
    return sim.digest;
}

uint64_t fiber_switches(void) {
    return sim.switches;
}

void fiber_point(const char *what) {
    if (sim.current == FIBER_NONE)
        return;
    sim.fibers[sim.current].what = what;
    if (is_doomed(what))
        fiber_kill(sim.fibers[sim.current].process);
    if (random_chance(&sim.random, sim.switch_per_1024))
        go_on();
}

bool fiber_wait(const void *channel, const char *what, uint64_t timeout_ns) {
    if (sim.current == FIBER_NONE)
        sim_fail("waits outside a fiber: %s", what);
    struct fiber *fiber = &sim.fibers[sim.current];
    fiber->channel = channel;
    fiber->what = what;
    fiber->deadline = timeout_ns >= FIBER_FOREVER - sim.now ? FIBER_FOREVER : sim.now + timeout_ns;
    fiber->woken = false;
    fiber->state = BLOCKED;
    go_on();
    fiber->channel = NULL;
    fiber->what = NULL;
    return fiber->woken;
}

void fiber_wake(const void *channel) {
    for (int i = 0; i < sim.count; i++) {
        struct fiber *fiber = &sim.fibers[i];
        if (fiber->state == BLOCKED && fiber->channel == channel) {
            fiber->state = READY;
            fiber->woken = true;
        }
    }
}

uint64_t fiber_now(void) {
    return sim.now;
}

void fiber_sleep(uint64_t ns, const char *what) {
    fiber_wait(&sim.now, what, ns);
}

void fiber_spend(uint64_t ns) {
    sim.now += ns;
}
