/* SPDX-License-Identifier: MIT */
/*
 * A client that does what its standard input says, line by line: SOCKET. For tests/client/test_operations.py.
 *
 * Each line is an operation, an image or pool, and numbers in bytes; each answer a line: the result, and a message.
 */
#include <minnow/minnow.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES_MAX = 1 << 16 };

static struct mnw_client *client;
static struct mnw_client_view *view;

static void count(void *context, const struct mnw_image *image) {
    uint64_t *sums = context;
    sums[0]++;
    sums[1] += image->is_open;
    printf("%s ", image->name);
}

/* How many pages of the range are in memory. */
static int residency(const char *image, uint64_t offset, uint64_t length) {
    static uint8_t pages[PAGES_MAX];
    int resident = 0, error = mnw_client_residency(client, image, offset, pages, length / 4096);
    for (uint64_t i = 0; i < length / 4096 && error >= 0; i++)
        resident += pages[i] & 1;
    return error < 0 ? error : resident;
}

/* Touches the pages of the view; the sum of the first bytes. */
static int touch(uint64_t offset, uint64_t length) {
    const volatile unsigned char *data = mnw_client_data(view);
    unsigned sum = 0;
    for (uint64_t at = offset; at < offset + length; at += 4096)
        sum += data[at];
    return (int)(sum & 0xffffff);
}

static int operate(const char *what, const char *name, uint64_t offset, uint64_t length) {
    uint64_t sums[2] = {0, 0};
    if (!strcmp(what, "images"))
        return mnw_client_images(client, count, sums) == (int)sums[0] ? (int)sums[0] : -1;
    if (!strcmp(what, "map"))
        return mnw_client_map(&view, client, name, NULL);
    if (!strcmp(what, "unmap"))
        return mnw_client_unmap(view);
    if (!strcmp(what, "touch"))
        return touch(offset, length);
    if (!strcmp(what, "prefetch"))
        return mnw_client_prefetch(client, name, offset, length);
    if (!strcmp(what, "pin"))
        return mnw_client_pin(client, name, offset, length);
    if (!strcmp(what, "unpin"))
        return mnw_client_unpin(client, name, offset, length);
    if (!strcmp(what, "invalidate"))
        return mnw_client_invalidate(client, name, offset, length);
    if (!strcmp(what, "residency"))
        return residency(name, offset, length);
    if (!strcmp(what, "budget"))
        return mnw_client_set_budget(client, name, length);
    return -1000;
}

int main(int argc, char **argv) {
    char line[256], what[32], name[80];
    unsigned long long offset, length;
    if (argc != 2 || mnw_client_connect(&client, argv[1], NULL))
        return fprintf(stderr, "%s\n", argc == 2 ? mnw_error() : "usage: operate SOCKET"), 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof(line), stdin)) {
        offset = length = 0;
        name[0] = '\0';
        if (sscanf(line, "%31s %79s %llu %llu", what, name, &offset, &length) < 1)
            return 2;
        int result = operate(what, name, offset, length);
        printf("%d %s\n", result, result < 0 ? mnw_error() : "");
    }
    return mnw_client_close(client) ? 3 : 0;
}
