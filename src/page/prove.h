/* SPDX-License-Identifier: MIT */
/*
 * Proving: which of the words that another process left behind still hold.
 *
 * Pure. Entered by one thread, before anybody else knows the pages. The words are taken as untrusted: whatever they
 * say, afterwards they are those of a cache at rest (mnw__pages_check), and a page is PRESENT only if
 *   - its word said PRESENT: it says so from after its bytes were whole until before they may go, and
 *   - its extent said RESIDENT: in an EVICTING one the memory may be gone already, whole or in part, and
 *   - it has memory.
 * A page that is FAILED stays so: views may hold its poison. All else is ABSENT, and its memory is to be taken away.
 * The words change first and the memory goes afterwards: who dies in between leaves memory without a word, which
 * the next one takes away too.
 */
#ifndef MNW_PAGE_PROVE_H
#define MNW_PAGE_PROVE_H

#include "page/page.h"

enum { MNW__PROOF_WORDS = (MNW__EXTENT_PAGES_MAX + 63) / 64 };

enum mnw__proof_kind {
    MNW__PROOF_PAGES,   /* memory comes and goes by pages */
    MNW__PROOF_EXTENTS, /* by whole extents */
    /*
     * The same, but taking memory away would destroy copies that consumers have made of it: where there is memory the
     * extent keeps it, charged, and its pages are filled in place. (None was being evicted, for the same reason.)
     */
    MNW__PROOF_IN_PLACE,
};

struct mnw__proof {
    /* In: bit per page of the extent, counted from its first: it has memory. Out: its memory is to be taken away. */
    uint64_t memory[MNW__PROOF_WORDS];
    unsigned present; /* out: pages that stay */
    unsigned dropped; /* out: pages that said PRESENT, and are not */
    bool punch;       /* out: `memory` is not empty; but for MNW__PROOF_PAGES it is then the whole extent */
    bool scarred;     /* out: a page is SCARRED */
    bool charged;     /* out: the whole extent's memory stays */
};

void mnw__extent_prove(struct mnw__pages *pages, uint64_t extent, enum mnw__proof_kind kind, struct mnw__proof *proof);

#endif
