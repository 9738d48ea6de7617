/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <stdlib.h>
#include <string.h>

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* Names and reasons may hold anything. */
static void put_text(FILE *to, const char *text) {
    for (; *text; text++) {
        const char *entity = *text == '<' ? "&lt;" : *text == '>' ? "&gt;" : *text == '&' ? "&amp;" : NULL;
        if (entity)
            fputs(entity, to);
        else
            fputc(*text, to);
    }
}

static void put_cell(FILE *to, const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    fputs(json_is_number(value) ? "<td class=n>" : "<td>", to);
    if (json_is_integer(value))
        fprintf(to, "%lld", json_integer_value(value));
    else if (json_is_number(value))
        fprintf(to, "%.5g", json_number_value(value));
    else
        put_text(to, text_of(object, key));
    fputs("</td>", to);
}

/* ---- what a page holds ---- */

static void put_head(FILE *to) {
    fputs(
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>minnow-bench</title>\n<style>\n"
        "body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222; }\n"
        "h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5em; border-bottom: 1px solid #ccc; }\n"
        "table { border-collapse: collapse; font-size: 12.5px; margin: 1em 0; }\n"
        "th, td { padding: 2px 7px; text-align: left; border-bottom: 1px solid #eee; } td.n, th.n { text-align: right; "
        "font-variant-numeric: tabular-nums; }\n"
        "td:first-child, td:nth-last-child(2) { white-space: nowrap; }\n"
        "figure { margin: 1.5em 0; } svg { max-width: 100%; height: auto; }\n"
        ".missed, .broken, .insane { background: #fbe3e4; } .held { background: #e6f4ea; } .skipped { color: #888; }\n"
        "</style></head><body>\n<h1>minnow-bench</h1>\n",
        to);
}

static void put_fingerprint(FILE *to, const json_t *run) {
    const char *key;
    json_t *value;
    fputs("<table>\n", to);
    json_object_foreach(json_object_get(run, "fingerprint"), key, value) {
        char *text =
            json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(4));
        fprintf(to, "<tr><th>%s</th><td>", key);
        put_text(to, text ? text : json_string_value(value));
        fputs("</td></tr>\n", to);
        free(text);
    }
    fprintf(to, "<tr><th>rounds</th><td>%lld%s%s</td></tr></table>\n",
            json_integer_value(json_object_get(run, "repeat")),
            json_is_true(json_object_get(run, "smoke")) ? " (smoke: the numbers mean little)" : "",
            json_is_true(json_object_get(run, "partial")) ? " (interrupted: this is a part)" : "");
}

static void put_row(FILE *to, const json_t *result) {
    static const char *const keys[] = {"name", "value", "unit", "n", "min", "median", "max", "baseline", "ratio"};
    fprintf(to, "<tr class=%s>", text_of(result, "verdict"));
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        put_cell(to, result, keys[i]);
    fputs("<td>", to);
    put_text(to, strcmp(text_of(result, "verdict"), "information") ? text_of(result, "verdict") : "");
    if (json_is_number(json_object_get(result, "limit")))
        fprintf(to, " (%s %g)", strcmp(text_of(result, "target"), "<=") ? "&ge;" : "&le;",
                json_number_value(json_object_get(result, "limit")));
    fputs("</td><td>", to);
    put_text(to, text_of(result, json_object_get(result, "why") ? "why" : "against"));
    const json_t *also = json_object_get(result, "also");
    if (also) {
        fprintf(to, "; %.3g of ", json_number_value(json_object_get(also, "ratio")));
        put_text(to, text_of(also, "against"));
    }
    fputs("</td></tr>\n", to);
}

static void put_table(FILE *to, const json_t *results, const char *benchmark) {
    size_t i;
    json_t *result;
    fputs("<table><tr><th>name<th class=n>value<th>unit<th class=n>n<th class=n>min<th class=n>median<th class=n>max"
          "<th class=n>baseline<th class=n>ratio<th>target<th>held against</tr>\n",
          to);
    json_array_foreach(results, i, result) {
        if (!benchmark || !strcmp(text_of(result, "benchmark"), benchmark))
            put_row(to, result);
    }
    fputs("</table>\n", to);
}

/* ---- which plots a benchmark has ---- */

struct shape {
    const char *by[4]; /* what its series are over */
    unsigned points[4], ratios, results;
};

static struct shape shape_of(const json_t *results, const char *benchmark) {
    struct shape shape = {0};
    size_t i;
    json_t *result;
    json_array_foreach(results, i, result) {
        if (strcmp(text_of(result, "benchmark"), benchmark) != 0)
            continue;
        shape.results++;
        shape.ratios += json_is_number(json_object_get(result, "ratio"));
        for (unsigned b = 0; b < 4 && text_of(result, "by")[0]; b++) {
            if (!shape.by[b])
                shape.by[b] = text_of(result, "by");
            if (!strcmp(shape.by[b], text_of(result, "by"))) {
                shape.points[b]++;
                break;
            }
        }
    }
    return shape;
}

static bool same_place(const json_t *one, const json_t *other) {
    return !strcmp(text_of(one, "benchmark"), text_of(other, "benchmark")) &&
           !strcmp(text_of(one, "by"), text_of(other, "by")) && json_object_get(other, "distribution") &&
           json_number_value(json_object_get(one, "at")) == json_number_value(json_object_get(other, "at"));
}

/* A plot for those of no series, and one for each place that series have; more where there are many. */
static bool put_latencies(FILE *to, const json_t *results, const char *benchmark) {
    bool good = true;
    size_t i;
    json_t *result;
    json_array_foreach(results, i, result) {
        if (strcmp(text_of(result, "benchmark"), benchmark) != 0 || !json_object_get(result, "distribution"))
            continue;
        unsigned before = 0;
        for (size_t k = 0; k < i; k++)
            before += same_place(result, json_array_get(results, k));
        if (before % PLOT_LATENCIES == 0)
            good &= plot_latencies(to, results, benchmark, text_of(result, "by"),
                                   json_number_value(json_object_get(result, "at")), before);
    }
    return good;
}

static bool put_plots(FILE *to, const json_t *results, const char *benchmark) {
    struct shape shape = shape_of(results, benchmark);
    bool good = true;
    for (unsigned b = 0; b < 4 && shape.by[b]; b++) {
        if (shape.points[b] < 2)
            continue;
        good &= plot_series(to, results, benchmark, shape.by[b], false);
        if (!strcmp(shape.by[b], "page KiB"))
            good &= plot_series(to, results, benchmark, shape.by[b], true);
    }
    good &= put_latencies(to, results, benchmark);
    if (shape.ratios > 1)
        good &= plot_ratios(to, results, benchmark);
    return good;
}

/* Benchmarks with one result each are told together. */
static bool put_run(FILE *to, const json_t *run) {
    const json_t *results = json_object_get(run, "results");
    json_t *singles = json_array(), *result;
    size_t i, r;
    json_t *name;
    bool good = true;
    put_fingerprint(to, run);
    json_array_foreach(results, i, result) {
        if (shape_of(results, text_of(result, "benchmark")).results == 1)
            json_array_append(singles, result);
    }
    if (json_array_size(singles)) {
        fputs("<h2>single results</h2>\n", to);
        good &= plot_ratios(to, singles, NULL);
        put_table(to, singles, NULL);
        json_array_foreach(singles, r, result) {
            if (json_object_get(result, "distribution"))
                good &= plot_latencies(to, singles, text_of(result, "benchmark"), text_of(result, "by"),
                                       json_number_value(json_object_get(result, "at")), 0);
        }
    }
    json_array_foreach(json_object_get(run, "benchmarks"), i, name) {
        if (shape_of(results, json_string_value(name)).results < 2)
            continue;
        fprintf(to, "<h2>%s</h2>\n", json_string_value(name));
        good &= put_plots(to, results, json_string_value(name));
        put_table(to, results, json_string_value(name));
    }
    json_decref(singles);
    return good;
}

bool report_write(FILE *to, const json_t *runs) {
    size_t i;
    json_t *run;
    bool good = true;
    put_head(to);
    json_array_foreach(runs, i, run) {
        good &= put_run(to, run);
    }
    fputs("</body></html>\n", to);
    return !ferror(to) && good;
}
