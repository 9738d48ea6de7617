/* SPDX-License-Identifier: MIT */
/* Small files, read and written whole. Owns nothing; may block in the file system; never on a thread of a pool. */
#ifndef MNW_SYS_WHOLE_FILE_H
#define MNW_SYS_WHOLE_FILE_H

#include <stddef.h>

/*
 * All of a regular file, in memory that the caller frees. -EFBIG: longer than `size_max`; -EINVAL: not a regular file;
 * or what open(2) and read(2) say. No message: it is the caller who knows what the file is.
 */
int mnw__file_read_whole(const char *path, size_t size_max, void **bytes, size_t *size);
/*
 * Makes these the file's bytes: whoever opens it finds the old ones or the new ones, after a crash too. Needs write
 * permission in its directory, where a failure leaves nothing behind.
 */
int mnw__file_replace(const char *path, const void *bytes, size_t size);

#endif
