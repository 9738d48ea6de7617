/* SPDX-License-Identifier: MIT */
/*
 * Runs a fuzz target without libFuzzer: every file of a corpus, then seeded mutations of them. A crash prints
 * the input's seed first, when asked to.
 *
 * driver CORPUS MUTATIONS [FIRST-SEED]
 */
#include "fuzz/fuzz.h"
#include "model/random.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUTS_MAX = 256, BYTES_MAX = 16384 };

struct input {
    uint8_t bytes[BYTES_MAX];
    size_t size;
};

static struct input *corpus[INPUTS_MAX];
static unsigned corpus_count;

static int load_file(const char *directory, const char *name) {
    char path[4096];
    struct input *input = calloc(1, sizeof(*input));
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *file = fopen(path, "re");
    if (!input || !file) {
        fprintf(stderr, "cannot read %s\n", path);
        return -1;
    }
    input->size = fread(input->bytes, 1, BYTES_MAX, file);
    fclose(file);
    corpus[corpus_count++] = input;
    return 0;
}

static int is_input(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

/* Sorted, so that a seed means the same everywhere. */
static int load_corpus(const char *directory) {
    struct dirent **entries;
    int count = scandir(directory, &entries, is_input, alphasort), failed = 0;
    for (int i = 0; i < count && corpus_count < INPUTS_MAX; i++) {
        failed |= load_file(directory, entries[i]->d_name);
        free(entries[i]);
    }
    if (count > 0)
        free(entries);
    return failed || !corpus_count ? -1 : 0;
}

static void insert_bytes(struct input *input, size_t at, const uint8_t *bytes, size_t size) {
    if (input->size + size > BYTES_MAX)
        return;
    memmove(input->bytes + at + size, input->bytes + at, input->size - at);
    memcpy(input->bytes + at, bytes, size);
    input->size += size;
}

static void erase_bytes(struct input *input, size_t at, size_t size) {
    if (size > input->size - at)
        size = input->size - at;
    memmove(input->bytes + at, input->bytes + at + size, input->size - at - size);
    input->size -= size;
}

static void mutate_once(struct input *input, struct random *random) {
    static const char syntax[] = ":/?#%&=.+-01AfFz \x80\xff";
    const struct input *other = corpus[random_below(random, corpus_count)];
    size_t at = (size_t)random_below(random, input->size + 1);
    size_t from = (size_t)random_below(random, other->size + 1);
    uint8_t byte = (uint8_t)random_next(random);
    switch (random_below(random, 5)) {
    case 0:
        insert_bytes(input, at, (const uint8_t *)&syntax[random_below(random, sizeof(syntax))], 1);
        break;
    case 1:
        insert_bytes(input, at, &byte, 1);
        break;
    case 2:
        erase_bytes(input, at, 1 + (size_t)random_below(random, 4));
        break;
    case 3:
        if (at < input->size)
            input->bytes[at] ^= (uint8_t)(1u << random_below(random, 8));
        break;
    default:
        insert_bytes(input, at, other->bytes + from, (size_t)random_below(random, other->size - from + 1));
    }
}

static void run_mutation(uint64_t seed) {
    static struct input input;
    struct random random = {seed};
    input = *corpus[random_below(&random, corpus_count)];
    for (uint64_t i = 1 + random_below(&random, 6); i; i--)
        mutate_once(&input, &random);
    if (getenv("FUZZ_TRACE"))
        fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    LLVMFuzzerTestOneInput(input.bytes, input.size);
}

int main(int argc, char **argv) {
    if (argc < 3 || load_corpus(argv[1])) {
        fprintf(stderr, "usage: %s CORPUS MUTATIONS [FIRST-SEED]\n", argv[0]);
        return 2;
    }
    uint64_t count = strtoull(argv[2], NULL, 0), first = argc > 3 ? strtoull(argv[3], NULL, 0) : 1;
    for (unsigned i = 0; i < corpus_count; i++)
        LLVMFuzzerTestOneInput(corpus[i]->bytes, corpus[i]->size);
    for (uint64_t seed = first; seed < first + count; seed++)
        run_mutation(seed);
    printf("%u inputs, %llu mutations: nothing found\n", corpus_count, (unsigned long long)count);
    for (unsigned i = 0; i < corpus_count; i++)
        free(corpus[i]);
    return 0;
}
