/* SPDX-License-Identifier: MIT */
/* Drawing: a head, pools, latencies, images, views, the map, the keys. */
#include "screen.h"

#include "command.h"

#define NCURSES_WIDECHAR 1

#include <curses.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

enum { COLOR_GOOD = 1, COLOR_BUSY, COLOR_BAD, COLOR_PINNED };

#define MIB 1048576.0

/* Lines of each part, its heading included. */
struct layout {
    int pools, nodes, images, views, map;
};

void screen_begin(void) {
    if (!has_colors())
        return;
    start_color();
    use_default_colors();
    init_pair(COLOR_GOOD, COLOR_GREEN, -1);
    init_pair(COLOR_BUSY, COLOR_YELLOW, -1);
    init_pair(COLOR_BAD, COLOR_RED, -1);
    init_pair(COLOR_PINNED, COLOR_CYAN, -1);
}

/* ---- where things go ---- */

static int least(size_t count, int most) {
    return count < (size_t)most ? (int)count : most;
}

static size_t count_nodes(const struct state *state) {
    size_t count = 0;
    for (size_t i = 0; i < state->pool_count; i++)
        count += state->pools[i].node_count;
    return count;
}

static const struct state_image *selected(const struct screen *screen) {
    return screen->selected < screen->now->image_count ? &screen->now->images[screen->selected] : NULL;
}

static size_t count_views(const struct screen *screen) {
    const struct state_image *image = selected(screen);
    size_t count = 0;
    for (size_t i = 0; image && i < screen->now->view_count; i++)
        count += !strcmp(screen->now->views[i].image, image->name);
    return count;
}

/* A share of the lines for each; what one does not need, the map gets. */
static struct layout lay_out(const struct screen *screen, int lines) {
    int left = lines - 2; /* head and keys */
    struct layout layout = {0};
    int *const part[] = {&layout.images, &layout.pools, &layout.nodes, &layout.views};
    const size_t wanted[] = {screen->now->image_count, screen->now->pool_count, count_nodes(screen->now),
                             count_views(screen)};
    const int shares[] = {4, 8, 8, 8};
    for (int i = 0; i < 4; i++) {
        int most = lines / shares[i] > 1 ? lines / shares[i] : 1, rows = least(wanted[i], most) + 1;
        if (rows > left)
            rows = left;
        *part[i] = rows;
        left -= rows;
    }
    layout.map = left > 1 ? left : 0;
    return layout;
}

size_t screen_map_cells(const struct screen *screen, int lines, int columns) {
    struct layout layout = lay_out(screen, lines);
    size_t cells = layout.map > 1 && columns > 0 ? (size_t)(layout.map - 1) * (size_t)columns : 0;
    return cells < SCREEN_CELLS_MAX ? cells : SCREEN_CELLS_MAX;
}

/* ---- lines ---- */

/* One line, cut at the terminal's edge. */
static void line(int row, int attributes, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void line(int row, int attributes, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    attrset(attributes);
    move(row, 0);
    clrtoeol();
    if (attributes & A_REVERSE)
        for (int column = 0; column < COLS; column++)
            addch(' ');
    /* Characters, not bytes, are what the screen has room for; a name may be neither. */
    wchar_t wide[sizeof(text)];
    if (mbstowcs(wide, text, sizeof(text)) != (size_t)-1)
        mvaddnwstr(row, 0, wide, COLS);
    else
        mvaddnstr(row, 0, text, COLS);
    attrset(A_NORMAL);
}

enum { NAME_BYTES = STATE_NAME + 32 };

/* A name in so many columns, as far as the locale knows how wide it is. */
static const char *name_in(const char *name, int width, char text[NAME_BYTES]) {
    wchar_t wide[STATE_NAME];
    size_t length = mbstowcs(wide, name, STATE_NAME - 1);
    if (length == (size_t)-1) {
        snprintf(text, NAME_BYTES, "%-*.*s", width, width, name);
        return text;
    }
    wide[length] = L'\0';
    bool is_cut = wcswidth(wide, length) > width;
    while (is_cut && wcswidth(wide, length) >= width)
        wide[--length] = L'\0';
    size_t bytes = wcstombs(text, wide, STATE_NAME);
    int pad = width - wcswidth(wide, length);
    snprintf(text + bytes, NAME_BYTES - bytes, "%-*s", pad > 0 ? pad : 0, is_cut ? "~" : "");
    return text;
}

static void draw_head(const struct screen *screen) {
    const struct state *now = screen->now;
    char uptime[32];
    line(0, A_REVERSE, " minnow %s  pid %lld  up %s  restarts %llu  peers %llu  every %.1f s%s", now->version,
         (long long)now->pid, format_uptime(now->uptime_ns, uptime), (unsigned long long)now->epoch,
         (unsigned long long)now->sessions, screen->interval, screen->paused ? "  PAUSED" : "");
}

static void draw_keys(const struct screen *screen) {
    if (screen->problem)
        line(LINES - 1, A_REVERSE | (has_colors() ? COLOR_PAIR(COLOR_BAD) : 0), " %s", screen->problem);
    else
        line(LINES - 1, A_REVERSE, " q quit   up/down choose an image   space %s   +/- interval",
             screen->paused ? "go on" : "pause");
}

/* ---- pools ---- */

/* Faults, fills and bytes a second. */
static void rates(const struct screen *screen, const struct state_counts *before, const struct state_counts *now,
                  char text[64]) {
    char faults[32], fills[32];
    double seconds = before ? state_seconds(screen->before, screen->now) : 0;
    static const struct state_counts none;
    if (!before)
        before = &none;
    snprintf(text, 64, "%8s %8s %8.1f",
             format_count(state_rate(before->faults_minor + before->faults_missing,
                                     now->faults_minor + now->faults_missing, seconds),
                          faults),
             format_count(state_rate(before->fills, now->fills, seconds), fills),
             state_rate(before->fill_bytes, now->fill_bytes, seconds) / MIB);
}

static int draw_pools(const struct screen *screen, int row, int rows) {
    if (rows < 1)
        return row;
    line(row++, A_BOLD, "%-14s %-10s %10s %10s %5s %8s %8s %8s", "POOL", "BACKING", "BUDGET", "RESIDENT", "USED",
         "FAULTS/s", "FILLS/s", "MiB/s");
    for (int i = 0; i < rows - 1; i++) {
        const struct state_pool *pool = &screen->now->pools[i], *old = state_find_pool(screen->before, pool->name);
        char name[NAME_BYTES], budget[32], resident[32], rate[64];
        rates(screen, old ? &old->counts : NULL, &pool->counts, rate);
        line(row++, A_NORMAL, "%s %-10s %10s %10s %4.0f%% %s", name_in(pool->name, 14, name), pool->backing,
             format_size(pool->budget_bytes, budget), format_size(pool->resident_bytes, resident),
             pool->budget_bytes ? 100.0 * (double)pool->resident_bytes / (double)pool->budget_bytes : 0, rate);
    }
    return row;
}

/* ---- latencies ---- */

static const struct state_node *find_node(const struct state_pool *pool, unsigned number) {
    for (size_t i = 0; pool && i < pool->node_count; i++)
        if (pool->nodes[i].node == number)
            return &pool->nodes[i];
    return NULL;
}

static const char *quantile(const struct mnw_histogram *histogram, double fraction, char text[32]) {
    return histogram->count ? format_ns(mnw_histogram_quantile(histogram, fraction), text) : "-";
}

/* Times are of the last interval; at the first look, since the start. */
static void draw_node(const struct screen *screen, int row, const struct state_pool *pool,
                      const struct state_node *node) {
    const struct state_node *old = find_node(state_find_pool(screen->before, pool->name), node->node);
    struct mnw_histogram total, fill, map;
    char name[NAME_BYTES], a[32], b[32], c[32], d[32], e[32], f[32], resident[32], huge[48] = "-";
    state_histogram_since(&total, old ? &old->total : NULL, &node->total);
    state_histogram_since(&fill, old ? &old->fill : NULL, &node->fill);
    state_histogram_since(&map, old ? &old->map : NULL, &node->map);
    if (node->huge_pages)
        snprintf(huge, sizeof(huge), "%llu/%llu", (unsigned long long)node->huge_pages_free,
                 (unsigned long long)node->huge_pages);
    line(row, node->is_outside ? A_BOLD : A_NORMAL, "%s %3u%s %9s %9s %9s %9s %9s %9s %9s %9s",
         name_in(pool->name, 14, name), node->node, node->is_outside ? "!" : " ", quantile(&total, 0.5, a),
         quantile(&total, 0.99, b), format_size(node->resident_bytes, resident), huge, quantile(&fill, 0.5, c),
         quantile(&fill, 0.99, d), quantile(&map, 0.5, e), quantile(&map, 0.99, f));
}

static int draw_nodes(const struct screen *screen, int row, int rows) {
    int end = row + rows;
    if (rows < 1)
        return row;
    line(row++, A_BOLD, "%-14s %4s %9s %9s %9s %9s %9s %9s %9s %9s", "LATENCY", "NODE", "fault p50", "p99", "RESIDENT",
         "HUGE FREE", "fill p50", "p99", "map p50", "p99");
    for (size_t i = 0; i < screen->now->pool_count; i++)
        for (size_t j = 0; j < screen->now->pools[i].node_count && row < end; j++)
            draw_node(screen, row++, &screen->now->pools[i], &screen->now->pools[i].nodes[j]);
    return row;
}

/* ---- images and views ---- */

static int draw_images(const struct screen *screen, int row, int rows) {
    if (rows < 1)
        return row;
    size_t shown = (size_t)rows - 1, first = screen->selected >= shown && shown ? screen->selected - shown + 1 : 0;
    line(row++, A_BOLD, "%-19s %10s %10s %5s %5s %8s %8s %8s", "IMAGE", "SIZE", "RESIDENT", "", "VIEWS", "FAULTS/s",
         "FILLS/s", "MiB/s");
    for (size_t i = first; i < first + shown && i < screen->now->image_count; i++) {
        const struct state_image *image = &screen->now->images[i], *old = state_find_image(screen->before, image->name);
        char name[NAME_BYTES], size[32], resident[32], rate[64];
        bool is_selected = i == screen->selected;
        rates(screen, old ? &old->counts : NULL, &image->counts, rate);
        line(row++, is_selected ? A_BOLD : A_NORMAL, "%s%s %10s %10s %4.0f%% %5llu %s", is_selected ? ">" : " ",
             name_in(image->name, 18, name), format_size(image->size_bytes, size),
             format_size(image->resident_bytes, resident),
             image->size_bytes ? 100.0 * (double)image->resident_bytes / (double)image->size_bytes : 0,
             (unsigned long long)image->views, rate);
    }
    return row;
}

static int draw_views(const struct screen *screen, int row, int rows) {
    const struct state_image *image = selected(screen);
    int end = row + rows;
    if (rows < 1)
        return row;
    line(row++, A_BOLD, "%-17s %8s %14s %10s %10s %s", "VIEW OF IT BY", "PID", "ADDRESS", "OFFSET", "LENGTH", "FLAGS");
    for (size_t i = 0; image && i < screen->now->view_count && row < end; i++) {
        const struct state_view *view = &screen->now->views[i];
        char name[NAME_BYTES], offset[32], length[32];
        if (strcmp(view->image, image->name))
            continue;
        line(row++, A_NORMAL, "%s %8lld %#14llx %10s %10s %s%s", name_in(*view->peer ? view->peer : "-", 17, name),
             (long long)view->pid, (unsigned long long)view->address, format_size(view->offset, offset),
             format_size(view->length, length), view->writable ? "write" : "read", view->recording ? " record" : "");
    }
    return row;
}

/* ---- the map ---- */

static int color_of(const struct map_cell *cell) {
    if (!has_colors())
        return 0;
    return cell->failed    ? COLOR_PAIR(COLOR_BAD)
           : cell->filling ? COLOR_PAIR(COLOR_BUSY)
           : cell->pinned  ? COLOR_PAIR(COLOR_PINNED)
                           : COLOR_PAIR(COLOR_GOOD);
}

static void draw_cell(const struct screen *screen, const struct map_cell *cell) {
    attrset(color_of(cell));
    if (!cell->pages)
        addch(' ');
    else if (cell->failed)
        addch('X');
    else if (cell->filling && !cell->resident)
        addch('~');
    else
        addstr(map_sign(map_level(cell), screen->unicode));
    attrset(A_NORMAL);
}

static void draw_map(const struct screen *screen, int row, int rows) {
    const struct state_image *image = selected(screen);
    char cell[32];
    if (rows < 2)
        return;
    if (!image || !screen->has_map) {
        line(row, A_BOLD, "MAP%s", image ? ": residency is not told" : ": no image");
        return;
    }
    line(row, A_BOLD, "MAP of %s: a cell is %s  %s none %s some %s all ~ being read X failed", image->name,
         format_size(screen->map_scale * image->page_bytes, cell), map_sign(0, screen->unicode),
         map_sign(2, screen->unicode), map_sign(4, screen->unicode));
    uint64_t used = (screen->map_pages + screen->map_scale - 1) / screen->map_scale;
    for (int i = 0; i < rows - 1; i++) {
        move(row + 1 + i, 0);
        for (int column = 0; column < COLS; column++) {
            size_t at = (size_t)i * (size_t)COLS + (size_t)column;
            if (at < used && at < SCREEN_CELLS_MAX)
                draw_cell(screen, &screen->cells[at]);
        }
    }
}

void screen_draw(const struct screen *screen) {
    struct layout layout = lay_out(screen, LINES);
    erase();
    draw_head(screen);
    int row = draw_pools(screen, 1, layout.pools);
    row = draw_nodes(screen, row, layout.nodes);
    row = draw_images(screen, row, layout.images);
    row = draw_views(screen, row, layout.views);
    draw_map(screen, row, LINES - 1 - row);
    draw_keys(screen);
    refresh();
}
