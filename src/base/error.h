/* SPDX-License-Identifier: MIT */
/*
 * Errors: one negative errno and one message per thread.
 *
 * Owns: the calling thread's last message. Any thread may enter; never allocates, never blocks.
 * A function that finds a failure says so once, where the context is known: `return mnw__fail(-EINVAL, ...)`.
 * A caller that adds nothing passes the number on.
 */
#ifndef MNW_BASE_ERROR_H
#define MNW_BASE_ERROR_H

/* Records a message for the calling thread and returns `code` (a negative errno). */
int mnw__fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

/* The calling thread's message; "" when there is none. */
const char *mnw__fail_message(void);

#endif
