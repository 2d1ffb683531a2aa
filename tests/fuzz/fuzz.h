#ifndef RH_TESTS_FUZZ_FUZZ_H
#define RH_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* What every target defines and libFuzzer (or replay.c) calls; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
