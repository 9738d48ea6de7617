/* SPDX-License-Identifier: MIT */
/* A library that serves nothing and believes nothing. One thread. */
#include "fuzz/fake_minnow.h"

#include "base/error.h"
#include "daemon/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZE_BYTES (UINT64_C(1) << 22)
#define PAGE       4096u

struct fake fake;

struct mnw_store {
    int unused;
};
struct mnw_cache {
    int fd;
};
struct mnw_view {
    unsigned slot;
    uint64_t cookie;
    bool is_dead; /* the daemon was told */
};

/* One call in eight fails, where the input goes on. */
int fake_maybe(int error, const char *what) {
    if (!fuzz_input.left || fake_byte() % 8 != 7)
        return 0;
    fake.failures++;
    return mnw__fail(error, "%s: as the input wants it", what);
}

/* ---- minnow.h ---- */

const char *mnw_error(void) {
    return mnw__fail_message();
}
const char *mnw_version(void) {
    return "0";
}

int mnw_store_open(struct mnw_store **store, const char *uri, const struct mnw_store_options *options) {
    demand(uri && options->size == sizeof(*options), "a store is opened without a URI or options");
    int error = fake_maybe(-ENOENT, "opening a store");
    if (error)
        return error;
    *store = calloc(1, sizeof(**store));
    fake.stores++;
    return 0;
}
int mnw_store_close(struct mnw_store *store) {
    free(store);
    fake.stores--;
    return 0;
}
uint64_t mnw_store_size(const struct mnw_store *store) {
    (void)store;
    return SIZE_BYTES - 100;
}

int mnw_limit_open(struct mnw_limit **limit, uint32_t faults_per_second) {
    demand(faults_per_second, "a limit of nothing");
    int error = fake_maybe(-ENOMEM, "opening a limit");
    if (error)
        return error;
    *limit = malloc(1); /* never looked into */
    fake.limits++;
    return 0;
}
int mnw_limit_close(struct mnw_limit *limit) {
    demand(limit && fake.limits, "a limit is closed that is not open");
    free(limit);
    fake.limits--;
    return 0;
}

int mnw_cache_open(struct mnw_cache **cache, struct mnw_pool *pool, struct mnw_store *store,
                   const struct mnw_cache_options *options) {
    (void)pool;
    demand(store && options->keep && options->name, "a cache is opened that would not survive");
    int error = fake_maybe(-ENOMEM, "opening a cache");
    if (error)
        return error;
    *cache = calloc(1, sizeof(**cache));
    (*cache)->fd = fake_fd();
    fake.caches++;
    return 0;
}
int mnw_cache_close(struct mnw_cache *cache) {
    close(cache->fd);
    free(cache);
    fake.caches--;
    return 0;
}
size_t mnw_cache_page_size(const struct mnw_cache *cache) {
    (void)cache;
    return PAGE;
}
int mnw_cache_fd(const struct mnw_cache *cache) {
    return cache->fd;
}
int mnw_cache_kept(const struct mnw_cache *cache, struct mnw_kept *kept) {
    kept->backing_fd = kept->words_fd = cache->fd;
    return fake_maybe(-EINVAL, "asking what to keep");
}
int mnw_cache_stats(struct mnw_cache *cache, struct mnw_stats *stats, size_t size) {
    (void)cache;
    memset(stats, 0, size);
    return 0;
}
int mnw_pool_stats(struct mnw_pool *pool, struct mnw_stats *stats, size_t size) {
    (void)pool;
    memset(stats, 0, size);
    return 0;
}
int mnw_pool_latency(struct mnw_pool *pool, unsigned node, struct mnw_node_latency *latency, size_t size) {
    (void)pool;
    (void)node;
    memset(latency, 0, size);
    return -ENOENT;
}
int mnw_pool_node_stats(struct mnw_pool *pool, unsigned node, struct mnw_node_stats *stats, size_t size) {
    (void)pool;
    (void)node;
    memset(stats, 0, size);
    return -ENOENT;
}
int mnw_pool_set_budget(struct mnw_pool *pool, uint64_t budget_bytes) {
    (void)pool;
    return budget_bytes ? fake_maybe(-EBUSY, "setting a budget") : mnw__fail(-EINVAL, "no budget");
}

static void check_range(uint64_t offset, uint64_t length) {
    demand(!(offset % PAGE) && !(length % PAGE) && length && offset < SIZE_BYTES && length <= SIZE_BYTES - offset,
           "a range that is none was let through");
}

int mnw_view_attach(struct mnw_view **view, struct mnw_cache *cache, const struct mnw_attach_options *options) {
    demand(cache && fcntl(options->uffd, F_GETFD) >= 0, "attached with a descriptor that is closed");
    if (!options->range_count) /* else they say where it lies */
        check_range(options->offset_bytes, options->length_bytes);
    demand(options->range_count <= 256, "more ranges than a view can have");
    demand(!(options->address % PAGE), "attached at a wrong address");
    demand(!(options->flags & ~(unsigned)(MNW_VIEW_WRITE | MNW_VIEW_FORKED)), "attached with flags that are none");
    demand(!(options->flags & MNW_VIEW_FORKED) || options->pid || options->range_count,
           "a child is attached of nobody");
    int error = fake.view_count == FAKE_VIEWS ? mnw__fail(-ENOMEM, "too many") : fake_maybe(-EINVAL, "attaching");
    if (error)
        return error;
    *view = calloc(1, sizeof(**view));
    (*view)->slot = fake.view_count;
    (*view)->cookie = options->cookie;
    fake.views[fake.view_count++] = *view;
    return 0;
}
int mnw_view_close(struct mnw_view *view) {
    demand(view && view->slot < fake.view_count && fake.views[view->slot] == view, "a view is closed that is not open");
    fake.views[view->slot] = fake.views[--fake.view_count];
    fake.views[view->slot]->slot = view->slot;
    free(view);
    return 0;
}
int mnw_view_ranges(struct mnw_view *view, struct mnw_view_range *ranges, size_t count) {
    demand(view->slot < fake.view_count, "ranges of a closed view");
    unsigned all = fake_byte() % 3;
    for (unsigned i = 0; i < all && i < count; i++)
        ranges[i] = (struct mnw_view_range){.address = PAGE * (uint64_t)fake_byte(), .length_bytes = PAGE};
    return (int)all;
}
int mnw_view_fd(const struct mnw_view *view) {
    demand(view->slot < fake.view_count, "the descriptor of a closed view");
    return fileno(stderr);
}
uint64_t fake_cookie(const struct mnw_view *view) {
    return view->cookie;
}
void fake_die(struct mnw_view *view) {
    view->is_dead = true;
}
bool fake_is_dead(const struct mnw_view *view) {
    return view->is_dead;
}
int mnw_view_record(struct mnw_view *view, int on) {
    (void)on;
    demand(view->slot < fake.view_count, "a closed view records");
    return fake_maybe(-ENOMEM, "recording");
}
int64_t mnw_view_save_working_set(struct mnw_view *view, const char *path, unsigned flags) {
    (void)flags;
    demand(path && view->slot < fake.view_count, "a closed view is saved");
    return fake_maybe(-ENOENT, "saving");
}

int mnw_pin(struct mnw_cache *cache, uint64_t offset, uint64_t length) {
    (void)cache;
    check_range(offset, length);
    int error = fake_maybe(-EIO, "pinning");
    fake.pins += !error;
    return error;
}
int mnw_unpin(struct mnw_cache *cache, uint64_t offset, uint64_t length) {
    (void)cache;
    check_range(offset, length);
    demand(fake.pins, "unpinned more often than pinned");
    fake.pins--;
    return 0;
}
int mnw_invalidate(struct mnw_cache *cache, uint64_t offset, uint64_t length) {
    (void)cache;
    check_range(offset, length);
    return fake_maybe(-EBUSY, "invalidating");
}
int mnw_residency(struct mnw_cache *cache, uint64_t offset, uint8_t *pages, size_t count) {
    (void)cache;
    check_range(offset, count * (uint64_t)PAGE);
    memset(pages, 1, count);
    return fake_maybe(-EINVAL, "asking for residency");
}

static int64_t run_prefetch(uint64_t cookie) {
    int error =
        fake.prefetch_count == FAKE_PREFETCHES ? mnw__fail(-EAGAIN, "too many") : fake_maybe(-EAGAIN, "prefetching");
    if (error)
        return error;
    fake.prefetches[fake.prefetch_count++] = cookie;
    return (int64_t)cookie;
}
int64_t mnw_prefetch(struct mnw_cache *cache, uint64_t offset, uint64_t length, uint64_t cookie) {
    (void)cache;
    check_range(offset, length);
    return run_prefetch(cookie);
}
int64_t mnw_cache_replay(struct mnw_cache *cache, const char *path, uint64_t cookie) {
    (void)cache;
    demand(path, "a replay of no file");
    return run_prefetch(cookie);
}
int mnw_prefetch_cancel(struct mnw_pool *pool, int64_t id) {
    (void)pool;
    for (unsigned i = 0; i < fake.prefetch_count; i++)
        if (fake.prefetches[i] == (uint64_t)id)
            return 0;
    return mnw__fail(-ENOENT, "no such prefetch");
}

/* ---- sockets: one packet waits, and what is sent must be a message ---- */

int mnw__socket_receive(int fd, void *packet, size_t room, struct mnw__socket_received *received) {
    (void)fd;
    demand(room == sizeof(fake.packet), "received into less than a packet");
    if (!fake.has_next)
        return -EAGAIN;
    fake.has_next = false;
    *received = fake.next;
    memcpy(packet, &fake.packet, sizeof(fake.packet));
    return 0;
}
int mnw__socket_send(int fd, const void *packet, size_t bytes, const int *fds, unsigned fd_count) {
    demand(fcntl(fd, F_GETFD) >= 0, "sent to a session that is closed");
    demand(!fd_count || fcntl(fds[0], F_GETFD) >= 0, "sent a descriptor that is closed");
    if (fake.send_blocked)
        return -EAGAIN;
    if (mnw__wire_check_answer(packet, bytes, fd_count)) {
        fprintf(stderr, "%s\n", mnw__fail_message());
        demand(false, "the daemon sends what no peer should take");
    }
    fake.sent++;
    return 0;
}
int mnw__socket_peer(int fd, struct mnw__socket_peer *peer) {
    (void)fd;
    *peer = (struct mnw__socket_peer){.pid = 1, .uid = fake_byte() % 2 ? 0 : 65534, .gid = 1};
    return 0;
}
int mnw__socket_peer_groups(int fd, gid_t *groups, unsigned room) {
    (void)fd;
    (void)groups;
    (void)room;
    return 0;
}
int mnw__socket_accept(int listener) {
    (void)listener;
    return -EAGAIN;
}
int mnw__socket_limit_unread(int fd, int bytes) {
    (void)fd;
    (void)bytes;
    return 0;
}

/* ---- the loop, which does not turn here ---- */

void mnw__daemon_log(const char *format, ...) {
    (void)format;
}
int mnw__daemon_watch(struct mnw__daemon *daemon, int fd, uint32_t events, struct mnw__source *source) {
    (void)daemon;
    (void)fd;
    (void)events;
    (void)source;
    return 0;
}
int mnw__daemon_rewatch(struct mnw__daemon *daemon, int fd, uint32_t events, struct mnw__source *source) {
    return mnw__daemon_watch(daemon, fd, events, source);
}
void mnw__daemon_unwatch(struct mnw__daemon *daemon, int fd) {
    (void)daemon;
    (void)fd;
}

/* Events come one by one, from the input. */
void mnw__daemon_take_events(struct mnw__daemon_pool *pool, struct mnw__daemon *daemon, unsigned most) {
    (void)most;
    pool->passed = daemon->ticks;
}

/* ---- the end of an input ---- */

void fake_settle(struct mnw__daemon *daemon) {
    do {
        mnw__work_collect(daemon);
        mnw__changes_go_on(daemon);
        mnw__session_sweep(daemon);
    } while (daemon->works);
}

void fake_end_orphans(struct mnw__daemon *daemon) {
    while (daemon->orphans) {
        struct mnw_event event = {
            .view = daemon->orphans->view, .cookie = daemon->orphans->cookie, .changes = MNW_VIEW_CHANGED_DEAD};
        mnw__changes_take(daemon, &daemon->pools[0], &event);
        fake_settle(daemon);
    }
}

bool fake_all_free(void *records, size_t bytes, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        if (atomic_load(&((struct mnw__record *)((char *)records + i * bytes))->state) != MNW__RECORD_FREE)
            return false;
    return true;
}
