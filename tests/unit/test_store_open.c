/* SPDX-License-Identifier: MIT */
/* The public face of stores: arguments, option structs of other sizes, closing, forked children. Memory stores. */
#include "unit.h"

#include "base/error.h"
#include "base/options.h"
#include "store/store.h"

#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct mnw_store *store;

struct answer {
    uint64_t token;
    int64_t result;
    unsigned count;
};

static void note_answer(void *context, uint64_t token, int64_t result) {
    struct answer *answer = context;
    answer->token = token;
    answer->result = result;
    answer->count++;
}

static void never_read(void *context, const struct mnw_read *read) {
    (void)context;
    (void)read;
}

static void test_null_arguments(void **state) {
    (void)state;
    struct mnw_store_callbacks callbacks = {sizeof(callbacks), .size_bytes = 1, .read = never_read};
    assert_int_equal(mnw_store_open(NULL, "file:///x", NULL), -EINVAL);
    assert_int_equal(mnw_store_open(&store, NULL, NULL), -EINVAL);
    assert_int_equal(mnw_store_open_memory(NULL, "x", 1), -EINVAL);
    assert_int_equal(mnw_store_open_memory(&store, NULL, 1), -EINVAL);
    assert_int_equal(mnw_store_open_callbacks(NULL, &callbacks, NULL), -EINVAL);
    assert_int_equal(mnw_store_open_callbacks(&store, NULL, NULL), -EINVAL);
    assert_int_equal(mnw_read_done(NULL, 0, 0), -EINVAL);
    assert_int_equal(mnw_store_close(NULL), -EINVAL);
    assert_int_equal(mnw_store_size(NULL), 0);
    assert_true(strlen(mnw__fail_message()) > 0);
}

static void test_refused_before_anything_changes(void **state) {
    (void)state;
    struct mnw_store_callbacks no_read = {sizeof(no_read), .size_bytes = 1};
    struct mnw_store_callbacks empty = {sizeof(empty), .read = never_read};
    struct mnw_store_callbacks huge = {sizeof(huge), .size_bytes = UINT64_MAX, .read = never_read};
    struct mnw_store *const untouched = (struct mnw_store *)(uintptr_t)0x5a;
    store = untouched;
    assert_int_equal(mnw_store_open_callbacks(&store, &no_read, NULL), -EINVAL);
    assert_int_equal(mnw_store_open_callbacks(&store, &empty, NULL), -ENODATA);
    assert_int_equal(mnw_store_open_callbacks(&store, &huge, NULL), -EINVAL);
    assert_int_equal(mnw_store_open_memory(&store, "x", 0), -ENODATA);
    assert_int_equal(mnw_store_open_memory(&store, "x", INT64_MAX + 1ull), -EINVAL);
    assert_int_equal(mnw_store_open(&store, "file:relative", NULL), -EINVAL);
    assert_int_equal(mnw_store_open(&store, "nbd://host/export", NULL), -ENOTSUP);
    assert_non_null(strstr(mnw__fail_message(), "nbd"));
    assert_ptr_equal(store, untouched);
}

static void test_option_structs_of_other_sizes(void **state) {
    (void)state;
    struct longer {
        struct mnw_store_options known;
        uint64_t unknown[2];
    } longer = {.known = {.size = sizeof(longer)}};
    struct mnw_store_options shorter = {.size = sizeof(size_t), .direct = 12345}, known;
    assert_int_equal(mnw__options_copy(&known, sizeof(known), NULL, "x"), 0);
    assert_int_equal(known.size, sizeof(known));
    assert_int_equal(known.direct, 0);
    assert_int_equal(mnw__options_copy(&known, sizeof(known), &shorter, "x"), 0);
    assert_int_equal(known.direct, 0); /* beyond what the caller vouched for */
    longer.known.direct = 1;
    assert_int_equal(mnw__options_copy(&known, sizeof(known), &longer, "x"), 0);
    assert_int_equal(known.direct, 1);
    longer.unknown[1] = 1;
    assert_int_equal(mnw__options_copy(&known, sizeof(known), &longer, "x"), -E2BIG);
    static const size_t impossible[] = {0, 1, sizeof(size_t) - 1, 4097, SIZE_MAX};
    for (unsigned i = 0; i < 5; i++) {
        shorter.size = impossible[i];
        assert_int_equal(mnw_store_open(&store, "file:///etc/passwd", &shorter), -EINVAL);
    }
}

/* A caller built before `check` and `close` existed. */
static void test_shorter_callbacks_have_no_tail(void **state) {
    (void)state;
    struct mnw_store_callbacks callbacks = {offsetof(struct mnw_store_callbacks, check), .size_bytes = 7,
                                            .read = never_read};
    memset(&callbacks.check, 0xff, sizeof(callbacks) - offsetof(struct mnw_store_callbacks, check));
    assert_int_equal(mnw_store_open_callbacks(&store, &callbacks, NULL), 0);
    assert_int_equal(mnw_store_size(store), 7);
    assert_int_equal(store->ops->check(store, 0, "1234567", 7), 0);
    assert_int_equal(mnw_store_close(store), 0);
}

static void test_memory_reads(void **state) {
    (void)state;
    static const char text[] = "0123456789";
    char buffer[16];
    struct answer answer = {0};
    assert_int_equal(mnw_store_open_memory(&store, text, 10), 0);
    assert_int_equal(mnw_store_size(store), 10);
    static const struct {
        uint64_t offset;
        size_t length;
        int64_t result;
    } reads[] = {{0, 4, 4}, {3, 7, 7}, {3, 8, 7}, {9, 100, 1}, {10, 1, 0}, {UINT64_MAX, 1, 0}};
    for (unsigned i = 0; i < 6; i++) {
        struct mnw_read read = {
            .token = 77 + i, .offset = reads[i].offset, .buffer = buffer, .length = reads[i].length};
        memset(buffer, '#', sizeof(buffer));
        assert_int_equal(store->ops->read(store, NULL, &read, note_answer, &answer), 0);
        assert_int_equal(answer.count, i + 1);
        assert_int_equal(answer.token, 77 + i);
        assert_int_equal(answer.result, reads[i].result);
        if (answer.result)
            assert_memory_equal(buffer, text + reads[i].offset, (size_t)answer.result);
        assert_int_equal(buffer[answer.result], '#');
    }
    assert_int_equal(mnw_read_done(store, 0, 0), -EINVAL);
    assert_non_null(strstr(mnw__fail_message(), "memory store"));
    assert_int_equal(mnw_store_close(store), 0);
}

static void test_close_waits_for_users(void **state) {
    (void)state;
    assert_int_equal(mnw_store_open_memory(&store, "x", 1), 0);
    atomic_store(&store->users, 2);
    assert_int_equal(mnw_store_close(store), -EBUSY);
    assert_non_null(strstr(mnw__fail_message(), "2 caches"));
    atomic_store(&store->users, 0);
    assert_int_equal(mnw_store_close(store), 0);
}

/* The parent's handle is refused; the child's own is as good as any. */
static int child_is_refused(void) {
    struct mnw_store *own;
    return mnw_store_close(store) == -EOWNERDEAD && mnw_read_done(store, 0, 0) == -EOWNERDEAD &&
           strstr(mnw__fail_message(), "parent") && !mnw_store_open_memory(&own, "x", 1) && !mnw_store_close(own);
}

static void test_child_is_refused(void **state) {
    (void)state;
    int status = 0;
    assert_int_equal(mnw_store_open_memory(&store, "x", 1), 0);
    pid_t child = fork();
    if (!child)
        _exit(child_is_refused() ? 0 : 1);
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(mnw_store_close(store), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_null_arguments),
        cmocka_unit_test(test_refused_before_anything_changes),
        cmocka_unit_test(test_option_structs_of_other_sizes),
        cmocka_unit_test(test_shorter_callbacks_have_no_tail),
        cmocka_unit_test(test_memory_reads),
        cmocka_unit_test(test_close_waits_for_users),
        cmocka_unit_test(test_child_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
