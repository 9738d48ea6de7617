/* SPDX-License-Identifier: MIT */
/* What the daemon tells about itself: gathers the structs of metrics.h, sends the text in a memfd. The loop's. */
#include "daemon/daemon.h"
#include "daemon/metrics.h"

#include "base/error.h"
#include "sys/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Without a name in the file system nobody else can open it, and no seal is needed: it is the receiver's alone. */
int mnw__report_memfd(const char *name, const void *bytes, size_t size) {
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0)
        return mnw__fail(-errno, "making a memfd for an answer: %s", strerror(errno));
    if (size && write(fd, bytes, size) != (ssize_t)size) {
        int error = mnw__fail(-EIO, "writing an answer: %s", strerror(errno));
        close(fd);
        return error;
    }
    return fd;
}

struct gathered {
    struct mnw__metrics metrics;
    struct mnw__metrics_pool *pools;
    struct mnw__metrics_node *nodes;
    struct mnw__metrics_image *images;
    struct mnw__metrics_view *views;
};

static void gather_pool(const struct mnw__daemon_pool *from, struct mnw__metrics_pool *to,
                        struct mnw__metrics_node *nodes) {
    *to = (struct mnw__metrics_pool){.name = from->config->name, .backing = from->config->options.backing};
    mnw_pool_stats(from->pool, &to->stats, sizeof(to->stats));
    to->nodes = nodes;
    for (unsigned node = 0; node < MNW_NODES_MAX; node++) {
        struct mnw__metrics_node *next = &nodes[to->node_count];
        if (mnw_pool_node_stats(from->pool, node, &next->stats, sizeof(next->stats)))
            continue;
        mnw_pool_latency(from->pool, node, &next->latency, sizeof(next->latency)); /* -ENOENT: no thread is there */
        next->node = node;
        to->node_count++;
    }
}

static void gather_image(const struct mnw__daemon_image *from, struct mnw__metrics_image *to) {
    *to = (struct mnw__metrics_image){.name = from->config->name,
                                      .pool = from->pool->config->name,
                                      .size_bytes = from->size_bytes,
                                      .page_bytes = from->page_bytes,
                                      .extent_bytes = from->extent_bytes,
                                      .views = from->views};
    mnw_cache_stats(from->cache, &to->stats, sizeof(to->stats));
}

static void gather_view(const struct mnw__daemon_view *from, uint64_t session, struct mnw__metrics_view *to) {
    *to = (struct mnw__metrics_view){.image = from->image->config->name,
                                     .peer = from->session ? from->session->name : "",
                                     .session = session,
                                     .pid = from->session && !from->is_child ? from->session->peer.pid : 0,
                                     .id = from->id,
                                     .writable = from->flags & MNW_VIEW_WRITE,
                                     .recording = from->is_recording,
                                     .address = from->address,
                                     .offset = from->offset,
                                     .length = from->length};
}

static void gather_views(const struct mnw__daemon *daemon, struct gathered *all) {
    for (const struct mnw__session *session = daemon->sessions; session; session = session->next)
        for (const struct mnw__daemon_view *view = session->views; view; view = view->next)
            if (view->phase == MNW__VIEW_ATTACHED || view->phase == MNW__VIEW_SAVING)
                gather_view(view, daemon->state.sessions[session->record].record.serial,
                            &all->views[all->metrics.view_count++]);
    for (const struct mnw__daemon_view *view = daemon->orphans; view; view = view->next)
        gather_view(view, 0, &all->views[all->metrics.view_count++]);
}

static size_t count_views(const struct mnw__daemon *daemon) {
    size_t count = 0;
    for (unsigned i = 0; i < daemon->image_count; i++)
        count += daemon->images[i].views;
    return count;
}

static void gather(const struct mnw__daemon *daemon, struct gathered *all) {
    struct mnw__metrics *metrics = &all->metrics;
    *metrics = (struct mnw__metrics){.uptime_ns = mnw__clock_ns() - daemon->started_ns,
                                     .epoch = mnw__state_epoch(&daemon->state),
                                     .pid = getpid(),
                                     .sessions = daemon->session_count,
                                     .messages = daemon->counts.messages,
                                     .messages_refused = daemon->counts.refused,
                                     .sessions_dropped = daemon->counts.dropped,
                                     .pools = all->pools,
                                     .images = all->images,
                                     .views = all->views,
                                     .pool_count = daemon->pool_count};
    for (unsigned i = 0; i < daemon->pool_count; i++)
        gather_pool(&daemon->pools[i], &all->pools[i], &all->nodes[(size_t)i * MNW_NODES_MAX]);
    for (unsigned i = 0; i < daemon->image_count; i++)
        if (daemon->images[i].state == MNW__IMAGE_OPEN)
            gather_image(&daemon->images[i], &all->images[metrics->image_count++]);
    gather_views(daemon, all);
}

static char *make_text(const struct mnw__daemon *daemon, enum mnw__wire_format format) {
    struct gathered all = {
        .pools = calloc(daemon->pool_count + 1, sizeof(*all.pools)),
        .nodes = calloc((size_t)daemon->pool_count * MNW_NODES_MAX + 1, sizeof(*all.nodes)),
        .images = calloc(daemon->image_count + 1, sizeof(*all.images)),
        .views = calloc(count_views(daemon) + 1, sizeof(*all.views)),
    };
    char *text = NULL;
    if (all.pools && all.nodes && all.images && all.views) {
        gather(daemon, &all);
        text = format == MNW__WIRE_JSON ? mnw__metrics_json(&all.metrics) : mnw__metrics_prometheus(&all.metrics);
    }
    free(all.pools);
    free(all.nodes);
    free(all.images);
    free(all.views);
    return text;
}

void mnw__report_handle_stats(struct mnw__session *session, const struct mnw__wire_packet *packet) {
    char *text = make_text(session->daemon, (enum mnw__wire_format)packet->stats.format);
    size_t size = text ? strlen(text) : 0;
    int fd = text ? mnw__report_memfd("minnow-stats", text, size) : mnw__fail(-ENOMEM, "the daemon is out of memory");
    free(text);
    if (fd < 0) {
        mnw__request_refuse(session, packet, fd);
        return;
    }
    struct mnw__wire_packet answer;
    answer.text_answer = (struct mnw__wire_text_answer){size};
    mnw__request_answer(session, &answer, MNW__WIRE_STATS, packet->header.request, sizeof(answer.text_answer), fd);
    close(fd);
}
