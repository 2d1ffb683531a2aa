#ifndef RH_QUANT_SCHEME_H
#define RH_QUANT_SCHEME_H

#include <stdbool.h>
#include <stdint.h>

/* How the weights of a linear become codes. */
struct rh_scheme {
    int bits;           /* 2, 3, 4 or 8 */
    bool sym;           /* int_sym (full range, signed scales), else int_asym */
    int64_t group_size; /* -1: one group per row */
};

bool rh_scheme_valid(const struct rh_scheme *scheme);
/* Length of a full group. Groups are runs along the input; the last one of a row may be shorter. */
int64_t rh_scheme_group(const struct rh_scheme *scheme, int64_t in_features);
int64_t rh_scheme_groups(const struct rh_scheme *scheme, int64_t in_features); /* per row */

#endif
