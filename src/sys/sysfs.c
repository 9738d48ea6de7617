/* SPDX-License-Identifier: MIT */
/* Small text files of the kernel. Owns nothing; any thread may enter; never allocates. */
#include "sys/sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int mnw__sysfs_text(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    ssize_t length = read(fd, text, size - 1);
    int error = errno;
    close(fd);
    if (length < 0) {
        return -error;
    }
    if (length > 0 && text[length - 1] == '\n') {
        length--;
    }
    text[length] = 0;
    return (int)length;
}

int mnw__sysfs_number(const char *path, uint64_t *value) {
    char text[32], *end;
    int length = mnw__sysfs_text(path, text, sizeof(text));
    if (length < 0) {
        return length;
    }
    errno = 0;
    *value = strtoull(text, &end, 10);
    return errno || end == text || *end ? -EINVAL : 0;
}

int mnw__sysfs_choice(const char *path, char *word, size_t size) {
    char text[128];
    int length = mnw__sysfs_text(path, text, sizeof(text));
    if (length < 0) {
        return length;
    }
    char *open_bracket = strchr(text, '['), *close_bracket = open_bracket ? strchr(open_bracket, ']') : NULL;
    if (!close_bracket || (size_t)(close_bracket - open_bracket) > size) {
        return -EINVAL;
    }
    *close_bracket = 0;
    memcpy(word, open_bracket + 1, (size_t)(close_bracket - open_bracket));
    return 0;
}
