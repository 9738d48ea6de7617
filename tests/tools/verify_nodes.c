/* SPDX-License-Identifier: MIT */
/*
 * minnow verify --numa on a machine with several nodes: what it says of where memory lies, and how it ends when that is
 * not where the policy wants it. usage: verify_nodes MINNOW
 */
#include "bed.h"

#include <fcntl.h>
#include <jansson.h>
#include <numa.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FILE_BYTES (8 * BED_MIB)
#define WORDS_MAX  24

static const char *minnow;
static struct bed_file file;

/* What verify says, as JSON, and how it ends. Meanwhile all its memory is moved from node 0 to 1, again and again. */
static json_t *verify(const char *const *options, bool is_moved, int *status) {
    const char *words[WORDS_MAX] = {minnow, "verify", file.path, "--json", "--budget", "16M"};
    int out[2];
    for (size_t i = 0; options[i]; i++)
        words[6 + i] = options[i];
    assert_int_equal(pipe(out), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        dup2(out[1], STDOUT_FILENO);
        dup2(open("/dev/null", O_WRONLY), STDERR_FILENO); /* no progress on a console */
        execv(minnow, (char **)(uintptr_t)words);
        _exit(127);
    }
    close(out[1]);
    struct bitmask *from = numa_parse_nodestring("0"), *to = numa_parse_nodestring("1");
    while (!waitpid(child, status, is_moved ? WNOHANG : 0)) {
        numa_migrate_pages(child, from, to);
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    numa_bitmask_free(from);
    numa_bitmask_free(to);
    json_t *said = json_loadfd(out[0], 0, NULL);
    close(out[0]);
    assert_non_null(said);
    assert_true(WIFEXITED(*status));
    *status = WEXITSTATUS(*status);
    return said;
}

static double placed(const json_t *said, const char *key) {
    return json_number_value(json_object_get(json_object_get(said, "placement"), key));
}

/* The bytes on node 0 of all that was asked about. */
static double share_of_node_0(const json_t *said) {
    const json_t *node = json_array_get(json_object_get(json_object_get(said, "placement"), "nodes"), 0);
    assert_int_equal(json_integer_value(json_object_get(node, "node")), 0);
    return (double)json_integer_value(json_object_get(node, "bytes")) / placed(said, "asked_bytes");
}

static void test_bound_memory_is_where_it_is_bound(void **state) {
    static const char *const options[] = {"--numa", "bind", "--nodes", "0", NULL};
    int status;
    (void)state;
    json_t *said = verify(options, false, &status);
    assert_int_equal(status, 0);
    assert_true(placed(said, "asked_bytes") == FILE_BYTES && placed(said, "outside_bytes") == 0);
    assert_true(share_of_node_0(said) == 1 && placed(said, "share_placed") == 1);
    json_decref(said);
}

static void test_bound_memory_elsewhere_is_a_failure(void **state) {
    static const char *const options[] = {"--numa", "bind",      "--nodes", "0", "--ops",
                                          "150000", "--pattern", "uniform", NULL};
    int status;
    (void)state;
    json_t *said = verify(options, true, &status);
    print_message("%.0f bytes of %.0f lie outside\n", placed(said, "outside_bytes"), placed(said, "asked_bytes"));
    assert_true(placed(said, "outside_bytes") > 0);
    assert_int_equal(json_integer_value(json_object_get(said, "mismatches")), 0);
    assert_int_equal(status, 1);
    json_decref(said);
}

static void test_weights_show(void **state) {
    static const char *const options[] = {"--numa", "interleave", "--nodes", "0:3,1", NULL};
    int status;
    (void)state;
    json_t *said = verify(options, false, &status);
    assert_int_equal(status, 0);
    double share = share_of_node_0(said);
    if (share < 0.75 * 0.98 || share > 0.75 * 1.02)
        fail_msg("%f of the memory is on node 0", share);
    json_decref(said);
}

/* Readers of each node, all over the file: each in its own node's copy. */
static void test_replicas_are_read_where_the_readers_are(void **state) {
    static const char *const options[] = {"--replicas", "--readers", "2",     "--pattern",
                                          "uniform",    "--ops",     "12000", NULL};
    int status;
    (void)state;
    json_t *said = verify(options, false, &status);
    uint64_t copied = (uint64_t)json_integer_value(json_object_get(said, "pages_copied"));
    uint64_t asked = (uint64_t)json_integer_value(json_object_get(said, "faults_placed"));
    print_message("%llu pages copied, %llu faults asked\n", (unsigned long long)copied, (unsigned long long)asked);
    assert_int_equal(status, 0);
    assert_true(copied > 0);
    assert_int_equal(json_integer_value(json_object_get(said, "faults_remote")), 0);
    assert_true(share_of_node_0(said) > 0.3 && share_of_node_0(said) < 0.7);
    json_decref(said);
}

int main(int count, char **arguments) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bound_memory_is_where_it_is_bound),
        cmocka_unit_test(test_bound_memory_elsewhere_is_a_failure),
        cmocka_unit_test(test_weights_show),
        cmocka_unit_test(test_replicas_are_read_where_the_readers_are),
    };
    if (count != 2)
        return 2;
    if (numa_available() < 0 || numa_num_configured_nodes() < 2) {
        printf("skipped: one NUMA node; tests/vm/run --nodes 2 has two\n");
        return 77;
    }
    minnow = arguments[1];
    bed_hurry(100);
    bed_file(&file, FILE_BYTES, 1);
    int status = cmocka_run_group_tests(tests, NULL, NULL);
    bed_file_remove(&file);
    return status;
}
