/* SPDX-License-Identifier: MIT */
/*
 * What runs inside the test guest: keeps data in RAM that can be checked, and obeys commands on the serial console.
 *
 * Owns: the data (a tmpfs file, mapped) and for each of its pages the seed that its bytes were made from. The only
 * program of the guest besides its init; linked statically. Never believes what it finds in memory: each read of
 * a page is compared with what the seed says.
 *
 *   agent MEBIBYTES SEED     fills the data, says "@ready", then answers each line with lines of which the last begins
 *                            with "@"
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE_WORDS (4096 / 8)

static uint64_t *data;
static uint64_t *seeds; /* one per page */
static size_t pages;

struct verdict {
    uint64_t sum;   /* depends on every word and its place */
    uint64_t wrong; /* words that are not what the seed says */
    uint64_t zeros; /* those of them that are 0 */
};

/* The splitmix64 sequence: cheap, and no two pages or seeds look alike. */
static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t page_key(size_t page) {
    return mix(seeds[page] ^ mix(page));
}

static void fill_page(size_t page, uint64_t seed) {
    uint64_t *words = data + page * PAGE_WORDS;
    seeds[page] = seed;
    uint64_t key = page_key(page);
    for (size_t i = 0; i < PAGE_WORDS; i++) {
        words[i] = key * (2 * i + 1) ^ (key >> 17);
    }
}

static void check_page(size_t page, struct verdict *verdict) {
    const uint64_t *words = data + page * PAGE_WORDS;
    uint64_t key = page_key(page);
    uint64_t sum = verdict->sum;
    for (size_t i = 0; i < PAGE_WORDS; i++) {
        uint64_t word = words[i];
        if (word != (key * (2 * i + 1) ^ (key >> 17))) {
            verdict->wrong++;
            verdict->zeros += word == 0;
        }
        sum = (sum ^ word) * 0x100000001b3u;
    }
    verdict->sum = sum;
}

static uint64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* Gaps between one page and the next: how long whatever stood still. */
struct pace {
    uint64_t last_us;
    uint64_t longest_us;
    uint64_t over_100ms;
};

static void pace_step(struct pace *pace) {
    uint64_t now = now_us();
    uint64_t gap = now - pace->last_us;
    if (gap > pace->longest_us) {
        pace->longest_us = gap;
    }
    pace->over_100ms += gap > 100000;
    pace->last_us = now;
}

static void command_sum(void) {
    struct verdict verdict = {0};
    uint64_t start = now_us();
    for (size_t page = 0; page < pages; page++) {
        check_page(page, &verdict);
    }
    printf("@sum %016" PRIx64 " wrong %" PRIu64 " zeros %" PRIu64 " us %" PRIu64 "\n", verdict.sum, verdict.wrong,
           verdict.zeros, now_us() - start);
}

static void command_write(uint64_t seed, size_t count) {
    for (size_t i = 0; i < count; i++) {
        fill_page(mix(seed ^ mix(i)) % pages, seed);
    }
    printf("@write %zu\n", count);
}

/* Checks every page once, in an order that looks like none, spread over so many milliseconds. */
static void command_crawl(uint64_t milliseconds) {
    struct verdict verdict = {0};
    uint64_t start = now_us();
    struct pace pace = {.last_us = start};
    size_t stride = (size_t)(0.618 * (double)pages) | 1;
    while (pages % stride == 0) {
        stride += 2;
    }
    size_t page = 0;
    for (size_t i = 0; i < pages; i++) {
        check_page(page, &verdict);
        page = (page + stride) % pages;
        uint64_t due = start + milliseconds * 1000u / pages * i;
        uint64_t now = now_us();
        pace_step(&pace);
        if (due > now + 2000) {
            usleep((useconds_t)(due - now));
            pace.last_us = now_us();
        }
    }
    printf("@crawl wrong %" PRIu64 " zeros %" PRIu64 " longest_us %" PRIu64 " over_100ms %" PRIu64 " us %" PRIu64 "\n",
           verdict.wrong, verdict.zeros, pace.longest_us, pace.over_100ms, now_us() - start);
}

/* Checks pages at random, writing one in `every` anew (0: none), for so many milliseconds. */
static void command_load(uint64_t seed, uint64_t milliseconds, uint64_t every) {
    struct verdict verdict = {0};
    uint64_t start = now_us(), turns = 0;
    struct pace pace = {.last_us = start};
    while (pace.last_us - start < milliseconds * 1000u) {
        size_t page = mix(seed ^ mix(turns++)) % pages;
        check_page(page, &verdict);
        if (every != 0 && turns % every == 0) {
            fill_page(page, seed ^ turns);
        }
        pace_step(&pace);
    }
    printf("@load turns %" PRIu64 " wrong %" PRIu64 " zeros %" PRIu64 " longest_us %" PRIu64 " over_100ms %" PRIu64
           "\n",
           turns, verdict.wrong, verdict.zeros, pace.longest_us, pace.over_100ms);
}

static void command_info(void) {
    char boot[64] = "";
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, boot, sizeof boot - 1);
    if (fd >= 0) {
        close(fd);
    }
    boot[got > 0 ? got - 1 : 0] = 0;
    unsigned long total = 0, available = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "MemTotal: %lu", &total);
        sscanf(line, "MemAvailable: %lu", &available);
    }
    if (file) {
        fclose(file);
    }
    printf("@info pages %zu total_kib %lu available_kib %lu boot %s\n", pages, total, available, boot);
}

static void command_shell(const char *text) {
    fflush(stdout);
    int status = system(text);
    printf("@sh %d\n", status);
}

static void obey(char *line) {
    uint64_t a = 0, b = 0, c = 0;
    char word[32] = "";
    if (sscanf(line, "ping %31s", word) == 1) {
        printf("@pong %s\n", word);
    } else if (strcmp(line, "sum") == 0) {
        command_sum();
    } else if (strcmp(line, "info") == 0) {
        command_info();
    } else if (sscanf(line, "write %" SCNu64 " %" SCNu64, &a, &b) == 2) {
        command_write(a, b);
    } else if (sscanf(line, "crawl %" SCNu64, &a) == 1) {
        command_crawl(a);
    } else if (sscanf(line, "load %" SCNu64 " %" SCNu64 " %" SCNu64, &a, &b, &c) == 3) {
        command_load(a, b, c);
    } else if (strncmp(line, "sh ", 3) == 0) {
        command_shell(line + 3);
    } else if (strcmp(line, "reboot") == 0) {
        printf("@reboot\n");
        fflush(stdout);
        tcdrain(STDOUT_FILENO);
        reboot(RB_AUTOBOOT);
        printf("@error reboot: %s\n", strerror(errno));
    } else {
        printf("@what %s\n", line); /* also what is left of a line that a restore cut in two */
    }
}

static bool make_data(size_t mebibytes, uint64_t seed) {
    size_t bytes = mebibytes << 20;
    pages = bytes / 4096;
    int fd = open("/data/pages", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0) {
        return false;
    }
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    seeds = calloc(pages, sizeof *seeds);
    if (mapped == MAP_FAILED || !seeds) {
        return false;
    }
    data = mapped;
    for (size_t page = 0; page < pages; page++) {
        fill_page(page, seed);
    }
    return true;
}

static void raw_console(void) {
    struct termios settings;
    if (tcgetattr(STDIN_FILENO, &settings) == 0) {
        settings.c_lflag &= ~(tcflag_t)(ECHO | ICANON | ISIG);
        settings.c_iflag &= ~(tcflag_t)(IXON | ICRNL);
        settings.c_oflag &= ~(tcflag_t)OPOST;
        tcsetattr(STDIN_FILENO, TCSANOW, &settings);
    }
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: agent MEBIBYTES SEED\n");
        return 2;
    }
    raw_console();
    if (!make_data(strtoul(arguments[1], NULL, 10), strtoull(arguments[2], NULL, 10))) {
        printf("@error data: %s\n", strerror(errno));
        return 1;
    }
    printf("@ready\n");
    fflush(stdout);
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        if (line[0] != 0) {
            obey(line);
        }
        fflush(stdout);
    }
    return 0;
}
