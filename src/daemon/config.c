/* SPDX-License-Identifier: MIT */
/* The configuration: defaults, the file, the command line. Runs before the daemon starts; owns what it returns. */
#include "daemon/config.h"

#include "base/error.h"
#include "daemon/config_json.h"
#include "wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_SOCKET  "/run/minnow/socket"
#define SOCKET_VARIABLE "MINNOW_SOCKET"

static const char *const backing_names[] = {"shmem", "graded", "hugetlb-2M", "hugetlb-1G", NULL};
static const char *const numa_names[] = {"local", "interleave", "bind", "preferred", NULL};
static const char *const policy_names[] = {"s3fifo", "clock", NULL};
static const char *const io_names[] = {"auto", "uring", "threads", NULL};

struct mnw__config *mnw__config_new(void) {
    struct mnw__config *config = calloc(1, sizeof(*config));
    if (!config) {
        mnw__fail(-ENOMEM, "reading the configuration: out of memory");
        return NULL;
    }
    config->socket_mode = 0666; /* who may do what is decided by credentials */
    config->sandbox = true;
    config->read_around_bytes = MNW__CONFIG_READ_AROUND;
    config->uid = geteuid();
    config->gid = getegid();
    config->limits = (struct mnw__config_limits){.sessions = 512,
                                                 .sessions_per_user = 256,
                                                 .views = 64,
                                                 .bytes = UINT64_C(1) << 42,
                                                 .pinned = UINT64_C(256) << 20,
                                                 .prefetches = 16,
                                                 .requests = 16,
                                                 .requests_per_second = 5000,
                                                 .hello_ms = 10000,
                                                 .unread_ms = 30000};
    return config;
}

void mnw__config_free(struct mnw__config *config) {
    if (!config)
        return;
    for (unsigned i = 0; i < config->pool_count; i++) {
        free(config->pools[i].name);
        free(config->pools[i].nodes);
    }
    for (unsigned i = 0; i < config->image_count; i++) {
        free(config->images[i].name);
        free(config->images[i].uri);
        free(config->images[i].working_set);
    }
    free(config->file);
    free(config->text);
    free(config->socket);
    free(config->user);
    free(config);
}

/* ---- who may ---- */

bool mnw__access_allows(const struct mnw__access *access, uid_t uid, const gid_t *groups, unsigned group_count) {
    if (access->anyone)
        return true;
    for (unsigned i = 0; i < access->user_count; i++)
        if (access->users[i] == uid)
            return true;
    for (unsigned i = 0; i < access->group_count; i++)
        for (unsigned j = 0; j < group_count; j++)
            if (access->groups[i] == groups[j])
                return true;
    return false;
}

static int find_user(const struct mnw__place *place, const json_t *name, uid_t *uid, gid_t *gid) {
    if (json_is_integer(name) && json_integer_value(name) >= 0 && json_integer_value(name) < UINT32_MAX) {
        *uid = (uid_t)json_integer_value(name);
        *gid = (gid_t)*uid;
        return 0;
    }
    const struct passwd *found = json_is_string(name) ? getpwnam(json_string_value(name)) : NULL;
    if (!found)
        return mnw__place_fail(place, NULL, "there is no user %s; write a name that getent passwd knows, or a number",
                               json_is_string(name) ? json_string_value(name) : "of that kind");
    *uid = found->pw_uid;
    *gid = found->pw_gid;
    return 0;
}

static int find_group(const struct mnw__place *place, const json_t *name, gid_t *gid) {
    if (json_is_integer(name) && json_integer_value(name) >= 0 && json_integer_value(name) < UINT32_MAX) {
        *gid = (gid_t)json_integer_value(name);
        return 0;
    }
    const struct group *found = json_is_string(name) ? getgrnam(json_string_value(name)) : NULL;
    if (!found)
        return mnw__place_fail(place, NULL, "there is no group %s; write a name that getent group knows, or a number",
                               json_is_string(name) ? json_string_value(name) : "of that kind");
    *gid = found->gr_gid;
    return 0;
}

/* The list of users, or of groups, whose place is `list`. */
static int read_names(const struct mnw__place *list, struct mnw__access *access, bool groups) {
    size_t count = json_array_size(list->object);
    if (count > MNW__CONFIG_NAMES_MAX)
        return mnw__place_fail(list, NULL, "has %zu names; the most is %d", count, MNW__CONFIG_NAMES_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *name = json_array_get(list->object, i);
        gid_t unused;
        int error = groups ? find_group(list, name, &access->groups[access->group_count++])
                           : find_user(list, name, &access->users[access->user_count++], &unused);
        if (error)
            return error;
    }
    return 0;
}

static int read_access(const struct mnw__place *outer, const char *key, struct mnw__access *access) {
    static const char *const keys[] = {"anyone", "users", "groups", NULL};
    json_t *object = json_object_get(outer->object, key), *list;
    if (!object)
        return 0;
    *access = (struct mnw__access){.given = true};
    struct mnw__place place = mnw__place_inside(outer, key, -1, object);
    int error = mnw__place_check_keys(&place, keys);
    if (!error)
        error = mnw__place_bool(&place, "anyone", &access->anyone);
    for (int i = 1; i <= 2 && !error; i++) {
        error = mnw__place_array(&place, keys[i], &list);
        struct mnw__place names = mnw__place_inside(&place, keys[i], -1, list);
        if (!error && list)
            error = read_names(&names, access, i == 2);
    }
    return error;
}

/* ---- names ---- */

/* Names travel in messages of fixed size and show up on terminals and in labels. */
static int check_name(const struct mnw__place *place, const char *key, const char *name) {
    if (!name)
        return mnw__place_fail(place, key, "is missing");
    if (strlen(name) >= MNW__WIRE_NAME_BYTES)
        return mnw__place_fail(place, key, "has %zu bytes; the most is %d", strlen(name), MNW__WIRE_NAME_BYTES - 1);
    for (const char *byte = name; *byte; byte++)
        if ((unsigned char)*byte <= ' ' || *byte == 127 || *byte == '"' || *byte == '\\')
            return mnw__place_fail(place, key, "'%s' must hold no spaces, quotes, backslashes or control characters",
                                   name);
    return 0;
}

static int find_pool(const struct mnw__config *config, const char *name) {
    for (unsigned i = 0; i < config->pool_count; i++)
        if (!strcmp(config->pools[i].name, name))
            return (int)i;
    return -1;
}

static int find_image(const struct mnw__config *config, const char *name) {
    for (unsigned i = 0; i < config->image_count; i++)
        if (!strcmp(config->images[i].name, name))
            return (int)i;
    return -1;
}

/* ---- pools and images ---- */

static int read_pool_choices(const struct mnw__place *place, struct mnw_pool_options *options) {
    int backing = MNW_BACKING_SHMEM, numa = MNW_NUMA_LOCAL, policy = MNW_POLICY_S3FIFO, io = MNW_IO_AUTO;
    int error = mnw__place_choice(place, "backing", backing_names, &backing);
    if (!error)
        error = mnw__place_choice(place, "numa", numa_names, &numa);
    if (!error)
        error = mnw__place_choice(place, "policy", policy_names, &policy);
    if (!error)
        error = mnw__place_choice(place, "io", io_names, &io);
    options->backing = (enum mnw_backing)backing;
    options->numa = (enum mnw_numa)numa;
    options->policy = (enum mnw_policy)policy;
    options->io_mode = (enum mnw_io_mode)io;
    return error;
}

static int read_pool_sizes(const struct mnw__place *place, struct mnw_pool_options *options) {
    uint64_t threads = 0, recency = 0, reads = 0;
    int error = mnw__place_size(place, "budget", &options->budget_bytes);
    if (!error && !options->budget_bytes)
        error = mnw__place_fail(place, "budget", "is missing, or 0: say how much memory the pool may take");
    if (!error)
        error = mnw__place_size(place, "extent", &options->extent_bytes);
    if (!error)
        error = mnw__place_number(place, "fault_threads", 1, 64, &threads);
    if (!error)
        error = mnw__place_number(place, "recency_faults_per_second", 1, UINT32_MAX, &recency);
    if (!error)
        error = mnw__place_number(place, "reads_in_flight", 1, 1024, &reads);
    options->fault_threads_per_node = (unsigned)threads;
    options->recency_faults_per_second = (uint32_t)recency;
    options->reads_in_flight = (uint32_t)reads;
    return error;
}

static int read_pool(struct mnw__config *config, const struct mnw__place *place) {
    static const char *const keys[] = {"name",
                                       "backing",
                                       "budget",
                                       "extent",
                                       "numa",
                                       "nodes",
                                       "policy",
                                       "io",
                                       "fault_threads",
                                       "recency_faults_per_second",
                                       "reads_in_flight",
                                       NULL};
    if (config->pool_count == MNW__CONFIG_POOLS_MAX)
        return mnw__place_fail(place, NULL, "is one pool too many; the most is %d", MNW__CONFIG_POOLS_MAX);
    struct mnw__config_pool *pool = &config->pools[config->pool_count++];
    /* The daemon has no views of its own: what its own userfaultfd could do does not matter. */
    pool->options = (struct mnw_pool_options){.size = sizeof(pool->options), .user_faults_only = 1};
    int error = mnw__place_check_keys(place, keys);
    if (!error)
        error = mnw__place_string(place, "name", &pool->name);
    if (!error)
        error = check_name(place, "name", pool->name);
    if (!error && find_pool(config, pool->name) != (int)config->pool_count - 1)
        error = mnw__place_fail(place, "name", "there already is a pool '%s'", pool->name);
    if (!error)
        error = mnw__place_string(place, "nodes", &pool->nodes);
    if (!error)
        error = read_pool_choices(place, &pool->options);
    if (!error)
        error = read_pool_sizes(place, &pool->options);
    pool->options.nodes = pool->nodes;
    return error;
}

static int read_image_pool(const struct mnw__config *config, const struct mnw__place *place,
                           struct mnw__config_image *image) {
    char *name = NULL;
    int error = mnw__place_string(place, "pool", &name);
    int found = error ? -1 : name ? find_pool(config, name) : config->pool_count == 1 ? 0 : -1;
    if (!error && found < 0)
        error =
            name ? mnw__place_fail(place, "pool", "there is no pool '%s' in \"pools\"", name)
                 : mnw__place_fail(place, "pool", "is missing: there are %u pools to choose from", config->pool_count);
    if (!error)
        image->pool = (unsigned)found;
    free(name);
    return error;
}

static int read_around(const struct mnw__place *place, uint64_t *bytes) {
    int error = mnw__place_size(place, "read_around", bytes);
    if (!error && *bytes > MNW__CONFIG_READ_AROUND_MAX)
        error = mnw__place_fail(place, "read_around", "is more than 2M, the most that is read around one fault");
    return error;
}

static int read_image_numbers(const struct mnw__place *place, struct mnw_cache_options *options) {
    uint64_t retries = 0, delay = 0, deadline = 0;
    int error = mnw__place_size(place, "readahead", &options->readahead_bytes);
    if (!error && json_object_get(place->object, "readahead") && !options->readahead_bytes)
        options->readahead_bytes = UINT64_MAX;
    if (!error)
        error = read_around(place, &options->read_around_bytes);
    if (!error)
        error = mnw__place_number(place, "read_retries", 0, 1000000, &retries);
    if (!error)
        error = mnw__place_number(place, "retry_delay_ms", 1, 60000, &delay);
    if (!error)
        error = mnw__place_number(place, "read_deadline_ms", 1, 3600000, &deadline);
    options->read_retries = json_object_get(place->object, "read_retries") && !retries ? UINT32_MAX : (uint32_t)retries;
    options->retry_delay_ms = (uint32_t)delay;
    options->read_deadline_ms = (uint32_t)deadline;
    return error;
}

/* A working set lies beside the image, unless told otherwise. */
static int default_working_set(struct mnw__config_image *image) {
    static const char scheme[] = "file://";
    if (image->working_set || strncmp(image->uri, scheme, sizeof(scheme) - 1) || strpbrk(image->uri, "%?"))
        return 0;
    if (asprintf(&image->working_set, "%s.mws", image->uri + sizeof(scheme) - 1) < 0) {
        image->working_set = NULL;
        return mnw__fail(-ENOMEM, "reading the configuration: out of memory");
    }
    return 0;
}

static int read_image(struct mnw__config *config, const struct mnw__place *place) {
    static const char *const keys[] = {"name",        "uri",          "pool",           "working_set",      "readahead",
                                       "read_around", "read_retries", "retry_delay_ms", "read_deadline_ms", "access",
                                       NULL};
    if (config->image_count == MNW__CONFIG_IMAGES_MAX)
        return mnw__place_fail(place, NULL, "is one image too many; the most is %d", MNW__CONFIG_IMAGES_MAX);
    struct mnw__config_image *image = &config->images[config->image_count++];
    image->options.size = sizeof(image->options);
    image->options.read_around_bytes = config->read_around_bytes;
    int error = mnw__place_check_keys(place, keys);
    if (!error)
        error = mnw__place_string(place, "name", &image->name);
    if (!error)
        error = check_name(place, "name", image->name);
    if (!error && find_image(config, image->name) != (int)config->image_count - 1)
        error = mnw__place_fail(place, "name", "there already is an image '%s'", image->name);
    if (!error)
        error = mnw__place_string(place, "uri", &image->uri);
    if (!error && (!image->uri || !strstr(image->uri, "://")))
        error = mnw__place_fail(place, "uri", "is missing, or no URI: write \"file:///path/of/the/image\"");
    if (!error)
        error = mnw__place_string(place, "working_set", &image->working_set);
    if (!error)
        error = read_image_pool(config, place, image);
    if (!error)
        error = read_image_numbers(place, &image->options);
    if (!error)
        error = read_access(place, "access", &image->access);
    return error ? error : default_working_set(image);
}

static int read_list(struct mnw__config *config, const struct mnw__place *root, const char *key,
                     int (*read)(struct mnw__config *config, const struct mnw__place *place)) {
    json_t *list;
    int error = mnw__place_array(root, key, &list);
    for (size_t i = 0; !error && i < json_array_size(list); i++) {
        struct mnw__place place = mnw__place_inside(root, key, (int)i, json_array_get(list, i));
        error = read(config, &place);
    }
    return error;
}

/* ---- the rest ---- */

static int read_limits(struct mnw__config *config, const struct mnw__place *root) {
    struct mnw__config_limits *limits = &config->limits;
    const struct {
        const char *key;
        uint64_t least, most;
        uint64_t *number;
    } numbers[] = {
        {"sessions", 1, 1024, &limits->sessions},     {"sessions_per_user", 1, 1024, &limits->sessions_per_user},
        {"views", 0, 4096, &limits->views},           {"faults_per_second", 0, UINT32_MAX, &limits->faults_per_second},
        {"requests", 1, 256, &limits->requests},      {"requests_per_second", 1, 1000000, &limits->requests_per_second},
        {"prefetches", 0, 64, &limits->prefetches},   {"hello_ms", 1, 3600000, &limits->hello_ms},
        {"unread_ms", 1, 3600000, &limits->unread_ms}};
    enum { NUMBERS = sizeof(numbers) / sizeof(*numbers) };
    const char *keys[NUMBERS + 3] = {"bytes", "pinned"};
    json_t *object = json_object_get(root->object, "limits");
    if (!object)
        return 0;
    struct mnw__place place = mnw__place_inside(root, "limits", -1, object);
    for (unsigned i = 0; i < NUMBERS; i++)
        keys[i + 2] = numbers[i].key;
    int error = mnw__place_check_keys(&place, keys);
    for (unsigned i = 0; i < NUMBERS && !error; i++)
        error = mnw__place_number(&place, numbers[i].key, numbers[i].least, numbers[i].most, numbers[i].number);
    if (!error)
        error = mnw__place_size(&place, "bytes", &limits->bytes);
    return error ? error : mnw__place_size(&place, "pinned", &limits->pinned);
}

static int read_socket(struct mnw__config *config, const struct mnw__place *root) {
    char *mode = NULL, *end = NULL;
    int error = mnw__place_string(root, "socket", &config->socket);
    if (!error)
        error = mnw__place_string(root, "socket_mode", &mode);
    unsigned long value = mode ? strtoul(mode, &end, 8) : config->socket_mode;
    if (!error && mode && (*end || end == mode || value > 0777))
        error = mnw__place_fail(root, "socket_mode", "must be permissions in octal, as a text: \"0660\"");
    config->socket_mode = (unsigned)value;
    free(mode);
    return error;
}

static int read_user(struct mnw__config *config, const struct mnw__place *root) {
    json_t *name = json_object_get(root->object, "user");
    if (!name)
        return 0;
    struct mnw__place place = mnw__place_inside(root, "user", -1, name);
    int error = mnw__place_string(root, "user", &config->user);
    return error ? error : find_user(&place, name, &config->uid, &config->gid);
}

static int read_root(struct mnw__config *config, const struct mnw__place *root) {
    static const char *const keys[] = {"socket", "socket_mode", "user",  "sandbox", "access",
                                       "admins", "limits",      "pools", "images",  NULL};
    int error = mnw__place_check_keys(root, keys);
    if (!error)
        error = read_socket(config, root);
    if (!error)
        error = read_user(config, root);
    if (!error)
        error = mnw__place_bool(root, "sandbox", &config->sandbox);
    if (!error)
        error = read_access(root, "access", &config->access);
    if (!error)
        error = read_access(root, "admins", &config->admins);
    if (!error)
        error = read_limits(config, root);
    if (!error)
        error = read_list(config, root, "pools", read_pool);
    return error ? error : read_list(config, root, "images", read_image);
}

int mnw__config_parse(struct mnw__config *config, const char *text, size_t bytes, const char *name) {
    json_error_t wrong;
    struct mnw__place root = {.file = name};
    root.object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &wrong);
    if (!root.object)
        return mnw__fail(-EINVAL, "%s: line %d, column %d: %s; the file must be one JSON object", name, wrong.line,
                         wrong.column, wrong.text);
    int error = read_root(config, &root);
    json_decref(root.object);
    return error;
}

static int read_stream(struct mnw__config *config, FILE *stream, const char *file) {
    size_t room = 0;
    if (!stream)
        return mnw__fail(-errno, "reading the configuration %s: %s", file, strerror(errno));
    ssize_t got = getdelim(&config->text, &room, EOF, stream); /* JSON holds no byte of 255 */
    int error = ferror(stream) ? mnw__fail(-EIO, "reading the configuration %s: %s", file, strerror(errno)) : 0;
    fclose(stream);
    config->text_bytes = got > 0 ? (size_t)got : 0;
    if (!error)
        error = mnw__config_parse(config, got > 0 ? config->text : "", config->text_bytes, file);
    if (!error && !(config->file = strdup(file)))
        error = mnw__fail(-ENOMEM, "reading the configuration: out of memory");
    return error;
}

int mnw__config_read(struct mnw__config *config, const char *file) {
    return read_stream(config, fopen(file, "re"), file);
}

int mnw__config_read_open(struct mnw__config *config, int fd, const char *file) {
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    FILE *stream = own < 0 ? NULL : fdopen(own, "r");
    if (stream)
        rewind(stream);
    else if (own >= 0)
        close(own);
    return read_stream(config, stream, file);
}

int mnw__config_default_pool(struct mnw__config *config, enum mnw_backing backing, uint64_t budget_bytes) {
    if (config->pool_count)
        return 0;
    struct mnw__config_pool *pool = &config->pools[config->pool_count++];
    pool->options = (struct mnw_pool_options){
        .size = sizeof(pool->options), .backing = backing, .budget_bytes = budget_bytes, .user_faults_only = 1};
    pool->name = strdup("main");
    return pool->name ? 0 : mnw__fail(-ENOMEM, "reading the command line: out of memory");
}

/* A file's path as a URI: what has a meaning there is written by its number. */
static char *uri_of(const char *path) {
    char *uri = malloc(3 * strlen(path) + sizeof("file://")), *end = uri;
    if (!uri)
        return NULL;
    end += sprintf(end, "file://");
    for (; *path; path++)
        end += sprintf(end, strchr("%?#", *path) ? "%%%02X" : "%c", (unsigned char)*path);
    return uri;
}

/* Of a file that need not be there. NULL with errno. */
static char *absolute(const char *path) {
    char *here = path[0] == '/' ? strdup("") : getcwd(NULL, 0), *whole = NULL;
    if (here && asprintf(&whole, "%s%s%s", here, *here ? "/" : "", path) < 0)
        whole = NULL;
    free(here);
    return whole;
}

/*
 * A typing error is found at the first start. A file that goes away later concerns who asks for it: with consumers of
 * other images waiting, nobody may be refused for it.
 */
static int find_file(const struct mnw__config *config, const char *file, char **path) {
    struct stat status;
    *path = realpath(file, NULL);
    if (config->takes_over) {
        if (!*path && !(*path = absolute(file)))
            return mnw__fail(-errno, "--image: %s: %s", file, strerror(errno));
        return 0;
    }
    if (!*path || stat(*path, &status))
        return mnw__fail(-errno, "--image: %s: %s", file, strerror(errno));
    if (S_ISREG(status.st_mode) ? !status.st_size : !S_ISBLK(status.st_mode))
        return mnw__fail(-EINVAL, "--image: %s: it is %s; an image is a file with bytes in it", file,
                         S_ISREG(status.st_mode)   ? "empty"
                         : S_ISDIR(status.st_mode) ? "a directory"
                                                   : "no regular file");
    return 0;
}

/* Through JSON, so that one piece of code decides what an image may be. */
int mnw__config_add_image(struct mnw__config *config, const char *text) {
    const char *equals = strchr(text, '=');
    char *path = NULL, *uri = NULL;
    if (!equals || equals == text || !equals[1])
        return mnw__fail(-EINVAL, "--image: '%s' is not NAME=FILE", text);
    if (!config->pool_count)
        return mnw__fail(-EINVAL, "--image: there is no pool for '%s'; add --budget SIZE, or \"pools\"", text);
    bool given = strstr(equals + 1, "://");
    int error = given ? 0 : find_file(config, equals + 1, &path);
    if (error) {
        free(path);
        return error;
    }
    uri = given ? strdup(equals + 1) : uri_of(path);
    struct mnw__place place = {.file = "--image", .object = json_object()};
    bool made = uri && !json_object_set_new(place.object, "name", json_stringn(text, (size_t)(equals - text))) &&
                !json_object_set_new(place.object, "uri", json_string(uri)) &&
                !json_object_set_new(place.object, "pool", json_string(config->pools[0].name));
    error = made ? read_image(config, &place) : mnw__fail(-EINVAL, "--image: '%s' is not UTF-8", text);
    json_decref(place.object);
    free(path);
    free(uri);
    return error;
}

int mnw__config_set_socket(struct mnw__config *config, const char *path) {
    char *copy = strdup(path);
    if (!copy)
        return mnw__fail(-ENOMEM, "reading the command line: out of memory");
    free(config->socket);
    config->socket = copy;
    return 0;
}

/* Whoever runs it, and root. */
static void default_access(struct mnw__access *access, uid_t uid) {
    if (!access->given)
        *access = (struct mnw__access){.users = {0, uid, geteuid()}, .user_count = 3};
}

static bool is_same_folder(const char *path, const char *other) {
    struct stat status, others;
    char *copy = strdup(path), *copies = strdup(other);
    bool same = copy && copies && !stat(dirname(copy), &status) && !stat(dirname(copies), &others) &&
                status.st_dev == others.st_dev && status.st_ino == others.st_ino;
    free(copy);
    free(copies);
    return same;
}

/* By name: the file itself is replaced whenever it is saved. */
static bool is_same_file(const char *path, const char *other) {
    const char *slash = strrchr(path, '/'), *others = strrchr(other, '/');
    return !strcmp(path, other) ||
           (!strcmp(slash ? slash + 1 : path, others ? others + 1 : other) && is_same_folder(path, other));
}

/* Images of one file have one working set, unless told otherwise; it is saved for one of them at a time. */
static void find_shared_sets(struct mnw__config *config) {
    for (unsigned i = 0; i < config->image_count; i++) {
        struct mnw__config_image *image = &config->images[i];
        image->working_set_first = image;
        for (unsigned k = 0; k < i && image->working_set; k++)
            if (config->images[k].working_set && is_same_file(image->working_set, config->images[k].working_set)) {
                image->working_set_first = config->images[k].working_set_first;
                break;
            }
    }
}

int mnw__config_finish(struct mnw__config *config) {
    const char *name = config->file ? config->file : "the command line";
    default_access(&config->access, config->uid);
    default_access(&config->admins, config->uid);
    if (!config->pool_count)
        return mnw__fail(-EINVAL, "%s: there is no pool; add \"pools\", or --budget", name);
    if (!config->image_count && !config->takes_over)
        return mnw__fail(-EINVAL, "%s: there is no image; add \"images\", or --image NAME=FILE", name);
    if (config->user && geteuid() != 0 && config->uid != geteuid())
        return mnw__fail(-EPERM, "%s: user: only root can become %s", name, config->user);
    find_shared_sets(config);
    const char *place = getenv(SOCKET_VARIABLE); /* where clients look, too */
    return config->socket ? 0 : mnw__config_set_socket(config, place && *place ? place : DEFAULT_SOCKET);
}
