/* SPDX-License-Identifier: MIT */
#include "sim_store.h"

#include "fake.h"
#include "sys/backing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4096 };
#define NEVER UINT64_MAX

/* ---- bytes ------------------------------------------------------------------------------------------------- */

static uint64_t word_at(uint64_t base, uint64_t offset) {
    return base * (offset / 8 * 2 + 1) ^ (base >> 17);
}

void sim_store_bytes(const struct sim_store *store, uint64_t offset, uint32_t version, void *bytes, size_t length) {
    unsigned char *to = bytes;
    for (size_t i = 0; i < length;) {
        uint64_t at = offset + i, word, base = random_mix(store->seed ^ at / BLOCK << 20 ^ version);
        size_t within = at % 8, step = 8 - within < length - i ? 8 - within : length - i;
        word = word_at(base, at % BLOCK);
        if (at / 8 * 8 + 8 <= store->size_bytes) {
            memcpy(to + i, (const char *)&word + within, step);
        } else {
            for (size_t b = 0; b < step; b++)
                to[i + b] = at + b < store->size_bytes ? ((const unsigned char *)&word)[within + b] : 0;
        }
        i += step;
    }
}

bool sim_store_may_hold(const struct sim_store *store, uint64_t offset, const void *bytes, size_t length,
                        uint32_t floor) {
    static unsigned char wanted[64 << 10];
    static bool matches[64 << 10];
    uint32_t newest = store->pages[offset / store->page_bytes].version;
    sim_store_bytes(store, offset, newest, wanted, length);
    if (!memcmp(wanted, bytes, length))
        return true;
    if (floor == newest)
        return false;
    /* The store may have changed while it was read: then each byte is of some version since the floor. */
    memset(matches, 0, length);
    for (uint32_t version = floor; version <= newest; version++) {
        sim_store_bytes(store, offset, version, wanted, length);
        for (size_t i = 0; i < length; i++)
            matches[i] |= wanted[i] == ((const unsigned char *)bytes)[i];
    }
    for (size_t i = 0; i < length; i++)
        if (!matches[i])
            return false;
    return true;
}

/* ---- what it did to its pages ------------------------------------------------------------------------------ */

static void blame(struct sim_store *store, const struct store_read *read, uint64_t page, uint32_t failures) {
    struct store_page *state = &store->pages[page];
    state->failures += failures;
    state->failures_ever += failures;
    if (read->asked_ns >= state->marked_ns)
        state->failures_new += failures;
    store->failures_total++;
}

static uint64_t first_page(const struct sim_store *store, const struct store_read *read) {
    return read->read.offset / store->page_bytes;
}

static uint64_t last_page(const struct sim_store *store, const struct store_read *read) {
    return (read->read.offset + read->read.length - 1) / store->page_bytes;
}

static void blame_all(struct sim_store *store, const struct store_read *read, uint32_t failures) {
    for (uint64_t page = read->run_first; page <= last_page(store, read); page++)
        blame(store, read, page, failures);
}

/*
 * The deadline is the fill's, all its reads and pauses included: what counts is since when the page has been in
 * doubt. The engine looks at its clock a little before or after we do, hence less than the whole deadline.
 */
static void note_late(struct sim_store *store) {
    for (uint64_t page = 0; page < store->page_count; page++) {
        struct store_page *state = &store->pages[page];
        if (!state->in_doubt || state->late || fiber_now() - state->doubt_ns < store->deadline_ns / 4 * 3)
            continue;
        state->late = true;
        blame(store, &(struct store_read){.asked_ns = state->doubt_ns}, page, 1000);
    }
}

/* A run of pages stands or falls as one, so the pages that short answers have brought are in doubt again. */
static uint64_t find_run(struct sim_store *store, const struct store_read *read) {
    for (unsigned i = 0; i < STORE_SHORTS; i++)
        if (store->shorts[i].end && store->shorts[i].end == read->read.offset) {
            store->shorts[i].end = 0;
            return store->shorts[i].run_first;
        }
    return first_page(store, read);
}

static void ask_for(struct sim_store *store, struct store_read *read) {
    read->run_first = find_run(store, read);
    for (uint64_t page = read->run_first; page <= last_page(store, read); page++) {
        struct store_page *state = &store->pages[page];
        if (!state->in_doubt)
            state->doubt_ns = read->asked_ns;
        state->in_doubt = true;
        if (read->read.offset <= page * store->page_bytes)
            state->flipped = false;
    }
}

/* The pages of a run that is brought to its end are in doubt no more. */
static void bring_whole(struct sim_store *store, const struct store_read *read, size_t length) {
    if (length < read->read.length) {
        store->shorts[store->short_turn++ % STORE_SHORTS] =
            (struct store_short){read->read.offset + length, read->run_first};
        return;
    }
    for (uint64_t page = read->run_first; page <= last_page(store, read); page++) {
        if (!store->pages[page].flipped)
            store->pages[page].in_doubt = store->pages[page].late = false;
    }
}

void sim_store_blame_memory(struct sim_store *store, uint64_t page) {
    struct store_page *state = &store->pages[page];
    state->failures += store->retries + 1;
    state->failures_ever += store->retries + 1;
    state->failures_new += store->retries + 1;
    store->failures_total++;
}

bool sim_store_explains(struct sim_store *store, uint64_t page, uint64_t began_ns) {
    const struct store_page *state = &store->pages[page];
    note_late(store);
    return state->failures > store->retries || (state->healed_ns && state->healed_ns >= began_ns);
}

bool sim_store_has_overdue(const struct sim_store *store, uint64_t first, uint64_t count) {
    for (unsigned i = 0; i < store->read_count; i++) {
        const struct store_read *read = &store->reads[i];
        if (read->used && fiber_now() - read->asked_ns >= store->deadline_ns / 2 &&
            first_page(store, read) < first + count && last_page(store, read) >= first)
            return true;
    }
    return false;
}

/* ---- being asked ------------------------------------------------------------------------------------------- */

static bool strikes(const struct sim_store *store, enum store_trouble trouble) {
    return !store->stopping && random_chance(fiber_random(), store->chance[trouble]);
}

static void answer(struct sim_store *store, unsigned index);

static uint64_t due_at(const struct sim_store *store, const struct store_read *read) {
    if (store->stopping)
        return fiber_now();
    for (uint64_t page = first_page(store, read); page <= last_page(store, read); page++)
        if (store->pages[page].state == STORE_MUTE)
            return NEVER;
    if (strikes(store, STORE_NEVER))
        return NEVER;
    if (strikes(store, STORE_LATE))
        return fiber_now() + store->deadline_ns + random_below(fiber_random(), 2 * store->deadline_ns);
    return fiber_now() + random_below(fiber_random(), store->delay_ns_max + 1);
}

/* The same page into another file's memory: of the same store, but not of the same cache. */
static bool is_of_another_copy(const struct sim_store *store, const struct mnw_read *one,
                               const struct mnw_read *other) {
    return store->has_copies && (uintptr_t)one->buffer - one->offset != (uintptr_t)other->buffer - other->offset;
}

static void check_read(const struct sim_store *store, const struct mnw_read *asked) {
    if (!asked->length || asked->offset + asked->length > store->size_bytes)
        sim_fail("the store of %llu bytes is asked for [%llu, +%zu)", (unsigned long long)store->size_bytes,
                 (unsigned long long)asked->offset, asked->length);
    uint64_t end = asked->offset + asked->length;
    for (uint64_t page = asked->offset / store->page_bytes; page * store->page_bytes < end; page++)
        if (store->pages[page].pins && !store->pages_may_be_lost)
            sim_fail("page %llu is pinned, and read again", (unsigned long long)page);
    for (unsigned i = 0; i < store->read_count; i++) {
        const struct mnw_read *other = &store->reads[i].read;
        if (store->reads[i].used && other->offset < end && asked->offset < other->offset + other->length &&
            !is_of_another_copy(store, asked, other))
            sim_fail("single-flight: [%llu, +%zu) is asked for while [%llu, +%zu) is unanswered",
                     (unsigned long long)asked->offset, asked->length, (unsigned long long)other->offset,
                     other->length);
    }
}

/* Single-flight: there is one read from an offset at a time. */
static bool forget_send(struct sim_store *store, uint64_t offset) {
    for (unsigned i = 0; i < STORE_SENDS; i++)
        if (store->sends_begun[i] == offset + 1) {
            store->sends_begun[i] = 0;
            return true;
        }
    return false;
}

static void expect_send(struct sim_store *store, uint64_t offset) {
    for (unsigned i = 0; i < STORE_SENDS; i++)
        if (!store->sends_begun[i]) {
            store->sends_begun[i] = offset + 1;
            return;
        }
    sim_fail("more than %d sends begin at once", STORE_SENDS);
}

/* Notes the read; its place among the reads. */
static unsigned note_read(struct sim_store *store, const struct mnw_read *asked) {
    check_read(store, asked);
    unsigned index = 0;
    while (index < store->read_count && store->reads[index].used)
        index++;
    if (index == STORE_READS_MAX)
        sim_fail("more than %d reads unanswered", STORE_READS_MAX);
    if (index == store->read_count)
        store->read_count++;
    struct store_read *read = &store->reads[index];
    *read = (struct store_read){
        .read = *asked, .asked_ns = fiber_now(), .used = true, .sent = forget_send(store, asked->offset)};
    read->due_ns = due_at(store, read);
    ask_for(store, read);
    sim_trace("store: asked %s [%llu, +%zu)", read->sent ? "to send" : "for", (unsigned long long)asked->offset,
              asked->length);
    return index;
}

static void read_callback(void *context, const struct mnw_read *asked) {
    struct sim_store *store = context;
    unsigned index = note_read(store, asked);
    const struct store_read *read = &store->reads[index];
    if (read->due_ns != NEVER && strikes(store, STORE_AT_ONCE))
        answer(store, index);
    else
        fiber_wake(store);
    fiber_point("store asked");
}

/* In front of the callback store: only the engine's own stores may refuse. */
static int read_crowded(struct mnw_store *handle, struct mnw__io *io, const struct mnw_read *read, mnw__io_done *done,
                        void *context) {
    struct sim_store *store = (void *)((uintptr_t)handle->ops - offsetof(struct sim_store, crowded_ops));
    if (store->chance[STORE_CROWDED] && strikes(store, STORE_CROWDED))
        return -EAGAIN;
    return store->ops.read(handle, io, read, done, context);
}

static bool may_send(struct mnw_store *handle, const struct mnw__io *io, uint64_t offset, uint64_t length) {
    (void)handle, (void)io, (void)offset, (void)length;
    fiber_point("store asked whether it would send");
    return random_chance(fiber_random(), 768);
}

/* By way of the callback store, as a read is: its buffer says where in the file. */
static int send(struct mnw_store *handle, struct mnw__io *io, const struct mnw_read *read, struct mnw__backing *backing,
                mnw__io_done *done, void *context) {
    struct sim_store *store = (void *)((uintptr_t)handle->ops - offsetof(struct sim_store, crowded_ops));
    if ((char *)backing->alias + read->offset != read->buffer)
        sim_fail("what is read at %llu is to be sent elsewhere", (unsigned long long)read->offset);
    if (strikes(store, STORE_CROWDED))
        return -EAGAIN;
    expect_send(store, read->offset);
    int error = store->ops.read(handle, io, read, done, context);
    if (error)
        forget_send(store, read->offset);
    return error;
}

static int check_callback(void *context, uint64_t offset, const void *bytes, size_t length) {
    struct sim_store *store = context;
    for (size_t done = 0; done < length;) {
        uint64_t at = offset + done, page = at / store->page_bytes, left = (page + 1) * store->page_bytes - at;
        size_t step = left < length - done ? left : length - done;
        if (!sim_store_may_hold(store, at, (const char *)bytes + done, step, store->pages[page].floor))
            return -EILSEQ;
        done += step;
    }
    return 0;
}

/* ---- answering --------------------------------------------------------------------------------------------- */

/* The bytes, page by page at its version, with time for everybody to look at what is not finished. */
static void bring(const struct sim_store *store, const struct mnw_read *read, size_t length) {
    /* What lies behind the store's end in its last page is the store's too: a direct read may write there. */
    size_t tail = read->offset + read->length == store->size_bytes
                      ? (store->page_bytes - store->size_bytes % store->page_bytes) % store->page_bytes
                      : 0;
    memset(read->buffer, 0xee, read->length + tail);
    fiber_point("store scribbles");
    for (size_t done = 0; done < length;) {
        uint64_t at = read->offset + done, page = at / store->page_bytes, left = (page + 1) * store->page_bytes - at;
        size_t step = left < length - done ? left : length - done;
        sim_store_bytes(store, at, store->pages[page].version, (char *)read->buffer + done, step);
        done += step;
        fiber_point("store reads");
    }
}

/* The same, page by page into the file: how much of it came, or that none did, for want of memory. */
static int64_t bring_sent(struct sim_store *store, const struct store_read *read, size_t length) {
    unsigned char bytes[BLOCK]; /* shmem's pages are no larger */
    for (size_t done = 0; done < length;) {
        uint64_t at = read->read.offset + done, page = at / store->page_bytes;
        uint64_t left = (page + 1) * store->page_bytes - at;
        size_t step = left < length - done ? left : length - done;
        if (step > sizeof(bytes))
            sim_fail("bytes are sent into pages of %llu", (unsigned long long)store->page_bytes);
        sim_store_bytes(store, at, store->pages[page].version, bytes, step);
        int error = fake_file_put((char *)read->read.buffer + done, bytes, step);
        if (error)
            return done ? (int64_t)done : error;
        done += step;
        fiber_point("store sends");
    }
    return (int64_t)length;
}

/* A byte of an older version would be no flip: the check cannot tell it from a store that changes while it is read. */
static bool spoil(const struct sim_store *store, uint64_t offset, unsigned char *byte) {
    for (unsigned bit = 0; bit < 8; bit++) {
        *byte ^= 1u << bit;
        if (!sim_store_may_hold(store, offset, byte, 1, store->pages[offset / store->page_bytes].floor))
            return true;
        *byte ^= 1u << bit;
    }
    return false;
}

static void flip_bit(struct sim_store *store, const struct store_read *read, uint64_t page, size_t length) {
    uint64_t start = page * store->page_bytes, low = start > read->read.offset ? start - read->read.offset : 0;
    uint64_t high = start + store->page_bytes - read->read.offset;
    high = high < length ? high : length;
    uint64_t at = low < high ? random_between(fiber_random(), low, high - 1) : high;
    if (low >= high || !spoil(store, read->read.offset + at, (unsigned char *)read->read.buffer + at))
        return;
    blame(store, read, page, 1);
    store->pages[page].flipped = true;
}

/* Errors of pages that are bad for ever: the read ends before the page, or with an error on it alone. */
static bool meets_bad_page(struct sim_store *store, const struct store_read *read, int64_t *result) {
    for (uint64_t page = first_page(store, read); page <= last_page(store, read); page++) {
        if (store->pages[page].state != STORE_BAD)
            continue;
        uint64_t start = page * store->page_bytes;
        if (start > read->read.offset && random_chance(fiber_random(), 512)) {
            *result = (int64_t)(start - read->read.offset);
            return true;
        }
        blame(store, read, page, 1);
        *result = -EIO;
        return true;
    }
    return false;
}

static int64_t decide(struct sim_store *store, const struct store_read *read) {
    int64_t result = (int64_t)read->read.length;
    if (meets_bad_page(store, read, &result))
        return result;
    if (strikes(store, STORE_ERROR)) {
        blame_all(store, read, 1);
        return store->chance[STORE_CROWDED] % 2 ? -EAGAIN : -EIO;
    }
    if (strikes(store, STORE_END)) {
        blame_all(store, read, 1);
        return 0;
    }
    if (strikes(store, STORE_TOO_LONG)) {
        blame_all(store, read, 1);
        return result + 1;
    }
    if (result > 1 && strikes(store, STORE_SHORT))
        return (int64_t)random_between(fiber_random(), 1, (uint64_t)result - 1);
    return result;
}

static void flip_bits(struct sim_store *store, const struct store_read *read, int64_t result) {
    if (result <= 0 || !store->has_check)
        return;
    if (strikes(store, STORE_FLIP))
        flip_bit(store, read, random_between(fiber_random(), first_page(store, read), last_page(store, read)),
                 (size_t)result);
    for (uint64_t page = first_page(store, read); page <= last_page(store, read); page++)
        if (store->pages[page].state == STORE_FLIPPED)
            flip_bit(store, read, page, (size_t)result);
}

/* Brings what it brings; what it says. */
static int64_t fetch(struct sim_store *store, const struct store_read *read) {
    int64_t result = decide(store, read);
    size_t brought = result < 0 ? 0 : (size_t)result > read->read.length ? read->read.length : (size_t)result;
    if (read->sent && result > 0) {
        int64_t came = bring_sent(store, read, brought);
        if (came < (int64_t)brought)
            brought = came < 0 ? 0 : (size_t)came, result = came;
    } else if (!read->sent) {
        bring(store, &read->read, brought);
    }
    flip_bits(store, read, result);
    note_late(store);
    if (result > 0 && result <= (int64_t)read->read.length)
        bring_whole(store, read, brought);
    return result;
}

/* In the thread that faulted. A device that never answers would hold it for ever, as it does with mmap: here it is
 * late. */
static int64_t read_now(struct mnw_store *handle, const struct mnw_read *asked) {
    struct sim_store *store = (void *)((uintptr_t)handle->ops - offsetof(struct sim_store, crowded_ops));
    unsigned index = note_read(store, asked);
    struct store_read read = store->reads[index];
    store->reads[index].answering = true;
    if (read.due_ns == NEVER)
        read.due_ns = fiber_now() + random_below(fiber_random(), 3 * store->deadline_ns);
    if (!strikes(store, STORE_AT_ONCE) && read.due_ns > fiber_now())
        fiber_sleep(read.due_ns - fiber_now(), "a device, inline");
    int64_t result = fetch(store, &read);
    for (uint64_t page = first_page(store, &read); result > 0 && page <= last_page(store, &read); page++)
        if (store->pages[page].state == STORE_MUTE) {
            blame(store, &read, page, 1);
            result = -EIO;
        }
    store->reads[index].used = false;
    sim_trace("store: an inline read of [%llu, +%zu): %lld", (unsigned long long)asked->offset, asked->length,
              (long long)result);
    return result > (int64_t)asked->length ? -EIO : result;
}

static void answer(struct sim_store *store, unsigned index) {
    struct store_read read = store->reads[index];
    store->reads[index].answering = true; /* it counts as open until it is answered */
    int64_t result = fetch(store, &read);
    bool too_long = result > (int64_t)read.read.length;
    if (strikes(store, STORE_TOKEN) && mnw_read_done(store->handle, read.read.token ^ (uint64_t)1 << 62, 1) != -ESTALE)
        sim_fail("an answer to a token that was never given is accepted");
    store->reads[index].used = false; /* before: the engine may ask again at once, in here */
    sim_trace("store: answers [%llu, +%zu) with %lld", (unsigned long long)read.read.offset, read.read.length,
              (long long)result);
    int error = mnw_read_done(store->handle, read.read.token, result);
    if (error != (too_long ? -EINVAL : 0))
        sim_fail("the answer to a read is refused: %d (%s)", error, mnw_error());
    if (strikes(store, STORE_TWICE) && mnw_read_done(store->handle, read.read.token, result) != -ESTALE)
        sim_fail("a second answer to one read is accepted");
}

/* A read that is due, chosen by the seed; -1: none, and `*next_ns` is when. */
static int choose(struct sim_store *store, uint64_t *next_ns) {
    unsigned candidates = 0;
    int chosen = -1;
    *next_ns = FIBER_FOREVER;
    for (unsigned i = 0; i < store->read_count; i++) {
        const struct store_read *read = &store->reads[i];
        if (!read->used || read->answering || read->due_ns == NEVER)
            continue;
        if (read->due_ns <= fiber_now()) {
            if (!random_below(fiber_random(), ++candidates))
                chosen = (int)i;
        } else if (read->due_ns < *next_ns) {
            *next_ns = read->due_ns;
        }
    }
    return chosen;
}

static void serve(void *argument) {
    struct sim_store *store = argument;
    for (;;) {
        uint64_t next_ns;
        int index = choose(store, &next_ns);
        if (index >= 0)
            answer(store, (unsigned)index);
        else if (store->ended)
            return;
        else
            fiber_wait(store, "the store waits for reads", next_ns == FIBER_FOREVER ? next_ns : next_ns - fiber_now());
    }
}

/* ---- begin and end ----------------------------------------------------------------------------------------- */

void sim_store_prepare(struct sim_store *store) {
    store->page_count = (store->size_bytes - 1) / store->page_bytes + 1;
    store->pages = calloc(store->page_count, sizeof(*store->pages));
    store->reads = calloc(STORE_READS_MAX, sizeof(*store->reads));
    if (!store->pages || !store->reads)
        sim_fail("no memory for a store");
}

void sim_store_open(struct sim_store *store, const char *name) {
    struct mnw_store_callbacks callbacks = {
        .size = sizeof(callbacks), .size_bytes = store->size_bytes, .read = read_callback};
    if (store->has_check)
        callbacks.check = check_callback;
    if (mnw_store_open_callbacks(&store->handle, &callbacks, store))
        sim_fail("the store cannot be opened: %s", mnw_error());
    store->ops = store->crowded_ops = *store->handle->ops;
    store->crowded_ops.read = read_crowded;
    if (store->reads_now)
        store->crowded_ops.read_now = read_now;
    if (store->sends) {
        store->crowded_ops.may_send = may_send;
        store->crowded_ops.send = send;
    }
    if (!store->has_check) /* callbacks might have one; stores that read at once have none */
        store->crowded_ops.check = NULL;
    store->handle->ops = &store->crowded_ops;
    for (int i = 0; i < 2; i++)
        store->fibers[i] = fiber_start(name, 0, serve, store);
}

/* One page's part of a read that nobody waits for any more. */
struct orphan {
    struct sim_store *store;
    char *buffer;
    uint64_t offset, incarnation;
    size_t length;
};

static void write_late(void *argument) {
    struct orphan *orphan = argument;
    fiber_sleep(random_below(fiber_random(), 5000000), "a device writes");
    if (fake_incarnation(orphan->buffer) == orphan->incarnation && fake_is_cached(orphan->buffer))
        sim_store_bytes(orphan->store, orphan->offset,
                        orphan->store->pages[orphan->offset / orphan->store->page_bytes].version, orphan->buffer,
                        orphan->length);
    free(orphan);
}

static void orphan_read(struct sim_store *store, const struct mnw_read *read) {
    for (size_t done = 0; done < read->length;) {
        uint64_t at = read->offset + done, page = at / store->page_bytes, left = (page + 1) * store->page_bytes - at;
        size_t step = left < read->length - done ? left : read->length - done;
        struct orphan *orphan = malloc(sizeof(*orphan));
        char *buffer = (char *)read->buffer + done;
        if (!orphan)
            sim_fail("no memory for a device");
        *orphan = (struct orphan){store, buffer, at, fake_incarnation(buffer), step};
        fiber_start_in(0, "device", 0, write_late, orphan);
        done += step;
    }
}

void sim_store_died(struct sim_store *store) {
    unsigned orphans = 0;
    for (unsigned i = 0; i < store->read_count; i++) {
        struct store_read *read = &store->reads[i];
        if (read->used && !read->sent && orphans < 4 && random_chance(fiber_random(), 512)) {
            orphan_read(store, &read->read);
            orphans++;
        }
        *read = (struct store_read){0};
    }
    for (uint64_t page = 0; page < store->page_count; page++) {
        store->pages[page].in_doubt = store->pages[page].late = store->pages[page].flipped = false;
        store->pages[page].pins = 0;
    }
    memset(store->shorts, 0, sizeof(store->shorts));
    memset(store->sends_begun, 0, sizeof(store->sends_begun));
    store->handle = NULL;
    store->ended = false;
}

void sim_store_stop(struct sim_store *store) {
    note_late(store);
    store->stopping = true;
    for (unsigned i = 0; i < store->read_count; i++)
        if (store->reads[i].used && store->reads[i].due_ns == NEVER)
            store->reads[i].due_ns = fiber_now();
    fiber_wake(store);
}

void sim_store_shut(struct sim_store *store) {
    store->ended = true;
    fiber_wake(store);
    for (int i = 0; i < 2; i++)
        fiber_join(store->fibers[i]);
    if (mnw_store_close(store->handle))
        sim_fail("a store cannot be closed: %s", mnw_error());
    store->ended = false;
}

void sim_store_close(struct sim_store *store) {
    sim_store_shut(store);
    free(store->pages);
    free(store->reads);
}
