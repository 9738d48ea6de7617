/* SPDX-License-Identifier: MIT */
/* What the targets have in common that play a program of an input: its bytes, descriptors to give away, and the law. */
#ifndef MNW_TESTS_FUZZ_INPUT_H
#define MNW_TESTS_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fuzz_input {
    const uint8_t *at;
    size_t left;
};
extern struct fuzz_input fuzz_input;

/* Aborts, and says why. */
void demand(bool condition, const char *what);
/* The next byte of the input; 0 at its end. */
uint8_t fake_byte(void);
/* Eight of them. */
uint64_t fake_number(void);
/* A descriptor that can be closed. */
int fake_fd(void);
/* A duplicate of one that is kept for that, out of the way of all others. */
int fake_duplicate(int fd);
/* Moves a descriptor out of the way, for good. */
int fake_keep(int fd);

/* Begins an input, and notes which descriptors are open. */
void fuzz_begin(const uint8_t *data, size_t size);
/* At its end: are the same ones open again? */
void fuzz_check_descriptors(void);

#endif
