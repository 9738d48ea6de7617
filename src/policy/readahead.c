/* SPDX-License-Identifier: MIT */
/*
 * Readahead: recognising streams of faults, and planning their windows.
 *
 * Pure; one caller at a time per struct. Never allocates.
 *
 * A fault either fits a known stream or goes into a short history. When it ends an arithmetic progression with
 * two earlier ones there, a stream is born; so faults of several consumers may interleave, and a random fault
 * costs a walk over the history and nothing else.
 *
 * Pipelining: a plan is made while half a window is still ahead of the consumer. Pages mapped around a fault
 * raise no fault of their own, so `around` stays a quarter of the window while there is something to read: otherwise
 * the consumer would run through mapped pages past the place where the next plan is due. A stream of resident
 * pages plans behind what it maps instead.
 *
 * So is mapping: of a resident stream the window behind the next is mapped while the reader is in the next. The page
 * between the two is left out. Its fault tells that the reader has come so far; it costs him a wake-up, and the mapping
 * nothing. Nearer to him the mapping would be in his way: both want the same cache lines of the page table.
 */
#include "policy/readahead.h"

#include "base/bits.h"

enum {
    WINDOW_FIRST = 4,
    STRIDES_MAX = 32,    /* each page of a strided window is a read of its own */
    SKIPS_MAX = 4,       /* strides that may be missing: their pages were mapped already */
    HITS_SEQUENTIAL = 2, /* confirmations before the first plan */
    HITS_STRIDED = 3,    /* see the header */
    IDLE_MAX = 256,      /* faults without a fit before a window is halved */
    AROUND_GROWS = 4,    /* windows of mapping ahead: each costs a wake-up, which costs more than a hundred pages */
    LEAD_FROM = 16,      /* windows that are worth mapping the next one beside their reader */
    UNREAD_RESIDENT = 1, /* plans of which nothing had to be read, before a stream counts as resident */
};

void mnw__readahead_init(struct mnw__readahead *readahead, uint64_t page_count, uint32_t window_max,
                         uint32_t block_max) {
    *readahead = (struct mnw__readahead){.page_count = page_count, .window_max = window_max};
    mnw__around_init(&readahead->block, block_max);
}

/* ---- recognising -------------------------------------------------------------------------------------------- */

static bool fits_sequential(const struct mnw__readahead_stream *stream, uint64_t page) {
    uint64_t reach = mnw__max(stream->last + stream->around + stream->lead + 1, (uint64_t)stream->ahead);
    return page >= stream->last && page <= reach;
}

static bool fits_strided(const struct mnw__readahead_stream *stream, uint64_t page) {
    int64_t distance = (int64_t)(page - stream->last);
    if (distance % stream->stride)
        return false;
    int64_t steps = distance / stream->stride;
    return steps >= 0 && steps <= (stream->hits < HITS_STRIDED ? 1 : SKIPS_MAX);
}

static bool fits(const struct mnw__readahead_stream *stream, uint64_t page) {
    if (!stream->stride)
        return false;
    return stream->stride == 1 ? fits_sequential(stream, page) : fits_strided(stream, page);
}

static uint64_t distance_of(const struct mnw__readahead_stream *stream, uint64_t page) {
    return page > stream->last ? page - stream->last : stream->last - page;
}

/* The stream whose last fault is nearest: two sequential ones may follow each other closely. */
static struct mnw__readahead_stream *find_stream(struct mnw__readahead *readahead, uint64_t page) {
    struct mnw__readahead_stream *best = NULL;
    for (unsigned i = 0; i < MNW__READAHEAD_STREAMS; i++) {
        struct mnw__readahead_stream *stream = &readahead->streams[i];
        if (fits(stream, page) && (!best || distance_of(stream, page) < distance_of(best, page)))
            best = stream;
    }
    return best;
}

/* The `age`-th last fault of the history plus one; 0: there were not so many. */
static uint64_t history_at(const struct mnw__readahead *readahead, unsigned age) {
    return readahead->history[(readahead->history_next - age) % MNW__READAHEAD_HISTORY];
}

static void remember(struct mnw__readahead *readahead, uint64_t page, uint64_t end) {
    unsigned next = readahead->history_next++ % MNW__READAHEAD_HISTORY;
    readahead->history[next] = page + 1;
    readahead->ends[next] = end;
}

/* A block was brought that ends right before `page`: who comes here now has probably read all of it. */
static bool follows_block(const struct mnw__readahead *readahead, uint64_t page) {
    bool found = false;
    for (unsigned i = 0; i < MNW__READAHEAD_HISTORY; i++)
        found |= page && readahead->ends[i] == page;
    return found;
}

static void plan_block(struct mnw__readahead *readahead, uint64_t page, struct mnw__readahead_plan *plan) {
    uint32_t pages = mnw__around_fault(&readahead->block, page);
    if (pages == 1)
        return;
    plan->block = mnw__align_down(page, pages);
    plan->block_pages = (uint32_t)mnw__min(pages, readahead->page_count - plan->block);
}

/*
 * May `page` end a progression of three? Seldom; and what is in the history is as random as the faults that came to
 * it, so that each branch on it would be foreseen wrongly half of the time. Without one it is a few vector operations.
 */
static bool may_end_progression(const struct mnw__readahead *readahead, uint64_t page) {
    uint64_t any = 0;
    for (unsigned i = 0; i < MNW__READAHEAD_HISTORY; i++) {
        uint64_t first = 2 * readahead->history[i] - (page + 1);
        for (unsigned j = 0; j < MNW__READAHEAD_HISTORY; j++)
            any |= readahead->history[j] == first;
    }
    return any;
}

static bool is_older_in_history(const struct mnw__readahead *readahead, unsigned age, uint64_t noted) {
    for (unsigned older = age + 1; older <= MNW__READAHEAD_HISTORY; older++)
        if (history_at(readahead, older) == noted)
            return true;
    return false;
}

/*
 * The stride of a progression of three that `page` ends, or 0. The smallest wins: of interleaved streams the
 * faults of one lie closer together than those of two.
 */
static int64_t find_stride(const struct mnw__readahead *readahead, uint64_t page) {
    int64_t best = 0;
    if (!may_end_progression(readahead, page))
        return 0;
    for (unsigned age = 1; age < MNW__READAHEAD_HISTORY; age++) {
        uint64_t middle = history_at(readahead, age);
        int64_t stride = (int64_t)(page + 1 - middle);
        if (!middle || !stride || middle - (uint64_t)stride - 1 >= readahead->page_count)
            continue;
        bool nearer = !best || (stride < 0 ? -stride : stride) < (best < 0 ? -best : best);
        if (nearer && is_older_in_history(readahead, age, middle - (uint64_t)stride))
            best = stride;
    }
    return best;
}

static struct mnw__readahead_stream *least_used(struct mnw__readahead *readahead) {
    struct mnw__readahead_stream *oldest = &readahead->streams[0];
    for (unsigned i = 0; i < MNW__READAHEAD_STREAMS; i++) {
        struct mnw__readahead_stream *stream = &readahead->streams[i];
        if (!stream->stride)
            return stream;
        if (readahead->clock - stream->used > readahead->clock - oldest->used)
            oldest = stream;
    }
    return oldest;
}

static struct mnw__readahead_stream *begin_stream(struct mnw__readahead *readahead, uint64_t page, int64_t stride) {
    struct mnw__readahead_stream *stream = least_used(readahead);
    *stream = (struct mnw__readahead_stream){
        .last = page, .ahead = (int64_t)page + stride, .stride = stride, .around = 1, .hits = 2};
    return stream;
}

/* A fault that fitted nothing is evidence against the streams that have been waiting for theirs. */
static void doubt_idle(struct mnw__readahead *readahead) {
    for (unsigned i = 0; i < MNW__READAHEAD_STREAMS; i++) {
        struct mnw__readahead_stream *stream = &readahead->streams[i];
        if (!stream->stride || readahead->clock - stream->used <= IDLE_MAX)
            continue;
        stream->used = readahead->clock;
        stream->window /= 2;
        stream->around = (uint32_t)mnw__max(stream->around / 2, 1);
        stream->lead = 0;
        if (stream->window < WINDOW_FIRST)
            stream->stride = 0;
    }
}

/* ---- planning ----------------------------------------------------------------------------------------------- */

static uint32_t window_limit(const struct mnw__readahead *readahead, const struct mnw__readahead_stream *stream) {
    if (stream->stride == 1)
        return readahead->window_max;
    return (uint32_t)mnw__min(readahead->window_max, STRIDES_MAX);
}

static void grow_window(const struct mnw__readahead *readahead, struct mnw__readahead_stream *stream) {
    uint32_t wanted = stream->window ? stream->window * 2 : WINDOW_FIRST;
    stream->window = (uint32_t)mnw__min(wanted, window_limit(readahead, stream));
}

/* Strides from `page` to what was not yet asked for; at most 0 when the consumer has overtaken it. */
static int64_t lead_of(const struct mnw__readahead_stream *stream, uint64_t page) {
    return (stream->ahead - (int64_t)page) / stream->stride;
}

/* How many pages of the stream, from `start` on, are in the store; at most `wanted`. */
static uint32_t clip(const struct mnw__readahead *readahead, int64_t start, int64_t stride, uint32_t wanted) {
    if (start < 0 || (uint64_t)start >= readahead->page_count)
        return 0;
    uint64_t room = stride > 0 ? (readahead->page_count - 1 - (uint64_t)start) / (uint64_t)stride
                               : (uint64_t)start / (0 - (uint64_t)stride);
    return (uint32_t)mnw__min(wanted, room + 1);
}

/* Of what is not yet asked for, the window's worth. */
static void take_window(const struct mnw__readahead *readahead, struct mnw__readahead_stream *stream,
                        struct mnw__readahead_plan *plan) {
    plan->count = clip(readahead, stream->ahead, stream->stride, stream->window);
    if (!plan->count)
        return;
    plan->start = (uint64_t)stream->ahead;
    plan->stride = stream->stride;
    stream->ahead += (int64_t)plan->count * stream->stride;
}

static bool is_confirmed(const struct mnw__readahead_stream *stream) {
    return stream->hits >= (stream->stride == 1 ? HITS_SEQUENTIAL : HITS_STRIDED);
}

/* `behind`: strides from the page to where a plan may begin; nearer ones are mapped, or faulting just now. */
static void plan_window(const struct mnw__readahead *readahead, struct mnw__readahead_stream *stream, uint64_t page,
                        uint32_t behind, struct mnw__readahead_plan *plan) {
    if (!is_confirmed(stream))
        return;
    int64_t lead = lead_of(stream, page);
    if (lead < behind)
        stream->ahead = (int64_t)page + behind * stream->stride;
    else if (stream->window && lead - (behind - 1) > (stream->window + 1) / 2)
        return;
    grow_window(readahead, stream);
    take_window(readahead, stream, plan);
}

/* Without readahead there are no plans to tell it, and none to be missed. */
static bool is_resident(const struct mnw__readahead *readahead, const struct mnw__readahead_stream *stream) {
    return stream->stride == 1 && (!readahead->window_max || stream->unread >= UNREAD_RESIDENT);
}

static uint32_t around_of(const struct mnw__readahead_stream *stream) {
    return stream->stride == 1 ? (uint32_t)mnw__max(1, mnw__min(stream->window / 4, MNW__READAHEAD_AROUND_MAX)) : 1;
}

static uint32_t grown(uint32_t around) {
    return (uint32_t)mnw__min(around * AROUND_GROWS, MNW__READAHEAD_AROUND_MAX);
}

/* What the fault on `page` tells of the windows mapped at the last one: they were run through, or did not last. */
static void size_around(struct mnw__readahead_stream *stream, uint64_t page) {
    uint64_t next = stream->last + stream->around, end = next + stream->lead;
    if (page == next && stream->lead)
        stream->around = stream->lead;
    else if (page == next || page >= end)
        stream->around = grown(stream->around);
    else
        stream->around = (uint32_t)mnw__max(stream->around / 2, 1);
    stream->lead = stream->around < LEAD_FROM || (page != next && page < end) ? 0 : grown(stream->around);
}

static void note_passed(const struct mnw__readahead_stream *stream, uint64_t page, struct mnw__readahead_plan *plan) {
    uint64_t end = mnw__min(page, stream->last + stream->around + stream->lead);
    if (stream->stride != 1 || end <= stream->last + 1)
        return;
    plan->passed = stream->last + 1;
    plan->passed_count = (uint32_t)(end - plan->passed);
}

/* All windows of the stream, but for the next one's where it is mapped already. */
static void plan_mapping(const struct mnw__readahead *readahead, const struct mnw__readahead_stream *stream,
                         uint64_t page, bool is_led, struct mnw__readahead_plan *plan) {
    uint64_t lead = page + stream->around + 1;
    plan->around = is_led ? 1 : (uint32_t)mnw__min(stream->around, readahead->page_count - page);
    if (!stream->lead || lead >= readahead->page_count)
        return;
    plan->lead = lead;
    plan->lead_count = (uint32_t)mnw__min(stream->lead - 1, readahead->page_count - lead);
}

static void follow(struct mnw__readahead *readahead, struct mnw__readahead_stream *stream, uint64_t page,
                   struct mnw__readahead_plan *plan) {
    bool resident = is_resident(readahead, stream);
    bool is_led = resident && stream->lead && page == stream->last + stream->around;
    note_passed(stream, page, plan);
    if (resident)
        size_around(stream, page);
    else
        stream->lead = 0;
    stream->used = readahead->clock;
    stream->last = page;
    plan_window(readahead, stream, page, resident ? stream->around + stream->lead : 1, plan);
    if (!resident)
        stream->around = around_of(stream);
    plan_mapping(readahead, stream, page, is_led, plan);
}

void mnw__readahead_fault(struct mnw__readahead *readahead, uint64_t page, struct mnw__readahead_plan *plan) {
    *plan = (struct mnw__readahead_plan){.around = 1, .stride = 1};
    if (page >= readahead->page_count)
        return;
    readahead->clock++;
    struct mnw__readahead_stream *stream = find_stream(readahead, page);
    if (stream && page == stream->last) { /* delivered again: no news */
        stream->used = readahead->clock;
        plan->around = (uint32_t)mnw__min(stream->around, readahead->page_count - page);
        return;
    }
    if (stream) {
        stream->hits += stream->hits < UINT32_MAX;
        follow(readahead, stream, page, plan);
        return;
    }
    doubt_idle(readahead);
    if (history_at(readahead, 1) == page + 1)
        return;
    int64_t stride = follows_block(readahead, page) ? 1 : find_stride(readahead, page);
    if (stride) {
        follow(readahead, begin_stream(readahead, page, stride), page, plan);
        return;
    }
    plan_block(readahead, page, plan);
    remember(readahead, page, plan->block_pages ? plan->block + plan->block_pages : 0);
}

/* The stream that the fault just noted belongs to. */
static struct mnw__readahead_stream *stream_at(struct mnw__readahead *readahead, uint64_t page) {
    for (unsigned i = 0; i < MNW__READAHEAD_STREAMS; i++) {
        struct mnw__readahead_stream *stream = &readahead->streams[i];
        if (stream->stride && stream->last == page)
            return stream;
    }
    return NULL;
}

void mnw__readahead_missed(struct mnw__readahead *readahead, uint64_t page, struct mnw__readahead_plan *plan) {
    struct mnw__readahead_stream *stream = stream_at(readahead, page);
    if (!stream || lead_of(stream, page) == (int64_t)plan->count + 1)
        return;
    uint64_t least = mnw__min(WINDOW_FIRST, window_limit(readahead, stream));
    stream->unread = 0;
    stream->window = (uint32_t)mnw__max(stream->window / 2, least);
    stream->ahead = (int64_t)page + stream->stride;
    take_window(readahead, stream, plan);
    stream->around = around_of(stream);
    stream->lead = plan->lead_count = 0;
    plan->around = (uint32_t)mnw__min(stream->around, readahead->page_count - page);
}

/* The plan's reader may have gone on since, and planned more. */
static bool has_planned(const struct mnw__readahead_stream *stream, const struct mnw__readahead_plan *plan) {
    int64_t end = (int64_t)plan->start + (int64_t)plan->count * plan->stride;
    return stream->stride == plan->stride && lead_of(stream, (uint64_t)end) >= 0 &&
           ((int64_t)plan->start - (int64_t)stream->last) / stream->stride >= -(int64_t)MNW__READAHEAD_AROUND_MAX;
}

void mnw__readahead_planned(struct mnw__readahead *readahead, const struct mnw__readahead_plan *plan, bool resident) {
    for (unsigned i = 0; i < MNW__READAHEAD_STREAMS; i++) {
        struct mnw__readahead_stream *stream = &readahead->streams[i];
        if (!stream->stride || !has_planned(stream, plan))
            continue;
        stream->unread = resident ? stream->unread + (stream->unread < UNREAD_RESIDENT) : 0;
        if (resident)
            continue;
        stream->around = (uint32_t)mnw__min(stream->around, around_of(stream));
        stream->lead = 0;
    }
}
