/* SPDX-License-Identifier: MIT */
/* libnuma's own parser prints to stderr, knows relative sets and no weights: none of that is wanted of an option. */
#include "base/node_list.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

/* A decimal number up to `most`; -1 when there is none or it is larger. */
static int take_number(const char **text, int most) {
    int number = 0;
    if (!isdigit((unsigned char)**text))
        return -1;
    for (; isdigit((unsigned char)**text); ++*text) {
        number = number * 10 + (**text - '0');
        if (number > most)
            return -1;
    }
    return number;
}

/* A number that may stand behind a mark; where the mark is missing, the default. */
static int take_behind(const char **text, char mark, int most, int missing) {
    if (**text != mark)
        return missing;
    ++*text;
    return take_number(text, most);
}

int mnw__node_list_parse(const char *text, uint64_t *nodes, uint8_t weights[MNW__NODE_LIST_MAX]) {
    *nodes = 0;
    memset(weights, 0, MNW__NODE_LIST_MAX);
    do {
        int first = take_number(&text, MNW__NODE_LIST_MAX - 1);
        int last = take_behind(&text, '-', MNW__NODE_LIST_MAX - 1, first);
        int weight = take_behind(&text, ':', UINT8_MAX, 1);
        if (first < 0 || last < first || weight < 1)
            return -EINVAL;
        for (int node = first; node <= last; node++) {
            if (weights[node] && weights[node] != weight)
                return -EINVAL;
            *nodes |= 1ull << node;
            weights[node] = (uint8_t)weight;
        }
    } while (*text == ',' && *++text);
    /* The loop ends before a last comma's list is seen to be missing. */
    return *text || text[-1] == ',' ? -EINVAL : 0;
}
