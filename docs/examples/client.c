/* SPDX-License-Identifier: MIT */
/*
 * Reads an image of a running `minnow serve` by pointer and counts its newlines: client IMAGE [SOCKET]. The memory is
 * shared with every other client of the image, and the daemon may be restarted meanwhile.
 */
#include <minnow/minnow.h>
#include <stdio.h>

static void show(void *context, const struct mnw_image *image) {
    (void)context;
    fprintf(stderr, "image %s in pool %s, %llu of %llu bytes are in memory\n", image->name, image->pool,
            (unsigned long long)image->resident_bytes, (unsigned long long)image->size_bytes);
}

int main(int argc, char **argv) {
    struct mnw_client *client;
    struct mnw_client_view *view;

    if (argc < 2)
        return fprintf(stderr, "usage: client IMAGE [SOCKET]\n"), 2;
    if (mnw_client_connect(&client, argc > 2 ? argv[2] : NULL, NULL) || mnw_client_map(&view, client, argv[1], NULL))
        return fprintf(stderr, "%s\n", mnw_error()), 1;

    const char *data = mnw_client_data(view);
    size_t lines = 0;
    for (size_t i = 0; i < mnw_client_length(view); i++) /* zeros follow the last byte, to the end of its page */
        lines += data[i] == '\n';
    printf("%zu lines\n", lines);

    if (mnw_client_images(client, show, NULL) < 0)
        return fprintf(stderr, "%s\n", mnw_error()), 1;
    return mnw_client_unmap(view) || mnw_client_close(client);
}
