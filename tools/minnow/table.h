/* SPDX-License-Identifier: MIT */
/* Tables of text: columns as wide as their widest cell. Owns copies of its cells. */
#ifndef MINNOW_TABLE_H
#define MINNOW_TABLE_H

#include <stddef.h>
#include <stdio.h>

struct table {
    const char *align; /* a character per column: '<' or '>' */
    size_t columns, cells, room;
    char **cell;
};

void table_begin(struct table *table, const char *align);
/* The next cell, row by row. */
void table_add(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints it and frees it. */
void table_end(struct table *table, FILE *out);

#endif
