/* SPDX-License-Identifier: MIT */
/* What libFuzzer, and driver.c where there is none, call. */
#ifndef MNW_TESTS_FUZZ_H
#define MNW_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
