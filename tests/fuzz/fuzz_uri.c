/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: store URIs. Whatever is parsed must be whole, and must mean the same when written down again;
 * whatever is refused must say why.
 */
#include "fuzz/fuzz.h"

#include "base/error.h"
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void demand(int condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "fuzz_uri: %s\n", what);
        abort();
    }
}

/* Every byte by its number: nothing in it can be mistaken for syntax. */
static void write_uri(const struct mnw__uri *uri, char *text) {
    static const char digits[] = "0123456789ABCDEF";
    text += sprintf(text, "file:///");
    for (const char *byte = uri->path + 1; *byte; byte++) {
        *text++ = '%';
        *text++ = digits[(unsigned char)*byte >> 4];
        *text++ = digits[*byte & 15];
    }
    if (uri->direct >= 0)
        text += sprintf(text, "?direct=%d", uri->direct);
    *text = '\0';
}

static void check_file(const struct mnw__uri *uri) {
    static char text[3 * sizeof(uri->path) + 32];
    static struct mnw__uri again;
    demand(uri->path[0] == '/', "a file's path is not absolute");
    demand(uri->direct >= -1 && uri->direct <= 1, "direct is neither said nor unsaid");
    write_uri(uri, text);
    demand(!mnw__uri_parse(text, &again), "a URI written from a parsed one is refused");
    demand(!strcmp(again.path, uri->path) && again.direct == uri->direct, "a URI changed its meaning");
}

static void check_parsed(const struct mnw__uri *uri) {
    demand(memchr(uri->scheme, 0, sizeof(uri->scheme)) && memchr(uri->path, 0, sizeof(uri->path)), "no end of string");
    demand(uri->scheme[0] >= 'a' && uri->scheme[0] <= 'z', "a scheme without a letter");
    if (!strcmp(uri->scheme, "file"))
        check_file(uri);
    else
        demand(!uri->path[0] && uri->direct == -1, "a foreign scheme was interpreted");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct mnw__uri uri;
    char *text = malloc(size + 1); /* exact, so that a sanitizer sees a read behind the end */
    demand(text != NULL, "out of memory");
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    memset(&uri, 0xa5, sizeof(uri));
    int result = mnw__uri_parse(text, &uri);
    demand(result == 0 || result == -EINVAL || result == -ENAMETOOLONG, "an unknown error");
    demand(!result || strstr(mnw__fail_message(), "store URI"), "refused without a word");
    if (!result)
        check_parsed(&uri);
    free(text);
    return 0;
}
