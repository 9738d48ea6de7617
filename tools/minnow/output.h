/* SPDX-License-Identifier: MIT */
/* The standard descriptors of a program that prints a result: nothing else gets their numbers, and nothing is lost. */
#ifndef MINNOW_OUTPUT_H
#define MINNOW_OUTPUT_H

/*
 * First in main(). Closed standard descriptors are taken, so that no file of the program's own gets their numbers. When
 * the program ends by exit(3), and what it printed could not be written, that is said and the status is `broken`,
 * unless it is another failure already.
 */
void output_begin(const char *program, int broken);
/* The same end without exit(3): for a program whose threads cannot be ended. */
void output_leave(int status) __attribute__((noreturn));

#endif
