/* SPDX-License-Identifier: MIT */
/* Lists of NUMA nodes with weights, such as "0-1:3,3". Pure. */
#ifndef MNW_BASE_NODE_LIST_H
#define MNW_BASE_NODE_LIST_H

#include <stdint.h>

#define MNW__NODE_LIST_MAX 64

/*
 * Bit per node, and the weight of each of them, 1 unless the text gives another from 1 to 255. -EINVAL, without a
 * message: bad text, or a node with two weights.
 */
int mnw__node_list_parse(const char *text, uint64_t *nodes, uint8_t weights[MNW__NODE_LIST_MAX]);

#endif
