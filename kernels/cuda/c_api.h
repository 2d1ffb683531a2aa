#ifndef RH_KERNELS_CUDA_C_API_H
#define RH_KERNELS_CUDA_C_API_H

/* The project's C headers for the C++ of this folder. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define _Noreturn [[noreturn]]
extern "C" {
#include "backend_private.h"
}

#endif
