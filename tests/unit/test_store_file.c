/* SPDX-License-Identifier: MIT */
/*
 * The file store on real files: what may be opened, and reads, buffered and direct, by io_uring and by threads.
 * Needs a directory for files (the current one); what the file system or kernel lacks is skipped with its reason.
 */
#include "unit.h"

#include "base/error.h"
#include "model/random.h"
#include "store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILE_BYTES = 300 * 1024 + 777, BUFFER_BYTES = 512 * 1024 };

static char directory[4096], path[4200], uri[4300];
static unsigned char *content, *buffer;
static struct mnw_store *store;

static int make_directory(void **state) {
    (void)state;
    struct random random = {99};
    if (!getcwd(directory, sizeof(directory) - 32))
        return -1;
    strcat(directory, "/store-XXXXXX");
    content = malloc(FILE_BYTES);
    buffer = aligned_alloc(4096, BUFFER_BYTES);
    if (!mkdtemp(directory) || !content || !buffer)
        return -1;
    for (unsigned i = 0; i < FILE_BYTES; i++)
        content[i] = (unsigned char)random_next(&random);
    return 0;
}

static int remove_directory(void **state) {
    (void)state;
    free(content);
    free(buffer);
    return rmdir(directory);
}

static void name_file(const char *name) {
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    snprintf(uri, sizeof(uri), "file://%s", path);
}

static void write_file(const char *name, size_t size) {
    name_file(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    for (size_t done = 0; done < size;) {
        ssize_t bytes = write(fd, content + done, size - done);
        assert_true(bytes > 0);
        done += (size_t)bytes;
    }
    close(fd);
}

static void assert_said(const char *word) {
    if (!strstr(mnw__fail_message(), word))
        fail_msg("no \"%s\" in: %s", word, mnw__fail_message());
}

/* ---- opening ------------------------------------------------------------------------------------------------ */

static unsigned count_descriptors(void) {
    unsigned count = 0;
    DIR *listing = opendir("/proc/self/fd");
    assert_non_null(listing);
    while (readdir(listing))
        count++;
    closedir(listing);
    return count;
}

static void test_opens_a_file(void **state) {
    (void)state;
    unsigned descriptors = count_descriptors();
    write_file("plain", FILE_BYTES);
    assert_int_equal(mnw_store_open(&store, uri, NULL), 0);
    assert_int_equal(mnw_store_size(store), FILE_BYTES);
    assert_int_equal(mnw_store_close(store), 0);
    assert_int_equal(count_descriptors(), descriptors);
    unlink(path);
}

static void test_refuses_what_is_no_store(void **state) {
    (void)state;
    unsigned descriptors = count_descriptors();
    name_file("missing");
    assert_int_equal(mnw_store_open(&store, uri, NULL), -ENOENT);
    assert_said("missing");
    snprintf(uri, sizeof(uri), "file://%s", directory);
    assert_int_equal(mnw_store_open(&store, uri, NULL), -EISDIR);
    assert_said("directory");
    assert_int_equal(mnw_store_open(&store, "file:///dev/null", NULL), -EINVAL);
    assert_said("neither");
    write_file("empty", 0);
    assert_int_equal(mnw_store_open(&store, uri, NULL), -ENODATA);
    assert_said("empty");
    unlink(path);
    assert_int_equal(count_descriptors(), descriptors);
}

static void test_a_fifo_does_not_hang(void **state) {
    (void)state;
    name_file("fifo");
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(20);
    assert_int_equal(mnw_store_open(&store, uri, NULL), -EINVAL);
    alarm(0);
    unlink(path);
}

/* Root reads everything, so a child becomes nobody first. */
static void test_an_unreadable_file(void **state) {
    (void)state;
    int status = 0;
    write_file("secret", 10);
    assert_int_equal(chmod(path, 0), 0);
    pid_t child = fork();
    if (!child) {
        struct mnw_store *opened;
        if (!geteuid() && setresuid(65534, 65534, 65534))
            _exit(77);
        _exit(mnw__store_open_file(&opened, path, 0) == -EACCES ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    unlink(path);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("skipped: root may not become nobody here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static _Atomic unsigned answers;
static int64_t answered;

static void note_answer(void *context, uint64_t token, int64_t result) {
    assert_ptr_equal(context, &answered);
    assert_int_equal(token, 31);
    answered = result;
    answers++;
}

static struct mnw__io *open_io(enum mnw_io_mode mode) {
    struct mnw__io *io;
    if (mnw__io_open(&io, mode, 8, -1, note_answer, &answered)) {
        print_message("skipped: %s\n", mnw__fail_message());
        skip();
    }
    return io;
}

static int64_t read_at(struct mnw__io *io, uint64_t offset, void *to, size_t length) {
    struct mnw_read read = {.token = 31, .offset = offset, .buffer = to, .length = length};
    unsigned before = answers;
    assert_int_equal(store->ops->read(store, io, &read, note_answer, &answered), 0);
    mnw__io_submit(io);
    for (unsigned i = 0; answers == before && i < 100000; i++) {
        struct pollfd wait = {.fd = mnw__io_fd(io), .events = POLLIN};
        if (wait.fd >= 0)
            poll(&wait, 1, 1);
        else
            usleep(50);
        mnw__io_reap(io);
    }
    assert_int_equal(answers, before + 1);
    return answered;
}

/* One random read of the open store, which holds the first bytes of `content`. As the engine does: whole pages, or up
 * to the end of the store; short answers, made or met, are continued. */
static void read_and_compare(struct mnw__io *io, struct random *random) {
    size_t size = (size_t)mnw_store_size(store), offset = (size_t)random_below(random, size / 4096 + 1) * 4096;
    size_t length = (size_t)random_below(random, 20) * 4096 + 4096, done = 0;
    if (offset + length > size)
        length = size - offset;
    memset(buffer, 0xee, BUFFER_BYTES);
    while (done < length) {
        int64_t result = read_at(io, offset + done, buffer + 4096 + done, length - done);
        assert_in_range(result, 1, length - done);
        done += 1 + (size_t)random_below(random, (uint64_t)result);
    }
    assert_memory_equal(buffer + 4096, content + offset, length);
    size_t pages = (length + 4095) / 4096 * 4096;
    for (size_t i = 0; i < 4096; i++) { /* whose pages are not in the read */
        assert_int_equal(buffer[i], 0xee);
        assert_int_equal(buffer[4096 + pages + i], 0xee);
    }
}

static void read_much(enum mnw_io_mode mode, int direct) {
    struct random random = {5};
    struct mnw__io *io = open_io(mode);
    write_file("data", FILE_BYTES);
    strcat(uri, direct ? "?direct=1" : "");
    int error = mnw_store_open(&store, uri, NULL);
    unlink(path); /* the store keeps the file it opened */
    if (error == -ENOTSUP && direct) {
        mnw__io_close(io);
        print_message("skipped: %s\n", mnw__fail_message());
        skip();
    }
    assert_int_equal(error, 0);
    for (unsigned i = 0; i < (direct ? 60 : 300); i++)
        read_and_compare(io, &random);
    assert_int_equal(read_at(io, FILE_BYTES + 4096 - FILE_BYTES % 4096, buffer, 4096), 0);
    mnw__io_close(io);
    assert_int_equal(mnw_store_close(store), 0);
}

static void test_buffered_by_ring(void **state) {
    (void)state;
    read_much(MNW_IO_URING, 0);
}

static void test_buffered_by_threads(void **state) {
    (void)state;
    read_much(MNW_IO_THREADS, 0);
}

static void test_direct_by_ring(void **state) {
    (void)state;
    read_much(MNW_IO_URING, 1);
}

static void test_direct_by_threads(void **state) {
    (void)state;
    read_much(MNW_IO_THREADS, 1);
}

/* A loop device over a file of ours; it lets go by itself when its last descriptor is closed. */
static int attach_loop(const char *file_path) {
    char device[32];
    struct loop_config config = {.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR};
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    close(control);
    if (number < 0)
        return -1;
    snprintf(device, sizeof(device), "/dev/loop%d", number);
    snprintf(uri, sizeof(uri), "file://%s", device);
    int loop = open(device, O_RDONLY | O_CLOEXEC), file = open(file_path, O_RDONLY | O_CLOEXEC);
    config.fd = (unsigned)file;
    if (loop >= 0 && (file < 0 || ioctl(loop, LOOP_CONFIGURE, &config))) {
        close(loop);
        loop = -1;
    }
    close(file);
    return loop;
}

static void test_a_block_device(void **state) {
    (void)state;
    struct random random = {6};
    write_file("disk", FILE_BYTES);
    int loop = attach_loop(path);
    unlink(path);
    if (loop < 0) {
        print_message("skipped: this process may not attach a loop device\n");
        skip();
    }
    for (int direct = 0; direct < 2; direct++) {
        struct mnw_store_options options = {sizeof(options), .direct = direct};
        struct mnw__io *io = open_io(MNW_IO_AUTO);
        assert_int_equal(mnw_store_open(&store, uri, &options), 0);
        assert_int_equal(mnw_store_size(store), FILE_BYTES / 512 * 512);
        for (unsigned i = 0; i < 50; i++)
            read_and_compare(io, &random);
        mnw__io_close(io);
        assert_int_equal(mnw_store_close(store), 0);
    }
    close(loop);
}

/* The flags of this process's descriptor of the file at `path`. */
static int flags_of_descriptor(void) {
    char link[64], target[4200];
    for (int fd = 0; fd < 1024; fd++) {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, target, sizeof(target) - 1);
        if (length > 0 && (size_t)length == strlen(path) && !memcmp(target, path, (size_t)length))
            return fcntl(fd, F_GETFL);
    }
    return -1;
}

static void test_direct_is_direct(void **state) {
    (void)state;
    struct mnw_store_options options = {sizeof(options), .direct = 1};
    struct mnw__io *io = open_io(MNW_IO_THREADS);
    write_file("direct", FILE_BYTES);
    if (mnw_store_open(&store, uri, &options) == -ENOTSUP) {
        print_message("skipped: %s\n", mnw__fail_message());
        unlink(path);
        mnw__io_close(io);
        skip();
    }
    int flags = flags_of_descriptor();
    assert_true(flags >= 0 && (flags & O_DIRECT) && !(flags & O_NONBLOCK));
    struct mnw_read skewed = {.token = 31, .offset = 4096, .buffer = buffer + 8, .length = 4096};
    assert_int_equal(store->ops->read(store, io, &skewed, note_answer, &answered), -EINVAL);
    assert_int_equal(mnw_store_close(store), 0);
    strcat(uri, "?direct=0"); /* the URI has the last word */
    assert_int_equal(mnw_store_open(&store, uri, &options), 0);
    flags = flags_of_descriptor();
    assert_true(flags >= 0 && !(flags & (O_DIRECT | O_NONBLOCK)));
    assert_int_equal(read_at(io, 4096, buffer + 8, 4096), 4096);
    assert_int_equal(mnw_store_close(store), 0);
    mnw__io_close(io);
    unlink(path);
}

/* The store says what the file says; that the size was another is for the engine to see. */
static void test_a_file_that_shrinks_or_grows(void **state) {
    (void)state;
    for (int direct = 0; direct < 2; direct++) {
        struct mnw_store_options options = {sizeof(options), .direct = direct};
        struct mnw__io *io = open_io(MNW_IO_AUTO);
        write_file("changing", 10000);
        if (mnw_store_open(&store, uri, &options) == -ENOTSUP) {
            print_message("skipped: %s\n", mnw__fail_message());
            unlink(path);
            mnw__io_close(io);
            skip();
        }
        assert_int_equal(truncate(path, 5000), 0);
        assert_int_equal(mnw_store_size(store), 10000);
        assert_int_equal(read_at(io, 0, buffer, 8192), 5000);
        assert_int_equal(read_at(io, 5000, buffer + 5000, 8192 - 5000), 0);
        assert_int_equal(read_at(io, 8192, buffer + 8192, 10000 - 8192), 0);
        assert_int_equal(truncate(path, 50000), 0);
        assert_int_equal(read_at(io, 8192, buffer, 10000 - 8192), 10000 - 8192); /* no more than asked */
        mnw__io_close(io);
        assert_int_equal(mnw_store_close(store), 0);
        unlink(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opens_a_file),
        cmocka_unit_test(test_refuses_what_is_no_store),
        cmocka_unit_test(test_a_fifo_does_not_hang),
        cmocka_unit_test(test_an_unreadable_file),
        cmocka_unit_test(test_buffered_by_ring),
        cmocka_unit_test(test_buffered_by_threads),
        cmocka_unit_test(test_direct_by_ring),
        cmocka_unit_test(test_direct_by_threads),
        cmocka_unit_test(test_a_block_device),
        cmocka_unit_test(test_direct_is_direct),
        cmocka_unit_test(test_a_file_that_shrinks_or_grows),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
