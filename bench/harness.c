/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static const char *target_sign(enum bench_target target) {
    switch (target) {
    case BENCH_AT_MOST:
        return "<=";
    case BENCH_AT_LEAST:
        return ">=";
    case BENCH_INFORMATION:
        break;
    }
    return "";
}

static bool holds(const struct bench_row *row) {
    switch (row->target) {
    case BENCH_AT_MOST:
        return row->value <= row->limit;
    case BENCH_AT_LEAST:
        return row->value >= row->limit;
    case BENCH_INFORMATION:
        break;
    }
    return true;
}

static bool sane(const struct bench_row *row) {
    return isfinite(row->value) && row->value >= row->sane_low && row->value <= row->sane_high;
}

static void cpu_name(char *name, size_t size) {
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "re");
    snprintf(name, size, "unknown");
    while (file && fgets(line, sizeof(line), file)) {
        char *colon = strchr(line, ':');
        if (colon && !strncmp(line, "model name", 10)) {
            colon[strcspn(colon, "\n")] = 0;
            snprintf(name, size, "%s", colon + 2);
            break;
        }
    }
    if (file)
        fclose(file);
}

static json_t *machine(void) {
    struct utsname name;
    char cpu[200];
    cpu_name(cpu, sizeof(cpu));
    uname(&name);
    return json_pack("{s:s, s:s, s:i, s:i}", "kernel", name.release, "cpu", cpu, "cpus",
                     (int)sysconf(_SC_NPROCESSORS_ONLN), "page_bytes", (int)sysconf(_SC_PAGESIZE));
}

void bench_begin(struct bench *bench) {
    bench->rows = json_array();
    if (bench->json)
        return;
    struct utsname name;
    char cpu[200];
    cpu_name(cpu, sizeof(cpu));
    uname(&name);
    printf("kernel %s, %ld x %s, medians of %u%s\n\n", name.release, sysconf(_SC_NPROCESSORS_ONLN), cpu, bench->repeat,
           bench->smoke ? ", smoke: numbers are checked for sense, not against targets" : "");
    printf("%-24s %-24s %12s %-18s %s\n", "row", "variant", "value", "unit", "target");
}

static void add(struct bench *bench, const char *name, const char *variant, const char *verdict, json_t *more) {
    json_t *row = json_pack("{s:s, s:s, s:s}", "name", name, "variant", variant, "verdict", verdict);
    json_object_update(row, more);
    json_decref(more);
    json_array_append_new(bench->rows, row);
}

static void print_detail(json_t *detail) {
    const char *key;
    json_t *value;
    printf("%24s", "");
    json_object_foreach(detail, key, value) {
        if (json_is_string(value))
            printf(" %s %s", key, json_string_value(value));
        else
            printf(" %s %.6g", key, json_number_value(value));
    }
    printf("\n");
}

void bench_report(struct bench *bench, const struct bench_row *row) {
    const char *verdict = "held";
    if (!sane(row)) {
        bench->broken++;
        verdict = "insane";
    } else if (row->target == BENCH_INFORMATION) {
        verdict = "information";
    } else if (!holds(row)) {
        bench->missed++;
        verdict = "missed";
    }
    if (!bench->json) {
        char target[32] = "";
        if (row->target != BENCH_INFORMATION)
            snprintf(target, sizeof(target), "%s %g ", target_sign(row->target), row->limit);
        printf("%-24s %-24s %12.6g %-18s %s%s\n", row->name, row->variant, row->value, row->unit, target,
               row->target == BENCH_INFORMATION && sane(row) ? "" : verdict);
        if (row->detail)
            print_detail(row->detail);
        fflush(stdout);
    }
    json_t *more = json_pack("{s:s}", "unit", row->unit);
    json_object_set_new(more, "value", isfinite(row->value) ? json_real(row->value) : json_null());
    if (row->target != BENCH_INFORMATION) {
        json_object_set_new(more, "target", json_string(target_sign(row->target)));
        json_object_set_new(more, "limit", json_real(row->limit));
    }
    if (row->detail)
        json_object_set_new(more, "detail", row->detail);
    add(bench, row->name, row->variant, verdict, more);
}

__attribute__((format(printf, 5, 0))) static void tell(struct bench *bench, const char *name, const char *variant,
                                                       const char *verdict, const char *why, va_list arguments) {
    char text[512];
    vsnprintf(text, sizeof(text), why, arguments);
    if (!bench->json)
        printf("%-24s %-24s %12s %s\n", name, variant, verdict, text);
    add(bench, name, variant, verdict, json_pack("{s:s}", "why", text));
}

void bench_skip(struct bench *bench, const char *name, const char *variant, const char *why, ...) {
    va_list arguments;
    va_start(arguments, why);
    tell(bench, name, variant, "skipped", why, arguments);
    va_end(arguments);
    bench->skipped++;
}

void bench_break(struct bench *bench, const char *name, const char *variant, const char *why, ...) {
    va_list arguments;
    va_start(arguments, why);
    tell(bench, name, variant, "broken", why, arguments);
    va_end(arguments);
    bench->broken++;
}

enum bench_status bench_end(struct bench *bench) {
    if (bench->json) {
        json_t *all = json_pack("{s:o, s:b, s:i, s:o}", "machine", machine(), "smoke", bench->smoke, "repeat",
                                (int)bench->repeat, "rows", bench->rows);
        json_dumpf(all, stdout, JSON_INDENT(2));
        printf("\n");
        json_decref(all);
    } else {
        printf("\n%u targets missed, %u rows broken, %u skipped\n", bench->missed, bench->broken, bench->skipped);
        json_decref(bench->rows);
    }
    if (bench->broken)
        return BENCH_BROKEN;
    if (bench->missed && !bench->smoke)
        return BENCH_MISSED;
    return bench->skipped ? BENCH_SKIPPED : BENCH_HELD;
}

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

double bench_median(double *values, unsigned count) {
    if (!count)
        return NAN;
    qsort(values, count, sizeof(values[0]), compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}
