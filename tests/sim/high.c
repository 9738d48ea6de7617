/* SPDX-License-Identifier: MIT */
#include "high.h"

#include "base/error.h"
#include "sys/backing.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int64_t result, const char *what) {
    if (result >= 0)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, result_name(result), mnw_error());
    exit(1);
}

/* ---- the store --------------------------------------------------------------------------------------------- */

unsigned char high_byte(size_t page, unsigned char version) {
    return (unsigned char)(1 + (page * 7 + version * 83u) % 250);
}

uint64_t high_offset(const struct high *high, size_t page) {
    return (uint64_t)page * high->page;
}

/* The bytes are those of now, also when the answer comes later. */
static void bring(struct high *high, const struct mnw_read *read) {
    for (size_t done = 0; done < read->length;) {
        size_t page = (read->offset + done) / high->page, left = (page + 1) * high->page - (read->offset + done);
        size_t step = left < read->length - done ? left : read->length - done;
        memset((char *)read->buffer + done, high_byte(page, high->version), step);
        if (high->page_of[page].flips > 0) {
            high->page_of[page].flips--;
            ((unsigned char *)read->buffer)[done] ^= 1;
        }
        done += step;
    }
}

/* Reads stop before a bad page; an error is of the first page alone. */
static int64_t result_of(struct high *high, const struct mnw_read *read) {
    size_t first = read->offset / high->page, last = (read->offset + read->length - 1) / high->page;
    struct high_page *page = &high->page_of[first];
    if (page->error && page->error_times) {
        page->error_times -= page->error_times > 0;
        return page->error;
    }
    for (size_t next = first + 1; next <= last; next++)
        if (high->page_of[next].error && high->page_of[next].error_times)
            return (int64_t)(next * high->page - read->offset);
    return page->halves && read->length > 1 ? (int64_t)(read->length / 2) : (int64_t)read->length;
}

static void read_callback(void *context, const struct mnw_read *read) {
    struct high *high = context;
    bool held = false;
    mnw__mutex_lock(&high->lock);
    high->reads_inside += read->offset % high->page != 0;
    for (size_t page = read->offset / high->page; page * high->page < read->offset + read->length; page++) {
        high->page_of[page].reads++;
        high->reads++;
        held |= high->page_of[page].held;
    }
    if (held) {
        if (high->held_count == HIGH_READS_MAX)
            must(-ENOSPC, "too many reads are held");
        high->held[high->held_count++] = *read;
    }
    bring(high, read);
    int64_t result = held ? 0 : result_of(high, read);
    mnw__mutex_unlock(&high->lock);
    if (!held)
        must(mnw_read_done(high->store, read->token, result), "answering a read");
}

static bool is_held(struct high *high, size_t page) {
    mnw__mutex_lock(&high->lock);
    bool held = high->page_of[page].held;
    mnw__mutex_unlock(&high->lock);
    return held;
}

static int64_t read_now(struct mnw_store *handle, const struct mnw_read *read) {
    struct high *high = (void *)((uintptr_t)handle->ops - offsetof(struct high, ops));
    size_t page = read->offset / high->page;
    mnw__mutex_lock(&high->lock);
    high->page_of[page].reads++;
    high->reads++;
    mnw__mutex_unlock(&high->lock);
    if (high->delay_ns)
        mnw__sleep_ns(high->delay_ns);
    while (is_held(high, page))
        mnw__sleep_ns(500000);
    mnw__mutex_lock(&high->lock);
    bring(high, read);
    int64_t result = result_of(high, read);
    mnw__mutex_unlock(&high->lock);
    return result;
}

static bool may_send(struct mnw_store *handle, const struct mnw__io *io, uint64_t offset, uint64_t length) {
    (void)handle, (void)io, (void)offset;
    return length > 0;
}

/* A send that ends early has brought half of its bytes, within a page; told or, when it ends in an error, not told. */
static int send(struct mnw_store *handle, struct mnw__io *io, const struct mnw_read *read, struct mnw__backing *backing,
                mnw__io_done *done, void *context) {
    struct high *high = (void *)((uintptr_t)handle->ops - offsetof(struct high, ops));
    struct mnw_read brought = *read;
    (void)io;
    brought.buffer = malloc(read->length);
    if (!brought.buffer)
        must(-ENOMEM, "a send");
    mnw__mutex_lock(&high->lock);
    high->sends++;
    bool early = high->send_trouble && high->sends % high->send_trouble == 0 && read->length > 1;
    bool fails = early && high->sends / high->send_trouble % 2;
    size_t length = early ? read->length / 2 - (read->length / 2 > 7 ? 7 : 0) : read->length;
    bring(high, &brought);
    mnw__mutex_unlock(&high->lock);
    if (length)
        world_put(backing, read->offset, brought.buffer, length);
    free(brought.buffer);
    done(context, read->token, fails || !length ? -ENOSPC : (int64_t)length);
    return 0;
}

static int check_callback(void *context, uint64_t offset, const void *bytes, size_t length) {
    struct high *high = context;
    for (size_t i = 0; i < length; i += 512)
        if (((const unsigned char *)bytes)[i] != high_byte((offset + i) / high->page, high->version))
            return -EILSEQ;
    return 0;
}

void high_hold(struct high *high, size_t page) {
    mnw__mutex_lock(&high->lock);
    high->page_of[page].held = true;
    mnw__mutex_unlock(&high->lock);
}

/* Takes one held read of the page. */
static bool take_held(struct high *high, size_t page, struct mnw_read *read, int64_t *result) {
    bool found = false;
    mnw__mutex_lock(&high->lock);
    high->page_of[page].held = false;
    for (size_t i = 0; i < high->held_count && !found; i++) {
        if (high->held[i].offset / high->page != page)
            continue;
        *read = high->held[i];
        high->held[i] = high->held[--high->held_count];
        *result = result_of(high, read);
        found = true;
    }
    mnw__mutex_unlock(&high->lock);
    return found;
}

int high_release(struct high *high, size_t page) {
    struct mnw_read read;
    int64_t result;
    int done = -ENOENT;
    while (take_held(high, page, &read, &result))
        done = mnw_read_done(high->store, read.token, result);
    return done;
}

int high_reads_of(struct high *high, size_t page) {
    mnw__mutex_lock(&high->lock);
    int reads = high->page_of[page].reads;
    mnw__mutex_unlock(&high->lock);
    return reads;
}

/* ---- waiting ----------------------------------------------------------------------------------------------- */

struct asked {
    struct high *high;
    size_t page;
    int count;
};

static bool was_asked(void *context) {
    struct asked *asked = context;
    return high_reads_of(asked->high, asked->page) >= asked->count;
}

void high_wait_asked(struct high *high, size_t page, int count) {
    wait_until(was_asked, &(struct asked){high, page, count}, "the store to be asked for a page");
}

struct mnw_stats high_stats(struct high *high) {
    struct mnw_stats stats;
    must(mnw_pool_stats(high->pool, &stats, sizeof(stats)), "statistics");
    return stats;
}

struct faults {
    struct high *high;
    uint64_t count;
};

static bool has_faults(void *context) {
    struct faults *faults = context;
    struct mnw_stats stats = high_stats(faults->high);
    return stats.faults_minor + stats.faults_missing >= faults->count;
}

void high_wait_faults(struct high *high, uint64_t count) {
    wait_until(has_faults, &(struct faults){high, count}, "faults to be read");
}

/* ---- opening and closing ----------------------------------------------------------------------------------- */

static void open_store(struct high *high, const struct high_options *options) {
    struct mnw_store_callbacks callbacks = {
        .size = sizeof(callbacks), .size_bytes = high->size_bytes, .read = read_callback};
    if (options->checked)
        callbacks.check = check_callback;
    mnw__mutex_init(&high->lock);
    high->page_of = calloc(high->pages, sizeof(*high->page_of));
    if (!high->page_of)
        must(-ENOMEM, "the store");
    must(mnw_store_open_callbacks(&high->store, &callbacks, high), "opening the store");
    if (!options->reads_now && !options->sends)
        return;
    high->ops = *high->store->ops;
    if (options->reads_now)
        high->ops.read_now = read_now;
    if (options->sends) { /* such a store has no check */
        high->ops.may_send = may_send;
        high->ops.send = send;
        high->ops.check = NULL;
    }
    high->store->ops = &high->ops;
}

static void open_pool(struct high *high, const struct high_options *options, size_t extents) {
    size_t budget = options->budget_extents ? options->budget_extents : extents + 2;
    struct mnw_pool_options pool = {
        .size = sizeof(pool),
        .backing = high->kind,
        .budget_bytes = budget * high->extent,
        .extent_bytes = high->kind == MNW_BACKING_SHMEM ? high->extent : 0,
        .numa = options->numa,
        .nodes = options->nodes,
        .reads_in_flight = options->slots,
        .rebalance_bytes_per_second = options->rebalance_extents * high->extent,
    };
    must(mnw_pool_open(&high->pool, &pool), "opening the pool");
}

void high_open(struct high *high, enum mnw_backing kind, const struct high_options *options) {
    static const struct high_options none;
    if (!options)
        options = &none;
    memset(high, 0, sizeof(*high));
    size_t extents = options->extents ? options->extents : 3;
    high->kind = kind;
    high->page = mnw__backing_page_bytes(kind);
    high->extent = mnw__backing_extent_bytes(kind) ? mnw__backing_extent_bytes(kind) : 8 * high->page;
    high->extent_pages = high->extent / high->page;
    high->pages = extents * high->extent_pages;
    high->size_bytes = high->pages * high->page - options->cut_bytes;
    open_store(high, options);
    open_pool(high, options, extents);
    struct mnw_cache_options cache = {
        .size = sizeof(cache),
        .read_retries = options->retries ? options->retries : UINT32_MAX,
        .retry_delay_ms = 1,
        .read_deadline_ms = options->deadline_ms ? options->deadline_ms : HIGH_DEADLINE_MS,
        .readahead_bytes = options->readahead ? 0 : UINT64_MAX,
        .read_around_bytes = options->around_pages * high->page,
        .replicas = options->replicas,
    };
    must(mnw_cache_open(&high->cache, high->pool, high->store, &cache), "opening the cache");
    must(mnw_view_open(&high->view, high->cache, NULL), "opening the view");
}

void high_open_view(struct high *high, struct mnw_view **view, uint64_t first, size_t pages, unsigned flags) {
    struct mnw_view_options options = {.size = sizeof(options), .flags = flags};
    options.offset_bytes = first * high->page;
    options.length_bytes = pages * high->page;
    must(mnw_view_open(view, high->cache, &options), "opening a view");
}

void high_close(struct high *high) {
    if (high->view)
        expect_result("the view closes", mnw_view_close(high->view), 0);
    if (high->cache)
        expect_result("the cache closes", mnw_cache_close(high->cache), 0);
    expect_result("the pool closes", mnw_pool_close(high->pool), 0);
    expect_result("the store closes", mnw_store_close(high->store), 0);
    mnw__mutex_destroy(&high->lock);
    free(high->page_of);
}

/* ---- reading ----------------------------------------------------------------------------------------------- */

uintptr_t high_at(const struct mnw_view *view, const struct high *high, size_t page) {
    return (uintptr_t)mnw_view_data(view) + page * high->page;
}

/* The same name in both worlds, whose extents are of different sizes. */
static const char *page_name(const struct high *high, size_t page) {
    static char names[4][40];
    static unsigned turn;
    char *name = names[turn++ % 4];
    size_t extent = page / high->extent_pages, within = page % high->extent_pages;
    if (page < 4)
        snprintf(name, sizeof(names[0]), "page %zu", page);
    else if (within == high->extent_pages - 1)
        snprintf(name, sizeof(names[0]), "the last page of extent %zu", extent);
    else
        snprintf(name, sizeof(names[0]), "page %zu of extent %zu", within, extent);
    return name;
}

void high_join(struct high *high, struct reader *reader, size_t page, enum world_outcome wanted,
               unsigned char version) {
    reader_join(reader);
    bool right = true;
    for (size_t i = 0; reader->outcome == WORLD_OK && i < reader->length; i++)
        right &= reader->bytes[i] == high_byte(page, version);
    bool exact = reader->outcome == WORLD_OK || reader->stopped == reader->address;
    expect(reader->outcome == wanted && right && exact, "%s reads %s%s%s", page_name(high, page),
           outcome_name(reader->outcome), right ? "" : ", wrong bytes", exact ? "" : ", signalled elsewhere");
    reader_free(reader);
}

void high_read(struct high *high, const struct mnw_view *view, size_t page, enum world_outcome wanted,
               unsigned char version) {
    struct reader reader;
    reader_start(&reader, high_at(view, high, page), 64);
    high_join(high, &reader, page, wanted, version);
}

void high_read_all(struct high *high, const struct mnw_view *view, unsigned char version) {
    struct reader reader;
    size_t length = mnw_view_length(view), wrong = 0;
    reader_start(&reader, (uintptr_t)mnw_view_data(view), length);
    reader_join(&reader);
    for (size_t i = 0; i < length; i++)
        wrong += reader.bytes[i] != (i < high->size_bytes ? high_byte(i / high->page, version) : 0);
    expect(reader.outcome == WORLD_OK && !wrong, "all pages read %s, %s", outcome_name(reader.outcome),
           wrong ? "with wrong bytes" : "every byte right");
    reader_free(&reader);
}

/* ---- asking ------------------------------------------------------------------------------------------------ */

struct taking {
    struct high *high;
    struct mnw_event event;
};

static bool has_event(void *context) {
    struct taking *taking = context;
    int taken = mnw_pool_next_event(taking->high->pool, &taking->event);
    must(taken, "taking an event");
    return taken == 1;
}

void high_event(struct high *high, enum mnw_event_kind kind, int result, uint64_t cookie) {
    struct taking taking = {.high = high};
    wait_until(has_event, &taking, "an event");
    const struct mnw_event *event = &taking.event;
    expect(event->kind == kind && event->result == result && event->cookie == cookie && event->cache == high->cache,
           "event: %s, %s, %s, cookie %d, %d failed",
           event->kind == MNW_EVENT_PREFETCH ? "prefetch ended" : "page failed", result_name(event->result),
           page_name(high, event->offset / high->page), (int)event->cookie, (int)event->pages_failed);
}

struct counting {
    struct high *high;
    size_t field;
    uint64_t wanted, found;
};

static bool has_counted(void *context) {
    struct counting *counting = context;
    struct mnw_stats stats = high_stats(counting->high);
    memcpy(&counting->found, (const char *)&stats + counting->field, sizeof(counting->found));
    return counting->found >= counting->wanted;
}

void high_expect_count(struct high *high, size_t field, uint64_t wanted, const char *what) {
    struct counting counting = {high, field, wanted, 0};
    wait_until(has_counted, &counting, what);
    expect(counting.found == wanted, "%s: %d", what, (int)counting.found);
}

void high_expect_flags(struct high *high, size_t page, unsigned wanted) {
    uint8_t flags = 0;
    must(mnw_residency(high->cache, high_offset(high, page), &flags, 1), "residency");
    expect(flags == wanted, "%s is%s%s%s%s%s", page_name(high, page), flags ? "" : " absent",
           flags & MNW_RESIDENT ? " resident" : "", flags & MNW_FILLING ? " filling" : "",
           flags & MNW_FAILED ? " failed" : "", flags & MNW_PINNED ? " pinned" : "");
}
