#include <cblas.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"

/* OpenBLAS's own switch; read when the library is loaded, hence the second start of the program. */
#define SWITCH "OPENBLAS_CORETYPE"

static bool has_wide_kernels(const char *core)
{
    static const char *const wide[] = {"SkylakeX", "Cooperlake", "SapphireRapids"};
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        if (strcmp(core, wide[i]) == 0)
            return true;
    }
    return false;
}

void rh_backend_prefer_wide_blas(char **argv)
{
#ifdef RH_X86_KERNELS
    if (getenv(SWITCH) || has_wide_kernels(openblas_get_corename()))
        return;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return;
    if (setenv(SWITCH, "SkylakeX", 1) == 0)
        execv("/proc/self/exe", argv);
    unsetenv(SWITCH); /* no second start: the narrow kernels do */
#else
    (void)argv;
#endif
}
