/* SPDX-License-Identifier: MIT */
/* The commands of minnow-bench that have files of their own. Each returns an enum bench_status. */
#ifndef MNW_BENCH_COMMANDS_H
#define MNW_BENCH_COMMANDS_H

/* Tells what is wrong with the arguments; BENCH_USAGE. */
int command_usage(const char *what, const char *why);

int command_trace(int argc, const char **argv);
int command_policies(int argc, const char **argv);

#endif
