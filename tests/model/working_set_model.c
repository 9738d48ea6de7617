/* SPDX-License-Identifier: MIT */
/*
 * Working sets against plain lists of pages: recording, unions of sets of several page sizes, and runs cut to a budget,
 * each against its definition. Arguments: the first seed and the number of seeds.
 */
#include "model/random.h"
#include "policy/working_set.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL = 4096, PAGES_MAX = 700, ENTRIES_MAX = PAGES_MAX };

static uint64_t seed_now;

static void demand(bool holds, const char *what) {
    if (holds)
        return;
    fprintf(stderr, "working_set_model: seed %llu: %s\n", (unsigned long long)seed_now, what);
    exit(1);
}

/* A set: its file, decoded, and as a list of entries. */
struct set {
    void *bytes;
    struct mnw__working_set decoded;
    struct mnw__run entries[ENTRIES_MAX];
    size_t entry_count;
};

static uint64_t pages_of(uint64_t store_bytes, uint32_t page_bytes) {
    return (store_bytes + page_bytes - 1) / page_bytes;
}

/* Touches at random, in runs and here and there; every first touch is the next of the list. */
static void record(struct set *set, struct random *random, const struct mnw__working_set_of *of) {
    uint64_t pages = pages_of(of->store_bytes, of->page_bytes), last = UINT64_MAX;
    bool seen[PAGES_MAX] = {false};
    struct mnw__recorder recorder;
    void *memory = calloc(1, mnw__recorder_bytes(pages));
    size_t size;
    demand(memory != NULL, "no memory");
    mnw__recorder_init(&recorder, memory, 0, pages);
    set->entry_count = 0;
    for (uint64_t touches = random_below(random, 60); touches; touches--) {
        uint64_t page = random_below(random, pages);
        for (uint64_t run = random_below(random, 3) ? 1 : 1 + random_below(random, 20); run; run--, page++) {
            mnw__recorder_note(&recorder, page);
            if (page >= pages || seen[page])
                continue;
            seen[page] = true;
            if (set->entry_count && page == last + 1)
                set->entries[set->entry_count - 1].count++;
            else
                set->entries[set->entry_count++] = (struct mnw__run){page, 1};
            last = page;
        }
    }
    demand(!mnw__working_set_encode(&recorder, of, &set->bytes, &size), "encode");
    demand(!mnw__working_set_decode(&set->decoded, set->bytes, size), "decode of what was encoded");
    free(memory);
}

static void compare(const struct set *set, const char *what) {
    demand(set->decoded.entry_count == set->entry_count, what);
    for (size_t i = 0; i < set->entry_count; i++) {
        struct mnw__run run = mnw__working_set_entry(&set->decoded, i);
        demand(run.first == set->entries[i].first && run.count == set->entries[i].count, what);
    }
}

/* ---- union, as it is defined ---- */

struct list {
    uint64_t pages[2 * PAGES_MAX * 16];
    size_t count;
    bool seen[PAGES_MAX * 16];
};

static void add_entry(struct list *list, struct mnw__run run, uint64_t scale, uint64_t pages) {
    for (uint64_t page = run.first * scale; page < (run.first + run.count) * scale && page < pages; page++) {
        if (list->seen[page])
            continue;
        list->seen[page] = true;
        list->pages[list->count++] = page;
    }
}

static void unite(struct list *list, const struct set *a, const struct set *b, uint64_t a_scale, uint64_t b_scale,
                  uint64_t pages) {
    size_t i = 0, j = 0;
    uint64_t i_rank = 0, j_rank = 0;
    memset(list, 0, sizeof(*list));
    while (i < a->entry_count || j < b->entry_count) {
        if (j == b->entry_count || (i < a->entry_count && i_rank <= j_rank)) {
            i_rank += a->entries[i].count * a_scale;
            add_entry(list, a->entries[i++], a_scale, pages);
        } else {
            j_rank += b->entries[j].count * b_scale;
            add_entry(list, b->entries[j++], b_scale, pages);
        }
    }
}

static void check_union(const struct set *a, const struct set *b) {
    static struct list list;
    uint32_t page_bytes =
        a->decoded.of.page_bytes < b->decoded.of.page_bytes ? a->decoded.of.page_bytes : b->decoded.of.page_bytes;
    uint64_t pages = pages_of(a->decoded.of.store_bytes, page_bytes);
    struct mnw__working_set both;
    void *bytes;
    size_t size, at = 0;
    unite(&list, a, b, a->decoded.of.page_bytes / page_bytes, b->decoded.of.page_bytes / page_bytes, pages);
    demand(!mnw__working_set_union(&a->decoded, &b->decoded, &bytes, &size), "union");
    demand(!mnw__working_set_decode(&both, bytes, size), "a union does not decode");
    demand(both.of.page_bytes == page_bytes && both.page_count == list.count, "a union has other pages");
    for (uint64_t i = 0; i < both.entry_count; i++) {
        struct mnw__run run = mnw__working_set_entry(&both, i);
        for (uint64_t page = run.first; page < run.first + run.count; page++)
            demand(at < list.count && list.pages[at++] == page, "a union has another order");
    }
    free(bytes);
}

/* ---- runs, as they are defined ---- */

static void check_runs(const struct set *set, struct random *random) {
    static const uint32_t sizes[] = {SMALL, 2 * SMALL, 16 * SMALL};
    struct mnw__working_set_plan plan = {.page_bytes = sizes[random_below(random, 3)]};
    plan.unit_bytes = plan.page_bytes << random_below(random, 4);
    plan.bytes_max = random_below(random, 4) ? random_below(random, 300) * SMALL : UINT64_MAX;
    uint64_t store_bytes = set->decoded.of.store_bytes, budget = plan.bytes_max / plan.unit_bytes, count, wanted = 0;
    uint64_t pages = pages_of(store_bytes, plan.page_bytes), seen_end = 0;
    bool full = false;
    bool *marks = calloc(pages, 1), *units = calloc(pages, 1);
    struct mnw__run *runs;
    demand(marks && units, "no memory");
    /* Byte by byte of SMALL: each piece of a page that was touched, in order. */
    for (size_t i = 0; i < set->entry_count && !full; i++) {
        uint64_t start = set->entries[i].first * set->decoded.of.page_bytes;
        uint64_t end = start + set->entries[i].count * set->decoded.of.page_bytes;
        for (uint64_t at = start; at < end && at / plan.page_bytes < pages && !full; at += SMALL) {
            uint64_t page = at / plan.page_bytes, unit = at / plan.unit_bytes;
            full = !units[unit] && !budget;
            if (full)
                break;
            budget -= !units[unit];
            units[unit] = true;
            wanted += !marks[page];
            marks[page] = true;
        }
    }
    demand(!mnw__working_set_runs(&set->decoded, &plan, &runs, &count), "runs");
    for (uint64_t i = 0; i < count; i++) {
        demand(runs[i].count && (!i || runs[i].first > seen_end), "runs out of order, or touching");
        seen_end = runs[i].first + runs[i].count;
        for (uint64_t page = runs[i].first; page < seen_end; page++)
            demand(page < pages && marks[page], "a run has a page that is not wanted");
        wanted -= runs[i].count;
    }
    demand(!wanted, "runs lack a page");
    free(runs);
    free(marks);
    free(units);
}

static void run(uint64_t seed) {
    static struct set a, b;
    struct random random = {seed};
    seed_now = seed;
    struct mnw__working_set_of of = {.page_bytes = SMALL, .identity = 1};
    of.store_bytes = (1 + random_below(&random, PAGES_MAX - 1)) * SMALL - random_below(&random, SMALL);
    struct mnw__working_set_of other = of;
    of.page_bytes <<= random_below(&random, 3) ? 0 : random_below(&random, 5);
    other.page_bytes <<= random_below(&random, 3) ? 0 : random_below(&random, 5);
    record(&a, &random, &of);
    record(&b, &random, &other);
    compare(&a, "a recorded set differs");
    compare(&b, "a recorded set differs");
    check_union(&a, &b);
    check_runs(&a, &random);
    check_runs(&b, &random);
    free(a.bytes);
    free(b.bytes);
}

int main(int argc, char **argv) {
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1, count = argc > 2 ? strtoull(argv[2], NULL, 0) : 1000;
    for (uint64_t seed = first; seed < first + count; seed++)
        run(seed);
    printf("%llu seeds from %llu: no difference\n", (unsigned long long)count, (unsigned long long)first);
    return 0;
}
