/* SPDX-License-Identifier: MIT */
/*
 * minnow: the command. Finds the subcommand and hands over; each subcommand reads its own options.
 */
#include "command.h"
#include "output.h"

#include <minnow/minnow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] = "Usage: minnow verify FILE [options]\n"
                            "       minnow doctor [--json]\n"
                            "       minnow serve [options]\n"
                            "       minnow stat [--socket PATH] [--json | --prometheus]\n"
                            "       minnow top [--socket PATH]\n"
                            "       minnow run [options] -- COMMAND\n"
                            "       minnow --version | --help\n"
                            "\n"
                            "  verify   read a file by pointer through a cache and compare every byte\n"
                            "  doctor   say what this machine offers, and what would change it\n"
                            "  serve    serve images to other processes, as a daemon\n"
                            "  stat     print what a daemon does: pools, latencies, images, views\n"
                            "  top      show it live\n"
                            "  run      run a program whose file mappings are views of images\n"
                            "\n"
                            "`minnow verify --help` and so on list the options. See also minnow(1).\n";

/* popt wants an array of const strings, which char ** does not convert to. */
static int run(int (*command)(int argc, const char **argv), int argc, char **argv) {
    const char **arguments = calloc((size_t)argc + 1, sizeof(*arguments));
    if (!arguments)
        return usage_error("out of memory");
    char name[32];
    snprintf(name, sizeof(name), "minnow %s", argv[0]); /* as popt's help calls it */
    arguments[0] = name;
    for (int i = 1; i < argc; i++)
        arguments[i] = argv[i];
    int code = command(argc, arguments);
    free(arguments);
    return code;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(int argc, const char **argv);
    } commands[] = {
        {"verify", command_verify}, {"doctor", command_doctor}, {"run", command_run},
        {"serve", command_serve},   {"stat", command_stat},     {"top", command_top},
    };

    output_begin("minnow", EXIT_WRONG);
    if (argc < 2) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help"))
        return fputs(usage, stdout), EXIT_FINE;
    if (!strcmp(name, "--version"))
        return printf("minnow %s\n", mnw_version()), EXIT_FINE;
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (!strcmp(name, commands[i].name))
            return run(commands[i].run, argc - 1, argv + 1);
    return usage_error("unknown command '%s'; there are verify, doctor, serve, stat, top and run (minnow --help)",
                       name);
}
