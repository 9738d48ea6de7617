/* SPDX-License-Identifier: MIT */
/*
 * The subcommands of `minnow`, and what they share. Built on the public API alone.
 */
#ifndef MINNOW_COMMAND_H
#define MINNOW_COMMAND_H

#include <stdint.h>

enum exit_code {
    EXIT_FINE = 0,
    EXIT_WRONG = 1, /* bytes differed, a read failed, something required is missing */
    EXIT_USAGE = 2, /* refused before anything was done */
};

/* argv[0] is the subcommand's name. They return the exit status. */
int command_verify(int argc, const char **argv);
int command_doctor(int argc, const char **argv);
int command_run(int argc, const char **argv);
int command_serve(int argc, const char **argv);
int command_stat(int argc, const char **argv);
int command_top(int argc, const char **argv);

/* "minnow: <text>" on stderr; returns EXIT_USAGE. */
int usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Reads "64K", "1G", "4096" (powers of 1024). 0, or -1 when it is no size or does not fit. */
int parse_size(const char *text, uint64_t *bytes);
/* Reads a whole decimal number. 0 or -1. */
int parse_number(const char *text, uint64_t *number);
/* The index of `name` in a list that ends with NULL, or -1. */
int parse_name(const char *const *names, const char *name);
/* "1.5 GiB" into `text`, which it returns. */
char *format_size(uint64_t bytes, char text[32]);

#endif
