/* SPDX-License-Identifier: MIT */
#include "fingerprint.h"

#include "measure.h"

#include <ctype.h>
#include <dirent.h>
#include <gnu/libc-version.h>
#include <inttypes.h>
#include <minnow/minnow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define NODES     "/sys/devices/system/node"
#define HUGEPAGES "/sys/kernel/mm/hugepages"
#define THP       "/sys/kernel/mm/transparent_hugepage/"

/* The first line of a file, or "unknown". */
static void first_line(const char *path, char *text, size_t size) {
    FILE *file = fopen(path, "re");
    if (!file || !fgets(text, (int)size, file))
        snprintf(text, size, "unknown");
    text[strcspn(text, "\n")] = 0;
    if (file)
        fclose(file);
}

static json_t *line_of(const char *path) {
    char text[256];
    first_line(path, text, sizeof(text));
    return json_string(text);
}

static json_int_t number_of(const char *path) {
    char text[64];
    first_line(path, text, sizeof(text));
    return strtoll(text, NULL, 10);
}

static void cpu_field(const char *field, char *text, size_t size) {
    char line[4096];
    FILE *file = fopen("/proc/cpuinfo", "re");
    snprintf(text, size, "unknown");
    while (file && fgets(line, sizeof(line), file)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, field, strlen(field)) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(text, size, "%s", colon + 2);
        break;
    }
    if (file)
        fclose(file);
}

/* Names in a directory that begin so, with a number next; calls `each` for every one. */
static void each_numbered(const char *directory, const char *prefix, void (*each)(json_t *into, const char *path),
                          json_t *into) {
    char path[512];
    DIR *open = opendir(directory);
    for (struct dirent *entry; open && (entry = readdir(open));) {
        size_t length = strlen(prefix);
        if (strncmp(entry->d_name, prefix, length) != 0 || !isdigit((unsigned char)entry->d_name[length]))
            continue;
        snprintf(path, sizeof(path), "%.200s/%.255s", directory, entry->d_name);
        each(into, path);
    }
    if (open)
        closedir(open);
}

static void add_hugepages(json_t *into, const char *path) {
    char file[600];
    json_t *pool = json_object();
    static const char *const names[] = {"nr_hugepages", "free_hugepages", "resv_hugepages"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(file, sizeof(file), "%s/%s", path, names[i]);
        json_object_set_new(pool, names[i], json_integer(number_of(file)));
    }
    json_object_set_new(into, strrchr(path, '-') + 1, pool);
}

static void add_node(json_t *into, const char *path) {
    char file[600];
    json_t *node = json_object(), *pools = json_object();
    snprintf(file, sizeof(file), "%s/cpulist", path);
    json_object_set_new(node, "cpus", line_of(file));
    snprintf(file, sizeof(file), "%s/distance", path);
    json_object_set_new(node, "distance", line_of(file));
    snprintf(file, sizeof(file), "%s/hugepages", path);
    each_numbered(file, "hugepages-", add_hugepages, pools);
    json_object_set_new(node, "hugepages", pools);
    json_object_set_new(into, strrchr(path, '/') + 1, node);
}

static json_t *huge_settings(void) {
    return json_pack("{s:o, s:o, s:o, s:o}", "enabled", line_of(THP "enabled"), "shmem_enabled",
                     line_of(THP "shmem_enabled"), "defrag", line_of(THP "defrag"), "khugepaged_defrag",
                     line_of(THP "khugepaged/defrag"));
}

static json_t *versions(void) {
#ifdef __OPTIMIZE__
    const char *optimized = "yes";
#else
    const char *optimized = "no";
#endif
#ifdef NDEBUG
    const char *assertions = "off";
#else
    const char *assertions = "on";
#endif
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "minnow", mnw_version(), "compiler", __VERSION__, "libc",
                     gnu_get_libc_version(), "liburing", BENCH_LIBURING, "optimized", optimized, "assertions",
                     assertions);
}

static json_t *date(void) {
    char text[32];
    time_t now = time(NULL);
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return json_string(text);
}

json_t *fingerprint_take(void) {
    struct utsname name;
    char cpu[200], hypervisor[4096], load[64];
    json_t *pools = json_object(), *nodes = json_object();
    uname(&name);
    cpu_field("model name", cpu, sizeof(cpu));
    cpu_field("flags", hypervisor, sizeof(hypervisor));
    first_line("/proc/loadavg", load, sizeof(load));
    each_numbered(HUGEPAGES, "hugepages-", add_hugepages, pools);
    each_numbered(NODES, "node", add_node, nodes);
    json_t *all = json_pack("{s:s, s:s, s:s, s:s, s:i, s:b, s:I, s:i}", "kernel", name.release, "kernel_build",
                            name.version, "machine", name.machine, "cpu", cpu, "cpus", cpu_count(), "virtual",
                            strstr(hypervisor, "hypervisor") != NULL, "memory_bytes",
                            (json_int_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE), "page_bytes",
                            (int)sysconf(_SC_PAGESIZE));
    json_object_set_new(all, "governor", line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
    json_object_set_new(all, "nodes", nodes);
    json_object_set_new(all, "hugepages", pools);
    json_object_set_new(all, "transparent_hugepages", huge_settings());
    json_object_set_new(all, "versions", versions());
    json_object_set_new(all, "date", date());
    json_object_set_new(all, "load", json_real(strtod(load, NULL)));
    return all;
}

void fingerprint_print(const json_t *fingerprint) {
    const json_t *versions = json_object_get(fingerprint, "versions");
    const json_t *thp = json_object_get(fingerprint, "transparent_hugepages");
    printf("minnow %s, kernel %s, %lld x %s%s, %zu node(s), load %.2f\n",
           json_string_value(json_object_get(versions, "minnow")),
           json_string_value(json_object_get(fingerprint, "kernel")),
           json_integer_value(json_object_get(fingerprint, "cpus")),
           json_string_value(json_object_get(fingerprint, "cpu")),
           json_is_true(json_object_get(fingerprint, "virtual")) ? " (virtual)" : "",
           json_object_size(json_object_get(fingerprint, "nodes")),
           json_real_value(json_object_get(fingerprint, "load")));
    printf("shmem huge pages: %s; hugetlb pools:", json_string_value(json_object_get(thp, "shmem_enabled")));
    const char *size;
    json_t *pool;
    json_object_foreach(json_object_get(fingerprint, "hugepages"), size, pool) {
        printf(" %s %lld", size, json_integer_value(json_object_get(pool, "nr_hugepages")));
    }
    printf("\n");
}
