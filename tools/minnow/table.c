/* SPDX-License-Identifier: MIT */
/* Collecting cells, then printing them under each other. */
#include "table.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

void table_begin(struct table *table, const char *align) {
    *table = (struct table){.align = align, .columns = strlen(align)};
}

void table_add(struct table *table, const char *format, ...) {
    va_list arguments;
    if (table->cells == table->room) {
        size_t room = table->room ? table->room * 2 : 64;
        char **cell = realloc(table->cell, room * sizeof(*cell));
        if (!cell)
            return;
        table->cell = cell;
        table->room = room;
    }
    char *text = NULL;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        text = NULL;
    va_end(arguments);
    table->cell[table->cells++] = text;
}

static const char *at(const struct table *table, size_t index) {
    return table->cell[index] ? table->cell[index] : "";
}

/* Columns on a terminal, as far as the locale knows them; bytes otherwise. */
static size_t width_of(const char *text) {
    wchar_t wide[256];
    size_t length = mbstowcs(wide, text, sizeof(wide) / sizeof(wide[0]) - 1);
    int width = length == (size_t)-1 ? -1 : wcswidth(wide, length);
    return width < 0 ? strlen(text) : (size_t)width;
}

static size_t column_width(const struct table *table, size_t column) {
    size_t widest = 0;
    for (size_t i = column; i < table->cells; i += table->columns)
        if (width_of(at(table, i)) > widest)
            widest = width_of(at(table, i));
    return widest;
}

static void print_cell(const struct table *table, size_t index, FILE *out) {
    size_t column = index % table->columns, width = column_width(table, column);
    int pad = (int)(width - width_of(at(table, index)));
    bool is_last = column + 1 == table->columns;
    if (table->align[column] == '>')
        fprintf(out, "%*s%s", pad, "", at(table, index));
    else
        fprintf(out, "%s%*s", at(table, index), is_last ? 0 : pad, "");
    fputs(is_last ? "\n" : "  ", out);
}

void table_end(struct table *table, FILE *out) {
    for (size_t i = 0; i < table->cells; i++)
        print_cell(table, i, out);
    for (size_t i = 0; i < table->cells; i++)
        free(table->cell[i]);
    free(table->cell);
}
