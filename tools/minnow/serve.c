/* SPDX-License-Identifier: MIT */
/*
 * minnow serve: reads the command line and hands over to the daemon.
 */
#include "command.h"

#include <daemon/serve.h>
#include <popt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const backings[] = {"shmem", "graded", "hugetlb-2M", "hugetlb-1G", NULL};

/* How the process was called: a holder starts its workers in the same way. */
static char *const *process_arguments(int argc, const char **argv) {
    char **whole = calloc((size_t)argc + 2, sizeof(*whole));
    if (!whole)
        return NULL;
    whole[0] = (char *)(uintptr_t) "minnow";
    whole[1] = (char *)(uintptr_t) "serve";
    for (int i = 1; i < argc; i++)
        whole[i + 1] = (char *)(uintptr_t)argv[i];
    return whole;
}

static int understand(struct mnw__serve_options *options, const char *backing, const char *budget, const char *around) {
    if (backing) {
        int found = parse_name(backings, backing);
        if (found < 0)
            return usage_error("--backing: unknown kind '%s'; there are shmem, graded, hugetlb-2M, hugetlb-1G",
                               backing);
        options->backing = (enum mnw_backing)found;
    }
    if (budget && (parse_size(budget, &options->budget_bytes) || !options->budget_bytes))
        return usage_error("--budget: '%s' is no size; write bytes, or a number with K, M, G or T", budget);
    options->has_read_around = around != NULL;
    if (around && (parse_size(around, &options->read_around_bytes) || options->read_around_bytes > 2 << 20))
        return usage_error("--read-around: '%s' is no size of at most 2M; 0 reads each page alone", around);
    return 0;
}

int command_serve(int argc, const char **argv) {
    struct mnw__serve_options options = {0};
    char *config = NULL, *socket = NULL, *backing = NULL, *budget = NULL, *around = NULL, **images = NULL;
    struct poptOption table[] = {
        {"config", 'c', POPT_ARG_STRING, &config, 0, "the configuration", "FILE"},
        {"socket", 0, POPT_ARG_STRING, &socket, 0, "where to listen", "PATH"},
        {"image", 0, POPT_ARG_ARGV, &images, 0, "one more image in the first pool", "NAME=FILE"},
        {"budget", 0, POPT_ARG_STRING, &budget, 0, "makes a pool \"main\" unless the configuration has pools", "SIZE"},
        {"backing", 0, POPT_ARG_STRING, &backing, 0, "shmem, graded, hugetlb-2M, hugetlb-1G: of that pool", "KIND"},
        {"read-around", 0, POPT_ARG_STRING, &around, 0, "what is read around a fault at random, unless the image says",
         "SIZE"},
        {"alone", 0, POPT_ARG_NONE, &options.alone, 0, "without a holder: nothing survives a crash", NULL},
        {"no-sandbox", 0, POPT_ARG_NONE, &options.no_sandbox, 0, "keep privileges and all system calls", NULL},
        {"check", 0, POPT_ARG_NONE, &options.check, 0, "read the configuration, say what is wrong, and end", NULL},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow serve", argc, argv, table, 0);
    int code = poptGetNextOpt(context), status = 0;
    if (code < -1)
        status = usage_error("serve: %s: %s (minnow serve --help)", poptBadOption(context, POPT_BADOPTION_NOALIAS),
                             poptStrerror(code));
    else if (poptPeekArg(context))
        status = usage_error("serve: '%s' is one word too many (minnow serve --help)", poptPeekArg(context));
    if (!status)
        status = understand(&options, backing, budget, around);
    options.config = config;
    options.socket = socket;
    options.images = (const char *const *)images;
    options.argv = process_arguments(argc, argv);
    if (!status)
        status = options.argv ? mnw__serve(&options) : usage_error("out of memory");
    poptFreeContext(context);
    free((void *)(uintptr_t)options.argv);
    for (char **image = images; image && *image; image++)
        free(*image);
    free(images);
    free(config);
    free(socket);
    free(backing);
    free(budget);
    free(around);
    return status;
}
