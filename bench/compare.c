/* SPDX-License-Identifier: MIT */
#include "compare.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *compare_load(const char *path) {
    json_error_t error;
    json_t *run = json_load_file(path, 0, &error);
    if (!run) {
        fprintf(stderr, "minnow-bench: %s: %s (line %d)\n", path, error.text, error.line);
        return NULL;
    }
    if (json_is_array(json_object_get(run, "results")) && json_is_object(json_object_get(run, "fingerprint")))
        return run;
    fprintf(stderr, "minnow-bench: %s: not a run of minnow-bench; save one with: minnow-bench run NAME --json\n", path);
    json_decref(run);
    return NULL;
}

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static double number_of(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

/* What of a result is compared: the median and the interval around it. */
struct seen {
    double median, low, high;
};

static bool has_ratio(const json_t *result) {
    return json_is_number(json_object_get(result, "ratio"));
}

static bool look(const json_t *result, bool ratio, struct seen *seen) {
    if (!json_is_number(json_object_get(result, "value")))
        return false;
    *seen = (struct seen){
        .median = number_of(result, ratio ? "ratio" : "value"),
        .low = number_of(result, ratio ? "ratio_low" : "low"),
        .high = number_of(result, ratio ? "ratio_high" : "high"),
    };
    return true;
}

static bool more_is_better(const char *unit) {
    size_t length = strlen(unit);
    return length >= 2 && !strcmp(unit + length - 2, "/s");
}

static json_t *find_result(const json_t *run, const char *name) {
    size_t i;
    json_t *result;
    json_array_foreach(json_object_get(run, "results"), i, result) {
        if (!strcmp(text_of(result, "name"), name))
            return result;
    }
    return NULL;
}

/* One measurement has no interval: of two such numbers nothing can be said unless they were measured more often. */
static bool has_noise(const json_t *result) {
    return json_integer_value(json_object_get(result, "n")) > 1;
}

static void weigh(struct comparison *comparison, const json_t *old, const json_t *new) {
    bool ratio = has_ratio(old) && has_ratio(new);
    struct seen before, now;
    if (!look(old, ratio, &before) || !look(new, ratio, &now))
        return;
    const char *verdict = "within noise";
    bool apart = has_noise(old) && has_noise(new) && (now.low > before.high || now.high < before.low);
    if (apart) {
        bool better = (now.median > before.median) == more_is_better(text_of(new, "unit"));
        verdict = better ? "better" : "worse";
        comparison->better += better;
        comparison->worse += !better;
    } else {
        comparison->within++;
    }
    json_array_append_new(comparison->changes,
                          json_pack("{s:s, s:s, s:f, s:f, s:f, s:s}", "name", text_of(new, "name"), "of",
                                    ratio ? "ratio" : text_of(new, "unit"), "before", before.median, "now", now.median,
                                    "change", before.median != 0 ? now.median / before.median - 1 : 0, "verdict",
                                    verdict));
}

/* What changes from one run to the next anyway. */
static bool is_passing(const char *key) {
    return !strcmp(key, "date") || !strcmp(key, "load") || !strcmp(key, "checksum");
}

static void compare_machines(struct comparison *comparison, const json_t *before, const json_t *now) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)now, key, value) {
        json_t *old = json_object_get(before, key);
        if (is_passing(key) || (old && json_equal(old, value)))
            continue;
        char *old_text = old ? json_dumps(old, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        json_array_append_new(comparison->machines, json_pack("{s:s, s:s, s:s}", "name", key, "before",
                                                              old_text ? old_text : "(not there)", "now", text));
        free(old_text);
        free(text);
    }
}

/* The same benchmarks with the same seed and rounds read the same bytes. */
static void compare_work(struct comparison *comparison, const json_t *before, const json_t *now) {
    static const char *const keys[] = {"repeat", "smoke", "seed", "benchmarks"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (!json_equal(json_object_get(before, keys[i]), json_object_get(now, keys[i])))
            return;
    if (json_is_true(json_object_get(before, "partial")) || json_is_true(json_object_get(now, "partial")))
        return;
    const char *old = text_of(json_object_get(before, "fingerprint"), "checksum");
    const char *new = text_of(json_object_get(now, "fingerprint"), "checksum");
    if (strcmp(old, new) != 0)
        json_array_append_new(comparison->machines,
                              json_pack("{s:s, s:s, s:s}", "name", "checksum", "before", old, "now", new));
}

struct comparison compare_runs(const json_t *before, const json_t *now) {
    struct comparison comparison = {.changes = json_array(), .machines = json_array()};
    size_t i;
    json_t *result;
    json_array_foreach(json_object_get(now, "results"), i, result) {
        const json_t *old = find_result(before, text_of(result, "name"));
        if (old)
            weigh(&comparison, old, result);
        else
            comparison.only_now++;
    }
    json_array_foreach(json_object_get(before, "results"), i, result) {
        comparison.only_before += !find_result(now, text_of(result, "name"));
    }
    compare_machines(&comparison, json_object_get(before, "fingerprint"), json_object_get(now, "fingerprint"));
    compare_work(&comparison, before, now);
    return comparison;
}

void compare_print(const struct comparison *comparison) {
    size_t i;
    json_t *change;
    printf("\n");
    json_array_foreach(comparison->machines, i, change) {
        printf("not the same %s: %s before, %s now\n", text_of(change, "name"), text_of(change, "before"),
               text_of(change, "now"));
    }
    json_array_foreach(comparison->changes, i, change) {
        if (strcmp(text_of(change, "verdict"), "within noise") != 0)
            printf("%-36s %-7s %+.1f %%: %.4g before, %.4g now (%s)\n", text_of(change, "name"),
                   text_of(change, "verdict"), 100 * number_of(change, "change"), number_of(change, "before"),
                   number_of(change, "now"), text_of(change, "of"));
    }
    printf("%u better, %u worse, %u within the noise of both; %u not in the other run, %u in it only\n",
           comparison->better, comparison->worse, comparison->within, comparison->only_now, comparison->only_before);
}

json_t *compare_json(struct comparison *comparison) {
    json_t *object = json_pack("{s:O, s:O, s:i, s:i, s:i}", "changes", comparison->changes, "fingerprint",
                               comparison->machines, "better", (int)comparison->better, "worse", (int)comparison->worse,
                               "within", (int)comparison->within);
    return object;
}

void compare_free(struct comparison *comparison) {
    json_decref(comparison->changes);
    json_decref(comparison->machines);
}
