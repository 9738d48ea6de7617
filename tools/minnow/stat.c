/* SPDX-License-Identifier: MIT */
/*
 * minnow stat: asks a daemon once and prints what it says: tables for people, or its JSON or Prometheus text as it
 * came.
 */
#include "command.h"
#include "source.h"
#include "state.h"
#include "table.h"

#include <locale.h>
#include <popt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIB        1048576.0
#define TIMEOUT_MS 10000

struct options {
    char *socket, *file, *seconds;
    int json, prometheus;
    double wait;
};

/* ---- the command line ---- */

static int check_options(struct options *options) {
    char *end;
    if (options->json && options->prometheus)
        return usage_error("stat: --json and --prometheus exclude each other");
    if (options->file && options->socket)
        return usage_error("stat: --file and --socket exclude each other");
    if (options->file && options->prometheus)
        return usage_error("stat: --prometheus needs a daemon; a file holds JSON");
    options->wait = options->file ? 0 : 1;
    if (!options->seconds)
        return EXIT_FINE;
    options->wait = strtod(options->seconds, &end);
    if (end == options->seconds || *end || !(options->wait >= 0 && options->wait <= 3600))
        return usage_error("stat: --seconds takes a number from 0 to 3600; there is '%s'", options->seconds);
    return EXIT_FINE;
}

static int read_options(int argc, const char **argv, struct options *options) {
    const struct poptOption table[] = {
        {"socket", 's', POPT_ARG_STRING, &options->socket, 0, "the daemon's socket", "PATH"},
        {"file", 'f', POPT_ARG_STRING, &options->file, 0, "read what a daemon said with --json from a file", "PATH"},
        {"json", 0, POPT_ARG_NONE, &options->json, 0, "print the daemon's JSON as it is", NULL},
        {"prometheus", 0, POPT_ARG_NONE, &options->prometheus, 0, "print the daemon's Prometheus text as it is", NULL},
        {"seconds", 0, POPT_ARG_STRING, &options->seconds, 0, "how long to look for rates; 0: none (default: 1)", "N"},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow stat", argc, argv, table, 0);
    int parsed = poptGetNextOpt(context), code = EXIT_FINE;
    if (parsed < -1)
        code = usage_error("stat: %s: %s (minnow stat --help)", poptBadOption(context, POPT_BADOPTION_NOALIAS),
                           poptStrerror(parsed));
    else if (poptPeekArg(context))
        code = usage_error("stat: takes no arguments; there is '%s'", poptPeekArg(context));
    poptFreeContext(context);
    return code ? code : check_options(options);
}

/* ---- the tables ---- */

struct shown {
    const struct state *before, *now; /* before: NULL without rates */
    double seconds;
};

static void print_head(const struct state *state) {
    char uptime[32];
    printf("minnow %s  pid %lld  up %s  restarts %llu  peers %llu  messages %llu  refused %llu\n", state->version,
           (long long)state->pid, format_uptime(state->uptime_ns, uptime), (unsigned long long)state->epoch,
           (unsigned long long)state->sessions, (unsigned long long)state->messages,
           (unsigned long long)state->messages_refused);
}

static void add_size(struct table *table, uint64_t bytes) {
    char text[32];
    table_add(table, "%s", format_size(bytes, text));
}

static void add_count(struct table *table, double count) {
    char text[32];
    table_add(table, "%s", format_count(count, text));
}

static void add_share(struct table *table, uint64_t part, uint64_t whole) {
    table_add(table, "%.0f%%", whole ? 100.0 * (double)part / (double)whole : 0.0);
}

static void add_heads(struct table *table, const char *const *heads) {
    for (; *heads; heads++)
        table_add(table, "%s", *heads);
}

/* Totals, and then the same a second. */
static void add_counts(struct table *table, const struct shown *shown, const struct state_counts *before,
                       const struct state_counts *now) {
    static const struct state_counts none;
    double seconds = before ? shown->seconds : 0;
    if (!before)
        before = &none;
    add_count(table, (double)(now->faults_minor + now->faults_missing));
    add_count(table, (double)now->fills);
    add_count(table, (double)now->evictions);
    add_count(table, (double)(now->faults_failed + now->fills_failed));
    if (!shown->before)
        return;
    add_count(table, state_rate(before->faults_minor + before->faults_missing, now->faults_minor + now->faults_missing,
                                seconds));
    add_count(table, state_rate(before->fills, now->fills, seconds));
    table_add(table, "%.1f", state_rate(before->fill_bytes, now->fill_bytes, seconds) / MIB);
}

static void add_count_heads(struct table *table, const struct shown *shown) {
    static const char *const totals[] = {"FAULTS", "FILLS", "EVICTIONS", "FAILED", NULL};
    static const char *const rates[] = {"FAULTS/s", "FILLS/s", "MiB/s", NULL};
    add_heads(table, totals);
    if (shown->before)
        add_heads(table, rates);
}

static void print_pools(const struct shown *shown) {
    static const char *const heads[] = {"POOL", "BACKING", "BUDGET", "RESIDENT", "USED", "PINNED", NULL};
    struct table table;
    table_begin(&table, shown->before ? "<<>>>>>>>>>>>" : "<<>>>>>>>>");
    add_heads(&table, heads);
    add_count_heads(&table, shown);
    for (size_t i = 0; i < shown->now->pool_count; i++) {
        const struct state_pool *pool = &shown->now->pools[i], *old = state_find_pool(shown->before, pool->name);
        table_add(&table, "%s", pool->name);
        table_add(&table, "%s", pool->backing);
        add_size(&table, pool->budget_bytes);
        add_size(&table, pool->resident_bytes);
        add_share(&table, pool->resident_bytes, pool->budget_bytes);
        add_size(&table, pool->pinned_bytes);
        add_counts(&table, shown, old ? &old->counts : NULL, &pool->counts);
    }
    printf("\n");
    table_end(&table, stdout);
}

static void add_stage(struct table *table, const struct state_pool *pool, const struct state_node *node,
                      const char *stage, const struct mnw_histogram *histogram) {
    static const double fractions[] = {0.5, 0.9, 0.99, 0.999};
    char text[32];
    table_add(table, "%s", pool->name);
    table_add(table, "%u", node->node);
    table_add(table, "%s", stage);
    add_count(table, (double)histogram->count);
    for (unsigned i = 0; i < 4; i++)
        table_add(table, "%s",
                  histogram->count ? format_ns(mnw_histogram_quantile(histogram, fractions[i]), text) : "-");
    table_add(table, "%s", histogram->count ? format_ns(histogram->max_ns, text) : "-");
}

/* What lies where: of the memory, not of the threads. */
static void print_nodes(const struct state *state) {
    static const char *const heads[] = {"POOL",      "NODE",   "RESIDENT", "SHARE",   "ELSEWHERE", "HUGE",
                                        "HUGE FREE", "MEMORY", "MEM FREE", "THREADS", NULL};
    struct table table;
    table_begin(&table, "<>>>>>>>>>");
    add_heads(&table, heads);
    for (size_t i = 0; i < state->pool_count; i++) {
        const struct state_pool *pool = &state->pools[i];
        for (size_t j = 0; j < pool->node_count; j++) {
            const struct state_node *node = &pool->nodes[j];
            table_add(&table, "%s", pool->name);
            table_add(&table, "%u%s", node->node, node->is_outside ? "!" : "");
            add_size(&table, node->resident_bytes);
            add_share(&table, node->resident_bytes, pool->resident_bytes);
            add_count(&table, (double)node->pages_elsewhere);
            table_add(&table, "%llu", (unsigned long long)node->huge_pages);
            table_add(&table, "%llu", (unsigned long long)node->huge_pages_free);
            add_size(&table, node->memory_bytes);
            add_size(&table, node->memory_free_bytes);
            table_add(&table, "%llu", (unsigned long long)node->fault_threads);
        }
    }
    printf("\n");
    table_end(&table, stdout);
}

/* What a pool's policy met, said only where it is not as it should be. */
static void print_node_notes(const struct state *state) {
    for (size_t i = 0; i < state->pool_count; i++) {
        const struct state_pool *pool = &state->pools[i];
        for (size_t j = 0; j < pool->node_count; j++)
            if (pool->nodes[j].is_outside)
                printf("pool %s has pages on node %u, which is none of its nodes\n", pool->name, pool->nodes[j].node);
        if (pool->policies_foreign)
            printf("pool %s: consumers redirected its memory by mbind(2) %llu times; undone\n", pool->name,
                   (unsigned long long)pool->policies_foreign);
        if (pool->numa_balancing && pool->node_count > 1)
            printf("pool %s: kernel.numa_balancing is %llu: the kernel moves threads away from their pages\n",
                   pool->name, (unsigned long long)pool->numa_balancing);
    }
}

static void print_latencies(const struct state *state) {
    static const char *const heads[] = {"POOL", "NODE", "LATENCY", "COUNT", "p50", "p90", "p99", "p99.9", "MAX", NULL};
    struct table table;
    table_begin(&table, "<><>>>>>>");
    add_heads(&table, heads);
    for (size_t i = 0; i < state->pool_count; i++) {
        const struct state_pool *pool = &state->pools[i];
        for (size_t j = 0; j < pool->node_count; j++) {
            const struct state_node *node = &pool->nodes[j];
            if (!node->total.count && !node->fault_threads && node->is_outside)
                continue;
            add_stage(&table, pool, node, "queue", &node->queue);
            add_stage(&table, pool, node, "fill", &node->fill);
            add_stage(&table, pool, node, "map", &node->map);
            add_stage(&table, pool, node, "total", &node->total);
        }
    }
    printf("\n");
    table_end(&table, stdout);
}

static void print_images(const struct shown *shown) {
    static const char *const heads[] = {"IMAGE", "POOL", "SIZE", "RESIDENT", "SHARE", "VIEWS", NULL};
    struct table table;
    table_begin(&table, shown->before ? "<<>>>>>>>>>>>" : "<<>>>>>>>>");
    add_heads(&table, heads);
    add_count_heads(&table, shown);
    for (size_t i = 0; i < shown->now->image_count; i++) {
        const struct state_image *image = &shown->now->images[i], *old = state_find_image(shown->before, image->name);
        table_add(&table, "%s", image->name);
        table_add(&table, "%s", image->pool);
        add_size(&table, image->size_bytes);
        add_size(&table, image->resident_bytes);
        add_share(&table, image->resident_bytes, image->size_bytes);
        table_add(&table, "%llu", (unsigned long long)image->views);
        add_counts(&table, shown, old ? &old->counts : NULL, &image->counts);
    }
    printf("\n");
    table_end(&table, stdout);
}

static void print_views(const struct state *state) {
    static const char *const heads[] = {"VIEW OF", "PEER", "PID", "ID", "ADDRESS", "OFFSET", "LENGTH", "FLAGS", NULL};
    struct table table;
    table_begin(&table, "<<>>>>><");
    add_heads(&table, heads);
    for (size_t i = 0; i < state->view_count; i++) {
        const struct state_view *view = &state->views[i];
        table_add(&table, "%s", view->image);
        table_add(&table, "%s", *view->peer ? view->peer : "-");
        table_add(&table, "%lld", (long long)view->pid);
        table_add(&table, "%llu", (unsigned long long)view->id);
        table_add(&table, "%#llx", (unsigned long long)view->address);
        add_size(&table, view->offset);
        add_size(&table, view->length);
        table_add(&table, "%s%s%s", view->writable ? "write" : "read", view->recording ? ",record" : "", "");
    }
    printf("\n");
    table_end(&table, stdout);
}

static void print_state(const struct shown *shown) {
    print_head(shown->now);
    print_pools(shown);
    print_nodes(shown->now);
    print_node_notes(shown->now);
    print_latencies(shown->now);
    print_images(shown);
    print_views(shown->now);
}

/* ---- the daemon ---- */

static int read_state(const struct source *source, struct state *state, const char *text) {
    char why[512];
    int error = state_read(state, text, why, sizeof(why));
    if (!error && !state->metrics_version) {
        snprintf(why, sizeof(why), "%s is not what a daemon says with --json: it has no metrics_version",
                 source->file ? source->file : "the answer");
        state_free(state);
        error = -1;
    }
    if (error)
        fprintf(stderr, "minnow: stat: %s\n", why);
    return error;
}

static int get_state(struct source *source, struct state *state) {
    char why[512];
    char *text = source_text(source, 0, why, sizeof(why));
    if (!text)
        fprintf(stderr, "minnow: stat: %s\n", why);
    int error = text ? read_state(source, state, text) : -1;
    free(text);
    return error;
}

static int print_tables(struct source *source, double seconds) {
    struct state before, now;
    if (seconds > 0) {
        if (get_state(source, &before))
            return EXIT_WRONG;
        nanosleep(
            &(struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(long)seconds) * 1e9)},
            NULL);
    }
    int error = get_state(source, &now);
    if (!error) {
        struct shown shown = {.before = seconds > 0 ? &before : NULL, .now = &now};
        shown.seconds = state_seconds(shown.before, &now);
        print_state(&shown);
        state_free(&now);
    }
    if (seconds > 0)
        state_free(&before);
    return error ? EXIT_WRONG : EXIT_FINE;
}

static int print_text(struct source *source, int prometheus) {
    char why[512];
    char *text = source_text(source, prometheus, why, sizeof(why));
    if (!text) {
        fprintf(stderr, "minnow: stat: %s\n", why);
        return EXIT_WRONG;
    }
    struct state state;
    int error = source->file ? read_state(source, &state, text) : 0; /* a file may hold anything */
    if (error) {
        free(text);
        return EXIT_WRONG;
    }
    if (source->file)
        state_free(&state);
    size_t length = strlen(text);
    fputs(text, stdout);
    if (length && text[length - 1] != '\n')
        putchar('\n');
    free(text);
    return EXIT_FINE;
}

int command_stat(int argc, const char **argv) {
    struct options options = {0};
    struct source source;
    setlocale(LC_CTYPE, "");
    int code = read_options(argc, argv, &options);
    if (!code && source_open(&source, options.socket, options.file, TIMEOUT_MS))
        code = EXIT_WRONG;
    else if (!code) {
        code = options.json || options.prometheus ? print_text(&source, options.prometheus)
                                                  : print_tables(&source, options.wait);
        source_close(&source);
    }
    free(options.socket);
    free(options.file);
    free(options.seconds);
    return code;
}
