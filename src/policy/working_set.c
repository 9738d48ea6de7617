/* SPDX-License-Identifier: MIT */
/* Working sets: recording, the file's bytes, unions, and runs to read. Numbers in a file are little-endian. */
#include "policy/working_set.h"

#include "base/bits.h"
#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Where things lie in the header. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_PAGE_BYTES = 12,
    AT_STORE_BYTES = 16,
    AT_IDENTITY = 24,
    AT_ENTRY_COUNT = 32,
    AT_PAGE_COUNT = 40,
    AT_RESERVED = 48,
    AT_CHECKSUM = 56,
    ENTRY_BYTES = 8,
    ENTRY_FIRST_BITS = 40,
};

#define PAGE_BYTES_MIN 4096
#define PAGE_BYTES_MAX (1u << 30)

static const char magic[8] = {'M', 'I', 'N', 'N', 'O', 'W', 'W', 'S'};

/* ---- recording ---- */

static size_t seen_bytes(uint64_t page_count) {
    return (size_t)(mnw__align_up(page_count, 64) / 8);
}

size_t mnw__recorder_bytes(uint64_t page_count) {
    return seen_bytes(page_count) + (size_t)page_count * sizeof(uint32_t);
}

void mnw__recorder_init(struct mnw__recorder *recorder, void *memory, uint64_t first_page, uint64_t page_count) {
    recorder->seen = memory;
    recorder->order = (_Atomic uint32_t *)((char *)memory + seen_bytes(page_count));
    recorder->first_page = first_page;
    recorder->page_count = page_count;
    atomic_init(&recorder->count, 0);
}

void mnw__recorder_note(struct mnw__recorder *recorder, uint64_t page) {
    uint64_t index = page - recorder->first_page;
    if (page < recorder->first_page || index >= recorder->page_count)
        return;
    uint64_t bit = 1ull << (index % 64);
    _Atomic uint64_t *word = &recorder->seen[index / 64];
    /* Most touches are not the first: looking costs less than a locked instruction. */
    if (atomic_load_explicit(word, memory_order_relaxed) & bit)
        return;
    if (atomic_fetch_or_explicit(word, bit, memory_order_relaxed) & bit)
        return;
    uint64_t rank = atomic_fetch_add_explicit(&recorder->count, 1, memory_order_acq_rel);
    atomic_store_explicit(&recorder->order[rank], (uint32_t)index + 1, memory_order_release);
}

/* ---- bytes ---- */

static uint64_t get(const unsigned char *from, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)from[i] << (8 * i);
    return value;
}

static void put(unsigned char *to, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t checksum_of(const unsigned char *bytes, uint64_t entry_count) {
    return XXH64(bytes + MNW__WORKING_SET_HEADER, (size_t)entry_count * ENTRY_BYTES, XXH64(bytes, AT_CHECKSUM, 0));
}

static uint64_t store_pages(const struct mnw__working_set_of *of) {
    return (of->store_bytes - 1) / of->page_bytes + 1;
}

/* ---- decoding ---- */

struct mnw__run mnw__working_set_entry(const struct mnw__working_set *set, uint64_t index) {
    uint64_t entry = get(set->entries + index * ENTRY_BYTES, ENTRY_BYTES);
    return (struct mnw__run){.first = entry & (MNW__WORKING_SET_PAGE_MAX - 1),
                             .count = (entry >> ENTRY_FIRST_BITS) + 1};
}

static int check_of(const struct mnw__working_set_of *of) {
    if (!mnw__is_power_of_two(of->page_bytes) || of->page_bytes < PAGE_BYTES_MIN || of->page_bytes > PAGE_BYTES_MAX)
        return mnw__fail(-EBADMSG, "working set: pages of %lu bytes cannot be", (unsigned long)of->page_bytes);
    if (!of->store_bytes || of->store_bytes > INT64_MAX || store_pages(of) > MNW__WORKING_SET_PAGE_MAX)
        return mnw__fail(-EBADMSG, "working set: a store of %llu bytes cannot be", (unsigned long long)of->store_bytes);
    return 0;
}

static int check_entries(const struct mnw__working_set *set) {
    uint64_t pages = store_pages(&set->of), sum = 0;
    for (uint64_t i = 0; i < set->entry_count; i++) {
        struct mnw__run run = mnw__working_set_entry(set, i);
        if (run.first >= pages || run.count > pages - run.first)
            return mnw__fail(-EBADMSG, "working set: entry %llu reaches past the end of the store",
                             (unsigned long long)i);
        sum += run.count;
    }
    if (sum != set->page_count)
        return mnw__fail(-EBADMSG, "working set: holds %llu pages, and says %llu", (unsigned long long)sum,
                         (unsigned long long)set->page_count);
    return 0;
}

int mnw__working_set_decode(struct mnw__working_set *set, const void *bytes, size_t size) {
    const unsigned char *from = bytes;
    if (size < MNW__WORKING_SET_HEADER || memcmp(from + AT_MAGIC, magic, sizeof(magic)))
        return mnw__fail(-EBADMSG, "working set: this is none (%zu bytes without its header)", size);
    if (get(from + AT_VERSION, 4) != MNW__WORKING_SET_VERSION)
        return mnw__fail(-ENOTSUP, "working set: of version %llu; this minnow knows version %d",
                         (unsigned long long)get(from + AT_VERSION, 4), MNW__WORKING_SET_VERSION);
    *set = (struct mnw__working_set){
        .of = {.store_bytes = get(from + AT_STORE_BYTES, 8),
               .identity = get(from + AT_IDENTITY, 8),
               .page_bytes = (uint32_t)get(from + AT_PAGE_BYTES, 4)},
        .entries = from + MNW__WORKING_SET_HEADER,
        .entry_count = get(from + AT_ENTRY_COUNT, 8),
        .page_count = get(from + AT_PAGE_COUNT, 8),
    };
    uint64_t room = size - MNW__WORKING_SET_HEADER;
    if (room % ENTRY_BYTES || room / ENTRY_BYTES != set->entry_count)
        return mnw__fail(-EBADMSG, "working set: %llu bytes of entries where %llu entries should be",
                         (unsigned long long)room, (unsigned long long)set->entry_count);
    if (get(from + AT_RESERVED, 8))
        return mnw__fail(-EBADMSG, "working set: its reserved field is not zero");
    if (checksum_of(from, set->entry_count) != get(from + AT_CHECKSUM, 8))
        return mnw__fail(-EBADMSG, "working set: its checksum does not fit its bytes");
    int error = check_of(&set->of);
    return error ? error : check_entries(set);
}

int mnw__working_set_fits(const struct mnw__working_set *set, uint64_t store_bytes, uint64_t identity) {
    if (set->of.store_bytes != store_bytes)
        return mnw__fail(-ESTALE, "working set: made of a store of %llu bytes, and this one has %llu; record it anew",
                         (unsigned long long)set->of.store_bytes, (unsigned long long)store_bytes);
    if (identity && set->of.identity && set->of.identity != identity)
        return mnw__fail(-ESTALE, "working set: made of another store of the same size, or of an older state of this "
                                  "one; record it anew");
    return 0;
}

/* ---- encoding ---- */

/* Entries as they are written: runs that follow each other become one. */
struct writer {
    unsigned char *bytes;
    uint64_t entry_count, page_count;
    struct mnw__run last; /* not written yet; count 0: none */
};

/* `pages` in at most `runs` runs. */
static bool begin_writing(struct writer *writer, uint64_t runs, uint64_t pages) {
    uint64_t entries = runs + pages / MNW__WORKING_SET_RUN_MAX + 1;
    *writer = (struct writer){.bytes = calloc(MNW__WORKING_SET_HEADER / ENTRY_BYTES + entries, ENTRY_BYTES)};
    return writer->bytes != NULL;
}

static void flush(struct writer *writer) {
    while (writer->last.count) {
        uint64_t count = mnw__min(writer->last.count, MNW__WORKING_SET_RUN_MAX);
        unsigned char *to = writer->bytes + MNW__WORKING_SET_HEADER + writer->entry_count++ * ENTRY_BYTES;
        put(to, writer->last.first | (count - 1) << ENTRY_FIRST_BITS, ENTRY_BYTES);
        writer->page_count += count;
        writer->last.first += count;
        writer->last.count -= count;
    }
}

static void write_run(struct writer *writer, uint64_t first, uint64_t count) {
    if (writer->last.count && first == writer->last.first + writer->last.count) {
        writer->last.count += count;
        return;
    }
    flush(writer);
    writer->last = (struct mnw__run){.first = first, .count = count};
}

static void end_writing(struct writer *writer, const struct mnw__working_set_of *of, void **bytes, size_t *size) {
    unsigned char *to = writer->bytes;
    flush(writer);
    memcpy(to + AT_MAGIC, magic, sizeof(magic));
    put(to + AT_VERSION, MNW__WORKING_SET_VERSION, 4);
    put(to + AT_PAGE_BYTES, of->page_bytes, 4);
    put(to + AT_STORE_BYTES, of->store_bytes, 8);
    put(to + AT_IDENTITY, of->identity, 8);
    put(to + AT_ENTRY_COUNT, writer->entry_count, 8);
    put(to + AT_PAGE_COUNT, writer->page_count, 8);
    put(to + AT_CHECKSUM, checksum_of(to, writer->entry_count), 8);
    *bytes = to;
    *size = MNW__WORKING_SET_HEADER + (size_t)writer->entry_count * ENTRY_BYTES;
}

int mnw__working_set_encode(const struct mnw__recorder *recorder, const struct mnw__working_set_of *of, void **bytes,
                            size_t *size) {
    struct writer writer;
    uint64_t count = atomic_load_explicit(&recorder->count, memory_order_acquire);
    if (!begin_writing(&writer, count, count))
        return mnw__fail(-ENOMEM, "working set: out of memory for %llu pages", (unsigned long long)count);
    for (uint64_t rank = 0; rank < count; rank++) {
        uint32_t index = atomic_load_explicit(&recorder->order[rank], memory_order_acquire);
        if (index) /* else it is being noted right now, and belongs to the next look */
            write_run(&writer, recorder->first_page + index - 1, 1);
    }
    end_writing(&writer, of, bytes, size);
    return 0;
}

/* ---- bits ---- */

static bool is_set(const uint64_t *bits, uint64_t at) {
    return bits[at / 64] >> (at % 64) & 1;
}

/* From `at` on, the first place before `end` whose bit is `wanted`; or `end`. */
static uint64_t find(const uint64_t *bits, uint64_t at, uint64_t end, bool wanted) {
    while (at < end) {
        uint64_t word = (wanted ? bits[at / 64] : ~bits[at / 64]) >> (at % 64);
        if (word)
            return mnw__min(at + (unsigned)__builtin_ctzll(word), end);
        at = (at | 63) + 1;
    }
    return end;
}

static void set_bits(uint64_t *bits, uint64_t at, uint64_t end) {
    for (; at < end && at % 64; at++)
        bits[at / 64] |= 1ull << (at % 64);
    for (; at + 64 <= end; at += 64)
        bits[at / 64] = UINT64_MAX;
    for (; at < end; at++)
        bits[at / 64] |= 1ull << (at % 64);
}

static uint64_t *make_bits(uint64_t count) {
    return calloc((size_t)(mnw__align_up(count, 64) / 64), sizeof(uint64_t));
}

/* ---- union ---- */

/* Walks a set's entries; `rank` is that of the next one's first page. */
struct walker {
    const struct mnw__working_set *set;
    uint64_t next, rank, scale; /* scale: pages of the union to one of the set */
};

static struct walker walk(const struct mnw__working_set *set, uint32_t page_bytes) {
    return (struct walker){.set = set, .scale = set->of.page_bytes / page_bytes};
}

static bool at_end(const struct walker *walker) {
    return walker->next == walker->set->entry_count;
}

/* The next entry, in pages of the union: those of it that were not there before. */
static void take_entry(struct walker *walker, struct writer *writer, uint64_t *seen, uint64_t pages) {
    struct mnw__run run = mnw__working_set_entry(walker->set, walker->next++);
    uint64_t at = run.first * walker->scale, end = mnw__min(at + run.count * walker->scale, pages);
    walker->rank += run.count * walker->scale;
    while ((at = find(seen, at, end, false)) < end) {
        uint64_t stop = find(seen, at, end, true);
        write_run(writer, at, stop - at);
        set_bits(seen, at, stop);
        at = stop;
    }
}

int mnw__working_set_union(const struct mnw__working_set *a, const struct mnw__working_set *b, void **bytes,
                           size_t *size) {
    struct mnw__working_set_of of = a->of;
    of.page_bytes = (uint32_t)mnw__min(a->of.page_bytes, b->of.page_bytes);
    if (!of.identity)
        of.identity = b->of.identity;
    uint64_t pages = store_pages(&of);
    uint64_t *seen = make_bits(pages);
    struct writer writer;
    /* Runs cut each other into at most twice as many pieces as there are runs. */
    if (!seen || !begin_writing(&writer, 2 * (a->entry_count + b->entry_count), pages)) {
        free(seen);
        return mnw__fail(-ENOMEM, "working set: out of memory to join two sets of a store of %llu pages",
                         (unsigned long long)pages);
    }
    struct walker left = walk(a, of.page_bytes), right = walk(b, of.page_bytes);
    while (!at_end(&left) || !at_end(&right)) {
        bool is_left = at_end(&right) || (!at_end(&left) && left.rank <= right.rank);
        take_entry(is_left ? &left : &right, &writer, seen, pages);
    }
    free(seen);
    end_writing(&writer, &of, bytes, size);
    return 0;
}

/* ---- runs to read ---- */

/* Marks pages [at, end) as wanted, up to where the memory ends; false: it has ended. */
static bool want(uint64_t *wanted, uint64_t *units, uint64_t pages_per_unit, uint64_t *units_left, uint64_t at,
                 uint64_t end) {
    while (at < end) {
        uint64_t unit = at / pages_per_unit, stop = mnw__min(end, (unit + 1) * pages_per_unit);
        if (!is_set(units, unit)) {
            if (!*units_left)
                return false;
            --*units_left;
            set_bits(units, unit, unit + 1);
        }
        set_bits(wanted, at, stop);
        at = stop;
    }
    return true;
}

static int collect_runs(const uint64_t *wanted, uint64_t pages, struct mnw__run **runs, uint64_t *count) {
    uint64_t found = 0;
    for (uint64_t at = find(wanted, 0, pages, true); at < pages; found++)
        at = find(wanted, find(wanted, at, pages, false), pages, true);
    *runs = calloc(found ? (size_t)found : 1, sizeof(**runs));
    if (!*runs)
        return -ENOMEM;
    *count = 0;
    for (uint64_t at = find(wanted, 0, pages, true); at < pages;) {
        uint64_t end = find(wanted, at, pages, false);
        (*runs)[(*count)++] = (struct mnw__run){.first = at, .count = end - at};
        at = find(wanted, end, pages, true);
    }
    return 0;
}

int mnw__working_set_runs(const struct mnw__working_set *set, const struct mnw__working_set_plan *plan,
                          struct mnw__run **runs, uint64_t *count) {
    struct mnw__working_set_of of = set->of;
    of.page_bytes = plan->page_bytes;
    uint64_t pages = store_pages(&of), pages_per_unit = plan->unit_bytes / plan->page_bytes;
    uint64_t units_left = plan->bytes_max / plan->unit_bytes;
    uint64_t *wanted = make_bits(pages);
    uint64_t *units = pages_per_unit > 1 ? make_bits((pages - 1) / pages_per_unit + 1) : wanted;
    int error = wanted && units ? 0 : -ENOMEM;
    for (uint64_t i = 0; !error && i < set->entry_count; i++) {
        struct mnw__run run = mnw__working_set_entry(set, i);
        uint64_t first = run.first * set->of.page_bytes / plan->page_bytes;
        uint64_t end = ((run.first + run.count) * set->of.page_bytes - 1) / plan->page_bytes + 1;
        if (!want(wanted, units, pages_per_unit, &units_left, first, mnw__min(end, pages)))
            break;
    }
    if (!error)
        error = collect_runs(wanted, pages, runs, count);
    if (units != wanted)
        free(units);
    free(wanted);
    return error
               ? mnw__fail(error, "working set: out of memory for its %llu pages", (unsigned long long)set->page_count)
               : 0;
}
