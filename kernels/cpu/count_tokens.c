#include <stddef.h>

#include "ops_cpu.h"

void rh_cpu_count_tokens(struct rh_backend *b, const struct rh_count_tokens *p)
{
    (void)b;
    int64_t *const arrays[] = {p->counts, p->more_counts};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        for (int64_t e = 0; arrays[i] && e < p->experts; e++)
            arrays[i][e] += p->offsets[e + 1] - p->offsets[e];
    }
}
