/* SPDX-License-Identifier: MIT */
/* Values out of JSON, or words that say which one is wrong. Owns nothing. */
#include "daemon/config_json.h"

#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int mnw__place_fail(const struct mnw__place *place, const char *key, const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    return mnw__fail(-EINVAL, "%s: %s%s%s: %s", place->file, place->path, place->path[0] && key ? "." : "",
                     key ? key : "", text);
}

static bool is_among(const char *const *names, const char *name) {
    for (; *names; names++)
        if (!strcmp(*names, name))
            return true;
    return false;
}

static void join(const char *const *names, char *text, size_t room) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; names[i] && used < room; i++)
        used += (size_t)snprintf(text + used, room - used, "%s%s", i ? ", " : "", names[i]);
}

int mnw__place_check_keys(const struct mnw__place *place, const char *const *keys) {
    const char *key;
    json_t *value;
    if (!json_is_object(place->object))
        return mnw__place_fail(place, NULL, "must be an object, { ... }");
    json_object_foreach(place->object, key, value) {
        char known[200];
        join(keys, known, sizeof(known));
        if (!is_among(keys, key))
            return mnw__place_fail(place, key, "is no key here; there are %s", known);
    }
    return 0;
}

struct mnw__place mnw__place_inside(const struct mnw__place *place, const char *key, int index, json_t *object) {
    struct mnw__place inside = {.file = place->file, .object = object};
    int used = snprintf(inside.path, sizeof(inside.path), "%.60s%s%s", place->path, place->path[0] ? "." : "", key);
    if (index >= 0 && (size_t)used < sizeof(inside.path))
        snprintf(inside.path + used, sizeof(inside.path) - (size_t)used, "[%d]", index);
    return inside;
}

int mnw__place_string(const struct mnw__place *place, const char *key, char **value) {
    json_t *found = json_object_get(place->object, key);
    if (!found)
        return 0;
    if (!json_is_string(found) || !json_string_length(found) ||
        strlen(json_string_value(found)) != json_string_length(found))
        return mnw__place_fail(place, key, "must be a text in quotes, not empty and without a zero byte");
    char *copy = strdup(json_string_value(found));
    if (!copy)
        return mnw__fail(-ENOMEM, "reading the configuration: out of memory");
    free(*value);
    *value = copy;
    return 0;
}

int mnw__place_number(const struct mnw__place *place, const char *key, uint64_t least, uint64_t most, uint64_t *value) {
    json_t *found = json_object_get(place->object, key);
    if (!found)
        return 0;
    if (!json_is_integer(found) || json_integer_value(found) < 0 || (uint64_t)json_integer_value(found) < least ||
        (uint64_t)json_integer_value(found) > most)
        return mnw__place_fail(place, key, "must be a whole number from %llu to %llu", (unsigned long long)least,
                               (unsigned long long)most);
    *value = (uint64_t)json_integer_value(found);
    return 0;
}

static int parse_size(const char *text, uint64_t *value) {
    static const char letters[] = "KMGT";
    char *end;
    if (*text < '0' || *text > '9')
        return -1;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    const char *letter = *end ? strchr(letters, *end) : NULL;
    unsigned shift = letter ? 10 * (unsigned)(letter - letters + 1) : 0;
    if (errno || (*end && (!letter || end[1])) || (shift && number >> (64 - shift)))
        return -1;
    *value = (uint64_t)number << shift;
    return 0;
}

int mnw__place_size(const struct mnw__place *place, const char *key, uint64_t *value) {
    json_t *found = json_object_get(place->object, key);
    if (!found)
        return 0;
    if (json_is_integer(found) && json_integer_value(found) >= 0) {
        *value = (uint64_t)json_integer_value(found);
        return 0;
    }
    if (json_is_string(found) && !parse_size(json_string_value(found), value))
        return 0;
    return mnw__place_fail(place, key, "must be a size: bytes, or a text such as \"64K\", \"512M\", \"4G\"");
}

int mnw__place_bool(const struct mnw__place *place, const char *key, bool *value) {
    json_t *found = json_object_get(place->object, key);
    if (!found)
        return 0;
    if (!json_is_boolean(found))
        return mnw__place_fail(place, key, "must be true or false");
    *value = json_is_true(found);
    return 0;
}

int mnw__place_choice(const struct mnw__place *place, const char *key, const char *const *names, int *value) {
    json_t *found = json_object_get(place->object, key);
    if (!found)
        return 0;
    for (int i = 0; json_is_string(found) && names[i]; i++)
        if (!strcmp(names[i], json_string_value(found))) {
            *value = i;
            return 0;
        }
    char known[160];
    join(names, known, sizeof(known));
    return mnw__place_fail(place, key, "must be one of %s", known);
}

int mnw__place_array(const struct mnw__place *place, const char *key, json_t **array) {
    *array = json_object_get(place->object, key);
    if (*array && !json_is_array(*array))
        return mnw__place_fail(place, key, "must be a list, [ ... ]");
    return 0;
}
