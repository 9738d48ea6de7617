/* SPDX-License-Identifier: MIT */
/*
 * Page words and extent words against plain structs: some actors, who hold visits, fills, claims and evictions,
 * make random transitions that page.h allows them, and some that must be refused; after each, every word is what
 * the structs say. One thread: who meets whom in between is page_threads.c and the simulator. Arguments: the first
 * seed and the number of seeds.
 */
#include "model/random.h"
#include "page/page.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPERATIONS = 600, ACTORS = 4, EXTENTS_MAX = 5, PAGES_MAX = 32, NOBODY = -1 };

/* What page.h says, as naive as can be. */
struct model_page {
    enum mnw__page_state state;
    bool joined, scarred;
    int claimer;
};

struct model_extent {
    enum mnw__extent_state state;
    bool awaited, referenced, ahead, charged, unfit;
    int present, pins;
    int visits[ACTORS], fills[ACTORS];
    int evictor;
    bool dropped; /* the evictor has dropped pages and left the count to evicted */
};

static struct {
    struct random random;
    struct mnw__pages pages;
    _Atomic uint32_t words[PAGES_MAX];
    _Atomic uint64_t extents[EXTENTS_MAX];
    struct model_page page[PAGES_MAX];
    struct model_extent extent[EXTENTS_MAX];
    const char *doing;
    int actor;
    bool failed;
} run;

static void expect(bool right, const char *what) {
    if (right || run.failed)
        return;
    fprintf(stderr, "%s by actor %d: %s\n", run.doing, run.actor, what);
    run.failed = true;
}

static uint64_t draw(uint64_t bound) {
    return random_below(&run.random, bound);
}

static int sum(const int *counts) {
    int all = 0;
    for (int i = 0; i < ACTORS; i++)
        all += counts[i];
    return all;
}

/* ---- comparing --------------------------------------------------------------------------------------------- */

static void compare_page(uint64_t page) {
    const struct model_page *model = &run.page[page];
    uint32_t word = mnw__page_load(&run.pages, page);
    expect(mnw__page_state(word) == model->state, "a page's state");
    expect(!!(word & MNW__PAGE_JOINED) == model->joined, "a page's JOINED");
    expect(!!(word & MNW__PAGE_SCARRED) == model->scarred, "a page's SCARRED");
}

static void compare_extent(uint64_t extent) {
    const struct model_extent *model = &run.extent[extent];
    struct mnw__extent word = mnw__extent_load(&run.pages, extent);
    expect(word.state == model->state, "an extent's state");
    expect(word.awaited == model->awaited, "awaited");
    expect(word.referenced == model->referenced, "referenced");
    expect(word.ahead == model->ahead, "ahead");
    expect(word.charged == model->charged, "charged");
    expect(word.unfit == model->unfit, "unfit");
    expect(word.present == model->present, "the count of PRESENT pages");
    expect(word.user_pins == model->pins, "the count of pins");
    expect(word.fills == sum(model->fills), "the count of fills");
    expect(word.visitors == sum(model->visits), "the count of visitors");
}

/* Would a cache in this state be at rest, with its counts right? */
static bool is_right(void) {
    for (uint64_t extent = 0; extent < run.pages.extent_count; extent++) {
        const struct model_extent *model = &run.extent[extent];
        int present = 0;
        if (model->state == MNW__EXTENT_EVICTING || sum(model->visits) || sum(model->fills))
            return false;
        for (uint64_t page = 0; page < run.pages.page_count; page++) {
            if (mnw__extent_of(&run.pages, page) != extent)
                continue;
            present += run.page[page].state == MNW__PAGE_PRESENT;
            if (run.page[page].state == MNW__PAGE_FILLING)
                return false;
        }
        if (present != model->present || (present && model->state != MNW__EXTENT_RESIDENT))
            return false;
    }
    return true;
}

static void compare(void) {
    uint64_t where;
    for (uint64_t page = 0; page < run.pages.page_count; page++)
        compare_page(page);
    for (uint64_t extent = 0; extent < run.pages.extent_count; extent++)
        compare_extent(extent);
    expect(!mnw__pages_check(&run.pages, &where) == is_right(), "mnw__pages_check");
}

/* ---- transitions of extents; each is given an extent, and a page of it ------------------------------------- */

static void do_enter(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    bool fault = draw(2);
    (void)page;
    enum mnw__enter wanted = model->state == MNW__EXTENT_EVICTING ? MNW__ENTER_BUSY
                             : model->state == MNW__EXTENT_ABSENT ? MNW__ENTER_FRESH
                                                                  : MNW__ENTER_HELD;
    expect(mnw__extent_enter(&run.pages, extent, fault) == wanted, "its result");
    if (wanted == MNW__ENTER_BUSY) {
        model->awaited |= fault;
        return;
    }
    model->state = MNW__EXTENT_RESIDENT;
    model->referenced |= fault;
    model->visits[run.actor]++;
}

static void do_leave(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    /* The visit of whoever repairs is his to the end. */
    if (!model->visits[run.actor] || model->evictor == run.actor)
        return;
    mnw__extent_leave(&run.pages, extent);
    model->visits[run.actor]--;
}

static void do_settle(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    if (!model->visits[run.actor] || model->evictor == run.actor || run.page[page].claimer != run.actor)
        return;
    mnw__extent_settle(&run.pages, extent);
    model->visits[run.actor]--;
    model->fills[run.actor]++;
}

static void do_visit(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    bool wanted = model->state == MNW__EXTENT_RESIDENT;
    expect(mnw__extent_visit(&run.pages, extent) == wanted, "its result");
    model->visits[run.actor] += wanted;
}

static void do_revisit(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    if (!model->fills[run.actor])
        return;
    mnw__extent_revisit(&run.pages, extent);
    model->visits[run.actor]++;
}

static void do_release(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    if (!model->fills[run.actor])
        return;
    mnw__extent_release(&run.pages, extent);
    model->fills[run.actor]--;
}

static void do_charge(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    if (!model->visits[run.actor])
        return;
    expect(mnw__extent_charge(&run.pages, extent) == !model->charged, "its result");
    model->charged = true;
}

static void do_mark(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    if (!model->visits[run.actor])
        return;
    mnw__extent_set_unfit(&run.pages, extent);
    model->unfit = true;
}

static void do_set_ahead(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    if (!model->visits[run.actor])
        return;
    mnw__extent_set_ahead(&run.pages, extent);
    model->ahead = true;
}

static void do_note_passed(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    mnw__extent_note_passed(&run.pages, extent);
    model->referenced |= model->state == MNW__EXTENT_RESIDENT;
}

static void do_take_use(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    enum mnw__use wanted = model->ahead ? MNW__USE_UNKNOWN : MNW__USE_NONE;
    if (model->referenced)
        wanted = MNW__USE_SEEN;
    expect(mnw__extent_take_use(&run.pages, extent) == wanted, "its result");
    model->referenced = model->ahead = false;
}

static void do_pin(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    int wanted = model->state == MNW__EXTENT_EVICTING ? -EAGAIN : model->pins == 0;
    expect(mnw__extent_pin(&run.pages, extent) == wanted, "its result");
    if (wanted < 0)
        return;
    model->pins++;
    model->state = MNW__EXTENT_RESIDENT;
}

static void do_unpin(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    expect(mnw__extent_unpin(&run.pages, extent) == (model->pins ? model->pins == 1 : -EINVAL), "its result");
    model->pins -= model->pins > 0;
}

static void now_evicting(struct model_extent *model, bool is) {
    if (!is)
        return;
    model->state = MNW__EXTENT_EVICTING;
    model->evictor = run.actor;
    model->dropped = false;
}

static void do_claim_eviction(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    bool may = model->state == MNW__EXTENT_RESIDENT && !sum(model->visits) && !sum(model->fills) && !model->pins;
    expect(mnw__extent_claim_eviction(&run.pages, extent) == may, "its result");
    now_evicting(model, may);
}

static void do_claim_repair(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    /* Who is not the one visitor must not ask; but where there is no visitor at all, or two, all are refused. */
    if (sum(model->visits) == 1 && !model->visits[run.actor])
        return;
    bool may = model->state == MNW__EXTENT_RESIDENT && sum(model->visits) == 1;
    expect(mnw__extent_claim_repair(&run.pages, extent) == may, "its result");
    now_evicting(model, may);
}

static void do_drain(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    int wanted = model->state == MNW__EXTENT_EVICTING ? -EAGAIN : model->pins ? -EBUSY : 0;
    expect(mnw__extent_drain(&run.pages, extent) == wanted, "its result");
    now_evicting(model, !wanted);
}

/* The extent goes whole: what is left of it first. */
static void do_evicted(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    if (model->evictor != run.actor || sum(model->visits) || sum(model->fills))
        return;
    for (page = 0; page < run.pages.page_count; page++) {
        if (mnw__extent_of(&run.pages, page) != extent || run.page[page].state != MNW__PAGE_PRESENT)
            continue;
        expect(mnw__page_drop(&run.pages, page), "a page is dropped");
        run.page[page].state = MNW__PAGE_ABSENT;
    }
    expect(mnw__extent_evicted(&run.pages, extent) == model->awaited, "its result");
    *model = (struct model_extent){.evictor = NOBODY};
}

static void do_keep(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    (void)page;
    if (model->evictor != run.actor || model->dropped)
        return;
    expect(mnw__extent_keep(&run.pages, extent) == model->awaited, "its result");
    model->state = MNW__EXTENT_RESIDENT;
    model->awaited = false;
    model->evictor = NOBODY;
}

/* ---- transitions of pages ---------------------------------------------------------------------------------- */

static void do_claim(uint64_t extent, uint64_t page) {
    struct model_page *model = &run.page[page];
    if (!run.extent[extent].visits[run.actor])
        return;
    bool may = model->state == MNW__PAGE_ABSENT;
    expect(mnw__page_claim(&run.pages, page) == may, "its result");
    if (may)
        *model = (struct model_page){.state = MNW__PAGE_FILLING, .claimer = run.actor, .scarred = model->scarred};
}

static void do_join(uint64_t extent, uint64_t page) {
    struct model_page *model = &run.page[page];
    if (!run.extent[extent].visits[run.actor])
        return;
    bool may = model->state == MNW__PAGE_FILLING;
    expect(mnw__page_join(&run.pages, page) == may, "its result");
    model->joined |= may;
}

static void end_claim(uint64_t page, uint32_t before, enum mnw__page_state after) {
    struct model_page *model = &run.page[page];
    uint32_t wanted = MNW__PAGE_FILLING | (model->joined ? (uint32_t)MNW__PAGE_JOINED : 0);
    wanted |= model->scarred ? (uint32_t)MNW__PAGE_SCARRED : 0;
    expect(before == wanted, "the word before");
    bool scarred = model->scarred || after == MNW__PAGE_FAILED;
    *model = (struct model_page){.state = after, .claimer = NOBODY, .scarred = scarred};
}

static void do_fill(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    if (run.page[page].claimer != run.actor || !model->visits[run.actor])
        return;
    end_claim(page, mnw__page_fill(&run.pages, page), MNW__PAGE_PRESENT);
    model->present++;
    expect(mnw__extent_add_present(&run.pages, extent, 1) == (unsigned)model->present, "the new count");
}

static void do_unclaim(uint64_t extent, uint64_t page) {
    (void)extent;
    if (run.page[page].claimer == run.actor)
        end_claim(page, mnw__page_unclaim(&run.pages, page), MNW__PAGE_ABSENT);
}

static void do_fail(uint64_t extent, uint64_t page) {
    (void)extent;
    if (run.page[page].claimer == run.actor)
        end_claim(page, mnw__page_fail(&run.pages, page), MNW__PAGE_FAILED);
}

/* A repairer, being a visitor, keeps the count himself; others go on to evicted, which forgets it. */
static void do_drop(uint64_t extent, uint64_t page) {
    struct model_extent *model = &run.extent[extent];
    if (model->evictor != run.actor)
        return;
    bool may = run.page[page].state == MNW__PAGE_PRESENT;
    expect(mnw__page_drop(&run.pages, page) == may, "its result");
    if (!may)
        return;
    run.page[page].state = MNW__PAGE_ABSENT;
    if (!model->visits[run.actor]) {
        model->dropped = true;
        return;
    }
    model->present--;
    expect(mnw__extent_add_present(&run.pages, extent, -1) == (unsigned)model->present, "the new count");
}

static void do_heal(uint64_t extent, uint64_t page) {
    if (run.extent[extent].evictor != run.actor)
        return;
    bool may = run.page[page].state == MNW__PAGE_FAILED;
    expect(mnw__page_heal(&run.pages, page) == may, "its result");
    if (may)
        run.page[page].state = MNW__PAGE_ABSENT;
}

static void do_unscar(uint64_t extent, uint64_t page) {
    (void)extent;
    mnw__page_unscar(&run.pages, page);
    run.page[page].scarred &= run.page[page].state == MNW__PAGE_FAILED;
}

/* ---- a seed ------------------------------------------------------------------------------------------------ */

static const struct transition {
    const char *name;
    void (*make)(uint64_t extent, uint64_t page);
    unsigned weight;
} transitions[] = {
    {"enter", do_enter, 8},
    {"visit", do_visit, 2},
    {"leave", do_leave, 8},
    {"settle", do_settle, 6},
    {"revisit", do_revisit, 2},
    {"release", do_release, 6},
    {"charge", do_charge, 1},
    {"set_unfit", do_mark, 1},
    {"set_ahead", do_set_ahead, 1},
    {"note_passed", do_note_passed, 1},
    {"take_use", do_take_use, 1},
    {"pin", do_pin, 1},
    {"unpin", do_unpin, 2},
    {"claim_eviction", do_claim_eviction, 3},
    {"claim_repair", do_claim_repair, 2},
    {"drain", do_drain, 1},
    {"evicted", do_evicted, 4},
    {"keep", do_keep, 2},
    {"claim", do_claim, 8},
    {"join", do_join, 4},
    {"fill", do_fill, 6},
    {"unclaim", do_unclaim, 2},
    {"fail", do_fail, 1},
    {"drop", do_drop, 2},
    {"unscar", do_unscar, 2},
    {"heal", do_heal, 2},
};
enum { TRANSITIONS = sizeof(transitions) / sizeof(transitions[0]) };

static void make(const struct transition *transition, int actor, uint64_t page) {
    run.doing = transition->name;
    run.actor = actor;
    transition->make(mnw__extent_of(&run.pages, page), page);
    compare();
}

static void step(void) {
    unsigned total = 0;
    for (int i = 0; i < TRANSITIONS; i++)
        total += transitions[i].weight;
    uint64_t ticket = draw(total);
    const struct transition *transition = transitions;
    while (ticket >= transition->weight)
        ticket -= transition++->weight;
    make(transition, (int)draw(ACTORS), draw(run.pages.page_count));
}

/* Everybody ends what he began: then the cache is at rest, whatever went before. */
static void come_to_rest(void) {
    for (int actor = 0; actor < ACTORS; actor++)
        for (uint64_t page = 0; page < run.pages.page_count && !run.failed; page++) {
            struct model_extent *model = &run.extent[mnw__extent_of(&run.pages, page)];
            if (model->evictor == actor && model->visits[actor])
                make(&(struct transition){"keep", do_keep, 0}, actor, page);
            make(&(struct transition){"unclaim", do_unclaim, 0}, actor, page);
            while (model->fills[actor] && !run.failed)
                make(&(struct transition){"release", do_release, 0}, actor, page);
        }
    for (uint64_t page = 0; page < run.pages.page_count; page++)
        for (int actor = 0; actor < ACTORS && !run.failed; actor++) {
            struct model_extent *model = &run.extent[mnw__extent_of(&run.pages, page)];
            if (model->evictor == actor && model->dropped && model->visits[actor]) {
                /* He drained, dropped, and is a visitor by an earlier visit: the visit ends first. */
                model->evictor = NOBODY;
                while (model->visits[actor])
                    make(&(struct transition){"leave", do_leave, 0}, actor, page);
                model->evictor = actor;
            }
            while (model->visits[actor] && !run.failed)
                make(&(struct transition){"leave", do_leave, 0}, actor, page);
        }
    for (uint64_t page = 0; page < run.pages.page_count; page++)
        for (int actor = 0; actor < ACTORS && !run.failed; actor++)
            make(&(struct transition){"evicted", do_evicted, 0}, actor, page);
    run.doing = "coming to rest";
    expect(is_right(), "it does not");
}

static bool play(uint64_t seed) {
    memset(&run, 0, sizeof(run));
    run.random.state = seed;
    unsigned shift = (unsigned)draw(4);
    uint64_t most = (uint64_t)EXTENTS_MAX << shift;
    uint64_t count = 1 + draw(most < PAGES_MAX ? most : PAGES_MAX);
    run.pages = (struct mnw__pages){run.words, run.extents, count, ((count - 1) >> shift) + 1, shift};
    for (uint64_t page = 0; page < count; page++)
        run.page[page].claimer = NOBODY;
    for (uint64_t extent = 0; extent < run.pages.extent_count; extent++)
        run.extent[extent].evictor = NOBODY;
    int operation = 0;
    for (; operation < OPERATIONS && !run.failed; operation++)
        step();
    if (!run.failed)
        come_to_rest();
    if (run.failed)
        fprintf(stderr, "seed %llu differs at operation %d\n", (unsigned long long)seed, operation);
    return !run.failed;
}

int main(int argc, char **argv) {
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : 5000;
    unsigned failed = 0;
    for (uint64_t seed = first; seed < first + count && failed < 5; seed++)
        failed += !play(seed);
    printf("%llu seeds, %d transitions each: %s\n", (unsigned long long)count, OPERATIONS,
           failed ? "DIFFERENT" : "equal");
    return failed ? 1 : 0;
}
