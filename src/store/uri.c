/* SPDX-License-Identifier: MIT */
/*
 * URIs of stores: "file:///absolute/path", "file:///path?direct=1".
 *
 * Owns nothing; any thread may enter. Pure: opens nothing, allocates nothing. Strict, because a URI that is
 * read in two ways names two files: what is not understood is refused, never passed over.
 */
#include "store/store.h"

#include "base/error.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* Locale must not matter here, hence no <ctype.h>. */
static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static char to_lower(char c) {
    return (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

static int hex_value(char c) {
    if (is_digit(c))
        return c - '0';
    c = to_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The length of the scheme before its colon; 0 when the text does not begin with one. */
static size_t scheme_length(const char *text) {
    size_t length = 0;
    if (!is_letter(text[0]))
        return 0;
    while (is_letter(text[length]) || is_digit(text[length]) || (text[length] && strchr("+-.", text[length])))
        length++;
    return text[length] == ':' ? length : 0;
}

static int parse_scheme(const char *text, struct mnw__uri *uri, const char **rest) {
    size_t length = scheme_length(text);
    if (!length)
        return mnw__fail(-EINVAL, "store URI \"%.200s\": no scheme; write file:///absolute/path", text);
    if (length >= sizeof(uri->scheme))
        return mnw__fail(-ENAMETOOLONG, "store URI \"%.200s\": its scheme is longer than %zu characters", text,
                         sizeof(uri->scheme) - 1);
    for (size_t i = 0; i < length; i++)
        uri->scheme[i] = to_lower(text[i]);
    uri->scheme[length] = '\0';
    *rest = text + length + 1;
    return 0;
}

/* Two hexadecimal digits; a byte 1..255, since a NUL would end the path early. */
static int decode_percent(const char *digits) {
    int high = hex_value(digits[0]);
    int low = high < 0 ? -1 : hex_value(digits[1]);
    return low < 0 || (!high && !low) ? -EINVAL : high * 16 + low;
}

/* Up to '?' or the end of the text; `*end` is left there. */
static int parse_path(const char *text, const char *at, struct mnw__uri *uri, const char **end) {
    size_t length = 0;
    for (; *at && *at != '?'; at++) {
        int c = *at;
        if (c == '#')
            return mnw__fail(-EINVAL, "store URI \"%.200s\": a '#' in a path is written %%23", text);
        if (c == '%') {
            c = decode_percent(at + 1);
            if (c < 0)
                return mnw__fail(-EINVAL,
                                 "store URI \"%.200s\": '%%' needs two hexadecimal digits, not 00 (a '%%' "
                                 "itself is written %%25)",
                                 text);
            at += 2;
        }
        if (length + 1 == sizeof(uri->path))
            return mnw__fail(-ENAMETOOLONG, "store URI \"%.200s...\": its path is longer than %zu bytes", text,
                             sizeof(uri->path) - 1);
        uri->path[length++] = (char)c;
    }
    uri->path[length] = '\0';
    *end = at;
    return 0;
}

static int parse_parameter(const char *text, const char *parameter, size_t length, struct mnw__uri *uri) {
    bool yes = length == 8 && !memcmp(parameter, "direct=1", length);
    bool no = length == 8 && !memcmp(parameter, "direct=0", length);
    if (!yes && !no)
        return mnw__fail(-EINVAL, "store URI \"%.200s\": unknown parameter \"%.*s\"; known: direct=0, direct=1", text,
                         (int)(length < 64 ? length : 64), parameter);
    if (uri->direct != -1)
        return mnw__fail(-EINVAL, "store URI \"%.200s\": says \"direct\" twice", text);
    uri->direct = yes;
    return 0;
}

static int parse_query(const char *text, const char *at, struct mnw__uri *uri) {
    for (;;) {
        size_t length = strcspn(at, "&");
        int error = parse_parameter(text, at, length, uri);
        if (error)
            return error;
        if (!at[length])
            return 0;
        at += length + 1;
    }
}

static int parse_file(const char *text, const char *rest, struct mnw__uri *uri) {
    static const char local[] = "//localhost/";
    if (!strncmp(rest, local, sizeof(local) - 1))
        rest += sizeof(local) - 2;
    else if (!strncmp(rest, "///", 3))
        rest += 2;
    else
        return mnw__fail(-EINVAL, "store URI \"%.200s\": a file is named by an absolute path: file:///path", text);
    int error = parse_path(text, rest, uri, &rest);
    return error || !*rest ? error : parse_query(text, rest + 1, uri);
}

int mnw__uri_parse(const char *text, struct mnw__uri *uri) {
    const char *rest = text;
    uri->path[0] = '\0';
    uri->direct = -1;
    int error = parse_scheme(text, uri, &rest);
    if (error)
        return error;
    return strcmp(uri->scheme, "file") ? 0 : parse_file(text, rest, uri);
}
