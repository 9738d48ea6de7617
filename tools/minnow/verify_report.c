/* SPDX-License-Identifier: MIT */
/*
 * verify: the result in words, or as JSON. Prints on stdout; decides nothing.
 */
#include "command.h"
#include "verify.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static const char *plural(uint64_t count) {
    return count == 1 ? "" : "s";
}

static void print_examples(const struct verify_result *result) {
    for (unsigned i = 0; i < result->example_count; i++) {
        const struct verify_example *example = &result->examples[i];
        if (example->unreadable)
            printf("  offset %" PRIu64 ": could not be read\n", example->offset);
        else
            printf("  offset %" PRIu64 ": expected 0x%02x, found 0x%02x\n", example->offset, example->expected,
                   example->found);
    }
    if (result->file_changed)
        puts("  the file changed while it was being read: that alone can explain differences");
}

static double microseconds(const struct mnw_histogram *histogram, double fraction) {
    return (double)mnw_histogram_quantile(histogram, fraction) / 1000;
}

/* The pages that were given memory where the policy wanted it, of all that were read. */
static double share_placed(const struct verify_result *result) {
    const struct mnw_stats *stats = &result->stats;
    double pages = (double)stats->fill_bytes / (double)result->page_bytes;
    return pages > (double)stats->pages_elsewhere ? 1 - (double)stats->pages_elsewhere / pages
           : stats->pages_elsewhere               ? 0
                                                  : 1;
}

static void print_placement(const struct verify_options *options, const struct verify_result *result) {
    const struct mnw_placement *placement = &result->placement;
    char size[32];
    printf("memory (%s):", numa_names[options->pool.numa]);
    for (unsigned node = 0; node < MNW_NODES_MAX; node++)
        if (placement->node_bytes[node])
            printf(" node %u %s (%.1f%%),", node, format_size(placement->node_bytes[node], size),
                   100 * (double)placement->node_bytes[node] / (double)placement->asked_bytes);
    printf(" unknown %s; given where it was wanted: %.1f%%\n", format_size(placement->unknown_bytes, size),
           100 * share_placed(result));
    if (options->pool.numa == MNW_NUMA_BIND && placement->outside_bytes)
        printf("  %s lie outside of the nodes that the pool is bound to\n",
               format_size(placement->outside_bytes, size));
}

void verify_print_words(const struct verify_options *options, const struct verify_result *result) {
    const struct mnw_stats *stats = &result->stats;
    char size[32], budget[32], resident[32], filled[32], page[32];
    printf("%s: %s, read by %" PRIu64 " reader%s (%s) through %s of %s pages (%s)\n", options->file,
           format_size(result->file_bytes, size), options->readers, plural(options->readers),
           pattern_names[options->pattern], format_size(stats->budget_bytes, budget),
           format_size(result->page_bytes, page), backing_names[options->pool.backing]);
    printf("%" PRIu64 " page%s checked in %.1f s: %" PRIu64 " differed, %" PRIu64 " could not be read\n",
           result->pages_checked, plural(result->pages_checked), result->seconds, result->mismatches,
           result->io_errors);
    print_examples(result);
    printf("faults: %" PRIu64 " minor, %" PRIu64 " missing; half took under %.1f us, 99 in 100 under %.1f us\n",
           stats->faults_minor, stats->faults_missing, microseconds(&result->faults, 0.50),
           microseconds(&result->faults, 0.99));
    printf("fills: %" PRIu64 ", %s; evictions: %" PRIu64 "; most resident: %s\n", stats->fills,
           format_size(stats->fill_bytes, filled), stats->evictions, format_size(stats->resident_bytes_max, resident));
    print_placement(options, result);
    if (options->has_replicas)
        printf("replicas: %" PRIu64 " page%s copied from another node, not read again; of %" PRIu64
               " resident faults asked %" PRIu64 " were remote\n",
               stats->pages_copied, plural(stats->pages_copied), stats->faults_placed, stats->faults_remote);
    if (result->signal)
        puts("stopped early: this is the result so far");
    if (result->waiting)
        printf("%" PRIu64 " reader%s still waited for a page\n", result->waiting, plural(result->waiting));
}

static json_t *examples_json(const struct verify_result *result) {
    json_t *list = json_array();
    for (unsigned i = 0; i < result->example_count; i++) {
        const struct verify_example *example = &result->examples[i];
        json_t *item =
            json_pack("{s:I, s:b}", "offset", (json_int_t)example->offset, "unreadable", (int)example->unreadable);
        if (!example->unreadable) {
            json_object_set_new(item, "expected", json_integer(example->expected));
            json_object_set_new(item, "found", json_integer(example->found));
        }
        json_array_append_new(list, item);
    }
    return list;
}

static json_t *placement_json(const struct verify_result *result) {
    const struct mnw_placement *placement = &result->placement;
    json_t *nodes = json_array();
    for (unsigned node = 0; node < MNW_NODES_MAX; node++)
        if (placement->node_bytes[node])
            json_array_append_new(
                nodes, json_pack("{s:i, s:I}", "node", (int)node, "bytes", (json_int_t)placement->node_bytes[node]));
    return json_pack("{s:I, s:I, s:I, s:f, s:o}", "asked_bytes", (json_int_t)placement->asked_bytes, "unknown_bytes",
                     (json_int_t)placement->unknown_bytes, "outside_bytes", (json_int_t)placement->outside_bytes,
                     "share_placed", share_placed(result), "nodes", nodes);
}

void verify_print_json(const struct verify_options *options, const struct verify_result *result) {
    const struct mnw_stats *stats = &result->stats;
    const struct {
        const char *key;
        uint64_t value;
    } counts[] = {
        {"pages_checked", result->pages_checked},
        {"mismatches", result->mismatches},
        {"io_errors", result->io_errors},
        {"file_bytes", result->file_bytes},
        {"page_bytes", result->page_bytes},
        {"checked_bytes_each", result->piece_bytes},
        {"readers", options->readers},
        {"readers_waiting", result->waiting},
        {"seed", options->seed},
        {"budget_bytes", stats->budget_bytes},
        {"resident_bytes_max", stats->resident_bytes_max},
        {"metadata_bytes", stats->metadata_bytes},
        {"faults_minor", stats->faults_minor},
        {"faults_missing", stats->faults_missing},
        {"faults_joined", stats->faults_joined},
        {"faults_failed", stats->faults_failed},
        {"pages_mapped", stats->pages_mapped},
        {"pages_promoted", stats->pages_promoted},
        {"fills", stats->fills},
        {"fill_bytes", stats->fill_bytes},
        {"fills_failed", stats->fills_failed},
        {"readahead_pages", stats->readahead_pages},
        {"evictions", stats->evictions},
        {"evicted_bytes", stats->evicted_bytes},
        {"evictions_direct", stats->evictions_direct},
        {"zaps", stats->zaps},
        {"pages_elsewhere", stats->pages_elsewhere},
        {"pages_copied", stats->pages_copied},
        {"faults_placed", stats->faults_placed},
        {"faults_remote", stats->faults_remote},
        {"fault_ns_p50", mnw_histogram_quantile(&result->faults, 0.50)},
        {"fault_ns_p99", mnw_histogram_quantile(&result->faults, 0.99)},
    };
    json_t *object = json_object();
    json_t *file = json_string(options->file);
    json_object_set_new(object, "file", file ? file : json_string("(a name that is not UTF-8)"));
    json_object_set_new(object, "backing", json_string(backing_names[options->pool.backing]));
    json_object_set_new(object, "policy", json_string(policy_names[options->pool.policy]));
    json_object_set_new(object, "pattern", json_string(pattern_names[options->pattern]));
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        json_object_set_new(object, counts[i].key, json_integer((json_int_t)counts[i].value));
    json_object_set_new(object, "seconds", json_real(result->seconds));
    json_object_set_new(object, "interrupted", json_boolean(result->signal != 0));
    json_object_set_new(object, "file_changed", json_boolean(result->file_changed));
    json_object_set_new(object, "numa", json_string(numa_names[options->pool.numa]));
    json_object_set_new(object, "placement", placement_json(result));
    json_object_set_new(object, "examples", examples_json(result));
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    puts(text ? text : "{}");
    free(text);
    json_decref(object);
}
