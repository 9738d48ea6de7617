/* SPDX-License-Identifier: MIT */
/*
 * Reading values out of JSON with messages that name the place. Owns nothing; one thread at a time per place.
 */
#ifndef MNW_DAEMON_CONFIG_JSON_H
#define MNW_DAEMON_CONFIG_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* An object of the file and where it is: "pools[0]". */
struct mnw__place {
    const char *file;
    char path[96];
    json_t *object;
};

/* "FILE: PATH.KEY: what is wrong". Returns -EINVAL. */
int mnw__place_fail(const struct mnw__place *place, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* -EINVAL unless it is an object whose keys are all in the list, which ends with NULL. */
int mnw__place_check_keys(const struct mnw__place *place, const char *const *keys);
/* The place of an element: "pools" and 2 gives "pools[2]"; index -1: of the key itself. */
struct mnw__place mnw__place_inside(const struct mnw__place *place, const char *key, int index, json_t *object);

/* These leave *value alone when there is no such key. */
int mnw__place_string(const struct mnw__place *place, const char *key, char **value);
int mnw__place_number(const struct mnw__place *place, const char *key, uint64_t least, uint64_t most, uint64_t *value);
/* Bytes as a number, or a string such as "64K", "4G". */
int mnw__place_size(const struct mnw__place *place, const char *key, uint64_t *value);
int mnw__place_bool(const struct mnw__place *place, const char *key, bool *value);
/* One of the names, which end with NULL, as its index. */
int mnw__place_choice(const struct mnw__place *place, const char *key, const char *const *names, int *value);
/* An array, or NULL when there is none. */
int mnw__place_array(const struct mnw__place *place, const char *key, json_t **array);

#endif
