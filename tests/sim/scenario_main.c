/* SPDX-License-Identifier: MIT */
/*
 * Runs the scenarios in this program's world: `scenarios [--without-poison] [NAME]`, `scenarios --list`; `scenarios
 * --lacks` tells with which options another world is like this one.
 * Status 0: every expectation held. 77: the world could run none of what was asked.
 */
#include "base/error.h"
#include "scenario.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct scenario *const tables[] = {
    scenarios_kernel, scenarios_resolve, scenarios_memory, scenarios_cache,    scenarios_thrash, scenarios_jobs,
    scenarios_store,  scenarios_replay,  scenarios_remote, scenarios_around,   scenarios_place,  scenarios_replicas,
    scenarios_inline, scenarios_broken,  scenarios_ahead,  scenarios_rebalance};
static const char *const kind_names[] = {"shmem", "graded", "hugetlb-2M", "hugetlb-1G"};

static char story[64 << 10];
static size_t story_length;
static unsigned failures;

__attribute__((format(printf, 2, 0))) static void add(const char *mark, const char *format, va_list arguments) {
    char line[512];
    vsnprintf(line, sizeof(line), format, arguments);
    int length = snprintf(story + story_length, sizeof(story) - story_length, "  %s%s\n", mark, line);
    if (length > 0 && (size_t)length < sizeof(story) - story_length)
        story_length += (size_t)length;
}

void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    add("", format, arguments);
    va_end(arguments);
}

void expect(bool condition, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    add(condition ? "" : "NOT AS EXPECTED: ", format, arguments);
    va_end(arguments);
    failures += !condition;
}

void tell_story(void) {
    printf("%s", story);
    fflush(stdout);
}

static const struct {
    int number;
    const char *name;
} errnos[] = {
    {EPERM, "EPERM"},         {ENOENT, "ENOENT"},       {ESRCH, "ESRCH"},           {EIO, "EIO"},
    {EAGAIN, "EAGAIN"},       {ENOMEM, "ENOMEM"},       {EFAULT, "EFAULT"},         {EBUSY, "EBUSY"},
    {EEXIST, "EEXIST"},       {EINVAL, "EINVAL"},       {ENOSPC, "ENOSPC"},         {ESTALE, "ESTALE"},
    {ECANCELED, "ECANCELED"}, {ETIMEDOUT, "ETIMEDOUT"}, {EOPNOTSUPP, "EOPNOTSUPP"}, {ENODATA, "ENODATA"},
    {E2BIG, "E2BIG"},         {EILSEQ, "EILSEQ"},       {EHWPOISON, "EHWPOISON"},
};

const char *result_name(int64_t result) {
    static char texts[8][24];
    static unsigned turn;
    for (size_t i = 0; i < sizeof(errnos) / sizeof(errnos[0]); i++)
        if (result == -errnos[i].number)
            return errnos[i].name;
    char *text = texts[turn++ % 8];
    snprintf(text, sizeof(texts[0]), "%lld", (long long)result);
    return result ? text : "ok";
}

const char *outcome_name(enum world_outcome outcome) {
    return outcome == WORLD_OK ? "ok" : outcome == WORLD_SIGBUS ? "SIGBUS" : "SIGSEGV";
}

void expect_result(const char *what, int64_t result, int64_t wanted) {
    expect(result == wanted, "%s: %s%s%s", what, result_name(result), result == wanted ? "" : ", wanted ",
           result == wanted ? "" : result_name(wanted));
}

/* ---- readers ----------------------------------------------------------------------------------------------- */

static void read_in_background(void *argument) {
    struct reader *reader = argument;
    reader->outcome = reader->writes ? world_write(reader->address, reader->bytes, reader->length, &reader->stopped)
                                     : world_read(reader->address, reader->bytes, reader->length, &reader->stopped);
    atomic_store(&reader->ended, true);
}

static void start(struct reader *reader) {
    if (!reader->bytes || mnw__thread_start(&reader->thread, "reader", -1, read_in_background, reader)) {
        fprintf(stderr, "a reader cannot be started: %s\n", mnw__fail_message());
        exit(1);
    }
}

void reader_start(struct reader *reader, uintptr_t address, size_t length) {
    *reader = (struct reader){.address = address, .length = length, .bytes = malloc(length)};
    start(reader);
}

void writer_start(struct reader *reader, uintptr_t address, size_t length, unsigned char value) {
    *reader = (struct reader){.address = address, .length = length, .bytes = malloc(length), .writes = true};
    if (reader->bytes)
        memset(reader->bytes, value, length);
    start(reader);
}

enum world_outcome reader_join(struct reader *reader) {
    mnw__thread_join(&reader->thread);
    return reader->outcome;
}

void reader_free(struct reader *reader) {
    free(reader->bytes);
    reader->bytes = NULL;
}

static bool has_ended(void *context) {
    return atomic_load(&((struct reader *)context)->ended);
}

static bool within(bool (*condition)(void *), void *context, uint64_t limit_ns) {
    for (uint64_t start_ns = mnw__clock_ns(); !condition(context); mnw__sleep_ns(500000))
        if (mnw__clock_ns() - start_ns > limit_ns)
            return false;
    return true;
}

bool reader_ends(struct reader *reader) {
    return within(has_ended, reader, 20000000000);
}

bool reader_sleeps(struct reader *reader) {
    return !within(has_ended, reader, 30000000);
}

void wait_until(bool (*condition)(void *), void *context, const char *what) {
    if (within(condition, context, 20000000000))
        return;
    tell_story();
    fprintf(stderr, "waited 20 s in vain: %s\n", what);
    exit(1);
}

/* ---- main -------------------------------------------------------------------------------------------------- */

static unsigned ran, skipped;

static void run_one(const struct scenario *scenario, enum mnw_backing kind) {
    const char *why = NULL;
    bool can = world_has(kind, &why);
    if (can && scenario->kinds & NEEDS_POISON && !world_has_poison()) {
        can = false;
        why = "this kernel has no UFFDIO_POISON";
    }
    if (can && scenario->kinds & NEEDS_BREAKS && !world_has_breaks()) {
        can = false;
        why = "no memory is made to fail here";
    }
    if (can && scenario->kinds & NEEDS_SPEED && getenv("MINNOW_TEST_SLOWNESS")) {
        can = false;
        why = "this machine is too slow for its times";
    }
    if (!can) {
        fprintf(stderr, "%s/%s: not run: %s\n", scenario->name, kind_names[kind], why);
        skipped++;
        return;
    }
    story_length = 0;
    story[0] = 0;
    unsigned before = failures;
    world_run(scenario->run, kind);
    printf("%s/%s: %s\n%s", scenario->name, kind_names[kind], failures == before ? "ok" : "FAILED", story);
    fflush(stdout);
    ran++;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--lacks")) {
        puts(world_has_poison() ? "" : "--without-poison");
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "--without-poison")) {
        if (!world_lose_poison()) {
            fprintf(stderr, "%s: the kernel cannot be told to lack something\n", argv[0]);
            return 2;
        }
        argc--, argv++;
    }
    const char *wanted = argc > 1 ? argv[1] : NULL;
    bool list = wanted && !strcmp(wanted, "--list");
    unsigned named = 0;
    if (!list)
        world_begin();
    for (size_t table = 0; table < sizeof(tables) / sizeof(tables[0]); table++)
        for (const struct scenario *scenario = tables[table]; scenario->name; scenario++) {
            named++;
            if (list)
                printf("%s\n", scenario->name);
            for (unsigned kind = 0; !list && kind < 4; kind++)
                if ((scenario->kinds >> kind & 1) && (!wanted || !strcmp(wanted, scenario->name)))
                    run_one(scenario, (enum mnw_backing)kind);
        }
    if (list)
        return 0;
    world_end();
    fprintf(stderr, "%u scenarios of which %u ran on their backings, %u not run, %u expectations failed\n", named, ran,
            skipped, failures);
    return failures ? 1 : ran ? 0 : 77;
}
