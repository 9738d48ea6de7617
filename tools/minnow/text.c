/* SPDX-License-Identifier: MIT */
/*
 * Sizes, numbers and names as people write them. Pure but for usage_error(), which prints.
 */
#include "command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int usage_error(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("minnow: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return EXIT_USAGE;
}

/* strtoull() alone would take signs, spaces and an empty text. */
static int parse_digits(const char *text, uint64_t *number, const char **end) {
    if (!text || *text < '0' || *text > '9')
        return -1;
    char *stop;
    errno = 0;
    unsigned long long value = strtoull(text, &stop, 10);
    if (errno)
        return -1;
    *number = value;
    *end = stop;
    return 0;
}

int parse_number(const char *text, uint64_t *number) {
    const char *end;
    uint64_t value;
    if (parse_digits(text, &value, &end) || *end)
        return -1;
    *number = value;
    return 0;
}

int parse_size(const char *text, uint64_t *bytes) {
    static const char suffixes[] = "KMGT";
    const char *end;
    uint64_t value;
    if (parse_digits(text, &value, &end))
        return -1;
    unsigned shift = 0;
    if (*end) {
        char letter = *end >= 'a' && *end <= 'z' ? (char)(*end - 'a' + 'A') : *end;
        const char *found = strchr(suffixes, letter);
        if (!found || !*found)
            return -1;
        shift = 10 * (unsigned)(found - suffixes + 1);
        end++;
        if (!strcmp(end, "iB") || !strcmp(end, "B"))
            end += strlen(end);
    }
    if (*end || (shift && value >> (64 - shift)))
        return -1;
    *bytes = value << shift;
    return 0;
}

int parse_name(const char *const *names, const char *name) {
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], name))
            return i;
    return -1;
}

char *format_size(uint64_t bytes, char text[32]) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    double value = (double)bytes;
    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", value, bytes == 1 ? "byte" : units[unit]);
    return text;
}
