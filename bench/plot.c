/* SPDX-License-Identifier: MIT */
/* Plots by gnuplot: a script with its data goes in, an SVG comes out and is put into the page. */
#include "report.h"

#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINES_MAX  16
#define POINTS_MAX 64

extern char **environ;

/* ---- gnuplot ---- */

struct plot {
    FILE *script;
    char *text;
    size_t length;
};

static void begin(struct plot *plot, const char *title, unsigned height) {
    static unsigned count;
    plot->script = open_memstream(&plot->text, &plot->length);
    fprintf(plot->script,
            "set terminal svg size 860,%u dynamic noenhanced font 'DejaVu Sans,12' name 'plot%u' background '#ffffff'\n"
            "set title '%s'\nset grid lc rgb '#dddddd'\nset border 3\nset tics nomirror\n"
            "set key outside right top Left reverse samplen 2 spacing 1.2\n",
            height, ++count, title);
}

/* Without points gnuplot draws nothing, and says so at length. */
static bool draw_nothing(struct plot *plot) {
    fclose(plot->script);
    free(plot->text);
    return true;
}

static const char *const colours[LINES_MAX] = {"#1b6ca8", "#d1495b", "#2e8b57", "#8a5a00", "#6b4fa0", "#00798c",
                                               "#c26a00", "#555555", "#b03a91", "#4b8b1d", "#99582a", "#003f5c",
                                               "#7f7f00", "#e377c2", "#17202a", "#5d8aa8"};

static bool start_gnuplot(int input, int output, pid_t *pid) {
    char *arguments[] = {(char *)(uintptr_t) "gnuplot", NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    int error = posix_spawnp(pid, "gnuplot", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error)
        fprintf(stderr, "minnow-bench: gnuplot: %s (Debian package gnuplot-nox)\n", strerror(error));
    return !error;
}

/* The SVG without the XML head, which has no place inside a page. */
static bool copy_svg(FILE *to, FILE *svg) {
    char line[4096];
    bool inside = false;
    rewind(svg);
    while (fgets(line, sizeof(line), svg)) {
        inside |= !strncmp(line, "<svg", 4);
        if (inside)
            fputs(line, to);
    }
    return inside;
}

/* Files, not pipes: neither side waits for the other. */
static bool draw(FILE *to, struct plot *plot) {
    FILE *input = tmpfile(), *output = tmpfile();
    pid_t pid;
    int status = -1;
    fclose(plot->script);
    bool good = input && output && fwrite(plot->text, 1, plot->length, input) == plot->length && !fflush(input);
    free(plot->text);
    if (good) {
        rewind(input);
        good = start_gnuplot(fileno(input), fileno(output), &pid);
    }
    if (good) {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
        good = WIFEXITED(status) && !WEXITSTATUS(status);
        fputs("<figure>\n", to);
        good = copy_svg(to, output) && good;
        fputs("</figure>\n", to);
        if (!good)
            fprintf(stderr, "minnow-bench: gnuplot drew nothing (status %d)\n", status);
    }
    if (input)
        fclose(input);
    if (output)
        fclose(output);
    return good;
}

/* ---- results ---- */

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static double number_of(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

static bool is_of(const json_t *result, const char *benchmark) {
    return !strcmp(text_of(result, "benchmark"), benchmark) && json_is_number(json_object_get(result, "value"));
}

/* The result's own part of its name. */
static const char *short_name(const json_t *result) {
    const char *name = text_of(result, "name"), *slash = strchr(name, '/');
    return slash ? slash + 1 : name;
}

double exponent_of(const double *at, const double *values, unsigned count) {
    double x = 0, y = 0, xx = 0, xy = 0;
    if (count < 3)
        return NAN;
    for (unsigned i = 0; i < count; i++) {
        double a = log(at[i]), b = log(values[i]);
        x += a;
        y += b;
        xx += a * a;
        xy += a * b;
    }
    double width = count * xx - x * x;
    return width > 1e-9 ? (count * xy - x * y) / width : NAN;
}

/* ---- series ---- */

struct line {
    const char *name;
    double at[POINTS_MAX], value[POINTS_MAX], low[POINTS_MAX], high[POINTS_MAX];
    unsigned count;
};

static struct line *line_of(struct line *lines, unsigned *count, const char *name) {
    for (unsigned i = 0; i < *count; i++)
        if (!strcmp(lines[i].name, name))
            return &lines[i];
    if (*count == LINES_MAX)
        return NULL;
    lines[*count].name = name;
    return &lines[(*count)++];
}

static unsigned collect(const json_t *results, const char *benchmark, const char *by, struct line *lines,
                        const char **unit) {
    unsigned count = 0;
    size_t i;
    json_t *result;
    json_array_foreach(results, i, result) {
        if (!is_of(result, benchmark) || strcmp(text_of(result, "by"), by) != 0)
            continue;
        struct line *line = line_of(lines, &count, text_of(result, "series"));
        if (!line || line->count == POINTS_MAX)
            continue;
        *unit = text_of(result, "unit");
        line->at[line->count] = number_of(result, "at");
        line->value[line->count] = number_of(result, "value");
        line->low[line->count] = number_of(result, "low");
        line->high[line->count++] = number_of(result, "high");
    }
    return count;
}

/* Nanoseconds for a page of so many KiB are also bytes a second. */
static const char *make_throughput(struct line *lines, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        for (unsigned p = 0; p < lines[i].count; p++) {
            double mib = lines[i].at[p] / 1024, slow = lines[i].high[p], fast = lines[i].low[p];
            lines[i].value[p] = mib / (lines[i].value[p] / 1e9);
            lines[i].low[p] = mib / (slow / 1e9);
            lines[i].high[p] = mib / (fast / 1e9);
        }
    return "MiB/s";
}

bool plot_series(FILE *to, const json_t *results, const char *benchmark, const char *by, bool throughput) {
    struct line *lines = calloc(LINES_MAX, sizeof(*lines));
    struct plot plot;
    const char *unit = "";
    char title[160];
    unsigned count = lines ? collect(results, benchmark, by, lines, &unit) : 0;
    if (!count) {
        free(lines);
        return true;
    }
    if (throughput)
        unit = make_throughput(lines, count);
    snprintf(title, sizeof(title), "%s: %s by %s", benchmark, unit, by);
    begin(&plot, title, 420);
    /* Nodes have numbers, 0 among them, and no size that anything could grow with. */
    bool grows = strncmp(by, PLOT_BY_NODE, strlen(PLOT_BY_NODE)) != 0;
    fprintf(plot.script, "%s\nset xlabel '%s'\nset ylabel '%s'\nset format y '%%.0s%%c'\n",
            grows ? "set logscale xy" : "set logscale y\nset xtics 1\nset offsets 0.5, 0.5", by, unit);
    for (unsigned i = 0; i < count; i++) {
        fprintf(plot.script, "$l%u << END\n", i);
        for (unsigned p = 0; p < lines[i].count; p++)
            fprintf(plot.script, "%g %g %g %g\n", lines[i].at[p], lines[i].value[p], lines[i].low[p], lines[i].high[p]);
        fprintf(plot.script, "END\n");
    }
    fprintf(plot.script, "plot ");
    for (unsigned i = 0; i < count; i++) {
        double exponent = grows ? exponent_of(lines[i].at, lines[i].value, lines[i].count) : NAN;
        char label[96];
        if (isfinite(exponent))
            snprintf(label, sizeof(label), "%s (exponent %.2f)", lines[i].name, exponent);
        else
            snprintf(label, sizeof(label), "%s", lines[i].name);
        fprintf(plot.script,
                "%s$l%u using 1:2:3:4 with yerrorbars lc rgb '%s' pt 7 ps 0.4 notitle, "
                "$l%u using 1:2 with lines lw 2 lc rgb '%s' title '%s'",
                i ? ", " : "", i, colours[i], i, colours[i], label);
    }
    fprintf(plot.script, "\n");
    free(lines);
    return draw(to, &plot);
}

/* ---- latencies ---- */

static bool lies_at(const json_t *result, const char *by, double at) {
    return !strcmp(text_of(result, "by"), by) && (!by[0] || number_of(result, "at") == at);
}

bool plot_latencies(FILE *to, const json_t *results, const char *benchmark, const char *by, double at, unsigned first) {

    struct plot plot;
    char title[160];
    const char *names[PLOT_LATENCIES];
    unsigned seen = 0, count = 0;
    size_t i, p;
    json_t *result, *point;
    if (by[0])
        snprintf(title, sizeof(title), "%s, %s %g: how many took longer than so long", benchmark, by, at);
    else
        snprintf(title, sizeof(title), "%s: how many took longer than so long", benchmark);
    begin(&plot, title, 420);
    fprintf(plot.script, "set logscale xy\nset xlabel 'ns'\nset format x '%%.0s%%c'\n"
                         "set ylabel 'fraction that took longer'\nset yrange [:1]\nset format y '%%g'\n");
    json_array_foreach(results, i, result) {
        json_t *points = json_object_get(result, "distribution");
        if (!is_of(result, benchmark) || !points || !lies_at(result, by, at) || seen++ < first ||
            count == PLOT_LATENCIES)
            continue;
        names[count] = short_name(result);
        fprintf(plot.script, "$l%u << END\n", count++);
        json_array_foreach(points, p, point) {
            double fraction = json_number_value(json_array_get(point, 0));
            if (fraction < 1)
                fprintf(plot.script, "%g %g\n", json_number_value(json_array_get(point, 1)), 1 - fraction);
        }
        fprintf(plot.script, "END\n");
    }
    if (!count)
        return draw_nothing(&plot);
    fprintf(plot.script, "plot ");
    for (unsigned n = 0; n < count; n++)
        fprintf(plot.script, "%s$l%u using 1:2 with lines lw 2 lc rgb '%s' title '%s'", n ? ", " : "", n, colours[n],
                names[n]);
    fprintf(plot.script, "\n");
    return draw(to, &plot);
}

/* ---- ratios ---- */

bool plot_ratios(FILE *to, const json_t *results, const char *benchmark) {
    struct plot plot;
    char *ticks = NULL;
    size_t length, i;
    unsigned count = 0;
    json_t *result;
    FILE *labels = open_memstream(&ticks, &length);
    struct plot data = {0};
    data.script = open_memstream(&data.text, &data.length);
    json_array_foreach(results, i, result) {
        if ((benchmark && !is_of(result, benchmark)) || !json_is_number(json_object_get(result, "ratio")))
            continue;
        fprintf(labels, "%s'%s' %u", count ? ", " : "", short_name(result), count);
        fprintf(data.script, "%g %u %g %g %g\n", number_of(result, "ratio"), count, number_of(result, "ratio_low"),
                number_of(result, "ratio_high"),
                json_is_number(json_object_get(result, "limit")) ? number_of(result, "limit") : NAN);
        count++;
    }
    fclose(labels);
    if (!count) {
        free(ticks);
        return draw_nothing(&data);
    }
    fclose(data.script);
    begin(&plot, benchmark ? benchmark : "ratios to what each is held against", 120 + 26 * count);
    fprintf(plot.script,
            "set logscale x\nset xlabel 'ratio to the baseline'\nset yrange [%u:-1]\nset ytics (%s)\n"
            "set arrow from 1,graph 0 to 1,graph 1 nohead lc rgb '#888888'\n$d << END\n%sEND\n"
            "plot $d using 1:2:3:4 with xerrorbars lw 2 lc rgb '#1b6ca8' pt 7 ps 0.7 title 'measured', "
            "$d using 5:2 with points lw 2 lc rgb '#d1495b' pt 2 ps 1 title 'target'\n",
            count, ticks, data.text);
    free(ticks);
    free(data.text);
    return draw(to, &plot);
}
