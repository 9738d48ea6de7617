/* SPDX-License-Identifier: MIT */
/*
 * NUMA nodes of the fake machine, and its huge pages: src/sys/numa.h. A file's own policy, which whoever maps it may
 * set, goes before the allocating thread's. Nodes never run out of memory one by one.
 */
#include "base/error.h"
#include "fake_kernel.h"
#include "sys/backing.h"
#include "sys/numa.h"

#include <errno.h>
#include <string.h>

static struct fake_policy policies[FIBERS_MAX]; /* of threads */
static uint64_t lost;                           /* nodes that a cpuset has taken away */
static uint64_t asked;                          /* pages, for where they lie */

static uint64_t all_nodes(void) {
    return ((uint64_t)1 << fake_config.nodes) - 1;
}

uint64_t mnw__numa_allowed(void) {
    return all_nodes() & ~lost;
}

/* As the kernel does it: policies of threads lose the nodes, and do not get them back. */
void fake_allow_nodes(uint64_t nodes) {
    if (!(nodes & all_nodes()))
        sim_fail("a cpuset without a node");
    lost = all_nodes() & ~nodes;
    for (int fiber = 0; fiber < FIBERS_MAX; fiber++)
        if (policies[fiber].nodes & lost)
            policies[fiber].nodes = policies[fiber].nodes & ~lost ? policies[fiber].nodes & ~lost : all_nodes() & ~lost;
    sim_trace("nodes %#llx may be used", (unsigned long long)mnw__numa_allowed());
}

int mnw__numa_parse(const char *text, uint64_t *nodes, uint8_t weights[MNW__NODE_LIST_MAX]) {
    *nodes = mnw__numa_allowed();
    memset(weights, 1, MNW__NODE_LIST_MAX);
    if (text && (mnw__node_list_parse(text, nodes, weights) || *nodes & ~mnw__numa_allowed()))
        return mnw__fail(-EINVAL, "\"%s\" does not name nodes of this fake machine of %u", text, fake_config.nodes);
    return 0;
}

/* One CPU each. */
void mnw__numa_of_cpus(int8_t *nodes, unsigned count) {
    for (unsigned cpu = 0; cpu < count; cpu++)
        nodes[cpu] = (int8_t)(cpu < fake_config.nodes ? (int)cpu : -1);
}

int mnw__numa_here(void) {
    return fiber_node(fiber_self());
}

/* Of nodes that may be used at least one must be named. */
static int check_nodes(enum mnw_numa policy, uint64_t nodes) {
    if (nodes & ~all_nodes())
        sim_fail("a memory policy names nodes %#llx of a machine of %u", (unsigned long long)nodes, fake_config.nodes);
    return policy == MNW_NUMA_LOCAL || nodes & ~lost ? 0 : -EINVAL;
}

/* ---- policies ------------------------------------------------------------------------------------------ */

int mnw__numa_set_thread_policy(enum mnw_numa policy, uint64_t nodes) {
    fake_call("set_mempolicy");
    int error = check_nodes(policy, nodes);
    if (!error && fiber_self() >= 0)
        policies[fiber_self()] = (struct fake_policy){policy != MNW_NUMA_LOCAL, policy, nodes & ~lost};
    return error;
}

bool mnw__numa_lend(int node, struct mnw__numa_own *own) {
    fake_call("set_mempolicy");
    if (fiber_self() < 0)
        return false;
    const struct fake_policy *policy = &policies[fiber_self()];
    *own = (struct mnw__numa_own){.mode = policy->is_set ? (int)policy->policy : -1, .mask = {policy->nodes}};
    policies[fiber_self()] = (struct fake_policy){true, MNW_NUMA_PREFERRED, 1ull << node};
    return true;
}

void mnw__numa_take_back(const struct mnw__numa_own *own) {
    fake_call("set_mempolicy");
    policies[fiber_self()] =
        own->mode < 0 ? (struct fake_policy){0} : (struct fake_policy){true, (enum mnw_numa)own->mode, own->mask[0]};
}

int mnw__numa_put_range_policy(void *address, size_t length, enum mnw_numa policy, uint64_t nodes) {
    fake_call("mbind");
    uint64_t first;
    struct fake_file *file = fake_file_at(address, &first);
    if (!file)
        sim_fail("a memory policy is set where there is no alias");
    int error = check_nodes(policy, nodes);
    for (uint64_t page = first; !error && page < first + length / file->page_bytes; page++)
        file->policies[page] = (struct fake_policy){policy != MNW_NUMA_LOCAL, policy, nodes & ~lost};
    return error;
}

int mnw__numa_set_range_policy(void *address, size_t length, enum mnw_numa policy, uint64_t nodes) {
    return mnw__numa_put_range_policy(address, length, policy, nodes);
}

bool mnw__numa_is_redirected(void *address, enum mnw_numa policy, uint64_t nodes) {
    fake_call("get_mempolicy");
    uint64_t page;
    const struct fake_file *file = fake_file_at(address, &page);
    const struct fake_policy *set = &file->policies[page];
    return set->is_set ? set->policy != policy || set->nodes != nodes : policy != MNW_NUMA_LOCAL;
}

void fake_mbind(uintptr_t address, size_t length, int node) {
    fake_call("mbind of a consumer");
    struct fake_view *view = fake_view_at(address);
    if (!view)
        sim_fail("mbind where nothing is mapped");
    if (fake_is_hugetlb(view->file))
        return; /* the mapping's own, and nobody allocates through that */
    uint64_t first = view->first + (address - view->address) / view->page_bytes;
    for (uint64_t page = first; page < first + length / view->page_bytes; page++)
        view->file->policies[page] = (struct fake_policy){true, MNW_NUMA_BIND, (uint64_t)1 << node};
}

static int nth_node(uint64_t nodes, uint64_t rank) {
    for (rank %= (uint64_t)__builtin_popcountll(nodes); rank; rank--)
        nodes &= nodes - 1;
    return __builtin_ctzll(nodes);
}

int fake_numa_choose(const struct fake_file *file, uint64_t page) {
    const struct fake_policy *policy = &file->policies[page];
    if (!policy->is_set && fiber_self() >= 0)
        policy = &policies[fiber_self()];
    uint64_t nodes = policy->is_set ? policy->nodes : (uint64_t)1 << fiber_node(fiber_self());
    if (!(nodes & ~lost))
        nodes = all_nodes();
    return nth_node(nodes & ~lost, policy->policy == MNW_NUMA_INTERLEAVE ? page : 0);
}

uint64_t fake_asked_where(void) {
    return asked;
}

int mnw__numa_where(void *const *addresses, int *nodes, size_t count) {
    fake_call("move_pages");
    asked += count;
    for (size_t i = 0; i < count; i++) {
        uint64_t page;
        const struct fake_file *file = fake_file_at(addresses[i], &page);
        struct fake_view *view = file ? NULL : fake_view_at((uintptr_t)addresses[i]);
        if (view && fake_entry_at(view, (uintptr_t)addresses[i])->pte == PTE_MAPPED) {
            file = view->file;
            page = view->first + ((uintptr_t)addresses[i] - view->address) / view->page_bytes;
        }
        nodes[i] = file && file->cached[page] ? file->nodes[page] : -ENOENT;
    }
    return 0;
}

uint64_t mnw__numa_balancing(void) {
    return 0;
}

void mnw__numa_node_memory(int node, uint64_t *bytes, uint64_t *free_bytes) {
    (void)node;
    *bytes = *free_bytes = 0;
}

bool mnw__numa_may_move_all(void) {
    return fake_config.may_move_all;
}

/* What is mapped by more than the alias moves only for those who may. Its bytes stay. */
static int move_page(struct fake_file *file, uint64_t page, int node, bool everywhere) {
    if (!file || !file->cached[page])
        return -ENOENT;
    if (!everywhere && fake_views_map(file, page))
        return -EACCES;
    if (fake_strikes(FAKE_MOVE))
        return page % 2 ? -ENOMEM : -EBUSY;
    file->nodes[page] = (int8_t)node;
    return node;
}

int mnw__numa_move(void *const *addresses, int *status, size_t count, int node, bool everywhere) {
    fake_call("move_pages to a node");
    if (fake_config.move_ns)
        fiber_sleep(fake_config.move_ns, "every CPU gives up its pages");
    if (everywhere && !fake_config.may_move_all)
        return -EPERM;
    if (check_nodes(MNW_NUMA_BIND, (uint64_t)1 << node))
        return -EACCES; /* of the whole call, as the kernel does */
    for (size_t i = 0; i < count; i++) {
        uint64_t page;
        struct fake_file *file = fake_file_at(addresses[i], &page);
        status[i] = move_page(file, page, node, everywhere);
    }
    fake_call("move_pages to a node done");
    return 0;
}

void fake_numa_begin(void) {
    memset(policies, 0, sizeof(policies));
    lost = asked = 0;
}

/* ---- huge pages ---------------------------------------------------------------------------------------- */

int mnw__hugepages(size_t page_bytes, int node, struct mnw__hugepages *pages) {
    (void)node;
    if (page_bytes != mnw__backing_page_bytes(MNW_BACKING_HUGETLB_2M) &&
        page_bytes != mnw__backing_page_bytes(MNW_BACKING_HUGETLB_1G))
        return -ENOENT;
    uint64_t used = fake_resident() / page_bytes;
    *pages = (struct mnw__hugepages){.total = fake_config.hugepages, .free = fake_config.hugepages - used};
    return 0;
}

int mnw__hugepage_sizes(size_t *sizes, int count) {
    if (count > 0)
        sizes[0] = mnw__backing_page_bytes(MNW_BACKING_HUGETLB_2M);
    if (count > 1)
        sizes[1] = mnw__backing_page_bytes(MNW_BACKING_HUGETLB_1G);
    return count < 2 ? count : 2;
}

const char *mnw__hugetlbfs_mount(size_t page_bytes) {
    (void)page_bytes;
    return NULL;
}
