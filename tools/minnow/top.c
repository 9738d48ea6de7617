/* SPDX-License-Identifier: MIT */
/*
 * minnow top: asks a daemon now and again and shows what it says, until q. Owns the terminal while it runs, and leaves
 * it as it was, on SIGINT and SIGTERM too.
 */
#include "command.h"
#include "screen.h"
#include "source.h"
#include "state.h"

#include <curses.h>
#include <langinfo.h>
#include <locale.h>
#include <popt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Pages that one look at an image asks for: larger images are sampled. */
#define PAGES_ASKED ((uint64_t)1 << 21)
/* While a daemon does not answer, keys wait so long. */
#define TIMEOUT_MS 1000

struct options {
    char *socket, *file, *interval;
    int ascii;
    double seconds;
};

struct top {
    struct source source;
    struct screen screen;
    struct state states[2];
    bool has[2];
    unsigned now; /* which of them is the newer */
    uint8_t *flags;
    char problem[512];
    double next; /* when to ask again */
};

static volatile sig_atomic_t ended;

static void note_end(int number) {
    (void)number;
    ended = 1;
}

/* ---- the command line ---- */

static int check_options(struct options *options) {
    char *end;
    options->seconds = 1;
    if (options->file && options->socket)
        return usage_error("top: --file and --socket exclude each other");
    if (options->interval) {
        options->seconds = strtod(options->interval, &end);
        if (end == options->interval || *end || !(options->seconds >= 0.1 && options->seconds <= 60))
            return usage_error("top: --interval takes seconds from 0.1 to 60; there is '%s'", options->interval);
    }
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return usage_error("top: needs a terminal; minnow stat prints to files and pipes");
    return EXIT_FINE;
}

static int read_options(int argc, const char **argv, struct options *options) {
    const struct poptOption table[] = {
        {"socket", 's', POPT_ARG_STRING, &options->socket, 0, "the daemon's socket", "PATH"},
        {"file", 'f', POPT_ARG_STRING, &options->file, 0, "show what a file holds: the JSON of minnow stat", "PATH"},
        {"interval", 'i', POPT_ARG_STRING, &options->interval, 0, "between two looks (default: 1)", "SECONDS"},
        {"ascii", 0, POPT_ARG_NONE, &options->ascii, 0, "draw the map with letters", NULL},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow top", argc, argv, table, 0);
    int parsed = poptGetNextOpt(context), code = EXIT_FINE;
    if (parsed < -1)
        code = usage_error("top: %s: %s (minnow top --help)", poptBadOption(context, POPT_BADOPTION_NOALIAS),
                           poptStrerror(parsed));
    else if (poptPeekArg(context))
        code = usage_error("top: takes no arguments; there is '%s'", poptPeekArg(context));
    poptFreeContext(context);
    return code ? code : check_options(options);
}

/* ---- asking ---- */

static double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* The newer state becomes the older one. With a problem everything stays as it was. */
static void look(struct top *top) {
    unsigned next = 1 - top->now;
    struct state state;
    char *text = source_text(&top->source, 0, top->problem, sizeof(top->problem));
    int error = text ? state_read(&state, text, top->problem, sizeof(top->problem)) : -1;
    free(text);
    top->screen.problem = error ? top->problem : NULL;
    if (error)
        return;
    if (top->has[next])
        state_free(&top->states[next]);
    top->states[next] = state;
    top->has[next] = true;
    top->screen.before = top->has[top->now] ? &top->states[top->now] : NULL;
    top->screen.now = &top->states[next];
    top->now = next;
    if (top->screen.selected >= state.image_count)
        top->screen.selected = state.image_count ? state.image_count - 1 : 0;
}

/* Residency of pages [first, first + count), clipped to the image; false: not told. */
static bool look_at_pages(struct top *top, const struct state_image *image, size_t cells, uint64_t first,
                          uint64_t count) {
    struct screen *screen = &top->screen;
    if (first >= screen->map_pages)
        return true;
    if (count > screen->map_pages - first)
        count = screen->map_pages - first;
    if (source_residency(&top->source, image->name, first * image->page_bytes, top->flags, count))
        return false;
    map_add(screen->cells, cells, screen->map_scale, first, top->flags, count);
    return true;
}

static void look_at_map(struct top *top) {
    struct screen *screen = &top->screen;
    if (screen->problem)
        return;
    screen->has_map = false;
    if (!screen->now || screen->selected >= screen->now->image_count)
        return;
    const struct state_image *image = &screen->now->images[screen->selected];
    size_t cells = screen_map_cells(screen, LINES, COLS);
    if (!cells || !image->page_bytes || !image->size_bytes)
        return;
    memset(screen->cells, 0, SCREEN_CELLS_MAX * sizeof(*screen->cells));
    screen->map_pages = (image->size_bytes - 1) / image->page_bytes + 1;
    screen->map_scale = map_scale(screen->map_pages, cells);
    if (screen->map_pages <= PAGES_ASKED) {
        screen->has_map = look_at_pages(top, image, cells, 0, screen->map_pages);
        return;
    }
    uint64_t some = PAGES_ASKED / cells ? PAGES_ASKED / cells : 1;
    bool told = true;
    for (size_t cell = 0; cell < cells && told; cell++)
        told = look_at_pages(top, image, cells, cell * screen->map_scale,
                             some < screen->map_scale ? some : screen->map_scale);
    screen->has_map = told;
}

/* ---- the keys ---- */

static void change_interval(struct screen *screen, double factor) {
    screen->interval *= factor;
    if (screen->interval < 0.125)
        screen->interval = 0.125;
    if (screen->interval > 64)
        screen->interval = 64;
}

static void select_image(struct top *top, int step) {
    struct screen *screen = &top->screen;
    size_t count = screen->now->image_count;
    if (step < 0 && screen->selected > 0)
        screen->selected--;
    if (step > 0 && screen->selected + 1 < count)
        screen->selected++;
    look_at_map(top);
}

/* False: enough. */
static bool press(struct top *top, int key) {
    switch (key) {
    case 'q':
    case 'Q':
        return false;
    case ' ':
    case 'p':
        top->screen.paused = !top->screen.paused;
        break;
    case KEY_UP:
    case 'k':
        select_image(top, -1);
        break;
    case KEY_DOWN:
    case 'j':
        select_image(top, 1);
        break;
    case '+':
        change_interval(&top->screen, 2);
        break;
    case '-':
        change_interval(&top->screen, 0.5);
        break;
    case KEY_RESIZE:
        look_at_map(top); /* it has another number of cells */
        break;
    default:
        break;
    }
    return true;
}

static int milliseconds_left(const struct top *top) {
    double left = (top->next - clock_seconds()) * 1000;
    return left < 1 ? 1 : left > 1000 ? 1000 : (int)left; /* signals are seen within a second */
}

static void run(struct top *top) {
    for (;;) {
        if (clock_seconds() >= top->next) {
            top->next = clock_seconds() + top->screen.interval;
            if (!top->screen.paused) {
                look(top);
                look_at_map(top);
            }
        }
        screen_draw(&top->screen);
        timeout(milliseconds_left(top));
        int key = getch();
        if (ended || (key != ERR && !press(top, key)))
            return;
    }
}

/* ---- beginning and ending ---- */

static void take_terminal(void) {
    const struct sigaction action = {.sa_handler = note_end};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    initscr();
    cbreak();
    noecho();
    keypad(stdscr, TRUE);
    curs_set(0);
    screen_begin();
}

/* Before the terminal is taken: whoever cannot be asked at all is said so in plain words. */
static int show(struct top *top) {
    look(top);
    if (!top->screen.now) {
        fprintf(stderr, "minnow: top: %s\n", top->problem);
        return EXIT_WRONG;
    }
    take_terminal();
    look_at_map(top);
    top->next = clock_seconds() + top->screen.interval;
    run(top);
    endwin();
    return EXIT_FINE;
}

static int run_top(const struct options *options) {
    struct top *top = calloc(1, sizeof(*top));
    int code = EXIT_WRONG;
    if (!top)
        return usage_error("top: out of memory");
    top->screen.interval = options->seconds;
    top->screen.unicode = !options->ascii && !strcmp(nl_langinfo(CODESET), "UTF-8");
    top->screen.cells = calloc(SCREEN_CELLS_MAX, sizeof(*top->screen.cells));
    top->flags = malloc(PAGES_ASKED);
    if (!top->screen.cells || !top->flags)
        usage_error("top: out of memory");
    else if (!source_open(&top->source, options->socket, options->file, TIMEOUT_MS)) {
        code = show(top);
        source_close(&top->source);
    }
    for (int i = 0; i < 2; i++)
        if (top->has[i])
            state_free(&top->states[i]);
    free(top->screen.cells);
    free(top->flags);
    free(top);
    return code;
}

int command_top(int argc, const char **argv) {
    struct options options = {0};
    setlocale(LC_ALL, "");
    setlocale(LC_NUMERIC, "C");
    int code = read_options(argc, argv, &options);
    if (!code)
        code = run_top(&options);
    free(options.socket);
    free(options.file);
    free(options.interval);
    return code;
}
