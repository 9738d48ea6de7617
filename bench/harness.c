/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "interrupt.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- names ---- */

/* "benchmark/name", or the benchmark alone. */
static void full_name(const struct bench *bench, const char *name, char *text) {
    if (name && strcmp(name, bench->benchmark))
        snprintf(text, BENCH_NAME_MAX, "%s/%s", bench->benchmark, name);
    else
        snprintf(text, BENCH_NAME_MAX, "%s", bench->benchmark);
}

static const char *sign(enum bench_target target) {
    return target == BENCH_AT_MOST ? "<=" : target == BENCH_AT_LEAST ? ">=" : "";
}

/* ---- verdicts ---- */

static bool holds(enum bench_target target, double value, double limit) {
    if (target == BENCH_AT_MOST)
        return value <= limit;
    return target != BENCH_AT_LEAST || value >= limit;
}

static bool all_hold(const struct bench_result *result, double value, const double *ratios) {
    bool all = holds(result->target, value, result->limit);
    for (unsigned i = 0; i < 2; i++)
        if (result->against[i].name)
            all &= holds(result->against[i].target, ratios[i], result->against[i].limit);
    return all;
}

static bool has_target(const struct bench_result *result) {
    return result->target || result->against[0].target || result->against[1].target;
}

static const char *judge(struct bench *bench, const struct bench_result *result, double value, const double *ratios) {
    double judged = result->against[0].name ? ratios[0] : value;
    if (!isfinite(judged) || judged < result->sane_low || judged > result->sane_high) {
        bench->broken++;
        return "insane";
    }
    if (!has_target(result) || bench->smoke)
        return "information";
    if (all_hold(result, value, ratios))
        return "held";
    bench->missed++;
    return "missed";
}

/* ---- JSON ---- */

static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *numbers(const double *values, unsigned count) {
    json_t *array = json_array();
    for (unsigned i = 0; i < count; i++)
        json_array_append_new(array, number(values[i]));
    return array;
}

static void set_target(json_t *object, enum bench_target target, double limit) {
    if (target == BENCH_INFORMATION)
        return;
    json_object_set_new(object, "target", json_string(sign(target)));
    json_object_set_new(object, "limit", json_real(limit));
}

static void set_against(json_t *object, const struct bench_against *against, unsigned count) {
    struct summary ratio = summarize(against->ratios, count);
    json_object_set_new(object, "baseline", number(against->baseline));
    json_object_set_new(object, "against", json_string(against->name));
    json_object_set_new(object, "ratio", number(ratio.median));
    json_object_set_new(object, "ratio_low", number(ratio.low));
    json_object_set_new(object, "ratio_high", number(ratio.high));
    json_object_set_new(object, "ratios", numbers(against->ratios, count));
    set_target(object, against->target, against->limit);
}

/* Fine at both ends: what readers wait for is in the last thousandth. */
static json_t *distribution(const struct samples *latencies) {
    static const double fractions[] = {0.001, 0.01, 0.05, 0.1,   0.2,  0.3,   0.4,   0.5,    0.6,    0.7,
                                       0.8,   0.9,  0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1};
    json_t *points = json_array();
    sort_values(latencies->values, latencies->count);
    for (size_t i = 0; i < sizeof(fractions) / sizeof(fractions[0]); i++) {
        /* Beyond the last of them there is nothing to tell. */
        if (fractions[i] < 1 && (1 - fractions[i]) * (double)latencies->count < 1)
            continue;
        json_array_append_new(
            points, json_pack("[f, f]", fractions[i], quantile_of(latencies->values, latencies->count, fractions[i])));
    }
    return points;
}

static json_t *describe(const struct bench *bench, const struct bench_result *result, const struct summary *summary,
                        double value, const char *verdict) {
    char name[BENCH_NAME_MAX];
    full_name(bench, result->name, name);
    json_t *object = json_pack(
        "{s:s, s:s, s:o, s:s, s:i, s:o, s:o, s:o, s:n, s:n, s:s}", "name", name, "benchmark", bench->benchmark, "value",
        number(value), "unit", result->unit, "n", result->count ? (int)result->count : 1, "min", number(summary->least),
        "median", number(summary->median), "max", number(summary->greatest), "baseline", "ratio", "verdict", verdict);
    json_object_set_new(object, "low", number(summary->low));
    json_object_set_new(object, "high", number(summary->high));
    json_object_set_new(object, "samples", numbers(result->samples, result->count));
    set_target(object, result->target, result->limit);
    if (result->against[0].name)
        set_against(object, &result->against[0], result->count);
    if (result->against[1].name) {
        json_t *also = json_object();
        set_against(also, &result->against[1], result->count);
        json_object_set_new(object, "also", also);
    }
    if (result->by) {
        json_object_set_new(object, "by", json_string(result->by));
        json_object_set_new(object, "at", json_real(result->at));
    }
    if (result->series)
        json_object_set_new(object, "series", json_string(result->series));
    if (result->latencies && result->latencies->count)
        json_object_set_new(object, "distribution", distribution(result->latencies));
    if (result->detail)
        json_object_set_new(object, "detail", result->detail);
    return object;
}

/* ---- words ---- */

static void print_targets(const struct bench_result *result, const double *ratios) {
    if (result->target)
        printf(" (%s %g)", sign(result->target), result->limit);
    for (unsigned i = 0; i < 2; i++) {
        const struct bench_against *against = &result->against[i];
        if (against->name)
            printf("%s %.3g x %s", i ? "," : "", ratios[i], against->name);
        if (against->name && against->target)
            printf(" (%s %g)", sign(against->target), against->limit);
    }
}

static void print_detail(json_t *detail) {
    const char *key;
    json_t *value;
    printf("   ");
    json_object_foreach(detail, key, value) {
        if (json_is_string(value))
            printf(" %s %s", key, json_string_value(value));
        else
            printf(" %s %.6g", key, json_number_value(value));
    }
    printf("\n");
}

static void print_result(const struct bench *bench, const struct bench_result *result, const struct summary *summary,
                         double value, const double *ratios, const char *verdict) {
    char name[BENCH_NAME_MAX], baseline[32] = "-", ratio[32] = "-";
    full_name(bench, result->name, name);
    if (result->against[0].name) {
        snprintf(baseline, sizeof(baseline), "%.5g", result->against[0].baseline);
        snprintf(ratio, sizeof(ratio), "%.3f", ratios[0]);
    }
    printf("%-36s %11.5g %-9s %4u %11.5g %11.5g %11.5g %11s %8s  %s", name, value, result->unit,
           result->count ? result->count : 1, summary->least, summary->median, summary->greatest, baseline, ratio,
           strcmp(verdict, "information") ? verdict : "");
    print_targets(result, ratios);
    printf("\n");
    if (result->detail)
        print_detail(result->detail);
    fflush(stdout);
}

/* ---- reporting ---- */

/* Nothing after an interruption: what was measured then may have been cut short. */
void bench_report(struct bench *bench, const struct bench_result *result) {
    if (interrupted()) {
        json_decref(result->detail);
        return;
    }
    double once = result->value, ratios[2] = {NAN, NAN};
    struct summary summary = result->count ? summarize(result->samples, result->count) : summarize(&once, 1);
    double value = result->count ? summary.median : once;
    for (unsigned i = 0; i < 2; i++)
        if (result->against[i].name)
            ratios[i] = summarize(result->against[i].ratios, result->count).median;
    const char *verdict = judge(bench, result, value, ratios);
    if (!bench->json)
        print_result(bench, result, &summary, value, ratios, verdict);
    json_array_append_new(bench->results, describe(bench, result, &summary, value, verdict));
}

__attribute__((format(printf, 4, 0))) static void tell(struct bench *bench, const char *name, const char *verdict,
                                                       const char *why, va_list arguments) {
    char text[512], full[BENCH_NAME_MAX];
    full_name(bench, name, full);
    vsnprintf(text, sizeof(text), why, arguments);
    if (!bench->json)
        printf("%-36s %11s  %s\n", full, verdict, text);
    fflush(stdout);
    json_array_append_new(bench->results, json_pack("{s:s, s:s, s:s, s:s}", "name", full, "benchmark", bench->benchmark,
                                                    "verdict", verdict, "why", text));
}

void bench_skip(struct bench *bench, const char *name, const char *why, ...) {
    va_list arguments;
    if (interrupted())
        return;
    va_start(arguments, why);
    tell(bench, name, "skipped", why, arguments);
    va_end(arguments);
    bench->skipped++;
}

void bench_break(struct bench *bench, const char *name, const char *why, ...) {
    va_list arguments;
    if (interrupted())
        return;
    va_start(arguments, why);
    tell(bench, name, "broken", why, arguments);
    va_end(arguments);
    bench->broken++;
}

void bench_checksum(struct bench *bench, const char *name, uint64_t sum) {
    char full[BENCH_NAME_MAX];
    full_name(bench, name, full);
    bench->checksum = XXH64(full, strlen(full), bench->checksum);
    bench->checksum = XXH64(&sum, sizeof(sum), bench->checksum);
}
