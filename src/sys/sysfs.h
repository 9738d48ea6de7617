/* SPDX-License-Identifier: MIT */
/* Small text files of the kernel. Owns nothing; any thread may enter; never allocates. */
#ifndef MNW_SYS_SYSFS_H
#define MNW_SYS_SYSFS_H

#include <stddef.h>
#include <stdint.h>

/* The file's text without its last newline, cut at `size`: its length or a negative errno. */
int mnw__sysfs_text(const char *path, char *text, size_t size);
/* A decimal number. */
int mnw__sysfs_number(const char *path, uint64_t *value);
/* The bracketed word of "a [b] c". */
int mnw__sysfs_choice(const char *path, char *word, size_t size);

#endif
