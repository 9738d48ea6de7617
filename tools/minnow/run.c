/* SPDX-License-Identifier: MIT */
/*
 * minnow run: starts a program whose mappings of given files become views of a daemon's images. Checks what can be
 * checked before the program runs, puts libminnow-preload.so and its orders into the environment, and becomes the
 * program.
 */
#include "command.h"
#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <minnow/minnow.h>
#include <popt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VARIABLE   "MINNOW_RUN"
#define ORDERS_MAX 16384 /* as the preloaded library reads them */
#define MAPS_MAX   64
#define LIBRARY    "libminnow-preload.so"

struct wish {
    char *image; /* points into `given` */
    char *path;  /* owned; absolute; NULL: a memfd */
    char *memfd; /* points into `given` */
    char *given; /* owned */
    uint64_t file_bytes;
    bool is_known;
    uint64_t image_bytes; /* 0: nobody has opened the image yet */
    uint64_t page_bytes;
};

#define NAMES_BYTES 1024

struct run {
    char *socket;
    int record, replay, follow_fork, user_faults_only, verbose;
    struct wish wishes[MAPS_MAX];
    unsigned count;
    char names[NAMES_BYTES]; /* of all images there are, as far as they fit */
};

/* ---- the command line ---- */

/* The name of an image has no '='; a path may. */
static int split(struct run *run, const char *given, const char *option, bool is_path) {
    if (run->count == MAPS_MAX)
        return usage_error("run: at most %d images", MAPS_MAX);
    struct wish *wish = &run->wishes[run->count++];
    wish->given = strdup(given);
    char *equals = wish->given ? strrchr(wish->given, '=') : NULL;
    if (!equals || equals == wish->given || !equals[1])
        return usage_error("run: %s %s: write %s=IMAGE", option, given, is_path ? "PATH" : "NAME");
    *equals = 0;
    wish->image = equals + 1;
    if (!is_path) {
        wish->memfd = wish->given;
        return 0;
    }
    wish->path = realpath(wish->given, NULL);
    struct stat status;
    if (!wish->path || stat(wish->path, &status))
        return usage_error("run: --map %s: %s; it must exist: the image's own file, or a file of its length made by "
                           "`truncate -s`",
                           wish->given, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return usage_error("run: --map %s: it is no regular file", wish->given);
    wish->file_bytes = (uint64_t)status.st_size;
    return 0;
}

static int split_all(struct run *run, char **given, const char *option, bool is_path) {
    int status = 0;
    for (; !status && given && *given; given++)
        status = split(run, *given, option, is_path);
    return status;
}

static void free_strings(char **strings) {
    for (char **string = strings; string && *string; string++)
        free(*string);
    free(strings);
}

/* ---- before the program runs ---- */

/* The program may be in another folder when it maps. A name with '@' is no file. */
static int settle_socket(struct run *run) {
    if (!run->socket || run->socket[0] == '/' || run->socket[0] == '@')
        return 0;
    char *whole = realpath(run->socket, NULL);
    if (!whole)
        return usage_error("run: --socket %s: %s", run->socket, strerror(errno));
    free(run->socket);
    run->socket = whole;
    return 0;
}

static void recognise(void *context, const struct mnw_image *image) {
    struct run *run = context;
    size_t used = strlen(run->names);
    snprintf(run->names + used, sizeof(run->names) - used, "%s'%s'", used ? ", " : "", image->name);
    for (unsigned i = 0; i < run->count; i++) {
        struct wish *wish = &run->wishes[i];
        if (strcmp(wish->image, image->name) != 0)
            continue;
        wish->is_known = true;
        wish->image_bytes = image->is_open ? image->size_bytes : 0;
        wish->page_bytes = image->page_bytes;
    }
}

static int list_images(struct run *run, struct mnw_client *client) {
    run->names[0] = '\0';
    return mnw_client_images(client, recognise, run) < 0 ? usage_error("run: %s", mnw_error()) : 0;
}

/* Asked about its pages, the daemon opens an image; only then is its length known. */
static int open_image(struct mnw_client *client, const struct wish *wish) {
    uint8_t page;
    if (mnw_client_residency(client, wish->image, 0, &page, 1) >= 0)
        return 0;
    return usage_error("run: the daemon cannot open the image '%s': %s", wish->image, mnw_error());
}

/* The program would see the image's bytes where the file has others, or SIGBUS where the file has some. */
static int check_length(const struct wish *wish) {
    uint64_t rest = wish->page_bytes - 1;
    if (!wish->path || (wish->file_bytes + rest) / wish->page_bytes == (wish->image_bytes + rest) / wish->page_bytes)
        return 0;
    return usage_error(
        "run: --map %s: it has %llu bytes, and the image '%s' %llu; it must be the image's own file, or one "
        "of its length made by `truncate -s`",
        wish->given, (unsigned long long)wish->file_bytes, wish->image, (unsigned long long)wish->image_bytes);
}

static int check_images(struct run *run, struct mnw_client *client) {
    int status = list_images(run, client);
    for (unsigned i = 0; !status && i < run->count; i++)
        status = run->wishes[i].is_known
                     ? open_image(client, &run->wishes[i])
                     : usage_error("run: the daemon at %s has no image '%s' for this user; it has %s",
                                   run->socket ? run->socket : "the default socket", run->wishes[i].image,
                                   *run->names ? run->names : "none");
    if (!status)
        status = list_images(run, client);
    for (unsigned i = 0; !status && i < run->count; i++)
        status = check_length(&run->wishes[i]);
    return status;
}

/* A program that finds out in the middle of its work is worse than one that does not start. */
static int ask_daemon(struct run *run) {
    struct mnw_client_options options = {.size = sizeof(options), .name = "minnow run"};
    struct mnw_client *client;
    if (connect_daemon(&client, run->socket, &options))
        return usage_error("run: %s", mnw_error());
    int status = check_images(run, client);
    mnw_client_close(client);
    return status;
}

/* ---- the environment ---- */

static int write_orders(const struct run *run, char orders[ORDERS_MAX]) {
    FILE *out = fmemopen(orders, ORDERS_MAX, "w");
    if (!out)
        return usage_error("out of memory");
    if (run->socket)
        fprintf(out, "socket=%s\n", run->socket);
    for (unsigned i = 0; i < run->count; i++) {
        const struct wish *wish = &run->wishes[i];
        fprintf(out, "%s=%s\t%s\n", wish->path ? "map" : "memfd", wish->image, wish->path ? wish->path : wish->memfd);
    }
    fprintf(out, "%s%s%s%s%s", run->user_faults_only ? "user-faults-only\n" : "", run->record ? "record\n" : "",
            run->replay ? "replay\n" : "", run->follow_fork ? "follow-fork\n" : "", run->verbose ? "verbose\n" : "");
    int failed = fflush(out) || ftell(out) >= ORDERS_MAX - 1;
    failed |= fclose(out);
    return failed ? usage_error("run: the paths and names are too long, %d bytes in all", ORDERS_MAX) : 0;
}

/* Names with a line's end or a tab in them would be taken for something else. */
static int check_orders(const struct run *run) {
    for (unsigned i = 0; i < run->count; i++) {
        const struct wish *wish = &run->wishes[i];
        const char *name = wish->path ? wish->path : wish->memfd;
        if (strpbrk(name, "\n\t") || strpbrk(wish->image, "\n\t"))
            return usage_error("run: '%s' has a tab or a line's end in its name", name);
    }
    return 0;
}

/* Beside the program as it was built, or where it was installed. */
static int find_library(char path[PATH_MAX]) {
    char own[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", own, sizeof(own) - 1);
    static const char *const places[] = {"preload/" LIBRARY, MINNOW_LIBRARY_FROM_COMMAND "/" LIBRARY};
    own[length > 0 ? length : 0] = 0;
    char *slash = strrchr(own, '/');
    if (slash)
        slash[1] = 0;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        char candidate[2 * PATH_MAX];
        snprintf(candidate, sizeof(candidate), "%s%s", own, places[i]);
        if (realpath(candidate, path))
            return 0;
    }
    return usage_error("run: %s is not where this program looks for it, %s%s", LIBRARY, own, places[1]);
}

static int set_environment(const struct run *run) {
    char library[PATH_MAX], orders[ORDERS_MAX], preload[3 * PATH_MAX];
    int status = find_library(library);
    if (!status)
        status = check_orders(run);
    if (!status)
        status = write_orders(run, orders);
    if (status)
        return status;
    const char *before = getenv("LD_PRELOAD");
    if (strpbrk(library, " :"))
        return usage_error("run: LD_PRELOAD cannot name %s, which has a space or a colon in it", library);
    int length =
        snprintf(preload, sizeof(preload), "%s%s%s", library, before && *before ? ":" : "", before ? before : "");
    if (length >= (int)sizeof(preload) || setenv("LD_PRELOAD", preload, 1) || setenv(VARIABLE, orders, 1))
        return usage_error("run: the environment has no room for LD_PRELOAD");
    return 0;
}

/* ---- the program ---- */

static int become(const char **command) {
    execvp(command[0], (char *const *)(uintptr_t)command);
    int error = errno;
    usage_error("%s: %s", command[0], strerror(error));
    return error == ENOENT ? 127 : 126;
}

static int run_it(struct run *run, const char **command) {
    if (!command || !command[0])
        return usage_error("run: no program given; minnow run [options] -- COMMAND");
    if (!run->count)
        return usage_error("run: no image given; --map PATH=IMAGE or --memfd NAME=IMAGE");
    int status = ask_daemon(run);
    if (!status)
        status = settle_socket(run);
    if (!status)
        status = set_environment(run);
    return status ? status : become(command);
}

int command_run(int argc, const char **argv) {
    struct run run = {0};
    char **maps = NULL, **memfds = NULL;
    struct poptOption table[] = {
        {"socket", 0, POPT_ARG_STRING, &run.socket, 0, "the daemon's socket", "PATH"},
        {"map", 0, POPT_ARG_ARGV, &maps, 0, "mappings of this file become views of the image", "PATH=IMAGE"},
        {"memfd", 0, POPT_ARG_ARGV, &memfds, 0, "mappings of a memfd of this name likewise", "NAME=IMAGE"},
        {"record", 0, POPT_ARG_NONE, &run.record, 0, "note which pages are touched first", NULL},
        {"replay", 0, POPT_ARG_NONE, &run.replay, 0, "fetch ahead what was noted before", NULL},
        {"follow-fork", 0, POPT_ARG_NONE, &run.follow_fork, 0, "forked children have the views too", NULL},
        {"user-faults-only", 0, POPT_ARG_NONE, &run.user_faults_only, 0, "accept EFAULT for untouched pages", NULL},
        {"verbose", 'v', POPT_ARG_NONE, &run.verbose, 0, "say which mappings become views", NULL},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow run", argc, argv, table, POPT_CONTEXT_POSIXMEHARDER);
    poptSetOtherOptionHelp(context, "[options] -- COMMAND [argument ...]");
    int code = poptGetNextOpt(context), status = 0;
    if (code < -1)
        status = usage_error("run: %s: %s (minnow run --help)", poptBadOption(context, POPT_BADOPTION_NOALIAS),
                             poptStrerror(code));
    if (!status)
        status = split_all(&run, maps, "--map", true);
    if (!status)
        status = split_all(&run, memfds, "--memfd", false);
    if (!status)
        status = run_it(&run, poptGetArgs(context));
    poptFreeContext(context);
    for (unsigned i = 0; i < run.count; i++) {
        free(run.wishes[i].given);
        free(run.wishes[i].path);
    }
    free_strings(maps);
    free_strings(memfds);
    free(run.socket);
    return status;
}
