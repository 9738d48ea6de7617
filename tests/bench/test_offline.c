/* SPDX-License-Identifier: MIT */
/*
 * The policies of minnow-bench policies: on traces played by hand, against each policy written again as naively as can
 * be, and the optimum against all that could be done.
 */
#include "unit/unit.h"

#include "live/machine.h"
#include "model/policy_reference.h"
#include "model/random.h"
#include "offline.h"

#include <string.h>
#include <sys/resource.h>

enum { PAGES = 24, READS = 400, TRIES = 300 };

/* ---- by hand ---- */

static void check(const struct offline_ops *ops, const uint32_t *pages, uint32_t count, uint32_t room,
                  uint64_t expected) {
    uint64_t misses = offline_misses(ops, pages, count, 16, room, 1);
    if (misses != expected)
        fail_msg("%s: %d misses, not %d", offline_name(ops), (int)misses, (int)expected);
}

static void test_by_hand(void **state) {
    (void)state;
    /* The textbook's. */
    static const uint32_t belady[] = {1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5};
    check(&offline_optimum, belady, 12, 3, 7);
    check(&offline_lru, belady, 12, 3, 10);
    check(&offline_clock, belady, 12, 3, 10);
    check(&offline_sieve, belady, 12, 3, 10);
    check(&offline_s3fifo, belady, 12, 3, 10);
    check(&offline_optimum, belady, 12, 4, 6);
    check(&offline_lru, belady, 12, 4, 8);
    /* One page is read again and again: only SIEVE's hand has passed it by. */
    static const uint32_t hot[] = {1, 2, 3, 1, 4, 5, 1, 6, 7, 8, 1};
    check(&offline_optimum, hot, 11, 3, 8);
    check(&offline_sieve, hot, 11, 3, 8);
    check(&offline_clock, hot, 11, 3, 9);
    check(&offline_lru, hot, 11, 3, 9);
    check(&offline_s3fifo, hot, 11, 3, 9); /* 1 fails its trial, and comes back into main for good */
    /* minnow asks 1, 2 and 3 (armed now), finds none used since, and lets 1 go. */
    static const uint32_t four[] = {1, 2, 3, 4, 1};
    check(&offline_minnow_clock, four, 5, 3, 5);
    check(&offline_minnow_s3fifo, four, 5, 3, 5);
    /* 4 had them asked; 2 was read since and stays, 3 goes for 5. */
    static const uint32_t watched[] = {1, 2, 3, 4, 2, 5, 2, 3};
    check(&offline_minnow_clock, watched, 8, 3, 6);
}

static void test_units_go_whole(void **state) {
    (void)state;
    /* Units of two pages: 0 and 1, 2 and 3, 4 and 5. The third's first page sends both of the first away. */
    static const uint32_t reads[] = {0, 1, 2, 3, 4, 2, 3, 0, 1};
    assert_int_equal(offline_misses(&offline_lru, reads, 9, 6, 4, 2), 7);
    assert_int_equal(offline_misses(&offline_clock, reads, 9, 6, 4, 2), 7);
    /* The store's last unit is not whole. */
    static const uint32_t end[] = {4, 0, 1, 2, 4};
    assert_int_equal(offline_misses(&offline_lru, end, 5, 5, 2, 2), 5);
}

/* ---- naively ---- */

struct list {
    uint32_t units[PAGES];
    unsigned length;
};

static void append(struct list *list, uint32_t unit) {
    list->units[list->length++] = unit;
}

static uint32_t drop_at(struct list *list, unsigned at) {
    uint32_t unit = list->units[at];
    memmove(&list->units[at], &list->units[at + 1], (--list->length - at) * sizeof(unit));
    return unit;
}

static bool drop(struct list *list, uint32_t unit) {
    for (unsigned i = 0; i < list->length; i++)
        if (list->units[i] == unit)
            return drop_at(list, i) == unit;
    return false;
}

/* Oldest first. */
struct naive {
    const struct offline_ops *ops;
    uint32_t room, unit;
    bool present[PAGES];
    struct list all, small;
    unsigned hits[PAGES], hand, failures;
    unsigned failed[PAGES]; /* the number of its failure, from 1 */
    struct reference reference;
    bool used[PAGES];
    bool is_minnow, is_s3fifo;
};

static unsigned pages_of(const struct naive *naive, uint32_t unit) {
    unsigned count = 0;
    for (uint32_t page = unit * naive->unit; page < (unit + 1) * naive->unit && page < PAGES; page++)
        count += naive->present[page];
    return count;
}

static unsigned pages_in(const struct naive *naive, const struct list *list) {
    unsigned count = 0;
    for (unsigned i = 0; i < list->length; i++)
        count += pages_of(naive, list->units[i]);
    return count;
}

static bool naive_ask(void *context, uint32_t unit) {
    struct naive *naive = context;
    bool used = naive->used[unit];
    naive->used[unit] = false;
    return used;
}

static uint32_t pick_sieve(struct naive *naive) {
    for (;;) {
        unsigned at = naive->hand;
        uint32_t unit = naive->all.units[at];
        bool goes = !naive->hits[unit];
        naive->hits[unit] = 0;
        naive->hand = at + 1 == naive->all.length ? 0 : goes ? at : at + 1;
        if (goes)
            return drop_at(&naive->all, at);
    }
}

static uint32_t pick_s3fifo(struct naive *naive) {
    for (;;) {
        bool small = naive->small.length && (pages_in(naive, &naive->small) * 10 >= naive->room || !naive->all.length);
        uint32_t unit = drop_at(small ? &naive->small : &naive->all, 0);
        if (small && naive->hits[unit] < 2) {
            naive->failed[unit] = ++naive->failures;
            return unit;
        }
        if (!small && !naive->hits[unit])
            return unit;
        naive->hits[unit] = small ? 0 : naive->hits[unit] - 1;
        append(&naive->all, unit);
    }
}

static uint32_t naive_pick(struct naive *naive) {
    uint32_t unit = 0;
    if (naive->is_minnow)
        assert_true(reference_pick(&naive->reference, naive_ask, naive, &unit));
    else if (naive->ops == &offline_sieve)
        unit = pick_sieve(naive);
    else if (naive->ops == &offline_s3fifo)
        unit = pick_s3fifo(naive);
    else /* LRU has no hits, and moves what is used */
        while (naive->hits[unit = drop_at(&naive->all, 0)]) {
            naive->hits[unit] = 0;
            append(&naive->all, unit);
        }
    return unit;
}

static void naive_evict(struct naive *naive) {
    uint32_t unit = naive_pick(naive);
    naive->hits[unit] = 0;
    for (uint32_t page = unit * naive->unit; page < (unit + 1) * naive->unit && page < PAGES; page++)
        naive->present[page] = false;
}

static void naive_use(struct naive *naive, uint32_t unit) {
    if (naive->is_minnow)
        naive->used[unit] = true;
    if (naive->ops == &offline_lru && drop(&naive->all, unit))
        append(&naive->all, unit);
    else if (naive->ops == &offline_s3fifo && naive->hits[unit] < 3)
        naive->hits[unit]++;
    else if (naive->ops == &offline_clock || naive->ops == &offline_sieve)
        naive->hits[unit] = 1;
}

static void naive_insert(struct naive *naive, uint32_t unit) {
    unsigned main_share = (naive->room - naive->room / 10) / naive->unit;
    bool ghost = naive->failed[unit] && naive->failures - naive->failed[unit] < main_share;
    if (naive->is_minnow) {
        reference_insert(&naive->reference, unit);
        naive->used[unit] = true;
    } else {
        append(naive->ops == &offline_s3fifo && !ghost ? &naive->small : &naive->all, unit);
    }
}

static unsigned resident(const struct naive *naive) {
    unsigned count = 0;
    for (unsigned i = 0; i < PAGES; i++)
        count += naive->present[i];
    return count;
}

static bool naive_read(struct naive *naive, uint32_t page) {
    uint32_t unit = page / naive->unit;
    bool hit = naive->present[page];
    while (!hit && resident(naive) >= naive->room)
        naive_evict(naive);
    if (pages_of(naive, unit))
        naive_use(naive, unit);
    else
        naive_insert(naive, unit);
    naive->present[page] = true;
    return hit;
}

static void compare(const struct offline_ops *ops, uint64_t seed) {
    static struct naive naive;
    struct random random = {seed};
    uint32_t unit = 1u << random_below(&random, 3), room = 1 + (uint32_t)random_below(&random, PAGES);
    memset(&naive, 0, sizeof(naive));
    naive.ops = ops;
    naive.unit = unit;
    naive.room = room;
    naive.is_minnow = ops == &offline_minnow_clock || ops == &offline_minnow_s3fifo;
    reference_init(&naive.reference, ops == &offline_minnow_s3fifo);
    struct offline *offline = offline_open(ops, PAGES, room, unit);
    assert_non_null(offline);
    for (unsigned i = 0; i < READS; i++) {
        uint32_t page = (uint32_t)(random_below(&random, PAGES) * random_below(&random, PAGES) / PAGES);
        if (offline_read(offline, page) != naive_read(&naive, page))
            fail_msg("%s, seed %d, read %u: they differ", offline_name(ops), (int)seed, i);
    }
    offline_close(offline);
}

static void test_as_naively(void **state) {
    static const struct offline_ops *const all[] = {&offline_clock, &offline_lru,          &offline_s3fifo,
                                                    &offline_sieve, &offline_minnow_clock, &offline_minnow_s3fifo};
    (void)state;
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        for (uint64_t seed = 1; seed <= TRIES; seed++)
            compare(all[i], seed);
}

/* ---- a large store of which little is read ---- */

static void compare_sparse(const struct offline_ops *ops, uint64_t seed) {
    enum { FEW = 100, STORE = 4096 };
    struct random random = {seed};
    uint32_t reads[FEW], unit = 1u << random_below(&random, 3), room = 4 + (uint32_t)random_below(&random, PAGES);
    uint64_t misses = 0;
    for (unsigned i = 0; i < FEW; i++)
        reads[i] = (uint32_t)(random_below(&random, PAGES) * random_below(&random, 3)) * 90;
    for (unsigned i = 0; i < FEW; i++)
        reads[i] = reads[i] % STORE / unit * unit + (uint32_t)random_below(&random, unit);
    struct offline *offline = offline_open(ops, STORE, room, unit);
    assert_true(offline && offline_foresee(offline, reads, FEW));
    for (unsigned i = 0; i < FEW; i++)
        misses += !offline_read(offline, reads[i]);
    offline_close(offline);
    if (offline_misses(ops, reads, FEW, STORE, room, unit) != misses)
        fail_msg("%s, seed %d: they differ", offline_name(ops), (int)seed);
}

static void test_sparse(void **state) {
    static const struct offline_ops *const all[] = {&offline_clock,  &offline_lru,          &offline_s3fifo,
                                                    &offline_sieve,  &offline_minnow_clock, &offline_minnow_s3fifo,
                                                    &offline_optimum};
    static const uint32_t far[] = {(1u << 30) - 1, 0, (1u << 30) - 1};
    (void)state;
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        for (uint64_t seed = 1; seed <= TRIES; seed++)
            compare_sparse(all[i], seed);
        /* The largest store there is; a file of 88 bytes may name it. */
        assert_int_equal(offline_misses(all[i], far, 3, 1u << 30, 1, 1), 3);
        assert_int_equal(offline_misses(all[i], far, 3, 1u << 30, 2, 1), 2);
        assert_int_equal(offline_misses(all[i], far, 3, 1u << 30, 2, 1u << 29), 2);
    }
    struct rusage used;
    assert_int_equal(getrusage(RUSAGE_SELF, &used), 0);
    /* KiB; an array of such a store's pages is 4 GiB. A sanitizer has shadows of what is reserved only. */
    if (!MACHINE_SANITIZED)
        assert_in_range(used.ru_maxrss, 1, 1 << 20);
}

/* ---- the optimum ---- */

enum { FEW_PAGES = 6, FEW_READS = 14 };

/* The fewest misses from here on with those pages there (a bit each), whoever is evicted. */
static unsigned fewest(const uint32_t *reads, unsigned count, unsigned there, unsigned room) {
    if (!count)
        return 0;
    unsigned page = 1u << reads[0], best = UINT32_MAX;
    if (there & page)
        return fewest(reads + 1, count - 1, there, room);
    if ((unsigned)__builtin_popcount(there) < room)
        return 1 + fewest(reads + 1, count - 1, there | page, room);
    for (unsigned victim = 1; victim < 1u << FEW_PAGES; victim <<= 1) {
        unsigned misses = there & victim ? fewest(reads + 1, count - 1, (there & ~victim) | page, room) : UINT32_MAX;
        best = misses < best ? misses : best;
    }
    return 1 + best;
}

static void test_nobody_misses_less(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= TRIES; seed++) {
        struct random random = {seed};
        uint32_t reads[FEW_READS], room = 1 + (uint32_t)random_below(&random, FEW_PAGES - 1);
        for (unsigned i = 0; i < FEW_READS; i++)
            reads[i] = (uint32_t)random_below(&random, FEW_PAGES);
        uint64_t least = offline_misses(&offline_optimum, reads, FEW_READS, FEW_PAGES, room, 1);
        assert_int_equal(least, fewest(reads, FEW_READS, 0, room));
        assert_true(least <= offline_misses(&offline_lru, reads, FEW_READS, FEW_PAGES, room, 2));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand), cmocka_unit_test(test_units_go_whole),     cmocka_unit_test(test_as_naively),
        cmocka_unit_test(test_sparse),  cmocka_unit_test(test_nobody_misses_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
